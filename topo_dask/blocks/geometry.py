"""Boxes and block grids: half-open boxes of voxels, in integers.

::

    |<------------------- read -------------------->|
    |  halo  |<---------- write ---------->|  halo  |
             ^ start                       ^ stop

A task owns the voxels of `write` and reads those of `read`: `write` grown by the halo, clipped to the volume.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from numbers import Integral
from typing import Any, TypeAlias

Triple: TypeAlias = tuple[int, int, int]

DEFAULT_HALO = 16
"""Margin read around a block. A matter of speed: particles that go further page in what they need."""


def triple(values: object, what: str, *, at_least: int = 1) -> Triple:
    """Validate three integers.

    Raises
    ------
    TypeError
        When `values` is not a sequence of three integers (a single integer stands for three).
    ValueError
        When one is below `at_least`, or not below 2**53.

    Examples
    --------
    >>> triple(8, "halo")
    (8, 8, 8)
    """
    given = (values,) * 3 if isinstance(values, Integral) else values
    found: tuple[Any, ...] = tuple(given) if isinstance(given, Iterable) else ()
    if len(found) != 3 or any(isinstance(v, bool) or not hasattr(v, "__index__") for v in found):
        raise TypeError(f"{what} must be three integers (z, y, x), got {values!r}")
    z, y, x = (v.__index__() for v in found)
    if min(z, y, x) < at_least:
        raise ValueError(f"{what} must be at least {at_least} along every axis, got {(z, y, x)}")
    if max(z, y, x) >= 2**53:
        raise ValueError(f"{what} must be below 2**53 along every axis, got {(z, y, x)}")
    return z, y, x


@dataclass(frozen=True, order=True)
class Box:
    """Half-open box of voxels: `start` belongs to it, `stop` does not."""

    start: Triple
    stop: Triple

    @classmethod
    def whole(cls, shape: Triple) -> "Box":
        """The box of a whole volume."""
        return cls((0, 0, 0), shape)

    @property
    def shape(self) -> Triple:
        """Voxels along each axis; none is negative."""
        z, y, x = (max(0, b - a) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    @property
    def size(self) -> int:
        """Number of voxels."""
        return prod(self.shape)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as an index."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    def grow(self, below: Triple, above: Triple, shape: Triple) -> "Box":
        """The box with a margin on its lower and upper sides, clipped to a volume."""
        start = tuple(max(0, a - m) for a, m in zip(self.start, below, strict=True))
        stop = tuple(min(s, b + m) for b, m, s in zip(self.stop, above, shape, strict=True))
        return Box(start, stop)  # type: ignore[arg-type]

    def intersect(self, other: "Box") -> "Box":
        """The voxels in both boxes."""
        start = tuple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = tuple(min(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        return Box(start, stop)  # type: ignore[arg-type]

    def parts(self, most: int, planes: int = 1) -> "Iterator[Box]":
        """The box in raster order, at most so many voxels at a time, if a row has no more: planes, or rows of some.

        Parameters
        ----------
        most : int
            Voxels of a part, at most.
        planes : int
            Least planes of a part. With more than one the parts are in raster order, not all voxels.

        Examples
        --------
        >>> [part.shape for part in Box((0, 0, 0), (3, 4, 5)).parts(40)]
        [(2, 4, 5), (1, 4, 5)]
        >>> [part.shape for part in Box((0, 0, 0), (1, 4, 5)).parts(15)]
        [(1, 3, 5), (1, 1, 5)]
        >>> [part.shape for part in Box((0, 0, 0), (3, 4, 5)).parts(20, planes=2)]
        [(2, 2, 5), (2, 2, 5), (1, 2, 5), (1, 2, 5)]
        """
        _, height, width = (max(1, n) for n in self.shape)
        planes = max(1, min(max(planes, most // (height * width)), most // width))
        rows = min(height, max(1, most // (planes * width)))
        for z in range(self.start[0], self.stop[0], planes):
            for y in range(self.start[1], self.stop[1], rows):
                yield Box((z, y, self.start[2]), (z + planes, y + rows, self.stop[2])).intersect(self)

    def within(self, outer: "Box") -> tuple[slice, slice, slice]:
        """Index of this box in an array that holds `outer`."""
        z, y, x = (slice(a - o, b - o) for a, b, o in zip(self.start, self.stop, outer.start, strict=True))
        return z, y, x


@dataclass(frozen=True)
class Block:
    """One task's share of the volume."""

    block_id: Triple
    read: Box
    write: Box

    @property
    def key(self) -> str:
        """Name of the block, e.g. ``0.1.12``."""
        return ".".join(map(str, self.block_id))


