"""Classes whose flows are in the same stored chunks share the read, and get the same bits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import topo_dask
from topo_dask.blocks.geometry import BlockGrid
from topo_dask.config import ClassConfig
from topo_dask.plan import track_together
from topo_dask.stages.job import Job
from topo_dask.stores import checked
from topo_dask.stores.scratch import FileScratch
from topo_dask.stores.volumes import Foreground, Source, StoredFlow


@pytest.mark.parametrize(("channels", "reads"), [(9, 8), (3, 24)])
def test_flow_is_read_once_for_all_classes_in_a_chunk(
    channels: int, reads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    semantic = rng.random((3, 16, 16, 16)).astype(np.float32)
    vectors = rng.normal(size=(9, 16, 16, 16)).astype(np.float32)
    flow = zarr.create_array(tmp_path / "flow.zarr", data=vectors, chunks=(channels, 8, 8, 8))
    stored = zarr.create_array(tmp_path / "semantic.zarr", data=semantic, chunks=(3, 8, 8, 8))
    names = ["one", "two", "three"]
    config = {name: {"group": i + 1, "n_steps": 3, "min_size": 2} for i, name in enumerate(names)}
    seen: list[Any] = []
    real = checked.CheckedArray.__getitem__

    def counting(self: Any, index: Any) -> Any:
        seen.extend([index] if self.name == "flow" else [])
        return real(self, index)

    monkeypatch.setattr(checked.CheckedArray, "__getitem__", counting)
    monkeypatch.setattr("topo_dask.segment.warn_of_doubts", lambda plan: None)  # it reads each class a few times
    found = topo_dask.segment_volume(
        stored,
        flow,
        tmp_path / "labels.zarr",
        class_names=names,
        class_config=config,
        block_shape=8,
        halo=16,
        progress=False,
    )
    assert len(seen) == reads
    expected = topo_dask.run_instance_segmentation(semantic, vectors, names, config)
    for name in names:
        np.testing.assert_array_equal(found[name][:], expected[name])


def test_a_class_that_has_tracked_a_block_does_not_track_it_again(tmp_path: Path) -> None:
    grid, vectors = BlockGrid((4, 4, 4), (4, 4, 4)), np.zeros((6, 4, 4, 4), np.float32)
    mask = Foreground(Source(np.ones((4, 4, 4), np.bool_), "semantic"))
    flows = (StoredFlow(Source(vectors, "flow", slice(3 * channel, 3 * channel + 3))) for channel in range(2))
    one, other = (
        Job(name, grid, ClassConfig(), mask, flow, scratch=FileScratch(str(tmp_path / name)))
        for name, flow in zip("ab", flows, strict=True)
    )
    stage = track_together([one, other])
    one.scratch.put("track", "0.0.0", done=np.ones(1))
    assert stage.keys_left(one) == ["0.0.0"]
    stage.run(one, "0.0.0")
    assert list(one.scratch.get("track", "0.0.0")) == ["done"]
    assert other.scratch.get("track", "0.0.0")["counts"].sum() == 4**3
