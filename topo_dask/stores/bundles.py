"""Bundles of arrays as bytes: a header, then each array, compressed; a checksum covers all of it."""

import json
import re
import struct
import zlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Arrays: TypeAlias = Mapping[str, NDArray[Any]]

MAGIC = b"topodask"
"""First bytes of a bundle."""

HEAD = 1 << 16
"""Bytes that the head of a bundle may take."""

_BLOCK = re.compile(r"\d+\.\d+\.\d+")


def pack(arrays: Arrays) -> list[bytes]:
    """Bundle as bytes, in pieces: a header, then each array, compressed; a checksum covers all of it.

    Examples
    --------
    >>> unpack(b"".join(pack({"a": np.arange(3)})), "example")["a"]
    array([0, 1, 2])
    """
    from numcodecs import Blosc

    codec = Blosc("lz4", clevel=1, shuffle=Blosc.SHUFFLE)
    entries, parts = [], []
    for name, array in arrays.items():
        # Blosc takes at most 2 GiB, and no empty buffer.
        raw = np.ascontiguousarray(array)
        data = codec.encode(raw) if 0 < raw.nbytes < 2**31 - 64 else raw.tobytes()
        entries.append((name, array.dtype.str, array.shape, len(data)))
        parts.append(bytes(data))
    header = json.dumps(entries).encode()
    parts.insert(0, struct.pack("<Q", len(header)) + header)
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return [MAGIC + struct.pack("<I", checksum), *parts]


def to_bytes(record: Mapping[str, Any]) -> NDArray[np.uint8]:
    """A record as an array for a bundle; ``json.loads(bytes(array))`` gives it back."""
    return np.frombuffer(json.dumps(record, sort_keys=True).encode(), np.uint8)


class DamagedBundleError(OSError):
    """A bundle is not what was filed; its name is the only argument."""

    def __str__(self) -> str:
        """Name the bundle, and say what to do."""
        return f"scratch bundle {self.args[0]} is damaged; remove it and run again with resume=True"


class AbsentBundleError(KeyError):
    """There is no such bundle; its name is the only argument."""

    def __str__(self) -> str:
        """Name the bundle, and say what to do."""
        return f"scratch bundle {self.args[0]} is not there; if it is lost, run again with resume=True"


def unpack(data: bytes, name: str, names: Collection[str] | None = None) -> Arrays:
    """Arrays of a bundle written by `pack`, all or those named; OSError naming the bundle when it is damaged."""
    from numcodecs import Blosc

    if len(data) < 20 or data[:8] != MAGIC or struct.unpack_from("<I", data, 8)[0] != zlib.crc32(memoryview(data)[12:]):
        raise DamagedBundleError(name)
    codec = Blosc()
    (length,) = struct.unpack_from("<Q", data, 12)
    at = 20 + length
    arrays = {}
    for entry, dtype, shape, size in json.loads(data[20:at]):
        part = data[at : at + size]
        at += size
        if names is not None and entry not in names:
            continue
        nbytes = np.dtype(dtype).itemsize * int(np.prod(shape))
        # Writable, as other arrays are: numba would compile the kernels again for read-only ones.
        raw = np.empty(nbytes, np.uint8)
        if 0 < nbytes < 2**31 - 64:
            codec.decode(part, out=raw)
        else:
            raw[:] = np.frombuffer(part, np.uint8)
        arrays[entry] = raw.view(dtype).reshape(shape)
    return arrays


def is_bundle(name: str, head: Callable[[int], bytes]) -> bool:
    """Whether a file of this name, whose first bytes `head` reads, is a bundle."""
    # Most bundles have the name of a block, so they need not be read.
    return _BLOCK.fullmatch(name) is not None or head(len(MAGIC)) == MAGIC


def lengths_in(head: bytes, name: str) -> dict[str, int]:
    """Rows of each array of a bundle, from its first `HEAD` bytes; OSError naming the bundle when it is damaged."""
    try:
        (length,) = struct.unpack_from("<Q", head, 12)
        entries = json.loads(head[20 : 20 + length]) if head.startswith(MAGIC) else None
    except (struct.error, ValueError):
        entries = None
    if entries is None:
        raise DamagedBundleError(name)
    return {entry: int(shape[0]) if shape else 1 for entry, _, shape, _ in entries}
