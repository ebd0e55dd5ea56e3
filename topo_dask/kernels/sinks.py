"""Sinks: the occupied cells of a grid over the end points of particles.

A block emits one row for each sink, with sums that do not depend on the order of the particles. Rows of the same cell
add up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .compiled import kernel
from .fixed_point import FRACTION_BITS, MAX_SUM, SCALE, add_sums, check_sums
from .labels import coordinates_of

_CENTRES = 1 << 16
"""Centres computed at a time; this bounds the memory beside the centres themselves."""

MAX_OUTSIDE = 1 << 16
"""How many voxels an end point may lie outside the volume. Further out, sums and hashes of cells may not fit int64."""

_WHAT = "end points relative to their cell"
_REMEDY = "choose a smaller convergence_radius, so that fewer end in one cell and nearer to its origin"


@dataclass(frozen=True)
class CellGrid:
    """Grid of cells over the positions of a volume.

    Parameters
    ----------
    volume_shape : tuple of 3 int
        Shape of the volume in voxels.
    edge : float
        Edge of a cell in voxels.
    """

    volume_shape: tuple[int, int, int]
    edge: float

    @classmethod
    def for_radius(cls, volume_shape: Sequence[int], convergence_radius: float) -> "CellGrid":
        """Grid on which end points become sinks: cells with an edge of half the radius, but of one voxel at least."""
        depth, height, width = (int(size) for size in volume_shape)
        return cls((depth, height, width), max(1.0, convergence_radius / 2))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of cells along each axis."""
        depth, height, width = (int(size / self.edge) + 1 for size in self.volume_shape)
        return depth, height, width

    def origins(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """Integer voxel near each cell, shape (S, 3); sums of end points are relative to it."""
        origins: NDArray[np.int64] = np.floor(coordinates_of(cells, self.shape) * self.edge).astype(np.int64)
        return origins


@kernel
def _cells(positions, edge, shape, sizes, out):  # type: ignore[no-untyped-def]
    # Returns the first row that is too far outside or not finite, or -1.
    for i in range(len(positions)):
        number = 0
        for k in range(3):
            if not -MAX_OUTSIDE <= positions[i, k] <= sizes[k] + MAX_OUTSIDE:
                return i
            cell = np.rint(positions[i, k] / edge)
            cell = cell if cell > 0.0 else 0.0
            cell = cell if cell < shape[k] - 1.0 else shape[k] - 1.0
            number = number * shape[k] + np.int64(cell)
        out[i] = number
    return -1


def cells_of(positions: NDArray[np.float64], grid: CellGrid) -> NDArray[np.int64]:
    """Cell number (raster index in the grid) of each end point. An end point outside the volume is in the nearest cell.

    Parameters
    ----------
    positions : ndarray of float64, shape (N, 3)
        End points (z, y, x) in volume coordinates.
    grid : CellGrid
        Grid of the cells.

    Returns
    -------
    cells : ndarray of int64, shape (N,)

    Raises
    ------
    ValueError
        When a position is not finite, or more than 2**16 voxels outside the volume.

    Examples
    --------
    >>> cells_of(np.array([[0.0, 0.4, 3.1]]), CellGrid((1, 1, 4), 1.0))
    array([3])
    """
    out = np.empty(len(positions), np.int64)
    row = _cells(positions, grid.edge, np.array(grid.shape, np.int64), np.array(grid.volume_shape, np.int64), out)
    if row >= 0:
        raise ValueError(
            f"final_positions must be finite and at most 2**16 voxels outside the volume {grid.volume_shape}, got "
            f"{positions[row]} in row {row}; track_flows leaves none outside"
        )
    return out


@kernel
def _sum_ends(positions, numbers, origins, scale, counts, sums):  # type: ignore[no-untyped-def]
    for i in range(len(positions)):
        row = np.int64(numbers[i]) - 1
        counts[row] += 1
        for k in range(3):
            total = sums[row, k] + np.int64(np.rint((positions[i, k] - origins[row, k]) * scale))
            sums[row, k] = total
            if total > MAX_SUM or total < -MAX_SUM:
                return  # before it wraps around; callers find the sum in `sums`


def sum_ends(
    positions: NDArray[np.float64], numbers: NDArray[np.uint32], cells: NDArray[np.int64], grid: CellGrid
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the end points of each sink and add up their positions, in fixed point relative to the cell's origin.

    Parameters
    ----------
    positions : ndarray of float64, shape (N, 3)
        End points.
    numbers : ndarray of uint32, shape (N,)
        Sink of each end point, from 1.
    cells : ndarray of int64, shape (S,)
        Cell of each sink.
    grid : CellGrid
        Grid of the cells.

    Returns
    -------
    counts : ndarray of int64, shape (S,)
    sums : ndarray of int64, shape (S, 3)

    Raises
    ------
    OverflowError
        When a sum passes 2**38 voxels.

    Examples
    --------
    >>> grid = CellGrid((1, 1, 9), 2.0)
    >>> counts, sums = sum_ends(np.array([[0, 0, 4.5], [0, 0, 3.5]]), np.array([1, 1], np.uint32), np.array([2]), grid)
    >>> counts, sums / SCALE
    (array([2]), array([[0., 0., 0.]]))
    """
    counts = np.zeros(len(cells), np.int64)
    sums = np.zeros((len(cells), 3), np.int64)
    _sum_ends(positions, numbers, grid.origins(cells), SCALE, counts, sums)
    check_sums(sums, _WHAT, _REMEDY)
    return counts, sums


def add_ends(sums: NDArray[np.int64], rows: NDArray[np.int64], terms: NDArray[np.int64]) -> None:
    """Add sums of end points to some rows of `sums`, in place; see `sum_ends` and `add_sums`."""
    add_sums(sums, rows, terms, _WHAT, _REMEDY)


def sink_centres(
    cells: NDArray[np.int64],
    counts: NDArray[np.int64],
    sums: NDArray[np.int64],
    grid: CellGrid,
    out: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Mean end point of each sink, in volume coordinates.

    The exact sum of the end points is rounded once, unless it passes 2**53 voxels, and divided by their number. So
    end points on whole voxels give the same float as a plain mean, and a distance of exactly the radius is decided
    the same way.

    Parameters
    ----------
    cells, counts, sums : ndarray of int64, shapes (S,), (S,), (S, 3)
        Combined sink table, see `sum_ends`.
    grid : CellGrid
        Grid of the cells.
    out : ndarray of float64, shape (S, 3), optional
        Array to fill; it may be the memory of `sums`.

    Returns
    -------
    centres : ndarray of float64, shape (S, 3)

    Examples
    --------
    >>> sink_centres(np.array([2]), np.array([2]), np.array([[0, 0, int(SCALE)]]), CellGrid((1, 1, 9), 2.0))
    array([[0. , 0. , 4.5]])
    """
    centres = np.empty(sums.shape) if out is None else out
    for at in range(0, len(cells), _CENTRES):
        part = slice(at, at + _CENTRES)
        # Whole voxels are added up by themselves, as int64 holds more bits than float64.
        whole = grid.origins(cells[part]) * counts[part, None] + (sums[part] >> FRACTION_BITS)
        rest = (sums[part] & (int(SCALE) - 1)) / SCALE
        centres[part] = (whole + rest) / counts[part, None]
    return centres
