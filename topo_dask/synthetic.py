"""Synthetic volumes whose labels are known: shapes, noisy flow, and a tiling of any size read by blocks.

Everything is deterministic: the same arguments give the same voxels. Objects never overlap but may touch;
each is 6-connected, and they are numbered 1..n.
"""

import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from topo_dask.kernels import painting

if TYPE_CHECKING:
    import zarr

Shape = tuple[int, int, int]
Box = tuple[slice, slice, slice]

_TRIES = 1000  # places tried for one object before the volume counts as full


def blobs(
    shape: Shape, n: int, seed: int = 0, *, radius: tuple[float, float] = (7.5, 13.8), margin: int = 0
) -> np.ndarray:
    """Ellipsoids at random places.

    Parameters
    ----------
    shape : tuple of int
        (D, H, W).
    n : int
        Number of objects.
    seed : int, default 0
        Seed of the random numbers.
    radius : tuple of float, default (7.5, 13.8)
        Lowest and highest semi-axis, voxels; each axis of each object is drawn by itself. 600 objects of the
        default fill about 17 % of 256**3 voxels.
    margin : int, default 0
        Voxels left free along the faces of the volume; with 1 or more, tiles of the volume do not touch.

    Returns
    -------
    ndarray of int32, shape (D, H, W)
        Ids 1..n, 0 = background.

    Raises
    ------
    ValueError
        An object finds no free place in 1000 tries, or is larger than the volume.

    Examples
    --------
    >>> from topo_dask.synthetic import blobs
    >>> labels = blobs((64, 64, 64), 9, seed=1)
    >>> labels.shape, int(labels.max())
    ((64, 64, 64), 9)
    """
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    for label in range(1, n + 1):
        for _ in range(_TRIES):
            radii = rng.uniform(*radius, 3)
            centre = _inner_point(rng, shape, radii + margin)
            if painting.ellipsoid_is_free(labels, centre, radii, 0):
                painting.paint_ellipsoid(labels, centre, radii, label)
                break
        else:
            raise _full("blobs", label, n, shape)
    return labels


def tubes(
    shape: Shape, n: int, seed: int = 0, *, radius: float = 3.0, length: int = 120, margin: int = 0
) -> np.ndarray:
    """Tubes around smooth random walks, a stand-in for mitochondria and neurites.

    A walk takes steps of half a voxel and turns a little at each; at the faces of the volume it is reflected.
    It ends where it would meet an earlier tube, and is drawn again when that leaves less than a quarter of
    it.

    Parameters
    ----------
    shape : tuple of int
        (D, H, W).
    n : int
        Number of objects.
    seed : int, default 0
        Seed of the random numbers.
    radius : float, default 3.0
        Radius of the tubes, voxels, at least 1.
    length : int, default 120
        Length of a walk, voxels.
    margin : int, default 0
        Voxels left free along the faces of the volume.

    Returns
    -------
    ndarray of int32, shape (D, H, W)
        Ids 1..n, 0 = background.

    Raises
    ------
    ValueError
        A tube finds no free place in 1000 tries, is wider than the volume, or is thinner than 1.

    Examples
    --------
    >>> from topo_dask.synthetic import tubes
    >>> int(tubes((48, 48, 48), 5, seed=1, radius=2.0, length=60).max())
    5
    """
    if radius < 1.0:
        raise ValueError(f"radius is {radius}; expected at least 1, so that tubes are connected through faces")
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    for label in range(1, n + 1):
        for _ in range(_TRIES):
            path = _walk(rng, shape, 2 * length, radius + margin)
            free = painting.free_length(labels, path, radius)
            if 4 * free >= len(path):
                painting.paint_path(labels, path[:free], radius, label)
                break
        else:
            raise _full("tubes", label, n, shape)
    return labels


