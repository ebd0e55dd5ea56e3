"""Stages: passes over blocks, or single tasks for the whole volume; how their tasks are named, listed and run."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from ..blocks.geometry import block_id_of, z_order
from ..stores.allocation import keep_freed_memory
from ..stores.filed import listed
from ..stores.scratch import FileScratch
from ..stores.volumes import SharedReads, StoredFlow
from .job import Columns, Job, admit_rows

EVERY = "every block"
"""Stands for all blocks of the grid. A stage has it in place of the kind of bundle that its blocks must have."""

DONE = "done"
"""Kind of the records of global stages."""


def _itself(job: Job) -> Job:
    return job


def _in_z_order(keys: Iterable[str]) -> list[str]:
    # A worker does consecutive tasks, and tasks on blocks near each other share reads.
    return sorted(keys, key=lambda key: z_order(block_id_of(key)))


@dataclass(frozen=True)
class Stage:
    """One pass: a task for each block, or one task for the whole volume (a global stage).

    Parameters
    ----------
    name : str
        Name of the stage in messages; also the kind of the bundle that a block's task files last.
    function : callable
        ``function(job, key)`` for each block, or ``function(job)``.
    over : str, optional
        Kind of bundle that the blocks of this stage have; None for a global stage.
    tables : tuple of Columns
        The tables that a global stage holds whole, one column of each. The rows of columns in one tuple add up.
    moves : bool
        Whether particles move. Stages in which none move free the memory that the flow keeps for tracking.
    products : tuple of str
        Kinds of the other bundles that its tasks file. Each task of a pass over blocks files a bundle of every kind,
        unless its block has no foreground.
    factors : tuple of 3 int
        How many of the blocks that have a bundle of the kind `over` make one block of this stage, along z, y, x.
    job_of_tasks : callable
        ``job_of_tasks(job)`` is the job as the tasks of a pass see it: its grid has the blocks of this stage.
    """

    name: str
    function: Callable[..., None]
    over: str | None = None
    tables: tuple[Columns, ...] = field(default=(), kw_only=True)
    moves: bool = field(default=False, kw_only=True)
    products: tuple[str, ...] = field(default=(), kw_only=True)
    factors: tuple[int, int, int] = field(default=(1, 1, 1), kw_only=True)
    job_of_tasks: Callable[[Job], Job] = field(default=_itself, kw_only=True)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of all bundles that its tasks file."""
        return (*self.products, self.name)

    def all_keys(self, job: Job) -> list[str]:
        """Keys of all its tasks, done or not, in Z-order."""
        if self.over is None:
            return [self.name]
        if self.over == EVERY:
            return _in_z_order(block.key for block in job.candidates())
        return self.keys_over(listed(job.scratch, self.over))

    def keys_left(self, job: Job) -> list[str]:
        """Keys of the tasks to do, in Z-order; without those that are on record as done."""
        tasks = self.all_keys(job)
        done = job.scratch.keys(DONE if self.over is None else self.name) if tasks else set()
        return [key for key in tasks if key not in done]

    def jobs_of(self, job: Job) -> tuple[Job, ...]:
        """The jobs that its tasks work for."""
        return (job,)

    def keys_over(self, keys: Iterable[str]) -> list[str]:
        """Keys of its tasks, done or not, when these blocks have a bundle of the kind `over`; in Z-order."""
        ids = (block_id_of(key) for key in keys)
        found = {tuple(i // f for i, f in zip(index, self.factors, strict=True)) for index in ids}
        return _in_z_order(".".join(map(str, index)) for index in found)

    def run(self, job: Job, key: str) -> None:
        """Do one task. An error gets a note that names the task."""
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
        """Do the work of one task alone: no note on errors, no memory is freed."""
        if self.over is None:
            admit_rows(job, self.name, self.tables)
            self.function(job)
            job.scratch.put(DONE, key)
        else:
            self.function(self.job_of_tasks(job), key)

    def named(self, job: Job, key: str) -> str:
        """Name of a task in messages: its block with the voxels of the block, or its key."""
        return key if self.over is None else f"block {key} {self.job_of_tasks(job).grid.named(key).write}"


@dataclass(frozen=True)
class TrackTogether(Stage):
    """The tracking of several classes whose flows share stored chunks.

    There is one task for each block. It reads the chunks once for all classes.
    """

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
            assert isinstance(one.scratch, FileScratch)
            if not one.scratch.sees(self.name, key):  # one look is enough: a bundle that is hidden is only filed again
                super().run(replace(one, flow=flow.reading(shared)), key)
