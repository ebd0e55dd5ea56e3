"""Lazy arrays: dask or zarr in, dask out, over the same plans.

A lazy result has three kinds of tasks: *spill* writes a dask input to scratch, once; *prepare* runs all stages but the
last, once, on whatever computes the task itself (threads, processes or a cluster); and one task for each block looks up
the labels of that block. Scratch has a record of what is done, so that computing another block later repeats nothing.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from .blocks.geometry import BlockGrid, Triple, triple
from .blocks.memory import PAGES_MEM, RECENT_MEM
from .census import first_lost, take_census
from .config import ClassConfig
from .doubts import warn_of_mask, warn_of_prediction
from .execute import Executor, run
from .leases import open_scratch
from .plan import Plan, Recipe, plan_stages
from .spilled import Opaque, as_declared, out_of_reach, spill
from .stages.job import Job
from .stages.relabel import final_labels
from .stages.settle import PARTS, sort_rows
from .stages.stage import EVERY, Stage
from .stages.tabulate import instance_columns
from .stages.trace import rows_of, trace
from .stores.checked import CheckedArray
from .stores.inputs import absolute_node
from .stores.pages import Pages
from .stores.places import Place
from .stores.recent import RecentReads
from .stores.scratch import AbsentBundleError, DamagedBundleError, FileScratch, find
from .stores.volumes import Foreground, Source, StoredFlow
from .surroundings import ambient, compute, turn
from .workers import check_workers_reach, check_workers_see, resources

Array = Any

_ARGUMENTS = {"mask": "sem_mask", "labels": "instances", "flow": "flow"}
"""The caller's names of the arrays, for messages."""

LEAST_BLOCK, MOST_GROWN = 64**3, 128**3
"""Voxels. Blocks grow from the chunks to the first number: smaller ones are not worth a task. A block thinner than its
halos on both sides reads several times what it holds: it grows along that axis, up to the second number."""


@dataclass(frozen=True)
class Options:
    """Keyword-only arguments of the public functions for lazy arrays."""

    block_shape: Sequence[int] | None = None
    halo: int | Sequence[int] | None = None
    scratch: Place | None = None


def _is_dask(array: object) -> bool:
    return "dask.array" in sys.modules and isinstance(array, sys.modules["dask.array"].Array)


def is_stored(array: object) -> bool:
    """Whether an array is a zarr array, which is read in place."""
    return "zarr" in sys.modules and isinstance(array, sys.modules["zarr"].Array)


def is_lazy(array: object) -> bool:
    """Whether an array is a dask or a zarr array."""
    return _is_dask(array) or is_stored(array)


def choose_blocks(options: Options, arrays: Sequence[Array], shape: Triple) -> BlockGrid:
    """Blocks of the result: those asked for, else blocks that grow from the chunks of the first lazy array.

    The chunks are doubled along their shortest axis until a block is worth a task, and not thinner than its halos.
    """
    halo = triple(16 if options.halo is None else options.halo, "halo", at_least=0)
    if options.block_shape is not None:
        return BlockGrid(shape, triple(options.block_shape, "block_shape"), halo)
    chunks = next(getattr(array, "chunksize", None) or array.chunks for array in arrays if is_lazy(array))[-3:]
    block = [max(1, min(int(c), s)) for c, s in zip(chunks, shape, strict=True)]
    while growing := [(b, k) for k, (b, s) in enumerate(zip(block, shape, strict=True)) if b < s]:
        shortest, axis = min(growing)
        thin = shortest < 2 * halo[axis] and 2 * np.prod(block) <= MOST_GROWN
        if np.prod(block) >= LEAST_BLOCK and not thin:
            break
        block[axis] *= 2
    return BlockGrid(shape, (block[0], block[1], block[2]), halo)


