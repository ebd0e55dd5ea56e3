"""The nearest label across blocks: ties, and what lies at the very radius of a search."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import naive
import numpy as np
import pytest
from blockwise import run_blocks
from numpy.typing import NDArray

from topo_dask import plan
from topo_dask.blocks.geometry import Block, BlockGrid
from topo_dask.config import ClassConfig
from topo_dask.kernels.nearest import nearest_of
from topo_dask.plan import Recipe
from topo_dask.stages import absorb, recover, search, seeds
from topo_dask.stages.job import Job, View
from topo_dask.stages.search import AROUND, RADII, Candidates, labels_inside, nearest_labels
from topo_dask.stages.seeds import TABLE, SeedTable, file_table
from topo_dask.stores.scratch import MemoryScratch


def candidates(labels: np.ndarray, width: int) -> Candidates:
    """All blocks of labels, blocks so wide along x, with a box of labelled voxels each."""
    grid = BlockGrid(labels.shape, (*labels.shape[:2], width))  # type: ignore[arg-type]

    def pieces(block: Block) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
        ids, numbers = np.unique(labels[block.write.slices], return_inverse=True)
        numbers = numbers.reshape(block.write.shape)
        return (numbers + (ids[0] != 0)).astype(np.uint32), ids[ids > 0].astype(np.int32)

    corners = []
    for block in grid:
        if len(found := np.argwhere(labels[block.write.slices])):
            corners.append((found.min(axis=0) + block.write.start, found.max(axis=0) + 1 + block.write.start))
    lower, upper = np.array(corners).transpose(1, 0, 2)
    return Candidates(grid, lower, upper, pieces)


@pytest.mark.parametrize("distance", [AROUND, AROUND + 1, *RADII, RADII[-1] + 1])
@pytest.mark.parametrize("ids", [(1, 2), (2, 1)])
def test_ties_of_two_blocks_go_to_the_lower_label(ids: tuple[int, int], distance: int) -> None:
    labels = np.zeros((1, 1, 200), np.int32)
    labels[0, 0, [100 - distance, 100 + distance]] = ids
    assert nearest_labels(np.array([[0, 0, 100]]), candidates(labels, 10)).tolist() == [1]


@pytest.mark.parametrize("radius", [AROUND, *RADII])
def test_what_lies_at_the_very_radius_counts(radius: int) -> None:
    # Both are as far away, but the box of the other reaches nearer: its block is met whatever the radius means.
    labels = np.zeros((1, 300, 400), np.int32)
    labels[0, 0, 200 - radius], labels[0, 0, 200 + radius], labels[0, 2 * radius, 201] = 1, 2, 2
    assert nearest_labels(np.array([[0, 0, 200]]), candidates(labels, 200)).tolist() == [1]


def swept(points: NDArray[np.int64], among: Candidates, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    """Labels of the points, and the voxels in the box of each sweep."""
    boxes = []

    def sweep(seeds: NDArray[np.int32], start: tuple[int, ...], some: NDArray[np.int64]) -> tuple[Any, Any]:
        boxes.append(int(np.prod(np.ptp(some, axis=0) + 1)))
        return nearest_of(seeds, start, some)

    monkeypatch.setattr(search, "nearest_of", sweep)
    return nearest_labels(points, among).tolist(), boxes


def naive_labels(points: NDArray[np.int64], labels: np.ndarray) -> list[int]:
    sources = np.argwhere(labels)
    distances2 = ((points[:, None] - sources) ** 2).sum(axis=2)
    found = np.where(distances2 == distances2.min(axis=1, keepdims=True), labels[tuple(sources.T)], labels.max())
    return found.min(axis=1).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_a_few_voxels_far_from_any_label_are_searched_without_those_between_them(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.zeros((100, 100, 400), np.int32)
    for x in (30, 368):
        labels[rng.integers(0, 100, 30), rng.integers(0, 100, 30), x] = rng.integers(1, 9, 30)
    corners = np.array([[0, 0, 110], [95, 95, 110], [0, 95, 284], [95, 0, 284]])
    points = np.concatenate([corner + rng.integers(0, 5, (6, 3)) for corner in corners])
    found, boxes = swept(points, candidates(labels, 100), monkeypatch)
    assert found == naive_labels(points, labels)
    assert max(boxes) <= 5**3


def test_voxels_far_from_any_label_in_all_cells_are_swept_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros((64, 64, 200), np.int32)
    labels[::9, ::7, 0], labels[::7, ::9, 199] = 1, 2
    points = np.argwhere(np.ones((4, 4, 4))) * 16 + [4, 4, 72]
    found, boxes = swept(points, candidates(labels, 100), monkeypatch)
    assert found == naive_labels(points, labels)
    assert boxes == [49**3] * 2  # one for each block: no label is within the radii


def test_fragments_near_a_large_one_in_their_block_are_not_searched_for_by_instance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searched: list[list[int]] = []

    def note(points: NDArray[np.int64], among: Candidates) -> NDArray[np.int32]:
        searched.extend(points.tolist())
        return nearest_labels(points, among)

    monkeypatch.setattr(absorb, "nearest_labels", note)
    labels = np.zeros((9, 9, 27), np.int32)
    labels[::2, ::2, 9:13] = 1 + np.arange(25).reshape(5, 5, 1)
    labels[::2, ::2, 14] = labels[::2, ::2, 12]
    labels[4, 4, 4:15] = 13
    labels[4, 4, [8, 10]] = 0  # a voxel is as near to fragments in two blocks
    found = run_blocks(Recipe(split=True, min_fragment_ratio=0.4), (9, 9, 9), labels=labels)
    np.testing.assert_array_equal(found, naive.split_disconnected(labels, 0.4))
    near_faces = [point for point in np.argwhere(labels).tolist() if point[2] == 14 and {0, 8} & set(point[:2])]
    assert sorted(searched) == sorted([*near_faces, [4, 4, 9]])


@pytest.mark.parametrize("seed", range(3))
def test_labels_nearer_than_any_voxel_of_another_block_are_taken_from_the_block(seed: int) -> None:
    rng, labels = np.random.default_rng(seed), np.zeros((27, 27, 27), np.int32)
    labels[tuple(rng.integers(9, 18, (3, 20)))] = rng.integers(1, 9, 20)
    inside = np.zeros(labels.shape, np.bool_)
    inside[9:18, 9:18, 9:18] = True
    points, sources, others = np.argwhere(inside), np.argwhere(labels), np.argwhere(~inside)
    d2 = ((points[:, None] - sources) ** 2).sum(axis=2).min(axis=1)
    away2 = np.array([((others - point) ** 2).sum(axis=1).min() for point in points])
    expected = np.where((d2 < away2) & (d2 <= AROUND * AROUND), naive_labels(points, labels), 0)
    block, span = BlockGrid((27, 27, 27), (9, 9, 9)).block((1, 1, 1)), np.ones((2, len(points)), np.int32)
    found = labels_inside(points, block, candidates(labels, 9).pieces, (span[0], 9 * span[1]))
    np.testing.assert_array_equal(found, expected)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Blocks whose voxels the searches of the block in the middle read, and how often."""
    found: Counter[str] = Counter()

    def note(view: View, job: Job, block: Block) -> Any:
        found.update([block.key])
        return pieces(view, job, block)

    def search_noting(work: Callable[..., None], job: Job, key: str, **more: Any) -> None:
        with monkeypatch.context() as patch:
            if key == "1.1.1":
                patch.setattr(View, "pieces", note)
            work(job, key, **more)

    pieces = View.pieces
    for name in ("absorb", "recover_orphans"):
        monkeypatch.setattr(plan, name, partial(search_noting, getattr(plan, name)))
    return found


