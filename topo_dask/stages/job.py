"""What all stages share: the job, the view of the labels between two stages, and tables that span all blocks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import tee
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import Block, BlockGrid
from ..blocks.memory import check_rows
from ..config import ClassConfig
from ..kernels.extents import Extents
from ..kernels.labels import apply_lut
from ..kernels.pyramid import Factors, coarse_shape
from ..stores.bundles import Arrays
from ..stores.filed import listed
from ..stores.scratch import MemoryScratch, Scratch, count_rows
from ..stores.volumes import Flow, Foreground, Output, Source

EXTENT_COLUMNS = ("counts", "sums", "lower", "upper", "firsts")

ABSORBED = "absorb"
"""Kind of the bundles that give the voxels of small fragments a label."""

ALL = "all"
"""Key of a bundle of which there is one for the whole volume."""

BlockRows = list[tuple[Block, slice]]
"""Each block, and the slice of its rows in columns that hold the rows of all blocks one after the other."""

Columns = tuple[tuple[str, str], ...]
"""Columns in scratch whose numbers of rows add up: for each, the kind of bundle and the name of the column."""


@dataclass(frozen=True)
class CoarserLevel:
    """A coarser level of the output's pyramid. All levels have blocks of the same shape.

    Parameters
    ----------
    factors : tuple of 3 int
        How many voxels of the level before make one voxel of this one, along z, y, x. As many blocks make one block.
    output : Output
        Where the labels of the level are written.
    """

    factors: Factors
    output: Output


@dataclass(frozen=True)
class Job:
    """Everything that the tasks of one class of one run share. It is small, and pickled with each task.

    Parameters
    ----------
    name : str
        Name of the class, for messages; empty when the job has no class name.
    grid : BlockGrid
        Blocks of the volume.
    config : ClassConfig
        Parameters.
    foreground : Foreground, optional
        Foreground; None when the job starts from labels.
    flow : Flow, optional
        Flow; None when no stage needs it.
    labels : Source, optional
        Labels that the job starts from.
    scratch : Scratch
        Where the stages file their products.
    output : Output, optional
        Where the labels are written; None when the caller asks for them block by block.
    levels : tuple of CoarserLevel
        The coarser levels of the output, if it has any.
    allowed_mem : int, optional
        Bytes that a global stage may take; None when there is no limit.
    """

    name: str
    grid: BlockGrid
    config: ClassConfig
    foreground: Foreground | None = None
    flow: Flow | None = None
    labels: Source | None = None
    scratch: Scratch = field(default_factory=MemoryScratch)
    output: Output | None = None
    levels: tuple[CoarserLevel, ...] = ()
    allowed_mem: int | None = None

    def at(self, level: int) -> "Job":
        """The job as tasks of one level see it: blocks of that level, and the labels of the level before it."""
        if level == 0:
            return self
        finer, own = self.at(level - 1), self.levels[level - 1]
        assert finer.output is not None
        grid = BlockGrid(coarse_shape(finer.grid.shape, own.factors), self.grid.block_shape)
        return replace(self, grid=grid, labels=finer.output.written(), output=own.output)

    def gathered(self, tier: int) -> "Job":
        """The job as tasks of one tier see it: regions of ``2**tier`` blocks along each axis in place of blocks."""
        return replace(self, grid=self.grid.gathered(tier))

    def occupied(self, kind: str = "numbers") -> list[Block]:
        """Blocks that have a bundle of a kind, in raster order."""
        blocks = (self.grid.named(key) for key in listed(self.scratch, kind))
        return sorted(blocks, key=lambda block: block.block_id)

    def candidates(self) -> Iterator[Block]:
        """Blocks that may have foreground, in raster order."""
        return iter(self.grid) if self.foreground is None else self.foreground.stored_blocks(self.grid)

    def need_flow(self) -> Flow:
        """The flow of a job that has one."""
        if self.flow is None:
            raise ValueError(f"{self.name}: this stage needs a flow")
        return self.flow


def admit_rows(job: Job, step: str, tables: Iterable[Columns]) -> None:
    """Raise MemoryError when the longest of the tables has more rows than a global stage may hold at once."""
    if job.allowed_mem is None:
        return
    rows = (sum(count_rows(job.scratch, *column) for column in columns) for columns in tables)
    if longest := max(rows, default=0):
        check_rows(step, longest, job.allowed_mem)


@dataclass(frozen=True)
class View:
    """The labels between two stages: numbered pieces of each block, a look-up table, and patches.

    Parameters
    ----------
    numbers : str
        Kind of the bundles that number the pieces of a block.
    lut : str
        Kind of the bundles that give each piece its label.
    patches : tuple of str
        Kinds of the bundles that change single voxels, in order. Every block has a bundle of each kind, except for
        `ABSORBED`: only blocks whose look-up table leaves a piece without a label have one of these.
    """

    numbers: str
    lut: str
    patches: tuple[str, ...] = ()

    def pieces(self, job: Job, block: Block) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
        """Piece of each of a block's own voxels, from 1, and the label of each piece, 0 for a piece without a label."""
        numbers = job.scratch.get(self.numbers, block.key)["numbers"]
        labels = [job.scratch.get(self.lut, block.key)["lut"]]
        for kind in self._patched(labels[0]):
            if patch := job.scratch.get(kind, block.key):
                if len(labels) == 1:
                    numbers = numbers.copy()
                numbers.reshape(-1)[patch["voxels"]] = patch["numbers"] + np.uint32(sum(map(len, labels)))
                labels.append(patch["ids"])
        return numbers, np.concatenate(labels)

    def extents(self, job: Job) -> Iterator[tuple[Block, NDArray[np.int32], Extents]]:
        """Label and extents of each piece of a block, for all occupied blocks in raster order."""
        blocks = job.occupied()
        keys = [block.key for block in blocks]
        luts, again = tee(job.scratch.get_each(self.lut, keys))
        absorbed = (key for key, table in zip(keys, again, strict=True) if ABSORBED in self._patched(table["lut"]))
        pieces = job.scratch.get_each(f"{self.numbers}.extents", keys)
        columns = ("ids", *EXTENT_COLUMNS)  # without the voxels, of which several patches hold too many
        patches = {
            kind: job.scratch.get_each(kind, absorbed if kind == ABSORBED else keys, columns) for kind in self.patches
        }
        for block, of_lut, of_pieces in zip(blocks, luts, pieces, strict=True):
            labels, extents = [of_lut["lut"]], [extents_of(of_pieces)]
            for kind in self._patched(labels[0]):
                if patch := next(patches[kind]):
                    labels.append(patch["ids"])
                    extents.append(extents_of(patch))
            yield block, np.concatenate(labels), concatenate_extents(extents)

    def read(self, job: Job, block: Block) -> NDArray[np.int32]:
        """Labels of a block's own voxels."""
        return apply_lut(*self.pieces(job, block))

    def _patched(self, lut: NDArray[np.int32]) -> list[str]:
        # The table tells which patches a block has, so that a lost patch, or one that a store denies, is an error.
        return [kind for kind in self.patches if kind != ABSORBED or not lut.all()]


