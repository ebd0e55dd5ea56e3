"""Inputs: a caller may give an open array, or the path or URL of an array or an OME-Zarr image."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .addresses import absolute, check_protocol, is_url
from .chunk_form import document_of
from .first_axis import without_first_axis
from .multiscales import Placement, find_dataset, find_image, read_axes, read_level, read_multiscales
from .nodes import WRITE_ONCE, MetadataError, open_node, readable
from .persistent import impatient, persistent
from .retries import in_order, in_parallel, is_local

if TYPE_CHECKING:
    import zarr

_PARENTS = 3  # groups above an array that may hold the metadata of its image: paths like "scale0/image" have two


def open_input(array: Any, name: str, level: int | None = None) -> "tuple[Any, Placement | None]":
    """Open a zarr array for reading, and find its place in space if OME-Zarr metadata tell it.

    Parameters
    ----------
    array : path, URL or zarr.Array
        An array, or an OME-Zarr multiscale image, of which one level is taken. An open array has a place if its store
        holds the image that it belongs to. An axis of time of an image must have length 1, and is left out.
    name : str
        Name of the argument, for messages.
    level : int, optional
        Level of a multiscale image, 0 by default; for an array only 0 is allowed.

    Returns
    -------
    array : zarr.Array
        Open for reading, axes (z, y, x) or (channel, z, y, x) if it belongs to a multiscale image.
    placement : Placement or None
        Edges of a voxel and centre of the first one.

    Raises
    ------
    TypeError
        When `array` is neither a zarr array nor the place of one.
    FileNotFoundError, NotADirectoryError
        When there is nothing at the path, or when there is a file.
    ImportError, PermissionError, OSError
        When a URL cannot be opened.
    ValueError
        When a path is empty; when a group is no multiscale image, its metadata cannot be used, its last axes are not
        z, y, x, it has several time points, or it has no such level; when a level other than 0 is asked of an array.
    """
    import zarr

    if not isinstance(array, str | os.PathLike | zarr.Array):
        raise TypeError(f"{name} must be a path, a URL or a zarr.Array, got {type(array).__name__}{_way_in(array)}")
    try:
        node = absolute_node(array) if isinstance(array, zarr.Array) else _node_at(os.fspath(array), name)
        if isinstance(node, zarr.Array):
            if level:
                raise ValueError(f"{name} is an array and has no levels; give the path of the image, or no level")
            return _placed(node, name)
        multiscale = read_multiscales(node)
    except (FileNotFoundError, MetadataError, NotADirectoryError) as error:
        raise type(error)(f"{name}: {error}") from error
    if multiscale is None:
        inside = _names_inside(node) if node.store.supports_listing else "..."
        raise ValueError(
            f"{name}: {array} is a group without multiscales; give one of the images or arrays in it: {inside}"
        )
    levels, number = multiscale.levels, level or 0
    if not 0 <= number < len(levels):
        raise ValueError(f"level must be at least 0 and below {len(levels)}, the number of levels; got {level!r}")
    return as_volume(node[levels[number].path], multiscale.axes, name), levels[number].placement


def _node_at(place: str, name: str) -> Any:
    if not place:
        raise ValueError(f"{name} must be a path or a URL, got ''; . is this folder")
    check_protocol(url := absolute(place), name)
    try:
        return open_node(place)
    except (FileNotFoundError, MetadataError, NotADirectoryError, TypeError, ValueError):
        raise
    except Exception as error:
        if not is_url(url):
            raise
        # Clients of stores name neither the argument nor the URL.
        denied = isinstance(error, PermissionError) or "Credentials" in type(error).__name__
        raise (PermissionError if denied else OSError)(f"{name} {url} cannot be opened: {error}") from error


def _way_in(array: Any) -> str:
    """What the user can do with an array that is not one of zarr, for the message."""
    if type(array).__module__.partition(".")[0] == "dask":
        return " of dask: write it with to_zarr, or see run_instance_segmentation"
    if hasattr(array, "shape") and hasattr(array, "dtype"):
        return f": run_instance_segmentation takes what fits into memory; or {WRITE_ONCE}"
    return ""


def absolute_node(node: Any) -> Any:
    """The same array or group, opened by an absolute path, which means the same in every working directory.

    A node that was opened by a URL of files is opened by its path too: there links and permissions are checked, and one
    look tells that a chunk is missing.
    """
    import zarr
    from fsspec.implementations.local import LocalFileSystem
    from zarr.storage import FsspecStore, LocalStore, ZipStore

    store = node.store
    if isinstance(store, ZipStore):
        if store.path.is_absolute() or not node.read_only:  # an archive that is being written has one writer
            return node
        return zarr.open(ZipStore(_place_of_archive(store), mode="r"), path=node.path, mode="r")
    if isinstance(store, LocalStore):
        if store.root.is_absolute():
            return node
        root = store.root.absolute()
    elif isinstance(store, FsspecStore) and type(getattr(store.fs, "sync_fs", None)) is LocalFileSystem:
        root = Path(store.path)
    else:
        return node
    mode: Any = "r" if node.read_only else "r+"
    return zarr.open(LocalStore(root, read_only=store.read_only), path=node.path, mode=mode)


def _place_of_archive(store: Any) -> Path:
    # The archive stays open when the working directory changes, and another one may have its path there.
    place: Path = store.path.absolute()
    held = getattr(getattr(store, "_zf", None), "fp", None)  # None if it is closed
    if held is not None and not (place.exists() and os.path.samestat(os.fstat(held.fileno()), place.stat())):
        raise FileNotFoundError(f"{place} is not the archive that is open as {store.path}: open it by its whole path")
    return place


def sees(array: Any) -> bool:
    """Whether the metadata of an array can be found from where this code runs."""
    from zarr.core.sync import sync

    return bool(sync((array.store_path / document_of(array)).exists()))


def open_prediction(
    semantic: Any, flow: Any, level: int | None = None
) -> "tuple[Any, Any, Placement | None, Placement | None]":
    """Open foreground and flow, see `open_input`: the two arrays, then the place in space of each, or None."""
    (opened, place), (opened_flow, place_of_flow) = in_parallel(
        lambda: open_input(semantic, "semantic", level), lambda: open_input(flow, "flow", level)
    )
    return opened, opened_flow, place, place_of_flow


def open_labels(array: Any, name: str, level: int | None = None) -> Any:
    """Open labels, see `open_input`; an axis of channels of length 1 of an OME-Zarr image is left out too."""
    labels, place = open_input(array, name, level)
    return without_first_axis(labels, name) if place is not None and labels.shape[:-3] == (1,) else labels


def check_axes(axes: tuple[str, ...], name: str) -> None:
    """Raise ValueError when axes named z, y and x are not the last three in that order."""
    if {"z", "y", "x"} <= set(axes) and axes[-3:] != ("z", "y", "x"):
        raise ValueError(f"{name}: the last three axes must be z, y, x; got {axes}")


def check_named_axes(array: Any, name: str) -> None:
    """Do as `check_axes` with the axis names in the metadata of a zarr array, if it has any."""
    if axes := getattr(array.metadata, "dimension_names", None):
        check_axes(tuple((axis or "").lower() for axis in axes), name)


def as_volume(array: Any, axes: tuple[str, ...], name: str) -> Any:
    """The array of an image with axes (z, y, x) or (channel, z, y, x). An axis of time of length 1 is left out.

    Raises
    ------
    ValueError
        When the last axes are not z, y, x, or there are several time points.
    """
    several_channels = axes[-3:-2] in (("c",), ("channel",)) and tuple(array.shape[-3:-2]) > (1,)  # of one plane
    if len(axes) < 3 or several_channels:
        raise ValueError(f"{name}: the last three axes must be z, y, x; got {axes}")
    check_axes(axes, name)
    times = [k for k, axis in enumerate(axes) if axis in ("t", "time")]
    if not times or array.ndim < len(axes):  # the axis has been left out before
        return array
    if times != [0] or array.shape[0] != 1:
        shape = tuple(array.shape)
        raise ValueError(
            f"{name} has a time axis of length {shape[times[0]]}, shape {shape} along {axes}; it must be the first "
            "axis, and 1 long: write each time point as an array of its own, (z, y, x) or (channel, z, y, x)"
        )
    return without_first_axis(array, name)


def _attributes_above(store: Any, path: str) -> Mapping[str, Any]:
    # The attributes of a group of the same file system or object store, which may lie above the root of this store
    # object. Empty where there is no group, where there is an array, and where nothing may be read: access to a bucket
    # may be limited to one prefix.
    import zarr
    from zarr.storage import FsspecStore, LocalStore

    how: dict[str, Any] = {"mode": "r"}
    if isinstance(store, FsspecStore):
        store = persistent(FsspecStore(store.fs, read_only=True, path=path))
    elif isinstance(store, LocalStore):
        store = path
    else:
        how["path"] = path
    try:
        return dict(zarr.open_group(store, **how).attrs)
    except (FileNotFoundError, PermissionError, zarr.errors.NodeNotFoundError):
        return {}
    except zarr.errors.ContainsArrayError:
        zarr.open_array(store, **how)  # metadata of a group may be damaged to look like those of an array
        return {}


def _placed(array: "zarr.Array[Any]", name: str) -> "tuple[zarr.Array[Any], Placement | None]":
    """The array as a volume, and its place in space if it is a level of an image in a group above it."""
    from zarr.storage import FsspecStore, LocalStore

    store, inner = impatient(array.store), ""
    root = str(store.root) if isinstance(store, LocalStore) else store.path if isinstance(store, FsspecStore) else ""
    group, above = "/".join(part for part in (root.rstrip("/"), array.path) if part), []
    for _ in range(_PARENTS):
        group, _, last = group.rpartition("/")
        inner = f"{last}/{inner}".rstrip("/")
        if not last or (root and not group) or group.endswith(":/"):  # above the host of http://host
            break
        above.append((group, inner))

    def attributes_of(place: tuple[str, str]) -> Mapping[str, Any]:
        with readable(place[0]):
            return _attributes_above(store, place[0])

    found_above = map(attributes_of, above) if is_local(store) else in_order(attributes_of, above, _PARENTS)
    for (group, inner), attributes in zip(above, found_above, strict=True):
        if (found := find_dataset(attributes, inner)) is not None:
            number, dataset = found
            image = find_image(attributes, group, number)
            assert image is not None
            return as_volume(array, read_axes(image)[0], name), read_level(dataset, image, group).placement
    check_named_axes(array, name)
    return array, None


def _names_inside(group: "zarr.Group") -> list[str]:
    # Names that the user may have meant instead: arrays and images, and in the output of a run its labels.
    labels = dict(group.groups()).get("labels")
    names = [] if labels is None else [f"labels/{key}" for key in sorted(labels.keys())]
    return [*names, *(key for key in sorted(group.keys()) if key != "labels" or not names)][:8]
