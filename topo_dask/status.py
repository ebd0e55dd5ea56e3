"""How far a run has come, read from its record and its bundles; nothing is changed."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from .blocks.geometry import BlockGrid, Triple
from .config import ClassConfig
from .plan import Plan, Recipe, plan_stages, tracked_together
from .stages.stage import DONE, EVERY
from .stores import ledger, locks
from .stores.addresses import absolute
from .stores.checked import CheckedArray
from .stores.inputs import open_input
from .stores.marks import read_marks
from .stores.multiscales import read_multiscales
from .stores.scratch import FileScratch
from .stores.volumes import Foreground, Source


@dataclass(frozen=True)
class StageStatus:
    """Tasks of a stage that are done, and their total: None as long as earlier stages decide it."""

    name: str
    done: int
    total: int | None

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.done == self.total


@dataclass(frozen=True)
class RunStatus:
    """State of a run.

    Parameters
    ----------
    place : str
        Scratch of an unfinished run, output of a finished one.
    output : str
        Path or URL of the output; the name that zarr gives to its store if the output is an array or group without one.
    classes : dict
        Class name to its stages in order; no stages for a run that is finished.
    holder : dict, optional
        Machine (``host``) and process (``pid``) that is at work on the run; None if none is.
    origin : dict, optional
        How the run was begun: its ``command``, as a list of words, and its ``folder``. None for a finished run.
    failure : str, optional
        The error that ended the run when it was last at work; None if it was killed, or is at work.
    """

    place: str
    output: str
    classes: dict[str, list[StageStatus]]
    holder: dict[str, Any] | None = None
    origin: dict[str, Any] | None = None
    failure: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the run is finished."""
        return self.origin is None


def read_status(place: str | os.PathLike[str]) -> RunStatus:
    """Find out how far a run has come.

    Parameters
    ----------
    place : path or URL
        Output of the run, labels in it, or its scratch.

    Returns
    -------
    status : RunStatus

    Raises
    ------
    FileNotFoundError
        When there is neither a run nor the output of one, or when labels have lost a level.
    """
    url = absolute(os.fspath(place)).rstrip("/")
    try:
        marks = read_marks(url)
    except ValueError:  # something else is there
        marks = {}
    noted = sorted({mark["scratch"] for mark in marks.values() if "scratch" in mark})
    void = ""
    for scratch in map(FileScratch, (url, f"{url}.scratch", *noted)):
        with suppress(NotADirectoryError):
            if (found := ledger.read_run(scratch)) is not None:
                return _unfinished(scratch, *found)
            void = scratch.url if ledger.is_void(scratch) else void
    if not marks and void:
        raise FileNotFoundError(
            f"{void} holds what is left of a run that was being removed: look at the output, or begin again with "
            "overwrite=True"
        )
    if not marks:
        raise FileNotFoundError(f"{place} is neither the output nor the scratch of a run")
    partial = sorted({mark["class"] for mark in marks.values() if not mark.get("complete")})
    if partial and void:
        raise FileNotFoundError(
            f"{place} is the output of a run that has not finished {partial}, and whose record in {void} was being "
            "removed: begin again with overwrite=True"
        )
    if partial and noted:
        raise FileNotFoundError(
            f"{place} is the output of a run that has not finished {partial}, and its record is gone from "
            f"{', '.join(noted)}: give that folder if it was moved, else begin again with overwrite=True"
        )
    if partial:
        raise FileNotFoundError(
            f"{place} is the output of a run that has not finished {partial}, and there is no record of it in "
            f"{url}.scratch: give the folder that was its scratch"
        )
    for inner, mark in marks.items():
        _check_levels(f"{url}/{inner}".rstrip("/"), mark["class"])
    return RunStatus(url, url, {name: [] for name in sorted(mark["class"] for mark in marks.values())})


def _check_levels(url: str, name: str) -> None:
    # Their mark says that the labels were whole, but a level may have been removed since.
    try:
        read_multiscales(url)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"labels of {name!r} are not whole any more: {error}; make them again with overwrite=True"
        ) from error


def _unfinished(scratch: FileScratch, record: dict[str, Any], origin: dict[str, Any]) -> RunStatus:
    grid = BlockGrid(tuple(record["semantic"]["shape"][1:]), tuple(record["block_shape"]), tuple(record["halo"]))
    classes = {}
    pyramid = [(z, y, x) for z, y, x in record["pyramid"]["factors"]] if record["pyramid"] else []
    channels = {name: values.pop("channel") for name, values in record["classes"].items()}
    for name, values in record["classes"].items():
        candidates = cache(lambda channel=channels[name]: _candidates(record, grid, channel, [*channels.values()]))
        plan = plan_stages(Recipe.of(ClassConfig(**values), table=True), tiers=grid.tiers, pyramid=pyramid)
        classes[name] = _stages(ledger.compartment(scratch, record["run"], name), plan, candidates)
    holder = locks.at_work(scratch)
    failure = None if holder else ledger.failure(scratch, record["run"])
    return RunStatus(scratch.url, record["output"], classes, holder, origin, failure)


def _stages(scratch: FileScratch, plan: Plan, candidates: Callable[[], int]) -> list[StageStatus]:
    listed = cache(scratch.keys)
    found: list[StageStatus] = []
    for stage in (*plan.stages, *plan.writers):
        done = int(stage.name in listed(DONE)) if stage.over is None else len(listed(stage.name))
        total: int | None = 1
        if stage.over == EVERY:
            total = candidates()
        elif stage.over is not None:
            total = len(stage.keys_over(listed(stage.over))) if all(earlier.is_complete for earlier in found) else None
        found.append(StageStatus(stage.name, done, total))
    return found


def _candidates(record: dict[str, Any], grid: BlockGrid, channel: int, channels: list[int]) -> int:
    # Number of blocks that a stored chunk of the foreground meets, of any class if all are tracked together; all blocks
    # if the inputs are not found any more.
    try:
        semantic, flow = (open_input(record[name]["store"].rstrip("/"), name)[0] for name in ("semantic", "flow"))
    except (OSError, ValueError):
        return len(grid)
    found = set[Triple]()
    for one in channels if tracked_together(flow, len(channels)) else [channel]:
        source = Source(CheckedArray(semantic, "semantic", "background"), "semantic", slice(one, one + 1))
        found.update(block.block_id for block in Foreground(source, record["threshold"]).stored_blocks(grid))
    return len(found)
