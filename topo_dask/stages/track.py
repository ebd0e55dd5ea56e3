"""Track the foreground voxels of a block to their end points, and number the sinks they end in."""

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import Block, Box, Triple
from ..kernels.extents import measure
from ..kernels.sinks import CellGrid, cells_of, number_values, sum_ends
from ..kernels.tracking import advance
from ..stores.volumes import Flow, HeldFlow
from .job import Job, extent_columns

PAGE_MARGIN = 16
"""Least margin of a page, in voxels: a particle that swings about a page's face must not turn pages at each step."""


def lay_out(job: Job, key: str) -> None:
    """Lay out a flow that is held in memory for tracking; a stored one is laid out box by box."""
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
    starts = np.argwhere(mask)
    starts += np.array(block.write.start)
    ends = follow(job.need_flow(), block, job.grid.shape, starts, job.config.n_steps, job.grid.block_shape)
    del starts
    file_sinks(job, block, mask, ends)


def file_sinks(job: Job, block: Block, mask: NDArray[np.bool_], ends: NDArray[np.float64]) -> None:
    """File the sinks of a block, given the end points of its foreground voxels in raster order."""
    grid = CellGrid.for_radius(job.grid.shape, job.config.convergence_radius)
    cells, voxel_numbers = number_values(cells_of(ends, grid))
    counts, sums = sum_ends(ends, voxel_numbers, cells, grid)
    numbers = np.zeros(mask.shape, np.uint32)
    numbers[mask] = voxel_numbers
    file_numbers(job, block, numbers, len(cells))
    job.scratch.put("track", block.key, ids=cells, counts=counts, sums=sums)


def follow(
    flow: Flow, block: Block, shape: Triple, starts: NDArray[np.int64], n_steps: int, page_shape: Triple
) -> NDArray[np.float64]:
    """End points of particles that start in a block.

    They are tracked through the flow of the block's read box. Those that leave it are sorted by page, a block-shaped
    box with a margin; the fullest page is read, its particles go on, and so forth until all have arrived.
    """
    positions = starts.astype(np.float64)
    steps_left = np.full(len(positions), n_steps, np.int64)
    if n_steps > 0:
        advance(flow.region(block.read), shape, positions, steps_left)
    margin = max(PAGE_MARGIN, *(r - w for r, w in zip(block.write.start, block.read.start, strict=True)))
    away = np.flatnonzero(steps_left)
    while len(away):
        pages = positions[away].astype(np.int64) // np.array(page_shape)
        distinct, which, sizes = np.unique(pages, axis=0, return_inverse=True, return_counts=True)
        fullest = int(np.argmax(sizes))
        chosen = away[which.reshape(-1) == fullest]
        page = _page(distinct[fullest], page_shape, margin, shape)
        moved, left = positions[chosen], steps_left[chosen]
        advance(flow.region(page), shape, moved, left)
        positions[chosen], steps_left[chosen] = moved, left
        away = away[steps_left[away] > 0]
    return positions


def _page(index: NDArray[np.int64], page_shape: Triple, margin: int, shape: Triple) -> Box:
    start = [int(i) * n for i, n in zip(index, page_shape, strict=True)]
    stop = [min(a + n, s) for a, n, s in zip(start, page_shape, shape, strict=True)]
    page = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    return page.grow((margin,) * 3, (margin,) * 3, shape)


def file_numbers(job: Job, block: Block, numbers: NDArray[np.uint32], n: int) -> None:
    """File a block's numbers, the planes its lower neighbours look at, and the extents of its pieces."""
    extents = measure(numbers, n, block.write.start, job.grid.shape)
    job.scratch.put("numbers.extents", block.key, **extent_columns(extents))
    faces = {f"lower{axis}": np.take(numbers, 0, axis=axis) for axis in range(3)}
    job.scratch.put("numbers.faces", block.key, **faces)
    job.scratch.put("numbers", block.key, numbers=numbers)
