"""The memory law: no task and no global stage takes more than is projected for it."""

import re
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import zarr
from blockwise import run_blocks
from dask import config as dask_config
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from topo_dask import segment_volume
from topo_dask.admission import PACKED, check_space, plan_volume
from topo_dask.blocks import memory
from topo_dask.blocks.geometry import BlockGrid, Triple
from topo_dask.blocks.memory import (
    ROW_BYTES,
    Footprint,
    allowed_per_task,
    check_memory,
    choose_block_shape,
    choose_chunks,
)
from topo_dask.census import take_census
from topo_dask.config import ClassConfig
from topo_dask.kernels.extents import Extents
from topo_dask.kernels.flow_types import used_dtype
from topo_dask.plan import Recipe, plan_stages, track_together
from topo_dask.readiness import make_ready
from topo_dask.stages import recover, track
from topo_dask.stages.drop import drop
from topo_dask.stages.gather import enclose, gather
from topo_dask.stages.job import ABSORBED, ALL, CoarserLevel, Job, View, admit_rows, extent_columns
from topo_dask.stages.link import collect, link
from topo_dask.stages.split import split
from topo_dask.stages.tabulate import tabulate
from topo_dask.stages.unite import unite
from topo_dask.stores import volumes
from topo_dask.stores.checked import CheckedArray
from topo_dask.stores.filed import FILED
from topo_dask.stores.listing import stored_chunks
from topo_dask.stores.scratch import FileScratch, MemoryScratch, count_rows
from topo_dask.stores.space import Disk
from topo_dask.stores.volumes import Foreground, Output, Source, StoredFlow, track_bytes


