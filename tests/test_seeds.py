"""The table of seeds: labels do not depend on its bundles, and a task reads few of them, once."""

from collections import Counter
from typing import Any

import naive
import numpy as np
import pytest
import strategies as some
from blockwise import run_blocks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from topo_dask.plan import Recipe, Stage
from topo_dask.stages import seeds
from topo_dask.stages.job import Job
from topo_dask.stages.seeds import BOXES, SMALL, TABLE
from topo_dask.stores.scratch import MemoryScratch

Shape = tuple[int, int, int]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_labels_do_not_depend_on_the_bundles(data: st.DataObject) -> None:
    labels, _ = data.draw(some.labelled_volumes(max_ids=4))
    block_shape, ratio = data.draw(some.block_shapes(labels.shape)), data.draw(st.sampled_from([0.1, 0.02, 0.3]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds, "PIECE", data.draw(st.integers(1, 4), label="rows of a bundle"))
        found = run_blocks(Recipe(split=True, min_fragment_ratio=ratio), block_shape, labels=labels)
    np.testing.assert_array_equal(found, naive.split_disconnected(labels, ratio))


def filed(labels: np.ndarray, block_shape: Shape, ratio: float = 0.1) -> MemoryScratch:
    """Scratch after a run that splits labels."""
    scratch = MemoryScratch()
    run_blocks(Recipe(split=True, min_fragment_ratio=ratio), block_shape, labels=labels, scratch=scratch)
    return scratch


def test_a_row_is_the_box_of_large_fragments_in_a_block() -> None:
    labels = np.zeros((2, 3, 16), np.int32)
    labels[0, 0, 1:13] = labels[1, 2, 3:6] = 7  # two large fragments
    labels[1, 2, [0, 15]] = 7
    labels[0, 2, 9:14] = 5  # one fragment alone has no row
    labels[1, :2, 11:15] = labels[1, 0, 9] = 4
    scratch = MemoryScratch()
    run_blocks(Recipe(split=True, min_fragment_ratio=0.23), (2, 3, 8), labels=labels, scratch=scratch)
    assert scratch.keys(TABLE) == {"0", BOXES}
    table = scratch.get(TABLE, "0")
    assert table["lower"].tolist() == [[0, 0, 1], [0, 0, 8], [1, 0, 11]]  # that of 7 begins in the first block
    assert table["upper"].tolist() == [[2, 3, 8], [1, 1, 13], [2, 2, 15]]
    of_7 = {"ids": [3], "begins": [0], "ends": [2], "lowest": [3], "highest": [4]}
    of_both = {"ids": [3, 1], "begins": [0, 2], "ends": [2, 3], "lowest": [3, 1], "highest": [4, 1]}
    for key, expected in (("0.0.0", of_7), ("0.0.1", of_both)):
        assert {name: column.tolist() for name, column in scratch.get(SMALL, key).items()} == expected


# ------------------------------------------------------------ effort


def reads_of_tasks(monkeypatch: pytest.MonkeyPatch, labels: np.ndarray, block_shape: Shape) -> dict[str, Counter[str]]:
    """How many bundles of each kind each task of `absorb` reads."""
    reads: dict[str, Counter[str]] = {}
    now: list[Any] = []
    work, get = Stage.work, MemoryScratch.get

    def count_work(stage: Stage, job: Job, key: str) -> None:
        if stage.name == "absorb":
            now.append(reads.setdefault(key, Counter()))
        work(stage, job, key)
        now.clear()

    def count_get(scratch: MemoryScratch, kind: str, key: str) -> Any:
        for counter in now:
            counter[kind] += 1
        return get(scratch, kind, key)

    with monkeypatch.context() as patch:
        patch.setattr(Stage, "work", count_work)
        patch.setattr(MemoryScratch, "get", count_get)
        found = run_blocks(Recipe(split=True), block_shape, labels=labels)
    np.testing.assert_array_equal(found > 0, labels > 0)
    assert found.max() == labels.max()  # nothing stays split
    return reads


def bars_across_a_face(n: int) -> np.ndarray:
    """Bars 1..n along x from one block of 16 voxels into the next, each with a loose voxel in either."""
    labels = np.zeros((1, 64, 32), np.int32)
    rows = np.arange(n)
    labels[0, rows[:, None], [3, *range(6, 26), 28]] = rows[:, None] + 1
    return labels


def test_reads_of_a_task_do_not_grow_with_the_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (reads_of_tasks(monkeypatch, bars_across_a_face(n), (1, 64, 16)) for n in (2, 64))
    assert few == many
    assert set(few) == {"0.0.0", "0.0.1"}
    for counts in few.values():
        assert counts == {"fragments": 1, "split": 1, "fragments.ids": 1, SMALL: 1, TABLE: 1}


def test_instances_of_a_block_are_in_one_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "PIECE", 16)
    labels = np.zeros((1, 16, 4, 32), np.int32)
    labels[..., [*range(3, 23), 30]] = np.arange(1, 65).reshape(1, 16, 4, 1)  # in every row of voxels, one a block
    reads = reads_of_tasks(monkeypatch, labels.reshape(1, 16, 128), (1, 16, 32))
    assert [counts[TABLE] for counts in reads.values()] == [1] * 4


def test_reads_of_a_task_do_not_grow_with_its_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "PIECE", 16)
    tasks = {}
    for side in (20, 40):
        labels = np.zeros((3, 4 * side, 4 * side), np.int32)
        labels[0] = labels[2, ::4, ::4] = 1  # a plane through side * side blocks, and a loose voxel in each
        reads = reads_of_tasks(monkeypatch, labels, (3, 4, 4))
        assert len(reads) == side * side
        tasks[side] = Counter(counts[TABLE] for counts in reads.values())
    assert max(tasks[20]) == max(tasks[40]) <= 10  # the boxes, and at most 3 x 3 bundles of 4 x 4 blocks
