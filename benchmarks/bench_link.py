"""The global link: time and peak memory over the number of sinks.

Sinks lie in groups of four a voxel apart, the groups 8 voxels from one another, each sink in two blocks' tables.

    python benchmarks/bench_link.py --sinks 10000000
"""

import argparse
import resource
import time

import numpy as np

from topo_dask.blocks.geometry import BlockGrid
from topo_dask.config import ClassConfig
from topo_dask.kernels.fixed_point import FRACTION_BITS
from topo_dask.kernels.sinks import CellGrid
from topo_dask.stages.job import Job
from topo_dask.stages.link import link


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sinks", type=int, default=1_000_000)
    parser.add_argument("--tables", type=int, default=64)
    args = parser.parse_args()
    side = max(2, round((args.sinks / 4) ** (1 / 3)))
    shape = (8 * side, 8 * side, 8 * side)
    grid = BlockGrid(shape, (max(1, shape[0] // args.tables), *shape[1:]))
    job = Job("bench", grid, ClassConfig(convergence_radius=2.0))
    cells = CellGrid.for_radius(shape, 2.0)
    blocks = list(grid)
    for i, block in enumerate(blocks):
        z = np.arange(side * i // len(blocks), min(side, side * (i + 1) // len(blocks) + 1)) * 8
        corner = np.stack(np.meshgrid(z, *[np.arange(side) * 8] * 2, indexing="ij"), axis=-1).reshape(-1, 3)
        points = np.concatenate([corner + offset for offset in ([0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1])])
        ids = np.ravel_multi_index(tuple(points.T), cells.shape)
        half = np.full((len(ids), 3), 1 << (FRACTION_BITS - 2), np.int64)
        job.scratch.put("track", block.key, ids=ids, counts=np.ones(len(ids), np.int64), sums=half)
        job.scratch.put("numbers", block.key)
    link(Job("warm", BlockGrid((8, 8, 8), (8, 8, 8)), ClassConfig()), 0)
    rows = sum(len(job.scratch.get("track", block.key)["ids"]) for block in blocks)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    link(job, 2)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{4 * side**3} sinks in {rows} rows: {seconds:.1f} s, {seconds / rows * 1e9:.0f} ns a row")
    print(f"peak {peak / 2**20:.2f} GiB, of which the tables themselves {before / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
