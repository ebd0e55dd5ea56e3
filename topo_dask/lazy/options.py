"""Arguments of lazy calls, and the blocks that follow from them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..blocks.geometry import DEFAULT_HALO, BlockGrid, Triple, triple
from ..given import is_dask
from ..stores.addresses import Place
from ..stores.retries import is_local

Array = Any


LEAST_BLOCK, MOST_GROWN = 64**3, 128**3
"""Voxels. Blocks grow from the chunks to the first number: smaller ones are not worth a task. A block thinner than its
halos on both sides reads several times what it holds: it grows along that axis, up to the second number. Blocks of an
array that is not local all grow up to that: a task waits half a second for chunks that were never written."""


@dataclass(frozen=True)
class Options:
    """Keyword-only arguments of the public functions for lazy arrays."""

    block_shape: Sequence[int] | None = None
    halo: int | Sequence[int] | None = None
    scratch: Place | None = None


def is_stored(array: object) -> bool:
    """Whether an array is a zarr array, which is read in place."""
    return "zarr" in sys.modules and isinstance(array, sys.modules["zarr"].Array)


def is_lazy(array: object) -> bool:
    """Whether an array is a dask or a zarr array."""
    return is_dask(array) or is_stored(array)


def choose_blocks(options: Options, arrays: Sequence[Array], shape: Triple) -> BlockGrid:
    """Blocks of the result: those asked for, else blocks that grow from the chunks of the first lazy array.

    The chunks are doubled along their shortest axis until a block is worth a task, and not thinner than its halos.
    Where a zarr array is not local, a block must have eight times as many voxels to be worth a task.
    """
    halo = triple(DEFAULT_HALO if options.halo is None else options.halo, "halo", at_least=0)
    if options.block_shape is not None:
        return BlockGrid(shape, triple(options.block_shape, "block_shape"), halo)
    chunks = next(getattr(array, "chunksize", None) or array.chunks for array in arrays if is_lazy(array))[-3:]
    block = [max(1, min(int(c), s)) for c, s in zip(chunks, shape, strict=True)]
    remote = any(is_stored(array) and not is_local(array.store) for array in arrays)
    while growing := [(b, k) for k, (b, s) in enumerate(zip(block, shape, strict=True)) if b < s]:
        shortest, axis = min(growing)
        thin = shortest < 2 * halo[axis] and 2 * np.prod(block) <= MOST_GROWN
        if np.prod(block) >= (MOST_GROWN if remote else LEAST_BLOCK) and not thin:
            break
        block[axis] *= 2
    return BlockGrid(shape, (block[0], block[1], block[2]), halo)


def chunked_like_input(labels: Any, options: Options, arrays: Sequence[Array]) -> Any:
    """Labels in the chunks of the first dask input, if no block shape is asked for."""
    given = next((array for array in arrays if is_dask(array)), None)
    return labels if options.block_shape is not None or given is None else labels.rechunk(given.chunks[-3:])
