"""Values numbered in the order in which they first occur, as a dictionary does."""

import numpy as np
import pytest

from topo_dask.kernels.hashing import number_values

FIRST_KEYS = 256
"""Room for keys in a new table; a full one doubles."""


@pytest.mark.parametrize("n", [0, 1, FIRST_KEYS, FIRST_KEYS + 1, 2 * FIRST_KEYS, 2 * FIRST_KEYS + 1, 5000])
@pytest.mark.parametrize("spread", [1, 1 << 32, 0x3C6EF372FE94F82B], ids=["dense", "high bits only", "all bits"])
def test_values_are_numbered_as_they_first_occur(spread: int, n: int) -> None:
    rng = np.random.default_rng(n)
    distinct = (np.arange(n) - n // 2) * spread  # may wrap around: they stay different
    runs = np.repeat(rng.permutation(np.concatenate((distinct, distinct))), rng.integers(1, 4, 2 * n))
    for values in (distinct, runs, np.concatenate((runs, runs[:1]))):
        seen: dict[int, int] = {}
        expected = [seen.setdefault(value, len(seen) + 1) for value in values.tolist()]
        keys, numbers = number_values(values)
        assert (keys.dtype, numbers.dtype) == (np.int64, np.uint32)
        assert keys.tolist() == list(seen)
        assert numbers.tolist() == expected
