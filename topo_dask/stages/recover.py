"""Give orphans (foreground voxels without a label) the label of the nearest labelled voxel, at any distance."""

from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import z_order
from ..blocks.memory import PARTICLES
from ..kernels.labels import coordinates_of
from .job import Job, View
from .search import RECENT, Candidates, file_patch, nearest_labels, octants_of
from .seeds import SeedTable, file_table

SURVEY = "survey"
"""Kind of the bundles that say where labelled voxels are: one row for each block, in Z-order."""


def survey(job: Job) -> None:
    """File the box of the labelled voxels of each block: orphans look for labels there."""
    blocks = sorted(job.occupied("fragments"), key=lambda block: z_order(block.block_id))
    lower, upper = np.empty((2, len(blocks), 3), np.int64)
    n = 0
    for extents in job.scratch.get_each("fragments.extents", (block.key for block in blocks)):
        if len(extents["counts"]):
            lower[n], upper[n] = extents["lower"].min(axis=0), extents["upper"].max(axis=0)
            n += 1
    file_table(job.scratch, SURVEY, lower[:n], upper[:n])


def recover_orphans(job: Job, key: str, view: View) -> None:
    """Give each foreground voxel of a block that has no label the label of the nearest labelled voxel.

    A task holds the arrays of its own block, the pieces of `RECENT` blocks, the bundles of a `SeedTable`, and 48 bytes
    for each other block that may contain the nearest labelled voxel; no more, however many blocks there are.
    """
    block = job.grid.named(key)
    # Small fragments have been given a label: a voxel without one is in no fragment.
    orphans = (job.scratch.get("numbers", key)["numbers"] > 0) & (job.scratch.get(view.numbers, key)["numbers"] == 0)
    voxels = np.flatnonzero(orphans)
    del orphans
    if not len(voxels):
        job.scratch.put("orphans", key)
        return
    table, pieces = SeedTable(job.scratch, SURVEY), lru_cache(RECENT)(partial(view.pieces, job))

    def labels_of(points: NDArray[np.int64]) -> NDArray[np.int32]:
        boxes = table.near(0, table.end, points.min(axis=0), points.max(axis=0) + 1)
        return nearest_labels(points, Candidates(job.grid, *boxes, pieces))

    points = coordinates_of(voxels, block.write.shape) + np.array(block.write.start)
    octants = octants_of(points, block, job.grid)
    labels = np.empty(len(voxels), np.int32)
    for octant in range(8):
        rows = np.flatnonzero(octants == octant)
        for begin in range(0, len(rows), PARTICLES):
            some = rows[begin : begin + PARTICLES]
            labels[some] = labels_of(points[some])
    file_patch(job, "orphans", block, voxels, labels)
