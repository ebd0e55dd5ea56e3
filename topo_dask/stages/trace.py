"""Track the foreground voxels of a block and file their end points themselves."""

import numpy as np
from numpy.typing import NDArray

from ..kernels.tracking import start_positions
from ..stores.scratch import find
from .job import Job
from .track import end_points


def trace(job: Job, key: str) -> None:
    """File the foreground voxels of a block (raster indices in the volume) and where they end."""
    block = job.grid.named(key)
    assert job.foreground is not None
    mask = job.foreground.read(block.write)
    if mask.any():
        voxels = start_positions(mask, block.write.start).astype(np.int64)
        positions = np.concatenate(list(end_points(job, block, mask)))
        flat = np.ravel_multi_index(tuple(voxels.T), job.grid.shape)
        job.scratch.put("ends", key, voxels=flat, positions=positions)
    job.scratch.put("trace", key)


def layer_of(job: Job, layer: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Voxels (z, y, x) and end points of one layer of blocks along z, in raster order."""
    voxels, positions = [np.empty(0, np.int64)], [np.empty((0, 3))]
    _, height, width = job.grid.numblocks
    for y, x in np.ndindex(height, width):
        if (bundle := find(job.scratch, "ends", job.grid.block((layer, y, x)).key)) is not None:
            voxels.append(bundle["voxels"])
            positions.append(bundle["positions"])
    flat = np.concatenate(voxels)
    order = np.argsort(flat)
    coords = np.stack(np.unravel_index(flat[order], job.grid.shape), axis=-1)
    return coords, np.concatenate(positions)[order]
