"""Files in a directory or under a store URL: written whole, read, listed, removed."""

import os
import re
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, TypeVar
from uuid import uuid4

from .addresses import is_url, unfiled
from .persistent import remote_store

T = TypeVar("T")

Ours = Callable[[str, Callable[[int], bytes]], bool]
"""Whether a file is one of ours, by its name and its first bytes."""

_PARTIAL = re.compile(r"\..+\.[0-9a-f]{32}\.partial")


class Folder(Protocol):
    """Files by name; a name may have slashes in it."""

    def write(self, name: str, parts: Iterable[bytes]) -> None:
        """Write a file, part by part. No reader ever sees half of it."""

    def read(self, name: str, length: int | None = None) -> bytes:
        """The first bytes of a file, or all; FileNotFoundError when there is none."""

    def names(self, name: str = "", looks: int | None = None) -> list[str]:
        """Names right below a folder, without halves of files; none when no look finds any."""

    def sees(self, name: str) -> bool:
        """Whether one look finds a file. A store that is not local may deny a file that is there."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def remove_all(self, name: str, ours: Ours) -> None:
        """Remove our files below a folder, and then folders that are empty."""

    def is_empty(self, but: Collection[str] = ()) -> bool:
        """Whether there are no files, apart from halves of files and from files in the folders `but`."""

    def paths(self, name: str) -> Iterator[str]:
        """Names of all files below a folder, without halves of files."""

    def prune(self, name: str = "") -> None:
        """Remove a folder if it is empty."""

    def sweep(self) -> None:
        """Remove the halves of files that killed processes left behind."""


@contextmanager
def written_whole(path: str) -> Iterator[BinaryIO]:
    """Open a file for writing, which gets its name only when it is whole."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{uuid4().hex}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):
            os.remove(partial)
        # Of a full disk the system does not say which file did not fit.
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, path) from error
        raise


def is_partial(name: str) -> bool:
    """Whether this is the name of a half of a file that `written_whole` was writing."""
    return _PARTIAL.fullmatch(name) is not None


@dataclass(frozen=True)
class LocalFolder:
    """Files in a directory."""

    root: str

    def _path(self, name: str) -> str:
        return os.path.join(self.root, name)

    def write(self, name: str, parts: Iterable[bytes]) -> None:
        """Write a file."""
        with written_whole(self._path(name)) as file:
            file.writelines(parts)

    def read(self, name: str, length: int | None = None) -> bytes:
        """The first bytes of a file, or all."""
        with open(self._path(name), "rb") as file:
            return file.read() if length is None else file.read(length)

    def names(self, name: str = "", looks: int | None = None) -> list[str]:
        """Names right below a folder; the first look is final."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return [found for found in os.listdir(self._path(name)) if not is_partial(found)]
        return []

    def sees(self, name: str) -> bool:
        """Whether there is a file."""
        return os.path.exists(self._path(name))

    def remove(self, name: str) -> None:
        """Remove a file."""
        with suppress(FileNotFoundError):
            os.remove(self._path(name))

    def remove_all(self, name: str, ours: Ours) -> None:
        """Remove our files below a folder, and then folders that are empty."""
        for folder, _, files in os.walk(self._path(name), topdown=False):
            for file in files:
                path = os.path.relpath(os.path.join(folder, file), self.root)
                if is_partial(file) or ours(file, lambda n, path=path: self.read(path, n)):  # type: ignore[misc]
                    self.remove(path)
            with suppress(OSError):
                os.rmdir(folder)

    def is_empty(self, but: Collection[str] = ()) -> bool:
        """Whether there is no file."""
        for folder, inner, names in os.walk(self.root):
            if not all(map(is_partial, names)):
                return False
            if folder == self.root:
                inner[:] = [name for name in inner if name not in but]
        return True

    def paths(self, name: str) -> Iterator[str]:
        """Names of all files below a folder."""
        for folder, _, names in os.walk(self._path(name)):
            for name in names:
                if not is_partial(name):
                    yield os.path.relpath(os.path.join(folder, name), self.root)

    def prune(self, name: str = "") -> None:
        """Remove a folder if it is empty."""
        with suppress(OSError):
            os.rmdir(self._path(name))

    def sweep(self) -> None:
        """Remove the halves of files."""
        for folder, _, names in os.walk(self.root):
            for name in filter(is_partial, names):
                with suppress(FileNotFoundError):
                    os.remove(os.path.join(folder, name))


class RemoteFolder:
    """Files under the URL of an object store, whose requests are repeated (see `PersistentStore`).

    Parameters
    ----------
    url : str
        fsspec URL.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._store = remote_store(url)

    def write(self, name: str, parts: Iterable[bytes]) -> None:
        """Write a file."""
        from zarr.core.buffer import default_buffer_prototype

        self._do(self._store.set(name, default_buffer_prototype().buffer.from_bytes(b"".join(parts))))

    def read(self, name: str, length: int | None = None) -> bytes:
        """The first bytes of a file, or all."""
        from zarr.abc.store import RangeByteRequest
        from zarr.core.buffer import default_buffer_prototype

        part = None if length is None else RangeByteRequest(0, length)
        found = self._do(self._store.get(name, default_buffer_prototype(), part))
        if found is None:
            raise FileNotFoundError(f"{self._url}/{name}")
        return found.to_bytes()

    def names(self, name: str = "", looks: int | None = None) -> list[str]:
        """Names right below a folder."""
        return [found.strip("/") for found in self._do(self._store.names(name, looks)) if found.strip("/")]

    def sees(self, name: str) -> bool:
        """Whether one look finds a file."""
        return self._do(self._store.exists(name, looks=1))

    def remove(self, name: str) -> None:
        """Remove a file."""
        self._do(self._store.remove(name))

    def remove_all(self, name: str, ours: Ours) -> None:
        """Remove our files below a folder."""
        keys = self._do(self._keys(f"{name}/"))
        mine = [key for key in keys if ours(key.rsplit("/", 1)[-1], lambda n, key=key: self.read(key, n))]  # type: ignore[misc]
        if len(mine) == len(keys):
            self._do(self._store.delete_dir(name))
        for key in mine if len(mine) < len(keys) else ():
            self.remove(key)

    def is_empty(self, but: Collection[str] = ()) -> bool:
        """Whether there is no file."""
        return set(self.names()) <= set(but)

    def paths(self, name: str) -> Iterator[str]:
        """Names of all files below a folder."""
        yield from self._do(self._keys(f"{name}/"))

    def prune(self, name: str = "") -> None:
        """Do nothing: there are no folders to remove."""

    def sweep(self) -> None:
        """Do nothing: there are no halves of files."""

    async def _keys(self, prefix: str) -> list[str]:
        return [key async for key in self._store.list_prefix(prefix)]

    @staticmethod
    def _do(work: "Coroutine[Any, Any, T]") -> T:
        from zarr.core.sync import sync

        return sync(work)


def folder_at(url: str) -> Folder:
    """The folder of files at a path or URL; links in a path are followed before ``..``, as the system does."""
    url = unfiled(url)
    return RemoteFolder(url) if is_url(url) else LocalFolder(url)
