"""Bundles of scratch that are damaged or lost between two starts of a run: made again, with all that rests on them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dask
import numpy as np
import pytest
import zarr

import topo_dask
from topo_dask import plan, segment_volume
from topo_dask.stages import stage
from topo_dask.stages.split import number_fragments
from topo_dask.stages.track import track
from topo_dask.stores.filed import FILED, find_filed
from topo_dask.stores.scratch import FileScratch

SHAPE, BLOCK = (8, 24, 24), (8, 12, 12)
CONFIG: dict[str, Any] = {
    "thin": {
        **{"group": 3, "n_steps": 30, "convergence_radius": 1.5, "min_size": 4},
        **{"merge": "agglomerate", "flow_error_threshold": 1.0, "min_fragment_ratio": 0.5},
    }
}
KINDS = [
    *("track", "numbers.extents", "numbers.faces", "numbers", "link.dropped", "link", "contacts", "enclose"),
    *(
        "gather.0.united",
        "gather.0",
        "unite.dropped",
        "unite",
        "fragments.extents",
        "fragments.faces",
        "fragments.ids",
        "fragments",
        "join",
        "split.seeds",
    ),
    *("split.small", "split", "absorb", "survey", "orphans", "centres", "tabulate", "errors", "drop.luts", "drop"),
]


class StopHereError(Exception):
    """Raised in place of a stage."""


def predict() -> tuple[np.ndarray, np.ndarray]:
    """Noisy foreground, and the flow to the nearest of some points."""
    rng = np.random.default_rng(1)
    points, voxels = rng.uniform(0, 1, (24, 3)) * SHAPE, np.indices(SHAPE).reshape(3, -1).T
    way = points[((voxels[:, None] - points) ** 2).sum(axis=-1).argmin(axis=1)] - voxels
    length = np.linalg.norm(way, axis=1, keepdims=True) + 1e-9
    flow = (way / length * np.minimum(1, length)).T.reshape(3, *SHAPE)
    noise = sum(np.roll(rng.normal(size=SHAPE), shift, axis) for axis in range(3) for shift in range(3))
    return (noise > -0.5).astype(np.float32)[None], flow.astype(np.float32)


def store_inputs(folder: Path) -> None:
    for array, data, channels in zip(("semantic", "flow"), predict(), (1, 3), strict=True):
        zarr.create_array(folder / array, data=data, chunks=(channels, *BLOCK))


def segment(folder: Path, output: Any = None, **more: Any) -> np.ndarray:
    places = (folder / "semantic", folder / "flow", folder / "out" if output is None else output)
    how: dict[str, Any] = {"class_names": ["thin"], "class_config": CONFIG, "block_shape": BLOCK, "progress": False}
    with dask.config.set(scheduler="synchronous"):
        return segment_volume(*places, **{**how, **more})["thin"][:]


def stop(*_: Any, **__: Any) -> None:
    raise StopHereError


def interrupt(folder: Path, name: str, function: Callable[..., None] = stop) -> None:
    """Run up to a stage, or one task of it."""
    store_inputs(folder)
    ready = patch("topo_dask.segment.make_ready")  # which goes through all stages too
    with ready, patch.object(plan, name, function), pytest.raises(StopHereError):
        segment(folder)


def scratch_in(folder: Path) -> Path:
    """Folder of the class in scratch."""
    (place,) = (folder / "out.scratch" / "classes").glob("*/thin")
    return place


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, np.ndarray]:
    """Folder of a run that has not written its labels, its class's part of scratch, and the labels in memory."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    interrupt(folder, "relabel")
    scratch = scratch_in(folder)
    shutil.copytree(folder, folder.with_name("kept"))
    return folder, scratch, topo_dask.run_instance_segmentation(*predict(), ["thin"], CONFIG)["thin"]


def test_all_kinds_are_lost_in_turn(interrupted: tuple[Path, Path, np.ndarray]) -> None:
    kept = interrupted[0].with_name("kept") / interrupted[1].relative_to(interrupted[0])
    assert {path.name for path in kept.iterdir()} - {"done", "filed", "cleared"} == set(KINDS)


@pytest.fixture
def restored(interrupted: tuple[Path, Path, np.ndarray]) -> tuple[Path, Path, np.ndarray]:
    """The interrupted run as it was."""
    folder = interrupted[0]
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("kept"), folder)
    return interrupted


