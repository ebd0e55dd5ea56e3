"""What the property tests draw: small volumes, flows, parameters and ways to cut a volume up.

Hypothesis draws the structure and a seed; NumPy fills the arrays, so that a draw stays cheap. In every
``sampled_from`` the plainest choice comes first, because that is where a failing example shrinks to; a choice
that stands there twice is drawn twice as often.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

Shape = tuple[int, ...]

seeds = st.integers(0, 2**32 - 1)

FLOW_DTYPES = ("float32", "float64", "float16")  # each is tracked by a kernel of its own
RARE_FLOW_DTYPES = ("int8", ">f4")
LABEL_DTYPES = ("int32", "int64", "uint16", "uint32", "uint64")
MASK_KINDS = ("single", "full", "random", "blobs", "full", "random", "blobs", "blobs", "blobs", "empty")
FLOW_KINDS = (
    *("zero", "integer", "half", "towards", "noisy", "uniform", "leaving", "swirl"),
    *("towards", "noisy", "noisy", "uniform"),
)
LABEL_KINDS = ("touching", "random", "checkerboard", "scattered", "touching", "scattered", "empty")


# ------------------------------------------------------------ volumes and masks


@st.composite
def shapes(draw: st.DrawFn, max_side: int = 14, max_voxels: int = 1600) -> Shape:
    """(D, H, W), one time in five with an axis of size 1; never above max_voxels in all."""
    thin = draw(st.sampled_from([False] * 4 + [True]))
    sides: list[int] = [1] if thin else []
    while len(sides) < 3:
        longest = min(max_side, max_voxels // math.prod(sides))
        wide = st.integers(min(5, longest), longest)  # small sides alone would seldom give two instances
        sides.append(draw(st.one_of(st.integers(1, longest), wide, wide)))
    return tuple(draw(st.permutations(sides)))


def _touching(rng: np.random.Generator, shape: Shape, n: int) -> np.ndarray:
    """Ellipsoids 1..n, the later over the earlier, so that many of them touch; 0 between them."""
    grid = np.indices(shape)
    out = np.zeros(shape, np.int64)
    for k in range(1, n + 1):
        centre = rng.uniform(0, shape)
        half_axes = rng.uniform(0.6, 1 + np.array(shape) / 2.5)
        out[(((grid.T - centre) / half_axes) ** 2).sum(axis=-1).T <= 1] = k
    return out


@st.composite
def masks(draw: st.DrawFn, shape: Shape) -> np.ndarray:
    """Foreground, bool: one voxel, everything, random of any density, blobs, or nothing."""
    kind, rng = draw(st.sampled_from(MASK_KINDS)), np.random.default_rng(draw(seeds))
    if kind == "random":
        return rng.random(shape) < draw(st.sampled_from([0.5, 0.02, 0.15, 0.9]))
    if kind == "blobs":
        return _touching(rng, shape, draw(st.integers(1, 6))) > 0
    mask = np.full(shape, kind == "full")
    if kind == "single":
        mask[tuple(rng.integers(0, shape))] = True
    return mask


# ------------------------------------------------------------ flows


def _towards(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Unit vectors to the nearest of a few centres, half of the time on whole voxels; 0 on a centre."""
    centres = rng.uniform(0, shape, (rng.integers(1, 6), 3))
    if rng.random() < 0.5:
        centres = np.floor(centres)
    ways = centres[:, :, None, None, None] - np.indices(shape)
    length = np.sqrt((ways**2).sum(axis=1))
    nearest = length.argmin(axis=0)
    way = np.take_along_axis(ways, nearest[None, None], axis=0)[0]
    return way / np.maximum(length.min(axis=0), 1e-8)


