"""Give orphans, foreground without a label, that of the nearest labelled voxel, at any distance."""

from functools import lru_cache

import numpy as np

from ..blocks.memory import PARTICLES
from ..kernels.labels import voxels_of
from .job import ALL, Job, View
from .search import RECENT, Candidates, file_patch, nearest_labels


def survey(job: Job) -> None:
    """File which blocks hold labelled voxels, and in which box: where orphans look for labels."""
    blocks, lower, upper = [], [], []
    for block in job.occupied("fragments"):
        extents = job.scratch.get("fragments.extents", block.key)
        if len(extents["counts"]):
            blocks.append(block.block_id)
            lower.append(extents["lower"].min(axis=0))
            upper.append(extents["upper"].max(axis=0))
    shape = (len(blocks), 3)
    job.scratch.put(
        "survey",
        ALL,
        blocks=np.array(blocks, np.int64).reshape(shape),
        lower=np.array(lower, np.int64).reshape(shape),
        upper=np.array(upper, np.int64).reshape(shape),
    )


def recover_orphans(job: Job, key: str, view: View) -> None:
    """Give each foreground voxel of a block that has no label the label of the nearest labelled voxel."""
    block = job.grid.named(key)
    where = (job.scratch.get("numbers", key)["numbers"] > 0) & (view.read(job, block) == 0)
    if not where.any():
        job.scratch.put("orphans", key)
        return
    seeds = job.scratch.get("survey", ALL)
    pieces = lru_cache(RECENT)(lambda other: view.pieces(job, other))
    candidates = Candidates(job.grid, seeds["blocks"], seeds["lower"], seeds["upper"], pieces)
    parts = block.write.parts(PARTICLES)
    some = (voxels_of(where[part.within(block.write)]) + np.array(part.start) for part in parts)
    labels = np.concatenate([nearest_labels(points, candidates) for points in some])
    file_patch(job, "orphans", block, where, labels)
