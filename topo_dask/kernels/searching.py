"""Binary search for kernels: np.searchsorted compiles six times as long."""

import numpy as np
from numpy.typing import NDArray

from .compiled import part


@part
def first_place(ascending: NDArray[np.signedinteger], n: int, value: int) -> int:
    """Place of the first of `n` ascending integers that is not below a value; `n` if all are below it."""
    low, high = 0, n
    while low < high:
        middle = (low + high) >> 1
        if ascending[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low
