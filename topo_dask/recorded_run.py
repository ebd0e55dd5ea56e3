"""A run on record: what was asked for, whether it may begin or go on, and its stages, class by class."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from .admission import RunPlan
from .census import check_done, forget_lost, forget_stages
from .plan import track_together
from .stages.job import CoarserLevel, Job
from .stages.tabulate import instance_columns
from .stores import ledger
from .stores.addresses import is_memory, nested
from .stores.folders import folder_at
from .stores.foreign import MARK
from .stores.instance_tables import find_table, remove_table, write_table
from .stores.label_arrays import finished, missing_levels, open_group, open_output, publish
from .stores.marks import check_owned
from .stores.outputs import OutputSpec, check_outputs
from .stores.pages import Pages
from .stores.places import Target, name_of, place_of
from .stores.recent import RecentReads
from .stores.retries import in_parallel
from .stores.scratch import FileScratch
from .stores.volumes import Output, Source, StoredFlow
from .surroundings import shares_memory
from .version import __version__
from .workers import check_workers_see

CLEARED = "cleared"
"""Kind of the record that nothing of earlier labels is left in the arrays of a class."""


class RecordedRun:
    """What the caller asked for: a plan, and the places of its labels and of its record.

    Parameters
    ----------
    plan : RunPlan
        What is to be done.
    target : Target
        Where the labels go.
    store : FileScratch
        Where the record and the intermediates go.
    overwrite, resume : bool
        Whether earlier labels may be replaced, and whether an interrupted run is gone on with.
    """

    def __init__(self, plan: RunPlan, target: Target, store: FileScratch, *, overwrite: bool, resume: bool) -> None:
        self.plan, self.target, self.store = plan, target, store
        self.overwrite, self.resume = overwrite, resume
        self.spec = OutputSpec(plan.grid.shape, plan.grid.block_shape, plan.chunks, plan.pyramid)
        self.record = _describe(plan, target)

    def check_places(self) -> None:
        """Raise ValueError when inputs, scratch and output are in one another's way, or out of reach of the tasks."""
        # Inputs must not lie in scratch, which is removed in the end, nor in labels, which are replaced. Tasks in other
        # processes do not see the memory of this one.
        plan, target, scratch = self.plan, self.target, self.store.url
        inputs = {name: place_of(source.array) for name, source in (("semantic", plan.semantic), ("flow", plan.flow))}
        # An array in zarr's `MemoryStore` may be an input in any case: it is pickled with what it holds.
        in_memory = [name for name, place in {"scratch": scratch, **inputs}.items() if is_memory(place)]
        in_memory = ["output"] * target.is_in_memory + in_memory
        if in_memory and not shares_memory():
            raise ValueError(
                f"{in_memory[0]} is in the memory of this process but tasks run in others: give a path or URL of files"
            )
        if target.url is None:
            return
        if nested(target.url, scratch):
            raise ValueError(f"scratch {scratch} and output {target.url} must not lie in one another")
        labels = [target.url] if target.is_array else [target.inside(self.spec.place(name)) for name in plan.classes]
        for name, url in inputs.items():
            if url is None:
                continue
            if inside := next((place for place in labels if nested(url, place)), None):
                raise ValueError(
                    f"{name} {url} and labels in {inside} must not lie in one another: choose another output"
                )
            if nested(url, scratch):
                raise ValueError(f"{name} {url} and scratch {scratch} must not lie in one another")

    def finished(self) -> dict[str, Any] | None:
        """The labels, if a run of the same request has completed them."""
        return finished(self.target, self.plan.classes, self.spec, ledger.digests(self.record))

    def admit(self, look: Callable[[], Any]) -> tuple[str | None, Any]:
        """Name of the run to go on with, if any, and the group that `look` finds; raises if anything is in the way."""
        target, classes = self.target, self.plan.classes
        run_name, group, *tables = in_parallel(
            lambda: ledger.admit(self.store, self.record, resume=self.resume, overwrite=self.overwrite),
            look,
            *(partial(find_table, target.beside(".tables"), name) for name in classes if target.url is not None),
        )
        replace = self._to_replace(run_name)
        check_outputs(target, group, classes, self.spec, run_name, replace, self.store.url)
        # An array that was given has no mark, so nobody would take a table beside it for that of its labels.
        if not (run_name or self.overwrite or target.is_array) and (old := ", ".join(filter(None, tables))):
            raise FileExistsError(
                f"labels that are not here have left tables, {old}: move those, choose another output, or pass "
                "overwrite=True to replace them"
            )
        return run_name, group

    def _to_replace(self, run_name: str | None) -> list[str]:
        # Classes whose labels may be removed. If the run goes on and was begun with `overwrite`, these are the classes
        # whose old labels it has not removed yet.
        if run_name is None:
            return list(self.plan.classes) if self.overwrite else []
        if not ledger.may_replace(self.store):
            return []
        return [name for name in self.plan.classes if name not in self._compartment(run_name, name).keys(CLEARED)]

    def _compartment(self, run_name: str, name: str) -> FileScratch:
        return ledger.compartment(self.store, run_name, name)

    def segment(
        self, earlier: str | None, group: Any, work: Callable[..., None], check: Callable[[], None]
    ) -> dict[str, Job]:
        """Do all stages of all classes but those that an `earlier` run has done; `work` does some stages of a job.

        Returns the job of each class. RuntimeError is raised by `check` when another run has taken over.
        """
        go_on = ledger.go_on if earlier else partial(ledger.begin, overwrite=self.overwrite)
        run_name = go_on(self.store, self.record)
        with ledger.noting_failure(self.store, run_name, check):
            return self._segment(run_name, group, work, new=earlier is None)

    def _segment(self, run_name: str, group: Any, work: Callable[..., None], *, new: bool) -> dict[str, Job]:
        plan, target = self.plan, self.target
        jobs = self._open_jobs(open_group(target, group, self.spec), run_name, new=new)
        if together := plan.shared_channels > 3:
            work(next(iter(jobs.values())), [track_together(list(jobs.values()))], new=new)
        for name, job in jobs.items():
            first, *others = (*plan.plans[name].stages, *plan.plans[name].writers)
            work(job, (first,), new=new and not together)
            work(job, others, new=new)
            check_owned(target, self.spec.place(name), run_name)
            self._publish(job)
        return jobs

    def _open_jobs(self, group: Any, run_name: str, *, new: bool) -> dict[str, Job]:
        # The job of each class, with its output open. If the run goes on, what was lost since is taken off the record.
        plan, target, jobs = self.plan, self.target, {}
        pages, flow = Pages(plan.pages_mem), RecentReads(plan.flow, plan.grid, plan.recent_mem)
        if target.url is not None:
            folder_at(target.beside(".tables")).sweep()
        for name in plan.classes:
            compartment = self._compartment(run_name, name)
            go_on = not new and name in compartment.keys(CLEARED)
            if not new:
                self._forget_labels_gone(compartment, name, all_gone=not go_on)
            arrays = self._open_arrays(group, name, run_name, compartment, go_on=go_on)
            jobs[name] = _make_job(plan, name, compartment, arrays, flow, pages)
            if not new:
                forget_lost(jobs[name], (*plan.plans[name].stages, *plan.plans[name].writers))
        return jobs

    def _forget_labels_gone(self, compartment: FileScratch, name: str, *, all_gone: bool) -> None:
        writers = self.plan.plans[name].writers
        for level in missing_levels(self.target, name, self.spec):
            compartment.discard(writers[level].name)
        if all_gone:  # the arrays are created again, and empty
            forget_stages(compartment, writers)

    def _open_arrays(
        self, group: Any, name: str, run_name: str, compartment: FileScratch, *, go_on: bool
    ) -> Sequence[Any]:
        # The levels of a class. Earlier labels and their table are removed, unless this run has done so before.
        target = self.target
        if not go_on and target.url is not None:
            remove_table(target.beside(".tables"), name)
        arrays = open_output(target, group, name, self.spec, run_name, self.store.url, resume=go_on)
        compartment.put(CLEARED, name)
        check_workers_see("output", arrays[0])
        return arrays

    def _publish(self, job: Job) -> None:
        # The table first: labels whose mark says that they are whole have one, and the mark holds its digest, so that
        # they belong together wherever both are moved.
        plan, target = self.plan.plans[job.name], self.target
        check_done(job, (*plan.stages, *plan.writers))
        columns = instance_columns(job, drops=plan.drops)
        facts = {
            "instances": len(columns["label"]),
            "dropped": asdict(plan.dropped(job)),
            "table": None if target.url is None else write_table(columns, job.name, target.beside(".tables")),
            "channel": self.plan.classes[job.name][0],
            "channels": self.plan.flow.shape[0],
            "record": ledger.digest(self.record),
        }
        publish(target, job.name, self.spec, facts)


