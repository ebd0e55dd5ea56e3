"""Give the voxels of small fragments the label of the nearest large fragment of their instance, at any distance."""

from functools import lru_cache, partial

import numpy as np

from ..kernels.labels import apply_lut
from .job import ABSORBED, Job, View
from .search import RECENT, Candidates, file_patch, nearest_labels, octants_of
from .seeds import SMALL, TABLE, SeedTable


def absorb(job: Job, key: str) -> None:
    """Give each voxel of a block's small fragments the label of the nearest large fragment of its instance.

    The memory of a task does not depend on how many instances there are or how large they are. It holds the arrays of
    its own block, the pieces of `RECENT` blocks and the bundles of a `SeedTable`. For the instance it works on it also
    holds 48 bytes for each other block that may contain the nearest seed.
    """
    block = job.grid.named(key)
    small = job.scratch.get(SMALL, key)
    pieces = lru_cache(RECENT)(partial(View("fragments", "split").pieces, job))
    numbers, lut = pieces(block)
    ids = job.scratch.get("fragments.ids", key)["ids"]
    instances = apply_lut(numbers, np.where(lut == 0, ids, 0).astype(np.int32))
    where = instances > 0
    voxels, instances, octants = np.flatnonzero(where), instances[where], octants_of(where.shape)[where]
    labels = np.zeros(len(voxels), np.int32)
    table = SeedTable(job.scratch, TABLE)
    for octant in range(8):
        order = np.flatnonzero(octants == octant)
        order = order[np.argsort(instances[order], kind="stable")]
        begins, ends = (np.searchsorted(instances[order], small["ids"], side) for side in ("left", "right"))
        for i in np.flatnonzero(begins < ends).tolist():
            rows = order[begins[i] : ends[i]]
            points = np.stack(np.unravel_index(voxels[rows], where.shape), axis=-1) + np.array(block.write.start)
            lower, upper = table.near(small["begins"][i], small["ends"][i], points.min(axis=0), points.max(axis=0) + 1)
            span = int(small["lowest"][i]), int(small["highest"][i])
            labels[rows] = nearest_labels(points, Candidates(job.grid, lower, upper, pieces, span))
    file_patch(job, ABSORBED, block, where, labels)
