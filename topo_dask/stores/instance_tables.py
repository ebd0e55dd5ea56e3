"""Tables of instances, which runs write beside their labels: one file of comma-separated values for each class."""

import csv
import hashlib
import io
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from .folders import folder_at

COLUMNS = (
    "label",
    "voxels",
    *(f"bbox_{side}_{axis}" for side in ("start", "stop") for axis in "zyx"),
    *(f"centroid_{axis}" for axis in "zyx"),
    "flow_error",
)
"""Label and number of voxels of an instance, bounding box (first voxel, one past the last), centre, flow error."""

PHYSICAL = ("volume_um3", *(f"centroid_um_{axis}" for axis in "zyx"))
"""Volume in cubic micrometres, and centre in micrometres, see `in_micrometres`."""

_HEAD = (",".join(COLUMNS) + "\r\n").encode()

_ROWS = 1 << 14
"""Rows of a table that are formatted at a time."""


def in_micrometres(
    columns: Mapping[str, NDArray[Any]], voxel_size_nm: tuple[float, ...], first_nm: tuple[float, ...]
) -> dict[str, NDArray[np.float64]]:
    """Volume and centre of each instance in space.

    Parameters
    ----------
    columns : mapping
        Columns of a table.
    voxel_size_nm, first_nm : tuple of 3 float
        Edges of a voxel, and centre of the volume's first voxel, along z, y, x in nanometres.

    Examples
    --------
    >>> columns = {"voxels": np.array([4])} | {f"centroid_{axis}": np.array([2.5]) for axis in "zyx"}
    >>> [column.tolist() for column in in_micrometres(columns, (1000.0, 500.0, 500.0), (0.0, 0.0, 100.0)).values()]
    [[1.0], [2.5], [1.25], [1.35]]
    """
    volumes = columns["voxels"] * (math.prod(voxel_size_nm) / 1e9)
    centres = (
        (columns[f"centroid_{axis}"] * edge + first) / 1e3
        for axis, edge, first in zip("zyx", voxel_size_nm, first_nm, strict=True)
    )
    return dict(zip(PHYSICAL, (volumes, *centres), strict=True))


def _place(folder: str, name: str) -> str:
    return f"{folder}/{name}.csv"


def find_table(folder: str, name: str) -> str | None:
    """Place of the table of a class that a run would replace, or None; FileExistsError if the file is no such table."""
    try:
        head = folder_at(folder).read(f"{name}.csv", len(_HEAD))
    except FileNotFoundError:
        return None
    if head != _HEAD:
        raise FileExistsError(
            f"{_place(folder, name)} exists and is no table of topo_dask: move it or choose another output"
        )
    return _place(folder, name)


def remove_table(folder: str, name: str) -> None:
    """Remove the table of a class. If a store hides it, it stays: its digest differs from that in new labels' mark."""
    files = folder_at(folder)
    if files.sees(f"{name}.csv"):
        files.remove(f"{name}.csv")


def write_table(columns: Mapping[str, NDArray[Any]], name: str, folder: str) -> str:
    """Write the table of a class to ``<folder>/<class>.csv`` and return its digest, for the mark of the labels."""
    written = hashlib.sha256()

    def parts() -> Iterator[bytes]:
        for lines in _lines(columns):
            part = lines.encode()
            written.update(part)
            yield part

    folder_at(folder).write(f"{name}.csv", parts())
    return _short(written)


def _short(digest: Any) -> str:
    return str(digest.hexdigest()[:16])


def write_columns(file: TextIO, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write columns as comma-separated values, names first."""
    for lines in _lines(columns):
        file.write(lines)


def _lines(columns: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    # Some rows at a time: as Python objects, numbers take many times the memory.
    yield ",".join(columns) + "\r\n"
    for at in range(0, len(next(iter(columns.values()))), _ROWS):
        text = io.StringIO(newline="")
        rows = zip(*(column[at : at + _ROWS].tolist() for column in columns.values()), strict=True)
        csv.writer(text).writerows(rows)
        yield text.getvalue()


def find_tables(folder: str) -> list[str]:
    """Places of the tables in a folder, in alphabetical order; none where there is no folder."""
    names = sorted(name.removesuffix(".csv") for name in folder_at(folder).names() if name.endswith(".csv"))
    return [_place(folder, name) for name in names]


def read_table_of(mark: Mapping[str, Any], folder: str) -> dict[str, NDArray[Any]] | None:
    """Columns of the table that a run wrote for its labels, which are whole; None if it wrote none, or it is gone.

    Parameters
    ----------
    mark : mapping
        Mark of the labels.
    folder : str
        Folder of the table.

    Raises
    ------
    ValueError
        When the file there is not the table of these labels.
    """
    name = mark["class"]
    if (written := mark.get("table")) is None:
        return None
    try:
        text = folder_at(folder).read(f"{name}.csv")
    except FileNotFoundError:
        return None
    place = _place(folder, name)
    if written != _short(hashlib.sha256(text)):
        raise ValueError(
            f"{place} is not the table that the run left of these labels of {name!r}: it is that of other labels, or "
            "was changed; move it away and the table is computed, or give it in place of the output to see it as it is"
        )
    return _parse(text, place)


def read_table(place: str) -> dict[str, NDArray[Any]]:
    """Columns of a table written by `write_table`.

    Raises
    ------
    FileNotFoundError
        When there is no file.
    ValueError
        When the file is no such table.
    """
    folder, name = os.path.split(place)
    return _parse(folder_at(folder).read(name), place)


def _parse(text: bytes, place: str) -> dict[str, NDArray[Any]]:
    lines = io.BytesIO(text)
    head = lines.readline()
    try:
        if tuple(next(csv.reader([head.decode()]), ())) != COLUMNS:
            raise ValueError("other columns")
        rows = np.empty(0, _kinds(np.int64))
        if len(head) < len(text):
            try:
                rows = _read_rows(lines, np.int64)
            except ValueError:
                lines.seek(len(head))
                rows = _read_rows(lines, np.uint64)  # labels of other programs may be 2**63 or more
    except ValueError as error:
        raise ValueError(
            f"{place} is no table of topo_dask: its columns must be {', '.join(COLUMNS)}, all of numbers"
        ) from error
    return {name: np.ascontiguousarray(rows[name]) for name in COLUMNS}


def _kinds(label: type[np.integer]) -> np.dtype[Any]:
    whole = len(COLUMNS) - 4  # centroids and the flow error are fractions
    kinds = [label, *[np.int64] * (whole - 1), *[np.float64] * 4]
    return np.dtype(list(zip(COLUMNS, kinds, strict=True)))


def _read_rows(lines: io.BytesIO, label: type[np.integer]) -> NDArray[Any]:
    # Not row by row: as Python strings they take fifteen times the memory, and the time.
    with warnings.catch_warnings():
        # Some releases of NumPy read what is no int64 as a float, warn, and return another integer.
        warnings.simplefilter("error", DeprecationWarning)
        return np.loadtxt(lines, _kinds(label), comments=None, delimiter=",", quotechar='"', ndmin=1)
