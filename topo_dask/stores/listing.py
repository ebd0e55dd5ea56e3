"""The chunks of an array that are stored, from one listing."""

import os
import re
from collections.abc import Callable
from operator import lt
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync
from zarr.storage import LocalStore

from .checked import CheckedArray, stored_shape
from .chunk_form import document_of
from .persistent import impatient
from .retries import is_local, persist
from .walking import forget_listings, list_keys

Visit = Callable[[str], None]


def stored_chunks(array: "zarr.Array[Any] | CheckedArray", first: int | None = None) -> NDArray[np.bool_] | None:
    """Which objects of an array are stored, from one listing. An object is a chunk, or a shard if there are shards.

    The names in the listing are not kept in memory. Where the keys of the array allow it, only those below `first` are
    listed.

    Parameters
    ----------
    array : zarr.Array or CheckedArray
        Array of at least one axis.
    first : int, optional
        Look only at objects with this index along the first axis; the array must have at least two axes.

    Returns
    -------
    stored : ndarray of bool, or None
        For each index of the grid of objects, whether the object is stored; without the first axis if `first` is given.
        None when the store cannot list, or when even the metadata of the array are missing from its listing.

    Raises
    ------
    OSError
        When the listing fails.

    Examples
    --------
    >>> array = zarr.create_array({}, shape=(4, 4, 4), chunks=(4, 4, 2), dtype="u1", fill_value=0)
    >>> array[:, :, 2:] = 7
    >>> stored_chunks(array)
    array([[[False,  True]]])
    >>> stored_chunks(array, 0)
    array([[False,  True]])
    """
    if isinstance(array, CheckedArray):
        array = array.array
    folder, pattern = _keys(array, first)
    grid = [-(-size // chunk) for size, chunk in zip(array.shape, stored_shape(array), strict=True)]
    stored = np.zeros(grid if first is None else grid[1:], np.bool_)
    document, seen = document_of(array), False

    def visit(name: str) -> None:
        nonlocal seen
        seen = seen or name == document
        if match := pattern.fullmatch(name):
            chunk = tuple(map(int, match.groups()))
            if all(map(lt, chunk, stored.shape)):
                stored[chunk] = True

    store: Any = impatient(array.store_path.store)
    path = array.store_path.path
    if type(store) is LocalStore:
        _walk(os.path.join(store.root, path), folder, pattern.pattern.split("/"), visit)
        return stored if seen else None
    fs: Any = getattr(store, "fs", None)
    protocols = getattr(fs, "protocol", ())
    # fsspec lists a web page by the links on it, which need not name all files.
    if not store.supports_listing or "http" in protocols or "https" in protocols:
        return None
    if folder:
        _list(store, path, folder, visit)
        if stored.any():
            return stored
        # An empty listing is believed only if one of the whole array shows the metadata.
    _list(store, path, "", visit)
    return stored if seen else None


def _keys(array: "zarr.Array[Any]", first: int | None) -> tuple[str, re.Pattern[str]]:
    # The folder of the objects asked for, below the array's own and with a slash at its end; "" where it is the array's
    # own. And the pattern of their keys, from an example in which 1 stands for an index, and 0 for an axis left out.
    example = array.metadata.encode_chunk_key((1 if first is None else first, *(1,) * (array.ndim - 1)))
    at = 0 if first is None else len(example) - (2 * array.ndim - 3)
    fixed, free = example[:at], example[at:]
    pattern = re.escape(fixed) + re.escape(free).replace("1", "(0|[1-9][0-9]*)")
    return fixed if fixed.endswith("/") else "", re.compile(pattern)


def _list(store: Any, path: str, folder: str, visit: Visit) -> None:
    # Visits the keys in a folder below an array, relative to the array.
    forget_listings(store)
    prefix = f"{path}/" if path else ""

    async def look() -> bool:
        async for key in list_keys(store, prefix + folder, links=False):
            visit(key.removeprefix(prefix))
        return True

    try:
        sync(look() if is_local(store) else persist(look))
    except (FileNotFoundError, NotImplementedError):
        return


def _walk(root: str, folder: str, levels: list[str], visit: Visit) -> None:
    """Visit the files below `folder` of an array, and the files in the folders above it, no deeper than keys go.

    `levels` are the patterns of the parts of a key. Unlike zarr's own listing this one follows links. It raises OSError
    when a folder cannot be read, a link leads nowhere or a file stands in place of a folder: a chunk that is not listed
    would count as empty. A folder in place of a chunk is visited too.
    """
    folders = [("", 1)]
    while folders:
        head, level = folders.pop()
        with os.scandir(os.path.join(root, head)) as entries:
            for entry in entries:
                name = head + entry.name
                wanted = f"{name}/"[: len(folder)] == folder[: len(name) + 1]
                if level == len(levels):
                    visit(name)
                elif entry.is_dir():
                    if wanted:
                        folders.append((f"{name}/", level + 1))
                elif entry.is_symlink() and not os.path.exists(entry.path):
                    raise OSError(f"{entry.path} is a link that leads nowhere: what lies behind it cannot be listed")
                elif wanted and re.fullmatch("/".join(levels[:level]), name):
                    raise OSError(f"{entry.path} is a file: a folder of chunks is expected there")
                else:
                    visit(name)
