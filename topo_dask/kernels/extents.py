"""Extents of the numbered pieces of a block: voxels, coordinate sums, bounding boxes, first voxels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .compiled import kernel, part

NOWHERE = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Extents:
    """One row for each piece, in volume coordinates. Rows of the same piece in several blocks combine exactly.

    Parameters
    ----------
    counts : ndarray of int64, shape (S,)
        Number of voxels.
    sums : ndarray of int64, shape (S, 3)
        Sums of voxel coordinates.
    lower, upper : ndarray of int64, shape (S, 3)
        Bounding box: first voxel, and one past the last.
    firsts : ndarray of int64, shape (S,)
        Raster index of the first voxel in the volume.
    """

    counts: NDArray[np.int64]
    sums: NDArray[np.int64]
    lower: NDArray[np.int64]
    upper: NDArray[np.int64]
    firsts: NDArray[np.int64]

    @classmethod
    def empty(cls, n: int) -> "Extents":
        """Rows of pieces without a voxel, to combine others into."""
        return cls(
            np.zeros(n, np.int64),
            np.zeros((n, 3), np.int64),
            np.full((n, 3), NOWHERE, np.int64),
            np.zeros((n, 3), np.int64),
            np.full(n, NOWHERE, np.int64),
        )

    def add(self, rows: NDArray[np.int64], other: "Extents") -> None:
        """Combine `other`, in place: its row i belongs to row ``rows[i]`` here."""
        np.add.at(self.counts, rows, other.counts)
        np.add.at(self.sums, rows, other.sums)
        np.minimum.at(self.lower, rows, other.lower)
        np.maximum.at(self.upper, rows, other.upper)
        np.minimum.at(self.firsts, rows, other.firsts)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Extents":
        """Extents with some of the rows."""
        return Extents(self.counts[rows], self.sums[rows], self.lower[rows], self.upper[rows], self.firsts[rows])

    def centres(self) -> NDArray[np.float64]:
        """Centre of mass of each piece in voxels, shape (S, 3)."""
        centres: NDArray[np.float64] = self.sums / self.counts[:, None]
        return centres


@part
def _add_run(row, run, z, y, x, volume_shape, counts, sums, lower, upper, firsts):  # type: ignore[no-untyped-def]
    # Adds a run of voxels along x to a piece; runs come in raster order.
    if counts[row] == 0:
        firsts[row] = (z * volume_shape[1] + y) * volume_shape[2] + x
    counts[row] += run
    sums[row, 0] += z * run
    sums[row, 1] += y * run
    sums[row, 2] += (2 * x + run - 1) * run // 2
    for k, low, high in ((0, z, z + 1), (1, y, y + 1), (2, x, x + run)):
        lower[row, k] = low if low < lower[row, k] else lower[row, k]
        upper[row, k] = high if high > upper[row, k] else upper[row, k]


@kernel
def _measure(numbers, start, volume_shape, counts, sums, lower, upper, firsts):  # type: ignore[no-untyped-def]
    depth, height, width = numbers.shape
    for z in range(depth):
        for y in range(height):
            x = 0
            while x < width:
                number = np.int64(numbers[z, y, x])
                if number == 0:
                    x += 1
                    continue
                begin = x
                while x < width and numbers[z, y, x] == number:
                    x += 1
                at = z + start[0], y + start[1], begin + start[2]
                _add_run(number - 1, x - begin, *at, volume_shape, counts, sums, lower, upper, firsts)


@kernel
def _measure_some(voxels, numbers, shape, start, volume_shape, counts, sums, lower, upper, firsts):  # type: ignore[no-untyped-def]
    for i in range(len(voxels)):
        row, x = divmod(voxels[i], shape[2])
        z, y = divmod(row, shape[1])
        at = z + start[0], y + start[1], x + start[2]
        _add_run(np.int64(numbers[i]) - 1, 1, *at, volume_shape, counts, sums, lower, upper, firsts)


def measure(numbers: NDArray[np.integer], n_numbers: int, start: Sequence[int], volume_shape: Sequence[int]) -> Extents:
    """Extents of the pieces numbered 1..n in one block.

    Parameters
    ----------
    numbers : ndarray of int, shape (d, h, w)
        Piece of each voxel, 0 for none.
    n_numbers : int
        Highest number.
    start : sequence of 3 int
        The block's first voxel in the volume.
    volume_shape : sequence of 3 int
        Shape of the volume.

    Returns
    -------
    extents : Extents
        Row i is piece i + 1.

    Examples
    --------
    >>> found = measure(np.array([[[0, 1, 1]]]), 1, (4, 0, 0), (9, 1, 3))
    >>> found.counts, found.sums, found.lower, found.upper, found.firsts
    (array([2]), array([[8, 0, 3]]), array([[4, 0, 1]]), array([[5, 1, 3]]), array([13]))
    """
    out = Extents.empty(n_numbers)
    _measure(numbers, np.array(start, np.int64), np.array(volume_shape, np.int64), *_columns(out))
    return out


def measure_some(
    voxels: NDArray[np.int64],
    numbers: NDArray[np.uint32],
    n_numbers: int,
    shape: Sequence[int],
    start: Sequence[int],
    volume_shape: Sequence[int],
) -> Extents:
    """Extents as those of `measure`, of pieces of which only the voxels are at hand: faster where there are few.

    Parameters
    ----------
    voxels : ndarray of int64, shape (N,)
        Raster index of each voxel in the block, ascending.
    numbers : ndarray of uint32, shape (N,)
        Piece of each voxel, from 1.
    n_numbers : int
        Highest number.
    shape : sequence of 3 int
        Shape of the block.
    start, volume_shape : sequence of 3 int
        As those of `measure`.

    Examples
    --------
    >>> voxels, numbers = np.array([1, 2, 5]), np.array([1, 1, 2], np.uint32)
    >>> found = measure_some(voxels, numbers, 2, (1, 2, 3), (4, 0, 0), (9, 2, 3))
    >>> found.counts, found.sums.tolist(), found.firsts
    (array([2, 1]), [[8, 0, 3], [4, 1, 2]], array([25, 29]))
    """
    out = Extents.empty(n_numbers)
    box = (np.array(axes, np.int64) for axes in (shape, start, volume_shape))
    _measure_some(voxels, numbers, *box, *_columns(out))
    return out


def _columns(extents: Extents) -> tuple[NDArray[np.int64], ...]:
    return extents.counts, extents.sums, extents.lower, extents.upper, extents.firsts
