"""Places and memory: what workers see of inputs and outputs, fill values, and the limits of a container."""

import logging
import multiprocessing.pool
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from distributed.comm import CommClosedError
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.implementations.zip import ZipFileSystem
from zarr.storage import FsspecStore, LocalStore, ZipStore

import topo_dask
from topo_dask import machine, plan, surroundings, workers
from topo_dask.blocks.geometry import BlockGrid
from topo_dask.blocks.memory import PROCESS_BYTES
from topo_dask.config import ClassConfig
from topo_dask.stages.job import Job
from topo_dask.stages.stage import EVERY, Stage
from topo_dask.stores import ledger
from topo_dask.stores.places import name_of
from topo_dask.stores.scratch import FileScratch
from topo_dask.stores.space import disk_of

SHAPE = (4, 8, 16)
CONFIG = {"group": 1, "n_steps": 0, "convergence_radius": 30.0, "min_size": 1}
COMMON: dict[str, Any] = {"class_names": ["x"], "class_config": {"x": CONFIG}, "progress": False}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a prediction that is foreground everywhere."""
    zarr.create_array(tmp_path / "s", data=np.ones((1, *SHAPE), np.float32), chunks=(1, 4, 8, 8))
    zarr.create_array(tmp_path / "f", data=np.ones((3, *SHAPE), np.float32), chunks=(3, 4, 8, 8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_open_arrays_of_relative_paths_are_found_by_workers_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster):
        monkeypatch.chdir(folder)
        given = [zarr.open_array(name, mode="r") for name in ("s", "f")]
        assert not given[0].store.root.is_absolute()
        group = zarr.open_group("group")
        array = zarr.create_array("array", shape=SHAPE, chunks=(4, 8, 8), dtype="i4", fill_value=0)
        for output in (group, array):
            labels = topo_dask.segment_volume(*given, output, **COMMON, block_shape=(4, 8, 8))["x"]
            assert (labels[:] == 1).all()
    assert (zarr.open("group/labels/x/0")[:] == 1).all()
    assert (zarr.open("array")[:] == 1).all()


@pytest.mark.parametrize("name", ["s", "f", "o/labels/x/0"])
def test_what_a_worker_does_not_see_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(workers, "sees", lambda array: not str(array.store_path).endswith(name))
    with (
        Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0"),
        pytest.raises(OSError, match=r"cannot be reached by 1 workers, .*: give a path or URL that all workers share"),
    ):
        topo_dask.segment_volume("s", "f", "o", **COMMON)


def test_whether_an_array_is_seen(folder: Path) -> None:
    for zarr_format in (2, 3):
        array = zarr.create_array("a", shape=(2,), dtype="u1", zarr_format=zarr_format, overwrite=True)
        assert workers.sees(array)
        (folder / "a").rename(folder / f"moved{zarr_format}")
        assert not workers.sees(array)


def test_a_url_of_files_is_their_path(folder: Path) -> None:
    urls = [f"file://{folder}/{name}" for name in ("s", "f", "o", "elsewhere")]
    with pytest.raises(ValueError, match="must not lie in one another"):
        topo_dask.segment_volume(*urls[:3], **COMMON, scratch=folder / "o" / "scratch")
    labels = topo_dask.segment_volume(*urls[:3], **COMMON, scratch=urls[3], block_shape=(4, 8, 8))["x"]
    assert (labels[:] == 1).all()
    assert {path.name for path in folder.iterdir()} == {"s", "f", "o", "o.tables"}


@pytest.mark.parametrize("how", ["file://", "local://", "file:", "open"])
def test_inputs_at_a_url_of_files_are_checked_like_those_at_a_path(folder: Path, how: str) -> None:
    inputs: list[Any] = [f"{'file://' if how == 'open' else how}{folder}/{name}" for name in "sf"]
    if how == "open":
        inputs = [zarr.open_array(url, mode="r") for url in inputs]
    (folder / "s/c/0/0/0").rename(folder / "elsewhere")
    (folder / "s/c/0/0/0").symlink_to("nowhere")
    with pytest.raises(OSError, match="s/c/0/0/0 is a link that leads nowhere"):
        topo_dask.segment_volume(*inputs, "o", **COMMON, block_shape=(4, 8, 8), on_missing="background")
    if how == "open":
        with pytest.raises(OSError, match="s/c/0/0/0"):
            topo_dask.run_instance_segmentation(*inputs, ["x"], {"x": CONFIG})["x"].compute()
    with pytest.raises(ValueError, match=f"^semantic {folder}/s and scratch {folder}/s/scratch must not lie"):
        topo_dask.segment_volume(*inputs, "o", **COMMON, scratch="s/scratch")


def test_the_output_may_be_open_by_a_url_of_files(folder: Path) -> None:
    zarr.open_group("group")
    group = zarr.open_group(f"file://{folder}/group", mode="r+")
    labels = topo_dask.segment_volume("s", "f", group, **COMMON)["x"]
    assert isinstance(labels.store, LocalStore)
    assert (labels[:] == 1).all()
    with pytest.raises(ValueError, match=f"scratch {folder}/group/scratch and output {folder}/group must not lie"):
        topo_dask.segment_volume("s", "f", group, **COMMON, scratch=f"file:{folder}/group/scratch")


def test_an_output_that_was_moved_or_replaced_since_it_was_opened_is_refused(folder: Path) -> None:
    # Its chunks would be written under names, or in shapes, that nobody expects who opens it later.
    how: dict[str, Any] = {"shape": SHAPE, "chunks": SHAPE, "dtype": "int32", "fill_value": 0}
    scratch = folder / "scratch"
    output = zarr.create_array(folder / "o", **how)
    (folder / "o").rename("moved")
    with pytest.raises(FileNotFoundError, match=r"output .*/o was moved or removed since it was opened"):
        topo_dask.segment_volume("s", "f", output, **COMMON, scratch=scratch)
    zarr.create_array("o", **how, chunk_key_encoding={"name": "v2", "separator": "."}, attributes={"a": 1})
    with pytest.raises(ValueError, match=r"output .*/o was replaced or resized since it was opened: open it again"):
        topo_dask.segment_volume("s", "f", output, **COMMON, scratch=scratch)
    topo_dask.segment_volume("s", "f", zarr.open_array("o", mode="r+"), **COMMON, scratch=scratch)
    assert (zarr.open_array("o")[:] == 1).all()


@pytest.mark.parametrize("after", ["link", "relabel"])
def test_an_output_that_is_moved_or_replaced_while_a_run_is_at_work_is_an_error(folder: Path, after: str) -> None:
    real = getattr(plan, after)

    def work(*arguments: Any, **options: Any) -> None:
        real(*arguments, **options)
        (folder / "o").rename(folder / "moved")
        if (folder / "other").exists():
            (folder / "other").rename(folder / "o")

    def segment(**more: Any) -> Any:
        output = zarr.create_array("o", shape=SHAPE, chunks=SHAPE, dtype="int32", fill_value=0, overwrite=True)
        return topo_dask.segment_volume("s", "f", output, **COMMON, scratch=folder / "scratch", **more)["x"]

    with patch("topo_dask.segment.make_ready"), patch.object(plan, after, work):
        with pytest.raises(FileNotFoundError, match=r"output .*/o was moved or removed since it was opened"):
            segment()
        (folder / "moved").rename("other")
        zarr.open_array("other").resize((4, 8, 8))
        with pytest.raises(ValueError, match=r"output .*/o was replaced or resized since it was opened"):
            segment(overwrite=True)
    assert (segment(resume=True)[:] == 1).all()
    assert (zarr.open_array("o", mode="r")[:] == 1).all()


@pytest.mark.parametrize("usage", [(0, 0, 0), (100, 0, 101), (100, 0, -1)])
def test_a_disk_that_answers_nonsense_tells_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, usage: tuple[int, int, int]
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert disk_of(str(folder)) is None
    assert (topo_dask.segment_volume("s", "f", "o", **COMMON)["x"][:] == 1).all()


def test_no_fill_value_reads_as_zero(folder: Path) -> None:
    semantic = zarr.create_array(
        "v2", shape=(1, *SHAPE), chunks=(1, 4, 8, 8), dtype="f4", zarr_format=2, fill_value=None, overwrite=True
    )
    semantic[..., :8] = 1
    labels = topo_dask.segment_volume("v2", "f", "o", **COMMON, block_shape=(4, 8, 8))["x"][:]
    np.testing.assert_array_equal(labels, np.arange(16)[None, None] < np.full((4, 8, 1), 8))


@pytest.mark.parametrize("block_shape", [(4, 8, 8), (4, 8, 16)])
def test_a_fill_value_that_is_no_number_is_an_error_whatever_the_blocks(folder: Path, block_shape: Any) -> None:
    semantic = zarr.create_array("nan", shape=(1, *SHAPE), chunks=(1, 4, 8, 8), dtype="f4", fill_value=np.nan)
    semantic[..., :8] = 1
    with pytest.raises(ValueError, match=r"semantic is NaN at voxel \(0, 0, 8\)"):
        topo_dask.segment_volume("nan", "f", "o", **COMMON, block_shape=block_shape)


def test_a_mask_that_was_never_written_may_be_foreground(folder: Path) -> None:
    mask = zarr.create_array("mask", shape=SHAPE, chunks=(4, 8, 8), dtype="i1", fill_value=-1)
    mask[..., 8:] = 0
    labels = topo_dask.postprocess_single(mask, zarr.open_array("f"), block_shape=(4, 8, 8), n_steps=1, min_size=1)
    np.testing.assert_array_equal(labels.compute() > 0, np.arange(16)[None, None] < np.full((4, 8, 1), 8))


def test_lazy_arrays_find_theirs_from_elsewhere_and_miss_what_is_gone(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask, flow = np.ones(SHAPE, bool), zarr.open_array("f", mode="r")
    ends = topo_dask.track_flows(mask, flow, 3)[1]
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    np.testing.assert_array_equal(ends.compute(), topo_dask.track_flows(mask, np.ones((3, *SHAPE)), 3)[1])
    ends = topo_dask.track_flows(mask, zarr.open_array(folder / "f", mode="r"), 3)[1]
    (folder / "f").rename(folder / "moved")
    with pytest.raises(OSError, match=r"flow .*/f\): chunk .* is missing, and so are the array's metadata"):
        ends.compute()


def test_lazy_rows_find_theirs_from_elsewhere_and_miss_what_is_gone(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    coords = np.argwhere(np.ones((1, 1, 10), bool))
    ends = np.where(coords < 5, 2.0, 8.0)
    expected = topo_dask.cluster_convergence(coords, ends, (1, 1, 10), 3.0, 1)
    zarr.create_array("e", data=ends, chunks=(4, 2))

    def cluster() -> da.Array:
        return topo_dask.cluster_convergence(da.from_array(coords), zarr.open_array("e"), (1, 1, 10), 3.0, 1)

    first, second = cluster(), cluster()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    np.testing.assert_array_equal(first.compute(), expected)
    (folder / "e").rename(folder / "moved")
    with pytest.raises(OSError, match=r"final_positions .*/e\): chunk .* is missing, and so are the array's metadata"):
        second.compute()


def test_a_run_is_resumed_with_the_blocks_on_record_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (64, 96, 96)
    for name, channels in (("large_s", 1), ("large_f", 3)):
        chunks = (channels, 16, 48, 48)
        zarr.create_array(name, data=np.ones((channels, *shape), np.float32), chunks=chunks)
    with monkeypatch.context() as patch:
        patch.setattr(Stage, "run", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            topo_dask.segment_volume("large_s", "large_f", "o", **COMMON)
    record = ledger.recorded(FileScratch(str(folder / "o.scratch")))
    assert record is not None
    with pytest.raises(MemoryError, match="begin again with overwrite=True, use fewer threads per worker, or raise"):
        topo_dask.segment_volume("large_s", "large_f", "o", **COMMON, resume=True, memory_limit=PROCESS_BYTES + 2**20)
    labels = topo_dask.segment_volume(
        "large_s", "large_f", "o", **COMMON, resume=True, block_shape=record["block_shape"]
    )["x"]
    assert labels.chunks == tuple(record["chunks"])
    assert labels[:].all()


@pytest.mark.parametrize("kinds", ["", "memory"])
def test_the_memory_of_a_container_is_what_its_group_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinds: str
) -> None:
    (tmp_path / "cgroup").write_text(f"12:cpu:/other\n1:{kinds}:/slurm/job:7/step_0\n")
    limits = {"slurm": "4294967296", "slurm/job:7": "1073741824", "slurm/job:7/step_0": "max", "other": "1"}
    for path, limit in limits.items():
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        (tmp_path / path / "limit").write_text(limit + "\n")
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "LIMITS", {kinds: (str(tmp_path), "limit")})
    assert machine.machine_memory() == 2**30
    (tmp_path / "cgroup").unlink()
    assert machine.machine_memory() > 2**30


def test_a_container_is_not_given_more_work_than_its_quota_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "bound_cores", lambda: 64)
    monkeypatch.setattr("dask.system.cpu_count", lambda: 2)
    machine._within_quota.cache_clear()
    assert machine.usable_cores() == 2
    monkeypatch.setattr(machine, "bound_cores", lambda: 1)  # bound meanwhile
    assert machine.usable_cores() == 1
    machine._within_quota.cache_clear()


def test_inputs_that_a_cluster_has_dropped_are_an_error_with_what_helps() -> None:
    options: dict[str, Any] = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": ":0", "processes": False}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        mask = da.ones(SHAPE, chunks=8, dtype=bool).persist()
        lazy = topo_dask.postprocess_single(mask, np.zeros((3, *SHAPE), np.float32))
        client.cancel(mask)  # as when nobody holds it any more
        with pytest.raises(RuntimeError, match="keep what you have persisted until the result is computed"):
            lazy.compute()


def test_rows_and_what_is_made_of_them_are_computed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    # Tasks of rows that a task computes again must not have the keys of those that are under way.
    warned: list[str] = []
    monkeypatch.setattr(
        logging.getLogger("distributed.scheduler"), "warning", lambda message, *_: warned.append(message)
    )
    options: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0", "processes": False}
    mask, flow = np.ones((8, 8, 8), bool), np.random.default_rng(0).normal(size=(3, 8, 8, 8))
    with LocalCluster(**options) as cluster, Client(cluster):
        rows = topo_dask.track_flows(da.from_array(mask), da.from_array(flow), 3, block_shape=(2, 8, 8))
        labels = topo_dask.cluster_convergence(*rows, mask.shape, 4.0, 1)
        found = dask.compute(*rows, labels)
    np.testing.assert_array_equal(found[2], topo_dask.cluster_convergence(*found[:2], mask.shape, 4.0, 1))
    assert not [message for message in warned if "run_spec" in message]


@pytest.mark.parametrize("processes", [True, False])
def test_workers_without_a_limit_share_the_memory_of_their_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: bool
) -> None:
    memory = machine.machine_memory()
    options: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with LocalCluster(**options, memory_limit=None, processes=processes) as cluster, Client(cluster) as client:
        if processes:  # what this process has does not count
            (tmp_path / "cgroup").write_text("1::/\n")
            (tmp_path / "limit").write_text("1024\n")
            monkeypatch.setattr(machine, "GROUPS", tmp_path / "cgroup")
            monkeypatch.setattr(machine, "LIMITS", {"": (str(tmp_path), "limit")})
            assert machine.machine_memory() == 1024
        assert workers.resources(None) == (2, 1, memory // 2)
        assert client.submit(workers.resources, None).result() == (2, 1, memory // 2)


@pytest.mark.parametrize(
    ("configured", "make"),
    [
        ("pool", ThreadPoolExecutor),
        ("pool", multiprocessing.pool.ThreadPool),
        ("scheduler", ThreadPoolExecutor),
        ("num_workers", nullcontext),
    ],
)
def test_as_many_tasks_are_expected_as_the_configured_pool_does_at_a_time(configured: str, make: Any) -> None:
    at_work, most, lock = 0, 0, threading.Lock()

    def work(job: Job, key: str) -> None:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.01)
        with lock:
            at_work -= 1

    job = Job("x", BlockGrid((1, 1, 60), (1, 1, 1)), ClassConfig())
    with make(6) as pool, dask.config.set({"num_workers": 2, configured: pool}):
        expected = workers.resources("1GiB")
        for in_task in (False, True):
            with surroundings.ambient(in_task=in_task) as executor:
                executor(Stage("s", work, EVERY), job, [block.key for block in job.grid], lambda: None)
            assert 2 < most <= expected.threads
            most = 0
    assert expected == (1, 6, 1 << 30)


def test_one_task_at_a_time_is_expected_where_tasks_are_done_in_turn() -> None:
    with dask.config.set(scheduler="synchronous", num_workers=6):
        assert workers.resources("1GiB") == (1, 1, 1 << 30)


@pytest.mark.parametrize("configured", ["pool", "scheduler"])
def test_processes_of_a_configured_pool_share_the_memory(configured: str) -> None:
    with ProcessPoolExecutor(3) as pool, dask.config.set({configured: pool}):
        assert workers.resources(None) == (3, 1, machine.machine_memory() // 3)


def test_workers_are_not_asked_where_limits_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "ask_workers", lambda *_: pytest.fail("asked"))
    for limit, given in (("2GiB", None), (None, "2GiB")):
        options = {"n_workers": 1, "threads_per_worker": 1, "memory_limit": limit, "processes": False}
        with LocalCluster(**options, dashboard_address=":0") as cluster, Client(cluster):
            assert workers.resources(given).memory == 2 << 30


@pytest.mark.parametrize(
    ("limits", "answers", "expected"),
    [
        ((0, 0, 0), {"a": 8 << 30, "b": 8 << 30, "c": 6 << 30}, 4 << 30),
        ((0, 0, 0), {"a": 8 << 30, "b": 8 << 30, "c": 3 << 30}, 3 << 30),
        (
            (0, 0, 1 << 30),
            {"a": 8 << 30, "b": 8 << 30, "c": 1 << 20},
            1 << 30,
        ),  # one with a limit is not asked for more
        ((0, 0, 0), {"c": 9 << 30, "new": 1 << 20}, 9 << 30),  # two have died, and one has come
        ((0, 0, 0), {}, 2 << 30),
        ((0, 0, 0), {"a": OSError("gone"), "c": 9 << 30}, None),
    ],
)
def test_the_least_memory_and_the_most_threads_of_a_worker_count(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, ...], answers: dict[str, Any], expected: int | None
) -> None:
    known = {
        name: {"memory_limit": limit, "host": host, "nanny": None, "nthreads": threads}
        for name, limit, host, threads in zip("abc", limits, ("one", "one", "other"), (1, 3, 2), strict=True)
    }

    class Cluster:
        def scheduler_info(self, **_: Any) -> dict[str, Any]:
            return {"workers": known}

    monkeypatch.setattr(workers, "active_client", Cluster)
    monkeypatch.setattr(workers, "ask_workers", lambda _: answers)
    monkeypatch.setattr(workers, "machine_memory", lambda: 6 << 30)
    if expected is None:
        with pytest.raises(
            RuntimeError, match="worker a cannot tell how much memory it has: start the workers with a memory limit"
        ):
            workers.resources(None)
    else:
        assert workers.resources(None) == (3, 3, expected)


@pytest.mark.parametrize(
    ("nanny", "limit", "refused"),
    [
        ("tcp://1.2.3.4:5", 4 << 30, False),
        ("tcp://1.2.3.4:5", (4 << 30) + 1, True),
        (None, 8 << 30, False),
    ],
    ids=["the same", "above", "nobody ends the worker"],
)
def test_a_limit_is_refused_if_dask_ends_workers_that_take_as_much(
    monkeypatch: pytest.MonkeyPatch, nanny: str | None, limit: int, refused: bool
) -> None:
    class Cluster:
        def scheduler_info(self, **_: Any) -> dict[str, Any]:
            worker = {"memory_limit": 4 << 30, "host": "one", "nanny": nanny, "nthreads": 1}
            return {"workers": {"a": worker, "b": {**worker, "memory_limit": 6 << 30}}}

    monkeypatch.setattr(workers, "active_client", Cluster)
    with pytest.raises(ValueError, match=r"takes more than 4\.00 GiB") if refused else nullcontext():
        assert workers.resources(limit) == (2, 1, limit)


def test_a_complete_run_is_resumed_by_giving_its_labels_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    topo_dask.segment_volume("s", "f", "o", **COMMON, block_shape=(4, 8, 8))
    monkeypatch.setattr(Stage, "run", lambda *_: 1 // 0)
    for more in ({"block_shape": (4, 8, 8)}, {}, {"halo": 3}):  # labels do not depend on the blocks
        assert (topo_dask.segment_volume("s", "f", "o", **COMMON, **more, resume=True)["x"][:] == 1).all()
    other = {**COMMON, "class_config": {"x": {**CONFIG, "min_size": 2}}}
    with pytest.raises(FileExistsError, match="exists: pass overwrite=True to replace it"):
        topo_dask.segment_volume("s", "f", "o", **other, resume=True)
    with pytest.raises(ZeroDivisionError):
        topo_dask.segment_volume("s", "f", "o", **COMMON, overwrite=True)
    with pytest.raises(ZeroDivisionError):  # replaced, and not yet whole
        topo_dask.segment_volume("s", "f", "o", **COMMON, resume=True)


def test_scratch_at_a_url_that_ends_with_a_slash_is_removed(folder: Path) -> None:
    files = MemoryFileSystem.store
    with patch("topo_dask.segment.make_ready"):
        with patch.object(plan, "relabel", lambda *_, **__: 1 // 0), pytest.raises(ZeroDivisionError):
            topo_dask.segment_volume("s", "f", "o", **COMMON, scratch="memory://slash/")
        assert any(name.startswith("/slash/classes/") for name in files)
        topo_dask.segment_volume("s", "f", "o", **COMMON, scratch="memory://slash", resume=True)
        topo_dask.segment_volume("s", "f", "o", **COMMON, scratch="memory://slash/", overwrite=True)
    assert not [name for name in files if name.startswith("/slash")]


def store_in_archive(path: Path, probability: int) -> None:
    with ZipStore(path, mode="w") as archive:
        group = zarr.create_group(archive)
        group.create_array("s", data=np.full((1, *SHAPE), probability, np.float32), chunks=(1, 4, 8, 8))
        group.create_array("f", data=np.ones((3, *SHAPE), np.float32), chunks=(3, 4, 8, 8))


def test_arrays_of_the_same_name_in_another_archive_are_other_inputs(folder: Path) -> None:
    for name, probability in (("one.zip", 1), ("other.zip", 0)):
        store_in_archive(folder / name, probability)
    labels = topo_dask.segment_volume("zip://s::one.zip", "zip://f::one.zip", "o", **COMMON)["x"]
    assert (labels[:] == 1).all()
    with pytest.raises(FileExistsError, match="resume=True gives back what a run of the same inputs"):
        topo_dask.segment_volume("zip://s::other.zip", "zip://f::other.zip", "o", **COMMON, resume=True)
    again = topo_dask.segment_volume("zip://s::one.zip", f"zip://f::{folder}/one.zip", "o", **COMMON, resume=True)
    assert (again["x"][:] == 1).all()


def test_an_archive_at_the_same_relative_path_elsewhere_is_another_input(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def given(name: str) -> list[Any]:
        monkeypatch.chdir(folder / name)
        archive = ZipStore("in.zip", mode="r")
        return [zarr.open_array(archive, path=key, mode="r") for key in "sf"]

    for name, probability in (("one", 1), ("other", 0)):
        (folder / name).mkdir()
        store_in_archive(folder / name / "in.zip", probability)
    assert (topo_dask.segment_volume(*given("one"), folder / "o", **COMMON)["x"][:] == 1).all()
    with pytest.raises(FileExistsError, match="resume=True gives back what a run of the same inputs"):
        topo_dask.segment_volume(*given("other"), folder / "o", **COMMON, resume=True)
    again = topo_dask.segment_volume(*given("one"), folder / "o", **COMMON, resume=True)
    assert (again["x"][:] == 1).all()
    arrays = given("one")
    monkeypatch.chdir(folder / "other")
    with pytest.raises(FileNotFoundError, match=r"semantic: .*other/in.zip is not the archive that is open as in.zip"):
        topo_dask.segment_volume(*arrays, folder / "o", **COMMON, overwrite=True)


def test_the_name_of_an_array_tells_the_host_and_the_folder_that_its_path_begins_in(tmp_path: Path) -> None:
    class Host(MemoryFileSystem):
        protocol = "far"
        store: ClassVar[dict[str, Any]] = {}

        def __init__(self, host: str = "", **options: Any) -> None:
            super().__init__(**options)

    def name(fs: Any) -> str:
        store = FsspecStore(AsyncFileSystemWrapper(fs, asynchronous=True), path="/a")
        return name_of(zarr.create_array(store, shape=(1,), dtype="u1", overwrite=True))

    assert [name(Host(host="one")), name(Host(host="two"))] == ["far:///a in one", "far:///a in two"]
    urls = "me:secret@one/a.zip", "one/a.zip?key=secret", "one/a.zip"
    secrets = [*(name(Host(fo=f"https://{url}")) for url in urls), name(Host("secret")), name(Host("other secret"))]
    assert len(set(secrets)) == 5
    assert "secret" not in "".join(secrets)
    assert name(DirFileSystem(f"{tmp_path}/b", fs=LocalFileSystem(auto_mkdir=True))) == f"{tmp_path}/b/a"


def test_the_name_of_an_array_tells_the_host_of_the_archive_that_it_is_in(folder: Path) -> None:
    store_in_archive(folder / "a.zip", 1)
    MemoryFileSystem().pipe(f"{folder}/a.zip", (folder / "a.zip").read_bytes())
    login = {"username": "me", "password": "secret"}  # not in the record

    def name(protocol: str, **options: Any) -> str:
        fs = ZipFileSystem(fo=f"{folder}/a.zip", target_protocol=protocol, target_options=options)
        store = FsspecStore(AsyncFileSystemWrapper(fs, asynchronous=True), path="s", read_only=True)
        return name_of(zarr.open_array(store, mode="r"))

    names = [name("memory", host="one", **login), name("memory", host="two", **login), name("memory"), name("file")]
    assert names == [f"zip://s in {folder}/a.zip:{told}" for told in ("memory:one", "memory:two", "memory", "file")]


def test_a_worker_that_has_died_says_nothing_of_what_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cluster:
        answers: ClassVar[dict[str, Any]] = {"a": True, "b": OSError("timed out"), "c": CommClosedError("gone")}
        workers: ClassVar[list[str]] = ["a", "c"]

        def run(self, *_: Any, **__: Any) -> dict[str, Any]:
            return self.answers

        def scheduler_info(self, **_: Any) -> dict[str, Any]:
            return {"workers": dict.fromkeys(self.workers)}

    monkeypatch.setattr(workers, "active_client", Cluster)
    array = zarr.create_array({}, shape=(2,), dtype="u1")
    workers.check_workers_see("flow", array)
    Cluster.workers.append("b")
    with pytest.raises(OSError, match=r"flow .*reached by 1 workers, b \(OSError: timed out\) among") as caught:
        workers.check_workers_see("flow", array)
    assert caught.value.__cause__ is Cluster.answers["b"]


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("raise ModuleNotFoundError('no such module')", r"cannot import topo_dask \(no such .*: install topo_dask \d"),
        ("", rf"has topo_dask 0\.0\.1, this process has {topo_dask.__version__}: install the same version"),
    ],
)
def test_workers_have_this_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, says: str) -> None:
    place = tmp_path / "topo_dask"
    place.mkdir()
    (place / "__init__.py").write_text(module)
    (place / "version.py").write_text("__version__ = '0.0.1'")
    monkeypatch.syspath_prepend(tmp_path)  # of processes that are spawned too
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
        pytest.raises(RuntimeError, match=rf"worker tcp://\S+ {says}"),
    ):
        workers.check_workers_reach(FileScratch(str(tmp_path / "s")))
    assert not (tmp_path / "s").exists()
