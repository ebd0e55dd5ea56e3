"""A run is checked before it works: inputs, parameters, blocks, and the memory that is projected and allowed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .blocks.geometry import BlockGrid, Triple, triple
from .blocks.memory import Footprint, allowed_per_task, check_memory, choose_block_shape
from .config import ClassConfig, Preset, finite_number, resolve_classes
from .plan import Plan, Recipe, plan_stages
from .stores.checked import CheckedArray, OnMissing
from .stores.inputs import open_input
from .stores.volumes import check_prediction, flow_dtype
from .surroundings import resources

DEFAULT_HALO = 16
"""Margin read around a block. A matter of speed: particles that go further page in what they need."""

MAX_CHUNK = 128
"""Edge of an output chunk, at most, where the caller leaves it to us."""

_SAFE_NAME = re.compile(r"(?!zarr\.json$)[A-Za-z0-9][A-Za-z0-9_.\- ]{0,99}", re.IGNORECASE)


@dataclass(frozen=True)
class RunPlan:
    """A run that has been checked and not begun.

    Parameters
    ----------
    grid : BlockGrid
        Blocks of the volume.
    classes : dict
        Class name to its channel and parameters.
    plans : dict
        Class name to its stages.
    chunks : tuple of 3 int
        Chunks of the output.
    task_mem, allowed_mem : int
        Projected and allowed bytes of a task.
    scratch_bytes, output_bytes : int
        Projected sizes on disk, uncompressed, if every voxel were foreground.
    """

    semantic: Any
    flow: Any
    grid: BlockGrid
    classes: dict[str, tuple[int, ClassConfig]]
    plans: dict[str, Plan]
    threshold: float
    chunks: Triple
    task_mem: int
    allowed_mem: int
    workers: int
    shared_channels: int

    @property
    def output_bytes(self) -> int:
        """Bytes of the labels before compression."""
        return 4 * int(np.prod(self.grid.shape)) * len(self.classes)

    @property
    def scratch_bytes(self) -> int:
        """Bytes of the intermediates before compression, if every voxel were foreground."""
        per_voxel = sum(8 if config.group > 1 else 4 for _, config in self.classes.values())
        return per_voxel * int(np.prod(self.grid.shape))


def plan_volume(
    semantic: Any,
    flow: Any,
    *,
    class_names: Sequence[str] | None = None,
    class_config: Mapping[str, Any] | None = None,
    resolution_nm: float | None = None,
    preset: Preset | None = None,
    threshold: float = 0.5,
    flow_error_threshold: float = 0.0,
    block_shape: Sequence[int] | None = None,
    halo: int | Sequence[int] | None = None,
    memory_limit: int | str | None = None,
    on_missing: OnMissing = "error",
    level: int | None = None,
) -> RunPlan:
    """Check a run and work out its blocks, stages and memory, without reading a voxel.

    Parameters and errors are those of `segment_volume`.

    Returns
    -------
    plan : RunPlan

    Examples
    --------
    >>> import zarr
    >>> semantic = zarr.create_array({}, shape=(1, 64, 64, 64), chunks=(1, 32, 32, 32), dtype="f4")
    >>> flow = zarr.create_array({}, shape=(3, 64, 64, 64), chunks=(3, 32, 32, 32), dtype="f4")
    >>> plan = plan_volume(semantic, flow, class_names=["nuc"], resolution_nm=32, block_shape=(32, 32, 32))
    >>> plan.grid.numblocks
    (2, 2, 2)
    """
    if on_missing not in ("error", "background"):
        raise ValueError(f"on_missing must be 'error' or 'background', got {on_missing!r}")
    semantic, voxel_size = open_input(semantic, "semantic", level)
    flow, _ = open_input(flow, "flow", level)
    check_prediction(semantic, flow)
    threshold = finite_number(threshold, "threshold")
    if resolution_nm is None and voxel_size is not None:
        resolution_nm = min(voxel_size)
    classes = resolve_classes(class_names, class_config, resolution_nm, semantic.shape[0], flow_error_threshold, preset)
    for name in classes:
        if not _SAFE_NAME.fullmatch(name):
            raise ValueError(
                f"class name {name!r} can not name an output array: use 1 to 100 letters, digits, '_', '-', '.' or "
                "blanks, the first a letter or digit"
            )
    if not classes:
        raise ValueError(f"no class to segment: class_config has no entry for any of {class_names!r}")
    shape = triple(tuple(semantic.shape[1:]), "semantic", at_least=0)
    margin = triple(DEFAULT_HALO if halo is None else halo, "halo", at_least=0)
    workers, threads, memory = resources(memory_limit)
    allowed = allowed_per_task(memory, threads)
    items = (semantic.dtype.itemsize, flow.dtype.itemsize, flow_dtype(flow.dtype).itemsize)
    # Classes in the same stored chunks share the read of the flow.
    shared = flow.shape[0] if len(classes) > 1 and (flow.shards or flow.chunks)[0] > 3 else 3
    footprint = Footprint(shape, margin, *items, shared)
    if block_shape is None:
        chunks = _default_chunks(shape, semantic)
        block = choose_block_shape(footprint, chunks, allowed)
    else:
        block = triple(block_shape, "block_shape")
        chunks = _chunks_within(block, shape)
    task_mem = check_memory(footprint, block, allowed, "choose a smaller block_shape or halo")
    grid = BlockGrid(shape, block, margin)
    return RunPlan(
        semantic=CheckedArray(semantic, "semantic", "background"),
        flow=CheckedArray(flow, "flow", on_missing),
        grid=grid,
        classes=classes,
        plans={
            name: plan_stages(Recipe.of(config, table=True), levels=grid.levels)
            for name, (_, config) in classes.items()
        },
        threshold=threshold,
        chunks=chunks,
        task_mem=task_mem,
        allowed_mem=allowed,
        workers=workers,
        shared_channels=shared,
    )


def _default_chunks(shape: Triple, semantic: Any) -> Triple:
    # The input's chunks, doubled where they are small, halved where they are large.
    chunks = []
    for size, chunk in zip(shape, semantic.chunks[-3:], strict=True):
        edge = max(1, min(int(chunk), size))
        while 2 * edge <= min(64, size):
            edge *= 2
        chunks.append(min(edge, MAX_CHUNK))
    return chunks[0], chunks[1], chunks[2]


def _chunks_within(block: Triple, shape: Triple) -> Triple:
    # Chunks that divide a block, so that two tasks never write one: a divisor of fair size, else the block itself.
    # Where one block covers the axis, anything goes.
    def edge(b: int, size: int) -> int:
        if b >= size or b <= MAX_CHUNK:
            return max(1, min(b, size, MAX_CHUNK))
        return next((c for c in range(MAX_CHUNK, MAX_CHUNK // 4, -1) if b % c == 0), b)

    z, y, x = (edge(b, size) for b, size in zip(block, shape, strict=True))
    return z, y, x
