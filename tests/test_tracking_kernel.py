"""Particles in one region against one step at a time: where they leave it, and flow that is not finite."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from topo_dask.kernels.tracking import BATCH, Region, advance, region_of

VOLUME, ORIGIN, SHAPE = (40, 40, 80), (6, 9, 11), (22, 24, 52)


def step_by_step(
    flow: NDArray[Any], step: float, origin: tuple[int, ...], positions: NDArray[np.float64], lefts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Where particles come to in a region of VOLUME, and the steps they have left there."""
    wide = flow.astype(np.promote_types(flow.dtype, np.float32))
    lower, upper = np.array(origin), np.array(origin) + flow.shape[1:]
    positions, lefts = positions.copy(), lefts.copy()
    while len(rows := np.flatnonzero((lefts > 0) & ((positions >= lower) & (positions < upper)).all(axis=1))):
        z, y, x = (positions[rows].astype(int) - lower).T
        moved = positions[rows] + (wide.dtype.type(step) * wide[:, z, y, x]).T
        moved = np.clip(moved, 0.0, np.array(VOLUME) - 1.0)
        lefts[rows] = np.where((moved == positions[rows]).all(axis=1), 0, lefts[rows] - 1)
        positions[rows] = moved
    return positions, lefts


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("origin", [ORIGIN, (0, 0, 0), (18, 16, 28)], ids=["inside", "lower corner", "upper corner"])
@pytest.mark.parametrize(("speed", "noise"), [(1.0, 0.0), (0.7, 0.1), (0.125, 0.05), (3.7, 0.1)])
def test_particles_leave_a_region_at_the_step_that_leads_out_of_it(
    speed: float, noise: float, origin: tuple[int, int, int], dtype: str
) -> None:
    rng, gone = np.random.default_rng(0), 0
    for axis, sign in np.ndindex(3, 2):
        flow = rng.uniform(-noise, noise, (3, *SHAPE))
        flow[axis] += speed * (2 * sign - 1)
        flow = flow.astype(dtype)
        flow[:, rng.random(SHAPE) < 0.002] = 0  # some stand still
        starts = np.array(origin) + rng.uniform(0, SHAPE, (BATCH + 100, 3))
        starts[::2] = np.floor(starts[::2])  # these come to lie on the very faces
        lefts = rng.integers(0, 150, len(starts))
        positions, steps_left = starts.copy(), lefts.copy()
        region = region_of(flow, origin, 0.5)
        for rows in (slice(50, None), *(slice(i, i + 1) for i in range(50))):  # how far all go at once depends on all
            advance(region, VOLUME, positions[rows], steps_left[rows])
        expected = step_by_step(flow, 0.5, origin, starts, lefts)
        np.testing.assert_array_equal(positions, expected[0])
        np.testing.assert_array_equal(steps_left, expected[1])
        gone += np.count_nonzero(steps_left)
    assert gone > 100


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n_steps", [5, 9], ids=["at its last step", "before"])
def test_each_component_of_the_flow_under_a_particle_must_be_finite(
    n_steps: int, value: float, axis: int, dtype: str
) -> None:
    flow = np.zeros((3, 3, 3, 9), dtype)
    flow[2], flow[axis, 1, 1, 4] = 1, value
    region, steps_left = region_of(flow, (5, 7, 7), 1.0), np.array([4, 9])
    starts = np.array([[6.0, 8.0, 7.0], [5.0, 7.0, 7.0]])
    with pytest.raises(ValueError, match=r"not finite at voxel \(6, 8, 11\)"):
        advance(region, (20, 20, 16), starts.copy(), np.array([n_steps, 9]))
    advance(region, (20, 20, 16), starts, steps_left)
    assert starts[:, 2].tolist() == [11, 15]
    assert steps_left.tolist() == [0, 0]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_flow_that_is_not_finite_is_found_in_a_region_that_nobody_can_leave(dtype: str) -> None:
    flow = np.zeros((3, 3, 3, 40), dtype)
    flow[2], flow[2, 1, 1, 5] = 1, np.nan
    with pytest.raises(ValueError, match=r"not finite at voxel \(1, 1, 5\)"):
        advance(region_of(flow, (0, 0, 0), 1.0), (3, 3, 40), np.array([[1.0, 1.0, 1.0]]), np.array([30]))


@pytest.mark.parametrize(("dtype", "numbers"), [("f4", (3,)), ("u8", ())], ids=["float32", "float16"])
def test_a_region_may_hold_more_numbers_than_32_bits_count(
    dtype: str, numbers: tuple[int, ...], tmp_path: Path
) -> None:
    # A file that is hardly written to, so it takes neither disk nor memory.
    shape = (3, 1 << 15, 1 << 15)
    vectors = np.asarray(np.memmap(tmp_path / "vectors", dtype, "w+", shape=(*shape, *numbers)))
    (tmp_path / "vectors").unlink()
    move = np.array([1, 0.25, -1], np.float16)
    for x in (32_000, 32_001):
        vectors[2, 32_000, x] = move if numbers else move.view(np.uint16) @ np.array([1, 1 << 16, 1 << 32], np.uint64)
    positions, steps_left = np.array([[2.0, 32_000, 32_001], [0, 0, 9]]), np.array([2, 2])
    advance(Region(vectors, 1.0, (0, 0, 0), np.float32(1)), shape, positions, steps_left)
    assert positions.tolist() == [[2, 32_000.5, 31_999], [0, 0, 9]]
