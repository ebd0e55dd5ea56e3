"""A run is checked before it begins: inputs, parameters, blocks, and projected memory against what is allowed."""

import errno
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from .blocks.geometry import DEFAULT_HALO, BlockGrid, Triple, triple
from .blocks.memory import (
    PAGES_MEM,
    RECENT_MEM,
    Footprint,
    allowed_per_task,
    check_memory,
    choose_block_shape,
    choose_chunks,
)
from .config import ClassConfig, Preset, Resolution, nothing_to_segment, resolve_classes, warn_of_edges
from .doubts import warn_of_prediction
from .given import finite_number
from .kernels.flow_types import used_dtype
from .placing import choose_resolution, place_labels, place_of_prediction, warn_of_scales
from .plan import Plan, Recipe, plan_stages, tracked_together
from .stores.checked import CheckedArray, OnMissing
from .stores.input_shapes import check_prediction
from .stores.inputs import open_prediction
from .stores.multiscales import VERSIONS, Multiscale
from .stores.parts import concurrent_reads, stored_in
from .stores.pyramids import Pyramid, Version
from .stores.space import Disk, disk_of
from .stores.volumes import Foreground, Source, track_bytes
from .warning import warn
from .workers import Resources, resources

BLOCKS_EACH = 4
"""Least number of blocks for each task that can run at a time, where the caller gives no block shape."""

MAX_CHUNK = 128
"""Largest edge of an output chunk, where the caller gives no block shape, and the volume is not flat."""

MIN_CHUNK_VOXELS = 64**3
"""Voxels of an output chunk of a flat volume, at least, where the volume has them: it may be longer for that."""

PACKED = 8
"""Size of scratch and output before compression over the size that is expected.

Measured over 128³ voxels, radius 1.5: 10 to 17 for dense tissue (flow noise 0.2 per component), and down to 2.5 for
sinks of pure noise.
"""

MANY_READS, MUCH_TO_READ = 64, 1 << 37
"""Number of blocks that read each chunk of an input, and bytes that they decode together, from which a run is slow."""

_SAFE_NAME = re.compile(r"(?!zarr\.json$)[A-Za-z0-9][A-Za-z0-9_.\- ]{0,99}", re.IGNORECASE)


@dataclass(frozen=True)
class RunPlan:
    """A run that has been checked and has not begun.

    Parameters
    ----------
    semantic, flow : CheckedArray
        The inputs.
    grid : BlockGrid
        Blocks of the volume.
    classes : dict
        Class name to its channel and parameters.
    plans : dict
        Class name to its stages.
    threshold : float
        Probability above which a voxel is foreground.
    chunks : tuple of 3 int
        Chunks of the output.
    pyramid : Pyramid, optional
        Levels of the output; None for plain arrays.
    worker_mem : int
        Bytes that a worker process may take.
    task_mem, allowed_mem : int
        Projected and allowed bytes of a task.
    global_mem : int
        Bytes that a global stage may take, which has a worker to itself. Its number of rows is known only when it
        begins; if there are too many, it is refused then (`check_rows`).
    pages_mem, recent_mem : int
        Bytes that a worker process may use to keep pages of the flow, and its latest reads: part of the memory that its
        tasks leave free.
    shared_channels : int
        Channels of the flow that a task reads at once: 3, or those of all classes that share the read.
    """

    semantic: Any
    flow: Any
    grid: BlockGrid
    classes: dict[str, tuple[int, ClassConfig]]
    plans: dict[str, Plan]
    threshold: float
    chunks: Triple
    pyramid: Pyramid | None
    worker_mem: int
    task_mem: int
    allowed_mem: int
    global_mem: int
    pages_mem: int
    recent_mem: int
    shared_channels: int

    @property
    def factors(self) -> tuple[Triple, ...]:
        """Voxels of each level of the output for one of the next."""
        return () if self.pyramid is None else self.pyramid.factors

    @property
    def output_bytes(self) -> int:
        """Bytes of the labels, of all their levels, before compression; divided by `PACKED`, what is expected."""
        shapes = [self.grid.shape] if self.pyramid is None else self.pyramid.shapes(self.grid.shape)
        return 4 * sum(prod(shape) for shape in shapes) * len(self.classes)

    @property
    def scratch_bytes(self) -> int:
        """Bytes of the intermediates before compression, if every voxel were foreground; see `output_bytes`."""
        return sum(map(self._scratch_bytes, self.classes)) * prod(self.grid.shape)

    def _scratch_bytes(self, name: str) -> int:
        # For each voxel: the number of its sink, and of its fragment where instances are split.
        return 8 if self.classes[name][1].group > 1 else 4

    def foreground(self, name: str) -> Foreground:
        """Foreground of a class."""
        channel = self.classes[name][0]
        return Foreground(Source(self.semantic, "semantic", slice(channel, channel + 1)), self.threshold)

    def expected_bytes(self) -> tuple[int, int]:
        """Bytes expected in scratch and in the output, for the blocks whose chunks of foreground are stored."""
        voxels = {
            name: sum(prod(block.write.shape) for block in self.foreground(name).stored_blocks(self.grid))
            for name in self.classes
        }
        scratch = sum(self._scratch_bytes(name) * n for name, n in voxels.items())
        output = self.output_bytes * sum(voxels.values()) // max(1, prod(self.grid.shape) * len(voxels))
        return scratch // PACKED, output // PACKED


