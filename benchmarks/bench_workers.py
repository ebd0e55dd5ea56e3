"""Two workers of a local cluster, of one thread each, against one: zarr to zarr.

The inputs are those of ``bench_blockwise.py``. Each cluster first segments a volume of 256^3, so that compilation,
imports and the start of the workers are left out of both; the labels must be the same bits. The time of the stages
shows what does not scale.

    python benchmarks/bench_workers.py --size 512 --folder /tmp/workers
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_blockwise import make_inputs
from bench_large_objects import StageTimes

import topo_dask

CONFIG = {"group": 1, "n_steps": 100, "convergence_radius": 4.0, "min_size": 50}


def segment(folder: Path, size: int, name: str) -> tuple[float, dict[str, float], Any]:
    semantic, flow = make_inputs(folder, size)
    times = StageTimes()
    start = time.perf_counter()
    labels = topo_dask.segment_volume(
        semantic,
        flow,
        folder / f"labels-{name}.zarr",
        class_names=["blob"],
        class_config={"blob": CONFIG},
        block_shape=(128,) * 3,
        halo=16,
        ome_zarr=None,
        overwrite=True,
        progress=times,
    )["blob"]
    seconds = time.perf_counter() - start
    times.end()
    return seconds, times.seconds, labels


def main() -> None:
    from distributed import Client, LocalCluster

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    found: dict[int, tuple[float, dict[str, float], Any]] = {}
    for n in (1, 2):
        with (
            LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster),
        ):
            segment(args.folder, 256, "warm")
            runs = [segment(args.folder, args.size, str(n)) for _ in range(args.repeats)]
            found[n] = min(runs, key=lambda run: run[0])
    one, two = found[1], found[2]
    print(f"           one s  two s  ratio, the best of {args.repeats}")
    for stage in one[1]:
        print(f"{stage:9} {one[1][stage]:6.2f} {two[1][stage]:6.2f} {one[1][stage] / max(two[1][stage], 1e-9):6.2f}")
    print(f"whole run {one[0]:6.2f} {two[0]:6.2f} {one[0] / two[0]:6.2f}")
    print(f"equal     {np.array_equal(one[2][:], two[2][:])}")


if __name__ == "__main__":
    main()
