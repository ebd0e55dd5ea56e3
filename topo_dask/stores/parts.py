"""Parts of a box, read one after the other, so that no more chunks are decoded at a time than there is memory for."""

import sys
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
import zarr

from ..blocks.memory import Stored

Slices = tuple[slice, ...]


def concurrent_reads() -> int:
    """Objects of a store that zarr reads at a time, at most."""
    configured = zarr.config.get("async.concurrency")
    return sys.maxsize if configured is None else int(configured)


def stored_in(array: Any) -> Stored:
    """What an array is stored in."""
    return Stored(tuple(array.chunks), array.shards is not None, np.dtype(array.dtype).itemsize)


def parts_of(array: Any, box: Slices, allowed_mem: int | None) -> Sequence[Slices]:
    """Parts of a box of an array; the box alone if zarr may read it as it is configured to.

    Parameters
    ----------
    array : zarr.Array
    box : tuple of slice
        With start and stop, within the array.
    allowed_mem : int or None
        Bytes that chunks may take at a time, if a single one takes no more; None for any number.

    Examples
    --------
    >>> array = zarr.create_array({}, shape=(4, 8), chunks=(4, 4), dtype="f4")
    >>> parts_of(array, (slice(0, 4), slice(1, 8)), 256)
    [(slice(0, 4, None), slice(1, 4, None)), (slice(0, 4, None), slice(4, 8, None))]
    >>> parts_of(array, (slice(0, 4), slice(1, 8)), None)
    [(slice(0, 4, None), slice(1, 8, None))]
    """
    sizes, stored = [side.stop - side.start for side in box], stored_in(array)
    if allowed_mem is None or 0 in sizes:
        return [box]
    most = stored.most_at_once(allowed_mem)
    if most >= stored.usually_at_once(sizes, concurrent_reads()):
        return [box]
    return _cut(box, stored.chunk, most)


def _cut(box: Slices, chunk: tuple[int, ...], most: int) -> list[Slices]:
    # Along the borders of chunks, each part in so many at most, neighbours along the last axes.
    sides = []
    for side, size in zip(reversed(box), reversed(chunk), strict=True):
        first, end = side.start // size, -(-side.stop // size)
        n = max(1, min(most, end - first))
        most //= n
        cuts = [side.start, *range((first + n) * size, side.stop, n * size), side.stop]
        sides.append([slice(a, b) for a, b in pairwise(cuts)])
    return list(product(*reversed(sides)))
