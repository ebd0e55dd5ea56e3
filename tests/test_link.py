"""Sink tables add up to the same table however many are taken at a time."""

from collections import Counter
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

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
