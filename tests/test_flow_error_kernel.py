"""The flow errors against NumPy, one number at a time, and block by block."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topo_dask.kernels.flow_error import flow_errors


def brute_force(numbers, flow, start, centres, n_numbers):
    flow = flow.astype(np.float64 if flow.dtype.str[1:] == "f8" else np.float32)
    sums = [0] * (n_numbers + 1)
    for voxel in np.argwhere(numbers):
        number = int(numbers[tuple(voxel)])
        d = centres[number] - (voxel + np.array(start)).astype(np.float64)
        r = max(np.sqrt((d[0] * d[0] + d[1] * d[1]) + d[2] * d[2]), 1e-8)
        e = d / r - flow[(slice(None), *voxel)].astype(np.float64)
        sums[number] += round(float((e[0] * e[0] + e[1] * e[1]) + e[2] * e[2]) * 2**24)
    return sums


@st.composite
def blocks(draw, max_side=7):
    shape = draw(st.tuples(*[st.integers(1, max_side)] * 3))
    start = draw(st.tuples(*[st.integers(0, 100_000)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_numbers = draw(st.integers(0, 5))
    numbers = rng.integers(0, n_numbers + 1, shape).astype(draw(st.sampled_from(["i4", "u1"])))
    flow_dtype = draw(st.sampled_from([np.float32, np.float64, np.float16, np.int8, ">f4", ">f8"]))
    flow = rng.normal(scale=2, size=(3, *shape)).astype(flow_dtype)
    centres = start + rng.uniform(-2, max_side + 2, (n_numbers + 1, 3))
    if draw(st.booleans()):
        centres = np.rint(centres)  # some voxels then stand on their centre
    centres[0] = np.nan
    return numbers, flow, start, centres, n_numbers


@settings(max_examples=300, deadline=None)
@given(blocks())
def test_equals_brute_force(block):
    sums = flow_errors(*block)
    assert sums.dtype == np.int64
    assert sums.tolist() == brute_force(*block)


@settings(max_examples=200, deadline=None)
@given(blocks(), st.data())
def test_sums_of_blocks_add_up(block, data):
    numbers, flow, start, centres, n_numbers = block
    total = np.zeros(n_numbers + 1, np.int64)
    edges = [sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=2))}) for n in numbers.shape]
    for index in np.ndindex(*(len(e) - 1 for e in edges)):
        box = tuple(slice(edges[k][i], edges[k][i + 1]) for k, i in enumerate(index))
        at = tuple(s + b.start for s, b in zip(start, box, strict=True))
        total += flow_errors(numbers[box], flow[:, *box], at, centres, n_numbers)
    np.testing.assert_array_equal(total, flow_errors(*block))


def test_order_of_evaluation():
    rng = np.random.default_rng(5)
    numbers = np.arange(1, 1001).reshape(10, 10, 10)
    flow = rng.uniform(-1e4, 1e4, (3, 10, 10, 10))  # so long that the last bit of a float64 is about one unit
    block = (numbers, flow, (1, 2, 3), rng.uniform(0, 10, (1001, 3)), 1000)
    assert flow_errors(*block).tolist() == brute_force(*block)


def test_a_voxel_on_its_centre_counts_its_flow():
    flow = np.zeros((3, 1, 1, 1), np.float32)
    flow[1] = 0.5
    sums = flow_errors(np.ones((1, 1, 1), np.uint8), flow, (4, 5, 6), np.array([[0.0] * 3, [4, 5, 6]]), 1)
    assert (sums * 2.0**-24).tolist() == [0, 0.25]


def test_nearer_than_the_shortest_length():
    centres = np.array([[0.0] * 3, [1e-9, 0, 0]])
    sums = flow_errors(np.ones((1, 1, 1), int), np.zeros((3, 1, 1, 1)), (0, 0, 0), centres, 1)
    assert sums.tolist() == [0, round(0.01 * 2**24)]


def test_sums_up_to_the_range():
    flow = np.zeros((3, 1, 1, 2))
    flow[0, 0, 0, 0] = 2.0**19
    centres = np.zeros((2, 3))
    assert flow_errors(np.array([[[1, 0]]]), flow, (0, 0, 0), centres, 1).tolist() == [0, 2**62]
    flow[:2] = 2.0**18
    flow[2, 0, 0, 1] = -1  # as it should be: the errors of both voxels are the same
    assert flow_errors(np.array([[[1, 1]]]), flow, (0, 0, 0), centres, 1).tolist() == [0, 2**62]
    flow[2, 0, 0, 0] = 2.0**-7  # two more of the last bit that a float64 of this size has
    with pytest.raises(OverflowError, match=r"\(0, 0, 1\).*2\*\*38"):
        flow_errors(np.array([[[1, 1]]]), flow, (0, 0, 0), centres, 1)


@pytest.mark.parametrize("n", [2, 3, 4, 5])  # in int64, 2 to 5 errors of 2**62 add up to less than 0, or to 0 or 2**62
def test_errors_that_would_wrap_around(n):
    flow = np.zeros((3, 1, 1, n))
    flow[0], flow[2] = 2.0**19, 1
    with pytest.raises(OverflowError, match=r"\(0, 0, 1\).*2\*\*38"):
        flow_errors(np.ones((1, 1, n), int), flow, (0, 0, 0), np.array([[0.0] * 3, [0, 0, 99]]), 1)


def test_reads_a_flow_as_it_lies():
    rng = np.random.default_rng(2)
    numbers = rng.integers(0, 4, (4, 5, 6))
    flow = rng.normal(size=(3, 4, 5, 6)).astype(np.float32)
    centres = rng.uniform(0, 5, (4, 3))
    expected = flow_errors(numbers, flow, (0, 0, 0), centres, 3)
    for view in (np.asfortranarray(flow), np.repeat(flow, 2, axis=3)[:, :, :, ::2]):
        view.flags.writeable = False
        actual = flow_errors(np.asfortranarray(numbers), view, (0, 0, 0), np.asfortranarray(centres), 3)
        np.testing.assert_array_equal(actual, expected)


def test_background_flow_is_not_looked_at():
    numbers = np.array([[[0, 1]]])
    flow = np.zeros((3, 1, 1, 2))
    flow[:, 0, 0, 0] = np.nan
    assert flow_errors(numbers, flow, (0, 0, 0), np.zeros((2, 3)), 1).tolist() == [0, 2**24]


def test_empty_block():
    sums = flow_errors(np.zeros((2, 0, 3), int), np.zeros((3, 2, 0, 3)), (0, 0, 0), np.zeros((3, 3)), 2)
    assert sums.tolist() == [0, 0, 0]


ONES = np.ones((1, 2, 2), np.int64)
CENTRES = np.zeros((2, 3))


def changed(array, index, value):
    copy = array.copy()
    copy[index] = value
    return copy


FLOW = np.zeros((3, 1, 2, 2))


@pytest.mark.parametrize(
    ("numbers", "flow", "centres", "error", "message"),
    [
        (ONES, changed(FLOW, (2, 0, 1, 0), np.nan), CENTRES, ValueError, r"nan.* at voxel \(10, 21, 30\) is"),
        (
            ONES,
            changed(FLOW, (0, 0, 1, 1), -np.inf),
            CENTRES,
            ValueError,
            r"-inf.* at voxel \(10, 21, 31\) is",
        ),
        (ONES, changed(FLOW, (0, 0, 1, 1), 1e200), CENTRES, OverflowError, r"1e\+200.*2\*\*38"),
        (ONES, changed(FLOW, (0, 0, 1, 1), 2.0**20), CENTRES, OverflowError, r"\(10, 21, 31\).*2\*\*38"),
        (ONES, FLOW + 2.0**18, CENTRES, OverflowError, r"\(10, 20, 31\).*2\*\*38"),
        (
            2 * ONES,
            FLOW,
            CENTRES,
            ValueError,
            r"numbers: 2 at voxel \(10, 20, 30\), expected 0 to n_numbers = 1",
        ),
        (changed(ONES, (0, 1, 1), -1), FLOW, CENTRES, ValueError, r"numbers: -1 at voxel \(10, 21, 31\)"),
        (ONES, FLOW[:, :, :1], CENTRES, ValueError, "flow: shape"),
        (ONES, FLOW, np.zeros((3, 3)), ValueError, "centres: shape"),
        (ONES, FLOW, np.full((2, 3), np.nan), ValueError, "of number 1 is not finite"),
        (ONES.astype(float), FLOW, CENTRES, TypeError, "numbers: dtype float64"),
        (ONES, FLOW.astype(complex), CENTRES, TypeError, "flow: dtype complex128"),
    ],
)
def test_refuses(numbers, flow, centres, error, message):
    with pytest.raises(error, match=message):
        flow_errors(numbers, flow, (10, 20, 30), centres, 1)
