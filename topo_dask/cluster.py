"""Stages on a cluster: a bounded window of tasks, and the handling of tasks that kill their worker."""

import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from math import prod
from typing import Any
from uuid import uuid4

from .cancelling import LOOK, end_if_cancelled, released
from .execute import Executor, Tick
from .stages.job import Job
from .stages.stage import Stage
from .version import __version__

MAX_KILLERS = 8
"""Number of tasks that kill their worker after which a stage is given up."""

MAX_ABSENCE = 300.0
"""Seconds that a cluster may be without workers, or its scheduler out of reach, before the run ends with an error."""

_AHEAD = 128
"""Least number of tasks handed to the scheduler at a time: it keeps a record of every call for as long as it lives."""

_VOXELS = 1 << 25
"""Most voxels of the blocks of a batch, which is one task of Dask: Dask's work for a task takes a tenth of the time of
the kernels of a small block, and neighbours share what they read."""

_SHARES = 2
"""Least number of batches left for each thread: batches shrink towards the end of a stage, so that all threads end at
about the same time (guided self-scheduling, Polychronopoulos & Kuck 1987)."""

_CHECK = 2.0  # seconds between looks for workers


def on_cluster(client: Any) -> Executor:
    """Executor that does the tasks on a cluster, a bounded window of them at a time.

    The scheduler gives up a task that was on several workers when they died, even if another task killed them. Such
    tasks are done again one by one. A task that kills its worker even then is left out, the rest of the stage is done,
    and a RuntimeError names what was left out. A cluster that has no workers for longer than `MAX_ABSENCE` is a
    RuntimeError too: Dask itself would wait forever.
    """

    def execute(stage: Stage, job: Job, keys: Sequence[str], tick: Tick) -> None:
        threads = _wait_for_threads(client, stage, job)
        waiting, killers = _batches_of(keys, stage, job, threads), list[str]()
        while lost := _until_lost(client, stage, job, waiting, tick):
            left = set(stage.keys_left(job))  # some were done before their worker died, and are on record
            for key in lost:
                if key not in left:
                    tick()
                elif _until_lost(client, stage, job, iter([[key]]), tick):
                    killers.append(key)
                if len(killers) == MAX_KILLERS:
                    raise _killed(stage, job, killers, "given up")
        if killers:
            raise _killed(stage, job, killers, "all else of the stage is done")

    return execute


