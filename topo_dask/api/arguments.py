"""What the public functions share: checks of their arguments, and the choice between lazy and in memory."""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from .. import in_memory, lazy
from ..config import ClassConfig
from ..given import check_unmasked
from ..plan import Recipe
from ..stores.addresses import Place
from ..stores.input_shapes import COMPONENTS, check_array
from ..stores.inputs import check_named_axes

if TYPE_CHECKING:
    import dask.array as da
    import zarr

    DaskArray: TypeAlias = da.Array
    Lazy: TypeAlias = da.Array | zarr.Array[Any]
else:  # importing dask.array and zarr takes time, and their types are for type checkers alone
    DaskArray = Lazy = Any

Array = Any
"""A NumPy, dask or zarr array. What wraps one, as xarray does, or becomes one, as lists do, is taken too."""

Held: TypeAlias = NDArray[Any]
"""An array in memory, in the overloads of the public functions: what is lazy, or not, comes out so."""

Labels: TypeAlias = NDArray[np.int32]
"""Labels in memory, shape (D, H, W)."""


class Blocks(TypedDict, total=False):
    """The keyword-only arguments for lazy arrays, written once for all overloads."""

    block_shape: Sequence[int] | None
    scratch: Place | None


class BlocksWithHalo(Blocks, total=False):
    """The same for functions that track."""

    halo: int | Sequence[int] | None


def as_array(array: Array, name: str) -> Array:
    """An argument as an array: the lazy one that it is or wraps (as xarray does), else a NumPy array.

    Raises
    ------
    TypeError
        Naming it, when it is no array but, say, a path; when values of it are masked, whose mask would be lost; or when
        it is a list of lazy arrays, which would be computed.
    ValueError
        Naming it, when it is a zarr array whose axes have the names z, y and x in another order.
    """
    if not isinstance(array, np.ndarray | np.generic) and lazy.is_lazy(inner := getattr(array, "data", None)):
        return inner
    if lazy.is_lazy(array):
        if lazy.is_stored(array):
            check_named_axes(array, name)
        return array
    if array is None or isinstance(array, str | bytes | os.PathLike) or _is_group(array):
        raise TypeError(f"{name} must be an array, got {array!r}; segment_volume takes paths")
    for part in _parts(array):
        if lazy.is_lazy(part):
            kind = type(array).__name__
            raise TypeError(f"{name} is a {kind} of lazy arrays, got {len(array)}: join them with da.stack")
        check_unmasked(part, name)
    return np.asarray(array)


def _is_group(array: Array) -> bool:
    return "zarr" in sys.modules and isinstance(array, sys.modules["zarr"].Group)


def _parts(array: Array) -> Iterable[Array]:
    # The arrays that lists hold, however deep; numbers are left out, as there may be millions.
    if not isinstance(array, list | tuple):
        return [array]
    return (part for entry in array if not isinstance(entry, int | float) for part in _parts(entry))


def as_sized(array: Array, name: str) -> Array:
    """The same, see `as_array`; ValueError when the size of a lazy array is unknown."""
    array = as_array(array, name)
    if any(size != size for size in array.shape):
        raise ValueError(f"{name} has chunks of unknown size; call its compute_chunk_sizes() first")
    return array


def as_volume(array: Array, name: str) -> Array:
    """An array of three axes, NumPy unless it is lazy; ValueError or TypeError naming it otherwise."""
    array = as_sized(array, name)
    check_array(array, name, 3, "an image is a volume of one plane: array[None], and its flow needs a dz of 0")
    return array


def as_labels(array: Array) -> Array:
    """The argument `instances`: a volume of integers."""
    array = as_volume(array, "instances")
    if np.dtype(array.dtype).kind not in "biu":
        raise TypeError(f"instances must hold integers, got dtype {array.dtype}")
    return array


def as_flow(array: Array, volume: Array, volume_name: str, name: str = "flow", channel: int | None = None) -> Array:
    """A flow that covers a volume; where `channel`, the number of a class, is given it is that of several classes."""
    array = as_sized(array, name)
    check_array(array, name, 4, COMPONENTS)
    n = array.shape[0]
    if channel is not None and (n % 3 or channel >= n // 3):
        raise ValueError(f"{name} has {n} channels, 3 for each class: channel {channel} is not among the classes")
    expected = (3 if channel is None else n, *volume.shape)
    if tuple(array.shape) != tuple(expected):
        raise ValueError(
            f"{name} must have shape {tuple(expected)}: 3 components (dz, dy, dx) of a class and the shape of "
            f"{volume_name}; got {tuple(array.shape)}"
        )
    return array


def segment(recipe: Recipe, options: lazy.Options, *, config: ClassConfig | None = None, **arrays: Array) -> Array:
    """Labels of a recipe: at once from NumPy arrays, lazily when any array is lazy."""
    if any(lazy.is_lazy(array) for array in arrays.values()):
        return lazy.segment_lazily(recipe, options, config=config, **arrays)
    return in_memory.segment(recipe, config=config, **arrays)[0]
