"""A viewer in the browser: Neuroglancer. This process reads each chunk from zarr when it comes into view."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import neuroglancer
import numpy as np
from neuroglancer.local_volume import LocalVolume, MeshesNotSupportedForVolume
from numpy.typing import NDArray

from ..stores.multiscales import Placement
from .layers import Layer, read_channel

MOST_MESHED = 2**25
"""Most voxels of a level from which surfaces are made: that takes the whole level in memory."""

FLOW_SHADER = """
void main() {
  vec3 flow = vec3(getDataValue(2), getDataValue(1), getDataValue(0));
  emitRGB(abs(flow));
}
"""

IMAGE_SHADER = """
#uicontrol invlerp normalized
void main() {
  emitGrayscale(normalized());
}
"""


class _Lazy:
    """One level as an array that reads the voxels asked for, in a type that the viewer knows."""

    def __init__(self, layer: Layer, level: int) -> None:
        array = layer.levels[level]
        leading = (3,) if layer.kind == "flow" else ()
        self.shape = (*leading, *layer.shape(level))
        self.dtype = _shown_as(np.dtype(array.dtype), layer.kind)
        self._layer, self._array = layer, array

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        channel = self._layer.channel
        if isinstance(channel, slice):
            channel = slice(channel.start + int(index[0].start), channel.start + int(index[0].stop))
            index = index[1:]
        return np.ascontiguousarray(read_channel(self._array, channel, index), self.dtype)

    def transpose(self) -> NDArray[Any]:
        """The whole level in memory, axes (x, y, z)."""
        return self[tuple(slice(0, n) for n in self.shape)].T


def _shown_as(dtype: np.dtype[Any], kind: str) -> np.dtype[Any]:
    if kind == "labels":
        return np.dtype("u8" if dtype.itemsize == 8 else "u4")
    if dtype.kind == "f":
        return np.dtype("f4")
    if dtype.kind == "b":
        return np.dtype("u1")
    return np.dtype("f4") if dtype.itemsize == 8 else dtype.newbyteorder("=")


class Pyramid(LocalVolume):  # type: ignore[misc]
    """Volume that serves a coarse scale from the coarsest stored level that divides it.

    Parameters
    ----------
    layer : Layer
        What to show.
    """

    def __init__(self, layer: Layer) -> None:
        finest, *coarser = (
            (factors, _local_volume(LocalVolume, layer, n, factors)) for n, factors in _usable_levels(layer)
        )
        self._levels = [finest, *coarser]
        self._is_labels = layer.kind == "labels"
        most = max(int(np.prod(factors)) for factors, _ in self._levels)
        _local_volume(super().__init__, layer, 0, self._levels[0][0], max_downsampling=64 * most)

    def get_encoded_subvolume(self, data_format: str, start: Any, end: Any, scale_key: str) -> Any:
        """Voxels of a box of a scale, from the coarsest stored level that the scale is a multiple of."""
        asked = [int(part) for part in scale_key.split(",")]
        for factors, volume in reversed(self._levels):
            if len(asked) == len(factors) and not any(a % f for a, f in zip(asked, factors, strict=True)):
                rest = ",".join(str(a // f) for a, f in zip(asked, factors, strict=True))
                return volume.get_encoded_subvolume(data_format, start, end, rest)
        raise ValueError(f"no level for scale {scale_key}")

    def get_object_mesh(self, object_id: int) -> Any:
        """Surface of an instance, from the finest level that fits into memory."""
        for _, volume in self._levels:
            if self._is_labels and np.prod(volume.shape) <= MOST_MESHED:
                return volume.get_object_mesh(object_id)
        raise MeshesNotSupportedForVolume


def _usable_levels(layer: Layer) -> list[tuple[int, tuple[int, ...]]]:
    # Levels whose voxels are whole multiples of the finest ones: the viewer's scales are such multiples.
    leading = (1,) if layer.kind == "flow" else ()
    found = []
    for n in range(len(layer.levels)):
        factors = tuple(int(f) for f in layer.factors(n))
        if all(-(-size // f) == m for size, f, m in zip(layer.shape(), factors, layer.shape(n), strict=True)):
            found.append((n, (*leading, *factors)))
    return found


def _space(layer: Layer, factors: tuple[int, ...], *, reverse: bool = False) -> Any:
    size, unit = layer.edges
    scales = [edge * factor for edge, factor in zip(size, factors[-3:], strict=True)]
    axes = list(zip("zyx", [unit] * 3, scales, strict=True))[:: -1 if reverse else 1]
    if len(factors) == 4:
        axes = [("c^", "", 1.0), *axes]
    names, units, sizes = ([*column] for column in zip(*axes, strict=True))
    return neuroglancer.CoordinateSpace(names=names, units=units, scales=sizes)


def _local_volume(make: Any, layer: Layer, level: int, factors: tuple[int, ...], **more: Any) -> Any:
    kind = "segmentation" if layer.kind == "labels" else "image"
    return make(_Lazy(layer, level), dimensions=_space(layer, factors), volume_type=kind, **more)


def _corner(layer: Layer, first: Layer) -> list[float]:
    # Corner of the first voxel, in voxels of the layer; metadata give its centre. Without a translation, the corner of
    # the first layer is at 0.
    place = layer.placement or Placement()
    (size, unit), (size_of_first, unit_of_first) = layer.edges, first.edges
    centre = place.translation_nm or place.translation  # in the unit of the edges
    half = size_of_first if unit == unit_of_first else size  # lengths in no unit do not compare with others
    return [(t - s / 2 + h / 2) / s for t, s, h in zip(centre, size, half, strict=True)]


def _source(layer: Layer, first: Layer) -> Any:
    corner = [*([0.0] if layer.kind == "flow" else []), *_corner(layer, first)]
    matrix = np.column_stack([np.eye(len(corner)), corner])
    space = _space(layer, (1,) * len(corner))
    moved = neuroglancer.CoordinateSpaceTransform(output_dimensions=space, matrix=matrix)
    return neuroglancer.LayerDataSource(url=Pyramid(layer), transform=moved)


def open_viewer(layers: Sequence[Layer], *, address: str = "127.0.0.1", port: int = 0) -> Any:
    """Serve layers to a browser from this process, for as long as it lives.

    Parameters
    ----------
    layers : sequence of Layer
        What to show, each at its place in space. A layer without one gets that of the first layer that has one.
    address : str
        Address to listen on; ``"127.0.0.1"`` is this machine only.
    port : int
        Port to listen on, 0 for any that is free.

    Returns
    -------
    viewer : neuroglancer.Viewer
        ``str(viewer)`` is the address for the browser.
    """
    known = next((layer.placement for layer in layers if layer.placement), None)
    first, *others = (replace(layer, placement=layer.placement or known) for layer in layers)
    neuroglancer.set_server_bind_address(address, port)
    viewer = neuroglancer.Viewer()
    with viewer.txn() as state:
        for layer in (first, *others):
            source = _source(layer, first)
            if layer.kind == "labels":
                state.layers.append(layer.name, neuroglancer.SegmentationLayer(source=source))
            else:
                shader = FLOW_SHADER if layer.kind == "flow" else IMAGE_SHADER
                state.layers.append(layer.name, neuroglancer.ImageLayer(source=source, shader=shader))
        size, shape = first.edges[0], first.shape()
        # The viewer's panels show the first two axes of its own space: x and y.
        state.dimensions = _space(first, (1, 1, 1), reverse=True)
        state.position = [c + n / 2 for c, n in zip(reversed(_corner(first, first)), reversed(shape), strict=True)]
        state.cross_section_background_color = "#202020"
        # A panel of about 500 pixels shows the whole plane.
        state.cross_section_scale = max(shape) / 400
        state.projection_scale = 1.5 * max(n * s / min(size) for n, s in zip(shape, size, strict=True))
    return viewer
