"""In memory on one core: the package against the straightforward NumPy version of tests/naive.py, in one run.

Blobs at 17 % foreground with direct flow, 100 steps; the same labels are asserted. The naive group 2 with flow error
takes minutes at 256.

    python benchmarks/bench_in_memory.py --size 256
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import topo_dask
from topo_dask.synthetic import blobs
from topo_dask.targets import direct_flow

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import naive


def timed(function: Any, *args: Any, **options: Any) -> tuple[np.ndarray, float]:
    start = time.perf_counter()
    found = function(*args, **options)
    return found, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
    size = args.size
    labels = blobs((size,) * 3, round(600 * (size / 256) ** 3), seed=0)
    mask, flow = labels > 0, direct_flow(labels)
    for name, options in {
        "group 1": {"group": 1},
        "group 2 + flow error": {"group": 2, "flow_error_threshold": 0.4},
    }.items():
        topo_dask.postprocess_single(mask[:8], flow[:, :8], 1, **options)  # compile
        seconds = [timed(topo_dask.postprocess_single, mask, flow, 100, **options)[1] for _ in range(3)]
        found = topo_dask.postprocess_single(mask, flow, 100, **options)
        expected, slow = timed(naive.postprocess_single, mask, flow, 100, **options)
        best = min(seconds)
        print(
            f"{name:<22}{best:7.2f} s {best / size**3 * 1e9:6.0f} ns/voxel; naive {slow:7.1f} s; "
            f"ratio {slow / best:6.1f}; equal {np.array_equal(found, expected)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
