"""Nearest seed of every voxel of a box: exact at any distance, ties to the lower label.

A separable distance transform (Meijster, Roerdink & Hesselink 2000; Felzenszwalb & Huttenlocher 2012) on one
integer key, ``distance**2 * scale + rank of the label``. The least key has the least distance and, among
equal distances, the lowest label. So the lower envelope of the parabolas decides ties by itself. The scale is
a power of 2, so that keys are composed and decomposed by shifts. The envelope can be evaluated at any voxel,
for any target box.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from .compiled import kernel, part
from .searching import first_place

KEY_LIMIT = 1 << 62
"""Bound of a key; sums and differences of keys then fit int64."""

NO_SEED = np.iinfo(np.int64).max
"""Squared distance, and key, of a voxel when there is no seed at all."""

LINES = 64
"""Lines swept together along the first two axes, as the samples of one line are far apart in memory there."""

Ints = NDArray[np.integer]
Int64s = NDArray[np.int64]
Triple = tuple[int, int, int]


@part
def _build_envelope(line: Int64s, bits: int, first: int, stop: int, sites: Int64s, begins: Int64s) -> int:
    """Find the parabolas that are lowest somewhere in ``first <= x < stop``; x counts from the line's start.

    Parabola i is the lowest from ``begins[i]`` on. Returns the number of parabolas.
    """
    n = 0
    # the last parabola of the envelope so far: its site, first x, key, and height at that x
    last, begin, last_key, height = 0, 0, 0, 0
    for site in range(line.size):
        key = line[site]
        if key == NO_SEED:
            continue
        while n > 0 and height > key + ((begin - site) * (begin - site) << bits):
            n -= 1
            if n > 0:
                last, begin = sites[n - 1], begins[n - 1]
                last_key = line[last]
                height = last_key + ((begin - last) * (begin - last) << bits)
        begin_here = first
        if n > 0:
            # first x > last + (key - last_key + scale * gap**2) / (2 * scale * gap), floors nested
            gap = site - last
            crossing = (key - last_key + (gap * gap << bits)) >> (bits + 1)
            begin_here = last + 1 + (crossing if gap == 1 else crossing // gap)
        if begin_here < stop:
            sites[n] = site
            begins[n] = begin_here
            n += 1
            last, begin, last_key = site, begin_here, key
            height = key + ((begin - site) * (begin - site) << bits)
    return n


@part
def _read_envelope(line: Int64s, bits: int, first: int, sites: Int64s, begins: Int64s, n: int, out: Int64s) -> None:
    """Write the lower envelope at ``x = first, first + 1, ...`` to ``out``."""
    if n == 0:
        out[:] = NO_SEED
        return
    stop = first + out.size
    for i in range(n):
        site = sites[i]
        key = line[site]
        end = begins[i + 1] if i + 1 < n else stop
        for x in range(begins[i], end):
            out[x - first] = key + ((x - site) * (x - site) << bits)


@part
def _sweep_line(keys: Int64s, bits: int, first: int, envelope: Int64s, out: Int64s) -> None:
    """Transform a line of keys; sample x of ``out`` lies at coordinate ``first + x`` of ``keys``."""
    sites, begins = envelope[0], envelope[1]
    n = _build_envelope(keys, bits, first, first + out.size, sites, begins)
    _read_envelope(keys, bits, first, sites, begins, n, out)


@kernel
def _sweep_seeds(
    seeds: Ints, labels: Int64s, bits: int, first: int, keys: Int64s, envelope: Int64s, out: Int64s
) -> None:
    """Transform the rows of ``seeds`` [a, b, c] into ``out`` [a * b, m]; a seed's key is its label's rank."""
    a, b, c = seeds.shape
    last, rank = np.int64(0), 0
    for row in range(a * b):
        seeds_row = seeds[row // b, row % b]
        for x in range(c):
            label = np.int64(seeds_row[x])
            if label == 0:
                keys[x] = NO_SEED
                continue
            if label != last:
                rank = first_place(labels, labels.size, label)
                last = label
            keys[x] = rank
        _sweep_line(keys, bits, first, envelope, out[row])


@kernel
def _sweep_columns(
    keys: Int64s, bits: int, first: int, lines: Int64s, envelope: Int64s, swept: Int64s, out: Int64s
) -> None:
    """Transform ``keys`` [outer, n, inner] along the middle axis into ``out`` [outer, m, inner]."""
    outer, n, inner = keys.shape
    m = out.shape[1]
    for o in range(outer):
        for i0 in range(0, inner, LINES):
            width = LINES if inner - i0 > LINES else inner - i0
            for x in range(n):
                source = keys[o, x]
                for i in range(width):
                    lines[i, x] = source[i0 + i]
            for i in range(width):
                _sweep_line(lines[i], bits, first, envelope, swept[i])
            for x in range(m):
                target = out[o, x]
                for i in range(width):
                    target[i0 + i] = swept[i, x]


def _swept(keys: Int64s, bits: int, first: int, m: int) -> Int64s:
    """Return ``keys`` [outer, n, inner] transformed along the middle axis, [outer, m, inner]."""
    # Arrays are made here: each allocation in a kernel costs a tenth of a second to compile.
    outer, n, inner = keys.shape
    lines, envelope, swept = (np.empty(shape, np.int64) for shape in ((LINES, n), (2, n), (LINES, m)))
    out = np.empty((outer, m, inner), np.int64)
    _sweep_columns(keys, bits, first, lines, envelope, swept, out)
    return out


def _sorted_labels(seeds: Ints) -> Int64s:
    """Return the distinct labels of the seeds, ascending; all must be positive."""
    found = seeds[seeds != 0]
    labels = np.unique(found[np.diff(found, prepend=0) != 0]).astype(np.int64)
    if labels.size and labels[0] < 0:
        raise ValueError(f"seeds: label {labels[0]}, expected positive labels; 0 means no seed")
    return labels


def _key_bits(n_labels: int, seeds_box: tuple[Triple, Triple], target_box: tuple[Triple, Triple]) -> int:
    """Return the number of bits of a rank, after checking that the largest key fits."""
    longest = 0
    for s0, n, t0, m in zip(*seeds_box, *target_box, strict=True):
        longest += max(n - 1, abs(t0 + m - 1 - s0), abs(s0 + n - 1 - t0)) ** 2
    bits = n_labels.bit_length()
    if (longest + 1) << bits > KEY_LIMIT:
        raise OverflowError(
            f"nearest: squared distances up to {longest} with {n_labels} labels do not fit a key of 62 bits; "
            "choose boxes nearer to each other"
        )
    return bits


def _as_integers(start: object, shape: object) -> tuple[Triple, Triple]:
    """Return start and shape as triples of Python integers, which do not overflow."""
    z, y, x = (int(v) for v in np.asarray(start))
    d, h, w = (int(v) for v in np.asarray(shape))
    return (z, y, x), (d, h, w)


def nearest(
    seeds: Ints, seeds_start: tuple[int, ...], target_start: tuple[int, ...], target_shape: tuple[int, ...]
) -> tuple[Int64s, Int64s]:
    """Find the nearest seed of every voxel of a box, exactly.

    Parameters
    ----------
    seeds : ndarray of int, shape (a, b, c)
        Positive label of every seed voxel; 0 = not a seed.
    seeds_start : tuple of 3 int
        Volume coordinates of the first voxel of `seeds`.
    target_start, target_shape : tuple of 3 int
        Volume coordinates of the first voxel of the target box, and its shape. The target box may overlap the
        box of the seeds, contain it or lie apart from it.

    Returns
    -------
    d2 : ndarray of int64, shape target_shape
        Squared Euclidean distance to the nearest seed, in voxels; the largest int64 where there is no seed.
    label : ndarray of int64, shape target_shape
        Label of that seed, the lowest one among equally near seeds; 0 where there is no seed.

    Raises
    ------
    TypeError
        When `seeds` does not hold integers that fit int64.
    ValueError
        When a label is negative or `seeds` is not 3-D.
    OverflowError
        When the largest possible squared distance times the number of labels does not fit 62 bits.

    Notes
    -----
    The time is linear in the voxels. For a target (d, h, w) it holds at most two int64 arrays at a time, of shapes
    (a, b, w) and (a, h, w), then (a, h, w) and (d, h, w), then the two results.

    References
    ----------
    Felzenszwalb & Huttenlocher, Distance transforms of sampled functions, Theory of Computing 8 (2012).
    Meijster, Roerdink & Hesselink, A general algorithm for computing distance transforms in linear time
    (2000). Here the parabolas carry the label in their height, and everything is an integer.

    Examples
    --------
    >>> import numpy as np
    >>> seeds = np.array([[[7, 0, 0, 0, 3]]])
    >>> d2, label = nearest(seeds, (0, 0, 0), (0, 0, 0), (1, 1, 6))
    >>> d2.ravel().tolist(), label.ravel().tolist()
    ([0, 1, 4, 1, 0, 1], [7, 7, 3, 3, 3, 3])
    """
    if not np.can_cast(seeds.dtype, np.int64):
        raise TypeError(f"seeds: dtype {seeds.dtype}, expected integers that fit int64")
    if seeds.ndim != 3:
        raise ValueError(f"seeds: shape {seeds.shape} has {seeds.ndim} axes, expected 3")
    start, shape = _as_integers(seeds_start, seeds.shape)
    target, (ta, tb, tc) = _as_integers(target_start, target_shape)
    labels = _sorted_labels(seeds)
    if labels.size == 0 or ta * tb * tc == 0:
        return np.full((ta, tb, tc), NO_SEED, np.int64), np.zeros((ta, tb, tc), np.int64)
    bits = _key_bits(labels.size, (start, shape), (target, (ta, tb, tc)))
    a, b, c = shape
    first = [t - s for t, s in zip(target, start, strict=True)]
    rows = np.empty((a * b, tc), np.int64)
    _sweep_seeds(seeds, labels, bits, first[2], np.empty(c, np.int64), np.empty((2, c), np.int64), rows)
    planes = _swept(rows.reshape(a, b, tc), bits, first[1], tb)
    del rows
    d2 = _swept(planes.reshape(1, a, tb * tc), bits, first[0], ta)
    del planes
    label = d2 & ((1 << bits) - 1)
    np.take(labels, label, out=label, mode="clip")
    d2 >>= bits
    return d2.reshape(ta, tb, tc), label.reshape(ta, tb, tc)


def nearest_of(seeds: Ints, seeds_start: tuple[int, ...], points: Int64s) -> tuple[Int64s, Int64s]:
    """Find the nearest seed of every point, exactly.

    Parameters
    ----------
    seeds : ndarray of int, shape (a, b, c)
        Positive label of every seed voxel; 0 = not a seed.
    seeds_start : tuple of 3 int
        Volume coordinates of the first voxel of `seeds`.
    points : ndarray of int64, shape (n, 3)
        Voxels in volume coordinates. Memory and time grow with the volume of their bounding box.

    Returns
    -------
    d2, label : ndarray of int64, shape (n,)
        As those of `nearest`; the errors are also the same.

    Examples
    --------
    >>> import numpy as np
    >>> d2, label = nearest_of(np.array([[[7, 0, 3]]]), (0, 0, 0), np.array([[0, 0, 1], [2, 0, 3]]))
    >>> d2.tolist(), label.tolist()
    ([1, 5], [3, 3])
    """
    if len(points) == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    low = points.min(axis=0)
    shape = points.max(axis=0) - low + 1
    d2, label = nearest(seeds, seeds_start, tuple(low.tolist()), tuple(shape.tolist()))
    z, y, x = (points - low).T
    return d2[z, y, x], label[z, y, x]


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

    For a few points far apart it is faster than `nearest`, which sweeps all voxels between them.

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
        Squared distance of the nearest seed of each point so far, `NO_SEED` where there is none. Updated.
    labels : ndarray of int32, shape (n,)
        Label of that seed, the lowest one among equally near seeds. Updated.

    Examples
    --------
    >>> import numpy as np
    >>> block, best, labels = np.array([[[2, 0, 0, 1]]], np.uint32), np.array([NO_SEED]), np.zeros(1, np.int32)
    >>> lut, rows, span = np.array([3, 7], np.int32), np.array([0]), (np.array([1], np.int32), np.array([9], np.int32))
    >>> look_around(block, lut, span, (0, 0, 0), np.array([[0, 0, 1]]), rows, 4, best, labels)
    >>> best.tolist(), labels.tolist()
    ([1], [7])
    """
    corner = np.array(start, np.int64)
    _look_around(numbers, lut, *span, corner, points, rows, *_ball(radius), best, labels)


