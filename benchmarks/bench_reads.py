"""How many chunks of the flow are read and decoded for a block, over the volume and the number of workers.

Chunks are counted, nothing is timed: blocks and chunks of 128^3, halo 16, float16, 256 MiB of latest reads in each
process, all of it scaled down by 16 along each axis. All blocks take the same time, and a worker that has done its run
of blocks takes the next run. Workers are processes. The threads of a worker, each with a run of its own, share the
latest reads, and read one after the other. The count would be 1 if each chunk were read once; if nothing is shared it
is up to 27.

    python benchmarks/bench_reads.py
"""

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

from topo_dask.blocks.geometry import BlockGrid, block_id_of, z_order
from topo_dask.blocks.memory import RECENT_MEM
from topo_dask.cluster import _batches_of
from topo_dask.config import ClassConfig
from topo_dask.stages.job import Job
from topo_dask.stages.stage import EVERY, Stage
from topo_dask.stores.recent import RecentReads

BLOCK, HALO, SCALE = 128, 16, 16


class Counting:
    """Array of chunks as large as a block that counts how many of them its reads meet."""

    def __init__(self, size: int) -> None:
        self.dtype, self.shape, self.ndim = np.dtype(np.float16), (3, size, size, size), 4
        self.decoded = 0

    def __getitem__(self, index: tuple[slice, ...]) -> Any:
        edge = BLOCK // SCALE
        self.decoded += np.prod([-(-side.stop // edge) - side.start // edge for side in index[1:]])
        return np.empty([side.stop - side.start for side in index], self.dtype)


def runs(grid: BlockGrid, order: str, workers: int) -> Iterator[list[str]]:
    keys = [block.key for block in grid]
    if order == "z":
        keys.sort(key=lambda key: z_order(block_id_of(key)))
    if workers == 1:
        yield keys
    else:
        stage, job = Stage("track", lambda job, key: None, EVERY), Job("object", grid, ClassConfig())
        yield from map(list, _batches_of(keys, stage, job, workers))


def decoded(size: int, workers: int, threads: int, order: str) -> float:
    """Chunks decoded for a block, on average."""
    waiting = runs(BlockGrid((size,) * 3, (BLOCK,) * 3), order, workers * threads)
    grid = BlockGrid((size // SCALE,) * 3, (BLOCK // SCALE,) * 3, (HALO // SCALE,) * 3)
    arrays = [Counting(size // SCALE) for _ in range(workers)]
    recent = [RecentReads(array, grid, RECENT_MEM // SCALE**3) for array in arrays]
    left: list[list[str]] = [[] for _ in range(workers * threads)]
    while True:
        left = [mine or next(waiting, []) for mine in left]
        if not any(left):
            return sum(array.decoded for array in arrays) / len(grid)
        for thread, mine in enumerate(left):
            if mine:
                recent[thread % workers][(slice(0, 3), *grid.named(mine.pop(0)).read.slices)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--order", choices=["z", "raster"], default="z")
    args = parser.parse_args()
    clusters = (1, 1), (2, 1), (8, 1), (2, 4), (8, 4)
    print("chunks decoded for a block, by workers x threads")
    print("  size " + "".join(f"{f'{workers} x {threads}':>8}" for workers, threads in clusters))
    for size in args.sizes:
        found = [decoded(size, *cluster, args.order) for cluster in clusters]
        print(f"{size:6} " + "".join(f"{one:8.1f}" for one in found), flush=True)


if __name__ == "__main__":
    main()
