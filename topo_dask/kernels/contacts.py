"""Contacts: pairs of labels that touch through voxel faces, and how well the flow agrees across the faces.

Every face belongs to the block that holds its lower voxel, so the tables of all blocks, added up by pair, are
the table of the volume. Scores are fixed point: no table depends on the order of its faces.
"""

from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from .compiled import kernel, part
from .contact_tables import scores_of
from .fixed_point import EXACT, FRACTION_BITS, SCALE, check_exact
from .flow_types import readable_flow
from .hashing import slot_of_pair
from .linking import connected

MODES = ("adjacent", "agglomerate")
"""Scores of a face: the dot product of the flow on both sides; or this plus the flow into the face from both."""

FIRST_ROWS = 256
"""Rows of a new table, a power of two; a full table doubles."""

NEAR_WRAP = 1 << 62
"""Magnitude of a block's running sum at which the block is refused, so that no further score can wrap the sum. It is
far above the range of exact floats. Only the sums of the volume must be within that range: large sums of blocks may
cancel each other."""

LOW, HIGH, SUM, FACES = 0, 1, 2, 3
"""Columns of a table."""

Ints = NDArray[np.integer]
Int64s = NDArray[np.int64]
Floats = NDArray[np.floating]
Triple = tuple[int, int, int]


@part
def _find_faces(numbers: Ints, z: int, y: int, width: int, faces: Int64s) -> int:
    """Write ``3 * x + axis`` of every face between two numbers whose lower voxel is in row (z, y)."""
    row = numbers[z, y]
    # At the upper end of the array a row is compared with itself: it is equal, so there is no face.
    below = numbers[z + 1, y] if z + 1 < numbers.shape[0] else row
    beside = numbers[z, y + 1] if y + 1 < numbers.shape[1] else row
    n = 0
    for x in range(width):
        number = row[x]
        if number == 0:
            continue
        if below[x] != number and below[x] != 0:
            faces[n] = 3 * x
            n += 1
        if beside[x] != number and beside[x] != 0:
            faces[n] = 3 * x + 1
            n += 1
        if x + 1 < row.size and row[x + 1] != number and row[x + 1] != 0:
            faces[n] = 3 * x + 2
            n += 1
    return n


@part
def _score(flow: Floats, at: Triple, beyond: Triple, axis: int, facing: bool) -> float:
    """Score, in float64, of the face between a voxel and the next voxel along an axis."""
    z, y, x = at
    z1, y1, x1 = beyond
    fz, gz = np.float64(flow[0, z, y, x]), np.float64(flow[0, z1, y1, x1])
    fy, gy = np.float64(flow[1, z, y, x]), np.float64(flow[1, z1, y1, x1])
    fx, gx = np.float64(flow[2, z, y, x]), np.float64(flow[2, z1, y1, x1])
    dot = (fz * gz + fy * gy) + fx * gx
    step = fx - gx if axis == 2 else (fy - gy if axis == 1 else fz - gz)
    return dot + step if facing else dot


@part
def _add_faces(
    numbers: Ints,
    flow: Floats,
    at: tuple[int, int],
    faces: Int64s,
    found: int,
    facing: bool,
    rows: Int64s,
    slots: Int64s,
    place: Int64s,
) -> int:
    """Add the faces found in one row of voxels to a table that has room for them.

    Returns the first face with a score or sum out of range, or -1.
    """
    z, y = at
    row, last_low, last_high = np.int64(0), np.int64(0), np.int64(0)
    for i in range(found):
        x, axis = faces[i] // 3, faces[i] % 3
        z1, y1, x1 = z + (axis == 0), y + (axis == 1), x + (axis == 2)
        units = np.rint(_score(flow, (z, y, x), (z1, y1, x1), axis, facing) * SCALE)
        if not abs(units) <= EXACT:
            return int(faces[i])
        one, other = np.int64(numbers[z, y, x]), np.int64(numbers[z1, y1, x1])
        low, high = (one, other) if one < other else (other, one)
        if low != last_low or high != last_high:
            slot = slot_of_pair(low, high, rows, slots)
            row, last_low, last_high = slots[slot], low, high
            if row < 0:
                row = slots[slot] = place[1]
                # Column by column: the assignment of a tuple to a row takes two seconds to compile.
                rows[row, LOW], rows[row, HIGH], rows[row, SUM], rows[row, FACES] = low, high, 0, 0
                place[1] += 1
        rows[row, SUM] += np.int64(units)
        rows[row, FACES] += 1
        if abs(rows[row, SUM]) >= NEAR_WRAP:
            return int(faces[i])
    return -1