def box_distances2(start: Int64s, stop: Int64s, lower: Int64s, upper: Int64s) -> Int64s:
    """Return the smallest squared distance between a voxel of one box and a voxel of each of many.

    Parameters
    ----------
    start, stop : ndarray of int64, shape (3,)
        First voxel of the box, and one past its last voxel per axis. It holds voxels.
    lower, upper : ndarray of int64, shape (M, 3)
        The same for each of the other boxes.

    Returns
    -------
    distances2 : ndarray of int64, shape (M,)
        Squared Euclidean distances in voxels; 0 where the boxes share a voxel, 1 where they share a face.

    Examples
    --------
    >>> box_distances2(np.array([0, 0, 0]), np.array([4, 4, 4]), np.array([[4, 0, 6]]), np.array([[8, 4, 8]]))
    array([10])
    """
    gaps = np.maximum(np.maximum(lower - stop + 1, start - upper + 1), 0)
    distances2: Int64s = (gaps * gaps).sum(axis=1)
    return distances2


def point_distances2(points: Int64s, lower: Int64s, upper: Int64s) -> Int64s:
    """Return the smallest squared distance between each of many voxels and a voxel of a box.

    Parameters
    ----------
    points : ndarray of int64, shape (N, 3)
        Voxels.
    lower, upper : ndarray of int64, shape (3,)
        First voxel of the box, and one past its last voxel per axis.

    Returns
    -------
    distances2 : ndarray of int64, shape (N,)
        Squared Euclidean distances in voxels; 0 inside the box.

    Examples
    --------
    >>> point_distances2(np.array([[0, 0, 9], [2, 1, 1]]), np.array([1, 0, 0]), np.array([4, 4, 8]))
    array([5, 0])
    """
    distances2 = np.zeros(len(points), np.int64)
    for along, low, high in zip(points.T, lower, upper, strict=True):  # axis by axis takes a fifth of the memory
        gap = np.maximum(low - along, along - (high - 1))
        np.maximum(gap, 0, out=gap)
        gap *= gap
        distances2 += gap
    return distances2


def box_reaches2(start: Int64s, stop: Int64s, lower: Int64s, upper: Int64s) -> Int64s:
    """Return the largest squared distance between a voxel of one box and a voxel of each of many.

    Parameters
    ----------
    start, stop, lower, upper : ndarray of int64
        As those of `box_distances2`.

    Returns
    -------
    reaches2 : ndarray of int64, shape (M,)
        Squared Euclidean distances in voxels.

    Examples
    --------
    >>> box_reaches2(np.array([0, 0, 0]), np.array([4, 4, 4]), np.array([[4, 0, 6]]), np.array([[8, 4, 8]]))
    array([107])
    """
    spans = np.maximum(upper - 1 - start, stop - 1 - lower)
    reaches2: Int64s = (spans * spans).sum(axis=1)
    return reaches2
