"""Measure the flow error of each instance, and drop the instances with too large an error."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..kernels.fixed_point import SCALE, add_sums
from ..kernels.flow_error import flow_errors
from ..kernels.labels import apply_lut, number_kept
from ..stores.filed import listed
from .job import ALL, Job, View, extents_of, read_columns


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


@dataclass(frozen=True)
class Dropped:
    """Counts of the instances of a class that were dropped.

    Parameters
    ----------
    foreground : bool
        Whether there was any foreground: a voxel above the threshold.
    small, largest : int
        Number of instances with too few voxels, and the voxels of the largest of them.
    bad : int
        Number of instances with too large a flow error.
    least_error : float
        The least flow error of these.
    """

    foreground: bool
    small: int = 0
    largest: int = 0
    bad: int = 0
    least_error: float = 0.0

    def __str__(self) -> str:
        if not self.foreground:
            return "no voxel is above the threshold"
        small = f"{self.small} dropped for their size of {self.largest} voxels at most"
        bad = f"{self.bad} dropped for their flow error of {self.least_error:.3g} at least"
        return ", ".join(text for n, text in ((self.small, small), (self.bad, bad)) if n)


def count_dropped(job: Job, kinds: Sequence[str], *, drops: bool) -> Dropped:
    """Count the instances that the stages of a job have dropped.

    Bundles of these kinds hold the counts of those dropped for their size; `drops` says whether the job also drops
    instances for their flow error. No voxel is read.
    """
    if not listed(job.scratch, "numbers"):
        return Dropped(foreground=False)
    small = [job.scratch.get(kind, ALL)["small"].tolist() for kind in kinds]
    errors = np.empty(0)
    if drops:
        found = job.scratch.get("drop", ALL)
        errors = found["flow_error"][found["lut"] == 0]
    n, largest = sum(n for n, _ in small), max((most for _, most in small), default=0)
    return Dropped(True, n, largest, len(errors), float(errors.min()) if len(errors) else 0.0)


def drop(job: Job, threshold: float) -> None:
    """Combine the flow errors, drop instances above the threshold and file a look-up table for each block."""
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
