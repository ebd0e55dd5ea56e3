"""The memory law: bytes of a task, from shapes and item sizes alone.

A run is refused before it starts when what is projected is more than what is allowed. The coefficients count every
array that a task holds at its peak; tests measure that no task takes more.
"""

from dataclasses import dataclass
from math import prod

from .geometry import Triple

READ_FACTOR = 2.2
"""Peak of a zarr read or write over its payload, measured for compressed chunks."""

PARTICLES = 1 << 20
"""Particles tracked together, and orphans searched for together, at most, if a row of voxels has no more."""

PARTICLE_BYTES = 160
"""Bytes of a particle on its way: position, steps left, and what sorting by page takes."""

SINK_BYTES = 56
"""Bytes of a voxel while others are tracked: its place, its cell, and a sink that no other ends in."""

VOXEL_BYTES = 165
"""Bytes of a voxel once all are tracked, beside the flow: a sink or fragment of its own takes that, with its extents;
or numbers, labels, and a row in a contact table. More contacts than voxels are not covered; usually there is one piece
for hundreds of voxels, and a task takes a third of it."""

PAGE_MARGIN = 16
"""Least margin of a page, in voxels: a particle that swings about a page's face must not turn pages at each step."""

PAGES_MEM, RECENT_MEM = 512 << 20, 256 << 20
"""Bytes of pages, and of the latest reads of the flow, that a process keeps at most, where its tasks leave that much of
what it may take."""

PROCESS_BYTES = 400 << 20
"""Bytes of a worker process before its first task: interpreter, libraries, compiled kernels."""


ROW_BYTES = {"link": 90, "enclose": 40, "gather": 250, "unite": 170, "split": 190, "tabulate": 130, "drop": 160}
"""Bytes a step takes per row of its input: sinks, contact pairs, fragments, pieces and instances, each once a block.

A row of `enclose` is an instance in a block's contact table (one without contacts takes 24 bytes too); one of
`gather` is a contact that the regions in a region left undecided, one of `unite` a contact that all regions left. All
but `gather` are global.
"""


@dataclass(frozen=True)
class Footprint:
    """What the memory of a task depends on.

    Parameters
    ----------
    shape : tuple of 3 int
        Shape of the volume.
    halo : tuple of 3 int
        Margin read around a block.
    mask_item, flow_item : int
        Bytes of a stored number of the foreground and of the flow.
    work_item : int
        Bytes of a number of the flow as it is used: 4 or 8.
    track_item : int
        Bytes of a vector for tracking, beside what is read: converted, and laid out for the block and for a page.
    channels : int
        Channels of the flow that a task reads at once: three, or those of all classes that share the read.
    """

    shape: Triple
    halo: Triple
    mask_item: int
    flow_item: int
    work_item: int
    track_item: int
    channels: int = 3

    def task_mem(self, block_shape: Triple) -> int:
        """Projected bytes of the largest task on a block."""
        block = prod(min(b, s) for b, s in zip(block_shape, self.shape, strict=True))
        margin = [max(PAGE_MARGIN, h) for h in self.halo]
        page = prod(min(b + 2 * m, s) for b, m, s in zip(block_shape, margin, self.shape, strict=True))
        read, used = page * READ_FACTOR * self.flow_item * self.channels, page * 3 * self.work_item
        mask = block * (READ_FACTOR * self.mask_item + 1)
        particles = min(block, PARTICLES) * PARTICLE_BYTES + SINK_BYTES * block
        tracking = read + page * self.track_item + particles
        labelling = read / 2 + used + VOXEL_BYTES * block  # with a plane of the flow around the block, not a page
        return int(max(tracking, labelling) + mask)


MAX_EDGE, MAX_IDLE_EDGE = 256, 128
"""Edge of a block, at most, where the caller leaves it to us; and where workers would be idle with larger ones."""


def choose_block_shape(footprint: Footprint, chunks: Triple, allowed_mem: int, tasks: int = 1) -> Triple:
    """Largest block, a multiple of the chunks and near a cube, whose task fits into `allowed_mem` bytes.

    It is not grown beyond 128 voxels where fewer than `tasks` blocks would be left, nor beyond 256.

    Raises
    ------
    ValueError
        When not even a block of one chunk fits.

    Examples
    --------
    >>> footprint = Footprint((512, 512, 512), (16, 16, 16), 4, 4, 4, 24)
    >>> choose_block_shape(footprint, (64, 64, 64), 1 << 30)
    (192, 192, 128)
    >>> choose_block_shape(footprint, (64, 64, 64), 1 << 30, tasks=64)
    (128, 128, 128)
    """
    block = list(chunks)
    check_memory(footprint, chunks, allowed_mem, "pass a smaller block_shape")
    grows = [True] * 3
    while any(grows):
        axis = min((block[k], k) for k in range(3) if grows[k])[1]
        longer = [b + (c if k == axis else 0) for k, (b, c) in enumerate(zip(block, chunks, strict=True))]
        fits = footprint.task_mem((longer[0], longer[1], longer[2])) <= allowed_mem
        busy = prod(footprint.shape) >= tasks * prod(longer)
        useful = block[axis] < footprint.shape[axis] and longer[axis] <= (MAX_EDGE if busy else MAX_IDLE_EDGE)
        if fits and useful:
            block = longer
        else:
            grows[axis] = False
    return block[0], block[1], block[2]


def check_memory(footprint: Footprint, block_shape: Triple, allowed_mem: int, remedy: str) -> int:
    """Projected bytes of a task; MemoryError naming the numbers and the remedy when they are more than allowed."""
    projected = footprint.task_mem(block_shape)
    if allowed_mem <= 0:
        raise MemoryError(
            f"memory_limit must be above the {PROCESS_BYTES >> 20} MiB that a worker process takes for itself: a task "
            f"on a block of {block_shape} with a halo of {footprint.halo} is projected to take "
            f"{projected / 2**20:.1f} MiB more, in each of its threads"
        )
    if projected > allowed_mem:
        raise MemoryError(
            f"a task on a block of {block_shape} with a halo of {footprint.halo} is projected to take "
            f"{projected / 2**20:.1f} MiB, but {allowed_mem / 2**20:.1f} MiB are allowed for it, after "
            f"{PROCESS_BYTES >> 20} MiB for the process itself: {remedy}, use fewer threads per worker, or raise "
            "memory_limit"
        )
    return projected


def check_rows(step: str, n: int, allowed_mem: int) -> None:
    """Raise MemoryError, naming the numbers and the remedy, when a global stage on `n` rows takes more than allowed.

    Examples
    --------
    >>> check_rows("link", 10**9, 2**30)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    MemoryError: 'link' on 1000000000 rows is projected to take 83.8 GiB, but 1.0 GiB are allowed ...
    """
    projected = ROW_BYTES[step] * n
    if projected > allowed_mem:
        raise MemoryError(
            f"{step!r} on {n} rows is projected to take {projected / 2**30:.1f} GiB, but {allowed_mem / 2**30:.1f} GiB "
            "are allowed for it: run again with resume=True and a larger memory_limit, on a machine or workers that "
            "have it; or begin again with larger blocks or a larger convergence_radius, which leave fewer rows"
        )


def allowed_per_task(memory_limit: int, threads: int) -> int:
    """Bytes that one of the tasks of a worker process may take."""
    return max(0, memory_limit - PROCESS_BYTES) // max(1, threads)
