"""The global step that turns the pieces numbered in each block into provisional instances."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import Block
from ..kernels.labels import number_kept, number_roots
from ..kernels.linking import link_sinks
from ..kernels.sinks import CellGrid, sink_centres
from ..stores.scratch import Arrays
from .job import Job

Rows = list[tuple[Block, slice]]
Sinks = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Cells, counts [S] and sums [S, 3] of a sink table."""

BATCH_ROWS = 1 << 20
"""Rows of raw sink tables that are held at least before they are added up."""


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


def combine_sinks(tables: Iterable[Arrays]) -> Sinks:
    """Add up the sink tables of blocks: one row a cell, in ascending order.

    They are taken some at a time, so that the raw tables are never held together.
    """
    combined: Sinks = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 3), np.int64))
    waiting, n = [combined], 0
    for table in tables:
        waiting.append((table["ids"], table["counts"], table["sums"]))
        n += len(table["ids"])
        if n >= max(BATCH_ROWS, len(combined[0])):
            combined = _add_up(waiting)
            waiting, n = [combined], 0
    return _add_up(waiting) if len(waiting) > 1 else combined


def _add_up(tables: list[Sinks]) -> Sinks:
    ids, counts, sums = (np.concatenate(column) for column in zip(*tables, strict=True))
    order = np.argsort(ids)
    ids = ids[order]
    starts = np.flatnonzero(np.diff(ids, prepend=-1))
    if len(starts) == 0:
        return ids, counts, sums
    return ids[starts], np.add.reduceat(counts[order], starts), np.add.reduceat(sums[order], starts)


def link(job: Job, min_size: int) -> None:
    """Combine the sink tables, link the sinks, drop small instances and file a look-up table a block.

    Instances are numbered by their lowest cell.
    """
    blocks = job.occupied()
    cells, counts, sums = combine_sinks(job.scratch.get("track", block.key) for block in blocks)
    if len(cells) == 0:
        return
    grid = CellGrid.for_radius(job.grid.shape, job.config.convergence_radius)
    roots = link_sinks(sink_centres(cells, counts, sums, grid), job.config.convergence_radius)
    del sums
    voxels = np.zeros(len(cells), np.int64)
    np.add.at(voxels, roots, counts)
    lut = number_roots(roots, voxels >= min_size)
    del roots, counts, voxels
    for block in blocks:
        ids = job.scratch.get("track", block.key)["ids"]
        job.scratch.put("link", block.key, lut=lut[np.searchsorted(cells, ids)])


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