@kernel
def _add_block(
    numbers: Ints,
    flow: Floats,
    core: Triple,
    facing: bool,
    faces: Int64s,
    rows: Int64s,
    slots: Int64s,
    place: Int64s,
) -> int:
    """Add the faces of a block to a table, until the block ends or the next row of voxels may not fit into the table.

    ``place`` holds the next row of voxels and the number of rows of the table, and is updated. ``slots`` are free at
    the start. Returns ``3 * x + axis`` of a bad face in the row of voxels that ``place`` holds, or -1.
    """
    for row in range(place[1]):
        slots[slot_of_pair(rows[row, LOW], rows[row, HIGH], rows, slots)] = row
    while place[0] < core[0] * core[1]:
        z, y = place[0] // core[1], place[0] % core[1]
        found = _find_faces(numbers, z, y, core[2], faces)
        if place[1] + found > rows.shape[0]:
            break
        bad = _add_faces(numbers, flow, (z, y), faces, found, facing, rows, slots, place)
        if bad >= 0:
            return int(bad)
        place[0] += 1
    return -1


def _tabulate(numbers: Ints, flow: Floats, core: Triple, facing: bool) -> tuple[Int64s, Triple]:
    """Return the table of a block, pairs as they appear, and (z, y, 3 * x + axis) of a bad face, or three -1."""
    # Arrays are made here: each allocation in a kernel costs a tenth of a second to compile.
    rows, faces, place = np.empty((FIRST_ROWS, 4), np.int64), np.empty(3 * core[2], np.int64), np.zeros(2, np.int64)
    while True:
        slots = np.full(2 * len(rows), -1, np.int64)
        bad = int(_add_block(numbers, flow, core, facing, faces, rows, slots, place))
        at, n = place.tolist()
        if bad >= 0:
            return rows[:n], (*divmod(at, core[1]), bad)
        if at == core[0] * core[1]:
            return rows[:n], (-1, -1, -1)
        rows = np.concatenate((rows, np.empty_like(rows)))


def _refuse_face(flow: Floats, bad: Triple, origin: tuple[int, ...]) -> NoReturn:
    """Raise the error of a face whose score or sum is out of range."""
    z, y, coded = bad
    x, axis = divmod(coded, 3)
    upper = (z + (axis == 0), y + (axis == 1), x + (axis == 2))
    for voxel in ((z, y, x), upper):
        at = tuple(int(o) + v for o, v in zip(origin, voxel, strict=True))
        value = tuple(flow[(slice(None), *voxel)].tolist())
        if not np.isfinite(value).all():
            raise ValueError(f"flow: {value} at voxel {at} is not finite")
    raise OverflowError(
        f"flow: contact scores up to the face of voxel {at} along axis {axis} exceed 2**53 units of "
        f"2**-{FRACTION_BITS}, or 2**62 together; flow vectors are expected to be about one voxel long"
    )


def _check_block(numbers: Ints, flow: Floats, core_shape: tuple[int, ...], mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"mode: {mode!r}, expected one of {MODES}")
    if not np.can_cast(numbers.dtype, np.int64):
        raise TypeError(f"numbers: dtype {numbers.dtype}, expected integers that fit int64")
    if flow.shape != (3, *numbers.shape):
        raise ValueError(f"flow: shape {flow.shape}, expected {(3, *numbers.shape)} like numbers")
    margins = [n - c for n, c in zip(numbers.shape, core_shape, strict=True)]
    if len(margins) != 3 or not set(margins) <= {0, 1}:
        raise ValueError(f"core_shape: {core_shape}, expected {numbers.shape} less 0 or 1 per axis")


