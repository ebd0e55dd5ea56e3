"""Workers of the command's cluster keep to cores of their own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from distributed import Client, LocalCluster

from topo_dask.binding import Binding
from topo_dask.cli import schedulers
from topo_dask.cli.schedulers import Scheduling
from topo_dask.machine import usable_cores
from topo_dask.workers import Resources

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or usable_cores() == 1,
    reason="there is nothing to bind, or the system does not",
)


def cores_of_threads() -> list[list[int]]:
    found = {tuple(sorted(os.sched_getaffinity(int(name)))) for name in os.listdir("/proc/self/task")}
    return sorted(map(list, found))


@contextmanager
def bound(processes: bool) -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", processes=processes) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(Binding())
        yield client


def test_all_threads_of_a_worker_keep_to_its_core_and_those_of_the_client_do_not() -> None:
    before = os.sched_getaffinity(0)
    first, second, *_ = sorted(before)
    with bound(processes=True) as client:
        assert sorted(client.run(cores_of_threads).values()) == [[[first]], [[second]]]
        client.restart()
        assert sorted(client.run(cores_of_threads).values()) == [[[first]], [[second]]]
    assert os.sched_getaffinity(0) == before


def test_workers_of_this_process_are_left_alone() -> None:
    before = cores_of_threads()
    with bound(processes=False):
        assert cores_of_threads() == before


@pytest.mark.parametrize(
    ("nanny", "name"), [(None, 0), ("tcp://127.0.0.1:1", "tcp://127.0.0.1:2"), ("tcp://127.0.0.1:1", "one")]
)
def test_workers_without_a_number_or_a_process_of_their_own_are_left_alone(
    nanny: str | None, name: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: pytest.fail("bound"))
    Binding().setup(SimpleNamespace(nanny=nanny, name=name, state=SimpleNamespace(nthreads=1)))


def test_a_system_that_forbids_it_is_no_reason_not_to_work(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def forbid(thread: int, cores: set[int]) -> None:
        asked.append(thread)
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", forbid)
    Binding().setup(SimpleNamespace(nanny="tcp://127.0.0.1:1", name=0, state=SimpleNamespace(nthreads=1)))
    assert os.getpid() in asked


def test_only_a_cluster_that_takes_all_cores_is_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, *_ = sorted(os.sched_getaffinity(0))
    monkeypatch.setattr(schedulers, "bound_cores", lambda: 2)
    with Scheduling("cluster", 2, 1, "1GiB").start():
        assert sorted(Client.current().run(cores_of_threads).values()) == [[[first]], [[second]]]
    monkeypatch.setattr(schedulers, "usable_cores", lambda: 2)  # as in a container on a larger machine
    monkeypatch.setattr(schedulers, "bound_cores", lambda: 4)
    sizes = [(4, 1), (2, 2), (1, 4), (2, 1), (8, 1)]
    bound = [schedulers._takes_all_cores(Resources(*size, 1 << 30)) for size in sizes]
    assert bound == [True, True, True, False, False]
