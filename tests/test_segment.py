"""From zarr to zarr: the bits of memory, whatever the storage, the scheduler, and how often the run was interrupted."""

import csv
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import hypothesis
import naive
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import FsspecStore, LoggingStore, MemoryStore

import topo_dask
from topo_dask import cluster as cluster_module
from topo_dask import placing, recorded_run, segment_volume
from topo_dask import plan as plan_module
from topo_dask import segment as segment_module
from topo_dask.admission import plan_volume
from topo_dask.blocks.geometry import BlockGrid
from topo_dask.config import ClassConfig
from topo_dask.execute import configured_scheduler
from topo_dask.stages import stage as stage_module
from topo_dask.stages.job import Job
from topo_dask.stages.stage import EVERY, Stage
from topo_dask.stores import ledger
from topo_dask.stores.marks import read_marks
from topo_dask.stores.outputs import OutputSpec, check_output
from topo_dask.stores.scratch import FileScratch
from topo_dask.workers import resources

SHAPE = (17, 26, 23)
CONFIG: dict[str, dict[str, Any]] = {
    "round": {"group": 1, "n_steps": 30, "convergence_radius": 3.0, "min_size": 8},
    "long": {"group": 2, "n_steps": 12, "convergence_radius": 1.5, "min_size": 5, "merge": "adjacent"},
    "thin": {"group": 3, "n_steps": 30, "convergence_radius": 1.5, "min_size": 9, "merge": "agglomerate"},
}
ALL_STAGES = {"group": 3, "n_steps": 9, "convergence_radius": 1.5, "min_size": 9, "merge": "adjacent"}
BLOCK = (9, 13, 12)


