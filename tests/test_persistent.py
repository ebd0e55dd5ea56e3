"""Stores that are asked again: nothing that zarr asks of a store is denied at the first look."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
import zarr
from object_stores import OBJECTS
from zarr.abc.store import RangeByteRequest, Store, SupportsGetSync
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore, WrapperStore

from topo_dask.stores import retries
from topo_dask.stores.inputs import open_labels
from topo_dask.stores.persistent import PersistentStore

PROTOTYPE = default_buffer_prototype()
PART = RangeByteRequest(1, 3)


class Forgetful(WrapperStore[Store]):
    """Store that denies every object, and every folder, at the first look."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.asked = set[str]()

    def _denies(self, what: str) -> bool:
        denied = what not in self.asked
        self.asked.add(what)
        return denied

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        return None if self._denies(f"get {key}") else await self._store.get(key, prototype, byte_range)

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def get_ranges(self, key: str, byte_ranges: Any, *, prototype: Any, **limits: Any) -> Any:
        if self._denies(f"get {key}"):
            raise BaseExceptionGroup("denied", [FileNotFoundError(key)])
        yield [(at, await self._store.get(key, prototype, part)) for at, part in enumerate(byte_ranges)]

    async def exists(self, key: str) -> bool:
        return not self._denies(f"get {key}") and await self._store.exists(key)

    async def is_empty(self, prefix: str) -> bool:
        return self._denies(f"list {prefix}") or await self._store.is_empty(prefix)

    async def list(self) -> Any:
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> Any:
        if not self._denies(f"list {prefix}"):
            async for key in self._store.list_prefix(prefix):
                yield key

    async def list_dir(self, prefix: str) -> Any:
        if not self._denies(f"list {prefix}"):
            async for name in self._store.list_dir(prefix):
                yield name


async def all_of(answers: Any) -> list[Any]:
    return [answer async for answer in answers]


READS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "get": lambda store: store.get("a/b", PROTOTYPE),
    "get_partial_values": lambda store: store.get_partial_values(PROTOTYPE, [("a/b", PART)]),
    "get_ranges": lambda store: all_of(store.get_ranges("a/b", [PART], prototype=PROTOTYPE)),
    "exists": lambda store: store.exists("a/b"),
    "is_empty": lambda store: store.is_empty("a"),
    "getsize": lambda store: store.getsize("a/b"),
    "getsize_prefix": lambda store: store.getsize_prefix("a"),
    "list": lambda store: all_of(store.list()),
    "list_prefix": lambda store: all_of(store.list_prefix("a")),
    "list_dir": lambda store: all_of(store.list_dir("a")),
}


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "PAUSE_ABSENT", 0)
    monkeypatch.setattr(retries, "PAUSE_ERROR", 0)


@pytest.mark.parametrize("name", [name for name in READS if hasattr(Store, name)])
def test_what_is_denied_once_is_found(name: str) -> None:
    def plain(found: Any) -> Any:
        if isinstance(found, list | tuple):
            return [plain(part) for part in found]
        return found.to_bytes() if hasattr(found, "to_bytes") and not isinstance(found, int) else found

    async def ask() -> tuple[Any, Any]:
        inner = Forgetful()
        await inner.set("a/b", PROTOTYPE.buffer.from_bytes(b"0123"))
        read = READS[name]
        return plain(await read(PersistentStore(inner))), plain(await read(inner._store))

    found, stored = asyncio.run(ask())
    assert found == stored


def test_what_zarr_adds_to_stores_is_not_left_to_the_one_inside() -> None:
    owners = {next(c for c in PersistentStore.__mro__ if name in vars(c)) for name in dir(PersistentStore)}
    assert not {owner for owner in owners if issubclass(owner, Store)} - {PersistentStore, Store}
    assert not isinstance(PersistentStore(MemoryStore()), SupportsGetSync)


@pytest.mark.parametrize("status", [404, 503])
def test_parts_of_shards_are_asked_for_again(status: int) -> None:
    url, truth = "failing://parts/truth", np.arange(1, 8**3 + 1, dtype="i4").reshape(8, 8, 8)
    zarr.create_array(url, data=truth, chunks=(2, 2, 2), shards=(8, 8, 8))
    gets = 0

    def every_other(method: str, path: str) -> int | None:
        nonlocal gets
        gets += method == "GET"
        return status if method == "GET" and gets % 2 else None

    labels = open_labels(url, "truth")
    try:
        OBJECTS.fail = every_other
        np.testing.assert_array_equal(labels[:, :, :3], truth[:, :, :3])
        OBJECTS.fail = lambda method, path: status if method == "GET" else None
        with pytest.raises(OSError, match=r"SlowDown|was not found") as caught:
            labels[:, :, :3]
        assert "parts/truth" in "".join(caught.value.__notes__)
    finally:
        OBJECTS.fail = lambda method, path: None
        OBJECTS.stored.clear()
