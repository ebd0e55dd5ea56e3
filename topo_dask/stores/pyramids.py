"""Labels as OME-Zarr: the levels of a pyramid, the metadata by which viewers find them, and the list of labels."""

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
"""Group that holds labels, in the group of an image or in a container of their own."""

_DESCRIPTION = "most frequent label of a cell; background gives way in a tie, then the lowest"


@dataclass(frozen=True)
class Pyramid:
    """The levels that a run writes of its labels.

    Parameters
    ----------
    version : {"0.5", "0.4"}
        Version of OME-Zarr.
    factors : tuple of tuple of 3 int
        For each level but the coarsest, how many of its voxels make one of the next level, along z, y, x.
    placement : Placement
        Place in space of the finest level.

    Examples
    --------
    >>> pyramid = Pyramid("0.5", ((1, 2, 2), (2, 2, 2)), Placement.at_origin((8.0, 8.0, 8.0)))
    >>> list(pyramid.shapes((5, 100, 101)))
    [(5, 100, 101), (5, 50, 51), (3, 25, 26)]
    """

    version: Version
    factors: tuple[Factors, ...]
    placement: Placement

    @property
    def zarr_format(self) -> int:
        """Zarr format that this version of OME-Zarr uses."""
        return VERSIONS[self.version]

    def shapes(self, shape: Triple) -> Iterator[Triple]:
        """Shapes of all levels, the finest first."""
        yield shape
        for factors in self.factors:
            shape = coarse_shape(shape, factors)
            yield shape

    def attributes(self, name: str, *, in_image: bool) -> dict[str, Any]:
        """Attributes of the group of the labels `name`; `in_image` says whether an image is two groups above."""
        # No colours are listed: viewers then choose them; a list would hide the labels that are not on it.
        image_label = {"version": self.version, **({"source": {"image": "../../"}} if in_image else {})}
        image = self._multiscale(name)
        if self.version == "0.4":
            return {"multiscales": [{"version": self.version, **image}], "image-label": image_label}
        return {"ome": {"version": self.version, "multiscales": [image], "image-label": image_label}}

    def _multiscale(self, name: str) -> dict[str, Any]:
        # A coarse voxel stands for a cell of fine voxels: its centre is the middle of the cell.
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
    """The version of OME-Zarr that uses the zarr format of a group."""
    return "0.4" if group.metadata.zarr_format == VERSIONS["0.4"] else "0.5"


def list_labels(labels: Any, version: Version, name: str) -> None:
    """Add a name at the end of the list in the group `labels`, unless it is listed."""
    listed = _listed(labels, version)
    if name not in listed:
        _set_listed(labels, version, [*listed, name])


def unlist_labels(labels: Any, version: Version, name: str) -> None:
    """Remove a name from the list in the group `labels`."""
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
