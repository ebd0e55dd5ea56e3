"""Two runs on one output: tasks that outlive their run, and an owner who has lost its lock."""

import shutil
import subprocess
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
import pytest
import zarr
from test_census import CONFIG, StopHereError, interrupt, predict, segment, stop, store_inputs
from zarr.storage import FsspecStore, LocalStore, MemoryStore

import topo_dask
from topo_dask import plan
from topo_dask.blocks.geometry import Box
from topo_dask.stages.track import track
from topo_dask.status import read_status
from topo_dask.stores import label_arrays, ledger, locks
from topo_dask.stores.bundles import to_bytes
from topo_dask.stores.foreign import is_metadata
from topo_dask.stores.ledger import CLASSES
from topo_dask.stores.places import locate_output
from topo_dask.stores.processes import start_of
from topo_dask.stores.scratch import FileScratch

QUICK = {"thin": {"group": 1, "n_steps": 0, "convergence_radius": 3.0, "min_size": 1}}
ASYNC = {"asynchronous": True}
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
    with patch("topo_dask.segment.make_ready"), patch.object(plan, "link", link):
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


@pytest.mark.parametrize("how", [{}, {"overwrite": True}])
def test_what_another_run_has_done_before_the_lock_was_taken_is_seen(tmp_path: Path, how: dict[str, bool]) -> None:
    store_inputs(tmp_path)
    expected, real = topo_dask.run_instance_segmentation(*predict(), ["thin"], CONFIG)["thin"], locks.claim
    others = iter(["another run"])

    def claim(*args: Any, **options: Any) -> Any:
        for _ in others:
            with patch.object(plan, "link", stop), pytest.raises(StopHereError):
                segment(tmp_path)
        return real(*args, **options)

    refused = nullcontext() if how else pytest.raises(FileExistsError, match="holds an unfinished run")
    with patch("topo_dask.segment.make_ready"), patch.object(locks, "claim", claim), refused:
        segment(tmp_path, **how)
    if not how:
        segment(tmp_path, resume=True)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out/labels/thin/0")[:], expected)


def test_a_run_that_was_taken_over_does_not_go_on(tmp_path: Path) -> None:
    expected = topo_dask.run_instance_segmentation(*predict(), ["thin"], CONFIG)["thin"]
    interrupt(tmp_path, "link")
    found: list[np.ndarray] = []

    def link(job: Any, min_size: int) -> None:
        with patch.object(plan, "link", real), patch.object(locks.platform, "node", lambda: "elsewhere"):
            found.append(segment(tmp_path, resume=True))
        real(job, min_size)

    real = plan.link
    ready = patch("topo_dask.segment.make_ready")
    taken_over = pytest.raises(RuntimeError, match=r"another run has taken over .*out\.lock")
    with ready, patch.object(plan, "link", link), taken_over:
        segment(tmp_path, resume=True)
    np.testing.assert_array_equal(*found, expected)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out" / "labels" / "thin" / "0", mode="r"), expected)
    assert not list(tmp_path.rglob("_failure"))  # scratch is not this run's any more


@pytest.mark.parametrize("place", ["out.lock", "out.scratch"])
def test_a_second_run_is_told_who_is_at_work_and_not_to_go_on(tmp_path: Path, place: str) -> None:
    interrupt(tmp_path, "link")
    told = pytest.raises(FileExistsError, match=rf"another run is at work in {tmp_path / place}: process \d")
    with locks.claim(FileScratch(str(tmp_path / place))):
        with told:
            segment(tmp_path)
        with told:
            segment(tmp_path, resume=True, class_config=OTHER)
        with patch.object(locks.platform, "node", lambda: "elsewhere"), told:
            segment(tmp_path)


