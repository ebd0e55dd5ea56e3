"""The types in which a flow is used, whatever type it is stored in."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .halves import widen


def used_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Type in which a flow is used: float32 and float64 stay as they are, others become float32; native byte order.

    Examples
    --------
    >>> used_dtype(np.dtype(">f8")), used_dtype(np.dtype("f2"))
    (dtype('float64'), dtype('float32'))
    """
    native: np.dtype[Any] = np.dtype(dtype).newbyteorder("=")
    return native if native in (np.dtype("f4"), np.dtype("f8")) else np.dtype("f4")


def readable_flow(flow: NDArray[Any]) -> NDArray[np.floating]:
    """A flow in the type in which it is used; float32 and float64 in any layout are not copied.

    Parameters
    ----------
    flow : ndarray of real numbers

    Raises
    ------
    TypeError
        When it does not hold real numbers of at most 64 bits.

    Examples
    --------
    >>> readable_flow(np.array([1, -1], np.int8))
    array([ 1., -1.], dtype=float32)
    """
    if flow.dtype.kind not in "buif" or flow.dtype.itemsize > 8:
        raise TypeError(f"flow: dtype {flow.dtype}, expected booleans, integers or floats of at most 64 bits")
    if flow.dtype == np.float16:
        return widen(flow)
    used: NDArray[np.floating] = flow.astype(used_dtype(flow.dtype), copy=False)
    return used
