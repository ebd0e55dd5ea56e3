"""Cores and memory of this machine that this process may use."""

import os
from contextlib import suppress
from functools import cache
from numbers import Integral
from pathlib import Path, PurePosixPath


def bound_cores() -> int:
    """Cores that this process is bound to: all of the machine, unless somebody has bound it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cores() -> int:
    """Cores that this process may keep busy: those it is bound to, or the quota of its container if that is less."""
    return _within_quota(bound_cores())


@cache
def _within_quota(bound: int) -> int:
    from dask.system import cpu_count

    return min(bound, int(cpu_count()))


def as_bytes(memory_limit: object) -> int:
    """Bytes of a limit such as ``"4GiB"``; TypeError or ValueError when it is no size."""
    from dask.utils import parse_bytes

    if isinstance(memory_limit, bool) or not isinstance(memory_limit, Integral | str):
        raise TypeError(f"memory_limit must be a number of bytes or a str such as '4GiB', got {memory_limit!r}")
    try:
        given = int(parse_bytes(memory_limit or "0") if isinstance(memory_limit, str) else memory_limit)
    except (ValueError, OverflowError):  # more than a float can tell
        raise ValueError(f"memory_limit must be a size such as '4GiB', got {memory_limit!r}") from None
    if given <= 0:
        raise ValueError(f"memory_limit must be above 0, got {memory_limit!r}")
    if given < 1 << 10:
        raise ValueError(f"memory_limit {memory_limit!r} is {given} bytes: say what it is in, as in '{given}GiB'")
    return given


GROUPS = Path("/proc/self/cgroup")
LIMITS = {
    "": ("/sys/fs/cgroup", "memory.max"),
    "memory": ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
}
"""Folder and file of the memory limit, in control groups of version 2 and of version 1."""


def machine_memory() -> int:
    """Bytes that all processes here may use together: the machine's memory, or the limit of their control group."""
    import psutil

    limits = [int(psutil.virtual_memory().total)]
    try:
        groups = GROUPS.read_text().splitlines()
    except OSError:
        return limits[0]
    for group in groups:
        _, kinds, path = group.split(":", 2)
        if (files := LIMITS.get(kinds)) is not None:
            for folder in (PurePosixPath(path), *PurePosixPath(path).parents):
                with suppress(OSError, ValueError):  # there is no limit, or it is "max"
                    limits.append(int(Path(f"{files[0]}{folder}", files[1]).read_text()))
    return min(limits)
