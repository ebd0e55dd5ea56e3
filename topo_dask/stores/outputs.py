"""Outputs: created exclusively, recognised as ours, never mixed up with what somebody else wrote."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..blocks.geometry import Triple

MARK = "topo_dask"
"""Attribute that says that an array was written by this package."""


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
        Path or URL of the group; None for an array or group that is not on a file system.
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
        return Target(os.fspath(output))
    if not isinstance(output, (zarr.Group, zarr.Array)):
        raise TypeError(f"output must be a path, a URL, a zarr.Group or a zarr.Array, got {type(output).__name__}")
    if isinstance(output, zarr.Array) and len(list(class_names)) != 1:
        raise ValueError(f"output is one array but there are several classes: {sorted(class_names)}; give a group")
    root = getattr(output.store, "root", None)
    path = output.path
    return Target(None if root is None else os.path.join(str(root), path) if path else str(root), output)


def open_output(target: Target, name: str, spec: OutputSpec, *, resume: bool, overwrite: bool) -> Any:
    """Create the array of one class, or open it to go on.

    Raises
    ------
    FileExistsError
        When something is there that `resume` or `overwrite` does not allow to be used.
    ValueError
        When an array that was given, or that an earlier run made, does not fit the run.
    """
    import zarr
    from zarr.codecs import ZstdCodec

    if isinstance(target.node, zarr.Array):
        check_output(target.node, spec)
        return target.node
    group = _open_group(target)
    if name in group:
        old = group[name]
        if not isinstance(old, zarr.Array) or MARK not in old.attrs:
            raise FileExistsError(
                f"output {name!r} in {target.url} exists and was not written by topo_dask: choose another"
            )
        if resume:
            check_output(old, spec)
            return old
        if not overwrite:
            raise FileExistsError(f"output {name!r} in {target.url} exists: pass overwrite=True to replace it")
        del group[name]
    return group.create_array(
        name,
        shape=spec.shape,
        chunks=spec.chunks,
        dtype=np.int32,
        fill_value=0,
        compressors=ZstdCodec(level=1, checksum=True),
        attributes={MARK: {"kind": "labels", "class": name}},
        dimension_names=("z", "y", "x"),
    )


def _open_group(target: Target) -> Any:
    import zarr

    if target.node is not None:
        return target.node
    assert target.url is not None
    if "://" not in target.url and os.path.exists(target.url):
        folder = os.listdir(target.url) if os.path.isdir(target.url) else ["?"]
        if folder and not {"zarr.json", ".zgroup"} & set(folder):
            raise FileExistsError(f"output {target.url} exists and is no zarr group: choose another path")
    try:
        return zarr.open_group(target.url, mode="a")
    except (OSError, ValueError) as error:
        raise type(error)(f"output {target.url} can not be opened as a zarr group: {error}") from error


def check_output(array: Any, spec: OutputSpec) -> None:
    """Raise ValueError when an array can not take the labels of these blocks."""
    if tuple(array.shape) != spec.shape or np.dtype(array.dtype) != np.int32 or array.fill_value != 0:
        raise ValueError(
            f"output must be int32 of shape {spec.shape} with fill value 0, got {array.dtype} of shape "
            f"{tuple(array.shape)} with fill value {array.fill_value!r}"
        )
    unit = tuple(array.shards or array.chunks)
    if any(b % u and b < s for b, u, s in zip(spec.block_shape, unit, spec.shape, strict=True)):
        raise ValueError(
            f"block_shape {spec.block_shape} must be a multiple of the output's chunks or shards {unit}, or two tasks "
            "would write the same one"
        )
