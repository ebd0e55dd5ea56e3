"""Euler integration of particles through one region of a flow field.

The region is any box of the volume. Positions stay in volume coordinates (float64); a particle that leaves the region
is handed back at its position, with the steps it has left, so that the caller can go on with another region.

The state of a batch of particles stays in the first-level cache, and each loop over the batch is SIMD. Particles that
stand still (their next position equals their position) will never move again, and leave the batch early.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .compiled import kernel, part
from .simd import gather, half_to_single, load, size_bits, store

TILE = (4, 8, 8)
"""Voxels of a tile. Particles are taken tile by tile: those of one tile go the same way, and arrive together."""

BATCH = 256
"""Particles advanced together, as many as a full tile has; half or twice as many are equally fast."""

STRIDES = (16, 4, 1)
"""Steps between two checks of a batch: has any particle left the region, does any stand still? The nearer particles are
to a face of the region, the fewer."""

HALVES_BYTES = 8
"""Bytes of a vector of float16 in the layout for tracking."""

Shape = Sequence[int]


class Region(NamedTuple):
    """A box of the flow, laid out for tracking.

    Parameters
    ----------
    vectors : ndarray of float32 or float64, shape (d, h, w, 3), or of uint64, shape (d, h, w)
        Displacements of a step, or the bits of three float16 with dz lowest, see `lay_out`.
    longest : float
        Longest displacement along an axis; infinite when a component is not finite.
    origin : tuple of 3 int
        The box's first voxel in the volume.
    step : float32
        Length of a step. It is used for vectors of float16 only; vectors of other types are displacements already.
    """

    vectors: NDArray[np.floating] | NDArray[np.uint64]
    longest: float
    origin: tuple[int, int, int]
    step: np.float32


@part
def _larger(a, b):  # type: ignore[no-untyped-def]
    return a if a > b else b


@part
def _moved(value, step):  # type: ignore[no-untyped-def]
    return step * value if np.abs(value) < np.inf else value - value  # NaN in the type of the flow, which np.nan is not


@kernel
def _interleave(dz, dy, dx, step, out):  # type: ignore[no-untyped-def]
    # One loop over all three components, so that the stores become whole vectors.
    longest = size_bits(step - step)
    for i in range(len(dz)):
        z, y, x = _moved(dz[i], step), _moved(dy[i], step), _moved(dx[i], step)
        out[3 * i], out[3 * i + 1], out[3 * i + 2] = z, y, x
        longest = _larger(longest, _larger(size_bits(z), _larger(size_bits(y), size_bits(x))))
    return longest


_SIZE = np.uint16(0x7FFF)  # bits of a half without its sign


@part
def _finite_half(bits):  # type: ignore[no-untyped-def]
    return bits if bits & _SIZE < np.uint16(0x7C00) else np.uint16(0x7E00)


@kernel
def _pack(dz, dy, dx, out):  # type: ignore[no-untyped-def]
    longest = np.uint16(0)
    for i in range(len(dz)):
        z, y, x = _finite_half(dz[i]), _finite_half(dy[i]), _finite_half(dx[i])
        out[i] = np.uint64(z) | np.uint64(y) << np.uint64(16) | np.uint64(x) << np.uint64(32)
        longest = _larger(longest, _larger(z & _SIZE, _larger(y & _SIZE, x & _SIZE)))
    return longest


def empty_layout(flow: NDArray[np.floating]) -> NDArray[Any]:
    """Empty array for the layout of a whole flow; `lay_out` fills it."""
    if flow.dtype == np.float16:
        return np.empty(flow.shape[1:], np.uint64)
    return np.empty((*flow.shape[1:], 3), flow.dtype)


def lay_out(
    flow: NDArray[np.floating], step_size: float, out: NDArray[Any] | None = None, planes: tuple[int, int] | None = None
) -> tuple[NDArray[Any], float]:
    """Lay out a flow for tracking: the three components of a vector side by side.

    Parameters
    ----------
    flow : ndarray of float16, float32 or float64, shape (3, D, H, W)
        Vectors (dz, dy, dx) in voxels; float16 is used as float32.
    step_size : float
        Length of a step; the product is rounded in the type in which the flow is used.
    out : ndarray, optional
        Array to fill, see `empty_layout`.
    planes : tuple of 2 int, optional
        Fill only the planes z in this range, so that threads can share the work.

    Returns
    -------
    out : ndarray of float32 or float64, shape (D, H, W, 3), or of uint64, shape (D, H, W)
        Displacements of one step. A float16 flow keeps its own bits, with those of dz lowest, because a vector then
        takes less memory and one read. A component that is not finite becomes NaN.
    longest : float
        Longest displacement along an axis; infinite when a component is not finite.

    Examples
    --------
    >>> lay_out(np.full((3, 1, 1, 2), 0.5, np.float32), 2.0)
    (array([[[[1., 1., 1.],
             [1., 1., 1.]]]], dtype=float32), 1.0)
    """
    begin, end = planes or (0, flow.shape[1])
    plane = flow.shape[2] * flow.shape[3]
    out = empty_layout(flow) if out is None else out
    vectors = np.ascontiguousarray(flow).reshape(3, -1)[:, begin * plane : end * plane]
    flat = out[begin:end].reshape(-1)
    if flow.dtype == np.float16:
        size = np.array(_pack(*vectors.view(np.uint16), flat), np.uint16).view(np.float16)
        with np.errstate(over="ignore"):
            longest = float(np.float32(step_size) * np.float32(size))
    else:
        bits = _interleave(*vectors, flow.dtype.type(step_size), flat)
        longest = float(np.array(bits, f"u{flow.itemsize}").view(flow.dtype))
    return out, longest if np.isfinite(longest) else np.inf


def region_of(flow: NDArray[np.floating], origin: tuple[int, int, int], step_size: float) -> Region:
    """Lay out the flow of a box, shape (3, d, h, w); see `lay_out` and `Region`."""
    return Region(*lay_out(flow, step_size), origin, np.float32(step_size))


@kernel
def _start(mask, bounds, tile, origin, positions, voxels):  # type: ignore[no-untyped-def]
    n = 0
    _, height, width = mask.shape
    (z_begin, z_end), (y_begin, y_end), (x_begin, x_end) = bounds
    for z0 in range(z_begin, z_end, tile[0]):
        for y0 in range(y_begin, y_end, tile[1]):
            for x0 in range(x_begin, x_end, tile[2]):
                for z in range(z0, min(z0 + tile[0], z_end)):
                    for y in range(y0, min(y0 + tile[1], y_end)):
                        for x in range(x0, min(x0 + tile[2], x_end)):
                            if mask[z, y, x]:
                                positions[n, 0], positions[n, 1] = z + origin[0], y + origin[1]
                                positions[n, 2] = x + origin[2]
                                voxels[n] = (z * height + y) * width + x
                                n += 1


def start_particles(
    mask: NDArray[np.bool_], origin: Shape, within: tuple[slice, slice, slice] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Start positions of the particles of a block: its foreground voxels, tile by tile.

    Parameters
    ----------
    mask : ndarray of bool, shape (d, h, w)
    origin : sequence of 3 int
        The block's first voxel in the volume.
    within : tuple of 3 slice, optional
        Part of the block, as slices with start and stop; the whole block by default.

    Returns
    -------
    positions : ndarray of float64, shape (N, 3)
        In volume coordinates, in the order of the tiles (see `TILE`), and in raster order within a tile.
    voxels : ndarray of int64, shape (N,)
        Their raster indices in the block.

    Examples
    --------
    >>> positions, voxels = start_particles(np.ones((1, 2, 10), bool), (5, 0, 2))
    >>> positions[0], voxels.tolist()
    (array([5., 0., 2.]), [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17, 8, 9, 18, 19])
    """
    depth, height, width = mask.shape
    within = within or (slice(0, depth), slice(0, height), slice(0, width))
    n = int(np.count_nonzero(mask[within]))
    positions, voxels = np.empty((n, 3)), np.empty(n, np.int64)
    bounds = tuple((along.start, along.stop) for along in within)
    _start(mask, bounds, TILE, (int(origin[0]), int(origin[1]), int(origin[2])), positions, voxels)
    return positions, voxels


