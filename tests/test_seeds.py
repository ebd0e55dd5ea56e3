"""Tables of seeds: labels do not depend on their bundles, and a task reads few of them, once."""

from collections import Counter
from typing import Any

import naive
import numpy as np
import pytest
import strategies as some
from blockwise import run_blocks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from topo_dask.plan import Recipe
from topo_dask.stages import seeds
from topo_dask.stages.job import Job
from topo_dask.stages.seeds import BOXES, SMALL, TABLE
from topo_dask.stages.stage import Stage
from topo_dask.stores.scratch import MemoryScratch

Shape = tuple[int, int, int]

SPLIT = Recipe(split=True)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_labels_do_not_depend_on_the_bundles(data: st.DataObject) -> None:
    labels, _ = data.draw(some.labelled_volumes(max_ids=4))
    block_shape, ratio = data.draw(some.block_shapes(labels.shape)), data.draw(st.sampled_from([0.1, 0.02, 0.3]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds, "PIECE", data.draw(st.integers(1, 4), label="rows of a bundle"))
        found = run_blocks(Recipe(split=True, min_fragment_ratio=ratio), block_shape, labels=labels)
    np.testing.assert_array_equal(found, naive.split_disconnected(labels, ratio))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_labels_of_orphans_do_not_depend_on_the_bundles(data: st.DataObject) -> None:
    labels, _ = data.draw(some.labelled_volumes(max_ids=4))
    block_shape, least = data.draw(some.block_shapes(labels.shape)), data.draw(st.integers(2, 9), label="min_size")
    kept, mask = naive.filter_small(labels, least), labels > 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds, "PIECE", data.draw(st.integers(1, 4), label="rows of a bundle"))
        found = run_blocks(Recipe(min_size=least, split=True, recover=True), block_shape, labels=labels)
    np.testing.assert_array_equal(found, naive.recover_orphans(naive.split_disconnected(kept, 0.1), mask))


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


def reads_of_tasks(
    monkeypatch: pytest.MonkeyPatch,
    labels: np.ndarray,
    block_shape: Shape,
    stage_name: str = "absorb",
    recipe: Recipe = SPLIT,
    scratch: MemoryScratch | None = None,
) -> dict[str, Counter[str]]:
    """How many bundles of each kind each task of a stage reads."""
    reads: dict[str, Counter[str]] = {}
    now: list[Any] = []
    work, get = Stage.work, MemoryScratch.get

    def count_work(stage: Stage, job: Job, key: str) -> None:
        if stage.name == stage_name:
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
        found = run_blocks(recipe, block_shape, labels=labels, scratch=scratch)
    np.testing.assert_array_equal(found > 0, labels > 0)
    sizes = np.unique(labels[labels > 0], return_counts=True)[1]
    assert found.max() == np.count_nonzero(sizes >= recipe.min_size)  # nothing stays split
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


def test_reads_of_a_task_with_orphans_do_not_grow_with_the_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "PIECE", 16)
    recipe, tasks = Recipe(min_size=2, split=True, recover=True), {}
    for side in (20, 40):
        labels = np.zeros((3, 4 * side, 4 * side), np.int32)
        labels[0] = 1
        labels[2, ::4, ::4] = np.arange(2, side * side + 2).reshape(side, side)  # an orphan in each block
        scratch = MemoryScratch()
        reads = reads_of_tasks(monkeypatch, labels, (3, 4, 4), "orphans", recipe, scratch)
        assert len(reads) == side * side
        assert max(len(scratch.get("survey", key)["lower"]) for key in scratch.keys("survey") - {BOXES}) == 16
        tasks[side] = Counter(counts["survey"] for counts in reads.values())
    assert max(tasks[20]) == max(tasks[40]) <= 10


def test_orphans_without_any_label_stay_without() -> None:
    labels = np.array([[[1, 0, 2, 0, 3]]], np.int32)
    recipe, scratch = Recipe(min_size=2, split=True, recover=True), MemoryScratch()
    assert not run_blocks(recipe, (1, 1, 2), labels=labels, scratch=scratch).any()
    assert scratch.keys("survey") == {BOXES}
