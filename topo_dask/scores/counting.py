"""The pass that all scores need: it counts which ids of two volumes meet, block by block.

A block emits its pairs of ids with their counts (chunk). Counts of the same pair are added up (combine). Scores are
computed from the table (finalize). Counts are integers, so the result does not depend on the blocks or their order.
Memory grows with the number of distinct pairs, not with the volume.
"""

import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..given import as_declared, check_unmasked, integer, is_dask
from ..kernels.contingency import count_pairs
from ..machine import usable_cores
from ..stores.checked import CheckedArray, stored_shape
from ..stores.inputs import absolute_node

_BLOCK_BYTES = 16 << 20  # of the wider volume, per thread
_FAN_IN = 16  # tables combined by one task


@dataclass(frozen=True, eq=False)
class ContingencyTable:
    """Number of voxels for each pair of a true id and a computed id.

    Parameters
    ----------
    truth, labels : ndarray of int64, shape (P,)
        The two ids of each pair that occurs, in ascending order of (truth, labels); 0 is background.
    counts : ndarray of int64, shape (P,)
        Voxels of each pair.
    """

    truth: np.ndarray
    labels: np.ndarray
    counts: np.ndarray

    def __post_init__(self) -> None:
        if not self.truth.shape == self.labels.shape == self.counts.shape == (self.counts.size,):
            raise ValueError(
                f"truth, labels and counts have shapes {self.truth.shape}, {self.labels.shape} and "
                f"{self.counts.shape}; expected three equal ones of one axis"
            )

    def without_truth(self, ignore: Iterable[int]) -> "ContingencyTable":
        """Return the table of the voxels whose true id is not in `ignore`.

        Raises
        ------
        TypeError
            `ignore` is no sequence, or holds a value that is not an integer.
        """
        if not isinstance(ignore, Iterable):
            raise TypeError(f"ignore is {ignore!r}; expected a sequence of integers, such as (0,)")
        # NumPy turns a mix of int64 and uint64 into float64, in which different ids above 2**53 are the same.
        bounds = np.iinfo(self.truth.dtype)
        ids = [i for i in map(_as_id, ignore) if bounds.min <= i <= bounds.max]
        keep = ~np.isin(self.truth, np.array(ids, self.truth.dtype))
        return ContingencyTable(self.truth[keep], self.labels[keep], self.counts[keep])


def _as_id(value: object) -> int:
    if not hasattr(value, "__index__"):
        raise TypeError(f"ignore holds {value!r}, a {type(value).__name__}; expected integers")
    return operator.index(value)


def contingency(truth: Any, labels: Any, *, threads: int | None = None) -> ContingencyTable:
    """Count which ids meet at the same voxels, block by block.

    Parameters
    ----------
    truth, labels : ndarray, zarr.Array or dask.array.Array of any integer or boolean type, equal shapes
        Ids, any values below 2**63. The two may be different kinds of arrays. If one is a dask array, Dask's
        configured scheduler does the work; otherwise threads do. A chunk of a zarr array that was never written reads
        as the array's fill value.
    threads : int, optional
        Number of threads, when there is no dask array; default one per core. Each holds at most 16 MiB of each volume,
        or one chunk (shard) of a zarr array if that is larger. If the chunks of the two volumes differ, a chunk of one
        is decoded once for each block that it lies in. If one has slices and the other cubes, rechunk one of them
        first.

    Returns
    -------
    ContingencyTable
        It takes 24 bytes per distinct pair. Combining takes some 130 bytes per pair and, without dask, as much for each
        pair of 4 blocks per thread.

    Raises
    ------
    TypeError
        An argument is not one of these arrays, does not hold integers, or has masked values; or `threads` is not an
        integer.
    ValueError
        The shapes differ, or the axes of two zarr arrays have the same names in another order, or a dask array has
        chunks of unknown size, or `threads` is below 1. This is checked before anything is read. Or a chunk of a dask
        array has another shape than it declares, or the packing of a zarr array cannot be checked.
    OverflowError
        An unsigned id of 2**63 or more.
    OSError
        A chunk of a zarr array is damaged or cannot be read, or the array is not where it was opened.

    Examples
    --------
    >>> import numpy as np
    >>> from topo_dask.scores import contingency
    >>> contingency(np.array([0, 1, 1, 2]), np.array([0, 5, 5, 5]))
    ContingencyTable(truth=array([0, 1, 2]), labels=array([0, 5, 5]), counts=array([1, 2, 1]))
    """
    truth, labels = _as_volume("truth", truth), _as_volume("labels", labels)
    if truth.shape != labels.shape:
        raise ValueError(f"labels has shape {labels.shape}; expected that of truth, {truth.shape}")
    _check_axes(truth, labels)
    threads = usable_cores() if threads is None else integer(threads, "threads", 1)
    if is_dask(truth) or is_dask(labels):
        rows = _count_with_dask(truth, labels)
    else:
        rows = _count_with_threads(truth, labels, threads)
    return ContingencyTable(*np.ascontiguousarray(rows.T))


def _as_volume(name: str, array: Any) -> Any:
    """Check the type of an array; reads of a zarr array are checked too."""
    if not isinstance(array, np.ndarray):
        import dask.array as da
        import zarr

        if not isinstance(array, zarr.Array | da.Array):
            raise TypeError(f"{name} is a {type(array).__name__}; expected a NumPy array, zarr.Array or dask array")
    if np.dtype(array.dtype).kind not in "iub":
        raise TypeError(f"{name} has dtype {array.dtype}; expected an integer type")
    if any(size != size for size in array.shape):
        raise ValueError(f"{name} has chunks of unknown size; call its compute_chunk_sizes() first")
    check_unmasked(array, name)
    in_place = isinstance(array, np.ndarray) or is_dask(array)
    return array if in_place else CheckedArray(absolute_node(array), name, "background")


