"""What becomes of freed memory: a task frees some hundred MiB, and the next one asks for as much.

glibc gives large pieces back to the system at once, and Dask makes it give back what little it would keep in a worker
(``MALLOC_TRIM_THRESHOLD_=65536``). The system clears each page before it hands it out again, which took more time than
a block's kernels. Of arenas of their own, as threads have by default, glibc gives back the top as soon as it is free:
with these a run took up to 350 MiB more at its peak.
"""

import ctypes
import os
from contextlib import suppress
from functools import lru_cache

KEPT, MOST_KEPT = 256 << 20, 1 << 30
"""Bytes of freed memory that are kept: a quarter of what tasks may take, between these bounds. What lies below
something that is in use is not counted by the C library."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt, see malloc.h
_LARGEST_BEFORE = 32 << 20
_DASK_DEFAULT = "65536"


@lru_cache(maxsize=1)
def keep_freed_memory(allowed_mem: int | None = None) -> None:
    """Let this process keep freed memory for its next task, unless the environment says what is to be kept.

    Threads that begin later share one arena, so that what one of them frees is there for all, unless there are many
    arenas already. A C library without ``mallopt`` is left as it is.

    Parameters
    ----------
    allowed_mem : int, optional
        Bytes that the tasks of this process may take; None where nobody said.
    """
    if _environment_decides():
        return
    kept = KEPT if allowed_mem is None else min(max(KEPT, allowed_mem // 4), MOST_KEPT)
    with suppress(OSError, TypeError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        # A piece as large as that is given back at once. Before glibc 2.35 the library refuses more than 32 MiB; where
        # it refused that too, it would go on finding out by itself.
        if mallopt(_MMAP_THRESHOLD, kept // 2) or mallopt(_MMAP_THRESHOLD, _LARGEST_BEFORE):
            mallopt(_TRIM_THRESHOLD, kept)
        if "MALLOC_ARENA_MAX" not in os.environ:
            mallopt(_ARENA_MAX, 1)


def give_back_freed_memory() -> None:
    """Give freed memory back to the system and keep `KEPT` bytes from now on, unless the environment says otherwise."""
    if _environment_decides():
        return
    keep_freed_memory()
    with suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _environment_decides() -> bool:
    told = {os.environ.get(f"MALLOC_{name}_THRESHOLD_") for name in ("TRIM", "MMAP")}
    return bool(told - {None, _DASK_DEFAULT}) or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "")
