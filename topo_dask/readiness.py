"""Kernels compiled before a run begins, in every process that will do its tasks.

Otherwise the first task of each worker would compile, which takes seconds: each stage would seem slow at first, and a
worker that cannot run the code at all would fail in the middle of the run.
"""

import asyncio
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np

from .blocks.geometry import BlockGrid, Triple
from .config import ClassConfig
from .kernels.pyramid import coarse_shape
from .plan import Recipe, plan_stages
from .stages.job import CoarserLevel, Job
from .stores.allocation import keep_freed_memory
from .stores.pages import Pages
from .stores.volumes import Foreground, Output, Source, StoredFlow
from .surroundings import active_client, shares_memory
from .workers import ask_workers

_SHAPE, _BLOCK = (48, 6, 6), (6, 6, 6)
_STEPS = 40  # enough for particles to leave the page of their block, and ask for another


def make_ready(configs: Iterable[ClassConfig], flow_dtype: Any, pyramid: tuple[Triple, ...] = ()) -> None:
    """Compile the kernels that the classes of a run need, on all workers of the active cluster or in this process.

    Parameters
    ----------
    configs : iterable of ClassConfig
        Parameters of the classes. Each combination of the parameters that decide on the stages is run once.
    flow_dtype : dtype
        Type of the stored flow.
    pyramid : tuple of tuple of 3 int
        Voxels of each level of the output for one of the next.

    Notes
    -----
    It takes no time in a process that was made ready before. Processes that Dask's own scheduler starts, and workers
    that join later, compile in their first tasks, or read from the cache what other processes have compiled.

    Examples
    --------
    >>> make_ready([ClassConfig(group=2)], "float16")
    """
    kinds = {_kind(config) for config in configs}
    arguments = sorted(kinds, key=repr), np.dtype(flow_dtype).newbyteorder("=").str, pyramid
    if active_client() is not None:
        for answer in ask_workers(_beside_the_loop, *arguments).values():
            if isinstance(answer, Exception):
                raise answer
    elif shares_memory():
        _try_all(*arguments)


def _kind(config: ClassConfig) -> tuple[int, str | None, bool]:
    return config.group, config.merge, config.flow_error_threshold > 0


async def _beside_the_loop(*arguments: Any) -> None:
    # In a thread: the scheduler takes a worker whose event loop waits for a compiler for dead.
    await asyncio.to_thread(_try_all, *arguments)


def _try_all(kinds: Iterable[tuple[int, Any, bool]], flow_dtype: str, pyramid: tuple[Triple, ...]) -> None:
    keep_freed_memory()
    for kind in kinds:
        _try_once(kind, flow_dtype, pyramid)


@cache
def _try_once(kind: tuple[int, Any, bool], flow_dtype: str, pyramid: tuple[Triple, ...]) -> None:
    # Runs all stages over a few blocks in memory, whose noise is such that every case of every stage occurs.
    group, merge, has_limit = kind
    config = ClassConfig(
        group=group,
        merge=merge,
        n_steps=_STEPS,
        convergence_radius=2.0,
        min_size=2,
        min_fragment_ratio=0.5,
        flow_error_threshold=1e9 if has_limit else 0.0,
    )
    rng = np.random.default_rng(0)
    flow = rng.normal(0, 1, (3, *_SHAPE))
    flow[0, : _SHAPE[0] // 2] = 1
    # Numbers below 0 would become very large in an unsigned type.
    flow = (np.abs(flow) if np.dtype(flow_dtype).kind in "bu" else flow).astype(flow_dtype)
    shape, levels = _SHAPE, []
    for factors in pyramid:
        shape = coarse_shape(shape, factors)
        levels.append(CoarserLevel(factors, Output(np.zeros(shape, np.int32))))
    # Particles of the first planes end beyond a gap, a wide or a narrow one; and one voxel is far from all others.
    mask = rng.random(_SHAPE) < 0.7
    mask[4:16] = mask[19] = mask[-12:] = False
    mask[-1, 0, 0] = True
    grid = BlockGrid(_SHAPE, _BLOCK)
    job = Job(
        name="compilation",
        grid=grid,
        config=config,
        foreground=Foreground(Source(mask, "semantic")),
        flow=StoredFlow(Source(flow, "flow", slice(0, 3)), pages=Pages(1 << 20)),
        output=Output(np.zeros(_SHAPE, np.int32)),
        levels=tuple(levels),
    )
    plan = plan_stages(Recipe.of(config, table=True), tiers=grid.tiers, pyramid=pyramid)
    for stage in (*plan.stages, *plan.writers):
        for key in stage.keys_left(job):
            stage.work(job, key)
