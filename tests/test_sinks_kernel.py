"""Sums of end points and of flow errors: rounded once, as large as objects get, refused before they wrap around."""

from fractions import Fraction

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topo_dask.blocks.geometry import BlockGrid
from topo_dask.config import ClassConfig, get_postprocess_config
from topo_dask.kernels import sinks
from topo_dask.kernels.extents import Extents
from topo_dask.kernels.fixed_point import EXACT, MAX_SUM, SCALE
from topo_dask.kernels.hashing import number_values
from topo_dask.kernels.sinks import CellGrid, cells_of, sink_centres, sum_ends
from topo_dask.stages.drop import drop
from topo_dask.stages.job import Job, extent_columns
from topo_dask.stages.link import link
from topo_dask.stages.track import SinkTable

LINE = CellGrid((1, 1, 1 << 17), 16.0)
"""Cell c along x has its origin at x = 16 c."""


def centre_of(cell: int, count: int, units: int) -> float:
    found = sink_centres(np.array([cell]), np.array([count]), np.array([[0, 0, units]]), LINE)
    return float(found[0, 2])


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 1 << 13), st.integers(1, 1 << 35), st.integers(-MAX_SUM, MAX_SUM))
def test_the_sum_is_rounded_once(cell: int, count: int, units: int) -> None:
    exact = Fraction(16 * cell * count) + Fraction(units, int(SCALE))
    assert centre_of(cell, count, units) == float(exact) / count


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 1 << 13), st.integers(1, 1 << 35), st.integers(-int(EXACT), int(EXACT)))
def test_sums_that_are_floats_need_no_more_care(cell: int, count: int, units: int) -> None:
    assert centre_of(cell, count, units) == (16 * cell * count + units / SCALE) / count


def test_centres_are_made_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    cells, counts, sums = np.arange(7), np.arange(1, 8), np.arange(21).reshape(7, 3) << 20
    at_once = sink_centres(cells, counts, sums, LINE)
    monkeypatch.setattr(sinks, "_CENTRES", 3)
    np.testing.assert_array_equal(sink_centres(cells, counts, sums, LINE), at_once)
    np.testing.assert_array_equal(sink_centres(cells, counts, sums, LINE, out=np.full((7, 3), np.nan)), at_once)


def test_no_bit_is_lost_where_offset_and_origin_cancel() -> None:
    # 16 n - 9 n voxels and one unit: fewer than 2**53 units, but the offset by itself has more.
    n = 65_000_000
    units = 1 - (9 * n << 24)
    assert centre_of(1, n, units) == (7 * n + 2.0**-24) / n != (16 * n + units / SCALE) / n


def test_centres_equal_naive_beyond_what_a_float_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    # Cells of 2**16 voxels, all end points in their upper halves.
    rng, shape, radius = np.random.default_rng(4), (1, 1, 1 << 17), float(1 << 17)
    ends = np.zeros((1 << 17, 3))
    ends[:, 2] = (rng.integers(0, 2, len(ends)) << 16) + rng.uniform(20000, 32000, len(ends))
    grid = CellGrid.for_radius(shape, radius)
    cells, numbers = number_values(cells_of(ends, grid))
    counts, sums = sum_ends(ends, numbers, cells, grid)
    assert sums.max() > EXACT
    seen: list[np.ndarray] = []
    monkeypatch.setattr(naive, "_close_pairs", lambda centre, radius: seen.append(centre) or [])
    naive.cluster_convergence(np.argwhere(np.ones(shape, bool)), ends, shape, radius, 0)
    order = np.argsort(cells)
    np.testing.assert_array_equal(sink_centres(cells[order], counts[order], sums[order], grid), seen[0])


# ------------------------------------------------------------ as large as objects get


def job_of_two_blocks(config: ClassConfig) -> Job:
    job = Job("nuc", BlockGrid((4096, 4096, 4096), (4096, 4096, 2048)), config)
    for key in ("0.0.0", "0.0.1"):
        job.scratch.put("numbers", key)
    return job


