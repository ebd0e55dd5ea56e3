"""Parts of recent reads, kept for the next blocks along z, y and x, which will read them too.

::

    |<--------- this block --------->|
                            |<------- the next one ------->|
                            |< kept >|

For its halo a block reads a thin part of many chunks. Each of these chunks is fetched and decoded as a whole, for up to
27 blocks. Blocks are read in Z-order, so the next blocks come soon if they are in the same cube of a few blocks. When
memory is short, the part that has been kept longest is dropped first.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import Block, BlockGrid, Box, Triple
from .sharing import of_this_process

_AXES = 0, 1, 2

_Key = tuple[int, int, int, Triple]  # first channel and end, axis, and the block for which the part is kept


@dataclass(frozen=True)
class _Slab:
    box: Box
    values: NDArray[Any]


class _Kept:
    """The slabs that a process keeps of one array, oldest first."""

    def __init__(self) -> None:
        self.slabs: OrderedDict[_Key, _Slab] = OrderedDict()
        self.nbytes = 0
        self.lock = Lock()

    def take(self, key: _Key) -> _Slab | None:
        with self.lock:
            return self._remove(key) if key in self.slabs else None

    def put(self, key: _Key, slab: _Slab, allowed_mem: int) -> None:
        with self.lock:
            if key in self.slabs:
                self._remove(key)
            self.slabs[key] = slab
            self.nbytes += slab.values.nbytes
            while self.nbytes > allowed_mem:
                self._remove(next(iter(self.slabs)))

    def clear(self) -> None:
        with self.lock:
            self.slabs.clear()
            self.nbytes = 0

    def _remove(self, key: _Key) -> _Slab:
        slab = self.slabs.pop(key)
        self.nbytes -= slab.values.nbytes
        return slab


class RecentReads:
    """An array that is read block by block, in Z-order; a part that two neighbouring blocks read is read once.

    Reads of boxes that belong to no block are passed on unchanged. All copies that tasks of a cluster unpickle in one
    process share what they keep. A process keeps parts of one array at a time.

    Parameters
    ----------
    array : CheckedArray, shape (C, D, H, W)
        The array. Errors of its reads are passed on.
    grid : BlockGrid
        The blocks.
    allowed_mem : int
        Bytes that may be kept; 0 keeps nothing.

    Examples
    --------
    >>> import zarr
    >>> from topo_dask.stores.checked import CheckedArray
    >>> array = zarr.create_array({}, data=np.arange(27.0).reshape(3, 1, 1, 9))
    >>> grid = BlockGrid((1, 1, 9), (1, 1, 3), (1, 1, 1))
    >>> recent = RecentReads(CheckedArray(array, "flow"), grid, 1 << 20)
    >>> recent[0:1, 0:1, 0:1, 0:4], recent[0:1, 0:1, 0:1, 2:7]
    (array([[[[0., 1., 2., 3.]]]]), array([[[[2., 3., 4., 5., 6.]]]]))
    """

    def __init__(self, array: Any, grid: BlockGrid, allowed_mem: int) -> None:
        self._array = array
        self._grid = grid
        self._allowed_mem = allowed_mem
        self._token = uuid4().hex
        self._kept = _Kept()
        self.dtype, self.shape, self.ndim = array.dtype, array.shape, array.ndim

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _kept=of_this_process("recent reads", state["_token"], _Kept))

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        """Values of a box; see `CheckedArray`."""
        channels, (z, y, x) = index[0], index[1:]
        box = Box((z.start, y.start, x.start), (z.stop, y.stop, x.stop))
        block = self._block_that_reads(box)
        if block is None or not self._allowed_mem:
            return self._read(channels, box)
        values = self._put_together(channels, box, [self._kept.take(_key(channels, axis, block)) for axis in _AXES])
        for axis in _AXES:
            if (above := self._grid.above(block, axis)) is None:
                continue
            shared = box.intersect(above.read)
            if 0 < len(values) * shared.size * values.itemsize <= self._allowed_mem:
                slab = _Slab(shared, values[:, *shared.within(box)].copy())
                self._kept.put(_key(channels, axis, above), slab, self._allowed_mem)
        return values

    def _block_that_reads(self, box: Box) -> Block | None:
        grid = self._grid
        sides = zip(box.start, grid.halo, grid.block_shape, strict=True)
        z, y, x = ((start + halo) // n if start else 0 for start, halo, n in sides)
        block = grid.block((z, y, x))
        return block if block.read == box else None

    def _put_together(self, channels: slice, box: Box, lower: Sequence[_Slab | None]) -> NDArray[Any]:
        # The block before along an axis reads the same voxels along the other two. So the slab that it left begins at
        # the start of the box along this axis, and spans the box along the others: what lies in no slab is the box that
        # begins where they end.
        z, y, x = (slab.box.stop[axis] if slab else box.start[axis] for axis, slab in zip(_AXES, lower, strict=True))
        rest = Box((z, y, x), box.stop)
        if rest == box:
            return self._read(channels, box)
        values = np.empty((channels.stop - channels.start, *box.shape), self.dtype)
        if rest.size:
            self._array.read((channels, *rest.slices), values[:, *rest.within(box)])
        for slab in lower:
            if slab is not None:
                values[:, *slab.box.within(box)] = slab.values
        return values

    def _read(self, channels: slice, box: Box) -> NDArray[Any]:
        values: NDArray[Any] = self._array[(channels, *box.slices)]
        return values

    def clear(self) -> None:
        """Drop everything that is kept."""
        self._kept.clear()


def _key(channels: slice, axis: int, block: Block) -> _Key:
    return channels.start, channels.stop, axis, block.block_id
