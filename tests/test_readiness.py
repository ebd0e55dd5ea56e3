"""Kernels are compiled before a run begins: its tasks find all that they call."""

import asyncio
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from topo_dask import readiness
from topo_dask.config import ClassConfig, Merge
from topo_dask.stages import search

# In a process of its own, where no other test has called a kernel. Prints what a run called that was not ready.
CODE = """
import gc, tempfile
import numpy as np, zarr
from numba.core.dispatcher import Dispatcher
from topo_dask import segment, segment_volume

def called():
    ours = (one for one in gc.get_objects() if isinstance(one, Dispatcher) and "topo_dask" in one.py_func.__module__)
    return {f"{one.py_func.__qualname__} {types}" for one in ours for types in one.signatures}

def make_ready(*arguments, original=segment.make_ready):
    original(*arguments)
    ready.append(called())

segment.make_ready, ready = make_ready, []
rng, shape = np.random.default_rng(1), (64, 40, 40)
semantic = zarr.create_array({}, data=rng.random((1, *shape)), chunks=(1, 32, 20, 20))
kinds = [(2, "adjacent", 0), (1, None, 0), (3, None, 0), (3, "adjacent", 0), (2, "agglomerate", 2.0)]
for group, merge, limit in kinds:
    for dtype in ("float16", ">f4", "float64"):
        flow = zarr.create_array({}, data=rng.normal(0.2, 0.8, (3, *shape)).astype(dtype), chunks=(3, 32, 20, 20))
        options = {"group": group, "n_steps": 60, "convergence_radius": 3.0, "min_size": 3, "merge": merge}
        segment_volume(
            semantic, flow, f"{tempfile.mkdtemp()}/labels.zarr", class_names=["x"], class_config={"x": options},
            flow_error_threshold=limit, block_shape=(32, 20, 20), halo=4, progress=False,
        )
        print(len(ready[-1]), group, merge, dtype, sorted(called() - ready[-1]))
"""


def test_tasks_compile_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 15
    assert [line for line in lines if not line.endswith("[]")] == []
    assert int(lines[0].split()[0]) > 5


@pytest.mark.parametrize("merge", [None, "adjacent", "agglomerate"])
@pytest.mark.parametrize("group", [2, 3])
@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "float16", "float32", "float64"])
def test_the_nearest_label_is_searched_near_and_far(
    dtype: str, group: int, merge: Merge | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each is done by kernels of its own.
    found = set()
    for name in ("look_around", "nearest_of"):
        kernel = getattr(search, name)
        monkeypatch.setattr(search, name, lambda *some, name=name, kernel=kernel: (found.add(name), kernel(*some))[1])
    readiness._try_once.__wrapped__((group, merge, False), np.dtype(dtype).str, ())
    assert found == {"look_around", "nearest_of"}


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int64", "uint64", "float16", ">f4", "float64"])
def test_no_type_of_flow_is_refused(dtype: str) -> None:
    merges: tuple[Merge | None, ...] = (None, "adjacent", "agglomerate")
    configs = [ClassConfig(group=3, merge=merge, flow_error_threshold=1.0) for merge in merges]
    for pyramid in ((), ((2, 2, 2),) * 7, ((1, 2, 2), (2, 2, 2))):
        readiness.make_ready(configs, dtype, pyramid)


def test_all_workers_are_made_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        seen: list[Any] = []
        loops: list[Any] = []  # a worker whose event loop compiles would be taken for dead
        monkeypatch.setattr(
            readiness, "_try_once", lambda *kind: (seen.append(kind), loops.append(asyncio._get_running_loop()))
        )
        readiness.make_ready([ClassConfig(group=2), ClassConfig(group=2, n_steps=7)], ">f4")
        assert seen == [((2, None, False), "<f4", ())] * 2
        assert loops == [None] * 2
        monkeypatch.setattr(readiness, "_try_once", lambda *kind: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            readiness.make_ready([ClassConfig()], "f4")