def _batches_of(keys: Sequence[str], stage: Stage, job: Job, threads: int) -> Iterator[Sequence[str]]:
    # Batches of neighbouring tasks; a batch is one task of Dask.
    most, at = _VOXELS // prod(stage.job_of_tasks(job).grid.block_shape), 0
    while at < len(keys):
        n = max(1, min(most, (len(keys) - at) // (_SHARES * threads)))
        n = 1 << (n.bit_length() - 1)  # in Z-order, so many blocks are a cube, or half or a quarter of one
        yield keys[at : at + n]
        at += n


def _do_batch(stage: Stage, job: Job, version: str, keys: Sequence[str]) -> None:
    if version != __version__:  # workers were asked when the run began, this one has joined since
        raise RuntimeError(
            f"a worker that joined during the run has topo_dask {__version__}, the run began with {version}: install "
            "that version on the workers, then run again with resume=True"
        )
    for key in keys:
        end_if_cancelled()
        stage.run(job, key)


def _until_lost(client: Any, stage: Stage, job: Job, waiting: Iterator[Sequence[str]], tick: Tick) -> list[str]:
    # Does the tasks until some are lost with their workers, waits for those handed out, and returns the lost ones.
    from concurrent.futures import CancelledError

    from distributed import KilledWorker, as_completed

    ahead = max(_AHEAD, 4 * _wait_for_threads(client, stage, job))
    group, under_way = f"{stage.name}-{uuid4().hex}", dict[Any, Sequence[str]]()  # futures, and the tasks of each
    lost: list[str] = []

    def submit(n: int) -> list[Any]:
        # All in one group: the scheduler keeps a record of every group too, and only holds tasks of large groups back
        # from busy workers.
        batches = list(islice(waiting, n))
        names = [(group, keys[0]) for keys in batches]
        try:
            # With pure=True, Dask would hash the job at every call, a tenth of the cost of a run on two workers.
            futures: list[Any] = client.map(partial(_do_batch, stage, job, __version__), batches, key=names, pure=False)
        except Exception as error:
            if not _is_closed(client):
                raise
            raise _out_of_reach(stage, job, f"does not answer ({error})") from error
        under_way.update(zip(futures, batches, strict=True))
        return futures

    with released(under_way):
        pending = as_completed(submit(2 * ahead))
        for future in _as_they_end(client, stage, job, pending):
            keys = under_way.pop(future)
            try:
                # Scratch has a record of what the task did, and its result is None. If its worker has died since, the
                # future is pending again: waiting for the result would have the task done again, or wait forever.
                if future.status in ("error", "cancelled"):
                    future.result()
            except (KilledWorker, CancelledError):
                lost.extend(keys)
                continue
            for _ in keys:
                tick()
            if len(under_way) <= ahead and not lost:
                pending.update(submit(ahead))
    return lost


def _as_they_end(client: Any, stage: Stage, job: Job, pending: Any) -> Iterator[Any]:
    # Futures as they end; raises RuntimeError when no worker is left that could end them.
    checked = ended = time.monotonic()
    while not pending.is_empty():
        end_if_cancelled()
        if batch := pending.next_batch(block=False):
            yield from batch
            ended = time.monotonic()
        elif time.monotonic() - checked > _CHECK:
            _wait_for_threads(client, stage, job)
            checked = time.monotonic()
            if checked - ended > MAX_ABSENCE:
                _refuse_paused(client, stage, job)
        else:
            time.sleep(LOOK)


def _refuse_paused(client: Any, stage: Stage, job: Job) -> None:
    # Dask pauses a worker that is short of memory: it ends its task and takes no other. A paused worker without a task
    # frees no memory, and so stays paused.
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if workers and all(worker["status"] == "paused" and not _is_busy(worker) for worker in workers):
        raise RuntimeError(
            f"class {job.name!r}, stage {stage.name!r}: no task has ended for {MAX_ABSENCE:.0f} s, and all workers are "
            "paused, as Dask does with those short of memory. Give them more or choose a smaller memory_limit; then "
            "run again with resume=True"
        )


def _is_busy(worker: Any) -> bool:
    # A long-running task is no work: it may be the one that waits here, for a lazy array.
    return bool(worker["metrics"].get("task_counts", {}).get("executing"))


def restore_workers(client: Any) -> None:
    """Have a LocalCluster start the workers again that it has given up.

    15 seconds after the death of a worker the cluster looks for it, and closes it for good if it does not find it: even
    one that came back, died again and is just being started. Such workers are still in the cluster's plan.
    """
    from distributed import LocalCluster

    cluster = client.cluster
    if isinstance(cluster, LocalCluster) and len(cluster.workers) < len(cluster.plan):
        cluster.scale(len(cluster.plan))


def _wait_for_threads(client: Any, stage: Stage, job: Job) -> int:
    # Number of threads of all workers; RuntimeError when there are none for too long.
    end, demand = time.monotonic() + MAX_ABSENCE, None
    while True:
        restore_workers(client)
        reason = "has no workers"
        try:
            if threads := _threads_of(client):
                return threads
            # An adaptive cluster starts workers only when there is a task for them.
            demand = demand or client.submit(bool, pure=False)
        except (OSError, RuntimeError, TimeoutError) as error:
            reason = f"does not answer ({type(error).__name__}: {error})"
        if _is_closed(client) or time.monotonic() > end:
            raise _out_of_reach(stage, job, reason)
        time.sleep(min(1.0, MAX_ABSENCE))


def _threads_of(client: Any) -> int:
    # Threads of all workers. Without a timeout, a scheduler whose process is suspended would be waited for without end.
    if (scheduler := client.scheduler) is None:
        raise RuntimeError("its client was closed")
    return sum(client.sync(scheduler.ncores, workers=None, callback_timeout=MAX_ABSENCE).values())


def _is_closed(client: Any) -> bool:
    return client.status in ("closing", "closed")


def _out_of_reach(stage: Stage, job: Job, reason: str) -> RuntimeError:
    return RuntimeError(
        f"class {job.name!r}, stage {stage.name!r}: the cluster {reason}. Start it, or its workers, again and run with "
        "resume=True; their logs tell why they ended"
    )


def _killed(stage: Stage, job: Job, keys: Sequence[str], state: str) -> RuntimeError:
    named = [stage.named(job, key) for key in keys]
    return RuntimeError(
        f"class {job.name!r}, stage {stage.name!r}: the worker died, again and again, of {'; '.join(named)} ({state}). "
        "The workers' logs tell why; where it was memory, give them more or choose a smaller memory_limit; then run "
        "again with resume=True"
    )
