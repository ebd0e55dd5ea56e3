"""Several lazy arrays computed at once in one process: they take turns, and nobody waits for ever."""

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr

import topo_dask
from topo_dask import surroundings
from topo_dask.lazy import jobs as lazy_jobs
from topo_dask.stages.job import Job
from topo_dask.stages.stage import Stage
from topo_dask.workers import Resources

SHAPE, BLOCK = (16, 16, 16), (8, 8, 8)
NAMES = ["a", "b", "c", "d"]
CONFIG = {name: {"group": 2, "n_steps": 40, "min_size": 2} for name in NAMES}
SEMANTIC = np.ones((len(NAMES), *SHAPE), np.float32)
FLOW = np.random.default_rng(0).normal(-0.4, 0.2, (3 * len(NAMES), *SHAPE)).astype(np.float32)  # far out of a block
EXPECTED = topo_dask.run_instance_segmentation(SEMANTIC, FLOW, NAMES, CONFIG)


def segmented(flow: np.ndarray = FLOW) -> dict[str, Any]:
    """Lazy labels of all classes from stored arrays."""
    stored = (zarr.create_array({}, data=array, chunks=(3, *BLOCK)) for array in (SEMANTIC, flow))
    return topo_dask.run_instance_segmentation(*stored, NAMES, CONFIG, block_shape=BLOCK, halo=1)


def check(found: Any) -> None:
    for name, labels in zip(NAMES, found, strict=True):
        np.testing.assert_array_equal(labels, EXPECTED[name])


def on_task(monkeypatch: pytest.MonkeyPatch, note: Callable[[Job], None]) -> None:
    """Have a function called at the beginning of each task."""
    real = Stage.run

    def noting(stage: Stage, job: Job, key: str) -> None:
        note(job)
        real(stage, job, key)

    monkeypatch.setattr(Stage, "run", noting)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Job]:
    """Jobs by class, as they are made."""
    made: dict[str, Job] = {}
    make = lazy_jobs.make_job
    monkeypatch.setattr(lazy_jobs, "make_job", lambda spec, stored: made.setdefault(spec.name, make(spec, stored)))
    return made


def kept_by(job: Job) -> int:
    """Bytes of the flow that are kept."""
    flow: Any = job.flow
    return sum(page.vectors.nbytes for page in list(flow.pages._kept.values())) + flow.source.array._kept.nbytes


