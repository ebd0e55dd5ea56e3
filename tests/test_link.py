"""Sink tables add up to the same table however many are taken at a time, and sinks are linked at the very radius."""

from collections import Counter
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topo_dask.kernels.linking import link_sinks
from topo_dask.stages import link
from topo_dask.stores.scratch import MemoryScratch

tables = st.lists(st.lists(st.integers(0, 30), unique=True, max_size=12), max_size=9)


@given(tables, st.integers(1, 12))
def test_tables_add_up_whatever_the_batch(cells: list[list[int]], batch: int) -> None:
    scratch = MemoryScratch()
    for at, ids in enumerate(cells):
        scratch.put(
            "track",
            str(at),
            ids=np.array(ids, np.int64),
            counts=np.array([i + at for i in ids], np.int64),
            sums=np.array([[i, -i, at] for i in ids], np.int64).reshape(-1, 3),
        )
    counts: Counter[int] = Counter()
    last: Counter[int] = Counter()
    for at, ids in enumerate(cells):
        for i in ids:
            counts[i] += i + at
            last[i] += at
    times = Counter(i for ids in cells for i in ids)
    with mock.patch.object(link, "BATCH_ROWS", batch):
        found = link.combine_sinks(scratch, [str(at) for at in range(len(cells))])
    assert found[0].tolist() == sorted(times)
    assert found[1].tolist() == [counts[i] for i in sorted(times)]
    assert found[2].tolist() == [[i * times[i], -i * times[i], last[i]] for i in sorted(times)]


@pytest.mark.parametrize(
    ("radius", "low", "high"),
    [
        (3.2, 25.599999999999998, 28.799999999999997),
        (6.7, 26.8, 33.5),
        (6.0956934985716344, 390.12438390858455, 396.22007740715617),
    ],
)
@pytest.mark.parametrize("axis", range(3))
def test_sinks_just_within_the_radius_are_found(axis: int, radius: float, low: float, high: float) -> None:
    # The radius is no whole number of bits: in cells of its very length another can come to lie between.
    assert (high - low) ** 2 < radius**2
    assert int(high * (1 / radius)) - int(low * (1 / radius)) == 2
    centres = np.ones((2, 3))
    centres[:, axis] = low, high
    assert link_sinks(centres, radius).tolist() == [0, 0]