def predict(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and flows of n classes: a few touching balls each, the flow to their middles, and noise."""
    rng = np.random.default_rng(seed)
    semantic, flow = np.zeros((n, *SHAPE), np.float32), rng.normal(0, 0.25, (3 * n, *SHAPE)).astype(np.float32)
    grid = np.indices(SHAPE)
    for c in range(n):
        centres = rng.uniform(0, SHAPE, (7, 3))
        ways = centres[:, :, None, None, None] - grid
        length = np.sqrt((ways**2).sum(axis=1))
        nearest = length.argmin(axis=0)
        way = np.take_along_axis(ways, nearest[None, None], axis=0)[0]
        flow[3 * c : 3 * c + 3] += way / np.maximum(length.min(axis=0), 1)
        semantic[c] = np.where(length.min(axis=0) < 4.5, 0.9, rng.random(SHAPE) * 0.505)  # with specks
    semantic[:, :9, :13] = 0  # blocks of which nothing is foreground
    return semantic, flow


SEMANTIC, FLOW = predict(len(CONFIG))


def in_memory(semantic: np.ndarray, flow: np.ndarray, config: dict[str, Any] = CONFIG, **more: Any) -> dict[str, Any]:
    return topo_dask.run_instance_segmentation(semantic, flow, list(config), config, **more)


def same(found: Any, expected: Any) -> None:
    assert list(found) == list(expected)
    for name, labels in expected.items():
        assert labels.max() >= 2
        assert found[name].dtype == np.int32
        np.testing.assert_array_equal(found[name][:], labels)


def store(folder: Path, semantic: np.ndarray, flow: np.ndarray, **how: Any) -> tuple[str, str]:
    """Paths of the two arrays, in chunks that do not divide the volume."""
    for name, array in (("semantic", semantic), ("flow", flow)):
        zarr.create_array(folder / name, data=array, chunks=(2, 7, 11, 16), **how)
    return str(folder / "semantic"), str(folder / "flow")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True, scope="module")
def _pyramids_of_three_levels() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placing, "COARSEST", 9)
        yield


def stored_labels(output: Any, names: Any, level: int = 0) -> dict[str, Any]:
    """Arrays of one level of the labels of each class."""
    group = zarr.open_group(output, mode="r")
    return {name: group[f"labels/{name}/{level}"] for name in names}


def same_pyramids(output: Path, expected: dict[str, np.ndarray]) -> None:
    """All levels follow from the labels in memory."""
    for level in range(3):
        same(stored_labels(output, expected, level), expected)
        expected = {name: naive.downsample_labels(labels, (2, 2, 2)) for name, labels in expected.items()}
    assert not any("3" in zarr.open_group(output / "labels" / name, mode="r") for name in expected)


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[str, str]:
    return store(tmp_path, SEMANTIC, FLOW)


def settings(config: dict[str, Any] = CONFIG, **more: Any) -> dict[str, Any]:
    return {"class_names": list(config), "class_config": config, "block_shape": BLOCK, "progress": False, **more}


# ------------------------------------------------------------ storage


@pytest.mark.parametrize(
    ("zarr_format", "flow_dtype", "semantic_dtype", "halo"),
    [
        (3, "float32", "float32", None),
        (2, "float64", "bool", 0),
        (3, "float16", "uint8", (0, 3, 100)),
        (2, "int8", "float64", 1),
        (2, ">f4", ">f4", 2),
        (3, ">f8", "float16", 2),
    ],
)
def test_storage_does_not_matter(
    tmp_path: Path, zarr_format: Any, flow_dtype: str, semantic_dtype: str, halo: Any
) -> None:
    is_real = np.dtype(semantic_dtype).kind == "f"
    semantic = (SEMANTIC if is_real else SEMANTIC > 0.5).astype(semantic_dtype)
    flow = (np.rint(2 * FLOW) if flow_dtype == "int8" else FLOW).astype(flow_dtype)
    paths = store(tmp_path, semantic, flow, zarr_format=zarr_format)
    limit = 0.85 if flow_dtype == "int8" else 0.15
    with dask.config.set(scheduler="synchronous"):
        found = segment_volume(*paths, tmp_path / "out", **settings(halo=halo), flow_error_threshold=limit)
    expected = in_memory(semantic, flow, flow_error_threshold=limit)
    assert any((in_memory(semantic, flow)[name] != expected[name]).any() for name in expected)
    same(found, expected)
    same_pyramids(tmp_path / "out", expected)


def test_shards_and_arrays_that_are_open(tmp_path: Path) -> None:
    semantic = zarr.create_array({}, data=SEMANTIC, chunks=(1, 4, 4, 4), shards=(1, 8, 8, 8))
    flow = zarr.create_array(tmp_path / "flow", data=FLOW, chunks=(3, 5, 5, 5), shards=(9, 10, 10, 10))
    same(segment_volume(semantic, flow, tmp_path / "out", **settings()), in_memory(SEMANTIC, FLOW))


@pytest.mark.parametrize(("zarr_format", "ome_zarr"), [(2, None), (3, None), (2, "0.4"), (3, "0.5")])
def test_a_group_takes_the_labels(tmp_path: Path, inputs: Any, zarr_format: Any, ome_zarr: Any) -> None:
    group = zarr.open_group(tmp_path / "out", mode="w", zarr_format=zarr_format).create_group("inner")
    other = group.create_array("other", data=np.arange(3))
    expected = in_memory(SEMANTIC, FLOW)
    same(segment_volume(*inputs, group, **settings(ome_zarr=ome_zarr)), expected)
    np.testing.assert_array_equal(other[:], np.arange(3))
    place = "long" if ome_zarr is None else "labels/long"
    assert group[place].metadata.zarr_format == zarr_format
    assert set(group) == {"other", *(expected if ome_zarr is None else {"labels"})}
    assert (tmp_path / "out" / "inner.tables" / "long.csv").exists()
    in_process = zarr.open_group({}, mode="w", zarr_format=zarr_format)
    same(segment_volume(*inputs, in_process, **settings(scratch=tmp_path / "s", ome_zarr=ome_zarr)), expected)


@pytest.mark.parametrize("layout", [{"chunks": (3, 13, 6)}, {"chunks": (3, 13, 4), "shards": (9, 13, 12)}])
def test_an_array_takes_the_labels_of_one_class(tmp_path: Path, inputs: Any, layout: dict[str, Any]) -> None:
    config = {"round": CONFIG["round"]}
    one = store_one_class(tmp_path)
    expected = in_memory(SEMANTIC[:1], FLOW[:3], config)
    for where in (tmp_path / "out", {}):
        array = zarr.create_array(where, shape=SHAPE, dtype="int32", fill_value=0, **layout)
        more = {"scratch": tmp_path / "s"} if isinstance(where, dict) else {}
        found = segment_volume(*one, array, **settings(config, **more))
        assert found["round"] is array
        same(found, expected)
        array[:] = 7  # blocks without foreground too
        with pytest.raises(FileExistsError, match="not empty"):
            segment_volume(*one, array, **settings(config, **more))
        assert (array[:] == 7).all()
        same(segment_volume(*one, array, **settings(config, **more), overwrite=True), expected)


def store_one_class(folder: Path) -> tuple[str, str]:
    (folder / "one").mkdir()
    return store(folder / "one", SEMANTIC[:1], FLOW[:3])


def test_a_limit_above_that_of_the_workers_is_refused(tmp_path: Path, inputs: Any) -> None:
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options, memory_limit="2GiB") as cluster, Client(cluster):
        with pytest.raises(ValueError, match=r"memory_limit is 3.00 GiB, but Dask ends a worker .* more than 2.00 GiB"):
            segment_volume(*inputs, tmp_path / "labels.zarr", **settings(memory_limit="3GiB"))
        assert not list(tmp_path.glob("labels*"))
        assert resources("2GiB").memory == resources(None).memory == 2 << 30


def test_default_blocks_and_memory_limit(tmp_path: Path, inputs: Any) -> None:
    for i, more in enumerate(({}, {"memory_limit": "600MiB"}, {"memory_limit": np.int64(600 << 20)})):
        found = segment_volume(*inputs, tmp_path / f"out{i}", **settings(block_shape=None, **more))
        same(found, in_memory(SEMANTIC, FLOW))


@pytest.mark.parametrize("fails", [False, True])
def test_freed_memory_is_kept_by_what_tasks_may_take_and_given_back(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(stage_module, "keep_freed_memory", told.append)
    monkeypatch.setattr(segment_module, "give_back_freed_memory", lambda: told.append("back"))
    inputs = store(tmp_path, SEMANTIC, np.full_like(FLOW, np.nan) if fails else FLOW)
    allowed = plan_volume(*inputs, class_names=[*CONFIG], class_config=CONFIG, memory_limit="2GiB").global_mem
    with pytest.raises(ValueError, match="not finite") if fails else nullcontext():
        segment_volume(*inputs, tmp_path / "labels.zarr", **settings(memory_limit="2GiB"))
    assert told[-1] == "back"
    assert set(told[:-1]) == {allowed}


@pytest.mark.filterwarnings("ignore:chunks of the .* decoded up to .* times")
@pytest.mark.parametrize(
    ("block_shape", "chunks"),
    [
        ((64, 100, 128), (64, 100, 128)),
        ((131, 254, 256), (131, 127, 128)),
        ((300, 129, 1), (100, 43, 1)),
        ((2**31 - 1, 10**9, 999), (128, 128, 128)),
    ],
)
def test_chunks_divide_the_block(block_shape: Any, chunks: Any) -> None:
    semantic, flow = (
        zarr.create_array({}, shape=(n, 700, 700, 700), chunks=(n, 64, 64, 64), dtype="f4") for n in (1, 3)
    )
    names = {"class_names": ["a"], "class_config": {"a": {}}}
    plan = plan_volume(semantic, flow, **names, block_shape=block_shape, memory_limit="1 TB")
    assert plan.chunks == chunks


def test_volumes_without_voxels_or_foreground(tmp_path: Path) -> None:
    for i, shape in enumerate([(0, 4, 4), (4, 0, 4), (5, 6, 7)]):
        semantic, flow = (zarr.create_array({}, shape=(n, *shape), dtype="f4") for n in (3, 9))
        found = segment_volume(semantic, flow, tmp_path / f"out{i}", **settings(), flow_error_threshold=0.1)
        assert {name: labels.shape for name, labels in found.items()} == dict.fromkeys(CONFIG, shape)
        assert not any(labels[:].any() for labels in found.values())
        assert (tmp_path / f"out{i}.tables" / "round.csv").read_text().count("\n") == 1


def test_classes_without_parameters_are_skipped(tmp_path: Path, inputs: Any) -> None:
    config = {"thin": CONFIG["thin"]}
    with pytest.warns(UserWarning, match="is skipped: no parameters are given for it"):
        found = segment_volume(*inputs, tmp_path / "out", **{**settings(config), "class_names": list(CONFIG)})
    same(found, {"thin": in_memory(SEMANTIC, FLOW)["thin"]})
    assert list(zarr.open_group(tmp_path / "out" / "labels", mode="r")) == ["thin"]


# ------------------------------------------------------------ schedulers


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster:
        yield cluster


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_local_schedulers_give_the_same_bits(scheduler: str, tmp_path: Path, inputs: Any) -> None:
    with dask.config.set(scheduler=scheduler, num_workers=2):
        same(segment_volume(*inputs, tmp_path / "out", **settings()), in_memory(SEMANTIC, FLOW))


def check_with_client(tmp_path: Path, inputs: Any) -> None:
    """Everything, with the active client."""
    expected = in_memory(SEMANTIC, FLOW)
    same(segment_volume(*inputs, tmp_path / "out", **settings()), expected)
    assert not (tmp_path / "out.scratch").exists()
    stored = [zarr.open_array(path, mode="r") for path in inputs]
    given = [da.from_array(array, chunks=(1, 6, 9, 10)) for array in (SEMANTIC, FLOW)]
    for arrays in (stored, given):
        lazy = topo_dask.run_instance_segmentation(
            *arrays, list(CONFIG), CONFIG, block_shape=BLOCK, scratch=str(tmp_path / "lazy")
        )
        same(dict(zip(lazy, dask.compute(*lazy.values()), strict=True)), expected)
    coords, ends = topo_dask.track_flows(given[0][0] > 0.5, given[1][:3], 30, block_shape=BLOCK)
    labels = topo_dask.cluster_convergence(coords, ends, SHAPE, 3.0, 8, block_shape=BLOCK)
    np.testing.assert_array_equal(labels.compute(), expected["round"])


def test_a_cluster_gives_the_same_bits(cluster: LocalCluster, tmp_path: Path, inputs: Any) -> None:
    with Client(cluster):
        check_with_client(tmp_path, inputs)


def test_classes_are_computed_at_once_in_the_threads_of_one_worker(tmp_path: Path, inputs: Any) -> None:
    stored = [zarr.open_array(path, mode="r") for path in inputs]
    # A process of its own: in this one, tasks find a client that is running already.
    options: dict[str, Any] = {"n_workers": 1, "threads_per_worker": len(CONFIG), "dashboard_address": ":0"}
    with LocalCluster(**options, processes=True) as cluster, Client(cluster):
        lazy = topo_dask.run_instance_segmentation(*stored, list(CONFIG), CONFIG, block_shape=BLOCK)
        labels = dict(zip(lazy, dask.compute(*lazy.values()), strict=True))
    same(labels, in_memory(SEMANTIC, FLOW))


def test_small_blocks_are_done_several_at_a_time(cluster: LocalCluster, tmp_path: Path, inputs: Any) -> None:
    done: dict[tuple[str, str], int] = {}

    class Count:
        def begin(self, job: Job, stage: Stage, n: int) -> Callable[[], None]:
            left = done[job.name, stage.name] = n

            def tick() -> None:
                nonlocal left
                left -= 1
                done[job.name, stage.name] = left

            return tick

    with Client(cluster):
        labels = segment_volume(*inputs, tmp_path / "out", **settings(block_shape=(5, 7, 6), progress=Count()))
    same(labels, in_memory(SEMANTIC, FLOW))
    assert set(done.values()) == {0}


@hypothesis.settings(deadline=None)
@given(n=st.integers(0, 300), edge=st.integers(1, 400), threads=st.integers(1, 9))
def test_batches_of_tasks_are_all_tasks_in_order_and_end_in_short_ones(n: int, edge: int, threads: int) -> None:
    keys = [f"0.0.{i}" for i in range(n)]
    stage = Stage("track", lambda job, key: None, EVERY)
    job = Job("x", BlockGrid((edge,) * 3, (edge,) * 3), ClassConfig())
    runs = list(cluster_module._batches_of(keys, stage, job, threads))
    assert [key for run in runs for key in run] == keys
    assert all(len(run) * edge**3 <= cluster_module._VOXELS or len(run) == 1 for run in runs)
    assert all(len(run) == 1 for run in runs[-threads:])
    assert all(len(run).bit_count() == 1 for run in runs)


def test_lazy_arrays_are_refused_scratch_that_workers_do_not_share(cluster: LocalCluster, inputs: Any) -> None:
    mask, flow = SEMANTIC[0] > 0.5, FLOW[:3]
    options = {"block_shape": BLOCK, "scratch": "memory://scratch"}
    stored = [zarr.open_array(path, mode="r") for path in inputs]
    rows = [da.from_array(np.argwhere(mask).astype(dtype)) for dtype in (int, float)]
    for lazy in (
        topo_dask.postprocess_single(da.from_array(mask), da.from_array(flow), **options),
        topo_dask.run_instance_segmentation(*stored, list(CONFIG), CONFIG, **options)["round"],
        topo_dask.cluster_convergence(*rows, SHAPE, **options),
    ):
        with Client(cluster), pytest.raises(OSError, match=r"reached by 1 workers.*scratch=<a path or URL that all"):
            lazy.compute()


def test_a_cluster_in_this_process_gives_the_same_bits(tmp_path: Path, inputs: Any) -> None:
    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0"):
        check_with_client(tmp_path, inputs)


def _run_in_task(inputs: tuple[str, str], output: str) -> dict[str, np.ndarray]:
    return {name: labels[:] for name, labels in segment_volume(*inputs, output, **settings()).items()}


def test_a_run_inside_a_task_of_a_cluster(tmp_path: Path, inputs: Any) -> None:
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0") as client:
        found = client.submit(_run_in_task, inputs, str(tmp_path / "out")).result()
    same(found, in_memory(SEMANTIC, FLOW))


def test_memory_of_this_process_is_no_output_for_other_processes(
    cluster: LocalCluster, tmp_path: Path, inputs: Any
) -> None:
    group, match = zarr.open_group({}, mode="w"), "memory of this process"
    with Client(cluster), pytest.raises(ValueError, match=match):
        segment_volume(*inputs, group, **settings(scratch=tmp_path / "s"))
    with ProcessPoolExecutor(1) as pool:
        for configured in {"scheduler": "processes"}, {"scheduler": pool}, {"pool": pool}:
            with dask.config.set(configured), pytest.raises(ValueError, match=match):
                segment_volume(*inputs, group, **settings(scratch=tmp_path / "s"))
    assert list(group) == []
    wrapped = zarr.open_group(LoggingStore(LoggingStore(MemoryStore(), "ERROR"), "ERROR"), mode="w")
    with dask.config.set(scheduler="processes"), pytest.raises(ValueError, match=match):
        segment_volume(*inputs, wrapped, **settings(scratch=tmp_path / "s"))


@contextmanager
def blind(client: Client, name: str, answer: str = "False") -> Iterator[None]:
    """Workers on which a function says that nothing is there, where it is defined and where workers ask each other."""
    modules = "import topo_dask.workers as here, topo_dask.stores.inputs as there"
    asked = f"here.kept, there.{name} = here.{name}, lambda *asked: {answer}"
    client.run(exec, f"{modules}; {asked}; here.{name} = there.{name}")
    try:
        yield
    finally:
        client.run(exec, f"{modules}; here.{name} = there.{name} = here.kept")


@pytest.mark.parametrize(
    ("name", "what"), [("sees", "semantic.* path or URL"), ("_probe", "scratch .* pass scratch=.* path or URL")]
)
def test_what_workers_do_not_see_is_refused(
    cluster: LocalCluster, tmp_path: Path, inputs: Any, name: str, what: str
) -> None:
    one = (
        zarr.create_array(tmp_path / "one/mask", data=SEMANTIC[:1]),
        zarr.create_array(tmp_path / "one/flow", data=FLOW[:3]),
    )
    with Client(cluster) as client, blind(client, name):
        with pytest.raises(OSError, match=f"{what} that all workers share"):
            segment_volume(*inputs, tmp_path / "out", **settings())
        lazy = topo_dask.run_instance_segmentation(*one, ["round"], CONFIG, scratch=str(tmp_path / "s"))
        with pytest.raises(OSError, match=f"{what} that all workers share"):
            lazy["round"].compute()


@pytest.mark.parametrize("kind", ["path", "link", "array"])
def test_old_labels_stay_where_workers_do_not_see_the_output(
    monkeypatch: pytest.MonkeyPatch, cluster: LocalCluster, tmp_path: Path, kind: str
) -> None:
    paths, config = store_one_class(tmp_path), {"round": CONFIG["round"]}
    arguments = settings(config, scratch=tmp_path / "scratch")
    for folder in ("disk", "near"):
        (tmp_path / folder).mkdir()
    (tmp_path / "near" / "link").symlink_to(tmp_path / "disk" / "out")
    output: Any = tmp_path / "near" / "link" if kind == "link" else tmp_path / "disk" / "out"
    if kind == "array":
        output = zarr.create_array(output, shape=SHAPE, chunks=BLOCK, dtype="int32")
    else:
        zarr.open_group(tmp_path / "disk" / "out")
    segment_volume(*paths, output, **arguments)
    before = snapshot(tmp_path)
    named = {"link": r"link/\.\./out"}.get(kind, "disk/out")  # links may lead elsewhere on other machines
    seen = f"not __import__('re').search(r'{named}\\.lock$', asked[0].url)"
    told = rf"output {tmp_path}/.* cannot be reached by 2 workers, .*: give a path or URL that all workers share"
    with Client(cluster) as client, blind(client, "_probe", seen), pytest.raises(OSError, match=told):
        segment_volume(*paths, output, **arguments, overwrite=True)
    assert snapshot(tmp_path) == before
    assert not list(tmp_path.rglob("*.lock"))


@pytest.mark.parametrize("what", ["array", "output", "scratch", "semantic"])
def test_the_file_system_in_memory_is_of_this_process(tmp_path: Path, what: str) -> None:
    url = f"memory://{tmp_path}/{what}"
    semantic = zarr.create_array(f"{url}.semantic" if what == "semantic" else {}, data=SEMANTIC[:1])
    output: Any = url if what == "output" else tmp_path / "out"
    if what == "array":
        store = FsspecStore.from_url(url, storage_options={"asynchronous": True})
        output = zarr.create_array(store, shape=SHAPE, chunks=BLOCK, dtype="int32", fill_value=0)
    scratch = url if what == "scratch" else tmp_path / "s"
    refused = pytest.raises(ValueError, match=f"{'output' if what == 'array' else what} is in the memory of")
    flow, config = zarr.create_array({}, data=FLOW[:3]), {"round": CONFIG["round"]}
    with dask.config.set(scheduler="processes"), refused:
        segment_volume(semantic, flow, output, **settings(config, scratch=scratch))


def test_an_error_on_a_cluster_names_the_block_and_leaves_a_run_to_resume(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    flow = FLOW.copy()
    z, y, x = np.argwhere(SEMANTIC[0] > 0.5)[-1]
    flow[1, z, y, x] = np.nan
    paths = store(tmp_path, SEMANTIC, flow)
    with Client(cluster):
        with pytest.raises(ValueError, match=rf"not finite at voxel \({z}, {y}, {x}\)") as caught:
            segment_volume(*paths, tmp_path / "out", **settings())
        assert "class 'round', stage 'track', block" in caught.value.__notes__[0]
        zarr.open_array(paths[1], mode="r+")[1, z, y, x] = FLOW[1, z, y, x]
        same(segment_volume(*paths, tmp_path / "out", **settings(), resume=True), in_memory(SEMANTIC, FLOW))


# ------------------------------------------------------------ tables


def flow_error_of(where: np.ndarray, flow: np.ndarray) -> float:
    voxels = np.argwhere(where)
    way = voxels.mean(axis=0) - voxels
    unit = way / np.maximum(np.linalg.norm(way, axis=1), 1e-8)[:, None]
    return float(((unit - flow[:, where].T) ** 2).mean())


@pytest.mark.parametrize("flow_error_threshold", [0.0, 0.2])
def test_tables_of_instances(tmp_path: Path, inputs: Any, flow_error_threshold: float) -> None:
    found = segment_volume(*inputs, tmp_path / "out", **settings(), flow_error_threshold=flow_error_threshold)
    for c, (name, stored) in enumerate(found.items()):
        labels = stored[:]
        with open(tmp_path / "out.tables" / f"{name}.csv", newline="") as file:
            rows = [{column: float(value) for column, value in row.items()} for row in csv.DictReader(file)]
        assert [row["label"] for row in rows] == list(range(1, labels.max() + 1))
        for label, row in enumerate(rows, 1):
            voxels = np.argwhere(labels == label)
            expected = {"label": label, "voxels": len(voxels)}
            for side, corner in (("start", voxels.min(axis=0)), ("stop", voxels.max(axis=0) + 1)):
                expected |= {f"bbox_{side}_{axis}": value for axis, value in zip("zyx", corner, strict=True)}
            expected |= {f"centroid_{axis}": v for axis, v in zip("zyx", voxels.mean(axis=0), strict=True)}
            error = flow_error_of(labels == label, FLOW[3 * c : 3 * c + 3]) if flow_error_threshold else np.nan
            assert row == pytest.approx({**expected, "flow_error": error}, rel=1e-6, nan_ok=True)


# ------------------------------------------------------------ interrupted and resumed

TWO = {"round": CONFIG["round"], "all": ALL_STAGES}
RESUMABLE = [
    *("track", "link", "contacts", "unite", "fragments", "join", "split", "absorb", "survey", "orphans"),
    *("tabulate", "errors", "drop", "relabel", "downsample.1", "downsample.2"),
]


FUNCTIONS = {
    "contacts": "count_contacts",
    "fragments": "number_fragments",
    "orphans": "recover_orphans",
    "errors": "measure_errors",
}


class StopHereError(Exception):
    pass


Tasks = list[tuple[str, str, str]]


def count_tasks(patch: pytest.MonkeyPatch) -> tuple[Tasks, Tasks]:
    """Lists that will hold the tasks that are begun and those that end well: class, stage, key."""
    begun: Tasks = []
    ended: Tasks = []
    real = Stage.run

    def run(self: Stage, job: Any, key: str) -> None:
        task = (job.name, self.name, key)
        begun.append(task)
        real(self, job, key)
        ended.append(task)  # not the last begun: another thread may have begun one since

    patch.setattr(Stage, "run", run)
    return begun, ended


def break_stage(patch: pytest.MonkeyPatch, name: str, after: int, late: bool) -> None:
    """Make a stage of the second class stop in its task number `after`, before or behind the work."""
    kind = name.split(".", maxsplit=1)[0]
    function = FUNCTIONS.get(kind, kind)
    real: Callable[..., None] = getattr(plan_module, function)
    calls: list[str] = []

    def broken(job: Any, *rest: Any, **options: Any) -> None:
        if options.get("kind", name) == name:
            calls.append(job.name)
        if calls.count("all") < after:
            real(job, *rest, **options)
            return
        if late:
            real(job, *rest, **options)
        raise StopHereError(name)

    patch.setattr(plan_module, function, broken)


@pytest.fixture
def two(tmp_path: Path) -> tuple[tuple[str, str], dict[str, Any]]:
    """Stored inputs, and arguments of a run of two classes with every stage there is."""
    paths = store(tmp_path, SEMANTIC[:2], FLOW[:6])
    return paths, settings(TWO, flow_error_threshold=0.25)


@pytest.fixture(scope="module")
def expected_two() -> dict[str, np.ndarray]:
    return in_memory(SEMANTIC[:2], FLOW[:6], TWO, flow_error_threshold=0.25)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, expected_two: Any) -> tuple[Tasks, dict[str, bytes]]:
    """Tasks and tables of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    paths = store(folder, SEMANTIC[:2], FLOW[:6])
    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="synchronous"):
        begun, _ = count_tasks(patch)
        same(segment_volume(*paths, folder / "out", **settings(TWO, flow_error_threshold=0.25)), expected_two)
    same_pyramids(folder / "out", expected_two)
    return begun, snapshot(folder / "out.tables")


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", RESUMABLE)
def test_resumed_runs_repeat_nothing_and_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, two: Any, whole: Any, expected_two: Any, name: str, late: bool
) -> None:
    paths, arguments = two
    every, tables = whole
    n_tasks = sum(task[:2] == ("all", name) for task in every)
    assert n_tasks > 0
    with dask.config.set(scheduler="synchronous"):
        with monkeypatch.context() as patch:
            break_stage(patch, name, min(2, n_tasks), late)
            begun, ended = count_tasks(patch)
            with pytest.raises(StopHereError):
                segment_volume(*paths, tmp_path / "out", **arguments)
        if late and begun[-1][2] != name:
            ended.append(begun[-1])  # a block's own last act is to file what it has done
        with monkeypatch.context() as patch:
            again, _ = count_tasks(patch)
            found = segment_volume(*paths, tmp_path / "out", **arguments, resume=True)
    same(found, expected_two)
    same_pyramids(tmp_path / "out", expected_two)
    assert sorted(ended + again) == sorted(every)
    assert snapshot(tmp_path / "out.tables") == tables
    assert not (tmp_path / "out.scratch").exists()


