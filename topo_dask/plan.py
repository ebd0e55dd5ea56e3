"""From parameters to stages: which passes a job makes over its blocks, and in which order."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from .blocks.geometry import block_id_of, z_order
from .config import ClassConfig, Merge
from .stages.absorb import absorb
from .stages.downsample import downsample
from .stages.drop import Dropped, count_dropped, drop, measure_errors
from .stages.gather import contacts_kind, enclose, gather
from .stages.job import ABSORBED, Columns, Job, View, admit_rows, dropped_kind
from .stages.link import collect, link
from .stages.localise import localise
from .stages.recover import recover_orphans, survey
from .stages.relabel import relabel
from .stages.settle import index_rows, settle
from .stages.split import join, number_fragments, split
from .stages.tabulate import tabulate
from .stages.track import lay_out, track
from .stages.unite import count_contacts, unite
from .stores.allocation import keep_freed_memory
from .stores.scratch import FileScratch, is_seen, listed
from .stores.volumes import SharedReads, StoredFlow

EVERY = "every block"
"""Stands for all blocks of the grid where a stage names the kind of bundle that its blocks must have."""

DONE = "done"
"""Kind of the records of global stages."""

NUMBERED = ("numbers.extents", "numbers.faces", "numbers")
"""Kinds of the bundles of a block whose pieces are numbered."""

FRAGMENTED = ("fragments.extents", "fragments.faces", "fragments.ids")
"""Kinds of the bundles of a block that tell of its fragments."""


def _merged(keys: Iterable[str], factors: tuple[int, int, int]) -> list[str]:
    # Keys of the blocks that are made of as many of these along each axis.
    ids = (block_id_of(key) for key in keys)
    found = {tuple(i // f for i, f in zip(index, factors, strict=True)) for index in ids}
    return _in_z_order(".".join(map(str, index)) for index in found)


def _in_z_order(keys: Iterable[str]) -> list[str]:
    # Consecutive tasks, as a worker of a cluster does them, share what they read: the more, the nearer their blocks.
    return sorted(keys, key=lambda key: z_order(block_id_of(key)))


@dataclass(frozen=True)
class Stage:
    """One pass: a task for each block, or one task for the whole.

    Parameters
    ----------
    name : str
        What messages call it; also the kind of the bundle that a block's task files last.
    function : callable
        ``function(job, key)`` for each block, or ``function(job)``.
    over : str, optional
        Kind of bundle that the blocks of this stage have; None for a global stage.
    tables : tuple of Columns
        What a global stage holds whole: one column of each table. The rows of those named together add up.
    moves : bool
        Whether particles move; the other stages free what the flow keeps for that.
    products : tuple of str
        Kinds of the other bundles that its tasks file; each task of a pass over blocks files all of them.
    """

    name: str
    function: Callable[..., None]
    over: str | None = None
    tables: tuple[Columns, ...] = field(default=(), kw_only=True)
    moves: bool = field(default=False, kw_only=True)
    products: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of all bundles that its tasks file."""
        return (*self.products, self.name)

    def job_of_tasks(self, job: Job) -> Job:
        """The job as the tasks of this stage see it."""
        return job

    def all_keys(self, job: Job) -> list[str]:
        """Keys of all its tasks, done or not, in Z-order."""
        if self.over is None:
            return [self.name]
        if self.over == EVERY:
            return _in_z_order(block.key for block in job.candidates())
        return self.keys_over(listed(job.scratch, self.over))

    def keys_left(self, job: Job) -> list[str]:
        """Keys of the tasks to do, in Z-order; those that are on record are left out."""
        tasks = self.all_keys(job)
        done = job.scratch.keys(DONE if self.over is None else self.name) if tasks else set()
        return [key for key in tasks if key not in done]

    def jobs_of(self, job: Job) -> tuple[Job, ...]:
        """The jobs that its tasks do a part of."""
        return (job,)

    def keys_over(self, keys: Iterable[str]) -> list[str]:
        """Keys of the tasks, done or not, where blocks of these keys have a bundle of the kind; in Z-order."""
        return _merged(keys, (1, 1, 1))

    def run(self, job: Job, key: str) -> None:
        """Do one task, and say in its errors which one it was."""
        if isinstance(job.scratch, FileScratch):
            keep_freed_memory(job.allowed_mem)
        if job.flow is not None and not self.moves:
            job.flow.release()
        try:
            self.work(job, key)
        except Exception as error:
            whose = f"class {job.name!r}, " if job.name else ""
            where = "" if self.over is None else f", {self.named(job, key)}"
            error.add_note(f"in {whose}stage {self.name!r}{where}")
            raise

    def work(self, job: Job, key: str) -> None:
        """Do what a task consists of, and nothing about it."""
        if self.over is None:
            admit_rows(job, self.name, self.tables)
            self.function(job)
            job.scratch.put(DONE, key)
        else:
            self.function(self.job_of_tasks(job), key)

    def named(self, job: Job, key: str) -> str:
        """What messages call a task: its block and the voxels of that, or its key."""
        return key if self.over is None else f"block {key} {self.job_of_tasks(job).grid.named(key).write}"


