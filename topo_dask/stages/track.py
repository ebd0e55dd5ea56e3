"""Track the foreground voxels of a block to their end points, and number the sinks that they end in."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import Block, BlockGrid, Box, Triple
from ..blocks.memory import PAGE_MARGIN, PARTICLES
from ..kernels.extents import measure
from ..kernels.hashing import number_values
from ..kernels.paging import pages_of
from ..kernels.sinks import CellGrid, add_ends, cells_of, sum_ends
from ..kernels.tracking import TILE, advance, start_particles
from ..stores.volumes import Flow, HeldFlow
from .job import Job, extent_columns

_SMALL = 8
"""How many times larger a page must be than the box around some particles for the box to be read in its place."""


def lay_out(job: Job, key: str) -> None:
    """Lay out a flow in memory for tracking. (A stored flow is laid out when a box of it is read.)"""
    flow = job.need_flow()
    assert isinstance(flow, HeldFlow)
    flow.lay_out(job.grid.named(key).write)


def track(job: Job, key: str) -> None:
    """Track a block and file its numbers (which sink each voxel ends in), its sink table and its extents."""
    block = job.grid.named(key)
    assert job.foreground is not None
    mask = job.foreground.read(block.write)
    if not mask.any():
        job.scratch.put("track", key)
        return
    table = SinkTable(CellGrid.for_radius(job.grid.shape, job.config.convergence_radius))
    for voxels, ends in end_points(job, block, mask):
        table.add(voxels, ends)
    file_sinks(job, block, table)


def end_points(
    job: Job, block: Block, mask: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Yield foreground voxels of a block (raster indices in it) and their end points, part by part."""
    flow, n_steps = job.need_flow(), job.config.n_steps
    region = flow.region(block.read) if n_steps else None
    for part in block.write.parts(PARTICLES, TILE[0]):
        positions, voxels = start_particles(mask, block.write.start, part.within(block.write))
        if region is not None and len(positions):
            steps_left = np.full(len(positions), n_steps, np.int64)
            advance(region, job.grid.shape, positions, steps_left)
            follow_leavers(flow, job.grid, positions, steps_left)
        yield voxels, positions


def follow_leavers(flow: Flow, grid: BlockGrid, positions: NDArray[np.float64], steps_left: NDArray[np.int64]) -> None:
    """Track, in place, the particles that have left the region that was read for them.

    A page is a box of the shape of a block, with a margin. The page with the most particles is read and its particles
    go on, again and again, until all have arrived. Most particles that have just left a region are about to arrive. So
    when all particles of a page have just left, and are close together, only the flow around them is read at first.
    """
    margin = tuple(max(PAGE_MARGIN, h) for h in grid.halo)
    away = np.flatnonzero(steps_left)
    fresh = np.ones(len(positions), np.bool_)
    while len(away):
        pages, numbers = number_values(pages_of(positions, away, grid.block_shape, grid.numblocks))
        fullest = int(np.argmax(np.bincount(numbers)))
        chosen = away[numbers == fullest]
        z, y, x = (int(i) for i in np.unravel_index(pages[fullest - 1], grid.numblocks))
        page = grid.block((z, y, x)).write.grow(margin, margin, grid.shape)  # type: ignore[arg-type]
        moved, left = positions[chosen], steps_left[chosen]
        around = _around(moved, grid) if fresh[chosen].all() else page
        region = flow.page(page) if _SMALL * around.size > page.size else flow.part(page, around)
        advance(region, grid.shape, moved, left)
        del region  # frees its memory before the next one is read
        fresh[chosen] = False
        positions[chosen], steps_left[chosen] = moved, left
        away = away[steps_left[away] > 0]


def _around(positions: NDArray[np.float64], grid: BlockGrid) -> Box:
    first, last = (tuple(int(i) for i in edge) for edge in (positions.min(axis=0), positions.max(axis=0)))
    inner = Box(first, tuple(i + 1 for i in last))  # type: ignore[arg-type]
    return inner.grow((PAGE_MARGIN,) * 3, (PAGE_MARGIN,) * 3, grid.shape)


class SinkTable:
    """Sinks of a block, from end points that are added part by part."""

    def __init__(self, grid: CellGrid) -> None:
        self._grid = grid
        self._voxels: list[NDArray[np.int64]] = []
        self._cells: list[NDArray[np.int64]] = []
        self._rows: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = []

    def add(self, voxels: NDArray[np.int64], ends: NDArray[np.float64]) -> None:
        """Add voxels, raster indices in the block, and their end points."""
        cells = cells_of(ends, self._grid)
        ids, numbers = number_values(cells)
        self._rows.append((ids, *sum_ends(ends, numbers, ids, self._grid)))
        self._voxels.append(voxels)
        self._cells.append(cells)

    def combine(self, shape: Triple) -> tuple[NDArray[np.uint32], dict[str, NDArray[np.int64]]]:
        """Sink of each voxel of the block, from 1, 0 for none, and the columns of the table. Empties the table."""
        cells = np.concatenate(self._cells)
        self._cells.clear()
        ids, numbers = number_values(cells)
        del cells
        counts = np.zeros(len(ids), np.int64)
        sums = np.zeros((len(ids), 3), np.int64)
        order = np.argsort(ids)
        ascending = ids[order]
        while self._rows:
            some_ids, some_counts, some_sums = self._rows.pop()
            rows = order[np.searchsorted(ascending, some_ids)]
            counts[rows] += some_counts
            add_ends(sums, rows, some_sums)
        out, end = np.zeros(shape, np.uint32), len(numbers)
        while self._voxels:
            voxels = self._voxels.pop()
            out.reshape(-1)[voxels] = numbers[end - len(voxels) : end]
            end -= len(voxels)
        return out, {"ids": ids, "counts": counts, "sums": sums}


def file_sinks(job: Job, block: Block, table: SinkTable) -> None:
    """File the sinks of a block, and for each of its voxels the sink that it ends in."""
    numbers, columns = table.combine(block.write.shape)
    file_numbers(job, block, numbers, len(columns["ids"]))
    job.scratch.put("track", block.key, **columns)


def file_numbers(job: Job, block: Block, numbers: NDArray[np.uint32], n: int) -> None:
    """File a block's numbers, its lower planes (which its lower neighbours read), and the extents of its pieces."""
    extents = measure(numbers, n, block.write.start, job.grid.shape)
    job.scratch.put("numbers.extents", block.key, **extent_columns(extents))
    del extents
    faces = {f"lower{axis}": np.take(numbers, 0, axis=axis) for axis in range(3)}
    job.scratch.put("numbers.faces", block.key, **faces)
    job.scratch.put("numbers", block.key, numbers=numbers)
