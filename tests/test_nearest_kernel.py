"""The nearest-seed kernel against brute force, ties included."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topo_dask.kernels.around import look_around
from topo_dask.kernels.distances import box_distances2, box_reaches2, point_distances2
from topo_dask.kernels.nearest import LINES, NO_SEED, nearest, nearest_of


def brute_force(seeds, seeds_start, target_start, target_shape):
    """Compare every voxel of the target with every seed: lowest (squared distance, label)."""
    found = [(tuple(p), int(seeds[tuple(p)])) for p in np.argwhere(seeds)]
    d2 = np.full(target_shape, NO_SEED, np.int64)
    label = np.zeros(target_shape, np.int64)
    for voxel in np.ndindex(*target_shape):
        candidates = [
            (
                sum((t + v - s - p) ** 2 for t, v, s, p in zip(target_start, voxel, seeds_start, at, strict=True)),
                of,
            )
            for at, of in found
        ]
        if candidates:
            d2[voxel], label[voxel] = min(candidates)
    return d2, label


def assert_same(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == np.int64
        np.testing.assert_array_equal(a, e)


shapes = st.tuples(*[st.integers(1, 5)] * 3)
starts = st.tuples(*[st.integers(-9, 9)] * 3)


@st.composite
def seeded_boxes(draw):
    """Few labels on many voxels, so that most distances are tied."""
    shape = draw(shapes)
    dtype = draw(st.sampled_from([np.uint8, np.int32, np.int64]))
    names = draw(st.lists(st.integers(1, np.iinfo(dtype).max), min_size=1, max_size=4, unique=True))
    n = int(np.prod(shape))
    values = draw(st.lists(st.sampled_from([0, 0, *names]), min_size=n, max_size=n))
    return np.array(values, dtype).reshape(shape), draw(starts)


@settings(max_examples=300, deadline=None)
@given(seeded_boxes(), starts, shapes)
def test_equals_brute_force(box, target_start, target_shape):
    args = (*box, target_start, target_shape)
    assert_same(nearest(*args), brute_force(*args))


@settings(max_examples=200, deadline=None)
@given(seeded_boxes(), st.lists(starts, max_size=12))
def test_points_equal_brute_force(box, points):
    points = np.array(points, np.int64).reshape(-1, 3)
    expected = [brute_force(*box, tuple(p.tolist()), (1, 1, 1)) for p in points]
    d2, label = nearest_of(*box, points)
    assert d2.tolist() == [int(e[0].item()) for e in expected]
    assert label.tolist() == [int(e[1].item()) for e in expected]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(seeded_boxes(), st.integers(0, 4)), min_size=1, max_size=3),
    st.lists(starts, min_size=1, max_size=8),
    st.integers(0, 4),
)
def test_around_points_equals_brute_force(boxes, points, radius):
    # Several blocks, in which only the labels of a point's span are seeds; some points are not asked about.
    points = np.array(points, np.int64)
    rows = np.arange(0, len(points), 2)
    lowest = np.arange(len(points), dtype=np.int32) % 3 + 1
    highest = lowest + 3
    best, labels = np.full(len(points), NO_SEED), np.zeros(len(points), np.int32)
    expected = [(NO_SEED, 0)] * len(points)
    for (seeds, start), shift in boxes:
        numbers = (seeds % 7).astype(np.uint32)
        lut = np.array([(n + shift) % 7 for n in range(6)], np.int32)
        look_around(numbers, lut, (lowest, highest), start, points, rows, radius, best, labels)
        for row in rows:
            meant = np.append(0, np.where((lut >= lowest[row]) & (lut <= highest[row]), lut, 0))[numbers]
            d2, label = (
                int(found.item()) for found in brute_force(meant, start, tuple(points[row].tolist()), (1, 1, 1))
            )
            if d2 <= radius * radius:
                expected[row] = min(expected[row], (d2, label))
    assert list(zip(best.tolist(), labels.tolist(), strict=True)) == expected


@pytest.mark.parametrize("target_start", [(0, 0, 0), (-3, 5, -70), (40, 0, 2)])
def test_more_lines_than_a_batch(target_start):
    rng = np.random.default_rng(3)
    shape = (3, 4, LINES + 7)
    seeds = np.where(rng.random(shape) < 0.02, rng.integers(1, 4, shape), 0)
    args = (seeds, (0, 0, 0), target_start, shape)
    assert_same(nearest(*args), brute_force(*args))


def test_every_tie_goes_to_the_lower_label():
    target = (2, 2, 2)
    corners = list(itertools.product((0, 4), repeat=3))
    for shift in range(8):
        seeds = np.zeros((5, 5, 5), np.int64)
        for i, corner in enumerate(corners):
            seeds[corner] = 100 + (i + shift) % 8
        d2, label = nearest(seeds, (0, 0, 0), target, (1, 1, 1))
        assert (d2.item(), label.item()) == (12, 100)


def test_strided_and_read_only_seeds():
    seeds = np.zeros((6, 8, 10), np.int32)
    seeds[2, 4, 6], seeds[4, 0, 0] = 5, 9
    view = seeds[::2, ::-2, ::2].transpose(2, 0, 1)
    view.flags.writeable = False
    args = (view, (1, 2, 3), (0, 0, 0), (4, 4, 4))
    assert_same(nearest(*args), brute_force(*args))


def test_seeds_are_not_modified():
    seeds = np.arange(27).reshape(3, 3, 3)
    nearest(seeds, (0, 0, 0), (5, 5, 5), (2, 2, 2))
    np.testing.assert_array_equal(seeds, np.arange(27).reshape(3, 3, 3))


def test_far_apart_within_the_key():
    seeds = np.array([[[1 << 62, 3]]])
    far = 10**8
    d2, label = nearest(seeds, (0, 0, 0), (0, 0, -far), (1, 1, 1))
    assert (d2.item(), label.item()) == (far**2, 1 << 62)


@pytest.mark.parametrize(
    ("seeds_shape", "target_shape"), [((0, 3, 3), (2, 1, 3)), ((2, 2, 2), (2, 0, 3)), ((0, 0, 0), (0, 0, 0))]
)
def test_empty_boxes(seeds_shape, target_shape):
    d2, label = nearest(np.ones(seeds_shape, np.uint8), (0, 0, 0), (1, 1, 1), target_shape)
    assert d2.shape == label.shape == target_shape
    assert (d2 == NO_SEED).all()
    assert not label.any()


@pytest.mark.parametrize(
    ("seeds", "target_start", "error", "message"),
    [
        (np.ones((2, 2), int), (0, 0, 0), ValueError, "expected 3"),
        (np.ones((2, 2, 2)), (0, 0, 0), TypeError, "float64"),
        (np.full((1, 1, 1), -4), (0, 0, 0), ValueError, "label -4"),
        (np.full((1, 1, 1), 2**63, np.uint64), (0, 0, 0), TypeError, "uint64"),
        (np.ones((1, 1, 1), int), (0, 2**31, 0), OverflowError, "62 bits"),
        (np.ones((1, 1, 1), int), (0, 2**40, 0), OverflowError, "62 bits"),
    ],
)
def test_refuses(seeds, target_start, error, message):
    with pytest.raises(error, match=message):
        nearest(seeds, (0, 0, 0), target_start, (1, 1, 1))


def test_the_limit_of_the_key_is_sharp():
    seeds = np.arange(1, 3).reshape(1, 1, 2)  # 2 labels: ranks of 2 bits, squared distances below 2**60
    d2, label = nearest(seeds, (0, 0, 0), (0, 0, 2**30 - 1), (1, 1, 1))
    assert (d2.item(), label.item()) == ((2**30 - 2) ** 2, 2)
    d2, label = nearest(seeds, (0, 0, 0), (0, 0, 2 - 2**30), (1, 1, 1))
    assert (d2.item(), label.item()) == ((2**30 - 2) ** 2, 1)
    for x in (2**30, 1 - 2**30):
        with pytest.raises(OverflowError, match="2 labels"):
            nearest(seeds, (0, 0, 0), (0, 0, x), (1, 1, 1))


def test_the_limit_of_the_key_counts_the_far_end_of_a_long_target():
    seeds = np.arange(1, (1 << 20) + 1).reshape(1, 1, -1)  # ranks of 21 bits, squared distances below 2**41
    far = math.isqrt(2**41 - 1)
    d2, label = nearest(seeds, (0, 0, 0), (0, 0, 0), (1, 1, far + 1))
    assert (d2[0, 0, -1], label[0, 0, -1]) == ((far + 1 - 2**20) ** 2, 2**20)
    with pytest.raises(OverflowError, match="1048576 labels"):
        nearest(seeds, (0, 0, 0), (0, 0, 0), (1, 1, far + 2))


@settings(max_examples=200, deadline=None)
@given(starts, shapes, starts, shapes)
def test_box_distances(start_a, shape_a, start_b, shape_b):
    between = [
        sum((p + i - q - j) ** 2 for p, i, q, j in zip(start_a, a, start_b, b, strict=True))
        for a in np.ndindex(*shape_a)
        for b in np.ndindex(*shape_b)
    ]
    stop_a, stop_b = (
        tuple(p + n for p, n in zip(start, shape, strict=True))
        for start, shape in ((start_a, shape_a), (start_b, shape_b))
    )
    box_a, box_b = (np.array(start_a), np.array(stop_a)), (np.array(start_b), np.array(stop_b))
    for one, other in ((box_a, box_b), (box_b, box_a)):
        assert box_distances2(*one, other[0][None], other[1][None]).tolist() == [min(between)]
        assert box_reaches2(*one, other[0][None], other[1][None]).tolist() == [max(between)]
    points = np.array([[p + i for p, i in zip(start_a, a, strict=True)] for a in np.ndindex(*shape_a)])
    assert point_distances2(points, *box_b).min() == min(between)
