"""Runs in memory: NumPy in, NumPy out; the same stages and kernels work on slabs of the arrays, on all cores."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blocks.geometry import BlockGrid, Box, Triple, triple
from .config import ClassConfig
from .execute import run, threads
from .kernels.labels import coordinates_of
from .kernels.sinks import CellGrid, cells_of
from .kernels.tracking import advance
from .machine import usable_cores
from .plan import Recipe, plan_stages
from .stages.drop import Dropped
from .stages.job import Job
from .stages.settle import file_rows
from .stages.tabulate import instance_columns
from .stores.volumes import Foreground, HeldFlow, Output, Source

SLAB_VOXELS = 1 << 20
"""Least voxels of a slab: for a smaller one, starting its tasks costs more than it saves. Slabs of twice as many are
large enough: their memory is used again for the next slab, while larger pieces are given back to the system, which
clears them each time."""

SLAB_PLANES = 8
"""Least planes of a slab, where there are more slabs than the cores need: objects that cross a cut cost work."""


def slabs(shape: Triple, cores: int) -> BlockGrid:
    """Grid of slabs along z: small ones, and eight for each core if the volume is large enough."""
    depth, height, width = shape
    voxels = depth * height * width
    n = min(max(8 * cores, min(voxels // (2 * SLAB_VOXELS), depth // SLAB_PLANES)), voxels // SLAB_VOXELS, depth)
    return BlockGrid(shape, (max(1, -(-depth // max(1, n))), max(1, height), max(1, width)))


def _mask_name(threshold: float | None) -> str:
    return "sem_mask" if threshold is None else "semantic_pred"


def segment(
    recipe: Recipe,
    *,
    config: ClassConfig | None = None,
    mask: NDArray[Any] | None = None,
    flow: NDArray[Any] | None = None,
    labels: NDArray[Any] | None = None,
    threshold: float | None = None,
    name: str = "",
) -> tuple[NDArray[np.int32], Dropped]:
    """Labels of a recipe, from a mask and a flow or from labels, and what was dropped on the way.

    Errors name the class, if it has a name.
    """
    config = config or ClassConfig()
    source = Source(labels, "instances") if mask is None else Source(mask, _mask_name(threshold))
    out = np.zeros(source.shape, np.int32)
    if out.size == 0:
        return out, Dropped(foreground=False)
    job = Job(
        name=name,
        grid=slabs(source.shape, usable_cores()),
        config=config,
        foreground=None if mask is None else Foreground(source, threshold),
        flow=None if flow is None else HeldFlow(flow, config.step_size),
        labels=source if mask is None else None,
        output=Output(out),
    )
    plan = plan_stages(recipe, "labels" if mask is None else "held")
    run(job, (*plan.stages, plan.final), threads)
    return out, plan.dropped(job)


def tabulate(recipe: Recipe, labels: NDArray[Any], flow: NDArray[Any] | None) -> dict[str, NDArray[Any]]:
    """Table of the instances of labels in memory."""
    source = Source(labels, "instances")
    job = Job(
        name="",
        grid=slabs(source.shape, usable_cores()),
        config=ClassConfig(),
        flow=None if flow is None else HeldFlow(flow, 1.0),
        labels=source,
    )
    plan = plan_stages(recipe, "labels")
    run(job, plan.stages, threads)
    return instance_columns(job, drops=plan.drops)


def track(
    sem_mask: NDArray[Any], flow: NDArray[Any], n_steps: int, step_size: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Foreground voxels in raster order, and where they end."""
    whole = Box.whole(triple(sem_mask.shape, "sem_mask", at_least=0))
    mask = Foreground(Source(sem_mask, "sem_mask")).read(whole)
    coords = coordinates_of(np.flatnonzero(mask), mask.shape)
    positions = coords.astype(np.float64)
    if len(coords) == 0 or n_steps == 0:
        return coords, positions
    shape = Box.whole(mask.shape).stop
    held = HeldFlow(flow, step_size)
    steps_left = np.full(len(coords), n_steps, np.int64)
    parts = [slice(i, i + SLAB_VOXELS) for i in range(0, len(coords), SLAB_VOXELS)]
    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(lambda block: held.lay_out(block.write), slabs(shape, usable_cores())))
        region = held.region(Box.whole(shape))
        list(pool.map(lambda part: advance(region, shape, positions[part], steps_left[part]), parts))
    return coords, positions


def cluster(
    config: ClassConfig, coords: NDArray[np.int64], positions: NDArray[np.float64], shape: Triple
) -> NDArray[np.int32]:
    """Labels of the voxels whose end points are given; ValueError when a voxel occurs twice."""
    out = np.zeros(shape, np.int32)
    if len(coords):
        cells_of(positions, CellGrid.for_radius(shape, config.convergence_radius))  # errors name the caller's row
        job = Job(name="", grid=slabs(shape, usable_cores()), config=config, output=Output(out))
        file_rows(coords, positions, 0, job.grid, job.scratch)
        plan = plan_stages(Recipe.of(config), "rows")
        run(job, (*plan.stages, plan.final), threads)
    return out
