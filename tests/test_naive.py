"""Known answers for the naive version, worked out by hand; the row's id says what it shows.

Most rows live on a line of voxels along x (D = H = 1), where a flow is one number per voxel.
"""

import naive
import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

TENTH = 13421773 / 2**27  # float32(0.1), a 24-bit mantissa


def row(values, dtype=np.int32):
    """Volume of one line along x."""
    return np.array(values, dtype)[None, None]


def plane(rows, dtype=np.int32):
    """Volume of one z."""
    return np.array(rows, dtype)[None]


def x_flow(values, dtype=np.float32):
    """Flow along x only, of one line."""
    return np.stack([np.zeros_like(row(values, dtype))] * 2 + [row(values, dtype)])


def yx_flow(vectors):
    """Flow [3, 1, H, W] from rows of (dy, dx)."""
    yx = np.array(vectors, np.float32)
    return np.stack([np.zeros_like(yx[..., 0]), yx[..., 0], yx[..., 1]])[:, None]


def same(found, expected):
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


# ------------------------------------------------------------ track


@pytest.mark.parametrize(
    ("mask", "flow", "n_steps", "step_size", "x_ends"),
    [
        pytest.param([0, 1, 1], x_flow([1, 1, 1]), 0, 1.0, [1, 2], id="no steps: the start positions"),
        pytest.param([1, 0, 0, 0, 0], x_flow([1] * 5), 2, 1.0, [2], id="two steps of one voxel"),
        pytest.param([1, 0, 0, 0, 0], x_flow([1] * 5), 9, 1.0, [4], id="clipped to size - 1"),
        pytest.param([0, 0, 1], x_flow([-5] * 3), 1, 1.0, [0], id="clipped to 0"),
        pytest.param([1, 0, 0], x_flow([1, 0, 0]), 2, 0.5, [1], id="step size; at 0.5 it still reads voxel 0"),
        # 0.75 still reads voxel 0 (rounded, it would be voxel 1 and lead to 0.25); 1.5 reads voxel 1
        pytest.param([1, 0, 0], x_flow([0.75, -0.5, 0]), 2, 1.0, [1.5], id="truncated, not rounded nor blended"),
        pytest.param([1, 0, 0], x_flow([0.75, -0.5, 0]), 3, 1.0, [1.0], id="and once more"),
        pytest.param([1, 0, 0, 0], x_flow([1, 1, 1, 0]), 3, 1.0, [3], id="background flow moves particles"),
        # 3 * 13421773 = 40265319 needs 26 bits; to 24 bits it is 40265320
        pytest.param([1, 0], x_flow([0.1, 0]), 1, 3.0, [40265320 / 2**27], id="product rounded in float32"),
        pytest.param([1, 0], x_flow([0.1, 0], np.float64), 1, 3.0, [0.30000000000000004], id="product in float64"),
        pytest.param([1, 0], x_flow([0.1, 0]), 3, 1.0, [40265319 / 2**27], id="positions added up in float64"),
        pytest.param([1, 0], x_flow([1, 0]), 1, 0.1, [TENTH], id="the step size is rounded to float32 too"),
        pytest.param([1, 0], x_flow([1, 0], np.float16), 1, 0.1, [TENTH], id="float16 flow becomes float32 first"),
        pytest.param([1, 0], x_flow([1, 0], np.int8), 1, 0.1, [TENTH], id="integer flow becomes float32 first"),
        pytest.param([1, 0], x_flow([1, 0], ">f4"), 1, 0.1, [TENTH], id="big-endian float32 is float32"),
        pytest.param([1, 0], x_flow([1, 0], ">f8"), 1, 0.1, [0.1], id="big-endian float64 is float64"),
        pytest.param([1, 0, 0], x_flow([3e38, 0, 0]), 1, 3.0, [2], id="a product beyond float32 is clipped"),
    ],
)
def test_track_flows_on_a_line(mask, flow, n_steps, step_size, x_ends):
    fg_coords, ends = naive.track_flows(row(mask, bool), flow, n_steps, step_size)
    assert fg_coords.dtype == np.int64
    assert ends.dtype == np.float64
    np.testing.assert_array_equal(fg_coords, [[0, 0, x] for x in np.flatnonzero(mask)])
    np.testing.assert_array_equal(ends, [[0, 0, x] for x in x_ends])


def test_track_flows_reads_all_components_at_the_same_index():
    # At (0, 0, 0) both dz and dx are 1; at (1, 0, 0), where dz alone leads, dx is 0.
    flow = np.zeros((3, 2, 1, 2), np.float32)
    flow[0, 0, 0, 0] = flow[2, 0, 0, 0] = 1
    start = np.zeros((2, 1, 2), bool)
    start[0, 0, 0] = True
    _, ends = naive.track_flows(start, flow, 1)
    np.testing.assert_array_equal(ends, [[1, 0, 1]])


