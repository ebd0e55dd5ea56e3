"""What ``topo-dask plan --estimate`` says, against what the run takes.

The inputs are those of ``bench_scaling.py``. Each estimate and each run has a cluster of its own, the one that the
command starts, and they take turns. A run is timed twice: in workers that have just been started, which read their
kernels from the cache, and once more in the same workers. The start of the cluster counts in neither.

    python benchmarks/bench_estimate.py --folder /tmp/estimate --size 512 --pairs 3
"""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

from bench_scaling import CONFIG, make_tile, repeat

import topo_dask
from topo_dask.admission import plan_volume
from topo_dask.cli.schedulers import Scheduling
from topo_dask.estimate import estimate_run

CASES: dict[str, dict[str, Any]] = {
    "group 1": {},
    "group 2 + flow error": {"group": 2, "flow_error_threshold": 0.4},
    "group 3, agglomerate": {"group": 3, "merge": "agglomerate"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--block", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    make_tile(args.folder)
    inputs = [args.folder / f"{name}.zarr" for name in ("semantic", "flow")]
    for path in inputs:
        repeat(path.with_name(f"{path.stem}-tile.zarr"), path, args.size)
    print(f"{'':22} estimate  new workers  the same workers  estimate against each")
    for case, more in CASES.items():
        how: dict[str, Any] = {"class_names": ["object"], "class_config": {"object": CONFIG | more}}
        how["block_shape"] = (args.block,) * 3
        for _ in range(args.pairs):
            with Scheduling("cluster", None, None, None).start():
                told = estimate_run(plan_volume(*inputs, **how)).seconds
            with Scheduling("cluster", None, None, None).start():
                taken = []
                for _ in range(2):
                    start = time.perf_counter()
                    output = args.folder / "labels.zarr"
                    topo_dask.segment_volume(*inputs, output, **how, overwrite=True, progress=False)
                    taken.append(time.perf_counter() - start)
            first, again = taken
            ratios = f"{told / first:.2f}  {told / again:.2f}"
            print(f"{case:22} {told:6.2f} s  {first:9.2f} s  {again:14.2f} s  {ratios}", flush=True)
    shutil.rmtree(args.folder)


if __name__ == "__main__":
    main()