@pytest.mark.parametrize("resume", [True, False])
def test_labels_that_are_not_whole_tell_where_the_scratch_of_their_run_was(tmp_path: Path, resume: bool) -> None:
    stop_at = patch.object(plan, "relabel", stop)
    store_inputs(tmp_path)
    with patch("topo_dask.segment.make_ready"), stop_at, pytest.raises(StopHereError):
        segment(tmp_path, scratch=tmp_path / "first")
    told = rf"is not whole, and no record .*pass scratch={tmp_path / 'first'} and resume=True to go on; overwrite=True"
    with pytest.raises(FileExistsError, match=told):
        segment(tmp_path, resume=resume)
    segment(tmp_path, scratch=tmp_path / "first", resume=True)


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_whose_scratch_was_removed_is_begun_again(tmp_path: Path, resume: bool) -> None:
    stop_at = patch.object(plan, "relabel", stop)
    store_inputs(tmp_path)
    with patch("topo_dask.segment.make_ready"), stop_at, pytest.raises(StopHereError):
        segment(tmp_path)
    shutil.rmtree(tmp_path / "out.scratch")
    gone = f"{tmp_path / 'out.scratch'}"
    with pytest.raises(FileExistsError, match=f"the record of its run is gone from {gone}: overwrite=True begins"):
        segment(tmp_path, resume=resume)
    with pytest.raises(FileNotFoundError, match=f"its record is gone from {gone}: .* begin again with overwrite=True"):
        read_status(tmp_path / "out")


def test_a_run_is_resumed_whatever_its_inputs_are_called_and_noted_to_be(tmp_path: Path) -> None:
    interrupt(tmp_path, "link")
    zarr.open_array(tmp_path / "semantic", mode="r+").attrs["note"] = "looked at"
    found = topo_dask.segment_volume(
        f"file://{tmp_path}/semantic",
        zarr.open_array(LocalStore(tmp_path), path="flow", mode="r"),
        tmp_path / "out",
        class_names=["thin"],
        class_config=CONFIG,
        progress=False,
        resume=True,
    )
    expected = topo_dask.run_instance_segmentation(*predict(), ["thin"], CONFIG)["thin"]
    np.testing.assert_array_equal(found["thin"], expected)


def test_a_lock_that_is_gone_is_missed(tmp_path: Path) -> None:
    scratch = FileScratch(str(tmp_path))
    with locks.claim(scratch) as claim:
        claim.check()
        scratch.remove("lock", claim.token)
        with pytest.raises(RuntimeError, match="has taken over"):
            claim.check()


def test_a_lock_that_its_store_does_not_let_go_of_keeps_this_process_out_no_more(tmp_path: Path) -> None:
    scratch = FileScratch(str(tmp_path / "s"))
    denied = patch.object(FileScratch, "remove", side_effect=OSError("denied"))
    with pytest.raises(OSError, match="denied"), denied, locks.claim(scratch):
        pass
    (left,) = scratch.keys("lock")
    for _ in range(2):
        with locks.claim(scratch) as claim:
            assert scratch.keys("lock") == {claim.token} != {left}
            with pytest.raises(FileExistsError, match="another run is at work"), locks.claim(scratch):
                pass
    assert set() == locks._HELD


@pytest.mark.parametrize(
    ("moved", "held"),
    [
        ({}, True),
        ({"started": 5.0}, True),  # the clock was set meanwhile
        ({"since_boot": 5.0}, True),
        ({"started": 5.0, "since_boot": 5.0}, False),  # its number is that of another process now
        ({"since_boot": None}, True),  # a lock of an earlier version
        ({"started": 5.0, "since_boot": None}, False),
    ],
)
def test_a_process_at_work_is_known_by_its_start_though_the_clock_was_set(
    tmp_path: Path, moved: dict[str, float | None], held: bool
) -> None:
    scratch = FileScratch(str(tmp_path / "s"))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        start: dict[str, Any] = start_of(other.pid)
        holder = {**locks._this_process(), "pid": other.pid, **start}
        for name, seconds in moved.items():
            if seconds is None:
                del holder[name]
            else:
                holder[name] += seconds
        scratch.put("lock", "other", holder=to_bytes(holder))
        told = pytest.raises(FileExistsError, match=f"is at work in .*: process {other.pid} of")
        with told if held else nullcontext():
            locks.check_free(scratch, take_over=True)
        other.communicate()


def test_a_lock_from_before_the_machine_was_booted_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "boot_id", lambda: "this")
    scratch = FileScratch(str(tmp_path / "s"))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        for boot, held in (("another", False), (None, True)):
            holder = {**locks._this_process(), "pid": other.pid, **start_of(other.pid), "boot": boot}
            scratch.put("lock", "other", holder=to_bytes(holder))
            with pytest.raises(FileExistsError, match="is at work") if held else nullcontext():
                locks.check_free(scratch, take_over=True)
        other.communicate()


