"""Weak scaling: cost per voxel and peak memory of a run, zarr to zarr, over the size of the volume.

The volume repeats a tile of 256^3 voxels (blobs and tubes, direct flow with noise, float16). Each distinct chunk is
written once and hard-linked wherever it recurs, so that volumes of any size are made in seconds and fit on a small
disk. Reads of the inputs come from the page cache: what is measured is decoding, the stages, scratch and the labels.

Each size runs in a process of its own; its peak is that of the one process that holds client, scheduler and threads.
Machines drift by more than the sizes differ: several rounds go through all sizes in turn, and the medians of the sizes
are compared.

    python benchmarks/bench_scaling.py --folder /tmp/s --sizes 256 512 1024 2048 --rounds 3 --figure docs/scaling.png
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr

import topo_dask
from topo_dask.synthetic import Tiling, blobs, noisy, tubes
from topo_dask.targets import direct_flow

TILE, CHUNK = 256, 128
CONFIG = {"group": 1, "n_steps": 100, "convergence_radius": 4.0, "min_size": 50}


def make_tile(folder: Path) -> None:
    labels = blobs((TILE,) * 3, 520, seed=0, margin=1)
    walks = tubes((TILE,) * 3, 40, seed=1, margin=1)
    labels[(labels == 0) & (walks > 0)] = walks[(labels == 0) & (walks > 0)] + labels.max()
    flow = noisy(direct_flow(labels), 0.1, seed=0).astype(np.float16)
    Tiling(labels, flow, (TILE,) * 3).write_zarr(
        folder / "semantic-tile.zarr", folder / "flow-tile.zarr", chunks=(CHUNK,) * 3
    )
    print(f"tile: {np.count_nonzero(labels) / labels.size:.1%} foreground, {len(np.unique(labels)) - 1} objects")


def repeat(tile: Path, path: Path, size: int) -> None:
    """Array of a size whose chunks are hard links to those of the tile."""
    first = zarr.open_array(tile, mode="r")
    shape = (first.shape[0], size, size, size)
    metadata = json.loads((tile / "zarr.json").read_text()) | {"shape": list(shape)}
    path.mkdir()
    (path / "zarr.json").write_text(json.dumps(metadata))
    for chunk in product(range(size // CHUNK), repeat=3):
        source, target = (
            folder / "c" / "0" / "/".join(str(i) for i in index)
            for folder, index in ((tile, [i % (TILE // CHUNK) for i in chunk]), (path, chunk))
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)


def peak_mib() -> float:
    """Peak of this process alone; `ru_maxrss` would count that of the parent before the program began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def segment(folder: Path, size: int, block: int, halo: int) -> dict[str, Any]:
    how: dict[str, Any] = {"class_names": ["object"], "class_config": {"object": CONFIG}, "halo": halo}
    how |= {"ome_zarr": None, "progress": False}
    # Imports and compilation are bench_first_call.py's.
    few = [zarr.create_array({}, data=np.ones((n, 8, 8, 8), np.float16)) for n in (1, 3)]
    topo_dask.segment_volume(*few, folder / "few.zarr", **how)
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    inputs = (folder / "semantic.zarr", folder / "flow.zarr")
    labels = topo_dask.segment_volume(*inputs, folder / "labels.zarr", block_shape=(block,) * 3, **how)["object"]
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    table = np.loadtxt(folder / "labels.zarr.tables" / "object.csv", delimiter=",", skiprows=1, usecols=0)
    return {
        "size": size,
        "seconds": seconds,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "ns_per_voxel": seconds / labels.size * 1e9,
        "peak_mib": peak_mib(),
        "instances": len(table),
    }


def run_size(args: argparse.Namespace, size: int) -> dict[str, Any]:
    folder = args.folder / str(size)
    folder.mkdir()
    try:
        for name in ("semantic", "flow"):
            repeat(args.folder / f"{name}-tile.zarr", folder / f"{name}.zarr", size)
        command = [sys.executable, __file__, "--folder", str(folder), "--one", str(size)]
        command += ["--block", str(args.block), "--halo", str(args.halo)]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found: dict[str, Any] = json.loads(run.stdout)
    finally:
        shutil.rmtree(folder)
    return found


def median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: float(np.median([run[key] for run in runs])) for key in runs[0]}


def draw(runs: dict[int, list[dict[str, Any]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [median(some) for some in runs.values()]
    voxels = [size**3 for size in runs]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    panels = (("ns_per_voxel", "wall time, ns per voxel"), ("peak_mib", "peak memory of the process, MiB"))
    for axis, (key, label) in zip(axes, panels, strict=True):
        axis.plot(voxels, [row[key] for row in rows], "-", color="#0072b2")
        for x, row, some in zip(voxels, rows, runs.values(), strict=True):
            found = [run[key] for run in some]
            axis.plot([x] * len(some), found, "o", color="#0072b2", alpha=0.6)
            axis.annotate(
                f"{row[key]:.0f}", (x, max(found)), textcoords="offset points", xytext=(0, 7), ha="center", fontsize=9
            )
        axis.set(xscale="log", xlabel="voxels", ylabel=label)
        axis.set_ylim(0, 1.3 * max(run[key] for some in runs.values() for run in some))
        axis.grid(alpha=0.3)
        axis.margins(x=0.12)
        axis.set_xticks(voxels, [f"{size}³" for size in runs])
        axis.minorticks_off()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="must not exist; removed in the end")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024], help="multiples of 128")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--block", type=int, default=128)
    parser.add_argument("--halo", type=int, default=16)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(segment(args.folder, args.one, args.block, args.halo)))
        return
    args.folder.mkdir(parents=True)
    try:
        make_tile(args.folder)
        print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}")
        print("  size     s   CPU s  ns/voxel  peak MiB  instances", flush=True)
        line = "{size:6.0f} {seconds:5.0f} {cpu_seconds:7.0f} {ns_per_voxel:9.1f} {peak_mib:9.0f} {instances:10.0f}"
        runs: dict[int, list[dict[str, Any]]] = {size: [] for size in args.sizes}
        for _ in range(args.rounds):
            for size, some in runs.items():
                some.append(run_size(args, size))
                print(line.format(**some[-1]), flush=True)
    finally:
        shutil.rmtree(args.folder)
    if args.rounds > 1:
        print(f"median of {args.rounds} rounds")
        for some in runs.values():
            print(line.format(**median(some)))
    if args.figure:
        draw(runs, args.figure)


if __name__ == "__main__":
    main()
