"""Dask inputs of lazy arrays, in scratch: written once, read with checks."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from ..stores.checked import CheckedArray
from ..stores.scratch import FileScratch, find
from ..surroundings import ambient, compute, lock_here
from ..workers import check_workers_reach

SPILL_CHUNK = 64
"""Edge of the chunks of a spilled input."""


class Opaque:
    """Carries dask arrays through a graph as a value."""

    def __init__(self, arrays: Any) -> None:
        self.arrays = arrays


def spill(carrier: Opaque, scratch: FileScratch) -> dict[str, CheckedArray]:
    """Write dask arrays, by name, to scratch unless that is done, and return what is there.

    All are computed at once, so that tasks that they share, such as those of a network, run once. Another process that
    spills the same arrays at the same time writes copies of its own; the records name the copies to read.
    """
    arrays: dict[str, Any] = carrier.arrays
    if _spilled(arrays, scratch).keys() != arrays.keys():
        # The lock comes second: a task of a cluster must give up its thread, in `ambient`, before it waits.
        with ambient(in_task=True), lock_here(f"{scratch.url}/inputs"):
            there = _spilled(arrays, scratch)
            if left := {name: array for name, array in arrays.items() if name not in there}:
                _write(left, scratch)
    return {name: _open(name, path, scratch) for name, path in _spilled(arrays, scratch).items()}


def _open(name: str, path: str, scratch: FileScratch) -> CheckedArray:
    import zarr

    try:
        array = zarr.open_array(f"{scratch.url}/{path}", mode="r")
    except (OSError, zarr.errors.NodeNotFoundError) as error:
        # It is not spilled again: stages on record were computed from the old values, and the new ones may differ.
        raise OSError(out_of_reach(scratch, f"{name} was spilled to {path}, which is missing")) from error
    remedy = out_of_reach(scratch, "it was lost")
    return CheckedArray(array, f"{name}, spilled to scratch", "error", remedy)


def out_of_reach(scratch: FileScratch, problem: str) -> str:
    """Message, with the remedy, for something that is missing in scratch, or cannot be seen from here."""
    return (
        f"{problem} in scratch {scratch.url}: files there were removed, or not all workers reach it; make the lazy "
        "array anew, with scratch=<a path or URL that all workers share>"
    )


def _spilled(names: Iterable[str], scratch: FileScratch) -> dict[str, str]:
    # Path in scratch of each array that has been spilled.
    found = {name: find(scratch, "spilled", name) for name in names}
    return {name: bytes(record["path"]).decode() for name, record in found.items() if record is not None}


def _write(arrays: Mapping[str, Any], scratch: FileScratch) -> None:
    check_workers_reach(scratch)
    paths = {name: f"inputs/{name}-{uuid4().hex}" for name in arrays}
    compute(*(_writing(name, array, f"{scratch.url}/{paths[name]}") for name, array in arrays.items()))
    for name, path in paths.items():
        scratch.put("spilled", name, path=np.frombuffer(path.encode(), np.uint8))


@contextmanager
def _naming_the_place(name: str, nbytes: float, url: str) -> Iterator[None]:
    # Errors of the system name neither array nor place, and the full disk may be one that the user does not know of.
    try:
        yield
    except OSError as error:
        if error.errno is None:  # of an object store: the class says what is wrong
            error.add_note(f"{name} was being written to scratch, {url}")
            raise
        size = f"{nbytes / 2**30:.2g} GiB"
        raise OSError(
            error.errno,
            f"{name} cannot be written to scratch, {url}, of up to {size}: {error.strerror or error}; "
            "pass scratch=<a path or URL with room for it>, or set temporary-directory in Dask's configuration",
        ) from error


def _writing(name: str, array: Any, url: str) -> Any:
    # A dask array whose chunks are written when they are computed.
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    leading = (min(3, n) for n in array.shape[:-3])
    chunks = (*leading, *(max(1, min(SPILL_CHUNK, n)) for n in array.shape[-3:]))
    with _naming_the_place(name, array.nbytes, url):
        target = zarr.create_array(
            url,
            shape=array.shape,
            chunks=chunks,
            dtype=array.dtype.newbyteorder("="),
            compressors=(BloscCodec(cname="lz4", clevel=1), Crc32cCodec()),
            config={"write_empty_chunks": True},  # so that a missing chunk is a lost one
        )
    return array.rechunk(chunks).map_blocks(_write_chunk, target, name, dtype=np.bool_, meta=np.empty(0, np.bool_))


def _write_chunk(chunk: NDArray[Any], target: Any, name: str, block_info: Any = None) -> NDArray[np.bool_]:
    where = tuple(slice(a, b) for a, b in block_info[0]["array-location"])
    with _naming_the_place(name, target.nbytes, str(target.store_path)):
        target[where] = chunk
    return np.ones((1,) * chunk.ndim, np.bool_)
