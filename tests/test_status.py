"""How far a run has come, told while it is interrupted, at work, and finished."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import zarr
from command_line import invoke

import topo_dask
from topo_dask.status import read_status
from topo_dask.stores import locks
from topo_dask.stores.scratch import FileScratch

SHORT = {"n_steps": 2, "min_size": 1, "convergence_radius": 4.0}
CONFIG = {"nuc": {"group": 1, **SHORT}, "mito": {"group": 2, **SHORT}}


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a run that found NaN in the flow of its second class after one block of tracking."""
    mask = np.zeros((2, 4, 4, 8), np.float32)
    mask[..., :4] = 1
    flow = np.zeros((6, 4, 4, 8), np.float32)
    flow[5, 3, 3, 3] = np.nan
    zarr.create_array(tmp_path / "mask", data=mask, chunks=(1, 2, 4, 4))
    zarr.create_array(tmp_path / "flow", data=flow, chunks=(3, 4, 4, 4), config={"write_empty_chunks": True})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["/bin/topo-dask", "run", "mask", "flow", "a b", "--overwrite"])
    with pytest.raises(ValueError, match="flow is not finite"):
        segment(scheduler="synchronous")
    return tmp_path


def segment(scheduler: str = "threads", **more: Any) -> None:
    import dask

    common = {"class_names": ["nuc", "mito"], "class_config": CONFIG, "block_shape": (2, 4, 4), "halo": 0}
    with dask.config.set(scheduler=scheduler):
        topo_dask.segment_volume("mask", "flow", "a b", **common, **{"progress": False, **more})


def status(*words: str) -> str:
    result = invoke("status", *words)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("place", ["a b", "a b.scratch"])
def test_what_is_left_and_how_to_go_on(interrupted: Path, place: str) -> None:
    found = read_status(place)
    assert not found.is_complete
    assert [(s.name, s.done, s.total) for s in found.classes["nuc"]] == [
        ("track", 2, 2),  # blocks of which no chunk of the foreground is stored are not counted
        ("link", 1, 1),
        ("tabulate", 1, 1),
        ("relabel", 2, 2),
    ]
    mito = {s.name: (s.done, s.total) for s in found.classes["mito"]}
    assert mito["track"] in ((0, 2), (1, 2))  # the order of tasks is the scheduler's
    assert mito["link"] == (0, 1)
    assert mito["fragments"] == (0, None)
    text = status(place)
    assert "to go on, once that is mended: topo-dask run mask flow 'a b' --resume" in text
    assert json.loads(status(place, "--json"))["complete"] is False


def test_blocks_of_classes_that_share_the_read_of_the_flow_are_counted_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.zeros((2, 4, 4, 8), np.float32)
    mask[0, :2], mask[1, ..., :4] = 1, 1
    zarr.create_array(tmp_path / "mask", data=mask, chunks=(1, 2, 4, 4))
    zarr.create_array(tmp_path / "flow", data=np.ones((6, 4, 4, 8), np.float32), chunks=(6, 4, 4, 4))
    monkeypatch.chdir(tmp_path)

    class Stop:
        def begin(self, job: Any, stage: Any, n: int) -> Any:
            if (job.name, stage.name) == ("mito", "fragments"):
                raise InterruptedError
            return lambda: None

    with pytest.raises(InterruptedError):
        segment(progress=Stop())
    found = read_status("a b").classes
    assert {name: (stages[0].done, stages[0].total) for name, stages in found.items()} == {
        "nuc": (3, 3),
        "mito": (3, 3),
    }
    assert {stage.name: stage.total for stage in found["mito"]}["fragments"] is not None
    (tmp_path / "flow").rename(tmp_path / "moved")
    assert read_status("a b").classes["nuc"][0].total == 4  # all blocks


def test_scratch_of_its_own_is_found_by_the_output(interrupted: Path) -> None:
    (interrupted / "a b.scratch").rename(interrupted / "elsewhere")
    with pytest.raises(ValueError, match="flow is not finite"):
        segment(scheduler="synchronous", scratch="far", overwrite=True)
    found = read_status("a b")
    assert found.place == str(interrupted / "far")
    zarr.open("flow")[5, 3, 3, 3] = 0.5
    segment(resume=True, scratch="far")
    assert "scratch" not in zarr.open("a b/labels/nuc").attrs["topo_dask"]
    assert read_status("a b").is_complete


