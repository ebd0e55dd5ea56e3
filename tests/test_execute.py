"""Executors: neighbours are done one after the other, so that they share what they read, and each task once."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count, repeat
from multiprocessing import parent_process
from pathlib import Path
from threading import Event
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster, get_worker
from distributed.core import Status

from topo_dask import cluster
from topo_dask.blocks.geometry import BlockGrid
from topo_dask.config import ClassConfig
from topo_dask.execute import Executor, Tick, dask_scheduler, run, serial, threads
from topo_dask.stages.job import Job
from topo_dask.stages.stage import EVERY, Stage
from topo_dask.stores.filed import FILED
from topo_dask.stores.scratch import FileScratch, MemoryScratch
from topo_dask.surroundings import ambient, compute


@pytest.mark.parametrize("execute", [serial, threads, dask_scheduler])
def test_tasks_are_done_in_the_order_in_which_they_come(execute: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topo_dask.execute.WINDOW", 20)
    monkeypatch.setattr("topo_dask.execute.usable_cores", lambda: 1)
    done: list[str] = []

    def note(job: Job, key: str) -> None:
        done.append(key)

    grid = BlockGrid((2, 2, 12), (1, 1, 1))
    job = Job("object", grid, ClassConfig(), scratch=MemoryScratch())
    keys = [block.key for block in grid]
    with dask.config.set(scheduler="threads", num_workers=1):
        execute(Stage("note", note, EVERY), job, keys, lambda: None)
    assert done == keys


def test_a_run_goes_from_each_block_to_one_nearby(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topo_dask.execute.usable_cores", lambda: 1)
    done: list[str] = []

    def note(job: Job, key: str) -> None:
        done.append(key)
        job.scratch.put("note", key)

    job = Job("object", BlockGrid((3, 4, 1), (1, 1, 1)), ClassConfig(), scratch=MemoryScratch())
    run(job, [Stage("note", note, EVERY), Stage("finish", lambda job: None)], threads)
    cubes = "0.0.0 0.1.0 1.0.0 1.1.0", "0.2.0 0.3.0 1.2.0 1.3.0", "2.0.0 2.1.0", "2.2.0 2.3.0"
    assert done == " ".join(cubes).split()


def test_no_task_is_taken_for_one_of_another_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr("topo_dask.execute.WINDOW", 2)
    grid = BlockGrid((1, 4, 12), (1, 1, 1))
    job = Job("object", grid, ClassConfig(), scratch=FileScratch(str(tmp_path)))
    keys = [block.key for block in grid]
    stage = Stage("note", lambda job, key: job.scratch.put("note", key), EVERY)
    # A client that is not the default one is Dask's scheduler, and knows for a while what it has done.
    with (
        Client(processes=False, dashboard_address=":0", set_as_default=False) as client,
        dask.config.set(scheduler=client),
    ):
        dask_scheduler(stage, job, keys, lambda: None)
    assert job.scratch.keys("note") == set(keys)


def end_process(job: Job, key: str) -> None:
    """Kill the process that does the task."""
    assert parent_process() is not None
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_told_by_its_stage(tmp_path: Path) -> None:
    job = Job("nuc", BlockGrid((1, 1, 2), (1, 1, 1)), ClassConfig(), scratch=FileScratch(str(tmp_path)))
    told = r"class 'nuc', stage 'note': a process that did its tasks was killed.* memory_limit .* with resume=True"
    with (
        dask.config.set(scheduler="processes", num_workers=1),
        ambient() as execute,
        pytest.raises(RuntimeError, match=told),
    ):
        execute(Stage("note", end_process, EVERY), job, ["0.0.0"], lambda: None)


def test_threads_tell_of_each_task_as_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topo_dask.execute.usable_cores", lambda: 2)
    told = Event()
    stage = Stage("wait", lambda job, key: None if key != "c" or told.wait(60) else pytest.fail("nothing told"), EVERY)
    threads(stage, Job("object", BlockGrid((1, 1, 1), (1, 1, 1)), ClassConfig()), ["a", "b", "c"], told.set)


@pytest.mark.parametrize("executor", [serial, threads])
def test_after_an_error_no_task_begins(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topo_dask.execute.usable_cores", lambda: 2)
    begun = list[str]()

    def fail(job: Job, key: str) -> None:
        begun.append(key)
        if key == "0.0.0":
            raise ValueError(key)
        time.sleep(0.05)

    grid = BlockGrid((1, 1, 99), (1, 1, 1))
    job, keys = Job("object", grid, ClassConfig()), [block.key for block in grid]
    with pytest.raises(ValueError, match=r"0\.0\.0"):
        executor(Stage("fail", fail, EVERY), job, keys, lambda: None)
    assert len(begun) < 50


def checks_until(n: int, error: Exception) -> Callable[[], None]:
    """A check that passes `n` times."""
    answers = chain([None] * n, repeat(error))

    def check() -> None:
        if (answer := next(answers)) is not None:
            raise answer

    return check


@pytest.mark.parametrize("passed", [0, 1])
def test_a_run_is_checked_before_the_tasks_of_a_stage_and_before_they_are_on_record(
    passed: int, tmp_path: Path
) -> None:
    stage, job, keys = job_of_some_blocks(tmp_path)
    with pytest.raises(RuntimeError, match="taken over"):
        run(job, [stage], serial, check=checks_until(passed, RuntimeError("taken over")))
    assert job.scratch.keys("note") == set(keys[: len(keys) * passed])
    assert not job.scratch.keys(FILED)


@pytest.mark.parametrize(
    ("other", "told"), [(RuntimeError("taken over"), "taken over"), (OSError("no lock"), "absent")]
)
def test_a_run_that_was_taken_over_says_so_and_not_what_came_of_it(other: Exception, told: str, tmp_path: Path) -> None:
    def fail(job: Job, key: str) -> None:
        raise OSError("absent")

    job = job_of_some_blocks(tmp_path)[1]
    with pytest.raises((OSError, RuntimeError), match=told):
        run(job, [Stage("fail", fail, EVERY)], serial, check=checks_until(1, other))


def test_progress_that_gives_nothing_to_call_is_an_error_before_any_task(tmp_path: Path) -> None:
    class Silent:
        def begin(self, job: Job, stage: Stage, n: int) -> Any:
            return None

    stage, job, _ = job_of_some_blocks(tmp_path)
    with pytest.raises(TypeError, match="begin of progress must return a function to call after each task, got None"):
        run(job, [stage], serial, Silent())
    assert not job.scratch.keys("note")


def test_what_the_dead_had_done_is_not_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    done, ticks = list[str](), list[None]()

    def note(job: Job, key: str) -> None:
        done.append(key)
        job.scratch.put("note", key)

    def until_lost(client: Any, stage: Stage, job: Job, waiting: Iterator[Sequence[str]], tick: Tick) -> Sequence[str]:
        for keys in waiting:
            for key in keys if len(keys) == 1 else keys[: len(keys) // 2]:
                stage.run(job, key)
            if len(keys) > 1:
                return keys  # the worker died halfway
            tick()
        return []

    monkeypatch.setattr(cluster, "_until_lost", until_lost)
    monkeypatch.setattr(cluster, "_wait_for_threads", lambda *_: 1)
    grid = BlockGrid((2, 2, 12), (1, 1, 1))
    job = Job("object", grid, ClassConfig(), scratch=MemoryScratch())
    keys = [block.key for block in grid]
    cluster.on_cluster(None)(Stage("note", note, EVERY), job, keys, lambda: ticks.append(None))
    assert done == keys
    assert len(ticks) == len(keys)


def note_on_disk(job: Job, key: str) -> None:
    job.scratch.put("note", key)


def pause(dask_worker: Any) -> None:
    dask_worker.status = Status.paused


def job_of_some_blocks(folder: Path) -> tuple[Stage, Job, list[str]]:
    grid = BlockGrid((1, 1, 12), (1, 1, 1))
    job = Job("object", grid, ClassConfig(), scratch=FileScratch(str(folder)))
    return Stage("note", note_on_disk, EVERY), job, [block.key for block in grid]


def test_a_cluster_that_adapts_is_given_a_reason_to_start_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "MAX_ABSENCE", 20.0)
    stage, job, keys = job_of_some_blocks(tmp_path)
    with LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as adapting, Client(adapting) as client:
        adapting.adapt(minimum=0, maximum=1, interval="50ms")
        cluster.on_cluster(client)(stage, job, keys, lambda: None)
    assert job.scratch.keys("note") == set(keys)


def note_slowly(job: Job, key: str) -> None:
    time.sleep(0.2)
    note_on_disk(job, key)


def test_after_an_error_a_cluster_does_no_more_of_what_it_was_handed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_VOXELS", 1)
    _, job, keys = job_of_some_blocks(tmp_path)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as local,
        Client(local) as client,
    ):
        with pytest.raises(KeyboardInterrupt) as kept:  # as a notebook keeps the last error
            cluster.on_cluster(client)(Stage("note", note_slowly, EVERY), job, keys, interrupt)
        time.sleep(1.5)
    assert kept
    assert len(job.scratch.keys("note")) < len(keys) / 2


def interrupt() -> None:
    raise KeyboardInterrupt


def do_stage(job: Job, keys: Sequence[str]) -> int:
    with ambient(in_task=True) as execute:
        execute(Stage("note", note_slowly, EVERY), job, keys, lambda: None)
    return len(keys)


def compute_inputs(job: Job, keys: Sequence[str]) -> int:
    with ambient(in_task=True):
        compute(*(dask.delayed(note_slowly)(job, key) for key in keys))
    return len(keys)


@pytest.mark.parametrize("work", [do_stage, compute_inputs])
def test_a_task_that_is_cancelled_has_the_cluster_do_no_more_until_it_is_asked_for_again(
    work: Callable[..., int], tmp_path: Path
) -> None:
    _, job, keys = job_of_some_blocks(tmp_path)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as local,
        Client(local) as client,
    ):
        future = client.submit(work, job, keys, key="work")
        while not job.scratch.keys("note"):
            time.sleep(0.05)
        client.cancel(future)
        time.sleep(1.5)
        assert len(job.scratch.keys("note")) < len(keys) / 3  # fewer than a batch
        assert client.submit(work, job, keys, key="work").result() == len(keys)
    assert job.scratch.keys("note") == set(keys)


@pytest.mark.parametrize("at", [1, 4])
def test_a_client_that_is_closed_meanwhile_is_an_error_with_what_helps(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_VOXELS", 1)
    monkeypatch.setattr(cluster, "_AHEAD", 4)  # more tasks are handed out after the fourth
    stage, job, keys = job_of_some_blocks(tmp_path)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as local:
        client = Client(local)
        ticks = (client.close if n == at else lambda: None for n in count(1))
        with pytest.raises(RuntimeError, match=r"stage 'note': the cluster does not answer.*closed.*with resume=True"):
            cluster.on_cluster(client)(stage, job, keys, lambda: next(ticks)())


def test_a_worker_that_joins_a_run_with_another_version_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, job, keys = job_of_some_blocks(tmp_path)
    here = cluster.__version__
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as local, Client(local) as client:
        monkeypatch.setattr(cluster, "__version__", "0.0.1")  # in this process, not in that of the worker
        with pytest.raises(RuntimeError, match=rf"has topo_dask {here}, the run began with 0\.0\.1: .* resume=True"):
            cluster.on_cluster(client)(stage, job, keys, lambda: None)
    assert not job.scratch.keys("note")


def wait_paused(job: Job, key: str) -> None:
    pause(get_worker())
    time.sleep(4.5)
    get_worker().status = Status.running
    note_on_disk(job, key)


def test_a_paused_worker_may_end_its_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "MAX_ABSENCE", 2.5)  # of heartbeats, half a second each, some have come by then
    monkeypatch.setattr(cluster, "_CHECK", 0.1)
    _, job, keys = job_of_some_blocks(tmp_path)
    with (
        dask.config.set({"distributed.worker.memory.pause": False}),
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as paused,
        Client(paused) as client,
    ):
        cluster.on_cluster(client)(Stage("note", wait_paused, EVERY), job, keys[:1], lambda: None)
    assert job.scratch.keys("note") == set(keys[:1])


def test_a_cluster_whose_workers_are_all_paused_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "MAX_ABSENCE", 0.5)
    monkeypatch.setattr(cluster, "_CHECK", 0.1)
    stage, job, keys = job_of_some_blocks(tmp_path)
    with (
        dask.config.set({"distributed.worker.memory.pause": False}),  # else Dask lets it go on
        LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as paused,
        Client(paused) as client,
    ):
        client.run(pause)
        with pytest.raises(RuntimeError, match="all workers are paused"):
            cluster.on_cluster(client)(stage, job, keys, lambda: None)
        client.run(lambda dask_worker: setattr(dask_worker, "status", Status.running))
        with pytest.raises(RuntimeError, match="all workers are paused"):
            client.submit(do_stage_paused, job, keys).result(timeout=60)


def do_stage_paused(job: Job, keys: Sequence[str]) -> None:
    with ambient(in_task=True) as execute:
        pause(get_worker())
        execute(Stage("note", note_slowly, EVERY), job, keys, lambda: None)
