"""In memory, NumPy in and labels out: time per voxel on one core and on all, extra memory, and the naive version.

A unit of 128^3 with blobs (17 % foreground, direct flow) is tiled to each size, so that all sizes have the same
density; 100 steps. Extra memory is the peak of the resident set beyond inputs and output, on all cores. ``--naive``
runs tests/naive.py on the same arrays too, and compares the labels; group 2 with flow error takes minutes there at 256.

With ``--kept`` the process keeps what it frees, so that only its first run asks the system for memory. A page is
cleared before the system gives it out, and on a virtual machine the host may have to find it first: at 128^3 pages that
were freed a moment ago are at hand, at 512^3 they are not. With ``--kept`` extra memory is not measured.

    python benchmarks/bench_in_memory.py --sizes 256 --naive
    python benchmarks/bench_in_memory.py --sizes 128 512
"""

import argparse
import ctypes
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from second_core import second_core

import topo_dask
from topo_dask.synthetic import blobs
from topo_dask.targets import direct_flow

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import naive

UNIT, OBJECTS = 128, 75
CASES: dict[str, dict[str, Any]] = {
    "1": {"group": 1},
    "1 + flow error": {"group": 1, "flow_error_threshold": 0.4},
    "2 + flow error": {"group": 2, "flow_error_threshold": 0.4},
    "3": {"group": 3},
    "3 + flow error": {"group": 3, "flow_error_threshold": 0.4},
}


def scene(size: int) -> tuple[np.ndarray, np.ndarray]:
    labels = blobs((UNIT,) * 3, OBJECTS, seed=0)
    copies = (size // UNIT,) * 3
    return np.tile(labels > 0, copies), np.tile(direct_flow(labels), (1, *copies))


def timed(function: Any, *args: Any, **options: Any) -> tuple[np.ndarray, float]:
    start = time.perf_counter()
    found = function(*args, **options)
    return found, time.perf_counter() - start


def keep_freed_memory() -> None:
    """Take all memory from the heap, and never give any back."""
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(-4, 0)  # M_MMAP_MAX
    mallopt(-1, -1)  # M_TRIM_THRESHOLD


def resident(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def best(cores: set[int], repeats: int, kept: bool, *args: Any, **options: Any) -> tuple[np.ndarray, float, int]:
    """Labels, seconds of the fastest run, and bytes at the peak of the last beyond inputs and labels."""
    os.sched_setaffinity(0, cores)
    seconds = []
    for _ in range(repeats):
        found = None
        if not kept:
            ctypes.CDLL(None).malloc_trim(0)  # what was freed before does not count
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = resident("VmRSS")
        found, took = timed(topo_dask.postprocess_single, *args, **options)
        seconds.append(took)
    return found, min(seconds), resident("VmHWM") - before - found.nbytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128], help=f"multiples of {UNIT}")
    parser.add_argument("--groups", nargs="+", choices=CASES, default=list(CASES), metavar="GROUP")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kept", action="store_true", help="keep freed memory from run to run")
    parser.add_argument("--naive", action="store_true", help="run the naive version too")
    args = parser.parse_args()
    print(f"what the machine gives to a second process: {second_core()}", flush=True)
    if args.kept:
        keep_freed_memory()
    cores = os.sched_getaffinity(0)
    print(f"size  group           1 core ns/voxel  {len(cores)} cores   ratio  extra bytes/voxel")
    for size in args.sizes:
        mask, flow = scene(size)
        for name in args.groups:
            topo_dask.postprocess_single(mask[:UNIT], flow[:, :UNIT], 1, **CASES[name])  # compile
            found, one, _ = best({min(cores)}, args.repeats, args.kept, mask, flow, 100, **CASES[name])
            found, all_cores, extra = best(cores, args.repeats, args.kept, mask, flow, 100, **CASES[name])
            figures = f"{one / size**3 * 1e9:15.1f} {all_cores / size**3 * 1e9:8.1f} {one / all_cores:7.2f}"
            beyond = "-" if args.kept else f"{extra / size**3:.1f}"
            print(f"{size:<5} {name:<15} {figures} {beyond:>18}", flush=True)
            if args.naive:
                os.sched_setaffinity(0, {min(cores)})
                expected, slow = timed(naive.postprocess_single, mask, flow, 100, **CASES[name])
                equal = np.array_equal(found, expected)
                print(f"      naive, one core: {slow:.1f} s, {slow / one:.0f} x as long; equal {equal}", flush=True)


if __name__ == "__main__":
    main()