def test_blocks_are_not_read_again_for_each_instance(reads: Counter[str]) -> None:
    rng = np.random.default_rng(0)
    away = np.indices((96, 96))[..., None] - rng.integers(0, 96, (2, 1, 1, 60))
    rods = (away**2).sum(axis=0).argmin(axis=-1)
    labels = np.repeat(rods[None] + 1, 96, axis=0)
    z, y, x = np.nonzero(rng.random(labels.shape) < 0.02)
    shift = rng.integers(-9, 10, (2, len(z)))  # single voxels of a rod near by
    labels[z, y, x] = 1 + rods[np.clip(y + shift[0], 0, 95), np.clip(x + shift[1], 0, 95)]
    found = run_blocks(Recipe(split=True), (32, 32, 32), labels=labels)
    np.testing.assert_array_equal(found, run_blocks(Recipe(split=True), (96, 96, 96), labels=labels))
    assert len(reads) > 20
    assert reads.total() <= 2 * 27


def test_blocks_are_not_read_again_for_each_group_of_orphans(reads: Counter[str]) -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((192, 192, 192)) < 0.01
    for corner in np.ndindex(5, 5, 5):
        mask[tuple(slice(40 * i + 14, 40 * i + 18) for i in corner)] = True  # these are kept
    config = ClassConfig(group=3, n_steps=0, convergence_radius=1.5, min_size=30)
    flow = np.zeros((3, *mask.shape), np.float32)
    found, whole = (
        run_blocks(Recipe.of(config), (edge,) * 3, config=config, mask=mask, flow=flow) for edge in (64, 192)
    )
    np.testing.assert_array_equal(found, whole)
    assert len(reads) > 20
    assert reads.total() <= 2 * 27


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many orphans each search looks for the labels of."""
    found: list[int] = []

    def note(points: NDArray[np.int64], among: Candidates) -> NDArray[np.int32]:
        found.append(len(points))
        return nearest_labels(points, among)

    monkeypatch.setattr(recover, "nearest_labels", note)
    return found


def test_orphans_are_searched_for_some_at_a_time(searched: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recover, "PARTICLES", 64)
    labels = np.arange(16**3).reshape(16, 16, 16)  # too small, but for the first plane
    labels[0] = 1
    found = run_blocks(Recipe(min_size=2, split=True, recover=True), (16, 16, 16), labels=labels)
    assert (found == 1).all()
    assert sum(searched) == 15 * 16 * 16
    assert max(searched) <= 64


def test_orphans_are_searched_for_at_once_where_no_other_block_is_near(searched: list[int]) -> None:
    labels = np.arange(16**3).reshape(16, 16, 16)
    labels[0] = 1
    run_blocks(Recipe(min_size=2, split=True, recover=True), (16, 16, 16), labels=labels)
    assert searched == [15 * 16 * 16]
    run_blocks(Recipe(min_size=2, split=True, recover=True), (8, 16, 16), labels=labels)
    assert searched[1:] == [3 * 16 * 16, *[4 * 16 * 16] * 3]


def test_bundles_of_seeds_as_far_as_the_nearest_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "PIECE", 1)
    scratch, lower = MemoryScratch(), np.array([[0, 0, 80], [0, 0, 120], [0, 0, 121]])
    file_table(scratch, TABLE, lower, lower + 1)
    found, _ = SeedTable(scratch, TABLE).near(0, 3, np.array([0, 0, 100]), np.array([1, 1, 101]))
    assert found[:, 2].tolist() == [80, 120]
