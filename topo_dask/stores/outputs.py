"""Outputs, looked at before anything is written: what is there, whose it is, and whether the labels fit.

::

    OUTPUT/NAME                   plain: one array a class
    OUTPUT/labels/NAME/0, 1, ...  OME-Zarr: one group a class, and in it the levels of the pyramid
"""

import os
import warnings
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..blocks.geometry import Triple
from .foreign import MARK, is_half, leftover_file, unknown_files, unmarked_members
from .inputs import absolute_node
from .persistent import impatient, persistent, store_at
from .pyramids import LABELS, Pyramid, version_of
from .retries import in_parallel


@dataclass(frozen=True)
class OutputSpec:
    """Shape of the labels, the blocks in which they will be written, and their pyramid; None for plain arrays."""

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
        """Path of each array of a class, the finest level first, and what it must fit."""
        if self.pyramid is None:
            yield name, self
            return
        for level, shape in enumerate(self.pyramid.shapes(self.shape)):
            yield f"{self.place(name)}/{level}", OutputSpec(shape, self.block_shape, self.chunks)


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

    @property
    def locks(self) -> str | None:
        """Folder of the locks of the output, one by whatever links it is named; None where it has no path or URL."""
        if self.url is None:
            return None
        url = self.url.rstrip("/")
        return f"{url if '://' in url else os.path.realpath(url)}.lock"

    @property
    def is_array(self) -> bool:
        """Whether an array was given."""
        import zarr

        return isinstance(self.node, zarr.Array)

    @property
    def is_in_memory(self) -> bool:
        """Whether the labels go to the memory of this process."""
        from zarr.storage import MemoryStore

        if self.node is None:
            return is_memory(self.url)
        return isinstance(self.node.store, MemoryStore) or is_memory(place_of(self.node))


def locate_output(output: Any) -> Target:
    """Find out what kind of output was given; TypeError when it is neither a path, a URL, a group nor an array."""
    import zarr

    if isinstance(output, (str, os.PathLike)):
        return Target(absolute(os.fspath(output)))
    if not isinstance(output, (zarr.Group, zarr.Array)):
        raise TypeError(f"output must be a path, a URL, a zarr.Group or a zarr.Array, got {type(output).__name__}")
    output = absolute_node(output)
    return Target(url_of(output), output)


def url_of(node: Any) -> str | None:
    """Absolute path or URL of an array or group; None for one that is not on a file system."""
    root = getattr(node.store, "root", None)
    return None if root is None else absolute(os.path.join(str(root), node.path))


def place_of(node: Any) -> str | None:
    """Where an array or group is, also on an object store, whose URL leaves out how it is reached; None if unknown."""
    from zarr.storage import FsspecStore

    store = impatient(node.store)
    if isinstance(store, FsspecStore):
        return str(store.fs.unstrip_protocol(f"{store.path}/{node.path}"))
    return url_of(node)


def is_memory(place: str | None) -> bool:
    """Whether a path or URL is of fsspec's file system in the memory of a process."""
    return place is not None and place.startswith("memory:")


def nested(one: str, other: str) -> bool:
    """Whether one of two places is the other or lies in it, by whatever links they are named."""
    paths = [f"{os.path.realpath(url) if '://' not in url else url.rstrip('/')}/" for url in (one, other)]
    return paths[0].startswith(paths[1]) or paths[1].startswith(paths[0])


def absolute(url: str) -> str:
    """The same place for every process, whatever its working directory; a path for a URL of files of this machine."""
    url = url.removeprefix("file://")
    return url if "://" in url else os.path.abspath(os.path.expanduser(url))


