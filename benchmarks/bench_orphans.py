"""Orphan recovery: cost per block over the number of blocks; the cost has to stay flat.

Each block has one object and two single voxels that lose their labels to the size filter.

    python benchmarks/bench_orphans.py
"""

import sys
import time
from pathlib import Path

import numpy as np

from topo_dask.config import ClassConfig
from topo_dask.plan import Recipe
from topo_dask.stages.stage import Stage

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from blockwise import run_blocks


def main() -> None:
    unit = np.zeros((16, 16, 16), bool)
    unit[3:11, 3:11, 3:11] = unit[14, 14, 14] = unit[1, 14, 2] = True
    config = ClassConfig(group=3, n_steps=0, convergence_radius=2.0, min_size=5)
    real = Stage.run
    for n in (2, 4, 8, 12):
        spent = 0.0

        def run(self: Stage, job: object, key: str) -> None:
            nonlocal spent
            start = time.process_time()
            real(self, job, key)  # type: ignore[arg-type]
            spent += (time.process_time() - start) * (self.name == "orphans")

        Stage.run = run  # type: ignore[method-assign,assignment]
        mask = np.tile(unit, (n, n, n))
        flow = np.zeros((3, *mask.shape), np.float32)
        run_blocks(Recipe.of(config), (16, 16, 16), config=config, mask=mask, flow=flow)
        print(f"{n**3:5d} blocks: {spent / n**3 * 1e3:.2f} ms a block")


if __name__ == "__main__":
    main()