@pytest.mark.parametrize("kind", KINDS)
def test_what_rests_on_a_lost_bundle_is_made_again(restored: tuple[Path, Path, np.ndarray], kind: str) -> None:
    folder, scratch, expected = restored
    max((scratch / kind).iterdir()).unlink()
    np.testing.assert_array_equal(segment(folder, resume=True), expected)


@pytest.mark.parametrize(
    "kind", ["link", "gather.0", "unite", "split", "split.small", "centres", "tabulate", "drop.luts"]
)
def test_a_bundle_lost_together_with_the_census_is_made_again(
    restored: tuple[Path, Path, np.ndarray], kind: str
) -> None:
    folder, scratch, expected = restored
    max((scratch / kind).iterdir()).unlink()
    stage = {"split.small": "split", "centres": "tabulate", "drop.luts": "drop"}.get(kind, kind)
    (scratch / "filed" / stage).unlink()
    np.testing.assert_array_equal(segment(folder, resume=True), expected)


@pytest.mark.parametrize("kind", ["fragments", "split", "absorb", "orphans", "drop.luts", "drop", "tabulate"])
def test_a_damaged_bundle_is_named_and_made_again_once_removed(
    restored: tuple[Path, Path, np.ndarray], kind: str
) -> None:
    folder, scratch, expected = restored
    bundle = max((scratch / kind).iterdir())
    bundle.write_bytes(bundle.read_bytes()[:-1])
    with pytest.raises(OSError, match=rf"{kind}/{bundle.name} is damaged; remove it and run again with resume=True"):
        segment(folder, resume=True)
    bundle.unlink()
    np.testing.assert_array_equal(segment(folder, resume=True), expected)


@pytest.mark.parametrize(
    ("name", "function", "kinds"),
    [
        ("track", track, ["numbers"]),
        ("track", track, ["numbers.extents"]),
        ("track", track, ["numbers", "numbers.faces", "numbers.extents"]),
        ("number_fragments", number_fragments, ["fragments.ids"]),
    ],
)
def test_bundles_lost_from_a_stage_that_has_not_ended(
    interrupted: tuple[Path, Path, np.ndarray], tmp_path: Path, name: str, function: Any, kinds: list[str]
) -> None:
    done: list[str] = []

    def some(job: Any, key: str, **more: Any) -> None:
        if done:
            raise StopHereError
        done.append(key)
        function(job, key, **more)

    interrupt(tmp_path, name, some)
    for kind in kinds:
        (scratch_in(tmp_path) / kind / done[0]).unlink()
    np.testing.assert_array_equal(segment(tmp_path, resume=True), interrupted[2])


@pytest.mark.parametrize("stage", ["relabel", "downsample"])
def test_labels_are_made_again_where_it_is_not_on_record_that_their_arrays_were_cleared(
    interrupted: tuple[Path, Path, np.ndarray], tmp_path: Path, stage: str
) -> None:
    done: list[str] = []
    real = getattr(plan, stage)

    def some(job: Any, key: str, **more: Any) -> None:
        if done:
            raise StopHereError
        done.append(key)
        real(job, key, **more)

    with patch("topo_dask.placing.COARSEST", 6):
        interrupt(tmp_path, stage, some)
        (scratch_in(tmp_path) / "cleared" / "thin").unlink()
        np.testing.assert_array_equal(segment(tmp_path, resume=True), interrupted[2])


@pytest.mark.parametrize("name", ["unite", "split"])
def test_what_was_done_without_a_block_is_done_again(
    interrupted: tuple[Path, Path, np.ndarray], tmp_path: Path, name: str
) -> None:
    # As where a listing of the blocks that hold foreground lacks one for a moment.
    def lacks_one(scratch: Any, kind: str) -> set[str]:
        return real(scratch, kind) - ({"0.1.1"} if kind == "numbers" else set())

    real = stage.listed

    with patch.object(stage, "listed", lacks_one):
        interrupt(tmp_path, name)
    np.testing.assert_array_equal(segment(tmp_path, resume=True), interrupted[2])


