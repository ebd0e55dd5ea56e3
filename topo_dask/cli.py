"""The command line: ``topo-dask``, or ``python -m topo_dask``."""

import json
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click

from .version import __version__

Command = Callable[..., Any]


class Errors(click.Group):
    """Group of commands whose errors are one line with the remedy, unless ``--verbose`` asks for the traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; exit with 2 for bad input, 1 for what failed on the way."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.params.get("verbose"):
                raise
            notes = "".join(f" [{note}]" for note in getattr(error, "__notes__", ()))
            click.echo(" ".join(f"Error: {error}{notes}".split()), err=True)
            bad_input = isinstance(error, (ValueError, TypeError, FileExistsError, FileNotFoundError, MemoryError))
            ctx.exit(2 if bad_input and not notes else 1)


@click.group(cls=Errors, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="topo-dask")
@click.option("--verbose", is_flag=True, help="Show the traceback of an error.")
def main(verbose: bool) -> None:
    """Instance labels from predicted foreground and 3-D flow, out of core.

    The labels equal those of the whole volume in memory, bit for bit, whatever the blocks, the halo, the scheduler, or
    how often the run was interrupted.
    """


def _triple(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    parts = value.replace("x", ",").split(",")
    try:
        numbers = tuple(int(part) for part in parts)
    except ValueError:
        raise click.BadParameter(f"expected one integer or three like 128,128,128, got {value!r}") from None
    return numbers * 3 if len(numbers) == 1 else numbers


_INPUT = (
    click.argument("semantic"),
    click.argument("flow"),
)

_CLASSES = (
    click.option(
        "--class",
        "classes",
        multiple=True,
        metavar="NAME",
        help="Name of each channel of SEMANTIC, in order; repeat it.  [default: the nine published classes]",
    ),
    click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="TOML file: a table [classes.NAME] of parameters for each class.",
    ),
    click.option("--resolution-nm", type=float, help="Voxel edge, for the default parameters."),
    click.option(
        "--preset", type=click.Choice(["published", "touching"]), help="Default parameters.  [default: published]"
    ),
    click.option("--group", type=click.IntRange(1, 3), help="For all classes named: 1 convex, 2 elongated, 3 thin."),
    click.option("--steps", "n_steps", type=int, help="For all classes named: Euler steps."),
    click.option("--step-size", type=float, help="For all classes named: length of a step."),
    click.option("--radius", "convergence_radius", type=float, help="For all classes named: convergence radius."),
    click.option("--min-size", type=int, help="For all classes named: least voxels of an instance."),
    click.option("--merge", type=click.Choice(["adjacent", "agglomerate"]), help="For all classes named."),
    click.option("--threshold", type=float, default=0.5, help="Probability above which a voxel is foreground."),
    click.option(
        "--flow-error",
        "flow_error_threshold",
        type=float,
        default=0.0,
        help="Drop instances with a larger flow error; 0 keeps all.",
    ),
)

_GEOMETRY = (
    click.option(
        "--on-missing",
        type=click.Choice(["error", "background"]),
        default="error",
        help="What a chunk of the flow means that was never written.",
    ),
    click.option("--level", type=int, help="Level of an OME-Zarr multiscale image.  [default: 0]"),
    click.option(
        "--block",
        "block_shape",
        callback=_triple,
        metavar="Z,Y,X",
        help="Voxels of a task.  [default: the largest that memory allows]",
    ),
    click.option("--halo", callback=_triple, metavar="Z,Y,X", default="16", help="Margin read around a block."),
    click.option("--memory-limit", help="Memory of a worker process, e.g. 4GiB.  [default: the workers' own]"),
    click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="'threads', 'processes', 'synchronous', 'cluster' for a local cluster, or tcp://host:port.  "
        "[default: threads]",
    ),
)


def _options(*groups: tuple[Command, ...]) -> Command:
    def decorate(function: Command) -> Command:
        for option in reversed([option for group in groups for option in group]):
            function = option(function)
        return function

    return decorate


def _parameters(values: dict[str, Any]) -> dict[str, Any]:
    # Flags win over the file, the file over the published values.
    names = ("group", "n_steps", "step_size", "convergence_radius", "min_size", "merge")
    flags = {name: values.pop(name) for name in names}
    flags = {name: value for name, value in flags.items() if value is not None}
    classes, path = values.pop("classes"), values.pop("config")
    config: dict[str, Any] | None = None
    if path is not None:
        try:
            config = tomllib.loads(path.read_text()).get("classes")
        except tomllib.TOMLDecodeError as error:
            raise click.UsageError(f"{path} is not valid TOML: {error}") from None
        if not config or not isinstance(config, dict):
            raise click.UsageError(f"{path} has no table [classes.NAME]")
        for name, parameters in config.items():
            if not isinstance(parameters, dict):
                raise click.UsageError(f"{path}: classes.{name} must be a table of parameters, got {parameters!r}")
    if flags:
        from .config import get_postprocess_config

        if not classes:
            raise click.UsageError("parameters given as options need --class to say what they are for")
        resolution = values["resolution_nm"]
        preset = None if config else values.pop("preset")
        base = config or get_postprocess_config(8 if resolution is None else resolution, preset or "published")
        config = {name: {**base.get(name, {}), **flags} for name in classes}
    return {**values, "class_names": list(classes) or (list(config) if config else None), "class_config": config}


@contextmanager
def _scheduler(address: str | None) -> Iterator[None]:
    import dask

    if address in (None, "threads", "processes", "synchronous"):
        with dask.config.set(scheduler=address) if address else nullcontext():
            yield
        return
    if address != "cluster" and "://" not in str(address):
        raise click.UsageError(
            f"--scheduler must be 'threads', 'processes', 'synchronous', 'cluster' or an address, got {address!r}"
        )
    from distributed import Client

    with Client(**({} if address == "cluster" else {"address": address})):
        yield


@main.command()
@_options(_INPUT, (click.argument("output"),), _CLASSES, _GEOMETRY)
@click.option("--scratch", help="Folder or URL for intermediates, reachable by all workers.  [default: OUTPUT.scratch]")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def run(semantic: str, flow: str, output: str, scheduler: str | None, quiet: bool, **values: Any) -> None:
    """Segment the zarr arrays SEMANTIC (N, D, H, W) and FLOW (3N, D, H, W) into the zarr group OUTPUT.

    Each class becomes an int32 array OUTPUT/NAME; statistics of its instances go to OUTPUT.tables/NAME.csv.
    """
    from .segment import segment_volume

    kept = {name: values.pop(name) for name in ("scratch", "resume", "overwrite")}
    with _scheduler(scheduler):
        labels = segment_volume(semantic, flow, output, **_parameters(values), **kept, progress=not quiet)
    for name in labels:
        click.echo(f"{name}: {output.rstrip('/')}/{name}")


@main.command()
@_options(_INPUT, _CLASSES, _GEOMETRY)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(semantic: str, flow: str, scheduler: str | None, as_json: bool, **values: Any) -> None:
    """Show what `run` would do: blocks, stages, projected memory and sizes. Reads no voxel and writes nothing."""
    from .admission import plan_volume

    with _scheduler(scheduler):
        planned = plan_volume(semantic, flow, **_parameters(values))
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


@main.command()
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default="topo_dask_demo",
    help="Folder to write to.",
)
@click.option("--quiet", is_flag=True, help="No progress bars.")
def demo(folder: Path, quiet: bool) -> None:
    """Segment a real image of cell nuclei, from the image alone, and draw the result."""
    from .demo import run_demo

    result = run_demo(folder, progress=not quiet)
    click.echo(f"nuclei found            {result.n_nuclei} ({result.n_truth} in the shipped labels)")
    click.echo(f"adapted Rand error      {result.rand_error:.4f}")
    click.echo(f"block-wise = in memory  {'yes, bit for bit' if result.equal else 'NO'}")
    click.echo(f"labels                  {folder / 'labels.zarr'}")
    click.echo(f"picture                 {folder / 'overview.png'}")
    if not result.equal:
        sys.exit(1)
