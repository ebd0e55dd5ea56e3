"""Where the tasks of a command run."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import click


@contextmanager
def use_scheduler(address: str | None) -> Iterator[None]:
    """Run what follows on the scheduler that ``--scheduler`` names."""
    import dask

    if address in (None, "threads", "processes", "synchronous"):
        with dask.config.set(scheduler=address) if address else nullcontext():
            yield
        return
    if address != "cluster" and "://" not in str(address):
        raise click.UsageError(
            f"--scheduler must be 'threads', 'processes', 'synchronous', 'cluster' or an address, got {address!r}"
        )
    from distributed import Client

    with Client(**({} if address == "cluster" else {"address": address})):
        yield
