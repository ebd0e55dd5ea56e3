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

KEPT, LARGE = 256 << 20, 128 << 20
"""Bytes of freed memory that are kept at most, and of a piece that is given back at once."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt, see malloc.h
_DASK_DEFAULT = "65536"


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next task, unless the environment says what is to be kept.

    Threads that begin later share one arena, so that what one of them frees is there for all, unless there are many
    arenas already. A C library without ``mallopt`` is left as it is.
    """
    told = {os.environ.get(f"MALLOC_{name}_THRESHOLD_") for name in ("TRIM", "MMAP")}
    if told - {None, _DASK_DEFAULT} or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return
    with suppress(OSError, TypeError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, LARGE)
        mallopt(_TRIM_THRESHOLD, KEPT)
        if "MALLOC_ARENA_MAX" not in os.environ:
            mallopt(_ARENA_MAX, 1)
