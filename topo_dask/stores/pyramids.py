"""OME-Zarr labels out: creating pyramids that viewers open, and filling their levels block by block."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..blocks.geometry import BlockGrid, Box, Triple, triple
from ..kernels.pyramid import Factors, coarse_shape, downsample_labels, pyramid_factors
from .multiscales import VERSIONS, VoxelSize, find_image
from .volumes import Output, Source

if TYPE_CHECKING:
    import zarr


def _container(container: "str | os.PathLike[str] | zarr.Group", version: str) -> Any:
    import zarr

    zarr_format = VERSIONS[version]
    if isinstance(container, zarr.Group):
        group = container
    else:
        try:
            # Without a format: asked for one, zarr would put it beside an existing group of the other.
            group = zarr.open_group(container, mode="r+", use_consolidated=False)
        except (FileNotFoundError, zarr.errors.NodeNotFoundError):
            group = zarr.open_group(container, mode="w-", zarr_format=zarr_format)  # type: ignore[arg-type]
    if group.metadata.zarr_format != zarr_format:
        raise ValueError(
            f"version {version!r} of OME-Zarr needs zarr format {zarr_format}, but {group} has format "
            f"{group.metadata.zarr_format}: give another version or another place"
        )
    return group


def _lengths(values: Sequence[float], what: str, above: float) -> VoxelSize:
    found = tuple(float(v) for v in values)
    if len(found) != 3 or not all(above < v < math.inf for v in found):
        raise ValueError(f"{what} must be three finite numbers above {above:g} (z, y, x), got {values!r}")
    return found


def _create_level(group: Any, path: str, shape: Triple, chunks: Triple, shards: Triple | None) -> Any:
    if group.metadata.zarr_format == 3:
        from zarr.codecs import ZstdCodec

        how: dict[str, Any] = {
            "shards": shards,
            "compressors": ZstdCodec(checksum=True),
            "dimension_names": ("z", "y", "x"),
        }
    else:
        from numcodecs import Zstd

        how = {"compressors": Zstd(checksum=True), "chunk_key_encoding": {"name": "v2", "separator": "/"}}
    return group.create_array(path, shape=shape, chunks=chunks, dtype="int32", fill_value=0, **how)


def _image(
    name: str, factors: Sequence[Factors], voxel_size: VoxelSize | None, translation: Sequence[float]
) -> dict[str, Any]:
    """Entry of `multiscales`; the centre of a coarse voxel lies in the middle of its cell."""
    unit = {} if voxel_size is None else {"unit": "nanometer"}
    edges = np.array(voxel_size or (1.0, 1.0, 1.0))
    datasets, cell = [], np.ones(3, np.int64)
    for level, factor in enumerate([(1, 1, 1), *factors]):
        cell = cell * factor
        scale = {"type": "scale", "scale": (edges * cell).tolist()}
        shift = {"type": "translation", "translation": (np.array(translation) + edges * (cell - 1) / 2).tolist()}
        datasets.append({"path": str(level), "coordinateTransformations": [scale, shift]})
    return {
        "name": name,
        "axes": [{"name": axis, "type": "space", **unit} for axis in "zyx"],
        "datasets": datasets,
        "type": "mode",
        "metadata": {"description": "most frequent label of a cell; background gives way in a tie, then the lowest"},
    }


def _image_label(
    colors: Mapping[int, Sequence[int]] | None, properties: Mapping[int, Mapping[str, Any]] | None
) -> dict[str, Any]:
    # Without colors given there are none: viewers then choose, while a list hides the labels that are not on it.
    found: dict[str, Any] = {}
    if colors:
        for label, rgba in colors.items():
            if len(rgba) != 4 or not all(0 <= v <= 255 for v in rgba):
                raise ValueError(f"colors: label {label} must have four integers from 0 to 255, got {rgba!r}")
        found["colors"] = [{"label-value": int(a), "rgba": [int(v) for v in rgba]} for a, rgba in colors.items()]
    if properties:
        found["properties"] = [{**values, "label-value": int(label)} for label, values in properties.items()]
    return found


def _annotate(group: Any, version: str, image: dict[str, Any], image_label: dict[str, Any]) -> None:
    image_label = {"version": version, **image_label}
    if version == "0.4":
        group.attrs.update({"multiscales": [{"version": version, **image}], "image-label": image_label})
    else:
        group.attrs.update({"ome": {"version": version, "multiscales": [image], "image-label": image_label}})


def _list_label(labels: Any, version: str, name: str) -> None:
    attributes = labels.attrs.asdict()
    inner = attributes if version == "0.4" else {"version": version, **attributes.get("ome", {})}
    listed = {**inner, "labels": sorted({*inner.get("labels", ()), name})}
    labels.attrs.update(listed if version == "0.4" else {"ome": listed})


def create_label_pyramid(
    container: "str | os.PathLike[str] | zarr.Group",
    name: str,
    shape: Sequence[int],
    *,
    chunks: Sequence[int],
    shards: Sequence[int] | None = None,
    voxel_size_nm: Sequence[float] | None = None,
    translation_nm: Sequence[float] = (0.0, 0.0, 0.0),
    levels: int | None = None,
    version: str = "0.5",
    colors: Mapping[int, Sequence[int]] | None = None,
    properties: Mapping[int, Mapping[str, Any]] | None = None,
    overwrite: bool = False,
) -> "list[zarr.Array[Any]]":
    """Create the empty arrays ``labels/<name>/0``, ``1``, ... and the metadata by which viewers find them.

    All levels are int32, filled with 0, in chunks of one shape, compressed by zstd with a checksum. The name is listed
    in the metadata of ``labels`` last: a name that is listed is complete.

    Parameters
    ----------
    container : path, URL or zarr.Group
        Group that holds, or is to hold, the group ``labels``: an image, or one of its own, which is made if missing.
    name : str
        Name of the labels.
    shape : sequence of 3 int
        Shape of the finest level.
    chunks, shards : sequence of 3 int
        Shape of chunks, and of shards if there are any (0.5 only); a shard is a multiple of a chunk.
    voxel_size_nm, translation_nm : sequence of 3 float, optional
        Edges of a voxel of the finest level and centre of its first voxel along z, y, x, in nanometres.
    levels : int, optional
        Number of levels, see `pyramid_factors`, which also says which axes are halved. Labels of an image should have
        as many as the image.
    version : {"0.5", "0.4"}
        Version of OME-Zarr.
    colors : mapping, optional
        Label to (red, green, blue, alpha), 0 to 255. Viewers do not show labels that are missing here.
    properties : mapping, optional
        Label to a mapping of anything that JSON can hold.
    overwrite : bool
        Whether labels of the same name are deleted first.

    Returns
    -------
    arrays : list of zarr.Array
        The levels, the finest first.

    Raises
    ------
    FileExistsError
        When there are such labels already.
    ValueError, TypeError
        When an argument can not be used, or the container has the zarr format of another version.

    Notes
    -----
    TensorStore, and zarrs before mid-2026, refuse arrays of version 0.4 for the checksum: format 2 of zarr never
    specified it for zstd. Version 0.5 has no such limit.

    Examples
    --------
    >>> import zarr
    >>> arrays = create_label_pyramid(zarr.open_group({}), "nuc", (300, 300, 300), chunks=(64, 64, 64))
    >>> [array.shape for array in arrays]
    [(300, 300, 300), (150, 150, 150), (75, 75, 75)]
    """
    if version not in VERSIONS:
        raise ValueError(f"version must be one of {sorted(VERSIONS)}, got {version!r}")
    if not name or "/" in name or name.startswith((".", "__")):
        raise ValueError(f"name must be one part of a path and not start with '.' or '__', got {name!r}")
    shape, chunks = triple(tuple(shape), "shape"), triple(tuple(chunks), "chunks")
    if shards is not None:
        shards = triple(tuple(shards), "shards")
        if version == "0.4" or any(a % b for a, b in zip(shards, chunks, strict=True)):
            raise ValueError(f"shards must be a multiple of chunks {chunks}, and version 0.4 has none; got {shards}")
    size = None if voxel_size_nm is None else _lengths(voxel_size_nm, "voxel_size_nm", 0.0)
    origin = _lengths(translation_nm, "translation_nm", -math.inf)
    factors = pyramid_factors(shape, size or (1.0, 1.0, 1.0), levels)
    image, image_label = _image(name, factors, size, origin), _image_label(colors, properties)
    group = _container(container, version)
    if find_image(group.attrs, str(group)) is not None:
        image_label["source"] = {"image": "../../"}
    labels = group.require_group("labels")
    if name in labels and not overwrite:
        raise FileExistsError(f"labels {name!r} are already in {group}: give another name, or overwrite=True")
    pyramid = labels.create_group(name, overwrite=overwrite)
    arrays = []
    for level, factor in enumerate([(1, 1, 1), *factors]):
        shape = coarse_shape(shape, factor)
        arrays.append(_create_level(pyramid, str(level), shape, chunks, shards))
    _annotate(pyramid, version, image, image_label)
    _list_label(labels, version, name)
    return arrays


def downsample_block(source: Any, target: Any, box: Box, factors: Factors) -> None:
    """Fill a box of one level of a pyramid from the level before it.

    Parameters
    ----------
    source, target : zarr.Array of int, shapes (D, H, W) and (ceil(D / fz), ceil(H / fy), ceil(W / fx))
        The finer and the coarser level.
    box : Box
        Voxels of the target to fill; whole chunks (shards, if there are any), which no other task writes.
    factors : tuple of 3 int
        Voxels of the source for one of the target along z, y, x.

    Raises
    ------
    ValueError
        When the shapes do not fit together.

    Notes
    -----
    Memory: the labels of the box, and the source of one chunk of it at a time.
    """
    if tuple(target.shape) != coarse_shape(source.shape, factors):
        raise ValueError(f"target must have shape {coarse_shape(source.shape, factors)}, got {tuple(target.shape)}")
    reader, labels = Source(source, "source"), np.empty(box.shape, target.dtype)
    for piece in BlockGrid(box.shape, triple(tuple(target.chunks), "chunks")):
        start, stop = (
            tuple((a + b) * f for a, b, f in zip(box.start, corner, factors, strict=True))
            for corner in (piece.write.start, piece.write.stop)
        )
        read = Box(start, stop).intersect(Box.whole(reader.shape))  # type: ignore[arg-type]
        labels[piece.write.slices] = downsample_labels(reader.read(read), factors)
    Output(target).write(box, labels)
