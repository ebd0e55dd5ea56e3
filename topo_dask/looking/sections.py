"""A figure of a box: image, flow and labels, each in three planes across the box."""

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import Box, Triple, triple
from .colours import RGB, colour_flow, colour_labels, flow_wheel, overlay, stretch
from .layers import Layer
from .overview import AXES, FLOW_NOTE, fullest_planes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST = 2048
"""Largest edge of a box that is drawn, in voxels."""

CHOSEN = 512
"""Largest edge of the box that is drawn, in voxels, where the caller gives none."""

WIDTH, FONT = 2.4, 7
"""Inches of a column, and points of its text."""

THINNEST = 0.03
"""Least ratio of the shorter to the longer side of a picture: a thinner plane is stretched to it."""

LOWEST = 0.3
"""Least height of a row over the width of a column: the names of its axes need as much."""

DIM = 3
"""A dimmed image has its brightness divided by this."""

LINE = 28
"""Characters of a title that fit over a column."""


def choose_level(layers: Sequence[Layer], level: int) -> dict[Layer, int]:
    """Level at which each layer is drawn: `level`, or the only level that a layer has.

    Raises
    ------
    ValueError
        When a layer has no such level, or the layers do not cover the same volume.
    """
    levels = {layer: level if len(layer.levels) > 1 else 0 for layer in layers}
    for layer, n in levels.items():
        if not 0 <= n < len(layer.levels):
            raise ValueError(f"{layer.name} has {len(layer.levels)} levels, from 0; got level {level}")
    if level > 0 and max(len(layer.levels) for layer in layers) == 1:
        raise ValueError(f"level {level}: none of {[layer.name for layer in layers]} has levels")
    shapes = [(layer.name, layer.shape(n)) for layer, n in levels.items()]
    if len({shape for _, shape in shapes}) > 1:
        raise ValueError(f"what is drawn together must have one shape at level {level}, got {_say(shapes)}")
    _check_places(levels)
    return levels


def _check_places(levels: dict[Layer, int]) -> None:
    # Writers of OME-Zarr disagree on the translation of coarse levels: differences of up to a voxel are accepted.
    places = [(layer.name, layer.placement.translation_nm) for layer in levels if layer.placement]
    known = [place for _, place in places if place is not None]
    if known and (np.ptp(known, axis=0) > np.max(_voxel_sizes(levels), axis=0)).any():
        raise ValueError(
            f"what is drawn together must lie at one place, got translations in nanometres of {_say(places)}"
        )


def _voxel_sizes(levels: dict[Layer, int]) -> list[Any]:
    # Edges of a voxel of each level that is drawn, in nanometres.
    return [np.multiply(layer.voxel_size_nm, layer.factors(n)) for layer, n in levels.items() if layer.voxel_size_nm]


def _voxel_size(levels: dict[Layer, int]) -> Any:
    # Edges of a voxel that is drawn: in nanometres if a layer tells them, else as the first layer that tells any.
    placed = sorted((layer for layer in levels if layer.placement), key=lambda layer: layer.voxel_size_nm is None)
    return np.multiply(placed[0].edges[0], placed[0].factors(levels[placed[0]])) if placed else (1.0, 1.0, 1.0)


def _say(found: Sequence[tuple[str, Any]]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in found)


