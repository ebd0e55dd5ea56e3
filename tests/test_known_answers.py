"""Volumes made by hand whose answer is known, block by block and in memory: the hard cases of the contract."""

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import zarr
from blockwise import run_blocks

import topo_dask
from topo_dask.config import ClassConfig
from topo_dask.plan import Recipe
from topo_dask.stages.stage import Stage
from topo_dask.stores.volumes import StoredFlow

Shape = tuple[int, int, int]

WAYS: list[tuple[Shape, Shape]] = [
    ((4, 4, 4), (0, 0, 0)),
    ((5, 3, 7), (1, 0, 2)),
    ((8, 8, 8), (4, 4, 4)),
    ((1, 64, 3), (0, 2, 0)),
    ((1000, 1000, 1000), (0, 0, 0)),
]
"""Block shapes and halos."""


def same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


def check(expected: np.ndarray, mask: np.ndarray, flow: np.ndarray, ways: Any = WAYS, **parameters: Any) -> None:
    """The labels from a mask and a flow, in memory and block by block."""
    same(topo_dask.postprocess_single(mask, flow, **parameters), expected)
    config = ClassConfig(**parameters)
    for block_shape, halo in ways:
        same(run_blocks(Recipe.of(config), block_shape, halo, config=config, mask=mask, flow=flow), expected)


def check_split(expected: np.ndarray, labels: np.ndarray, ratio: float, ways: Any = WAYS) -> None:
    """The labels after `split_disconnected`, in memory and block by block."""
    same(topo_dask.split_disconnected(labels, ratio), expected)
    for block_shape, halo in ways:
        recipe = Recipe(split=True, min_fragment_ratio=ratio)
        same(run_blocks(recipe, block_shape, halo, labels=labels), expected)


