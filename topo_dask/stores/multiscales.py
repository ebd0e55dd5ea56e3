"""Metadata of multiscale images of OME-Zarr 0.4 and 0.5: the levels, and their place in space.

A level of a pyramid is an array. Its place in space is a voxel size and a translation: the position of the *centre* of
its first voxel.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

from .nodes import open_node, readable

if TYPE_CHECKING:
    import zarr

VoxelSize: TypeAlias = tuple[float, float, float]
"""Lengths along z, y, x."""

VERSIONS = {"0.4": 2, "0.5": 3}
"""Zarr format that each version of OME-Zarr uses."""

_NANOMETRES = {
    **dict.fromkeys(("picometer", "pm"), Decimal("1E-3")),
    **dict.fromkeys(("angstrom", "Å"), Decimal("1E-1")),
    **dict.fromkeys(("nanometer", "nanometre", "nm"), Decimal(1)),
    **dict.fromkeys(("micrometer", "micrometre", "micron", "um", "µm", "μm"), Decimal("1E3")),
    **dict.fromkeys(("millimeter", "millimetre", "mm"), Decimal("1E6")),
    **dict.fromkeys(("centimeter", "centimetre", "cm"), Decimal("1E7")),
    **dict.fromkeys(("meter", "metre", "m"), Decimal("1E9")),
}


@dataclass(frozen=True)
class Placement:
    """Place of a volume in space, in the units of its metadata.

    Parameters
    ----------
    scale, translation : tuple of 3 float
        Edges of a voxel and centre of the first voxel along z, y, x, in `units`.
    units : tuple of 3 str or None
        Unit of each axis; None if it has none.
    """

    scale: VoxelSize = (1.0, 1.0, 1.0)
    translation: VoxelSize = (0.0, 0.0, 0.0)
    units: tuple[str | None, str | None, str | None] = (None, None, None)

    @classmethod
    def at_origin(cls, voxel_size_nm: VoxelSize) -> "Placement":
        """Voxels of this size in nanometres, the first one at the origin."""
        return cls(voxel_size_nm, units=("nanometer",) * 3)

    @property
    def voxel_size_nm(self) -> VoxelSize | None:
        """Edges of a voxel in nanometres; None unless all axes have a metric unit."""
        return self._nanometres(self.scale)

    @property
    def translation_nm(self) -> VoxelSize | None:
        """Centre of the first voxel in nanometres; None unless all axes have a metric unit."""
        return self._nanometres(self.translation)

    def _nanometres(self, values: VoxelSize) -> VoxelSize | None:
        units = [_NANOMETRES.get(str(unit)) for unit in self.units]
        if None in units:
            return None
        # Decimal arithmetic, so that 0.0043 micrometers are 4.3 nanometres and not 4.300000000000001.
        z, y, x = (float(Decimal(repr(v)) * unit) for v, unit in zip(values, units, strict=True) if unit)
        return z, y, x


@dataclass(frozen=True)
class Level:
    """One resolution of a multiscale image.

    Parameters
    ----------
    path : str
        Path of the array within the group.
    shape : tuple of int
        Shape of the array, with all its axes.
    placement : Placement, optional
        Place in space; None unless there are three axes of space.
    """

    path: str
    shape: tuple[int, ...]
    placement: Placement | None

    @property
    def voxel_size_nm(self) -> VoxelSize | None:
        """Edges of a voxel along z, y, x in nanometres; None if they are not known."""
        return None if self.placement is None else self.placement.voxel_size_nm


@dataclass(frozen=True)
class Multiscale:
    """A multiscale image: the names of its axes in order, and its levels from fine to coarse."""

    axes: tuple[str, ...]
    levels: tuple[Level, ...]


def find_image(attributes: Mapping[str, Any], where: str, number: int = 0) -> Mapping[str, Any] | None:
    """Entry of `multiscales` in the attributes of a group, or None; ValueError if the entry cannot be used.

    Of several images the specification takes the first, number 0.
    """
    ome = attributes.get("ome")
    namespaced = isinstance(ome, Mapping)
    images = (ome if namespaced else attributes).get("multiscales")  # type: ignore[union-attr]
    if images is None:
        return None
    if not isinstance(images, list) or not images or not isinstance(images[number], Mapping):
        raise ValueError(f"{where}: 'multiscales' must be a list of objects, got {images!r}")
    image: Mapping[str, Any] = images[number]
    version = ome.get("version") if namespaced else image.get("version")  # type: ignore[union-attr]
    complete = isinstance(image.get("axes"), list) and isinstance(image.get("datasets"), list)
    if version not in (None, *VERSIONS) or not complete:
        raise ValueError(
            f"{where}: OME-Zarr {' and '.join(VERSIONS)} are understood, with 'axes' and 'datasets'; got version "
            f"{version!r} with {sorted(image)}"
        )
    return image


def find_dataset(attributes: Mapping[str, Any], path: str) -> tuple[int, Any] | None:
    """Number of an image, and its entry of the level at a path, from the attributes of a group; None if it is none.

    Nothing else of the image is checked.

    Examples
    --------
    >>> find_dataset({"multiscales": [{"version": "0.1", "datasets": [{"path": "0"}, {"path": "1"}]}]}, "1")
    (0, {'path': '1'})
    """
    ome = attributes.get("ome")
    images = (ome if isinstance(ome, Mapping) else attributes).get("multiscales")
    for number, image in enumerate(images if isinstance(images, list) else ()):
        datasets = image.get("datasets") if isinstance(image, Mapping) else None
        for dataset in datasets if isinstance(datasets, list) else ():
            found = dataset.get("path") if isinstance(dataset, Mapping) else None
            if isinstance(found, str) and found.strip("/") == path:
                return number, dataset
    return None


def _vector(transform: Mapping[str, Any], n_axes: int, where: str) -> list[float]:
    kind = transform["type"]
    values = transform.get(kind)
    numbers = isinstance(values, list) and all(type(v) in (int, float) and math.isfinite(v) for v in values)
    if not numbers or len(values) != n_axes or (kind == "scale" and min(values) <= 0):  # type: ignore[arg-type]
        limit = " above 0" if kind == "scale" else ""
        raise ValueError(f"{where}: {kind} must be a list of {n_axes} finite numbers{limit}, got {dict(transform)!r}")
    return [float(v) for v in values]  # type: ignore[union-attr]


def _chain(transforms: Sequence[Mapping[str, Any]], n_axes: int, where: str) -> tuple[list[float], list[float]]:
    """Scale and translation that a chain of transformations amounts to."""
    scale, shift = [1.0] * n_axes, [0.0] * n_axes
    for transform in transforms:
        kind = transform.get("type")
        if kind == "scale":
            by = _vector(transform, n_axes, where)
            scale = [a * b for a, b in zip(scale, by, strict=True)]
            shift = [a * b for a, b in zip(shift, by, strict=True)]
        elif kind == "translation":
            shift = [a + b for a, b in zip(shift, _vector(transform, n_axes, where), strict=True)]
        elif kind != "identity":
            raise ValueError(f"{where}: transformations may be 'scale', 'translation' and 'identity', got {kind!r}")
    return scale, shift


def read_axes(image: Mapping[str, Any]) -> tuple[tuple[str, ...], list[int], list[str | None]]:
    """Names of all axes, then the indices and the units of the axes of space."""
    axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in image["axes"]]
    names = tuple(str(axis.get("name")).lower() for axis in axes)
    space = [
        i for i, axis in enumerate(axes) if axis.get("type", "space" if names[i] in ("z", "y", "x") else "") == "space"
    ]
    units = [axes[i].get("unit") for i in space]
    return names, space, [unit if isinstance(unit, str) else None for unit in units]


def read_level(dataset: Any, image: Mapping[str, Any], where: str) -> Level:
    """The level that an entry of an image's `datasets` describes; its array is not opened, and its shape left empty."""
    path = dataset.get("path") if isinstance(dataset, Mapping) else None
    if not isinstance(path, str):
        raise ValueError(f"{where}: every dataset must have a path, got {dataset!r}")
    names, space, units = read_axes(image)
    chain = [*(dataset.get("coordinateTransformations") or []), *(image.get("coordinateTransformations") or [])]
    scale, shift = _chain(chain, len(names), f"{where}, level {path!r}")
    placement = None
    if len(space) == 3:
        (k, j, i), (a, b, c) = space, units
        placement = Placement((scale[k], scale[j], scale[i]), (shift[k], shift[j], shift[i]), (a, b, c))
    return Level(path.strip("/"), (), placement)