def test_a_start_is_reckoned_with_the_present_time_of_the_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(psutil, "boot_time", lambda: asked.append("boot") or 5.0)
    monkeypatch.setattr(
        psutil, "Process", lambda pid: asked.append("process") or SimpleNamespace(create_time=lambda: 7.0)
    )
    assert start_of(1) == {"started": 7.0, "since_boot": 2.0}
    assert asked == ["boot", "process"]  # psutil 6 keeps what the first gave for the second


def test_locks_of_a_link_lie_beside_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "disk" / "out").mkdir(parents=True)
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "link").symlink_to(tmp_path / "disk" / "out")
    target = locate_output(tmp_path / "near" / "link")
    assert target.locks is not None
    assert target.locks_as_named is not None
    FileScratch(target.locks_as_named).put("lock", "token", here=np.zeros(1))
    assert FileScratch(target.locks).keys("lock") == {"token"}
    assert [path.name for path in (tmp_path / "near").iterdir()] == ["link"]


@pytest.mark.parametrize("kind", ["path", "URL", "group", "array"])
def test_an_output_has_one_lock_by_whatever_links_it_is_named(tmp_path: Path, kind: str) -> None:
    store_inputs(tmp_path)
    out, lock = tmp_path / "disk" / "out", tmp_path / "disk" / "out.lock"
    zarr.open_group(out).create_array("array", shape=(8, 24, 24), chunks=(8, 12, 12), dtype="int32", fill_value=0)
    (tmp_path / "link").symlink_to("disk")
    (tmp_path / "named").symlink_to(out)
    for name in (tmp_path / "link" / "out", tmp_path / "named", out):
        output = {"URL": f"file://{name}", "group": zarr.open_group(name), "array": zarr.open_array(name / "array")}
        held = out / "array.lock" if kind == "array" else lock
        refused = pytest.raises(FileExistsError, match=rf"another run is at work in {held}: process")
        with locks.claim(FileScratch(str(held))), refused:
            segment(tmp_path, output.get(kind, name), class_config=QUICK, scratch=tmp_path / "other")
    assert not (out / "labels").exists()


def halve(folder: Path) -> np.ndarray:
    """Take the foreground away from half of the blocks, and give back what is right then."""
    semantic, flow = predict()
    semantic[..., 12:] = 0
    zarr.create_array(folder / "semantic", data=semantic, chunks=(1, 8, 12, 12), overwrite=True)
    return topo_dask.run_instance_segmentation(semantic, flow, ["thin"], QUICK)["thin"]


def test_an_array_given_is_cleared_though_the_run_was_killed_meanwhile(tmp_path: Path) -> None:
    store_inputs(tmp_path)
    array = zarr.create_array(tmp_path / "array", shape=(8, 24, 24), chunks=(8, 12, 12), dtype="int32")
    segment(tmp_path, array, class_config=QUICK, scratch=tmp_path / "s")
    expected = halve(tmp_path)
    with patch.object(label_arrays, "_clear", stop), pytest.raises(StopHereError):
        segment(tmp_path, array, class_config=QUICK, scratch=tmp_path / "s", overwrite=True)
    np.testing.assert_array_equal(
        segment(tmp_path, array, class_config=QUICK, scratch=tmp_path / "s", resume=True), expected
    )


def test_an_array_given_holds_nothing_of_a_run_in_between(tmp_path: Path) -> None:
    for name in ("one", "other"):
        store_inputs(tmp_path / name)
    expected = halve(tmp_path / "one")
    array = zarr.create_array(tmp_path / "array", shape=(8, 24, 24), chunks=(8, 12, 12), dtype="int32")
    with patch("topo_dask.segment.make_ready"), patch.object(plan, "relabel", stop), pytest.raises(StopHereError):
        segment(tmp_path / "one", array, class_config=QUICK, scratch=tmp_path / "s")
    other = segment(tmp_path / "other", array, class_config=QUICK, scratch=tmp_path / "t", overwrite=True)
    assert other[expected == 0].any()
    found = segment(tmp_path / "one", array, class_config=QUICK, scratch=tmp_path / "s", resume=True)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["memory", "object store"])
