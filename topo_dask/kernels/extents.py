"""Extents of the numbered pieces of a block: voxels, coordinate sums, bounding boxes, first voxels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .compiled import kernel

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


@kernel
def _measure(numbers, start, volume_shape, counts, sums, lower, upper, firsts):  # type: ignore[no-untyped-def]
    depth, height, width = numbers.shape
    for z in range(depth):
        gz = z + start[0]
        for y in range(height):
            gy = y + start[1]
            x = 0
            while x < width:
                number = np.int64(numbers[z, y, x])
                if number == 0:
                    x += 1
                    continue
                begin = x
                while x < width and numbers[z, y, x] == number:
                    x += 1
                row, run = number - 1, x - begin
                first, last = begin + start[2], x + start[2]
                if counts[row] == 0:
                    firsts[row] = (gz * volume_shape[1] + gy) * volume_shape[2] + first
                counts[row] += run
                sums[row, 0] += gz * run
                sums[row, 1] += gy * run
                sums[row, 2] += (first + last - 1) * run // 2
                for k, low, high in ((0, gz, gz + 1), (1, gy, gy + 1), (2, first, last)):
                    lower[row, k] = low if low < lower[row, k] else lower[row, k]
                    upper[row, k] = high if high > upper[row, k] else upper[row, k]


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
    _measure(
        numbers,
        np.array(start, np.int64),
        np.array(volume_shape, np.int64),
        out.counts,
        out.sums,
        out.lower,
        out.upper,
        out.firsts,
    )
    return out
