"""Progress with rate and time left: bars on a terminal, lines of text elsewhere, or lines of JSON."""

import json
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from numbers import Real
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
from .stages.job import Job
from .stages.stage import Stage


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g}/s", style="progress.data.speed")


class ProgressBars:
    """Bars on the terminal (stderr): one for each stage, with tasks done, rate, elapsed and remaining time.

    Use it as a context manager around `run`.
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
        """Open a bar for a stage of `n` tasks; each call of the result advances it by one task."""
        bar = self._bars.add_task(f"{job.name} {stage.name:<12}", total=n)
        return lambda: self._bars.advance(bar)


def _check_file(file: TextIO) -> None:
    # Now: a run that has begun would end with its first line.
    try:
        file.write("")
    except (AttributeError, TypeError, ValueError, OSError) as error:
        raise TypeError(f"file must be a text file that is open for writing, got {file!r}") from error


def _check_seconds(every: object) -> None:
    if isinstance(every, bool) or not isinstance(every, Real):
        raise TypeError(f"every must be a number of seconds, got {every!r}")
    if not float(every) >= 0:
        raise ValueError(f"every must be at least 0 seconds, got {every!r}")


class _Lines(ABC):
    # A line when a stage begins and one when it ends; between them lines of progress, at least `every` seconds apart.

    def __init__(
        self, file: TextIO | None = None, every: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if file is not None:
            _check_file(file)
        _check_seconds(every)
        self._file, self._every, self._clock = file, every, clock

    def begin(self, job: Job, stage: Stage, n: int) -> Tick:
        """Report a stage of `n` tasks; the result is called after each task, and reports if it is time."""
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
                self._write("progress", **where, done=done, tasks=n, rate=float(f"{rate:.3g}"), eta_seconds=left)

        return tick

    def _write(self, event: str, **values: Any) -> None:
        if line := self._format(event, values):
            # stderr is looked up now: it may have been replaced since the log was made. It is None if it was closed.
            if (file := self._file or sys.stderr) is None:
                return
            with suppress(BrokenPipeError):  # nobody reads the lines any more; the run continues
                file.write(line + "\n")
                file.flush()

    @abstractmethod
    def _format(self, event: str, values: dict[str, Any]) -> str:
        """The line of an event; empty if the event is not reported."""


class JsonLog(_Lines):
    """One JSON object on each line: ``begin`` and ``end`` of each stage, and ``progress`` with rate and time left.

    Parameters
    ----------
    file : text file, optional
        File to write to, stderr by default.
    every : float
        Least seconds between two lines of ``progress``.
    clock : callable
        Seconds, always increasing.

    Raises
    ------
    TypeError
        When `file` is no text file that is open for writing, or `every` is no number.
    ValueError
        When `every` is below 0 or NaN.
    """

    def _format(self, event: str, values: dict[str, Any]) -> str:
        return json.dumps({"event": event, "time": round(time.time(), 3), **values})


class TextLog(_Lines):
    """A line for each stage that is done, and one every `every` seconds before; parameters are those of `JsonLog`."""

    def _format(self, event: str, values: dict[str, Any]) -> str:
        where, n = f"{values['class']} {values['stage']:<12}", values["tasks"]
        if event == "progress":
            left = timedelta(seconds=round(values["eta_seconds"]))
            return f"{where} {values['done']} of {n}, {values['rate']:g}/s, {left} left"
        if event == "end" and n:
            return f"{where} {n} of {n} in {timedelta(seconds=round(values['seconds']))}"
        return ""


def on_stderr() -> AbstractContextManager[ProgressBars | TextLog]:
    """Bars if stderr is a terminal or a notebook, else lines of text for the file that stderr goes to."""
    console = Console(stderr=True)
    if console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal):
        return ProgressBars()
    return nullcontext(TextLog(every=30.0))


@contextmanager
def said_if_long(text: str, after: float = 2.0) -> Iterator[None]:
    """Write a line to stderr if what is done inside takes more than some seconds."""

    def say() -> None:
        with suppress(OSError, ValueError):  # stderr is closed, or nobody reads it any more
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    timer = threading.Timer(after, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
