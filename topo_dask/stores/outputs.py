"""Checks of the output before anything is written: what is there, who wrote it, and whether the labels fit.

::

    OUTPUT/NAME                   plain: one array a class
    OUTPUT/labels/NAME/0, 1, ...  OME-Zarr: one group a class, with the levels of the pyramid in it
"""

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from ..blocks.geometry import Triple
from .addresses import followed
from .checked import check_unchanged, stored_shape
from .foreign import MARK, leftover_file, unknown_files, unmarked_members
from .limits import check_grid
from .listing import stored_chunks
from .marks import has_labels
from .places import Target, check_folder, existing_group, members, url_of
from .pyramids import LABELS, Pyramid, version_of
from .retries import in_parallel

ANOTHER = "choose another output"
"""What to do about a place that cannot take the output."""


@dataclass(frozen=True)
class OutputSpec:
    """Shape of the labels, the blocks in which they are written, and their pyramid: None for plain arrays."""

    shape: Triple
    block_shape: Triple
    chunks: Triple
    pyramid: Pyramid | None = None

    def place(self, name: str) -> str:
        """Path of a class within the output."""
        return name if self.pyramid is None else f"{LABELS}/{name}"

    def other_place(self, name: str) -> str:
        """Path of a class within the output in the other layout."""
        return f"{LABELS}/{name}" if self.pyramid is None else name

    def levels(self, name: str) -> Iterator[tuple[str, "OutputSpec"]]:
        """Path of each array of a class, the finest level first, and the specification that it must fit."""
        if self.pyramid is None:
            yield name, self
            return
        for level, shape in enumerate(self.pyramid.shapes(self.shape)):
            yield f"{self.place(name)}/{level}", OutputSpec(shape, self.block_shape, self.chunks)


def check_outputs(
    target: Target,
    group: Any,
    names: Collection[str],
    spec: OutputSpec,
    run: str | None,
    replace: Collection[str],
    scratch: str | None = None,
) -> None:
    """Raise an error if an output cannot take the labels; nothing is written.

    Parameters
    ----------
    target : Target
        Where the labels go.
    group : zarr.Group, optional
        What is there now, see `existing_group`.
    names : collection of str
        Classes.
    spec : OutputSpec
        Shape, blocks and chunks that the arrays of each class must fit.
    run : str, optional
        Name of the run that goes on, with the arrays that are there; None for a run that begins.
    replace : collection of str
        Classes whose labels may be replaced, unless they are labels of the run that goes on.
    scratch : str, optional
        Where the record of a run would be.

    Raises
    ------
    FileExistsError
        When something is there that the run did not write and may not replace; when there are labels of a class in the
        other layout that it may not replace; when labels to replace have a symbolic link in place of a folder; when
        something else lies where a folder is needed; or when the output is, or lies in, labels that a run wrote.
    FileNotFoundError
        When an array that was given was moved or removed since it was opened.
    PermissionError
        When the group or array given can only be read.
    ValueError
        When the store cannot replace what it holds, when one array is given for several classes, when it was replaced
        since it was opened, when an array that was given, or that an earlier run made, does not fit the run, or when a
        group has the zarr format of another version of OME-Zarr.
    """
    if target.node is not None and target.node.read_only:
        raise PermissionError("output is open for reading only: open it with mode='r+'")
    if target.node is not None and not target.node.store.supports_deletes:
        raise ValueError(
            f"output is in a {type(target.node.store).__name__}, which cannot replace what it holds: give a folder or "
            "an object store"
        )
    _check_no_labels(target, group)
    if target.is_array:
        if len(names) != 1:
            raise ValueError(f"output is one array but there are several classes: {sorted(names)}; give a group")
        check_unchanged(target.node)
        check_output(target.node, spec)
        if not (run or replace):
            _check_empty(target.node)
        return
    if group is None:
        return
    where = target.url or group.store
    if spec.pyramid is not None:
        _check_container(group, f"output {where}", spec.pyramid)
    for name in names:
        place, other = spec.place(name), spec.other_place(name)
        there, beside = in_parallel(partial(group.__contains__, place), partial(has_labels, group, other))
        if beside:
            _check_beside(group, name, other, where, name in replace)
        if there:
            _check_there(group, name, spec, where, run, name in replace, scratch)
        elif (stray := leftover_file(group, place)) is not None:
            raise FileExistsError(
                f"output {place!r} in {where} is no array or group but holds {stray!r}: remove it or choose another"
            )
        elif (folder := url_of(group)) is not None:
            check_folder(os.path.join(folder, place), f"the labels of {name!r}", ANOTHER)


def _check_empty(array: Any) -> None:
    stored = stored_chunks(array)  # zarr's own count does not follow links
    if stored is None:
        raise FileExistsError(
            "output is an array whose chunks cannot be listed, it may not be empty: pass overwrite=True to replace "
            "what it holds"
        )
    if stored.any():
        raise FileExistsError("output is an array that is not empty: pass overwrite=True to replace what it holds")


def _check_no_labels(target: Target, group: Any) -> None:
    # Labels that have other labels in them could not be replaced any more.
    import zarr

    for folder, around in _groups_of_labels(target):
        names = sorted(name for name, one in members(around) if isinstance(one, zarr.Group) and MARK in one.attrs)
        if names:
            raise FileExistsError(
                f"output {target.url} lies where a run put its labels of {', '.join(names)}: give {folder}"
            )
    node = target.node if target.is_array else group
    mark = None if node is None else node.attrs.get(MARK)
    if isinstance(mark, dict):
        raise FileExistsError(
            f"output {target.url or node} is labels of {mark['class']!r} that a run wrote: give the output of that "
            "run, or choose another"
        )


