"""Lazy arrays: the same bits as in memory, no work on building, global stages once."""

import errno
import gc
import multiprocessing.pool
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import dask
import dask.array as da
import naive
import numpy as np
import pytest
import strategies as some
import zarr
from distributed import Client, LocalCluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from object_stores import OBJECTS
from zarr.storage import MemoryStore

import topo_dask
from topo_dask.execute import run
from topo_dask.lazy import leases
from topo_dask.lazy.options import Options, choose_blocks
from topo_dask.lazy.prepared import prepare
from topo_dask.lazy.spilled import _naming_the_place, spill
from topo_dask.stages import track as track_stage
from topo_dask.stores.folders import LocalFolder
from topo_dask.stores.processes import boot_id

contract = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


def blobs(shape: tuple[int, int, int] = (20, 30, 25)) -> tuple[np.ndarray, np.ndarray]:
    """Two boxes and the flow to their middles, with some noise."""
    rng = np.random.default_rng(3)
    mask = np.zeros(shape, bool)
    flow = rng.normal(0, 0.3, (3, *shape)).astype(np.float32)
    for box in (np.s_[2:12, 3:20, 2:9], np.s_[9:19, 12:29, 12:24]):
        mask[box] = True
        middle = [(s.start + s.stop - 1) / 2 for s in box]
        to_middle = np.array(middle)[:, None, None, None] - np.mgrid[box]
        flow[(slice(None), *box)] += to_middle / np.maximum(np.linalg.norm(to_middle, axis=0), 1)
    return mask, flow


def deny(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("a lazy array was computed while it was built")


def test_tasks_that_wait_for_the_cluster_hold_no_resources_that_others_wait_for() -> None:
    mask, flow = blobs()
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=":0", resources={"GPU": 1}) as cluster,
        Client(cluster) as client,
        dask.config.set({"optimization.fuse.active": False}),  # otherwise Dask drops annotations of arrays
    ):
        with dask.annotate(resources={"GPU": 1}):
            lazy = topo_dask.postprocess_single(da.from_array(mask), da.from_array(flow), min_size=5)
            tracked = topo_dask.track_flows(da.from_array(mask), da.from_array(flow), 7)
            placed = topo_dask.cluster_convergence(*tracked, mask.shape, 2.7, 2)
        labels, clustered = (client.compute(array).result(timeout=60) for array in (lazy, placed))
    np.testing.assert_array_equal(labels, naive.postprocess_single(mask, flow, min_size=5))
    np.testing.assert_array_equal(
        clustered, naive.cluster_convergence(*naive.track_flows(mask, flow, 7, 1.0), mask.shape, 2.7, 2)
    )


@contract
@given(st.data())
def test_lazy_equals_naive_whatever_the_chunks(data: st.DataObject) -> None:
    mask, flow = data.draw(some.volumes())
    parameters = data.draw(some.parameters())
    chunks = data.draw(some.chunkings(mask.shape))
    lazy = topo_dask.postprocess_single(
        da.from_array(mask, chunks=chunks),
        da.from_array(flow, chunks=((1, 2), *data.draw(some.chunkings(mask.shape)))),
        **parameters,
        block_shape=data.draw(st.none() | some.block_shapes(mask.shape)),
        halo=data.draw(some.halos(mask.shape)),
    )
    assert lazy.dtype == np.int32
    assert lazy.shape == mask.shape
    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_array_equal(lazy.compute(), naive.postprocess_single(mask, flow, **parameters))


@settings(contract, max_examples=60)
@given(st.data())
def test_lazy_tracking_and_clustering_equal_naive(data: st.DataObject) -> None:
    mask, flow = data.draw(some.volumes())
    block_shape = data.draw(some.block_shapes(mask.shape))
    expected = naive.track_flows(mask, flow, 7, 1.0)
    with dask.config.set(scheduler="synchronous"):
        coords, ends = topo_dask.track_flows(da.from_array(mask), da.from_array(flow), 7, block_shape=block_shape)
        np.testing.assert_array_equal(coords.compute(), expected[0])
        np.testing.assert_array_equal(ends.compute(), expected[1])
        labels = topo_dask.cluster_convergence(coords, ends, mask.shape, 2.7, 2, block_shape=block_shape)
        np.testing.assert_array_equal(labels.compute(), naive.cluster_convergence(*expected, mask.shape, 2.7, 2))


