"""Checked reads of zarr arrays: a missing chunk is never read as zeros, and a damaged one never reaches a decoder.

zarr puts the fill value in place of a chunk that is not there, and Blosc trusts the sizes in the header of a chunk. So
a store of ours stands between zarr and the data::

    CheckedArray[...] ── zarr decodes ── _CheckedStore.get: check the bytes ── the array's store, see `persistent`

A value that was flipped inside a chunk without checksum (plain zstd, Blosc, raw) cannot be detected.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from threading import Event
from typing import Any, Literal, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from . import retries
from .chunk_form import check_bytes, check_part, document_of, form_of, is_document_of, is_index
from .limits import check_grid
from .parts import parts_of
from .persistent import PersistentStore, persistent, view_of
from .retries import find_some
from .under_way import READ, Read

T = TypeVar("T")
OnMissing = Literal["error", "background"]

_SETTLING, _PATIENCE = "settling", 1.0
"""Seconds that a failed read waits at most for all reads under way; zarr does not say which were begun with it."""


class ChunkError(OSError):
    """A stored chunk is damaged or cannot be read."""


class MissingChunkError(ChunkError, FileNotFoundError):
    """A stored chunk does not exist."""


async def _settle() -> None:
    # When the read of one chunk fails, zarr abandons the reads of the other chunks. asyncio complains of their errors,
    # which nobody retrieves, and of those that are not done when the process ends.
    own = asyncio.current_task()
    assert own is not None
    own.set_name(_SETTLING)  # two that wait here must not wait for each other
    if others := {task for task in asyncio.all_tasks() if task.get_name() != _SETTLING}:
        for task in (await asyncio.wait(others, timeout=_PATIENCE))[0]:
            if not task.cancelled():
                task.exception()


def _entry_in_place(root: str, key: str) -> str | None:
    # The path that keeps a key from being a file: an entry in its own place that is no file, or an entry in place of a
    # folder above it that is no folder. None if there is no such path.
    path = os.path.join(root, key)
    if os.path.lexists(path):
        return None if os.path.isfile(path) else path  # it has been written meanwhile
    while (path := os.path.dirname(path)) != root:
        if os.path.lexists(path):
            return None if os.path.isdir(path) else path
    return None


class _CheckedStore(Store):
    """Read-only store that fetches the chunks of one array from its own store, and checks them.

    This is a `Store` and not a `WrapperStore`: a `WrapperStore` passes methods that zarr adds to the interface
    (`get_sync`, `get_ranges`) on to the inner store, past the checks. Here zarr falls back on `get`.
    """

    def __init__(self, array: "zarr.Array[Any]", name: str, on_missing: OnMissing, remedy: str) -> None:
        super().__init__(read_only=True)
        self._store: Any = persistent(array.store_path.store)
        self._prefix = f"{array.store_path.path}/" if array.store_path.path else ""
        self._array = f"{name} ({array.store_path})"
        self._on_missing = on_missing
        self._remedy = remedy
        self._document = self._prefix + document_of(array)
        self._metadata: Any = array.metadata  # a resize by way of the same object replaces those of the array
        self._seen = b""
        check_grid(array, self._array)
        try:
            self._form = form_of(array)
        except ValueError as error:
            raise ValueError(f"{self._array}: {error}") from None

    def refuse(self, key: str, problem: str) -> ChunkError:
        """Error that names array, chunk and problem."""
        what = "its metadata" if key == self._document else f"chunk {key.removeprefix(self._prefix)}"
        return ChunkError(f"{self._array}: {what} {problem}")

    async def find_document(self) -> bool:
        """Whether the metadata of the array are there; ChunkError when they are no longer those it was opened with."""
        found = await self._fetch(self._document, lambda: self._store.get(self._document, default_buffer_prototype()))
        if found is not None and (data := found.to_bytes()) != self._seen:
            if not is_document_of(data, self._metadata):
                raise self.refuse(
                    self._document,
                    "are not those that it was opened with: it was replaced or resized since, or consolidated metadata "
                    "above it are out of date",
                )
            self._seen = data
        return found is not None

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Bytes of a chunk, or of a part of a shard."""
        if isinstance(byte_range, RangeByteRequest) and not 0 <= byte_range.start < byte_range.end:
            raise self.refuse(key, "is damaged: its index points outside the shard")
        if (read := READ.get()) is not None and key in read.absent:
            return None
        denied = self._denied_once(byte_range)
        looks = {} if denied is None else {"looks": 1}
        found: Buffer | None = await self._fetch(key, lambda: self._store.get(key, prototype, byte_range, **looks))
        if found is None and denied is not None:
            denied[key] = byte_range
        elif found is None:
            await self._judge_missing(key, byte_range)
        else:
            self._judge(key, found, byte_range)
            return found if read is None else read.lend(found)
        return found

    async def get_ranges(
        self, key: str, byte_ranges: Sequence[ByteRequest | None], *, prototype: BufferPrototype, **limits: Any
    ) -> AsyncIterator[Sequence[tuple[int, Buffer | None]]]:
        """Parts of a shard; neighbouring parts are fetched together. zarr 3.2 and later use it."""

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
        read = READ.get()
        yield [(at, found if read is None or found is None else read.lend(found)) for at, found in parts or []]

    def _denied_once(self, part: ByteRequest | None) -> dict[str, ByteRequest | None] | None:
        # Where to note an object that is denied, if it may be looked for again when all others have been read.
        if self._on_missing == "error" or not isinstance(self._store, PersistentStore) or self._is_inner(part):
            return None
        read = READ.get()
        return None if read is None else read.denied

    async def find_denied(self, denied: Mapping[str, ByteRequest | None]) -> set[str]:
        """Those of the objects that the store has denied once that are there; ChunkError when the array is gone.

        All are looked for together: while they are read, zarr would wait for ten at a time. The first byte tells, and
        takes no memory.
        """

        async def get(key: str) -> bool:
            prototype, part = default_buffer_prototype(), denied[key] or RangeByteRequest(0, 1)
            return await self._fetch(key, lambda: self._store.get(key, prototype, part, looks=1)) is not None

        async def exists(key: str) -> bool:
            return await self._fetch(key, lambda: self._store.exists(key, looks=1))

        found = await find_some(get, denied, retries.TRIES - 1)
        found |= await find_some(exists, denied.keys() - found, 1)
        if absent := next((key for key in denied if key not in found), None):
            await self._judge_missing(absent, denied[absent])
        return found

    async def _fetch(self, key: str, look: Callable[[], Awaitable[T]]) -> T:
        if (read := READ.get()) is not None and read.failed.is_set():
            raise self.refuse(key, "is not needed any more: another one of the same read failed")
        try:
            return await look()
        except Exception as error:
            raise self.refuse(key, f"cannot be read: {type(error).__name__}: {error}") from error

    def _judge(self, key: str, found: Buffer, part: ByteRequest | None) -> None:
        data = found.as_numpy_array()
        try:
            if part is None or self._form.index is None:
                check_bytes(data, self._form)
            else:
                check_part(data, part, self._form.index)
        except ValueError as error:
            raise self.refuse(key, f"is damaged: {error}") from None

    async def _judge_missing(self, key: str, part: ByteRequest | None) -> None:
        # zarr asks for an inner chunk only after the index of the shard has said that it is there. When values are read
        # again, all that is asked for has been there before.
        if self._is_inner(part) or ((read := READ.get()) is not None and read.denied is None):
            raise self.refuse(key, "vanished while it was read")
        if isinstance(self._store, LocalStore) and (entry := _entry_in_place(str(self._store.root), key)) is not None:
            raise self.refuse(key, f"cannot be read: {entry} is a link that leads nowhere, or no file")
        if self._on_missing == "error":
            raise MissingChunkError(f"{self._array}: chunk {key.removeprefix(self._prefix)} is missing; {self._remedy}")
        # If the array was removed, or its disk is no longer mounted, all chunks would read as background. If it was
        # replaced, chunks may have other names.
        if not await self.find_document():
            raise self.refuse(key, "is missing, and so are the array's metadata: it was moved or removed")

    def _is_inner(self, part: ByteRequest | None) -> bool:
        return part is not None and self._form.index is not None and not is_index(part, self._form.index)

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


