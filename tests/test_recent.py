"""Reads of a moment ago: the same values, fewer chunks decoded, no more memory than allowed."""

import pickle
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from threading import Event
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from topo_dask.blocks.geometry import BlockGrid
from topo_dask.stores.checked import CheckedArray, MissingChunkError
from topo_dask.stores.recent import RecentReads

Index = tuple[slice, ...]

SHAPE = (6, 9, 11, 13)
VALUES = np.arange(1, 1 + np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


class Reading:
    """A checked array that notes how often each chunk is decoded, and first does what it is told."""

    def __init__(self, array: Any, first: Callable[[Index], None] = lambda index: None) -> None:
        self._array, self._first = CheckedArray(array, "flow"), first
        self.dtype, self.shape, self.ndim, self.chunks = array.dtype, array.shape, array.ndim, array.chunks
        self.decoded: Counter[tuple[int, ...]] = Counter()

    def __getitem__(self, index: Index) -> Any:
        self._first(index)
        sides = zip(index, self.chunks, strict=True)
        self.decoded.update(product(*(range(side.start // n, -(-side.stop // n)) for side, n in sides)))
        return self._array[index]


def stored(chunks: tuple[int, ...], **options: Any) -> Any:
    array = zarr.create_array({}, shape=SHAPE, chunks=chunks, dtype="f4", **options)
    array[:] = VALUES
    return array


@st.composite
def boxes(draw: st.DrawFn) -> list[Index]:
    def side(size: int) -> slice:
        start = draw(st.integers(0, size - 1))
        return slice(start, draw(st.integers(start + 1, size)))

    channels = st.sampled_from([slice(0, 3), slice(3, 6), slice(0, 6)])
    return [(draw(channels), *(side(size) for size in SHAPE[1:])) for _ in range(draw(st.integers(1, 8)))]


@settings(deadline=None)
@given(
    chunks=st.tuples(st.sampled_from([1, 3, 6]), st.integers(3, 9), st.integers(3, 11), st.integers(3, 13)),
    indices=boxes(),
    allowed_mem=st.sampled_from([0, 2_000, 20_000, 1 << 20]),
    threads=st.integers(1, 3),
)
def test_values_are_those_of_the_array_and_memory_is_within_bounds(
    chunks: tuple[int, ...], indices: list[Index], allowed_mem: int, threads: int
) -> None:
    reading = Reading(stored(chunks), lambda _: check())
    recent = RecentReads(reading, allowed_mem)

    def check() -> None:
        assert sum(part.nbytes for part in recent._kept.parts) <= allowed_mem

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(recent.__getitem__, indices))
    for index, values in zip(indices, found, strict=True):
        np.testing.assert_array_equal(values, VALUES[index])
    check()


@pytest.mark.parametrize("options", [{}, {"shards": (3, 6, 6, 6)}])
def test_each_chunk_is_decoded_once_where_there_is_room(options: dict[str, Any]) -> None:
    reading = Reading(stored((3, 3, 3, 3), **options))
    recent, grid = RecentReads(reading, 1 << 20), BlockGrid(SHAPE[1:], (6, 6, 6), (1, 1, 1))
    for block in grid:
        index = (slice(0, 3), *block.read.slices)
        np.testing.assert_array_equal(recent[index], VALUES[index])
    assert set(reading.decoded.values()) == {1}
    assert len(reading.decoded) == 3 * 4 * 5


def test_what_is_being_read_is_waited_for() -> None:
    begun, go_on = Event(), Event()

    def first(index: Index) -> None:
        begun.set()
        assert go_on.wait(60)

    reading = Reading(stored((3, 3, 3, 3)), first)
    recent, index = RecentReads(reading, 1 << 20), (slice(0, 3), slice(0, 4), slice(0, 4), slice(0, 4))
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(recent.__getitem__, index)
        assert begun.wait(60)
        two = pool.submit(recent.__getitem__, index)
        go_on.set()
        np.testing.assert_array_equal(one.result(60), VALUES[index])
        np.testing.assert_array_equal(two.result(60), VALUES[index])
    assert set(reading.decoded.values()) == {1}


def test_an_error_is_raised_wherever_the_chunk_is_needed_and_is_not_kept() -> None:
    array = stored((3, 3, 3, 3))
    del array.store_path.store._store_dict["c/0/0/0/0"]
    recent, index = RecentReads(Reading(array), 1 << 20), (slice(0, 3), slice(0, 4), slice(0, 4), slice(0, 4))
    with ThreadPoolExecutor(2) as pool:
        for failed in [pool.submit(recent.__getitem__, index) for _ in range(6)]:
            with pytest.raises(MissingChunkError, match="chunk c/0/0/0/0 is missing"):
                failed.result(60)
    beside = (slice(0, 3), slice(4, 8), slice(0, 4), slice(0, 4))
    np.testing.assert_array_equal(recent[beside], VALUES[beside])
    array[:] = VALUES
    np.testing.assert_array_equal(recent[index], VALUES[index])


def test_a_waiting_read_looks_for_itself_where_the_other_one_failed() -> None:
    begun, fail = Event(), Event()

    def first(index: Index) -> None:
        if not begun.is_set():
            begun.set()
            assert fail.wait(60)
            raise OSError("this once")

    recent, index = RecentReads(Reading(stored((3, 3, 3, 3)), first), 1 << 20), (slice(0, 3), *[slice(0, 4)] * 3)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(recent.__getitem__, index)
        assert begun.wait(60)
        two = pool.submit(recent.__getitem__, index)
        fail.set()
        np.testing.assert_array_equal(two.result(60), VALUES[index])
        with pytest.raises(OSError, match="this once"):
            one.result(60)


def test_copies_in_one_process_keep_the_same_parts_until_another_run_comes() -> None:
    array = CheckedArray(stored((3, 3, 3, 3)), "flow")
    first, second = (pickle.dumps(RecentReads(array, 1 << 20)) for _ in range(2))
    one, two, other = pickle.loads(first), pickle.loads(first), pickle.loads(second)
    index = (slice(0, 3), slice(0, 4), slice(0, 4), slice(0, 4))
    one[index]
    assert len(two._kept.parts) == 1
    assert other._kept.parts == []
    two.clear()
    assert one._kept.parts == []