@part
def _displacement(vectors, words, at, i, axis, step):  # type: ignore[no-untyped-def]
    # The compiler knows which branch is taken.
    if words is None:
        return gather(vectors, np.uint64(load(at, i)) * np.uint64(3) + axis)
    return step * half_to_single(load(words, i) >> np.uint64(16) * axis)


@part
def _move_along(axis, v, last, vectors, words, step, at, count):  # type: ignore[no-untyped-def]
    # The clamps are written so that NaN passes through them.
    for i in range(count):
        moved = load(v, i) + _displacement(vectors, words, at, i, axis, step)
        moved = 0.0 if moved < 0.0 else moved
        store(v, i, last if moved > last else moved)


@part
def _move(vectors, words, step, at, z, y, x, count, strides, last):  # type: ignore[no-untyped-def]
    # One loop finds the voxel under every particle, then one loop moves them along each axis: this form becomes SIMD
    # gathers.
    stride_z, stride_y, base = strides
    for i in range(count):
        row = np.trunc(load(z, i)) * stride_z + np.trunc(load(y, i)) * stride_y
        store(at, i, np.int64(row + (np.trunc(load(x, i)) - base)))
    if words is not None:
        for i in range(count):
            store(words, i, gather(vectors, load(at, i)))
    _move_along(np.uint64(0), z, last[0], vectors, words, step, at, count)
    _move_along(np.uint64(1), y, last[1], vectors, words, step, at, count)
    _move_along(np.uint64(2), x, last[2], vectors, words, step, at, count)


