"""``run`` and ``plan``: segment a stored prediction, or show what that would take."""

import json
import os
import sys
import warnings
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from .errors import JSON_LOG, ON_RECORD, OVERWRITE
from .options import CLASSES, EARLIER, GEOMETRY, INPUT, LOG, SCHEDULER, SHAPES, Place, options
from .parameters import read_parameters, say_parameters
from .schedulers import Scheduling

if TYPE_CHECKING:
    from ..admission import RunPlan
    from ..estimate import Estimate


@click.command()
@options(INPUT, (click.argument("output", type=Place()),), CLASSES, SHAPES, GEOMETRY, SCHEDULER)
@click.option(
    "--scratch",
    type=Place(),
    help="Folder or URL for intermediates, reachable by all workers.  [default: OUTPUT.scratch]",
)
@options(EARLIER, LOG)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: path, instances, and what was dropped, of each class."
)
@click.pass_context
def run(
    ctx: click.Context,
    /,
    semantic: str,
    flow: str,
    output: str,
    quiet: bool,
    json_log: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Segment a stored prediction.

    SEMANTIC is a zarr array (N, D, H, W): the foreground probability of N classes. FLOW is a zarr array (3N, D, H, W):
    for each class the z, y and x components of the flow, in voxels. Both may be OME-Zarr images, and paths or URLs.

    Each class becomes an OME-Zarr image label OUTPUT/labels/NAME, added to the image if OUTPUT is one: int32, 0
    background, 1..n instances; a table of its instances goes to OUTPUT.tables/NAME.csv.

    \b
    Resume an interrupted run with the same command plus --resume:
      topo-dask run semantic.zarr flow.zarr labels.zarr --class nuc --resolution-nm 8
      topo-dask status labels.zarr
      topo-dask run semantic.zarr flow.zarr labels.zarr --class nuc --resolution-nm 8 --resume
    """
    from ..admission import plan_volume
    from ..progress import JsonLog
    from ..segment import segment_volume
    from ..stores.marks import read_marks

    if quiet and json_log:
        raise click.UsageError("--quiet and --json-log exclude one another")
    ctx.meta[JSON_LOG] = json_log
    kept = {name: values.pop(name) for name in ("scratch", "resume", "overwrite")}
    ctx.meta[OVERWRITE] = kept["overwrite"]
    ctx.meta[ON_RECORD] = partial(_is_on_record, output, kept["scratch"])
    scheduling, parameters = Scheduling.take(values), read_parameters(semantic, flow, values)
    if (machine := scheduling.machine()) is not None:
        # Bad input is refused before processes are started.
        with warnings.catch_warnings(action="ignore"):
            plan_volume(semantic, flow, **parameters, machine=machine)
    with scheduling.start():
        progress = JsonLog() if json_log else not quiet
        labels = segment_volume(semantic, flow, output, **parameters, **kept, progress=progress)
    marks = read_marks(output)
    found = {}
    for name in labels:
        place = name if values["ome_zarr"] is None else f"labels/{name}"
        facts = {key: marks[place][key] for key in ("instances", "dropped")}
        found[name] = {"path": f"{output.rstrip('/')}/{place}", **facts}
    click.echo(json.dumps(found) if as_json else "\n".join(_say(name, **result) for name, result in found.items()))


def _say(name: str, path: str, instances: int, dropped: dict[str, Any]) -> str:
    from ..stages.drop import Dropped

    why = str(Dropped(**dropped))
    return f"{name}: {path} ({instances} {'instance' if instances == 1 else 'instances'}{f'; {why}' if why else ''})"


def _is_on_record(output: str, scratch: str | None) -> bool:
    # Whether the record in scratch is that of this command: an earlier run may have left one there.
    from ..stores.ledger import read_run
    from ..stores.places import locate_output, place_of_scratch
    from ..stores.scratch import FileScratch

    with suppress(OSError, ValueError):  # the place cannot be read, or is no place
        place = locate_output(output).beside(".scratch") if scratch is None else place_of_scratch(scratch)
        found = read_run(FileScratch(place))
        return found is not None and (found[1]["command"], found[1]["folder"]) == (sys.argv, os.getcwd())
    return False


@click.command()
@options(INPUT, CLASSES, SHAPES, GEOMETRY, SCHEDULER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, in voxels, bytes and seconds.")
@click.option(
    "--estimate",
    is_flag=True,
    help="Time a few blocks in a temporary folder, and tell how long the run will take once its workers have started. "
    "All workers must share TMPDIR.",
)
def plan(semantic: str, flow: str, as_json: bool, estimate: bool, **values: Any) -> None:
    """Show what `run` would do: blocks, stages, projected memory and sizes.

    Takes the options of `run`. Input that it refuses, `run` refuses too. It reads no voxel and writes nothing, unless
    --estimate is given.
    """
    from ..admission import plan_volume, warn_of_doubts
    from ..estimate import estimate_run

    scheduling, parameters = Scheduling.take(values), read_parameters(semantic, flow, values)
    machine = scheduling.machine()
    with nullcontext() if machine is not None and not estimate else scheduling.start():
        planned = plan_volume(semantic, flow, **parameters, machine=machine)
        if estimate:
            warn_of_doubts(planned)
        estimated = estimate_run(planned) if estimate else None
    found = _summary(planned, estimated)
    if as_json:
        click.echo(json.dumps(found))
        return
    for key, figure in FIGURES.items():
        if key in found:
            click.echo(f"{figure.label:<34} {figure.show(found[key])}")
    for name, stages in found["stages"].items():
        click.echo(say_parameters(name, planned.classes[name][1]))
        click.echo(f"stages of {name:<24} {' > '.join(stages)}")


class Figure(NamedTuple):
    """How people see a value of the JSON.

    Parameters
    ----------
    label : str
        Its name, and its unit where it has one.
    unit : int
        Bytes or seconds in the unit of the label; 0 shows the value as it is.
    digits : int, optional
        Decimals, by default none.
    """

    label: str
    unit: int = 0
    digits: int | None = None

    def show(self, value: Any) -> Any:
        """The value in the unit of the label."""
        if value is None:
            return "unknown"
        return round(value / self.unit, self.digits) if self.unit else value


FIGURES = {
    "volume": Figure("volume"),
    "voxel_size_nm": Figure("edges of a voxel, nm"),
    "block_shape": Figure("block"),
    "halo": Figure("halo"),
    "n_blocks": Figure("blocks"),
    "output_chunks": Figure("output chunks"),
    "n_levels": Figure("levels of the output"),
    "task_bytes": Figure("projected memory of a task, MiB", 2**20),
    "allowed_bytes": Figure("allowed memory of a task, MiB", 2**20),
    "global_bytes": Figure("allowed memory of a global stage, MiB", 2**20),
    "scratch_bytes": Figure("scratch at most, GiB", 2**30, 3),
    "output_bytes": Figure("output at most, GiB", 2**30, 3),
    "expected_scratch_bytes": Figure("scratch expected, GiB", 2**30, 3),
    "expected_output_bytes": Figure("output expected, GiB", 2**30, 3),
    "free_bytes": Figure("free here, GiB", 2**30, 3),
    "n_foreground_blocks": Figure("blocks that may hold foreground"),
    "n_timed_blocks": Figure("blocks timed"),
    "seconds": Figure("estimated time, s", 1, 1),
}
"""What `plan` shows of its JSON, in this order. Programs rely on the keys: they stay, whatever the labels become."""


def _summary(planned: "RunPlan", estimated: "Estimate | None") -> dict[str, Any]:
    from ..stores.space import disk_of

    scratch, output = planned.expected_bytes()
    here = disk_of(".")
    found: dict[str, Any] = {
        "volume": planned.grid.shape,
        "voxel_size_nm": None if planned.pyramid is None else planned.pyramid.placement.voxel_size_nm,
        "block_shape": planned.grid.block_shape,
        "halo": planned.grid.halo,
        "n_blocks": len(planned.grid),
        "output_chunks": planned.chunks,
        "n_levels": 1 + len(planned.factors),
        "task_bytes": planned.task_mem,
        "allowed_bytes": planned.allowed_mem,
        "global_bytes": planned.global_mem,
        "scratch_bytes": planned.scratch_bytes,
        "output_bytes": planned.output_bytes,
        "expected_scratch_bytes": scratch,
        "expected_output_bytes": output,
        "free_bytes": None if here is None else here.free,
        "parameters": {name: config.to_dict() for name, (_, config) in planned.classes.items()},
        "stages": {name: [stage.name for stage in (*p.stages, *p.writers)] for name, p in planned.plans.items()},
    }
    if estimated is not None:
        found["n_foreground_blocks"] = estimated.blocks
        found["n_timed_blocks"] = estimated.sample_blocks
        found["seconds"] = estimated.seconds
    return found
