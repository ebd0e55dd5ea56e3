"""Nearest seed of a few voxels that lie far apart: each looks around itself, the nearest voxels first.

For such voxels it is faster than the transform of `nearest`, which sweeps all that lies between them.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from .compiled import kernel

Int64s = NDArray[np.int64]


@kernel
def _look_around(numbers, lut, lowest, highest, start, points, rows, offsets, distances2, best, labels):  # type: ignore[no-untyped-def]
    depth, height, width = numbers.shape
    for i in rows:
        z0, y0, x0 = points[i, 0] - start[0], points[i, 1] - start[1], points[i, 2] - start[2]
        for k in range(len(offsets)):
            if distances2[k] > best[i]:
                break
            z, y, x = z0 + offsets[k, 0], y0 + offsets[k, 1], x0 + offsets[k, 2]
            if z < 0 or z >= depth or y < 0 or y >= height or x < 0 or x >= width:
                continue
            number = numbers[z, y, x]
            if number == 0:
                continue
            label = lut[number - 1]
            if lowest[i] <= label <= highest[i] and (distances2[k] < best[i] or label < labels[i]):
                best[i], labels[i] = distances2[k], label


@cache
def _ball(radius: int) -> tuple[Int64s, Int64s]:
    # Returns the offsets within a radius, the shortest first, and their squared lengths.
    offsets = np.argwhere(np.ones((2 * radius + 1,) * 3, np.bool_)) - radius
    distances2 = (offsets * offsets).sum(axis=1)
    order = np.argsort(distances2, kind="stable")[: np.count_nonzero(distances2 <= radius * radius)]
    return offsets[order], distances2[order]


def look_around(
    numbers: NDArray[np.uint32],
    lut: NDArray[np.int32],
    span: tuple[NDArray[np.int32], NDArray[np.int32]],
    start: tuple[int, ...],
    points: Int64s,
    rows: Int64s,
    radius: int,
    best: Int64s,
    labels: NDArray[np.int32],
) -> None:
    """Look in a block for seeds nearer than those found so far, around each point by itself.

    Parameters
    ----------
    numbers : ndarray of uint32, shape (d, h, w)
        Numbers of the block, at most ``len(lut)``, 0 for none.
    lut : ndarray of int32, shape (S,)
        Label of each number, 0 for none.
    span : tuple of 2 ndarrays of int32, shape (n,)
        Lowest and highest label that is a seed for each point, positive.
    start : tuple of 3 int
        Volume coordinates of the first voxel of `numbers`.
    points : ndarray of int64, shape (n, 3)
        Voxels in volume coordinates.
    rows : ndarray of int64, shape (m,)
        Points to look around.
    radius : int
        How far to look, in voxels.
    best : ndarray of int64, shape (n,)
        Squared distance of the nearest seed of each point so far, `nearest.NO_SEED` where there is none. Updated.
    labels : ndarray of int32, shape (n,)
        Label of that seed, the lowest one among equally near seeds. Updated.

    Examples
    --------
    >>> import numpy as np
    >>> block, best, labels = np.array([[[2, 0, 0, 1]]], np.uint32), np.array([99]), np.zeros(1, np.int32)
    >>> lut, rows, span = np.array([3, 7], np.int32), np.array([0]), (np.array([1], np.int32), np.array([9], np.int32))
    >>> look_around(block, lut, span, (0, 0, 0), np.array([[0, 0, 1]]), rows, 4, best, labels)
    >>> best.tolist(), labels.tolist()
    ([1], [7])
    """
    corner = np.array(start, np.int64)
    _look_around(numbers, lut, *span, corner, points, rows, *_ball(radius), best, labels)