def test_resuming_again_and_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, two: Any, expected_two: Any) -> None:
    paths, arguments = two
    done: Tasks = []
    for i, name in enumerate(RESUMABLE):
        with monkeypatch.context() as patch:
            break_stage(patch, name, 1, late=False)
            _, ended = count_tasks(patch)
            with pytest.raises(StopHereError):
                segment_volume(*paths, tmp_path / "out", **arguments, resume=i > 0)
            done += ended
        # What a process leaves that is killed while it writes.
        for folder in filter(Path.is_dir, (tmp_path / "out.scratch" / "classes").glob("*/*/*")):
            (folder / f".0.0.0.{i:032x}.partial").write_bytes(b"half")
    same(segment_volume(*paths, tmp_path / "out", **arguments, resume=True), expected_two)
    same_pyramids(tmp_path / "out", expected_two)
    assert len(done) == len(set(done))


def interrupt(monkeypatch: pytest.MonkeyPatch, paths: Any, output: Any, name: str = "drop", **arguments: Any) -> None:
    with monkeypatch.context() as patch:
        break_stage(patch, name, 1, late=False)
        with pytest.raises(StopHereError):
            segment_volume(*paths, output, **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 0.4}, r"threshold: 0\.5 then, 0\.4 now"),
        ({"flow_error_threshold": 0.2}, r"classes\.all\.flow_error_threshold: 0\.25 then, 0\.2 now"),
        ({"block_shape": (9, 13, 6)}, r"block_shape: \[9, 13, 12\] then, \[9, 13, 6\] now"),
        ({"halo": 3}, r"halo: \[16, 16, 16\] then, \[3, 3, 3\] now"),
        ({"class_config": {**TWO, "all": {**ALL_STAGES, "n_steps": 10}}}, r"classes\.all\.n_steps: 9 then, 10 now"),
        ({"class_config": {"all": ALL_STAGES}}, r"classes\.round: \{.* then, None now"),
        ({"class_names": ["all", "round"]}, r"classes\.all\.channel: 1 then, 0 now"),
        ({"ome_zarr": None}, r"pyramid: \{.*'version': '0\.5'.*\} then, None now"),
    ],
)
@pytest.mark.filterwarnings("ignore:class .round. is skipped:UserWarning")
def test_another_run_is_not_resumed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, two: Any, expected_two: Any, change: Any, message: str
) -> None:
    paths, arguments = two
    interrupt(monkeypatch, paths, tmp_path / "out", **arguments)
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match=message):
        segment_volume(*paths, tmp_path / "out", **{**arguments, **change}, resume=True)
    with pytest.raises(FileExistsError, match="unfinished run: pass resume=True"):
        segment_volume(*paths, tmp_path / "out", **arguments)
    assert snapshot(tmp_path) == before
    same(segment_volume(*paths, tmp_path / "out", **arguments, resume=True), expected_two)