def towards(shape: Shape, boxes: dict[int, tuple[slice, slice, slice]]) -> tuple[np.ndarray, np.ndarray]:
    """Labels of some boxes, and in each the unit vectors to its middle voxel."""
    labels, flow = np.zeros(shape, np.int32), np.zeros((3, *shape), np.float32)
    for label, box in boxes.items():
        labels[box] = label
        middle = np.array([(s.start + s.stop - 1) // 2 for s in box])
        way = middle[:, None, None, None] - np.mgrid[box]
        flow[(slice(None), *box)] = way / np.maximum(np.linalg.norm(way, axis=0), 1)
    return labels, flow


def along_x(size: int, flow_x: float) -> np.ndarray:
    flow = np.zeros((3, 2, 3, size), np.float32)
    flow[2] = flow_x
    return flow


# ------------------------------------------------------------ objects of many blocks


@pytest.mark.parametrize("group", [1, 2, 3])
def test_an_object_over_more_than_a_hundred_blocks(group: int) -> None:
    expected, flow = towards((26, 23, 25), {1: np.s_[1:24, 1:22, 2:24]})
    touched = {tuple(voxel) for voxel in np.argwhere(expected) // 4}
    assert len(touched) >= 100
    check(expected, expected > 0, flow, group=group, n_steps=40, min_size=expected.sum())


def arm(size: int, start: int) -> list[tuple[int, int]]:
    """Voxels (y, x) of a square spiral of pitch 4 that begins at (start, start) and winds inwards."""
    low, high = start, size - 1 - start
    path = [(low, x) for x in range(low, high + 1)]
    while high - low >= 8:
        path += [(y, high) for y in range(low + 1, high + 1)]
        path += [(high, x) for x in range(high - 1, low - 1, -1)]
        path += [(y, low) for y in range(high - 1, low + 3, -1)]
        path += [(low + 4, x) for x in range(low + 1, high - 3)]
        low, high = low + 4, high - 4
    return path


def spirals(size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Two spirals inside one another, the flow along each to its inner end, and the length of the longer one."""
    labels, flow = np.zeros((3, size, size), np.int32), np.zeros((3, 3, size, size), np.float32)
    for label, start in ((1, 0), (2, 2)):
        path = arm(size, start)
        for (y, x), (next_y, next_x) in pairwise(path):
            flow[1:, 1, y, x] = next_y - y, next_x - x
        labels[1, *np.transpose(path)] = label
    return labels, flow, len(arm(size, 0))


def test_spirals_that_enter_and_leave_a_block_many_times() -> None:
    expected, flow, length = spirals(33)
    for label in (1, 2):
        in_one_block = (expected[1, :8, 8:16] == label).any(axis=1)
        assert np.count_nonzero(np.diff(in_one_block.astype(int))) >= 3  # not one connected piece in there
    check_split(expected, np.where(expected, 7, 0), 0.1)
    assert arm(33, 2)[-1] < arm(33, 0)[-1]
    by_inner_end = np.where(expected, 3 - expected, 0)
    for group in (1, 2, 3):
        check(by_inner_end, expected > 0, flow, group=group, n_steps=length, convergence_radius=1.5, min_size=100)


def test_objects_that_touch_along_a_block_face_stay_two() -> None:
    boxes = {1: np.s_[0:8, 0:8, 0:8], 2: np.s_[0:8, 0:8, 8:16], 3: np.s_[0:8, 8:16, 0:8], 4: np.s_[8:16, 0:8, 0:8]}
    expected, flow = towards((16, 16, 16), boxes)
    for group, merge in [(1, None), (3, None), (2, "adjacent"), (2, "agglomerate")]:
        check(expected, expected > 0, flow, group=group, merge=merge, n_steps=20, convergence_radius=2.5)


# ------------------------------------------------------------ fragments


def test_a_fragment_whose_parent_is_twenty_blocks_away() -> None:
    labels = np.zeros((3, 4, 280), np.int64)
    labels[1, 1, 0:20] = labels[1, 1, 251:271] = 9
    labels[1, 1, [130, 135, 140]] = 9  # 111, 116 and 121 from the left one; 121, 116 and 111 from the right one
    labels[1, 3, 30:240] = 11
    expected = np.zeros(labels.shape, np.int32)
    expected[1, 1, :20] = expected[1, 1, 130] = expected[1, 1, 135] = 1
    expected[1, 1, 251:271] = expected[1, 1, 140] = 2
    expected[1, 3, 30:240] = 3
    check_split(expected, labels, 0.1, [*WAYS, ((3, 2, 5), (0, 0, 0))])


def test_a_fragment_that_flows_twenty_blocks_to_its_parent() -> None:
    flow = along_x(130, -1.0)
    flow[:, :, 0] = 0
    mask = np.zeros(flow.shape[1:], bool)
    mask[1, 1, :12] = mask[1, 1, 121] = mask[0, 2, 100:110] = True
    expected = mask.astype(np.int32)
    expected[0, 2, 100:110] = 1
    ways = [*WAYS, ((2, 3, 5), (0, 0, 0)), ((1, 1, 5), (0, 0, 1))]
    check(expected, mask, flow, ways, group=1, n_steps=150, convergence_radius=3.0, min_size=5)
    expected[0, 2, 100:110] = 1
    expected[1, 1] = np.where(mask[1, 1], 2, 0)  # two large fragments, and one voxel of which the second is nearest
    expected[1, 1, 121] = 1
    check(expected, mask, flow, ways, group=2, n_steps=150, convergence_radius=3.0, min_size=5)


def test_a_fragment_as_near_to_one_of_its_block_as_to_one_of_the_next_gets_the_lower_label() -> None:
    labels, expected = np.zeros((3, 3, 18), np.int64), np.zeros((3, 3, 18), np.int32)
    labels[1, 1, [*range(9), 10, *range(12, 18)]] = 5
    expected[1, 1, [*range(9), 10]], expected[1, 1, 12:] = 1, 2
    check_split(expected, labels, 0.3, [*WAYS, ((3, 3, 9), (0, 0, 0))])


def test_a_checkerboard_of_fragments_of_one_voxel() -> None:
    board = np.indices((6, 7, 6)).sum(axis=0) % 2 == 0
    n = np.count_nonzero(board)
    check_split(board.astype(np.int32), 5 * board.astype(np.uint16), 0.1)  # none large: it stays whole
    one_each = np.zeros(board.shape, np.int32)
    one_each[board] = np.arange(1, n + 1)
    check_split(one_each, 5 * board.astype(np.uint16), 0.0)
    two = np.where(board, 2, 1).astype(np.int32)
    check_split(two, two, 0.1)
    with_block = np.where(board, 3, 0)
    with_block[2:5, 2:5, 2:5] = 3
    check_split((with_block > 0).astype(np.int32), with_block, 0.1)


@pytest.mark.parametrize("group", [2, 3])
def test_a_piece_may_have_fewer_voxels_than_its_instance_had_to_have(group: int) -> None:
    mask = np.ones((1, 1, 11), bool)
    mask[..., 8] = False
    expected = np.array([1] * 8 + [0] + [2] * 2, np.int32).reshape(mask.shape)
    flow = np.zeros((3, *mask.shape), np.float32)
    check(expected, mask, flow, n_steps=0, convergence_radius=3.0, min_size=5, group=group)


@pytest.mark.parametrize("ratio", [1.0, 2.0, 1e18, 1e19, 1e30, 1e308])
def test_no_fragment_has_a_share_above_the_whole(ratio: float) -> None:
    labels = np.array([[[5, 5, 5, 5, 5, 0, 5, 0, 5]]])
    check_split((labels > 0).astype(np.int32), labels, ratio)


# ------------------------------------------------------------ contacts and flow errors


def test_a_chain_that_grows_from_region_to_region_is_one_instance() -> None:
    # Contacts score more from left to right. So the right end grows, one tier of regions after the other, and its group
    # has another lowest label at each.
    labels = np.arange(1, 33).reshape(1, 1, 32)
    flow = np.zeros((3, *labels.shape), np.float32)
    flow[1, 0, 0, 0] = 1
    for i in range(31):
        flow[1, 0, 0, i + 1] = (1 + i / 32) / flow[1, 0, 0, i]
    same(run_blocks(Recipe(merge="agglomerate"), (1, 1, 1), labels=labels, flow=flow), np.ones_like(labels, np.int32))


@pytest.mark.parametrize(("threshold", "kept"), [(1 / 3, 1), (np.nextafter(1 / 3, 0), 0)])
def test_an_instance_whose_flow_error_is_the_threshold_is_kept(threshold: float, kept: int) -> None:
    labels, flow = np.array([[[7, 7]]]), np.zeros((3, 1, 1, 2), np.float32)  # one component of three is off by 1
    expected = np.full(labels.shape, kept, np.int32)
    same(topo_dask.remove_bad_flow_masks(labels, flow, threshold), expected)
    same(run_blocks(Recipe(flow_error=threshold), (1, 1, 1), labels=labels, flow=flow), expected)


# ------------------------------------------------------------ particles


def test_a_particle_that_crosses_ten_blocks() -> None:
    mask, flow = np.zeros((2, 3, 60), bool), along_x(60, 0.75)
    flow[2, :, :, 50:] = 0
    mask[0, 0, 1] = mask[0, 0, 49] = mask[1, 2, 20] = True
    # From 1: 66 steps lead to 50.5; from 49: 2 lead to 50.5; from 20: 40 lead to 50.
    ends = [[0.0, 0.0, 50.5], [0.0, 0.0, 50.5], [1.0, 2.0, 50.0]]
    coords, found = topo_dask.track_flows(mask, flow, 70)
    np.testing.assert_array_equal(found, ends)
    expected = np.zeros(mask.shape, np.int32)
    expected[0, 0, 1] = expected[0, 0, 49] = 1
    expected[1, 2, 20] = 2
    ways = [*WAYS, ((2, 3, 5), (0, 0, 0)), ((1, 1, 4), (0, 0, 0))]
    check(expected, mask, flow, ways, n_steps=70, convergence_radius=2.0, min_size=1)
    stored = [zarr.create_array({}, data=array) for array in (mask, flow)]
    for block_shape, halo in ways:
        lazy = topo_dask.track_flows(*stored, 70, block_shape=block_shape, halo=halo)
        np.testing.assert_array_equal(lazy[0].compute(), coords)
        np.testing.assert_array_equal(lazy[1].compute(), ends)


@pytest.mark.parametrize("n_steps", [2000, 2001])
@pytest.mark.parametrize("axes", [(2,), (0,), (0, 1, 2)])
def test_a_particle_that_swings_about_a_block_face_reads_few_pages(
    monkeypatch: pytest.MonkeyPatch, n_steps: int, axes: tuple[int, ...]
) -> None:
    shape = (16, 16, 16)
    mask, flow = np.zeros(shape, bool), np.zeros((3, *shape), np.float32)
    for axis in axes:
        flow[axis] = np.where(np.indices(shape)[axis] < 8, 1, -1)
    low, high = [7, 7, 7], [8 if axis in axes else 7 for axis in range(3)]
    mask[tuple(low)] = mask[tuple(high)] = True
    ends = [low, high] if n_steps % 2 == 0 else [high, low]
    np.testing.assert_array_equal(topo_dask.track_flows(mask, flow, n_steps)[1], ends)
    reads: list[Any] = []
    real = StoredFlow.region
    monkeypatch.setattr(StoredFlow, "region", lambda self, box: reads.append(box) or real(self, box))
    config = ClassConfig(n_steps=n_steps, convergence_radius=1.0, min_size=1)
    found = run_blocks(Recipe.of(config), (8, 8, 8), (0, 0, 0), config=config, mask=mask, flow=flow)
    expected = np.zeros(shape, np.int32)
    expected[tuple(low)], expected[tuple(high)] = (1, 2) if n_steps % 2 == 0 else (2, 1)
    same(found, expected)
    assert len(reads) == 4  # for each of the two particles its block, and one page around the face


# ------------------------------------------------------------ orphans


def lonely(shape: Shape, corners: list[tuple[int, int, int]]) -> np.ndarray:
    """Flow under which every voxel stays alone, but for pairs at some corners: (z, y, x) and its neighbour along x."""
    flow = np.zeros((3, *shape), np.float32)
    for z, y, x in corners:
        flow[2, z, y, x + 1 if x == 0 else x - 1] = 1 if x else -1
    return flow


@pytest.mark.parametrize("shape", [(9, 10, 11), (1, 1, 400), (3, 2, 150)])
@pytest.mark.parametrize("density", [1.0, 0.05])
def test_orphans_everywhere_and_labels_in_a_corner(shape: Shape, density: float) -> None:
    mask = np.random.default_rng(0).random(shape) < density
    last = tuple(size - 1 for size in shape)
    mask[0, 0, :2] = mask[last[0], last[1], -2:] = True
    ways = [*WAYS, ((4, 4, 16), (0, 0, 0))]
    parameters = {"group": 3, "n_steps": 3, "convergence_radius": 0.5, "min_size": 2}
    one = lonely(shape, [(0, 0, 0)])
    check(mask.astype(np.int32), mask, one, ways, **parameters)
    both = lonely(shape, [(0, 0, 0), last])
    z, y, x = np.indices(shape)
    to_first = z**2 + y**2 + np.minimum(x**2, (x - 1) ** 2)
    to_last = (last[0] - z) ** 2 + (last[1] - y) ** 2 + np.minimum((last[2] - x) ** 2, (last[2] - 1 - x) ** 2)
    check(np.where(mask, np.where(to_last < to_first, 2, 1), 0), mask, both, ways, **parameters)
    nothing = lonely(shape, [])
    check(np.zeros(shape, np.int32), mask, nothing, ways, **parameters)


# ------------------------------------------------------------ degenerate volumes


@pytest.mark.parametrize("shape", [(1, 7, 9), (7, 1, 9), (7, 9, 1), (1, 1, 9), (9, 1, 1), (1, 1, 1), (5, 6, 7)])
@pytest.mark.parametrize("group", [1, 2, 3])
def test_degenerate_volumes(shape: Shape, group: int) -> None:
    flow = np.zeros((3, *shape), np.float32)
    full, empty, single = np.ones(shape, bool), np.zeros(shape, bool), np.zeros(shape, bool)
    single[tuple(size // 2 for size in shape)] = True
    parameters = {"group": group, "n_steps": 5, "convergence_radius": 4.0, "min_size": 1}
    check(np.zeros(shape, np.int32), empty, flow, **parameters)
    check(np.ones(shape, np.int32), full, flow, **parameters)
    check(single.astype(np.int32), single, flow, **parameters)
    check(np.zeros(shape, np.int32), single, flow, **{**parameters, "min_size": 2})
    check(np.ones(shape, np.int32), full, flow + 1, **parameters)  # all end in the last corner
    check(np.ones(shape, np.int32), full, flow - 1e30, **parameters)


@pytest.mark.parametrize("value", [0.0, 3.0, np.nan])
def test_no_steps_leave_every_voxel_where_it_is(value: float) -> None:
    mask = np.zeros((5, 9, 9), bool)
    mask[0:2, 0:2, 0:2] = mask[3, 7, 7:9] = mask[4, 6, 6] = mask[1, 5, 1] = True  # edges link, corners do not
    expected = mask.astype(np.int32)
    expected[1, 5, 1], expected[3, 7, 7:9], expected[4, 6, 6] = 2, 3, 4
    flow = np.full((3, *mask.shape), value, np.float32)
    check(expected, mask, flow, n_steps=0, convergence_radius=1.5, min_size=1)


@pytest.mark.parametrize("shape", [(0, 4, 4), (4, 0, 4), (4, 4, 0), (0, 0, 0)])
def test_volumes_without_voxels(shape: Shape) -> None:
    mask, flow = np.zeros(shape, bool), np.zeros((3, *shape), np.float32)
    check(np.zeros(shape, np.int32), mask, flow, group=3, merge="adjacent", flow_error_threshold=0.1)


# ------------------------------------------------------------ effort


def tiled(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Tiles of four blocks of 8 x 8 x 8, of which two hold an object with a loose voxel, one an orphan pair."""
    labels, flow = towards((8, 16, 16), {1: np.s_[1:7, 1:7, 3:13]})
    labels[7, 7, 15] = labels[7, 9, 0] = 1
    flow[2, 7, 7, 15] = -6
    flow[1, 7, 7, 15], flow[0, 7, 7, 15] = -4, -4
    return np.tile(labels > 0, (n, 1, 1)), np.tile(flow, (1, n, 1, 1))


def count_tasks(monkeypatch: pytest.MonkeyPatch, n: int) -> tuple[Counter[str], dict[str, set[str]]]:
    mask, flow = tiled(n)
    done: list[tuple[str, str]] = []
    real = Stage.run
    with monkeypatch.context() as patch:
        patch.setattr(Stage, "run", lambda self, job, key: done.append((self.name, key)) or real(self, job, key))
        config = ClassConfig(
            group=3, merge="adjacent", n_steps=20, convergence_radius=2.5, min_size=5, flow_error_threshold=2.0
        )
        found = run_blocks(Recipe.of(config, table=True), (8, 8, 8), config=config, mask=mask, flow=flow)
    assert found.max() == n
    by_block: dict[str, set[str]] = {}
    for stage, key in done:
        by_block.setdefault(key, set()).add(stage)
    return Counter(stage for stage, _ in done), by_block


def test_tasks_grow_linearly_and_empty_blocks_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    once, blocks = count_tasks(monkeypatch, 1)
    assert blocks["0.1.1"] == {"track"}
    assert once["track"] == 4
    assert once["relabel"] == once["fragments"] == once["orphans"] == once["contacts"] == once["errors"] == 3
    assert once["absorb"] == 1
    overall = {"link", "unite", "split", "survey", "tabulate", "drop"}
    for n in (2, 4):
        tasks, blocks = count_tasks(monkeypatch, n)
        assert tasks == {stage: count if stage in overall else n * count for stage, count in once.items()}
        assert all(blocks[f"{z}.1.1"] == {"track"} for z in range(n))
