"""Where labels lie in space, by the metadata of the inputs, those of the image that they go into, and the caller."""

from dataclasses import replace

import numpy as np

from .blocks.geometry import Triple
from .config import Resolution, edges_nm
from .kernels.pyramid import pyramid_factors
from .stores.multiscales import Multiscale, Placement, VoxelSize
from .stores.pyramids import Pyramid, Version
from .warning import warn

COARSEST = 128
"""Most voxels along the longest axis of the coarsest level of a pyramid."""


def warn_of_scales(semantic: Placement | None, flow: Placement | None) -> None:
    """Warn if foreground and flow have voxels of different sizes."""
    if semantic is None or flow is None:
        return
    one, other, unit = semantic.voxel_size_nm, flow.voxel_size_nm, " nm"
    if (one is None or other is None) and semantic.units == flow.units:
        one, other, unit = semantic.scale, flow.scale, ""
    if one is not None and other is not None and not np.allclose(one, other, rtol=1e-3, atol=0):
        warn(
            f"semantic has voxels of {one}{unit}, flow of {other}{unit}, by their OME-Zarr metadata: taking those of "
            "semantic; the vectors count in voxels"
        )


def place_of_prediction(
    semantic: Placement | None, flow: Placement | None, resolution_nm: Resolution | None
) -> Placement | None:
    """Place of a prediction, that of the foreground or that of the flow: the first that has a unit of length, if any.

    If none has a unit, three edges that the caller gives are those of a voxel.
    """
    known = [place for place in (semantic, flow) if place is not None]
    place = next((place for place in known if place.voxel_size_nm is not None), known[0] if known else None)
    if place is None or place.voxel_size_nm is not None or (edges := _three_edges(resolution_nm)) is None:
        return place
    z, y, x = (at / scale * edge for at, scale, edge in zip(place.translation, place.scale, edges, strict=True))
    return replace(Placement.at_origin(edges), translation=(z, y, x))


def choose_resolution(
    resolution_nm: Resolution | None, placement: Placement | None
) -> tuple[Resolution | None, VoxelSize | None]:
    """Resolution that chooses default parameters, and edges of a voxel in nanometres; None for what is not known.

    Raises
    ------
    ValueError
        When the caller gives three edges, and the prediction has others.
    """
    size = None if placement is None else placement.voxel_size_nm
    if resolution_nm is None:
        return size, size
    _check_edges(resolution_nm, placement)
    return resolution_nm, size or edges_nm(resolution_nm)


def place_labels(
    version: Version,
    shape: Triple,
    placement: Placement | None,
    image: Multiscale | None,
    resolution_nm: Resolution | None,
) -> Pyramid:
    """Levels of labels, and their place in space.

    Parameters
    ----------
    version : {"0.5", "0.4"}
        Version of OME-Zarr.
    shape : tuple of 3 int
        Shape of the labels.
    placement : Placement, optional
        Place of the prediction, which the labels share.
    image : Multiscale, optional
        Image that they go into. If the prediction has no place, they cover a level of it voxel by voxel.
    resolution_nm : float or sequence of 3 float, optional
        Edge of a voxel in nanometres, or its three edges, where nothing else is known.

    Raises
    ------
    ValueError
        When the image has no level of this shape, and the prediction no place; or when the caller gives three edges,
        and the image has others.

    Warns
    -----
    UserWarning
        When the labels lie elsewhere than the image.
    """
    if image is not None:
        _check_image(image, shape, placement)
        placement = placement or _place_within(image, shape)
        _check_edges(resolution_nm, placement)
    if placement is None:
        placement = Placement() if resolution_nm is None else Placement.at_origin(edges_nm(resolution_nm))
    edges = placement.voxel_size_nm or placement.scale  # axes may have different units
    return Pyramid(version, tuple(pyramid_factors(shape, edges, COARSEST)), placement)


def _three_edges(resolution_nm: Resolution | None) -> VoxelSize | None:
    # What a voxel is taken to be; None where the caller gives one number, which chooses the parameters.
    edges = None if resolution_nm is None else edges_nm(resolution_nm)
    return edges if np.ndim(resolution_nm) else None  # type: ignore[arg-type]


def _check_edges(resolution_nm: Resolution | None, placement: Placement | None) -> None:
    if placement is None or (given := _three_edges(resolution_nm)) is None:
        return
    known = placement.voxel_size_nm
    if known is None or not np.allclose(given, known, rtol=1e-3, atol=0):
        told = f"{placement.scale} without a unit of length" if known is None else f"{known} nm"
        raise ValueError(
            f"resolution_nm gives voxels of {given} nm, the OME-Zarr metadata {told}: correct what is wrong, or give "
            "one number, which chooses the parameters and nothing else"
        )


def _check_image(image: Multiscale, shape: Triple, placement: Placement | None) -> None:
    # Labels cover a level of the image voxel by voxel, unless the inputs say where in its space they lie.
    shapes = [(1, 1, 1, *level.shape)[-3:] for level in image.levels]
    if shape in shapes:
        _warn_of_places(placement, image.levels[shapes.index(shape)].placement)
        return
    differ = f"labels of shape {shape} have that of no level of the image they go into, {', '.join(map(str, shapes))}"
    if placement is None:
        raise ValueError(f"{differ}, and no metadata say where in it they lie: choose another output")
    warn(f"{differ}: they lie in it where the metadata of the inputs say")


def _warn_of_places(labels: Placement | None, image: Placement | None) -> None:
    if labels is None or image is None:
        return
    known = None not in (labels.voxel_size_nm, image.voxel_size_nm)
    (size, first), (size_of_image, first_of_image) = (
        np.array([place.voxel_size_nm, place.translation_nm] if known else [place.scale, place.translation])
        for place in (labels, image)
    )
    # Writers disagree on the translation of coarse levels: differences of up to a voxel are accepted.
    shifted = (np.abs(first - first_of_image) > 1.001 * size).any()
    if shifted or not np.allclose(size, size_of_image, rtol=1e-3, atol=0):
        unit = " nm" if known else ""
        warn(
            "labels lie elsewhere than the image that they go into: by the metadata of the inputs, voxels of "
            f"{size.tolist()}{unit} from {first.tolist()} on; by those of the image, {size_of_image.tolist()}{unit} "
            f"from {first_of_image.tolist()} on. Viewers draw them apart: correct the metadata that are wrong"
        )


def _place_within(image: Multiscale, shape: Triple) -> Placement | None:
    # The placement of the level of the image that the volume covers voxel by voxel.
    return next((level.placement for level in image.levels if level.shape[-3:] == shape), None)
