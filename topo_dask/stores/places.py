"""Where the labels go: the place that a caller gives, and the zarr group that is there."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from .addresses import Place, absolute, check_protocol, followed, is_memory, is_url
from .foreign import is_half
from .inputs import absolute_node
from .nodes import is_of_format_3
from .persistent import impatient, persistent, store_at
from .walking import unwrapped


@dataclass(frozen=True)
class Target:
    """Where the labels go.

    Parameters
    ----------
    url : str, optional
        Absolute path or URL of the group; None for an array or group that is not on a file system.
    node : zarr.Group or zarr.Array, optional
        Group or array that was given in place of a path.
    """

    url: str | None
    node: Any = None

    def beside(self, suffix: str) -> str:
        """Path next to the output."""
        if self.url is None:
            raise ValueError("an output that is not at a path or URL needs scratch=<path that all workers can reach>")
        return self.url.rstrip("/") + suffix

    def inside(self, place: str) -> str:
        """Path of a place in the output."""
        return self.beside(f"/{place}")

    @property
    def locks(self) -> str | None:
        """Folder of the locks of the output, the same through all links that lead to it; None without a path or URL."""
        return None if self.url is None else f"{followed(self.url)}.lock"

    @property
    def locks_as_named(self) -> str | None:
        """The folder `locks`, named through the links in `url`: on another machine they may lead to another place."""
        if self.url is None:
            return None
        if is_url(self.url) or not os.path.islink(self.url):
            return self.beside(".lock")
        return f"{self.url}/../{os.path.basename(os.path.realpath(self.url))}.lock"

    @property
    def is_array(self) -> bool:
        """Whether an array was given."""
        import zarr

        return isinstance(self.node, zarr.Array)

    @property
    def is_in_memory(self) -> bool:
        """Whether the labels go to the memory of this process."""
        from zarr.storage import MemoryStore, WrapperStore

        if self.node is None:
            return is_memory(self.url)
        store = impatient(self.node.store)
        while isinstance(store, WrapperStore):  # one that logs or caches, say
            store = store._store
        return isinstance(store, MemoryStore) or is_memory(place_of(self.node))


def locate_output(output: Any) -> Target:
    """Find out what kind of output was given; TypeError or ValueError when it is no path, URL, group or array."""
    import zarr

    if isinstance(output, (str, os.PathLike)):
        if not os.fspath(output):
            raise ValueError("output must be a path or a URL, got ''; . is this folder")
        url = _unchained(absolute(os.fspath(output)), "output", output)
        if url.endswith("/"):  # nothing lies beside the root of a store
            raise ValueError(f"output must be a folder, next to which are scratch and tables, got {output!r}")
        return Target(url)
    if not isinstance(output, (zarr.Group, zarr.Array)):
        raise TypeError(f"output must be a path, a URL, a zarr.Group or a zarr.Array, got {type(output).__name__}")
    output = absolute_node(output)
    return Target(url_of(output), output)


def place_of_scratch(place: Place) -> str:
    """Absolute path or URL; TypeError, ValueError or ImportError naming the argument when it cannot be a place."""
    if not isinstance(place, str | os.PathLike) or not isinstance(os.fspath(place), str):
        raise TypeError(f"scratch must be a path or a URL, got {place!r}")
    if not os.fspath(place):
        raise ValueError("scratch must be a path or a URL, got ''")
    url = _unchained(absolute(os.fspath(place)), "scratch", place)
    check_protocol(url, "scratch")
    return url


def _unchained(url: str, name: str, given: Place) -> str:
    # A cache in between shows what was there before, and what lies beside an archive's address is another archive.
    if "::" in url:
        raise ValueError(f"{name} must be a path or a URL without '::', which chains several, got {given!r}")
    return url


def existing_group(target: Target) -> Any:
    """The group that is there, open for reading unless it was given; None where there is nothing, and for an array.

    Consolidated metadata are not used: they describe what was there when they were consolidated.
    """
    import zarr
    from zarr.errors import ContainsArrayError

    if target.is_array:
        return None
    if target.node is not None:
        mode: Any = "r" if target.node.read_only else "r+"
        return zarr.open_group(persistent(target.node.store), path=target.node.path, mode=mode, use_consolidated=False)
    assert target.url is not None
    local = not is_url(target.url)
    if local and not os.path.lexists(target.url):
        return None
    if local and not os.path.isdir(target.url):
        raise FileExistsError(f"output {target.url} exists and is no zarr group: choose another path")
    try:
        store = store_at(target.url)
        zarr_format: Any = 3 if is_of_format_3(store) else None
        return zarr.open_group(store, mode="r", use_consolidated=False, zarr_format=zarr_format)
    except FileNotFoundError:
        if local and not all(map(is_half, os.listdir(target.url))):
            raise FileExistsError(f"output {target.url} exists and is no zarr group: choose another path") from None
        return None
    except ContainsArrayError as error:
        raise FileExistsError(
            f"output {target.url} is a zarr array: choose another path, or from Python pass the open array"
        ) from error
    except (OSError, ValueError) as error:
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"output {target.url} cannot be opened as a zarr group: {error}") from error


def members(group: Any) -> list[tuple[str, Any]]:
    """Names and nodes of a group's members, without zarr's warnings about other files, such as tables.

    Consolidated metadata of the group are not used, see `existing_group`.
    """
    import zarr

    if group.metadata.consolidated_metadata is not None:
        how: Any = {"path": group.path, "mode": "r", "zarr_format": group.metadata.zarr_format}
        group = zarr.open_group(group.store, **how, use_consolidated=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Object at .* is not recognized as a component of a Zarr hierarchy")
        return list(group.members())


def url_of(node: Any) -> str | None:
    """Absolute path or URL of an array or group; None for one that is not on a file system."""
    root = getattr(node.store, "root", None)
    return None if root is None else absolute(os.path.join(str(root), node.path))


def place_of(node: Any) -> str | None:
    """Path or URL of an array or group, also on an object store, without its storage options; None if unknown."""
    from zarr.storage import FsspecStore

    store = impatient(node.store)
    if isinstance(store, FsspecStore):
        fs, path = unwrapped(store.fs, f"{store.path}/{node.path}")
        return str(fs.unstrip_protocol(path))
    return url_of(node)


def name_of(node: Any) -> str:
    """Name by which a record recognises an array or group: its place, or the name that zarr gives to its store.

    For an array in memory zarr's name holds the address of that memory, so a run into it goes on in this process only.
    """
    if (place := place_of(node)) is None:
        return f"{node.store}/{node.path}"
    return absolute(place).rstrip("/") + _holder(impatient(node.store))


def _holder(store: Any) -> str:
    # What fsspec leaves out of a place: the archive in which, or the host on which, its path begins.
    if not hasattr(store, "fs"):
        return ""
    fs, _ = unwrapped(store.fs)
    # What is given without a name may be a host or an archive, or a token.
    unnamed = [_digest(one) for one in fs.storage_args[:1] if not isinstance(one, bool | None)]
    told = [*unnamed, *map(_plain, _told(fs.storage_options))]
    return f" in {':'.join(told)}" if told else ""


def _digest(one: Any) -> str:
    return sha256(repr(one).encode()).hexdigest()[:16]


def _plain(one: Any) -> str:
    # A URL may hold a password before an @, and a signature behind a question mark: records can be read by others.
    secret = not isinstance(one, str | int) or any(mark in str(one) for mark in "@?")
    return _digest(one) if secret else str(one)


def _told(options: Mapping[str, Any]) -> list[Any]:
    # An archive may itself be on a host, of which `fo` has the path only.
    told = [options[option] for option in ("fo", "host", "port", "target_protocol") if options.get(option) is not None]
    inner = options.get("target_options")
    return [*told, *_told(inner)] if inner else told


def check_folder(place: str, what: str, remedy: str) -> None:
    """Raise FileExistsError when something else lies where a folder is needed, or on the way there."""
    if is_url(place):
        return
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        found = "a file" if os.path.exists(place) else "a link that leads nowhere"
        raise FileExistsError(f"{place} is {found}, but a folder is needed there for {what}: move it, or {remedy}")
