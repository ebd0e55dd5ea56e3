"""Files of others in the place where labels are to go: this package never removes what it did not write."""

import re
from typing import Any

MARK = "topo_dask"
"""Attribute of arrays and groups that this package has written; it names the run."""

HALF = re.compile(r"\.[0-9a-f]{32}\.partial$")
"""End of the name of a file that zarr is writing, or was writing when its process was killed."""

_CHUNK = re.compile(r"([0-9]+/)?(c/)?[0-9]+([./][0-9]+)*(\.[0-9a-f]{32}\.partial)?")

_METADATA = {"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"}


def is_metadata(name: str) -> bool:
    """Whether a file of this name is one of zarr's metadata, whole or half written."""
    return name in _METADATA or is_half(name)


def is_half(name: str) -> bool:
    """Whether a file of this name is the half of one of zarr's metadata.

    Examples
    --------
    >>> is_half(f"zarr.{32 * '0'}.partial"), is_half(f".zattrs.{32 * '0'}.partial"), is_half("zarr.partial")
    (True, True, False)
    """
    # zarr replaces a suffix such as .json by this end.
    return HALF.search(name) is not None and HALF.sub("", name) in {*_METADATA, "zarr"}


def unmarked_members(group: Any) -> list[str]:
    """Names of nodes and files in a group of ours that are neither metadata of the group nor levels of ours."""
    return [
        name
        for name in names_in(group)
        if (MARK not in group[name].attrs if name in group else leftover_file(group, name))
    ]


def names_in(group: Any) -> list[str]:
    """Names of all nodes, folders and files in a group but its metadata, whether they are zarr's or not."""
    from zarr.core.sync import sync

    async def names() -> list[str]:
        return [name async for name in group.store.list_dir(group.path)]

    inside = sync(names()) if group.store.supports_listing else []
    return sorted(name for name in {name.strip("/") for name in inside} if not is_metadata(name))


def leftover_file(group: Any, place: str) -> str | None:
    """A file in a place where zarr finds no node, or None: new labels would take a left-over chunk for their own.

    Empty folders, and metadata files, are not counted: a removal that was killed leaves them.
    """
    from zarr.core.sync import sync

    path = f"{group.path}/{place}".lstrip("/")

    async def first() -> str | None:
        if await group.store.exists(path):
            return path
        async for file in group.store.list_prefix(f"{path}/"):
            if not is_metadata(file.rsplit("/", 1)[-1]):
                return str(file)
        return None

    return sync(first()) if group.store.supports_listing else None


def unknown_files(node: Any) -> list[str]:
    """The first file below arrays of ours that is neither a chunk nor metadata, in a list; empty if there is none.

    Arrays with such a file are not replaced, because that would remove all files below them.
    """
    from zarr.core.sync import sync

    async def first() -> list[str]:
        async for key in node.store.list_prefix(f"{node.path}/"):
            inner = key.removeprefix(f"{node.path}/")
            level, _, file = inner.rpartition("/")
            if not _CHUNK.fullmatch(inner) and not (is_metadata(file) and (not level or level.isdecimal())):
                return [inner]
        return []

    return sync(first()) if node.store.supports_listing else []