def peak_of(work: Callable[[], None]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def whole_run(folder: Path, vectors: NDArray[Any], mask: NDArray[Any], config: ClassConfig) -> None:
    """Check every task of a run, of blocks of 48 voxels with a halo of 8."""
    shape, block, halo = mask.shape, (48, 48, 48), (8, 8, 8)
    semantic = zarr.create_array(folder / "semantic.zarr", data=mask[None].astype("u1"), chunks=(1, 32, 32, 32))
    flow = zarr.create_array(folder / "flow.zarr", data=vectors, chunks=(3, 32, 32, 32))
    sizes, cells = (shape, (48, 48, 48), (48, 24, 24)), ((2, 2, 2), (1, 2, 2))
    levels = [
        Output(zarr.create_array(folder / f"labels{i}.zarr", shape=size, chunks=(24, 24, 24), dtype="i4"))
        for i, size in enumerate(sizes)
    ]
    job = Job(
        name="full",
        grid=BlockGrid(shape, block, halo),
        config=config,
        foreground=Foreground(Source(semantic, "semantic", slice(0, 1)), 0.5),
        flow=StoredFlow(Source(flow, "flow", slice(0, 3))),
        scratch=FileScratch(str(folder / "scratch")),
        output=levels[0],
        levels=tuple(CoarserLevel(*pair) for pair in zip(cells, levels[1:], strict=True)),
    )
    item, used = vectors.dtype.itemsize, used_dtype(vectors.dtype).itemsize
    projected = Footprint(shape, halo, 1, item, used, track_bytes(vectors.dtype)).task_mem(block)
    plan = plan_stages(Recipe.of(config), pyramid=cells)
    make_ready([config], vectors.dtype, cells)  # compiling takes memory too
    for stage in (*plan.stages, *plan.writers):
        for key in stage.keys_left(job):
            measured = peak_of(lambda stage=stage, key=key: stage.run(job, key))  # type: ignore[misc]
            if stage.over is not None:
                assert measured <= projected, f"{stage.name} {key}: {measured} > {projected}"
        take_census(job, stage, ())


SHAPE = (96, 96, 96)


@pytest.mark.parametrize("particles", [1 << 20, 1 << 12], ids=["small", "large"])
@pytest.mark.parametrize("filled", [0.05, 1.0], ids=["sparse", "full"])
def test_no_task_takes_more_than_projected(
    filled: float, particles: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks are small or large against what is tracked together.
    for module in (memory, track, recover):
        monkeypatch.setattr(module, "PARTICLES", particles)
    rng = np.random.default_rng(0)
    config = ClassConfig(group=3, n_steps=20, merge="adjacent", flow_error_threshold=2.0, min_size=3)
    vectors = rng.normal(0, 0.7, (3, *SHAPE)).astype("f2")
    whole_run(tmp_path, vectors, rng.random(SHAPE) < filled, config)


@pytest.mark.parametrize(("group", "min_size"), [(1, 1), (2, 1), (3, 50)], ids=["sinks", "fragments", "orphans"])
def test_a_voxel_may_be_a_piece_of_its_own(
    group: int, min_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (memory, track, recover):
        monkeypatch.setattr(module, "PARTICLES", 1 << 12)
    for module in (memory, track):  # without margins a block weighs as much as a large one does against its page
        monkeypatch.setattr(module, "PAGE_MARGIN", 0)
    vectors = np.zeros((3, *SHAPE), "f2")  # nothing moves, but for the one object that is kept among orphans
    vectors[:, :10, :10, :10] = np.clip(5 - np.indices((10, 10, 10)), -1, 1)
    config = ClassConfig(group=group, n_steps=20, convergence_radius=1.0, min_size=min_size)
    whole_run(tmp_path, vectors, np.ones(SHAPE, np.bool_), config)


def test_a_block_may_be_one_small_fragment(tmp_path: Path) -> None:
    mask = np.ones(SHAPE, np.bool_)
    mask[:48, :48, :48] = False
    mask[:45, :45, :45] = True
    config = ClassConfig(group=2, n_steps=0, convergence_radius=10.0, min_fragment_ratio=0.5)
    whole_run(tmp_path, np.ones((3, *SHAPE), "f2"), mask, config)


@pytest.mark.parametrize("shape", [(9, 16, 20), (3, 300, 20), (1, 7, 5000)])
def test_particles_are_tracked_some_at_a_time(shape: Triple, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track, "PARTICLES", 1 << 12)
    block, mask = BlockGrid(shape, shape).block((0, 0, 0)), np.ones(shape, np.bool_)
    job = Job("rows", BlockGrid(shape, shape), ClassConfig(n_steps=0), flow=StoredFlow(Source(mask, "flow")))
    mask[shape[0] // 2, 2:5, ::3] = False
    seen = []
    for voxels, ends in track.end_points(job, block, mask):
        assert len(ends) <= max(1 << 12, shape[2])
        np.testing.assert_array_equal(np.stack(np.unravel_index(voxels, shape), axis=-1), ends)
        seen.extend(voxels.tolist())
    assert sorted(seen) == np.flatnonzero(mask).tolist()


@pytest.mark.parametrize("dtype", ["f2", "i2", "f4", "f8"])
def test_particles_that_leave_take_no_more_than_projected(dtype: str, tmp_path: Path) -> None:
    # Pages much larger than a block, so that they are what is weighed.
    shape, block, halo = (208, 80, 80), (16, 16, 16), (32, 32, 32)
    vectors = np.zeros((3, *shape), dtype)
    vectors[0] = 1
    flow = zarr.create_array(tmp_path / "flow.zarr", data=vectors, chunks=(3, 16, 80, 80))
    job = Job(
        name="leaving",
        grid=BlockGrid(shape, block, halo),
        config=ClassConfig(n_steps=100),
        foreground=Foreground(Source(np.ones(shape, np.bool_), "semantic")),
        flow=StoredFlow(Source(flow, "flow", slice(0, 3))),
    )
    item, work_item = vectors.dtype.itemsize, used_dtype(vectors.dtype).itemsize
    projected = Footprint(shape, halo, 1, item, work_item, track_bytes(vectors.dtype)).task_mem(block)
    stage = plan_stages(Recipe.of(job.config)).stages[0]
    stage.run(job, "3.2.2")  # compiles
    measured = peak_of(lambda: stage.run(job, "4.2.2"))
    assert measured <= projected


LARGE_CHUNKS = {
    "flow": {"flow": {"chunks": (3, 80, 80, 80)}},
    "flow of two classes": {"flow": {"chunks": (6, 40, 80, 80)}},
    "shards of the flow": {"flow": {"chunks": (3, 40, 40, 40), "shards": (3, 160, 160, 160)}},
    "a shard that holds the page": {"flow": {"chunks": (3, 8, 8, 8), "shards": (3, 160, 160, 160)}},
    "foreground": {"semantic": {"chunks": (2, 72, 72, 72)}},
}


@pytest.mark.parametrize("stored", LARGE_CHUNKS)
def test_chunks_much_larger_than_a_block_take_no_more_than_projected(stored: str, tmp_path: Path) -> None:
    shape, names, rng = (160, 160, 160), ("a", "b"), np.random.default_rng(0)  # noise, which no codec packs
    how = {"semantic": {"chunks": (1, 16, 16, 16)}, "flow": {"chunks": (3, 16, 16, 16)}} | LARGE_CHUNKS[stored]
    semantic = zarr.create_array(tmp_path / "semantic", data=rng.random((2, *shape), "f4"), **how["semantic"])
    flow = zarr.create_array(tmp_path / "flow", data=rng.random((6, *shape), "f4"), **how["flow"])
    config = {name: ClassConfig(n_steps=20).to_dict() for name in names}
    options: dict[str, Any] = {"class_names": names, "class_config": config, "block_shape": (16, 16, 16)}
    task_mem = plan_volume(semantic, flow, **options).task_mem
    with dask_config.set(scheduler="synchronous"):
        plan = plan_volume(semantic, flow, **options, memory_limit=memory.PROCESS_BYTES + task_mem)
    jobs = [
        Job(
            name=name,
            grid=plan.grid,
            config=ClassConfig(n_steps=20),
            foreground=plan.foreground(name),
            flow=StoredFlow(Source(plan.flow, "flow", slice(3 * i, 3 * i + 3))),
            scratch=FileScratch(str(tmp_path / name)),
        )
        for i, name in enumerate(names)
    ]
    stage = track_together(jobs) if plan.shared_channels > 3 else plan.plans["a"].stages[0]
    stage.run(jobs[0], "9.9.9")  # compiles
    assert peak_of(lambda: stage.run(jobs[0], "4.4.4")) <= task_mem  # all chunks meet in this block


def test_a_chunk_that_takes_most_of_the_memory_is_named() -> None:
    large = memory.Stored((6, 512, 512, 512), False, 4)
    footprint = Footprint((512,) * 3, (16,) * 3, 1, 4, 4, 24, flow_stored=large)
    with pytest.raises(MemoryError, match=r"raise memory_limit\. Chunks of the flow take 12288\.0 MiB of it"):
        check_memory(footprint, (64,) * 3, 1 << 30, "choose a smaller block")


def _extents(n: int, rng: np.random.Generator) -> dict[str, Any]:
    numbers = rng.integers(1, 100, n)
    box = rng.integers(0, 100, (n, 3))
    return extent_columns(Extents(numbers, box * 7, box, box + 1, rng.permutation(n)))


def _filled_job(n: int, folder: Path) -> Job:
    # Tables of eight blocks with n rows in all, in files: what a step reads is its own.
    rng = np.random.default_rng(0)
    grid = BlockGrid((3200, 400, 400), (400, 400, 400))
    job = Job("rows", grid, ClassConfig(convergence_radius=2.0), scratch=FileScratch(str(folder)))
    scratch, each = job.scratch, n // len(grid)
    for i, block in enumerate(grid):
        sinks = {"ids": rng.choice(3000 * 400 * 400, each, replace=False), "counts": rng.integers(1, 9, each)}
        scratch.put("numbers", block.key)
        scratch.put("track", block.key, **sinks, sums=np.zeros((each, 3), np.int64))
        scratch.put("numbers.extents", block.key, **_extents(each, rng))
        scratch.put("link", block.key, lut=(np.arange(i * each, (i + 1) * each) % (n // 2 + 1)).astype(np.int32))
        low = rng.integers(1, n // 4, each)
        pairs = np.unique(np.stack([low, low + rng.integers(1, n // 4, each)], axis=1), axis=0)
        sums, faces = rng.integers(-(2**26), 2**26, len(pairs)), rng.integers(1, 50, len(pairs))
        scratch.put("contacts", block.key, pairs=pairs, sums=sums, faces=faces)
        scratch.put("fragments", block.key)
        scratch.put("fragments.ids", block.key, ids=rng.integers(1, n // 4, each).astype(np.int32))
        scratch.put("fragments.extents", block.key, **_extents(each, rng))
        scratch.put("join", block.key)
        mine = np.arange(i * each, (i + 1) * each) + 1
        scratch.put("errors", block.key, ids=mine.astype(np.int32), sums=rng.integers(0, 2**40, each))
        scratch.put("localise", block.key, ids=rng.integers(1, 2**40, each))
    scratch.put("tabulate", ALL, **_extents(n, rng))
    return job


VIEW = View("numbers", "link")


@pytest.mark.parametrize(
    ("step", "work"),
    [
        ("unite", lambda job: unite(job, VIEW, "adjacent", 0.0, 2)),
        ("unite", lambda job: unite(job, VIEW, "agglomerate", 0.0, 2)),
        ("enclose", enclose),
        ("split", lambda job: split(job, 0.1)),
        ("tabulate", lambda job: tabulate(job, VIEW, True)),
        ("link", lambda job: link(job, 2)),
        ("link", lambda job: collect(job, 2)),
        ("drop", lambda job: drop(job, 0.5)),
    ],
)
def test_global_steps_take_the_stated_bytes_a_row(step: str, work: Callable[[Job], None], tmp_path: Path) -> None:
    work(_filled_job(800, tmp_path / "small"))  # compilation is not the step's memory
    n = 160_000
    job = _filled_job(n, tmp_path / "large")
    assert peak_of(lambda: work(job)) <= ROW_BYTES[step] * n


def test_all_global_steps_count_their_rows() -> None:
    recipe = Recipe(merge="agglomerate", split=True, flow_error=0.4)
    counted = {stage.name for stage in plan_stages(recipe, tiers=2).stages if stage.tables}
    assert counted == ROW_BYTES.keys() - {"gather"}


def test_all_rows_that_a_global_step_reads_are_counted() -> None:
    labels = np.repeat([1, 2], 4) * np.ones((4, 4, 1), np.int64)  # an instance in each of two blocks, in contact
    scratch, recipe = MemoryScratch(), Recipe(merge="agglomerate", split=True, flow_error=9.0)
    run_blocks(recipe, (4, 4, 4), labels=labels, flow=np.zeros((3, 4, 4, 8), np.float32), scratch=scratch)
    rows = {
        stage.name: [sum(count_rows(scratch, *column) for column in columns) for columns in stage.tables]
        for stage in plan_stages(recipe, "labels", 1).stages
        if stage.tables
    }
    # No contact is left when instances are united, but the table of the instances is held too.
    assert rows == {"link": [2], "enclose": [2], "unite": [0, 2], "split": [2], "tabulate": [2], "drop": [2]}


def test_the_longest_of_the_tables_of_a_step_counts() -> None:
    scratch = MemoryScratch()
    for kind, rows in (("a", 2), ("b", 3)):
        scratch.put(kind, "0.0.0", x=np.zeros(rows))
    job = Job("", BlockGrid((1, 1, 1), (1, 1, 1)), ClassConfig(), scratch=scratch, allowed_mem=5 * ROW_BYTES["unite"])
    tables = (("a", "x"),), (("a", "x"), ("b", "x")), (("b", "x"),)
    admit_rows(job, "unite", tables)
    with pytest.raises(MemoryError, match="'unite' on 5 rows"):
        admit_rows(replace(job, allowed_mem=5 * ROW_BYTES["unite"] - 1), "unite", tables)


def test_rows_of_patches_count_for_the_table(tmp_path: Path) -> None:
    labels = np.ones((4, 8, 8), np.int64)
    labels[:, 2:6, 2:6] = 2  # too small to be kept: orphans in all blocks
    scratch, recipe = FileScratch(str(tmp_path)), Recipe(min_size=65, split=True, recover=True, table=True)
    run_blocks(recipe, (4, 4, 4), labels=labels, scratch=scratch)
    stage = next(stage for stage in plan_stages(recipe, "labels").stages if stage.name == "tabulate")
    job = Job(
        "", BlockGrid(labels.shape, (4, 4, 4)), ClassConfig(), labels=Source(labels, "instances"), scratch=scratch
    )
    read = sum(len(ids) for _, ids, _ in View("fragments", "split", (ABSORBED, "orphans")).extents(job))
    assert sum(count_rows(scratch, *column) for column in stage.tables[0]) == read == 8


def test_a_region_takes_the_stated_bytes_a_contact(tmp_path: Path) -> None:
    for n in (800, 160_000):  # compilation is not the stage's memory
        job = _filled_job(n, tmp_path / str(n))
        enclose(job)
        halves = [job.grid.block((z, 0, 0)).key for z in range(2)]
        for key in halves:
            gather(job, key, 0, 0.0)
        job.scratch.put(FILED, "gather.0", **{"gather.0": np.frombuffer("\n".join(halves).encode(), np.uint8)})
        contacts = sum(len(job.scratch.get("gather.0", key)["sums"]) for key in halves)
        region = replace(job, grid=job.grid.gathered(1))
        peak = peak_of(lambda region=region: gather(region, "0.0.0", 1, 0.0))  # type: ignore[misc]
    assert contacts > 30_000
    assert peak <= ROW_BYTES["gather"] * contacts


def test_too_large_a_block_is_refused_with_numbers_and_remedy() -> None:
    footprint = Footprint((512, 512, 512), (16, 16, 16), 1, 2, 4, 16)
    projected = footprint.task_mem((256, 256, 256))
    with pytest.raises(MemoryError, match=rf"{projected / 2**20:.1f} MiB.*100.0 MiB.*smaller block"):
        check_memory(footprint, (256, 256, 256), 100 << 20, "choose a smaller block")
    with pytest.raises(MemoryError, match=rf"above the 400 MiB .* take {projected / 2**20:.1f} MiB more, in each"):
        check_memory(footprint, (256, 256, 256), 0, "choose a smaller block")


def test_a_shared_read_counts_the_channels_of_all_classes() -> None:
    one = Footprint((512, 512, 512), (16, 16, 16), 1, 2, 4, 16)
    three = replace(one, channels=9)
    region = (128 + 2 * 16) ** 3
    assert three.task_mem((128,) * 3) - one.task_mem((128,) * 3) >= 6 * 2 * region


def test_a_wider_foreground_counts_for_each_voxel_of_a_block() -> None:
    narrow = Footprint((512, 512, 512), (16, 16, 16), 1, 2, 4, 16)
    wide = replace(narrow, mask_item=8)
    assert wide.task_mem((128,) * 3) - narrow.task_mem((128,) * 3) >= 7 * 2 * 128**3


@pytest.mark.parametrize("threads", [1, 3])
def test_tasks_and_what_is_kept_fit_into_the_limit(threads: int, tmp_path: Path) -> None:
    semantic = zarr.create_array(tmp_path / "semantic", shape=(1, 256, 256, 256), chunks=(1, 64, 64, 64), dtype="u1")
    flow = zarr.create_array(tmp_path / "flow", shape=(3, 256, 256, 256), chunks=(3, 64, 64, 64), dtype="f2")
    least = plan_volume(semantic, flow, class_names=["ves"], resolution_nm=64, block_shape=(64,) * 3).task_mem
    with dask_config.set(scheduler="threads", num_workers=threads):
        for more in (0, 1 << 20, 64 << 20, 2 << 30):
            limit = memory.PROCESS_BYTES + threads * least + more
            plan = plan_volume(
                semantic, flow, class_names=["ves"], resolution_nm=64, block_shape=(64,) * 3, memory_limit=limit
            )
            assert plan.global_mem == limit - memory.PROCESS_BYTES  # it has the process to itself
            if more == 0:
                needed = plan.flow.at_once  # of the memory of a task
            reads = plan.flow.at_once - needed
            left = limit - memory.PROCESS_BYTES - threads * (plan.task_mem + reads)
            assert plan.pages_mem + plan.recent_mem <= left
            half = left // threads * threads // 2
            assert (plan.pages_mem, plan.recent_mem) == (min(512 << 20, half), min(256 << 20, half))
    assert plan.flow.at_once == 11 * 2 * 3 * 64**3 * 2  # all that zarr reads at a time, and one chunk before
    assert plan.semantic.at_once > 11 * 2 * 64**3


def test_what_is_left_of_the_memory_is_for_reads_and_for_what_is_kept() -> None:
    semantic = zarr.create_array({}, shape=(1, 256, 256, 256), chunks=(1, 64, 64, 64), dtype="u1")
    flow = zarr.create_array({}, shape=(3, 256, 256, 256), chunks=(3, 128, 128, 128), dtype="f4")
    given: dict[str, Any] = {"class_names": ["ves"], "resolution_nm": 64, "block_shape": (64,) * 3}
    task_mem = plan_volume(semantic, flow, **given).task_mem
    reads = []
    with dask_config.set(scheduler="synchronous"):
        for more in (0, 300 << 20, 1000 << 20, 3 << 30):
            plan = plan_volume(semantic, flow, **given, memory_limit=memory.PROCESS_BYTES + task_mem + more)
            reads.append(plan.flow.at_once)
            most = memory.PAGES_MEM, memory.RECENT_MEM
            assert (plan.pages_mem, plan.recent_mem) == tuple(min(more // 3, kept) for kept in most)
    all_at_once = 11 * 2 * 3 * 128**3 * 4  # ten chunks, and one before
    assert [read - reads[0] for read in reads] == [0, 100 << 20, (1000 << 20) // 3, all_at_once - reads[0]]


def test_chosen_blocks_fit_and_are_multiples_of_the_chunks() -> None:
    footprint = Footprint((512, 512, 512), (16, 16, 16), 1, 2, 4, 16)
    for limit in ("512MiB", "1GiB", "4GiB", "64GiB"):
        size = int(limit[:-3]) << (30 if limit.endswith("GiB") else 20)
        allowed = allowed_per_task(size, 2)
        if allowed < footprint.task_mem((32, 32, 32)):
            continue
        block = choose_block_shape(footprint, (32, 32, 32), allowed)
        assert footprint.task_mem(block) <= allowed
        assert all(b % 32 == 0 and b <= 256 for b in block)
    assert block == (256, 256, 256)


@pytest.mark.parametrize("chunks", [(128, 128, 128), (64, 128, 90), (1, 128, 128), (20, 30, 40)])
def test_chunks_are_smaller_only_where_memory_is_little(chunks: Triple) -> None:
    footprint = Footprint((512, 512, 512), (16, 16, 16), 1, 2, 4, 16)
    least = tuple(edge if edge < 64 else 32 if edge == 128 else -(-edge // 2) for edge in chunks)
    met = set()
    for allowed in range(footprint.task_mem(least) - 1, footprint.task_mem(chunks) + (8 << 20), 1 << 20):
        found = choose_chunks(footprint, chunks, allowed)
        met.add(found)
        if allowed >= footprint.task_mem(chunks) or allowed < footprint.task_mem(least):
            assert found == chunks
        else:
            assert footprint.task_mem(found) <= allowed
            assert all(edge // 4 <= smaller <= edge for edge, smaller in zip(chunks, found, strict=True))
    assert {chunks, least} <= met


def test_chunks_of_the_input_that_are_large_leave_room_for_small_blocks() -> None:
    semantic = zarr.create_array({}, shape=(1, 512, 512, 512), chunks=(1, 256, 256, 256), dtype="f4")
    flow = zarr.create_array({}, shape=(3, 512, 512, 512), chunks=(3, 256, 256, 256), dtype="f4")
    with dask_config.set(scheduler="threads", num_workers=4):
        with pytest.warns(UserWarning, match=r"chunks of the flow .* each is decoded up to \d+ times"):
            plan = plan_volume(semantic, flow, class_names=["ves"], resolution_nm=64, memory_limit="4GiB")
        with pytest.raises(
            MemoryError, match=r"a block of \(128, 128, 128\) .* Chunks of the flow take 768.0 MiB of it"
        ):
            plan_volume(semantic, flow, class_names=["ves"], resolution_nm=64, memory_limit="3GiB")
    assert plan.grid.block_shape == plan.chunks == (64, 64, 64)
    assert plan.task_mem <= plan.allowed_mem


@given(st.data())
def test_reads_of_a_chunk_are_counted(data: st.DataObject) -> None:
    edges = st.tuples(*[st.integers(1, 9)] * 3)
    grid = BlockGrid(data.draw(edges), data.draw(edges), data.draw(st.tuples(*[st.integers(0, 5)] * 3)))
    chunk = data.draw(edges)
    met = [len(list(BlockGrid(grid.shape, chunk).touching(block.read))) for block in grid]
    assert grid.reads_of(chunk) == pytest.approx(sum(met) / len(BlockGrid(grid.shape, chunk)))


@pytest.mark.parametrize(
    ("chunks", "told"),
    [
        (((1, 64, 64, 64), (3, 1, 1024, 1024)), [r"the flow have the shape \(3, 1, 1024, 1024\), .* up to 280 times"]),
        (
            ((1, 1, 1024, 1024), (3, 64, 64, 64)),
            ["the foreground have .* up to 256 times, for the blocks of .64, 64, 64"],
        ),
        (((1, 64, 64, 64), (3, 64, 64, 64)), []),
        (((1, 64, 64, 64), (3, 128, 128, 192)), []),  # 49 times, of a large volume
    ],
)
def test_chunks_that_many_blocks_share_are_warned_of(chunks: Any, told: list[str]) -> None:
    of_semantic, of_flow = chunks
    semantic = zarr.create_array({}, shape=(1, 256, 1024, 1024), chunks=of_semantic, dtype="f4")
    flow = zarr.create_array({}, shape=(3, 256, 1024, 1024), chunks=of_flow, dtype="f4")
    how: dict[str, Any] = {"class_names": ["ves"], "resolution_nm": 8, "block_shape": (64, 64, 64)}
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        plan_volume(semantic, flow, **how, halo=4)
    assert len(found) == len(told)
    for warning, pattern in zip(found, told, strict=True):
        assert re.search(pattern, str(warning.message))


@pytest.mark.parametrize(
    ("shape", "tasks", "block"),
    [
        ((256, 256, 256), 8, (128, 128, 128)),
        ((512, 512, 512), 8, (256, 256, 256)),
        ((512, 512, 512), 9, (256, 256, 192)),
        ((512, 512, 512), 10_000, (128, 128, 128)),
        ((64, 4096, 4096), 128, (64, 256, 256)),
        ((1, 4096, 4096), 8, (1, 1024, 1024)),
        ((1, 4096, 4096), 17, (1, 1024, 960)),
        ((1, 4096, 4096), 10_000, (1, 128, 128)),
        ((4, 64, 8192), 2, (4, 64, 4096)),
    ],
)
def test_chosen_blocks_keep_all_workers_busy(shape: Triple, tasks: int, block: Triple) -> None:
    chunks = tuple(min(64, size) for size in shape)
    assert choose_block_shape(Footprint(shape, (16, 16, 16), 1, 2, 4, 16), chunks, 16 << 30, tasks) == block


@pytest.mark.parametrize(
    ("shape", "stored", "block", "chunks"),
    [
        ((1, 4096, 4096), (1, 256, 256), (1, 1024, 1024), (1, 512, 512)),
        ((1, 4096, 4096), (1, 4096, 4096), (1, 1024, 1024), (1, 512, 512)),
        ((1, 300, 300), (1, 300, 300), (1, 256, 256), (1, 256, 256)),
        ((4, 2048, 2048), (4, 64, 64), (4, 512, 512), (4, 256, 256)),
        ((16, 1024, 1024), (16, 64, 64), (16, 256, 256), (16, 128, 128)),
        ((20, 1024, 1024), (20, 64, 64), (20, 256, 256), (20, 128, 128)),
        ((256, 256, 256), (48, 48, 48), (144, 144, 96), (48, 48, 48)),
        ((60, 60, 60), (32, 32, 32), (64, 64, 64), (32, 32, 32)),
    ],
)
def test_flat_volumes_have_long_blocks_and_chunks(shape: Triple, stored: Triple, block: Triple, chunks: Triple) -> None:
    semantic = zarr.create_array({}, shape=(1, *shape), chunks=(1, *stored), dtype="u1")
    flow = zarr.create_array({}, shape=(3, *shape), chunks=(3, *stored), dtype="f2")
    with dask_config.set(scheduler="threads", num_workers=2):
        plan = plan_volume(semantic, flow, class_names=["ves"], resolution_nm=64, memory_limit="8GiB")
    assert (plan.grid.block_shape, plan.chunks) == (block, chunks)


def test_the_client_holds_one_block_at_a_time() -> None:
    stage = plan_stages(Recipe()).stages[0]
    job = Job("test", BlockGrid((160, 160, 160), (8, 8, 8)), ClassConfig())
    keys: list[str] = []
    assert peak_of(lambda: keys.extend(stage.keys_left(job))) < 200 * 20**3
    assert len(keys) == 20**3


def test_a_listing_holds_a_byte_a_chunk_of_one_channel(tmp_path: Path) -> None:
    n = 12
    array = zarr.create_array(tmp_path, shape=(4, n, n, n), chunks=(1, 1, 1, 1), dtype="u1", fill_value=0)
    for channel, z, y in np.ndindex(4, n, n):
        (tmp_path / f"c/{channel}/{z}/{y}").mkdir(parents=True)
        for x in range(n):
            (tmp_path / f"c/{channel}/{z}/{y}/{x}").touch()
    grid = BlockGrid((n, n, n), (4, 4, 4))
    source = Source(CheckedArray(array, "semantic", "background"), "semantic", slice(1, 2))
    found: list[int] = []

    def count() -> None:
        found.append(sum(1 for _ in Foreground(source, 0.5).stored_blocks(grid)))

    count()  # what a process keeps from the first time on does not count
    assert peak_of(count) < 40 * n**3
    assert found == [len(grid)] * 2


def test_disk_is_expected_for_what_each_class_has_stored() -> None:
    n = 64**3
    semantic = zarr.create_array({}, shape=(2, 64, 64, 64), chunks=(1, 32, 32, 32), dtype="u1")
    flow = zarr.create_array({}, shape=(6, 64, 64, 64), chunks=(3, 32, 32, 32), dtype="f2")
    config = {name: {"group": group, "convergence_radius": 4.0} for name, group in (("a", 1), ("b", 3))}
    how: dict[str, Any] = {"class_names": ["a", "b"], "class_config": config, "block_shape": (32, 32, 32)}
    plan = plan_volume(semantic, flow, **how, ome_zarr=None)
    assert (plan.scratch_bytes, plan.output_bytes) == ((4 + 8) * n, 2 * 4 * n)
    assert plan.expected_bytes() == (0, 0)
    semantic[0, :32], semantic[1, :32, :32] = 1, 1
    plan = plan_volume(semantic, flow, **how, ome_zarr=None)
    voxels = n // 2, n // 4
    assert plan.expected_bytes() == ((4 * voxels[0] + 8 * voxels[1]) // 8, 4 * sum(voxels) // 8)


@pytest.mark.parametrize(("device", "free", "missing"), [(lambda _: 1, 1 << 30, "7.00"), (ord, 4 << 30, "1.00")])
def test_what_is_missing_on_a_disk_is_told(
    device: Callable[[str], int], free: int, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = 3 << 30, 5 << 30
    plan: Any = SimpleNamespace(
        scratch_bytes=PACKED * expected[0], output_bytes=PACKED * expected[1], expected_bytes=lambda: expected
    )
    monkeypatch.setattr("topo_dask.admission.disk_of", lambda place: Disk(device(place), free))
    message = f"scratch s is expected to take 3.00 GiB and output o 5.00 GiB, but {missing} GiB are missing"
    with pytest.raises(OSError, match=re.escape(message)):
        check_space(plan, "s", "o")


def test_a_run_lists_once_what_is_stored_of_each_class(tmp_path: Path) -> None:
    semantic = zarr.create_array(tmp_path / "semantic", data=np.ones((2, 8, 8, 8), "f4"), chunks=(1, 4, 4, 4))
    flow = zarr.create_array(tmp_path / "flow", data=np.full((6, 8, 8, 8), 0.1, "f4"), chunks=(3, 4, 4, 4))
    config = {name: {"group": 1, "n_steps": 1, "convergence_radius": 8.0, "min_size": 1} for name in "ab"}
    listed: list[Any] = []

    def note(array: Any, first: Any = None) -> Any:
        listed.append(first)
        return stored_chunks(array, first)

    how: dict[str, Any] = {"class_names": ["a", "b"], "class_config": config, "block_shape": (4, 4, 4)}
    with patch.object(volumes, "stored_chunks", note):
        segment_volume(semantic, flow, tmp_path / "labels", progress=False, **how)
    assert sorted(listed) == [0, 1]
