"""Executors: neighbours are done one after the other, so that they share what they read, and each task once."""

from pathlib import Path

import dask
import pytest

from topo_dask.blocks.geometry import BlockGrid
from topo_dask.config import ClassConfig
from topo_dask.execute import Executor, dask_scheduler, serial, threads
from topo_dask.plan import EVERY, Stage
from topo_dask.stages.job import Job
from topo_dask.stores.scratch import FileScratch, MemoryScratch


@pytest.mark.parametrize("execute", [serial, threads, dask_scheduler])
def test_blocks_are_done_in_raster_order(execute: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_no_task_is_taken_for_one_of_another_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Client

    monkeypatch.setattr("topo_dask.execute.WINDOW", 2)
    grid = BlockGrid((1, 4, 12), (1, 1, 1))
    job = Job("object", grid, ClassConfig(), scratch=FileScratch(str(tmp_path)))
    keys = [block.key for block in grid]
    stage = Stage("note", lambda job, key: job.scratch.put("note", key), EVERY)
    # A client that is not the default one is Dask's scheduler, and knows for a while what it has done.
    with (
        Client(processes=False, dashboard_address=None, set_as_default=False) as client,
        dask.config.set(scheduler=client),
    ):
        dask_scheduler(stage, job, keys, lambda: None)
    assert job.scratch.keys("note") == set(keys)
