"""Progress that a person can read: one bar a stage, with rate and time left."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .execute import Tick
from .plan import Stage
from .stages.job import Job


class ProgressBars:
    """Bars on the terminal (stderr); plain lines where that is not one.

    Use it as a context manager around `run`.
    """

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", justify="left"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, job: Job, stage: Stage, n: int) -> Tick:
        """Open a bar for a stage of `n` tasks; the result advances it."""
        bar = self._bars.add_task(f"{job.name} {stage.name:<12}", total=n)
        return lambda: self._bars.advance(bar)
