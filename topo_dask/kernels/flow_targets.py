"""Flow targets from labels: straight flow, flow by diffusion on an object's voxel list.

Ids are handled as int64. An unsigned 64-bit id may wrap to a negative number; this does no harm, as different ids
stay different.
"""

import math

import numpy as np

from .compiled import allocating_kernel, kernel, part
from .searching import first_place

_RESCALE_EVERY = 32  # a value shrinks at most sixfold a step unless it vanishes: 2**-83 in 32 steps


@part
def _run_end(line: np.ndarray, start: int) -> int:
    stop = start + 1
    while stop < line.size and line[stop] == line[start]:
        stop += 1
    return stop


@kernel
def write_direct(labels: np.ndarray, origin: np.ndarray, ids: np.ndarray, centres: np.ndarray, out: np.ndarray) -> None:
    """Write the unit vectors from every voxel of a block to its object's centre.

    Parameters
    ----------
    labels : ndarray of any integer type, shape (D, H, W)
        0 is background.
    origin : ndarray of int64, shape (3,)
        Volume coordinates of the block's first voxel.
    ids : ndarray of int64, shape (n,)
        Ids in ascending order; every id of the block but 0 is among them.
    centres : ndarray of float64, shape (n, 3)
        Centre of mass of each, in volume coordinates.
    out : ndarray of float32, shape (3, D, H, W)
        Zeros on entry. It stays 0 in the background, at the voxel nearest to the centre, and at a voxel that is the
        centre.
    """
    oz, oy, ox = origin[0], origin[1], origin[2]
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            line = labels[z, y]
            start = 0
            while start < line.size:
                stop = _run_end(line, start)
                if line[start] != 0:
                    cz, cy, cx = centres[first_place(ids, ids.size, np.int64(line[start]))]
                    dz, dy = cz - (oz + z), cy - (oy + y)
                    on_line = np.rint(cz) == oz + z and np.rint(cy) == oy + y
                    for x in range(start, stop):
                        dx = cx - (ox + x)
                        length = np.sqrt((dz * dz + dy * dy) + dx * dx)
                        if length > 0.0 and not (on_line and np.rint(cx) == ox + x):
                            out[0, z, y, x] = dz / length
                            out[1, z, y, x] = dy / length
                            out[2, z, y, x] = dx / length
                start = stop