@pytest.mark.parametrize("coords_type", ["i8", "u8", "u1", ">i4"])
@pytest.mark.parametrize("ends_type", ["f2", "f4", ">f8", "i8", "?"])
def test_rows_may_have_any_type_of_numbers(coords_type: str, ends_type: str) -> None:
    coords = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 3], [0, 1, 4]])
    ends = np.array([[0, 0, 0], [0, 0, 0], [0, 1, 1], [0, 1, 1]])
    expected = naive.cluster_convergence(coords, ends.astype(float), (1, 2, 5), 1.0, 1)
    assert expected.max() == 2
    rows = coords.astype(coords_type), ends.astype(ends_type)
    np.testing.assert_array_equal(topo_dask.cluster_convergence(*rows, (1, 2, 5), 1.0, 1), expected)
    taken, blocks = [da.from_array(a, chunks=(3, 3)) for a in rows], np.array([1, 1, 3])
    lazy = topo_dask.cluster_convergence(*taken, (1, 2, 5), 1.0, 1, block_shape=blocks)
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), expected)


def _rows_as(kind: str, rows: np.ndarray, chunk: int) -> Any:
    if kind == "dask":
        return da.from_array(rows, chunks=(chunk, 2))
    return zarr.create_array({}, data=rows, chunks=(chunk, 2)) if kind == "zarr" else rows


KINDS = [("dask", "zarr"), ("zarr", "dask"), ("zarr", "zarr"), ("numpy", "dask"), ("zarr", "numpy")]


@pytest.mark.parametrize(("coords_kind", "ends_kind"), KINDS)
def test_rows_that_are_not_of_dask_are_divided_like_the_others(
    coords_kind: str, ends_kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("topo_dask.lazy.rows._ROWS", 4)
    coords = np.argwhere(np.ones((2, 3, 5), bool))
    ends = np.minimum(coords // 2 * 2.0, 2)
    expected = naive.cluster_convergence(coords, ends, (2, 3, 5), 1.5, 1)
    assert expected.max() > 1
    rows = _rows_as(coords_kind, coords, 7), _rows_as(ends_kind, ends, 11)
    lazy = topo_dask.cluster_convergence(*rows, (2, 3, 5), 1.5, 1, block_shape=(2, 2, 3))
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), expected)


def test_dask_rows_in_other_chunks_are_refused() -> None:
    coords = np.argwhere(np.ones((2, 3, 5), bool))
    with pytest.raises(ValueError, match="must have matching chunks, got 5 and 3 of them along the first axis"):
        topo_dask.cluster_convergence(_rows_as("dask", coords, 7), _rows_as("dask", coords, 11), (2, 3, 5))
    taken = [da.from_array(coords, chunks=((10, *sizes), 3)) for sizes in ((10, 10), (5, 15))]
    with pytest.raises(ValueError, match="must have matching chunks, got 10 and 5 rows in chunk 1: rechunk"):
        topo_dask.cluster_convergence(*taken, (2, 3, 5))


@pytest.mark.parametrize(
    ("name", "arguments", "with_flow"),
    [
        ("compact_relabel", (), False),
        ("filter_small", (20,), False),
        ("split_disconnected", (0.2,), False),
        ("merge_adjacent", (0.1,), True),
        ("agglomerate", (0.1,), True),
        ("remove_bad_flow_masks", (0.3,), True),
    ],
)
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16, np.uint32, np.uint64])
def test_label_functions_take_dask_and_zarr(name: str, arguments: tuple, with_flow: bool, dtype: type) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.integers(0, 4, (3, 4, 3)).repeat(4, 0).repeat(4, 1).repeat(4, 2) * 900).astype(dtype)
    if np.dtype(dtype).itemsize == 8:
        labels *= dtype(2**40)
    flow = rng.normal(size=(3, *labels.shape)).astype(np.float32)
    function = getattr(topo_dask, name)
    extra = (flow, *arguments) if with_flow else arguments
    expected = function(labels, *extra)
    np.testing.assert_array_equal(expected, getattr(naive, name)(labels, *extra))
    stored = zarr.create_array({}, data=labels, chunks=(5, 5, 5))
    for given_labels in (da.from_array(labels, chunks=(5, 7, 12)), stored):
        lazy_extra = (da.from_array(flow, chunks=4), *arguments) if with_flow else arguments
        lazy = function(given_labels, *lazy_extra, block_shape=(5, 6, 7))
        assert isinstance(lazy, da.Array)
        assert lazy.chunks[2] == (7, 5)
        np.testing.assert_array_equal(lazy.compute(), expected)


