"""Objects much larger than a block: time per particle of one large object against that of small ones.

Large: one ellipsoid in the middle of the volume, 1000 voxels across; its flow points at its centre, plus a tile of
smooth noise (normal, Gaussian filter of sigma 1.5, standard deviation 0.1), renormalised. It is computed and written
block by block from the voxels' coordinates. Small: a tile of 128^3 with 75 blobs, direct flow with the same noise,
repeated over the same volume. Both are written as zarr (uint8 mask, float16 flow, chunks of 64^3) and segmented with
the same parameters, in as many steps as particles of the large object need to arrive. On a machine with other work
processor time says more than wall time. ``--compare`` also segments both in memory and checks that the labels are the
same bits. It also counts, for one particle in a thousand, the steps until it stands still: such particles are finished,
so that most particles of small objects take few steps, and the time per step taken says what the blocks cost. With
``--restless`` the voxels in the middle, whose vectors would be 0, point somewhere too: particles do not come to rest,
and those of both kinds of object take nearly all steps.

    python benchmarks/bench_large_objects.py --folder /tmp/large
"""

import argparse
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from scipy.ndimage import gaussian_filter

import topo_dask
from topo_dask.blocks.geometry import BlockGrid, Box
from topo_dask.config import ClassConfig
from topo_dask.kernels.labels import coordinates_of
from topo_dask.kernels.tracking import advance, region_of
from topo_dask.machine import usable_cores
from topo_dask.readiness import make_ready
from topo_dask.synthetic import Tiling, blobs, noisy
from topo_dask.targets import direct_flow

TILE, CHUNK, NOISE, SAMPLE = 128, 64, 0.1, 1009
CLASS = {"group": 1, "step_size": 1.0, "convergence_radius": 4.0, "min_size": 50}


