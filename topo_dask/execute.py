"""Run the stages of a job: in a loop, on threads, through any Dask scheduler, or on a cluster.

Every executor does all tasks of a stage, then those of the next stage. The order of the tasks within a stage matters
for speed alone. The serial executor is the debugger.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import Any, Protocol
from uuid import uuid4

from .census import take_census
from .machine import usable_cores
from .stages.job import Job
from .stages.stage import Stage

WINDOW = 4096
"""Tasks handed to a local scheduler at once."""

Tick = Callable[[], None]


class Executor(Protocol):
    """Does the tasks of one stage."""

    def __call__(self, stage: Stage, job: Job, keys: Sequence[str], tick: Tick) -> None:
        """Do the tasks, calling `tick` after each."""


class Progress(Protocol):
    """Receives reports of what a run does."""

    def begin(self, job: Job, stage: Stage, n: int) -> Tick:
        """A stage of `n` tasks begins; the result is called after each."""


def run(
    job: Job,
    stages: Iterable[Stage],
    executor: Executor,
    progress: Progress | None = None,
    check: Callable[[], None] = lambda: None,
    *,
    new: bool = False,
) -> None:
    """Run stages one after the other; tasks on record are not done again.

    Parameters
    ----------
    job : Job
        What the tasks share.
    stages : iterable of Stage
        Stages in order.
    executor : Executor
        How tasks are done.
    progress : Progress, optional
        Receives reports.
    check : callable, optional
        Raises when the run must not go on; called before and after the tasks of each stage.
    new : bool
        Whether no run has begun these stages before. Records are then not looked for: an object store takes long to
        answer that there are none.
    """
    for stage in stages:
        check()
        keys = stage.all_keys(job) if new else stage.keys_left(job)
        tick = progress.begin(job, stage, len(keys)) if progress else lambda: None
        if not callable(tick):
            raise TypeError(f"begin of progress must return a function to call after each task, got {tick!r}")
        try:
            if keys:
                executor(stage, job, keys, tick)
        except Exception:
            with suppress(OSError):
                check()  # the cause may be that another run has taken over: this one no longer finds its bundles
            raise
        check()
        for one in stage.jobs_of(job):
            take_census(one, stage, keys, new=new)


def serial(stage: Stage, job: Job, keys: Sequence[str], tick: Tick) -> None:
    """Do the tasks in a loop."""
    for key in keys:
        stage.run(job, key)
        tick()


def threads(stage: Stage, job: Job, keys: Sequence[str], tick: Tick) -> None:
    """Do the tasks on all cores of this process."""
    cores = min(usable_cores(), len(keys))
    if cores == 1:
        serial(stage, job, keys, tick)
        return
    with ThreadPoolExecutor(cores) as pool:
        futures = [pool.submit(stage.run, job, key) for key in keys]
        try:
            for future in as_completed(futures):
                future.result()
                tick()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def configured_scheduler() -> Any:
    """The scheduler that Dask is configured for, threads by default.

    Dask itself would look for a client first, and import distributed for that, which takes a third of a second.
    """
    import dask

    named = dask.base.named_schedulers.get(str(dask.config.get("scheduler", None)).lower())
    if "distributed" in sys.modules or (named is None and dask.config.get("scheduler", None) is not None):
        return dask.base.get_scheduler() or dask.threaded.get
    return named or dask.threaded.get


def dask_scheduler(stage: Stage, job: Job, keys: Sequence[str], tick: Tick, pool: Any = None) -> None:
    """Do the tasks through the scheduler that Dask is configured for, threads by default, and in a pool if given.

    Among independent tasks, Dask's local schedulers begin with the one whose name comes last. The names here descend,
    so that tasks are done in order: neighbours follow one another, and share what they read. No name is used twice: a
    scheduler that still knows a name would take its task for done.
    """
    import dask.threaded
    from dask.callbacks import Callback

    get = dask.threaded.get if isinstance(pool, ThreadPoolExecutor) else configured_scheduler()
    with Callback(posttask=lambda *_: tick()):
        for at in range(0, len(keys), WINDOW):
            some = keys[at : at + WINDOW]
            group = f"{stage.name}-{uuid4().hex}"
            graph = {f"{group}-{WINDOW - i:05}": (stage.run, job, key) for i, key in enumerate(some)}
            try:
                get(graph, list(graph), **({} if pool is None else {"pool": pool}))
            except BrokenProcessPool as error:
                raise RuntimeError(
                    f"class {job.name!r}, stage {stage.name!r}: a process that did its tasks was killed. Where it was "
                    "for memory, choose a smaller memory_limit or fewer processes; then run again with resume=True"
                ) from error
