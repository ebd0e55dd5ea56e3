"""Two workers of a local cluster, of one thread each, against one: zarr to zarr.

The cluster is the one that ``topo-dask run --scheduler cluster`` starts, or with ``--plain`` a LocalCluster as Dask
makes it. The inputs are those of ``bench_blockwise.py``. Each cluster first segments a volume of 256^3, so that
compilation, imports and the start of the workers are left out of both; the labels must be the same bits. The times of
the stages show which of them does not scale. One worker is measured twice: on one core, which it shares with client and
scheduler as two workers share two; and on two cores, where client, scheduler and the threads in which zarr decodes can
use the other core.

    python benchmarks/bench_workers.py --size 512 --folder /tmp/workers
"""

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from bench_blockwise import make_inputs
from bench_large_objects import StageTimes
from distributed import Client, LocalCluster
from second_core import second_core

import topo_dask
from topo_dask.cli.schedulers import Scheduling

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


@contextmanager
def cluster(workers: int, plain: bool) -> Iterator[None]:
    if plain:
        with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as local, Client(local):
            yield
    else:
        with Scheduling("cluster", workers, 1, None).start():
            yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--plain", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    cores = sorted(os.sched_getaffinity(0))
    print(f"what the machine gives to a second process: {second_core()}", flush=True)
    print(f"workers  cores  {'':9}  seconds, the best of {args.repeats}")
    found = []
    for n, used in ((1, 1), (1, 2), (2, 2)):
        os.sched_setaffinity(0, cores[:used])  # the workers inherit it
        with cluster(n, args.plain):
            segment(args.folder, 256, "warm")
            runs = [segment(args.folder, args.size, f"{n}-{used}") for _ in range(args.repeats)]
        found.append(min(runs, key=lambda run: run[0]))
        for stage, seconds in (*found[-1][1].items(), ("whole run", found[-1][0])):
            print(f"{n:7}  {used:5}  {stage:9}  {seconds:7.2f}", flush=True)
    alone, roomy, two = found
    print(f"two workers on two cores: {alone[0] / two[0]:.2f} x one on one core, {roomy[0] / two[0]:.2f} x one on two")
    print(f"equal: {np.array_equal(alone[2][:], two[2][:]) and np.array_equal(roomy[2][:], two[2][:])}")


if __name__ == "__main__":
    main()