@part
def _outside(z, y, x, i, bounds):  # type: ignore[no-untyped-def]
    # True for NaN as well.
    return not (
        (load(z, i) >= bounds[0])
        & (load(z, i) < bounds[1])
        & (load(y, i) >= bounds[2])
        & (load(y, i) < bounds[3])
        & (load(x, i) >= bounds[4])
        & (load(x, i) < bounds[5])
    )


@part
def _any_outside(z, y, x, count, bounds):  # type: ignore[no-untyped-def]
    found = 0
    for i in range(count):
        found |= 1 if _outside(z, y, x, i, bounds) else 0
    return found != 0


@part
def _retire(gone, z, y, x, left, who, count, positions, steps_left):  # type: ignore[no-untyped-def]
    # Writes back the particles marked in `gone` and closes the gaps. Returns the number that stay.
    keep = 0
    for i in range(count):
        if gone[i]:
            p = who[i]
            positions[p, 0], positions[p, 1], positions[p, 2] = z[i], y[i], x[i]
            steps_left[p] = left[i]
        else:
            z[keep], y[keep], x[keep] = z[i], y[i], x[i]
            left[keep], who[keep] = left[i], who[i]
            keep += 1
    return keep


@part
def _first_nan(z, y, x, count):  # type: ignore[no-untyped-def]
    for i in range(count):
        if np.isnan(z[i]) or np.isnan(y[i]) or np.isnan(x[i]):
            return i
    return -1


@part
def _mark_still(gone, old_z, old_y, old_x, z, y, x, left, count, stride):  # type: ignore[no-untyped-def]
    found = False
    for i in range(count):
        still = z[i] == old_z[i] and y[i] == old_y[i] and x[i] == old_x[i]
        left[i] = 0 if still else left[i] - stride
        gone[i] = left[i] == 0
        found |= gone[i]
    return found


@part
def _copy(z, y, x, old_z, old_y, old_x, count):  # type: ignore[no-untyped-def]
    for i in range(count):
        old_z[i], old_y[i], old_x[i] = z[i], y[i], x[i]


@part
def _fewest(left, count, most):  # type: ignore[no-untyped-def]
    for i in range(count):
        most = min(most, left[i])
    return most


