"""How kernels are compiled; see `kernel_cache` for what becomes of the result."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from numba import njit


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function of arrays and numbers: no GIL, IEEE arithmetic as written, division like NumPy's.

    It makes no arrays, which would double the time it takes to compile: they are given to it.

    Parameters
    ----------
    function : callable

    Returns
    -------
    kernel : callable
        Compiled at its first call with arguments of some types, or read from the cache.

    Examples
    --------
    >>> @kernel
    ... def halve(x):
    ...     return x / 2
    >>> halve(3.0)
    1.5
    """
    return _cached(_dispatcher(function))


def part(function: Callable[..., Any]) -> Any:
    """Like `kernel`, for a function that only kernels call: no entry from Python is half as much to compile."""
    return _dispatcher(function, no_cpython_wrapper=True)


def allocating_kernel(function: Callable[..., Any]) -> Any:
    """Like `kernel`, for functions that make arrays, or call one that does; it takes longer to compile."""
    return _cached(_dispatcher(function, _nrt=True))


def _dispatcher(function: Callable[..., Any], **options: bool) -> Any:
    # Without numba's counting of references, and without an entry from C, there is a third less to compile.
    options = {"_nrt": False, "no_cfunc_wrapper": True, **options}
    return njit(nogil=True, fastmath=False, error_model="numpy", **options)(function)


def _cached(dispatcher: Any) -> Any:
    with suppress(Exception):  # a function without a file, or a numba whose cache is another: compile without
        from .kernel_cache import keep

        keep(dispatcher)
    return dispatcher