def extents_of(bundle: Arrays) -> Extents:
    """Extents filed in a bundle by `extent_columns`."""
    return Extents(*(bundle[name] for name in EXTENT_COLUMNS))


def extent_columns(extents: Extents) -> dict[str, NDArray[np.int64]]:
    """Columns of a bundle that holds extents."""
    return {name: getattr(extents, name) for name in EXTENT_COLUMNS}


def concatenate_extents(parts: Iterable[Extents]) -> Extents:
    """One table with the rows of several, one after the other."""
    columns = zip(*(tuple(getattr(part, name) for name in EXTENT_COLUMNS) for part in parts), strict=True)
    return Extents(*(np.concatenate(column) for column in columns))


def read_columns(job: Job, kind: str, names: tuple[str, ...]) -> tuple[BlockRows, list[NDArray[Any]]]:
    """Columns of the tables of all occupied blocks, one after the other, and each block's rows in them."""
    rows: BlockRows = []
    parts: list[list[NDArray[Any]]] = [[] for _ in names]
    at, blocks = 0, job.occupied()
    for block, bundle in zip(blocks, job.scratch.get_each(kind, (b.key for b in blocks)), strict=True):
        for part, name in zip(parts, names, strict=True):
            part.append(bundle[name])
        n = len(parts[0][-1])
        rows.append((block, slice(at, at + n)))
        at += n
    return rows, [np.concatenate(part) for part in parts] if rows else []


def dropped_kind(stage: str) -> str:
    """Kind of the bundle in which a stage files what it dropped for its size."""
    return f"{stage}.dropped"


def file_dropped(job: Job, stage: str, voxels: NDArray[np.int64], min_size: int) -> None:
    """File how many instances are too small, and the voxels of the largest of these.

    `voxels` holds the voxels of each instance, and zeros.
    """
    small = voxels[(voxels > 0) & (voxels < min_size)]
    job.scratch.put(dropped_kind(stage), ALL, small=np.array([len(small), small.max(initial=0)]))


def file_luts(job: Job, kind: str, rows: BlockRows, lut: NDArray[np.int32]) -> None:
    """File each block's part of a look-up table."""
    job.scratch.put_each(kind, ((block.key, {"lut": lut[part]}) for block, part in rows))
