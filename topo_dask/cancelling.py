"""Work that a cluster is given ends with those who want it: after an error, Ctrl-C, or the cancelling of a task."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

LOOK = 0.01
"""Seconds between looks for ended tasks."""


@contextmanager
def released(futures: Iterable[Any]) -> Iterator[None]:
    """Give futures back at the end.

    After an error, or Ctrl-C, Dask waits for the futures that are left, and keeps them: the cluster would do all that
    was handed out, before or while the next run does the same.
    """
    try:
        yield
    finally:
        for future in futures:
            future.release()


def end_if_cancelled() -> None:
    """Raise `distributed.Reschedule` in a task of a cluster that has been cancelled.

    Dask does not end the thread of such a task: it would keep the cluster at work for nobody. The error is the one
    after which Dask does the task again, should somebody have asked for it meanwhile.
    """
    from distributed import Reschedule, get_worker

    try:
        worker = get_worker()
    except ValueError:
        return
    task = worker.state.tasks.get(worker.get_current_task())
    if task is not None and task.state == "cancelled":
        raise Reschedule


def compute_in_task(client: Any, collections: Iterable[Any]) -> None:
    """`dask.compute` in a task of a cluster, without the results; it ends with the task when that is cancelled."""
    from distributed import as_completed

    futures = client.compute(list(collections))
    with released(futures):
        pending = as_completed(futures)
        while not pending.is_empty():
            end_if_cancelled()
            for future in pending.next_batch(block=False):
                if future.status in ("error", "cancelled"):
                    future.result()
            time.sleep(LOOK)
