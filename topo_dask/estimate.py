"""How long a run will take: some of its own blocks go through all stages, and the time of each stage is scaled up."""

import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from .admission import RunPlan
from .blocks.geometry import BlockGrid, Box, Triple
from .segment import segment_volume
from .stages.job import Job
from .stages.stage import Stage
from .stores.scratch import FileScratch
from .workers import check_workers_reach, resources

SAMPLE_VOXELS = 1 << 26
"""Most voxels of the sample, unless a single block has more."""


@dataclass(frozen=True)
class Estimate:
    """The time that a run is expected to take.

    Parameters
    ----------
    seconds : float
        Wall time of the whole run.
    blocks : int
        Blocks that may hold foreground.
    sample_blocks, sample_seconds
        Blocks that were timed, and their wall time.
    """

    seconds: float
    blocks: int
    sample_blocks: int
    sample_seconds: float


def estimate_run(plan: RunPlan) -> Estimate:
    """Time a few neighbouring blocks of a planned run, in a temporary folder, and scale their time to the whole.

    Blocks are chosen where most neighbours have stored foreground. They go through every stage, by the scheduler and
    with the parameters of the run: once to compile, and twice to be timed, of which the faster counts. A pass over the
    blocks is scaled by the rounds of its tasks. Global stages, and what is not a stage, are taken to last as long in
    the whole run. The inputs are only read.

    Parameters
    ----------
    plan : RunPlan
        See `topo_dask.admission.plan_volume`.

    Returns
    -------
    estimate : Estimate

    Raises
    ------
    OSError
        When a worker does not see the temporary folder, which is checked before anything is copied; or when a read or
        write fails.

    Notes
    -----
    Volumes whose foreground is unevenly dense take less than estimated, as the densest place is timed. Objects that the
    sample cuts are only tracked up to its border, beyond which no halo is read.

    Examples
    --------
    >>> import numpy as np, zarr
    >>> from topo_dask.admission import plan_volume
    >>> semantic = zarr.create_array({}, data=np.ones((1, 8, 8, 32), np.float32), chunks=(1, 8, 8, 8))
    >>> flow = zarr.create_array({}, data=np.full((3, 8, 8, 32), 0.5, np.float32), chunks=(3, 8, 8, 8))
    >>> plan = plan_volume(semantic, flow, class_names=["nuc"], resolution_nm=32, block_shape=(8, 8, 8))
    >>> estimate = estimate_run(plan)
    >>> estimate.blocks, estimate.sample_blocks, estimate.seconds > 0
    (4, 2, True)
    """
    ids = {block.block_id for name in plan.classes for block in plan.foreground(name).stored_blocks(plan.grid)}
    if not ids:
        return Estimate(0.0, 0, 0, 0.0)
    sample = _choose(plan.grid, ids)
    n = len([block for block in plan.grid.touching(sample) if block.block_id in ids])
    with tempfile.TemporaryDirectory(prefix="topo_dask-estimate-") as name:
        folder = Path(name)
        check_workers_reach(FileScratch(name), "set TMPDIR to a folder that all workers share")
        inputs = [_copy(checked, sample, folder / f"{checked.name}.zarr") for checked in (plan.semantic, plan.flow)]
        _time(plan, inputs, folder)  # compiles
        seconds, passes = min(_time(plan, inputs, folder) for _ in range(2))  # other programs may be busy for a while
    workers, threads, _ = resources(None)
    return Estimate(_scale(seconds, passes, (len(ids), n), workers * threads), len(ids), n, seconds)


class Pass(NamedTuple):
    """A pass over the blocks of the sample: its number of tasks, and their wall time."""

    tasks: int
    seconds: float


