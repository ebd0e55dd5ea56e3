"""Free space where a run writes."""

import os
import shutil
from dataclasses import dataclass


@dataclass(frozen=True)
class Disk:
    """The file system that a path is on.

    Parameters
    ----------
    device : int
        Number of the file system: paths of one number share its space.
    free : int
        Bytes that this user may still write.
    """

    device: int
    free: int


def disk_of(url: str | None) -> Disk | None:
    """The disk that a path is on, or will be; None for what is on no disk, and where that cannot be told.

    Stores tell nothing of their space, and some file systems, such as ``/proc``, no size, or more free than there is.

    Examples
    --------
    >>> disk_of("s3://bucket/labels.zarr") is None
    True
    >>> disk_of("/not/there/yet").free > 0
    True
    """
    if url is None or "://" in url:
        return None
    path = os.path.realpath(url)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    total, _, free = shutil.disk_usage(path)
    return Disk(os.stat(path).st_dev, free) if 0 <= free <= total > 0 else None