def test_other_inputs_are_not_resumed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, two: Any) -> None:
    paths, arguments = two
    interrupt(monkeypatch, paths, tmp_path / "out", **arguments)
    zarr.create_array(tmp_path / "flow", data=FLOW[:6].astype("f8"), chunks=(2, 7, 11, 16), overwrite=True)
    with pytest.raises(ValueError, match=r"flow\.dtype: 'float32' then, 'float64' now"):
        segment_volume(*paths, tmp_path / "out", **arguments, resume=True)
    for name in ("semantic", "flow"):
        shutil.copytree(tmp_path / name, tmp_path / "copy" / name)
    with pytest.raises(ValueError, match=r"semantic\.store: .*semantic.* then, .*copy.* now"):
        segment_volume(tmp_path / "copy/semantic", tmp_path / "copy/flow", tmp_path / "out", **arguments, resume=True)


def test_an_interrupted_run_is_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, two: Any, expected_two: Any
) -> None:
    paths, arguments = two
    interrupt(monkeypatch, paths, tmp_path / "out", **{**arguments, "threshold": 0.2})
    same(segment_volume(*paths, tmp_path / "out", **arguments, overwrite=True), expected_two)
    assert not (tmp_path / "out.scratch").exists()
    with pytest.raises(ValueError, match="exclude one another"):
        segment_volume(*paths, tmp_path / "out", **arguments, overwrite=True, resume=True)