def _scale(seconds: float, passes: Sequence[Pass], blocks: tuple[int, int], slots: int) -> float:
    # Time of the whole run, from that of the sample; `blocks` are those of the run and those of the sample. Tasks are
    # done in rounds, as many at once as there are slots.
    n, n_timed = blocks
    for tasks, took in passes:
        rounds, rounds_timed = -(-tasks * n // (n_timed * slots)), -(-tasks // slots)
        seconds += took * (rounds / rounds_timed - 1)
    return seconds


class _Clock:
    # Receives the reports of a run, and keeps its passes over blocks.

    def __init__(self) -> None:
        self.passes: list[Pass] = []

    def begin(self, job: Job, stage: Stage, n: int) -> Callable[[], None]:
        start, done = time.perf_counter(), 0

        def tick() -> None:
            nonlocal done
            done += 1
            if done == n and stage.over is not None:
                self.passes.append(Pass(n, time.perf_counter() - start))

        return tick


def _choose(grid: BlockGrid, ids: set[Triple]) -> Box:
    # A box of up to two blocks along each axis that begins with an occupied one; the box with most occupied blocks.
    edges = [1, 1, 1]
    for axis in (2, 1, 0):
        fits = 2 * prod(edges) * prod(grid.block_shape) <= SAMPLE_VOXELS
        edges[axis] = 2 if fits and grid.numblocks[axis] > 1 else 1
    reach = tuple(edge - 1 for edge in edges)

    def box_of(block_id: Triple) -> Box:
        last = tuple(min(a + r, n - 1) for a, r, n in zip(block_id, reach, grid.numblocks, strict=True))
        return Box(grid.block(block_id).write.start, grid.block((last[0], last[1], last[2])).write.stop)

    def occupied(block_id: Triple) -> int:
        return sum(block.block_id in ids for block in grid.touching(box_of(block_id)))

    return box_of(max(sorted(ids), key=occupied))


def _time(plan: RunPlan, inputs: Sequence[Any], folder: Path) -> tuple[float, list[Pass]]:
    clock, start = _Clock(), time.perf_counter()
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # the run itself will give them
        _segment(plan, inputs, folder, clock)
    return time.perf_counter() - start, clock.passes


def _segment(plan: RunPlan, inputs: Sequence[Any], folder: Path, clock: _Clock) -> None:
    names = [f"channel {i}" for i in range(plan.semantic.shape[0])]
    for name, (channel, _) in plan.classes.items():
        names[channel] = name
    semantic, flow = inputs
    segment_volume(
        semantic,
        flow,
        folder / "labels.zarr",
        class_names=names,
        class_config={name: config for name, (_, config) in plan.classes.items()},
        threshold=plan.threshold,
        block_shape=plan.grid.block_shape,
        halo=plan.grid.halo,
        memory_limit=plan.worker_mem,
        on_missing="background",
        ome_zarr=None if plan.pyramid is None else plan.pyramid.version,
        overwrite=True,
        progress=clock,
    )


def _copy(checked: Any, box: Box, path: Path) -> Any:
    import zarr

    array = checked.array
    copy = zarr.create_array(
        path,
        shape=(array.shape[0], *box.shape),
        chunks=tuple(min(c, s) for c, s in zip(array.chunks, (array.shape[0], *box.shape), strict=True)),
        dtype=array.dtype,
        compressors=array.compressors,
        filters=array.filters,
        fill_value=array.fill_value,
        zarr_format=array.metadata.zarr_format,
        overwrite=True,
    )
    # A row of chunks at a time: of several classes, the sample may be several GiB.
    chunks, sizes = copy.chunks[:3], copy.shape[:3]
    for first in product(*(range(0, size, chunk) for size, chunk in zip(sizes, chunks, strict=True))):
        row = [slice(a, min(a + n, size)) for a, n, size in zip(first, chunks, sizes, strict=True)]
        shifts = zip(row, (0, *box.start[:2]), strict=True)
        source = (slice(side.start + shift, side.stop + shift) for side, shift in shifts)
        copy[tuple(row)] = checked[(*source, slice(box.start[2], box.stop[2]))]
    return copy