@dataclass(frozen=True)
class BlockGrid:
    """Blocks that tile a volume; those at the upper border are cut off there.

    Parameters
    ----------
    shape : tuple of 3 int
        Shape of the volume.
    block_shape : tuple of 3 int
        Shape of a block; it need not divide the volume.
    halo : tuple of 3 int
        Margin that a task reads around its block.

    Examples
    --------
    >>> grid = BlockGrid((10, 4, 4), (4, 4, 4), (1, 1, 1))
    >>> grid.numblocks, grid.block((2, 0, 0)).read
    ((3, 1, 1), Box(start=(7, 0, 0), stop=(10, 4, 4)))
    """

    shape: Triple
    block_shape: Triple
    halo: Triple = (0, 0, 0)

    def __post_init__(self) -> None:
        triple(self.shape, "shape", at_least=0)
        triple(self.block_shape, "block_shape")
        triple(self.halo, "halo", at_least=0)

    @property
    def numblocks(self) -> Triple:
        """Blocks along each axis."""
        z, y, x = (ceil(s / b) for s, b in zip(self.shape, self.block_shape, strict=True))
        return z, y, x

    def __len__(self) -> int:
        return prod(self.numblocks)

    def block(self, block_id: Triple) -> Block:
        """The block at a grid index."""
        start = tuple(i * b for i, b in zip(block_id, self.block_shape, strict=True))
        stop = tuple(min(a + b, s) for a, b, s in zip(start, self.block_shape, self.shape, strict=True))
        write = Box(start, stop)  # type: ignore[arg-type]
        return Block(block_id, write.grow(self.halo, self.halo, self.shape), write)

    def named(self, key: str) -> Block:
        """The block of a key, see `Block.key`."""
        return self.block(block_id_of(key))

    def __iter__(self) -> Iterator[Block]:
        for z, y, x in product(*map(range, self.numblocks)):
            yield self.block((z, y, x))

    def touching(self, box: Box) -> Iterator[Block]:
        """The blocks whose own voxels meet a box."""
        if box.size == 0:
            return
        ranges = (
            range(a // n, (b - 1) // n + 1) for a, b, n in zip(box.start, box.stop, self.block_shape, strict=True)
        )
        for z, y, x in product(*ranges):
            yield self.block((z, y, x))

    @property
    def tiers(self) -> int:
        """How often blocks have to be gathered, two by two along each axis, until one region holds all."""
        return max(0, max(self.numblocks) - 1).bit_length()

    def gathered(self, tier: int) -> "BlockGrid":
        """The grid of the regions of ``2**tier`` blocks along each axis.

        Examples
        --------
        >>> BlockGrid((10, 4, 4), (2, 2, 2)).gathered(2).numblocks
        (2, 1, 1)
        """
        z, y, x = (b << tier for b in self.block_shape)
        return BlockGrid(self.shape, (z, y, x), self.halo)

    def reads_of(self, chunk: Triple) -> float:
        """Number of blocks that read a part of a chunk, with their halo; the mean over all chunks of an array.

        Examples
        --------
        >>> BlockGrid((512, 512, 512), (128, 128, 512)).reads_of((512, 64, 64))
        4.0
        """
        mean = 1.0
        for size, block, halo, edge in zip(self.shape, self.block_shape, self.halo, chunk, strict=True):
            spans = ((max(0, at - halo), min(size, at + block + halo)) for at in range(0, size, block))
            mean *= sum((stop - 1) // edge - start // edge + 1 for start, stop in spans) / max(1, ceil(size / edge))
        return mean

    def above(self, block: Block, axis: int) -> Block | None:
        """The next block along an axis, or None at the volume's border."""
        z, y, x = (i + (k == axis) for k, i in enumerate(block.block_id))
        return self.block((z, y, x)) if (z, y, x)[axis] < self.numblocks[axis] else None


def block_id_of(key: str) -> Triple:
    """Grid index of the block of a key, see `Block.key`."""
    z, y, x = map(int, key.split("."))
    return z, y, x


def z_order(block_id: Triple) -> int:
    """Place of a block in Z-order (Morton 1966): the bits of its indices in turn, so that consecutive blocks are near.

    A block comes after every one none of whose indices is larger; each cube of ``2**n`` blocks, at a multiple of its
    edge, is consecutive.

    Examples
    --------
    >>> sorted([(0, 0, 2), (1, 1, 1), (0, 1, 0), (0, 0, 0)], key=z_order)
    [(0, 0, 0), (0, 1, 0), (1, 1, 1), (0, 0, 2)]
    """
    z, y, x = (int(f"{i:b}", 8) for i in block_id)  # bits as octal digits: two places free after each
    return 4 * z + 2 * y + x
