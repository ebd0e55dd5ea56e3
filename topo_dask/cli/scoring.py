"""``score``: how well labels agree with the truth."""

import json
from dataclasses import asdict
from math import prod
from typing import Any

import click

from .options import LEVEL, Place

LABELS = {"adapted_rand": "adapted Rand", "variation_of_information": "variation of information, bits"}
"""What people read in place of keys of the JSON, where the two differ."""


@click.command()
@click.argument("truth", type=Place(), metavar="TRUTH")
@click.argument("labels", type=Place(), metavar="OUTPUT|LABELS")
@click.option("--class", "name", metavar="NAME", help="Class of OUTPUT.  [default: the only one]")
@LEVEL
@click.option(
    "--threshold",
    "thresholds",
    type=click.FloatRange(0, 1, min_open=True),
    multiple=True,
    default=(0.5, 0.75, 0.9),
    help="Least intersection over union of a match; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def score(
    truth: str, labels: str, name: str | None, level: int | None, thresholds: tuple[float, ...], as_json: bool
) -> None:
    """Compare labels with the truth, or with other labels, block by block.

    Both are volumes (D, H, W) of integers, 0 background, of one shape. Prints the adapted Rand error, the variation of
    information, splits and merges, and how many objects match at each threshold; `topo_dask.scores` explains them.
    The Rand error and the variation of information leave out voxels that are background in the truth. Splits and merges
    count overlaps from a tenth of the object or label on: a label over more than ten alike objects is no merge but
    spurious, an object in more than ten alike pieces no split but missed.

    \b
      topo-dask score truth.zarr labels.zarr
      topo-dask score one.zarr/labels/nuc other.zarr/labels/nuc --level 1 --json
    """
    from .. import scores
    from ..stores.inputs import open_labels
    from ..stores.marks import check_whole, find_labels

    place = find_labels(labels, name).url
    opened = open_labels(truth, "truth", level)
    check_whole(truth)
    if (n := prod(opened.shape[:-3])) > 1:  # an id of one volume would be taken for that of another
        raise ValueError(f"truth must be one volume, (z, y, x), got {n} in shape {opened.shape}: score each apart")
    table = scores.contingency(opened, open_labels(place, "labels", level))
    found: dict[str, Any] = {
        "adapted_rand": asdict(scores.adapted_rand_error(table)),
        "variation_of_information": asdict(scores.variation_of_information(table)),
        "objects": asdict(scores.splits_and_merges(table)),
        "matches": [asdict(row) for row in scores.matching_scores(table, thresholds=thresholds)],
    }
    if as_json:
        click.echo(json.dumps(found))
        return
    for key, values in found.items():
        for one in values if isinstance(values, list) else [values]:
            click.echo(
                f"{LABELS.get(key, key):<32}" + "  ".join(f"{name} {_round(value)}" for name, value in one.items())
            )


def _round(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"
