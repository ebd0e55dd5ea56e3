"""A second look before the work: some voxels of the inputs are read, and what is hardly meant is warned of."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice, product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blocks.geometry import Box
from .config import warn
from .kernels.plausibility import LEAST, doubt_flow, doubt_foreground, doubt_mask

EDGE = 48
"""Edge of a box that is looked at, in voxels."""

_LARGEST_CHUNK = 256 << 20
_CLASSES = 3


def warn_of_prediction(
    semantic: Any,
    flow: Any,
    classes: Mapping[str, int],
    threshold: float,
    names: tuple[str, str] = ("semantic", "flow"),
) -> None:
    """Warn where a prediction looks scaled, out of order or empty; what can not be read is left to the run.

    Parameters
    ----------
    semantic, flow : array, shapes (N, D, H, W) and (3N, D, H, W)
        NumPy arrays, or `CheckedArray`.
    classes : mapping
        Class name to its channel; a few are looked at.
    threshold : float
        Foreground is above it.
    names : tuple of str
        Names of the two arguments.
    """
    if max(_chunk_bytes(semantic), _chunk_bytes(flow)) > _LARGEST_CHUNK:
        return
    for name, channel in islice(classes.items(), _CLASSES):
        for box in _boxes(flow):
            # A threshold beyond the range of the values' type becomes infinity, which compares right.
            with suppress(OSError), np.errstate(over="ignore"):
                values = np.asarray(semantic[(slice(channel, channel + 1), *box.slices)])[0]
                if doubt := doubt_foreground(values, threshold):
                    warn(f"{names[0]} {doubt}")
                    return
                if np.count_nonzero(mask := values > threshold) >= LEAST:
                    vectors = np.asarray(flow[(slice(3 * channel, 3 * channel + 3), *box.slices)])
                    if doubt := doubt_flow(mask, vectors):
                        warn(f"{names[1]} of class {name!r} {doubt}")
                        return
                    break


def warn_of_mask(mask: NDArray[Any], flow: NDArray[Any]) -> None:
    """The same of `sem_mask`, shape (D, H, W), and its `flow`, shape (3, D, H, W), in memory."""
    for box in _boxes(flow):
        values = mask[box.slices]
        if doubt := doubt_mask(values):
            warn(f"sem_mask {doubt}")
            return
        if np.count_nonzero(values) >= LEAST:
            if doubt := doubt_flow(values != 0, flow[(slice(None), *box.slices)]):
                warn(f"flow {doubt}")
            return


def _chunk_bytes(array: Any) -> int:
    # Of what is decoded at least, to look at a voxel.
    return prod(getattr(array, "chunks", ())) * int(array.dtype.itemsize)


def _boxes(flow: Any) -> Iterator[Box]:
    # Around the middle and eight places about it, each within one chunk of the flow.
    shape = flow.shape[-3:]
    if 0 in shape:
        return
    chunks = getattr(flow, "chunks", shape)
    for part in ((2, 2, 2), *product((1, 3), repeat=3)):
        start, stop = [], []
        for n, chunk, quarter in zip(shape, chunks[-3:], part, strict=True):
            at = min(n - 1, n * quarter // 4)
            low, high = at // chunk * chunk, min(n, (at // chunk + 1) * chunk)
            first = max(low, min(at - EDGE // 2, high - EDGE))
            start.append(first)
            stop.append(min(high, first + EDGE))
        yield Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
