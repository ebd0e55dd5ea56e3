"""Processes of this machine: which of them can be seen from here, and since when they have been running."""

import os
from pathlib import Path


def boot_id() -> str | None:
    """Identify the machine, and its present run since it was booted; None where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def numbering() -> int | None:
    """Identify the processes that are visible here; None where the system does not tell.

    Containers may have the same host name and number their processes independently.
    """
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None


def start_of(pid: int) -> dict[str, float]:
    """When a process was started, in seconds since the epoch (``started``) and since the boot (``since_boot``).

    Linux keeps the latter, and computes the time of the boot from the present time of the clock: the former moves when
    the clock is set.

    Raises
    ------
    psutil.NoSuchProcess
        When there is no such process.
    """
    import psutil

    boot = psutil.boot_time()  # first: older versions of psutil add what this gave last to the start of a process
    started = psutil.Process(pid).create_time()
    return {"started": started, "since_boot": started - boot}
