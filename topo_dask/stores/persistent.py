"""Zarr stores that repeat a request when an object store denies, refuses or half does it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import zarr
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, StorePath

from . import retries
from .addresses import absolute, is_memory, is_url
from .retries import insist, is_local, persist
from .walking import forget_listings, list_keys


class PersistentStore(Store):
    """Store that looks several times before an object counts as absent, and repeats requests that fail.

    A write or removal that was answered with an error may have happened all the same. Both can safely be repeated,
    because only one task writes an object.

    This is a `Store` and not a `WrapperStore`: a `WrapperStore` passes methods that zarr adds to the interface
    (`get_sync`, `get_ranges`) on to the inner store, which would be asked once. Here zarr falls back on `get`.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Store that is not local.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(read_only=store.read_only)
        self._store = store

    def with_read_only(self, read_only: bool = False) -> Self:
        """The same store, read-only or writable."""
        return type(self)(self._store.with_read_only(read_only))

    async def _open(self) -> None:
        await self._store._ensure_open()
        await super()._open()

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
        looks: int | None = None,
    ) -> Buffer | None:
        """Bytes of an object; None if all reads and a request of another kind, or `looks` reads, say it is absent."""
        with self._named(key):
            for _ in range(2):
                found = await persist(lambda: self._store.get(key, prototype, byte_range), looks)
                if found is not None or looks is not None or not await self.exists(key, looks=1):
                    return found
            raise OSError(f"exists, but was not found {2 * retries.TRIES} times")

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Bytes of parts of objects."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def get_ranges(
        self, key: str, byte_ranges: Sequence[ByteRequest | None], *, prototype: BufferPrototype, **limits: Any
    ) -> AsyncIterator[Sequence[tuple[int, Buffer | None]]]:
        """Parts of a shard; neighbouring parts are fetched together. zarr 3.2 and later use it. Errors: see `get`."""
        default: Any = super()
        try:
            async for group in default.get_ranges(key, byte_ranges, prototype=prototype, **limits):
                yield group
        except BaseExceptionGroup as errors:
            _, others = errors.split(FileNotFoundError)  # a group of these alone tells zarr that the shard is absent
            if others is None:
                raise
            raise others.exceptions[0] from None

    async def exists(self, key: str, looks: int | None = None) -> bool:
        """Whether at least one look finds an object."""

        async def look() -> bool | None:
            forget_listings(self._store)
            return await self._store.exists(key) or None

        with self._named(key):
            return bool(await persist(look, looks))

    async def set(self, key: str, value: Buffer) -> None:
        """Store an object."""
        with self._named(key):
            await insist(lambda: self._store.set(key, value))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Store an object unless it is there. It looks twice as often, since the object may be metadata of others."""
        if not await self.exists(key, looks=2 * retries.TRIES):
            await self.set(key, value)

    async def delete(self, key: str) -> None:
        """Remove an object, without a look whether it is gone: most chunks that zarr removes were never there."""
        with self._named(key):
            await insist(lambda: self._store.delete(key))

    async def delete_dir(self, prefix: str) -> None:
        """Remove all objects with a prefix; OSError when they cannot be removed."""

        async def gone() -> bool | None:
            # An object store may wrongly answer 404 to a removal, which zarr takes for done.
            await self._store.delete_dir(prefix)
            return not [key async for key in self.list_prefix(prefix)] or None

        await self._until(gone, prefix)

    async def _names(self, prefix: str, names: Callable[[], AsyncIterator[str]], looks: int | None = None) -> list[str]:
        async def look() -> list[str] | None:
            forget_listings(self._store)
            return [name async for name in names()] or None

        with self._named(prefix):
            return await persist(look, looks) or []

    async def names(self, prefix: str, looks: int | None = None) -> list[str]:
        """Names right below a prefix, from the first look that finds any; none after `looks` looks."""
        return await self._names(prefix, lambda: self._store.list_dir(prefix), looks)

    async def list(self) -> AsyncIterator[str]:
        """Keys of all objects."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Keys with a prefix."""
        for key in await self._names(prefix, lambda: list_keys(self._store, prefix)):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names right below a prefix."""
        for name in await self.names(prefix):
            yield name

    async def remove(self, key: str) -> None:
        """Remove an object and look whether it is gone; OSError when it is still there."""

        async def gone() -> bool | None:
            await self._store.delete(key)
            return not await self.exists(key) or None

        await self._until(gone, key)

    async def _until(self, gone: Callable[[], Awaitable[bool | None]], key: str) -> None:
        with self._named(key):
            removed = await persist(gone, retries.FAILURES)
        if not removed:
            raise OSError(f"{self}/{key} cannot be removed")

    @contextmanager
    def _named(self, key: str) -> Iterator[None]:
        # Errors of file systems say what happened, but not to which object.
        try:
            yield
        except OSError as error:
            error.add_note(f"at {getattr(self._store, 'path', self)}/{key}")
            raise

    @property
    def supports_writes(self) -> bool:
        """Whether objects can be stored."""
        return self._store.supports_writes

    @property
    def supports_deletes(self) -> bool:
        """Whether objects can be removed."""
        return self._store.supports_deletes

    @property
    def supports_listing(self) -> bool:
        """Whether keys can be listed."""
        return self._store.supports_listing

    def close(self) -> None:
        """Close this store and the one it asks."""
        super().close()
        self._store.close()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PersistentStore) and self._store == other._store

    def __str__(self) -> str:
        return str(self._store)

    def __repr__(self) -> str:
        return f"PersistentStore({self._store!r})"


def persistent(store: Any) -> Any:
    """The store itself if it is local, else a `PersistentStore` that asks it."""
    return store if is_local(store) or isinstance(store, PersistentStore) else PersistentStore(store)


def impatient(store: Any) -> Any:
    """The store that a `PersistentStore` asks; any other store unchanged."""
    return store._store if isinstance(store, PersistentStore) else store


def store_at(where: str) -> Any:
    """What zarr is to open for a path or URL: the absolute path, a URL of memory, or else a `PersistentStore`."""
    where = absolute(where)
    return remote_store(where) if is_url(where) and not is_memory(where) else where


def remote_store(url: str) -> PersistentStore:
    """The `PersistentStore` of a URL."""
    # With more, s3fs first asks for the length of each object, to read long ones in several parts at once.
    options = {"max_concurrency": 1} if url.startswith(("s3://", "s3a://")) else {}
    return PersistentStore(FsspecStore.from_url(url, storage_options=options))


def persistent_array(array: "zarr.Array[Any]") -> "zarr.Array[Any]":
    """The same array, in a `PersistentStore` if its own store is not local."""
    store = persistent(array.store_path.store)
    return array if store is array.store_path.store else view_of(array, store=store)


def view_of(array: "zarr.Array[Any]", *, store: Store | None = None, metadata: Any = None) -> "zarr.Array[Any]":
    """The same stored array, asked for through another store or opened with other metadata.

    Here zarr puts the fill value in place of missing chunks, even where the array or zarr's configuration says that
    they are errors: arrays of labels leave empty chunks out.
    """
    inner, place = array.async_array, array.store_path
    if store is not None:
        place = StorePath(store, place.path)
    config: Any = inner.config
    if hasattr(config, "read_missing_chunks"):  # newer versions of zarr only
        config = replace(config, read_missing_chunks=True)
    return zarr.Array(zarr.AsyncArray(inner.metadata if metadata is None else metadata, place, config))
