"""What can be looked at: images, labels and flow in zarr, with their levels and the size of their voxels."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import Box, Triple
from ..blocks.sampling import sample_boxes
from ..doubts import EDGE, LARGEST_CHUNK, chunk_bytes
from ..stores.checked import CheckedArray
from ..stores.foreign import MARK
from ..stores.inputs import as_volume, open_input
from ..stores.marks import mark_of
from ..stores.multiscales import Placement, VoxelSize, read_multiscales
from ..stores.nodes import open_node

Kind = Literal["image", "labels", "flow"]

MOST_CHANNELS = 12
"""Most channels of one array, for each of which a layer is made."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One volume to look at; nothing is read before `read` is called.

    Parameters
    ----------
    kind : {"image", "labels", "flow"}
    name : str
        Name to show.
    levels : tuple of CheckedArray
        Arrays from fine to coarse, axes (z, y, x) or (channel, z, y, x); those of zarr
        whose packing cannot be checked are read as they are.
    placement : Placement, optional
        Where the finest level lies in space.
    channel : int or slice, optional
        Channel of an array of four axes; for a flow, its three.
    folder : str
        The part of the path before the name.
    """

    kind: Kind
    name: str
    levels: tuple[Any, ...]
    placement: Placement | None = None
    channel: int | slice | None = None
    folder: str = ""

    @property
    def voxel_size_nm(self) -> VoxelSize | None:
        """Edges of a voxel of the finest level along z, y, x; None if they are unknown."""
        return None if self.placement is None else self.placement.voxel_size_nm

    @property
    def edges(self) -> tuple[VoxelSize, str]:
        """Edges of a voxel of the finest level along z, y, x, and their unit: "nm", or "" where metadata tell none."""
        place, size = self.placement or Placement(), self.voxel_size_nm
        return (place.scale, "") if size is None else (size, "nm")

    def shape(self, level: int = 0) -> Triple:
        """Shape of a level in voxels."""
        z, y, x = self.levels[level].shape[-3:]
        return int(z), int(y), int(x)

    def factors(self, level: int) -> tuple[float, ...]:
        """Voxels of the finest level along each edge of a voxel of `level`, rounded to integers."""
        return tuple(float(round(a / b)) or 1.0 for a, b in zip(self.shape(), self.shape(level), strict=True))

    def read(self, box: Box, level: int = 0) -> NDArray[Any]:
        """Voxels of a box of a level; with a leading axis of three components for a flow."""
        return read_channel(self.levels[level], self.channel, box.slices)


def read_channel(array: Any, channel: int | slice | None, index: tuple[slice, ...]) -> NDArray[Any]:
    """Voxels of a channel of an array, or of some channels; None for an array without channels."""
    if isinstance(channel, int):
        voxels: NDArray[Any] = np.asarray(array[(slice(channel, channel + 1), *index)])[0]
        return voxels
    return np.asarray(array[index if channel is None else (channel, *index)])


@dataclass(frozen=True, eq=False)
class Crop:
    """Array in memory that holds a box of a larger volume; indices are those of the volume.

    Parameters
    ----------
    values : ndarray, shape of the box
    box : Box
    shape : tuple of 3 int
        Shape of the volume.

    Examples
    --------
    >>> crop = Crop(np.array([[[7, 8]]]), Box((0, 0, 10), (1, 1, 12)), (1, 1, 20))
    >>> crop[0:1, 0:1, 11:12]
    array([[[8]]])
    """

    values: NDArray[Any]
    box: Box
    shape: Triple

    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        starts = tuple(part.start for part in index), tuple(part.stop for part in index)
        return self.values[Box(*starts).within(self.box)]


def find_layers(where: str | os.PathLike[str]) -> list[Layer]:
    """Layers at a path or URL: an array, an OME-Zarr image with its labels, its group of labels, or a run's output.

    Metadata tell whether an array is an image, labels or a flow. Without them its type decides: integers of 4 or more
    bytes are labels; three floating-point channels for each class are a flow, unless no value in a few boxes is
    negative; anything else is an image. ``image=PATH``, ``labels=PATH`` and ``flow=PATH`` override both.

    Raises
    ------
    FileNotFoundError
        When there is nothing at the path.
    ValueError
        When there is nothing that can be shown, or an array does not have three axes of space.
    """
    text = os.fspath(where)
    kind, separator, path = text.partition("=")
    if separator and kind.isalpha() and kind not in get_args(Kind) and not os.path.lexists(text):
        raise ValueError(f"what an array holds is told by {', '.join(get_args(Kind))}; got {kind!r} in {text!r}")
    told = kind if separator and kind in get_args(Kind) else None
    path = (path if told else text).rstrip("/")
    found = list(_layers(path, told))
    if not found:
        raise ValueError(f"{path} has no image, no labels and no flow: give the path of an array in it")
    return found


def tell_apart(layers: Sequence[Layer]) -> list[Layer]:
    """The layers with different names: equal names get more of their path in front, and a number if all of it is equal.

    Examples
    --------
    >>> paths = [("raw", "a"), ("raw", "b"), ("raw", "b"), ("flow", "b")]
    >>> [layer.name for layer in tell_apart([Layer("image", name, (), folder=folder) for name, folder in paths])]
    ['a/raw', 'b/raw', 'b/raw (2)', 'flow']
    """
    folders = defaultdict(set)
    for layer in layers:
        folders[layer.name].add(layer.folder)
    if any(len(several) > 1 for several in folders.values()):
        return tell_apart([_lengthen(layer) if len(folders[layer.name]) > 1 else layer for layer in layers])
    seen: Counter[str] = Counter()
    named = []
    for layer in layers:
        seen[layer.name] += 1
        n = seen[layer.name]
        named.append(layer if n == 1 else replace(layer, name=f"{layer.name} ({n})"))
    return named


def _lengthen(layer: Layer) -> Layer:
    rest, _, last = layer.folder.rpartition("/")
    return replace(layer, name=f"{last}/{layer.name}", folder=rest) if layer.folder else layer


def _layers(path: str, kind: Any) -> Iterator[Layer]:
    node = open_node(path)
    if hasattr(node, "shape"):
        array, placement = open_input(node, path)
        yield from _stated(_channels(path, kind, (array,), placement, node.attrs), node, path)
        return
    multiscale = read_multiscales(node)
    if multiscale is not None:
        levels = tuple(as_volume(node[level.path], multiscale.axes, path) for level in multiscale.levels)
        yield from _stated(_channels(path, kind, levels, multiscale.levels[0].placement, node.attrs), node, path)
    elif os.path.basename(os.path.abspath(path)) == "labels":
        kind = kind or "labels"
    for name, child in sorted(node.members()):
        ours = hasattr(child, "shape") and MARK in child.attrs
        if (ours and multiscale is None) or name == "labels":
            yield from _layers(f"{path}/{name}", None if ours else "labels")
        elif kind == "labels" and not hasattr(child, "shape"):
            yield from _layers(f"{path}/{name}", "labels")


def _stated(layers: Iterator[Layer], node: Any, path: str) -> Iterator[Layer]:
    mark = mark_of(node, path)
    state = "" if mark is None or mark.get("complete") else " (unfinished)"
    for layer in layers:
        yield replace(layer, name=layer.name + state)


def _channels(
    path: str, kind: Any, levels: tuple[Any, ...], placement: Placement | None, attributes: Mapping[str, Any]
) -> Iterator[Layer]:
    first = levels[0]
    if first.ndim not in (3, 4):
        raise ValueError(f"{path} must have axes (z, y, x) or (channel, z, y, x), got shape {tuple(first.shape)}")
    levels = tuple(_checked(level, path) for level in levels)
    first = levels[0]
    kind = kind or _guess(first, attributes)
    parts, n = path.split("/"), 2 if kind == "labels" else 1
    folder, name = "/".join(parts[:-n]), "/".join(parts[-n:])
    if first.ndim == 3:
        if kind == "flow":
            raise ValueError(f"{path} must have 3 channels a class to be a flow, got shape {tuple(first.shape)}")
        yield Layer(kind, name, levels, placement, folder=folder)
        return
    width = 3 if kind == "flow" else 1
    if first.shape[0] % width or first.shape[0] > width * MOST_CHANNELS:
        raise ValueError(
            f"{path} has {first.shape[0]} channels: as {kind} it may have {width} each of up to {MOST_CHANNELS} classes"
        )
    for c in range(first.shape[0] // width):
        called = name if first.shape[0] == width else f"{name} {c}"
        yield Layer(kind, called, levels, placement, slice(3 * c, 3 * c + 3) if kind == "flow" else c, folder)


def _checked(array: Any, path: str) -> Any:
    # A viewer is open for long: it must not show background when the array was moved or replaced meanwhile.
    try:
        return CheckedArray(array, path, "background")
    except ValueError:
        return array


def _guess(array: Any, attributes: Mapping[str, Any]) -> Kind:
    ome = attributes.get("ome", attributes)
    dtype = np.dtype(array.dtype)
    if MARK in attributes or (isinstance(ome, Mapping) and "image-label" in ome):
        return "labels"
    if dtype.kind == "f" and array.ndim == 4 and array.shape[0] % 3 == 0 and not _looks_like_foreground(array):
        return "flow"
    return "labels" if dtype.kind in "iu" and dtype.itemsize >= 4 else "image"


def _looks_like_foreground(array: Any) -> bool:
    # Some components of vectors are negative, probabilities of three classes never. Where all is 0, nothing is known.
    if chunk_bytes(array) > LARGEST_CHUNK:
        return False
    boxes = sample_boxes(array.shape[-3:], array.chunks[-3:], EDGE)
    values = [np.asarray(array[(slice(None), *box.slices)]) for box in boxes]
    return any(part.any() for part in values) and all((part >= 0).all() for part in values)
