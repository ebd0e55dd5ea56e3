"""A volume of any size made of copies of a small one, read and written block by block."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..blocks.geometry import triple
from ..given import check_unmasked, integer
from .shapes import Shape

if TYPE_CHECKING:
    import zarr

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)  # arrays give no single truth value
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
        (D, H, W) of the volume. It need not be a multiple of the tile's; objects are cut at the far faces.

    Raises
    ------
    TypeError
        `labels` or `flow` is not a NumPy array, or has masked values; `shape` is not three integers.
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
        for name, array in (("labels", self.labels), ("flow", self.flow)):
            if not isinstance(array, np.ndarray):
                raise TypeError(f"{name} is a {type(array).__name__}; expected a NumPy array")
            check_unmasked(array, name)
        if self.labels.ndim != 3 or self.flow.shape != (3, *self.labels.shape):
            raise ValueError(f"flow has shape {self.flow.shape}; expected (3, d, h, w) for labels {self.labels.shape}")
        triple(self.shape, "shape")
        triple(self.labels.shape, "the shape of labels")

    def read(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Return the mask (bool, [d, h, w]) and the flow ([3, d, h, w]) of a box, in O(box)."""
        return self._cut(self.labels, box) != 0, self._cut(self.flow, box)

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

        The codec is Blosc with LZ4 and no shuffle. Of the codecs tried on float16 flow (Blosc with LZ4 or Zstandard,
        each with and without shuffle, and Zstandard alone) it encodes and decodes fastest; all of them shrink the
        background, and none the vectors. Empty chunks are stored too: looking for them takes as long as encoding.

        Parameters
        ----------
        mask_path, flow_path : str or Path
            Paths of the new arrays. The mask is uint8 [1, D, H, W] (one class), 0 or 1; the flow is [3, D, H, W].
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
        TypeError, ValueError
            `chunks` are not three integers of at least 1, `dtype` is no type of floats, or `threads` is no integer of
            at least 1. Nothing is written then.
        zarr.errors.ContainsArrayError
            There is an array at a path already.
        """
        chunks, threads = triple(chunks, "chunks"), integer(threads, "threads", 1)
        if np.dtype(dtype).kind != "f":
            raise ValueError(f"dtype is {dtype!r}; expected a type of floats, as 'float16'")
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

    def _pieces(self, box: Box) -> Iterator[tuple[Box, Box]]:
        """Yield the parts of a box that lie in one tile: where in the box, and where in the tile."""
        per_axis = []
        for axis, (part, size, tile) in enumerate(zip(box, self.shape, self.labels.shape, strict=True)):
            start, stop, step = part.indices(size)
            if step != 1:
                raise ValueError(f"box has step {step} along axis {axis}; expected 1")
            edges = [start, *range((start // tile + 1) * tile, stop, tile), max(start, stop)]
            per_axis.append(
                [(slice(a - start, b - start), slice(a % tile, a % tile + b - a)) for a, b in itertools.pairwise(edges)]
            )
        for z, y, x in itertools.product(*per_axis):
            yield (z[0], y[0], x[0]), (z[1], y[1], x[1])

    def _cut(self, unit: np.ndarray, box: Box) -> np.ndarray:
        sizes = [len(range(*part.indices(size))) for part, size in zip(box, self.shape, strict=True)]
        out = np.empty((*unit.shape[:-3], *sizes), unit.dtype)
        for target, source in self._pieces(box):
            out[(..., *target)] = unit[(..., *source)]
        return out


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
