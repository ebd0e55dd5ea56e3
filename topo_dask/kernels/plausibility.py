"""What is legal but hardly meant, told from some voxels: foreground on another scale, flow in another order."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST = 4096
"""Foreground voxels below which nothing is said of a flow."""

_LONG = 8.0
"""Median length of vectors from which they are taken to be scaled."""

_FIT, _BETTER = 0.02, 2.0
"""Convergence, in voxels a voxel, below which nothing is said of the order of components, and how many times that of
the given order another one must have. Where objects are balls of radius r it is 2 / r if the order is right."""

_ENOUGH = 512
"""Voxels, or steps between two, that are looked at in a box."""

_COMPONENTS = ("dz", "dy", "dx")


def doubt_foreground(values: NDArray[Any], threshold: float) -> str | None:
    """What is strange about stored foreground, if anything: integers that look like probabilities from 0 to 255.

    Parameters
    ----------
    values : ndarray
        Some of the values.
    threshold : float
        Foreground is above it.

    Examples
    --------
    >>> doubt_foreground(np.array([0, 30, 255], np.uint8), 0.5)
    'holds integers up to 255, and all above 0.5 are foreground: if they are scaled probabilities scale the threshold'
    >>> doubt_foreground(np.array([0, 255, 255], np.uint8), 0.5)
    """
    if values.dtype.kind not in "iu" or not 0 <= threshold < 1 or values.size == 0 or values.max() <= 1:
        return None
    if len(np.unique(values)) < 3:  # a mask
        return None
    return (
        f"holds integers up to {values.max()}, and all above {threshold} are foreground: if they are scaled "
        "probabilities scale the threshold"
    )


def doubt_mask(values: NDArray[Any]) -> str | None:
    """What is strange about a mask, if anything: fractions, all of which are true.

    Examples
    --------
    >>> doubt_mask(np.array([0, 0.25, 1]))
    'holds fractions, such as 0.25, and all but 0 count as foreground: of probabilities pass probability > 0.5'
    """
    if values.dtype.kind != "f":
        return None
    fractions = values[(values > 0) & (values < 1)]
    if not len(fractions):
        return None
    return (
        f"holds fractions, such as {fractions[0]:.3g}, and all but 0 count as foreground: of probabilities pass "
        "probability > 0.5"
    )


def doubt_flow(looks: Sequence[tuple[NDArray[np.bool_], NDArray[Any]]]) -> str | None:
    """What is strange about a flow, if anything: its length, or that components in another order or sign fit better.

    Towards the middle of objects component d falls along axis d: flows converge. So the median step of each component
    along each axis, over foreground, tells which component belongs to which axis.

    Parameters
    ----------
    looks : sequence of (ndarray of bool, shape (d, h, w); ndarray, shape (3, d, h, w))
        Foreground of some boxes, and the vectors there. All are taken together: a part of an object may look strange.

    Examples
    --------
    >>> at = np.indices((24, 24, 24)) - 11.5
    >>> flow, mask = -at / np.linalg.norm(at, axis=0), np.ones((24, 24, 24), bool)
    >>> doubt_flow([(mask, flow)])
    >>> doubt_flow([(mask, flow[::-1])])
    'fits foreground better in the order (dx, dy, dz): the channels of a class are its dz, dy, dx'
    >>> doubt_flow([(mask, -flow)])
    'points away from the middle of objects: it must point towards it'
    """
    if sum(np.count_nonzero(mask) for mask, _ in looks) < LEAST:
        return None
    vectors = [_vectors(flow, _some(mask)) for mask, flow in looks]
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(np.concatenate(vectors, axis=1), axis=0)
    if not np.isfinite(lengths).all():
        return None
    if not lengths.any():
        return f"is 0 at all of {lengths.size} foreground voxels looked at"
    if (typical := float(np.median(lengths))) > _LONG:
        return f"has vectors {typical:.0f} voxels long, where about one is expected: divide it by its scale"
    steps, error = _steps(looks)
    fits = {
        (order, sign): -sign * sum(steps[axis, component] for axis, component in enumerate(order))
        for order in permutations(range(3))
        for sign in (1, -1)
    }
    best = max(fits, key=lambda fit: fits[fit])
    if fits[best] < max(_FIT, 6 * error, _BETTER * fits[(0, 1, 2), 1]):
        return None
    order, sign = best
    if order == (0, 1, 2):
        return "points away from the middle of objects: it must point towards it"
    # Channel c of what is given is the component along the axis that takes it.
    names = ", ".join(_COMPONENTS[order.index(channel)] for channel in range(3))
    turned = "" if sign == 1 else ", negated"
    return f"fits foreground better in the order ({names}){turned}: the channels of a class are its dz, dy, dx"


def _some(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], ...]:
    # Indices of up to about `_ENOUGH` voxels of a mask, spread over it.
    found = np.flatnonzero(mask)
    return np.unravel_index(found[:: max(1, len(found) // _ENOUGH)], mask.shape)


def _vectors(flow: NDArray[Any], at: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    z, y, x = at
    return flow[:, z, y, x].astype(np.float64)


def _steps(looks: Sequence[tuple[NDArray[np.bool_], NDArray[Any]]]) -> tuple[NDArray[np.float64], float]:
    # Median step of each component along each axis between foreground voxels, and the error of a sum of three.
    steps, worst = np.zeros((3, 3)), 0.0
    for axis in range(3):
        found = []
        for mask, flow in looks:
            turned = np.moveaxis(mask, axis, 0)
            at = _some(np.moveaxis(turned[:-1] & turned[1:], 0, axis))
            beyond = [where + (k == axis) for k, where in enumerate(at)]
            found.append(_vectors(flow, beyond) - _vectors(flow, at))
        together = np.concatenate(found, axis=1)
        if together.shape[1]:
            steps[axis] = np.median(together, axis=1)
            worst = max(worst, 1.2533 * float(np.std(together, axis=1).max()) / together.shape[1] ** 0.5)
    return steps, 3**0.5 * worst
