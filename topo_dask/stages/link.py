"""The global step that turns the pieces numbered in each block into provisional instances."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import Block
from ..kernels.labels import number_kept, number_roots
from ..kernels.linking import link_sinks
from ..kernels.sinks import CellGrid, sink_centres
from .job import Job

Rows = list[tuple[Block, slice]]


def gather_rows(job: Job, kind: str, columns: tuple[str, ...]) -> tuple[Rows, list[NDArray[Any]]]:
    """Columns of the tables of all occupied blocks, one after the other, and each block's rows in them."""
    rows: Rows = []
    parts: list[list[NDArray[Any]]] = [[] for _ in columns]
    at = 0
    for block in job.occupied():
        bundle = job.scratch.get(kind, block.key)
        for part, name in zip(parts, columns, strict=True):
            part.append(bundle[name])
        n = len(parts[0][-1])
        rows.append((block, slice(at, at + n)))
        at += n
    return rows, [np.concatenate(part) for part in parts] if rows else []


def file_luts(job: Job, kind: str, rows: Rows, lut: NDArray[np.int32]) -> None:
    """File each block's part of a look-up table."""
    for block, part in rows:
        job.scratch.put(kind, block.key, lut=lut[part])


def link(job: Job, min_size: int) -> None:
    """Combine the sink tables, link the sinks, drop small instances and file a look-up table a block.

    Instances are numbered by their lowest cell.
    """
    if (release := getattr(job.flow, "release", None)) is not None:
        release()  # tracking is over: a flow held in memory need not keep its layout
    rows, columns = gather_rows(job, "track", ("ids", "counts", "sums"))
    if not rows:
        return
    cells, inverse = np.unique(columns[0], return_inverse=True)
    counts = np.zeros(len(cells), np.int64)
    sums = np.zeros((len(cells), 3), np.int64)
    np.add.at(counts, inverse, columns[1])
    np.add.at(sums, inverse, columns[2])
    del columns
    grid = CellGrid.for_radius(job.grid.shape, job.config.convergence_radius)
    roots = link_sinks(sink_centres(cells, counts, sums, grid), job.config.convergence_radius)
    voxels = np.zeros(len(cells), np.int64)
    np.add.at(voxels, roots, counts)
    lut = number_roots(roots, voxels >= min_size)
    file_luts(job, "link", rows, lut[inverse])


def collect(job: Job, min_size: int) -> None:
    """Number the labels that a job starts from 1..n in ascending order, small ones dropped."""
    rows, columns = gather_rows(job, "localise", ("ids",))
    if not rows:
        return
    counts = gather_rows(job, "numbers.extents", ("counts",))[1][0]
    ids, inverse = np.unique(columns[0], return_inverse=True)
    voxels = np.zeros(len(ids), np.int64)
    np.add.at(voxels, inverse, counts)
    job.scratch.put("collect.ids", "all", ids=ids[voxels >= min_size])
    file_luts(job, "link", rows, number_kept(voxels >= min_size)[inverse])
