"""Order-free sums: every real number that feeds a decision is added up as an integer.

A float sum depends on the order of its terms, hence on the blocks. Here a term is rounded once, by itself, to a
multiple of ``2**-FRACTION_BITS`` and then added in int64, which is exact and associative.
"""

import numpy as np

FRACTION_BITS = 24
SCALE = float(1 << FRACTION_BITS)
"""Units of a fixed-point number per 1.0; a power of two, so that scaling a float64 is exact."""

EXACT = float(1 << 53)
"""Largest magnitude up to which every integer is a float64 of its own: no sum may pass it."""


def check_exact(sums: np.ndarray, what: str) -> None:
    """Raise OverflowError when a fixed-point sum left the range in which it converts to float64 exactly.

    Parameters
    ----------
    sums : ndarray of int64
        Fixed-point sums.
    what : str
        Name of the quantity, for the message.
    """
    if sums.size and max(int(sums.max()), -int(sums.min())) > EXACT:
        raise OverflowError(
            f"{what}: a fixed-point sum exceeds 2**53 units of 2**-{FRACTION_BITS}; "
            "flow vectors are expected to be about one voxel long"
        )
