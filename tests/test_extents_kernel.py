"""Extents of numbered pieces against their definition, from all voxels of a block and from a list of some."""

from dataclasses import astuple
from itertools import permutations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from topo_dask.kernels.extents import NOWHERE, Extents, measure, measure_some

VOLUME = (30, 40, 50)


def defined(numbers: NDArray[np.uint32], n: int, start: tuple[int, ...]) -> list[NDArray[np.int64]]:
    rows = []
    for number in range(1, n + 1):
        at = np.argwhere(numbers == number) + start
        if len(at):
            first = np.ravel_multi_index(tuple(at[0]), VOLUME)
            rows.append((len(at), at.sum(axis=0), at.min(axis=0), at.max(axis=0) + 1, first))
        else:
            rows.append((0, np.zeros(3), np.full(3, NOWHERE), np.zeros(3), NOWHERE))
    return [np.array(column, np.int64) for column in zip(*rows, strict=True)]


@settings(deadline=None)
@given(
    arrays(np.uint32, array_shapes(min_dims=3, max_dims=3, max_side=7), elements=st.integers(0, 4)),
    st.tuples(st.integers(0, 23), st.integers(0, 33), st.integers(0, 43)),
)
def test_extents_are_those_of_the_definition(numbers: NDArray[np.uint32], start: tuple[int, int, int]) -> None:
    voxels = np.flatnonzero(numbers)
    found = (
        measure(numbers, 4, start, VOLUME),
        measure_some(voxels, numbers.reshape(-1)[voxels], 4, numbers.shape, start, VOLUME),
    )
    for extents in found:
        for column, expected in zip(astuple(extents), defined(numbers, 4, start), strict=True):
            np.testing.assert_array_equal(column, expected)


def test_extents_of_parts_combine_in_any_order() -> None:
    numbers = np.random.default_rng(0).integers(0, 4, (5, 6, 7), np.uint32, endpoint=True)
    numbers[2:] %= 4  # 4 is in the first part alone
    parts = [measure(numbers[z : z + 2], 4, (z, 3, 2), VOLUME) for z in (0, 2, 4)]
    rows = np.array([4, 1, 0, 2])  # row 3 belongs to no piece
    expected = defined(numbers, 4, (0, 3, 2))
    for order in permutations(parts):
        whole = Extents.empty(5)
        for part in order:
            whole.add(rows, part)
        for column, of_pieces in zip(astuple(whole.take(rows)), expected, strict=True):
            np.testing.assert_array_equal(column, of_pieces)
        for column, of_none in zip(astuple(whole.take(np.array([3]))), astuple(Extents.empty(1)), strict=True):
            np.testing.assert_array_equal(column, of_none)
