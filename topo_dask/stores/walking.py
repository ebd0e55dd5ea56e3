"""Keys in the file systems of fsspec: nothing listed is remembered, and a folder that cannot be listed is an error."""

import errno
from collections.abc import AsyncIterator
from typing import Any

from zarr.abc.store import Store
from zarr.storage import FsspecStore


def forget_listings(store: Store) -> None:
    """Make a file system look again: many remember what they have listed, while others write."""
    if isinstance(store, FsspecStore):
        unwrapped(store.fs)[0].invalidate_cache()


async def list_keys(store: Store, prefix: str, *, links: bool = True) -> AsyncIterator[str]:
    """Keys with a prefix, which is a folder where the store has folders.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    prefix : str
        The prefix.
    links : bool, optional
        Whether there may be links to folders, which are not followed.

    Raises
    ------
    OSError
        When a folder cannot be listed. fsspec takes it for empty where it walks from folder to folder, as it does on
        all file systems without a search of their own.
    """
    if not isinstance(store, FsspecStore) or not _is_walked(store.fs):
        async for key in store.list_prefix(prefix):
            yield key
        return
    fs, root = store.fs, f"{store.path}/"
    folders = [top := fs._strip_protocol(root + prefix)]
    while folders:
        folder = folders.pop()
        try:
            entries = await fs._ls(folder, detail=True)
        except OSError as error:
            if not isinstance(error, FileNotFoundError) and error.errno != errno.ENOENT:
                raise
            if folder == top:
                return
            raise OSError(f"{folder} cannot be listed, although the folder above it names it") from error
        for entry in entries:
            name = entry["name"].rstrip("/")
            if entry["type"] != "directory":
                if not links and entry["type"] != "file":
                    await _check_no_folder(fs, name)
                yield name.removeprefix(root)
            elif name != folder:
                folders.append(name)


async def _check_no_folder(fs: Any, name: str) -> None:
    try:
        kind = (await fs._info(name))["type"]
    except FileNotFoundError as error:
        raise OSError(f"{name} is a link that leads nowhere: what lies behind it cannot be listed") from error
    if kind == "directory":
        raise OSError(
            f"{name} is a link to a folder, and fsspec lists nothing behind links: put the folder itself there, or "
            "mount the file system and give a path"
        )


def unwrapped(fs: Any, path: str = "") -> tuple[Any, str]:
    """The file system inside those that make one asynchronous or begin in a folder of it, and what a path is there.

    They do not pass on that listings are to be forgotten, the latter in older versions of fsspec only.
    """
    from fsspec.implementations.dirfs import DirFileSystem

    while True:
        if isinstance(fs, DirFileSystem):
            fs, path = fs.fs, fs._join(path)
        elif (inner := getattr(fs, "sync_fs", None)) is not None:
            fs = inner
        else:
            return fs, path


def _is_walked(fs: Any) -> bool:
    # Whether a file system finds files as fsspec does by default: folder by folder.
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    fs, _ = unwrapped(fs)
    find = fs._find if fs.async_impl else fs.find
    return getattr(find, "__func__", None) in (AbstractFileSystem.find, AsyncFileSystem._find)
