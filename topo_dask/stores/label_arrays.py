"""Arrays that take the labels: create them, open them to go on, replace them. `outputs` has checked them before."""

import json
import os
import warnings
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from functools import partial
from math import prod
from typing import Any

import numpy as np

from ..blocks.geometry import Block, BlockGrid, Triple
from .addresses import is_url
from .checked import stored_shape
from .foreign import HALF, MARK, is_half, is_metadata, names_in
from .listing import stored_chunks
from .marks import has_labels
from .multiscales import read_multiscales
from .outputs import OutputSpec
from .persistent import persistent_array, store_at, view_of
from .places import Target, existing_group
from .pyramids import LABELS, list_labels, unlist_labels, version_of
from .retries import in_order, in_parallel

_EMPTIED = 1 << 25
"""Bytes of voxels that are emptied at a time, at least one block: several requests to an object store overlap."""


def missing_levels(target: Target, name: str, spec: OutputSpec) -> list[int]:
    """Numbers of the levels of a class that are not there; level 0 for an array that was given, which is emptied."""
    if target.is_array:
        return [0]
    group = existing_group(target)
    return [level for level, (path, _) in enumerate(spec.levels(name)) if group is None or path not in group]


def open_output(
    target: Target, group: Any, name: str, spec: OutputSpec, run: str, scratch: str, *, resume: bool
) -> list[Any]:
    """Create the arrays of one class, or open them to go on; call `check_outputs` before.

    Parameters
    ----------
    target : Target
        Where the labels go.
    group : zarr.Group, optional
        Group of all classes, see `open_group`; None for an array.
    name : str
        Class.
    spec : OutputSpec
        Shapes, chunks and levels.
    run, scratch : str
        Name of the run and place of its scratch; both are written into the marks.
    resume : bool
        Whether the run goes on with the labels that are there. If not, those are removed, in either layout. An array
        that was given is emptied in any case.

    Returns
    -------
    arrays : list of zarr.Array
        The levels, the finest first.
    """
    if target.is_array:
        _clear(view_of(target.node), spec)  # it has no mark, so another run may have written into it since
        return [persistent_array(target.node)]
    place = spec.place(name)
    there = resume and place in group
    _sweep(target, place)
    if not resume:
        _replace(group, name, (place, spec.other_place(name)))
    mark = {MARK: {"kind": "labels", "class": name, "run": run, "scratch": scratch}}
    if spec.pyramid is not None and not there:
        labels = group.require_group(LABELS)
        _mark_ahead(group, place, mark)
        labels.create_group(name, attributes=mark)

    def level(path: str, one: OutputSpec) -> Any:
        return group[path] if there and path in group else _create(group, path, one.shape, spec.chunks, mark)

    arrays = in_parallel(*(partial(level, path, one) for path, one in spec.levels(name)))
    if spec.pyramid is not None:
        in_image = "multiscales" in group.attrs.asdict().get("ome", group.attrs)
        group[place].attrs.update(spec.pyramid.attributes(name, in_image=in_image))
    return arrays


def _replace(group: Any, name: str, places: Collection[str]) -> None:
    # Removes old labels of a class, which new ones will replace.
    for place, found in zip(places, in_parallel(*(partial(has_labels, group, p) for p in places)), strict=True):
        if found:
            if place != name:
                unlist_labels(group[LABELS], version_of(group), name)
            _remove(group, place)
            _consolidate_again(group, place)


def finished(target: Target, names: Collection[str], spec: OutputSpec, digests: set[str]) -> dict[str, Any] | None:
    """Labels of each class, if all are whole and come from runs with one of these digests; else None."""
    group = existing_group(target)
    if group is None:
        return None
    found = {}
    for name in names:
        mark = group[spec.place(name)].attrs.get(MARK) if spec.place(name) in group else None
        if not isinstance(mark, dict) or not mark.get("complete") or mark.get("record") not in digests:
            return None
        if not all(path in group for path, _ in spec.levels(name)):  # a level was removed after the run
            return None
        found[name] = group[next(iter(spec.levels(name)))[0]]
    return found


def publish(target: Target, name: str, spec: OutputSpec, facts: Mapping[str, Any]) -> None:
    """Write into the mark of labels that they are whole, and some facts about them; list them where viewers look.

    An array that was given stays as it is.
    """
    if target.is_array:
        return
    group = open_group(target, existing_group(target), spec)
    attributes = group[spec.place(name)].attrs
    kept = {key: value for key, value in attributes[MARK].items() if key != "scratch"}
    attributes[MARK] = {**kept, "complete": True, **facts}
    if spec.pyramid is not None:
        list_labels(group[LABELS], spec.pyramid.version, name)
    _consolidate_again(group, spec.place(name))


def _consolidate_again(group: Any, place: str) -> None:
    # Readers that find consolidated metadata do not look at the others. The group of labels may have some of its own.
    import zarr

    for around in dict.fromkeys((os.path.dirname(place), "")):
        path = f"{group.path}/{around}".strip("/")
        found = zarr.open_group(group.store, path=path, mode="r", zarr_format=group.metadata.zarr_format)
        if found.metadata.consolidated_metadata is None:
            continue
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
            zarr.consolidate_metadata(group.store, path=path)


