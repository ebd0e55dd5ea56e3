"""The global link: time and peak memory over the number of sinks.

Sinks lie in groups of four, a voxel apart, and the groups are 8 voxels from one another; about half of the sinks are in
the tables of two blocks. The tables are files, as in a run, and the peak is that of the link alone.

    python benchmarks/bench_link.py --folder /tmp/link --sinks 10000000
"""

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
from bench_scaling import peak_mib

from topo_dask.blocks.geometry import BlockGrid
from topo_dask.config import ClassConfig
from topo_dask.kernels.fixed_point import FRACTION_BITS
from topo_dask.kernels.sinks import CellGrid
from topo_dask.stages.job import Job
from topo_dask.stages.link import link
from topo_dask.stores.scratch import FileScratch


def file_tables(job: Job, side: int) -> int:
    """File the sink tables of all blocks; returns how many rows they have."""
    cells = CellGrid.for_radius(job.grid.shape, job.config.convergence_radius)
    blocks, rows = list(job.grid), 0
    for i, block in enumerate(blocks):
        z = np.arange(side * i // len(blocks), min(side, side * (i + 1) // len(blocks) + 1)) * 8
        corner = np.stack(np.meshgrid(z, *[np.arange(side) * 8] * 2, indexing="ij"), axis=-1).reshape(-1, 3)
        points = np.concatenate([corner + offset for offset in ([0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1])])
        ids = np.ravel_multi_index(tuple(points.T), cells.shape)
        half = np.full((len(ids), 3), 1 << (FRACTION_BITS - 2), np.int64)
        job.scratch.put("track", block.key, ids=ids, counts=np.ones(len(ids), np.int64), sums=half)
        job.scratch.put("numbers", block.key)
        rows += len(ids)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="must not exist; removed in the end")
    parser.add_argument("--sinks", type=int, default=1_000_000)
    parser.add_argument("--tables", type=int, default=64)
    args = parser.parse_args()
    side = max(2, round((args.sinks / 4) ** (1 / 3)))
    shape = (8 * side, 8 * side, 8 * side)
    grid = BlockGrid(shape, (max(1, shape[0] // args.tables), *shape[1:]))
    job = Job("bench", grid, ClassConfig(convergence_radius=2.0), scratch=FileScratch(str(args.folder)))
    try:
        rows = file_tables(job, side)
        link(Job("warm", BlockGrid((8, 8, 8), (8, 8, 8)), ClassConfig()), 0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak of the link, not of making its tables
        before = peak_mib()
        start, processor = time.perf_counter(), time.process_time()
        link(job, 2)
        seconds, cpu = time.perf_counter() - start, time.process_time() - processor
    finally:
        shutil.rmtree(args.folder)
    print(f"{4 * side**3} sinks in {rows} rows: {seconds:.1f} s ({cpu:.1f} s CPU), {seconds / rows * 1e9:.0f} ns a row")
    print(f"peak {peak_mib() / 1024:.2f} GiB, of which {before / 1024:.2f} GiB before it began")


if __name__ == "__main__":
    main()
