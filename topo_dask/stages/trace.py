"""Track the foreground voxels of a block and file the end points instead of sinks."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import Block
from ..kernels.labels import coordinates_of
from .job import Job
from .track import end_points


def trace(job: Job, key: str) -> None:
    """File the foreground voxels of a block (raster indices in the volume) and their end points."""
    block = job.grid.named(key)
    assert job.foreground is not None
    mask = job.foreground.read(block.write)
    if mask.any():
        voxels, positions = (np.concatenate(column) for column in zip(*end_points(job, block, mask), strict=True))
        coords = np.unravel_index(voxels, mask.shape)
        flat = np.ravel_multi_index([c + n for c, n in zip(coords, block.write.start, strict=True)], job.grid.shape)
        job.scratch.put("ends", key, voxels=flat, positions=positions)
    job.scratch.put("trace", key)


def rows_of(job: Job, blocks: Iterable[Block]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Voxels (z, y, x) and end points of blocks that have some, in raster order; KeyError when a bundle is missing."""
    voxels, positions = [np.empty(0, np.int64)], [np.empty((0, 3))]
    for block in blocks:
        bundle = job.scratch.get("ends", block.key)
        voxels.append(bundle["voxels"])
        positions.append(bundle["positions"])
    flat = np.concatenate(voxels)
    order = np.argsort(flat)
    return coordinates_of(flat[order], job.grid.shape), np.concatenate(positions)[order]
