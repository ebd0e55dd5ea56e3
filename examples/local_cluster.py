"""Zarr to zarr on a Dask cluster: stored predictions in, OME-Zarr labels and a table out, resumable.

    python examples/local_cluster.py [--size 256] [--folder topo_dask_cluster]

The cluster is a local one; for another, `Client("tcp://head:8786")` is the only change. Killed runs go on with
resume=True.
"""

import argparse
from pathlib import Path

import numpy as np
from distributed import Client, LocalCluster

import topo_dask
from topo_dask.synthetic import Tiling, blobs, noisy
from topo_dask.targets import direct_flow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="edge of the volume in voxels")
    parser.add_argument("--folder", type=Path, default=Path("topo_dask_cluster"), help="must not exist")
    args = parser.parse_args()

    # A volume of any size, written chunk by chunk from one small tile.
    if args.folder.exists():
        parser.error(f"{args.folder} exists: remove it, or give another --folder")
    args.folder.mkdir(parents=True)
    tile = blobs((64, 64, 64), 9, seed=0, margin=1)
    tiling = Tiling(tile, noisy(direct_flow(tile), 0.1, seed=0), (args.size,) * 3)
    semantic, flow = tiling.write_zarr(args.folder / "semantic.zarr", args.folder / "flow.zarr", chunks=(64, 64, 64))

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        labels = topo_dask.segment_volume(
            semantic,
            flow,
            args.folder / "labels.zarr",
            class_names=["lyso"],
            resolution_nm=8,
            block_shape=(64, 64, 64),
            memory_limit="2GiB",
            progress=False,
        )["lyso"]
    table = np.genfromtxt(args.folder / "labels.zarr.tables" / "lyso.csv", delimiter=",", names=True)
    print(f"labels         {labels.store_path}, {labels.shape}, chunks of {labels.chunks}")
    print(f"instances      {len(np.atleast_1d(table))}, mean size {np.mean(table['voxels']):.0f} voxels")


if __name__ == "__main__":
    main()
