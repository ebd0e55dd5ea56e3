"""Checked reads of zarr arrays: what is missing is never read as zeros, what is damaged never reaches a decoder.

zarr fills in for a chunk that is not there, and Blosc trusts the sizes in the header of a chunk. So zarr is given a
store of ours between it and the data::

    CheckedArray[...] ── zarr decodes ── _CheckedStore.get: fetch once, try again, check the bytes ── the array's store

A value that was flipped inside a chunk without checksum (plain zstd, Blosc, raw) can not be seen by anybody.
"""

import asyncio
import os
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from operator import lt
from typing import Any, Literal, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore, StorePath, ZipStore

from .chunk_form import check_bytes, check_part, form_of, is_index

T = TypeVar("T")
OnMissing = Literal["error", "background"]

MAX_AXIS = 2**31 - 1
MAX_VOXELS = 2**62
MAX_CHUNK_BYTES = 2**33
MAX_SHARD_CHUNKS = 2**24

TRIES = 5
"""Looks at an object of a store that is not local, before it counts as absent or out of reach."""

PAUSE_ABSENT, PAUSE_ERROR = 0.05, 0.2
"""Seconds before the second look; doubled before each further one, with a jitter of half to one and a half."""


class ChunkError(OSError):
    """A stored chunk is damaged or out of reach."""


class MissingChunkError(ChunkError, FileNotFoundError):
    """A stored chunk does not exist."""


# --- the store between zarr and the data


def _is_local(store: Any) -> bool:
    return isinstance(store, LocalStore | MemoryStore | ZipStore)


def _is_transient(error: BaseException) -> bool:
    """Whether a request that failed like this may succeed when it is made again."""
    response = getattr(error, "response", None)
    status = getattr(error, "status", getattr(error, "code", None))
    if isinstance(response, dict):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if isinstance(status, int) and 400 <= status < 500:
        return status in (408, 425, 429)
    return not isinstance(error, PermissionError | TypeError | ValueError | LookupError | AttributeError | MemoryError)


