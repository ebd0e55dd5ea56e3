"""Reads of a moment ago: the same values, fewer chunks decoded, no more memory than allowed."""

import pickle
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from topo_dask.blocks.geometry import Block, BlockGrid, Triple, z_order
from topo_dask.stores.checked import CheckedArray, MissingChunkError
from topo_dask.stores.recent import RecentReads

Index = tuple[slice, ...]

SHAPE = (6, 9, 11, 13)
VALUES = np.arange(1, 1 + np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
CHANNELS = slice(0, 3)


class Reading:
    """A checked array that notes how often each chunk is decoded."""

    def __init__(self, array: Any) -> None:
        self._array = CheckedArray(array, "flow")
        self.dtype, self.shape, self.ndim, self.chunks = array.dtype, array.shape, array.ndim, array.chunks
        self.decoded: Counter[tuple[int, ...]] = Counter()

    def __getitem__(self, index: Index) -> Any:
        return self.read(index)

    def read(self, index: Index, out: Any = None) -> Any:
        sides = zip(index, self.chunks, strict=True)
        self.decoded.update(product(*(range(side.start // n, -(-side.stop // n)) for side, n in sides)))
        return self._array.read(index, out)


def stored(chunks: tuple[int, ...], **options: Any) -> Any:
    array = zarr.create_array({}, shape=SHAPE, chunks=chunks, dtype="f4", **options)
    array[:] = VALUES
    return array


def kept_bytes(recent: RecentReads) -> int:
    with recent._kept.lock:
        found = sum(slab.values.nbytes for slab in recent._kept.slabs.values())
        assert recent._kept.nbytes == found
        assert all(slab.values.base is None for slab in recent._kept.slabs.values())  # a view would keep the whole read
    return found


def in_z_order(grid: BlockGrid) -> list[Block]:
    return sorted(grid, key=lambda block: z_order(block.block_id))


def reads(grid: BlockGrid, rng: np.random.Generator) -> list[Index]:
    """Those of blocks, in an order that is nearly Z-order, some never, some twice; others between them."""
    indices: list[Index] = []
    for block in in_z_order(grid):
        channels = (CHANNELS, CHANNELS, CHANNELS, slice(3, 6), slice(0, 6))[rng.integers(5)]
        at = max(0, len(indices) - rng.choice([0, 0, 0, 1, 3]))
        indices[at:at] = [(channels, *block.read.slices)] * rng.choice([1, 1, 1, 0, 2])
        if rng.random() < 0.2:
            sides = np.sort([rng.choice(size + 1, 2, replace=False) for size in SHAPE[1:]])
            indices.append((channels, *(slice(a, b) for a, b in sides.tolist())))
    return indices


@settings(deadline=None, max_examples=40)
@given(
    block_shape=st.tuples(*(st.integers(2, size + 1) for size in SHAPE[1:])),
    halo=st.tuples(*[st.integers(0, 5)] * 3),
    seed=st.integers(0, 999),
    allowed_mem=st.sampled_from([0, 500, 4_000, 1 << 20]),
    threads=st.integers(1, 3),
)
def test_values_are_those_of_the_array_and_memory_is_within_bounds(
    block_shape: Any, halo: Any, seed: int, allowed_mem: int, threads: int
) -> None:
    grid = BlockGrid(SHAPE[1:], block_shape, halo)
    indices = reads(grid, np.random.default_rng(seed))
    recent = RecentReads(CheckedArray(stored((3, 9, 4, 5)), "flow"), grid, allowed_mem)

    def read(index: Index) -> Any:
        values = recent[index]
        assert kept_bytes(recent) <= allowed_mem
        return values

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(read, indices))
    for index, values in zip(indices, found, strict=True):
        np.testing.assert_array_equal(values, VALUES[index])
    recent.clear()
    assert kept_bytes(recent) == 0


@pytest.mark.parametrize("options", [{}, {"shards": (3, 6, 6, 6)}])
def test_what_two_blocks_share_is_decoded_once(options: dict[str, Any]) -> None:
    reading = Reading(stored((3, 3, 3, 3), **options))
    grid = BlockGrid(SHAPE[1:], (3, 3, 3), (1, 1, 1))
    recent = RecentReads(reading, grid, 1 << 20)
    for block in in_z_order(grid):
        index = (CHANNELS, *block.read.slices)
        np.testing.assert_array_equal(recent[index], VALUES[index])
    # Each but the first is read for the halo of the block before, too.
    along = (1, 2, 2), (1, 2, 2, 2), (1, 2, 2, 2, 1)  # the last one along x is within the halo of the block before
    assert reading.decoded == {(0, z, y, x): along[0][z] * along[1][y] * along[2][x] for z, y, x in np.ndindex(3, 4, 5)}
    assert kept_bytes(recent) == 0


def test_what_has_waited_longest_is_let_go_first() -> None:
    grid = BlockGrid(SHAPE[1:], (3, 3, 3), (1, 1, 1))
    array = CheckedArray(stored((3, 3, 3, 3)), "flow")

    def kept_after(allowed_mem: int, *block_ids: Triple) -> list[Triple]:
        recent = RecentReads(array, grid, allowed_mem)
        for block_id in block_ids:
            recent[(CHANNELS, *grid.block(block_id).read.slices)]
        return [key[-1] for key in recent._kept.slabs]

    corner, inner = 3 * 4 * 4 * 2 * 4, 3 * 4 * 5 * 2 * 4  # bytes of a slab of the first block, and of one further in
    assert kept_after(2 * inner, (0, 0, 0), (0, 0, 1)) == [(0, 1, 1), (0, 0, 2)]
    # What is too large to be kept drives nothing out.
    assert kept_after(corner, (0, 0, 0)) == kept_after(corner, (0, 0, 0), (2, 2, 2)) == [(0, 0, 1)]


def test_reads_of_other_boxes_are_passed_on_and_keep_nothing() -> None:
    reading = Reading(stored((3, 3, 3, 3)))
    grid = BlockGrid(SHAPE[1:], (3, 3, 3), (1, 1, 1))
    recent = RecentReads(reading, grid, 1 << 20)
    for box in (grid.block((1, 1, 1)).write, grid.block((0, 0, 0)).write):
        np.testing.assert_array_equal(recent[(CHANNELS, *box.slices)], VALUES[(CHANNELS, *box.slices)])
    assert kept_bytes(recent) == 0


def test_an_error_is_raised_and_nothing_is_kept() -> None:
    array = stored((3, 3, 3, 3))
    del array.store_path.store._store_dict["c/0/0/0/1"]
    grid = BlockGrid(SHAPE[1:], (6, 6, 6), (1, 1, 1))
    recent, index = RecentReads(Reading(array), grid, 1 << 20), (CHANNELS, *grid.block((0, 0, 0)).read.slices)
    for _ in range(2):
        with pytest.raises(MissingChunkError, match="chunk c/0/0/0/1 is missing"):
            recent[index]
    assert kept_bytes(recent) == 0
    array[:] = VALUES
    np.testing.assert_array_equal(recent[index], VALUES[index])


def test_copies_in_one_process_keep_the_same_until_another_run_comes() -> None:
    array, grid = CheckedArray(stored((3, 3, 3, 3)), "flow"), BlockGrid(SHAPE[1:], (6, 6, 6), (1, 1, 1))
    first, second = (pickle.dumps(RecentReads(array, grid, 1 << 20)) for _ in range(2))
    one, two, other = pickle.loads(first), pickle.loads(first), pickle.loads(second)
    one[(CHANNELS, *grid.block((0, 0, 0)).read.slices)]
    assert kept_bytes(two) > 0
    assert kept_bytes(other) == 0
    two.clear()
    assert kept_bytes(one) == 0


def test_what_is_left_to_read_takes_no_memory_of_its_own() -> None:
    array = zarr.create_array({}, data=np.ones((6, 64, 64, 160), "f4"), chunks=(6, 16, 16, 16))
    grid = BlockGrid((64, 64, 160), (64, 64, 64), (0, 0, 16))
    recent = RecentReads(CheckedArray(array, "flow"), grid, 1 << 24)
    first, second = ((slice(0, 6), *grid.block((0, 0, x)).read.slices) for x in (0, 1))
    recent[first]
    tracemalloc.start()
    try:
        values = recent[second]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert kept_bytes(recent) > 0
    assert peak < 1.7 * values.nbytes  # what is kept, and chunks that are decoded, among it