def _check_axes(truth: Any, labels: Any) -> None:
    # Where axes are of the same length, the shapes do not tell that their order differs.
    named = [array.array.metadata for array in (truth, labels) if isinstance(array, CheckedArray)]
    axes = [tuple((name or "").lower() for name in getattr(one, "dimension_names", None) or ()) for one in named]
    if len(axes) == 2 and axes[0] != axes[1] and sorted(axes[0]) == sorted(axes[1]):
        raise ValueError(f"labels has axes {axes[1]}; expected those of truth, {axes[0]}: transpose one of them")


def _count_block(truth: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Chunk: rows (truth, label, count) of one block, sorted."""
    if truth.shape != labels.shape:  # the kernel would read beyond the end of one of them
        raise ValueError(f"a block of labels has shape {labels.shape}; expected that of truth, {truth.shape}")
    flat = []
    for name, block in (("truth", truth), ("labels", labels)):
        kind = np.dtype(np.uint8) if block.dtype == bool else block.dtype.newbyteorder("=")
        if kind == np.uint64 and block.size and int(block.max()) >= 1 << 63:
            raise OverflowError(f"{name} holds id {block.max()}; expected ids below 2**63")
        flat.append(np.ascontiguousarray(block, dtype=kind).reshape(-1))
    rows: np.ndarray = count_pairs(*flat)
    return rows[np.lexsort((rows[:, 1], rows[:, 0]))]


def _combine(tables: Sequence[np.ndarray]) -> np.ndarray:
    """Combine: counts of equal pairs added up, rows in ascending order of (truth, label)."""
    rows = np.concatenate(tables)
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    new = np.ones(len(rows), bool)
    new[1:] = (rows[1:, :2] != rows[:-1, :2]).any(axis=1)
    combined = rows[new]
    if len(rows):
        combined[:, 2] = np.add.reduceat(rows[:, 2], np.flatnonzero(new))
    return combined


def _count_with_dask(truth: Any, labels: Any) -> np.ndarray:
    import dask
    import dask.array as da

    left, right = (as_declared(a, name) if is_dask(a) else a for a, name in ((truth, "truth"), (labels, "labels")))
    left = left if is_dask(left) else da.from_array(truth, labels.chunks, name=False)
    right = right if is_dask(right) else da.from_array(labels, left.chunks, name=False)
    right = right.rechunk(left.chunks)
    chunk, combine = dask.delayed(_count_block), dask.delayed(_combine)
    pairs = zip(left.to_delayed().ravel(), right.to_delayed().ravel(), strict=True)
    tables = [chunk(a, b) for a, b in pairs]
    while len(tables) > 1:
        tables = [combine(tables[i : i + _FAN_IN]) for i in range(0, len(tables), _FAN_IN)]
    rows: np.ndarray = tables[0].compute()
    return rows


def _count_with_threads(truth: Any, labels: Any, threads: int) -> np.ndarray:
    def count(box: tuple[slice, ...]) -> np.ndarray:
        return _count_block(np.asarray(truth[box]), np.asarray(labels[box]))

    rows, waiting, n = np.empty((0, 3), np.int64), list[np.ndarray](), 0
    boxes = _boxes(truth, labels)
    with ThreadPoolExecutor(threads) as pool:  # in batches, so that few rows wait: half of `rows` and a batch
        while batch := list(itertools.islice(boxes, 4 * threads)):
            tables = list(pool.map(count, batch))
            waiting += tables
            n += sum(map(len, tables))
            if n >= len(rows) / 2:  # otherwise all rows would be sorted again after a few blocks
                rows, waiting, n = _combine([rows, *waiting]), [], 0
    return _combine([rows, *waiting]) if waiting else rows


def _boxes(truth: Any, labels: Any) -> Iterator[tuple[slice, ...]]:
    """Yield boxes of about `_BLOCK_BYTES` that cover the volume. They consist of whole chunks of one of the arrays."""
    shape, itemsize = truth.shape, max(truth.dtype.itemsize, labels.dtype.itemsize)
    stored = [array for array in (truth, labels) if not isinstance(array, np.ndarray)]
    units = [stored_shape(array) for array in stored] or [(1,) * len(shape)]
    # Whole chunks of one only: whole chunks of both, one in slices and one in cubes, would be a slab of the volume.
    blocks = [_block(shape, unit, itemsize) for unit in units]
    block = min(blocks, key=lambda block: sum(_decoded_bytes(array, block) for array in stored))
    ranges = (range(0, size, max(1, step)) for size, step in zip(shape, block, strict=True))
    for corner in itertools.product(*ranges):
        yield tuple(slice(c, min(c + n, size)) for c, n, size in zip(corner, block, shape, strict=True))


def _block(shape: tuple[int, ...], unit: tuple[int, ...], itemsize: int) -> list[int]:
    block = [min(edge, size) for edge, size in zip(unit, shape, strict=True)]
    for axis in reversed(range(len(shape))):  # grow along the last axis first: the order of memory
        fits = _BLOCK_BYTES // max(1, math.prod(block) * itemsize)
        block[axis] = min(shape[axis], block[axis] * max(1, fits))
    return block


def _decoded_bytes(array: Any, block: list[int]) -> int:
    """Bytes that are decoded when an array is read in blocks: each chunk once for each block that it lies in."""
    chunks = 1
    for size, n, edge in zip(array.shape, block, array.chunks, strict=True):
        chunks *= sum((min(at + n, size) - 1) // edge - at // edge + 1 for at in range(0, size, max(1, n)))
    decoded: int = chunks * math.prod(array.chunks) * array.dtype.itemsize
    return decoded
