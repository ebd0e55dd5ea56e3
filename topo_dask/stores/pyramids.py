"""OME-Zarr labels out: the levels of a pyramid, the metadata by which viewers find them, and the list of labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from ..blocks.geometry import Triple
from ..kernels.pyramid import Factors, coarse_shape
from .multiscales import VERSIONS, Placement

Version: TypeAlias = Literal["0.5", "0.4"]
"""Version of OME-Zarr that is written."""

LABELS = "labels"
"""Group of an image, or of a container of its own, that holds its labels."""

_DESCRIPTION = "most frequent label of a cell; background gives way in a tie, then the lowest"


@dataclass(frozen=True)
class Pyramid:
    """The levels that labels are given.

    Parameters
    ----------
    version : {"0.5", "0.4"}
        Version of OME-Zarr.
    factors : tuple of tuple of 3 int
        Voxels of each level for one of the next, along z, y, x.
    placement : Placement
        Place in space of the finest level.

    Examples
    --------
    >>> pyramid = Pyramid("0.5", ((1, 2, 2), (2, 2, 2)), Placement.cubes(8))
    >>> list(pyramid.shapes((5, 100, 101)))
    [(5, 100, 101), (5, 50, 51), (3, 25, 26)]
    """

    version: Version
    factors: tuple[Factors, ...]
    placement: Placement

    @property
    def zarr_format(self) -> int:
        """Format of zarr that the version stands on."""
        return VERSIONS[self.version]

    def shapes(self, shape: Triple) -> Iterator[Triple]:
        """Shapes of all levels, the finest first."""
        yield shape
        for factors in self.factors:
            shape = coarse_shape(shape, factors)
            yield shape

    def attributes(self, name: str, *, in_image: bool) -> dict[str, Any]:
        """Attributes of the group of the labels `name`; `in_image` says whether an image is two groups above."""
        # No colours: viewers then choose, while a list hides the labels that are not on it.
        image_label = {"version": self.version, **({"source": {"image": "../../"}} if in_image else {})}
        image = self._multiscale(name)
        if self.version == "0.4":
            return {"multiscales": [{"version": self.version, **image}], "image-label": image_label}
        return {"ome": {"version": self.version, "multiscales": [image], "image-label": image_label}}

    def _multiscale(self, name: str) -> dict[str, Any]:
        # The centre of a coarse voxel lies in the middle of its cell.
        edges, origin = np.array(self.placement.scale), np.array(self.placement.translation)
        datasets, cell = [], np.ones(3, np.int64)
        for level, factors in enumerate([(1, 1, 1), *self.factors]):
            cell = cell * factors
            scale = {"type": "scale", "scale": (edges * cell).tolist()}
            shift = {"type": "translation", "translation": (origin + edges * (cell - 1) / 2).tolist()}
            datasets.append({"path": str(level), "coordinateTransformations": [scale, shift]})
        units = ({} if unit is None else {"unit": unit} for unit in self.placement.units)
        return {
            "name": name,
            "axes": [{"name": axis, "type": "space", **unit} for axis, unit in zip("zyx", units, strict=True)],
            "datasets": datasets,
            "type": "mode",
            "metadata": {"description": _DESCRIPTION},
        }


def version_of(group: Any) -> Version:
    """The version of OME-Zarr that stands on the zarr format of a group."""
    return "0.4" if group.metadata.zarr_format == VERSIONS["0.4"] else "0.5"


def list_labels(labels: Any, version: Version, name: str) -> None:
    """Put a name behind those that the group `labels` lists, unless it is there."""
    listed = _listed(labels, version)
    if name not in listed:
        _set_listed(labels, version, [*listed, name])


def unlist_labels(labels: Any, version: Version, name: str) -> None:
    """Take a name off the list of the group `labels`."""
    listed = _listed(labels, version)
    if name in listed:
        _set_listed(labels, version, [other for other in listed if other != name])


def _listed(labels: Any, version: Version) -> list[str]:
    inner = labels.attrs.asdict() if version == "0.4" else labels.attrs.asdict().get("ome", {})
    return list(inner.get("labels", ()))


def _set_listed(labels: Any, version: Version, names: list[str]) -> None:
    if version == "0.4":
        labels.attrs.update({"labels": names})
    else:
        labels.attrs.update({"ome": {"version": version, **labels.attrs.asdict().get("ome", {}), "labels": names}})
