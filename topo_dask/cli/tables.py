"""``table``: the instances of a result, or of any label volume."""

import json
import math
import operator
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

from ..warning import warn
from .options import LEVEL, Place

if TYPE_CHECKING:
    from ..stores.marks import Found

Columns = Mapping[str, NDArray[Any]]

COMPARISONS = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}


class Condition(NamedTuple):
    """A condition on rows: how a column compares with a number."""

    text: str
    column: str
    compare: Callable[[Any, Any], Any]
    number: float


@click.command()
@click.argument("place", type=Place(), metavar="OUTPUT|LABELS|TABLE.csv")
@click.option("--class", "name", metavar="NAME", help="Class of OUTPUT.  [default: the only one]")
@click.option(
    "--flow",
    type=Place(),
    help="Flow of the instances of LABELS, (3N, D, H, W), for their flow errors.  [default: none]",
)
@click.option(
    "--channel",
    type=click.IntRange(0),
    help="Class of a flow of several, 0 for its first.  [default: as in the run that wrote LABELS]",
)
@LEVEL
@click.option(
    "--physical",
    is_flag=True,
    help="Add volume_um3 and centroid_um_z, _y, _x: in micrometres, in the place in space that LABELS have.",
)
@click.option(
    "--where",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="Keep rows for which this holds, such as 'voxels >= 500'; may be repeated.",
)
@click.option("--sort", metavar="COLUMN", default="label", help="Column to sort by.")
@click.option("--descending", is_flag=True, help="Largest first.")
@click.option("--rows", type=click.IntRange(0), default=20, help="Rows to show at most; 0 shows all.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write all rows to this .csv or .json file.  [default: show them]",
)
def table(
    place: str,
    name: str | None,
    flow: str | None,
    channel: int | None,
    level: int | None,
    physical: bool,
    conditions: tuple[str, ...],
    sort: str,
    descending: bool,
    rows: int,
    output: Path | None,
) -> None:
    """Show, filter, sort or export the table of instances.

    For the OUTPUT of a run, the table that the run wrote is shown; it knows nothing of labels edited since. For any
    other volume of LABELS (D, H, W), such as OUTPUT/labels/NAME, the table is computed, block by block. Columns: label;
    voxels; bounding box and centroid in voxels; flow_error, which is the mean squared difference of the flow from unit
    vectors to the centroid.

    \b
      topo-dask table labels.zarr --class nuc --where 'voxels > 1000' --sort voxels --descending
      topo-dask table labels.zarr --class nuc --physical --where 'volume_um3 > 0.5'
      topo-dask table others.zarr/labels/0 --flow flow.zarr -o instances.csv
    """
    # Bad options are refused first: the table may take hours to compute.
    if output is not None:
        _check_output(output)
    _check_column(sort, physical)
    if channel is not None and flow is None:
        raise click.UsageError("--channel says which channels of --flow are meant, and there is no --flow")
    kept = [read_condition(condition, physical) for condition in conditions]
    asked = {sort: f"--sort {sort}", **{one.column: f"--where {one.text!r}" for one in kept}}
    table = _load(place, name, flow, channel, level, physical, asked)
    for column in asked:
        if len(table[column]) and np.isnan(table[column]).all():
            raise _unknown(column, asked)
    columns = select(table, kept, sort, descending)
    if output is None:
        _show(columns, rows)
        if kept:
            click.echo(f"{len(columns['label'])} of {len(table['label'])} instances", err=True)
    else:
        _export(columns, output)
        click.echo(f"{len(columns['label'])} instances: {output}")


def _check_output(output: Path) -> None:
    if output.suffix not in (".csv", ".json"):
        raise click.UsageError(f"--output must end in .csv or .json, got {str(output)!r}")
    folder = output.absolute().parent
    if not folder.is_dir():
        raise click.UsageError(f"--output {str(output)!r}: there is no folder {folder}")
    if not output.exists() and not os.access(folder, os.W_OK):
        raise click.UsageError(f"--output {str(output)!r}: the folder {folder} cannot be written to")


def _check_column(name: str, physical: bool) -> None:
    from ..stores.instance_tables import COLUMNS, PHYSICAL

    known = (*COLUMNS, *PHYSICAL) if physical else COLUMNS
    if name not in known:
        missing = f"there is no column {name!r}: {', '.join(known)}"
        raise click.UsageError(f"the column {name!r} needs --physical" if name in PHYSICAL else missing)


def read_condition(text: str, physical: bool = False) -> Condition:
    """Read a condition such as ``voxels >= 500``; columns in micrometres are known if `physical`.

    Raises
    ------
    click.UsageError
        When the text is not a condition, or names no column of the table.

    Examples
    --------
    >>> read_condition("voxels >= 500")[1:]
    ('voxels', <built-in function ge>, 500)
    """
    found = re.fullmatch(r"\s*(\w+)\s*(<=|>=|==|!=|<|>)\s*([-+.\w]+)\s*", text)
    if found is None:
        raise click.UsageError(f"--where must be like 'voxels >= 500', got {text!r}")
    try:
        # Labels may be larger than the integers of which a float holds each.
        number = int(found[3]) if re.fullmatch(r"[-+]?\d+", found[3]) else float(found[3])
    except ValueError:
        raise click.UsageError(f"--where {text!r}: {found[3]!r} is not a number") from None
    _check_column(found[1], physical)
    return Condition(text, found[1], COMPARISONS[found[2]], number)


