"""Reads of a moment ago: the chunks in a block's margin are read by its neighbours too.

Where chunks are half as long as blocks, each would be fetched and decoded up to eight times, however thin the halo.
"""

from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import Box
from .sharing import of_this_process


@dataclass(eq=False)
class _Part:
    """Some channels of a box of whole chunks, read by one thread for all who need a chunk of it."""

    channels: slice
    cells: Box
    box: Box
    nbytes: int
    values: "Future[NDArray[Any]]" = field(default_factory=Future)


class _Kept:
    """The parts that a process keeps of one array, the latest used last."""

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self.lock = Lock()

    def overlapping(self, channels: slice, cells: Box, missing: NDArray[np.bool_]) -> list[_Part]:
        """Parts that have chunks of the box; `missing` tells which chunks none has."""
        found = []
        for part in self.parts[::-1]:
            common = part.cells.intersect(cells)
            if part.channels == channels and common.size and missing[common.within(cells)].any():
                missing[common.within(cells)] = False
                found.append(part)
        self.parts = [part for part in self.parts if part not in found] + found[::-1]
        return found

    def add(self, part: _Part, allowed_mem: int) -> bool:
        """Keep a part that is about to be read, in the place of old ones; False where there is no room for it."""
        being_read = [part, *(one for one in self.parts if not one.values.done())]
        if sum(one.nbytes for one in being_read) > allowed_mem:
            return False
        self.parts.append(part)
        over = sum(one.nbytes for one in self.parts) - allowed_mem
        for old in [one for one in self.parts if one.values.done()]:
            if over > 0:
                self.parts.remove(old)
                over -= old.nbytes
        return True


class RecentReads:
    """An array whose latest reads are kept, in whole chunks, for reads that overlap them.

    Copies of it in one process, as tasks of a cluster unpickle them, keep the same parts. A process keeps the parts of
    one array at a time.

    Parameters
    ----------
    array : CheckedArray, shape (C, D, H, W)
        The array. What its reads raise is raised here.
    allowed_mem : int
        Bytes that may be kept; a read that takes more is passed on as it is.

    Examples
    --------
    >>> import zarr
    >>> from topo_dask.stores.checked import CheckedArray
    >>> array = zarr.create_array({}, data=np.ones((3, 4, 4, 9), np.float32), chunks=(3, 4, 4, 3))
    >>> recent = RecentReads(CheckedArray(array, "flow"), 1 << 20)
    >>> float(recent[0:3, 0:4, 0:4, 0:4].sum()), float(recent[0:3, 0:4, 0:4, 2:5].sum())
    (192.0, 144.0)
    """

    def __init__(self, array: Any, allowed_mem: int) -> None:
        self._array = array
        self._allowed_mem = allowed_mem
        self._token = uuid4().hex
        self._kept = _Kept()
        self.dtype, self.shape, self.ndim = array.dtype, array.shape, array.ndim

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _kept=of_this_process("recent reads", state["_token"], _Kept))

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        """Values of a box, see `CheckedArray`."""
        channels, (z, y, x) = index[0], index[1:]
        box = Box((z.start, y.start, x.start), (z.stop, y.stop, x.stop))
        edges = self._array.chunks[1:]
        cells = box.cells(edges)
        if cells.voxels(edges, self.shape[1:]) == box:  # nobody else needs these chunks
            return self._read(channels, box)
        parts = self._parts(channels, cells)
        out = np.empty((channels.stop - channels.start, *box.shape), self.dtype)
        for part in parts:
            if part.values.exception() is not None:  # it was raised where the part was read
                parts = []
                break
            common = part.box.intersect(box)
            out[:, *common.within(box)] = part.values.result()[:, *common.within(part.box)]
        return out if parts else self._read(channels, box)

    def _parts(self, channels: slice, cells: Box) -> list[_Part]:
        # Parts that hold all of these chunks; none where there is no room to keep what has to be read.
        missing = np.ones(cells.shape, np.bool_)
        with self._kept.lock:
            found = self._kept.overlapping(channels, cells, missing)
            if not missing.any():
                return found
            own = self._part(channels, cells, missing)
            if not self._kept.add(own, self._allowed_mem):
                return []
        try:
            own.values.set_result(self._read(channels, own.box))
        except BaseException as error:
            with self._kept.lock:
                self._kept.parts.remove(own)
            own.values.set_exception(error)
            raise
        return [own, *found]

    def _part(self, channels: slice, cells: Box, missing: NDArray[np.bool_]) -> _Part:
        # The box of the chunks that are missing.
        at = np.argwhere(missing) + np.array(cells.start)
        (z, y, x), (d, h, w) = at.min(axis=0).tolist(), (at.max(axis=0) + 1).tolist()
        own = Box((z, y, x), (d, h, w))
        box = own.voxels(self._array.chunks[1:], self.shape[1:])
        return _Part(channels, own, box, (channels.stop - channels.start) * box.size * self.dtype.itemsize)

    def _read(self, channels: slice, box: Box) -> NDArray[Any]:
        values: NDArray[Any] = self._array[(channels, *box.slices)]
        return values

    def clear(self) -> None:
        """Let go of what is kept; what is being read is kept when it is there."""
        with self._kept.lock:
            self._kept.parts = [part for part in self._kept.parts if not part.values.done()]
