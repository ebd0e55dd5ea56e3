"""Training targets: the flow that a network is taught to predict, computed from labels.

There are two rules, both published in the README of janelia-cellmap/topo: straight to the centre of mass for
convex objects (`direct_flow`), and by diffusion for objects that a straight line would leave (`diffusion_flow`).
NumPy arrays give NumPy arrays. Dask arrays give lazy dask arrays, equal bit for bit.

The straight flow needs the centre of each object, from the whole volume: blocks emit counts and sums (chunk), the
rows of one id are added up (combine), and every block of the flow is written from the table (finalize).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from .blocks.geometry import Box, Triple, triple
from .given import as_declared, check_unmasked, integer
from .kernels import flow_targets as kernels
from .kernels.byte_order import native
from .kernels.extents import Extents, measure
from .kernels.hashing import number_values
from .machine import usable_cores

if TYPE_CHECKING:
    import dask.array as da

Place = Triple | None
"""Coordinates of the first voxel of labels, or None."""

_FAN_IN = 16  # tables combined by one task
_TASK = 1 << 19  # voxels times steps of the objects that one task of a thread diffuses: some 5 ms


@overload
def direct_flow(labels: np.ndarray) -> np.ndarray: ...
@overload
def direct_flow(labels: "da.Array") -> "da.Array": ...
def direct_flow(labels: Any) -> Any:
    """Unit vectors from every voxel to the centre of mass of its object; meant for convex objects.

    Parameters
    ----------
    labels : ndarray or dask.array.Array of any integer type, shape (D, H, W)
        Instance ids, 0 = background; any values, in any order, with any gaps.

    Returns
    -------
    ndarray or dask.array.Array of float32, shape (3, D, H, W)
        Components dz, dy, dx: (c - v) / |c - v| at voxel v of an object with centre of mass c. 0 in the
        background, at the voxel nearest to c (c rounded half to even, per axis) if that belongs to the object,
        and where v is c. A lazy result has chunks ``((3,), *labels.chunks)``; building it computes nothing.
        All its blocks need one table with 32 bytes per object.

    Raises
    ------
    TypeError
        `labels` is not a NumPy or dask array, not of an integer type, or has masked values.
    ValueError
        `labels` is not 3-D, or has chunks of unknown size; or a chunk has another shape than it declares.

    Notes
    -----
    The rule is that of the README of janelia-cellmap/topo. Counts and coordinate sums are exact integers, so
    the centres and the flow do not depend on the chunks. The volume is read twice: one pass counts, one writes.

    Examples
    --------
    >>> import numpy as np
    >>> from topo_dask.targets import direct_flow
    >>> direct_flow(np.array([[[7, 7, 7, 0]]]))[2]
    array([[[ 1.,  0., -1.,  0.]]], dtype=float32)
    """
    _check_labels(labels)
    if not isinstance(labels, np.ndarray):
        return _lazy_direct(as_declared(labels, "labels"))
    labels = native(labels)
    return _direct_block(labels, *_find_centres(_find_objects(labels)), (0, 0, 0))


@overload
def diffusion_flow(
    labels: np.ndarray, n_iter: int = ..., *, place: Place = ..., depth: None = ..., threads: int | None = ...
) -> np.ndarray: ...
@overload
def diffusion_flow(
    labels: "da.Array", n_iter: int = ..., *, place: Place = ..., depth: int, threads: None = ...
) -> "da.Array": ...
def diffusion_flow(
    labels: Any,
    n_iter: int = 200,
    *,
    place: Place = (0, 0, 0),
    depth: int | None = None,
    threads: int | None = None,
) -> Any:
    """Unit vectors along which the voxels of an object gather deep inside it, whatever its shape.

    For each axis d a field u_d starts as the voxel's coordinate along d inside the object and is 0 outside.
    Then u_d <- u_d + (1/6) * (6-neighbour Laplacian), for voxels of the object only, ``min(6 * longest side
    of the bounding box, n_iter)`` times. Component d of the flow is the central difference of u_d along d;
    all three are scaled to unit length together. Beyond a face of the volume u_d has the value that it has at the
    face, so that the flow of an object that is cut there does not gather at the face.

    Parameters
    ----------
    labels : ndarray or dask.array.Array of any integer type, shape (D, H, W)
        Instance ids, 0 = background; any values, in any order, with any gaps.
    n_iter : int, default 200
        Largest number of diffusion steps, at least 1. Heat spreads about ``sqrt(n_iter / 3)`` voxels. An object
        much thicker than twice that keeps a core in which the flow is the plain gradient of the coordinates,
        (1, 1, 1) before scaling, or 0 with ``place=None``.
    place : tuple of 3 int or None, default (0, 0, 0)
        Coordinates, at least 0, of the first voxel of `labels` in the larger volume from which they were cut out.
        With None all u_d start at 1 instead, so that the flow of an object does not depend on where it lies (see
        Notes).
    depth : int, optional
        For dask arrays only, and required for them: how many voxels, at least 0, each block is read beyond its faces.
        Blocks narrower than that are computed together with a neighbour.
    threads : int, optional
        For NumPy only: number of threads, default one per core. The result does not depend on it.

    Returns
    -------
    ndarray or dask.array.Array of float32, shape (3, D, H, W)
        Components dz, dy, dx. 0 in the background and where all three differences vanish, as in an object of one
        voxel. A lazy result has chunks ``((3,), *labels.chunks)`` and equals the result in memory bit for bit.

    Raises
    ------
    TypeError
        `labels` is not a NumPy or dask array, not of an integer type, or has masked values; `labels` is a dask array
        and there is no `depth` (the flow of a voxel depends on its whole object), or there are `threads`; or a NumPy
        array and there is a `depth`; `place` is not three integers, or another argument is not an integer.
    ValueError
        `labels` is not 3-D or has chunks of unknown size; `depth` or `place` is below 0; `n_iter` or `threads` is
        below 1. When a lazy result is computed: a chunk of `labels` has another shape than it declares; or an object
        has voxels in a block, but its bounding box reaches more than `depth` beyond the block.
    OverflowError
        An object has 2**31 - 1 voxels or more.

    Notes
    -----
    The rule is that of the README of janelia-cellmap/topo: u_d is 0 in voxels that are known not to be in the object,
    and there is no flux through the border of the known region.

    By this rule the flow depends on where the object lies. As u is 0 outside, component d is weighted by the
    coordinate along d: near 0 the flow along d is weak on the low side of an object, and at (10, 300, 300) the flow
    hardly has a z component. Far from 0 along all axes the coordinates within an object are nearly the same;
    ``place=None`` is the limit. A network does not see coordinates and can only learn the mean over places. So for
    training on crops use the same `place` for all crops: a large one (several times the size of a crop), or None.

    The values of u decay along a thin thread away from a thick body. With `n_iter` of 700 and more they fall below
    the range of float64 some 435 voxels out on a thread one voxel wide, and the flow is 0 from there on.

    Time and memory grow with the voxels of the objects, not with their bounding boxes: about 10 ns per voxel and
    step on one core; 72 bytes per voxel of the objects in progress, plus 8 per foreground voxel and 4 per voxel of
    the volume.

    Examples
    --------
    >>> import numpy as np
    >>> from topo_dask.targets import diffusion_flow
    >>> labels = np.zeros((3, 3, 6), np.int32)
    >>> labels[1, 1, 1:5] = 3
    >>> diffusion_flow(labels, place=None)[2, 1, 1]
    array([ 0.,  1.,  1., -1., -1.,  0.], dtype=float32)
    """
    _check_labels(labels)
    n_iter = integer(n_iter, "n_iter", 1)
    place = None if place is None else triple(place, "place", at_least=0)
    if isinstance(labels, np.ndarray):
        if depth is not None:
            raise TypeError(f"depth={depth!r} is for dask arrays; labels is a NumPy array and read whole")
        threads = usable_cores() if threads is None else integer(threads, "threads", 1)
        labels = native(labels)
        return _diffuse_objects(labels, _find_objects(labels), place, np.ones(6, np.bool_), n_iter, threads)
    if threads is not None:
        raise TypeError(f"threads={threads!r} is for NumPy arrays; labels is a dask array, whose scheduler has threads")
    if depth is None:
        raise TypeError(
            "labels is a dask array: the flow of a voxel depends on its whole object; pass depth=, the "
            "number of voxels by which objects reach beyond the blocks they lie in; or pass labels.compute()"
        )
    return _lazy_diffusion(as_declared(labels, "labels"), n_iter, place, depth)


def _check_labels(labels: Any) -> None:
    if not isinstance(labels, np.ndarray):
        import dask.array as da

        if not isinstance(labels, da.Array):
            raise TypeError(
                f"labels is a {type(labels).__name__}; expected a NumPy array or a dask array, such as "
                "dask.array.from_zarr(array)"
            )
        if any(np.isnan(size) for size in labels.shape):
            raise ValueError(f"labels has chunks of unknown size: {labels.chunks}; expected known ones")
    if labels.ndim != 3:
        raise ValueError(f"labels has shape {labels.shape}; expected three axes (z, y, x)")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels has dtype {labels.dtype}; expected an integer type")
    check_unmasked(labels, "labels")


@dataclass(frozen=True, eq=False)
class _Objects:
    """Objects of a block or a volume, in ascending order of id, and their extents in the volume."""

    ids: NDArray[np.int64]
    extents: Extents


def _number_objects(labels: np.ndarray) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Distinct values in a block, including the background, and for each voxel the number of its value, from 1."""
    values, numbers = number_values(labels.astype(np.int64, copy=False).reshape(-1))
    return values, numbers.reshape(labels.shape)


