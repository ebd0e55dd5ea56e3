"""Nearest seed of every voxel of a box: exact at any distance, ties to the lower label.

A separable distance transform (Meijster, Roerdink & Hesselink 2000; Felzenszwalb & Huttenlocher 2012) on one
integer key, ``distance**2 * scale + rank of the label``. The least key has the least distance and, among
equal distances, the lowest label. So the lower envelope of the parabolas decides ties by itself. The scale is
a power of 2, so that keys are composed and decomposed by shifts. The envelope can be evaluated at any voxel,
for any target box.
"""

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