def _groups_of_labels(target: Target) -> Iterator[tuple[str, Any]]:
    # Each group called `labels` that is, or has in it, the group for new labels; before it the path of its parent.
    if target.url is None or target.is_array:
        return
    parts = followed(target.url).split("/")
    for at, part in enumerate(parts):
        if part == LABELS:
            folder, found = "/".join(parts[:at]), []
            with suppress(OSError, ValueError):  # no zarr group, or one that cannot be opened
                found = [existing_group(Target(place)) for place in (folder, f"{folder}/{part}")]
            if found and None not in found:
                yield folder, found[1]


def _check_container(group: Any, what: str, pyramid: Pyramid) -> None:
    import zarr

    found = group.metadata.zarr_format
    if found != pyramid.zarr_format:
        raise ValueError(
            f"{what} is a group of zarr format {found}, OME-Zarr {pyramid.version} needs format {pyramid.zarr_format}: "
            f"pass ome_zarr={version_of(group)!r} or choose another"
        )
    if LABELS in group and not isinstance(group[LABELS], zarr.Group):
        raise FileExistsError(f"{what} has an array {LABELS!r} where the group of its labels must be: choose another")


def _check_beside(group: Any, name: str, other: str, where: Any, replace: bool) -> None:
    # A class has labels in one place only: readers must not have to choose between two.
    if not replace:
        raise FileExistsError(
            f"output {where} has labels of {name!r} in the other layout, {other!r}: pass overwrite=True to replace "
            "them, or choose another"
        )
    _check_replaceable(group, other, f"output {other!r} in {where}")


def _check_there(
    group: Any, name: str, spec: OutputSpec, where: Any, run: str | None, replace: bool, scratch: str | None
) -> None:
    place = spec.place(name)
    old, what = group[place], f"output {place!r} in {where}"
    if replace:
        _check_replaceable(group, place, what)
    else:
        _check_written_by_runs(old, what)
    mark = old.attrs.get(MARK)
    if run is not None and isinstance(mark, dict) and mark.get("run") == run:
        for path, fits in spec.levels(name):
            if path in group:
                check_output(group[path], fits)
    elif not replace:
        raise FileExistsError(_why_kept(mark, what, scratch, goes_on=run is not None))


def _check_replaceable(group: Any, place: str, what: str) -> None:
    _check_written_by_runs(group[place], what, each_file=True)
    if (link := _link_in(group, place)) is not None:
        raise FileExistsError(
            f"{what} cannot be replaced, {link} is a symbolic link: move the folder that it leads to into its place, "
            "or choose another output"
        )


def _check_written_by_runs(old: Any, what: str, *, each_file: bool = False) -> None:
    import zarr

    foreign = unmarked_members(old) if isinstance(old, zarr.Group) else []
    foreign = foreign or (unknown_files(old) if each_file else [])
    if MARK not in old.attrs or foreign:
        held = f" holds {foreign[0]!r}, which" if foreign and MARK in old.attrs else " exists and"
        raise FileExistsError(f"{what}{held} was not written by topo_dask: choose another")


def _why_kept(mark: Any, what: str, scratch: str | None, *, goes_on: bool) -> str:
    # Message about labels of another run that may not be replaced.
    if goes_on:
        return f"{what} was written by another run: pass overwrite=True to begin again"
    if isinstance(mark, dict) and "scratch" in mark and not mark.get("complete"):
        if mark["scratch"] == scratch:
            return f"{what} is not whole, and the record of its run is gone from {scratch}: overwrite=True begins again"
        return (
            f"{what} is not whole, and no record of its run is in this scratch: if the run had another one, pass "
            f"scratch={mark['scratch']} and resume=True to go on; overwrite=True begins again"
        )
    return (
        f"{what} exists: pass overwrite=True to replace it (resume=True gives back what a run of the same inputs and "
        "parameters has completed)"
    )


def _link_in(group: Any, place: str) -> str | None:
    # A symbolic link in place of a folder: zarr cannot remove it, or removes the link and leaves what it leads to.
    if (folder := url_of(group)) is None:
        return None
    top = os.path.join(folder, place)
    below = (os.path.join(around, name) for around, folders, _ in os.walk(top) for name in sorted(folders))
    return next(filter(os.path.islink, chain([top], below)), None)


def check_output(array: Any, spec: OutputSpec) -> None:
    """Raise ValueError when an array cannot take the labels of these blocks."""
    if tuple(array.shape) != spec.shape or np.dtype(array.dtype) != np.int32 or array.fill_value != 0:
        raise ValueError(
            f"output must be int32 of shape {spec.shape} with fill value 0, got {array.dtype} of shape "
            f"{tuple(array.shape)} with fill value {array.fill_value}"
        )
    check_grid(array, "output")
    unit = stored_shape(array)
    if any(b % u and b < s for b, u, s in zip(spec.block_shape, unit, spec.shape, strict=True)):
        raise ValueError(
            f"block_shape {spec.block_shape} must be a multiple of the output's chunks or shards {unit}, or two tasks "
            "would write the same one"
        )
