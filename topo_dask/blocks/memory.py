"""The memory law: bytes of a task, from shapes, chunks and item sizes alone.

A run is refused before it starts when what is projected is more than what is allowed. The coefficients count every
array that a task holds at its peak; tests measure that no task takes more.
"""

from collections.abc import Sequence
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
class Stored:
    """What an array is stored in. A read decodes whole chunks, however little of them is asked for.

    Parameters
    ----------
    chunk : tuple of int
        Shape of a chunk; of an inner chunk if there are shards.
    sharded : bool
        Whether chunks are stored in shards. zarr then has all those at a time that are read of a shard.
    item : int
        Bytes of a number.
    """

    chunk: tuple[int, ...]
    sharded: bool
    item: int

    def reads_mem(self, n: int = 1) -> int:
        """Bytes that a read takes beside its result, if it reads `n` chunks at a time.

        Each is there as it is stored and decoded, and so is one before, which threads of zarr may hold a moment longer.

        Examples
        --------
        >>> Stored((3, 64, 64, 64), False, 4).reads_mem() == 2 * 2 * 4 * 3 * 64**3
        True
        """
        return (n + 1) * self._chunk_mem

    def most_at_once(self, allowed_mem: int) -> int:
        """Chunks that a read may have at a time within so many bytes; at least one."""
        return max(1, allowed_mem // self._chunk_mem - 1)

    def usually_at_once(self, shape: Sequence[int], concurrency: int) -> int:
        """Chunks that zarr has at a time at most when it reads a box of a shape, and `concurrency` objects at a time.

        Examples
        --------
        >>> Stored((8, 8, 8), False, 4).usually_at_once((20, 8, 9), 10)
        10
        >>> Stored((8, 8, 8), True, 4).usually_at_once((20, 8, 9), 10)
        16
        """
        touched = prod(1 - (1 - n) // c for n, c in zip(shape, self.chunk, strict=True))
        return touched if self.sharded else min(touched, concurrency)

    @property
    def _chunk_mem(self) -> int:
        return 2 * self.item * prod(self.chunk)


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
    mask_stored, flow_stored : Stored, optional
        What foreground and flow are stored in; None where this counts for nothing.
    """

    shape: Triple
    halo: Triple
    mask_item: int
    flow_item: int
    work_item: int
    track_item: int
    channels: int = 3
    mask_stored: Stored | None = None
    flow_stored: Stored | None = None

    def task_mem(self, block_shape: Triple) -> int:
        """Projected bytes of the largest task on a block."""
        block, vectors = prod(self._within(block_shape)), self._vectors_mem(block_shape)
        chunks = max((READ_FACTOR - 1) * vectors, _least_mem(self.flow_stored))
        # With a plane of the flow around the block, not a page.
        labelling = vectors * READ_FACTOR / 2 + prod(self._page(block_shape)) * 3 * self.work_item
        labelling += VOXEL_BYTES * block + self._mask_mem(block_shape)
        beginning = self._beginning_mem(block_shape) + _least_mem(self.mask_stored)
        return int(max(self._tracking_mem(block_shape) + chunks, labelling, beginning))

    def flow_reads_mem(self, block_shape: Triple) -> int:
        """Bytes, of those of the largest task, for the chunks of the flow that are being read."""
        return self.task_mem(block_shape) - self._tracking_mem(block_shape)

    def mask_reads_mem(self, block_shape: Triple) -> int:
        """The same for the chunks of the foreground."""
        return self.task_mem(block_shape) - self._beginning_mem(block_shape)

    def unbounded_reads_mem(self, block_shape: Triple, concurrency: int) -> int:
        """Bytes for the chunks of the flow that zarr would read at a time, see `Stored.usually_at_once`."""
        page, stored = (self.channels, *self._page(block_shape)), self.flow_stored
        return 0 if stored is None else stored.reads_mem(stored.usually_at_once(page, concurrency))

    def _tracking_mem(self, block_shape: Triple) -> int:
        # Without the chunks that are being read.
        block = prod(self._within(block_shape))
        particles = min(block, PARTICLES) * PARTICLE_BYTES + SINK_BYTES * block
        vectors = self._vectors_mem(block_shape) + prod(self._page(block_shape)) * self.track_item
        return vectors + particles + self._mask_mem(block_shape)

    def _beginning_mem(self, block_shape: Triple) -> int:
        # Without the chunks that are being read. Classes that share a read of the flow read their foreground while they
        # hold it.
        return self._vectors_mem(block_shape) + prod(self._within(block_shape)) * (self.mask_item + 1)

    def _mask_mem(self, block_shape: Triple) -> int:
        return int(prod(self._within(block_shape)) * (READ_FACTOR * self.mask_item + 1))

    def _vectors_mem(self, block_shape: Triple) -> int:
        return prod(self._page(block_shape)) * self.flow_item * self.channels

    def _within(self, block_shape: Triple) -> Triple:
        z, y, x = (min(b, s) for b, s in zip(block_shape, self.shape, strict=True))
        return z, y, x

    def _page(self, block_shape: Triple) -> Triple:
        z, y, x = (b + 2 * max(PAGE_MARGIN, h) for b, h in zip(block_shape, self.halo, strict=True))
        return self._within((z, y, x))


def _least_mem(stored: Stored | None) -> int:
    # Bytes that a read takes that has one chunk at a time.
    return 0 if stored is None else stored.reads_mem()


MAX_EDGE, MAX_IDLE_EDGE = 256, 128
"""Edge of a block, at most, where the caller leaves it to us; and where workers would be idle with larger ones."""

MAX_FLAT = 1 << 20
"""Voxels up to which a block may be longer than that, unless workers would be idle: in a volume of few planes, smaller
ones are not worth a task."""

LEAST_CHUNK = 32
"""Least edge of a chunk of the output that is made smaller because memory is little."""


def choose_chunks(footprint: Footprint, chunks: Triple, allowed_mem: int) -> Triple:
    """These chunks of the output; smaller ones where not even a task on a block of one fits into `allowed_mem` bytes.

    They are halved where they are longest, but to no less than 32 voxels; if that is not enough, they stay as they are.

    Examples
    --------
    >>> footprint = Footprint((512, 512, 512), (16, 16, 16), 4, 4, 4, 24)
    >>> [choose_chunks(footprint, (128, 128, 128), allowed) for allowed in (1 << 30, 1 << 28)]
    [(128, 128, 128), (64, 64, 128)]
    """
    smaller = chunks
    while footprint.task_mem(smaller) > allowed_mem:
        longest = max(range(3), key=smaller.__getitem__)
        if smaller[longest] < 2 * LEAST_CHUNK:
            return chunks
        z, y, x = (-(-edge // 2) if k == longest else edge for k, edge in enumerate(smaller))
        smaller = z, y, x
    return smaller


def choose_block_shape(footprint: Footprint, chunks: Triple, allowed_mem: int, tasks: int = 1) -> Triple:
    """Largest block, a multiple of the chunks and near a cube, whose task fits into `allowed_mem` bytes.

    It is not grown beyond 128 voxels where fewer than `tasks` blocks would be left, nor beyond 256, unless it is flat.

    Raises
    ------
    MemoryError
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
        short = longer[axis] <= (MAX_EDGE if busy else MAX_IDLE_EDGE) or (busy and prod(longer) <= MAX_FLAT)
        if fits and short and block[axis] < footprint.shape[axis]:
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
            f"memory_limit{_rechunk(footprint, projected)}"
        )
    return projected


def _rechunk(footprint: Footprint, projected: int) -> str:
    # Smaller blocks do not help much where chunks take most of the memory.
    chunks = ("foreground", _least_mem(footprint.mask_stored)), ("flow", _least_mem(footprint.flow_stored))
    name, most = max(chunks, key=lambda chunk: chunk[1])
    if 2 * most < projected:
        return ""
    return f". Chunks of the {name} take {most / 2**20:.1f} MiB of it: store it in smaller ones"


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
