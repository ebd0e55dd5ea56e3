"""Free space where a run writes."""

import os
import shutil
from dataclasses import dataclass

from .addresses import is_url


@dataclass(frozen=True)
class Disk:
    """The file system that a path is on.

    Parameters
    ----------
    device : int
        Number of the file system: paths with the same number share its space.
    free : int
        Bytes that this user may still write.
    """

    device: int
    free: int


def disk_of(url: str | None) -> Disk | None:
    """The disk that a path is on, or will be on; None where there is no disk, or where its space is not known.

    Object stores do not tell their space. Some file systems, such as ``/proc``, tell no size, or more free bytes than
    their size.

    Examples
    --------
    >>> disk_of("s3://bucket/labels.zarr") is None
    True
    >>> disk_of("/not/there/yet").free > 0
    True
    """
    if url is None or is_url(url):
        return None
    path = os.path.realpath(url)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    total, _, free = shutil.disk_usage(path)
    return Disk(os.stat(path).st_dev, free) if 0 <= free <= total > 0 else None