def _make_job(
    plan: RunPlan, name: str, scratch: FileScratch, outputs: Sequence[Any], flow: RecentReads, pages: Pages
) -> Job:
    # The job of one class; `outputs` are the arrays for its levels, the finest first.
    channel, config = plan.classes[name]
    channels = slice(3 * channel, 3 * channel + 3)
    finest, *coarser = (Output(array, array.attrs.get(MARK, {}).get("run")) for array in outputs)
    return Job(
        name=name,
        grid=plan.grid,
        config=config,
        foreground=plan.foreground(name),
        flow=StoredFlow(Source(flow, "flow", channels), config.step_size, pages),
        scratch=scratch,
        output=finest,
        allowed_mem=plan.global_mem,
        levels=tuple(CoarserLevel(f, output) for f, output in zip(plan.factors, coarser, strict=True)),
    )


def _describe(plan: RunPlan, target: Target) -> dict[str, Any]:
    return {
        "version": __version__,
        "semantic": ledger.describe_array(plan.semantic.array),
        "flow": ledger.describe_array(plan.flow.array),
        "output": name_of(target.node) if target.url is None else target.url,
        "on_missing": plan.flow.on_missing,
        "threshold": plan.threshold,
        "block_shape": list(plan.grid.block_shape),
        "halo": list(plan.grid.halo),
        "chunks": list(plan.chunks),
        "pyramid": None if plan.pyramid is None else asdict(plan.pyramid),
        "classes": {name: {"channel": channel, **config.to_dict()} for name, (channel, config) in plan.classes.items()},
    }
