"""OME-Zarr 0.4 and 0.5: finding a volume and its voxel size, and creating pyramids of labels that viewers open.

A level of a pyramid is an array; its place in space is a voxel size and a translation, which is where the *centre* of
its first voxel lies. Lengths are in nanometres here, whatever the unit in the file.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..blocks.geometry import BlockGrid, Box, Triple, triple
from ..kernels.pyramid import Factors, downsample_labels, pyramid_factors
from .volumes import Output, Source

if TYPE_CHECKING:
    import zarr

VoxelSize: TypeAlias = tuple[float, float, float]
"""Edges of a voxel along z, y, x in nanometres."""

VERSIONS = {"0.4": 2, "0.5": 3}
"""Format of zarr that each version of OME-Zarr stands on."""

_NANOMETRES = {
    **dict.fromkeys(("picometer", "pm"), Decimal("1E-3")),
    **dict.fromkeys(("angstrom", "Å"), Decimal("1E-1")),
    **dict.fromkeys(("nanometer", "nanometre", "nm"), Decimal(1)),
    **dict.fromkeys(("micrometer", "micrometre", "micron", "um", "µm", "μm"), Decimal("1E3")),
    **dict.fromkeys(("millimeter", "millimetre", "mm"), Decimal("1E6")),
    **dict.fromkeys(("centimeter", "centimetre", "cm"), Decimal("1E7")),
    **dict.fromkeys(("meter", "metre", "m"), Decimal("1E9")),
}

_PARENTS = 3  # groups above an array in which its metadata are looked for: paths like "scale0/image" have two


@dataclass(frozen=True)
class Level:
    """One resolution of a multiscale image.

    Parameters
    ----------
    path : str
        Path of the array within the group.
    shape : tuple of int
        Shape of the array, all axes.
    voxel_size_nm, translation_nm : tuple of 3 float, optional
        Edges of a voxel and centre of the first voxel along z, y, x in nanometres; None when there are not three
        axes of space, or not all of them have a metric unit.
    """

    path: str
    shape: tuple[int, ...]
    voxel_size_nm: VoxelSize | None
    translation_nm: VoxelSize | None


@dataclass(frozen=True)
class Multiscale:
    """A multiscale image: names of the axes in order, and the levels from fine to coarse."""

    axes: tuple[str, ...]
    levels: tuple[Level, ...]


# ------------------------------------------------------------ metadata in


def _described(attributes: Mapping[str, Any], where: str) -> Mapping[str, Any] | None:
    ome = attributes.get("ome")
    namespaced = isinstance(ome, Mapping)
    images = (ome if namespaced else attributes).get("multiscales")  # type: ignore[union-attr]
    if images is None:
        return None
    if not isinstance(images, list) or not images or not isinstance(images[0], Mapping):
        raise ValueError(f"{where}: 'multiscales' must be a list of objects, got {images!r}")
    image: Mapping[str, Any] = images[0]  # the specification's choice when there are several
    version = ome.get("version") if namespaced else image.get("version")  # type: ignore[union-attr]
    complete = isinstance(image.get("axes"), list) and isinstance(image.get("datasets"), list)
    if version not in (None, *VERSIONS) or not complete:
        raise ValueError(
            f"{where}: OME-Zarr {' and '.join(VERSIONS)} are understood, with 'axes' and 'datasets'; got version "
            f"{version!r} with {sorted(image)}"
        )
    return image


def _vector(transform: Mapping[str, Any], n_axes: int, where: str) -> list[float]:
    kind = transform["type"]
    values = transform.get(kind)
    numbers = isinstance(values, list) and all(type(v) in (int, float) and math.isfinite(v) for v in values)
    if not numbers or len(values) != n_axes or (kind == "scale" and min(values) <= 0):  # type: ignore[arg-type]
        limit = " above 0" if kind == "scale" else ""
        raise ValueError(f"{where}: {kind} must be a list of {n_axes} finite numbers{limit}, got {dict(transform)!r}")
    return [float(v) for v in values]  # type: ignore[union-attr]


def _placement(transforms: Sequence[Mapping[str, Any]], n_axes: int, where: str) -> tuple[list[float], list[float]]:
    """Scale and translation of a chain of transformations."""
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


def _axes(image: Mapping[str, Any]) -> tuple[tuple[str, ...], list[int], list[Decimal | None]]:
    """Names of the axes, indices of those of space, and nanometres in their units."""
    axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in image["axes"]]
    names = tuple(str(axis.get("name")).lower() for axis in axes)
    space = [i for i, axis in enumerate(axes) if axis.get("type", "space" if names[i] in "zyx" else "") == "space"]
    return names, space, [_NANOMETRES.get(str(axes[i].get("unit"))) for i in space]


def _nanometres(values: list[float], space: list[int], units: list[Decimal | None]) -> VoxelSize | None:
    if len(space) != 3 or None in units:
        return None
    # In decimals, so that 0.0043 micrometers are 4.3 nanometres and not 4.300000000000001.
    z, y, x = (float(Decimal(repr(values[i])) * unit) for i, unit in zip(space, units, strict=True) if unit)
    return z, y, x


def _level(dataset: Any, image: Mapping[str, Any], where: str) -> Level:
    path = dataset.get("path") if isinstance(dataset, Mapping) else None
    if not isinstance(path, str):
        raise ValueError(f"{where}: every dataset must have a path, got {dataset!r}")
    names, space, units = _axes(image)
    chain = [*(dataset.get("coordinateTransformations") or []), *(image.get("coordinateTransformations") or [])]
    scale, shift = _placement(chain, len(names), f"{where}, level {path!r}")
    return Level(path.strip("/"), (), _nanometres(scale, space, units), _nanometres(shift, space, units))


def _open(where: str) -> Any:
    import zarr

    try:
        return zarr.open(where, mode="r")
    except (FileNotFoundError, zarr.errors.NodeNotFoundError) as error:
        raise FileNotFoundError(f"{where}: there is no zarr array and no zarr group") from error


def _array(group: "zarr.Group", path: str, n_axes: int) -> Any:
    try:
        array = group[path]
    except KeyError:
        raise FileNotFoundError(f"{group}: level {path!r} is in the metadata but not in the store") from None
    if getattr(array, "ndim", None) != n_axes:
        raise ValueError(f"{group}: level {path!r} must be an array of {n_axes} axes, got {array}")
    return array


def read_multiscales(path_or_group: "str | os.PathLike[str] | zarr.Group") -> Multiscale | None:
    """Axes and levels of a multiscale image, or None where there is none.

    Parameters
    ----------
    path_or_group : path, URL or zarr.Group
        Group to look at. Of several images in it, the first is taken.

    Returns
    -------
    multiscale : Multiscale or None

    Raises
    ------
    FileNotFoundError
        When there is nothing at the path, or a level that the metadata name is not there.
    ValueError
        When the metadata are not those of OME-Zarr 0.4 or 0.5.

    Notes
    -----
    https://ngff.openmicroscopy.org/0.5. The transformations of a level apply before those of the image.

    Examples
    --------
    >>> import zarr
    >>> group = zarr.open_group({})
    >>> levels = create_label_pyramid(group, "mito", (8, 200, 200), chunks=(8, 64, 64), voxel_size_nm=(30.0, 8.0, 8.0))
    >>> [(level.path, level.shape, level.voxel_size_nm) for level in read_multiscales(group["labels/mito"]).levels]
    [('0', (8, 200, 200), (30.0, 8.0, 8.0)), ('1', (8, 100, 100), (30.0, 16.0, 16.0))]
    """
    local = isinstance(path_or_group, str | os.PathLike)
    node: Any = _open(os.fspath(path_or_group)) if local else path_or_group  # type: ignore[arg-type]
    image = _described(node.attrs, str(node))
    if image is None or hasattr(node, "shape"):
        return None
    names = _axes(image)[0]
    levels = [_level(dataset, image, str(node)) for dataset in image["datasets"]]
    shapes = [tuple(_array(node, level.path, len(names)).shape) for level in levels]
    return Multiscale(names, tuple(replace(a, shape=b) for a, b in zip(levels, shapes, strict=True)))


def find_level(multiscale: Multiscale, level: int | None = None, resolution_nm: float | None = None) -> Level:
    """A level by its number or by its resolution.

    Parameters
    ----------
    multiscale : Multiscale
    level : int, optional
        Number of the level, 0 for the finest, which is the default.
    resolution_nm : float, optional
        Edge of a cube as large as a voxel of the level that is wanted, in nanometres. The level whose edge has the
        ratio nearest to 1 is taken, the finer one of two.

    Returns
    -------
    level : Level

    Raises
    ------
    ValueError
        When both are given, there is no such level, no voxel size is known, or none is within a factor of 1.5.

    Examples
    --------
    >>> levels = [Level(str(k), (9, 9, 9), (8.0 * 2**k,) * 3, (0.0,) * 3) for k in range(3)]
    >>> find_level(Multiscale(("z", "y", "x"), tuple(levels)), resolution_nm=15).path
    '1'
    """
    levels = multiscale.levels
    if resolution_nm is None:
        number = 0 if level is None else level
        if not 0 <= number < len(levels):
            raise ValueError(f"level must be at least 0 and below {len(levels)}, the number of levels; got {level!r}")
        return levels[number]
    if level is not None:
        raise ValueError(f"give level or resolution_nm, not both; got {level!r} and {resolution_nm!r}")
    if not 0 < resolution_nm < math.inf:
        raise ValueError(f"resolution_nm must be above 0 and finite, got {resolution_nm!r}")
    edges = {a: math.prod(a.voxel_size_nm) ** (1 / 3) for a in levels if a.voxel_size_nm is not None}
    if edges:
        found = min(edges, key=lambda a: round(abs(math.log(edges[a] / resolution_nm)), 9))
        if max(edges[found] / resolution_nm, resolution_nm / edges[found]) <= 1.5:
            return found
    known = [round(edge, 3) for edge in edges.values()]
    raise ValueError(f"resolution_nm: no level is within a factor of 1.5 of {resolution_nm!r} nm; levels have {known}")


def _check_axes(names: tuple[str, ...], shape: tuple[int, ...], name: str) -> None:
    last = names[-3:]
    if len(last) < 3 or (last != ("z", "y", "x") and set(last) == {"z", "y", "x"}):
        raise ValueError(f"{name}: the last three axes must be z, y, x; got {names}")
    if "t" in names or "time" in names:
        raise ValueError(
            f"{name} has a time axis, shape {shape} along {names}; give an array of one time point: (z, y, x) or "
            "(channel, z, y, x)"
        )


def _enclosing(where: str) -> tuple[tuple[str, ...], Level] | None:
    """Axes and level of an array, from the metadata of a group above it."""
    import zarr

    group, inner = where.rstrip("/"), ""
    for _ in range(_PARENTS):
        group, _, name = group.rpartition("/")
        inner = f"{name}/{inner}".rstrip("/")
        try:
            attributes = zarr.open_group(group or "/", mode="r").attrs
        except (FileNotFoundError, zarr.errors.NodeNotFoundError):
            continue
        image = _described(attributes, group)
        for dataset in image["datasets"] if image is not None else ():
            level = _level(dataset, image, group)  # type: ignore[arg-type]
            if level.path == inner:
                return _axes(image)[0], level  # type: ignore[arg-type]
    return None


def resolve_input(
    path_or_url: "str | os.PathLike[str]", name: str, level: int | None = None, resolution_nm: float | None = None
) -> "tuple[zarr.Array[Any], VoxelSize | None]":
    """Array of an input, and its voxel size where that is known.

    Parameters
    ----------
    path_or_url : path or URL
        A zarr array, also one inside a multiscale image, whose metadata then give the voxel size; or a multiscale
        image, of which one level is taken.
    name : str
        Name of the argument, for messages.
    level, resolution_nm
        Level of a multiscale image, see `find_level`.

    Returns
    -------
    array : zarr.Array
        Opened for reading, axes (z, y, x) or (channel, z, y, x) if it belongs to a multiscale image.
    voxel_size_nm : tuple of 3 float or None
        Edges of a voxel along z, y, x in nanometres.

    Raises
    ------
    FileNotFoundError
        When there is nothing at the path.
    ValueError
        When a group is no multiscale image, its metadata can not be used, its last axes are not z, y, x, it has a time
        axis, it has no such level, or a level is asked of an array.
    """
    where = os.fspath(path_or_url)
    where = where if "://" in where else os.path.abspath(where)
    node = _open(where)
    if hasattr(node, "shape"):
        if level is not None or resolution_nm is not None:
            raise ValueError(f"{name}: {where} is an array and has no levels; give the group, or no level")
        placed = _enclosing(where)
        if placed is not None:
            _check_axes(placed[0], node.shape, name)
        return node, placed[1].voxel_size_nm if placed else None
    multiscale = read_multiscales(node)
    if multiscale is None:
        inside = sorted(node.keys())[:8] if node.store.supports_listing else "..."
        raise ValueError(f"{name}: {where} is a group without multiscales; give one of the arrays in it: {inside}")
    found = find_level(multiscale, level, resolution_nm)
    _check_axes(multiscale.axes, found.shape, name)
    return node[found.path], found.voxel_size_nm


# ------------------------------------------------------------ labels out


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
    if _described(group.attrs, str(group)) is not None:
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


def coarse_shape(shape: Triple, factors: Factors) -> Triple:
    """Shape of the next level of a pyramid: ``ceil(size / factor)`` along each axis."""
    z, y, x = (-(-size // factor) for size, factor in zip(shape, factors, strict=True))
    return z, y, x


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
