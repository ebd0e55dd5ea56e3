"""Statistics of the instances: exact sums over the pieces of all blocks."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.extents import Extents
from ..stores.instance_tables import COLUMNS
from .job import ALL, Job, View, extent_columns, extents_of


def tabulate(job: Job, view: View, centres: bool) -> None:
    """Combine the extents of all pieces by label: one row for each instance, whichever blocks it is in.

    With `centres` it files, for each block, the centres of mass of the instances in it.
    """
    # Blocks are read twice, one by one, so that the rows of all blocks are never held together.
    table = Extents.empty(max((int(ids.max(initial=0)) for _, ids, _ in view.extents(job)), default=0))
    for _, ids, pieces in view.extents(job):
        table.add(ids[ids > 0].astype(np.int64) - 1, pieces.take(ids > 0))
    if centres:
        found = table.centres()
        mine = ((block.key, np.unique(ids[ids > 0])) for block, ids, _ in view.extents(job))
        job.scratch.put_each("centres", ((key, {"ids": ids, "centres": found[ids - 1]}) for key, ids in mine))
    job.scratch.put("tabulate", ALL, **extent_columns(table))


def instance_columns(job: Job, *, drops: bool) -> dict[str, NDArray[Any]]:
    """Columns of the instance table of a job whose statistics are combined, one row for each instance, in label order.

    Parameters
    ----------
    job : Job
        The job.
    drops : bool
        Whether the job has also combined flow errors and dropped instances by them.
    """
    table = extents_of(job.scratch.get("tabulate", ALL))
    labels = np.arange(1, len(table.counts) + 1)
    error = np.full(len(labels), np.nan)
    if drops:
        dropped = job.scratch.get("drop", ALL)
        error, labels = dropped["flow_error"], dropped["lut"]
    kept = labels > 0
    if job.labels is not None and len(labels):
        labels = job.scratch.get("collect.ids", ALL)["ids"]  # a job that starts from labels keeps their names
    table = table.take(kept)
    values = [labels[kept].astype(np.uint64), table.counts, *table.lower.T, *table.upper.T]
    return dict(zip(COLUMNS, [*values, *table.centres().T, error[kept]], strict=True))