def choose_box(shape: Triple, spans: Sequence[slice] | None = None, chosen: int = CHOSEN) -> Box:
    """Box of the spans along z, y, x; an open end is that of the volume.

    Without spans it is the centre of the volume, at most `chosen` voxels along an axis.

    Raises
    ------
    ValueError
        When a span is empty, reaches out of the volume, or is longer than 2048 voxels.

    Examples
    --------
    >>> choose_box((8, 2000, 8))
    Box(start=(0, 744, 0), stop=(8, 1256, 8))
    >>> choose_box((8, 2000, 8), [slice(2, None), slice(0, 10), slice(None)])
    Box(start=(2, 0, 0), stop=(8, 10, 8))
    """
    if spans is None:
        starts = [max(0, (size - chosen) // 2) for size in shape]
        stops = [min(size, start + chosen) for size, start in zip(shape, starts, strict=True)]
    else:
        starts = [span.start or 0 for span in spans]
        stops = [size if span.stop is None else span.stop for size, span in zip(shape, spans, strict=True)]
    for axis, start, stop, size in zip(AXES, starts, stops, shape, strict=True):
        if not 0 <= start < stop <= size:
            raise ValueError(f"box must lie in 0:{size} along {axis}, and not be empty; got {start}:{stop}")
        if stop - start > LONGEST:
            raise ValueError(
                f"box must be at most {LONGEST} voxels long, got {stop - start} along {axis}: choose a part of it, or "
                "a coarser level"
            )
    return Box(triple(starts, "box", at_least=0), triple(stops, "box"))


def choose_planes(box: Box, planes: Sequence[int] | None = None) -> Triple:
    """Positions (z, y, x) of three planes in a box; without `planes`, those through its middle.

    Raises
    ------
    ValueError
        When a plane is outside the box.

    Examples
    --------
    >>> choose_planes(Box((0, 0, 4), (8, 8, 8)))
    (4, 4, 6)
    """
    given = [(a + b) // 2 for a, b in zip(box.start, box.stop, strict=True)] if planes is None else planes
    at = triple(given, "planes", at_least=0)
    if any(not a <= p < b for a, p, b in zip(box.start, at, box.stop, strict=True)):
        raise ValueError(f"planes must lie in the box from {box.start} to {box.stop}, got {at}")
    return at


def fullest_in(box: Box, mask: NDArray[np.bool_]) -> Triple:
    """Positions (z, y, x) of the three planes of a box with most foreground; its middle where there is none.

    Examples
    --------
    >>> fullest_in(Box((0, 0, 4), (1, 1, 8)), np.array([[[False, True, False, False]]]))
    (0, 0, 5)
    """
    if not mask.any():
        return choose_planes(box)
    return choose_planes(box, [a + n for a, n in zip(box.start, fullest_planes(mask), strict=True)])


def _read_plane(layer: Layer, level: int, box: Box, axis: int, at: int) -> Any:
    start, stop = list(box.start), list(box.stop)
    start[axis], stop[axis] = at, at + 1
    plane = layer.read(Box(triple(start, "plane", at_least=0), triple(stop, "plane")), level)
    return np.squeeze(plane, axis=axis - 3)


def _draw_planes(levels: dict[Layer, int], box: Box, axis: int, at: int, seed: int, dim: bool) -> list[RGB]:
    planes = {layer: _read_plane(layer, level, box, axis, at) for layer, level in levels.items()}
    images = {layer: stretch(plane) for layer, plane in planes.items() if layer.kind == "image"}
    pictures = []
    for layer, plane in planes.items():
        if layer.kind == "flow":
            pictures.append(colour_flow(np.delete(plane, axis, axis=0)))
        elif layer.kind == "image":
            pictures.append(images[layer])
        else:
            pictures.append(_draw_labels([*images.values()][:1], plane, seed, dim))
    return pictures


def _draw_labels(images: Sequence[RGB], labels: Any, seed: int, dim: bool) -> RGB:
    if not images:
        return colour_labels(labels, seed)
    return overlay(images[0] // DIM, labels, opacity=0.8, seed=seed) if dim else overlay(images[0], labels, seed=seed)


def draw_sections(
    layers: Sequence[Layer],
    spans: Sequence[slice] | None = None,
    *,
    level: int = 0,
    planes: Sequence[int] | None = None,
    seed: int = 0,
    dim: bool = False,
) -> "Figure":
    """Draw each layer in three planes of a box; labels lie over the first image. Only these planes are read.

    A plane is drawn in its true proportions, unless it would be a line: then it is stretched to be seen.

    Parameters
    ----------
    layers : sequence of Layer
        What to draw, one column for each.
    spans : sequence of 3 slice, optional
        Box in voxels of the level; by default the centre, up to 512 voxels along an axis.
    level : int
        Level to draw of the layers that have several.
    planes : sequence of 3 int, optional
        Positions (z, y, x) of the planes; by default the middle of the box.
    seed : int
        Another seed gives the labels other colours.
    dim : bool
        Whether labels lie over a dimmed image, and cover it: for one that is bright wherever there are labels.

    Returns
    -------
    figure : matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When level, box or planes do not fit.
    """
    from matplotlib.figure import Figure

    levels = choose_level(layers, level)
    box = choose_box(layers[0].shape(levels[layers[0]]), spans)
    at = choose_planes(box, planes)
    z, y, x = (n * s for n, s in zip(box.shape, _voxel_size(levels), strict=True))
    slopes = [min(max(slope, THINNEST), 1 / THINNEST) for slope in (y / x, z / x, z / y)]
    heights = [min(max(slope, LOWEST), 1.0) for slope in slopes]
    wheels = [LOWEST] * any(layer.kind == "flow" for layer in levels)
    tall = WIDTH * sum(heights + wheels) + 1.2
    figure = Figure(figsize=(WIDTH * len(levels) + 0.4, tall), dpi=150, layout="constrained")
    grid = figure.subplots(3 + len(wheels), len(levels), squeeze=False, height_ratios=heights + wheels)
    for axis, row in enumerate(grid[:3]):
        down, right = (a for a in range(3) if a != axis)
        extent = (box.start[right] - 0.5, box.stop[right] - 0.5, box.stop[down] - 0.5, box.start[down] - 0.5)
        for axes, layer, picture in zip(row, levels, _draw_planes(levels, box, axis, at[axis], seed, dim), strict=True):
            aspect = slopes[axis] * box.shape[right] / box.shape[down]
            axes.imshow(picture, extent=extent, aspect=aspect, interpolation="nearest")
            _set_ticks(axes, WIDTH * min(1.0, 1 / slopes[axis]), len(str(box.stop[right])))
            axes.set_xlabel(f"{AXES[right]} (voxels)", size=FONT)
            if axis == 0:
                axes.set_title(fill(layer.name, LINE), size=FONT + 1)
        row[0].set_ylabel(f"{AXES[axis]} = {at[axis]}\n{AXES[down]} (voxels)", size=FONT)
    for row in grid[3:]:
        _draw_wheels(row, [layer.kind == "flow" for layer in levels])
    return figure


def _set_ticks(axes: Any, width: float, digits: int) -> None:
    # Ticks are at whole voxels, with all digits, and only as many as fit below a picture of this width.
    axes.tick_params(labelsize=FONT, length=2, width=0.5)
    axes.locator_params(integer=True, min_n_ticks=1)
    axes.locator_params("x", nbins=max(1, int(72 * width / (FONT * (digits + 1)))))
    axes.ticklabel_format(useOffset=False, style="plain")


def _draw_wheels(row: Sequence[Any], are_flows: Sequence[bool]) -> None:
    # The legend of a flow's colours, below its planes.
    for axes, is_flow in zip(row, are_flows, strict=True):
        axes.set_axis_off()
        if is_flow:
            axes.imshow(flow_wheel(96))
            axes.set_title(FLOW_NOTE, size=FONT)
