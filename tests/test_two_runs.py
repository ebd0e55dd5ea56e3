"""Two runs on one output: tasks that outlive their run, and an owner who has lost its lock."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import zarr
from test_census import CONFIG, StopHereError, interrupt, predict, segment

import topo_dask
from topo_dask import plan
from topo_dask.blocks.geometry import Box
from topo_dask.stages.track import track
from topo_dask.stores import ledger
from topo_dask.stores.ledger import CLASSES
from topo_dask.stores.scratch import FileScratch

OTHER = {"thin": {**CONFIG["thin"], "n_steps": 0}}


def outlive(folder: Path) -> Any:
    """Interrupt a run; the job as its tasks hold it that are still at work on a cluster."""
    jobs: list[Any] = []

    def keep(job: Any, key: str) -> None:
        jobs.append(job)
        raise StopHereError

    interrupt(folder, "track", keep)
    return jobs[0]


def test_a_task_that_outlives_its_run_does_not_disturb_the_next(tmp_path: Path) -> None:
    late = outlive(tmp_path)

    def link(job: Any, min_size: int) -> None:
        for block in late.candidates():
            track(late, block.key)
        with pytest.raises(RuntimeError, match=r"output .*labels/thin/0 was replaced by another run while"):
            late.output.write(Box((0, 0, 0), (8, 12, 12)), np.full((8, 12, 12), 7, np.int32))
        real(job, min_size)

    real = plan.link
    with patch.object(plan, "link", link):
        found = segment(tmp_path, class_config=OTHER, overwrite=True)
    np.testing.assert_array_equal(found, topo_dask.run_instance_segmentation(*predict(), ["thin"], OTHER)["thin"])
    assert not (tmp_path / "out.scratch").exists()


def test_what_a_task_files_after_its_run_keeps_nobody_out(tmp_path: Path) -> None:
    late = outlive(tmp_path)
    segment(tmp_path, overwrite=True)
    track(late, "0.0.0")
    notes = tmp_path / "out.scratch" / CLASSES / "0.0.0"
    notes.write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty and holds no run of topo_dask"):
        segment(tmp_path, overwrite=True)
    notes.unlink()
    assert FileScratch(str(tmp_path / "out.scratch")).holds_only(CLASSES)
    found = segment(tmp_path, class_config=OTHER, overwrite=True)
    np.testing.assert_array_equal(found, topo_dask.run_instance_segmentation(*predict(), ["thin"], OTHER)["thin"])
    assert not (tmp_path / "out.scratch").exists()


def test_a_run_that_was_taken_over_does_not_go_on(tmp_path: Path) -> None:
    expected = topo_dask.run_instance_segmentation(*predict(), ["thin"], CONFIG)["thin"]
    interrupt(tmp_path, "link")
    found: list[np.ndarray] = []

    def link(job: Any, min_size: int) -> None:
        with patch.object(plan, "link", real), patch.object(ledger.platform, "node", lambda: "elsewhere"):
            found.append(segment(tmp_path, resume=True))
        real(job, min_size)

    real = plan.link
    with patch.object(plan, "link", link), pytest.raises(RuntimeError, match=r"another run has taken over .*out\.lock"):
        segment(tmp_path, resume=True)
    np.testing.assert_array_equal(*found, expected)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out" / "labels" / "thin" / "0", mode="r"), expected)


def test_a_lock_that_is_gone_is_missed(tmp_path: Path) -> None:
    scratch = FileScratch(str(tmp_path))
    with ledger.claim(scratch) as claim:
        claim.check()
        scratch.remove("lock", claim.token)
        with pytest.raises(RuntimeError, match="has taken over"):
            claim.check()
