"""One figure of a whole volume: image, foreground, flow and labels, each in three planes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .colours import colour_flow, colour_labels, flow_wheel, overlay, stretch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = "zyx"
TITLES = ("Image", "Foreground", "Flow", "Labels")
FLOW_NOTE = "hue: direction\nbrightness: length\n(both in the plane)"
NOTES = {
    0: "dashed: the other\ntwo planes",
    2: FLOW_NOTE,
    3: "outlines: labels\nstraight lines: block borders",
}
CUT = "#ffd23f"
MOST_TICKS = 5

# Lengths of the overview in inches, font in points.
WIDTH, LEFT, RIGHT, GAP = 7.2, 0.5, 0.24, 0.1
TOP, BETWEEN, BELOW, LEGEND = 0.28, 0.4, 0.38, 0.5
PANEL = (WIDTH - LEFT - RIGHT - 3 * GAP) / 4
FONT = 7


def fullest_planes(mask: NDArray[Any]) -> tuple[int, ...]:
    """For each axis the plane with the most foreground; the first of them if several have as much.

    Parameters
    ----------
    mask : array of bool, shape (D, H, W)
        Foreground.

    Returns
    -------
    planes : tuple of int
        Index (z, y, x) of the planes.

    Examples
    --------
    >>> fullest_planes(np.array([[[0, 0], [0, 0]], [[0, 1], [1, 1]]], bool))
    (1, 1, 1)
    """
    axes = range(mask.ndim)
    return tuple(int(mask.sum(axis=tuple(b for b in axes if b != a)).argmax()) for a in axes)


def draw_overview(
    image: NDArray[Any],
    foreground: NDArray[np.bool_],
    flow: NDArray[Any],
    labels: NDArray[Any],
    block_shape: Sequence[int],
    *,
    seed: int = 0,
) -> "Figure":
    """Image, foreground, flow and labels with block borders, in one plane across each axis.

    Parameters
    ----------
    image : array, shape (D, H, W)
        Intensities.
    foreground : array of bool, shape (D, H, W)
        Foreground; the planes shown are those with the most of it.
    flow : array of float, shape (3, D, H, W)
        Vectors (dz, dy, dx) in voxels.
    labels : array of int, shape (D, H, W)
        Labels, 0 background.
    block_shape : sequence of 3 int
        Shape of a block, in voxels.
    seed : int
        Seed of the labels' colours.

    Returns
    -------
    figure : matplotlib.figure.Figure
        7.2 inches wide, the width of two columns of print. No backend is chosen; ``figure.savefig`` works anywhere.

    Raises
    ------
    ImportError
        When matplotlib is not installed.
    ValueError
        When the shapes do not fit together.
    """
    from matplotlib.figure import Figure

    _check_shapes(image, foreground, flow, labels)
    planes = fullest_planes(foreground)
    grey, colours = stretch(image), colour_labels(labels, seed)
    depth, height, width = labels.shape
    scale = PANEL / max(height, width)
    tops = np.cumsum([TOP, height * scale + GAP, depth * scale + BETWEEN, depth * scale + BELOW])
    figure = Figure(figsize=(WIDTH, tops[-1] + LEGEND), dpi=300)
    for axis, plane in enumerate(planes):
        at = (slice(None),) * axis + (plane,)
        in_plane = np.delete(flow[(slice(None), *at)], axis, axis=0)
        pictures = (
            grey[at],
            stretch(foreground[at], 0, 100),
            colour_flow(in_plane * foreground[at]),
            overlay(grey[at], labels[at], colours=colours[at]),
        )
        for column, picture in enumerate(pictures):
            rows, columns = picture.shape[:2]
            axes = _add_axes(figure, column, tops[axis], columns * scale, rows * scale)
            axes.imshow(picture, interpolation="nearest")
            _label_axes(axes, axis, column, (rows, columns), block_shape)
        _draw_cuts(figure.axes[-4], axis, planes)
        _draw_borders(figure.axes[-1], axis, (rows, columns), block_shape)
        note = f"{AXES[axis]} = {plane}"
        axes.text(1 + _inches(0.05, axes), 0.5, note, transform=axes.transAxes, rotation=270, va="center", size=FONT)
    _draw_legend(figure, tops[-1])
    return figure


def _check_shapes(image: NDArray[Any], foreground: NDArray[Any], flow: NDArray[Any], labels: NDArray[Any]) -> None:
    if labels.ndim != 3:
        raise ValueError(f"labels must have 3 axes, got shape {labels.shape}")
    for name, array, shape in (
        ("image", image, labels.shape),
        ("foreground", foreground, labels.shape),
        ("flow", flow, (3, *labels.shape)),
    ):
        if array.shape != shape:
            raise ValueError(f"{name} must have shape {shape} to fit the labels, got {array.shape}")


def _add_axes(figure: "Figure", column: int, top: float, width: float, height: float, shift: float = 0.0) -> "Axes":
    """Axes in a column of panels, `top` inches from the upper edge."""
    across, down = figure.get_size_inches()
    left = LEFT + column * (PANEL + GAP) + shift
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def _inches(length: float, axes: "Axes") -> float:
    """A length as a share of the width of axes."""
    return length * float(axes.figure.dpi / axes.bbox.width)


def _others(axis: int) -> tuple[int, int]:
    """The axes that run down and to the right in a plane across `axis`."""
    return (1 if axis == 0 else 0), (1 if axis == 2 else 2)


def _label_axes(axes: "Axes", axis: int, column: int, shape: Sequence[int], block_shape: Sequence[int]) -> None:
    """Ticks at the block borders; names and numbers on the outer panels only."""
    down, right = _others(axis)
    for side, size, block in ((axes.yaxis, shape[0], block_shape[down]), (axes.xaxis, shape[1], block_shape[right])):
        ticks = range(0, size, block)
        ticks = ticks[:: -(-len(ticks) // MOST_TICKS)]
        side.set_ticks([tick - 0.5 for tick in ticks], [str(tick) for tick in ticks])
        side.set_tick_params(labelsize=FONT, length=2, width=0.5, pad=1.5)
    for spine in axes.spines.values():
        spine.set_linewidth(0.5)
    if axis == 0:
        axes.set_title(TITLES[column], size=FONT + 2, pad=4)
        axes.tick_params(labelbottom=False)  # the panel below has the same axis
    else:
        axes.set_xlabel(f"{AXES[right]} (voxels)", size=FONT, labelpad=1.5)
    if column == 0:
        axes.set_ylabel(f"{AXES[down]} (voxels)" if axis == 0 else AXES[down], size=FONT)
        axes.yaxis.set_label_coords(-_inches(0.34, axes), 0.5)  # in line, however wide the numbers are
    else:
        axes.tick_params(labelleft=False)


def _draw_borders(axes: "Axes", axis: int, shape: Sequence[int], block_shape: Sequence[int]) -> None:
    """Thin lines where one block ends and the next begins."""
    down, right = _others(axis)
    for at in range(block_shape[down], shape[0], block_shape[down]):
        axes.axhline(at - 0.5, color="white", linewidth=0.5)
    for at in range(block_shape[right], shape[1], block_shape[right]):
        axes.axvline(at - 0.5, color="white", linewidth=0.5)


def _draw_cuts(axes: "Axes", axis: int, planes: Sequence[int]) -> None:
    """Dashed lines where the other two planes cut this one."""
    down, right = _others(axis)
    axes.axhline(planes[down], color=CUT, linewidth=0.6, dashes=(4, 3))
    axes.axvline(planes[right], color=CUT, linewidth=0.6, dashes=(4, 3))


def _draw_legend(figure: "Figure", top: float) -> None:
    """The strip below the panels: what the lines are, and the colour wheel."""
    size = LEGEND - 0.08
    for column, text in NOTES.items():
        shift = 0.0
        if TITLES[column] == "Flow":
            wheel = _add_axes(figure, column, top, size, size)
            wheel.imshow(flow_wheel(256))
            wheel.set_axis_off()
            shift = size + 0.08
        note = _add_axes(figure, column, top, 0.1, size, shift)
        note.set_axis_off()
        note.text(0, 0.5, text, size=FONT, va="center", linespacing=1.3)
