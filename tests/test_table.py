"""The table of instances, against what scikit-image measures."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
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
from topo_dask.stores.instance_tables import COLUMNS, read_table, write_table


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


def written(n: int) -> dict[str, np.ndarray]:
    """A table of `n` instances as it is written, whose fractions have all digits that they can have."""
    rng = np.random.default_rng(0)
    whole = {name: rng.integers(0, 2**40, n) for name in COLUMNS[:8]}
    fractions = {name: rng.random(n) * 10.0 ** rng.integers(-300, 300, n) for name in COLUMNS[8:]}
    fractions["flow_error"][::3] = np.nan
    return {**whole, **fractions}


@pytest.mark.parametrize("n", [0, 1, 20_000])
def test_a_table_is_read_as_it_was_written_to_the_bit(n: int, tmp_path: Path) -> None:
    columns = written(n)
    write_table(columns, "round", str(tmp_path))
    tracemalloc.start()
    try:
        found = read_table(f"{tmp_path}/round.csv")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert list(found) == list(columns)
    for name, column in columns.items():
        assert (found[name].dtype, found[name].tobytes()) == (column.dtype, column.tobytes())
    size = (tmp_path / "round.csv").stat().st_size
    assert peak < 1e5 + size + 3 * sum(column.nbytes for column in columns.values())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as for users, who do not see what NumPy 2.1 warns of
def test_labels_that_need_all_bits_are_read_as_they_were_written(tmp_path: Path) -> None:
    labels = np.array([[[0, 2**63, 2**64 - 1, 4]]], np.uint64)
    columns = topo_dask.instance_table(labels)
    write_table(columns, "wide", str(tmp_path))
    for name, column in read_table(f"{tmp_path}/wide.csv").items():
        np.testing.assert_array_equal(column, columns[name])


ROWS = [b"a,b\r\n", b"1,2,3\r\n", b",".join([b"1"] * 13), b",".join([b"one"] * 12), b",".join([b"1.5"] * 12)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("row", ROWS)
def test_what_is_no_row_of_a_table_is_refused(row: bytes, tmp_path: Path) -> None:
    write_table(written(2), "round", str(tmp_path))
    with open(tmp_path / "round.csv", "ab") as file:
        file.write(row)
    with pytest.raises(ValueError, match=r"round\.csv is no table of topo_dask: its columns must be label, voxels, "):
        read_table(f"{tmp_path}/round.csv")
