"""Order-free sums: real numbers whose sum feeds a decision are added up as integers.

A float sum depends on the order of its terms, hence on the blocks. Here a term is rounded once, by itself, to a
multiple of ``2**-FRACTION_BITS`` and then added in int64, which is exact and associative.
"""

import numpy as np
from numpy.typing import NDArray

FRACTION_BITS = 24
SCALE = float(1 << FRACTION_BITS)
"""Units of a fixed-point number per 1.0; a power of two, so that scaling a float64 is exact."""

EXACT = float(1 << 53)
"""Up to this magnitude every integer has an exact float64."""

MAX_SUM = 1 << 62
"""Largest magnitude of a sum, which is 2**38 in whole units. Two of them add up to 2**63 at most, which wraps around to
-2**63: its magnitude is out of range too."""


def check_sums(sums: NDArray[np.int64] | NDArray[np.float64], what: str, remedy: str) -> None:
    """Raise OverflowError when a fixed-point sum has passed `MAX_SUM`.

    Parameters
    ----------
    sums : ndarray of int64 or float64
        Fixed-point sums, each of two numbers within `MAX_SUM`.
    what, remedy : str
        Name of the quantity, and what to do about it, for the message.

    Examples
    --------
    >>> check_sums(np.array([0, -MAX_SUM - 1]), "flow error", "shorten the flow")
    Traceback (most recent call last):
        ...
    OverflowError: flow error: a sum of 274877906944 exceeds 2**38, the range of fixed-point sums; shorten the flow
    """
    # Python's integers: the opposite of the least int64 is not an int64.
    largest = max(int(sums.max(initial=0)), -int(sums.min(initial=0)))
    if largest > MAX_SUM:
        raise OverflowError(
            f"{what}: a sum of {largest >> FRACTION_BITS} exceeds 2**{62 - FRACTION_BITS}, "
            f"the range of fixed-point sums; {remedy}"
        )


def add_sums(
    sums: NDArray[np.int64], rows: NDArray[np.integer], terms: NDArray[np.int64], what: str, remedy: str
) -> None:
    """Add fixed-point sums to some rows, in place; OverflowError when one passes `MAX_SUM`.

    Parameters
    ----------
    sums : ndarray of int64, shape (S, ...)
        Sums that are changed.
    rows : ndarray of int, shape (N,)
        Rows of `sums`, each at most once.
    terms : ndarray of int64, shape (N, ...)
        Sums to add to these rows.
    what, remedy : str
        See `check_sums`.

    Examples
    --------
    >>> sums = np.array([5, 7, 9])
    >>> add_sums(sums, np.array([2, 0]), np.array([10, 20]), "flow error", "shorten the flow")
    >>> sums
    array([25,  7, 19])
    """
    added = sums[rows]
    added += terms
    check_sums(added, what, remedy)
    sums[rows] = added


def check_exact(sums: NDArray[np.int64] | NDArray[np.float64], what: str) -> None:
    """Raise OverflowError when a fixed-point sum left the range in which it converts to float64 exactly.

    Parameters
    ----------
    sums : ndarray of int64 or float64
        Fixed-point sums.
    what : str
        Name of the quantity, for the message.
    """
    largest = max(int(sums.max()), -int(sums.min())) if sums.size else 0
    if largest > EXACT:
        raise OverflowError(
            f"{what}: a fixed-point sum of {largest} exceeds 2**53 units of 2**-{FRACTION_BITS}; "
            "flow vectors are expected to be about one voxel long, and a contact to have at most 2**29 faces"
        )