@allocating_kernel
def list_voxels(labels: np.ndarray, ids: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """List the voxels of all objects, object by object, in one pass.

    Parameters
    ----------
    labels : ndarray of any integer type, shape (D, H, W)
        0 is background.
    ids : ndarray of int64, shape (n,)
        Ids in ascending order; every id of the block but 0 is among them.
    starts : ndarray of int64, shape (n + 1,)
        Object i owns entries starts[i]:starts[i + 1] of the list.

    Returns
    -------
    voxels : ndarray of int64, shape (starts[-1],)
        Raster indices, ascending within an object.
    ranks : ndarray of int32, shape (D, H, W)
        Place of a voxel within its object's entries; undefined in the background.
    """
    voxels = np.empty(starts[-1], np.int64)
    ranks = np.empty(labels.shape, np.int32)
    filled = np.zeros(ids.size, np.int64)
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            line = labels[z, y]
            raster = (z * labels.shape[1] + y) * labels.shape[2]
            start = 0
            while start < line.size:
                stop = _run_end(line, start)
                if line[start] != 0:
                    i = first_place(ids, ids.size, np.int64(line[start]))
                    for x in range(start, stop):
                        voxels[starts[i] + filled[i]] = raster + x
                        ranks[z, y, x] = filled[i]
                        filled[i] += 1
                start = stop
    return voxels, ranks


@allocating_kernel
def face_neighbours(labels: np.ndarray, ranks: np.ndarray, voxels: np.ndarray, walls: np.ndarray) -> np.ndarray:
    """Return the ranks of the six face neighbours of an object's voxels.

    Parameters
    ----------
    labels : ndarray of any integer type, shape (D, H, W)
    ranks, voxels
        As `list_voxels` returns them; `voxels` are those of one object, shape (n,).
    walls : ndarray of bool, shape (6,)
        Whether the volume ends at the lower and upper face along z, y and x.

    Returns
    -------
    ndarray of int32, shape (n, 6)
        Lower and upper neighbour along z, y and x; n if the neighbour is not in the object; the voxel itself where
        the volume ends.
    """
    depth, height, width = labels.shape
    out = np.full((voxels.size, 6), voxels.size, np.int32)
    for i in range(voxels.size):
        at = (voxels[i] // width // height, voxels[i] // width % height, voxels[i] % width)
        label = labels[at]
        for side in range(6):
            z, y, x = at
            step = 2 * (side % 2) - 1
            if side < 2:
                z += step
            elif side < 4:
                y += step
            else:
                x += step
            if not (0 <= z < depth and 0 <= y < height and 0 <= x < width):
                if walls[side]:
                    out[i, side] = i
            elif labels[z, y, x] == label:
                out[i, side] = ranks[z, y, x]
    return out


@part
def _step(neighbours: np.ndarray, field: np.ndarray, out: np.ndarray) -> None:
    # u + (sum - 6 u) / 6 = sum / 6, so the value of the voxel itself cancels.
    for i in range(neighbours.shape[0]):
        zl, zu, yl, yu, xl, xu = neighbours[i]
        for d in range(3):
            total = (field[zl, d] + field[zu, d]) + (field[yl, d] + field[yu, d])
            out[i, d] = (total + (field[xl, d] + field[xu, d])) * (1.0 / 6.0)


@part
def _rescale(field: np.ndarray) -> None:
    # The fields decay geometrically. A power of two common to all three keeps the direction, bit for bit.
    peak = 0.0
    for i in range(field.shape[0]):
        for d in range(3):
            peak = max(peak, field[i, d])
    if 0.0 < peak < 1.0:
        field *= math.ldexp(1.0, -math.frexp(peak)[1])


@allocating_kernel
def diffuse(neighbours: np.ndarray, field: np.ndarray, steps: int) -> np.ndarray:
    """Diffuse the three fields of an object; outside the object they stay 0.

    Parameters
    ----------
    neighbours : ndarray of int32, shape (n, 6)
        From `face_neighbours`.
    field : ndarray of float64, shape (n + 1, 3)
        Starting values; the last row stands for the outside and is 0. Overwritten.
    steps : int
        Number of steps of 1/6 of the Laplacian.

    Returns
    -------
    ndarray of float64, shape (n + 1, 3)
        The fields, times a common power of two.
    """
    other = np.zeros_like(field)
    for step in range(steps):
        _step(neighbours, field, other)
        field, other = other, field
        if step % _RESCALE_EVERY == 0:
            _rescale(field)
    return field


@part
def write_gradient(neighbours: np.ndarray, field: np.ndarray, voxels: np.ndarray, out: np.ndarray) -> None:
    """Write d u_z / dz, d u_y / dy, d u_x / dx by central differences, scaled to unit length.

    Parameters
    ----------
    neighbours, field
        As for `diffuse`.
    voxels : ndarray of int64, shape (n,)
        Raster indices.
    out : ndarray of float32, shape (3, D * H * W)
        Written at `voxels`; a zero gradient stays 0.
    """
    for i in range(voxels.size):
        zl, zu, yl, yu, xl, xu = neighbours[i]
        z = field[zu, 0] - field[zl, 0]
        y = field[yu, 1] - field[yl, 1]
        x = field[xu, 2] - field[xl, 2]
        peak = max(abs(z), max(abs(y), abs(x)))
        if peak > 0.0:  # divided by the peak first, as squares of tiny values would underflow
            z, y, x = z / peak, y / peak, x / peak
            length = np.sqrt((z * z + y * y) + x * x)
            out[0, voxels[i]] = z / length
            out[1, voxels[i]] = y / length
            out[2, voxels[i]] = x / length


@allocating_kernel
def diffuse_objects(
    labels: np.ndarray,
    ranks: np.ndarray,
    voxels: np.ndarray,
    starts: np.ndarray,
    objects: np.ndarray,
    place: np.ndarray,
    walls: np.ndarray,
    steps: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write the diffusion flow of some objects, one after the other.

    Parameters
    ----------
    labels, ranks, walls
        As for `face_neighbours`.
    voxels, starts : ndarray of int64
        As for `list_voxels`.
    objects : ndarray of int64
        Which objects, by their place in `starts`.
    place : ndarray of int64, shape (3,) or (0,)
        Coordinates of the first voxel of `labels`. When empty, fields start at 1 instead of the coordinates.
    steps : ndarray of int64
        Number of diffusion steps of every object.
    out : ndarray of float32, shape (3, D * H * W)
        Written at the voxels of these objects.
    """
    height, width = labels.shape[1:]
    for one in objects:
        own = voxels[starts[one] : starts[one + 1]]
        field = np.ones((own.size + 1, 3))
        field[own.size] = 0.0
        if place.size:
            for i in range(own.size):
                field[i, 0] = place[0] + own[i] // width // height
                field[i, 1] = place[1] + own[i] // width % height
                field[i, 2] = place[2] + own[i] % width
        neighbours = face_neighbours(labels, ranks, own, walls)
        write_gradient(neighbours, diffuse(neighbours, field, steps[one]), own, out)
