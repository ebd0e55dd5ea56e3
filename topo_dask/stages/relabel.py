"""Write the labels."""

import numpy as np
from numpy.typing import NDArray

from ..kernels.labels import apply_lut
from .job import Job, View


def final_labels(job: Job, key: str, view: View, drops: bool) -> NDArray[np.int32]:
    """Final labels of a block; `drops` says whether instances were dropped for their flow error at the end."""
    numbers, labels = view.pieces(job, job.grid.named(key))
    if drops:
        kept = job.scratch.get("drop.luts", key)
        table = np.concatenate((np.zeros(1, np.int32), kept["lut"]))
        # 0 sorts before every id, so that it meets the 0 in front of the table.
        labels = table[np.searchsorted(np.concatenate(([0], kept["ids"])), labels)]
    return apply_lut(numbers, labels)


def relabel(job: Job, key: str, view: View, drops: bool) -> None:
    """Write the labels of a block to the output."""
    assert job.output is not None
    job.output.write(job.grid.named(key).write, final_labels(job, key, view, drops))
    job.scratch.put("relabel", key)
