"""The global stage that turns the pieces numbered in each block into provisional instances."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..kernels.labels import add_up, number_kept, number_roots
from ..kernels.linking import link_sinks
from ..kernels.sinks import CellGrid, add_ends, sink_centres
from ..stores.scratch import Scratch
from .job import ALL, Job, file_dropped, file_luts, read_columns

Sinks = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Cells, counts [S] and sums [S, 3] of a sink table."""

BATCH_ROWS = 1 << 20
"""Least number of cells that are collected from sink tables before they are merged."""


def combine_sinks(scratch: Scratch, keys: Sequence[str]) -> Sinks:
    """Add up the sink tables of blocks: one row for each cell, in ascending order.

    The tables are read twice, one at a time: first for the cells, then for the counts and sums to add up. A cell
    occurs once in each table.
    """
    cells = _distinct(table["ids"] for table in scratch.get_each("track", keys))
    counts, sums = np.zeros(len(cells), np.int64), np.zeros((len(cells), 3), np.int64)
    for table in scratch.get_each("track", keys):
        rows = _places(cells, table["ids"])
        counts[rows] += table["counts"]
        add_ends(sums, rows, table["sums"])
    return cells, counts, sums


def _distinct(parts: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    # Merges a few parts at a time, so that all parts are never held together.
    distinct, waiting, n = np.empty(0, np.int64), list[NDArray[np.int64]](), 0
    for part in parts:
        waiting.append(part)
        n += len(part)
        if n >= max(BATCH_ROWS, len(distinct) // 2):
            distinct, n = _merge(distinct, waiting), 0
    return _merge(distinct, waiting)


def _merge(distinct: NDArray[np.int64], waiting: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    merged = np.concatenate((distinct, *waiting))
    waiting.clear()
    merged.sort()
    first = np.ones(len(merged), np.bool_)
    np.not_equal(merged[1:], merged[:-1], out=first[1:])
    return merged[first]


def _places(cells: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    # Finds the row of each id in the cells. Ids are looked up in ascending order, which stays in the cache.
    order = np.argsort(ids)
    places = np.empty(len(ids), np.int64)
    places[order] = np.searchsorted(cells, ids[order])
    return places


def link(job: Job, min_size: int) -> None:
    """Combine the sink tables, link the sinks, drop small instances and file a look-up table for each block.

    Instances are numbered by their lowest cell.
    """
    keys = [block.key for block in job.occupied()]
    cells, counts, sums = combine_sinks(job.scratch, keys)
    if len(cells) == 0:
        return
    grid = CellGrid.for_radius(job.grid.shape, job.config.convergence_radius)
    centres = sink_centres(cells, counts, sums, grid, out=sums.view(np.float64))
    roots = link_sinks(centres, job.config.convergence_radius)
    del sums, centres
    voxels = add_up(roots, counts, len(cells))
    lut = number_roots(roots, voxels >= min_size)
    del roots, counts
    file_dropped(job, "link", voxels, min_size)
    del voxels
    tables = zip(keys, job.scratch.get_each("track", keys), strict=True)
    job.scratch.put_each("link", ((key, {"lut": lut[_places(cells, table["ids"])]}) for key, table in tables))


def collect(job: Job, min_size: int) -> None:
    """Drop small instances of the labels that a job starts from, and number the others 1..n in ascending order."""
    rows, columns = read_columns(job, "localise", ("ids",))
    if not rows:
        return
    counts = read_columns(job, "numbers.extents", ("counts",))[1][0]
    ids, inverse = np.unique(columns[0], return_inverse=True)
    voxels = add_up(inverse, counts, len(ids))
    job.scratch.put("collect.ids", ALL, ids=ids[voxels >= min_size])
    file_luts(job, "link", rows, number_kept(voxels >= min_size)[inverse])
