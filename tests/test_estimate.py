"""The estimate of a run's time: which blocks are timed, and that nothing is left behind or changed."""

import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from distributed import Client

from topo_dask import estimate, workers
from topo_dask.admission import RunPlan, plan_volume
from topo_dask.blocks.geometry import BlockGrid, Box
from topo_dask.stores.checked import CheckedArray
from topo_dask.stores.pyramids import Version
from topo_dask.synthetic import blobs
from topo_dask.targets import direct_flow


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> RunPlan:
    folder = tmp_path_factory.mktemp("inputs")
    truth = np.tile(blobs((16, 16, 16), 1, seed=0, radius=(4.0, 6.0), margin=1), (2, 2, 3))
    truth[:, :, 32:] = 0
    semantic = zarr.create_array(folder / "s.zarr", data=(truth > 0)[None].astype("u1"), chunks=(1, 16, 16, 16))
    flow = zarr.create_array(
        folder / "f.zarr", data=direct_flow(truth), chunks=(3, 16, 16, 16), config={"write_empty_chunks": True}
    )
    return plan_volume(semantic, flow, class_names=["ves"], resolution_nm=8, block_shape=(16, 16, 16))


def test_stored_blocks_are_timed_and_nothing_is_left(
    plan: RunPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = estimate.estimate_run(plan)
    assert (found.blocks, found.sample_blocks) == (8, 8)
    assert found.seconds > 0
    assert found.sample_seconds > 0
    assert not list(tmp_path.iterdir())


def test_the_sample_is_copied_as_it_is_and_some_chunks_at_a_time(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((6, 66, 70, 64), "f4")
    flow = CheckedArray(zarr.create_array(tmp_path / "flow", data=values, chunks=(3, 16, 16, 16)), "flow")
    box = Box((5, 10, 0), (66, 70, 60))
    tracemalloc.start()
    try:
        copy = estimate._copy(flow, box, tmp_path / "copy")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < copy.nbytes / 3
    np.testing.assert_array_equal(copy[:], values[:, *box.slices])


@pytest.mark.parametrize("version", ["0.4", "0.5", None])
def test_the_sample_is_written_in_the_format_of_the_run(
    plan: RunPlan, version: Version | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    monkeypatch.setattr(estimate, "segment_volume", lambda *_, ome_zarr, **__: written.append(ome_zarr))
    inputs = plan.semantic.array, plan.flow.array
    asked = plan_volume(*inputs, class_names=["ves"], resolution_nm=8, block_shape=(16, 16, 16), ome_zarr=version)
    estimate.estimate_run(asked)
    assert set(written) == {version}


def test_the_sample_may_take_the_memory_of_the_run(plan: RunPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "machine_memory", lambda: 401 << 20)  # what it may take by default is too little
    how = {"class_names": ["ves"], "resolution_nm": 8, "block_shape": (32, 32, 48), "halo": 16}
    inputs = plan.semantic.array, plan.flow.array
    with pytest.raises(MemoryError):
        plan_volume(*inputs, **how)
    assert estimate.estimate_run(plan_volume(*inputs, **how, memory_limit="1GiB")).seconds > 0


def test_a_temporary_folder_that_workers_do_not_share_is_refused_before_the_copy(
    plan: RunPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unshared").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "unshared"))  # the remedy is one that works
    monkeypatch.setattr(estimate, "_copy", lambda *_: pytest.fail("copied"))
    monkeypatch.setattr(workers, "_probe", lambda *_: False)  # as on another machine
    message = r"scratch .*/unshared/topo_dask-estimate-.* reached by 1 workers, .*: set TMPDIR to a folder that all wo"
    with (
        Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0"),
        pytest.raises(OSError, match=message),
    ):
        estimate.estimate_run(plan)
    assert not list((tmp_path / "unshared").glob("topo_dask*"))


def test_a_volume_without_foreground_takes_no_time(tmp_path: Path) -> None:
    semantic = zarr.create_array(tmp_path / "s.zarr", shape=(1, 8, 8, 8), chunks=(1, 8, 8, 8), dtype="u1")
    flow = zarr.create_array(tmp_path / "f.zarr", shape=(3, 8, 8, 8), chunks=(3, 8, 8, 8), dtype="f4")
    found = estimate.estimate_run(plan_volume(semantic, flow, class_names=["ves"], resolution_nm=8))
    assert found == estimate.Estimate(0.0, 0, 0, 0.0)


def test_the_sample_is_where_most_blocks_are_stored() -> None:
    grid = BlockGrid((8, 8, 40), (4, 4, 4))
    ids = {(0, 0, 0), (0, 0, 6), (0, 1, 6), (1, 0, 7)}
    assert estimate._choose(grid, ids) == Box((0, 0, 24), (8, 8, 32))


def test_blocks_touch_a_box_if_they_share_voxels_with_it() -> None:
    grid = BlockGrid((8, 8, 40), (4, 4, 4))
    assert [block.key for block in grid.touching(Box((0, 3, 24), (4, 5, 32)))] == ["0.0.6", "0.0.7", "0.1.6", "0.1.7"]
    assert not list(grid.touching(Box((2, 0, 0), (2, 8, 40))))


def test_large_blocks_are_timed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "SAMPLE_VOXELS", 64)
    grid = BlockGrid((8, 8, 40), (4, 4, 4))
    assert estimate._choose(grid, {(1, 1, 2)}) == Box((4, 4, 8), (8, 8, 12))


@pytest.mark.parametrize(
    ("blocks", "slots", "expected"),
    [
        ((80, 8), 4, 0.4 + 10 * 0.4 + 5 * 0.2),
        ((8, 8), 4, 1.0),
        ((80, 8), 16, 0.4 + 5 * 0.4 + 2 * 0.2),
        ((9, 8), 4, 0.4 + 1.5 * 0.4 + 0.2),
    ],
    ids=["10 times the tasks", "the sample is all", "the sample leaves workers idle", "a round is never done in part"],
)
def test_passes_are_scaled_by_rounds_and_the_rest_is_not(blocks: tuple[int, int], slots: int, expected: float) -> None:
    passes = [estimate.Pass(8, 0.4), estimate.Pass(2, 0.2)]  # on 4 slots two rounds, and one of which half is idle
    assert estimate._scale(1.0, passes, blocks, slots) == pytest.approx(expected)


def test_the_passes_of_the_faster_run_of_the_sample_are_scaled(plan: RunPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    real, runs, scaled = estimate._time, [], []

    def timed(*arguments: Any) -> tuple[float, list[estimate.Pass]]:
        runs.append(([90.0, 2.0, 3.0][len(runs)], real(*arguments)[1]))
        return runs[-1]

    monkeypatch.setattr(estimate, "_time", timed)
    monkeypatch.setattr(estimate, "_scale", lambda *arguments: (scaled.append(arguments), 7.0)[1])
    monkeypatch.setattr(estimate, "resources", lambda _: (3, 2, 1 << 30))
    found = estimate.estimate_run(plan)
    assert (found.seconds, found.sample_seconds) == (7.0, 2.0)
    assert scaled == [(2.0, runs[1][1], (8, 8), 6)]
    stages = [stage for stage in (*plan.plans["ves"].stages, *plan.plans["ves"].writers) if stage.over is not None]
    assert [tasks for tasks, _ in runs[1][1]] == [8] * len(stages)
    assert sum(seconds for _, seconds in runs[1][1]) > 0
