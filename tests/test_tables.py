"""Tables of all blocks as one, and the bundles they are read from, several at a time where a store takes its time."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from threading import Barrier, Lock
from typing import Any

import numpy as np
import pytest
from blockwise import run_blocks

from topo_dask.blocks.geometry import BlockGrid
from topo_dask.config import ClassConfig
from topo_dask.execute import Tick, serial
from topo_dask.plan import Recipe
from topo_dask.stages.job import Job, file_luts, read_columns
from topo_dask.stages.settle import index_rows
from topo_dask.stages.stage import Stage
from topo_dask.stores import retries
from topo_dask.stores.filed import FILED, listed
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


def test_only_the_arrays_that_are_asked_for_are_unpacked(tmp_path: Path) -> None:
    scratch = FileScratch(str(tmp_path))
    scratch.put("kind", "0.0.0", a=np.arange(3), b=np.arange(5), c=np.arange(7))
    (found,) = scratch.get_each("kind", ["0.0.0"], ("a", "c"))
    assert {name: len(array) for name, array in found.items()} == {"a": 3, "c": 7}


def must_come_together(patch: pytest.MonkeyPatch, does: str, kind: str) -> list[str]:
    """Have requests for bundles of a kind wait for each other, two by two; the keys of those that came."""
    together, real, came = Barrier(2, timeout=10), getattr(FileScratch, does), list[str]()

    def wait(self: FileScratch, of: str, key: str, *more: Any, **arrays: Any) -> Any:
        if of == kind:
            came.append(key)
            together.wait()  # broken, which is an error, where they come one by one
        return real(self, of, key, *more, **arrays)

    patch.setattr(FileScratch, does, wait)
    return came


@pytest.mark.parametrize(
    ("stage", "kind", "n"),
    [
        ("localise", "localise", 2),  # the census looks at those of blocks without voxels
        ("survey", "fragments.extents", 4),
        ("tabulate", "absorb", 8),  # twice each
        ("tabulate", "orphans", 8),
    ],
)
def test_what_goes_through_all_blocks_asks_for_several_at_a_time(
    stage: str, kind: str, n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "PAUSE_ABSENT", 0.0)
    came: list[list[str]] = []

    def serial_at_first(now: Stage, job: Job, keys: Sequence[str], tick: Tick) -> None:
        waits.undo()
        if now.name == stage and now.over is None:
            came.append(must_come_together(waits, "get", kind))
        serial(now, job, keys, tick)
        if now.name == stage and now.over is not None:
            came.append(must_come_together(waits, "get", kind))

    labels = np.zeros((1, 4, 48), np.int32)
    labels[0, 0, :32] = labels[0, 2, :32:8] = 1  # four blocks share an instance, and have a fragment of it
    labels[0, 2, 4:32:8] = 2, 3, 4, 5  # and an orphan
    recipe = Recipe(min_size=2, split=True, recover=True, table=True)
    scratch = FileScratch(f"memory://{tmp_path.name}-{kind}")
    with pytest.MonkeyPatch.context() as waits:
        found = run_blocks(recipe, (1, 4, 8), labels=labels, scratch=scratch, executor=serial_at_first)
    np.testing.assert_array_equal(found, labels > 0)
    assert [len(keys) for keys in came] == [n]


def test_rows_are_indexed_several_blocks_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scratch = FileScratch(f"memory://{tmp_path.name}")
    for key, part in product(KEYS, (2, 0)):
        scratch.put("rows", f"{key}@{part}")
    came = must_come_together(monkeypatch, "put", "rows.index")
    index_rows(Job("rows", GRID, ClassConfig(), scratch=scratch))
    assert sorted(came) == sorted(KEYS)
    assert all(bundle["parts"].tolist() == [0, 2] for bundle in scratch.get_each("rows.index", KEYS))


def test_that_there_are_no_bundles_is_believed_of_a_record_alone(tmp_path: Path) -> None:
    scratch = FileScratch(str(tmp_path))
    with pytest.raises(OSError, match=r"no bundles are found in .*/numbers, and no record that there are none"):
        listed(scratch, "numbers")
    scratch.put(FILED, "track", numbers=np.empty(0, np.uint8))
    assert listed(scratch, "numbers") == listed(MemoryScratch(), "numbers") == set()


def test_hidden_files_are_no_bundles(tmp_path: Path) -> None:
    scratch = FileScratch(str(tmp_path))
    scratch.put("numbers", "0.0.0")
    (tmp_path / "numbers" / ".nfs0000").touch()  # as network file systems leave of files that were removed while open
    assert scratch.keys("numbers") == {"0.0.0"}