@dataclass(frozen=True)
class TrackTogether(Stage):
    """The tracking of several classes whose flows share stored chunks: one task a block reads these once for all."""

    jobs: tuple[Job, ...] = ()

    def all_keys(self, job: Job) -> list[str]:
        """Keys of the blocks of all classes, in Z-order."""
        return _in_z_order(set().union(*map(super().all_keys, self.jobs)))

    def keys_left(self, job: Job) -> list[str]:
        """Keys of the blocks that any class has to do, in Z-order."""
        return _in_z_order(set().union(*map(super().keys_left, self.jobs)))

    def jobs_of(self, job: Job) -> tuple[Job, ...]:
        """The jobs of all classes."""
        return self.jobs

    def run(self, job: Job, key: str) -> None:
        """Track a block for every class that has not done it."""
        flows = [flow for one in self.jobs if isinstance(flow := one.need_flow(), StoredFlow)]
        shared = SharedReads(flows[0].source.array, job.grid.named(key).read)
        for one, flow in zip(self.jobs, flows, strict=True):
            if not is_seen(one.scratch, self.name, key):
                super().run(replace(one, flow=flow.reading(shared)), key)


@dataclass(frozen=True)
class Gathering(Stage):
    """A pass over regions of ``2**tier`` blocks along each axis: a task for each that has bundles of the tier below.

    Parameters
    ----------
    tier : int
        Tier of the regions, 0 for the blocks themselves.
    """

    tier: int = 0

    def keys_over(self, keys: Iterable[str]) -> list[str]:
        """Keys of the regions that hold these blocks or smaller regions."""
        return _merged(keys, (2, 2, 2) if self.tier else (1, 1, 1))

    def job_of_tasks(self, job: Job) -> Job:
        """The job with regions for blocks."""
        return replace(job, grid=job.grid.gathered(self.tier))


@dataclass(frozen=True)
class Downsampling(Stage):
    """A pass over the blocks of a coarser level: a task for each that is made of blocks on record in the level before.

    Parameters
    ----------
    level : int
        Level that is written, 1 or more.
    factors : tuple of 3 int
        Blocks of the level before that make one of its own, along z, y, x.
    """

    level: int = 1
    factors: tuple[int, int, int] = (1, 1, 1)

    def keys_over(self, keys: Iterable[str]) -> list[str]:
        """Keys of the blocks that are made of these."""
        return _merged(keys, self.factors)

    def job_of_tasks(self, job: Job) -> Job:
        """The job with the blocks of the level that is written and the labels of the one before."""
        return job.at(self.level)


def tracked_together(flow: Any, n_classes: int) -> bool:
    """Whether so many classes are tracked together: where stored chunks of the flow hold channels of several."""
    return n_classes > 1 and (flow.shards or flow.chunks)[0] > 3


def track_together(jobs: Sequence[Job]) -> TrackTogether:
    """Stage that tracks several classes of one grid and one flow array."""
    return TrackTogether("track", track, EVERY, moves=True, products=NUMBERED, jobs=tuple(jobs))


@dataclass(frozen=True)
class Recipe:
    """What is done after the first numbering.

    Parameters
    ----------
    min_size : int
        Instances of fewer voxels are dropped, before the split.
    merge, merge_threshold
        How instances that touch are united, and above which mean score.
    split, recover : bool
        Whether to split what is disconnected, and to give orphans a label.
    min_fragment_ratio : float
        Share of an instance from which a fragment is large.
    flow_error : float, optional
        Largest flow error of an instance that is kept.
    table : bool
        Whether to combine the statistics of each instance.
    """

    min_size: int = 0
    merge: Merge | None = None
    merge_threshold: float = 0.0
    split: bool = False
    min_fragment_ratio: float = 0.1
    recover: bool = False
    flow_error: float | None = None
    table: bool = False

    @classmethod
    def of(cls, config: ClassConfig, *, table: bool = False) -> "Recipe":
        """The recipe of a class."""
        return cls(
            min_size=config.min_size,
            merge=config.merge,
            split=config.group >= 2,
            min_fragment_ratio=config.min_fragment_ratio,
            recover=config.group == 3,
            flow_error=config.flow_error_threshold or None,
            table=table,
        )


@dataclass(frozen=True)
class Plan:
    """The stages of a job, the view of its final labels, and the factors between the levels these are given."""

    stages: tuple[Stage, ...]
    view: View
    drops: bool
    pyramid: tuple[tuple[int, int, int], ...] = ()

    def dropped(self, job: Job) -> Dropped:
        """What was dropped on the way, of a job whose stages are done."""
        kinds = {kind for stage in self.stages for kind in stage.kinds} & set(map(dropped_kind, ("link", "unite")))
        return count_dropped(job, sorted(kinds), drops=self.drops)

    @property
    def final(self) -> Stage:
        """The stage that writes the labels."""
        function = partial(relabel, view=self.view, drops=self.drops)
        return Stage("relabel", function, "numbers")

    @property
    def writers(self) -> tuple[Stage, ...]:
        """The stages that write the output, one a level: `final`, then those that downsample."""
        found = [self.final]
        for level, factors in enumerate(self.pyramid, 1):
            name = f"downsample.{level}"
            function = partial(downsample, kind=name, factors=factors)
            found.append(Downsampling(name, function, found[-1].name, level, factors))
        return tuple(found)


