"""Doubts about input that is legal but hardly meant: foreground on another scale, flow in another order.

They are raised from a sample of the voxels.
"""

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Looks: TypeAlias = Sequence[tuple[NDArray[np.bool_], NDArray[Any]]]
"""Foreground of some boxes, shape (d, h, w), and the vectors there, shape (3, d, h, w)."""

FEW, LEAST = 256, 4096
"""With fewer foreground voxels there is no doubt about a flow, and none about the order and signs of its components."""

_LONG = 2.5
"""Vectors of a larger median length are taken to be scaled."""

_FIT, _BETTER = 0.02, 2.0
"""Least convergence, in voxels per voxel, for a doubt about the order of components; and how many times the convergence
of the given order another order must have. For balls of radius r the convergence is 2 / r if the order is right."""

_SPREAD, _ERRORS = 0.4, 13
"""The least convergence in standard deviations of the steps, and in standard deviations over the root of their number
(six errors of a sum). By the median alone, blurred flow of thin sheets that touch would diverge, by up to 0.35 standard
deviations."""

_ENOUGH = 512
"""Voxels, or steps between two voxels, that are sampled from a box, on average."""

_SCALES = 1, 255, 65535
"""Numbers that may stand for a probability of 1 in stored foreground."""

_PAIRS = 256
"""With fewer pairs of neighbours in a mask there is no doubt about integers."""

_ALIKE = 8
"""All but one in so many neighbours are equal where integers are labels; of probabilities that were enlarged without
interpolation, by 4 along each axis, three in four are."""

_COMPONENTS = ("dz", "dy", "dx")


def doubt_foreground(values: NDArray[Any], threshold: float) -> str | None:
    """Doubt about stored foreground, if any: its scale, or that all or none of it is above the threshold.

    Labels are a foreground too: everything above 0 belongs to an object.

    A volume without objects is no reason for the last doubt. So it is raised only when a tenth of the values are above
    half of the largest value, and the largest value is near the threshold (or near 1, for fractions and a threshold
    that is meant for 0 to 255).

    Parameters
    ----------
    values : ndarray
        Some of the values.
    threshold : float
        Values above it are foreground.

    Examples
    --------
    >>> doubt_foreground(np.array([0, 30, 255], np.uint8), 0.5)
    'holds values up to 255, and all above 0.5 are foreground: of probabilities times 255 pass a threshold of 127'
    >>> doubt_foreground(np.array([0, 255, 255], np.uint8), 0.5)
    >>> doubt_foreground(np.array([1, 2, 2, 1], np.uint8), 0.5)
    'holds 1 and 2 alone, and both count as foreground: if 1 is background pass a threshold of 1'
    >>> doubt_foreground(np.array([-7.5, 4.25, 8.0]), 0.5)
    'holds values from -7.5 to 8, which look like logits: pass a threshold of 0'
    >>> doubt_foreground(np.array([0, 0.25, 0.4]), 0.5)
    'holds nothing above the threshold of 0.5 where it was looked at, and values up to 0.4: pass a lower one'
    """
    if not values.size:
        return None
    low, high = float(np.fmin.reduce(values, axis=None)), float(np.fmax.reduce(values, axis=None))
    fractions = values.dtype.kind == "f"
    if fractions and 0 < threshold < 1 and low < -1 and high > 0 and _many((values < -1) & np.isfinite(values), 100):
        return f"holds values from {low:.3g} to {high:.3g}, which look like logits: pass a threshold of 0"
    if 0 < threshold < 1 and low > -1 and 2 <= high <= _SCALES[-1]:
        if _has_two_levels(values, low, high):
            return None if low <= threshold else f"{_levels(low, high)} pass a threshold of {low:.5g}"
        if not _many(values >= 2, 100) or _are_labels(values, high):  # a few values that overshoot
            return None
        scale = _scale(high)
        return (
            f"holds values up to {high:.5g}, and all above {threshold} are foreground: of probabilities times {scale} "
            f"pass a threshold of {scale // 2}"
        )
    unscaled = values.dtype.kind in "fb" and threshold > 1 >= high > 0.5
    if 0 < high <= threshold and (unscaled or high > threshold / 2) and _many(values > high / 2, 10):
        return (
            f"holds nothing above the threshold of {threshold} where it was looked at, and values up to {high:.3g}: "
            "pass a lower one"
        )
    return None