def _leaving(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """One vector everywhere, now and then along an axis: everybody crosses the blocks and ends at a wall."""
    vector = rng.uniform(-1, 1, 3)
    if rng.random() < 0.5:
        vector = np.eye(3)[rng.integers(3)] * rng.choice([-1.0, 1.0])
    return np.broadcast_to(vector[:, None, None, None], (3, *shape)) * rng.choice([1.0, 0.3, 2.5])


def _swirl(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Circles round the middle with a drift along the third axis: long ways through many blocks."""
    axis, one, two = rng.permutation(3)
    away = np.indices(shape) - (np.array(shape)[:, None, None, None] - 1) / 2
    flow = np.zeros((3, *shape))
    flow[one], flow[two] = -away[two], away[one]
    flow /= np.maximum(np.sqrt((flow**2).sum(axis=0)), 1e-8)
    flow[axis] = rng.choice([0.0, 0.1, -0.5])
    return flow


def _flow_of(kind: str, rng: np.random.Generator, shape: Shape) -> np.ndarray:
    whole = (3, *shape)
    if kind == "towards":
        return _towards(rng, shape)
    if kind == "noisy":
        return _towards(rng, shape) + rng.normal(0, rng.choice([0.05, 0.3, 1.0]), whole)
    if kind == "uniform":
        return rng.uniform(-1, 1, whole)
    if kind == "leaving":
        return _leaving(rng, shape)
    if kind == "swirl":
        return _swirl(rng, shape)
    if kind == "half":
        return rng.integers(-3, 4, whole) / 2
    if kind == "integer":
        return rng.integers(-2, 3, whole).astype(float)
    return np.zeros(whole)


def _laid_out(array: np.ndarray, fortran: bool) -> np.ndarray:
    return np.asfortranarray(array) if fortran else np.ascontiguousarray(array)


@st.composite
def flows(draw: st.DrawFn, shape: Shape, rare: bool = True) -> np.ndarray:
    """[3, D, H, W]; with rare, now and then float16, int8, big-endian or Fortran order as well."""
    usual = FLOW_DTYPES * 6
    dtype = draw(st.sampled_from(usual + RARE_FLOW_DTYPES if rare else FLOW_DTYPES))
    flow = _flow_of(draw(st.sampled_from(FLOW_KINDS)), np.random.default_rng(draw(seeds)), shape)
    if dtype == "int8":
        flow = np.rint(2 * flow)
    fortran = rare and draw(st.sampled_from([False] * 9 + [True]))
    return _laid_out(flow.astype(dtype), fortran)


# ------------------------------------------------------------ parameters, cases


@st.composite
def parameters(draw: st.DrawFn) -> dict[str, Any]:
    """Keyword arguments of postprocess_single."""
    return {
        "n_steps": draw(st.integers(0, 40)),
        "step_size": draw(st.sampled_from([1.0, 0.25, 0.5, 1.7, 3.0])),
        "convergence_radius": draw(st.sampled_from([1.5, 0.5, 1.0, 1.5, 1.5, 2.7, 2.7, 4.0, 4.0, 7.3, 40.0])),
        "min_size": draw(st.one_of(st.integers(0, 3), st.integers(0, 3), st.integers(0, 30))),
        "group": draw(st.integers(1, 3)),
        "merge": draw(st.sampled_from([None, "adjacent", "agglomerate"])),
        "flow_error_threshold": draw(st.sampled_from([0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 0.4, 1.0])),
    }


@st.composite
def volumes(
    draw: st.DrawFn, max_side: int = 14, max_voxels: int = 1600, rare: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """A mask and a flow of one shape."""
    shape = draw(shapes(max_side, max_voxels))
    return draw(masks(shape)), draw(flows(shape, rare))


# ------------------------------------------------------------ labels


def _scattered(rng: np.random.Generator, shape: Shape, n: int) -> np.ndarray:
    """A few instances, each of one or two blobs and loose voxels of it all over the place."""
    out = _touching(rng, shape, 2 * n)
    out[out > n] -= n
    loose = rng.random(shape) < 0.08
    out[loose] = rng.integers(0, n + 1, np.count_nonzero(loose))
    return out


def _labels_of(kind: str, rng: np.random.Generator, shape: Shape, n: int) -> np.ndarray:
    """Ids 0..n, int64."""
    if kind == "touching":
        return _touching(rng, shape, n)
    if kind == "random":
        return rng.integers(0, n + 1, shape)
    if kind == "checkerboard":
        return (np.indices(shape).sum(axis=0) % 2) * rng.integers(1, n + 1, shape)
    if kind == "scattered":
        return _scattered(rng, shape, n)
    return np.zeros(shape, np.int64)


def _spread_ids(rng: np.random.Generator, n: int, dtype: np.dtype, start: str) -> np.ndarray:
    """Table [n + 1] from 0..n to 0 and n different ids with gaps, in no order, of the given type."""
    if start == "compact":
        return np.arange(n + 1).astype(dtype)
    steps = np.cumsum(rng.integers(1, 40, n))
    top = int(np.iinfo(dtype).max)
    above = {"gaps": 0, "wide": min(2**31, top - int(steps[-1])), "top": top - int(steps[-1])}[start]
    ids = [above + int(step) for step in rng.permutation(steps)]
    return np.array([0, *ids], dtype=dtype)


@st.composite
def labels(draw: st.DrawFn, shape: Shape, max_ids: int = 12) -> np.ndarray:
    """Label volume of any integer type; ids compact, with gaps, above 2**31 or at the top of the type.

    At most 1600 ids, so that they fit uint16 with their gaps.
    """
    rng = np.random.default_rng(draw(seeds))
    n = draw(st.integers(1, max_ids))
    dtype = np.dtype(draw(st.sampled_from(LABEL_DTYPES)))
    small = _labels_of(draw(st.sampled_from(LABEL_KINDS)), rng, shape, n)
    table = _spread_ids(rng, n, dtype, draw(st.sampled_from(["compact", "gaps", "wide", "top"])))
    return _laid_out(table[small], draw(st.sampled_from([False] * 9 + [True])))


@st.composite
def labelled_volumes(
    draw: st.DrawFn, max_side: int = 14, max_voxels: int = 1600, max_ids: int = 12, rare: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and a flow of one shape."""
    shape = draw(shapes(max_side, max_voxels))
    return draw(labels(shape, max_ids)), draw(flows(shape, rare))


# ------------------------------------------------------------ cutting the volume into parts


@st.composite
def block_shapes(draw: st.DrawFn, shape: Sequence[int], max_blocks: int = 64) -> Shape:
    """1..size+2 along each axis, ragged at the end; grown until there are at most max_blocks blocks."""
    block = np.array([draw(st.integers(1, size + 2)) for size in shape])
    while np.prod(numblocks := -(-np.array(shape) // block)) > max_blocks:
        block[numblocks.argmax()] += 1
    return tuple(block.tolist())


@st.composite
def halos(draw: st.DrawFn, shape: Sequence[int]) -> Shape:
    """0..size along each axis."""
    return tuple(draw(st.integers(0, size)) for size in shape)


@st.composite
def chunk_shapes(draw: st.DrawFn, shape: Sequence[int]) -> Shape:
    """Chunks of a zarr array of any number of axes, 1..size+2: they need neither divide nor fit the shape."""
    return tuple(draw(st.integers(1, size + 2)) for size in shape)


@st.composite
def chunkings(draw: st.DrawFn, shape: Sequence[int], max_cuts: int = 3) -> tuple[Shape, ...]:
    """Chunks of a dask array, each of its own length: ((2, 1, 4), (3,), ...)."""
    axes = []
    for size in shape:
        cuts = draw(st.sets(st.integers(1, size - 1), max_size=max_cuts)) if size > 1 else set()
        axes.append(tuple(np.diff([0, *sorted(cuts), size]).tolist()))
    return tuple(axes)
