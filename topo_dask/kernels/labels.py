"""Numbering: from groups of provisional ids to labels 1..n, and from look-up tables to the labels of voxels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compiled import kernel

MAX_LABEL = np.iinfo(np.int32).max


def check_label_count(n: int) -> None:
    """Raise OverflowError when `n` instances do not fit into int32 labels."""
    if n > MAX_LABEL:
        raise OverflowError(f"{n} instances do not fit into int32 labels, which end at {MAX_LABEL}")


def number_kept(keep: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number the ids to keep 1..n in ascending order; the others get 0.

    Parameters
    ----------
    keep : ndarray of bool, shape (N,)

    Returns
    -------
    lut : ndarray of int32, shape (N,)

    Raises
    ------
    OverflowError
        When more than 2**31 - 1 ids are kept.

    Examples
    --------
    >>> number_kept(np.array([True, False, True]))
    array([1, 0, 2], dtype=int32)
    """
    check_label_count(int(np.count_nonzero(keep)))
    lut = np.cumsum(keep, dtype=np.int32)
    lut[~keep] = 0
    return lut


def number_roots(roots: NDArray[np.int64], keep: NDArray[np.bool_] | None = None) -> NDArray[np.int32]:
    """Label of each member of sets that are numbered 1..n in the order of their roots (lowest members).

    Parameters
    ----------
    roots : ndarray of int64, shape (N,)
        Lowest member of each member's set.
    keep : ndarray of bool, shape (N,), optional
        Whether the set with root i is kept; members of other sets get 0. Only entries at roots are read.

    Returns
    -------
    lut : ndarray of int32, shape (N,)

    Examples
    --------
    >>> number_roots(np.array([0, 1, 0, 3]), np.array([True, False, True, True]))
    array([1, 0, 1, 2], dtype=int32)
    """
    is_root = roots == np.arange(len(roots))
    if keep is not None:
        is_root &= keep
    lut: NDArray[np.int32] = number_kept(is_root)[roots]
    return lut


def add_up(rows: NDArray[np.int64], numbers: NDArray[Any], n: int) -> NDArray[np.int64]:
    """Sums of the numbers that belong to each of `n` rows; `rows` holds the row of each number.

    The sums are exact, those of ``np.bincount`` with weights are not: it adds in float64.

    Examples
    --------
    >>> add_up(np.array([2, 0, 2]), np.array([1, 2**53, 2**53]), 3) - 2**53
    array([                0, -9007199254740992,                 1])
    """
    sums = np.zeros(n, np.int64)
    np.add.at(sums, rows, numbers)
    return sums


def coordinates_of(voxels: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Coordinates of voxels given by their raster indices, shape (N, 3).

    Of ``np.flatnonzero(mask)`` they are those that `numpy.argwhere` finds, which takes several times as long.

    Examples
    --------
    >>> coordinates_of(np.array([0, 5]), (1, 2, 3))
    array([[0, 0, 0],
           [0, 1, 2]])
    """
    return np.stack(np.unravel_index(voxels, shape), axis=-1)


@kernel
def _scatter(mask, values, out):  # type: ignore[no-untyped-def]
    n = 0
    for i in range(len(mask)):
        if mask[i]:
            out[i] = values[n]
            n += 1
        else:
            out[i] = 0


def scatter(mask: NDArray[np.bool_], values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Put the values of the voxels of a mask, given in raster order, in their places; 0 elsewhere.

    Parameters
    ----------
    mask : ndarray of bool, shape (d, h, w)
    values : ndarray of uint32, shape (N,)
        One value for each voxel of the mask.

    Returns
    -------
    out : ndarray of uint32, shape (d, h, w)

    Examples
    --------
    >>> scatter(np.array([[[False, True, True]]]), np.array([7, 8], np.uint32))
    array([[[0, 7, 8]]], dtype=uint32)
    """
    out = np.empty(mask.shape, np.uint32)
    _scatter(np.ascontiguousarray(mask).reshape(-1), values, out.reshape(-1))
    return out


@kernel
def _apply(numbers, lut, out):  # type: ignore[no-untyped-def]
    for i in range(len(numbers)):
        out[i] = lut[numbers[i]]


def apply_lut(
    numbers: NDArray[np.unsignedinteger], lut: NDArray[np.int32], out: NDArray[np.int32] | None = None
) -> NDArray[np.int32]:
    """Labels of a numbered block: ``lut[n - 1]`` where the number is n, 0 where it is 0.

    Parameters
    ----------
    numbers : ndarray of unsigned int, shape (d, h, w)
        Numbers of the block, at most ``len(lut)``.
    lut : ndarray of int32, shape (S,)
        Label of each number.
    out : ndarray of int32, shape (d, h, w), C-contiguous, optional
        Array to fill.

    Returns
    -------
    labels : ndarray of int32, shape (d, h, w)

    Examples
    --------
    >>> apply_lut(np.array([[[0, 1, 2]]], np.uint32), np.array([5, 3], np.int32))
    array([[[0, 5, 3]]], dtype=int32)
    """
    if out is None:
        out = np.empty(numbers.shape, np.int32)
    padded = np.zeros(len(lut) + 1, np.int32)
    padded[1:] = lut
    _apply(numbers.reshape(-1), padded, out.reshape(-1))
    return out


@kernel
def _pick(numbers, lut, lowest, highest, out):  # type: ignore[no-untyped-def]
    for i in range(len(numbers)):
        out[i] = 0
        if numbers[i]:
            label = lut[numbers[i] - 1]
            if lowest <= label <= highest:
                out[i] = label


def pick_labels(
    numbers: NDArray[np.unsignedinteger], lut: NDArray[np.int32], lowest: int, highest: int
) -> NDArray[np.int32]:
    """Labels of a numbered window as `apply_lut` gives them, but 0 for labels outside a range.

    It only looks up the numbers in the window and does not copy `lut`: a small window in a block of many pieces is
    cheap.

    Parameters
    ----------
    numbers : ndarray of unsigned int, shape (d, h, w)
        Numbers of the window, at most ``len(lut)``.
    lut : ndarray of int32, shape (S,)
        Label of each number.
    lowest, highest : int
        First and last label to keep.

    Returns
    -------
    labels : ndarray of int32, shape (d, h, w)

    Examples
    --------
    >>> pick_labels(np.array([[[0, 1, 2, 3]]], np.uint32), np.array([5, 3, 4], np.int32), 4, 5)
    array([[[0, 5, 0, 4]]], dtype=int32)
    """
    out = np.empty(numbers.shape, np.int32)
    _pick(np.ascontiguousarray(numbers).reshape(-1), lut, lowest, highest, out.reshape(-1))
    return out
