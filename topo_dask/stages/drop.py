"""Measure how badly the flow fits each instance, and drop those that it fits worst."""

import numpy as np

from ..kernels.fixed_point import SCALE, add_sums
from ..kernels.flow_error import flow_errors
from ..kernels.labels import apply_lut, number_kept
from .job import Job, View, extents_of
from .tables import ALL, read_columns


def measure_errors(job: Job, key: str, view: View) -> None:
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
