"""The table of instances, against what scikit-image measures."""

from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
import pytest
import strategies as some
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops

import topo_dask
from topo_dask.stages.table import COLUMNS


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_table_equals_regionprops(data: st.DataObject) -> None:
    labels, flow = data.draw(some.labelled_volumes())
    table = topo_dask.instance_table(labels, flow)
    compact = np.unique(labels, return_inverse=True)[1].reshape(labels.shape) + (0 if (labels == 0).any() else 1)
    regions = regionprops(compact)
    assert table["label"].tolist() == np.unique(labels[labels > 0]).tolist()
    assert table["voxels"].tolist() == [int(region.area) for region in regions]
    for axis, name in enumerate("zyx"):
        assert table[f"bbox_start_{name}"].tolist() == [region.bbox[axis] for region in regions]
        assert table[f"bbox_stop_{name}"].tolist() == [region.bbox[axis + 3] for region in regions]
        assert table[f"centroid_{name}"] == pytest.approx([region.centroid[axis] for region in regions])
    limit = data.draw(st.sampled_from([0.1, 0.3, 0.5]))
    kept = topo_dask.remove_bad_flow_masks(labels, flow, limit)
    assert np.count_nonzero(table["flow_error"] <= limit) == kept.max(initial=0)


def test_lazy_table_is_the_same_and_empty_ones_have_all_columns() -> None:
    labels = np.random.default_rng(0).integers(0, 5, (9, 10, 11)) * 1000
    flow = np.random.default_rng(1).normal(size=(3, 9, 10, 11)).astype(np.float32)
    expected = topo_dask.instance_table(labels, flow)
    found = topo_dask.instance_table(da.from_array(labels, chunks=4), da.from_array(flow), block_shape=(4, 3, 5))
    assert list(found) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    several = np.concatenate([-flow, flow])
    for array in (several, da.from_array(several), zarr.create_array({}, data=several)):
        found = topo_dask.instance_table(labels, array, channel=1)
        np.testing.assert_array_equal(found["flow_error"], expected["flow_error"])
    empty = topo_dask.instance_table(np.zeros((2, 2, 2), int))
    assert list(empty) == list(expected)
    assert all(len(column) == 0 for column in empty.values())


@pytest.mark.parametrize("kind", [np.asarray, da.from_array])
@pytest.mark.parametrize("with_flow", [False, True])
@pytest.mark.parametrize("n_labels", [0, 3])
@pytest.mark.parametrize("shape", [(2, 3, 4), (0, 3, 4)])
def test_every_column_has_the_documented_type(
    shape: tuple[int, ...], n_labels: int, with_flow: bool, kind: Callable[[np.ndarray], Any]
) -> None:
    labels = kind((np.arange(np.prod(shape)).reshape(shape) % (n_labels + 1)).astype(np.int16))
    flow = kind(np.ones((3, *shape), np.float32)) if with_flow else None
    table = topo_dask.instance_table(labels, flow)
    whole = {name: np.dtype(np.int64) for name in COLUMNS if name.startswith("bbox")}
    fractions = {name: np.dtype(np.float64) for name in COLUMNS if name.startswith(("centroid", "flow"))}
    expected = {"label": np.dtype(np.uint64), "voxels": np.dtype(np.int64), **whole, **fractions}
    assert {name: column.dtype for name, column in table.items()} == expected
    assert all(column.shape == (n_labels if np.prod(shape) else 0,) for column in table.values())
