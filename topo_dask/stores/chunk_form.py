"""The form that the bytes of a stored chunk must have according to its array's metadata, and a check that they have it.

The check reads sizes and headers only. It runs before a decoder sees the bytes, because a decoder trusts them.
"""

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata

_BLOSC = ("blosc", "numcodecs.blosc")
_EMPTY = np.uint64(2**64 - 1)
_FAR = 2**62


@dataclass(frozen=True)
class Index:
    """Index of a shard: (offset, length) of each inner chunk; both are 2**64 - 1 for a chunk that is left out."""

    nbytes: int
    dtype: str
    entries: int
    at_start: bool
    inner: "Form"


@dataclass(frozen=True)
class Form:
    """Form of a stored chunk: its packing, the bytes it holds (None: not known), the bytes of checksums after them."""

    packing: Literal["raw", "blosc", "shard", "other"]
    nbytes: int | None
    tail: int = 0
    index: Index | None = None


def _packed(names: Sequence[str], nbytes: int | None) -> Form:
    """Form that `nbytes` bytes have after the named bytes-to-bytes codecs were applied."""
    inner = list(names)
    while inner and inner[-1] == "crc32c":
        inner.pop()
    tail = 4 * (len(names) - len(inner))
    if not inner:
        return Form("raw" if nbytes is not None else "other", nbytes, tail)
    last = inner.pop()
    if any(name in _BLOSC for name in inner):
        raise ValueError(f"Blosc inside {last} cannot be checked before it is decoded; pack the array with one of them")
    if last not in _BLOSC:
        return Form("other", None, tail)
    known = nbytes is not None and all(name == "crc32c" for name in inner)
    return Form("blosc", nbytes + 4 * len(inner) if known and nbytes is not None else None, tail)


def _named(codecs: Iterable[Any]) -> list[dict[str, Any]]:
    return [{"name": codec} if isinstance(codec, str) else codec for codec in codecs]


def _form_v3(codecs: Iterable[Any], shape: Sequence[int], itemsize: int) -> Form:
    chain = _named(codecs)
    names = [codec["name"] for codec in chain]
    at = next((i for i, name in enumerate(names) if name in ("bytes", "sharding_indexed")), None)
    if at is None:
        return _packed(names, None)
    # Of the codecs that come before, only a transposition is sure to keep the number of bytes.
    plain = all(name == "transpose" for name in names[:at])
    form = _packed(names[at + 1 :], prod(shape) * itemsize if plain else None)
    if names[at] == "bytes":
        return form
    if form.packing != "raw":
        raise ValueError(f"shards inside {names} cannot be checked before they are decoded; compress the inner chunks")
    return Form("shard", None, form.tail, index_of(chain[at]["configuration"], shape, itemsize))


def index_of(config: Any, shape: Sequence[int], itemsize: int) -> Index:
    """Index of a shard, from the configuration of the sharding codec."""
    codecs = _named(config["index_codecs"])
    names = [codec["name"] for codec in codecs]
    if names not in (["bytes"], ["bytes", "crc32c"]):
        raise ValueError(f"the shard index is coded as {names}; expected bytes, with or without crc32c")
    endian = codecs[0].get("configuration", {}).get("endian", "little")
    inner = tuple(config["chunk_shape"])
    entries = prod(shape) // prod(inner)
    return Index(
        nbytes=16 * entries + 4 * (len(names) - 1),
        dtype=">u8" if endian == "big" else "<u8",
        entries=entries,
        at_start=config.get("index_location", "end") == "start",
        inner=_form_v3(config["codecs"], inner, itemsize),
    )


def document_of(array: "zarr.Array[Any]") -> str:
    """Name of the file that holds the metadata of an array."""
    return "zarr.json" if array.metadata.zarr_format == 3 else ".zarray"


def is_document_of(data: bytes, metadata: Any) -> bool:
    """Whether a stored document has these metadata of an array; attributes may have changed.

    Another program may have written the same in other words: then both are compared as zarr would write them.
    """
    own = _written(metadata)
    if (found := _essence(data)) is None or found == own:
        return found is not None
    kind: Any = ArrayV3Metadata if metadata.zarr_format == 3 else ArrayV2Metadata
    try:
        return bool(_written(kind.from_dict(found)) == _written(kind.from_dict(own)))
    except (KeyError, TypeError, ValueError):
        return False