def test_a_run_into_an_array_without_a_path_goes_on_in_that_array_only(tmp_path: Path, kind: str) -> None:
    store_inputs(tmp_path)
    how = {"shape": (8, 24, 24), "chunks": (8, 12, 12), "dtype": "int32"}
    stores = [
        MemoryStore() if kind == "memory" else FsspecStore.from_url(f"memory://{tmp_path}/{i}", storage_options=ASYNC)
        for i in range(2)
    ]
    array, other = (zarr.create_array(store, **how) for store in stores)
    other[:] = 7
    more = {"class_config": QUICK, "scratch": tmp_path / "s"}
    with patch("topo_dask.segment.make_ready"), patch.object(plan, "relabel", stop), pytest.raises(StopHereError):
        segment(tmp_path, array, **more)
    with pytest.raises(ValueError, match="cannot be resumed, it is another one: output: 'memory://"):
        segment(tmp_path, other, **more, resume=True)
    assert (other[:] == 7).all()
    expected = topo_dask.run_instance_segmentation(*predict(), ["thin"], QUICK)["thin"]
    np.testing.assert_array_equal(segment(tmp_path, zarr.open_array(stores[0]), **more, resume=True), expected)


@pytest.mark.parametrize("go_on", [{"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize(("old", "ome_zarr"), [*(2 * (v,) for v in ("0.5", "0.4", None)), ("0.5", None), (None, "0.5")])
def test_labels_are_replaced_though_a_run_was_killed_while_it_removed_them(
    tmp_path: Path, old: str | None, ome_zarr: str | None, go_on: dict[str, bool]
) -> None:
    store_inputs(tmp_path)
    new, kept, calls, real = tmp_path / "new", tmp_path / "kept", list[str](), LocalStore.delete_dir
    segment(tmp_path, new, class_config=QUICK, ome_zarr=old)
    new.rename(kept)
    expected = halve(tmp_path)
    for number in range(1, 10):  # killed in each removal in turn, when it has come to all that says what is there
        shutil.copytree(kept, new)
        calls.clear()

        async def remove(store: Any, prefix: str, number: int = number) -> None:
            calls.append(prefix)
            if len(calls) == number:
                for path in (new / prefix).rglob("*"):
                    if is_metadata(path.name):
                        path.unlink()
                raise StopHereError
            await real(store, prefix)

        with patch.object(LocalStore, "delete_dir", remove), suppress(StopHereError):
            segment(tmp_path, new, class_config=QUICK, ome_zarr=ome_zarr, overwrite=True)
        if len(calls) < number:
            break
        again = segment(tmp_path, new, class_config=QUICK, ome_zarr=ome_zarr, **go_on)
        np.testing.assert_array_equal(again, expected)
        assert old == ome_zarr or ("labels/thin" if old else "thin") not in zarr.open_group(new, mode="r")
        shutil.rmtree(new)
    assert number > 1


def test_labels_that_have_come_meanwhile_are_not_replaced_by_a_run_that_goes_on(tmp_path: Path) -> None:
    store_inputs(tmp_path)
    segment(tmp_path)
    with patch("topo_dask.segment.make_ready"), patch.object(plan, "track", stop), pytest.raises(StopHereError):
        segment(tmp_path, scratch=tmp_path / "s", overwrite=True)
    expected = segment(tmp_path, class_config=OTHER, overwrite=True)
    with pytest.raises(FileExistsError, match="was written by another run"):
        segment(tmp_path, scratch=tmp_path / "s", resume=True)
    np.testing.assert_array_equal(segment(tmp_path, class_config=OTHER, resume=True), expected)


def test_labels_that_came_before_a_run_made_its_own_are_not_replaced_when_it_goes_on(tmp_path: Path) -> None:
    store_inputs(tmp_path)
    with patch("topo_dask.recorded_run.open_output", stop), pytest.raises(StopHereError):
        segment(tmp_path, scratch=tmp_path / "s")
    expected = segment(tmp_path, class_config=QUICK)
    with pytest.raises(FileExistsError, match="was written by another run"):
        segment(tmp_path, scratch=tmp_path / "s", resume=True)
    np.testing.assert_array_equal(segment(tmp_path, class_config=QUICK, resume=True), expected)


@pytest.mark.parametrize("go_on", [{"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("ome_zarr", ["0.5", "0.4"])
def test_a_run_that_was_killed_while_it_wrote_metadata_goes_on(
    tmp_path: Path, ome_zarr: str, go_on: dict[str, bool]
) -> None:
    store_inputs(tmp_path)
    out, real, calls = tmp_path / "out", LocalStore.set, list[str]()
    expected = topo_dask.run_instance_segmentation(*predict(), ["thin"], QUICK)["thin"]
    for number in range(1, 40):
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(tmp_path / "out.tables", ignore_errors=True)
        calls.clear()

        async def write(store: Any, key: str, value: Any, number: int = number) -> None:
            if is_metadata(key.rsplit("/", 1)[-1]):
                calls.append(key)
                if len(calls) >= number:  # the name that zarr gives to what is not whole
                    half = (store.root / key).with_suffix(f".{number:032x}.partial")
                    half.parent.mkdir(parents=True, exist_ok=True)
                    half.write_bytes(b"{")
                    raise StopHereError
            await real(store, key, value)

        with patch.object(LocalStore, "set", write), suppress(StopHereError):
            segment(tmp_path, class_config=QUICK, ome_zarr=ome_zarr)
        if len(calls) < number:
            break
        (tmp_path / "out.tables").mkdir(exist_ok=True)
        (tmp_path / "out.tables" / f".thin.csv.{number:032x}.partial").write_bytes(b"half")
        np.testing.assert_array_equal(segment(tmp_path, class_config=QUICK, ome_zarr=ome_zarr, **go_on), expected)
        assert not list(tmp_path.rglob("*.partial"))
    assert 5 < number < 39


@pytest.mark.parametrize("kind", [CLASSES, ledger.RUN])
def test_a_complete_run_gives_its_labels_back_though_it_was_killed_while_it_cleared_scratch(
    tmp_path: Path, kind: str
) -> None:
    real = FileScratch.discard

    def killed(scratch: FileScratch, name: str) -> None:
        real(scratch, name)
        if name == kind:
            raise StopHereError

    store_inputs(tmp_path)
    with patch.object(FileScratch, "discard", killed), pytest.raises(StopHereError):
        segment(tmp_path)
    assert (tmp_path / "out.scratch").exists()
    expected = topo_dask.run_instance_segmentation(*predict(), ["thin"], CONFIG)["thin"]
    with patch.object(plan, "track", stop):
        np.testing.assert_array_equal(segment(tmp_path, resume=True), expected)
    assert not (tmp_path / "out.scratch").exists()


@pytest.mark.parametrize("ome_zarr", ["0.5", "0.4"])
def test_labels_that_have_lost_a_level_are_not_whole(tmp_path: Path, ome_zarr: str) -> None:
    store_inputs(tmp_path)
    expected = segment(tmp_path, class_config=QUICK, ome_zarr=ome_zarr)
    shutil.rmtree(tmp_path / "out" / "labels" / "thin" / "0")
    for place in ("out", "out/labels/thin"):
        with pytest.raises(FileNotFoundError, match=r"'thin' are not whole any more: .*'0'.*with overwrite=True"):
            read_status(tmp_path / place)
    with pytest.raises(FileExistsError, match=r"exists: pass overwrite=True"):
        segment(tmp_path, class_config=QUICK, ome_zarr=ome_zarr, resume=True)
    again = segment(tmp_path, class_config=QUICK, ome_zarr=ome_zarr, overwrite=True)
    np.testing.assert_array_equal(again, expected)


def test_chunks_of_nobody_are_not_taken_for_labels(tmp_path: Path) -> None:
    store_inputs(tmp_path)
    segment(tmp_path, class_config=QUICK)
    for path in (tmp_path / "out" / "labels" / "thin").rglob("zarr.json"):
        path.unlink()
    before = sorted((tmp_path / "out").rglob("*"))
    with pytest.raises(
        FileExistsError, match=r"'labels/thin' in .* is no array or group but holds 'labels/thin/0/c/0/"
    ):
        segment(tmp_path, class_config=QUICK, overwrite=True)
    assert sorted((tmp_path / "out").rglob("*")) == before