def check_outputs(
    target: Target,
    group: Any,
    names: Collection[str],
    spec: OutputSpec,
    run: str | None,
    replace: Collection[str],
) -> None:
    """Refuse an output that cannot take the labels; nothing is written.

    Parameters
    ----------
    target : Target
        Where the labels go.
    group : zarr.Group, optional
        What is there now, see `existing_group`.
    names : collection of str
        Classes.
    spec : OutputSpec
        What the arrays of each must fit.
    run : str, optional
        Name of the run that goes on, with arrays that are there; None for one that begins.
    replace : collection of str
        Classes whose labels may be replaced, if they are not of the run that goes on.

    Raises
    ------
    FileExistsError
        When something is there that is neither of the run nor to be replaced, when there are labels of a class in the
        other layout and they are not to be replaced, or when the output is, or lies in, what a run wrote into
        another output.
    PermissionError
        When the group or array given can only be read.
    ValueError
        When the store cannot replace what it holds, when one array is given for several classes, when an array that
        was given, or that an earlier run made, does not fit the run, or when a group has the zarr format of another
        version of OME-Zarr.
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
        check_output(target.node, spec)
        if not (run or replace) and target.node.nchunks_initialized:
            raise FileExistsError("output is an array that is not empty: pass overwrite=True to replace what it holds")
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
            if _check_old(group, place, f"output {place!r} in {where}", run, name in replace):
                for path, fits in spec.levels(name):
                    if path in group:
                        check_output(group[path], fits)
        elif (stray := leftover_file(group, place)) is not None:
            raise FileExistsError(
                f"output {place!r} in {where} is no array or group but holds {stray!r}: remove it or choose another"
            )


def _check_no_labels(target: Target, group: Any) -> None:
    # Labels with others in them cannot be replaced any more.
    import zarr

    for folder, around in _groups_of_labels(target):
        names = sorted(name for name, one in _members(around) if isinstance(one, zarr.Group) and MARK in one.attrs)
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
    # Each group called `labels` that a group for new labels is or lies in, and the path of the one above it.
    if target.url is None or target.is_array:
        return
    parts = (target.url if "://" in target.url else os.path.realpath(target.url)).split("/")
    for at, part in enumerate(parts):
        if part == LABELS:
            folder, found = "/".join(parts[:at]), []
            with suppress(OSError, ValueError):  # no zarr group, or none that can be opened
                found = [existing_group(Target(place)) for place in (folder, f"{folder}/{part}")]
            if found and None not in found:
                yield folder, found[1]


def _members(group: Any) -> list[tuple[str, Any]]:
    # Zarr warns of whatever else lies in a folder, such as the tables and scratch of a run.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Object at .* is not recognized as a component of a Zarr hierarchy")
        return list(group.members())


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
    # Who asks for the labels of a class must not have to choose between two.
    if not replace:
        raise FileExistsError(
            f"output {where} has labels of {name!r} in the other layout, {other!r}: pass overwrite=True to replace "
            "them, or choose another"
        )
    _check_old(group, other, f"output {other!r} in {where}", None, replace=True)


def has_labels(group: Any, place: str) -> bool:
    """Whether a run has written labels at a place of a group."""
    return place in group and MARK in group[place].attrs


def _check_old(group: Any, place: str, what: str, run: str | None, replace: bool) -> bool:
    # Whether the labels are those of the run that goes on.
    import zarr

    old = group[place]
    mark = old.attrs.get(MARK)
    ours = run is not None and isinstance(mark, dict) and mark.get("run") == run
    foreign = unmarked_members(old) if isinstance(old, zarr.Group) else []
    foreign = foreign or (unknown_files(old) if replace else [])
    if MARK not in old.attrs or foreign:
        held = f" holds {foreign[0]!r}, which" if foreign and MARK in old.attrs else " exists and"
        raise FileExistsError(f"{what}{held} was not written by topo_dask: choose another")
    if ours or replace:
        return ours
    if run is not None:
        raise FileExistsError(f"{what} was written by another run: pass overwrite=True to begin again")
    if isinstance(mark, dict) and "scratch" in mark and not mark.get("complete"):
        raise FileExistsError(
            f"{what} is not whole, and no record of its run is in this scratch: if there is one in the scratch it had, "
            f"pass scratch={mark['scratch']} and resume=True to go on; overwrite=True begins again"
        )
    raise FileExistsError(
        f"{what} exists: pass overwrite=True to replace it (resume=True gives back what a run of the same inputs and "
        "parameters has completed)"
    )


def existing_group(target: Target) -> Any:
    """The group that is there, open for reading unless it was given; None where there is nothing, and for an array.

    Consolidated metadata are passed by: they tell of what was there when somebody consolidated them.
    """
    import zarr
    from zarr.errors import ContainsArrayError

    if target.is_array:
        return None
    if target.node is not None:
        mode: Any = "r" if target.node.read_only else "r+"
        return zarr.open_group(persistent(target.node.store), path=target.node.path, mode=mode, use_consolidated=False)
    assert target.url is not None
    local = "://" not in target.url
    if local and not os.path.lexists(target.url):
        return None
    if local and not os.path.isdir(target.url):
        raise FileExistsError(f"output {target.url} exists and is no zarr group: choose another path")
    try:
        try:  # one format after the other: on an object store it takes many looks to know what is absent
            return zarr.open_group(store_at(target.url), mode="r", use_consolidated=False, zarr_format=3)
        except FileNotFoundError:
            return zarr.open_group(store_at(target.url), mode="r", use_consolidated=False, zarr_format=2)
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


def check_owned(target: Target, place: str, run: str) -> None:
    """Raise RuntimeError when another run has replaced what is at a place since this one opened it."""
    if target.is_array:
        return
    group = existing_group(target)
    mark = group[place].attrs.get(MARK) if group is not None and place in group else None
    _check_mark(mark, run, f"output {place!r} in {target.url or target.node.store}")


def check_run(array: Any, run: str) -> None:
    """Raise RuntimeError when an array does not bear the mark of a run, as it is stored now."""
    import zarr

    try:
        # Of the one format: what is absent is looked for many times.
        mark = zarr.open_array(array.store_path, mode="r", zarr_format=array.metadata.zarr_format).attrs.get(MARK)
    except FileNotFoundError:
        mark = None
    _check_mark(mark, run, f"output {array.store_path}")


def _check_mark(mark: Any, run: str, what: str) -> None:
    if not isinstance(mark, dict) or mark.get("run") != run:
        raise RuntimeError(
            f"{what} was replaced by another run while this one was at work: give each run an output of its own"
        )


def read_marks(url: str) -> dict[str, dict[str, Any]]:
    """Mark of all labels in a group by their place in it, plain or OME-Zarr; empty where there is no group."""
    group = existing_group(Target(absolute(url)))
    return {} if group is None else _marks_in(group)


def _marks_in(group: Any) -> dict[str, dict[str, Any]]:
    import zarr

    groups = {"": group, f"{LABELS}/": group.get(LABELS)}
    groups = {inner: node for inner, node in groups.items() if isinstance(node, zarr.Group)}
    marks = {inner + name: node.attrs.get(MARK) for inner, one in groups.items() for name, node in _members(one)}
    return {place: mark for place, mark in marks.items() if isinstance(mark, dict)}


class Found(NamedTuple):
    """Path or URL of labels, and the mark of the run that wrote them; empty where none did, or it is not known."""

    url: str
    mark: dict[str, Any]


def find_labels(url: str, name: str | None = None) -> Found:
    """The labels of a class in the output of a run, OME-Zarr or plain.

    Parameters
    ----------
    url : str
        Path or URL of the output.
    name : str, optional
        Class; the only one by default. Where no run has written, it is `url` itself, an array or an image.

    Raises
    ------
    ValueError
        When none is named and there are several, when there are none of that name but of others, when the class has
        labels in both layouts, or when the run has not finished them.
    """
    try:
        group = existing_group(Target(absolute(url)))
    except FileExistsError:  # an array, or what whoever opens it will refuse
        group = None
    own = _own_mark(url, group)
    name = None if own and own["class"] == name else name
    marks = {} if group is None or own else _marks_in(group)
    names = sorted(set(map(os.path.basename, marks)))
    if name is None and len(names) > 1:
        raise ValueError(f"{url} has labels of {', '.join(names)}: choose one with name=<class>")
    name = next(iter(names), None) if name is None else name
    places = [] if name is None else [place for place in (name, f"{LABELS}/{name}") if place in marks]
    if len(places) > 1:
        raise ValueError(f"{url} has labels of {name!r} in {' and in '.join(places)}: give the path of those you mean")
    mark = marks[places[0]] if places else own
    if mark is not None and not mark.get("complete"):
        raise ValueError(f"labels of {mark['class']!r} in {url} are not whole: the run has not finished them")
    if name is None:
        return Found(url, mark or {})
    candidates = places or [path for path in (f"{LABELS}/{name}", name) if group is not None and path in group]
    if names and not candidates:
        raise ValueError(f"{url} has labels of {', '.join(names)}, and none of {name!r}")
    return Found(f"{url.rstrip('/')}/{next(iter(candidates), name)}", mark or {})


def read_own_mark(url: str) -> dict[str, Any] | None:
    """Mark of the labels that are at a path or URL, or of which a level is; None where there is something else."""
    try:
        group = existing_group(Target(absolute(url)))
    except FileExistsError:
        group = None
    return _own_mark(url, group)


def _own_mark(url: str, group: Any) -> dict[str, Any] | None:
    # Of a group or an array that is the labels of a class.
    import zarr

    node = group
    if node is None:
        with suppress(OSError, ValueError):  # no array either
            node = zarr.open_array(store_at(absolute(url)), mode="r")
    return None if node is None else mark_of(node, url)


def mark_of(node: Any, url: str) -> dict[str, Any] | None:
    """Mark of the labels that a group or array at a path or URL is, or is a level of; None if no run wrote it.

    That labels are whole is said in the mark of their group, and not in those of its levels.
    """
    mark = node.attrs.get(MARK)
    if not isinstance(mark, dict):
        return None
    above, _, level = (url.rstrip("/") if "://" in url else os.path.realpath(os.path.expanduser(url))).rpartition("/")
    if hasattr(node, "shape") and level.isdecimal() and not mark.get("complete"):
        with suppress(OSError, ValueError):  # an array that lies alone
            group = existing_group(Target(above))
            around = None if group is None else group.attrs.get(MARK)
            if isinstance(around, dict) and around.get("run") == mark.get("run"):
                return around
    return mark


def check_output(array: Any, spec: OutputSpec) -> None:
    """Raise ValueError when an array cannot take the labels of these blocks."""
    if tuple(array.shape) != spec.shape or np.dtype(array.dtype) != np.int32 or array.fill_value != 0:
        raise ValueError(
            f"output must be int32 of shape {spec.shape} with fill value 0, got {array.dtype} of shape "
            f"{tuple(array.shape)} with fill value {array.fill_value}"
        )
    unit = tuple(array.shards or array.chunks)
    if any(b % u and b < s for b, u, s in zip(spec.block_shape, unit, spec.shape, strict=True)):
        raise ValueError(
            f"block_shape {spec.block_shape} must be a multiple of the output's chunks or shards {unit}, or two tasks "
            "would write the same one"
        )
