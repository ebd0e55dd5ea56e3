"""How kernels are compiled; `kernel_cache` keeps the results."""

import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from numba import njit
from numba.core import event


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function of arrays and numbers: no GIL, IEEE arithmetic as written, division like NumPy's.

    The function must not make arrays, as that doubles the time to compile; callers pass arrays in.

    Parameters
    ----------
    function : callable

    Returns
    -------
    kernel : callable
        Compiled, or read from the cache, at its first call with arguments of some types.

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
    """Like `kernel`, for a function that only kernels call. It has no entry from Python: it compiles twice as fast."""
    return _dispatcher(function, no_cpython_wrapper=True)


def allocating_kernel(function: Callable[..., Any]) -> Any:
    """Like `kernel`, for functions that make arrays or call a function that does; it takes longer to compile."""
    return _cached(_dispatcher(function, _nrt=True))


class _CollectorPaused(event.Listener):  # type: ignore[misc]
    # Numba makes millions of objects that live until the kernel is compiled. Python's collector of cycles would go
    # through them again and again, for a tenth of the time. Numba calls this in the one thread that may compile.
    def __init__(self) -> None:
        self._depth, self._was_on = 0, False

    def on_start(self, compilation: event.Event) -> None:
        if _is_ours(compilation):
            if self._depth == 0:
                self._was_on = gc.isenabled()
                gc.disable()
            self._depth += 1

    def on_end(self, compilation: event.Event) -> None:
        if _is_ours(compilation):
            self._depth -= 1
            if self._depth == 0 and self._was_on:
                gc.enable()


def _is_ours(compilation: event.Event) -> bool:
    return compilation.data["dispatcher"] in _OURS


_OURS: WeakSet[Any] = WeakSet()
event.register("numba:compile", _CollectorPaused())


def _dispatcher(function: Callable[..., Any], **options: bool) -> Any:
    # Without numba's reference counting, and without an entry from C, compiling takes a third less time.
    options = {"_nrt": False, "no_cfunc_wrapper": True, **options}
    dispatcher = njit(nogil=True, fastmath=False, error_model="numpy", **options)(function)
    _OURS.add(dispatcher)
    return dispatcher


def _cached(dispatcher: Any) -> Any:
    with suppress(Exception):  # The cache needs a file, and numba's classes as we know them. Else compile without it.
        from .kernel_cache import keep

        keep(dispatcher)
    return dispatcher
