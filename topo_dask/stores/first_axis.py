"""An array without its first axis, where that has length 1: five-dimensional images have one time point.

The stored array is opened with metadata that leave the axis out. These metadata put a 0 in place of the axis into the
keys of chunks; the bytes of a chunk are the same with and without an axis of length 1. So code that reads the array, or
checks, lists or names its chunks, need not know of the axis::

    stored   (t, c, z, y, x)    c/0/1/2/3/4
    seen        (c, z, y, x)        1 2 3 4
"""

from typing import Any

import zarr
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata

from .checked import stored_shape
from .limits import check_grid
from .persistent import view_of


class _Shortened:
    _whole: Any  # the metadata as they are stored

    def encode_chunk_key(self, chunk_coords: tuple[int, ...]) -> str:
        return str(self._whole.encode_chunk_key((0, *chunk_coords)))

    def to_buffer_dict(self, prototype: BufferPrototype) -> dict[str, Buffer]:
        documents: dict[str, Buffer] = self._whole.to_buffer_dict(prototype)  # as they are stored
        return documents


class _Shortened2(_Shortened, ArrayV2Metadata):
    pass


class _Shortened3(_Shortened, ArrayV3Metadata):
    pass


def without_first_axis(array: "zarr.Array[Any]", name: str) -> "zarr.Array[Any]":
    """The same stored array without its first axis. It can be read, but must not be written.

    Parameters
    ----------
    array : zarr.Array
        Array of format 2 or 3 whose first axis has length 1.
    name : str
        Name of the argument, for messages.

    Raises
    ------
    ValueError
        When the first axis is longer than 1 in the array or in a chunk, or when chunks are not all of one shape.

    Examples
    --------
    >>> stored = zarr.create_array({}, shape=(1, 4, 6), chunks=(1, 2, 6), dtype="u1")
    >>> stored[0, 3] = 7
    >>> array = without_first_axis(stored, "flow")
    >>> array.shape, array.chunks, int(array[3].sum())
    ((4, 6), (2, 6), 42)
    """
    check_grid(array, name)
    whole: Any = array.metadata
    document = whole.to_dict()
    shape, chunk = tuple(array.shape), stored_shape(array)
    if (shape[0], chunk[0]) != (1, 1):
        raise ValueError(
            f"{name} has shape {shape} in chunks of shape {chunk}: the first axis can be left out if it is 1 long in "
            "both; rechunk the array, or write it without this axis"
        )
    kind: Any = _Shortened2 if whole.zarr_format == 2 else _Shortened3
    metadata = kind.from_dict(_shorten(document))
    object.__setattr__(metadata, "_whole", whole)
    return view_of(array, metadata=metadata)


def _shorten(document: dict[str, Any]) -> dict[str, Any]:
    # The metadata, of either format, without their entries for the first axis.
    short = {**document, "shape": document["shape"][1:]}
    if document["zarr_format"] == 2:
        return {**short, "chunks": document["chunks"][1:]}
    grid = document["chunk_grid"]
    shape = grid["configuration"]["chunk_shape"][1:]
    names = document.get("dimension_names")
    return {
        **short,
        "chunk_grid": {**grid, "configuration": {"chunk_shape": shape}},
        "codecs": [_shorten_codec(codec) for codec in document["codecs"]],
        "dimension_names": names and names[1:],
    }


def _shorten_codec(codec: dict[str, Any]) -> dict[str, Any]:
    # Only these two codecs have settings for each axis.
    settings = codec.get("configuration", {})
    if codec["name"] == "transpose":
        settings = {"order": [axis - 1 for axis in settings["order"] if axis > 0]}
    elif codec["name"] == "sharding_indexed":
        inner = [_shorten_codec(one) for one in settings["codecs"]]
        settings = {**settings, "chunk_shape": settings["chunk_shape"][1:], "codecs": inner}
    else:
        return codec
    return {**codec, "configuration": settings}
