"""``show`` and ``view``: look at images, labels and flow, in a figure or in the browser."""

import errno
import socket
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import click

from .options import Command, Place, Spans, Triple

LAYERS = click.argument("layers", type=Place(), metavar="IMAGE|LABELS|FLOW...", nargs=-1, required=True)


def open_layers(paths: tuple[str, ...]) -> list[Any]:
    """All layers at some paths, with names that differ."""
    from ..looking.layers import find_layers, tell_apart

    return tell_apart([layer for path in paths for layer in find_layers(path)])


def _check_figure(ctx: click.Context, option: click.Parameter, path: Path) -> Path:
    # A figure that cannot be written is refused before the work.
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ModuleNotFoundError as error:
        raise ImportError(f"figures need the package {error.name}: pip install 'topo-dask[demo]'") from error
    if path.suffix.lower()[1:] not in FigureCanvasBase.filetypes:
        raise click.BadParameter(f"{path} must end in .png, .pdf or .svg", ctx, option)
    if not path.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {path.absolute().parent}", ctx, option)
    return path


def figure_option(default: str) -> Command:
    """``--output`` of a command that draws. Each has its own default, so that none replaces another's figure."""
    return click.option(
        "-o",
        "--output",
        type=click.Path(dir_okay=False, path_type=Path),
        default=default,
        callback=_check_figure,
        help="Figure to write, .png, .pdf or .svg.",
    )


@click.command()
@LAYERS
@click.option("--box", type=Spans(), help="Box to draw, in voxels of the level.  [default: the centre, 512 at most]")
@click.option("--at", type=Triple(), help="Where the three planes lie.  [default: the middle of the box]")
@click.option("--level", type=click.IntRange(0), default=0, help="Level of an OME-Zarr image; 0 is the finest.")
@click.option("--seed", type=int, default=0, help="Seed of the labels' colours.")
@figure_option("show.png")
def show(layers: tuple[str, ...], box: Any, at: Any, level: int, seed: int, output: Path) -> None:
    """Draw a figure of any box: three planes of each image, of labels and of flow.

    Takes zarr arrays, OME-Zarr images with all their labels, their labels alone, and the OUTPUT of a run. Labels are
    drawn over the first image. Whether an array is an image, labels or a flow is read from its metadata, type or
    values; image=PATH, labels=PATH and flow=PATH override that.

    \b
      topo-dask show raw.zarr labels.zarr -o figure.png
      topo-dask show image=mask.zarr labels.zarr/nuc flow.zarr --box 0:64,100:300,:
    """
    from ..looking.sections import draw_sections

    figure = draw_sections(open_layers(layers), box, level=level, planes=at, seed=seed)
    figure.savefig(output)
    click.echo(f"figure: {output}")


@click.command()
@LAYERS
@click.option(
    "--address",
    default="127.0.0.1",
    help="Address to serve at. The default is for this machine only; from elsewhere use an SSH tunnel.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to serve at; 0 is any that is free.")
@click.option("--open/--no-open", "opens", default=True, help="Whether to open the browser.")
def view(layers: tuple[str, ...], address: str, port: int, opens: bool) -> None:
    """Look at images, labels and flow in the browser, in Neuroglancer.

    Takes the same paths as `show`. Chunks are read as they come into view, coarse levels first if there are any, so
    that volumes of any size open at once. Needs the package neuroglancer: pip install 'topo-dask[view]'. End it with
    Ctrl-C.

    \b
      topo-dask view raw.zarr labels.zarr
      topo-dask view raw.zarr labels.zarr --port 8080 --no-open     # and on your desk: ssh -L 8080:localhost:8080 head
    """
    found = open_layers(layers)
    try:
        from ..looking.viewer import open_viewer
    except ModuleNotFoundError as error:
        raise ImportError(f"view needs the package {error.name}: pip install 'topo-dask[view]'") from error
    _check_port(address, port)
    viewer = open_viewer(found, address=address, port=port)
    click.echo(f"{viewer}\nserving {', '.join(layer.name for layer in found)}; end with Ctrl-C")
    if opens:
        click.launch(str(viewer))
    with suppress(KeyboardInterrupt):
        Event().wait()


def _check_port(address: str, port: int) -> None:
    # Neuroglancer's own error names neither, and its socket stays open.
    try:
        family, *_ = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        absent = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        remedy = "give --address one of this machine" if absent else "--port 0 takes one that is free"
        raise click.ClickException(
            f"cannot serve at {address}, port {port}: {error.strerror or error}; {remedy}"
        ) from error
