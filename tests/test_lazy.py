"""Lazy arrays: the same bits as in memory, no work on building, global stages once."""

from typing import Any

import dask
import dask.array as da
import naive
import numpy as np
import pytest
import strategies as some
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import topo_dask
from topo_dask.execute import run
from topo_dask.stages import track as track_stage

contract = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


def blobs(shape: tuple[int, int, int] = (20, 30, 25)) -> tuple[np.ndarray, np.ndarray]:
    """Two boxes and the flow to their middles, with some noise."""
    rng = np.random.default_rng(3)
    mask = np.zeros(shape, bool)
    flow = rng.normal(0, 0.3, (3, *shape)).astype(np.float32)
    for box in (np.s_[2:12, 3:20, 2:9], np.s_[9:19, 12:29, 12:24]):
        mask[box] = True
        middle = [(s.start + s.stop - 1) / 2 for s in box]
        to_middle = np.array(middle)[:, None, None, None] - np.mgrid[box]
        flow[(slice(None), *box)] += to_middle / np.maximum(np.linalg.norm(to_middle, axis=0), 1)
    return mask, flow


def deny(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("a lazy array was computed while it was built")


@contract
@given(st.data())
def test_lazy_equals_naive_whatever_the_chunks(data: st.DataObject) -> None:
    mask, flow = data.draw(some.volumes())
    parameters = data.draw(some.parameters())
    chunks = data.draw(some.chunkings(mask.shape))
    lazy = topo_dask.postprocess_single(
        da.from_array(mask, chunks=chunks),
        da.from_array(flow, chunks=((1, 2), *data.draw(some.chunkings(mask.shape)))),
        **parameters,
        block_shape=data.draw(st.none() | some.block_shapes(mask.shape)),
        halo=data.draw(some.halos(mask.shape)),
    )
    assert lazy.dtype == np.int32
    assert lazy.shape == mask.shape
    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_array_equal(lazy.compute(), naive.postprocess_single(mask, flow, **parameters))


@contract
@given(st.data())
def test_lazy_tracking_and_clustering_equal_naive(data: st.DataObject) -> None:
    mask, flow = data.draw(some.volumes())
    block_shape = data.draw(some.block_shapes(mask.shape))
    expected = naive.track_flows(mask, flow, 7, 1.0)
    with dask.config.set(scheduler="synchronous"):
        coords, ends = topo_dask.track_flows(da.from_array(mask), da.from_array(flow), 7, block_shape=block_shape)
        np.testing.assert_array_equal(coords.compute(), expected[0])
        np.testing.assert_array_equal(ends.compute(), expected[1])
        labels = topo_dask.cluster_convergence(coords, ends, mask.shape, 2.7, 2, block_shape=block_shape)
        np.testing.assert_array_equal(labels.compute(), naive.cluster_convergence(*expected, mask.shape, 2.7, 2))


@pytest.mark.parametrize(
    ("name", "arguments", "with_flow"),
    [
        ("compact_relabel", (), False),
        ("filter_small", (20,), False),
        ("split_disconnected", (0.2,), False),
        ("merge_adjacent", (0.1,), True),
        ("agglomerate", (0.1,), True),
        ("remove_bad_flow_masks", (0.3,), True),
    ],
)
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16, np.uint32, np.uint64])
def test_label_functions_take_dask_and_zarr(name: str, arguments: tuple, with_flow: bool, dtype: type) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.integers(0, 4, (3, 4, 3)).repeat(4, 0).repeat(4, 1).repeat(4, 2) * 900).astype(dtype)
    if np.dtype(dtype).itemsize == 8:
        labels *= dtype(2**40)
    flow = rng.normal(size=(3, *labels.shape)).astype(np.float32)
    function = getattr(topo_dask, name)
    extra = (flow, *arguments) if with_flow else arguments
    expected = function(labels, *extra)
    np.testing.assert_array_equal(expected, getattr(naive, name)(labels, *extra))
    stored = zarr.create_array({}, data=labels, chunks=(5, 5, 5))
    for given_labels in (da.from_array(labels, chunks=(5, 7, 12)), stored):
        lazy_extra = (da.from_array(flow, chunks=4), *arguments) if with_flow else arguments
        lazy = function(given_labels, *lazy_extra, block_shape=(5, 6, 7))
        assert isinstance(lazy, da.Array)
        assert lazy.chunks[2] == (7, 5)
        np.testing.assert_array_equal(lazy.compute(), expected)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_every_local_scheduler_gives_the_same_bits(scheduler: str, tmp_path: Any) -> None:
    mask, flow = blobs()
    arguments = {"convergence_radius": 3.0, "min_size": 4, "group": 3, "flow_error_threshold": 0.3}
    expected = topo_dask.postprocess_single(mask, flow, 60, **arguments)
    assert expected.max() >= 2
    with dask.config.set(scheduler=scheduler):
        lazy = topo_dask.postprocess_single(
            da.from_array(mask, chunks=9), da.from_array(flow, chunks=10), 60, **arguments, scratch=str(tmp_path)
        )
        assert lazy.chunks == da.from_array(mask, chunks=9).chunks
        np.testing.assert_array_equal(lazy.compute(), expected)


def test_building_computes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mask, flow = blobs()
    lazy_mask = da.from_array(mask, chunks=9).map_blocks(deny, dtype=bool, meta=np.empty((0, 0, 0), bool))
    monkeypatch.setattr(dask, "compute", deny)
    monkeypatch.setattr("topo_dask.lazy.run", deny)
    topo_dask.postprocess_single(lazy_mask, da.from_array(flow))
    topo_dask.track_flows(lazy_mask, da.from_array(flow), 5)
    topo_dask.run_instance_segmentation(lazy_mask[None].astype(float), da.from_array(flow), ["x"], {"x": {"group": 1}})


def test_global_stages_run_once_and_blocks_on_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    mask, flow = blobs()
    stages: list[str] = []
    lookups: list[tuple] = []

    def counting(job: Any, some_stages: Any, *rest: Any) -> None:
        for stage in some_stages:
            stages.extend(stage.name for _ in stage.keys(job))
        run(job, some_stages, *rest)

    real = topo_dask.lazy.final_labels
    monkeypatch.setattr("topo_dask.lazy.run", counting)
    monkeypatch.setattr("topo_dask.lazy.final_labels", lambda job, key, *a: lookups.append(key) or real(job, key, *a))
    with dask.config.set(scheduler="synchronous"):
        lazy = topo_dask.postprocess_single(da.from_array(mask), da.from_array(flow), block_shape=(10, 10, 10))
        lazy.blocks[1, 1, 1].compute()
        assert stages.count("link") == 1
        assert stages.count("track") == 18
        assert lookups == ["1.1.1"]
        n = len(stages)
        lazy.blocks[0, 0, 0].compute()
    assert stages.count("link") == 1
    assert len(stages) <= n + 3  # stages not begun when the first look was taken
    assert lookups == ["1.1.1", "0.0.0"]


def test_a_block_is_read_once_for_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    mask, flow = blobs()
    seen: list[str] = []
    real = track_stage.end_points
    monkeypatch.setattr(track_stage, "end_points", lambda job, block, m: seen.append(block.key) or real(job, block, m))
    with dask.config.set(scheduler="synchronous"):
        topo_dask.postprocess_single(da.from_array(mask), da.from_array(flow), block_shape=(10, 10, 10)).compute()
    assert len(seen) == len(set(seen))
