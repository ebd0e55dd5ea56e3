"""Freed memory is kept for the next task: a task frees some hundred MiB, and the next one asks for as much.

By default glibc gives large pieces back to the system at once, and in a worker Dask makes it give back the little that
it would keep (``MALLOC_TRIM_THRESHOLD_=65536``). The system clears each page before it hands it out again, which took
more time than the kernels of a block. By default, too, threads have arenas of their own. glibc gives back the top of
such an arena as soon as it is free, and with these arenas a run took up to 350 MiB more at its peak.
"""

import ctypes
import os
from contextlib import suppress
from functools import lru_cache

KEPT, MOST_KEPT = 256 << 20, 1 << 30
"""Bytes of freed memory that are kept: a quarter of what tasks may take, between these bounds. The C library does not
count free memory that lies below a piece in use."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt, see malloc.h
_LARGEST_BEFORE = 32 << 20
_DASK_DEFAULT = "65536"


@lru_cache(maxsize=1)
def keep_freed_memory(allowed_mem: int | None = None) -> None:
    """Let this process keep freed memory for its next task, unless environment variables say how much to keep.

    Threads that begin later share one arena, so that all can use what one of them frees, unless there are many arenas
    already. A C library without ``mallopt`` stays as it is.

    Parameters
    ----------
    allowed_mem : int, optional
        Bytes that the tasks of this process may take; None if unknown.
    """
    if _environment_decides():
        return
    kept = KEPT if allowed_mem is None else min(max(KEPT, allowed_mem // 4), MOST_KEPT)
    with suppress(OSError, TypeError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        # A piece as large as this threshold is given back at once. glibc before 2.35 refuses more than 32 MiB. If it
        # refused that too, it would go on adapting its thresholds by itself.
        if mallopt(_MMAP_THRESHOLD, kept // 2) or mallopt(_MMAP_THRESHOLD, _LARGEST_BEFORE):
            mallopt(_TRIM_THRESHOLD, kept)
        if "MALLOC_ARENA_MAX" not in os.environ:
            mallopt(_ARENA_MAX, 1)


def give_back_freed_memory() -> None:
    """Give freed memory back to the system and keep `KEPT` bytes from now on, unless environment variables decide."""
    if _environment_decides():
        return
    keep_freed_memory()
    with suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _environment_decides() -> bool:
    told = {os.environ.get(f"MALLOC_{name}_THRESHOLD_") for name in ("TRIM", "MMAP")}
    return bool(told - {None, _DASK_DEFAULT}) or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "")