def _array(group: "zarr.Group", path: str, n_axes: int) -> Any:
    with readable(f"{group}: level {path!r}"):
        try:
            array = group[path]
        except KeyError:
            raise FileNotFoundError(f"{group}: level {path!r} is in the metadata but not in the store") from None
    if getattr(array, "ndim", None) != n_axes:
        raise ValueError(f"{group}: level {path!r} must be an array of {n_axes} axes, got {array}")
    return array


def read_multiscales(path_or_group: "str | os.PathLike[str] | zarr.Group") -> Multiscale | None:
    """Axes and levels of a multiscale image, or None if there is no image.

    Parameters
    ----------
    path_or_group : path, URL or zarr.Group
        Group to look at. If it holds several images, the first is taken.

    Returns
    -------
    multiscale : Multiscale or None

    Raises
    ------
    FileNotFoundError
        When there is nothing at the path, or when a level that the metadata name does not exist.
    ValueError
        When the metadata are not valid ones of OME-Zarr 0.4 or 0.5.

    Notes
    -----
    Specification: https://ngff.openmicroscopy.org/0.5. The transformations of a level apply before those of the image.

    Examples
    --------
    >>> import zarr
    >>> group = zarr.create_group({})
    >>> array = group.create_array("s0", shape=(8, 200, 200), dtype="u1")
    >>> axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    >>> size = {"type": "scale", "scale": [0.03, 0.008, 0.008]}
    >>> image = {"axes": axes, "datasets": [{"path": "s0", "coordinateTransformations": [size]}]}
    >>> group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    >>> [(level.path, level.shape, level.voxel_size_nm) for level in read_multiscales(group).levels]
    [('s0', (8, 200, 200), (30.0, 8.0, 8.0))]
    """
    local = isinstance(path_or_group, str | os.PathLike)
    node: Any = open_node(os.fspath(path_or_group)) if local else path_or_group  # type: ignore[arg-type]
    image = find_image(node.attrs, str(node))
    if image is None or hasattr(node, "shape"):
        return None
    names = read_axes(image)[0]
    levels = [read_level(dataset, image, str(node)) for dataset in image["datasets"]]
    shapes = [tuple(_array(node, level.path, len(names)).shape) for level in levels]
    return Multiscale(names, tuple(replace(a, shape=b) for a, b in zip(levels, shapes, strict=True)))
