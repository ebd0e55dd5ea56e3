"""Instance statistics from combined sums, the flow errors they allow, and the drop of what fits badly."""

import numpy as np

from ..kernels.extents import Extents
from ..kernels.fixed_point import SCALE, add_sums
from ..kernels.flow_error import flow_errors
from ..kernels.labels import apply_lut, number_kept
from .job import Job, View, extent_columns, extents_of
from .tables import ALL, read_columns


def tabulate(job: Job, view: View, centres: bool) -> None:
    """Combine the extents of all pieces by label: one row an instance, whatever its blocks.

    With `centres`, each block is filed the centres of mass of the instances in it.
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


def errors(job: Job, key: str, view: View) -> None:
    """File the sums of squared differences between the flow of a block and the unit vectors to the centres."""
    block = job.grid.named(key)
    numbers, labels = view.pieces(job, block)
    known = job.scratch.get("centres", key)
    ids = known["ids"]
    # Instances of the block numbered from 1; 0 sorts before every id, so that it stays 0.
    lut = np.searchsorted(np.concatenate(([0], ids)), labels).astype(np.int32)
    centres = np.concatenate((np.zeros((1, 3)), known["centres"]))
    flow = job.need_flow().read(block.write)
    sums = flow_errors(apply_lut(numbers, lut), flow, block.write.start, centres, len(ids))
    job.scratch.put("errors", key, ids=ids, sums=sums[1:])


def drop(job: Job, threshold: float) -> None:
    """Combine the flow errors, drop instances above the threshold and file a look-up table a block."""
    table = extents_of(job.scratch.get("tabulate", ALL))
    sums = np.zeros(len(table.counts), np.int64)
    rows, columns = read_columns(job, "errors", ("ids", "sums"))
    remedy = "flow vectors are expected to be about one voxel long"
    for _, part in rows:
        add_sums(sums, columns[0][part] - 1, columns[1][part], "squared flow errors of an instance", remedy)
    flow_error = (sums / SCALE) / (3 * table.counts)
    lut = number_kept(flow_error <= threshold)
    mine = ((block.key, columns[0][part]) for block, part in rows)
    job.scratch.put_each("drop.luts", ((key, {"ids": ids, "lut": lut[ids - 1]}) for key, ids in mine))
    job.scratch.put("drop", ALL, lut=lut, flow_error=flow_error)
