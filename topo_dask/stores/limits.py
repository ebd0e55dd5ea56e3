"""Limits of what metadata of an array may say, so that hostile or broken metadata are refused before any work."""

from math import prod
from typing import Any

import numpy as np

MAX_AXIS = 2**31 - 1
MAX_VOXELS = 2**62
MAX_CHUNK_BYTES = 2**33
MAX_SHARD_CHUNKS = 2**24


def check_metadata(array: Any, name: str) -> None:
    """Refuse an array whose shape, chunks or shards are beyond reason.

    Parameters
    ----------
    array : zarr.Array, CheckedArray or any array
        Array. Its chunks are checked if it has any.
    name : str
        Name of the argument, for messages.

    Raises
    ------
    ValueError
        When it is, or its chunks have several shapes; the message names the value, the limit and the remedy.

    Examples
    --------
    >>> check_metadata(np.broadcast_to(np.uint8(0), (2**40,)), "flow")
    Traceback (most recent call last):
        ...
    ValueError: flow has shape (1099511627776,); an axis may have up to 2147483647 voxels: split the volume
    """
    check_shape(tuple(int(size) for size in array.shape), name)
    check_grid(array, name)
    chunks = getattr(array, "chunks", None)
    if chunks is None or not all(isinstance(size, int) for size in chunks):
        return
    nbytes = prod(chunks) * np.dtype(array.dtype).itemsize
    if min(chunks, default=1) < 1 or nbytes > MAX_CHUNK_BYTES:
        raise ValueError(
            f"{name} has chunks of shape {tuple(chunks)} ({nbytes} bytes); a chunk may have 1 to {MAX_CHUNK_BYTES} "
            "bytes: rechunk the array first"
        )
    shards = getattr(array, "shards", None)
    if shards is not None and not 1 <= prod(shards) // prod(chunks) <= MAX_SHARD_CHUNKS:
        raise ValueError(
            f"{name} has shards of shape {tuple(shards)} and chunks of shape {tuple(chunks)}; a shard may hold 1 to "
            f"{MAX_SHARD_CHUNKS} chunks: rechunk the array first"
        )


def check_grid(array: Any, name: str) -> None:
    """Raise ValueError, naming the argument, when the chunks of a zarr array have several shapes."""
    if not hasattr(array, "metadata"):
        return
    grid = array.metadata.to_dict().get("chunk_grid", {"name": "regular"})["name"]
    if grid != "regular":
        raise ValueError(f"{name} has a {grid} chunk grid; expected chunks of one shape: rechunk the array first")


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """Raise ValueError, naming the argument, when a shape is beyond reason."""
    if min(shape, default=0) < 0 or max(shape, default=0) > MAX_AXIS:
        raise ValueError(f"{name} has shape {shape}; an axis may have up to {MAX_AXIS} voxels: split the volume")
    if prod(max(size, 1) for size in shape) > MAX_VOXELS:
        raise ValueError(f"{name} has shape {shape}; it may have up to {MAX_VOXELS} voxels: split the volume")