def _stored(
    arrays: Mapping[str, Array],
    names: Mapping[str, str],
    scratch: FileScratch,
    channels: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Zarr arrays as they are, and delayed ones for the others, which a task will spill; `names` are for messages.

    If an array has an entry in `channels`, only these channels are spilled.
    """
    import dask
    import dask.array as da

    found, deferred = dict[str, Any](), dict[str, Any]()
    for key, array in arrays.items():
        if is_stored(array):
            found[key] = CheckedArray(absolute_node(array), names[key], "background")
        else:
            whole = as_declared(array if _is_dask(array) else da.from_array(array), names[key])
            deferred[key] = whole[list(channels[key])] if key in channels else whole
    if deferred:
        carrier, key = Opaque({names[key]: array for key, array in deferred.items()}), f"spill-{uuid4().hex}"
        spilled = dask.delayed(spill, pure=True)(carrier, scratch, dask_key_name=key)
        found |= {key: spilled[names[key]] for key in deferred}
    return found


@dataclass(frozen=True)
class Prepared:
    """A job whose stages are done, and which blocks have something to look up; bool, a value for each block."""

    job: Job
    occupied: NDArray[np.bool_]


def prepare(
    job: Job,
    stages: Sequence[Stage],
    kind: str = "numbers",
    stored: Iterable[CheckedArray] = (),
    look: Callable[[], None] = lambda: None,
) -> Prepared:
    """Run stages that read some stored arrays, after a `look` at these; stages on record are not run again.

    Blocks that have a bundle of the given kind are occupied.

    Raises
    ------
    OSError
        When a worker does not see the files that this process sees, or a bundle was lost after it was filed.
    """
    from dask.utils import SerializableLock

    assert isinstance(job.scratch, FileScratch)
    # Two tasks that prepare the same job would file the same bits: the lock only saves the work. The turn ends after
    # the pool has been joined: until then its tasks may still run, after an error.
    with ExitStack() as stack, ambient(in_task=True) as executor, SerializableLock(job.scratch.url):
        check_workers_reach(job.scratch)
        for array in stored:
            check_workers_see(array.name, array.array)
        waited = False
        for stage in stages:
            if not stage.keys_left(job):
                take_census(job, stage, ())
                continue
            if not waited:  # not where all is done
                stack.enter_context(_turn_of(job))
                waited = True
                look()
            _work(job, stages, stage, executor)
        _check_kept(job, stages)
    occupied = np.zeros(job.grid.numblocks, np.bool_)
    for block in job.occupied(kind):
        occupied[block.block_id] = True
    return Prepared(job, occupied)


@contextmanager
def _turn_of(job: Job) -> Iterator[None]:
    # Frees the pages and reads of the flow that this job keeps, before the next job keeps its own.
    with turn():
        try:
            yield
        finally:
            if job.flow is not None:
                job.flow.release()


def _work(job: Job, stages: Sequence[Stage], stage: Stage, executor: Executor) -> None:
    try:
        run(job, (stage,), executor)
    except (OSError, KeyError) as error:
        _check_kept(job, stages, error)
        if isinstance(error, _LOSSES):
            raise _lost(job, f"stage {stage.name!r}", error) from error
        raise
    if left := stage.keys_left(job):  # a worker that joined after the check may file elsewhere
        raise _out_of_reach(job, f"stage {stage.name!r}, {stage.named(job, left[0])}: no record")


def _check_kept(job: Job, stages: Sequence[Stage], cause: Exception | None = None) -> None:
    if (lost := first_lost(job, stages)) is not None:
        raise _out_of_reach(job, f"bundle {lost} is lost") from cause


_LOSSES = AbsentBundleError, DamagedBundleError


def _lost(job: Job, where: str, error: AbsentBundleError | DamagedBundleError) -> OSError:
    # Their own messages advise to resume the run; a lazy array has to be made anew.
    state = "missing" if isinstance(error, AbsentBundleError) else "damaged"
    return _out_of_reach(job, f"{where}: bundle {error.args[0]} is {state}")


def _out_of_reach(job: Job, problem: str) -> OSError:
    assert isinstance(job.scratch, FileScratch)
    return OSError(out_of_reach(job.scratch, problem))


@dataclass(frozen=True)
class _Spec:
    # Everything that a job is made of except its inputs.
    grid: BlockGrid
    scratch: FileScratch
    config: ClassConfig
    name: str = ""  # of the class, if there are several
    channel: int = 0
    places: Mapping[str, int] = field(default_factory=dict)  # of the class in spilled arrays
    whole: bool = True  # whether the arrays hold the channels of all classes


def _make_job(spec: _Spec, stored: Mapping[str, Any]) -> Job:
    mask, flow, labels, threshold = (stored.get(key) for key in ("mask", "flow", "labels", "threshold"))
    of_mask, of_flow = (spec.places.get(key, spec.channel) for key in ("mask", "flow"))
    return Job(
        name=spec.name,
        grid=spec.grid,
        config=spec.config,
        foreground=None if mask is None else Foreground(_channel_of(mask, of_mask), threshold),
        flow=None if flow is None else _flow_of(flow, slice(3 * of_flow, 3 * of_flow + 3), spec),
        labels=None if labels is None else Source(labels, "instances"),
        scratch=spec.scratch.within(f"channel{spec.channel}"),  # the name of a class need not be a valid path
    )


def _flow_of(flow: Any, channels: slice, spec: _Spec) -> StoredFlow:
    # The memory of lazy arrays is not planned: an eighth of that of a process keeps what is likely to be read again.
    share = resources(None).memory // 16
    recent = RecentReads(flow, spec.grid, min(RECENT_MEM, share))
    return StoredFlow(Source(recent, "flow", channels), spec.config.step_size, Pages(min(PAGES_MEM, share)))


def _channel_of(mask: Any, channel: int) -> Source:
    channels = slice(channel, channel + 1) if mask.ndim == 4 else None
    return Source(mask, "sem_mask" if channels is None else "semantic_pred", channels)


def _prepared(spec: _Spec, stages: Sequence[Stage], stored: Mapping[str, Any], kind: str = "numbers") -> Prepared:
    arrays = (array for array in stored.values() if isinstance(array, CheckedArray))
    return prepare(_make_job(spec, stored), stages, kind, arrays, lambda: _warn_of_inputs(spec, stored))


def _warn_of_inputs(spec: _Spec, stored: Mapping[str, Any]) -> None:
    mask, flow = stored.get("mask"), stored.get("flow")
    if mask is None or flow is None:
        return
    of_mask, of_flow = (spec.places.get(key, spec.channel) for key in ("mask", "flow"))
    if mask.ndim == 3:
        warn_of_mask(mask, flow)
    elif of_mask == of_flow:
        names = "semantic_pred", "flow_pred"
        warn_of_prediction(mask, flow, {spec.name: of_mask}, stored["threshold"], names, whole=spec.whole)


def _block(prepared: Prepared, plan: Plan, block_id: Triple) -> NDArray[np.int32]:
    job, block = prepared.job, prepared.job.grid.block(block_id)
    if job.flow is not None:
        job.flow.release()
    try:
        if prepared.occupied[block_id]:
            return final_labels(job, block.key, plan.view, plan.drops)
    except _LOSSES as error:
        raise _lost(job, f"block {block.key}", error) from error
    if find(job.scratch, "track" if job.labels is None else "localise", block.key):
        raise _out_of_reach(job, f"block {block.key}: its numbers are missing")
    return np.zeros(block.write.shape, np.int32)


def _deferred_labels(spec: _Spec, plan: Plan, stored: Mapping[str, Any]) -> Any:
    import dask

    key = f"prepare-{spec.name or 'labels'}-{uuid4().hex}"
    job = dask.delayed(_prepared, pure=True)(spec, plan.stages, dict(stored), dask_key_name=key)
    return _over_grid(job, plan, spec.grid)


def _over_grid(job: Any, plan: Plan, grid: BlockGrid) -> Any:
    import dask.array as da

    chunks = tuple(
        tuple(min(b, s - i) for i in range(0, s, b)) or (0,) for s, b in zip(grid.shape, grid.block_shape, strict=True)
    )
    if 0 in grid.shape:
        return da.zeros(grid.shape, dtype=np.int32, chunks=chunks)
    meta = np.empty((0, 0, 0), np.int32)
    return da.map_blocks(_map_block, job, plan, chunks=chunks, dtype=np.int32, meta=meta, name=f"labels-{uuid4().hex}")


def _map_block(prepared: Prepared, plan: Plan, block_id: Triple | None = None) -> NDArray[np.int32]:
    assert block_id is not None
    return _block(prepared, plan, block_id)


def _chunked_like_input(labels: Any, options: Options, arrays: Sequence[Array]) -> Any:
    # Where no block shape is asked for, the result has the chunks of its first dask input.
    given = next((array for array in arrays if _is_dask(array)), None)
    return labels if options.block_shape is not None or given is None else labels.rechunk(given.chunks[-3:])


def segment_lazily(recipe: Recipe, options: Options, *, config: ClassConfig | None = None, **arrays: Array) -> Any:
    """Lazy labels of a recipe from `mask` and `flow`, or from `labels`."""
    config = config or ClassConfig()
    scratch = open_scratch(options.scratch)
    volume = arrays.get("mask", arrays.get("labels"))
    assert volume is not None
    grid = choose_blocks(options, list(arrays.values()), triple(tuple(volume.shape), "shape", at_least=0))
    stored = _stored(arrays, _ARGUMENTS, scratch)
    plan = plan_stages(recipe, "labels" if "labels" in arrays else "flow", grid.tiers)
    labels = _deferred_labels(_Spec(grid, scratch, config), plan, stored)
    return _chunked_like_input(labels, options, list(arrays.values()))


def tabulate_lazily(recipe: Recipe, options: Options, channel: int = 0, **arrays: Array) -> Any:
    """Delayed table of the instances of `labels`; if there is a `flow`, with the flow errors by channels of a class."""
    import dask

    scratch = open_scratch(options.scratch)
    grid = choose_blocks(options, list(arrays.values()), triple(tuple(arrays["labels"].shape), "shape", at_least=0))
    stored = _stored(arrays, _ARGUMENTS, scratch)
    spec = _Spec(grid, scratch, ClassConfig(), channel=channel)
    return dask.delayed(_tabulated, pure=True)(
        spec, plan_stages(recipe, "labels"), stored, dask_key_name=f"table-{uuid4().hex}"
    )


def _tabulated(spec: _Spec, plan: Plan, stored: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    return instance_columns(_prepared(spec, plan.stages, stored).job, drops=plan.drops)


def segment_classes_lazily(
    classes: Mapping[str, tuple[int, ClassConfig]], options: Options, semantic: Array, flow: Array, threshold: float
) -> dict[str, Any]:
    """Lazy labels of several classes; they share the spilled inputs, which hold channels of these classes only."""
    scratch = open_scratch(options.scratch)
    grid = choose_blocks(options, [semantic, flow], triple(tuple(semantic.shape[1:]), "shape", at_least=0))
    inputs, names = {"mask": semantic, "flow": flow}, {"mask": "semantic_pred", "flow": "flow_pred"}
    taken = sorted(channel for channel, _ in classes.values())
    channels = {"mask": taken, "flow": [3 * channel + axis for channel in taken for axis in range(3)]}
    whole = len(taken) == semantic.shape[0]
    stored = {**_stored(inputs, names, scratch, {} if whole else channels), "threshold": threshold}
    labels = {}
    for name, (channel, config) in classes.items():
        places = {key: taken.index(channel) for key, array in inputs.items() if not is_stored(array)}
        spec = _Spec(grid, scratch, config, name, channel, places, whole or is_stored(flow))
        deferred = _deferred_labels(spec, plan_stages(Recipe.of(config), tiers=grid.tiers), stored)
        labels[name] = _chunked_like_input(deferred, options, [semantic, flow])
    return labels


def track_lazily(config: ClassConfig, options: Options, mask: Array, flow: Array) -> tuple[Any, Any]:
    """Lazy voxels and end points, one chunk for each layer of blocks along z."""
    import dask
    import dask.array as da

    scratch = open_scratch(options.scratch)
    grid = choose_blocks(options, [mask, flow], triple(tuple(mask.shape), "shape", at_least=0))
    stored = _stored({"mask": mask, "flow": flow}, _ARGUMENTS, scratch)
    spec = _Spec(grid, scratch, config)
    key = f"prepare-positions-{uuid4().hex}"
    stages = (Stage("trace", trace, EVERY, moves=True, products=("ends",)),)
    prepared = dask.delayed(_prepared, pure=True)(spec, stages, stored, "ends", dask_key_name=key)
    layers = [dask.delayed(_layer, nout=2)(prepared, layer) for layer in range(grid.numblocks[0])]
    shape = (np.nan, 3)
    coords = [da.from_delayed(layer[0], shape, np.int64) for layer in layers]
    ends = [da.from_delayed(layer[1], shape, np.float64) for layer in layers]
    if not layers:
        return da.zeros((0, 3), dtype=np.int64), da.zeros((0, 3), dtype=np.float64)
    return da.concatenate(coords, allow_unknown_chunksizes=True), da.concatenate(ends, allow_unknown_chunksizes=True)


def _layer(prepared: Prepared, layer: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    job = prepared.job
    if job.flow is not None:
        job.flow.release()
    rows = np.argwhere(prepared.occupied[layer]).tolist()
    try:
        return rows_of(job, [job.grid.block((layer, y, x)) for y, x in rows])
    except _LOSSES as error:
        raise _lost(job, f"layer {layer} of blocks", error) from error


def _settled(spec: _Spec, stages: Sequence[Stage], rows: Opaque) -> Prepared:
    import dask

    job = _make_job(spec, {})
    assert isinstance(job.scratch, FileScratch)
    pairs = list(zip(*(array.to_delayed().ravel() for array in rows.arrays), strict=True))
    if left := _unsorted(job, len(pairs)):
        sort = dask.delayed(sort_rows, pure=False)
        with ambient(in_task=True):  # on a cluster, the same cluster computes this too
            check_workers_reach(job.scratch)
            compute(*(sort(*pairs[part], part, job.grid, job.scratch) for part in left))
        if left := _unsorted(job, len(pairs)):
            raise _out_of_reach(job, f"chunk {left[0]} of fg_coords: no record")
    return prepare(job, stages)


def _unsorted(job: Job, parts: int) -> list[int]:
    filed = job.scratch.keys(PARTS)
    return [part for part in range(parts) if str(part) not in filed]


def cluster_lazily(
    config: ClassConfig, options: Options, fg_coords: Array, final_positions: Array, shape: Triple
) -> Any:
    """Lazy labels from rows of voxels and rows of end points, in matching chunks."""
    import dask
    import dask.array as da

    scratch = open_scratch(options.scratch)
    rows = [
        as_declared(a, name).rechunk({1: 3}) if _is_dask(a) else da.from_array(a)
        for a, name in ((fg_coords, "fg_coords"), (final_positions, "final_positions"))
    ]
    if rows[0].numblocks[0] != rows[1].numblocks[0]:
        raise ValueError(
            f"fg_coords and final_positions must have matching chunks, got {rows[0].numblocks[0]} and "
            f"{rows[1].numblocks[0]} of them along the first axis"
        )
    chosen = tuple(max(1, min(n, 128)) for n in shape)
    grid = BlockGrid(shape, triple(chosen if options.block_shape is None else options.block_shape, "block_shape"))
    plan = plan_stages(Recipe.of(config), "rows")
    spec = _Spec(grid, scratch, config)
    key = f"prepare-labels-{uuid4().hex}"
    job = dask.delayed(_settled, pure=True)(spec, plan.stages, Opaque(rows), dask_key_name=key)
    return _over_grid(job, plan, grid)
