"""Outputs: looked at before anything is written, created exclusively, never mixed up with what somebody else wrote."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..blocks.geometry import Triple

MARK = "topo_dask"
"""Attribute that says that an array was written by this package, and by which run."""

_PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial$")


@dataclass(frozen=True)
class OutputSpec:
    """Shape of an output array, and the blocks in which it will be written."""

    shape: Triple
    block_shape: Triple
    chunks: Triple


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
    def is_array(self) -> bool:
        """Whether an array was given."""
        import zarr

        return isinstance(self.node, zarr.Array)

    @property
    def is_in_memory(self) -> bool:
        """Whether the labels go to the memory of this process."""
        from zarr.storage import MemoryStore

        return self.node is not None and isinstance(self.node.store, MemoryStore)


def locate_output(output: Any, class_names: Iterable[str]) -> Target:
    """Find out what kind of output was given.

    Raises
    ------
    TypeError
        When it is neither a path, a URL, a group nor an array.
    ValueError
        When one array is given for several classes.
    """
    import zarr

    if isinstance(output, (str, os.PathLike)):
        return Target(absolute(os.fspath(output)))
    if not isinstance(output, (zarr.Group, zarr.Array)):
        raise TypeError(f"output must be a path, a URL, a zarr.Group or a zarr.Array, got {type(output).__name__}")
    if isinstance(output, zarr.Array) and len(list(class_names)) != 1:
        raise ValueError(f"output is one array but there are several classes: {sorted(class_names)}; give a group")
    root = getattr(output.store, "root", None)
    path = output.path
    return Target(None if root is None else absolute(os.path.join(str(root), path)), output)


def absolute(url: str) -> str:
    """The same place for every process, whatever its working directory."""
    return url if "://" in url else os.path.abspath(url)


def check_outputs(
    target: Target, names: Iterable[str], spec: OutputSpec, run: str | None, *, resume: bool, overwrite: bool
) -> None:
    """Refuse an output that can not take the labels; nothing is written.

    Parameters
    ----------
    target : Target
        Where the labels go.
    names : iterable of str
        Classes.
    spec : OutputSpec
        What each array must fit.
    run : str, optional
        Name of the run that goes on, if `resume`.
    resume, overwrite : bool
        What may be done with arrays that are there.

    Raises
    ------
    FileExistsError
        When something is there that `resume` or `overwrite` does not allow to be used.
    PermissionError
        When the group or the array given can only be read.
    ValueError
        When an array that was given, or that an earlier run made, does not fit the run.
    """
    if target.node is not None and target.node.read_only:
        raise PermissionError("output is open for reading only: open it with mode='r+'")
    if target.is_array:
        check_output(target.node, spec)
        if not (resume or overwrite) and target.node.nchunks_initialized:
            raise FileExistsError("output is an array that is not empty: pass overwrite=True to replace what it holds")
        return
    group = _existing_group(target)
    for name in names:
        if group is not None and name in group:
            _check_old(group[name], f"output {name!r} in {target.url or group.store}", spec, run, resume, overwrite)


def _check_old(old: Any, what: str, spec: OutputSpec, run: str | None, resume: bool, overwrite: bool) -> None:
    import zarr

    if not isinstance(old, zarr.Array) or MARK not in old.attrs:
        raise FileExistsError(f"{what} exists and was not written by topo_dask: choose another")
    if overwrite:
        return
    if not resume:
        raise FileExistsError(f"{what} exists: pass overwrite=True to replace it")
    mark = old.attrs[MARK]
    if not isinstance(mark, dict) or mark.get("run") != run:
        raise FileExistsError(f"{what} was written by another run: pass overwrite=True to begin again")
    check_output(old, spec)


def _existing_group(target: Target, mode: Literal["r", "r+"] = "r") -> Any:
    # The group that is there, or None where there is nothing.
    import zarr

    if target.node is not None:
        return target.node
    assert target.url is not None
    local = "://" not in target.url
    if local and not os.path.lexists(target.url):
        return None
    if local and not os.path.isdir(target.url):
        raise FileExistsError(f"output {target.url} exists and is no zarr group: choose another path")
    try:
        return zarr.open_group(target.url, mode=mode)
    except FileNotFoundError:
        if local and os.listdir(target.url):
            raise FileExistsError(f"output {target.url} exists and is no zarr group: choose another path") from None
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"output {target.url} can not be opened as a zarr group: {error}") from error


def holds(target: Target, name: str) -> bool:
    """Whether the group of the output has an array of this name; never so for an array that was given."""
    group = None if target.is_array else _existing_group(target)
    return group is not None and name in group


def open_output(target: Target, name: str, spec: OutputSpec, run: str, *, resume: bool) -> Any:
    """Create the array of one class, or open it to go on; `check_outputs` has been called."""
    import numcodecs
    import zarr
    from zarr.codecs import ZstdCodec

    if target.is_array:
        if not resume:
            _clear(target.node, spec)
        return target.node
    group = target.node if target.node is not None else zarr.open_group(target.url, mode="a")
    if name in group:
        if resume:
            _sweep(target, name)
            return group[name]
        del group[name]
    is_v3 = group.metadata.zarr_format == 3
    return group.create_array(
        name,
        shape=spec.shape,
        chunks=spec.chunks,
        dtype=np.int32,
        fill_value=0,
        compressors=(ZstdCodec if is_v3 else numcodecs.Zstd)(level=1, checksum=True),
        attributes={MARK: {"kind": "labels", "class": name, "run": run}},
        dimension_names=("z", "y", "x") if is_v3 else None,
    )


def _sweep(target: Target, name: str) -> None:
    # Chunks that a killed process was writing: zarr gives them their name when they are whole.
    if target.url is not None and "://" not in target.url:
        for folder, _, files in os.walk(os.path.join(target.url, name)):
            for file in filter(_PARTIAL.search, files):
                os.remove(os.path.join(folder, file))


def check_owned(target: Target, name: str, run: str) -> None:
    """Raise RuntimeError when another run has replaced the array since this one opened it."""
    if target.is_array:
        return
    group = _existing_group(target)
    mark = group[name].attrs.get(MARK) if group is not None and name in group else None
    if not isinstance(mark, dict) or mark.get("run") != run:
        raise RuntimeError(
            f"output {name!r} in {target.url or target.node.store} was replaced by another run while this one was at "
            "work: give each run an output of its own"
        )


def mark_complete(target: Target, name: str) -> None:
    """Say in the mark of an array that its labels are whole; an array that was given has no mark."""
    if not target.is_array:
        attributes = _existing_group(target, "r+")[name].attrs
        attributes[MARK] = {**attributes[MARK], "complete": True}


def read_marks(url: str) -> dict[str, dict[str, Any]]:
    """Mark of each array of labels in a group, by class; empty where there is no group."""
    group = _existing_group(Target(absolute(url)))
    marks = {} if group is None else {name: node.attrs.get(MARK) for name, node in group.members()}
    return {name: mark for name, mark in marks.items() if isinstance(mark, dict)}


def _clear(array: Any, spec: OutputSpec) -> None:
    # Blocks without foreground are not written: what an earlier run left there would stay.
    if array.nchunks_initialized:
        for at in range(0, spec.shape[0], spec.block_shape[0]):
            array[at : at + spec.block_shape[0]] = 0


def check_output(array: Any, spec: OutputSpec) -> None:
    """Raise ValueError when an array can not take the labels of these blocks."""
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
