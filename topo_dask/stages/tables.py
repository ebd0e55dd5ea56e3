"""Tables of all blocks as one: read whole by global steps, and given back block by block."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import Block
from .job import Job

ALL = "all"
"""Key of a bundle that is one for the whole volume."""

BlockRows = list[tuple[Block, slice]]
"""Each block, and its rows in columns that are those of all blocks one after the other."""


def read_columns(job: Job, kind: str, names: tuple[str, ...]) -> tuple[BlockRows, list[NDArray[Any]]]:
    """Columns of the tables of all occupied blocks, one after the other, and each block's rows in them."""
    rows: BlockRows = []
    parts: list[list[NDArray[Any]]] = [[] for _ in names]
    at, blocks = 0, job.occupied()
    for block, bundle in zip(blocks, job.scratch.get_each(kind, (b.key for b in blocks)), strict=True):
        for part, name in zip(parts, names, strict=True):
            part.append(bundle[name])
        n = len(parts[0][-1])
        rows.append((block, slice(at, at + n)))
        at += n
    return rows, [np.concatenate(part) for part in parts] if rows else []


def dropped_kind(stage: str) -> str:
    """Kind of the bundle in which a stage files what it dropped for its size."""
    return f"{stage}.dropped"


def file_dropped(job: Job, stage: str, voxels: NDArray[np.int64], min_size: int) -> None:
    """File how many instances, of so many voxels each, are too small, and the voxels of the largest of them."""
    small = voxels[(voxels > 0) & (voxels < min_size)]
    job.scratch.put(dropped_kind(stage), ALL, small=np.array([len(small), small.max(initial=0)]))


def file_luts(job: Job, kind: str, rows: BlockRows, lut: NDArray[np.int32]) -> None:
    """File each block's part of a look-up table."""
    job.scratch.put_each(kind, ((block.key, {"lut": lut[part]}) for block, part in rows))
