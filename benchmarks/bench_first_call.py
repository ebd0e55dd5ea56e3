"""What the first call in a process takes: without a cache of compiled kernels, and with one.

Each figure is the wall time of one `postprocess_single` on a small volume of touching bricks, in a process of its own,
without the import. "kernels" counts the functions that are compiled, including those that others call.

    python benchmarks/bench_first_call.py
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

CASES: dict[str, dict[str, Any]] = {
    "group 1": {"group": 1},
    "group 2 + flow error": {"group": 2, "flow_error_threshold": 0.4},
    "group 3": {"group": 3},
    "group 3, merge adjacent": {"group": 3, "merge": "adjacent"},
    "group 3, agglomerate": {"group": 3, "merge": "agglomerate"},
    "group 3, agglomerate + flow error": {"group": 3, "merge": "agglomerate", "flow_error_threshold": 0.4},
}


def call(options: dict[str, Any]) -> None:
    import numpy as np
    from numba.core import event

    import topo_dask

    shape, brick = (40, 40, 40), np.array([9, 10, 20]).reshape(3, 1, 1, 1)
    at = np.indices(shape)
    flow = (brick - 1) / 2 - at % brick
    flow = flow / np.maximum(np.linalg.norm(flow, axis=0), 1) + np.random.default_rng(0).normal(0, 0.3, at.shape)
    mask, flow = at[0] < 36, flow.astype(np.float32)
    with event.install_recorder("numba:compile") as recorder:
        start = time.perf_counter()
        topo_dask.postprocess_single(mask, flow, 20, **options)
        took = time.perf_counter() - start
    print(took, sum(found.is_end for _, found in recorder.buffer))


def fresh(name: str, cache: str) -> list[str]:
    command = [sys.executable, __file__, "--case", name]
    environment = {**os.environ, "XDG_CACHE_HOME": cache}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, help="the call itself, in this process: seconds and kernels")
    if (case := parser.parse_args().case) is not None:
        call(CASES[case])
        return
    print(f"{'':<34} without cache  kernels  with cache")
    for name in CASES:
        with tempfile.TemporaryDirectory() as cache:
            first, compiled = fresh(name, cache)
            again, _ = fresh(name, cache)
        print(f"{name:<34} {float(first):11.1f} s {compiled:>8} {float(again):9.2f} s", flush=True)


if __name__ == "__main__":
    main()
