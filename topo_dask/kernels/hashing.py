"""Hash tables of numbers: open addressing with linear probing (Knuth, TAOCP 6.4), at most half full.

Slots hold row numbers. Rows hold the keys, and the values that a caller adds up for each key. A table that is full is
built again with twice as many rows.
"""

import numpy as np
from numpy.typing import NDArray

from .compiled import kernel, part


@part
def slot_of_pair(first: int, second: int, rows: NDArray[np.int64], slots: NDArray[np.int64]) -> int:
    """Slot that holds the row of a pair; if none does, the free slot (-1) in which to put it.

    Parameters
    ----------
    first, second : int
        The pair.
    rows : ndarray of int64, shape (R, C)
        Columns 0 and 1 are the pairs.
    slots : ndarray of int64, shape (S,)
        Rows, -1 for none; S is a power of two.
    """
    mixed = np.uint64(first) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(second) * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    mask = slots.size - 1
    slot = int(np.int64(mixed >> np.uint64(32)) & mask)
    while slots[slot] >= 0:
        row = slots[slot]
        if rows[row, 0] == first and rows[row, 1] == second:
            break
        slot = (slot + 1) & mask
    return slot


@part
def _slot(keys, slots, shift, key):  # type: ignore[no-untyped-def]
    # Multiplicative hashing; a slot holds a number, 0 when free.
    slot = np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(shift))
    while slots[slot] != 0 and keys[slots[slot] - 1] != key:
        slot = (slot + 1) & (len(slots) - 1)
    return slot


@kernel
def _number_some(values, numbers, begin, keys, slots, shift, found):  # type: ignore[no-untyped-def]
    # Slots are free at the start. Goes on until the slots are half full. Returns the next value and the number of keys.
    for i in range(found):
        slots[_slot(keys, slots, shift, keys[i])] = i + 1
    number = np.uint32(0)
    for i in range(begin, len(values)):
        if i == begin or values[i] != values[i - 1]:
            slot = _slot(keys, slots, shift, values[i])
            if slots[slot] == 0:
                if found == len(keys):
                    return i, found
                keys[found] = values[i]
                found += 1
                slots[slot] = found
            number = np.uint32(slots[slot])
        numbers[i] = number
    return len(values), found


def number_values(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Number the distinct values of an array 1, 2, ... in the order in which they first occur.

    Parameters
    ----------
    values : ndarray of int64, shape (N,)

    Returns
    -------
    keys : ndarray of int64, shape (S,)
        The distinct values; ``keys[n - 1]`` has number n.
    numbers : ndarray of uint32, shape (N,)
        Number of each value, from 1.

    Examples
    --------
    >>> number_values(np.array([7, 7, -2, 7]))
    (array([ 7, -2]), array([1, 1, 2, 1], dtype=uint32))
    """
    numbers = np.empty(len(values), np.uint32)
    bits = 9
    keys, slots = np.empty(1 << (bits - 1), np.int64), np.zeros(1 << bits, np.int64)
    at, found = _number_some(values, numbers, 0, keys, slots, 64 - bits, 0)
    while at < len(values):
        bits += 1
        keys, slots = np.concatenate((keys, keys)), np.zeros(1 << bits, np.int64)
        at, found = _number_some(values, numbers, at, keys, slots, 64 - bits, found)
    return keys[:found].copy(), numbers
