"""Where the tasks of a command run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..execute import usable_cores

THREADS_OF_A_WORKER = 4
"""Threads of a worker of a local cluster, at most: few enough that the death of one loses little."""

TO_CONNECT, TO_HAVE_WORKERS = "10s", "60s"
"""How long a cluster may take to answer, and to show its first worker."""


@contextmanager
def use_scheduler(scheduler: str, workers: int | None, threads: int | None, memory: str | None) -> Iterator[None]:
    """Run what follows where ``--scheduler``, ``--workers`` and ``--threads-per-worker`` say."""
    import dask

    takes = {
        "threads": (False, True),
        "processes": (True, False),
        "synchronous": (False, False),
        "cluster": (True, True),
    }
    if scheduler not in takes and "://" not in scheduler:
        raise click.UsageError(
            f"--scheduler must be 'threads', 'processes', 'synchronous', 'cluster' or an address, got {scheduler!r}"
        )
    for option, value, taken in zip(
        ("--workers", "--threads-per-worker"), (workers, threads), takes.get(scheduler, (False, False)), strict=True
    ):
        if value is not None and not taken:
            raise click.UsageError(f"{option} has no meaning with --scheduler {scheduler}: leave it out")
    if scheduler not in takes or scheduler == "cluster":
        with _client(scheduler, workers, threads, memory):
            yield
        return
    number = {"threads": threads, "processes": workers}.get(scheduler)
    with dask.config.set(scheduler=scheduler, **({} if number is None else {"num_workers": number})):
        yield


def size_cluster(cores: int, workers: int | None, threads: int | None) -> tuple[int, int]:
    """Workers and threads of each that keep all cores busy, as far as they are not given.

    Examples
    --------
    >>> size_cluster(2, None, None), size_cluster(32, None, None), size_cluster(32, 4, None)
    ((2, 1), (8, 4), (4, 8))
    """
    if threads is None:
        # Two workers at least where there are two cores: one goes on while the other is started again.
        threads = max(1, min(THREADS_OF_A_WORKER, cores // 2) if workers is None else cores // workers)
    return workers or max(1, cores // threads), threads


@contextmanager
def _client(address: str, workers: int | None, threads: int | None, memory: str | None) -> Iterator[Any]:
    from distributed import Client, LocalCluster
    from distributed.system import MEMORY_LIMIT

    if address == "cluster":
        n, each = size_cluster(usable_cores(), workers, threads)
        limit = memory or MEMORY_LIMIT // n
        # Any free port for the dashboard: two runs on one machine are no reason for a warning.
        with (
            LocalCluster(
                n_workers=n, threads_per_worker=each, memory_limit=limit, dashboard_address="127.0.0.1:0"
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(address, timeout=TO_CONNECT)
    except (OSError, ValueError) as error:
        raise OSError(
            f"no Dask scheduler answers at {address}: is it running, and its port reachable? ({error})"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=TO_HAVE_WORKERS)
        except TimeoutError:
            raise OSError(
                f"the Dask scheduler at {address} has no workers after {TO_HAVE_WORKERS}: start some"
            ) from None
        yield client