def _load(
    place: str,
    name: str | None,
    flow: str | None,
    channel: int | None,
    level: int | None,
    physical: bool,
    asked: Mapping[str, str],
) -> Columns:
    # `asked` has the columns that must be known, and the option that names each.
    from ..stores.instance_tables import in_micrometres, read_table
    from ..stores.marks import find_labels

    place = os.path.expanduser(place)
    if place.endswith(".csv"):
        for option, value in (
            ("--class", name),
            ("--flow", flow),
            ("--level", level),
            ("--physical", physical or None),
        ):
            if value is not None:
                raise click.UsageError(f"{option} is for OUTPUT or LABELS, and {place} is the table of one class")
        return read_table(place)
    found = find_labels(place, name)
    where = _place_in_space(found.url, level) if physical else None
    columns = _load_or_compute(place, found, flow, channel, level, asked)
    return columns if where is None else {**columns, **in_micrometres(columns, *where)}


def _place_in_space(labels: str, level: int | None) -> tuple[Any, Any]:
    # Edges of a voxel and centre of the first one, in nanometres.
    from ..stores.inputs import open_input

    placement = open_input(labels, "labels", level)[1]
    size, first = (None, None) if placement is None else (placement.voxel_size_nm, placement.translation_nm)
    if size is None or first is None:
        raise click.UsageError(
            f"--physical: the metadata of {labels} tell no size of a voxel in a unit of length; labels get it from "
            "the metadata of the run's input, or from --resolution-nm if those give no scale. Plain arrays, such as "
            "those of --ome-zarr none, have no place for it"
        )
    return size, first


def _load_or_compute(
    place: str,
    found: "Found",
    flow: str | None,
    channel: int | None,
    level: int | None,
    asked: Mapping[str, str],
) -> Columns:
    from ..stores.addresses import absolute
    from ..stores.inputs import open_input, open_labels
    from ..stores.instance_tables import find_tables, read_table_of

    labels = open_labels(found.url, "labels", level)
    # The run made the table of the finest level; it is beside labels in a folder, not beside some in an archive.
    if flow is None and not level and "::" not in place:
        folder = f"{absolute(place).rstrip('/')}.tables"  # the place may be .
        stored = read_table_of(found.mark, folder) if found.mark else None
        if stored is not None:
            return stored
        if not found.mark and (tables := find_tables(folder)):
            warn(f"{place} bears no mark of the run that left {tables[0]}: computing; give that file to see it instead")
    if flow is None and "flow_error" in asked:
        raise _unknown("flow_error", asked)
    from ..api.relabelling import instance_table

    if flow is None:
        return instance_table(labels)
    vectors = open_input(flow, "flow", level)[0]
    channel = _channel_of(found.mark, flow, tuple(vectors.shape)) if channel is None else channel
    return instance_table(labels, vectors, channel=channel)


def _channel_of(mark: Mapping[str, Any], flow: str, shape: tuple[int, ...]) -> int | None:
    # Number of the class in a flow of several classes, which may be that of another run; None for the flow of one.
    if len(shape) != 4 or shape[0] % 3 or shape[0] == 3:
        return None
    if mark.get("channels") != shape[0]:
        raise click.UsageError(
            f"--flow {flow} has {shape[0]} channels, 3 for each class, and nothing says which are those of the labels: "
            "choose with --channel, 0 for the first class"
        )
    return int(mark["channel"])


def select(columns: Columns, conditions: Sequence[Condition], sort: str, descending: bool = False) -> Columns:
    """Rows for which all conditions hold, sorted by a column; rows with equal values are in the order of labels.

    Examples
    --------
    >>> columns = {"label": np.array([1, 2, 3]), "voxels": np.array([9, 7, 9])}
    >>> conditions = [read_condition("voxels > 6"), read_condition("label != 4")]
    >>> select(columns, conditions, "voxels", descending=True)["label"]
    array([1, 3, 2])
    """
    keep = np.ones(len(columns["label"]), bool)
    for condition in conditions:
        keep &= condition.compare(columns[condition.column], condition.number)
    values = columns[sort][keep]
    if descending:  # no integer overflows when its bits are inverted
        values = ~values if values.dtype.kind in "iu" else -values
    order = np.lexsort((columns["label"][keep], values))
    return {name: column[keep][order] for name, column in columns.items()}


def _unknown(column: str, asked: Mapping[str, str]) -> click.UsageError:
    return click.UsageError(f"{asked[column]}: {column} is not known; the run needs --flow-error, or this --flow")


def _show(columns: Columns, rows: int) -> None:
    n = len(columns["label"])
    shown = min(n, rows or n)
    cells = [[name, *map(_cell, column[:shown].tolist())] for name, column in columns.items()]
    widths = [max(map(len, column)) for column in cells]
    for row in zip(*cells, strict=True):
        click.echo("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)))
    if shown < n:
        click.echo(f"... {n - shown} of {n} more: --rows 0 shows all, --output FILE writes them")


def _cell(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return "-" if math.isnan(value) else f"{value:.4g}"


def _export(columns: Columns, output: Path) -> None:
    from ..stores.instance_tables import write_columns

    with output.open("w", newline="") as file:
        if output.suffix == ".csv":
            write_columns(file, columns)
            return
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        cleared = [[None if value != value else value for value in row] for row in rows]  # JSON has no NaN
        json.dump([dict(zip(columns, row, strict=True)) for row in cleared], file)
