"""Pictures of volumes, flow and labels: NumPy slices to RGB arrays, and one overview figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RGB = NDArray[np.uint8]
"""Colours, shape (..., 3), 0 to 255."""

N_HUES = 12
NEAR = (1, 2, 4, 8, 16, 24)
"""Labels that occur at one of these distances in voxels along an axis count as neighbours: all that touch, and those
across a gap unless they are thin."""

AXES = "zyx"
TITLES = ("Image", "Foreground", "Flow", "Labels")
NOTES = {
    0: "dashed: the other\ntwo planes",
    2: "hue: direction\nbrightness: length\n(both in the plane)",
    3: "outlines: labels\nstraight lines: block borders",
}
CUT = "#ffd23f"
MOST_TICKS = 5

# Lengths of the overview in inches, font in points.
WIDTH, LEFT, RIGHT, GAP = 7.2, 0.5, 0.24, 0.1
TOP, BETWEEN, BELOW, LEGEND = 0.28, 0.4, 0.38, 0.5
PANEL = (WIDTH - LEFT - RIGHT - 3 * GAP) / 4
FONT = 7


def _from_hsv(hue: NDArray[Any], saturation: Any, value: Any) -> RGB:
    sector = (np.array([5.0, 3.0, 1.0]) + 6.0 * np.asarray(hue)[..., None]) % 6.0
    dip = np.clip(np.minimum(sector, 4.0 - sector), 0.0, 1.0)
    rgb = np.asarray(value)[..., None] * (1.0 - np.asarray(saturation)[..., None] * dip)
    return _to_bytes(255.0 * rgb)


def _to_bytes(values: NDArray[Any]) -> RGB:
    rounded: RGB = np.rint(values).astype(np.uint8)
    return rounded


def stretch(image: NDArray[Any], low: float = 1.0, high: float = 99.8) -> RGB:
    """Grey image between two percentiles of its values.

    Parameters
    ----------
    image : array of bool, int or float, any shape
        Intensities; what is not finite becomes black.
    low, high : float
        Percentiles that become black and white.

    Returns
    -------
    rgb : array of uint8, shape (*image.shape, 3)
        All black when the image is constant.

    Examples
    --------
    >>> stretch(np.array([0, 5, 10]), 0, 100)[:, 0]
    array([  0, 128, 255], dtype=uint8)
    """
    values = np.asarray(image, np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros((*values.shape, 3), np.uint8)
    black, white = np.percentile(values[finite], [low, high])
    span = white - black if white > black else np.inf
    grey = np.clip(np.where(finite, values - black, 0.0) / span, 0.0, 1.0)
    return np.repeat(_to_bytes(255.0 * grey)[..., None], 3, axis=-1)


def colour_flow(flow_2d: NDArray[Any]) -> RGB:
    """Colour wheel of a plane of flow: hue is the direction in the plane, brightness the length in it.

    Parameters
    ----------
    flow_2d : array of float, shape (2, H, W)
        Components along the rows (down) and along the columns (right), in voxels. Length 1 and more is full
        brightness; 0, and what is not finite, is black.

    Returns
    -------
    rgb : array of uint8, shape (H, W, 3)
        Red to the right, then yellow-green down, cyan to the left, violet up.

    Raises
    ------
    ValueError
        When the shape is not (2, H, W).

    Examples
    --------
    >>> colour_flow(np.array([[[0.0, 0.0]], [[1.0, -1.0]]])).tolist()
    [[[255, 0, 0], [0, 255, 255]]]
    """
    flow = np.asarray(flow_2d, np.float64)
    if flow.ndim != 3 or flow.shape[0] != 2:
        raise ValueError(f"flow_2d must have shape (2, H, W), got {flow.shape}")
    down, right = np.where(np.isfinite(flow).all(axis=0), flow, 0.0)
    hue = np.arctan2(down, right) / (2.0 * np.pi)
    return _from_hsv(hue, 1.0, np.minimum(np.hypot(down, right), 1.0))


def flow_wheel(size: int = 96) -> RGB:
    """Legend of `colour_flow`: every direction and length at its place on a disc, white around it.

    Parameters
    ----------
    size : int
        Edge of the picture in pixels, 1 or more.

    Returns
    -------
    rgb : array of uint8, shape (size, size, 3)

    Examples
    --------
    >>> flow_wheel(3)[1].tolist()
    [[0, 170, 170], [0, 0, 0], [170, 0, 0]]
    """
    plane = (np.mgrid[:size, :size] - (size - 1) / 2.0) / (size / 2.0)
    rgb = colour_flow(plane)
    rgb[np.hypot(*plane) > 1.0] = 255
    return rgb


def _near_pairs(ids: NDArray[np.intp]) -> NDArray[np.intp]:
    """Rows (lower, higher) of the ids that are neighbours."""
    n = int(ids.max(initial=0)) + 1
    found = [np.empty(0, np.intp)]
    for axis in range(ids.ndim):
        for shift in [shift for shift in NEAR if shift < ids.shape[axis]]:
            a = np.take(ids, range(shift, ids.shape[axis]), axis)
            b = np.take(ids, range(ids.shape[axis] - shift), axis)
            near = (a != b) & (a > 0) & (b > 0)
            a, b = a[near], b[near]
            pairs = np.minimum(a, b) * n + np.maximum(a, b)
            # Most repeat the one before: sorting what is left takes no time.
            found.append(np.unique(pairs[np.diff(pairs, prepend=-1) != 0]))
    return np.stack(np.divmod(np.unique(np.concatenate(found)), n), axis=1)


def colour_labels(labels_2d: NDArray[Any], seed: int = 0) -> RGB:
    """A colour for each label, another one than those of its neighbours.

    Parameters
    ----------
    labels_2d : array of int, shape (H, W)
        Labels, 0 background; a volume (D, H, W) works as well, and colours its planes consistently.
    seed : int
        Another seed is another choice of colours.

    Returns
    -------
    rgb : array of uint8, shape (*labels_2d.shape, 3)
        0 is black. A label with so many neighbours that none of the 12 colours is left shares one.

    Raises
    ------
    TypeError
        When the labels are not integers.

    Examples
    --------
    >>> rgb = colour_labels(np.array([[0, 7, 7, 9]]))
    >>> rgb[0, 0].tolist(), bool((rgb[0, 1] == rgb[0, 2]).all()), bool((rgb[0, 2] == rgb[0, 3]).all())
    ([0, 0, 0], True, False)
    """
    labels = np.asarray(labels_2d)
    if labels.dtype.kind not in "biu":
        raise TypeError(f"labels_2d must hold integers, got dtype {labels.dtype}")
    values, ids = np.unique(labels, return_inverse=True)
    ids = np.where(labels == 0, 0, ids.reshape(labels.shape) + 1)
    neighbours: list[list[int]] = [[] for _ in range(len(values) + 1)]
    for low, high in _near_pairs(ids).tolist():
        neighbours[high].append(low)
    # The wish depends on the label alone, so that it mostly keeps its colour from one plane to the next.
    wishes = (values.astype(np.uint64) * np.uint64(5) + np.uint64(seed % N_HUES)) % np.uint64(N_HUES)
    hues = np.zeros(len(values) + 1, np.intp)
    for i, wish in enumerate(wishes.tolist(), start=1):
        hues[i] = _choose_hue(wish, hues[neighbours[i]])
    odd = hues % 2 == 1
    palette = _from_hsv(hues / N_HUES, np.where(odd, 0.5, 0.85), np.where(odd, 1.0, 0.95))
    palette[0] = 0
    return palette[ids]


def _choose_hue(wish: int, taken: NDArray[np.intp]) -> int:
    """The first hue from the wish on that is a quarter of the wheel from all taken ones, else as far as possible."""
    hues = (wish + np.arange(N_HUES)) % N_HUES
    away = np.abs(hues[:, None] - taken)
    gap = np.minimum(away, N_HUES - away).min(axis=1, initial=3)
    return int(hues[gap.argmax()])


def outline(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels of each label that touch another label or the background through an edge.

    Parameters
    ----------
    labels : array of int, shape (H, W)
        Labels, 0 background.

    Returns
    -------
    edge : array of bool, shape (H, W)
        The image's own edge is no border.

    Examples
    --------
    >>> outline(np.array([[0, 4, 4, 4, 4]])).astype(int)
    array([[0, 1, 0, 0, 0]])
    """
    labels = np.asarray(labels)
    edge = np.zeros(labels.shape, bool)
    rows, columns = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= rows
    edge[:-1] |= rows
    edge[:, 1:] |= columns
    edge[:, :-1] |= columns
    edge &= labels != 0
    return edge


