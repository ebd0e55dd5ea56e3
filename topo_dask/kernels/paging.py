"""The page of each particle; pages tile the volume like blocks."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .compiled import kernel


@kernel
def _pages(positions, rows, edges, numbers, out):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        page = 0
        for k in range(3):
            page = page * numbers[k] + np.int64(positions[rows[i], k]) // edges[k]
        out[i] = page


def pages_of(
    positions: NDArray[np.float64], rows: NDArray[np.int64], page_shape: Sequence[int], numpages: Sequence[int]
) -> NDArray[np.int64]:
    """Page of some particles: its raster index among the pages of the volume.

    Parameters
    ----------
    positions : ndarray of float64, shape (N, 3)
        Positions (z, y, x) in volume coordinates, none below 0.
    rows : ndarray of int64, shape (M,)
        Rows of these particles.
    page_shape : sequence of 3 int
        Voxels of a page.
    numpages : sequence of 3 int
        Pages along each axis.

    Returns
    -------
    pages : ndarray of int64, shape (M,)

    Examples
    --------
    >>> pages_of(np.array([[0.0, 0.0, 3.9], [0.0, 4.0, 9.5]]), np.array([0, 1]), (4, 4, 4), (1, 2, 3))
    array([0, 5])
    """
    out = np.empty(len(rows), np.int64)
    _pages(positions, rows, np.array(page_shape, np.int64), np.array(numpages, np.int64), out)
    return out
