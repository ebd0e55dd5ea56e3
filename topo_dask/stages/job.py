"""What a task knows of its run, and how it sees the labels as they stand between two stages."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import Block, BlockGrid
from ..config import ClassConfig
from ..kernels.extents import Extents
from ..kernels.labels import apply_lut
from ..stores.scratch import Arrays, MemoryScratch, Scratch, find
from ..stores.volumes import Flow, Foreground, Output, Source

EXTENT_COLUMNS = ("counts", "sums", "lower", "upper", "firsts")


@dataclass(frozen=True)
class Job:
    """One class of one run: everything that its tasks share. Small, and pickled with each of them.

    Parameters
    ----------
    name : str
        Name of the class, for messages.
    grid : BlockGrid
        Blocks of the volume.
    config : ClassConfig
        Parameters.
    foreground : Foreground, optional
        Foreground; None when the job starts from labels.
    flow : Flow, optional
        Flow; None where no stage needs one.
    labels : Source, optional
        Labels that the job starts from.
    scratch : Scratch
        Where the stages file their products.
    output : Output, optional
        Where the labels go; None when they are asked for block by block.
    """

    name: str
    grid: BlockGrid
    config: ClassConfig
    foreground: Foreground | None = None
    flow: Flow | None = None
    labels: Source | None = None
    scratch: Scratch = field(default_factory=MemoryScratch)
    output: Output | None = None

    def occupied(self, kind: str = "numbers") -> list[Block]:
        """Blocks that have a bundle of a kind, in raster order."""
        blocks = (self.grid.named(key) for key in self.scratch.keys(kind))
        return sorted(blocks, key=lambda block: block.block_id)

    def need_flow(self) -> Flow:
        """The flow of a job that has one."""
        if self.flow is None:
            raise ValueError(f"{self.name}: this stage needs a flow")
        return self.flow


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
        Kinds of the bundles that change single voxels, in order.
    """

    numbers: str
    lut: str
    patches: tuple[str, ...] = ()

    def read(self, job: Job, block: Block) -> NDArray[np.int32]:
        """Labels of a block's own voxels."""
        numbers = job.scratch.get(self.numbers, block.key)["numbers"]
        labels = apply_lut(numbers, job.scratch.get(self.lut, block.key)["lut"])
        for kind in self.patches:
            patch = find(job.scratch, kind, block.key)
            if patch is not None:
                labels.reshape(-1)[patch["voxels"]] = patch["labels"]
        return labels

    def pieces(self, job: Job, block: Block) -> tuple[NDArray[np.int32], Extents]:
        """Labels and extents of a block's pieces, those of the patches included; 0 for pieces that are none."""
        labels = [job.scratch.get(self.lut, block.key)["lut"]]
        extents = [extents_of(job.scratch.get(f"{self.numbers}.extents", block.key))]
        for kind in self.patches:
            patch = find(job.scratch, kind, block.key)
            if patch is not None:
                labels.append(patch["ids"])
                extents.append(extents_of(patch))
        return np.concatenate(labels), concatenate_extents(extents)


def extents_of(bundle: Arrays) -> Extents:
    """Extents filed in a bundle by `extent_columns`."""
    return Extents(*(bundle[name] for name in EXTENT_COLUMNS))


def extent_columns(extents: Extents) -> dict[str, NDArray[np.int64]]:
    """Columns of a bundle that holds extents."""
    return {name: getattr(extents, name) for name in EXTENT_COLUMNS}


def concatenate_extents(parts: Iterable[Extents]) -> Extents:
    """Rows of several tables, one after the other."""
    columns = zip(*(tuple(getattr(part, name) for name in EXTENT_COLUMNS) for part in parts), strict=True)
    return Extents(*(np.concatenate(column) for column in columns))
