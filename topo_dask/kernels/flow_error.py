"""Flow error: how far the predicted flow is from unit vectors towards the centre of mass of every label.

A block contributes the sums of its voxels' squared errors in fixed point. The sum over all blocks, divided by
three times the voxel count, is the mean that remove_bad_flow_masks compares with its threshold.
"""

from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from .compiled import kernel, part
from .fixed_point import FRACTION_BITS, MAX_SUM, SCALE
from .flow_types import readable_flow

SHORTEST = 1e-8
"""A vector to a centre is divided by its length, but at least by this, in voxels."""

Ints = NDArray[np.integer]
Int64s = NDArray[np.int64]
Floats = NDArray[np.floating]
Float64s = NDArray[np.float64]
Triple = tuple[int, int, int]


@part
def _gather_row(
    row: Ints,
    flow: Floats,
    at: tuple[int, int],
    start: Triple,
    centres: Float64s,
    found: Int64s,
    vectors: Float64s,
) -> int:
    """Write x of every labelled voxel of row (z, y), its vector to the centre and its flow. Returns their number.

    Returns ``-1 - x`` instead when the number of voxel x has no centre.
    """
    z, y = at
    fz, fy, fx = flow[0, z, y], flow[1, z, y], flow[2, z, y]
    n = 0
    for x in range(row.size):
        number = np.int64(row[x])
        if number == 0:
            continue
        if number < 0 or number >= centres.shape[0]:
            return -1 - x
        found[n] = x
        vectors[0, n] = centres[number, 0] - (start[0] + z)
        vectors[1, n] = centres[number, 1] - (start[1] + y)
        vectors[2, n] = centres[number, 2] - (start[2] + x)
        vectors[3, n], vectors[4, n], vectors[5, n] = fz[x], fy[x], fx[x]
        n += 1
    return n


@part
def _square_errors(vectors: Float64s, n: int, units: Float64s) -> None:
    """Write the squared errors of the first ``n`` columns in units of 2**-24, in a plain loop that becomes SIMD."""
    dz, dy, dx = vectors[0], vectors[1], vectors[2]
    fz, fy, fx = vectors[3], vectors[4], vectors[5]
    for i in range(n):
        r = np.sqrt((dz[i] * dz[i] + dy[i] * dy[i]) + dx[i] * dx[i])
        r = r if r > SHORTEST else SHORTEST
        ez, ey, ex = dz[i] / r - fz[i], dy[i] / r - fy[i], dx[i] / r - fx[i]
        units[i] = np.rint(((ez * ez + ey * ey) + ex * ex) * SCALE)


@part
def _add_row(row: Ints, found: Int64s, units: Float64s, n: int, sums: Int64s) -> int:
    """Add the errors of the ``n`` voxels found to ``sums``; return x of the voxel that leaves the range, or -1.

    Errors are not negative, so sums only grow: whether one leaves the range does not depend on the order.
    """
    for i in range(n):
        number = row[found[i]]
        # What is left is compared, not the new sum: twice `MAX_SUM` does not fit int64.
        if not units[i] <= MAX_SUM or np.int64(units[i]) > MAX_SUM - sums[number]:
            return int(found[i])
        sums[number] += np.int64(units[i])
    return -1


@kernel
def _add_errors(
    numbers: Ints,
    flow: Floats,
    start: Triple,
    centres: Float64s,
    found: Int64s,
    vectors: Float64s,
    units: Float64s,
    sums: Int64s,
) -> tuple[int, int, int]:
    """Add the errors of a block to ``sums``; return the first voxel that cannot be added, or three -1.

    ``found`` [w], ``vectors`` [6, w] and ``units`` [w] are working memory for one row of voxels.
    """
    depth, height, _ = numbers.shape
    for z in range(depth):
        for y in range(height):
            row = numbers[z, y]
            n = _gather_row(row, flow, (z, y), start, centres, found, vectors)
            if n < 0:
                return z, y, -1 - n
            _square_errors(vectors, n, units)
            bad = _add_row(row, found, units, n, sums)
            if bad >= 0:
                return z, y, bad
    return -1, -1, -1