def _written(metadata: Any) -> Any:
    name = "zarr.json" if metadata.zarr_format == 3 else ".zarray"
    return _essence(metadata.to_buffer_dict(default_buffer_prototype())[name].to_bytes())


def _essence(data: bytes) -> Any:
    # What a document says, apart from attributes; None if it is none.
    try:
        document = json.loads(data)
    except ValueError:
        return None
    return (
        {key: value for key, value in document.items() if key != "attributes"} if isinstance(document, dict) else None
    )


def form_of(array: "zarr.Array[Any]") -> Form:
    """Form of the stored chunks of an array, from its metadata."""
    itemsize = np.dtype(array.dtype).itemsize
    metadata: Any = array.metadata.to_dict()
    if metadata["zarr_format"] == 2:
        filters = [codec["id"] for codec in metadata["filters"] or ()]
        compressor = metadata["compressor"]
        nbytes = None if filters else prod(metadata["chunks"]) * itemsize
        return _packed([*filters, compressor["id"]] if compressor else filters, nbytes)
    return _form_v3(metadata["codecs"], metadata["chunk_grid"]["configuration"]["chunk_shape"], itemsize)


def check_bytes(data: NDArray[np.uint8], form: Form) -> None:
    """Raise ValueError when the bytes cannot be a chunk of this form."""
    if data.size <= form.tail:
        raise ValueError(f"it has {data.size} bytes" if data.size else "it is empty")
    data = data[: data.size - form.tail]
    if form.packing == "raw" and data.size != form.nbytes:
        raise ValueError(f"it has {data.size} bytes of data instead of {form.nbytes}")
    if form.packing == "blosc":
        _check_blosc(data, form.nbytes)
    if form.index is not None:
        _check_shard(data, form.index)


def _check_blosc(data: NDArray[np.uint8], nbytes: int | None) -> None:
    # A Blosc 1 header: version, codec version, flags and type size; then decoded size, block size and stored size.
    if data.size < 16:
        raise ValueError(f"it has {data.size} bytes, a Blosc header alone has 16")
    decoded, _, stored = struct.unpack("<3I", data[4:16].tobytes())
    if stored != data.size:
        raise ValueError(f"it has {data.size} bytes, its Blosc header says {stored}")
    if nbytes is not None and decoded != nbytes:
        raise ValueError(f"its Blosc header says that it holds {decoded} bytes instead of {nbytes}")


def _check_shard(data: NDArray[np.uint8], index: Index) -> None:
    if data.size < index.nbytes:
        raise ValueError(f"it has {data.size} bytes, the index of the shard alone has {index.nbytes}")
    first, last = (index.nbytes, data.size) if index.at_start else (0, data.size - index.nbytes)
    for at, size in _entries(data[:first] if index.at_start else data[last:], index, last):
        check_bytes(data[at : at + size], index.inner)


def _entries(data: NDArray[np.uint8], index: Index, last: int) -> list[tuple[int, int]]:
    """Offset and length of the inner chunks that an index names; ValueError when one lies outside the chunk data."""
    table = np.frombuffer(data.tobytes(), index.dtype, 2 * index.entries).reshape(-1, 2).astype(np.uint64)
    used = table[(table != _EMPTY).any(axis=1)]
    offset, length = used[:, 0], used[:, 1]
    # The numbers are unsigned: offset + length could wrap around, so the length is compared with the room behind.
    room = np.uint64(last) - np.minimum(offset, last)
    first = index.nbytes if index.at_start else 0
    if not ((offset >= first) & (offset <= last) & (length > 0) & (length <= room)).all():
        raise ValueError("its index points outside the shard")
    return [(at, size) for at, size in used.tolist()]


def check_part(data: NDArray[np.uint8], part: ByteRequest, index: Index) -> None:
    """Like `check_bytes`, for a part of a shard: its index, or one inner chunk."""
    if is_index(part, index):
        if data.size != index.nbytes:
            raise ValueError(f"it has {data.size} bytes, the index of the shard alone has {index.nbytes}")
        _entries(data, index, _FAR)
        return
    if not isinstance(part, RangeByteRequest) or data.size != part.end - part.start:
        raise ValueError("its index points outside the shard")
    check_bytes(data, index.inner)


def is_index(part: ByteRequest, index: Index) -> bool:
    """Whether a request is for the index of a shard."""
    return isinstance(part, SuffixByteRequest) or (index.at_start and part == RangeByteRequest(0, index.nbytes))
