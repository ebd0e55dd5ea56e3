"""Statistics of the instances, from sums that the pieces of all blocks combine exactly."""

import numpy as np

from ..kernels.extents import Extents
from .job import Job, View, extent_columns
from .tables import ALL


def tabulate(job: Job, view: View, centres: bool) -> None:
    """Combine the extents of all pieces by label: one row an instance, whatever its blocks.

    With `centres` it files, for each block, the centres of mass of the instances in it.
    """
    # Read twice, block by block, so that the rows of all blocks are never held together.
    table = Extents.empty(max((int(ids.max(initial=0)) for _, ids, _ in view.extents(job)), default=0))
    for _, ids, pieces in view.extents(job):
        table.add(ids[ids > 0].astype(np.int64) - 1, pieces.take(ids > 0))
    if centres:
        found = table.centres()
        mine = ((block.key, np.unique(ids[ids > 0])) for block, ids, _ in view.extents(job))
        job.scratch.put_each("centres", ((key, {"ids": ids, "centres": found[ids - 1]}) for key, ids in mine))
    job.scratch.put("tabulate", ALL, **extent_columns(table))