def open_group(target: Target, old: Any, spec: OutputSpec) -> Any:
    """The group of all classes, open for writing; it is created where there is none. None for an array.

    Parameters
    ----------
    target : Target
        Where the labels go.
    old : zarr.Group, optional
        What is there now, see `existing_group`.
    spec : OutputSpec
        Shapes, chunks and levels.
    """
    import zarr

    _sweep_metadata(target, old)
    if target.node is not None:
        return old
    assert target.url is not None
    if old is not None:
        how: dict[str, Any] = {"use_consolidated": False, "zarr_format": old.metadata.zarr_format}
        return zarr.open_group(store_at(target.url), mode="r+", **how)
    zarr_format: Any = 3 if spec.pyramid is None else spec.pyramid.zarr_format
    return zarr.open_group(store_at(target.url), mode="w-", zarr_format=zarr_format)


def _create(group: Any, path: str, shape: Triple, chunks: Triple, mark: dict[str, Any]) -> Any:
    how: dict[str, Any]
    if group.metadata.zarr_format == 3:
        from zarr.codecs import ZstdCodec

        how = {"compressors": ZstdCodec(level=1, checksum=True), "dimension_names": ("z", "y", "x")}
    else:
        from numcodecs import GZip

        # Format 2 never specified a checksum for zstd, and TensorStore refuses it; every gzip member has a CRC-32.
        how = {"compressors": GZip(level=1), "chunk_key_encoding": {"name": "v2", "separator": "/"}}
    _mark_ahead(group, path, mark)
    return group.create_array(path, shape=shape, chunks=chunks, dtype=np.int32, fill_value=0, attributes=mark, **how)


def _mark_ahead(group: Any, path: str, mark: dict[str, Any]) -> None:
    # In format 2 the mark and the metadata that make a node are two files. The mark is written first: a process that is
    # killed in between leaves no array or group without a mark.
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    if group.metadata.zarr_format == 2:
        whole = default_buffer_prototype().buffer.from_bytes(json.dumps(mark).encode())
        sync(group.store.set(f"{group.path}/{path}/.zattrs".lstrip("/"), whole))


def _remove(group: Any, place: str) -> None:
    # Chunks go first, then the arrays, then their group. A process that is killed in between leaves no chunks without
    # an array, which would become part of new labels, and whatever is left still has its mark.
    import zarr
    from zarr.core.sync import sync

    async def remove_chunks(array: Any) -> None:
        for name in [name.strip("/") async for name in array.store.list_dir(array.path)]:
            if not is_metadata(name):
                await array.store.delete_dir(f"{array.path}/{name}")

    async def remove_node(one: Any) -> None:
        if one.metadata.zarr_format == 2:  # the mark is a file of its own, and must not be removed first
            document = ".zarray" if isinstance(one, zarr.Array) else ".zgroup"
            await one.store.delete(f"{one.path}/{document}")
        await one.store.delete_dir(one.path)

    node = group[place]
    names = [] if isinstance(node, zarr.Array) else names_in(node)
    levels = [node[level] for level in names if level in node]
    for array in levels or [node]:
        sync(remove_chunks(array))
    for one in (*levels, node):
        sync(remove_node(one))


def _sweep(target: Target, place: str) -> None:
    # Removes chunks and metadata that a killed process was writing: zarr renames such files when they are whole.
    if target.url is not None and not is_url(target.url):
        for folder, _, files in os.walk(os.path.join(target.url, place)):
            _sweep_files(folder, filter(HALF.search, files))


def _sweep_metadata(target: Target, old: Any) -> None:
    # The same for the groups around the labels, where others may have files of any name. The metadata of an image are
    # not ours: another process may be writing them.
    if target.url is not None and not is_url(target.url):
        ours = [target.url] if old is None or read_multiscales(old) is None else []
        for folder in (*ours, os.path.join(target.url, LABELS)):
            with suppress(FileNotFoundError, NotADirectoryError):
                _sweep_files(folder, filter(is_half, os.listdir(folder)))


def _sweep_files(folder: str, files: Iterable[str]) -> None:
    for file in files:
        with suppress(FileNotFoundError):  # its writer may be alive and have renamed it just now
            os.remove(os.path.join(folder, file))


def _clear(array: Any, spec: OutputSpec) -> None:
    # A run writes no blocks without foreground: labels of an earlier run would stay there.
    stored, unit = stored_chunks(array), stored_shape(array)

    def may_hold(block: Block) -> bool:
        chunks = (slice(part.start // n, -(-part.stop // n)) for part, n in zip(block.write.slices, unit, strict=True))
        return stored is None or bool(stored[tuple(chunks)].any())

    def empty(block: Block) -> None:
        array[block.write.slices] = 0
        if array[block.write.slices].any():  # an object store may answer a removal with 404 and keep the object
            raise OSError(f"output {array.store_path} cannot be emptied: {block.write} and maybe others hold labels")

    each = prod(spec.block_shape) * array.dtype.itemsize
    blocks = filter(may_hold, BlockGrid(spec.shape, spec.block_shape))
    for _ in in_order(empty, blocks, max(1, _EMPTIED // each)):
        pass
