"""What a caller may name as an input: an array, a path, a URL, an OME-Zarr image."""

import os
from typing import Any

from .ome import resolve_input


def open_input(array: Any, name: str, level: int | None = None) -> "tuple[Any, tuple[float, float, float] | None]":
    """Open a zarr array for reading, and find its voxel size in nanometres where OME-Zarr metadata tell it.

    Parameters
    ----------
    array : path, URL or zarr.Array
        An array, or an OME-Zarr multiscale image, of which one level is taken.
    name : str
        Name of the argument, for messages.
    level : int, optional
        Level of a multiscale image, 0 by default.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        When it is neither a zarr array nor the place of one.
    """
    import zarr

    if isinstance(array, zarr.Array):
        return array, None
    if not isinstance(array, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, a URL or a zarr.Array, got {type(array).__name__}")
    try:
        return resolve_input(array, name, level)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: {error}") from error