@kernel
def _advance(vectors, words, step, last, strides, bounds, free, batch, positions, steps_left):  # type: ignore[no-untyped-def]
    z, y, x, old_z, old_y, old_x, at, who, left, gone = batch
    start = 0
    while start < len(positions):
        count = 0
        while start < len(positions) and count < len(gone):
            if steps_left[start] > 0:
                z[count], y[count], x[count] = positions[start, 0], positions[start, 1], positions[start, 2]
                left[count], who[count] = steps_left[start], start
                count += 1
            start += 1
        while count > 0:
            level = 0 if free else len(bounds) - 1
            while level < len(bounds) and _any_outside(z, y, x, count, bounds[level]):
                level += 1
            if level == len(bounds):
                for i in range(count):
                    gone[i] = _outside(z, y, x, i, bounds[level - 1])
                some_go = True
            else:
                stride = _fewest(left, count, STRIDES[level])
                for to_go in range(stride, 0, -1):
                    if to_go == 1:
                        _copy(z, y, x, old_z, old_y, old_x, count)
                    _move(vectors, words, step, at, z, y, x, count, strides, last)
                bad = -1 if free else _first_nan(z, y, x, count)
                if bad >= 0:
                    return at[bad]
                some_go = _mark_still(gone, old_z, old_y, old_x, z, y, x, left, count, stride)
            if some_go:
                count = _retire(gone, z, y, x, left, who, count, positions, steps_left)
    return -1


def _bounds(lower: Shape, upper: Shape, volume_shape: Shape, shrink: float) -> tuple[float, ...]:
    # No particle leaves the region through a face on the border of the volume: positions are clipped there.
    low = [-np.inf if a == 0 else a + shrink for a in lower]
    high = [np.inf if b == n else b - shrink for b, n in zip(upper, volume_shape, strict=True)]
    return low[0], high[0], low[1], high[1], low[2], high[2]


def _empty_batch() -> tuple[NDArray[Any], ...]:
    # Made here and not in the kernel, where each allocation takes a tenth of a second to compile.
    floats, integers = np.empty((6, BATCH)), np.zeros((3, BATCH), np.int64)
    return (*floats, *integers, np.zeros(BATCH, np.bool_))


def advance(region: Region, volume_shape: Shape, positions: NDArray[np.float64], steps_left: NDArray[np.int64]) -> None:
    """Move particles, in place, until their steps are used up or they leave the region.

    Parameters
    ----------
    region : Region
        Flow of a box of the volume, see `region_of`.
    volume_shape : sequence of 3 int
        Shape of the whole volume; positions are clipped to it.
    positions : ndarray of float64, shape (N, 3)
        Positions (z, y, x) in volume coordinates, changed in place.
    steps_left : ndarray of int64, shape (N,)
        Steps to go, changed in place: 0 for a particle that has arrived, above 0 for one that has left the region.

    Raises
    ------
    ValueError
        When a particle reads a flow vector that is not finite; the message names the voxel.

    Examples
    --------
    >>> flow = np.zeros((3, 1, 1, 9), np.float32); flow[2] = 0.75
    >>> region = region_of(flow[..., 2:6], (0, 0, 2), 1.0)
    >>> positions, left = np.array([[0.0, 0.0, 2.0]]), np.array([20])
    >>> advance(region, (1, 1, 9), positions, left)
    >>> positions, left
    (array([[0. , 0. , 6.5]]), array([14]))
    """
    vectors, longest, origin, step = region
    shape = vectors.shape[:3]
    lower = [int(v) for v in origin]
    upper = [a + n for a, n in zip(lower, shape, strict=True)]
    plane, row = float(shape[1] * shape[2]), float(shape[2])
    margins = (stride * longest + 1.0 if stride > 1 else 0.0 for stride in STRIDES)
    bad = _advance(
        vectors.reshape(-1),
        np.empty(BATCH, np.uint64) if vectors.dtype == np.uint64 else None,
        step,
        tuple(n - 1.0 for n in volume_shape),
        (plane, row, lower[0] * plane + lower[1] * row + lower[2]),
        tuple(_bounds(lower, upper, volume_shape, margin) for margin in margins),
        bool(np.isfinite(longest)),
        _empty_batch(),
        positions,
        steps_left,
    )
    if bad >= 0:
        voxel = tuple(a + int(v) for a, v in zip(lower, np.unravel_index(bad, shape), strict=True))
        raise ValueError(f"flow is not finite at voxel {voxel} (z, y, x), where a particle reads it")