def doubt_mask(values: NDArray[Any]) -> str | None:
    """Doubt about a mask, if any: it holds fractions, or integers as smooth as probabilities, and all of them are true.

    Parameters
    ----------
    values : ndarray, shape (d, h, w)
        Part of the mask. It may be labels, in which most neighbours are equal.

    Examples
    --------
    >>> doubt_mask(np.array([[[0, 0.25, 1]]]))
    'holds fractions, such as 0.25, and all but 0 count as foreground: of probabilities pass probability > 0.5'
    >>> doubt_mask(np.array([[[-4.5, 2]]]))
    'holds fractions, such as -4.5, and all but 0 count as foreground: of logits pass logits > 0'
    >>> doubt_mask(np.arange(256, dtype=np.uint8).reshape(1, 1, 256).repeat(2, axis=0))
    'holds values up to 255, and all but 0 count as foreground: of probabilities times 255 pass probability > 127'
    """
    kind = values.dtype.kind
    if kind not in "fiu" or not values.any():
        return None
    high = float(np.fmax.reduce(values, axis=None))
    if kind == "f":
        fractions = values[np.isfinite(values) & (values != np.trunc(values))]
        if not len(fractions):
            return None
        holds, logits = f"fractions, such as {fractions[0]:.3g}", bool((values < -1).any())
    else:
        pairs, alike = _pairs(values, high)
        if high > _SCALES[-1] or pairs < _PAIRS or _ALIKE * alike > (_ALIKE - 1) * pairs:
            return None
        holds, logits = f"values up to {high:.5g}", False
    scale = _scale(high)
    remedy = f"probabilities{f' times {scale}' if scale > 1 else ''} pass probability > {scale // 2 or 0.5}"
    return f"holds {holds}, and all but 0 count as foreground: of {'logits pass logits > 0' if logits else remedy}"


def doubt_levels(values: NDArray[Any]) -> str | None:
    """Doubt about a mask of two values, if any: neither is 0, so all of it is foreground.

    Parameters
    ----------
    values : ndarray
        Some of the mask.

    Examples
    --------
    >>> doubt_levels(np.array([1, 2, 2, 1], np.uint8))
    'holds 1 and 2 alone, and both count as foreground: if 1 is background pass mask > 1'
    >>> doubt_levels(np.array([0, 255], np.uint8))
    """
    if values.dtype.kind not in "fiu" or not values.size:
        return None
    low, high = float(np.fmin.reduce(values, axis=None)), float(np.fmax.reduce(values, axis=None))
    if low <= 0 or not _has_two_levels(values, low, high):
        return None
    return f"{_levels(low, high)} pass mask > {low:.5g}"


def _has_two_levels(values: NDArray[Any], low: float, high: float) -> bool:
    return low < high and not ((values > low) & (values < high)).any()


def _levels(low: float, high: float) -> str:
    return f"holds {low:.5g} and {high:.5g} alone, and both count as foreground: if {low:.5g} is background"


def _are_labels(values: NDArray[Any], high: float) -> bool:
    pairs, alike = _pairs(values, high)
    return values.dtype.kind in "iu" and pairs >= _PAIRS and _ALIKE * alike > (_ALIKE - 1) * pairs


def _pairs(values: NDArray[Any], high: float) -> tuple[int, int]:
    # Counts pairs of neighbours along the last axis that are neither low nor high, and those that are equal: in labels
    # most are.
    between = (values > high / 10) & (values < 0.9 * high)
    both = between[..., :-1] & between[..., 1:]
    alike = both & (values[..., :-1] == values[..., 1:])
    return int(np.count_nonzero(both)), int(np.count_nonzero(alike))


def _scale(high: float) -> int:
    # Finds the number that stands for 1, from the largest value.
    return next((scale for scale in _SCALES if high <= scale), _SCALES[-1])


def _many(which: NDArray[np.bool_], part: int) -> bool:
    # Whether at least one in `part` is true.
    return part * int(np.count_nonzero(which)) >= which.size


