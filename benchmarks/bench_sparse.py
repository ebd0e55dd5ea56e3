"""A sparse teravoxel: a volume of 10240^3 voxels of which 0.1 % of the blocks hold objects, in real zarr stores.

Chunks that were never written must cost nothing: no task, no bundle, no memory. With ``--workers`` the tasks run in
worker processes of a local cluster, and the peak is that of the client and scheduler alone.

    python benchmarks/bench_sparse.py --folder /tmp/sparse
"""

import argparse
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import product
from pathlib import Path

import numpy as np
import zarr
from bench_scaling import CHUNK, CONFIG, TILE, make_tile, peak_mib

import topo_dask
from topo_dask.machine import usable_cores


def scatter(tile: Path, path: Path, size: int, corners: np.ndarray) -> None:
    """Array of a size with copies of the tile at some corners, in tiles; nothing else is stored."""
    first = zarr.open_array(tile, mode="r")
    metadata = json.loads((tile / "zarr.json").read_text()) | {"shape": [first.shape[0], size, size, size]}
    path.mkdir()
    (path / "zarr.json").write_text(json.dumps(metadata))
    per_tile = TILE // CHUNK
    for corner, chunk in product(corners.tolist(), product(range(per_tile), repeat=3)):
        place = [per_tile * a + b for a, b in zip(corner, chunk, strict=True)]
        target = path / "c" / "0" / "/".join(map(str, place))
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(tile / "c" / "0" / "/".join(map(str, chunk)), target)


@contextmanager
def cluster(workers: int) -> Iterator[None]:
    """Local cluster of worker processes of one thread each, as the active client's."""
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as found, Client(found):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="must not exist; removed in the end")
    parser.add_argument("--size", type=int, default=10240)
    parser.add_argument("--share", type=float, default=0.001, help="blocks that hold objects")
    parser.add_argument("--workers", type=int, default=0, help="worker processes of one thread; 0: threads of this one")
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    try:
        make_tile(args.folder)
        n = args.size // TILE
        chosen = np.random.default_rng(0).choice(n**3, max(1, round(args.share * n**3)), replace=False)
        corners = np.stack(np.unravel_index(chosen, (n, n, n)), axis=1)
        for name in ("semantic", "flow"):
            scatter(args.folder / f"{name}-tile.zarr", args.folder / f"{name}.zarr", args.size, corners)
        Path("/proc/self/clear_refs").write_text("5")  # the peak of the run, not of making its inputs
        start = time.perf_counter()
        with cluster(args.workers) if args.workers else nullcontext():
            topo_dask.segment_volume(
                args.folder / "semantic.zarr",
                args.folder / "flow.zarr",
                args.folder / "labels.zarr",
                class_names=["object"],
                class_config={"object": CONFIG},
                block_shape=(TILE,) * 3,
                on_missing="background",
                progress=False,
            )
        seconds = time.perf_counter() - start
        table = np.loadtxt(args.folder / "labels.zarr.tables" / "object.csv", delimiter=",", skiprows=1, usecols=0)
    finally:
        shutil.rmtree(args.folder)
    print(f"volume     {args.size}^3 = {args.size**3:.2e} voxels, {n**3} blocks of {TILE}^3, {len(corners)} occupied")
    print(f"instances  {len(table)}")
    print(f"time       {seconds:.0f} s on {usable_cores()} cores, labels with their pyramid")
    who = f"client and scheduler, {args.workers} workers apart" if args.workers else "client, scheduler and threads"
    print(f"peak       {peak_mib():.0f} MiB: {who}")


if __name__ == "__main__":
    main()
