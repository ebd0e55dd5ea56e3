"""Which arrays can be an input, and which foreground and flow fit together."""

from itertools import product
from typing import Any

import numpy as np

from .limits import check_metadata

COMPONENTS = "its first axis must be the channels: dz, dy, dx"
"""The remedy in messages about a flow that has too few axes."""


def check_array(array: Any, name: str, ndim: int, lacking: str = "") -> None:
    """Refuse arrays that cannot be an input: wrong number of axes, no numbers, a shape or a chunk beyond the limits.

    `lacking` is the remedy for the message where one axis is missing, or two of an image.

    Raises
    ------
    TypeError
        When the data type is not boolean, integer or real.
    ValueError
        When the number of axes, the shape or the chunk shape cannot be used.
    """
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise TypeError(f"{name} must hold booleans, integers or floats of at most 64 bits, got dtype {dtype}")
    if array.ndim != ndim:
        hint = f"; {lacking}" if lacking and 2 <= array.ndim < ndim else ""
        if array.ndim > ndim and array.shape[0] == 1:
            hint = "; take its first axis away (segment_volume does, if OME-Zarr metadata say that it is time)"
        raise ValueError(f"{name} must have {ndim} axes, got shape {tuple(array.shape)}{hint}")
    if hasattr(array, "metadata"):
        check_metadata(array, name)


def check_prediction(semantic: Any, flow: Any, names: tuple[str, str] = ("semantic", "flow")) -> None:
    """Raise ValueError or TypeError, naming the arguments, when foreground and flow do not fit together."""
    of_semantic, of_flow = names
    in_front = "put an axis of channels of length 1 in front; of 2-D data one of depth 1 behind the channels"
    check_array(semantic, of_semantic, 4, in_front)
    check_array(flow, of_flow, 4, f"{COMPONENTS}, of each class")
    n = semantic.shape[0]
    if not _fits(semantic.shape, flow.shape):
        _check_channels_first(semantic.shape, flow.shape, names)
    if n == 0 or flow.shape[0] != 3 * n:
        raise ValueError(
            f"{of_flow} must have 3 channels for each of the {n} classes of {of_semantic}, got {flow.shape[0]}"
            f"{_hint_at_channels(n, flow.shape[0])}"
        )
    if tuple(flow.shape[1:]) != tuple(semantic.shape[1:]):
        turned = sorted(flow.shape[1:]) == sorted(semantic.shape[1:])
        hint = "; the axes of one seem to be in another order" if turned else ""
        raise ValueError(
            f"{of_flow} and {of_semantic} must cover the same volume, got {tuple(flow.shape[1:])} and "
            f"{tuple(semantic.shape[1:])}{hint}"
        )


def _hint_at_channels(n: int, n_flow: int) -> str:
    # What numbers of channels that do not fit together may mean, if anything.
    if n and n == 3 * n_flow:
        return "; they seem to be exchanged"
    if n and n_flow == 2 * n:
        return "; flow within planes needs a dz of 0 before dy, dx of each class"
    both, rest = divmod(max(n, n_flow), 4)
    if both and not rest and (n, n_flow) in ((4 * both, 4 * both), (4 * both, 3 * both), (both, 4 * both)):
        return f"; they seem to be foreground and flow in one array: write array[:{both}] and array[{both}:]"
    return ""


def _fits(semantic: tuple[int, ...], flow: tuple[int, ...]) -> bool:
    return semantic[0] > 0 and flow == (3 * semantic[0], *semantic[1:])


_PLACES = {0: "first", -1: "last", 1: "second"}
"""Axes on which other software puts the channels: NumPy images the last, ImageJ's hyperstacks the second."""


def _check_channels_first(semantic: tuple[int, ...], flow: tuple[int, ...], names: tuple[str, str]) -> None:
    # Raises ValueError if the two arrays would fit with another axis of one, or of both, in front.
    for axes in product(_PLACES, repeat=2):
        first = [
            (shape[axis], *np.delete(shape, axis).tolist()) for axis, shape in zip(axes, (semantic, flow), strict=True)
        ]
        if any(axes) and _fits(first[0], first[1]):
            meant = [
                f"the {_PLACES[axis]} of {name} of shape {shape}"
                for name, shape, axis in zip(names, (semantic, flow), axes, strict=True)
                if axis
            ]
            moved = " and ".join(f"np.moveaxis({n}, {axis}, 0)" for n, axis in zip(names, axes, strict=True) if axis)
            raise ValueError(
                f"the channels must be the first axis, and seem to be {' and '.join(meant)}: move them to the front, "
                f"as with {moved}"
            )
