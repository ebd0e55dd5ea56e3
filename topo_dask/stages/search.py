"""Find the label of the nearest labelled voxel, at any distance. The nearest blocks are searched first."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import isqrt, prod

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import Block, BlockGrid, Box
from ..kernels.around import look_around
from ..kernels.distances import box_distances2, point_distances2
from ..kernels.extents import measure_some
from ..kernels.hashing import number_values
from ..kernels.labels import pick_labels
from ..kernels.nearest import NO_SEED, nearest_of
from .job import Job, extent_columns

CELL = 32
"""Edge of a cell in voxels: the voxels of one cell are searched for together."""

RECENT = 8
"""Blocks whose voxels a task keeps at hand while it searches: the block itself and those next to one of its octants."""

AROUND = 4
"""Radius in voxels of the first search, which looks around each voxel by itself: most voxels find their label there."""

RADII = (16, 64)
"""Radii in voxels of the next searches, for voxels without a label so far. The last search has no bound."""

SPARSE = 2
"""The last search goes cell by cell when the box around all voxels left holds more than this many times the voxels of
the cells they lie in. Otherwise one sweep over the box is faster."""

Pieces = Callable[[Block], tuple[NDArray[np.uint32], NDArray[np.int32]]]


@dataclass(frozen=True)
class Candidates:
    """Boxes that may hold labelled voxels, one for each block, and how to read the labels.

    Parameters
    ----------
    grid : BlockGrid
        Blocks of the volume.
    lower, upper : ndarray of int64, shape (M, 3)
        The box of labelled voxels of each block.
    pieces : callable
        Returns the numbered pieces of a block, and the label of each piece.
    span : tuple of 2 int
        Lowest and highest label that counts as a label here.
    """

    grid: BlockGrid
    lower: NDArray[np.int64]
    upper: NDArray[np.int64]
    pieces: Pieces
    span: tuple[int, int] = (1, int(np.iinfo(np.int32).max))

    def distances2(self, start: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.int64]:
        """Smallest squared distance between a voxel of a box and a voxel of each block's box."""
        return box_distances2(start, stop, self.lower, self.upper)

    def near(self, points: NDArray[np.int64], radius: int) -> "Candidates":
        """The candidates within a radius of the box around some points: a search then looks at fewer."""
        kept = self.distances2(points.min(axis=0), points.max(axis=0) + 1) <= radius * radius
        return replace(self, lower=self.lower[kept], upper=self.upper[kept])

    def block(self, row: int) -> Block:
        """One of the blocks."""
        z, y, x = (self.lower[row] // np.array(self.grid.block_shape)).tolist()
        return self.grid.block((z, y, x))

    def box(self, row: int) -> Box:
        """Box of labelled voxels of one block."""
        (z, y, x), (d, h, w) = self.lower[row].tolist(), self.upper[row].tolist()
        return Box((z, y, x), (d, h, w))

    def read(self, row: int, window: Box) -> NDArray[np.int32]:
        """Labels of a window of one block."""
        block = self.block(row)
        numbers, labels = self.pieces(block)
        return pick_labels(numbers[window.within(block.write)], labels, *self.span)


def octants_of(points: NDArray[np.int64], block: Block, grid: BlockGrid) -> NDArray[np.int8]:
    """Octant of a block that each of some of its voxels lies in, 0 to 7.

    All voxels of one octant search the same `RECENT` blocks, as long as the radius is at most half a block. Each octant
    shares a face with the one before it, and so also half of these blocks. An axis along which there are no other
    blocks is not divided.

    Parameters
    ----------
    points : ndarray of int64, shape (N, 3)
        Voxels of the block in volume coordinates.
    block : Block
        The block.
    grid : BlockGrid
        Blocks of the volume.

    Examples
    --------
    >>> grid = BlockGrid((8, 4, 2), (4, 2, 2))
    >>> octants_of(np.array([[0, 0, 1], [0, 1, 1], [2, 1, 1], [2, 0, 1]]), grid.block((0, 0, 0)), grid)
    array([0, 3, 4, 7], dtype=int8)
    """
    sides = zip(block.write.start, block.write.shape, grid.numblocks, strict=True)
    middle = [start + (n // 2 if blocks > 1 else n) for start, n, blocks in sides]
    z, y, x = (points >= np.array(middle)).astype(np.int8).T
    octants: NDArray[np.int8] = 4 * z + 2 * (z ^ y) + (z ^ y ^ x)
    return octants


def labels_inside(
    points: NDArray[np.int64], block: Block, pieces: Pieces, span: tuple[NDArray[np.int32], NDArray[np.int32]]
) -> NDArray[np.int32]:
    """Label of the voxel nearest to each point where no other block can hold one as near; else 0.

    It looks for all points at once, whatever their spans.

    Parameters
    ----------
    points : ndarray of int64, shape (N, 3)
        Voxels of the block in volume coordinates.
    block : Block
        The block.
    pieces : callable
        As that of `Candidates`.
    span : tuple of 2 ndarrays of int32, shape (N,)
        Lowest and highest label that counts as a label for each point.
    """
    best = np.full(len(points), NO_SEED)
    labels = np.zeros(len(points), np.int32)
    look_around(*pieces(block), span, block.write.start, points, np.arange(len(points)), AROUND, best, labels)
    outside = np.minimum(points - np.array(block.write.start) + 1, np.array(block.write.stop) - points).min(axis=1)
    labels[best >= outside * outside] = 0
    return labels


def nearest_labels(points: NDArray[np.int64], candidates: Candidates) -> NDArray[np.int32]:
    """Label of the voxel nearest to each point, ties to the lower label; 0 when there is no labelled voxel.

    A result is final once its distance is within the radius that has been searched. So the labels do not depend on
    the boxes.

    Parameters
    ----------
    points : ndarray of int64, shape (N, 3)
        Voxels in volume coordinates.
    candidates : Candidates
        All boxes that may hold the nearest labelled voxel of a point.
    """
    best = np.full(len(points), NO_SEED)
    labels = np.zeros(len(points), np.int32)
    if len(points) == 0:
        return labels
    _look_around(points, candidates.near(points, AROUND), best, labels)
    left = np.flatnonzero(best > AROUND * AROUND)
    for radius in RADII:
        if len(left) == 0:
            return labels
        near = candidates.near(points[left], radius)
        for group in _by_cell(points, left):
            _search(points, group, near, radius, best, labels)
        left = left[best[left] > radius * radius]
    if len(left):
        for group in _far_groups(points, left):
            _search(points, group, candidates, None, best, labels)
    return labels


def _look_around(
    points: NDArray[np.int64], candidates: Candidates, best: NDArray[np.int64], labels: NDArray[np.int32]
) -> None:
    distances2 = candidates.distances2(points.min(axis=0), points.max(axis=0) + 1)
    lowest, highest = (np.full(len(points), label, np.int32) for label in candidates.span)
    for i in np.argsort(distances2, kind="stable").tolist():
        gaps2 = point_distances2(points, candidates.lower[i], candidates.upper[i])
        rows = np.flatnonzero(gaps2 <= np.minimum(best, AROUND * AROUND))
        del gaps2
        if len(rows):
            block = candidates.block(i)
            pieces = candidates.pieces(block)
            look_around(*pieces, (lowest, highest), block.write.start, points, rows, AROUND, best, labels)


def _by_cell(points: NDArray[np.int64], rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    cells = points[rows] // CELL
    cells -= cells.min(axis=0)
    _, height, width = (int(n) + 1 for n in cells.max(axis=0))
    keys = (cells[:, 0] * height + cells[:, 1]) * width + cells[:, 2]
    order = np.argsort(keys, kind="stable")
    ends = np.flatnonzero(np.diff(keys[order])) + 1
    del cells, keys
    yield from np.split(rows[order], ends)


def _far_groups(points: NDArray[np.int64], rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    # A search sweeps all voxels between its points. Far from any label it also sweeps large parts of other blocks, so
    # that many searches of a few points each cost more than one.
    groups = list(_by_cell(points, rows))
    between = prod((np.ptp(points[rows], axis=0) + 1).tolist())
    return groups if between > SPARSE * len(groups) * CELL**3 else [rows]


def _search(
    points: NDArray[np.int64],
    rows: NDArray[np.int64],
    candidates: Candidates,
    radius: int | None,
    best: NDArray[np.int64],
    labels: NDArray[np.int32],
) -> None:
    start, stop = points[rows].min(axis=0), points[rows].max(axis=0) + 1
    distances2 = candidates.distances2(start, stop)
    for i in np.argsort(distances2, kind="stable").tolist():
        worst = int(best[rows].max())
        limit = worst if radius is None else min(worst, radius * radius)
        if distances2[i] > limit:
            break
        window = candidates.box(i)
        if limit != NO_SEED:
            reach = isqrt(limit)
            lower = tuple(int(v) - reach for v in start)
            upper = tuple(int(v) + reach for v in stop)
            window = window.intersect(Box(lower, upper))  # type: ignore[arg-type]
        if window.size == 0:
            continue
        d2, found = nearest_of(candidates.read(i, window), window.start, points[rows])
        closer = (d2 < best[rows]) | ((d2 == best[rows]) & (found < labels[rows]))
        best[rows[closer]], labels[rows[closer]] = d2[closer], found[closer]


def file_patch(job: Job, kind: str, block: Block, voxels: NDArray[np.int64], labels: NDArray[np.int32]) -> None:
    """File new labels of some voxels of a block, by ascending raster index, and what each label gains."""
    ids, numbers = number_values(labels.astype(np.int64))
    extents = measure_some(voxels, numbers, len(ids), block.write.shape, block.write.start, job.grid.shape)
    job.scratch.put(
        kind, block.key, voxels=voxels, numbers=numbers, ids=ids.astype(np.int32), **extent_columns(extents)
    )
