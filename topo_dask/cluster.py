"""Stages on a cluster: a bounded window of tasks, and what becomes of those that kill their worker."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from .execute import Executor, Tick
from .plan import Stage
from .stages.job import Job

MAX_KILLERS = 8
"""Tasks that kill their worker after which a stage is given up."""


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
    named = [stage.named(job, key) for key in keys]
    return RuntimeError(
        f"class {job.name!r}, stage {stage.name!r}: the worker died, again and again, of {'; '.join(named)} ({state}). "
        "The workers' logs tell why; where it was memory, give them more or choose a smaller memory_limit; then run "
        "again with resume=True"
    )
