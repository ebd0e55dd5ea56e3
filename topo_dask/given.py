"""What holds of numbers and arrays that a caller gives: no value is masked, and a dask array is what it declares."""

import math
import sys
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

_REMEDY = "tell map_blocks, or whatever made it, with "


def finite_number(value: object, name: str) -> float:
    """The value as float; TypeError or ValueError, naming argument and value, if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # the digits would fill the screen
        kind = type(value).__name__
        raise ValueError(f"{name} must be finite as a float, below 1.8e308; got a larger {kind}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return number


def integer(value: object, name: str, at_least: int) -> int:
    """The value as int; TypeError or ValueError, naming argument and value, if it is not an integer of 31 bits."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value!r}")
    if int(value) > 2**31 - 1:
        raise ValueError(f"{name} must be below 2**31, got {value!r}")
    return int(value)


def check_unmasked(array: Any, name: str) -> None:
    """Raise TypeError if a NumPy array masks some of its values, because they would count like the rest."""
    if np.ma.is_masked(array):
        raise TypeError(f"{name} has masked values, which would count: say what they are, as with .filled(0)")


def is_dask(array: object) -> bool:
    """Whether an array is a dask array."""
    return "dask.array" in sys.modules and isinstance(array, sys.modules["dask.array"].Array)


def as_declared(array: Any, name: str) -> Any:
    """A dask array that refuses each chunk whose shape or type is not the declared one, as users' code may return any.

    The check comes before chunks are cut or joined: pieces of wrong chunks may fit by chance and would be taken for
    data. The keys are new: the scheduler may be computing those of `array` for another graph, fused with other tasks.
    """
    meta = np.empty((0,) * array.ndim, array.dtype)
    return array.map_blocks(_check_chunk, name, array.chunks, array.dtype, dtype=array.dtype, meta=meta)


def _check_chunk(
    given: Any, name: str, chunks: tuple[tuple[float, ...], ...], dtype: np.dtype[Any], block_id: Any = None
) -> NDArray[Any]:
    check_unmasked(given, name)
    chunk: NDArray[Any] = np.asarray(given)
    where = f"{name}: chunk {block_id} of this dask array"
    declared = tuple(sizes[i] for i, sizes in zip(block_id, chunks, strict=True))
    if chunk.ndim != len(declared) or any(n != m and m == m for n, m in zip(chunk.shape, declared, strict=True)):
        raise ValueError(
            f"{where} must have the shape that it declares, {declared}, got {chunk.shape}: {_REMEDY}chunks="
        )
    if not np.can_cast(chunk.dtype, dtype):
        raise TypeError(f"{where} must hold what it declares, {dtype}, got {chunk.dtype}: {_REMEDY}dtype=")
    return chunk