def touching_plates(
    shape: Shape,
    n_stacks: int = 5,
    seed: int = 0,
    *,
    plates: int = 5,
    thickness: int = 5,
    radius: tuple[float, float] = (14.0, 22.0),
    bend: float = 4.0,
    margin: int = 0,
) -> np.ndarray:
    """Stacks of slightly curved plates that touch face to face, a stand-in for cisternae and vesicles.

    Nothing but the flow tells the plates of a stack apart.

    Parameters
    ----------
    shape : tuple of int
        (D, H, W).
    n_stacks : int, default 5
        Number of stacks. A stack is piled up along z, y or x.
    seed : int, default 0
        Seed of the random numbers.
    plates : int, default 5
        Plates in a stack.
    thickness : int, default 5
        Voxels from one face of a plate to the other.
    radius : tuple of float, default (14.0, 22.0)
        Lowest and highest radius of a stack, voxels.
    bend : float, default 4.0
        Largest height of a stack's rim above or below its middle, voxels.
    margin : int, default 0
        Voxels left free along the faces of the volume.

    Returns
    -------
    ndarray of int32, shape (D, H, W)
        Ids 1..n_stacks * plates, ascending along each stack, 0 = background.

    Raises
    ------
    ValueError
        A stack finds no free place in 1000 tries, or is larger than the volume.

    Examples
    --------
    >>> from topo_dask.synthetic import touching_plates
    >>> int(touching_plates((96, 96, 96), seed=1).max())
    25
    """
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    for stack in range(n_stacks):
        for _ in range(_TRIES):
            piled = _stack(rng, plates, thickness, rng.uniform(*radius), rng.uniform(-bend, bend))
            solid = np.moveaxis(piled, 0, rng.integers(3))
            half = np.array(solid.shape) / 2
            corner = np.rint(_inner_point(rng, shape, half + margin + 0.5) - half + 0.5).astype(int)
            place = labels[tuple(slice(c, c + s) for c, s in zip(corner, solid.shape, strict=True))]
            if not (place[solid > 0] > 0).any():
                place[solid > 0] = solid[solid > 0] + stack * plates
                break
        else:
            raise _full("touching_plates", stack + 1, n_stacks, shape)
    return labels


def noisy(flow: np.ndarray, sigma: float, seed: int = 0, labels: np.ndarray | None = None) -> np.ndarray:
    """Flow with smooth noise, a stand-in for a network's prediction.

    Each component gets normal noise, filtered by a Gaussian of 1.5 voxels and scaled to standard deviation
    `sigma` over the volume. Then every vector that was not zero is scaled to unit length.

    Parameters
    ----------
    flow : ndarray of float, shape (3, D, H, W)
        Components dz, dy, dx, of about unit length, 0 in the background.
    sigma : float
        Standard deviation of the noise, voxels, at least 0.
    seed : int, default 0
        Seed of the random numbers.
    labels : ndarray of integer, shape (D, H, W), optional
        Noise goes where these are not 0; vectors that were zero (at an object's centre) become noise of the
        length drawn. By default noise goes where the flow is not zero.

    Returns
    -------
    ndarray of the type of `flow`, shape (3, D, H, W)
        0 where no noise goes and the flow was 0.

    Raises
    ------
    ValueError
        `sigma` is negative or `labels` does not fit `flow`.

    Examples
    --------
    >>> import numpy as np
    >>> from topo_dask.synthetic import noisy
    >>> flow = np.zeros((3, 8, 8, 8), np.float32)
    >>> flow[0, 2:6] = 1
    >>> bool(np.allclose(np.linalg.norm(noisy(flow, 0.2), axis=0), flow[0]))
    True
    """
    from scipy.ndimage import gaussian_filter

    if sigma < 0:
        raise ValueError(f"sigma is {sigma}; expected at least 0")
    if labels is not None and labels.shape != flow.shape[1:]:
        raise ValueError(f"labels has shape {labels.shape}; expected {flow.shape[1:]}, as flow has {flow.shape}")
    moving = (flow != 0).any(axis=0)
    where = moving if labels is None else labels != 0
    rng = np.random.default_rng(seed)
    out = flow.astype(np.float32 if flow.dtype == np.float16 else flow.dtype)
    for component in out:
        noise = gaussian_filter(rng.standard_normal(component.shape, np.float32), 1.5)
        component[where] += (noise * (sigma / noise.std()))[where]
    length = np.sqrt((out.astype(np.float64) ** 2).sum(axis=0))
    return (out / np.where(moving & (length > 0), length, 1.0)).astype(flow.dtype)


