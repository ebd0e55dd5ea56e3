"""``run`` and ``plan``: segment a stored prediction, or say what that would take."""

import json
from typing import Any

import click

from .options import CLASSES, GEOMETRY, INPUT, options
from .parameters import read_parameters
from .schedulers import use_scheduler


@click.command()
@options(INPUT, (click.argument("output"),), CLASSES, GEOMETRY)
@click.option("--scratch", help="Folder or URL for intermediates, reachable by all workers.  [default: OUTPUT.scratch]")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def run(semantic: str, flow: str, output: str, scheduler: str | None, quiet: bool, **values: Any) -> None:
    """Segment the zarr arrays SEMANTIC (N, D, H, W) and FLOW (3N, D, H, W) into the zarr group OUTPUT.

    Each class becomes an int32 array OUTPUT/NAME; statistics of its instances go to OUTPUT.tables/NAME.csv.
    """
    from ..segment import segment_volume

    kept = {name: values.pop(name) for name in ("scratch", "resume", "overwrite")}
    with use_scheduler(scheduler):
        labels = segment_volume(semantic, flow, output, **read_parameters(values), **kept, progress=not quiet)
    for name in labels:
        click.echo(f"{name}: {output.rstrip('/')}/{name}")


@click.command()
@options(INPUT, CLASSES, GEOMETRY)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(semantic: str, flow: str, scheduler: str | None, as_json: bool, **values: Any) -> None:
    """Show what `run` would do: blocks, stages, projected memory and sizes. Reads no voxel and writes nothing."""
    from ..admission import plan_volume

    with use_scheduler(scheduler):
        planned = plan_volume(semantic, flow, **read_parameters(values))
    summary: dict[str, Any] = {
        "volume": planned.grid.shape,
        "block": planned.grid.block_shape,
        "halo": planned.grid.halo,
        "blocks": len(planned.grid),
        "output chunks": planned.chunks,
        "projected memory of a task, MiB": round(planned.task_mem / 2**20),
        "allowed memory of a task, MiB": round(planned.allowed_mem / 2**20),
        "scratch at most, GiB": round(planned.scratch_bytes / 2**30, 3),
        "output at most, GiB": round(planned.output_bytes / 2**30, 3),
        "stages": {name: [stage.name for stage in (*p.stages, p.final)] for name, p in planned.plans.items()},
    }
    if as_json:
        click.echo(json.dumps(summary))
        return
    for key, value in summary.items():
        if key != "stages":
            click.echo(f"{key:<34} {value}")
    for name, stages in summary["stages"].items():
        click.echo(f"stages of {name:<24} {' > '.join(stages)}")
