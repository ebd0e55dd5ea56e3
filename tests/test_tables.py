"""Tables of all blocks as one, and the bundles they are read from, several at a time where a store takes its time."""

from pathlib import Path
from threading import Barrier, Lock
from typing import Any

import numpy as np
import pytest

from topo_dask.blocks.geometry import BlockGrid
from topo_dask.config import ClassConfig
from topo_dask.stages.job import Job, file_luts, read_columns
from topo_dask.stores.scratch import FileScratch, MemoryScratch, Scratch

GRID = BlockGrid((3, 4, 5), (1, 1, 1))
KEYS = [block.key for block in GRID]


@pytest.fixture(params=["memory", "folder", "store"])
def scratch(request: pytest.FixtureRequest, tmp_path: Path) -> Scratch:
    if request.param == "memory":
        return MemoryScratch()
    return FileScratch(str(tmp_path) if request.param == "folder" else f"memory://{tmp_path.name}")


def test_rows_of_all_blocks_are_read_in_their_order_and_given_back(scratch: Scratch) -> None:
    rng = np.random.default_rng(0)
    tables = {key: rng.integers(0, 99, rng.integers(0, 5)) for key in KEYS}
    for key in reversed(KEYS):
        scratch.put("numbers", key)
        scratch.put("table", key, ids=tables[key])
    job = Job("rows", GRID, ClassConfig(), scratch=scratch)
    rows, (ids,) = read_columns(job, "table", ("ids",))
    assert [block.key for block, _ in rows] == KEYS
    np.testing.assert_array_equal(ids, np.concatenate([tables[key] for key in KEYS]))
    file_luts(job, "lut", rows, (2 * ids).astype(np.int32))
    assert all((scratch.get("lut", key)["lut"] == 2 * tables[key]).all() for key in KEYS)


@pytest.mark.parametrize("does", ["get", "put"])
def test_a_store_that_is_not_local_is_asked_for_several_bundles_at_a_time(
    does: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, together, at_work, most = FileScratch(f"memory://{tmp_path.name}"), Barrier(4, timeout=30), Lock(), [0, 0]
    real = getattr(FileScratch, does)

    def slow(self: FileScratch, *arguments: Any, **arrays: Any) -> Any:
        with at_work:
            most[0] += 1
            most[1] = max(most)
        together.wait()  # broken, which is an error, where they come one by one
        with at_work:
            most[0] -= 1
        return real(self, *arguments, **arrays)

    keys = [str(i) for i in range(40)]
    bundles = [(key, {"a": np.full(1, int(key))}) for key in keys]
    if does == "put":
        monkeypatch.setattr(FileScratch, does, slow)
        scratch.put_each("kind", bundles)
        monkeypatch.undo()
    else:
        for key, arrays in bundles:
            scratch.put("kind", key, **arrays)
        monkeypatch.setattr(FileScratch, does, slow)
    assert [int(bundle["a"][0]) for bundle in scratch.get_each("kind", keys)] == list(range(40))
    assert 4 <= most[1] <= 16