def test_elsewhere_the_command_says_where(interrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert f"to go on, once that is mended: cd {interrupted} && topo-dask run" in status(str(interrupted / "a b"))


CALL = "call segment_volume as before with resume=True"
BEGUN_BY = [
    (["/lib/topo_dask/__main__.py", "--verbose", "run", "mask"], "topo-dask --verbose run mask --resume"),
    (["pipeline.py", "run", "--cells"], f"{CALL} (it was called by pipeline.py)"),
    (["/bin/topo-dask", "demo", "-o", "run"], CALL),
    (["-c"], CALL),
]


@pytest.mark.parametrize(("command", "way"), BEGUN_BY, ids=[row[0][0] for row in BEGUN_BY])
def test_how_to_go_on_depends_on_what_was_called(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], way: str
) -> None:
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(ValueError, match="flow is not finite"):
        segment(scheduler="synchronous", overwrite=True)
    assert f"to go on, once that is mended: {way}" in status("a b")


def test_an_error_is_told_until_the_run_goes_on(interrupted: Path) -> None:
    told = "flow is not finite"
    assert f"\nfailed: {told}" in status("a b")
    assert "[in class 'mito', stage 'track'" in json.loads(status("a b", "--json"))["failure"]
    with locks.claim(FileScratch(str(interrupted / "a b.scratch"))):
        assert told not in status("a b")

    class Kill:
        def begin(self, job: Any, stage: Any, n: int) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment(scheduler="synchronous", resume=True, progress=Kill())
    assert told not in status("a b")
    assert "\ninterrupted; to go on: topo-dask" in status("a b")


def test_a_run_at_work_is_seen_and_not_disturbed(interrupted: Path) -> None:
    with locks.claim(FileScratch(str(interrupted / "a b.scratch"))):
        before = sorted(interrupted.rglob("*"))
        assert "at work: process" in status("a b")
        assert sorted(interrupted.rglob("*")) == before


def test_a_run_that_was_being_removed_is_begun_again(interrupted: Path) -> None:
    def killed(scratch: FileScratch, name: str) -> None:
        raise KeyboardInterrupt

    with patch.object(FileScratch, "discard", killed), pytest.raises(KeyboardInterrupt):
        segment(overwrite=True)
    for place, what in (("a b", "has not finished"), ("a b.scratch", "holds what is left of a run")):
        result = invoke("status", place)
        assert result.exit_code == 2
        assert what in result.stderr
        assert "begin again with --overwrite" in result.stderr
    zarr.open("flow")[5, 3, 3, 3] = 0.5
    segment(overwrite=True)


def test_labels_tell_of_their_run(interrupted: Path) -> None:
    (interrupted / "a b.scratch").rename(interrupted / "elsewhere")
    with pytest.raises(ValueError, match="flow is not finite"):
        segment(scheduler="synchronous", scratch="far", overwrite=True)
    assert "to go on, once that is mended" in status("a b/labels/mito")
    zarr.open("flow")[5, 3, 3, 3] = 0.5
    segment(resume=True, scratch="far")
    for place in ("a b/labels/nuc", "a b/labels/nuc/0"):
        assert status(place) == f"finished: {interrupted}/{place}\n  nuc: whole\n"


def test_a_finished_run_is_told_by_its_mark(interrupted: Path) -> None:
    zarr.open("flow")[5, 3, 3, 3] = 0.5
    segment(resume=True)
    assert status("a b") == f"finished: {interrupted}/a b\n  mito: whole\n  nuc: whole\n"
    marks = zarr.open("a b/labels/nuc").attrs
    marks["topo_dask"] = {**marks["topo_dask"], "complete": False}
    result = invoke("status", "a b")
    assert result.exit_code == 2
    assert "not finished ['nuc']" in result.stderr


@pytest.mark.parametrize("place", ["nothing", "mask", "mask/zarr.json"])
def test_what_is_no_run_is_refused(interrupted: Path, place: str) -> None:
    result = invoke("status", place)
    assert result.exit_code == 2
    assert result.stderr == f"Error: {place} is neither the output nor the scratch of a run\n"