def tabulate_contacts(
    numbers: Ints,
    flow: NDArray[np.generic],
    core_shape: tuple[int, ...],
    mode: str,
    origin: tuple[int, ...] = (0, 0, 0),
) -> tuple[Int64s, Int64s, Int64s]:
    """Tabulate the contacts of one block: for each two labels that touch, the scores and the number of their faces.

    The face between voxel a of the core and b = a + 1 along axis k counts when both have numbers and these differ.
    It scores ``f_a . f_b`` in mode "adjacent", ``f_a . f_b + (f_a[k] - f_b[k])`` in mode "agglomerate".

    Parameters
    ----------
    numbers : ndarray of int, shape (d, h, w)
        Number of every voxel, any number, the same in all blocks; 0 = background. The array holds the core and, along
        each axis on which the volume goes on, one more voxel at the upper end.
    flow : ndarray of real numbers, shape (3, d, h, w)
        (dz, dy, dx) in voxels, in any layout.
    core_shape : tuple of 3 int
        Shape of the core. A face counts here when its lower voxel is in the core.
    mode : {"adjacent", "agglomerate"}
        Score of a face.
    origin : tuple of 3 int
        Volume coordinates of the first voxel, for messages.

    Returns
    -------
    pairs : ndarray of int64, shape (c, 2)
        Lower and higher number of every two labels that touch, in lexicographic order.
    sums : ndarray of int64, shape (c,)
        Sum of the scores, in units of 2**-24.
    faces : ndarray of int64, shape (c,)
        Number of faces.

    Raises
    ------
    TypeError
        When `numbers` does not fit int64, or `flow` is not real.
    ValueError
        When shapes or `mode` do not fit, or the flow is not finite at a face.
    OverflowError
        When a score exceeds 2**53 units, or a running sum reaches 2**62.

    Examples
    --------
    >>> import numpy as np
    >>> numbers = np.array([[[1, 1, 9], [1, 9, 9]]])
    >>> flow = np.zeros((3, 1, 2, 3), np.float32)
    >>> flow[2] = [1, 0.5, -1]
    >>> pairs, sums, faces = tabulate_contacts(numbers, flow, (1, 2, 3), "agglomerate")
    >>> pairs.tolist(), (sums * 2.0**-24).tolist(), faces.tolist()
    ([[1, 9]], [2.25], [3])
    """
    readable = readable_flow(flow)
    _check_block(numbers, readable, core_shape, mode)
    core = (int(core_shape[0]), int(core_shape[1]), int(core_shape[2]))
    rows, bad = _tabulate(numbers, readable, core, mode == "agglomerate")
    if bad[0] >= 0:
        _refuse_face(readable, bad, origin)
    rows = rows[np.lexsort((rows[:, HIGH], rows[:, LOW]))]
    return rows[:, : HIGH + 1].copy(), rows[:, SUM].copy(), rows[:, FACES].copy()


def unite_contacts(pairs: Int64s, sums: Int64s, faces: Int64s, n_nodes: int, threshold: float) -> Int64s:
    """Unite nodes when the mean score of their contact is above a threshold (the rule of merge_adjacent).

    Parameters
    ----------
    pairs : ndarray of int64, shape (c, 2)
        Nodes in contact, 0 <= node < n_nodes.
    sums, faces : ndarray of int64, shape (c,)
        Sum of the scores in units of 2**-24, and number of faces, over the whole volume.
    n_nodes : int
        Number of nodes.
    threshold : float
        Contacts whose mean score is strictly above it unite.

    Returns
    -------
    roots : ndarray of int64, shape (n_nodes,)
        Lowest node of every node's group.

    Raises
    ------
    OverflowError
        When a sum exceeds 2**53 units.

    Examples
    --------
    >>> import numpy as np
    >>> pairs, sums = np.array([[0, 1], [1, 2], [2, 3]]), np.array([1, 0, 5]) << 24
    >>> unite_contacts(pairs, sums, np.array([1, 1, 2]), 4, 0.0).tolist()
    [0, 0, 2, 2]
    """
    check_exact(sums, "contact scores")
    return connected(pairs[scores_of(sums, faces) > threshold], n_nodes)