@dataclass(frozen=True)
class Tiling:
    """A volume of any size made of copies of a small one, read block by block.

    Parameters
    ----------
    labels : ndarray of integer, shape (d, h, w)
        Labels of the tile, 0 = background. Objects should keep off its faces (``margin=1`` of the shapes in
        this module), else those of neighbouring tiles touch.
    flow : ndarray of float, shape (3, d, h, w)
        Flow of the tile.
    shape : tuple of int
        (D, H, W) of the volume; no multiple of the tile is needed, objects are cut at the far faces.

    Raises
    ------
    ValueError
        Shapes that do not fit, or an empty axis.

    Examples
    --------
    >>> import numpy as np
    >>> from topo_dask.synthetic import Tiling, blobs
    >>> from topo_dask.targets import direct_flow
    >>> labels = blobs((32, 32, 32), 2, seed=1, radius=(4, 6), margin=1)
    >>> tiling = Tiling(labels, direct_flow(labels), (1000, 1000, 1000))
    >>> mask, flow = tiling.read((slice(20, 50), slice(0, 8), slice(990, 1000)))
    >>> mask.shape, flow.shape
    ((30, 8, 10), (3, 30, 8, 10))
    """

    labels: np.ndarray
    flow: np.ndarray
    shape: Shape

    def __post_init__(self) -> None:
        if self.labels.ndim != 3 or self.flow.shape != (3, *self.labels.shape):
            raise ValueError(f"flow has shape {self.flow.shape}; expected (3, d, h, w) for labels {self.labels.shape}")
        if len(self.shape) != 3 or min(*self.shape, *self.labels.shape) < 1:
            raise ValueError(f"shape is {self.shape}; expected three sizes of at least 1, as of labels")

    def read(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Return the mask (bool, [d, h, w]) and the flow ([3, d, h, w]) of a box, in O(box)."""
        return self._cut(self.labels, box) != 0, self._cut(self.flow, box)

    def read_labels(self, box: Box) -> np.ndarray:
        """Return the true labels of a box, int64 [d, h, w]: tile number (raster) * largest id + id.

        The same object has the same id in every box.
        """
        tiles = [-(-size // tile) for size, tile in zip(self.shape, self.labels.shape, strict=True)]
        out = self._cut(self.labels, box).astype(np.int64)
        largest = int(self.labels.max())
        for target, _, tile in self._pieces(box):
            part = out[target]
            part[part > 0] += int(np.ravel_multi_index(tile, tiles)) * largest
        return out

    def write_zarr(
        self,
        mask_path: str | Path,
        flow_path: str | Path,
        *,
        chunks: Shape = (128, 128, 128),
        dtype: str = "float16",
        threads: int = 2,
    ) -> tuple["zarr.Array[Any]", "zarr.Array[Any]"]:
        """Write mask and flow as two new zarr v3 arrays, chunk by chunk.

        The codec is Blosc with LZ4 and no shuffle, the fastest to encode and decode of those tried on float16
        flow (Blosc LZ4 and Zstandard with and without shuffle, Zstandard alone): the background shrinks, the
        vectors do not under any. Empty chunks are stored too: looking for them takes as long as encoding.

        Parameters
        ----------
        mask_path, flow_path : str or Path
            Where nothing is yet. The mask is uint8 [1, D, H, W] (one class), 0 or 1; the flow [3, D, H, W].
        chunks : tuple of int, default (128, 128, 128)
            Chunk shape along z, y, x; a chunk of the flow holds all three components.
        dtype : str, default "float16"
            Type of the stored flow.
        threads : int, default 2
            Chunks in progress at once; each takes about 3 times its uncompressed size in memory.

        Returns
        -------
        tuple of zarr.Array
            Mask and flow.

        Raises
        ------
        zarr.errors.ContainsArrayError
            An array is there already.
        """
        mask = _new_array(mask_path, (1, *self.shape), (1, *chunks), "uint8")
        flow = _new_array(flow_path, (3, *self.shape), (3, *chunks), dtype)

        inside = (self.labels[None] != 0).astype(np.uint8)
        vectors = self.flow.astype(dtype)  # the tile once, not every block

        def write(box: Box) -> None:
            mask[(slice(None), *box)] = self._cut(inside, box)
            flow[(slice(None), *box)] = self._cut(vectors, box)

        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(write, _boxes(self.shape, chunks)):
                pass
        return mask, flow

    def _pieces(self, box: Box) -> Iterator[tuple[Box, Box, tuple[int, ...]]]:
        """Yield the parts of a box that lie in one tile: where in the box, where in the tile, which tile."""
        per_axis = []
        for axis, (part, size, tile) in enumerate(zip(box, self.shape, self.labels.shape, strict=True)):
            start, stop, step = part.indices(size)
            if step != 1:
                raise ValueError(f"box has step {step} along axis {axis}; expected 1")
            edges = [start, *range((start // tile + 1) * tile, stop, tile), max(start, stop)]
            per_axis.append(
                [
                    (slice(a - start, b - start), slice(a % tile, a % tile + b - a), a // tile)
                    for a, b in itertools.pairwise(edges)
                ]
            )
        for z, y, x in itertools.product(*per_axis):
            yield (z[0], y[0], x[0]), (z[1], y[1], x[1]), (z[2], y[2], x[2])

    def _cut(self, unit: np.ndarray, box: Box) -> np.ndarray:
        sizes = [len(range(*part.indices(size))) for part, size in zip(box, self.shape, strict=True)]
        out = np.empty((*unit.shape[:-3], *sizes), unit.dtype)
        for target, source, _ in self._pieces(box):
            out[(..., *target)] = unit[(..., *source)]
        return out


def _full(what: str, number: int, n: int, shape: Shape) -> ValueError:
    return ValueError(
        f"{what}: number {number} of {n} found no free place in {_TRIES} tries in shape {shape}; "
        "expected fewer or smaller objects, or a larger shape"
    )


def _inner_point(rng: np.random.Generator, shape: Shape, distance: np.ndarray) -> np.ndarray:
    """Draw a point at least `distance` from the volume's first and last voxel centres, per axis."""
    low, high = distance, np.array(shape) - 1 - distance
    if (low > high).any():
        raise ValueError(f"shape is {shape}; expected room for an object of half size {np.round(distance, 1).tolist()}")
    return rng.uniform(low, high)


def _walk(rng: np.random.Generator, shape: Shape, steps: int, distance: float) -> np.ndarray:
    """Draw a smooth path of half-voxel steps that keeps `distance` from the faces, float64 [steps, 3]."""
    low = np.full(3, distance)
    high = np.array(shape) - 1 - low
    point = _inner_point(rng, shape, low)
    heading = rng.standard_normal(3)
    path = np.empty((steps, 3))
    for i, turn in enumerate(rng.standard_normal((steps, 3))):
        heading += 0.1 * turn
        heading /= math.sqrt(float(heading @ heading))
        path[i] = point
        point = point + 0.5 * heading
        heading[(point < low) | (point > high)] *= -1
        point = np.clip(point, low, high)
    return path


def _stack(rng: np.random.Generator, plates: int, thickness: int, radius: float, bend: float) -> np.ndarray:
    """Draw one stack piled up along axis 0, int32; plates are numbered 1..plates."""
    half = int(radius)
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    stretch = rng.uniform(0.8, 1.0)
    distance = (y / stretch) ** 2 + x**2
    lift = np.rint(bend * distance / radius**2).astype(int)
    lift -= lift[distance <= radius**2].min()
    top = int(lift[distance <= radius**2].max()) + plates * thickness
    height = np.arange(top)[:, None, None] - lift
    number = height // thickness + 1
    inside = (distance <= radius**2) & (number >= 1) & (number <= plates)
    return np.where(inside, number, 0).astype(np.int32)


def _boxes(shape: Shape, chunks: Shape) -> Iterator[Box]:
    for corner in itertools.product(*(range(0, size, chunk) for size, chunk in zip(shape, chunks, strict=True))):
        z, y, x = (slice(c, min(c + n, s)) for c, n, s in zip(corner, chunks, shape, strict=True))
        yield z, y, x


def _new_array(path: str | Path, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str) -> "zarr.Array[Any]":
    import zarr
    from zarr.codecs import BloscCodec

    return zarr.create_array(
        str(path),
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        compressors=BloscCodec(cname="lz4", clevel=1, shuffle="noshuffle"),
        fill_value=0,
        config={"write_empty_chunks": True},
    )