@pytest.mark.parametrize("width", [1, 3, 8, 16])
@pytest.mark.parametrize("name", ["merge_adjacent", "agglomerate"])
def test_whether_scores_are_too_large_does_not_depend_on_the_blocks(name: str, width: int) -> None:
    labels, flow = np.ones((2, 1, 16), np.int32), np.zeros((3, 2, 1, 16), np.float32)
    labels[1] = 2
    flow[1] = 1e4
    unite, blocks = getattr(topo_dask, name), {"block_shape": (2, 1, width)}
    with dask.config.set(scheduler="synchronous"):
        for array in (labels, da.from_array(labels)):
            with pytest.raises(OverflowError, match=r"contact scores: .*2\*\*53"):
                np.asarray(unite(array, flow, -1.0, **blocks))
        flow[1, 1, :, 8:] = -1e4  # eight faces of either sign: their sum is 0, those of halves are too large
        for array in (labels, da.from_array(labels)):
            assert (np.asarray(unite(array, flow, -1.0, **blocks)) == 1).all()


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_every_local_scheduler_gives_the_same_bits(scheduler: str, tmp_path: Any) -> None:
    mask, flow = blobs()
    arguments = {"convergence_radius": 3.0, "min_size": 4, "group": 3, "flow_error_threshold": 0.3}
    expected = topo_dask.postprocess_single(mask, flow, 60, **arguments)
    assert expected.max() >= 2
    with dask.config.set(scheduler=scheduler):
        lazy = topo_dask.postprocess_single(
            da.from_array(mask, chunks=9), da.from_array(flow, chunks=10), 60, **arguments, scratch=str(tmp_path)
        )
        assert lazy.chunks == da.from_array(mask, chunks=9).chunks
        np.testing.assert_array_equal(lazy.compute(), expected)


POOLS = [
    {"pool": lambda: ThreadPoolExecutor(1)},
    {"pool": lambda: multiprocessing.pool.ThreadPool(2)},
    {"scheduler": lambda: ThreadPoolExecutor(2)},
]


@pytest.mark.parametrize("configured", POOLS)
def test_a_pool_that_is_configured_is_not_waited_for_by_its_own_tasks(configured: dict[str, Any]) -> None:
    mask, flow = blobs()
    expected = topo_dask.postprocess_single(mask, flow, min_size=2)
    inputs = da.from_array(mask, chunks=10), da.from_array(flow, chunks=10)
    ((key, make),) = configured.items()
    with make() as pool, dask.config.set({key: pool}):
        lazy = topo_dask.postprocess_single(*inputs, min_size=2, block_shape=(8, 16, 16))
        np.testing.assert_array_equal(lazy.compute(), expected)
        table = topo_dask.instance_table(da.from_array(expected, chunks=10))
        assert table["label"].tolist() == np.unique(expected)[1:].tolist() != []