def _refuse_voxel(numbers: Ints, flow: Floats, voxel: Triple, start: Triple, n_numbers: int) -> NoReturn:
    """Raise the error of a voxel that cannot be added."""
    at = tuple(s + v for s, v in zip(start, voxel, strict=True))
    number, value = int(numbers[voxel]), tuple(flow[(slice(None), *voxel)].tolist())
    if not 0 <= number <= n_numbers:
        raise ValueError(f"numbers: {number} at voxel {at}, expected 0 to n_numbers = {n_numbers}")
    if not np.isfinite(value).all():
        raise ValueError(f"flow: {value} at voxel {at} is not finite")
    raise OverflowError(
        f"flow: with {value} at voxel {at} the squared errors of an instance exceed 2**{62 - FRACTION_BITS}, "
        "the range of fixed-point sums; flow vectors are expected to be about one voxel long"
    )


def _check_block(numbers: Ints, flow: Floats, centres: Float64s, n_numbers: int) -> None:
    if not np.can_cast(numbers.dtype, np.int64):
        raise TypeError(f"numbers: dtype {numbers.dtype}, expected integers that fit int64")
    if numbers.ndim != 3 or flow.shape != (3, *numbers.shape):
        raise ValueError(f"flow: shape {flow.shape}, expected (3, d, h, w) like numbers, {numbers.shape}")
    if centres.shape != (n_numbers + 1, 3):
        raise ValueError(f"centres: shape {centres.shape}, expected (n_numbers + 1, 3) = {(n_numbers + 1, 3)}")
    finite = np.isfinite(centres[1:]).all(axis=1)
    if not finite.all():
        number = int(finite.argmin()) + 1
        raise ValueError(f"centres: {tuple(centres[number].tolist())} of number {number} is not finite")


def flow_errors(
    numbers: Ints, flow: NDArray[np.generic], start: tuple[int, ...], centres: Float64s, n_numbers: int
) -> Int64s:
    """Sum the squared flow errors of the voxels of every number in one block.

    At voxel v of an object with centre c the error is the squared length of ``u - flow[:, v]``, with
    ``u = (c - v) / max(|c - v|, 1e-8)``, rounded to a multiple of 2**-24.

    Parameters
    ----------
    numbers : ndarray of int, shape (d, h, w)
        Number of every voxel within the block, 1 to `n_numbers`; 0 = background.
    flow : ndarray of real numbers, shape (3, d, h, w)
        (dz, dy, dx) in voxels, in any layout.
    start : tuple of 3 int
        Volume coordinates of the first voxel.
    centres : ndarray of float64, shape (n_numbers + 1, 3)
        Centre of mass of every number's object in volume coordinates, all finite; row 0 is not read.
    n_numbers : int
        Highest number.

    Returns
    -------
    ndarray of int64, shape (n_numbers + 1,)
        Sum of the errors by number, in units of 2**-24; 0 where a number has no voxel.

    Raises
    ------
    TypeError
        When `numbers` does not fit int64, or `flow` is not real.
    ValueError
        When shapes do not fit, a number has no centre, or a centre or the flow at a labelled voxel is not
        finite.
    OverflowError
        When an error or sum exceeds 2**62 units.

    References
    ----------
    Stringer et al., Cellpose: a generalist algorithm for cellular segmentation, Nature Methods 18 (2021).
    There the error is the difference from recomputed flows; here it is that from the direction of the centre.

    Examples
    --------
    >>> import numpy as np
    >>> flow = np.zeros((3, 1, 1, 3), np.float32)
    >>> flow[2] = [1, 0, 0.5]
    >>> centres = np.array([[0.0, 0, 0], [0, 0, 1]])
    >>> flow_errors(np.array([[[1, 1, 1]]]), flow, (0, 0, 0), centres, 1) * 2.0**-24
    array([0.  , 2.25])
    """
    readable = readable_flow(flow)
    _check_block(numbers, readable, centres, n_numbers)
    sums = np.zeros(n_numbers + 1, np.int64)
    z, y, x = (int(s) for s in start)
    width = numbers.shape[2]
    row = np.empty(width, np.int64), np.empty((6, width)), np.empty(width)
    bad = _add_errors(numbers, readable, (z, y, x), np.asarray(centres, np.float64), *row, sums)
    if bad[0] >= 0:
        _refuse_voxel(numbers, readable, bad, (z, y, x), n_numbers)
    return sums