def test_nothing_to_resume_is_a_run(tmp_path: Path, two: Any, expected_two: Any) -> None:
    paths, arguments = two
    (tmp_path / "scratch").mkdir()
    found = segment_volume(*paths, tmp_path / "out", **arguments, scratch=tmp_path / "scratch", resume=True)
    same(found, expected_two)


@pytest.mark.parametrize("place", ["", "labels/round/0", "labels/round/1", "labels/round/2"])
def test_labels_that_vanished_are_written_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, two: Any, expected_two: Any, place: str
) -> None:
    paths, arguments = two
    with monkeypatch.context() as patch:
        patch.setattr("topo_dask.recorded_run.write_table", deny)
        with pytest.raises(StopHereError):
            segment_volume(*paths, tmp_path / "out", **arguments)  # all labels of the first class are on record
    shutil.rmtree(tmp_path / "out" / place)
    same(segment_volume(*paths, tmp_path / "out", **arguments, resume=True), expected_two)
    same_pyramids(tmp_path / "out", expected_two)


def deny(*args: Any, **kwargs: Any) -> None:
    raise StopHereError


def test_an_array_given_is_written_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paths, config = store_one_class(tmp_path), {"round": CONFIG["round"]}
    for where in (tmp_path / "out", {}):
        array = zarr.create_array(where, shape=SHAPE, chunks=BLOCK, dtype="int32")
        with monkeypatch.context() as patch:
            patch.setattr("topo_dask.segment.ledger.clear", lambda scratch: scratch.is_empty() or deny())
            with pytest.raises(StopHereError):
                segment_volume(*paths, array, **settings(config), scratch=tmp_path / "s")
        array[:] = 0
        found = segment_volume(*paths, array, **settings(config), scratch=tmp_path / "s", resume=True)
        same(found, in_memory(SEMANTIC[:1], FLOW[:3], config))


def test_an_array_given_is_emptied_block_by_block(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paths, config = store_one_class(tmp_path), {"round": CONFIG["round"]}
    array = zarr.create_array(tmp_path / "out", shape=SHAPE, chunks=BLOCK, dtype="int32")
    array[:] = 5
    read, real = list[int](), zarr.Array.__getitem__

    def getitem(self: Any, index: Any) -> Any:
        found = real(self, index)
        read.extend([found.size] if self.path == array.path and self.store == array.store else [])
        return found

    with monkeypatch.context() as patch:
        patch.setattr(zarr.Array, "__getitem__", getitem)
        found = segment_volume(*paths, array, **settings(config), overwrite=True)
    assert max(read) == np.prod(BLOCK)
    same(found, in_memory(SEMANTIC[:1], FLOW[:3], config))

    array[-1:, -1:, -1:] = 5
    with monkeypatch.context() as patch:
        patch.setattr(zarr.Array, "__setitem__", lambda *given: None)  # a store that denies what it should remove
        with pytest.raises(OSError, match="out cannot be emptied"):
            segment_volume(*paths, array, **settings(config), overwrite=True)


def test_an_array_given_is_emptied_where_zarr_takes_missing_chunks_for_errors(tmp_path: Path) -> None:
    paths, config = store_one_class(tmp_path), {"round": CONFIG["round"]}
    with zarr.config.set({"array.read_missing_chunks": False}):
        array = zarr.create_array(tmp_path / "out", shape=SHAPE, chunks=BLOCK, dtype="int32")
        array[:] = 5
        segment_volume(*paths, array, **settings(config), overwrite=True)
    same({"round": zarr.open_array(tmp_path / "out", mode="r")}, in_memory(SEMANTIC[:1], FLOW[:3], config))


def test_an_array_given_whose_chunks_are_behind_a_link_is_emptied_there(tmp_path: Path) -> None:
    paths, config = store_one_class(tmp_path), {"round": CONFIG["round"]}
    array = zarr.create_array(tmp_path / "out", shape=SHAPE, chunks=BLOCK, dtype="int32")
    array[:] = 5
    (tmp_path / "out" / "c").rename(tmp_path / "disk")
    (tmp_path / "out" / "c").symlink_to(tmp_path / "disk")
    with pytest.raises(FileExistsError, match="is an array that is not empty: pass overwrite=True"):
        segment_volume(*paths, array, **settings(config))
    same(segment_volume(*paths, array, **settings(config), overwrite=True), in_memory(SEMANTIC[:1], FLOW[:3], config))


def test_an_array_given_whose_chunks_can_not_be_listed_counts_as_filled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    paths, config = store_one_class(tmp_path), {"round": CONFIG["round"]}
    array = zarr.create_array(tmp_path / "out", shape=SHAPE, chunks=BLOCK, dtype="int32")
    array[:] = 5
    for module in ("outputs", "label_arrays"):
        monkeypatch.setattr(f"topo_dask.stores.{module}.stored_chunks", lambda array: None)
    with pytest.raises(FileExistsError, match="chunks cannot be listed, it may not be empty: pass overwrite=True"):
        segment_volume(*paths, array, **settings(config))
    same(segment_volume(*paths, array, **settings(config), overwrite=True), in_memory(SEMANTIC[:1], FLOW[:3], config))


def test_only_blocks_that_hold_something_are_emptied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paths = store(tmp_path, np.zeros_like(SEMANTIC[:1]), FLOW[:3])
    array = zarr.create_array(tmp_path / "out", shape=SHAPE, chunks=(3, 13, 6), dtype="int32")
    array[-1, -1, -1] = array[0, 0, 0] = 5
    emptied, real = list[Any](), zarr.Array.__setitem__

    def setitem(self: Any, index: Any, value: Any) -> None:
        emptied.append(index)
        real(self, index, value)

    monkeypatch.setattr(zarr.Array, "__setitem__", setitem)
    segment_volume(*paths, array, **settings({"round": CONFIG["round"]}), overwrite=True)
    assert sorted([axis.start for axis in index] for index in emptied) == [[0, 0, 0], [9, 13, 12]]
    assert not array[:].any()


def test_labels_of_another_run_are_not_gone_on_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, two: Any, expected_two: Any
) -> None:
    paths, arguments = two
    interrupt(monkeypatch, paths, tmp_path / "out", "downsample.1", **arguments)
    segment_volume(*paths, tmp_path / "out", **arguments, scratch=tmp_path / "other", overwrite=True)
    with pytest.raises(FileExistsError, match="written by another run"):
        segment_volume(*paths, tmp_path / "out", **arguments, resume=True)
    same(segment_volume(*paths, tmp_path / "out", **arguments, overwrite=True), expected_two)


