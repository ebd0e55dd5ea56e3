"""The tracking kernel alone, on one core: time per particle and step, against an Euler integration in NumPy.

Blobs at 17 % foreground, direct flow with noise, and a vector of unit length at every voxel: no particle comes to rest,
so that every step is taken. The NumPy version is vectorised over the particles; the end points must be the same bits.
Times are medians of processor time.

    python benchmarks/bench_tracking.py
"""

import argparse
import os
import statistics
import time

import numpy as np

from topo_dask.kernels.tracking import advance, region_of, start_particles
from topo_dask.synthetic import blobs, noisy
from topo_dask.targets import direct_flow


def euler(flow: np.ndarray, positions: np.ndarray, n_steps: int) -> np.ndarray:
    """Euler integration as one would write it in NumPy."""
    last = np.array(flow.shape[1:]) - 1.0
    for _ in range(n_steps):
        z, y, x = positions.astype(np.int64).T
        positions = np.clip(positions + flow[:, z, y, x].T, 0, last)
    return positions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    shape = (args.size,) * 3
    labels = blobs(shape, round(600 * (args.size / 256) ** 3), seed=0)
    vectors = noisy(direct_flow(labels), 0.1, seed=0)
    resting = ~vectors.any(axis=0)
    directions = np.random.default_rng(0).standard_normal((3, np.count_nonzero(resting)))
    vectors[:, resting] = directions / np.linalg.norm(directions, axis=0)
    starts = start_particles(labels > 0, (0, 0, 0))[0]
    moves = len(starts) * args.steps
    for dtype in ("float16", "float32", "float64"):
        flow = vectors.astype(dtype)
        region = region_of(flow, (0, 0, 0), 1.0)
        seconds = []
        for _ in range(args.repeats + 1):  # the first compiles
            positions, left = starts.copy(), np.full(len(starts), args.steps, np.int64)
            start = time.process_time()
            advance(region, shape, positions, left)
            seconds.append(time.process_time() - start)
        start = time.process_time()
        expected = euler(flow.astype(np.promote_types(dtype, np.float32)), starts, args.steps)
        slow = time.process_time() - start
        median = statistics.median(seconds[1:])
        print(
            f"{dtype}: {median / moves * 1e9:.2f} ns per particle and step; "
            f"NumPy {slow / moves * 1e9:.1f}; ratio {slow / median:.1f}; equal {np.array_equal(positions, expected)}; "
            f"first call {seconds[0] - median:.1f} s more"
        )


if __name__ == "__main__":
    main()
