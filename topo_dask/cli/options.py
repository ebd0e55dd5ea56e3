"""Options that commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]


def parse_triple(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Integers of an option like ``128`` or ``64,128,128``."""
    if value is None:
        return None
    parts = value.replace("x", ",").split(",")
    try:
        numbers = tuple(int(part) for part in parts)
    except ValueError:
        raise click.BadParameter(f"expected one integer or three like 128,128,128, got {value!r}") from None
    return numbers * 3 if len(numbers) == 1 else numbers


INPUT = (
    click.argument("semantic"),
    click.argument("flow"),
)

CLASSES = (
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

GEOMETRY = (
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
        callback=parse_triple,
        metavar="Z,Y,X",
        help="Voxels of a task.  [default: the largest that memory allows]",
    ),
    click.option("--halo", callback=parse_triple, metavar="Z,Y,X", default="16", help="Margin read around a block."),
    click.option("--memory-limit", help="Memory of a worker process, e.g. 4GiB.  [default: the workers' own]"),
    click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="'threads', 'processes', 'synchronous', 'cluster' for a local cluster, or tcp://host:port.  "
        "[default: threads]",
    ),
)


def options(*groups: tuple[Command, ...]) -> Command:
    """Decorate a command with groups of options, shown in this order."""

    def decorate(function: Command) -> Command:
        for option in reversed([option for group in groups for option in group]):
            function = option(function)
        return function

    return decorate
