"""Where this code runs: which executor does its tasks, and in which pool of threads or processes."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import CancelledError, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures import Executor as Pool
from contextlib import contextmanager, nullcontext
from functools import partial
from multiprocessing import parent_process
from multiprocessing.pool import ThreadPool
from threading import Lock, Thread, current_thread, main_thread
from time import monotonic, sleep
from typing import Any

from .cancelling import compute_in_task
from .cluster import on_cluster
from .execute import Executor, configured_scheduler, dask_scheduler, threads
from .machine import usable_cores

_CONNECTING = 30.0
"""Seconds that the client of a worker is given to connect; Dask gives it as many by default."""


@contextmanager
def ambient(*, in_task: bool = False) -> Iterator[Executor]:
    """Executor for where this code runs: the active Dask client if there is one, else Dask's scheduler.

    Inside a task of a cluster it uses the same cluster, and the task gives up its thread while it waits. Inside a
    process of a local scheduler it uses the threads of this process.

    Parameters
    ----------
    in_task : bool
        Whether this code is known to be in a task of a graph. Outside the main thread it is taken to be in one anyway.
    """
    if _in_cluster_task():
        from distributed import worker_client

        with worker_client() as client:
            _wait_for(client)
            yield on_cluster(client)
    elif (client := active_client()) is not None:
        yield on_cluster(client)
    elif parent_process() is not None:
        yield threads
    else:
        with _own_pool(in_task) as pool:
            yield partial(dask_scheduler, pool=pool)


class _Turn:
    # A fork copies a locked lock, and nobody in the child would ever release it; so the child gets a new lock.
    def __init__(self) -> None:
        self.renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        self.lock = Lock()


_TURN = _Turn()


@contextmanager
def turn() -> Iterator[None]:
    """Only one job of this process at a time has the turn: all cores, and the memory that is meant for one job.

    Deadlock rule: code that holds the turn must not ask for it again, nor use a pool whose threads may be waiting for
    it. Stage tasks therefore never compute lazy arrays, and run in a pool of their own (`ambient`). On a cluster no
    lock is taken; the scheduler limits concurrency.
    """
    with nullcontext() if _in_cluster_task() or active_client() is not None else _TURN.lock:
        yield


def lock_here(name: str) -> Any:
    """The lock of a name in this process; a forked child has its own, since nobody there would release the parent's."""
    from dask.utils import SerializableLock

    return SerializableLock(f"{name} {os.getpid()}")


def compute(*collections: Any) -> None:
    """`dask.compute` inside a task, where this code runs; the caller has entered `ambient`.

    Raises
    ------
    RuntimeError
        When the cluster no longer has the data that the collections need.
    """
    try:
        _compute(*collections)
    except CancelledError as error:
        raise RuntimeError(
            f"an input cannot be computed, its cluster says: {error}; keep what you have persisted until the result is "
            "computed"
        ) from error


def _compute(*collections: Any) -> None:
    import dask

    if _in_cluster_task():
        compute_in_task(active_client(), collections)
        return
    if (client := active_client()) is not None:
        dask.compute(*collections, scheduler=client.get)
        return
    with _own_pool(in_task=True) if parent_process() is None else ThreadPoolExecutor(usable_cores()) as pool:
        ours = {"scheduler": "threads", "pool": pool} if isinstance(pool, ThreadPoolExecutor) else {}
        dask.compute(*collections, **ours)


@contextmanager
def _own_pool(in_task: bool) -> Iterator[Pool | None]:
    # None where tasks need no pool, or Dask uses what the user has configured.
    import dask
    from dask.multiprocessing import get, get_context

    own = dask.config.get("pool", None) or dask.config.get("multiprocessing.initializer", None)
    configured = configured_scheduler()
    if configured is dask.local.get_sync or (configured is get and own is not None):
        yield None
        return
    if configured is get:  # which starts new processes for every graph, here for every stage, unless it is given a pool
        with ProcessPoolExecutor(local_workers(), get_context(), _begin_process) as processes:
            yield processes
        return
    # A pool that the user has configured may be running this code as one of its tasks: we would wait for the thread
    # that we hold.
    may_be_in_task = in_task or current_thread() is not main_thread()
    if not may_be_in_task and (own is not None or configured is not dask.threaded.get):
        yield None
        return
    # Dask's own thread pool lets running tasks continue after an error, even into interpreter shutdown; ours is joined
    # first.
    with ThreadPoolExecutor(local_workers()) as pool:
        yield pool


def _begin_process() -> None:
    from dask.multiprocessing import initialize_worker_process

    initialize_worker_process()
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # When the owner of a pool is killed, nobody tells the pool's processes: they would wait for tasks forever.
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _in_cluster_task() -> bool:
    if "distributed" not in sys.modules:
        return False
    from distributed import get_worker

    try:
        get_worker()
    except ValueError:
        return False
    return True


def _wait_for(client: Any) -> None:
    # The tasks of a worker share one client. The first that asks for it makes it, and while it connects, those in other
    # threads get it already.
    end = monotonic() + _CONNECTING
    while client.status in ("newly-created", "connecting") and monotonic() < end:
        sleep(0.01)


def active_client() -> Any:
    """The Dask client that is active here, or None; RuntimeError when it is asynchronous or not running."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_client

    try:
        client = get_client()
    except ValueError:
        return None
    if client.asynchronous:
        raise RuntimeError(
            "the active Dask client is asynchronous, and waiting for it here would stop its event loop: call this in a "
            "thread, as with asyncio.to_thread"
        )
    if _in_cluster_task():
        _wait_for(client)
    if client.status == "running":
        return client
    if configured_scheduler() != client.get:
        return None
    # Dask would go on using it, and fail after old labels have been removed.
    raise RuntimeError(
        f"the active Dask client is {client.status}, not running: its scheduler is gone or does not answer. Start the "
        "cluster and a client again, or to work on this machine call dask.distributed.get_client().close() and leave "
        "the client's with block"
    )


def shares_memory() -> bool:
    """Whether tasks run in this process."""
    client = active_client()
    if client is None:
        return parent_process() is not None or not in_processes()
    return all(str(worker).startswith("inproc://") for worker in client.scheduler_info(n_workers=-1)["workers"])


def _configured_pool() -> Any:
    import dask

    given = dask.config.get("scheduler", None)
    return given if isinstance(given, Pool) else dask.config.get("pool", None)


def in_processes() -> bool:
    """Whether a scheduler of this machine does its tasks in other processes, or has an unknown executor, which may."""
    from dask.local import SynchronousExecutor, get_sync
    from dask.multiprocessing import get

    pool, configured = _configured_pool(), configured_scheduler()
    if pool is None or configured in (get, get_sync):
        return configured is get
    return not isinstance(pool, ThreadPoolExecutor | ThreadPool | SynchronousExecutor)


def local_workers() -> int:
    """Number of tasks that a scheduler of this machine does at a time."""
    # Executors have no public attribute for it; Dask looks at the same private ones.
    import dask

    pool = _configured_pool()
    if pool is None:
        return int(dask.config.get("num_workers", None) or usable_cores())
    return int(getattr(pool, "_max_workers", None) or len(getattr(pool, "_pool", ())) or usable_cores())
