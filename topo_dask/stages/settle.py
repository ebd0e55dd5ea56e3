"""Start from end points that are given as rows: sort the rows by block, then file the sinks of each block."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import BlockGrid, Triple
from ..given import check_unmasked
from ..kernels.sinks import CellGrid
from ..stores.scratch import Scratch
from .job import Job
from .track import SinkTable, file_sinks

PARTS = "rows.parts"
"""Kind of the records of parts whose rows have been sorted by block."""

EndPoints = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Voxels and end points, shape (N, 3)."""


def as_rows(coords: NDArray[Any], positions: NDArray[Any], shape: Triple, where: str = "") -> EndPoints:
    """Convert voxels of any integer type to int64, and end points of any number type to float64.

    Raises
    ------
    TypeError
        When an array has masked values.
    ValueError
        When the two arrays differ in length, or a voxel lies outside the volume.
    """
    check_unmasked(coords, f"fg_coords{where}")
    check_unmasked(positions, f"final_positions{where}")
    if len(coords) != len(positions):
        raise ValueError(f"fg_coords has {len(coords)} rows but final_positions has {len(positions)}{where}")
    # Compared as Python's integers, as uint64 reaches further than int64.
    if len(coords) and not all(int(c.min()) >= 0 and int(c.max()) < n for c, n in zip(coords.T, shape, strict=True)):
        row = int(np.argmax(((coords < 0) | (coords >= np.array(shape))).any(axis=1)))
        raise ValueError(f"fg_coords must lie in a volume of shape {shape}, got {coords[row]} in row {row}{where}")
    return coords.astype(np.int64, copy=False), positions.astype(np.float64, copy=False)


def sort_rows(coords: NDArray[Any], positions: NDArray[Any], part: int, grid: BlockGrid, scratch: Scratch) -> None:
    """Check the rows of one part of the input as `as_rows` does, and file them by the block of their voxels."""
    coords, positions = as_rows(coords, positions, grid.shape, f" in chunk {part}")
    if len(coords):
        file_rows(coords, positions, part, grid, scratch)
    scratch.put(PARTS, str(part))


def file_rows(
    coords: NDArray[np.int64], positions: NDArray[np.float64], part: int, grid: BlockGrid, scratch: Scratch
) -> None:
    """File rows, one at least, as `as_rows` returns them, by the block of their voxels."""
    numbers = np.ravel_multi_index(tuple((coords // np.array(grid.block_shape)).T), grid.numblocks)
    if (numbers[1:] < numbers[:-1]).any():
        order = np.argsort(numbers, kind="stable")
        numbers, coords, positions = numbers[order], coords[order], positions[order]
    begins = np.flatnonzero(np.diff(numbers, prepend=-1))
    for begin, end in zip(begins, [*begins[1:], len(numbers)], strict=True):
        key = ".".join(str(int(v)) for v in np.unravel_index(numbers[begin], grid.numblocks))
        scratch.put("rows", f"{key}@{part}", coords=coords[begin:end], positions=positions[begin:end])


def index_rows(job: Job) -> None:
    """File the list of parts that have rows in a block, for each block."""
    parts: dict[str, list[int]] = {}
    for name in job.scratch.keys("rows"):
        key, part = name.split("@")
        parts.setdefault(key, []).append(int(part))
    job.scratch.put_each("rows.index", ((key, {"parts": np.array(sorted(found))}) for key, found in parts.items()))


def settle(job: Job, key: str) -> None:
    """File the sinks of a block from its given end points."""
    block = job.grid.named(key)
    bundles = [job.scratch.get("rows", f"{key}@{part}") for part in job.scratch.get("rows.index", key)["parts"]]
    coords = np.concatenate([bundle["coords"] for bundle in bundles]) - np.array(block.write.start)
    ends = np.concatenate([bundle["positions"] for bundle in bundles])
    voxels = np.ravel_multi_index(tuple(coords.T), block.write.shape)
    mask = np.zeros(block.write.shape, np.bool_)
    mask.reshape(-1)[voxels] = True
    if np.count_nonzero(mask) < len(voxels):
        ascending = np.sort(voxels)
        twice = np.unravel_index(ascending[:-1][ascending[1:] == ascending[:-1]][0], mask.shape)
        voxel = tuple(int(a + b) for a, b in zip(twice, block.write.start, strict=True))
        raise ValueError(f"fg_coords must name each voxel once; {voxel} is there twice")
    del mask
    table = SinkTable(CellGrid.for_radius(job.grid.shape, job.config.convergence_radius))
    table.add(voxels, ends)
    file_sinks(job, block, table)
    job.scratch.put("settle", key)
