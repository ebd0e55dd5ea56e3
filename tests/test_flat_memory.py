"""Memory does not grow with the volume: worker, and client with scheduler, over 1, 8 and 64 volumes.

As a script it runs a cluster of one worker and prints how much Python memory each process holds after each volume.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zarr

import topo_dask
from topo_dask import segment_volume

EDGES = (64, 128, 256)
LOGS = {
    "distributed.admin.log-length": 10,
    "distributed.admin.low-level-log-length": 10,
    "distributed.diagnostics.computations.max-history": 1,
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.log-length": 10,
}
"""Dask's logs have a length of their own; short, they are full after the first volume."""

PER_BLOCK = 60
"""Bytes of Python objects that a block may leave behind in a process: measured are 5 with the scheduler and 5 on the
worker. A call of the scheduler's for every four tasks left 200, a future or a group for every task thousands."""


def held() -> int:
    """Bytes of Python objects that this process holds, but for what Dask remembers of 100 000 keys at most."""
    from dask.utils import key_split

    key_split.cache_clear()
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def write_volume(folder: Path, edge: int) -> None:
    """Balls on a lattice of 16 voxels, and the flow to their centres."""
    way = (8 - np.indices((16, 16, 16))).astype(np.float32)
    length = np.sqrt((way**2).sum(axis=0))
    n = (edge // 16,) * 3
    ball, flow = (length < 7).astype("u1")[None], way / np.maximum(length, 1)
    for name, tile in (("semantic", ball), ("flow", flow)):
        zarr.create_array(folder / name, data=np.tile(tile, (1, *n)), chunks=(3, 32, 32, 32))


def segment(folder: Path, edge: int) -> None:
    config = {"ball": {"group": 1, "n_steps": 20, "convergence_radius": 4.0, "min_size": 9}}
    labels = segment_volume(
        folder / "semantic",
        folder / "flow",
        folder / "out",
        class_names=["ball"],
        class_config=config,
        block_shape=(16,) * 3,
        halo=2,
        ome_zarr=None,  # only the largest volume would get a coarser level, and compile what makes it
        progress=False,
        overwrite=True,
    )["ball"]
    assert labels[-16:, -16:, -16:].max() == (edge // 16) ** 3


def main() -> None:
    import dask
    from distributed import Client, LocalCluster

    found = []
    with (
        dask.config.set(LOGS),
        LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        tempfile.TemporaryDirectory() as name,
    ):
        client.run(tracemalloc.start)
        tracemalloc.start()
        for edge in (EDGES[0], *EDGES):  # the first time, modules are imported and kernels compiled
            folder = Path(name, str(len(found)))
            write_volume(folder, edge)
            segment(folder, edge)
            (worker,) = client.run(held).values()
            found.append({"client": held(), "worker": worker})
    sys.stdout.write(json.dumps(found[1:]))


@pytest.mark.scale
@pytest.mark.timeout(900)
def test_memory_is_flat() -> None:
    root = str(Path(topo_dask.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, __file__], env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.PIPE, check=True
    )
    held = json.loads(run.stdout)
    for who in ("client", "worker"):
        _, middle, last = (one[who] for one in held)
        blocks = (EDGES[2] ** 3 - EDGES[1] ** 3) // 16**3
        assert last - middle < PER_BLOCK * blocks, held


if __name__ == "__main__":
    main()
