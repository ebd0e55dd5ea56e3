"""Runs any recipe block by block on NumPy arrays, with nothing of the volume held but what a task reads."""

from typing import Any

import numpy as np

from topo_dask.blocks.geometry import BlockGrid
from topo_dask.config import ClassConfig
from topo_dask.execute import Executor, run, serial
from topo_dask.plan import Recipe, plan_stages
from topo_dask.stages.job import Job
from topo_dask.stores.scratch import MemoryScratch, Scratch
from topo_dask.stores.volumes import Foreground, Output, Source, StoredFlow


def run_blocks(
    recipe: Recipe,
    block_shape: tuple[int, int, int],
    halo: tuple[int, int, int] = (0, 0, 0),
    *,
    config: ClassConfig | None = None,
    mask: np.ndarray | None = None,
    flow: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    scratch: Scratch | None = None,
    executor: Executor = serial,
    tiers: int | None = None,
) -> np.ndarray:
    config = config or ClassConfig()
    start: Any = labels if mask is None else mask
    out = np.zeros(start.shape, np.int32)
    job = Job(
        name="test",
        grid=BlockGrid(start.shape, block_shape, halo),
        config=config,
        foreground=None if mask is None else Foreground(Source(mask, "sem_mask")),
        flow=None if flow is None else StoredFlow(Source(flow, "flow", slice(0, 3)), config.step_size),
        labels=None if labels is None else Source(labels, "instances"),
        scratch=scratch or MemoryScratch(),
        output=Output(out),
    )
    tiers = job.grid.tiers if tiers is None else tiers
    plan = plan_stages(recipe, "labels" if mask is None else "flow", tiers)
    run(job, (*plan.stages, plan.final), executor)
    return out
