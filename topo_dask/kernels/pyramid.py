"""Pyramids: which axes are halved from level to level, and how to compute the labels of a level from the finer one."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .byte_order import native
from .compiled import kernel, part

Factors: TypeAlias = tuple[int, int, int]


def pyramid_factors(
    shape: tuple[int, int, int],
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0),
    longest: int = 128,
) -> list[Factors]:
    """Downsampling factors from each level of a pyramid to the next.

    An axis is halved unless voxels are already at least twice as long along it as along the axis where they are
    shortest, or the axis is one voxel long. (Axes of one voxel do not count when the shortest is sought.)

    Parameters
    ----------
    shape : tuple of 3 int
        Voxels of the finest level along z, y, x.
    voxel_size : tuple of 3 float
        Edges of a voxel of the finest level, in any unit.
    longest : int
        Largest number of voxels along the longest axis of the coarsest level; 1 or more.

    Returns
    -------
    factors : list of tuple of 3 int
        One entry for each level but the finest, each factor 1 or 2. A level has ``ceil(size / factor)`` voxels along
        an axis, where `size` is that of the level before.

    Raises
    ------
    ValueError
        When `longest` is below 1, or an edge of a voxel is not a positive number of usual size (1e-100 to 1e100).

    Examples
    --------
    >>> pyramid_factors((100, 400, 400), (16.0, 4.0, 4.0))
    [(1, 2, 2), (1, 2, 2)]
    >>> pyramid_factors((4, 4, 1), longest=1)
    [(2, 2, 1), (2, 2, 1)]
    """
    if not all(1e-100 < edge < 1e100 for edge in voxel_size):  # the loop below would not end
        raise ValueError(f"voxel_size must be above 1e-100 and below 1e100 along every axis, got {voxel_size}")
    if longest < 1:
        raise ValueError(f"longest must be at least 1, got {longest}")
    sizes, edges = list(shape), list(voxel_size)
    found: list[Factors] = []
    while max(sizes) > longest:
        shortest = min(edge for edge, size in zip(edges, sizes, strict=True) if size > 1)
        z, y, x = (2 if size > 1 and edge < 2 * shortest else 1 for edge, size in zip(edges, sizes, strict=True))
        found.append((z, y, x))
        sizes = [-(-size // factor) for size, factor in zip(sizes, (z, y, x), strict=True)]
        edges = [edge * factor for edge, factor in zip(edges, (z, y, x), strict=True)]
    return found


def coarse_shape(shape: tuple[int, int, int], factors: Factors) -> tuple[int, int, int]:
    """Shape of the next level of a pyramid: ``ceil(size / factor)`` along each axis."""
    z, y, x = (-(-size // factor) for size, factor in zip(shape, factors, strict=True))
    return z, y, x


@part
def _mode(values, n):  # type: ignore[no-untyped-def]
    # Sorts the first n values and returns that of the longest run. 0 loses against another value of the same count.
    for i in range(1, n):
        value = values[i]
        j = i
        while j > 0 and values[j - 1] > value:
            values[j] = values[j - 1]
            j -= 1
        values[j] = value
    best, most, start = values[0], 0, 0
    for i in range(1, n + 1):
        if i == n or values[i] != values[start]:
            if i - start > most or (i - start == most and best == 0):
                best, most = values[start], i - start
            start = i
    return best


@kernel
def _downsample(labels, fz, fy, fx, values, out):  # type: ignore[no-untyped-def]
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                cell = labels[z * fz : (z + 1) * fz, y * fy : (y + 1) * fy, x * fx : (x + 1) * fx]
                n = 0
                uniform = True
                for k in range(cell.shape[0]):
                    for j in range(cell.shape[1]):
                        for i in range(cell.shape[2]):
                            values[n] = cell[k, j, i]
                            uniform = uniform and values[n] == values[0]
                            n += 1
                # most cells are uniform and need no sorting
                out[z, y, x] = values[0] if uniform else _mode(values, n)


def downsample_labels(labels: NDArray[np.integer], factors: Factors) -> NDArray[np.integer]:
    """Most frequent label of every cell of ``factors`` voxels.

    The background counts like a label, but loses against a label of the same count. Among labels of the same count
    the lowest wins. Every value of the result occurs in its cell. A cell that the upper border cuts off has fewer
    voxels, and these decide. Cells start at voxel 0, so blocks that start at multiples of the factors give the same
    result as the whole volume.

    Parameters
    ----------
    labels : ndarray of int, shape (d, h, w)
        Labels, 0 for background.
    factors : tuple of 3 int
        Voxels of a cell along z, y, x, each 1 or more.

    Returns
    -------
    coarse : ndarray of the same type, shape (ceil(d / fz), ceil(h / fy), ceil(w / fx))

    Raises
    ------
    TypeError
        When `labels` does not hold integers.
    ValueError
        When `labels` does not have three axes, or a factor is below 1.

    Examples
    --------
    >>> downsample_labels(np.array([[[0, 7, 9, 7, 0, 0, 5]]], np.int32), (1, 1, 2))
    array([[[7, 7, 0, 5]]], dtype=int32)
    """
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels must hold integers, got dtype {labels.dtype}")
    if labels.ndim != 3:
        raise ValueError(f"labels must have 3 axes (z, y, x), got shape {labels.shape}")
    if len(factors) != 3 or min(factors) < 1:
        raise ValueError(f"factors must be three integers of at least 1, got {factors!r}")
    fz, fy, fx = (min(factor, max(size, 1)) for factor, size in zip(factors, labels.shape, strict=True))
    labels = native(labels)
    shape = tuple(-(-size // factor) for size, factor in zip(labels.shape, (fz, fy, fx), strict=True))
    out = np.empty(shape, labels.dtype)
    _downsample(labels, fz, fy, fx, np.empty(fz * fy * fx, labels.dtype), out)
    return out
