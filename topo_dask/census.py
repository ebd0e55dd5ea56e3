"""Records of the bundles that each stage has filed: they show when a bundle is lost, and what must be done again."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial

import numpy as np

from .stages.job import Job
from .stages.stage import DONE, EVERY, Stage
from .stores.filed import FILED, keys_in
from .stores.retries import in_parallel
from .stores.scratch import FileScratch, find

PATIENCE = 70.0
"""Seconds within which a bundle that another machine has filed must be seen: a network file system may show a folder as
it was up to a minute ago."""

Lost = list[tuple[str, str]]
"""Kind and key of bundles."""


def take_census(job: Job, stage: Stage, tasks: Collection[str], *, new: bool = False) -> None:
    """File a record of the bundles that a finished stage has left in scratch, once for each stage.

    Nothing is done for scratch in memory.

    Parameters
    ----------
    job : Job
        The job.
    stage : Stage
        Stage, all of whose tasks are done.
    tasks : collection of str
        Keys of the tasks that this run has done.
    new : bool
        Whether these are all tasks of the stage, and no earlier start of the run did any. Then no record is looked
        for, and a stage without tasks has filed nothing.

    Raises
    ------
    OSError
        When a task has filed one of its bundles and another is not there, or when the bundles of a task that is done
        are not seen here.
    """
    scratch = job.scratch
    if not isinstance(scratch, FileScratch) or (not new and stage.name in scratch.keys(FILED)):
        return
    filed = {} if new and not tasks else _keys_when_seen(scratch, stage, set(tasks))
    lines = {kind: "\n".join(sorted(filed.get(kind, ()))).encode() for kind in stage.kinds}
    scratch.put(FILED, stage.name, **{kind: np.frombuffer(keys, np.uint8) for kind, keys in lines.items()})


def check_done(job: Job, stages: Sequence[Stage]) -> None:
    """Raise OSError when a bundle of these stages is lost, RuntimeError when a task of theirs is not on record."""
    scratch = job.scratch
    assert isinstance(scratch, FileScratch)
    for stage in stages:
        _refuse_lost(scratch, _lost(scratch, stage))
    for stage in stages:
        if left := stage.keys_left(job):
            raise RuntimeError(
                f"class {job.name!r}, stage {stage.name!r}: {left[0]} is not on record in {scratch.url} after the run; "
                "run again with resume=True"
            )


def _refuse_lost(scratch: FileScratch, lost: Sequence[tuple[str, str]]) -> None:
    if lost:
        raise OSError(f"scratch bundle {scratch.url}/{'/'.join(lost[0])} is lost; run again with resume=True")


def first_lost(job: Job, stages: Iterable[Stage]) -> str | None:
    """Kind and key of a bundle that one of these stages has filed and that is not there; None where none is lost."""
    assert isinstance(job.scratch, FileScratch)
    lost = (f"{kind}/{key}" for stage in stages for kind, key in _lost(job.scratch, stage))
    return next(lost, None)


def forget_lost(job: Job, stages: Sequence[Stage]) -> None:
    """Have a run do again what was lost: the tasks of the first stage that has lost bundles, and all later stages.

    Later stages are done again, too, if they were begun although a stage before them has tasks left: they did not use
    the results of these tasks.

    Parameters
    ----------
    job : Job
        The job, whose scratch is in files.
    stages : sequence of Stage
        All stages of the job in order.
    """
    scratch = job.scratch
    assert isinstance(scratch, FileScratch)
    filed = scratch.keys(FILED)
    for i, stage in enumerate(stages):
        lost = _lost(scratch, stage)
        if not lost and stage.name in filed and not stage.keys_left(job):
            continue
        if lost or _is_begun(scratch, stages[i:], filed):
            forget_stages(scratch, stages[i + 1 :])
            if stage.over is None:
                forget_stages(scratch, [stage])
            for _, key in lost:
                scratch.remove(stage.name, key)
            # The record goes last: if this process is killed before, the next one finds the same loss again.
            scratch.remove(FILED, stage.name)
        return


def forget_stages(scratch: FileScratch, stages: Sequence[Stage]) -> None:
    """Remove what stages have done from scratch and from the record.

    The last stage goes first: if this is interrupted, no results are left whose inputs are already removed.
    """
    for stage in reversed(stages):
        scratch.remove(DONE, stage.name)
        for kind in stage.kinds:
            scratch.discard(kind)
        scratch.remove(FILED, stage.name)


def _is_begun(scratch: FileScratch, stages: Sequence[Stage], filed: set[str]) -> bool:
    # Whether any of these stages is on record as done, or the second one has filed anything: a stage begins only when
    # the one before it is on record.
    ended = filed | scratch.keys(DONE)
    return any(stage.name in ended for stage in stages) or any(scratch.keys(stage.name) for stage in stages[1:2])


def _listings(scratch: FileScratch, kinds: Sequence[str]) -> dict[str, set[str]]:
    # Keys of all bundles of each kind.
    return dict(zip(kinds, in_parallel(*(partial(scratch.keys, kind) for kind in kinds)), strict=True))


def _lost(scratch: FileScratch, stage: Stage) -> Lost:
    # Kind and key of each bundle that was filed and is not there.
    if (filed := find(scratch, FILED, stage.name)) is None:
        return _half_filed(scratch, stage, _listings(scratch, stage.kinds))
    known = {kind: keys_in(filed, kind) for kind in stage.kinds}
    return _missing(known, _listings(scratch, [kind for kind, keys in known.items() if keys]))


def _missing(known: Mapping[str, set[str]], there: Mapping[str, set[str]]) -> Lost:
    return sorted((kind, key) for kind, keys in known.items() for key in keys - there.get(kind, set()))


def _keys_when_seen(scratch: FileScratch, stage: Stage, done: set[str]) -> dict[str, set[str]]:
    # Keys of all bundles of a stage that is not on record yet, once all that its tasks have filed is listed: the next
    # stage takes what is listed for all there is.
    end = time.monotonic() + PATIENCE
    while True:
        there = _listings(scratch, stage.kinds)
        lost = _half_filed(scratch, stage, there)
        hidden = done - (scratch.keys(DONE) if stage.over is None else there[stage.name])
        if not hidden and done.isdisjoint(key for _, key in lost):
            _refuse_lost(scratch, lost)
            # A listing with names in it has all names; an empty one is asked for again.
            return there | _listings(scratch, [kind for kind in stage.kinds if not there[kind]])
        if time.monotonic() > end:
            _refuse_lost(scratch, lost)
            raise OSError(
                f"scratch bundle {scratch.url}/{stage.name}/{min(hidden)} was filed by a task and is not there: files "
                "were removed, or workers have another folder there: pass scratch=<a path or URL that all share>"
            )
        time.sleep(1.0)


def _half_filed(scratch: FileScratch, stage: Stage, there: Mapping[str, set[str]]) -> Lost:
    # What a task must have filed with what is there. It files its other bundles before the one of the stage's own name.
    # Only in a block without foreground there are no others, and its own bundle is empty.
    if stage.over is None:
        return []
    done = there[stage.name]
    if stage.over == EVERY and stage.products:
        whole = set.intersection(*(there[kind] for kind in stage.products))
        others = sorted(done - whole)
        own = zip(others, scratch.get_each(stage.name, others), strict=True)
        done = (done & whole) | {key for key, bundle in own if bundle}
    return _missing(dict.fromkeys(stage.products, done), there)
