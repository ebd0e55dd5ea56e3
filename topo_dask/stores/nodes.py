"""Zarr groups and arrays opened for reading, with errors that say which place and what is wrong there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from .addresses import absolute, is_url
from .persistent import PersistentStore, store_at

WRITE_ONCE = (
    'write what is in it once with zarr.create_array(path, data=..., config={"write_empty_chunks": True}), see '
    "docs/inputs.md"
)
"""The remedy in messages about inputs that are no zarr arrays."""


class MetadataError(ValueError):
    """The metadata of a zarr node are damaged."""


@contextmanager
def readable(where: str) -> Iterator[None]:
    """Add the place to errors about damaged metadata, because zarr tells only what its parser met."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise MetadataError(f"{where}: its zarr metadata cannot be read: {type(error).__name__}: {error}") from error


def open_node(where: str) -> Any:
    """Open a zarr group or array for reading; a path may begin with ~, and a URL of files is taken as a path.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        When there is no group and no array, or a file instead.
    MetadataError
        When the metadata are damaged.
    """
    import zarr

    where = absolute(where)
    store = store_at(where)
    try:
        with readable(where):
            zarr_format: Any = 3 if is_of_format_3(store) else None
            return zarr.open(store, mode="r", zarr_format=zarr_format)
    except (FileNotFoundError, NotADirectoryError, zarr.errors.NodeNotFoundError) as error:
        if file := _file_on(where):
            if file.endswith(".zip"):
                inside = where.removeprefix(file).lstrip("/")
                raise NotADirectoryError(f"{file} is an archive: give zip://{inside}::{file}, or unpack it") from error
            raise NotADirectoryError(f"{file} is a file, but zarr arrays are folders: {WRITE_ONCE}") from error
        if os.path.isfile(os.path.join(where, "attributes.json")):
            raise FileNotFoundError(f"{where} is N5, and no zarr: copy it once, see docs/inputs.md") from error
        no_path = "" if is_url(where) or os.path.exists(where) else ": no such path"
        raise FileNotFoundError(f"{where}: there is no zarr array and no zarr group{no_path}") from error


def is_of_format_3(store: Any) -> bool:
    """Whether one look finds a node of zarr format 3 at a path, or in a store that is not local, see `store_at`.

    If so, nobody need ask for the files of format 2, each of which such a store must deny many times.
    """
    if isinstance(store, PersistentStore):
        return sync(store.get("zarr.json", default_buffer_prototype(), looks=1)) is not None
    return os.path.isfile(os.path.join(store, "zarr.json"))


def _file_on(where: str) -> str | None:
    """The part of a path that is a file, such as volume.h5 in volume.h5/flow; None if there is none."""
    while os.path.dirname(where) != where:
        if os.path.isfile(where):
            return where
        where = os.path.dirname(where)
    return None