class StageTimes:
    """Seconds of each stage, as a run's progress tells them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last: tuple[str, float] | None = None

    def begin(self, _job: Any, stage: Any, _n: int) -> Any:
        """A stage begins, and the one before it has ended."""
        self.end()
        self._last = stage.name, time.perf_counter()
        return lambda: None

    def end(self) -> None:
        """The last stage has ended."""
        if self._last is not None:
            self.seconds[self._last[0]] = time.perf_counter() - self._last[1]


def noise_tile() -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = np.stack([gaussian_filter(rng.standard_normal((CHUNK,) * 3), 1.5, mode="wrap") for _ in range(3)])
    return (NOISE * smooth / smooth.std()).astype(np.float32)


def write_ellipsoid(folder: Path, axes: tuple[int, ...], shape: tuple[int, ...], restless: bool) -> None:
    """Mask and flow of an ellipsoid with these axes, written chunk by chunk."""
    options: dict[str, Any] = {"chunks": (1, CHUNK, CHUNK, CHUNK), "compressors": zarr.codecs.BloscCodec(cname="lz4")}
    mask = zarr.create_array(folder / "semantic.zarr", shape=(1, *shape), dtype="u1", **options)
    options["chunks"] = (3, CHUNK, CHUNK, CHUNK)
    flow = zarr.create_array(
        folder / "flow.zarr", shape=(3, *shape), dtype="f2", **options, config={"write_empty_chunks": True}
    )
    centre, noise = (np.array(shape) - 1) / 2, noise_tile()

    def write(box: Box) -> None:
        voxels = np.meshgrid(*map(np.arange, box.start, box.stop), indexing="ij", sparse=True)
        away = [c - v for c, v in zip(centre, voxels, strict=True)]
        inside = sum((a / (0.5 * n)) ** 2 for a, n in zip(away, axes, strict=True)) <= 1
        length = np.maximum(np.sqrt(sum(a * a for a in away)), 1.0)
        vectors = np.stack([np.broadcast_to(a / length, box.shape) for a in away]).astype(np.float32) + noise
        vectors /= np.sqrt((vectors**2).sum(axis=0))
        vectors[:, ~inside if restless else ~inside | (length <= 1.0)] = 0
        mask[(0, *box.slices)] = inside
        flow[(slice(None), *box.slices)] = vectors.astype(np.float16)

    with ThreadPoolExecutor(usable_cores()) as pool:
        for _ in pool.map(write, (block.write for block in BlockGrid(shape, (CHUNK,) * 3))):  # type: ignore[arg-type]
            pass


def write_blobs(folder: Path, shape: tuple[int, ...], restless: bool) -> None:
    labels = blobs((TILE,) * 3, 75, seed=0)
    vectors = noisy(direct_flow(labels), NOISE, seed=0, labels=labels if restless else None).astype(np.float16)
    tiling = Tiling(labels, vectors, shape)  # type: ignore[arg-type]
    tiling.write_zarr(folder / "semantic.zarr", folder / "flow.zarr", chunks=(CHUNK,) * 3)


def measure(folder: Path, args: argparse.Namespace) -> np.ndarray:
    times = StageTimes()
    start, processor = time.perf_counter(), time.process_time()
    labels = topo_dask.segment_volume(
        folder / "semantic.zarr",
        folder / "flow.zarr",
        folder / "labels.zarr",
        class_names=["object"],
        class_config={"object": {**CLASS, "n_steps": args.steps}},
        block_shape=(args.block,) * 3,
        halo=args.halo,
        ome_zarr=None,
        progress=times,
    )["object"]
    seconds, cpu = time.perf_counter() - start, time.process_time() - processor
    times.end()
    track = times.seconds["track"]
    mask = zarr.open_array(folder / "semantic.zarr", mode="r")
    particles = sum(int(np.count_nonzero(mask[0, z : z + CHUNK])) for z in range(0, mask.shape[1], CHUNK))
    found = np.array([seconds, track, cpu]) / particles
    show(folder.name, particles, int(labels[:].max()), found)
    return np.concatenate((found, compare(folder, labels, particles, args))) if args.compare else found


def compare(folder: Path, labels: zarr.Array, particles: int, args: argparse.Namespace) -> np.ndarray:
    mask = zarr.open_array(folder / "semantic.zarr", mode="r")[0] > 0
    flow = zarr.open_array(folder / "flow.zarr", mode="r")[:].astype(np.float32)
    start, processor = time.perf_counter(), time.process_time()
    held = topo_dask.postprocess_single(mask, flow, args.steps, **CLASS)
    seconds, cpu = time.perf_counter() - start, time.process_time() - processor
    found = np.array([seconds, np.nan, cpu]) / particles
    show("held", particles, int(held.max()), found)
    print(f"       {steps_taken(mask, flow, args.steps):11.1f} steps a particle until it stands still", flush=True)
    if not np.array_equal(held, labels[:]):
        raise SystemExit("the labels are not those of the volume in memory")
    return found


def steps_taken(mask: np.ndarray, flow: np.ndarray, n_steps: int) -> float:
    """Mean number of steps of a sample of the particles until they stand still, at most `n_steps`."""
    region = region_of(flow, (0, 0, 0), CLASS["step_size"])
    positions, taken = coordinates_of(np.flatnonzero(mask)[::SAMPLE], mask.shape).astype(np.float64), 0
    for _ in range(n_steps):
        before = positions.copy()
        advance(region, mask.shape, positions, np.ones(len(positions), np.int64))
        taken += np.count_nonzero((positions != before).any(axis=1))
    return taken / len(positions)


def show(name: str, particles: int, instances: int, found: np.ndarray) -> None:
    seconds, track, cpu = found * particles
    each = found * 1e9
    print(
        f"{name:6} {particles:11d} {instances:9d} {seconds:7.1f} {track:7.1f} {cpu:7.1f} {each[0]:9.0f} {each[2]:8.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="must not exist; removed in the end")
    parser.add_argument("--axes", type=int, nargs=3, default=[100, 1000, 1000], help="of the large object: z, y, x")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--block", type=int, default=128)
    parser.add_argument("--halo", type=int, default=16)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--restless", action="store_true", help="no vector of an object is 0")
    args = parser.parse_args()
    shape = tuple(-(-n // args.block) * args.block for n in args.axes)
    for dtype in ("float16", "float32"):  # what is compiled now is not timed
        make_ready([ClassConfig(**CLASS)], dtype)
    try:
        for name in ("small", "large"):
            (args.folder / name).mkdir(parents=True)
        write_blobs(args.folder / "small", shape, args.restless)
        write_ellipsoid(args.folder / "large", tuple(args.axes), shape, args.restless)
        print(f"volume {shape}, blocks of {args.block}^3, halo {args.halo}, {args.steps} steps, {usable_cores()} cores")
        print("         particles instances       s   track   CPU s  ns/part.   ns CPU")
        small, large = (measure(args.folder / name, args) for name in ("small", "large"))
        ratios = large / small
        print("large over small, per particle: {:.2f}, tracking alone {:.2f}, CPU {:.2f}".format(*ratios))
        if args.compare:
            print("the same in memory: {:.2f}, CPU {:.2f}".format(*ratios[[3, 5]]))
    finally:
        shutil.rmtree(args.folder)


if __name__ == "__main__":
    main()
