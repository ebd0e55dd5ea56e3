"""Scratch of lazy arrays, and their dask inputs in it: written once, read with checks."""

import atexit
import os
import shutil
import tempfile
import weakref
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from .stores.checked import CheckedArray
from .stores.outputs import absolute
from .stores.scratch import Arrays, FileScratch, find
from .stores.volumes import check_unmasked
from .surroundings import ambient, check_reach

SPILL_CHUNK = 64
"""Edge of the chunks of a spilled input."""


class Opaque:
    """Carries a dask array through a graph as a value."""

    def __init__(self, array: Any) -> None:
        self.array = array


class _Leased(FileScratch):
    # It goes with the last graph that holds it. Once it was pickled others may be at work in it: then with the process.

    _end: "weakref.finalize[Any, _Leased]"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        object.__setattr__(self, "_end", weakref.finalize(self, _remove, url, os.getpid()))

    def __reduce__(self) -> tuple[Any, ...]:
        if (end := self._end.detach()) is not None:
            _, function, arguments, _ = end
            atexit.register(function, *arguments)
        return FileScratch, (self.url,)


def open_scratch(place: str | None) -> FileScratch:
    """A folder of our own, whoever chose the place: it goes with the graph it is for, and nothing else does.

    Where the graph is sent to other processes, or the place is a store, it goes when this process ends.
    """
    root = absolute(os.fspath(place or tempfile.gettempdir()))
    url = f"{root.rstrip('/')}/topo_dask-{uuid4().hex}"
    if "://" not in url:
        return _Leased(url)
    atexit.register(_remove, url, os.getpid())
    return FileScratch(url)


def _remove(url: str, owner: int) -> None:
    if os.getpid() != owner or url.startswith("memory://"):
        return
    if "://" in url:
        FileScratch(url).discard(".")
    else:
        shutil.rmtree(url, ignore_errors=True)


def spill(carrier: Opaque, scratch: FileScratch, name: str) -> CheckedArray:
    """Write a dask array to scratch unless that is done, and return what is there.

    Who writes at the same time, from another process, writes a copy of its own; the record names the one to read.
    """
    import zarr
    from dask.utils import SerializableLock

    done = find(scratch, "spilled", name)
    if done is None:
        # Only now: a task of a cluster must give up its thread before it waits.
        with ambient(), SerializableLock(f"{scratch.url}/{name}"):
            done = find(scratch, "spilled", name) or _write(carrier.array, scratch, name)
    path = f"{scratch.url}/{bytes(done['path']).decode()}"
    return CheckedArray(zarr.open_array(path, mode="r"), f"{name}, spilled to scratch", "error")


def _write(array: Any, scratch: FileScratch, name: str) -> Arrays:
    import dask
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    check_reach(scratch)
    path = f"inputs/{name}-{uuid4().hex}"
    leading = (min(3, n) for n in array.shape[:-3])
    chunks = (*leading, *(max(1, min(SPILL_CHUNK, n)) for n in array.shape[-3:]))
    target = zarr.create_array(
        f"{scratch.url}/{path}",
        shape=array.shape,
        chunks=chunks,
        dtype=array.dtype.newbyteorder("="),
        compressors=(BloscCodec(cname="lz4", clevel=1), Crc32cCodec()),
        config={"write_empty_chunks": True},  # so that a chunk that is missing is one that was lost
    )
    dask.compute(
        array.rechunk(chunks).map_blocks(_write_chunk, target, name, dtype=np.bool_, meta=np.empty(0, np.bool_))
    )
    record = {"path": np.frombuffer(path.encode(), np.uint8)}
    scratch.put("spilled", name, **record)
    return record


def _write_chunk(chunk: NDArray[Any], target: Any, name: str, block_info: Any = None) -> NDArray[np.bool_]:
    check_unmasked(chunk, name)
    where = tuple(slice(a, b) for a, b in block_info[0]["array-location"])
    target[where] = chunk
    return np.ones((1,) * chunk.ndim, np.bool_)
