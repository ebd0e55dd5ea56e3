"""Give the voxels of small fragments the label of the nearest large fragment of their instance, at any distance."""

from functools import lru_cache, partial
from itertools import pairwise

import numpy as np

from ..kernels.labels import apply_lut, coordinates_of
from .job import ABSORBED, Job, View
from .search import RECENT, Candidates, file_patch, labels_inside, nearest_labels, octants_of
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
    voxels = np.flatnonzero(instances)
    points = coordinates_of(voxels, block.write.shape) + np.array(block.write.start)
    octants = octants_of(points, block, job.grid)
    by_id = np.argsort(small["ids"])
    rows = by_id[np.searchsorted(small["ids"], instances.reshape(-1)[voxels], sorter=by_id)]
    labels = labels_inside(points, block, pieces, (small["lowest"][rows], small["highest"][rows]))
    left = np.flatnonzero(labels == 0)
    left = left[np.lexsort((rows[left], octants[left]))]
    keys = octants[left] * np.int64(len(by_id)) + rows[left]
    table = SeedTable(job.scratch, TABLE)
    for begin, end in pairwise(np.flatnonzero(np.diff(keys, prepend=-1, append=-1)).tolist()):
        i, some = rows[left[begin]], points[left[begin:end]]
        lower, upper = table.near(small["begins"][i], small["ends"][i], some.min(axis=0), some.max(axis=0) + 1)
        span = int(small["lowest"][i]), int(small["highest"][i])
        labels[left[begin:end]] = nearest_labels(some, Candidates(job.grid, lower, upper, pieces, span))
    file_patch(job, ABSORBED, block, voxels, labels)