Start = Literal["flow", "held", "rows", "labels"]
"""What a job starts from: a stored flow, one held in memory, rows of end points, or labels."""


def _first_stages(start: Start, min_size: int) -> list[Stage]:
    track_blocks = Stage("track", track, EVERY, moves=True, products=NUMBERED)
    first = {
        "flow": [track_blocks],
        "held": [Stage("lay_out", lay_out, EVERY, moves=True), track_blocks],
        "rows": [
            Stage("index_rows", index_rows, products=("rows.index",)),
            Stage("settle", settle, "rows.index", products=(*NUMBERED, "track")),
        ],
        "labels": [Stage("localise", localise, EVERY, products=NUMBERED)],
    }[start]
    tables = ((("localise" if start == "labels" else "track", "ids"),),)
    if start == "labels":
        last = Stage("link", partial(collect, min_size=min_size), tables=tables, products=("collect.ids",))
    else:
        last = Stage("link", partial(link, min_size=min_size), tables=tables, products=(dropped_kind("link"),))
    return [*first, last]


def _gather_stages(tiers: int, threshold: float) -> list[Stage]:
    if tiers == 0:
        return []
    decide = [partial(gather, tier=tier, threshold=threshold) for tier in range(tiers)]
    names = [contacts_kind(tier) for tier in range(-1, tiers)]
    return [
        Stage("enclose", enclose, tables=((("contacts", "sums"),) * 2,)),  # two instances a contact at most
        *(
            Gathering(names[tier + 1], decide[tier], names[tier], tier, products=(f"{names[tier + 1]}.united",))
            for tier in range(tiers)
        ),
    ]


def plan_stages(
    recipe: Recipe, start: Start = "flow", tiers: int = 0, pyramid: Sequence[tuple[int, int, int]] = ()
) -> Plan:
    """Order the stages of a job.

    Parameters
    ----------
    recipe : Recipe
        What is to be done.
    start : {"flow", "held", "rows", "labels"}
        What the job starts from.
    tiers : int
        Tiers of regions, each twice as wide as the last, in which instances are agglomerated before the whole; the
        labels do not depend on it. 0: the whole at once.
    pyramid : sequence of tuple of 3 int
        Voxels of each level of the output for one of the next.
    """
    # The published merge comes after the size filter, agglomeration before it.
    late = recipe.min_size if recipe.merge == "agglomerate" else 0
    stages = _first_stages(start, recipe.min_size - late)
    view = View("numbers", "link")
    if recipe.merge is not None:
        look: dict[str, Any] = {"view": view, "mode": recipe.merge}
        threshold, below = recipe.merge_threshold, tiers if recipe.merge == "agglomerate" else 0
        decide = partial(unite, **look, threshold=threshold, min_size=late, tiers=below)
        stages.append(Stage("contacts", partial(count_contacts, **look), "numbers"))
        stages.extend(_gather_stages(below, threshold))
        left = ((contacts_kind(below - 1), "sums"),), ((view.lut, "lut"),)
        stages.append(Stage("unite", decide, tables=left, products=(dropped_kind("unite"),) if late > 1 else ()))
        view = View("numbers", "unite")
    if recipe.split:
        stages.append(Stage("fragments", partial(number_fragments, view=view), "numbers", products=FRAGMENTED))
        stages.append(Stage("join", join, "fragments"))
        decide = partial(split, min_fragment_ratio=recipe.min_fragment_ratio)
        table, places = (("fragments.ids", "ids"),), ("split.seeds", "split.small")
        stages.append(Stage("split", decide, tables=(table,), products=places))
        stages.append(Stage(ABSORBED, absorb, "split.small"))
        view = View("fragments", "split", (ABSORBED,))
    if recipe.recover:
        stages.append(Stage("survey", survey))
        stages.append(Stage("orphans", partial(recover_orphans, view=view), "numbers"))
        view = View("fragments", "split", (ABSORBED, "orphans"))
    drops = recipe.flow_error is not None
    if recipe.table or drops:
        pieces = (f"{view.numbers}.extents", "counts"), *((patch, "ids") for patch in view.patches)
        combine = partial(tabulate, view=view, centres=drops)
        stages.append(Stage("tabulate", combine, tables=(pieces,), products=("centres",)))
    if recipe.flow_error is not None:
        stages.append(Stage("errors", partial(measure_errors, view=view), "numbers"))
        decide = partial(drop, threshold=recipe.flow_error)
        stages.append(Stage("drop", decide, tables=((("errors", "ids"),),), products=("drop.luts",)))
    return Plan(tuple(stages), view, drops, tuple(pyramid))
