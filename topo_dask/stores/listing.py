"""Which chunks of an array are stored, from one listing."""

import os
import re
from operator import lt
from typing import Any

import zarr
from zarr.core.sync import sync
from zarr.storage import LocalStore

from .checked import CheckedArray, stored_shape
from .chunk_form import document_of
from .persistent import impatient
from .retries import is_local, persist


def stored_chunks(array: "zarr.Array[Any] | CheckedArray") -> set[tuple[int, ...]] | None:
    """Grid indices of the stored objects of an array (shards where there are shards), from one listing.

    Parameters
    ----------
    array : zarr.Array or CheckedArray
        Array of at least one axis.

    Returns
    -------
    chunks : set of tuple of int, or None
        None when the store cannot list, or when its listing misses even the metadata of the array.

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
    example = array.metadata.encode_chunk_key((1,) * array.ndim)  # a 0 in it stands for an axis that is left out
    names = _names(array, example.count("/") + 1)
    if names is None:
        return None
    if document_of(array) not in names:
        return None
    pattern = re.compile(re.escape(example).replace("1", "(0|[1-9][0-9]*)"))
    chunks = {tuple(map(int, match.groups())) for match in map(pattern.fullmatch, names) if match}
    grid = [-(-size // chunk) for size, chunk in zip(array.shape, stored_shape(array), strict=True)]
    return {chunk for chunk in chunks if all(map(lt, chunk, grid))}


def _names(array: "zarr.Array[Any]", depth: int) -> "list[str] | None":
    """Keys under an array, relative to it, and of `depth` parts at most on a disk; None when the store cannot list."""
    store: Any = impatient(array.store_path.store)
    path = array.store_path.path
    if type(store) is LocalStore:
        return _files(os.path.join(store.root, path), depth)
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
        return sync(look() if is_local(store) else persist(look))
    except (FileNotFoundError, NotImplementedError):
        return None


def _files(root: str, depth: int) -> list[str]:
    """Files below a folder, at most `depth` levels down.

    Unlike zarr's own listing it follows links and raises when a folder cannot be read: a chunk that is not listed
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
