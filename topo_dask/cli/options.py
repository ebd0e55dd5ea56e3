"""Options that commands share."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from .config_file import read_config
from .parameters import check_parameter, yields_to

Command = Callable[..., Any]


class Triple(click.ParamType):  # type: ignore[type-arg]  # generic in new versions only
    """Three integers, or one integer for all three."""

    name = "Z,Y,X"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Integers of ``128``, ``64,128,128`` or, from a file, a list."""
        try:
            numbers = tuple(map(_integer, _parts(value)))
        except (TypeError, ValueError):
            self.fail(f"expected one integer or three like 128,128,128, got {value!r}", param, ctx)
        return numbers * 3 if len(numbers) == 1 else numbers


class Edges(click.ParamType):  # type: ignore[type-arg]  # generic in new versions only
    """Edge of a voxel, or its three edges."""

    name = "NM|Z,Y,X"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A number of ``8``, or three of ``40,16,16`` or, from a file, a list."""
        try:
            numbers = [float(part) for part in _parts(value)]
        except (TypeError, ValueError):
            numbers = []
        if len(numbers) not in (1, 3):
            self.fail(f"expected one number or three like 40,16,16, got {value!r}", param, ctx)
        return numbers[0] if len(numbers) == 1 else tuple(numbers)


def _parts(value: Any) -> Iterable[Any]:
    parts = value.replace("x", ",").split(",") if isinstance(value, str) else value
    return parts if isinstance(parts, (list, tuple)) else [parts]


def _integer(part: Any) -> int:
    if isinstance(part, bool) or not isinstance(part, str | int):
        raise TypeError  # int() would cut the fraction off
    return int(part)


class Place(click.ParamType):  # type: ignore[type-arg]  # generic in new versions only
    """Path or URL, which shells complete as the name of a file."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The same text; an empty one, which is a variable of the shell that is not set, would be this folder."""
        if not value:
            self.fail("it is empty; expected a path or a URL, and . for this folder", param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Leave it to the shell, which knows the files."""
        return [CompletionItem(incomplete, type="file")]


class Spans(click.ParamType):  # type: ignore[type-arg]  # generic in new versions only
    """Three spans of voxels such as ``0:64,100:200,:``."""

    name = "Z0:Z1,Y0:Y1,X0:X1"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[slice]:
        """Slices along z, y, x."""
        if not isinstance(value, str):
            return list(value)
        try:
            ends = [[int(end) if end.strip() else None for end in span.split(":")] for span in value.split(",")]
        except ValueError:
            ends = []
        if len(ends) != 3 or any(len(span) != 2 for span in ends):
            self.fail(f"expected three spans like 0:64,100:200,: got {value!r}", param, ctx)
        return [slice(*span) for span in ends]


def _check_names(ctx: click.Context, option: click.Parameter, names: Any) -> Any:
    for name in names:
        if "," in name:
            raise click.BadParameter(f"{name!r} holds a comma: of several repeat --class", ctx, option)
    return names


INPUT = (
    click.argument("semantic", type=Place()),
    click.argument("flow", type=Place()),
)

CONFIG = click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    callback=read_config,
    is_eager=True,
    help="TOML or YAML file: a table [classes.NAME] of parameters for each class, and a table [run] of other options. "
    "Keys are names of options without dashes in front, or of parameters in Python. Options on the command line win.",
)

CLASSES = (
    click.option(
        "--class",
        "classes",
        multiple=True,
        metavar="NAME",
        callback=_check_names,
        help="Name of each channel of SEMANTIC, in order; repeat it. A class without parameters, in --config or the "
        "default ones, is skipped unless all of --group, --steps, --radius and --min-size are given.  "
        "[default: those of --config, else the nine published classes]",
    ),
    CONFIG,
    click.option(
        "--resolution-nm",
        type=Edges(),
        help="Edge of a voxel, or its edges along z, y, x: the shortest chooses the default parameters. Labels have "
        "voxels of this size where OME-Zarr metadata give no scale; of three edges also where they give no unit.  "
        "[default: from those of the inputs, else 8]",
    ),
    click.option(
        "--preset",
        type=click.Choice(["published", "touching"]),
        help="Which default parameters: the published ones, or ours for packed objects.  [default: published]",
    ),
)

SHAPES = (
    click.option(
        "--group",
        type=click.IntRange(1, 3),
        help="For all classes: 1 convex, 2 elongated (split what is disconnected), 3 thin (and give orphans the "
        "nearest label).  [default: each class's own]",
    ),
    click.option(
        "--steps",
        "n_steps",
        type=int,
        callback=check_parameter,
        help="For all classes: steps along the flow.  [default: each class's own]",
    ),
    click.option(
        "--step-size",
        type=float,
        callback=check_parameter,
        help="For all classes: length of a step, as a factor on the flow vector.  [default: each class's own]",
    ),
    click.option(
        "--radius",
        "convergence_radius",
        type=float,
        callback=check_parameter,
        help="For all classes: end points closer than this many voxels belong together.  [default: each class's own]",
    ),
    click.option(
        "--min-size",
        type=int,
        callback=check_parameter,
        help="For all classes: drop instances of fewer voxels, before groups 2 and 3 split: pieces may be smaller.  "
        "[default: each class's own]",
    ),
    click.option(
        "--merge",
        type=click.Choice(["adjacent", "agglomerate"]),
        help="For all classes: how touching instances are united.  [default: each class's own]",
    ),
    click.option("--threshold", type=float, default=0.5, help="Probability above which a voxel is foreground."),
    click.option(
        "--flow-error",
        "flow_error_threshold",
        type=float,
        callback=check_parameter,
        help="For all classes: drop instances with a larger flow error; 0 keeps all. Meant for direct flow of unit "
        "length: flow of the diffusion kind errs more.  [default: each class's own, else 0]",
    ),
)

LEVEL = click.option(
    "--level", type=click.IntRange(0), help="Level of an OME-Zarr multiscale image.  [default: 0, the finest]"
)

MISSING = click.option(
    "--on-missing",
    type=click.Choice(["error", "background"]),
    default="error",
    help="What a chunk of the flow that was never written means: an error, or background.",
)

GEOMETRY = (
    MISSING,
    LEVEL,
    click.option(
        "--ome-zarr",
        type=click.Choice(["0.5", "0.4", "none"]),
        default="0.5",
        callback=lambda _, __, value: None if value == "none" else value,
        help="Version of OME-Zarr that is written: OUTPUT/labels/NAME, a pyramid; none: plain arrays OUTPUT/NAME.",
    ),
    click.option(
        "--block",
        "block_shape",
        type=Triple(),
        help="Voxels of a task; never changes the labels.  [default: the largest that memory allows, and "
        "that keeps all workers busy]",
    ),
    click.option(
        "--halo",
        type=Triple(),
        help="Margin in voxels, read around a block: speed only, never changes the labels.  [default: 16]",
    ),
)

SCHEDULER = (
    click.option("--memory-limit", help="Memory of a worker process, e.g. 4GiB.  [default: the workers' own]"),
    click.option(
        "--scheduler",
        metavar="KIND|ADDRESS",
        default="cluster",
        help="'cluster' starts worker processes here, sized to the machine, and survives the death of one. 'threads' "
        "of this process start at once, which is faster for small volumes and on few cores. tcp://host:port is a Dask "
        "cluster that is running already. Also 'processes' and 'synchronous'. The labels are the same with all.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1),
        help="Processes of 'cluster' or 'processes'. If those of a 'cluster' use all cores, each is bound to its own "
        "cores.  [default: as many as keep all cores busy]",
    ),
    click.option(
        "--threads-per-worker",
        type=click.IntRange(1),
        help="Threads of 'threads', or of each worker of 'cluster'.  [default: all cores; in a 'cluster' its share of "
        "them, up to 4 unless --workers is given]",
    ),
)

EARLIER = (
    click.option(
        "--resume",
        is_flag=True,
        callback=yields_to("overwrite"),
        help="Go on with an interrupted run; give the same options again.",
    ),
    click.option(
        "--overwrite",
        is_flag=True,
        callback=yields_to("resume"),
        help="Replace what an earlier run wrote, and nothing else.",
    ),
)

LOG = (
    click.option(
        "--quiet",
        is_flag=True,
        callback=yields_to("json_log"),
        help="No progress, neither bars on a terminal nor lines in a file.",
    ),
    click.option(
        "--json-log",
        is_flag=True,
        callback=yields_to("quiet"),
        help="Progress, warnings and errors as JSON, one object a line on stderr, for batch systems.",
    ),
)


def options(*groups: tuple[Command, ...]) -> Command:
    """Decorate a command with groups of options, shown in this order."""

    def decorate(function: Command) -> Command:
        for option in reversed([option for group in groups for option in group]):
            function = option(function)
        return function

    return decorate
