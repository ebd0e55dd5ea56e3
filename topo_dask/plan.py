"""From parameters to stages: which passes a job makes over its blocks, and in which order."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from .config import ClassConfig, Merge
from .stages.absorb import absorb
from .stages.downsample import downsample
from .stages.drop import Dropped, count_dropped, drop, measure_errors
from .stages.gather import contacts_kind, enclose, gather
from .stages.job import ABSORBED, Job, View, dropped_kind
from .stages.link import collect, link
from .stages.localise import localise
from .stages.recover import recover_orphans, survey
from .stages.relabel import relabel
from .stages.settle import index_rows, settle
from .stages.split import join, number_fragments, split
from .stages.stage import EVERY, Stage, TrackTogether
from .stages.tabulate import tabulate
from .stages.track import lay_out, track
from .stages.unite import count_contacts, unite

NUMBERED = ("numbers.extents", "numbers.faces", "numbers")
"""Kinds of the bundles that a block has when its pieces are numbered."""

FRAGMENTED = ("fragments.extents", "fragments.faces", "fragments.ids")
"""Kinds of the bundles that describe the fragments of a block."""


def tracked_together(flow: Any, n_classes: int) -> bool:
    """Whether the classes are tracked together: when stored chunks of the flow hold channels of several classes."""
    return n_classes > 1 and (flow.shards or flow.chunks)[0] > 3


def track_together(jobs: Sequence[Job]) -> TrackTogether:
    """Return the stage that tracks several classes with one grid and one flow array."""
    return TrackTogether("track", track, EVERY, moves=True, products=NUMBERED, jobs=tuple(jobs))


@dataclass(frozen=True)
class Recipe:
    """What a job does after the first numbering.

    Parameters
    ----------
    min_size : int
        Instances of fewer voxels are dropped, before the split.
    merge, merge_threshold
        How instances that touch are united, and the mean score above which they are.
    split, recover : bool
        Whether to split disconnected instances, and whether to give orphans a label.
    min_fragment_ratio : float
        Least share of an instance's voxels that makes a fragment large.
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
        """Return the recipe of a class."""
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
    """The stages of a job, the view of its final labels, and the factors between the levels of the output.

    `drops` says whether instances are dropped for their flow error.
    """

    stages: tuple[Stage, ...]
    view: View
    drops: bool
    pyramid: tuple[tuple[int, int, int], ...] = ()

    def dropped(self, job: Job) -> Dropped:
        """Count the instances that a job has dropped, after its stages are done."""
        kinds = {kind for stage in self.stages for kind in stage.kinds} & set(map(dropped_kind, ("link", "unite")))
        return count_dropped(job, sorted(kinds), drops=self.drops)

    @property
    def final(self) -> Stage:
        """The stage that writes the labels."""
        function = partial(relabel, view=self.view, drops=self.drops)
        return Stage("relabel", function, "numbers")

    @property
    def writers(self) -> tuple[Stage, ...]:
        """The stages that write the output, one for each level: `final`, then the stages that downsample."""
        found = [self.final]
        for level, factors in enumerate(self.pyramid, 1):
            name = f"downsample.{level}"
            function = partial(downsample, kind=name, factors=factors)
            coarser = partial(Job.at, level=level)
            found.append(Stage(name, function, found[-1].name, factors=factors, job_of_tasks=coarser))
        return tuple(found)


Start = Literal["flow", "held", "rows", "labels"]
"""Input of a job: a stored flow, a flow held in memory, rows of end points, or labels."""


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
    found = [Stage("enclose", enclose, tables=((("contacts", "sums"),) * 2,))]  # a contact has two instances
    for tier in range(tiers):
        name, below = contacts_kind(tier), contacts_kind(tier - 1)
        decide = partial(gather, tier=tier, threshold=threshold)
        factors = (2, 2, 2) if tier else (1, 1, 1)  # the regions of tier 0 are blocks
        regions = partial(Job.gathered, tier=tier)
        products = (f"{name}.united",)
        found.append(Stage(name, decide, below, products=products, factors=factors, job_of_tasks=regions))
    return found


def plan_stages(
    recipe: Recipe, start: Start = "flow", tiers: int = 0, pyramid: Sequence[tuple[int, int, int]] = ()
) -> Plan:
    """Order the stages of a job.

    Parameters
    ----------
    recipe : Recipe
        What the job does after the first numbering.
    start : {"flow", "held", "rows", "labels"}
        Input of the job.
    tiers : int
        Number of tiers of regions, each twice as wide as the last, in which instances are agglomerated before the
        whole volume. The labels do not depend on it. With 0 the whole volume is agglomerated at once.
    pyramid : sequence of tuple of 3 int
        For each level of the output but the coarsest: how many of its voxels make one voxel of the next level, along z,
        y, x.
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