def test_classes_take_turns_and_keep_no_flow_when_theirs_is_over(
    jobs: dict[str, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work: list[str] = []
    kept: list[tuple[bool, int]] = []

    def note(job: Job) -> None:
        time.sleep(0.002)  # others would come in between
        at_work.append(job.name)
        kept.extend((name == job.name, kept_by(other)) for name, other in list(jobs.items()))

    on_task(monkeypatch, note)
    with dask.config.set(scheduler="threads", num_workers=4):
        check(dask.compute(*segmented().values()))
    turns = [name for i, name in enumerate(at_work) if i == 0 or at_work[i - 1] != name]
    assert sorted(turns) == NAMES
    assert max(nbytes for own, nbytes in kept if own) > 0
    assert max(nbytes for own, nbytes in kept if not own) == 0


@pytest.mark.parametrize("num_workers", [1, 3])
def test_a_lazy_array_of_lazy_arrays_does_not_wait_for_itself(num_workers: int) -> None:
    def in_a_task(block: np.ndarray, labels: Any) -> np.ndarray:
        return block + labels.value.compute()

    def again(labels: Any) -> Any:
        return topo_dask.compact_relabel(topo_dask.filter_small(labels, 1, block_shape=BLOCK), block_shape=BLOCK)

    with dask.config.set(scheduler="threads", num_workers=num_workers):
        check(dask.compute(*(again(labels) for labels in segmented().values())))
        zeros = da.zeros(SHAPE, chunks=SHAPE, dtype=np.int32)
        inner = [zeros.map_blocks(in_a_task, Held(labels), dtype=np.int32) for labels in segmented().values()]
        check(dask.compute(*(again(labels) for labels in inner)))


class Held:
    """Keeps a lazy array from being computed with the graph that it is in."""

    def __init__(self, value: Any) -> None:
        self.value = value


def test_a_lazy_array_keeps_an_eighth_of_the_memory_at_most(
    jobs: dict[str, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy_jobs, "resources", lambda _: Resources(1, 1, 64 << 20))
    segmented()["a"].blocks[0, 0, 0].compute()
    flow: Any = jobs["a"].flow
    assert (flow.pages._allowed_mem, flow.source.array._allowed_mem) == (4 << 20, 4 << 20)


def test_flow_that_was_kept_for_tracking_is_freed_for_other_stages(
    jobs: dict[str, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[bool, int]] = []
    real = Stage.work

    def noting(stage: Stage, job: Job, key: str) -> None:
        kept.append((stage.moves, kept_by(job)))
        real(stage, job, key)

    monkeypatch.setattr(Stage, "work", noting)
    np.testing.assert_array_equal(segmented()["a"].compute(), EXPECTED["a"])
    assert max(nbytes for moves, nbytes in kept if moves) > 0
    assert max(nbytes for moves, nbytes in kept if not moves) == 0


def test_blocks_are_looked_up_without_flow_that_was_kept_for_tracking(jobs: dict[str, Job]) -> None:
    # Of the workers that track, most do nothing else before blocks are asked for.
    mask, flow = (zarr.create_array({}, data=array) for array in (SEMANTIC[0] > 0, FLOW[:3]))
    rows = topo_dask.track_flows(mask, flow, 40, block_shape=BLOCK)
    for name, blocks in (("a", segmented()["a"].blocks), ("", rows[1].blocks)):
        for index in (0, 1):
            if jobs.get(name):
                vectors: Any = jobs[name].flow
                vectors.page(jobs[name].grid.block((0, 0, 0)).read)
                assert kept_by(jobs[name]) > 0
            blocks[index].compute()
            assert kept_by(jobs[name]) == 0


def test_an_error_in_one_ends_its_turn_and_what_it_keeps(jobs: dict[str, Job], monkeypatch: pytest.MonkeyPatch) -> None:
    flow, kept = FLOW.copy(), list[int]()
    flow[4, 14, 14, 14] = np.nan  # in the last block
    lazy = segmented(flow)
    on_task(monkeypatch, lambda job: kept.append(kept_by(job)) if job.name == "b" else None)
    with dask.config.set(scheduler="threads", num_workers=4):
        with pytest.raises(ValueError, match=r"not finite at voxel \(14, 14, 14\)"):
            dask.compute(*lazy.values())
        assert max(kept) > 0
        assert kept_by(jobs["b"]) == 0
        for name in ("a", "c", "d"):
            np.testing.assert_array_equal(lazy[name].compute(), EXPECTED[name])
        with pytest.raises(ValueError, match="not finite"):
            lazy["b"].compute()


def test_who_finds_all_done_does_not_wait() -> None:
    lazy = segmented()["a"]
    with dask.config.set(scheduler="threads"):
        lazy.blocks[0, 0, 0].compute()
        with surroundings.turn():
            np.testing.assert_array_equal(lazy.compute(), EXPECTED["a"])


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_a_turn_needs_no_thread_of_a_pool_where_others_may_wait(
    scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    on_task(monkeypatch, lambda job: seen.add(threading.current_thread().name))
    with ThreadPoolExecutor(2, "configured") as pool, dask.config.set(pool=pool):
        check(dask.compute(*segmented().values(), scheduler=scheduler))
    assert seen
    assert not [name for name in seen if name.startswith("configured")]


def test_children_compute_their_own_at_once(tmp_path: Path) -> None:
    with dask.config.set({"scheduler": "processes", "num_workers": 2}), surroundings.turn():
        stored = (
            zarr.create_array(tmp_path / name, data=array, chunks=(3, *BLOCK))
            for name, array in (("s", SEMANTIC[:2]), ("f", FLOW[:6]))
        )
        lazy = topo_dask.run_instance_segmentation(
            *stored, NAMES[:2], {name: CONFIG[name] for name in NAMES[:2]}, scratch=str(tmp_path / "scratch")
        )
        for name, labels in zip(lazy, dask.compute(*lazy.values()), strict=True):
            np.testing.assert_array_equal(labels, EXPECTED[name])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_turn_of_the_parent_is_none_in_a_forked_child() -> None:
    with surroundings.turn():
        if (child := os.fork()) == 0:
            os._exit(not surroundings._TURN.lock.acquire(blocking=False))
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_what_the_parent_is_computing_may_be_computed_in_a_forked_child(tmp_path: Path) -> None:
    stored = [
        zarr.create_array(tmp_path / name, data=array, chunks=(3, *BLOCK))
        for name, array in (("s", SEMANTIC[:1] > 0), ("f", FLOW[:3]))
    ]
    mask = da.from_zarr(stored[0])[0].map_blocks(wait_in, os.getpid(), dtype=bool, meta=np.empty((0,) * 3, bool))
    lazy = topo_dask.postprocess_single(mask, stored[1], 40, min_size=2, scratch=tmp_path / "scratch")
    expected = topo_dask.postprocess_single(SEMANTIC[0] > 0, FLOW[:3], 40, min_size=2)
    found: list[Any] = []
    parent = threading.Thread(target=lambda: found.append(lazy.compute()))
    with dask.config.set(scheduler="synchronous"):
        parent.start()
        _COMPUTING.wait(60)
        if (child := os.fork()) == 0:
            faulthandler.dump_traceback_later(15, exit=True)
            os._exit(not np.array_equal(lazy.compute(), expected))
        status = os.waitpid(child, 0)[1]
        _GO_ON.set()
        parent.join()
    assert status == 0
    np.testing.assert_array_equal(found[0], expected)


_COMPUTING, _GO_ON = threading.Event(), threading.Event()


def wait_in(block: np.ndarray, process: int) -> np.ndarray:
    if os.getpid() == process:
        _COMPUTING.set()
        _GO_ON.wait(60)
    return block
