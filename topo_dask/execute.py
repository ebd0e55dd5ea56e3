"""Run the stages of a job: in a loop, on threads, through any Dask scheduler, or on a cluster.

Every executor does the same: for each stage, all its tasks, in any order; then the next. The serial one is the
debugger.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from multiprocessing import parent_process
from typing import Any, Protocol
from uuid import uuid4

import numpy as np

from .plan import Stage
from .stages.job import Job
from .stores.scratch import FileScratch, find

WINDOW = 4096
"""Tasks handed to a local scheduler at once."""

PROBE = "probe"
"""Kind of the bundle by which a worker proves that it reaches scratch."""

Tick = Callable[[], None]


class Executor(Protocol):
    """Does the tasks of one stage."""

    def __call__(self, stage: Stage, job: Job, keys: Sequence[str], tick: Tick) -> None:
        """Do the tasks, calling `tick` after each."""


class Progress(Protocol):
    """Hears what a run does."""

    def begin(self, job: Job, stage: Stage, n: int) -> Tick:
        """A stage of `n` tasks begins; the result is called after each."""


def run(job: Job, stages: Iterable[Stage], executor: Executor, progress: Progress | None = None) -> None:
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
        Who hears of it.
    """
    for stage in stages:
        keys = stage.keys(job)
        tick = progress.begin(job, stage, len(keys)) if progress else lambda: None
        if keys:
            executor(stage, job, keys, tick)


def serial(stage: Stage, job: Job, keys: Sequence[str], tick: Tick) -> None:
    """Do the tasks in a loop."""
    for key in keys:
        stage.run(job, key)
        tick()


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(stage: Stage, job: Job, keys: Sequence[str], tick: Tick) -> None:
    """Do the tasks on all cores of this process."""
    cores = min(usable_cores(), len(keys))
    if cores == 1:
        serial(stage, job, keys, tick)
        return
    with ThreadPoolExecutor(cores) as pool:
        futures = [pool.submit(stage.run, job, key) for key in keys]
        done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
        for future in waiting:
            future.cancel()
        for future in done:
            future.result()
            tick()


def dask_scheduler(stage: Stage, job: Job, keys: Sequence[str], tick: Tick) -> None:
    """Do the tasks through the scheduler that Dask is configured for, threads by default."""
    import dask
    from dask.callbacks import Callback

    get = dask.base.get_scheduler() or dask.threaded.get
    with Callback(posttask=lambda *_: tick()):
        for at in range(0, len(keys), WINDOW):
            graph = {f"{stage.name}-{key}": (stage.run, job, key) for key in keys[at : at + WINDOW]}
            get(graph, list(graph))


def on_cluster(client: Any) -> Executor:
    """Executor that does the tasks on a cluster, a bounded window of them at a time."""

    def execute(stage: Stage, job: Job, keys: Sequence[str], tick: Tick) -> None:
        from distributed import as_completed

        waiting = iter(keys)
        cores = max(1, sum(client.nthreads().values()))

        def submit(some: Iterator[str]) -> list[Any]:
            return [client.submit(stage.run, job, key, pure=False) for key in some]

        pending = as_completed(submit(islice(waiting, 4 * cores)))
        for future in pending:
            future.result()
            tick()
            for other in submit(islice(waiting, 1)):
                pending.add(other)

    return execute


def _bytes(memory_limit: object) -> int:
    from dask.utils import parse_bytes

    if isinstance(memory_limit, bool) or not isinstance(memory_limit, (int, str)):
        raise TypeError(f"memory_limit must be a number of bytes or a str such as '4GiB', got {memory_limit!r}")
    try:
        given = int(parse_bytes(memory_limit or "0"))
    except ValueError:
        raise ValueError(f"memory_limit must be a size such as '4GiB', got {memory_limit!r}") from None
    if given <= 0:
        raise ValueError(f"memory_limit must be above 0, got {memory_limit!r}")
    return given


def resources(memory_limit: int | str | None) -> tuple[int, int, int]:
    """Workers, threads of each, and bytes that each worker process may take, where this code runs."""
    import dask
    import psutil

    given = None if memory_limit is None else _bytes(memory_limit)
    client = active_client()
    if client is None:
        get = dask.base.get_scheduler() or dask.threaded.get
        cores = dask.config.get("num_workers", None) or usable_cores()
        processes = get is dask.multiprocessing.get
        n, threads_each = (cores, 1) if processes else (1, 1 if get is dask.local.get_sync else cores)
        return n, threads_each, given or psutil.virtual_memory().total // n
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if not workers:
        raise RuntimeError("the Dask cluster has no workers yet: wait for them with client.wait_for_workers(1)")
    limits = [worker["memory_limit"] or psutil.virtual_memory().total for worker in workers]
    return len(workers), max(worker["nthreads"] for worker in workers), given or min(limits)


def active_client() -> Any:
    """The Dask client that is active here, or None."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_client

    try:
        return get_client()
    except ValueError:
        return None


def shares_memory() -> bool:
    """Whether tasks run in this process."""
    import dask

    client = active_client()
    if client is None:
        return parent_process() is not None or dask.base.get_scheduler() is not dask.multiprocessing.get
    return all(str(worker).startswith("inproc://") for worker in client.scheduler_info(n_workers=-1)["workers"])


def _probe(scratch: FileScratch, token: str) -> bool:
    return find(scratch, PROBE, token) is not None


def check_reach(scratch: FileScratch) -> None:
    """Raise OSError when a worker of the active cluster can not read what is filed in scratch here."""
    client = active_client()
    if client is None:
        return
    token = uuid4().hex
    scratch.put(PROBE, token, here=np.zeros(1, np.int8))
    blind = sorted(worker for worker, sees in client.run(_probe, scratch, token).items() if not sees)
    scratch.discard(PROBE)
    if blind:
        raise OSError(
            f"scratch {scratch.url} can not be reached by {len(blind)} workers, {blind[0]} among them: pass "
            "scratch=<a path or URL that all workers share>"
        )


@contextmanager
def ambient() -> Iterator[Executor]:
    """Executor for where this code runs: the active Dask client if there is one, else Dask's scheduler.

    Inside a task of a cluster that is the same cluster; the task gives up its thread while it waits. Inside a process
    of a local scheduler it is this process's threads.
    """
    if _in_cluster_task():
        from distributed import worker_client

        with worker_client() as client:
            yield on_cluster(client)
    elif (client := active_client()) is not None:
        yield on_cluster(client)
    else:
        yield dask_scheduler if parent_process() is None else threads


def _in_cluster_task() -> bool:
    if "distributed" not in sys.modules:
        return False
    from distributed import get_worker

    try:
        get_worker()
    except ValueError:
        return False
    return True