def test_a_stage_takes_what_is_on_record_for_all_whatever_is_listed(
    interrupted: tuple[Path, Path, np.ndarray], tmp_path: Path
) -> None:
    def lacks_one(scratch: FileScratch, kind: str, looks: int | None = None) -> set[str]:
        return keys(scratch, kind, looks) - {"0.1.1"}

    def link(job: Any, min_size: int) -> None:
        with patch.object(FileScratch, "keys", lacks_one):
            real(job, min_size)

    keys, real = FileScratch.keys, plan.link
    store_inputs(tmp_path)
    with patch.object(plan, "link", link):
        np.testing.assert_array_equal(segment(tmp_path), interrupted[2])


@pytest.mark.parametrize(
    ("hidden", "message"), [("track", "was filed by a task and is not there"), ("numbers.faces", "is lost")]
)
def test_what_a_task_has_filed_must_be_seen(tmp_path: Path, hidden: str, message: str) -> None:
    store_inputs(tmp_path)
    looks = iter(range(99))

    def late(scratch: FileScratch, kind: str, looks_at: int | None = None) -> set[str]:
        keys = real(scratch, kind, looks_at)
        return keys - {"0.0.1"} if kind == hidden and (patience == 0 or next(looks) < 3) else keys

    real = FileScratch.keys
    wait = patch("topo_dask.census.time.sleep")
    for patience in (70.0, 0.0):
        with patch("topo_dask.census.PATIENCE", patience), patch.object(FileScratch, "keys", late), wait as slept:
            if patience:
                segment(tmp_path)
                assert slept.called
                continue
            with pytest.raises(OSError, match=rf"{hidden}/0\.0\.1 {message}"):
                segment(tmp_path, overwrite=True)


def test_a_bundle_that_is_lost_during_the_run_is_missed(
    interrupted: tuple[Path, Path, np.ndarray], tmp_path: Path
) -> None:
    lost: list[Path] = []

    def lose(job: Any, min_size: int) -> None:
        for path in (tmp_path / "out.scratch").rglob("numbers.faces/0.0.1"):
            lost.append(path)
            path.unlink()
        real(job, min_size)

    real = plan.link
    interrupt(tmp_path, "link")
    lost_and_missed = pytest.raises(OSError, match=r"numbers\.faces/0\.0\.1 is lost; run again with resume=True")
    with patch.object(plan, "link", lose), lost_and_missed:
        segment(tmp_path, resume=True)
    assert lost
    np.testing.assert_array_equal(segment(tmp_path, resume=True), interrupted[2])


@pytest.mark.parametrize("note", ["run/manifest", "void/void"])
def test_a_damaged_record_of_the_run_is_named_with_what_helps(
    restored: tuple[Path, Path, np.ndarray], note: str
) -> None:
    folder, _, expected = restored
    FileScratch(str(folder / "out.scratch")).put(*note.split("/"))
    (folder / "out.scratch" / note).write_bytes(b"topodask")
    for how in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(
            OSError, match=r"record of the run in .*out\.scratch is damaged: remove that folder and begin"
        ):
            segment(folder, **how)
    shutil.rmtree(folder / "out.scratch")
    np.testing.assert_array_equal(segment(folder, overwrite=True), expected)


def test_a_process_looks_once_which_bundles_there_are(tmp_path: Path) -> None:
    scratch = FileScratch(str(tmp_path))
    keys = np.frombuffer(b"0.0.0\n0.0.1", np.uint8)
    for name, kind in (("fragments", "fragments.ids"), ("track", "numbers.faces")):
        scratch.put(FILED, name, **{kind: keys})
    scratch.put("numbers.faces", "0.0.0", lower0=np.zeros(1))
    with patch.object(FileScratch, "get", autospec=True, side_effect=FileScratch.get) as get:
        assert find_filed(scratch, "numbers.faces", "0.0.0") is not None
        assert all(find_filed(scratch, "numbers.faces", f"0.1.{x}") is None for x in range(9))
        with pytest.raises(OSError, match=r"numbers\.faces/0\.0\.1 is lost"):
            find_filed(scratch, "numbers.faces", "0.0.1")
    assert sum(call.args[1] == FILED for call in get.call_args_list) == 2
    with pytest.raises(OSError, match=r"gather\.0 is on record, and it cannot be told"):
        find_filed(scratch, "gather.0", "0.0.0")
