"""What lies where labels are to go, and was not written by this package: it is never removed."""

import re
from typing import Any

MARK = "topo_dask"
"""Attribute that says that an array or group was written by this package, and by which run."""

HALF = re.compile(r"\.[0-9a-f]{32}\.partial$")
"""End of the name of a file that zarr is writing, or was when it was killed."""

_CHUNK = re.compile(r"([0-9]+/)?(c/)?[0-9]+([./][0-9]+)*(\.[0-9a-f]{32}\.partial)?")

_METADATA = {"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"}


def is_metadata(name: str) -> bool:
    """Whether zarr gives this name to a file that it keeps besides chunks, or to the half of one."""
    return name in _METADATA or is_half(name)


def is_half(name: str) -> bool:
    """Whether zarr gives this name to the half of a file that it keeps besides chunks.

    Examples
    --------
    >>> is_half(f"zarr.{32 * '0'}.partial"), is_half(f".zattrs.{32 * '0'}.partial"), is_half("zarr.partial")
    (True, True, False)
    """
    # The end takes the place of a suffix such as .json.
    return HALF.search(name) is not None and HALF.sub("", name) in {*_METADATA, "zarr"}


def unmarked_members(group: Any) -> list[str]:
    """Names of what lies in a group of ours and is neither its metadata nor a level of ours."""
    return [
        name
        for name in names_in(group)
        if (MARK not in group[name].attrs if name in group else leftover_file(group, name))
    ]


def names_in(group: Any) -> list[str]:
    """Names of what lies in a group, zarr's or not, its metadata left out."""
    from zarr.core.sync import sync

    async def names() -> list[str]:
        return [name async for name in group.store.list_dir(group.path)]

    inside = sync(names()) if group.store.supports_listing else []
    return sorted(name for name in {name.strip("/") for name in inside} if not is_metadata(name))


def leftover_file(group: Any, place: str) -> str | None:
    """A file where nothing is to zarr, or None: new labels would take a chunk that is there for theirs.

    Folders that are empty, and metadata that are not whole, are what is left of a removal that was killed.
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
    """The first file below arrays of ours that is neither a chunk nor metadata: to replace them is to remove all."""
    from zarr.core.sync import sync

    async def first() -> list[str]:
        async for key in node.store.list_prefix(f"{node.path}/"):
            inner = key.removeprefix(f"{node.path}/")
            level, _, file = inner.rpartition("/")
            if not _CHUNK.fullmatch(inner) and not (is_metadata(file) and (not level or level.isdecimal())):
                return [inner]
        return []

    return sync(first()) if node.store.supports_listing else []
