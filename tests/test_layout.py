"""Flow laid out for tracking: NumPy's numbers, also where float16 stays as it is and whatever the processor can do."""

import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from topo_dask.blocks.geometry import Box
from topo_dask.kernels.halves import widen
from topo_dask.kernels.tracking import empty_layout, lay_out
from topo_dask.stores.volumes import HeldFlow


def test_every_half_is_widened_exactly() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    np.testing.assert_array_equal(widen(halves), halves.astype(np.float32))


GENERIC = """
import numpy as np
from topo_dask.kernels.halves import widen
from topo_dask.kernels.tracking import advance, region_of, start_particles
halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
np.testing.assert_array_equal(widen(halves), halves.astype(np.float32))
flow = np.random.default_rng(0).normal(size=(3, 9, 9, 9)).astype(np.float16)
ends = []
for vectors in (flow, flow.astype(np.float32)):
    ends.append(start_particles(np.ones((9, 9, 9), bool), (0, 0, 0))[0])
    advance(region_of(vectors, (0, 0, 0), 0.7), (9, 9, 9), ends[-1], np.full(729, 50))
np.testing.assert_array_equal(*ends)
print(ends[0].sum())
"""


@pytest.mark.parametrize("processor", [{}, {"NUMBA_CPU_NAME": "generic"}, {"NUMBA_CPU_FEATURES": ""}])
def test_halves_on_a_processor_that_can_not_convert_them(processor: dict[str, str], tmp_path: Path) -> None:
    # A compiler that is told to convert them there crashes.
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), **processor}
    done = subprocess.run([sys.executable, "-c", GENERIC], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) < 729 * 24


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("odd", [(), (np.nan,), (np.inf,), (-np.inf, np.nan), (-0.0, 5e-8), ("largest",)])
def test_flow_is_laid_out_as_numpy_would(dtype: str, odd: tuple[Any, ...]) -> None:
    rng = np.random.default_rng(0)
    flow = rng.normal(size=(3, 4, 5, 37)).astype(dtype)
    for i, value in enumerate(odd):
        flow[i, 2, 3 + i, rng.integers(37)] = -np.finfo(dtype).max if value == "largest" else value
    for planes in ((0, 4), (2, 3), (0, 2)):
        some = flow[:, slice(*planes)].astype(np.promote_types(dtype, np.float32))
        with np.errstate(over="ignore", invalid="ignore"):
            moved = np.where(np.isfinite(some), 1.5 * some, np.nan)
            kept = moved if dtype != "f2" else np.where(np.isfinite(some), some, np.nan).astype("f2")
        out = empty_layout(flow)
        out[:] = 0
        _, longest = lay_out(flow, 1.5, out, planes)
        vectors = out if dtype != "f2" else np.stack([out >> (16 * i) & 0xFFFF for i in range(3)], axis=-1)
        if dtype == "f2":
            assert not (out >> 48).any()
            vectors = vectors.astype(np.uint16).view(np.float16)
        np.testing.assert_array_equal(vectors[slice(*planes)], np.moveaxis(kept, 0, -1))
        assert np.count_nonzero(vectors) == np.count_nonzero(kept)
        assert longest == (np.abs(moved).max() if np.isfinite(moved).all() else np.inf)


@pytest.mark.parametrize("value", [7.0, -7.0, np.nan])
@pytest.mark.parametrize("plane", range(4))
def test_the_longest_step_is_that_of_all_slabs(plane: int, value: float) -> None:
    flow = np.ones((3, 4, 2, 2), np.float32)
    flow[1, plane, 1, 0] = value
    held = HeldFlow(flow, 0.5)
    for z in (2, 0, 3, 1):
        held.lay_out(Box((z, 0, 0), (z + 1, 2, 2)))
    assert held.region(Box.whole((4, 2, 2))).longest == (np.inf if np.isnan(value) else 3.5)


def test_the_layout_of_a_flow_in_memory_is_freed_when_no_particle_moves_any_more() -> None:
    flow = HeldFlow(np.ones((3, 2, 2, 2), np.float32), 1.0)
    flow.lay_out(Box.whole((2, 2, 2)))
    layout = weakref.ref(flow.region(Box.whole((2, 2, 2))).vectors)
    assert layout() is not None
    flow.release()
    assert layout() is None
    assert flow.read(Box.whole((2, 2, 2))).all()
