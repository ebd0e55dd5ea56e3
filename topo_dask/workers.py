"""The workers that do the tasks: how many there are, what they have, and whether they see the files of this process."""

from collections import Counter
from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np

from .cluster import restore_workers
from .execute import configured_scheduler
from .machine import as_bytes, machine_memory
from .stores.inputs import sees
from .stores.scratch import LOCK, FileScratch, find
from .surroundings import active_client, in_processes, local_workers
from .version import __version__


def _probe(scratch: FileScratch, token: str) -> bool:
    return find(scratch, LOCK, token) is not None


SHARED_SCRATCH = "pass scratch=<a path or URL that all workers share>"
"""Remedy for scratch that workers do not reach."""

SHARED_PLACE = "give a path or URL that all workers share"
"""Remedy for an input or output that workers do not reach."""


def check_workers_reach(scratch: FileScratch, remedy: str = SHARED_SCRATCH, what: str | None = None) -> None:
    """Raise OSError, with a remedy, when a worker of the active cluster cannot read what this process files in scratch.

    Before that, raise RuntimeError when a worker has another version of this package, or none. The message names
    `what`, by default the scratch.
    """
    if active_client() is None:
        return
    _check_versions()
    token = uuid4().hex
    scratch.put(LOCK, token, here=np.zeros(1, np.int8))
    try:
        _check_workers(what or f"scratch {scratch.url}", remedy, _probe, scratch, token)
    finally:
        scratch.remove(LOCK, token)


def check_workers_see(name: str, array: Any) -> None:
    """Raise OSError when a worker of the active cluster does not see an array.

    Without this check a missing mount would read as background.
    """
    if active_client() is not None:
        _check_workers(f"{name} ({array.store_path})", SHARED_PLACE, sees, array)


def ask_workers(question: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """What `question` returns or raises on each worker of the active cluster, without workers that died meanwhile."""
    from distributed.comm import CommClosedError

    client = active_client()
    answers = client.run(question, *arguments, on_error="return")
    here = client.scheduler_info(n_workers=-1)["workers"]
    return {w: answer for w, answer in answers.items() if w in here and not isinstance(answer, CommClosedError)}


def _check_workers(what: str, remedy: str, question: Callable[..., bool], *arguments: Any) -> None:
    blind = {worker: saw for worker, saw in ask_workers(question, *arguments).items() if saw is not True}
    if blind:
        first, saw = min(blind.items(), key=lambda answer: answer[0])
        cause = saw if isinstance(saw, Exception) else None
        said = "" if cause is None else f" ({type(cause).__name__}: {cause})"
        raise OSError(
            f"{what} cannot be reached by {len(blind)} workers, {first}{said} among them: {remedy}"
        ) from cause


def _check_versions() -> None:
    # Two versions may file tables that differ. `resolve_name` is of the standard library: any worker can answer.
    for worker, found in sorted(ask_workers(resolve_name, "topo_dask.version:__version__").items()):
        if isinstance(found, ImportError):
            raise RuntimeError(
                f"worker {worker} cannot import topo_dask ({found}): install topo_dask {__version__} on the workers"
            ) from found
        if isinstance(found, str) and found != __version__:
            raise RuntimeError(
                f"worker {worker} has topo_dask {found}, this process has {__version__}: install the same version on "
                "the workers"
            )


class Resources(NamedTuple):
    """Workers, threads of each, and bytes that each worker process may take."""

    workers: int
    threads: int
    memory: int


def resources(memory_limit: int | str | None) -> Resources:
    """Workers, threads and memory of the active cluster, or else of Dask's scheduler on this machine."""
    import dask

    given = None if memory_limit is None else as_bytes(memory_limit)
    client = active_client()
    if client is None:
        get = configured_scheduler()
        cores = local_workers()
        n, threads_each = (cores, 1) if in_processes() else (1, 1 if get is dask.local.get_sync else cores)
        return Resources(n, threads_each, given or machine_memory() // n)
    known = client.scheduler_info(n_workers=-1)["workers"]
    workers = known.values()
    if not workers:
        restore_workers(client)
        raise RuntimeError(
            "the Dask cluster has no workers yet: wait for them with client.wait_for_workers(1); one that adapts needs "
            "cluster.adapt(minimum=1)"
        )
    own = [worker["memory_limit"] for worker in workers if worker["memory_limit"] and worker["nanny"]]
    if given is not None and own and given > min(own):
        raise ValueError(
            f"memory_limit is {given / 2**30:.2f} GiB, but Dask ends a worker that takes more than "
            f"{min(own) / 2**30:.2f} GiB: give the workers more, or leave memory_limit out"
        )
    return Resources(len(workers), max(worker["nthreads"] for worker in workers), given or _least_memory(known))


def _least_memory(workers: Mapping[str, Any]) -> int:
    # Bytes that every worker may take. Workers without a limit share the memory of their host.
    own = [worker["memory_limit"] for worker in workers.values() if worker["memory_limit"]]
    if len(own) == len(workers):
        return int(min(own))
    on_host = Counter(worker["host"] for worker in workers.values())
    for name, machine in ask_workers(machine_memory).items():
        if (worker := workers.get(name)) is None or worker["memory_limit"]:
            continue
        if isinstance(machine, Exception):
            raise RuntimeError(
                f"worker {name} cannot tell how much memory it has: start the workers with a memory limit"
            ) from machine
        own.append(machine // on_host[worker["host"]])
    return int(min(own, default=machine_memory() // len(workers)))  # where all workers that were asked have died
