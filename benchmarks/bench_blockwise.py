"""Zarr to zarr, block by block: time per voxel, peak memory against the projection, and the parts it is made of.

A unit volume of blobs with noisy flow is tiled to the size asked for, written as zarr (uint8 mask, float16 flow), and
segmented twice: to an array of labels alone, and to labels with a pyramid. For comparison: a plain read of the inputs,
and a plain write of the labels. ``--compare`` also runs the volume in memory and checks that the labels are the same
bits.

    python benchmarks/bench_blockwise.py --size 512 --folder /tmp/blocks
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import zarr

import topo_dask
from topo_dask.admission import plan_volume
from topo_dask.blocks.memory import PROCESS_BYTES
from topo_dask.machine import usable_cores
from topo_dask.readiness import make_ready
from topo_dask.synthetic import Tiling, blobs, noisy
from topo_dask.targets import direct_flow


def make_inputs(folder: Path, size: int) -> tuple[Path, Path]:
    semantic, flow = folder / f"semantic{size}.zarr", folder / f"flow{size}.zarr"
    if not flow.exists():
        labels = blobs((128, 128, 128), 75, seed=0)
        vectors = noisy(direct_flow(labels), 0.1, seed=0).astype(np.float16)
        tiling = Tiling(labels, vectors, (size, size, size))
        tiling.write_zarr(semantic, flow, dtype="float16", chunks=(64, 64, 64))
    return semantic, flow


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def plain_input_output(semantic: zarr.Array, flow: zarr.Array, labels: zarr.Array, folder: Path) -> float:
    start = time.perf_counter()
    out = zarr.create_array(folder / "plain.zarr", shape=labels.shape, chunks=labels.chunks, dtype="i4", overwrite=True)
    for z in range(0, labels.shape[0], 128):
        semantic[..., z : z + 128, :, :]
        flow[:, z : z + 128]
        out[z : z + 128] = labels[z : z + 128]
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--block", type=int, default=128)
    parser.add_argument("--halo", type=int, default=32)
    parser.add_argument("--group", type=int, default=1)
    parser.add_argument("--flow-error", type=float, default=0.0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--compare", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    semantic, flow = make_inputs(args.folder, args.size)
    opened = zarr.open_array(semantic, mode="r")
    if opened.ndim == 3:
        raise SystemExit("the semantic array needs a class axis")
    config = {"blob": {"group": args.group, "n_steps": 100, "convergence_radius": 4.0, "min_size": 50}}
    options = {
        "class_names": ["blob"],
        "class_config": config,
        "flow_error_threshold": args.flow_error,
        "block_shape": (args.block,) * 3,
        "halo": args.halo,
    }
    plan = plan_volume(semantic, flow, **options)
    make_ready((config for _, config in plan.classes.values()), plan.flow.dtype, plan.factors)  # else it is timed too
    voxels, took, found = args.size**3, {}, {}
    for name, layout in (("labels alone", None), ("with a pyramid", "0.5")):
        start = time.perf_counter()
        found[name] = topo_dask.segment_volume(
            semantic,
            flow,
            args.folder / f"labels{args.size}-{layout or 'alone'}.zarr",
            **options,
            ome_zarr=layout,
            overwrite=True,
            progress=False,
        )["blob"]
        took[name] = time.perf_counter() - start
        print(f"{name:17} {took[name]:8.1f} s  {took[name] / voxels * 1e9:7.1f} ns/voxel")
    projected = PROCESS_BYTES + usable_cores() * plan.task_mem + plan.pages_mem + plan.recent_mem
    print(f"peak memory       {peak_bytes() / 2**20:8.0f} MiB of {projected / 2**20:.0f} MiB projected")
    plain = plain_input_output(opened, zarr.open_array(flow, mode="r"), found["labels alone"], args.folder)
    print(f"plain read, write {plain:8.1f} s  {plain / voxels * 1e9:7.1f} ns/voxel")
    if args.compare:
        mask, vectors = opened[0] > 0.5, zarr.open_array(flow, mode="r")[:].astype(np.float32)
        how = {"convergence_radius": 4.0, "group": args.group, "flow_error_threshold": args.flow_error}
        topo_dask.postprocess_single(mask[:64], vectors[:, :64], 1, **how)  # compile
        start = time.perf_counter()
        held = topo_dask.postprocess_single(mask, vectors, 100, **how)
        seconds_held = time.perf_counter() - start
        print(f"in memory         {seconds_held:8.1f} s  {seconds_held / voxels * 1e9:7.1f} ns/voxel")
        for name, seconds in took.items():
            print(f"{name}: {seconds / (seconds_held + plain):.2f} x the sum of in memory and plain")
        print(f"equal             {all(np.array_equal(held, labels[:]) for labels in found.values())}")


if __name__ == "__main__":
    main()
