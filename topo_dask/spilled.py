"""Scratch of lazy arrays, and their dask inputs in it: written once, read with checks."""

import atexit
import os
import shutil
import tempfile
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from .stores.checked import CheckedArray
from .stores.outputs import absolute
from .stores.scratch import Arrays, FileScratch, find
from .surroundings import ambient, check_reach

SPILL_CHUNK = 64
"""Edge of the chunks of a spilled input."""


class Opaque:
    """Carries a dask array through a graph as a value."""

    def __init__(self, array: Any) -> None:
        self.array = array


def open_scratch(place: str | None) -> FileScratch:
    """A folder of our own, whoever chose the place: it goes with this process, and nothing else does."""
    root = absolute(os.fspath(place or tempfile.gettempdir()))
    scratch = FileScratch(f"{root.rstrip('/')}/topo_dask-{uuid4().hex}")
    atexit.register(_remove, scratch, os.getpid())
    return scratch


def _remove(scratch: FileScratch, owner: int) -> None:
    if os.getpid() != owner or scratch.url.startswith("memory://"):
        return
    if "://" in scratch.url:
        scratch.discard(".")
    else:
        shutil.rmtree(scratch.url, ignore_errors=True)


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
    from zarr.codecs import BloscCodec

    check_reach(scratch)
    path = f"inputs/{name}-{uuid4().hex}"
    leading = (min(3, n) for n in array.shape[:-3])
    chunks = (*leading, *(max(1, min(SPILL_CHUNK, n)) for n in array.shape[-3:]))
    target = zarr.create_array(
        f"{scratch.url}/{path}",
        shape=array.shape,
        chunks=chunks,
        dtype=array.dtype.newbyteorder("="),
        compressors=BloscCodec(cname="lz4", clevel=1),
        config={"write_empty_chunks": True},  # so that a chunk that is missing is one that was lost
    )
    dask.compute(array.rechunk(chunks).map_blocks(_write_chunk, target, dtype=np.bool_, meta=np.empty(0, np.bool_)))
    record = {"path": np.frombuffer(path.encode(), np.uint8)}
    scratch.put("spilled", name, **record)
    return record


def _write_chunk(chunk: NDArray[Any], target: Any, block_info: Any = None) -> NDArray[np.bool_]:
    where = tuple(slice(a, b) for a, b in block_info[0]["array-location"])
    target[where] = chunk
    return np.ones((1,) * chunk.ndim, np.bool_)
