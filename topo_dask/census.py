"""What the stages have filed, on record: a bundle that is lost is missed, and made again with all that rests on it."""

from collections.abc import Iterable, Sequence

import numpy as np

from .plan import DONE, EVERY, Stage
from .stages.job import Job
from .stores.scratch import FILED, FileScratch, find


def take_census(job: Job, stage: Stage) -> None:
    """File which bundles a stage that is done has left in scratch, if that is in files; once for each stage.

    Raises
    ------
    OSError
        When a task has filed one bundle and another of it is not there.
    """
    if not isinstance(job.scratch, FileScratch) or stage.name in job.scratch.keys(FILED):
        return
    check_filed(job, (stage,))
    lines = {kind: "\n".join(sorted(job.scratch.keys(kind))).encode() for kind in stage.kinds}
    job.scratch.put(FILED, stage.name, **{kind: np.frombuffer(keys, np.uint8) for kind, keys in lines.items()})


def check_filed(job: Job, stages: Iterable[Stage]) -> None:
    """Raise OSError when a bundle that a stage has filed is not there."""
    if isinstance(job.scratch, FileScratch) and (lost := first_lost(job, stages)) is not None:
        raise OSError(f"scratch bundle {job.scratch.url}/{lost} is lost; run again with resume=True")


def first_lost(job: Job, stages: Iterable[Stage]) -> str | None:
    """Kind and key of a bundle that one of these stages has filed and that is not there; None where none is lost."""
    assert isinstance(job.scratch, FileScratch)
    lost = (f"{kind}/{key}" for stage in stages for kind, key in _lost(job.scratch, stage))
    return next(lost, None)


def make_good(job: Job, stages: Sequence[Stage]) -> None:
    """Strike from the record what has lost a bundle, and all stages behind it: they are done again."""
    scratch = job.scratch
    assert isinstance(scratch, FileScratch)
    for i, stage in enumerate(stages):
        if lost := _lost(scratch, stage):
            for later in reversed(stages[i + 1 :]):
                _strike(scratch, later)
            if stage.over is None:
                _strike(scratch, stage)
            for _, key in lost:
                scratch.remove(stage.name, key)
            # Last: who is killed before this finds the same loss again.
            scratch.remove(FILED, stage.name)
            return


def _strike(scratch: FileScratch, stage: Stage) -> None:
    scratch.remove(DONE, stage.name)
    for kind in stage.kinds:
        scratch.discard(kind)
    scratch.remove(FILED, stage.name)


def _lost(scratch: FileScratch, stage: Stage) -> list[tuple[str, str]]:
    # Kind and key of each bundle that was filed and is not there.
    there = {kind: scratch.keys(kind) for kind in stage.kinds}
    if (filed := find(scratch, FILED, stage.name)) is not None:
        known = {kind: set(bytes(filed[kind]).decode().split("\n")) - {""} for kind in stage.kinds}
    else:
        known = {} if stage.over is None else _filed_together(scratch, stage, there)
    return sorted((kind, key) for kind, keys in known.items() for key in keys - there[kind])


def _filed_together(scratch: FileScratch, stage: Stage, there: dict[str, set[str]]) -> dict[str, set[str]]:
    # A task files its bundle of the stage's own name last, and all others before; only without foreground, when its
    # own holds nothing, there are none.
    done = there[stage.name]
    if stage.over == EVERY and stage.products:
        whole = set.intersection(*(there[kind] for kind in stage.products))
        done = {key for key in done if key in whole or scratch.get(stage.name, key)}
    return dict.fromkeys(stage.products, done)