def test_scratch_that_was_half_removed_is_not_gone_on_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, two: Any, expected_two: Any
) -> None:
    paths, arguments = two
    for kind in (ledger.CLASSES, ledger.RUN, ledger.VOID):
        interrupt(monkeypatch, paths, tmp_path / "out", "relabel", **arguments, overwrite=True)
        with monkeypatch.context() as patch:
            discard = FileScratch.discard
            patch.setattr(
                FileScratch, "discard", lambda self, k, stop=kind, f=discard: deny() if k == stop else f(self, k)
            )
            with pytest.raises(StopHereError):
                segment_volume(*paths, tmp_path / "out", **arguments, overwrite=True)
        with pytest.raises(FileExistsError, match="overwrite=True"):
            segment_volume(*paths, tmp_path / "out", **arguments, resume=True)
    same(segment_volume(*paths, tmp_path / "out", **arguments, overwrite=True), expected_two)
    assert not (tmp_path / "out.scratch").exists()


# ------------------------------------------------------------ what belongs to others


def test_a_finished_run_is_replaced_only_when_asked(tmp_path: Path, two: Any, expected_two: Any) -> None:
    paths, arguments = two
    segment_volume(*paths, tmp_path / "out", **{**arguments, "threshold": 0.2})
    before = snapshot(tmp_path)
    for resume in (False, True):
        with pytest.raises(FileExistsError, match=r"'labels/round' in .* exists: pass overwrite=True"):
            segment_volume(*paths, tmp_path / "out", **arguments, resume=resume)
    assert snapshot(tmp_path) == before
    same(segment_volume(*paths, tmp_path / "out", **arguments, overwrite=True), expected_two)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(("then", "now"), [("0.5", None), ("0.4", None), (None, "0.5")])
def test_labels_of_a_class_are_in_one_layout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, then: Any, now: Any, finished: bool
) -> None:
    paths, arguments, out = store_one_class(tmp_path), settings({"round": CONFIG["round"]}), tmp_path / "out"
    with monkeypatch.context() as patch, nullcontext() if finished else pytest.raises(StopHereError):
        patch.setattr("topo_dask.recorded_run.publish", recorded_run.publish if finished else deny)
        segment_volume(*paths, out, **arguments, ome_zarr=then, scratch=tmp_path / "s")
    old, new = ("round", "labels/round")[:: -1 if then else 1]
    mine = out / old / "notes.txt"
    mine.write_text("mine")
    before = snapshot(tmp_path)
    for resume in (False, True):
        with pytest.raises(FileExistsError, match=f"out has labels of 'round' in the other layout, '{old}': pass over"):
            segment_volume(*paths, out, **arguments, ome_zarr=now, resume=resume)
    with pytest.raises(FileExistsError, match=f"output '{old}' in .* holds 'notes.txt', which was not written by"):
        segment_volume(*paths, out, **arguments, ome_zarr=now, overwrite=True)
    assert snapshot(tmp_path) == before
    mine.unlink()
    found = segment_volume(*paths, out, **arguments, ome_zarr=now, overwrite=True)
    same(found, in_memory(SEMANTIC[:1], FLOW[:3], {"round": CONFIG["round"]}))
    assert list(read_marks(str(out))) == [new]
    group = zarr.open_group(out, mode="r")
    assert old not in group
    listed = group["labels"].attrs.asdict()
    assert listed.get("ome", listed).get("labels", []) == (["round"] if now else [])


@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}, {"ome_zarr": None, "overwrite": True}])
def test_labels_of_a_run_take_no_others(tmp_path: Path, how: dict[str, Any]) -> None:
    paths, arguments, home = store_one_class(tmp_path), settings({"round": CONFIG["round"]}), tmp_path / "labels"
    segment_volume(*paths, home / "ome", **arguments)  # in a folder of that name, as outputs may be
    (plain,) = segment_volume(*paths, home / "labels", **arguments, ome_zarr=None).values()
    (tmp_path / "link").symlink_to(home / "ome" / "labels")
    shutil.copytree(home / "ome" / "labels" / "round", tmp_path / "moved")
    before = snapshot(tmp_path)
    for place in ("labels/ome/labels/round", "labels/ome/labels", "labels/ome/labels/new", "link/round/in/it", "link"):
        output: Any = tmp_path / place
        with pytest.raises(FileExistsError, match=f"output {output} lies where .* labels of round: give {home}/ome$"):
            segment_volume(*paths, output, **arguments, **how)
    for output in (tmp_path / "moved", plain):
        with pytest.raises(FileExistsError, match="is labels of 'round' that a run wrote: give the output of that run"):
            segment_volume(*paths, output, **arguments, **how)
    assert snapshot(tmp_path) == before
    segment_volume(*paths, home / "labels", **arguments, overwrite=True)


def foreign_file(place: Path) -> None:
    place.write_text("mine")


def foreign_folder(place: Path) -> None:
    place.mkdir()
    (place / "notes.txt").write_text("mine")


def foreign_array(place: Path) -> None:
    zarr.create_array(place, data=np.arange(9))


def foreign_labels(place: Path) -> None:
    for inner in ("all", "labels/all"):
        zarr.open_group(place, mode="a").create_array(inner, data=np.zeros(SHAPE, np.int32))


def foreign_subgroup(place: Path) -> None:
    for inner in ("all", "labels/all/0"):
        zarr.open_group(place, mode="a").create_group(inner)


def foreign_list(place: Path) -> None:
    zarr.open_group(place, mode="w").create_array("labels", data=np.arange(9))
    zarr.open_group(place, mode="a").create_array("all", data=np.arange(9))


