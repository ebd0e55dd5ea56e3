"""Run the stages of a job: in a loop, on threads, through any Dask scheduler, or on a cluster.

Every executor does the same: for each stage, all its tasks, in any order; then the next. The serial one is the
debugger.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from multiprocessing import parent_process
from typing import Any, Protocol
from uuid import uuid4

import numpy as np

from .plan import Stage
from .stages.job import Job
from .stores.scratch import LOCK, FileScratch, find

WINDOW = 4096
"""Tasks handed to a local scheduler at once."""

MAX_KILLERS = 8
"""Tasks that kill their worker after which a stage is given up."""

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


def check_done(job: Job, stages: Iterable[Stage]) -> None:
    """Raise RuntimeError when a task of these stages is not on record."""
    for stage in stages:
        if left := stage.keys(job):
            raise RuntimeError(f"class {job.name!r}, stage {stage.name!r}: {left[0]} is not on record after the run")


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
    """Executor that does the tasks on a cluster, a bounded window of them at a time.

    The scheduler gives up on a task that was about when several workers died, whether it killed them or its neighbour
    did. Such tasks are done again one by one: the one that kills its worker even then is left out, the rest of the
    stage is done, and RuntimeError names what was left out.
    """

    def execute(stage: Stage, job: Job, keys: Sequence[str], tick: Tick) -> None:
        waiting, killers = iter(keys), list[str]()
        while lost := _until_lost(client, stage, job, waiting, tick):
            for key in lost:
                if _until_lost(client, stage, job, iter([key]), tick):
                    killers.append(key)
                if len(killers) == MAX_KILLERS:
                    raise _killed(stage, job, killers, "given up")
        if killers:
            raise _killed(stage, job, killers, "all else of the stage is done")

    return execute


def _until_lost(client: Any, stage: Stage, job: Job, waiting: Iterator[str], tick: Tick) -> list[str]:
    # Does the tasks until some are lost with their workers, lets those under way end, and gives back the lost ones.
    from concurrent.futures import CancelledError

    from distributed import KilledWorker, as_completed

    cores = max(1, sum(client.nthreads().values()))
    under_way: dict[str, str] = {}
    lost: list[str] = []

    def submit(n: int) -> list[Any]:
        futures = []
        for key in islice(waiting, n):
            futures.append(client.submit(stage.run, job, key, pure=False))
            under_way[futures[-1].key] = key
        return futures

    pending = as_completed(submit(4 * cores))
    for future in pending:
        key = under_way.pop(future.key)
        try:
            future.result()
        except (KilledWorker, CancelledError):
            lost.append(key)
            continue
        tick()
        for other in submit(0 if lost else 1):
            pending.add(other)
    return lost


def _killed(stage: Stage, job: Job, keys: Sequence[str], state: str) -> RuntimeError:
    named = [key if stage.over is None else f"block {key} {job.grid.named(key).write}" for key in keys]
    return RuntimeError(
        f"class {job.name!r}, stage {stage.name!r}: the worker died, again and again, of {'; '.join(named)} ({state}). "
        "The workers' logs tell why; where it was memory, give them more or choose a smaller memory_limit; then run "
        "again with resume=True"
    )


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
        client = get_client()
    except ValueError:
        return None
    # One that failed to start, or whose cluster is gone, may still be the default.
    return client if client.status == "running" else None


def shares_memory() -> bool:
    """Whether tasks run in this process."""
    import dask

    client = active_client()
    if client is None:
        return parent_process() is not None or dask.base.get_scheduler() is not dask.multiprocessing.get
    return all(str(worker).startswith("inproc://") for worker in client.scheduler_info(n_workers=-1)["workers"])


def _probe(scratch: FileScratch, token: str) -> bool:
    return find(scratch, LOCK, token) is not None


def check_reach(scratch: FileScratch) -> None:
    """Raise OSError when a worker of the active cluster can not read what is filed in scratch here."""
    client = active_client()
    if client is None:
        return
    token = uuid4().hex
    scratch.put(LOCK, token, here=np.zeros(1, np.int8))
    try:
        blind = sorted(worker for worker, sees in client.run(_probe, scratch, token).items() if not sees)
    finally:
        scratch.remove(LOCK, token)
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
    elif parent_process() is not None:
        yield threads
    else:
        with _processes_kept():
            yield dask_scheduler


@contextmanager
def _processes_kept() -> Iterator[None]:
    # Dask's scheduler of processes starts new ones for every graph, that is for every stage, unless it is given some.
    import dask
    from dask.multiprocessing import get, get_context, initialize_worker_process

    own = dask.config.get("pool", None) or dask.config.get("multiprocessing.initializer", None)
    if dask.base.get_scheduler() is not get or own is not None:
        yield
        return
    n = dask.config.get("num_workers", None) or usable_cores()
    with ProcessPoolExecutor(n, get_context(), initialize_worker_process) as pool, dask.config.set(pool=pool):
        yield


def _in_cluster_task() -> bool:
    if "distributed" not in sys.modules:
        return False
    from distributed import get_worker

    try:
        get_worker()
    except ValueError:
        return False
    return True
