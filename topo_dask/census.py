"""What the stages have filed, on record: a bundle that is lost is missed, and made again with all that rests on it."""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from .plan import DONE, EVERY, Stage
from .stages.job import Job
from .stores.retries import at_once
from .stores.scratch import FILED, FileScratch, find, keys_in


def take_census(job: Job, stage: Stage, tasks: Sequence[str] | None = None) -> None:
    """File which bundles a stage that is done has left in scratch, if that is in files; once for each stage.

    Parameters
    ----------
    job : Job
        The job.
    stage : Stage
        Stage whose tasks are all done.
    tasks : sequence of str, optional
        Keys of all its tasks where this run, and none before it, has done them: there is no census to look for then,
        and a pass without tasks has filed nothing.

    Raises
    ------
    OSError
        When a task has filed one bundle and another of it is not there.
    """
    scratch, new = job.scratch, tasks is not None
    if not isinstance(scratch, FileScratch) or (not new and stage.name in scratch.keys(FILED)):
        return
    nothing = new and not tasks
    lost, there = ([], dict[str, set[str]]()) if nothing else _compare(scratch, stage, new=new)
    _refuse_lost(scratch, lost)
    # A listing with names in it has all names; one without is asked for again.
    again = () if nothing else [kind for kind in stage.kinds if not there.get(kind)]
    filed = there | _listings(scratch, again)
    lines = {kind: "\n".join(sorted(filed.get(kind, ()))).encode() for kind in stage.kinds}
    scratch.put(FILED, stage.name, **{kind: np.frombuffer(keys, np.uint8) for kind, keys in lines.items()})


def check_filed(job: Job, stages: Iterable[Stage]) -> None:
    """Raise OSError when a bundle that a stage has filed is not there."""
    if isinstance(job.scratch, FileScratch):
        for stage in stages:
            _refuse_lost(job.scratch, _lost(job.scratch, stage))


def _refuse_lost(scratch: FileScratch, lost: Sequence[tuple[str, str]]) -> None:
    if lost:
        raise OSError(f"scratch bundle {scratch.url}/{'/'.join(lost[0])} is lost; run again with resume=True")


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
        lost = _lost(scratch, stage)
        if lost or _is_uncounted(scratch, stage):
            for later in reversed(stages[i + 1 :]):
                _strike(scratch, later)
            if stage.over is None:
                _strike(scratch, stage)
            for _, key in lost:
                scratch.remove(stage.name, key)
            # Last: who is killed before this finds the same loss again.
            scratch.remove(FILED, stage.name)
            return


def _is_uncounted(scratch: FileScratch, stage: Stage) -> bool:
    # A global stage that is done, and what it filed is not on record: nothing tells what of that is lost.
    done = stage.over is None and stage.name in scratch.keys(DONE)
    return done and stage.name not in scratch.keys(FILED)


def _strike(scratch: FileScratch, stage: Stage) -> None:
    scratch.remove(DONE, stage.name)
    for kind in stage.kinds:
        scratch.discard(kind)
    scratch.remove(FILED, stage.name)


def _listings(scratch: FileScratch, kinds: Sequence[str]) -> dict[str, set[str]]:
    # Keys of all bundles of each kind.
    return dict(zip(kinds, at_once(*(partial(scratch.keys, kind) for kind in kinds)), strict=True))


def _lost(scratch: FileScratch, stage: Stage) -> list[tuple[str, str]]:
    return _compare(scratch, stage)[0]


def _compare(
    scratch: FileScratch, stage: Stage, *, new: bool = False
) -> tuple[list[tuple[str, str]], dict[str, set[str]]]:
    # Kind and key of each bundle that was filed and is not there, and the keys of those that are there.
    if not new and (filed := find(scratch, FILED, stage.name)) is not None:
        known = {kind: keys_in(filed, kind) for kind in stage.kinds}
        there = _listings(scratch, [kind for kind, keys in known.items() if keys])
    else:
        there = _listings(scratch, stage.kinds)
        known = {} if stage.over is None else _filed_together(scratch, stage, there)
    return sorted((kind, key) for kind, keys in known.items() for key in keys - there.get(kind, set())), there


def _filed_together(scratch: FileScratch, stage: Stage, there: dict[str, set[str]]) -> dict[str, set[str]]:
    # A task files its bundle of the stage's own name last, and all others before; only without foreground, when its
    # own holds nothing, there are none.
    done = there[stage.name]
    if stage.over == EVERY and stage.products:
        whole = set.intersection(*(there[kind] for kind in stage.products))
        done = {key for key in done if key in whole or scratch.get(stage.name, key)}
    return dict.fromkeys(stage.products, done)
