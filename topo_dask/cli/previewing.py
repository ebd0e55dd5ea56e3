"""``preview``: the labels that `run` would give in a box, for choosing parameters."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from .options import CLASSES, INPUT, LEVEL, MISSING, SHAPES, Place, Spans, Triple, options
from .parameters import read_parameters, say_parameters
from .showing import figure_option, open_layers

if TYPE_CHECKING:
    from ..admission import RunPlan
    from ..config import ClassConfig
    from ..looking.layers import Layer
    from ..preview import Preview

NEARLY_ALL = 0.9
"""Share of the foreground from which one instance is told to hold nearly all of it."""

EDGE = 256
"""Edge of the box, at most, where the user gives none."""


@click.command()
@options(INPUT, CLASSES, SHAPES, (MISSING, LEVEL))
@click.option("--box", type=Spans(), help=f"Box to segment, in voxels.  [default: the centre, {EDGE} at most]")
@click.option("--at", type=Triple(), help="Where the figure's three planes lie.  [default: where foreground is most]")
@click.option(
    "--image",
    type=Place(),
    help="Image to draw beside them, labels over it.  [default: over the dimmed foreground]",
)
@figure_option("preview.png")
def preview(semantic: str, flow: str, box: Any, at: Any, image: str | None, output: Path, **values: Any) -> None:
    """Segment a box in memory and draw it, to see what parameters do.

    Takes the options of `run` that choose classes and parameters, and the same --config. It tells the parameters, how
    many instances there are, how large they are, and how many were dropped and why. It draws foreground, flow and
    labels in three planes. The labels are those of the box alone: instances that its faces cut are counted, and may
    look different in the whole volume. Nothing is written but the figure; several classes get a figure each, with the
    class in its name.

    \b
      topo-dask preview semantic.zarr flow.zarr --class nuc --resolution-nm 16
      topo-dask preview semantic.zarr flow.zarr --config run.toml --box 0:128,1000:1400,: --image raw.zarr -o try.png
    """
    from ..admission import plan_volume
    from ..looking.layers import Crop, Layer
    from ..looking.sections import choose_box, choose_level, choose_planes, draw_sections, fullest_in
    from ..preview import check_box, preview_class

    planned = plan_volume(semantic, flow, **read_parameters(semantic, flow, values))
    place = choose_box(planned.grid.shape, box, EDGE)
    choose_planes(place, at)
    check_box(planned, place)
    images = open_layers((image,)) if image else []
    drawn = {name: [*images, *_prediction(planned, name)] for name in planned.classes}
    for layers in drawn.values():
        choose_level(layers, 0)
    for name, layers in drawn.items():
        config = planned.classes[name][1]
        click.echo(say_parameters(name, config))
        found = preview_class(planned, name, place)
        crop = Crop(found.labels, place, planned.grid.shape)
        labels = Layer("labels", f"labels of {name}", (crop,), layers[-1].placement)
        path = output if len(drawn) == 1 else output.with_stem(f"{output.stem}_{name}")
        planes = at or fullest_in(place, found.mask)
        draw_sections([*layers, labels], place.slices, planes=planes, dim=not images).savefig(path)
        click.echo(f"{name}: {_say(found, planned.threshold)}; {found.seconds:.1f} s; figure: {path}")
        if hint := _hint(found, config):
            click.echo(f"{name}: {hint}")


def _prediction(planned: "RunPlan", name: str) -> "list[Layer]":
    from ..looking.layers import Layer

    channel, _ = planned.classes[name]
    placement = None if planned.pyramid is None else planned.pyramid.placement
    return [
        Layer("image", f"foreground of {name}", (planned.semantic.array,), placement, channel),
        Layer("flow", f"flow of {name}", (planned.flow.array,), placement, slice(3 * channel, 3 * channel + 3)),
    ]


def _hint(found: "Preview", config: "ClassConfig") -> str | None:
    foreground, largest = np.count_nonzero(found.mask), found.voxels.max(initial=0)
    if not foreground or largest < NEARLY_ALL * foreground:
        return None
    united = "" if config.merge is None else f", or merge {config.merge} unites them"
    return (
        f"one instance holds {largest / foreground:.0%} of the foreground: if it is several objects, the radius of "
        f"{config.convergence_radius:g} voxels may be larger than they are{united}"
    )


def _say(found: "Preview", threshold: float) -> str:
    n, cut, whole = len(found.voxels), np.count_nonzero(found.cut), found.voxels[~found.cut]
    text = f"{n} {'instance' if n == 1 else 'instances'}" + (f", {cut} cut by the box" if cut else "")
    if len(whole):
        others = ", the others of" if cut else " of"
        text += f"{others} {whole.min()} to {whole.max()} voxels, median {np.median(whole):.0f}"
    foreground = np.count_nonzero(found.mask)
    if foreground and (dropped := str(found.dropped)):
        text += f"; {dropped}"
    text += f"; {foreground} of {found.labels.size} voxels above the threshold"
    if not foreground:
        fraction = 0 < found.largest <= 1 <= threshold
        text += f"; the largest value is {found.largest:.3g}{': is it a probability of 0 to 1?' if fraction else ''}"
    return text
