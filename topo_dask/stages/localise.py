"""Number the labels of a block, for jobs that start from labels."""

import numpy as np

from ..kernels.hashing import number_values
from ..kernels.labels import scatter
from .job import Job
from .track import file_numbers


def localise(job: Job, key: str) -> None:
    """Number the distinct labels of a block and file the numbers, the labels and their extents.

    Raises
    ------
    ValueError
        When a label is negative.
    """
    block = job.grid.named(key)
    assert job.labels is not None
    labels = job.labels.read(block.write)
    mask = labels != 0
    if not mask.any():
        job.scratch.put("localise", key)
        return
    if labels.dtype.kind == "i" and labels.min() < 0:
        raise ValueError(f"{job.labels.name} must not be negative, got {labels.min()} in block {key}")
    # uint64 is viewed as int64 here: numbering only asks whether two labels are the same.
    ids, voxel_numbers = number_values(labels[mask].astype(np.uint64).view(np.int64))
    file_numbers(job, block, scatter(mask, voxel_numbers), len(ids))
    job.scratch.put("localise", key, ids=ids.view(np.uint64))