def _find_objects(labels: np.ndarray, start: Triple = (0, 0, 0), shape: Triple | None = None) -> _Objects:
    """Chunk: objects of a volume, or of a block that starts at `start` in a volume of a given shape."""
    ids, numbers = _number_objects(labels)
    extents = measure(numbers, len(ids), start, labels.shape if shape is None else shape)
    order = np.argsort(ids)
    order = order[ids[order] != 0]
    return _Objects(ids[order], extents.take(order))


def _combine_objects(tables: Sequence[_Objects]) -> _Objects:
    """Combine: one row for each object, whichever blocks it is in."""
    ids = np.unique(np.concatenate([table.ids for table in tables]))
    extents = Extents.empty(len(ids))
    for table in tables:
        extents.add(np.searchsorted(ids, table.ids), table.extents)
    return _Objects(ids, extents)


def _find_centres(table: _Objects) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Finalize, once for all blocks: ids of the objects and their centres of mass."""
    return table.ids, table.extents.centres()


def _direct_block(
    labels: np.ndarray, ids: NDArray[np.int64], centres: NDArray[np.float64], origin: tuple[int, ...]
) -> np.ndarray:
    """Finalize: the flow of one block from the centres of all objects."""
    flow = np.zeros((3, *labels.shape), np.float32)
    kernels.write_direct(native(labels), np.asarray(origin, np.int64), ids, centres, flow)
    return flow


def _diffuse_objects(
    labels: np.ndarray, table: _Objects, place: Place, walls: np.ndarray, n_iter: int, threads: int
) -> np.ndarray:
    # `walls` says for each face of `labels` whether the volume ends there.
    flow = np.zeros((3, *labels.shape), np.float32)
    counts = table.extents.counts
    if counts.size and counts.max() >= np.iinfo(np.int32).max:
        raise OverflowError(f"an object of labels has {counts.max()} voxels; expected less than 2**31 - 1")
    starts = np.concatenate([[0], np.cumsum(counts)])
    voxels, ranks = kernels.list_voxels(labels, table.ids, starts)
    steps = np.minimum(6 * (table.extents.upper - table.extents.lower).max(axis=1), n_iter)

    first = np.array(() if place is None else place, np.int64)

    def diffuse(objects: NDArray[np.int64]) -> None:
        kernels.diffuse_objects(labels, ranks, voxels, starts, objects, first, walls, steps, flow.reshape(3, -1))

    work = counts * steps  # the largest first, so that no thread is alone with it at the end
    order = np.argsort(-work, kind="stable")
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(diffuse, np.split(order, _task_starts(work[order]))))
    return flow


def _task_starts(work: NDArray[np.int64]) -> NDArray[np.int64]:
    # Where in a list of objects each task but the first begins: small objects share one, which costs more than they do.
    return np.flatnonzero(np.diff(np.cumsum(work) // _TASK)) + 1


def _diffusion_core(
    labels: np.ndarray, table: _Objects, block: Box, core: Box, shape: Triple, place: Place, n_iter: int
) -> np.ndarray:
    """Finalize: the flow of the box `core` from the labels of the box `block`, in a volume of a given shape."""
    part = core.within(block)
    labels = native(labels)  # np.isin refuses some large ids in other byte orders
    own = np.sort(_number_objects(labels[part])[0])
    own = own[own != 0]
    whole = table.extents.take(np.searchsorted(table.ids, own))
    outside = (whole.lower < block.start) | (whole.upper > block.stop)
    for i in np.flatnonzero(outside.any(axis=1)):
        raise ValueError(
            f"object {own[i].astype(labels.dtype)} spans {whole.lower[i].tolist()} to {(whole.upper[i] - 1).tolist()} "
            f"and reaches out of the block read at {list(block.start)} of shape {labels.shape}, depth included; "
            "take a larger depth or larger chunks"
        )
    kept = np.where(np.isin(labels, own.astype(labels.dtype)), labels, labels.dtype.type(0))
    walls = np.array([end for a, b, s in zip(block.start, block.stop, shape, strict=True) for end in (a == 0, b == s)])
    here = None if place is None else triple(np.add(place, block.start), "place", at_least=0)
    return _diffuse_objects(kept, _find_objects(kept), here, walls, n_iter, threads=1)[(slice(None), *part)]


def _starts(chunks: tuple[tuple[int, ...], ...]) -> list[list[int]]:
    return [np.cumsum([0, *sizes])[:-1].tolist() for sizes in chunks]


def _combined_table(labels: "da.Array") -> Any:
    """Lazy table of all objects: a task per block, then a tree."""
    import dask

    chunk = dask.delayed(_find_objects, pure=True)
    combine = dask.delayed(_combine_objects, pure=True)
    starts = _starts(labels.chunks)
    blocks = labels.to_delayed()
    tables = [
        chunk(blocks[index], tuple(starts[axis][i] for axis, i in enumerate(index)), labels.shape)
        for index in np.ndindex(blocks.shape)
    ]
    while len(tables) > 1:
        tables = [combine(tables[i : i + _FAN_IN]) for i in range(0, len(tables), _FAN_IN)]
    return tables[0]


def _lazy_direct(labels: "da.Array") -> "da.Array":
    import dask

    starts = _starts(labels.chunks)

    def write(block: np.ndarray, table: tuple[Any, Any], block_id: tuple[int, ...]) -> np.ndarray:
        return _direct_block(block, *table, tuple(starts[axis][i] for axis, i in enumerate(block_id[1:])))

    return _map_flow(write, labels, labels, dask.delayed(_find_centres, pure=True)(_combined_table(labels)))


def _lazy_diffusion(labels: "da.Array", n_iter: int, place: Place, depth: int) -> "da.Array":
    import dask.array as da

    depth = integer(depth, "depth", 0)
    # A block can be extended into its direct neighbours only, so no block may be narrower than the depth.
    wide = labels.rechunk(
        tuple(da.overlap.ensure_minimum_chunksize(min(depth, sum(sizes)), sizes) for sizes in labels.chunks)
    )
    sizes, starts, shape = wide.chunks, _starts(wide.chunks), triple(labels.shape, "shape", at_least=0)

    def write(block: np.ndarray, table: _Objects, block_id: tuple[int, ...]) -> np.ndarray:
        start = triple((starts[axis][i] for axis, i in enumerate(block_id[1:])), "start", at_least=0)
        size = (sizes[axis][i] for axis, i in enumerate(block_id[1:]))
        core = Box(start, triple(np.add(start, tuple(size)), "stop", at_least=0))
        margin = (depth, depth, depth)
        return _diffusion_core(block, table, core.grow(margin, margin, shape), core, shape, place, n_iter)

    margins = {axis: min(depth, sum(parts)) if len(parts) > 1 else 0 for axis, parts in enumerate(sizes)}
    padded = da.overlap.overlap(wide, depth=margins, boundary="none", allow_rechunk=False)
    flow: da.Array = _map_flow(write, padded, wide, _combined_table(wide)).rechunk(((3,), *labels.chunks))
    return flow


def _map_flow(write: Any, blocks: "da.Array", labels: "da.Array", table: Any) -> "da.Array":
    """Lazy flow with the chunks of `labels`: `write(block, table, block_id)` for every block of `blocks`."""
    import dask.array as da

    flow: da.Array = da.map_blocks(
        write,
        blocks,
        table=table,
        new_axis=0,
        chunks=((3,), *labels.chunks),
        dtype=np.float32,
        meta=np.empty((0, 0, 0, 0), np.float32),
    )
    return flow
