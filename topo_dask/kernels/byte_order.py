"""Byte order: kernels are compiled for that of the machine, arrays may be stored in the other."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)


def native(array: NDArray[T]) -> NDArray[T]:
    """An array in C order and native byte order; one that is so already is not copied.

    Examples
    --------
    >>> native(np.array([1, 256], ">u2"))
    array([  1, 256], dtype=uint16)
    """
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
