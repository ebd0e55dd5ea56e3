"""Lazy labels, and lazy tables of instances."""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import BlockGrid, Triple
from ..config import ClassConfig
from ..plan import Plan, Recipe, plan_stages
from ..stages.relabel import final_labels
from ..stages.tabulate import instance_columns
from ..stores.scratch import find
from .calls import later, set_up
from .jobs import Spec, prepare_job
from .options import Array, Options, chunked_like_input, is_stored
from .prepared import LOSSES, Prepared, lost_bundle, unreachable


def segment_lazily(recipe: Recipe, options: Options, *, config: ClassConfig | None = None, **arrays: Array) -> Any:
    """Lazy labels of a recipe from `mask` and `flow`, or from `labels` and perhaps `flow`, in this order."""
    scratch, grid, stored = set_up(options, arrays)
    plan = plan_stages(recipe, "labels" if "labels" in arrays else "flow", grid.tiers)
    labels = _deferred_labels(Spec(grid, scratch, config or ClassConfig()), plan, stored)
    return chunked_like_input(labels, options, list(arrays.values()))


def segment_classes_lazily(
    classes: Mapping[str, tuple[int, ClassConfig]], options: Options, semantic: Array, flow: Array, threshold: float
) -> dict[str, Any]:
    """Lazy labels of several classes; they share the spilled inputs, which hold channels of these classes only."""
    inputs, names = {"mask": semantic, "flow": flow}, {"mask": "semantic_pred", "flow": "flow_pred"}
    taken = sorted(channel for channel, _ in classes.values())
    channels = {"mask": taken, "flow": [3 * channel + axis for channel in taken for axis in range(3)]}
    whole = len(taken) == semantic.shape[0]
    scratch, grid, stored = set_up(options, inputs, names, {} if whole else channels)
    stored["threshold"] = threshold
    labels = {}
    for name, (channel, config) in classes.items():
        places = {key: taken.index(channel) for key, array in inputs.items() if not is_stored(array)}
        spec = Spec(grid, scratch, config, name, channel, places, whole or is_stored(flow))
        deferred = _deferred_labels(spec, plan_stages(Recipe.of(config), tiers=grid.tiers), stored)
        labels[name] = chunked_like_input(deferred, options, [semantic, flow])
    return labels


def tabulate_lazily(recipe: Recipe, options: Options, channel: int = 0, **arrays: Array) -> Any:
    """Delayed table of the instances of `labels`; if there is a `flow`, with the flow errors by channels of a class."""
    scratch, grid, stored = set_up(options, arrays)
    spec = Spec(grid, scratch, ClassConfig(), channel=channel)
    return later("table", _tabulated, spec, plan_stages(recipe, "labels"), stored)


def _tabulated(spec: Spec, plan: Plan, stored: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    return instance_columns(prepare_job(spec, plan.stages, stored).job, drops=plan.drops)


def _deferred_labels(spec: Spec, plan: Plan, stored: Mapping[str, Any]) -> Any:
    job = later(f"prepare-{spec.name or 'labels'}", prepare_job, spec, plan.stages, dict(stored))
    return over_grid(job, plan, spec.grid)


def over_grid(job: Any, plan: Plan, grid: BlockGrid) -> Any:
    """Lazy labels of a delayed `Prepared`, one task for each block."""
    import dask.array as da

    chunks = tuple(
        tuple(min(b, s - i) for i in range(0, s, b)) or (0,) for s, b in zip(grid.shape, grid.block_shape, strict=True)
    )
    if 0 in grid.shape:
        return da.zeros(grid.shape, dtype=np.int32, chunks=chunks)
    meta = np.empty((0, 0, 0), np.int32)
    return da.map_blocks(_block, job, plan, chunks=chunks, dtype=np.int32, meta=meta, name=f"labels-{uuid4().hex}")


def _block(prepared: Prepared, plan: Plan, block_id: Triple | None = None) -> NDArray[np.int32]:
    assert block_id is not None  # dask passes it
    job, block = prepared.job, prepared.job.grid.block(block_id)
    if job.flow is not None:
        job.flow.release()
    try:
        if prepared.occupied[block_id]:
            return final_labels(job, block.key, plan.view, plan.drops)
    except LOSSES as error:
        raise lost_bundle(job, f"block {block.key}", error) from error
    if find(job.scratch, "track" if job.labels is None else "localise", block.key):
        raise unreachable(job, f"block {block.key}: its numbers are missing")
    return np.zeros(block.write.shape, np.int32)
