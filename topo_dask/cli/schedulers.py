"""Schedulers that do the tasks of a command: threads, processes, a local cluster or a cluster that is running."""

import logging
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.resource_tracker import ensure_running
from typing import Any, Self

import click

from ..machine import as_bytes, bound_cores, machine_memory, usable_cores
from ..workers import Resources

THREADS_OF_A_WORKER = 4
"""Threads of a worker of a local cluster, at most: few enough that the death of one loses little."""

TO_CONNECT, TO_HAVE_WORKERS = "10s", "60s"
"""How long a cluster may take to answer, and to show its first worker."""

_CALM = {"distributed.worker.profile.interval": "100ms", "distributed.admin.tick.interval": "500ms"}
"""How often a local cluster profiles its tasks and checks itself: Dask's 10 and 20 ms take a twentieth of its time."""

_TAKES = {
    "threads": (False, True),
    "processes": (True, False),
    "synchronous": (False, False),
    "cluster": (True, True),
}


class UnreachableError(click.ClickException):
    """A cluster cannot be used; no work has begun."""

    exit_code = 2


@dataclass(frozen=True)
class Scheduling:
    """What ``--scheduler``, ``--workers``, ``--threads-per-worker`` and ``--memory-limit`` say; checked when made."""

    kind: str
    workers: int | None
    threads: int | None
    memory: str | None

    @classmethod
    def take(cls, values: dict[str, Any]) -> Self:
        """Take the options out of the values of a command; the memory limit, which a run needs too, stays."""
        kind, workers, threads = (values.pop(name) for name in ("scheduler", "workers", "threads_per_worker"))
        return cls(kind, workers, threads, values["memory_limit"])

    def __post_init__(self) -> None:
        if self.kind not in _TAKES and "://" not in self.kind:
            raise click.UsageError(
                "--scheduler must be 'threads', 'processes', 'synchronous', 'cluster' or an address such as "
                f"tcp://head:8786, got {self.kind!r}"
            )
        taken = zip(("--workers", "--threads-per-worker"), _TAKES.get(self.kind, (False, False)), strict=True)
        for (option, takes), value in zip(taken, (self.workers, self.threads), strict=True):
            if value is not None and not takes:
                raise click.UsageError(f"{option} has no meaning with --scheduler {self.kind}: leave it out")

    def machine(self) -> Resources | None:
        """Workers, threads and memory of the local cluster that `start` will start; None where it starts none."""
        if self.kind != "cluster":
            return None
        workers, threads = size_cluster(usable_cores(), self.workers, self.threads)
        limit = machine_memory() // workers if self.memory is None else as_bytes(self.memory)
        if limit > machine_memory():
            raise click.UsageError(
                f"--memory-limit {self.memory} for a worker is more than this machine has, "
                f"{machine_memory() / 2**30:.2f} GiB"
            )
        return Resources(workers, threads, limit)

    @contextmanager
    def start(self) -> Iterator[None]:
        """Context in which tasks run by this scheduler."""
        import dask

        if (machine := self.machine()) is not None:
            context = _local_cluster(machine)
        elif self.kind not in _TAKES:
            context = _cluster_at(self.kind)
        else:
            number = {"threads": self.threads, "processes": self.workers}.get(self.kind)
            context = dask.config.set(scheduler=self.kind, **({} if number is None else {"num_workers": number}))
        with _sigterm_interrupts(), context:
            yield


def size_cluster(cores: int, workers: int | None, threads: int | None) -> tuple[int, int]:
    """Number of workers and threads of each: those given, the others such that all cores are busy.

    Examples
    --------
    >>> size_cluster(2, None, None), size_cluster(32, None, None), size_cluster(32, 4, None)
    ((2, 1), (8, 4), (4, 8))
    """
    if threads is None:
        # At least two workers where there are two cores: one works while the other is started again.
        threads = max(1, min(THREADS_OF_A_WORKER, cores // 2) if workers is None else cores // workers)
    return workers or max(1, cores // threads), threads


def _calm() -> dict[str, str]:
    # Values that the user has set, in files or the environment, stay.
    import dask

    own = dask.config.collect()
    return {key: value for key, value in _CALM.items() if dask.config.get(key, None, config=own) is None}


def _takes_all_cores(machine: Resources) -> bool:
    # Two clusters that take some of the cores would be bound to the same ones, as would those of two containers that
    # share the cores of a machine.
    return machine.workers * machine.threads == bound_cores()


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    # Batch systems end jobs by SIGTERM: it ends tasks and closes the cluster as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _local_cluster(machine: Resources) -> Iterator[None]:
    import dask
    from distributed import Client, LocalCluster

    from ..binding import Binding

    with ExitStack() as stack:
        # The run itself reports when a worker dies.
        log = logging.getLogger("distributed")
        stack.callback(log.setLevel, log.level)
        log.setLevel(logging.CRITICAL)
        stack.enter_context(dask.config.set(_calm()))
        with _interrupts_wait():
            # Any free port for the dashboard: Dask warns where a second run on the machine finds the usual one taken.
            cluster = LocalCluster(
                n_workers=machine.workers,
                threads_per_worker=machine.threads,
                memory_limit=machine.memory,
                silence_logs=logging.CRITICAL,
                dashboard_address="127.0.0.1:0",
            )
            stack.enter_context(cluster)
            client = stack.enter_context(Client(cluster))
            if _takes_all_cores(machine):
                client.register_plugin(Binding())
        yield


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    # A cluster that is interrupted while it starts cannot be closed, so Ctrl-C and SIGTERM take effect when it has
    # started. A terminal sends Ctrl-C to all processes; those of the cluster inherit that it is blocked, so that this
    # process can close them.
    came: list[int] = []
    ensure_running()  # starting multiprocessing's tracker later would unblock Ctrl-C
    signals = signal.SIGINT, signal.SIGTERM
    handlers = [signal.signal(one, lambda number, _: came.append(number)) for one in signals]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for one, handler in zip(signals, handlers, strict=True):
            signal.signal(one, handler)
    if came:
        raise KeyboardInterrupt


@contextmanager
def _cluster_at(address: str) -> Iterator[None]:
    from distributed import Client

    try:
        client = Client(address, timeout=TO_CONNECT)
    except (OSError, ValueError) as error:
        raise UnreachableError(
            f"no Dask scheduler answers at {address}: is it running, and its port reachable? ({error})"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=TO_HAVE_WORKERS)
        except TimeoutError:
            raise UnreachableError(
                f"the Dask scheduler at {address} has no workers after {TO_HAVE_WORKERS}: start some"
            ) from None
        yield
