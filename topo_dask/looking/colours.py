"""Colours of images, flow and labels: NumPy planes to RGB arrays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

RGB = NDArray[np.uint8]
"""Colours, shape (..., 3), 0 to 255."""

N_HUES = 12
NEAR = (1, 2, 4, 8, 16, 24)
"""Distances in voxels. Two labels count as neighbours if they occur at one of them along an axis: labels that touch do,
and labels on both sides of a gap do unless they are thin."""


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
        Intensities; values that are not finite become black.
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
        Components along the rows (down) and along the columns (right), in voxels. Vectors of length 1 or more have full
        brightness; those of length 0, or not finite, are black.

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
            # Most pairs repeat the pair before; the few that are left are sorted quickly.
            found.append(np.unique(pairs[np.diff(pairs, prepend=-1) != 0]))
    return np.stack(np.divmod(np.unique(np.concatenate(found)), n), axis=1)


def colour_labels(labels_2d: NDArray[Any], seed: int = 0) -> RGB:
    """A colour for each label that differs from the colours of its neighbours.

    Parameters
    ----------
    labels_2d : array of int, shape (H, W)
        Labels, 0 background. A volume (D, H, W) works as well; a label then has the same colour in all its planes.
    seed : int
        Another seed gives other colours.

    Returns
    -------
    rgb : array of uint8, shape (*labels_2d.shape, 3)
        0 is black. If the neighbours of a label use all 12 colours, it shares one with a neighbour.

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
    # The wish depends on the label alone, so that a label mostly keeps its colour from one plane to the next.
    wishes = (values.astype(np.uint64) * np.uint64(5) + np.uint64(seed % N_HUES)) % np.uint64(N_HUES)
    hues = np.zeros(len(values) + 1, np.intp)
    for i, wish in enumerate(wishes.tolist(), start=1):
        hues[i] = _choose_hue(wish, hues[neighbours[i]])
    odd = hues % 2 == 1
    palette = _from_hsv(hues / N_HUES, np.where(odd, 0.5, 0.85), np.where(odd, 1.0, 0.95))
    palette[0] = 0
    return palette[ids]


def _choose_hue(wish: int, taken: NDArray[np.intp]) -> int:
    """The first hue, from the wish on, that is a quarter of the wheel from all taken hues; else the farthest one."""
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
        Pixels at the edge of the image do not count as touching it.

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
        Intensities, which `stretch` makes grey, or colours, which are used as they are.
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