FOREIGN = [foreign_file, foreign_folder, foreign_array, foreign_labels, foreign_subgroup, foreign_list]


@pytest.mark.parametrize(
    "how", [{}, {"overwrite": True}, {"resume": True}, {"ome_zarr": None}, {"overwrite": True, "ome_zarr": None}]
)
@pytest.mark.parametrize("make", FOREIGN)
def test_what_others_wrote_is_never_touched(
    tmp_path: Path, two: Any, make: Callable[[Path], None], how: dict[str, Any]
) -> None:
    paths, arguments = two
    make(tmp_path / "out")
    before = snapshot(tmp_path)
    with pytest.raises((FileExistsError, ValueError), match=r"output .*(choose another|cannot be opened)"):
        segment_volume(*paths, tmp_path / "out", **arguments, **how)
    assert snapshot(tmp_path) == before
    assert not (tmp_path / "out.scratch").exists()


def add_file(group: Path) -> None:
    (group / "notes.txt").write_text("mine")


def add_array(group: Path) -> None:
    zarr.open_group(group, mode="r+").create_array("3", data=np.arange(9))


def replace_level(group: Path) -> None:
    zarr.create_array(group / "1", data=np.arange(9), overwrite=True)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("add", [add_file, add_array, replace_level])
def test_what_others_put_among_the_levels_is_never_touched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, two: Any, add: Callable[[Path], None], finished: bool
) -> None:
    paths, arguments = two
    if finished:
        segment_volume(*paths, tmp_path / "out", **arguments)
    else:
        interrupt(monkeypatch, paths, tmp_path / "out", "downsample.2", **arguments)
    add(tmp_path / "out" / "labels" / "round")
    before = snapshot(tmp_path)
    for how in ({"overwrite": True}, {"resume": True}):
        if finished and "resume" in how:
            segment_volume(*paths, tmp_path / "out", **arguments, **how)  # gives back what is there
            continue
        with pytest.raises(FileExistsError, match=r"holds '(notes.txt|3|1)', which was not written"):
            segment_volume(*paths, tmp_path / "out", **arguments, **how)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}])
@pytest.mark.parametrize("make", [foreign_folder, foreign_array, foreign_labels])
def test_scratch_of_others_is_never_touched(
    tmp_path: Path, two: Any, make: Callable[[Path], None], how: dict[str, bool]
) -> None:
    paths, arguments = two
    make(tmp_path / "scratch")
    before = snapshot(tmp_path)
    with pytest.raises(FileExistsError, match=r"scratch .* is not empty and holds no run"):
        segment_volume(*paths, tmp_path / "out", **arguments, scratch=tmp_path / "scratch", **how)
    assert snapshot(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_a_foreign_file_in_scratch_survives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, two: Any, expected_two: Any
) -> None:
    paths, arguments = two
    interrupt(monkeypatch, paths, tmp_path / "out", **arguments)
    (run,) = (path.name for path in (tmp_path / "out.scratch" / "classes").iterdir())
    mine = dict.fromkeys(("notes.txt", f"classes/{run}/round/track/notes.txt", "run/notes"), b"mine")
    for place in mine:
        (tmp_path / "out.scratch" / place).write_text("mine")
    same(segment_volume(*paths, tmp_path / "out", **arguments, resume=True), expected_two)
    assert snapshot(tmp_path / "out.scratch") == mine


@pytest.mark.parametrize("place", ["labels/round/0/notes.txt", "labels/round/1/c/0/0/notes.txt", "all/c/notes.txt"])
def test_what_others_put_among_the_chunks_is_never_removed(tmp_path: Path, two: Any, place: str) -> None:
    paths, arguments = two
    plain = {"ome_zarr": None} if place.startswith("all") else {}
    segment_volume(*paths, tmp_path / "out", **arguments, **plain)
    (tmp_path / "out" / place).write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(FileExistsError, match=r"holds '.*notes\.txt', which was not written by topo_dask"):
        segment_volume(*paths, tmp_path / "out", **arguments, **plain, overwrite=True)
    assert snapshot(tmp_path) == before


def test_an_output_behind_a_link_is_written_there(tmp_path: Path, two: Any, expected_two: Any) -> None:
    paths, arguments = two
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    same(segment_volume(*paths, tmp_path / "out", **arguments), expected_two)
    same(segment_volume(*paths, tmp_path / "out", **arguments, overwrite=True), expected_two)
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "elsewhere" / "labels" / "round").is_dir()
    with pytest.raises(FileExistsError, match="nowhere exists and is no zarr group"):
        segment_volume(*paths, tmp_path / "nowhere", **arguments)


@pytest.mark.parametrize("place", ["labels/round", "labels/round/0", "labels/round/1/c", "labels/round/0/c/0", "all/c"])
@pytest.mark.parametrize("other", [False, True])
def test_labels_with_a_link_in_them_are_not_replaced(tmp_path: Path, two: Any, place: str, other: bool) -> None:
    paths, arguments = two
    plain = place.startswith("all")
    segment_volume(*paths, tmp_path / "out", **arguments, ome_zarr=None if plain else "0.5")
    folder = tmp_path / "out" / place
    folder.rename(tmp_path / "disk")
    folder.symlink_to(tmp_path / "disk")
    before = snapshot(tmp_path)
    told = rf"cannot be replaced, {folder} is a symbolic link: move the folder that it leads to into its place, or"
    layout: Any = None if plain != other else "0.5"
    with pytest.raises(FileExistsError, match=told):
        segment_volume(*paths, tmp_path / "out", **arguments, ome_zarr=layout, overwrite=True)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}])
@pytest.mark.parametrize("kind", ["is a file", "is a link that leads nowhere"])
@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("out.scratch", "the scratch of the run: move it, or pass scratch=<another folder>"),
        ("out.lock", "the locks of the run: move it, or choose another output"),
        ("out.tables", "the tables of instances: move it, or choose another output"),
        ("out/labels", "the labels of 'round': move it, or choose another output"),
        ("out", "the output: move it, or choose another output"),
    ],
)
def test_what_lies_where_a_folder_is_needed_is_named(
    tmp_path: Path, two: Any, place: str, kind: str, told: str, how: dict[str, bool]
) -> None:
    paths, arguments = two
    if place == "out/labels":
        zarr.open_group(tmp_path / "out")
    if kind == "is a file":
        (tmp_path / place).write_text("mine")
    else:
        (tmp_path / place).symlink_to(tmp_path / "nowhere")
    output = tmp_path / "out" / "inner" if place == "out" else tmp_path / "out"
    before = snapshot(tmp_path)
    with pytest.raises(FileExistsError, match=f"{tmp_path / place} {kind}, but a folder is needed there for {told}"):
        segment_volume(*paths, output, **arguments, **how)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("scratch", ["out", "out/scratch", ".", "link"])
def test_scratch_and_output_do_not_lie_in_one_another(tmp_path: Path, two: Any, scratch: str) -> None:
    paths, arguments = two
    work = tmp_path / "work"
    work.mkdir()
    (work / "link").symlink_to(work)
    with pytest.raises(ValueError, match="must not lie in one another"):
        segment_volume(*paths, work / "out", **arguments, scratch=work / scratch)
    assert list(work.iterdir()) == [work / "link"]


