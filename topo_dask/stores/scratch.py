"""Scratch: the stages hand intermediate results to each other as named bundles of arrays.

A bundle is filed under a *kind* (the product of a stage) and a *key* (a block, or one piece of a global table). It gets
its final name only when it is written completely: that it exists is the record that the work behind it is done.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from .addresses import is_url
from .bundles import HEAD, MAGIC, AbsentBundleError, Arrays, is_bundle, lengths_in, pack, unpack
from .folders import Folder, folder_at
from .retries import in_order

S = TypeVar("S")
T = TypeVar("T")

_AHEAD = 8
"""Bundles that are read or written at the same time in a store that is not local."""

LOCK = "lock"
"""Kind of the bundles that say which process works here; they do not count as content."""


class Scratch(Protocol):
    """Files bundles of arrays by kind and key."""

    def put(self, kind: str, key: str, /, **arrays: NDArray[Any]) -> None:
        """File a bundle, replacing one of the same name."""

    def get(self, kind: str, key: str) -> Arrays:
        """A bundle; KeyError when there is none."""

    def get_each(self, kind: str, keys: Iterable[str], names: Collection[str] | None = None) -> Iterator[Arrays]:
        """Bundles one after the other, as `get` gives them; if `names` are given, with those arrays at least."""

    def put_each(self, kind: str, bundles: Iterable[tuple[str, Arrays]]) -> None:
        """File bundles, given by key, as `put` does."""

    def keys(self, kind: str) -> set[str]:
        """Keys of all bundles of a kind, from one listing."""


@dataclass
class MemoryScratch:
    """Scratch of an in-memory run: nothing is copied, nothing is written."""

    bundles: dict[str, dict[str, Arrays]] = field(default_factory=dict)

    def put(self, kind: str, key: str, /, **arrays: NDArray[Any]) -> None:
        """File a bundle, replacing one of the same name."""
        self.bundles.setdefault(kind, {})[key] = arrays

    def get(self, kind: str, key: str) -> Arrays:
        """A bundle; KeyError when there is none."""
        return self.bundles[kind][key]

    def get_each(self, kind: str, keys: Iterable[str], names: Collection[str] | None = None) -> Iterator[Arrays]:
        """Bundles one after the other."""
        return (self.get(kind, key) for key in keys)

    def put_each(self, kind: str, bundles: Iterable[tuple[str, Arrays]]) -> None:
        """File bundles, given by key."""
        for key, arrays in bundles:
            self.put(kind, key, **arrays)

    def keys(self, kind: str) -> set[str]:
        """Keys of all bundles of a kind."""
        return set(self.bundles.get(kind, ()))


@dataclass(frozen=True)
class FileScratch:
    """Scratch in a directory or under a store URL that every worker can reach.

    Parameters
    ----------
    url : str
        Path or fsspec URL.
    """

    url: str

    @property
    def _folder(self) -> Folder:
        return folder_at(self.url)

    def put(self, kind: str, key: str, /, **arrays: NDArray[Any]) -> None:
        """File a bundle, replacing one of the same name."""
        self._folder.write(f"{kind}/{key}", pack(arrays))

    def get(self, kind: str, key: str, names: Collection[str] | None = None) -> Arrays:
        """A bundle, or its arrays of these names; KeyError when there is none."""
        name = f"{self.url}/{kind}/{key}"
        try:
            data = self._folder.read(f"{kind}/{key}")
        except FileNotFoundError:
            raise AbsentBundleError(name) from None
        return unpack(data, name, names)

    def get_each(self, kind: str, keys: Iterable[str], names: Collection[str] | None = None) -> Iterator[Arrays]:
        """Bundles, or their arrays of these names, in order; a store that is not local is asked for some ahead."""
        return self._each(lambda key: self.get(kind, key, names), keys)

    def put_each(self, kind: str, bundles: Iterable[tuple[str, Arrays]]) -> None:
        """File bundles, given by key; several at the same time in a store that is not local."""
        for _ in self._each(lambda bundle: self.put(kind, bundle[0], **bundle[1]), bundles):
            pass

    def _each(self, act: Callable[[S], T], objects: Iterable[S]) -> Iterator[T]:
        return in_order(act, objects, _AHEAD) if is_url(self.url) else map(act, objects)

    def lengths(self, kind: str, key: str) -> dict[str, int]:
        """Rows of each array of a bundle, from its head alone; KeyError when there is no bundle."""
        name = f"{self.url}/{kind}/{key}"
        try:
            head = self._folder.read(f"{kind}/{key}", HEAD)
        except FileNotFoundError:
            raise AbsentBundleError(name) from None
        return lengths_in(head, name)

    def lengths_each(self, kind: str, keys: Iterable[str]) -> Iterator[dict[str, int]]:
        """As `lengths`, for bundles one after the other."""
        return self._each(lambda key: self.lengths(kind, key), keys)

    def keys(self, kind: str, looks: int | None = None) -> set[str]:
        """Keys of all bundles of a kind, from one listing: up to `looks` listings are tried until one finds any."""
        return {name for name in self._folder.names(kind, looks) if not name.startswith(".")}

    def sees(self, kind: str, key: str) -> bool:
        """Whether one look finds a bundle; a store that is not local may hide one that is there."""
        return self._folder.sees(f"{kind}/{key}")

    def discard(self, kind: str) -> None:
        """Remove all bundles of a kind, and of the compartment of that name; other files stay."""
        self._folder.remove_all(kind, is_bundle)

    def remove(self, kind: str, key: str) -> None:
        """Remove one bundle, if it is there."""
        self._folder.remove(f"{kind}/{key}")

    def within(self, name: str) -> "FileScratch":
        """A compartment of its own."""
        return FileScratch(f"{self.url}/{name}")

    def is_empty(self) -> bool:
        """Whether there are no files under the URL other than locks and halves of bundles."""
        return self._folder.is_empty(but=(LOCK,))

    def holds_only(self, kind: str) -> bool:
        """Whether all files under the URL are bundles in the compartment of that name, locks and halves aside."""
        folder = self._folder
        # Whether anything lies beside the compartment is looked up first, without listing all that is in it.
        bundles = (folder.read(path, len(MAGIC)) == MAGIC for path in folder.paths(kind))
        return folder.is_empty(but=(kind, LOCK)) and all(bundles)

    def prune(self) -> None:
        """Remove the folder if it is empty; a store that is not local has no folders."""
        self._folder.prune(LOCK)
        self._folder.prune()

    def sweep(self) -> None:
        """Remove the halves of bundles that killed processes left behind."""
        self._folder.sweep()


def find(scratch: Scratch, kind: str, key: str) -> Arrays | None:
    """A bundle, or None when there is none."""
    try:
        return scratch.get(kind, key)
    except KeyError:
        return None


def count_rows(scratch: Scratch, kind: str, column: str) -> int:
    """Rows of a column in all bundles of a kind; where these are files, only their heads are read.

    Examples
    --------
    >>> import numpy as np
    >>> scratch = MemoryScratch()
    >>> scratch.put("track", "0.0.0", ids=np.arange(3))
    >>> count_rows(scratch, "track", "ids")
    3
    """
    if isinstance(scratch, FileScratch):
        return sum(lengths.get(column, 0) for lengths in scratch.lengths_each(kind, scratch.keys(kind)))
    return sum(len(scratch.get(kind, key).get(column, ())) for key in scratch.keys(kind))
