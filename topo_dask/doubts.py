"""A second look before the work: a few voxels are read, and a warning tells of input that is probably not meant."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from math import ceil, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blocks.geometry import Box, Triple
from .blocks.sampling import sample_boxes
from .kernels.plausibility import FEW, Looks, doubt_flow, doubt_foreground, doubt_levels, doubt_mask
from .warning import warn

EDGE = 32
"""Edge of a box that is read, in voxels."""

LARGEST_CHUNK = 256 << 20
"""Chunks of more bytes are not decoded for a look. Of thin chunks, so many bytes in all are decoded for a class."""

_THICK = 16
"""Voxels to which thin chunks are joined along an axis."""

_SLAB = 8
"""Planes of a box that are looked at together: of each part the same number of voxels is taken."""

_PLACES, _CLASSES = 5, 3


def warn_of_prediction(
    semantic: Any,
    flow: Any,
    classes: Mapping[str, int],
    threshold: float,
    names: tuple[str, str] = ("semantic", "flow"),
    *,
    whole: bool = True,
) -> None:
    """Warn where a prediction looks scaled, out of order or empty. Errors in reading are left to the run.

    Parameters
    ----------
    semantic, flow : array, shapes (N, D, H, W) and (3N, D, H, W)
        NumPy arrays, or `CheckedArray`.
    classes : mapping
        Class name to its channel; the first few are read.
    threshold : float
        A voxel is foreground if its value is above this.
    names : tuple of str
        Names of the two arguments.
    whole : bool
        Whether the flow has the channels of all classes: only then is it told that the dz of all come first.
    """
    if max(chunk_bytes(semantic), chunk_bytes(flow)) > LARGEST_CHUNK:
        return
    n, boxes = flow.shape[0] // 3, sample_boxes(flow.shape[-3:], _chunks_to_look(semantic, flow), EDGE)
    with suppress(OSError), np.errstate(over="ignore"):  # a threshold beyond the values' type becomes infinity
        for name, channel in islice(classes.items(), _CLASSES if boxes else 0):
            values = [np.asarray(semantic[(slice(channel, channel + 1), *box.slices)])[0] for box in boxes]
            if doubt := doubt_foreground(np.concatenate([part.ravel() for part in values]), threshold):
                warn(f"{names[0]} {doubt}")
                return
            masks = [part > threshold for part in values]
            if sum(map(np.count_nonzero, masks)) < FEW:
                continue
            looks = _look(masks, boxes, flow, [slice(3 * channel, 3 * channel + 3)])
            apart = partial(_look, masks, boxes, flow, [slice(c, c + 1) for c in range(channel, 3 * n, n)])
            if doubt := doubt_flow(looks, apart if whole and n > 1 else None):
                warn(f"{names[1]} of class {name!r} {doubt}")
                return


def warn_of_box(
    values: NDArray[Any],
    mask: NDArray[np.bool_],
    flow: NDArray[Any],
    threshold: float,
    name: str,
    apart: Callable[[], NDArray[Any]] | None = None,
) -> None:
    """The same for a class in a box that has been read: its places are looked at all over the box.

    Parameters
    ----------
    values, mask : ndarray, shape (d, h, w)
        Stored foreground, and whether it is above the threshold.
    flow : ndarray, shape (3, d, h, w)
        Vectors of the class.
    threshold : float
        A voxel is foreground if its value is above this.
    name : str
        The class.
    apart : callable, optional
        Returns the vectors if the dz of all classes come first.
    """
    with np.errstate(over="ignore"):
        doubt = doubt_foreground(values, threshold)
    if doubt:
        warn(f"semantic {doubt}")
        return
    slabs = [slice(z, z + _SLAB) for z in range(0, len(mask), _SLAB)]

    def looks(vectors: NDArray[Any]) -> Looks:
        return [(mask[slab], vectors[:, slab]) for slab in slabs if mask[slab].any()]

    if doubt := doubt_flow(looks(flow), None if apart is None else lambda: looks(apart())):
        warn(f"flow of class {name!r} {doubt}")


def _look(masks: Sequence[NDArray[np.bool_]], boxes: Sequence[Box], flow: Any, channels: Sequence[slice]) -> Looks:
    looks = []
    for mask, box in zip(masks, boxes, strict=True):
        if mask.any():
            parts = [np.asarray(flow[(part, *box.slices)]) for part in channels]
            looks.append((mask, parts[0] if len(parts) == 1 else np.concatenate(parts)))
    return looks


def _chunks_to_look(semantic: Any, flow: Any) -> Triple:
    # Chunks that a box has to lie within: along each axis the smaller ones of both arrays. Thin ones are joined, the
    # thinnest first, while that is cheap.
    z, y, x = (
        min(sizes)
        for sizes in zip(*(getattr(array, "chunks", array.shape)[-3:] for array in (semantic, flow)), strict=True)
    )
    chunks = [z, y, x]
    reads = chunk_bytes(semantic) + (ceil(3 / flow.chunks[0]) * chunk_bytes(flow) if hasattr(flow, "chunks") else 0)
    most = LARGEST_CHUNK // max(1, _PLACES * reads)
    for axis in sorted(range(3), key=chunks.__getitem__):
        joined = max(1, min(most, ceil(_THICK / max(1, chunks[axis]))))
        chunks[axis] *= joined
        most //= joined
    return chunks[0], chunks[1], chunks[2]


def warn_of_mask(mask: Any, flow: Any) -> None:
    """The same for `sem_mask`, shape (D, H, W), and its `flow`, shape (3, D, H, W)."""
    if max(chunk_bytes(mask), chunk_bytes(flow)) > LARGEST_CHUNK:
        return
    boxes = sample_boxes(flow.shape[-3:], _chunks_to_look(mask, flow), EDGE)
    with suppress(OSError):
        values = [np.asarray(mask[box.slices]) for box in boxes]
        together = np.concatenate([part.ravel() for part in values] or [np.empty(0)])
        if doubt := next(filter(None, map(doubt_mask, values)), None) or doubt_levels(together):
            warn(f"sem_mask {doubt}")
            return
        if doubt := doubt_flow(_look([part != 0 for part in values], boxes, flow, [slice(0, 3)])):
            warn(f"flow {doubt}")


def chunk_bytes(array: Any) -> int:
    """Bytes of a chunk, which must be decoded to read one voxel; 0 for an array in memory."""
    return prod(array.chunks) * int(array.dtype.itemsize) if hasattr(array, "chunks") else 0