@dataclass(frozen=True)
class CheckedArray:
    """A zarr array whose reads are checked. It can be pickled if the array can.

    Parameters
    ----------
    array : zarr.Array
        Array of format 2 or 3, of booleans or numbers.
    name : str
        Name of the argument, for messages.
    on_missing : {"error", "background"}
        Whether a chunk (a shard if there are shards) that does not exist is an error, or reads as the fill value. An
        inner chunk that the index of its shard declares empty reads as the fill value in both cases, because the index
        is a record of that.
    remedy : str
        What the user can do where a chunk does not exist, for the message.
    at_once : int, optional
        Bytes of the chunks that a read holds at a time beside its result, if a single one takes no more; None reads as
        many at a time as zarr is configured for.

    Raises
    ------
    ValueError
        When `on_missing` is neither, when chunks have several shapes, or when the packing of the array cannot be
        checked: Blosc or shards inside another compressor.

    Notes
    -----
    Stores that are not local are asked as `PersistentStore` does.

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
    remedy: str = "if empty chunks were left out on purpose, read it with on_missing='background'"
    at_once: int | None = None
    _store: _CheckedStore = field(init=False, repr=False, compare=False)
    _view: "zarr.Array[Any]" = field(init=False, repr=False, compare=False)
    _compared: Event = field(default_factory=Event, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.on_missing not in ("error", "background"):
            raise ValueError(f"on_missing must be 'error' or 'background', got {self.on_missing!r}")
        store = _CheckedStore(self.array, self.name, self.on_missing, self.remedy)
        object.__setattr__(self, "_store", store)
        object.__setattr__(self, "_view", view_of(self.array, store=store))

    def __reduce__(self) -> tuple[Any, ...]:
        return CheckedArray, (self.array, self.name, self.on_missing, self.remedy, self.at_once)

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
        """Shape of a chunk; of an inner chunk if there are shards."""
        return tuple(self.array.chunks)

    @property
    def shards(self) -> tuple[int, ...] | None:
        """Shape of a shard, or None."""
        return self.array.shards

    @property
    def fill_value(self) -> Any:
        """Value of voxels that were never written."""
        return self.array.fill_value

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        """Values of a box; see `read`."""
        return self.read(index)

    def read(self, index: tuple[slice, ...], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Values of a box, in `out` if it is given.

        Raises
        ------
        MissingChunkError
            When a chunk does not exist and `on_missing` is "error"; a FileNotFoundError.
        ChunkError
            When a chunk is damaged or cannot be read, or when the array was replaced since it was opened; an OSError.
        """
        box, read = self._box(index), Read()
        READ.set(read)
        try:
            self.check_metadata()
            values = self._read(box, out)
            if (denied := read.denied) and (found := sync(self._store.find_denied(denied))):
                read.denied, read.absent = None, denied.keys() - found
                self._read(box, values)
            return values
        except Exception as error:
            read.failed.set()
            sync(_settle())
            READ.set(None)
            if isinstance(error, ChunkError):
                raise
            raise self._culprit(box, error) from error
        finally:
            READ.set(None)

    def _read(self, box: tuple[slice, ...], out: NDArray[Any] | None) -> NDArray[Any]:
        parts = parts_of(self.array, box, self.at_once)
        if out is None and parts == [box]:
            return np.asarray(self._view.get_basic_selection(box))
        values = np.empty([side.stop - side.start for side in box], self.dtype) if out is None else out
        as_zarr_takes_it = default_buffer_prototype().nd_buffer.from_numpy_array
        for part in parts:
            if (read := READ.get()) is not None:
                read.await_release()
            inside = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(part, box, strict=True))
            self._view.get_basic_selection(part, out=as_zarr_takes_it(values[inside]))
        return values

    def check_metadata(self) -> None:
        """Raise ChunkError when the stored metadata are no longer those that the array was opened with.

        They are compared once, before the first read: an array that was replaced by one with other chunks would give
        wrong values, or background. Where there are none, the first chunk that is missing tells.
        """
        if not self._compared.is_set():
            sync(self._store.find_document())
            self._compared.set()

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
        """Error that names the chunk of the box that cannot be read."""
        shape = stored_shape(self.array)
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
        return ChunkError(f"{self.name} ({self.path}): {box} cannot be read: {type(error).__name__}: {error}")


def stored_shape(array: Any) -> tuple[int, ...]:
    """Shape of what is stored as one object: a shard if there are shards, else a chunk."""
    return tuple(int(size) for size in array.shards or array.chunks)


def check_unchanged(output: "zarr.Array[Any]") -> None:
    """Raise an error when the stored metadata of an array that takes labels are not those that it was opened with.

    Chunks that are written by other metadata are not found by those who read the labels.
    """
    document = f"{output.path}/{document_of(output)}".lstrip("/")
    stored = sync(persistent(output.store).get(document, default_buffer_prototype()))
    if stored is None:
        raise FileNotFoundError(f"output {output.store_path} was moved or removed since it was opened")
    if not is_document_of(stored.to_bytes(), output.metadata):
        raise ValueError(f"output {output.store_path} was replaced or resized since it was opened: open it again")