def test_track_flows_starts_in_raster_order():
    mask = np.array([[[0, 1], [1, 0]], [[1, 0], [0, 1]]], bool)
    fg_coords, ends = naive.track_flows(mask, np.zeros((3, 2, 2, 2), np.float32), 5)
    np.testing.assert_array_equal(fg_coords, [[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(ends, fg_coords)


@pytest.mark.parametrize(
    ("flow", "n_steps", "is_read"),
    [
        pytest.param([np.nan, 0, 0], 1, True, id="NaN under the start"),
        pytest.param([np.nan, 0, 0], 0, False, id="no step, nothing read"),
        pytest.param([1, np.inf, 0], 1, False, id="the end point is not read"),
        pytest.param([1, np.inf, 0], 2, True, id="the second step reads it"),
        pytest.param([1, 0, -np.inf], 9, False, id="nobody comes by"),
    ],
)
def test_track_flows_refuses_what_is_not_finite_where_it_is_read(flow, n_steps, is_read):
    mask = row([1, 0, 0], bool)
    if is_read:
        with pytest.raises(ValueError, match=r"flow: .* not finite"):
            naive.track_flows(mask, x_flow(flow), n_steps)
    else:
        naive.track_flows(mask, x_flow(flow), n_steps)


# ------------------------------------------------------------ cluster


@pytest.mark.parametrize(
    ("x_ends", "radius", "min_size", "expected"),
    [
        pytest.param([0, 1], 1.5, 0, [1, 1], id="centres 1 apart, radius 1.5: linked"),
        pytest.param([0, 2], 2.0, 0, [1, 2], id="exactly the radius apart: not linked"),
        pytest.param([0, 2 - 2**-7], 2.0, 0, [1, 1], id="just below the radius: linked"),
        pytest.param([0, 1, 2], 1.5, 0, [1, 1, 1], id="single linkage: 0 and 2 meet through 1"),
        # g = 1: rint(0.5) = 0, rint(1.5) = rint(2.5) = 2; those two share a sink although 1 apart
        pytest.param([0.5, 1.5, 2.5], 0.5, 0, [1, 2, 2], id="cells round half to even"),
        pytest.param([1.25, 0.75], 0.5, 0, [1, 1], id="a cell is not smaller than 1: one sink at 1"),
        # cell 0 holds 0 and 0.5, centre 0.25, which is 1.75 from 2; the first end point is 2 from it
        pytest.param([0, 0.5, 2], 2.0, 0, [1, 1, 1], id="the centre is the mean"),
        # g = 2: cells 0, 1 (4 / 2 = 2): centres 0 and 4, radius 4
        pytest.param([0, 4], 4.0, 0, [1, 2], id="exactly the radius apart, cells of edge 2"),
        pytest.param([4, 0], 1.0, 0, [2, 1], id="numbered by cell, not by voxel"),
        # 1e-9 * 2**24 = 0.017 rounds to 0, so the centre is 0 and exactly 2 away
        pytest.param([1e-9, 2], 2.0, 0, [1, 2], id="end points count in units of 2**-24"),
        pytest.param([0, 4, 4], 1.0, 2, [0, 1, 1], id="small ones dropped, the rest numbered anew"),
        pytest.param([0, 4, 4], 1.0, 4, [0, 0, 0], id="all dropped"),
    ],
)
def test_cluster_convergence_on_a_line(x_ends, radius, min_size, expected):
    fg_coords = np.array([[0, 0, x] for x in range(len(x_ends))])
    ends = np.array([[0, 0, x] for x in x_ends], np.float64)
    found = naive.cluster_convergence(fg_coords, ends, (1, 1, 5), radius, min_size)
    same(found, row(expected + [0] * (5 - len(expected))))


def test_cluster_convergence_numbers_cells_in_raster_order():
    # Cells of edge 1 in a grid of (2 + 1, 1 + 1, 4 + 1): (1, 0, 0) is number 10, (0, 0, 3) number 3.
    fg_coords = np.array([[0, 0, 0], [0, 0, 1]])
    ends = np.array([[1, 0, 0], [0, 0, 3]], np.float64)
    same(naive.cluster_convergence(fg_coords, ends, (2, 1, 4), 1.0, 0), [[[2, 1, 0, 0]], [[0] * 4]])


def test_cluster_convergence_clips_the_last_cell():
    # g = 5, size 9: rint(8 / 5) = 2 but int(9 / 5) = 1, so x = 8 and x = 5 share a cell with centre (0, 6.5).
    # That is sqrt(64 + 42.25) = 10.3 from (8, 0), too far; x = 5 alone would be sqrt(64 + 25) = 9.4 from it.
    fg_coords = np.array([[0, 0, 0], [0, 0, 1], [0, 0, 2]])
    ends = np.array([[0, 0, 8], [0, 0, 5], [0, 8, 0]], np.float64)
    found = naive.cluster_convergence(fg_coords, ends, (1, 9, 9), 10.0, 0)
    np.testing.assert_array_equal(found[0, 0, :3], [1, 1, 2])


def test_cluster_convergence_links_along_every_axis():
    # g = 1: (0, 0, 0) is sqrt(3) = 1.73 from (1, 1, 1) and exactly 2 from (2, 0, 0).
    fg_coords = np.array([[0, 0, 0], [0, 0, 1]])
    for other, radius, expected in [((1, 1, 1), 1.75, 1), ((1, 1, 1), 1.7, 2), ((2, 0, 0), 2.0, 2)]:
        ends = np.array([(0, 0, 0), other], np.float64)
        found = naive.cluster_convergence(fg_coords, ends, (3, 3, 3), radius, 0)
        np.testing.assert_array_equal(found[0, 0, :2], [1, expected])


def test_cluster_convergence_of_nothing():
    nothing = np.zeros((0, 3))
    same(naive.cluster_convergence(nothing.astype(np.int64), nothing, (1, 2, 2), 4.0, 0), np.zeros((1, 2, 2)))


# ------------------------------------------------------------ number and filter


@pytest.mark.parametrize(
    ("labels", "dtype", "expected"),
    [
        pytest.param([0, 7, 3, 7], np.int32, [0, 2, 1, 2], id="ascending order of the old ids"),
        pytest.param([5, 5], np.uint16, [1, 1], id="without background"),
        pytest.param([0, 0], np.int64, [0, 0], id="nothing"),
        pytest.param([2**40, 0, 2**31], np.int64, [2, 0, 1], id="above 2**31"),
        pytest.param([2**64 - 1, 2**64 - 2, 0], np.uint64, [2, 1, 0], id="neighbours that a float64 confounds"),
    ],
)
def test_compact_relabel(labels, dtype, expected):
    same(naive.compact_relabel(row(labels, dtype)), row(expected))


@pytest.mark.parametrize(
    ("labels", "min_size", "expected"),
    [
        pytest.param([1, 1, 2, 3, 3], 2, [1, 1, 0, 2, 2], id="2 is too small, 3 becomes 2"),
        pytest.param([1, 1, 2, 3, 3], 3, [0, 0, 0, 0, 0], id="all too small"),
        pytest.param([9, 9, 2, 0, 0], 0, [2, 2, 1, 0, 0], id="min_size 0 numbers alone"),
        pytest.param([0, 0, 0, 4, 4], 3, [0, 0, 0, 0, 0], id="background is no instance, whatever its size"),
        pytest.param([2**63, 2**63, 1, 0, 0], 2, [1, 1, 0, 0, 0], id="above 2**31"),
    ],
)
def test_filter_small(labels, min_size, expected):
    dtype = np.uint64 if max(labels) > 2**31 else np.int32
    same(naive.filter_small(row(labels, dtype), min_size), row(expected))


# ------------------------------------------------------------ split and orphans


@pytest.mark.parametrize(
    ("labels", "ratio", "expected"),
    [
        pytest.param([[1, 1, 0]], 0.1, [[1, 1, 0]], id="one fragment"),
        # max(1, int(2 * 0.1)) = 1
        pytest.param([[1, 0, 1]], 0.1, [[1, 0, 2]], id="two fragments, both large"),
        pytest.param([[1, 0], [0, 1]], 0.1, [[1, 0], [0, 2]], id="corners and edges do not connect"),
        pytest.param([[0, 0, 1], [1, 0, 1]], 0.1, [[0, 0, 1], [2, 0, 1]], id="fragments by first voxel"),
        pytest.param([[5, 0, 5, 3]], 0.1, [[2, 0, 3, 1]], id="instances in ascending order"),
        # 4 voxels, int(4 * 0.75) = 3, fragments of 2
        pytest.param([[1, 1, 0, 1, 1]], 0.75, [[1, 1, 0, 1, 1]], id="none large: whole"),
        # 5 voxels, int(5 * 0.4) = 2; the single voxel is 2 from either
        pytest.param([[1, 1, 0, 1, 0, 1, 1]], 0.4, [[1, 1, 0, 1, 0, 2, 2]], id="a tie goes to the lower new id"),
        # 4 voxels, int(4 * 0.5) = 2; x = 5 is beside instance 2
        pytest.param([[1, 1, 1, 2, 2, 1]], 0.5, [[1, 1, 1, 2, 2, 1]], id="nearest of the same instance"),
        # 5 voxels, int(2.0) = 2; (0, 0) is sqrt(8) from (2, 2) and 3 from (0, 3), in steps 4 and 3
        pytest.param(
            [[1, 0, 0, 1, 1], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0]],
            0.4,
            [[2, 0, 0, 1, 1], [0, 0, 0, 0, 0], [0, 0, 2, 0, 0], [0, 0, 2, 0, 0]],
            id="nearest by Euclid",
        ),
        # 21 voxels, int(2.1) = 2
        pytest.param([[1] * 20 + [0, 1]], 0.1, [[1] * 20 + [0, 1]], id="a small fragment goes to the only large one"),
        # 20 voxels, int(2.0) = 2 = the size of the second
        pytest.param([[1] * 18 + [0, 1, 1]], 0.1, [[1] * 18 + [0, 2, 2]], id="exactly the ratio is large"),
    ],
)
def test_split_disconnected(labels, ratio, expected):
    same(naive.split_disconnected(plane(labels), ratio), plane(expected))


def test_split_disconnected_takes_wide_ids():
    same(naive.split_disconnected(row([2**40, 0, 2**40, 2**63], np.uint64)), row([1, 0, 2, 3]))


@pytest.mark.parametrize(
    ("labels", "mask", "expected"),
    [
        pytest.param([0, 1, 0, 0, 2, 0], [1, 1, 1, 0, 1, 1], [1, 1, 1, 0, 2, 2], id="nearest, foreground only"),
        pytest.param([2, 0, 1], [1, 1, 1], [2, 1, 1], id="a tie goes to the lower label"),
        pytest.param([0, 0, 0, 0, 0, 7], [1, 0, 0, 0, 0, 1], [7, 0, 0, 0, 0, 7], id="however far, id kept"),
        pytest.param([0, 0], [1, 1], [0, 0], id="nothing labelled"),
        pytest.param([3, 4], [1, 1], [3, 4], id="no orphans"),
    ],
)
def test_recover_orphans(labels, mask, expected):
    same(naive.recover_orphans(row(labels), row(mask, bool)), row(expected))


def test_recover_orphans_measures_by_euclid():
    # (0, 0) is sqrt(8) from the 2 at (2, 2), and 3 from the 1 at (0, 3), which in steps is nearer.
    labels = plane([[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 2, 0]])
    mask = plane([[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]], bool)
    same(naive.recover_orphans(labels, mask), plane([[2, 0, 0, 1], [0, 0, 0, 0], [0, 0, 2, 0]]))


def test_recover_orphans_refuses_labels_that_do_not_fit():
    with pytest.raises(OverflowError, match="labels: largest is 2147483648"):
        naive.recover_orphans(row([2**31, 0], np.int64), row([1, 1], bool))


# ------------------------------------------------------------ merge


@pytest.mark.parametrize(
    ("labels", "flow", "threshold", "expected"),
    [
        pytest.param([1, 2], [1, 1], 0.0, [1, 1], id="same way, 1 > 0"),
        pytest.param([1, 2], [1, -1], 0.0, [1, 2], id="against each other, -1"),
        pytest.param([1, 2], [-1, 1], 0.0, [1, 2], id="parting, -1"),
        pytest.param([1, 2], [1, 0], 0.0, [1, 2], id="0 is not strictly above 0"),
        pytest.param([1, 2], [0.5, 0.5], 0.25, [1, 2], id="0.25 is not strictly above 0.25"),
        pytest.param([1, 2], [1, -1], -1.5, [1, 1], id="a threshold below zero"),
        pytest.param([1, 0, 2], [1, 1, 1], 0.0, [1, 0, 2], id="a gap is no contact"),
        pytest.param([0, 2], [1, 1], 0.0, [0, 1], id="background does not merge"),
        # 5|2 scores -1, 2|8 scores 1: groups {2, 8} and {5}
        pytest.param([5, 5, 2, 8], [1, 1, -1, -1], 0.0, [2, 2, 1, 1], id="numbered by the lowest old id"),
        # 2**-26 is a quarter of a unit and rounds to 0; 2**-24 is one unit
        pytest.param([1, 2], [2**-13, 2**-13], 0.0, [1, 2], id="a quarter unit rounds to 0"),
        pytest.param([1, 2], [2**-12, 2**-12], 0.0, [1, 1], id="one unit is above 0"),
    ],
)
def test_merge_adjacent_on_a_line(labels, flow, threshold, expected):
    same(naive.merge_adjacent(row(labels), x_flow(flow), threshold), row(expected))


@pytest.mark.parametrize(
    ("labels", "flow", "expected"),
    [
        # faces 1 and -0.5, mean 0.25
        pytest.param([[1, 2], [1, 2]], [[(0, 1), (0, 1)], [(0, 1), (0, -0.5)]], [[1, 1], [1, 1]], id="mean of faces"),
        pytest.param([[1, 2], [1, 2]], [[(0, 1), (0, 1)], [(0, 1), (0, -1)]], [[1, 2], [1, 2]], id="mean 0"),
        pytest.param([[1, 0], [0, 2]], [[(1, 1)] * 2] * 2, [[1, 0], [0, 2]], id="a corner is no contact"),
        # along y the flow (dy, dx) = (1, 0.5) on both sides: 1.25
        pytest.param([[1], [2]], [[(1, 0.5)], [(1, 0.5)]], [[1], [1]], id="faces across y"),
        # 1|2: (0,1)(0,1) = 1; 3|2: (1,-1)(1,0) = 1; 1|3: (0,1)(1,-1) = -1
        pytest.param(
            [[1, 2], [3, 2]],
            [[(0, 1), (0, 1)], [(1, -1), (1, 0)]],
            [[1, 1], [1, 1]],
            id="1 and 3 disagree but meet through 2",
        ),
    ],
)
def test_merge_adjacent_in_a_plane(labels, flow, expected):
    same(naive.merge_adjacent(plane(labels), yx_flow(flow)), plane(expected))


@pytest.mark.parametrize("merge", [naive.merge_adjacent, naive.agglomerate])
def test_merging_compares_the_mean_of_the_faces(merge):
    # Two faces of 0.5 (dot product 0.5, no difference across): the mean is 0.5, the sum is 1.
    labels, flow = plane([[1, 2], [1, 2]]), yx_flow([[(0.5, 0.5)] * 2] * 2)
    same(merge(labels, flow, 0.5), labels)
    same(merge(labels, flow, 0.25), plane([[1, 1], [1, 1]]))


@pytest.mark.parametrize("merge", [naive.merge_adjacent, naive.agglomerate])
def test_merging_takes_wide_ids_and_faces_across_z(merge):
    labels = np.array([2**63, 2**40], np.uint64)[:, None, None]
    flow = np.zeros((3, 2, 1, 1), np.float16)
    same(merge(labels, flow), [[[2]], [[1]]])
    flow[0] = 1
    same(merge(labels, flow), [[[1]], [[1]]])


@pytest.mark.parametrize("merge", [naive.merge_adjacent, naive.agglomerate])
def test_merging_nothing(merge):
    same(merge(row([0, 0], np.uint16), x_flow([1, 1])), row([0, 0]))


@pytest.mark.parametrize(
    ("labels", "flow", "threshold", "expected"),
    [
        pytest.param([1, 2], [1, 1], 0.0, [1, 1], id="same way: 1 + 0"),
        pytest.param([1, 2], [1, -1], 0.0, [1, 1], id="into each other: -1 + 2 = 1"),
        pytest.param([2, 1], [1, -1], 0.0, [1, 1], id="the axis decides the sign, not the ids"),
        pytest.param([1, 2], [-1, 1], 0.0, [1, 2], id="parting: -1 - 2 = -3"),
        pytest.param([1, 2], [1, 0], 1.0, [1, 2], id="0 + 1 is not strictly above 1"),
        pytest.param([1, 2], [0, 0], 0.0, [1, 2], id="0 is not strictly above 0"),
        pytest.param([1, 0, 2], [1, 1, 1], 0.0, [1, 0, 2], id="a gap is no contact"),
        # 1|3 scores 1, 3|2 scores -1 * 1 - 2 = -3: groups {1, 3} and {2}
        pytest.param([1, 3, 3, 2], [1, 1, -1, 1], 0.0, [1, 1, 1, 2], id="a group is called by its lowest"),
        # 5|2 scores 1 * -1 + 2 = 1, 2|8 scores -1 * 1 - 2 = -3: groups {2, 5} and {8}
        pytest.param([8, 2, 5], [-1, 1, -1], 0.0, [2, 1, 1], id="numbered by the lowest old id"),
    ],
)
def test_agglomerate_on_a_line(labels, flow, threshold, expected):
    same(naive.agglomerate(row(labels), x_flow(flow), threshold), row(expected))


@pytest.mark.parametrize(
    ("labels", "flow", "threshold", "expected"),
    [
        # down (dy = 1) into up: -1 + 2 = 1; the other way round -3
        pytest.param([[1], [2]], [[(1, 0)], [(-1, 0)]], 0.0, [[1], [1]], id="into each other across y"),
        pytest.param([[1], [2]], [[(-1, 0)], [(1, 0)]], 0.0, [[1], [2]], id="parting across y"),
        pytest.param([[1], [2]], [[(0, 1)], [(0, -1)]], 0.0, [[1], [2]], id="past each other: -1 + 0"),
        # 1|2: 1 + 0 = 1; 1|3: -1 + (0 - 1) = -2; 3|2: (1,-1)(1,-1) + 0 = 2.
        # {2, 3} first; then 1 against it: (1 - 2) / 2 < 0. Single linkage would unite all three.
        pytest.param(
            [[1, 2], [3, 2]],
            [[(0, 1), (0, 1)], [(1, -1), (1, -1)]],
            0.0,
            [[1, 2], [2, 2]],
            id="average linkage",
        ),
        # 1|2: 1 + 0 = 1; 3|2: (0.5,-1)(0,-1) + 0 = 1; 1|3: -1 + (0 - 0.5) = -1.5.
        # {1, 2} first; then 3 against it: (1 - 1.5) / 2 < 0. With (2, 3) first it would be 1 against {2, 3}.
        pytest.param(
            [[1, 2], [3, 2]],
            [[(0, 1), (0, 1)], [(0.5, -1), (0, -1)]],
            0.0,
            [[1, 1], [2, 1]],
            id="a tie goes to the lowest pair",
        ),
        # 1|2: (0,2)(0,2) + 0 = 4 unites first; 1|3: one face, (0,2)(0,-1) + 0 = -2;
        # 2|3: three faces, 0 + (0 - -1) = 1 each. {1, 2}|3 = (-2 + 3) / 4 = 0.25; the mean of means is -0.5.
        pytest.param(
            [[1, 2, 2, 2], [3, 3, 3, 3]],
            [[(0, 2), (0, 2), (0, 0), (0, 0)], [(0, -1), (-1, 0), (-1, 0), (-1, 0)]],
            0.0,
            [[1, 1, 1, 1], [1, 1, 1, 1]],
            id="sums and counts add up",
        ),
        pytest.param(
            [[1, 2, 2, 2], [3, 3, 3, 3]],
            [[(0, 2), (0, 2), (0, 0), (0, 0)], [(0, -1), (-1, 0), (-1, 0), (-1, 0)]],
            0.25,
            [[1, 1, 1, 1], [2, 2, 2, 2]],
            id="the same, 0.25 is not strictly above 0.25",
        ),
    ],
)
def test_agglomerate_in_a_plane(labels, flow, threshold, expected):
    same(naive.agglomerate(plane(labels), yx_flow(flow), threshold), plane(expected))


# ------------------------------------------------------------ flow error


@pytest.mark.parametrize(
    ("labels", "flow", "threshold", "expected"),
    [
        # centre 1, unit vectors 1, 0, -1
        pytest.param([1, 1, 1], [1, 0, -1], 0.0, [1, 1, 1], id="error 0 is not above 0"),
        # squared differences 1, 0, 1 over 3 * 3: 0.22
        pytest.param([1, 1, 1], [0, 0, 0], 0.2, [0, 0, 0], id="error 2/9 above 0.2"),
        pytest.param([1, 1, 1], [0, 0, 0], 0.25, [1, 1, 1], id="error 2/9 below 0.25"),
        # centre 0.5, unit vectors 1, -1; 2 / 6
        pytest.param([1, 1, 0], [0, 0, 0], 2 / 6, [1, 1, 0], id="exactly the threshold is kept"),
        pytest.param([1, 1, 0], [0, 0, 0], 0.333, [0, 0, 0], id="just above the threshold"),
        pytest.param([1, 1, 0], [-1, 1, 0], 1.3, [0, 0, 0], id="pointing away: (4 + 4) / 6"),
        # centre 0.5 of [0, 1]: wrong, removed; centre 2.5 of [2, 3]: right, becomes 1
        pytest.param([4, 4, 9, 9], [-1, 1, 1, -1], 0.4, [0, 0, 1, 1], id="the rest numbered anew"),
        pytest.param([1, 0, 0], [0, 5, 5], 0.0, [1, 0, 0], id="one voxel: its unit vector is 0"),
        pytest.param([1, 0, 0], [1, 0, 0], 0.3, [0, 0, 0], id="one voxel that moves: 1/3"),
        # centre 1, half way between the two voxels: 1 and -1
        pytest.param([1, 0, 1], [1, 9, -1], 0.0, [1, 0, 1], id="the centre may lie outside"),
        pytest.param([0, 0, 0], [1, 1, 1], 0.4, [0, 0, 0], id="nothing"),
    ],
)
def test_remove_bad_flow_masks(labels, flow, threshold, expected):
    before = row(labels, np.uint32)
    same(naive.remove_bad_flow_masks(before, x_flow(flow), threshold), row(expected))
    np.testing.assert_array_equal(before, row(labels))


def test_remove_bad_flow_masks_normalises_in_three_dimensions():
    # Two opposite corners of a 2 x 3 x 3 box: way to the centre (0.5, 1, 1), length 1.5, so (1, 2, 2) / 3.
    labels = np.zeros((2, 3, 3), np.int32)
    labels[0, 0, 0] = labels[1, 2, 2] = 1
    flow = np.zeros((3, 2, 3, 3))
    flow[:, 0, 0, 0] = np.array([1, 2, 2]) / 3
    flow[:, 1, 2, 2] = np.array([-1, -2, -2]) / 3
    same(naive.remove_bad_flow_masks(labels, flow, 0.0), labels)
    # without any flow the squared differences are 1 and 1: 2 / 6
    same(naive.remove_bad_flow_masks(labels, 0 * flow, 0.33), 0 * labels)
    same(naive.remove_bad_flow_masks(labels, 0 * flow, 0.34), labels)


# ------------------------------------------------------------ the whole

STEPS = {"n_steps": 5, "convergence_radius": 1.5, "min_size": 0}
STAND_STILL = {"n_steps": 0, "convergence_radius": 0.5, "min_size": 0}
# Voxels 0 and 2 end at 2, voxel 1 stays (dy only pushes against the wall): clustered as 2 1 2.
# Scores 0|1: 1, 1|2: -1, mean 0.
CROSSED = yx_flow([[(1, 2), (1, 0), (-1, 0)]])
TO_ONE = x_flow([1, 0, -1, 0, 0])


@pytest.mark.parametrize(
    ("mask", "flow", "parameters", "expected"),
    [
        pytest.param(
            [1, 1, 1, 0, 1, 1, 1],
            x_flow([1, 0, -1, 0, 1, 0, -1]),
            STEPS,
            [1, 1, 1, 0, 2, 2, 2],
            id="two objects, sinks at 1 and 5",
        ),
        pytest.param([0, 0], x_flow([1, 1]), STEPS | {"group": 3}, [0, 0], id="no foreground"),
        pytest.param([1, 0, 1], x_flow([1, 0, -1]), STEPS, [1, 0, 1], id="group 1 leaves fragments"),
        pytest.param([1, 0, 1], x_flow([1, 0, -1]), STEPS | {"group": 2}, [1, 0, 2], id="group 2 splits them"),
        pytest.param([1, 0, 1], x_flow([1, 0, -1]), STEPS | {"group": 3}, [1, 0, 2], id="group 3 splits them too"),
        # end points 1, 1, 1 and 4; the last is alone
        pytest.param([1, 1, 1, 0, 1], TO_ONE, STEPS | {"min_size": 2}, [1, 1, 1, 0, 0], id="too small"),
        pytest.param(
            [1, 1, 1, 0, 1],
            TO_ONE,
            STEPS | {"min_size": 2, "group": 2},
            [1, 1, 1, 0, 0],
            id="group 2: no recovery",
        ),
        # were orphans recovered before the split, voxel 4 would be a fragment of its own
        pytest.param(
            [1, 1, 1, 0, 1],
            TO_ONE,
            STEPS | {"min_size": 2, "group": 3},
            [1, 1, 1, 0, 1],
            id="group 3: split, recover",
        ),
        # with voxel 4 the centre is 1.75, unit vectors 1, 1, -1, -1, flow 1, 0, -1, 0: 2 / 12 = 0.167
        pytest.param(
            [1, 1, 1, 0, 1],
            TO_ONE,
            STEPS | {"min_size": 2, "group": 3, "flow_error_threshold": 0.15},
            [0, 0, 0, 0, 0],
            id="the flow error comes last, and counts orphans",
        ),
        pytest.param(
            [1, 1, 1, 0, 1],
            TO_ONE,
            STEPS | {"min_size": 2, "group": 3, "flow_error_threshold": 0.17},
            [1, 1, 1, 0, 1],
            id="0.167 is below 0.17",
        ),
        pytest.param([1] * 4, x_flow([1] * 4), STAND_STILL, [1, 2, 3, 4], id="a sink per voxel, no merge"),
        pytest.param([1] * 4, x_flow([1] * 4), STAND_STILL | {"merge": "adjacent"}, [1] * 4, id="merged"),
        pytest.param([1] * 4, x_flow([1] * 4), STAND_STILL | {"merge": "agglomerate"}, [1] * 4, id="agglomerated"),
        pytest.param(
            [1] * 4,
            x_flow([1] * 4),
            STAND_STILL | {"merge": "adjacent", "min_size": 2},
            [0] * 4,
            id="the size filter comes before merge_adjacent",
        ),
        pytest.param(
            [1] * 4,
            x_flow([1] * 4),
            STAND_STILL | {"merge": "agglomerate", "min_size": 2},
            [1] * 4,
            id="the size filter comes after agglomerate",
        ),
        pytest.param(
            [1, 1, 0, 1],
            x_flow([1, 1, 0, 1]),
            STAND_STILL | {"merge": "agglomerate", "min_size": 2},
            [1, 1, 0, 0],
            id="and drops what is still small",
        ),
        pytest.param([1] * 3, CROSSED, STAND_STILL | {"n_steps": 1}, [2, 1, 2], id="crossed ways"),
        # after a split 2|1 would score 1 alone and be united
        pytest.param(
            [1] * 3,
            CROSSED,
            STAND_STILL | {"n_steps": 1, "group": 2, "merge": "adjacent"},
            [2, 1, 3],
            id="merge_adjacent comes before the split",
        ),
        # scores 1 + (2 - 0) = 3 and -1 + (0 - 0) = -1, mean 1: all one, and one fragment
        pytest.param(
            [1] * 3,
            CROSSED,
            STAND_STILL | {"n_steps": 1, "group": 2, "merge": "agglomerate"},
            [1, 1, 1],
            id="agglomerate comes before the split",
        ),
    ],
)
def test_postprocess_single(mask, flow, parameters, expected):
    same(naive.postprocess_single(row(mask, bool), flow, **parameters), row(expected))


def test_postprocess_single_defaults():
    # 100 steps of 1 along a line of 60 voxels: all end at 59; 50 voxels are enough, 49 are not.
    for size, expected in [(50, 1), (49, 0)]:
        mask = np.arange(60) < size
        same(naive.postprocess_single(row(mask, bool), x_flow([1] * 60)), row(mask * expected))


def test_run_instance_segmentation():
    semantic = np.array([[0.5, 0.9, 0.9], [1, 1, 1], [0.9, 0, 0.9]], np.float32)[:, None, None]
    flow = np.zeros((9, 1, 1, 3), np.float32)
    flow[8, 0, 0] = [1, 0, -1]  # dx of the third class
    config = {"a": {"group": 1, **STEPS}, "c": {"group": 1, "step_size": 1.0, **STEPS}}
    found = naive.run_instance_segmentation(semantic, flow, ["a", "b", "c"], config)
    assert list(found) == ["a", "c"]  # b has no entry
    same(found["a"], row([0, 1, 1]))  # strictly above 0.5; voxels 1 and 2 stand still, 1 apart
    same(found["c"], row([1, 0, 1]))  # both end at 1


def test_run_instance_segmentation_passes_thresholds_on():
    semantic = row([0.4, 0.4], np.float32)[None]
    flow = x_flow([0, 0])
    config = {"a": {"group": 1, **STEPS}}
    same(naive.run_instance_segmentation(semantic, flow, ["a"], config)["a"], row([0, 0]))
    # two voxels, one instance, no flow: error 1/3
    for flow_error, expected in [(0.0, [1, 1]), (0.3, [0, 0]), (0.4, [1, 1])]:
        found = naive.run_instance_segmentation(semantic, flow, ["a"], config, flow_error, threshold=0.3)
        same(found["a"], row(expected))


def test_run_instance_segmentation_knows_the_classes():
    semantic = np.zeros((9, 1, 1, 2))
    semantic[8, 0, 0, 1] = 1
    config = {"cell": {"group": 1, **STEPS}, "nuc": {"group": 1, **STEPS}}
    found = naive.run_instance_segmentation(semantic, np.zeros((27, 1, 1, 2)), class_config=config)
    assert list(found) == ["nuc", "cell"]
    same(found["nuc"], row([0, 0]))
    same(found["cell"], row([0, 1]))
    with pytest.raises(ValueError, match="class_config: is None"):
        naive.run_instance_segmentation(semantic, np.zeros((27, 1, 1, 2)))


# ------------------------------------------------------------ what the strategies draw


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_drawn_case_has_labels_in_its_foreground(data):
    mask, flow = data.draw(strategies.volumes())
    found = naive.postprocess_single(mask, flow, **data.draw(strategies.parameters()))
    assert found.dtype == np.int32
    assert found.shape == mask.shape == flow.shape[1:]
    assert not found[~mask].any()
    np.testing.assert_array_equal(np.union1d([0], found), np.arange(found.max() + 1))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_drawn_labelling_keeps_its_foreground(data):
    labels, flow = data.draw(strategies.labelled_volumes())
    small = naive.compact_relabel(labels)
    for function in [naive.split_disconnected, lambda x: naive.merge_adjacent(x, flow)]:
        found = function(labels)
        np.testing.assert_array_equal(found > 0, labels > 0)
        np.testing.assert_array_equal(found, function(small))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_drawn_cut_fits_its_volume(data):
    shape = data.draw(strategies.shapes())
    block = data.draw(strategies.block_shapes(shape, max_blocks=20))
    assert 1 <= np.prod(-(-np.array(shape) // block)) <= 20
    assert all(0 <= h <= size for h, size in zip(data.draw(strategies.halos(shape)), shape, strict=True))
    assert all(1 <= c <= size + 2 for c, size in zip(data.draw(strategies.chunk_shapes(shape)), shape, strict=True))
    assert tuple(map(sum, data.draw(strategies.chunkings(shape)))) == shape