def overlay(
    image: NDArray[Any],
    labels: NDArray[Any],
    *,
    colours: NDArray[Any] | None = None,
    opacity: float = 0.4,
    seed: int = 0,
) -> RGB:
    """Labels over an image: tinted inside, outlined in full colour.

    Parameters
    ----------
    image : array of bool, int or float, shape (H, W), or of uint8, shape (H, W, 3)
        Intensities, stretched by `stretch`; colours are taken as they are.
    labels : array of int, shape (H, W)
        Labels, 0 background.
    colours : array of uint8, shape (H, W, 3), optional
        Colour of each pixel's label; by default that of `colour_labels`.
    opacity : float
        Share of the colour inside a label, 0 to 1.
    seed : int
        Seed of the colours.

    Returns
    -------
    rgb : array of uint8, shape (H, W, 3)

    Raises
    ------
    ValueError
        When the image does not cover the labels.

    Examples
    --------
    >>> overlay(np.zeros((1, 2)), np.array([[0, 1]]))[0, 0].tolist()
    [0, 0, 0]
    """
    image, labels = np.asarray(image), np.asarray(labels)
    if image.shape not in (labels.shape, (*labels.shape, 3)):
        raise ValueError(f"image must have the shape of labels, {labels.shape}, got {image.shape}")
    grey = image if image.ndim > labels.ndim else stretch(image)
    tint = colour_labels(labels, seed) if colours is None else np.asarray(colours)
    share = np.where(outline(labels), 1.0, np.where(labels != 0, opacity, 0.0))[..., None]
    return _to_bytes(grey * (1.0 - share) + tint * share)


def fullest_planes(mask: NDArray[Any]) -> tuple[int, ...]:
    """For each axis the plane with the most foreground, the first one of equals.

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