def plan_volume(
    semantic: Any,
    flow: Any,
    *,
    class_names: Sequence[str] | None = None,
    class_config: Mapping[str, Any] | None = None,
    resolution_nm: Resolution | None = None,
    preset: Preset | None = None,
    threshold: float = 0.5,
    flow_error_threshold: float = 0.0,
    block_shape: Sequence[int] | None = None,
    halo: int | Sequence[int] | None = None,
    memory_limit: int | str | None = None,
    on_missing: OnMissing = "error",
    level: int | None = None,
    ome_zarr: Version | None = "0.5",
    image: Multiscale | None = None,
    recorded: Mapping[str, Any] | None = None,
    machine: Resources | None = None,
) -> RunPlan:
    """Check a run and work out its blocks, stages and memory, without reading a voxel.

    Parameters and errors are those of `segment_volume`, and three more. `image` is the multiscale image that the labels
    go to; it tells where they lie if the inputs do not. `recorded` is the record of the run that is resumed: its blocks
    and halo are used unless others are asked for, however much memory there is now. `machine` is what the run will
    have, where that is not what this process has.

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
    if ome_zarr not in (None, *VERSIONS):
        raise ValueError(f"ome_zarr must be one of {sorted(VERSIONS)}, or None for plain arrays; got {ome_zarr!r}")
    semantic, flow, place, place_of_flow = open_prediction(semantic, flow, level)
    check_prediction(semantic, flow)
    warn_of_scales(place, place_of_flow)
    placement = place_of_prediction(place, place_of_flow, resolution_nm)
    threshold = finite_number(threshold, "threshold")
    resolution_nm, voxel_size_nm = choose_resolution(resolution_nm, placement)
    classes = resolve_classes(class_names, class_config, resolution_nm, semantic.shape[0], flow_error_threshold, preset)
    if not classes:
        raise ValueError(nothing_to_segment(class_names, class_config))
    _check_names(classes)
    shape = triple(tuple(semantic.shape[1:]), "semantic", at_least=0)
    default = DEFAULT_HALO if recorded is None else recorded["halo"]
    margin = triple(default if halo is None else halo, "halo", at_least=0)
    have = machine or resources(memory_limit)
    allowed = allowed_per_task(have.memory, have.threads)
    items = semantic.dtype.itemsize, flow.dtype.itemsize, used_dtype(flow.dtype).itemsize, track_bytes(flow.dtype)
    shared = flow.shape[0] if tracked_together(flow, len(classes)) else 3
    footprint = Footprint(shape, margin, *items, shared, stored_in(semantic), stored_in(flow))
    tasks = BLOCKS_EACH * have.workers * have.threads
    block, chunks = _choose_blocks(block_shape, recorded, semantic, footprint, allowed, tasks)
    pyramid = None if ome_zarr is None else place_labels(ome_zarr, shape, placement, image, resolution_nm)
    if class_config is None:
        size = voxel_size_nm if pyramid is None else pyramid.placement.voxel_size_nm
        warn_of_edges(size, {name: one.convergence_radius for name, (_, one) in classes.items()})
    factors = () if pyramid is None else pyramid.factors
    remedy = "choose a smaller block_shape or halo" if recorded is None else "begin again with overwrite=True"
    memory, at_once = _choose_memory(have, footprint, block, remedy)
    grid = BlockGrid(shape, block, margin)
    _warn_of_reads(semantic, flow, grid)
    return RunPlan(
        semantic=CheckedArray(semantic, "semantic", "background", at_once=footprint.mask_reads_mem(block)),
        flow=CheckedArray(flow, "flow", on_missing, at_once=at_once),
        grid=grid,
        classes=classes,
        plans={
            name: plan_stages(Recipe.of(config, table=True), tiers=grid.tiers, pyramid=factors)
            for name, (_, config) in classes.items()
        },
        threshold=threshold,
        chunks=chunks,
        pyramid=pyramid,
        shared_channels=shared,
        **memory,
    )


def _check_names(names: Collection[str]) -> None:
    # Each name becomes that of a folder of the output, and must be valid on any file system.
    for name in names:
        if not _SAFE_NAME.fullmatch(name):
            raise ValueError(
                f"class name {name!r} cannot name an output array: use 1 to 100 letters, digits, '_', '-', '.' or "
                "blanks, the first a letter or digit"
            )
    if len({name.casefold() for name in names}) < len(names):
        raise ValueError(
            f"class names must differ in more than capitals, which not every file system tells apart, got {[*names]}"
        )


def _choose_blocks(
    block_shape: Sequence[int] | None,
    recorded: Mapping[str, Any] | None,
    semantic: Any,
    footprint: Footprint,
    allowed: int,
    tasks: int,
) -> tuple[Triple, Triple]:
    # Blocks and chunks: those asked for, else those of the run that is resumed, else the largest that fit.
    if recorded is not None:
        old = triple(recorded["block_shape"], "block_shape"), triple(recorded["chunks"], "chunks")
        if block_shape is None or triple(block_shape, "block_shape") == old[0]:
            return old
    if block_shape is None:
        chunks = choose_chunks(footprint, _default_chunks(footprint.shape, semantic), allowed)
        return choose_block_shape(footprint, chunks, allowed, tasks), chunks
    block = triple(block_shape, "block_shape")
    return block, _chunks_within(block, footprint.shape)


def _choose_memory(have: Resources, footprint: Footprint, block: Triple, remedy: str) -> tuple[dict[str, int], int]:
    # The bytes of a plan, and of the chunks of the flow that a task reads at a time: where memory is left, as many as
    # zarr would. MemoryError when a task would take more than it may. Where little is left, what is kept has two thirds
    # of it: without, large chunks are decoded once more for each block and page that has a part of them.
    allowed = allowed_per_task(have.memory, have.threads)
    task_mem = check_memory(footprint, block, allowed, remedy)
    needed, wanted = footprint.flow_reads_mem(block), footprint.unbounded_reads_mem(block, concurrent_reads())
    left = allowed - task_mem
    more = min(max(0, wanted - needed), max(left // 3, left - (PAGES_MEM + RECENT_MEM) // have.threads))
    left_over = have.threads * (left - more)
    found = {
        "worker_mem": have.memory,
        "task_mem": task_mem,
        "allowed_mem": allowed,
        "global_mem": allowed_per_task(have.memory, 1),
        "pages_mem": min(PAGES_MEM, left_over // 2),
        "recent_mem": min(RECENT_MEM, left_over // 2),
    }
    return found, needed + more


def _warn_of_reads(semantic: Any, flow: Any, grid: BlockGrid) -> None:
    for name, array, read in (("foreground", semantic, replace(grid, halo=(0, 0, 0))), ("flow", flow, grid)):
        z, y, x = array.chunks[-3:]
        times = read.reads_of((z, y, x))
        if times > MANY_READS and times * array.dtype.itemsize * prod(array.shape) > MUCH_TO_READ:
            warn(
                f"chunks of the {name} have the shape {tuple(array.chunks)}, and each is decoded up to {times:.0f} "
                f"times, for the blocks of {grid.block_shape} that need a part of it. This can take most of the time: "
                f"copy the {name} once into cubes of 64 to 128 voxels, see docs/inputs.md, or allow larger blocks"
            )


def warn_of_doubts(plan: RunPlan) -> None:
    """Read a few voxels, and warn of input that is probably not meant: scaled values, flow in another order."""
    channels = {name: channel for name, (channel, _) in plan.classes.items()}
    warn_of_prediction(plan.semantic, plan.flow, channels, plan.threshold)


def check_space(plan: RunPlan, scratch: str | None, output: str | None) -> None:
    """Raise OSError when less disk is free than scratch and output are expected to take.

    Parameters
    ----------
    plan : RunPlan
        The run.
    scratch, output : str, optional
        Paths; a URL is not checked.
    """
    disks = disk_of(scratch), disk_of(output)
    most = plan.scratch_bytes // PACKED, plan.output_bytes // PACKED
    if not _lack(most, disks):
        return
    expected = plan.expected_bytes()  # less, where chunks of the foreground were never written
    if lack := _lack(expected, disks):
        raise OSError(
            errno.ENOSPC,
            f"scratch {scratch} is expected to take {expected[0] / 2**30:.2f} GiB and output {output} "
            f"{expected[1] / 2**30:.2f} GiB, but {lack / 2**30:.2f} GiB are missing on the disk: make room, or pass "
            "scratch=<a path elsewhere>",
        )


def _lack(needs: Sequence[int], disks: Sequence[Disk | None]) -> int:
    # Bytes missing on the disk that lacks most; the two places may share a disk.
    lack = 0
    for disk in filter(None, disks):
        together = sum(need for need, other in zip(needs, disks, strict=True) if other and other.device == disk.device)
        lack = max(lack, together - disk.free)
    return lack


def _default_chunks(shape: Triple, semantic: Any) -> Triple:
    # Chunks of the input, doubled where they are small and cut where they are large. Those of a volume of few planes
    # are doubled again: small files cost as much time as large ones.
    chunks = []
    for size, chunk in zip(shape, semantic.chunks[-3:], strict=True):
        edge = max(1, min(int(chunk), size))
        while 2 * edge <= min(64, size):
            edge *= 2
        chunks.append(min(edge, MAX_CHUNK))
    thin = min(chunks) <= 32
    while thin and prod(chunks) < MIN_CHUNK_VOXELS and (long := [k for k in range(3) if 2 * chunks[k] <= shape[k]]):
        chunks[min(long, key=chunks.__getitem__)] *= 2
    return chunks[0], chunks[1], chunks[2]


def _chunks_within(block: Triple, shape: Triple) -> Triple:
    # Chunks that divide a block, so that no two tasks write the same chunk: a divisor of fair size, else the block
    # itself. Along an axis that one block covers, any size will do.
    def edge(b: int, size: int) -> int:
        if b >= size or b <= MAX_CHUNK:
            return max(1, min(b, size, MAX_CHUNK))
        return next((c for c in range(MAX_CHUNK, MAX_CHUNK // 4, -1) if b % c == 0), b)

    z, y, x = (edge(b, size) for b, size in zip(block, shape, strict=True))
    return z, y, x
