"""The contact tables against one face at a time, and block by block."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topo_dask.kernels.contacts import FIRST_ROWS, MODES, tabulate_contacts, unite_contacts
from topo_dask.kernels.flow_types import readable_flow

UNIT = 2.0**-24


def brute_force(numbers, flow, core_shape, mode):
    """One Python float at a time: {pair: [sum, faces]}, sorted."""
    flow = flow.astype(np.float64 if flow.dtype.str[1:] == "f8" else np.float32)
    table = {}
    for voxel in np.ndindex(*core_shape):
        for axis in range(3):
            other = tuple(v + (k == axis) for k, v in enumerate(voxel))
            if other[axis] == numbers.shape[axis]:
                continue
            pair = tuple(sorted((int(numbers[voxel]), int(numbers[other]))))
            if pair[0] == 0 or pair[0] == pair[1]:
                continue
            f = [float(v) for v in flow[(slice(None), *voxel)]]
            g = [float(v) for v in flow[(slice(None), *other)]]
            score = (f[0] * g[0] + f[1] * g[1]) + f[2] * g[2]
            if mode == "agglomerate":
                score = score + (f[axis] - g[axis])
            row = table.setdefault(pair, [0, 0])
            row[0] += round(score * 2**24)  # round() is half to even
            row[1] += 1
    return dict(sorted(table.items()))


def as_table(pairs, sums, faces):
    assert pairs.dtype == sums.dtype == faces.dtype == np.int64
    assert pairs.shape == (len(sums), 2)
    rows = zip(pairs.tolist(), sums.tolist(), faces.tolist(), strict=True)
    table = {tuple(pair): [total, n] for pair, total, n in rows}
    assert len(table) == len(pairs)
    return table


def draw_flow(rng, shape, dtype):
    if np.dtype(dtype).kind == "i":
        return rng.integers(-3, 4, (3, *shape)).astype(dtype)
    return rng.normal(size=(3, *shape)).astype(dtype)


# every type of either array once: the kernel is compiled for each combination
DTYPES = [
    (np.int32, np.float32),
    (np.int64, np.float64),
    (np.int32, ">f4"),
    (np.int64, ">f8"),
    (np.uint8, np.float16),
    (np.uint16, np.int8),
    (np.uint32, np.int64),
]


@st.composite
def volumes(draw, max_side=6, dtypes=DTYPES):
    shape = draw(st.tuples(*[st.integers(1, max_side)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype, flow_dtype = draw(st.sampled_from(dtypes))
    top = min(np.iinfo(dtype).max, 1 << 62)
    names = np.array([0, *draw(st.lists(st.integers(1, top), min_size=1, max_size=5))], dtype)
    return names[rng.integers(0, len(names), shape)], draw_flow(rng, shape, flow_dtype)


@settings(max_examples=300, deadline=None)
@given(volumes(), st.tuples(*[st.booleans()] * 3), st.sampled_from(MODES))
def test_equals_brute_force(volume, margins, mode):
    numbers, flow = volume
    core = tuple(n - m for n, m in zip(numbers.shape, margins, strict=True))
    actual = as_table(*tabulate_contacts(numbers, flow, core, mode))
    expected = brute_force(numbers, flow, core, mode)
    assert actual == expected
    assert list(actual) == list(expected)


@st.composite
def cuts(draw, n):
    inner = draw(st.lists(st.integers(1, n), max_size=3, unique=True))
    edges = sorted({0, n, *inner})
    return list(pairwise(edges))


@settings(max_examples=200, deadline=None)
@given(st.data(), volumes(max_side=9, dtypes=DTYPES[:1]), st.sampled_from(MODES))
def test_tables_of_blocks_add_up(data, volume, mode):
    numbers, flow = volume
    total = {}
    per_axis = [data.draw(cuts(n)) for n in numbers.shape]
    for index in np.ndindex(*map(len, per_axis)):
        core = [per_axis[k][i] for k, i in enumerate(index)]
        block = tuple(slice(b, min(e + 1, n)) for (b, e), n in zip(core, numbers.shape, strict=True))
        shape = tuple(e - b for b, e in core)
        for pair, row in as_table(*tabulate_contacts(numbers[block], flow[:, *block], shape, mode)).items():
            total[pair] = [a + b for a, b in zip(total.get(pair, [0, 0]), row, strict=True)]
    assert total == as_table(*tabulate_contacts(numbers, flow, numbers.shape, mode))


@pytest.mark.parametrize("mode", MODES)
def test_many_pairs(mode):
    rng = np.random.default_rng(0)
    shape = (7, 9, 70)
    numbers = rng.integers(1, 1 << 62, 100)[rng.integers(0, 100, shape)]  # most pairs come back in a grown table
    flow = draw_flow(rng, shape, np.float32)
    actual = tabulate_contacts(numbers, flow, shape, mode)
    assert len(actual[0]) > 8 * FIRST_ROWS
    expected = brute_force(numbers, flow, shape, mode)
    assert as_table(*actual) == expected
    assert [tuple(p) for p in actual[0].tolist()] == list(expected)


@pytest.mark.parametrize("n", [FIRST_ROWS, FIRST_ROWS + 1, 2 * FIRST_ROWS, 2 * FIRST_ROWS + 1])
@pytest.mark.parametrize("axis", [2, 0], ids=["all in one row of voxels", "one in each row"])
def test_pairs_up_to_the_last_row_of_a_table(axis, n):
    numbers = np.moveaxis(np.arange(1, n + 2)[None, None], 2, axis)
    pairs, sums, faces = tabulate_contacts(numbers, np.ones((3, *numbers.shape)), numbers.shape, "adjacent")
    assert pairs.tolist() == [[i, i + 1] for i in range(1, n + 1)]
    assert (sums.tolist(), faces.tolist()) == ([3 << 24] * n, [1] * n)


@pytest.mark.parametrize("mode", MODES)
def test_order_of_evaluation(mode):
    rng = np.random.default_rng(5)
    numbers = np.arange(1, 1001).reshape(10, 10, 10)
    flow = rng.uniform(-1e4, 1e4, (3, 10, 10, 10))  # so long that the last bit of a float64 is about one unit
    actual = as_table(*tabulate_contacts(numbers, flow, numbers.shape, mode))
    assert actual == brute_force(numbers, flow, numbers.shape, mode)


def test_pairs_that_share_hash_bits():
    numbers = np.zeros((1, 2, 4000), np.int64)
    numbers[0, 0, ::2] = np.arange(1, 2001) << 32
    numbers[0, 1, ::2] = np.arange(1, 2001) << 40
    flow = np.zeros((3, *numbers.shape), np.float32)
    assert as_table(*tabulate_contacts(numbers, flow, numbers.shape, "adjacent")) == brute_force(
        numbers, flow, numbers.shape, "adjacent"
    )


def test_half_units_round_to_even():
    numbers = np.array([[[1, 2, 1]]])
    for half, expected in ((0.5, 0), (1.5, 4), (2.5, 4), (-0.5, 0), (-1.5, -4)):
        flow = np.zeros((3, 1, 1, 3))
        flow[0] = [half * UNIT, 1, half * UNIT]
        _, sums, _ = tabulate_contacts(numbers, flow, (1, 1, 3), "adjacent")
        assert sums.tolist() == [expected]


def test_reads_a_flow_as_it_lies():
    rng = np.random.default_rng(1)
    numbers = rng.integers(0, 4, (4, 5, 6)).astype(np.int32)
    flow = draw_flow(rng, numbers.shape, np.float32)
    expected = as_table(*tabulate_contacts(numbers, flow, numbers.shape, "agglomerate"))
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(flow, 0, -1)), -1, 0)
    for view in (np.asfortranarray(flow), last, np.repeat(flow, 2, axis=3)[:, :, :, ::2]):
        view.flags.writeable = False
        assert np.shares_memory(view, readable_flow(view))
        assert as_table(*tabulate_contacts(np.asfortranarray(numbers), view, numbers.shape, "agglomerate")) == expected


def test_no_contacts():
    flow = np.full((3, 2, 2, 2), np.nan, np.float32)  # nobody looks at the flow where no face counts
    for numbers in (np.zeros((2, 2, 2), int), np.full((2, 2, 2), 3)):
        pairs, sums, faces = tabulate_contacts(numbers, flow, (2, 2, 2), "adjacent")
        assert (pairs.shape, sums.shape, faces.shape) == ((0, 2), (0,), (0,))
    assert len(tabulate_contacts(np.ones((1, 0, 1), int), flow[:, :1, :0, :1], (1, 0, 1), "adjacent")[0]) == 0


TWO = np.array([[[1, 2]]])


def two(value, dtype=np.float64):
    flow = np.ones((3, 1, 1, 2), dtype)
    flow[1, 0, 0, 1] = value
    return flow


@pytest.mark.parametrize(
    ("numbers", "flow", "core", "mode", "error", "message"),
    [
        (TWO, two(np.nan), (1, 1, 2), "adjacent", ValueError, r"nan.* at voxel \(10, 20, 31\) is not finite"),
        (TWO, two(np.inf, np.float32), (1, 1, 2), "agglomerate", ValueError, r"\(10, 20, 31\)"),
        (TWO[..., ::-1], two(-np.inf)[..., ::-1], (1, 1, 1), "adjacent", ValueError, r"\(10, 20, 30\)"),
        (TWO, two(1e300), (1, 1, 2), "adjacent", OverflowError, r"2\*\*53"),
        (TWO, two(2.0**29 + 1), (1, 1, 2), "adjacent", OverflowError, r"2\*\*53"),
        (TWO, np.full((3, 1, 1, 2), 1e200), (1, 1, 2), "adjacent", OverflowError, r"2\*\*53"),
        (TWO, two(1), (1, 1, 2), "nearby", ValueError, "nearby"),
        (TWO, two(1), (1, 1, 0), "adjacent", ValueError, "core_shape"),
        (TWO, two(1), (1, 1, 3), "adjacent", ValueError, "core_shape"),
        (TWO, two(1)[:2], (1, 1, 2), "adjacent", ValueError, "flow: shape"),
        (TWO.astype(float), two(1), (1, 1, 2), "adjacent", TypeError, "numbers: dtype float64"),
        (TWO.astype(np.uint64), two(1), (1, 1, 2), "adjacent", TypeError, "numbers: dtype uint64"),
        (TWO, two(1).astype(complex), (1, 1, 2), "adjacent", TypeError, "flow: dtype complex128"),
        (TWO, two(1).astype(np.longdouble), (1, 1, 2), "adjacent", TypeError, "flow: dtype"),
    ],
)
def test_refuses(numbers, flow, core, mode, error, message):
    with pytest.raises(error, match=message):
        tabulate_contacts(numbers, flow, core, mode, origin=(10, 20, 30))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("length", [1024, 4096])
def test_refuses_a_sum_that_would_wrap(length, sign):
    numbers = np.ones((1, 2, length), np.int64)
    numbers[0, 1] = 2
    flow = np.zeros((3, 1, 2, length))
    flow[0] = 2.0**14  # every score is 2**28, which is 2**52 units; 4096 of them wrap to 0
    flow[0, 0, 1] *= sign
    assert tabulate_contacts(numbers[..., :8], flow[..., :8], (1, 2, 8), "adjacent")[1].tolist() == [sign * 2**55]
    with pytest.raises(OverflowError, match=r"2\*\*62 together"):
        tabulate_contacts(numbers, flow, numbers.shape, "adjacent")


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**32 - 1), st.sampled_from([-0.5, 0.0, 0.25]))
def test_unites_above_the_threshold(n_nodes, seed, threshold):
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, n_nodes, (rng.integers(0, 15), 2))
    faces = rng.integers(1, 5, len(pairs))
    sums = (faces * rng.integers(-4, 5, len(pairs))) << 22  # means are multiples of 0.25: many equal the threshold
    expected = list(range(n_nodes))
    for _ in range(n_nodes):
        for (a, b), total, n in zip(pairs.tolist(), sums.tolist(), faces.tolist(), strict=True):
            if total / 2**24 / n > threshold:
                expected[a] = expected[b] = min(expected[a], expected[b])
    assert unite_contacts(pairs, sums, faces, n_nodes, threshold).tolist() == expected


@pytest.mark.parametrize(("sign", "roots"), [(1, [0, 0]), (-1, [0, 1])])
def test_unite_refuses_inexact_sums(sign, roots):
    pairs, faces = np.array([[0, 1]]), np.array([1])
    assert unite_contacts(pairs, np.array([sign * 2**53]), faces, 2, 0.0).tolist() == roots
    with pytest.raises(OverflowError, match=r"2\*\*53"):
        unite_contacts(pairs, np.array([sign * (2**53 + 1)]), faces, 2, 0.0)
