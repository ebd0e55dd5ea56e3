"""Progress: bars that a person can read, or lines of JSON that a batch system can; with rate and time left."""

import json
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from .execute import Tick
from .plan import Stage
from .stages.job import Job


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g}/s", style="progress.data.speed")


class ProgressBars:
    """Bars on the terminal (stderr): one a stage with tasks done, rate, elapsed and remaining time.

    Where stderr is no terminal, one line a stage, when all is over. Use it as a context manager around `run`.
    """

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", justify="left"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            _Rate(),
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


class JsonLog:
    """One JSON object a line: ``begin`` and ``end`` of each stage, and ``progress`` with rate and time left.

    Parameters
    ----------
    file : text file, optional
        Where the lines go, stderr by default.
    every : float
        Least seconds between two lines of ``progress``.
    clock : callable
        Seconds, always increasing.
    """

    def __init__(
        self, file: TextIO | None = None, every: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file, self._every, self._clock = file, every, clock

    def begin(self, job: Job, stage: Stage, n: int) -> Tick:
        """Report a stage of `n` tasks; the result reports each that is done, or leaves it to the next."""
        start = last = self._clock()
        done = 0
        where = {"class": job.name, "stage": stage.name}
        self._write("begin", **where, tasks=n)
        if n == 0:
            self._write("end", **where, tasks=0, seconds=0.0)

        def tick() -> None:
            nonlocal done, last
            done += 1
            now = self._clock()
            if done == n:
                self._write("end", **where, tasks=n, seconds=round(now - start, 3))
            elif now - last >= self._every:
                last = now
                rate = done / (now - start)
                left = round((n - done) / rate, 1)
                self._write("progress", **where, done=done, tasks=n, rate=round(rate, 3), eta_seconds=left)

        return tick

    def _write(self, event: str, **values: Any) -> None:
        # What stderr is at this moment: it may have been replaced since the log was made.
        file = self._file or sys.stderr
        file.write(json.dumps({"event": event, "time": round(time.time(), 3), **values}) + "\n")
        file.flush()