@pytest.mark.parametrize("name", ["semantic", "flow"])
@pytest.mark.parametrize("ome_zarr", [None, "0.5"])
def test_inputs_lie_in_no_labels_and_no_scratch(tmp_path: Path, two: Any, name: str, ome_zarr: Any) -> None:
    paths, arguments = two
    arguments |= {"ome_zarr": ome_zarr}
    mine = Path(paths[name == "flow"])
    before = sorted(mine.rglob("*"))
    (tmp_path / "link").symlink_to(mine)
    for output in (mine, tmp_path / "link"):
        with pytest.raises(FileExistsError, match=r"is a zarr array: choose another path, .* pass the open array"):
            segment_volume(*paths, output, **arguments, overwrite=True)
    for output in (mine / "inner", tmp_path / "link" / "inner"):
        with pytest.raises(ValueError, match=f"{name} .* and labels in .* must not lie in one another"):
            segment_volume(*paths, output, **arguments)
    for scratch in (mine, mine / "inner"):
        with pytest.raises(ValueError, match=f"{name} .* and scratch .* must not lie in one another"):
            segment_volume(*paths, tmp_path / "out", **arguments, scratch=scratch)
    assert sorted(mine.rglob("*")) == before
    assert not (tmp_path / "out").exists()


def test_inputs_on_an_object_store_lie_in_no_labels(tmp_path: Path, two: Any) -> None:
    paths, arguments = two
    store = zarr.storage.FsspecStore.from_url("memory:///inputs/semantic")
    semantic = zarr.create_array(store, data=SEMANTIC[:2])
    with pytest.raises(ValueError, match=r"semantic memory:///inputs/semantic/? and labels in .* must not lie in one"):
        segment_volume(
            semantic, paths[1], "memory:///inputs/semantic/inner/", **arguments, scratch=tmp_path / "scratch"
        )


def test_places_may_be_relative(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, two: Any, expected_two: Any) -> None:
    paths, arguments = two
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    interrupt(monkeypatch, paths, "../out", **arguments)
    monkeypatch.chdir(tmp_path)
    same(segment_volume(*paths, "out/", **arguments, resume=True), expected_two)


def test_classes_may_be_called_like_stages(tmp_path: Path, two: Any, expected_two: Any) -> None:
    paths, arguments = two
    names = {"run": "round", "probe": "all"}
    renamed = {**arguments, "class_names": list(names), "class_config": {new: TWO[old] for new, old in names.items()}}
    found = segment_volume(*paths, tmp_path / "out", **renamed)
    same(found, {new: expected_two[old] for new, old in names.items()})


# ------------------------------------------------------------ arrays given for the labels


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"chunks": (5, 13, 12)}, r"multiple of the output's chunks or shards \(5, 13, 12\)"),
        ({"chunks": (18, 13, 12)}, r"multiple of the output's chunks or shards \(18, 13, 12\)"),
        ({"chunks": (3, 13, 4), "shards": (9, 13, 8)}, r"multiple of the output's chunks or shards \(9, 13, 8\)"),
        ({"dtype": "int64"}, "must be int32 .* got int64"),
        ({"dtype": "uint32"}, "must be int32 .* got uint32"),
        ({"shape": (17, 26, 24)}, r"of shape \(17, 26, 23\) .* got int32 of shape \(17, 26, 24\)"),
        ({"shape": (1, *SHAPE), "chunks": (1, *BLOCK)}, r"of shape \(17, 26, 23\)"),
        ({"fill_value": 1}, "with fill value 1"),
    ],
)
def test_arrays_that_can_not_take_the_labels(tmp_path: Path, layout: dict[str, Any], message: str) -> None:
    paths = store_one_class(tmp_path)
    array = zarr.create_array(
        tmp_path / "out", **{"shape": SHAPE, "chunks": BLOCK, "dtype": "int32", "fill_value": 0, **layout}
    )
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match=message):
        segment_volume(*paths, array, **settings({"round": CONFIG["round"]}))
    assert snapshot(tmp_path) == before


def test_blocks_that_end_a_voxel_before_the_volume_must_be_whole_chunks() -> None:
    array = zarr.create_array({}, shape=(1, 1, 9), chunks=(1, 1, 3), dtype="i4", fill_value=0)
    check_output(array, OutputSpec((1, 1, 9), (1, 1, 10), (1, 1, 3)))
    with pytest.raises(
        ValueError, match=r"\(1, 1, 8\) must be a multiple of the output's chunks or shards \(1, 1, 3\)"
    ):
        check_output(array, OutputSpec((1, 1, 9), (1, 1, 8), (1, 1, 3)))


def test_arrays_and_groups_open_for_reading_only(tmp_path: Path) -> None:
    paths = store_one_class(tmp_path)
    zarr.open_group(tmp_path / "out", mode="w").create_array("a", shape=SHAPE, chunks=BLOCK, dtype="int32")
    before = snapshot(tmp_path)
    for node in (zarr.open_group(tmp_path / "out", mode="r"), zarr.open_array(tmp_path / "out/a", mode="r")):
        with pytest.raises(PermissionError, match="open for reading only"):
            segment_volume(*paths, node, **settings({"round": CONFIG["round"]}))
    assert snapshot(tmp_path) == before


def test_a_table_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    paths = store_one_class(tmp_path)
    foreign = tmp_path / "out.tables" / "round.csv"
    foreign.parent.mkdir()
    foreign.write_text("mine,yours\n1,2\n")
    with pytest.raises(FileExistsError, match=r"round\.csv exists and is no table"):
        segment_volume(*paths, tmp_path / "out", **settings({"round": CONFIG["round"]}), overwrite=True)
    assert foreign.read_text() == "mine,yours\n1,2\n"
    assert not (tmp_path / "out").exists()


def test_a_table_of_labels_elsewhere_is_not_replaced_unless_it_is_said(tmp_path: Path) -> None:
    paths, arguments = store_one_class(tmp_path), settings({"round": CONFIG["round"]})
    segment_volume(*paths, tmp_path / "out", **arguments)
    table = snapshot(tmp_path / "out.tables")
    (tmp_path / "out").rename(tmp_path / "kept")
    before = snapshot(tmp_path)
    for resume in (False, True):
        with pytest.raises(FileExistsError, match=r"have left tables, .*round\.csv: move those,"):
            segment_volume(*paths, tmp_path / "out", **arguments, resume=resume)
        assert snapshot(tmp_path) == before
    segment_volume(*paths, tmp_path / "out", **arguments, overwrite=True)
    assert snapshot(tmp_path / "out.tables") == table


def test_labels_that_are_replaced_take_their_table_along(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, two: Any, whole: Any
) -> None:
    paths, arguments = two
    (tmp_path / "out.tables").mkdir()
    for name, table in whole[1].items():
        (tmp_path / "out.tables" / name).write_bytes(table)
    with monkeypatch.context() as patch:
        patch.setattr("topo_dask.recorded_run.open_output", deny)
        with pytest.raises(StopHereError):
            segment_volume(*paths, tmp_path / "out", **arguments, overwrite=True)
    assert len(snapshot(tmp_path / "out.tables")) == 1  # that of the other class, whose turn has not come
    segment_volume(*paths, tmp_path / "out", **arguments, resume=True)
    assert snapshot(tmp_path / "out.tables") == whole[1]


def test_a_run_on_threads_does_not_import_distributed(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "semantic.zarr", data=np.ones((1, 8, 8, 8), np.float32))
    zarr.create_array(tmp_path / "flow.zarr", data=np.ones((3, 8, 8, 8), np.float32))
    code = (
        "import sys, topo_dask; topo_dask.segment_volume('semantic.zarr', 'flow.zarr', 'labels.zarr', "
        "class_names=['nuc'], progress=False, resolution_nm=8); sys.exit('distributed' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0


@pytest.mark.parametrize("name", [None, "threads", "Sync", "processes"])
def test_the_configured_scheduler_is_that_of_dask(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    with dask.config.set(scheduler=name):
        expected = dask.base.get_scheduler() or dask.threaded.get
        monkeypatch.delitem(sys.modules, "distributed")
        assert configured_scheduler() is expected
