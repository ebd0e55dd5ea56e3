"""Tables of seeds. Seeds are the voxels whose labels other voxels get; each row of a table is a box of seeds.

The table for small fragments has a row for each pair of an instance and a block: the box of the voxels that the large
fragments of the instance have in the block. Rows of one instance are consecutive, in Z-order of their blocks; instances
follow the Z-order of their first blocks. The table for orphans has a row for each block with labelled voxels, in
Z-order. Tables are filed in bundles of consecutive rows, with the box of each bundle. Thus a task reads only a few
bundles, whether its instances are many or large, and finds out from the boxes which ones.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import z_order
from ..kernels.distances import box_distances2, box_reaches2
from ..stores.scratch import Scratch
from .job import BlockRows, Job

PIECE = 1 << 12
"""Rows of a table in one bundle of scratch; a row has 48 bytes."""

KEPT = 4
"""Bundles of a table that a task keeps at hand."""

TABLE, SMALL = "split.seeds", "split.small"
"""Kinds of two sorts of bundles: the table for small fragments, and for each block the rows of its instances in it."""

BOXES = "boxes"
"""Key under which the boxes of all bundles are filed; the key of a bundle itself is its number."""


def file_seeds(
    job: Job,
    rows: BlockRows,
    ids: NDArray[np.int32],
    new: NDArray[np.int32],
    lower: NDArray[np.int64],
    upper: NDArray[np.int64],
) -> None:
    """File the table for small fragments, and for each block with small fragments the rows of their instances.

    Parameters
    ----------
    job : Job
        The job.
    rows : list of (Block, slice)
        Blocks, and the fragments of each.
    ids, new : ndarray of int32, shape (N,)
        Instance of each fragment, and its new label, 0 for a small one. The new labels of an instance are consecutive.
    lower, upper : ndarray of int64, shape (N, 3)
        Box of each fragment.
    """
    small = new == 0
    wanted = np.unique(ids[small])
    if len(wanted) == 0:
        return
    seeds = np.flatnonzero(~small & np.isin(ids, wanted))
    instance, place = np.searchsorted(wanted, ids[seeds]), _places_in_z_order(rows)[seeds]
    order = _in_order_of_first(instance, place)
    seeds, instance, place = seeds[order], instance[order], place[order]
    row_starts, instance_starts = _runs(instance, place), _runs(instance)
    low = np.minimum.reduceat(lower[seeds], row_starts, axis=0)
    high = np.maximum.reduceat(upper[seeds], row_starts, axis=0)
    file_table(job.scratch, TABLE, low, high)
    begins = np.searchsorted(row_starts, instance_starts)
    instances = {
        "ids": wanted[instance[instance_starts]],
        "begins": begins,
        "ends": np.append(begins[1:], len(row_starts)),
        "lowest": np.minimum.reduceat(new[seeds], instance_starts),
        "highest": np.maximum.reduceat(new[seeds], instance_starts),
    }
    row_of = np.argsort(instance[instance_starts])  # for each wanted instance its row in `instances`
    own = ((block.key, np.unique(ids[part][small[part]])) for block, part in rows)
    mine = ((key, np.sort(row_of[np.searchsorted(wanted, some)])) for key, some in own if len(some))
    job.scratch.put_each(SMALL, ((key, {name: column[i] for name, column in instances.items()}) for key, i in mine))


def _in_order_of_first(instance: NDArray[np.int64], place: NDArray[np.int32]) -> NDArray[np.int64]:
    # Sorts rows by the first place of their instance, then by instance, then by place.
    first = np.full(instance.max() + 1, place.max())
    np.minimum.at(first, instance, place)
    return np.lexsort((place, instance, first[instance]))


def _places_in_z_order(rows: BlockRows) -> NDArray[np.int32]:
    # Each fragment gets the place of its block in Z-order.
    places = np.empty(len(rows), np.int32)
    places[sorted(range(len(rows)), key=lambda i: z_order(rows[i][0].block_id))] = np.arange(len(rows))
    return np.repeat(places, [part.stop - part.start for _, part in rows])


def _runs(*columns: NDArray[np.integer]) -> NDArray[np.int64]:
    # Finds the rows at which a run of equal rows begins.
    changes = np.ones(len(columns[0]), np.bool_)
    changes[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return np.flatnonzero(changes)


def file_table(scratch: Scratch, kind: str, lower: NDArray[np.int64], upper: NDArray[np.int64]) -> None:
    """File a table, one box a row, in bundles of the given kind."""
    begins = np.arange(0, len(lower), PIECE)
    parts = ((str(number), slice(at, at + PIECE)) for number, at in enumerate(begins.tolist()))
    scratch.put_each(kind, ((key, {"lower": lower[part], "upper": upper[part]}) for key, part in parts))
    low, high = np.minimum.reduceat(lower, begins, axis=0), np.maximum.reduceat(upper, begins, axis=0)
    scratch.put(kind, BOXES, lower=low, upper=high)


class SeedTable:
    """A table as one task reads it.

    The task holds at most `KEPT` bundles of `PIECE` rows, 0.8 MB, and 48 bytes for each bundle of the table.

    Parameters
    ----------
    scratch : Scratch
        Where the table is filed.
    kind : str
        Kind of its bundles.

    Examples
    --------
    >>> from topo_dask.stores.scratch import MemoryScratch
    >>> scratch, lower = MemoryScratch(), np.array([[0, 0, 0], [0, 0, 8], [0, 0, 90]])
    >>> file_table(scratch, TABLE, lower, lower + 1)
    >>> SeedTable(scratch, TABLE).near(0, 3, np.array([0, 0, 2]), np.array([1, 1, 5]))[0]
    array([[0, 0, 0],
           [0, 0, 8]])
    """

    def __init__(self, scratch: Scratch, kind: str) -> None:
        self._bundle = lru_cache(KEPT)(lambda number: scratch.get(kind, str(number)))
        self._boxes = lru_cache(1)(lambda: scratch.get(kind, BOXES))

    @property
    def end(self) -> int:
        """Number of rows, as if the last bundle were full."""
        return len(self._boxes()["lower"]) * PIECE

    def near(
        self, begin: int, end: int, start: NDArray[np.int64], stop: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Corners of the rows in begin..end that may hold the nearest seed of any voxel of a box, ties included.

        The box of a row has seeds at all its faces. So each row bounds the distance of the nearest seed. Rows beyond
        the smallest bound are not returned, and bundles beyond it are not read.
        """
        reach2 = np.inf
        found = [(np.empty((0, 3), np.int64),) * 2]
        for distance2, number in self._bundles_near(begin, end, start, stop):
            if distance2 > reach2:
                break
            bundle, skipped = self._bundle(number), number * PIECE
            part = slice(max(begin - skipped, 0), end - skipped)
            lower, upper = bundle["lower"][part], bundle["upper"][part]
            reach2 = min(reach2, box_reaches2(start, stop, lower, upper).min())
            kept = box_distances2(start, stop, lower, upper) <= reach2
            found.append((lower[kept], upper[kept]))
        lower, upper = (np.concatenate(column) for column in zip(*found, strict=True))
        kept = box_distances2(start, stop, lower, upper) <= reach2
        return lower[kept], upper[kept]

    def _bundles_near(
        self, begin: int, end: int, start: NDArray[np.int64], stop: NDArray[np.int64]
    ) -> Iterator[tuple[int, int]]:
        # Squared distance and number of each bundle with rows in begin..end, the nearest first. The first and the last
        # also hold rows of other instances, which make their boxes larger: a single one needs no look at its box.
        numbers = np.arange(begin // PIECE, (end - 1) // PIECE + 1)
        if len(numbers) == 1:
            yield 0, int(numbers[0])
            return
        boxes = self._boxes()
        distances2 = box_distances2(start, stop, boxes["lower"][numbers], boxes["upper"][numbers])
        for i in np.argsort(distances2, kind="stable"):
            yield int(distances2[i]), int(numbers[i])
