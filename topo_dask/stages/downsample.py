"""Fill the coarser levels of a pyramid, each from the level before it."""

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import BlockGrid, Box
from ..kernels.pyramid import Factors, coarse_shape, downsample_labels
from ..stores.volumes import Source
from .job import Job


def coarse_labels(finer: Source, box: Box, factors: Factors) -> NDArray[np.int32]:
    """Labels of a box of the next level.

    Parameters
    ----------
    finer : Source of int32, shape (D, H, W)
        The level before the coarser one.
    box : Box
        Voxels of the coarser level.
    factors : tuple of 3 int
        How many voxels of the finer level make one voxel of the coarser level, along z, y, x.

    Returns
    -------
    labels : ndarray of int32, the box's shape

    Notes
    -----
    The finer level is read in pieces of about the shape of `box`, so that the task takes no more memory than others.

    Examples
    --------
    >>> finer = Source(np.arange(8, dtype=np.int32).reshape(1, 1, 8), "labels")
    >>> coarse_labels(finer, Box((0, 0, 1), (1, 1, 4)), (1, 1, 2))
    array([[[2, 4, 6]]], dtype=int32)
    """
    labels = np.empty(box.shape, np.int32)
    whole = Box.whole(finer.shape)
    for piece in BlockGrid(box.shape, coarse_shape(box.shape, factors)):
        start, stop = (
            tuple((a + b) * f for a, b, f in zip(box.start, corner, factors, strict=True))
            for corner in (piece.write.start, piece.write.stop)
        )
        read = Box(start, stop).intersect(whole)  # type: ignore[arg-type]
        labels[piece.write.slices] = downsample_labels(finer.read(read), factors)
    return labels


def downsample(job: Job, key: str, kind: str, factors: Factors) -> None:
    """Write a block of a coarser level to the output; `job` is the job as that level sees it, see `Job.at`."""
    assert job.labels is not None
    assert job.output is not None
    box = job.grid.named(key).write
    job.output.write(box, coarse_labels(job.labels, box, factors))
    job.scratch.put(kind, key)
