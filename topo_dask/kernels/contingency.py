"""Pairs of labels and how often they meet, counted in one pass over two arrays.

Memory grows with the number of distinct pairs only. A run of equal voxels is looked up once, which makes the pass cheap
on label images.
"""

import numpy as np
from numpy.typing import NDArray

from .compiled import kernel
from .hashing import slot_of_pair

_FIRST_ROWS = 512  # power of two; small enough to stay in L1 for blocks with few labels

Ints = NDArray[np.integer]
Int64s = NDArray[np.int64]


@kernel
def _count_some(truth: Ints, labels: Ints, rows: Int64s, slots: Int64s, place: Int64s) -> None:
    """Count pairs up to the end or until the table is full.

    ``place`` holds the next voxel and the number of rows of the table, and is updated. ``slots`` are free at the start.
    """
    start, used = place
    for row in range(used):
        slots[slot_of_pair(rows[row, 0], rows[row, 1], rows, slots)] = row
    while start < truth.size and used < len(rows):
        first, second = truth[start], labels[start]
        stop = start + 1
        while stop < truth.size and truth[stop] == first and labels[stop] == second:
            stop += 1
        slot = slot_of_pair(np.int64(first), np.int64(second), rows, slots)
        if slots[slot] < 0:
            slots[slot] = used
            rows[used, 0], rows[used, 1], rows[used, 2] = first, second, 0
            used += 1
        rows[slots[slot], 2] += stop - start
        start = stop
    place[0], place[1] = start, used


def count_pairs(truth: Ints, labels: Ints) -> Int64s:
    """Count every pair of ids that meets at the same voxel of two flat arrays.

    Parameters
    ----------
    truth, labels : ndarray of any integer type, shape (N,)
        Ids, C-contiguous.

    Returns
    -------
    ndarray of int64, shape (P, 3)
        Columns: truth id, label id, number of voxels; in order of first appearance.

    Examples
    --------
    >>> count_pairs(np.array([0, 7, 7, 0]), np.array([0, 1, 1, 0]))
    array([[0, 0, 2],
           [7, 1, 2]])
    """
    rows, place = np.empty((_FIRST_ROWS, 3), np.int64), np.zeros(2, np.int64)
    while True:
        _count_some(truth, labels, rows, np.full(2 * len(rows), -1, np.int64), place)
        if place[0] == truth.size:
            return rows[: place[1]].copy()
        rows = np.concatenate((rows, np.empty_like(rows)))