@pytest.mark.parametrize(("resolution", "micrometres"), [(8, 6), (8, 20), (16, 10), (32, 40)])
@pytest.mark.parametrize("offset", [-0.49, 0.0, 0.49])
def test_nuclei_at_the_published_parameters(resolution: int, micrometres: int, offset: float) -> None:
    job = job_of_two_blocks(ClassConfig(**get_postprocess_config(resolution)["nuc"]))
    grid = CellGrid.for_radius(job.grid.shape, job.config.convergence_radius)
    end = np.floor(64 * grid.edge) + np.full((1, 3), offset * grid.edge)
    cells = cells_of(end, grid)
    counts, sums = sum_ends(end, np.array([1], np.uint32), cells, grid)
    voxels = int(np.pi / 6 * (1000 * micrometres / resolution) ** 3)
    for key, n in (("0.0.0", voxels // 3), ("0.0.1", voxels - voxels // 3)):
        job.scratch.put("track", key, ids=cells, counts=counts * n, sums=sums * n)
    link(job, voxels)
    assert [job.scratch.get("link", key)["lut"].tolist() for key in ("0.0.0", "0.0.1")] == [[1], [1]]


def errors_of(sums: list[int], voxels: int) -> Job:
    """A job whose only instance has these sums of squared errors in its blocks."""
    job = Job("cell", BlockGrid((1, 1, len(sums)), (1, 1, 1)), ClassConfig())
    for at, units in enumerate(sums):
        job.scratch.put("numbers", f"0.0.{at}")
        job.scratch.put("errors", f"0.0.{at}", ids=np.array([1], np.int32), sums=np.array([units]))
    extents = Extents.empty(1)
    extents.counts[:] = voxels
    job.scratch.put("tabulate", "all", **extent_columns(extents))
    return job


def test_flow_error_of_a_large_cell() -> None:
    voxels = 1_500_000_000
    job = errors_of([int(0.15 * voxels) << 24, int(0.25 * voxels) << 24], voxels)
    drop(job, 0.4)
    assert job.scratch.get("drop", "all")["flow_error"].tolist() == [pytest.approx(0.4 / 3)]


# ------------------------------------------------------------ beyond the range


@pytest.mark.parametrize("n", [2, 4, 5])  # 2**63 and 2**64 wrap around, to the least int64 and to 0
def test_flow_errors_beyond_the_range_are_refused(n: int) -> None:
    with pytest.raises(OverflowError, match=r"squared flow errors .* exceeds 2\*\*38.*one voxel long"):
        drop(errors_of([1 << 62] * n, 1 << 40), 0.4)


def end_of_line(n: int) -> tuple[np.ndarray, CellGrid]:
    """End points at x = 2**30, all in the one cell of a grid whose origin is 0."""
    grid = CellGrid((1, 1, (1 << 30) + 1), 4e9)
    return np.array([[0, 0, 1 << 30]] * n, np.float64), grid


def test_end_points_up_to_the_range() -> None:
    ends, grid = end_of_line(256)
    counts, sums = sum_ends(ends, np.ones(256, np.uint32), np.array([0]), grid)
    assert sums.tolist() == [[0, 0, 1 << 62]]
    assert sink_centres(np.array([0]), counts, sums, grid).tolist() == [[0, 0, 1 << 30]]


@pytest.mark.parametrize("n", [257, 512, 1024])
def test_end_points_beyond_the_range_are_refused(n: int) -> None:
    ends, grid = end_of_line(n)
    message = r"end points .* sum of \d+ exceeds 2\*\*38.*smaller convergence_radius"
    with pytest.raises(OverflowError, match=message):
        sum_ends(ends, np.ones(n, np.uint32), np.array([0]), grid)
    table = SinkTable(grid)
    for at in range(0, n, 128):
        table.add(np.arange(at, min(at + 128, n)), ends[at : at + 128])
    with pytest.raises(OverflowError, match=message):
        table.combine((1, 1, n))
    job = job_of_two_blocks(ClassConfig())
    for key in ("0.0.0", "0.0.1"):
        sums = np.array([[0, 0, -1 << 62]])
        job.scratch.put("track", key, ids=np.array([0]), counts=np.array([n]), sums=sums)
    with pytest.raises(OverflowError, match=message):
        link(job, 0)


@pytest.mark.parametrize("axis", range(3))
def test_end_points_outside_are_in_the_nearest_cell_up_to_the_limit(axis: int) -> None:
    grid = CellGrid.for_radius((4, 5, 6), 4.0)
    ends = np.array([[1.0, 2.0, 3.0]] * 2)
    for limit, away, nearest in ((-1 << 16, -np.inf, 0), (grid.volume_shape[axis] + (1 << 16), np.inf, 9)):
        ends[1, axis] = nearest
        inside = cells_of(ends, grid).tolist()
        ends[1, axis] = limit
        assert cells_of(ends, grid).tolist() == inside
        for value in (np.nextafter(limit, away), away, np.nan):
            ends[1, axis] = value
            with pytest.raises(ValueError, match=r"at most 2\*\*16 voxels outside .* in row 1;"):
                cells_of(ends, grid)