def doubt_flow(looks: Looks, apart: Callable[[], Looks] | None = None) -> str | None:
    """Doubt about a flow, if any: vectors are too long, or components in another order or with other signs fit better.

    Flows converge: component d falls along axis d towards the middle of an object. So the median step of each component
    along each axis, over the foreground, tells which component belongs to which axis, and whether it is negated. But
    steps are about 0 along axes on which objects are long, or far wider than along another axis. So one component of
    the flow of parallel tubes, and two of the flow of parallel sheets, may have any order or sign without a doubt.

    Parameters
    ----------
    looks : sequence of (ndarray of bool, shape (d, h, w); ndarray, shape (3, d, h, w))
        Foreground of some boxes, and the vectors there. Boxes are judged together, as a part of an object may look
        strange.
    apart : callable, optional
        Returns `looks` with the vectors for another order of channels: the dz of all classes, then all dy, then all dx.
        It is called only when a component hardly converges in the given order.

    Examples
    --------
    >>> at = np.indices((24, 24, 24)) - 11.5
    >>> flow, mask = -at / np.linalg.norm(at, axis=0), np.ones((24, 24, 24), bool)
    >>> doubt_flow([(mask, flow)])
    >>> doubt_flow([(mask, flow[::-1])])
    'fits foreground better in the order (dx, dy, dz): the channels of a class are its dz, dy, dx'
    >>> doubt_flow([(mask, -flow)])
    'points away from the middle of objects: it must point towards it'
    >>> doubt_flow([(mask, flow * np.array([1, -1, 1]).reshape(3, 1, 1, 1))])
    'points away from the middle of objects along y: it must point towards it'
    >>> doubt_flow([(mask, 5 * flow)])
    'has vectors 5.0 voxels long, where about one is expected: divide it by about 5.0'
    """
    seen = sum(int(np.count_nonzero(mask)) for mask, _ in looks)
    if seen < FEW:
        return None
    every = max(1, seen // (_ENOUGH * len(looks)))
    with np.errstate(over="ignore"):
        lengths = np.concatenate([np.linalg.norm(_vectors(flow, _some(mask, every)), axis=0) for mask, flow in looks])
    if not np.isfinite(lengths).all():
        return None
    if not lengths.any():
        return f"is 0 at all of {lengths.size} foreground voxels looked at"
    if (typical := float(np.median(lengths))) > _LONG:
        about = f"{typical:.{1 if typical < 10 else 0}f}"
        return f"has vectors {about} voxels long, where about one is expected: divide it by about {about}"
    if seen < LEAST:
        return None
    with np.errstate(over="ignore", invalid="ignore"):  # infinity minus infinity is NaN
        return _doubt_order(looks, every, apart)


def _doubt_order(looks: Looks, every: int, apart: Callable[[], Looks] | None) -> str | None:
    steps, least = _steps(looks, every)
    if not np.isfinite(steps).all():  # the run names the voxel
        return None
    given = -np.diag(steps)
    better = max(least, _BETTER * given.sum())
    if apart is not None and given.min() < given.max() / 4 and -np.trace(_steps(apart(), every)[0]) > better:
        return "fits foreground better if the dz of all classes come first: the channels of each are its dz, dy, dx"
    fits = {}
    for order in permutations(range(3)):
        along = steps[range(3), order]
        # The bound is one for a sum of three. In noisy flow no step reaches it by itself, but all reach their thirds.
        signs = np.where((along > least / 3).all() | (along > least), -1, 1)
        fits[order] = -float(signs @ along), signs
    order = max(fits, key=lambda order: fits[order][0])
    fit, signs = fits[order]
    if fit < better:
        return None
    away = [axis for axis in range(3) if signs[axis] < 0]
    if order == (0, 1, 2):
        where = "" if len(away) == 3 else f" along {' and '.join('zyx'[axis] for axis in away)}"
        return f"points away from the middle of objects{where}: it must point towards it"
    # The name of a given channel is the component along the axis to which this order assigns it.
    names = ", ".join(_COMPONENTS[order.index(channel)] for channel in range(3))
    if away and not (steps[range(3), order] < -least).any():
        turned = ", negated"
    else:
        turned = f", {' and '.join(_COMPONENTS[axis] for axis in away)} negated" if away else ""
    return f"fits foreground better in the order ({names}){turned}: the channels of a class are its dz, dy, dx"


def _some(mask: NDArray[np.bool_], every: int) -> tuple[NDArray[np.int64], ...]:
    # Returns the indices of one in `every` voxels of a mask, spread over it.
    return np.unravel_index(np.flatnonzero(mask)[::every], mask.shape)


def _vectors(flow: NDArray[Any], at: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    z, y, x = at
    return flow[:, z, y, x].astype(np.float64)


def _steps(looks: Looks, every: int) -> tuple[NDArray[np.float64], float]:
    # Returns the median step of each component along each axis between foreground voxels, and the least convergence (a
    # sum of three steps) for a doubt.
    steps, least = np.zeros((3, 3)), _FIT
    for axis in range(3):
        found = []
        for mask, flow in looks:
            turned = np.moveaxis(mask, axis, 0)
            at = _some(np.moveaxis(turned[:-1] & turned[1:], 0, axis), every)
            beyond = [where + (k == axis) for k, where in enumerate(at)]
            found.append(_vectors(flow, beyond) - _vectors(flow, at))
        together = np.concatenate(found, axis=1)
        if n := together.shape[1]:
            steps[axis] = np.median(together, axis=1)
            least = max(least, max(_SPREAD, _ERRORS / n**0.5) * float(np.std(together, axis=1).max()))
    return steps, least