async def _persist(look: Callable[[], Awaitable[T | None]]) -> T | None:
    """What a remote store answers, asked again after an error or a None; the last error when there is no answer."""
    error: Exception | None = None
    for attempt in range(TRIES):
        if attempt:
            pause = PAUSE_ERROR if error else PAUSE_ABSENT
            await asyncio.sleep(pause * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        error = None
        try:
            found = await look()
        except Exception as raised:
            if not _is_transient(raised):
                raise
            error = raised
        else:
            if found is not None:
                return found
    if error:
        raise error
    return None


class _CheckedStore(Store):
    """Read-only store that fetches the chunks of one array from its own store, and checks them.

    A `Store` and not a `WrapperStore`: that one passes on what zarr adds to the interface (`get_sync`, `get_ranges`),
    past the checks; here it falls back on `get`.
    """

    def __init__(self, array: "zarr.Array[Any]", name: str, on_missing: OnMissing) -> None:
        super().__init__(read_only=True)
        self._store: Any = array.store_path.store
        self._local = _is_local(self._store)
        self._prefix = f"{array.store_path.path}/" if array.store_path.path else ""
        self._array = f"{name} ({array.store_path})"
        self._on_missing = on_missing
        try:
            self._form = form_of(array)
        except ValueError as error:
            raise ValueError(f"{self._array}: {error}") from None

    def refuse(self, key: str, problem: str) -> ChunkError:
        """Error that names array, chunk and problem."""
        return ChunkError(f"{self._array}: chunk {key.removeprefix(self._prefix)} {problem}")

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Bytes of a chunk, or of a part of a shard."""
        if isinstance(byte_range, RangeByteRequest) and not 0 <= byte_range.start < byte_range.end:
            raise self.refuse(key, "is damaged: its index points outside the shard")
        found: Buffer | None = await self._fetch(key, lambda: self._store.get(key, prototype, byte_range))
        if found is None:
            self._judge_missing(key, byte_range)
        else:
            self._judge(key, found, byte_range)
        return found

    async def get_ranges(
        self, key: str, byte_ranges: Sequence[ByteRequest | None], *, prototype: BufferPrototype, **limits: Any
    ) -> AsyncIterator[Sequence[tuple[int, Buffer | None]]]:
        """Parts of a shard, neighbours fetched as one (asked for by zarr from 3.2 on)."""

        async def look() -> list[tuple[int, Buffer | None]] | None:
            groups = self._store.get_ranges(key, byte_ranges, prototype=prototype, **limits)
            try:
                return [part async for group in groups for part in group]
            except BaseExceptionGroup as errors:
                if all(isinstance(error, FileNotFoundError) for error in errors.exceptions):
                    return None
                raise errors.exceptions[0] from None

        for part in byte_ranges:
            if not isinstance(part, RangeByteRequest) or not 0 <= part.start < part.end:
                raise self.refuse(key, "is damaged: its index points outside the shard")
        parts = await self._fetch(key, look)
        for at, found in parts or [(0, None)]:
            if found is None:
                raise self.refuse(key, "vanished while it was read")
            self._judge(key, found, byte_ranges[at])
        yield parts or []

    async def _fetch(self, key: str, look: Callable[[], Awaitable[T | None]]) -> T | None:
        try:
            found = await (look() if self._local else _persist(look))
            listed = found is None and not self._local and await self._store.exists(key)
        except Exception as error:
            raise self.refuse(key, f"can not be read: {type(error).__name__}: {error}") from error
        if listed:
            raise self.refuse(key, f"exists, but was not found {TRIES} times")
        return found

    def _judge(self, key: str, found: Buffer, part: ByteRequest | None) -> None:
        data = found.as_numpy_array()
        try:
            if part is None or self._form.index is None:
                check_bytes(data, self._form)
            else:
                check_part(data, part, self._form.index)
        except ValueError as error:
            raise self.refuse(key, f"is damaged: {error}") from None

    def _judge_missing(self, key: str, part: ByteRequest | None) -> None:
        # zarr asks for an inner chunk only after the index of its shard said that it is there.
        if part is not None and self._form.index is not None and not is_index(part, self._form.index):
            raise self.refuse(key, "vanished while it was read")
        if self._on_missing == "error":
            raise MissingChunkError(
                f"{self._array}: chunk {key.removeprefix(self._prefix)} is missing; if empty chunks were left out on "
                "purpose, read it with on_missing='background'"
            )

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def exists(self, key: str) -> bool:
        return bool(await self._store.exists(key))

    def list(self) -> AsyncIterator[str]:
        return self.list_prefix("")

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        keys: AsyncIterator[str] = self._store.list_prefix(prefix)
        return keys

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        names: AsyncIterator[str] = self._store.list_dir(prefix)
        return names

    @property
    def supports_listing(self) -> bool:
        return bool(self._store.supports_listing)

    supports_writes = False
    supports_deletes = False

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()

    async def delete(self, key: str) -> None:
        self._check_writable()

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__


# --- arrays


@dataclass(frozen=True)
class CheckedArray:
    """A zarr array whose reads are checked; it pickles when the array does.

    Parameters
    ----------
    array : zarr.Array
        Array of format 2 or 3, of booleans or numbers.
    name : str
        Name of the argument, for messages.
    on_missing : {"error", "background"}
        What a chunk (a shard, where there are shards) that does not exist means: an error, or the fill value. An inner
        chunk which the index of its shard declares empty is the fill value in both cases: that is on record.

    Raises
    ------
    ValueError
        When `on_missing` is neither, or when the array is packed in a way that can not be checked: Blosc or shards
        inside another compressor.

    Notes
    -----
    Stores that are not local are asked up to `TRIES` times, after errors that may pass and for chunks that seem to be
    absent.

    Examples
    --------
    >>> array = zarr.create_array({}, shape=(4, 4, 4), chunks=(4, 4, 2), dtype="u1", fill_value=0)
    >>> array[:, :, :2] = 7
    >>> checked = CheckedArray(array, "flow")
    >>> int(checked[0:1, 0:1, 0:2].sum())
    14
    >>> checked[0:1, 0:1, 0:3]  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
        ...
    MissingChunkError: flow (memory://...): chunk c/0/0/1 is missing; ...
    """

    array: "zarr.Array[Any]"
    name: str = "array"
    on_missing: OnMissing = "error"
    _store: _CheckedStore = field(init=False, repr=False, compare=False)
    _view: "zarr.Array[Any]" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.on_missing not in ("error", "background"):
            raise ValueError(f"on_missing must be 'error' or 'background', got {self.on_missing!r}")
        store = _CheckedStore(self.array, self.name, self.on_missing)
        inner = self.array.async_array
        path = StorePath(store, self.array.store_path.path)
        object.__setattr__(self, "_store", store)
        object.__setattr__(self, "_view", zarr.Array(zarr.AsyncArray(inner.metadata, path, inner.config)))

    def __reduce__(self) -> tuple[Any, ...]:
        return CheckedArray, (self.array, self.name, self.on_missing)

    @property
    def path(self) -> str:
        """Where the array is stored."""
        return str(self.array.store_path)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape."""
        return tuple(int(size) for size in self.array.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return int(self.array.ndim)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type."""
        return np.dtype(self.array.dtype)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of a chunk; of an inner chunk where there are shards."""
        return tuple(self.array.chunks)

    @property
    def shards(self) -> tuple[int, ...] | None:
        """Shape of a shard, or None."""
        return self.array.shards

    @property
    def fill_value(self) -> Any:
        """Value of what was never written."""
        return self.array.fill_value

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        """Values of a box.

        Raises
        ------
        MissingChunkError
            When a chunk does not exist and `on_missing` is "error"; a FileNotFoundError.
        ChunkError
            When a chunk is damaged or can not be read; an OSError.
        """
        box = self._box(index)
        try:
            return np.asarray(self._view.get_basic_selection(box))
        except ChunkError:
            raise
        except Exception as error:
            raise self._culprit(box, error) from error

    def _box(self, index: Any) -> tuple[slice, ...]:
        if not isinstance(index, tuple) or len(index) != self.ndim:
            raise IndexError(f"{self.name} takes a tuple of {self.ndim} slices, got {index!r}")
        box = []
        for part, size in zip(index, self.shape, strict=True):
            if not isinstance(part, slice) or part.step not in (None, 1):
                raise IndexError(f"{self.name} takes slices of step 1, got {part!r}")
            start, stop = int(part.start or 0), size if part.stop is None else int(part.stop)
            if not 0 <= start <= stop <= size:
                raise IndexError(f"{self.name} has shape {self.shape}, slice {part!r} is out of range")
            box.append(slice(start, stop))
        return tuple(box)

    def _culprit(self, box: tuple[slice, ...], error: Exception) -> ChunkError:
        """Error that names the chunk of the box that can not be decoded."""
        shape = _stored_shape(self.array)
        touched = [range(part.start // size, -(-part.stop // size)) for part, size in zip(box, shape, strict=True)]
        for chunk in product(*touched):
            part = tuple(
                slice(max(side.start, at * size), min(side.stop, (at + 1) * size))
                for side, at, size in zip(box, chunk, shape, strict=True)
            )
            key = self.array.metadata.encode_chunk_key(chunk)
            try:
                self._view.get_basic_selection(part)
            except ChunkError as named:
                return named
            except Exception as cause:
                return self._store.refuse(key, f"is damaged: {type(cause).__name__}: {cause}")
        return ChunkError(f"{self.name} ({self.path}): {box} can not be read: {type(error).__name__}: {error}")


def _stored_shape(array: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in array.shards or array.chunks)


def stored_chunks(array: "zarr.Array[Any] | CheckedArray") -> set[tuple[int, ...]] | None:
    """Grid indices of the stored objects of an array (shards where there are shards), from one listing.

    Parameters
    ----------
    array : zarr.Array or CheckedArray
        Array of at least one axis.

    Returns
    -------
    chunks : set of tuple of int, or None
        None when the store can not list, or when its listing misses even the metadata of the array.

    Raises
    ------
    OSError
        When the listing fails.

    Examples
    --------
    >>> array = zarr.create_array({}, shape=(4, 4, 4), chunks=(4, 4, 2), dtype="u1", fill_value=0)
    >>> array[:, :, 2:] = 7
    >>> stored_chunks(array)
    {(0, 0, 1)}
    """
    if isinstance(array, CheckedArray):
        array = array.array
    names = _names(array)
    if names is None:
        return None
    metadata: Any = array.metadata.to_dict()
    if (".zarray" if metadata["zarr_format"] == 2 else "zarr.json") not in names:
        return None
    example = array.metadata.encode_chunk_key((0,) * array.ndim)
    pattern = re.compile(re.escape(example).replace("0", "(0|[1-9][0-9]*)"))
    chunks = {tuple(map(int, match.groups())) for match in map(pattern.fullmatch, names) if match}
    grid = [-(-size // chunk) for size, chunk in zip(array.shape, _stored_shape(array), strict=True)]
    return {chunk for chunk in chunks if all(map(lt, chunk, grid))}


def _names(array: "zarr.Array[Any]") -> "list[str] | None":
    """Keys under an array, relative to it; None when the store can not list."""
    store: Any = array.store_path.store
    path = array.store_path.path
    if type(store) is LocalStore:
        return _files(os.path.join(store.root, path), array.ndim + 1)
    fs: Any = getattr(store, "fs", None)
    protocols = getattr(fs, "protocol", ())
    # fsspec lists web pages by the links on them.
    if not store.supports_listing or "http" in protocols or "https" in protocols:
        return None
    if fs is not None:
        fs.invalidate_cache()
    prefix = f"{path}/" if path else ""

    async def look() -> list[str]:
        return [key.removeprefix(prefix) async for key in store.list_prefix(prefix)]

    try:
        return sync(look() if _is_local(store) else _persist(look))
    except (FileNotFoundError, NotImplementedError):
        return None


def _files(root: str, depth: int) -> list[str]:
    """Files below a folder, at most `depth` levels down.

    Unlike zarr's own listing it follows links and raises when a folder can not be read: a chunk that is not listed
    would count as empty.
    """
    found, folders = [], [("", 1)]
    while folders:
        head, level = folders.pop()
        with os.scandir(os.path.join(root, head)) as entries:
            for entry in entries:
                if not entry.is_dir():
                    found.append(head + entry.name)
                elif level < depth:
                    folders.append((f"{head}{entry.name}/", level + 1))
    return found


def check_metadata(array: Any, name: str) -> None:
    """Refuse an array whose shape, chunks or shards are beyond reason.

    Parameters
    ----------
    array : zarr.Array, CheckedArray or any array
        Array; only one that has chunks is looked at for them.
    name : str
        Name of the argument, for messages.

    Raises
    ------
    ValueError
        Naming the value, the limit and the remedy.

    Examples
    --------
    >>> check_metadata(np.broadcast_to(np.uint8(0), (2**40,)), "flow")
    Traceback (most recent call last):
        ...
    ValueError: flow has shape (1099511627776,); an axis may have up to 2147483647 voxels: split the volume
    """
    shape = tuple(int(size) for size in array.shape)
    if min(shape, default=0) < 0 or max(shape, default=0) > MAX_AXIS:
        raise ValueError(f"{name} has shape {shape}; an axis may have up to {MAX_AXIS} voxels: split the volume")
    if prod(max(size, 1) for size in shape) > MAX_VOXELS:
        raise ValueError(f"{name} has shape {shape}; it may have up to {MAX_VOXELS} voxels: split the volume")
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
