"""All stages of a job but the last, done once in a task of a graph."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from ..census import first_lost, take_census
from ..execute import Executor, run
from ..stages.job import Job
from ..stages.stage import Stage
from ..stores.bundles import AbsentBundleError, DamagedBundleError
from ..stores.checked import CheckedArray
from ..stores.scratch import FileScratch
from ..surroundings import ambient, lock_here, turn
from ..workers import check_workers_reach, check_workers_see
from .spilled import out_of_reach


@dataclass(frozen=True)
class Prepared:
    """A job whose stages are done, and which blocks have something to look up; bool, a value for each block."""

    job: Job
    occupied: NDArray[np.bool_]


def prepare(
    job: Job,
    stages: Sequence[Stage],
    kind: str = "numbers",
    stored: Iterable[CheckedArray] = (),
    look: Callable[[], None] = lambda: None,
) -> Prepared:
    """Run stages that read some stored arrays, after a `look` at these; stages on record are not run again.

    Blocks that have a bundle of the given kind are occupied.

    Raises
    ------
    OSError
        When a worker does not see the files that this process sees, or a bundle was lost after it was filed.
    """
    assert isinstance(job.scratch, FileScratch)
    # Two tasks that prepare the same job would file the same bits: the lock only saves the work. The turn ends after
    # the pool has been joined: until then its tasks may still run, after an error.
    with ExitStack() as stack, ambient(in_task=True) as executor, lock_here(job.scratch.url):
        check_workers_reach(job.scratch)
        for array in stored:
            check_workers_see(array.name, array.array)
        done = 0
        for stage in takewhile(lambda stage: not stage.keys_left(job), stages):
            take_census(job, stage, ())
            done += 1
        if left := stages[done:]:
            stack.enter_context(_turn_of(job))
            look()
            for stage in left:
                _work(job, stages, stage, executor)
        _check_kept(job, stages)
    occupied = np.zeros(job.grid.numblocks, np.bool_)
    for block in job.occupied(kind):
        occupied[block.block_id] = True
    return Prepared(job, occupied)


@contextmanager
def _turn_of(job: Job) -> Iterator[None]:
    # Frees the pages and reads of the flow that this job keeps, before the next job keeps its own.
    with turn():
        try:
            yield
        finally:
            if job.flow is not None:
                job.flow.release()


def _work(job: Job, stages: Sequence[Stage], stage: Stage, executor: Executor) -> None:
    try:
        run(job, (stage,), executor)
    except (OSError, KeyError) as error:
        _check_kept(job, stages, error)
        if isinstance(error, LOSSES):
            raise lost_bundle(job, f"stage {stage.name!r}", error) from error
        raise
    if left := stage.keys_left(job):  # a worker that joined after the check may file elsewhere
        raise unreachable(job, f"stage {stage.name!r}, {stage.named(job, left[0])}: no record")


def _check_kept(job: Job, stages: Sequence[Stage], cause: Exception | None = None) -> None:
    if (lost := first_lost(job, stages)) is not None:
        raise unreachable(job, f"bundle {lost} is lost") from cause


LOSSES = AbsentBundleError, DamagedBundleError
"""Errors of a bundle that was filed and cannot be read."""


def lost_bundle(job: Job, where: str, error: AbsentBundleError | DamagedBundleError) -> OSError:
    """The error to raise for one of `LOSSES`, which advise to resume a run; a lazy array has to be made anew."""
    state = "missing" if isinstance(error, AbsentBundleError) else "damaged"
    return unreachable(job, f"{where}: bundle {error.args[0]} is {state}")


def unreachable(job: Job, problem: str) -> OSError:
    """The error to raise when something is missing in the scratch of a job, or cannot be seen from here."""
    assert isinstance(job.scratch, FileScratch)
    return OSError(out_of_reach(job.scratch, problem))
