"""The nearest label across blocks: ties, and what lies at the very radius of a search."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from topo_dask.blocks.geometry import Block, BlockGrid
from topo_dask.kernels.nearest import nearest_of
from topo_dask.stages import search, seeds
from topo_dask.stages.search import AROUND, RADII, Candidates, nearest_labels
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


def test_bundles_of_seeds_as_far_as_the_nearest_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "PIECE", 1)
    scratch, lower = MemoryScratch(), np.array([[0, 0, 80], [0, 0, 120], [0, 0, 121]])
    file_table(scratch, TABLE, lower, lower + 1)
    found, _ = SeedTable(scratch, TABLE).near(0, 3, np.array([0, 0, 100]), np.array([1, 1, 101]))
    assert found[:, 2].tolist() == [80, 120]
