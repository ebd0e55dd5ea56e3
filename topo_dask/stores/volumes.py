"""Volumes that stages read from and write to: NumPy and zarr arrays with the same few methods.

Reads give native, C-contiguous NumPy arrays.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import Block, BlockGrid, Box, Triple, triple
from ..kernels.byte_order import native
from ..kernels.flow_types import readable_flow, used_dtype
from ..kernels.tracking import HALVES_BYTES, Region, empty_layout, lay_out, region_of
from .checked import CheckedArray, check_unchanged, stored_shape
from .listing import stored_chunks
from .marks import check_run
from .pages import Pages
from .recent import RecentReads


def track_bytes(dtype: np.dtype[Any]) -> int:
    """Bytes for each vector that a tracking task holds in addition to the vectors as they were read.

    The task lays vectors out for its block, and for a page that particles have gone to. It converts them first, unless
    they have the type in which flow is used, or float16.
    """
    if dtype.name == "float16":
        return 2 * HALVES_BYTES
    used = used_dtype(dtype)
    return 3 * used.itemsize * (2 if dtype.newbyteorder("=") == used else 3)


@dataclass(frozen=True)
class Source:
    """Three-dimensional view of some channels of an array.

    Parameters
    ----------
    array : ndarray, CheckedArray, RecentReads or SharedReads
        Axes (z, y, x), or (channel, z, y, x). Reads of stored arrays are checked.
    name : str
        Name of the argument, for messages.
    channels : slice, optional
        Channels to read of an array with four axes.
    """

    array: Any
    name: str
    channels: slice | None = None

    @property
    def shape(self) -> Triple:
        """Shape of the volume."""
        return triple(tuple(self.array.shape[-3:]), self.name, at_least=0)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the array."""
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels of a box, with a leading channel axis if there are channels."""
        index = box.slices if self.channels is None else (self.channels, *box.slices)
        return native(np.asarray(self.array[index]))

    def release(self) -> None:
        """Free the parts that are kept of earlier reads."""
        if isinstance(self.array, RecentReads):
            self.array.clear()


class SharedReads:
    """Array whose channels are read together, once, in one box, and then handed out to each class that asks for some.

    Parameters
    ----------
    array : RecentReads
        Axes (channel, z, y, x).
    box : Box
        The box that several classes ask for. Other boxes are read from the array each time.
    """

    def __init__(self, array: Any, box: Box) -> None:
        self._array = array
        self._box = box
        self._held: NDArray[Any] | None = None
        self.dtype, self.shape, self.ndim = array.dtype, array.shape, array.ndim

    def __getitem__(self, index: tuple[slice, ...]) -> Any:
        if tuple(index[1:]) != self._box.slices:
            return self._array[index]
        if self._held is None:
            self._held = self._array[(slice(0, self.shape[0]), *self._box.slices)]
        return self._held[index[0]]


@dataclass(frozen=True)
class Foreground:
    """Foreground voxels: a mask, or one channel of probabilities and a threshold."""

    source: Source
    threshold: float | None = None
    _met: dict[BlockGrid, NDArray[np.bool_] | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Foreground, (self.source, self.threshold)  # a task does not need the map of the other blocks

    def stored_blocks(self, grid: BlockGrid) -> Iterator[Block]:
        """Blocks that may have foreground, in raster order: those that overlap a stored chunk.

        A chunk that was never written has the array's fill value. Such chunks are background, unless the fill value
        counts as foreground or is NaN. All blocks are given where the store cannot tell which chunks it has, or where a
        missing chunk is an error. The chunks are listed once, and a byte is kept for each block of the grid.
        """
        if grid not in self._met:
            self._met[grid] = self._blocks_met(grid)
        met = self._met[grid]
        if met is None:
            return iter(grid)
        return (grid.block((z, y, x)) for z, y, x in map(np.ndarray.tolist, np.argwhere(met)))

    def _blocks_met(self, grid: BlockGrid) -> NDArray[np.bool_] | None:
        # Which blocks overlap a stored chunk; None where each may have foreground.
        array = self.source.array
        if not (isinstance(array, CheckedArray) and array.on_missing == "background"):
            return None
        array.check_metadata()  # where none of the chunks have the names that are expected, nothing would be read
        fill = np.asarray(array.fill_value or 0)  # in format 2 it may be null, which reads as 0
        if self._is_foreground(fill) or fill != fill:
            return None
        unit = stored_shape(array)
        channel = self.source.channels.start if self.source.channels else 0
        met = stored_chunks(array, channel // unit[0] if len(unit) == 4 else None)
        if met is None or not met.size:
            return None
        # Each axis of chunks is taken from the front, and comes back behind the others as one of blocks.
        for size, block, chunk in zip(grid.shape, grid.block_shape, unit[-3:], strict=True):
            spans = (slice(at // chunk, -(-min(at + block, size) // chunk)) for at in range(0, size, block))
            met = np.stack([met[span].any(axis=0) for span in spans], axis=-1)
        return met

    def read(self, box: Box) -> NDArray[np.bool_]:
        """Whether each voxel of a box is foreground.

        Raises
        ------
        ValueError
            When a probability is NaN.
        """
        return self.mask_of(self.source.read(box), box)

    def mask_of(self, values: NDArray[Any], box: Box) -> NDArray[np.bool_]:
        """The same of the values of a box that have been read."""
        if values.ndim == 4:
            values = values[0]
        if values.dtype.kind == "f" and np.isnan(values).any():
            at = np.unravel_index(np.argmax(np.isnan(values)), values.shape)
            voxel = tuple(int(a + b) for a, b in zip(at, box.start, strict=True))
            raise ValueError(f"{self.source.name} is NaN at voxel {voxel} (z, y, x)")
        return self._is_foreground(values)

    def _is_foreground(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        if self.threshold is None:
            return values.astype(np.bool_)
        # A threshold beyond the range of the values' type becomes infinity, which still compares correctly.
        with np.errstate(over="ignore"):
            mask: NDArray[np.bool_] = np.asarray(values > self.threshold)
        return mask


def _as_tracked(flow: NDArray[Any]) -> NDArray[np.floating]:
    # float16 stays as it is: it is converted while it is laid out, without a copy in between.
    dtype = flow.dtype.newbyteorder("=")
    return flow.astype(dtype if dtype == np.float16 else used_dtype(dtype), copy=False)


class Flow(Protocol):
    """Flow field of one class."""

    def read(self, box: Box) -> NDArray[np.floating]:
        """Vectors of a box, shape (3, d, h, w)."""

    def region(self, box: Box) -> Region:
        """A region that contains the box, laid out for tracking."""

    def page(self, box: Box) -> Region:
        """The same, for a box that is likely to be asked for again."""

    def part(self, page: Box, box: Box) -> Region:
        """The same, for a small box within a page; the whole page if it costs no more."""

    def release(self) -> None:
        """Free the regions that are kept for tracking."""


@dataclass(frozen=True)
class StoredFlow:
    """Flow that is read from its store, box by box; pages stay in memory as far as `pages` has room."""

    source: Source
    step_size: float = 1.0
    pages: Pages = field(default_factory=lambda: Pages(0), compare=False)

    def read(self, box: Box) -> NDArray[np.floating]:
        """Vectors of a box, shape (3, d, h, w), float32 or float64."""
        return readable_flow(self.source.read(box))

    def region(self, box: Box) -> Region:
        """The box laid out for tracking; taken from the pages in memory if it is one of them."""
        if (page := self.pages.find(self._key(box))) is not None:
            return page
        return region_of(_as_tracked(self.source.read(box)), box.start, self.step_size)

    def page(self, box: Box) -> Region:
        """The box laid out for tracking, kept in memory as a page."""
        return self.pages.get(self._key(box), lambda: self.region(box))

    def part(self, page: Box, box: Box) -> Region:
        """The page laid out for tracking if it is in memory, else the box within it."""
        at_hand = self.pages.find(self._key(page))
        return self.region(box) if at_hand is None else at_hand

    def reading(self, array: Any) -> "StoredFlow":
        """The same flow, read from another array that holds the same values."""
        return replace(self, source=replace(self.source, array=array))

    def _key(self, box: Box) -> tuple[int | None, Box]:
        return self.source.channels.start if self.source.channels else None, box

    def release(self) -> None:
        """Drop the pages, and the parts that are kept of earlier reads."""
        self.pages.clear()
        self.source.release()


class HeldFlow:
    """Flow in memory, which the threads that will use it lay out for tracking once.

    Parameters
    ----------
    flow : ndarray of float, shape (3, D, H, W)
        Vectors in voxels.
    step_size : float
        Step size of the Euler steps.
    """

    def __init__(self, flow: NDArray[Any], step_size: float) -> None:
        self._flow: NDArray[np.floating] = np.ascontiguousarray(_as_tracked(flow))
        self._step_size = step_size
        self._vectors: NDArray[Any] | None = empty_layout(self._flow)
        self._longest: list[float] = [0.0]

    def lay_out(self, box: Box) -> None:
        """Lay out the z planes of a box."""
        planes = (box.start[0], box.stop[0])
        self._longest.append(lay_out(self._flow, self._step_size, self._vectors, planes)[1])

    def page(self, box: Box) -> Region:
        """The whole volume, laid out for tracking."""
        return self.region(box)

    def part(self, page: Box, box: Box) -> Region:
        """The whole volume, laid out for tracking."""
        return self.region(box)

    def release(self) -> None:
        """Free the layout; `region` cannot be called any more."""
        self._vectors = None

    def read(self, box: Box) -> NDArray[np.floating]:
        """Vectors of a box, shape (3, d, h, w), float32 or float64; a view if no conversion is needed."""
        return readable_flow(self._flow[(slice(None), *box.slices)])

    def region(self, box: Box) -> Region:
        """The whole volume, laid out for tracking, whatever the box."""
        assert self._vectors is not None
        return Region(self._vectors, max(self._longest), (0, 0, 0), np.float32(self._step_size))


@dataclass(frozen=True)
class Output:
    """Array that takes the labels, one block at a time.

    Parameters
    ----------
    array : zarr.Array or ndarray of int32, shape (D, H, W)
        The array.
    run : str, optional
        Name of the run that the mark of the array must still have when a block is written; None if there is no mark.
    """

    array: Any
    run: str | None = None

    def written(self) -> Source:
        """The labels written so far, for stages that read them; a missing chunk is background."""
        array = self.array
        return Source(array if isinstance(array, np.ndarray) else CheckedArray(array, "labels", "background"), "labels")

    def write(self, box: Box, labels: NDArray[np.int32]) -> None:
        """Write the labels of a box of whole chunks; an error if the array is gone or another run has taken it over."""
        if self.run is not None:
            check_run(self.array, self.run)
        elif not isinstance(self.array, np.ndarray):
            check_unchanged(self.array)
        self.array[box.slices] = labels
