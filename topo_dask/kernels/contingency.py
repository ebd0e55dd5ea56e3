"""Pairs of labels and how often they meet, counted in one pass over two arrays.

The table is an open-addressing hash (linear probing, at most half full) whose slots hold row numbers; the
rows keep the keys and whatever a caller adds up beside them. Memory grows with the number of distinct keys
only. Runs of equal voxels are looked up once, which is what makes the pass cheap on label images.
"""

import numpy as np

from .compiled import allocating_kernel

_FIRST_SLOTS = 1024  # power of two; small enough to stay in L1 for blocks with few labels


@allocating_kernel
def new_slots(size: int) -> np.ndarray:
    """Return `size` empty slots, int64 [size]; `size` is a power of two and -1 means empty."""
    return np.full(size, -1, np.int64)


@allocating_kernel
def _probe(slots: np.ndarray, rows: np.ndarray, first: int, second: int) -> int:
    # Two rounds of multiply and xor-shift (as splitmix64 ends) spread consecutive ids over the slots.
    mixed = (np.uint64(first) * np.uint64(0x9E3779B97F4A7C15)) ^ np.uint64(second)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    last = slots.size - 1
    position = int(mixed >> np.uint64(1)) & last
    while slots[position] >= 0:
        row = slots[position]
        if rows[row, 0] == first and rows[row, 1] == second:
            break
        position = (position + 1) & last
    return position


@allocating_kernel
def find_row(slots: np.ndarray, rows: np.ndarray, used: int, first: int, second: int) -> int:
    """Return the row of the key (first, second), entering it as row number `used` when it is new.

    Parameters
    ----------
    slots : ndarray of int64, shape (S,)
        Slots of the hash, changed in place.
    rows : ndarray of int64, shape (R, C)
        Columns 0 and 1 are the key; the others are the caller's and start as 0.
    used : int
        Number of rows in use; there has to be room for one more (see `make_room`).
    first, second : int
        The key.
    """
    position = _probe(slots, rows, first, second)
    if slots[position] < 0:
        slots[position] = used
        rows[used, 0] = first
        rows[used, 1] = second
    return int(slots[position])


@allocating_kernel
def make_room(slots: np.ndarray, rows: np.ndarray, used: int) -> tuple[np.ndarray, np.ndarray]:
    """Return slots and rows of twice the size when all `used` rows are taken, else the same ones."""
    if used < rows.shape[0]:
        return slots, rows
    more_slots = new_slots(2 * slots.size)
    more_rows = np.zeros((2 * rows.shape[0], rows.shape[1]), np.int64)
    more_rows[:used] = rows
    for row in range(used):
        more_slots[_probe(more_slots, more_rows, rows[row, 0], rows[row, 1])] = row
    return more_slots, more_rows


@allocating_kernel
def _count_until_full(
    slots: np.ndarray, rows: np.ndarray, used: int, truth: np.ndarray, labels: np.ndarray, start: int
) -> tuple[int, int]:
    # Apart from `count_pairs`, because a loop that may replace the table it reads runs at half the speed.
    while start < truth.size and used < rows.shape[0]:
        first, second = truth[start], labels[start]
        stop = start + 1
        while stop < truth.size and truth[stop] == first and labels[stop] == second:
            stop += 1
        row = find_row(slots, rows, used, np.int64(first), np.int64(second))
        if row == used:
            used += 1
        rows[row, 2] += stop - start
        start = stop
    return used, start


@allocating_kernel
def count_pairs(truth: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Count every pair of ids that meets at the same voxel of two flat arrays.

    Parameters
    ----------
    truth, labels : ndarray of any integer type, shape (N,)
        Ids, C-contiguous.

    Returns
    -------
    ndarray of int64, shape (P, 3)
        Columns: truth id, label id, number of voxels; in order of first appearance.
    """
    slots = new_slots(_FIRST_SLOTS)
    rows = np.zeros((_FIRST_SLOTS // 2, 3), np.int64)
    used = 0
    start = 0
    while start < truth.size:
        slots, rows = make_room(slots, rows, used)
        used, start = _count_until_full(slots, rows, used, truth, labels, start)
    return rows[:used].copy()