def test_what_inputs_have_in_common_is_computed_once() -> None:
    mask, flow = blobs()
    computed: list[Any] = []

    def network(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        computed.append(block_info[0]["chunk-location"])
        return block

    image = da.from_array(np.concatenate([mask[None].astype("f4"), flow]), chunks=(4, 10, 10, 10))
    found = image.map_blocks(network, dtype="f4", meta=np.empty((0,) * 4, "f4"))
    config = {"one": {"group": 1, "min_size": 2}}
    lazy = topo_dask.run_instance_segmentation(found[:1], found[1:], ["one"], config)["one"]
    np.testing.assert_array_equal(lazy.compute(), topo_dask.postprocess_single(mask, flow, min_size=2))
    assert len(computed) == len(set(computed)) == image.npartitions


@pytest.mark.parametrize("stored", [(), ("semantic",), ("flow",)])
@pytest.mark.parametrize("names", ["a", "ac", "bc", "abc"])
def test_classes_that_are_skipped_are_not_computed(names: str, stored: tuple[str, ...]) -> None:
    mask, flow = blobs()
    semantic, flows = np.stack([mask, mask[::-1], ~mask]).astype("f4"), np.concatenate([flow, flow * 0, flow * 0.5])
    computed: set[tuple[str, int]] = set()

    def lazily(array: np.ndarray, what: str) -> Any:
        def network(block: np.ndarray, block_info: Any = None) -> np.ndarray:
            computed.add((what, block_info[0]["chunk-location"][0]))
            return block

        if what in stored:
            return zarr.create_array({}, data=array, chunks=(2, 10, 10, 10))
        chunks = (1 if what == "semantic" else 3, 10, 30, 25)
        return da.from_array(array, chunks=chunks).map_blocks(network, dtype="f4", meta=np.empty((0,) * 4, "f4"))

    config = {name: {"group": 1, "n_steps": 10, "convergence_radius": 3.0, "min_size": 2} for name in names}
    ways = {"class_names": ["a", "b", "c"], "class_config": config}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = topo_dask.run_instance_segmentation(semantic, flows, **ways)
        found = topo_dask.run_instance_segmentation(lazily(semantic, "semantic"), lazily(flows, "flow"), **ways)
    with dask.config.set(scheduler="synchronous"):
        for name in names:
            np.testing.assert_array_equal(found[name].compute(), expected[name])
    assert computed == {(what, "abc".index(c)) for what in ("semantic", "flow") if what not in stored for c in names}


class Labelled:
    """An array with coordinates around another one, as xarray has them."""

    def __init__(self, data: Any) -> None:
        self.data, self.shape, self.dtype = data, data.shape, data.dtype

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("loaded whole")


def test_what_wraps_a_dask_array_stays_lazy() -> None:
    mask, flow = blobs()
    inputs = Labelled(da.from_array(mask, chunks=10)), Labelled(da.from_array(flow, chunks=10))
    lazy = topo_dask.postprocess_single(*inputs, min_size=2)
    assert isinstance(lazy, da.Array)
    np.testing.assert_array_equal(lazy.compute(), topo_dask.postprocess_single(mask, flow, min_size=2))


@pytest.mark.parametrize(
    ("chunks", "block"),
    [((1, 512, 512), (8, 512, 512)), ((64, 64, 64), (64, 64, 64)), ((1, 64, 64), (64, 64, 64)), ((9, 9, 9), (72,) * 3)],
)
def test_blocks_are_worth_a_task_and_not_thinner_than_their_halos(chunks: Any, block: Any) -> None:
    array = da.zeros((100, 512, 512), chunks=chunks, dtype=bool)
    assert choose_blocks(Options(), [array], (100, 512, 512)).block_shape == block


def test_blocks_of_remote_arrays_are_larger() -> None:
    for store, block in (("failing://lazy/labels", (128, 128, 128)), (MemoryStore(), (64, 64, 64))):
        array = zarr.create_array(store, shape=(256, 256, 256), chunks=(32, 32, 32), dtype="i4")
        assert choose_blocks(Options(), [array], array.shape).block_shape == block
    OBJECTS.stored.clear()


def test_scratch_goes_with_the_last_array_that_needs_it(tmp_path: Path) -> None:
    lazy, labels = in_columns(lambda block: block, tmp_path)
    part = lazy[..., :8]
    with dask.config.set(scheduler="threads"):
        lazy.compute()
        del lazy
        gc.collect()
        (folder,) = tmp_path.iterdir()
        written = (folder / "channel0" / "track" / "0.0.0").stat().st_mtime_ns
        np.testing.assert_array_equal(part.compute(), labels[..., :8])
        assert (folder / "channel0" / "track" / "0.0.0").stat().st_mtime_ns == written
        del part
        gc.collect()
        assert not list(tmp_path.iterdir())
        topo_dask.instance_table(da.from_array(labels), scratch=str(tmp_path))
        gc.collect()
    assert not list(tmp_path.iterdir())


@contextmanager
def short_files(most: int) -> Iterator[None]:
    """Files cannot grow beyond so many bytes: the system's error is of the kind of a full disk's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_input_that_does_not_fit_in_scratch_names_place_and_remedy(tmp_path: Path) -> None:
    flow = np.random.default_rng(0).random((3, 64, 64, 64), np.float32)
    labels = topo_dask.postprocess_single(da.from_array(flow[0] < 2), da.from_array(flow), scratch=str(tmp_path))
    match = rf"flow cannot be written to scratch, \S*{tmp_path}\S*, of up to 0.0029 GiB: File too large; pass scratch="
    with short_files(1 << 18), pytest.raises(OSError, match=match) as caught:
        labels.compute()
    assert caught.value.errno == errno.EFBIG
    with pytest.raises(FileNotFoundError, match="sem_mask cannot be written to scratch, /proc/none"):
        topo_dask.postprocess_single(da.from_array(flow[0] < 2), da.from_array(flow), scratch="/proc/none").compute()


def test_a_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    with short_files(1 << 10), pytest.raises(OSError, match=f"File too large: '{tmp_path}/one'"):
        LocalFolder(str(tmp_path)).write("one", [bytes(1 << 20)])
    assert not list(tmp_path.iterdir())


def test_scratch_is_at_home_or_where_dask_keeps_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    labels = da.ones((2, 3, 4), dtype=np.int32)
    with dask.config.set({"temporary-directory": str(tmp_path / "temporary")}):
        found = [topo_dask.compact_relabel(labels), topo_dask.compact_relabel(labels, scratch="~/own")]
    for lazy, place in zip(found, ("temporary", "home/own"), strict=True):
        assert lazy.compute().max() == 1
        assert len(list((tmp_path / place).glob("topo_dask-*"))) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"temporary", "home"}


def test_scratch_of_an_array_that_was_sent_elsewhere_stays(tmp_path: Path) -> None:
    lazy, labels = in_columns(lambda block: block, tmp_path)
    with dask.config.set(scheduler="synchronous"):
        lazy.blocks[0, 0, 0].compute()
        sent = cloudpickle.dumps(lazy)
        del lazy
        gc.collect()
        assert len(list(tmp_path.glob("*/channel0/track/*"))) == 4
        np.testing.assert_array_equal(cloudpickle.loads(sent).compute(), labels)
        assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(boot_id() is None, reason="this machine does not tell when it was booted")
def test_scratch_that_may_be_in_use_is_not_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def folder(machine: str) -> Path:
        with subprocess.Popen([sys.executable, "-c", ""]) as ended:
            pass
        place = tmp_path / f"topo_dask-{machine}-{ended.pid}-{'0' * 32}"
        place.mkdir()
        return place

    places = [folder(leases._machine())]
    with monkeypatch.context() as other:
        other.setattr(leases, "boot_id", lambda: "of another machine of the same name")
        places.append(folder(leases._machine()))
    with monkeypatch.context() as other:
        other.setattr(os, "getuid", lambda: -1)  # whose processes may be hidden from us
        leases._sweep.__wrapped__(str(tmp_path))
    with monkeypatch.context() as other:
        other.setattr(leases, "boot_id", lambda: None)
        leases._sweep.__wrapped__(str(tmp_path))
    assert [place.exists() for place in places] == [True, True]
    gone = folder(leases._machine())
    gone.rmdir()
    with monkeypatch.context() as first, os.scandir(tmp_path) as entries:  # another process is faster
        listed = [SimpleNamespace(name=gone.name, path=str(gone), stat=lambda **_: os.lstat(gone)), *entries]
        real = os.scandir
        first.setattr(os, "scandir", lambda place: nullcontext(listed) if place == str(tmp_path) else real(place))
        leases._sweep.__wrapped__(str(tmp_path))
    assert [place.exists() for place in places] == [False, True]


@pytest.mark.timeout(20)
def test_the_root_of_the_file_system_is_a_place_for_scratch() -> None:
    assert re.fullmatch("/topo_dask-[^/]+", leases.open_scratch("/").url)


def test_an_error_of_an_object_store_keeps_its_type() -> None:
    with pytest.raises(PermissionError, match="Forbidden") as caught, _naming_the_place("flow", 1, "s3://b"):
        raise PermissionError("Forbidden")
    assert caught.value.__notes__ == ["flow was being written to scratch, s3://b"]


@pytest.mark.skipif(boot_id() is None, reason="this machine does not tell when it was booted")
def test_scratch_of_killed_processes_goes_and_that_of_others_stays(tmp_path: Path) -> None:
    script = """
import os, signal, sys, dask.array as da, topo_dask
lazy = topo_dask.compact_relabel(da.ones((2, 3, 4), dtype="i4"), scratch=sys.argv[1])
lazy.compute(scheduler="synchronous")
print("ready", flush=True)
input()
"""
    (tmp_path / "topo_dask-notes").mkdir()
    command = [sys.executable, "-c", script, str(tmp_path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    folders = [tmp_path / "topo_dask-notes"]
    with subprocess.Popen(command, **pipes) as killed, subprocess.Popen(command, **pipes) as alive:
        for process in (killed, alive):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            folders.extend(tmp_path.glob(f"topo_dask-*-{process.pid}-*"))
        killed.kill()
        killed.wait()
        lazy = topo_dask.compact_relabel(da.ones((2, 3, 4), dtype="i4"), scratch=str(tmp_path))
        assert [folder.exists() for folder in folders] == [True, False, True]
        assert lazy.compute().max() == 1
        alive.communicate("\n")
    assert [folder.exists() for folder in folders] == [True, False, False]


def test_building_computes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mask, flow = blobs()
    lazy_mask = da.from_array(mask, chunks=9).map_blocks(deny, dtype=bool, meta=np.empty((0, 0, 0), bool))
    monkeypatch.setattr(dask, "compute", deny)
    monkeypatch.setattr("topo_dask.lazy.prepared.run", deny)
    topo_dask.postprocess_single(lazy_mask, da.from_array(flow))
    topo_dask.track_flows(lazy_mask, da.from_array(flow), 5)
    topo_dask.run_instance_segmentation(lazy_mask[None].astype(float), da.from_array(flow), ["x"], {"x": {"group": 1}})


def test_global_stages_run_once_and_blocks_on_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    mask, flow = blobs()
    stages: list[str] = []
    lookups: list[tuple] = []

    def counting(job: Any, some_stages: Any, *rest: Any) -> None:
        for stage in some_stages:
            stages.extend(stage.name for _ in stage.keys_left(job))
        run(job, some_stages, *rest)

    real = topo_dask.lazy.labels.final_labels
    monkeypatch.setattr("topo_dask.lazy.prepared.run", counting)
    monkeypatch.setattr(
        "topo_dask.lazy.labels.final_labels", lambda job, key, *a: lookups.append(key) or real(job, key, *a)
    )
    with dask.config.set(scheduler="synchronous"):
        lazy = topo_dask.postprocess_single(da.from_array(mask), da.from_array(flow), block_shape=(10, 10, 10))
        lazy.blocks[1, 1, 1].compute()
        assert stages.count("link") == 1
        assert stages.count("track") == 18
        assert lookups == ["1.1.1"]
        n = len(stages)
        lazy.blocks[0, 0, 0].compute()
    assert stages.count("link") == 1
    assert len(stages) <= n + 3  # stages not begun when the first look was taken
    assert lookups == ["1.1.1", "0.0.0"]


def test_a_block_is_read_once_for_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    mask, flow = blobs()
    seen: list[str] = []
    real = track_stage.end_points
    monkeypatch.setattr(track_stage, "end_points", lambda job, block, m: seen.append(block.key) or real(job, block, m))
    with dask.config.set(scheduler="synchronous"):
        topo_dask.postprocess_single(da.from_array(mask), da.from_array(flow), block_shape=(10, 10, 10)).compute()
    assert len(seen) == len(set(seen))


def columns(n: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mask and flow of objects of 8 voxels side by side along x, and their labels."""
    mask = np.ones((2, 8, 8 * n), bool)
    flow = np.zeros((3, *mask.shape), np.float32)
    _, y, x = np.mgrid[:2, :8, : 8 * n]
    flow[1], flow[2] = np.sign(3 - y) / 2, np.sign(3 - x % 8) / 2
    return mask, flow, topo_dask.postprocess_single(mask, flow, min_size=1)


def in_columns(block: Callable[[np.ndarray], np.ndarray], scratch: Path, **more: Any) -> tuple[Any, np.ndarray]:
    """The lazy labels of `columns`, whose flow passes through a function, and what they should be."""
    mask, flow, labels = columns()
    deferred = da.from_array(flow, chunks=(3, 2, 8, 8)).map_blocks(block, dtype=flow.dtype, meta=flow[:, :0, :0, :0])
    arguments = {"min_size": 1, "block_shape": (2, 8, 8), "scratch": str(scratch)} | more
    assert len(np.unique(labels)) == 4
    return topo_dask.postprocess_single(da.from_array(mask, chunks=(2, 8, 8)), deferred, **arguments), labels


@pytest.mark.parametrize("locked", [True, False], ids=["threads", "as processes"])
def test_two_may_compute_at_once(locked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second_writes, first_is_done = threading.Event(), threading.Event()
    seen: list[int] = []
    found = {}

    def network(block: np.ndarray) -> np.ndarray:
        seen.append(threading.get_ident())
        if len(seen) == 3:  # the first has written some chunks
            second.start()
            second_writes.wait(1 if locked else 20)
        elif seen[-1] != seen[0] and not second_writes.is_set():
            second_writes.set()
            first_is_done.wait(20)
        return block

    def compute(part: Any, name: str) -> None:
        found[name] = part.compute()

    monkeypatch.setattr("topo_dask.lazy.spilled.SPILL_CHUNK", 8)
    if not locked:
        monkeypatch.setattr("dask.utils.SerializableLock", lambda token: nullcontext())
    with dask.config.set(scheduler="synchronous"):
        lazy, labels = in_columns(network, tmp_path)
        second = threading.Thread(target=compute, args=(lazy[..., :16], "second"))
        try:
            compute(lazy[..., 16:], "first")
        finally:
            first_is_done.set()
            second.join()
        compute(lazy, "later")
    assert len(seen) == (4 if locked else 8)
    np.testing.assert_array_equal(found["first"], labels[..., 16:])
    np.testing.assert_array_equal(found["second"], labels[..., :16])
    np.testing.assert_array_equal(found["later"], labels)


def flip(chunk: Path) -> None:
    """Change the last byte of what was written, which the checksum follows."""
    data = bytearray(chunk.read_bytes())
    data[-5] ^= 1
    chunk.write_bytes(data)


@pytest.mark.parametrize(("harm", "named"), [(Path.unlink, "missing"), (flip, "damaged")])
@pytest.mark.parametrize("lost", ["sem_mask", "flow"])
def test_a_lost_or_damaged_chunk_of_a_spilled_input_is_an_error(
    lost: str, harm: Callable[[Path], None], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losing(carrier: Any, scratch: Any) -> Any:
        arrays = spill(carrier, scratch)
        for chunk in tmp_path.glob(f"*/inputs/{lost}-*/c/**/2"):
            harm(chunk)
        return arrays

    monkeypatch.setattr("topo_dask.lazy.spilled.SPILL_CHUNK", 8)
    monkeypatch.setattr("topo_dask.lazy.calls.spill", losing)
    lazy, _ = in_columns(lambda block: block, tmp_path)
    remedy = ".*make the lazy array anew, with scratch=<" if named == "missing" else ""
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(OSError, match=f"{lost}, spilled to scratch .*{named}{remedy}"),
    ):
        lazy.compute()


def test_a_spilled_input_that_was_removed_is_an_error(tmp_path: Path) -> None:
    lazy, _ = in_columns(lambda block: block, tmp_path)
    with dask.config.set(scheduler="synchronous"):
        lazy[:, :, :8].compute()
        (folder,) = tmp_path.glob("*/inputs/flow-*")
        shutil.rmtree(folder)
        with pytest.raises(OSError, match=f"flow was spilled to inputs/{folder.name}, which is missing .*scratch=<"):
            lazy.compute()


def test_a_bundle_that_is_lost_between_stages_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def losing(job: Any, stages: Any, executor: Any) -> None:
        run(job, stages, executor)
        if stages[0].name == "track":  # faces that are not there are those of a block without foreground
            for bundle in tmp_path.glob("*/channel0/numbers.faces/0.0.1"):
                bundle.unlink()

    monkeypatch.setattr("topo_dask.lazy.prepared.run", losing)
    with dask.config.set(scheduler="synchronous"):
        lazy, _ = in_columns(lambda block: block, tmp_path, merge="adjacent")
        for _ in range(2):  # nor is it forgotten
            with pytest.raises(OSError, match=r"bundle numbers\.faces/0\.0\.1 is lost.*scratch=<"):
                lazy.compute()


def test_a_bundle_that_was_lost_is_an_error(tmp_path: Path) -> None:
    lazy, labels = in_columns(lambda block: block, tmp_path)
    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_array_equal(lazy.compute(), labels)
        for path in tmp_path.glob("*/channel0/numbers*/0.0.2"):
            path.unlink()
        with pytest.raises(OSError, match=r"bundle numbers/0\.0\.2 is lost in scratch .*scratch=<"):
            lazy.compute()


def test_a_stage_that_is_done_but_not_on_record_is_put_there(tmp_path: Path) -> None:
    # As where a worker was lost in between: whether an empty listing is to be believed is told by the record alone.
    lazy, labels = in_columns(lambda block: block, tmp_path, group=2)
    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_array_equal(lazy.compute(), labels)
        (record,) = tmp_path.glob("*/channel0/filed/split")
        record.unlink()
        np.testing.assert_array_equal(lazy.compute(), labels)
    assert record.exists()


def test_a_bundle_that_was_damaged_is_an_error(tmp_path: Path) -> None:
    def damaging(job: Any, stages: Any, executor: Any) -> None:
        for bundle in tmp_path.glob("*/channel0/track/0.0.1") if stages[0].name == "link" else ():
            bundle.write_bytes(bundle.read_bytes()[:-1])
        run(job, stages, executor)

    lazy, _ = in_columns(lambda block: block, tmp_path)
    with dask.config.set(scheduler="synchronous"):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("topo_dask.lazy.prepared.run", damaging)
            with pytest.raises(
                OSError, match=r"stage 'link': bundle .*/0\.0\.1 is damaged in scratch .*anew"
            ) as caught:
                lazy.compute()
        assert "resume" not in str(caught.value)
        lazy, labels = in_columns(lambda block: block, tmp_path)
        np.testing.assert_array_equal(lazy.compute(), labels)
        for bundle in tmp_path.glob("*/channel0/numbers/*"):
            bundle.write_bytes(bundle.read_bytes()[:-1])
        with pytest.raises(OSError, match=r"block 0\.0\.\d: bundle .* is damaged in scratch .*anew") as caught:
            lazy.compute()
        assert "resume" not in str(caught.value)


def test_losses_that_leave_no_gap_on_record_are_errors(tmp_path: Path) -> None:
    mask, flow = blobs()
    mask &= np.random.default_rng(0).random(mask.shape) < 0.5  # small fragments
    arrays = da.from_array(mask), da.from_array(flow)
    ways = {"scratch": str(tmp_path), "block_shape": (10, 10, 10)}
    labels = topo_dask.postprocess_single(*arrays, n_steps=20, group=2, min_size=1, **ways)
    ends = topo_dask.track_flows(*arrays, 5, **ways)[1]
    for result, lost in ((labels, ("split.small", "absorb")), (ends, ("ends",))):
        result.compute()
        for kind in lost:
            min(tmp_path.glob(f"*/channel0/{kind}/*")).unlink()
        with pytest.raises(OSError, match=rf"bundle {lost[0]}/.* is lost in scratch .*scratch=<"):
            result.compute()


def test_blocks_out_of_reach_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(*arguments: Any) -> Any:
        prepared = prepare(*arguments)
        shutil.rmtree(prepared.job.scratch.url)  # as a worker of another machine sees it
        return prepared

    monkeypatch.setattr("topo_dask.lazy.jobs.prepare", elsewhere)
    mask, flow, _ = columns()
    with dask.config.set(scheduler="synchronous"):
        with pytest.raises(OSError, match=r"block 0\.0\.\d: .* is missing in scratch .*scratch=<") as caught:
            in_columns(lambda block: block, tmp_path)[0].compute()
        assert "resume" not in str(caught.value)  # which lazy arrays cannot
        with pytest.raises(OSError, match=r"layer 0 of blocks: .* is missing in scratch .*scratch=<"):
            topo_dask.track_flows(da.from_array(mask), da.from_array(flow), 5, scratch=str(tmp_path))[0].compute()


@pytest.mark.parametrize(
    ("does_nothing", "match"), [("prepared.run", "stage 'track', block 0"), ("rows.sort_rows", "chunk 0 of fg_")]
)
def test_tasks_that_filed_elsewhere_are_an_error(
    does_nothing: str, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"topo_dask.lazy.{does_nothing}", lambda *_: None)
    rows = np.argwhere(np.ones((2, 3, 4)))
    lazy, _ = in_columns(lambda block: block, tmp_path)
    if does_nothing == "rows.sort_rows":
        lazy = topo_dask.cluster_convergence(da.from_array(rows), da.from_array(rows * 1.0), (2, 3, 4))
    with dask.config.set(scheduler="synchronous"), pytest.raises(OSError, match=f"{match}.*no record in scratch"):
        lazy.compute()
