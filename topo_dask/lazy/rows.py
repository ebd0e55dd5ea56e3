"""Lazy rows of voxels and end points, and labels from such rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import BlockGrid, Triple, triple
from ..config import ClassConfig
from ..given import as_declared, is_dask
from ..plan import Recipe, plan_stages
from ..stages.job import Job
from ..stages.settle import PARTS, as_rows, sort_rows
from ..stages.stage import EVERY, Stage
from ..stages.trace import rows_of, trace
from ..stores.checked import CheckedArray
from ..stores.inputs import absolute_node
from ..stores.scratch import FileScratch
from ..surroundings import ambient, compute
from ..workers import check_workers_reach
from .calls import later, set_up
from .jobs import Spec, make_job, prepare_job
from .labels import over_grid
from .leases import open_scratch
from .options import Array, Options, is_stored
from .prepared import LOSSES, Prepared, lost_bundle, prepare, unreachable
from .spilled import Opaque

_ROWS = 1 << 20
"""Rows of a task, of arrays whose chunks are ours to choose."""


def track_lazily(config: ClassConfig, options: Options, mask: Array, flow: Array) -> tuple[Any, Any]:
    """Lazy voxels and end points, one chunk for each layer of blocks along z."""
    import dask
    import dask.array as da

    scratch, grid, stored = set_up(options, {"mask": mask, "flow": flow})
    stages = (Stage("trace", trace, EVERY, moves=True, products=("ends",)),)
    prepared = later("prepare-positions", prepare_job, Spec(grid, scratch, config), stages, stored, "ends")
    layers = [dask.delayed(_layer, nout=2)(prepared, layer) for layer in range(grid.numblocks[0])]
    shape = (np.nan, 3)
    coords = [da.from_delayed(layer[0], shape, np.int64) for layer in layers]
    ends = [da.from_delayed(layer[1], shape, np.float64) for layer in layers]
    if not layers:
        return da.zeros((0, 3), dtype=np.int64), da.zeros((0, 3), dtype=np.float64)
    return da.concatenate(coords, allow_unknown_chunksizes=True), da.concatenate(ends, allow_unknown_chunksizes=True)


def _layer(prepared: Prepared, layer: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    job = prepared.job
    if job.flow is not None:
        job.flow.release()
    rows = np.argwhere(prepared.occupied[layer]).tolist()
    try:
        return rows_of(job, [job.grid.block((layer, y, x)) for y, x in rows])
    except LOSSES as error:
        raise lost_bundle(job, f"layer {layer} of blocks", error) from error


def cluster_lazily(
    config: ClassConfig, options: Options, fg_coords: Array, final_positions: Array, shape: Triple
) -> Any:
    """Lazy labels from rows of voxels and rows of end points, in matching chunks."""
    import dask.array as da

    scratch = open_scratch(options.scratch)
    rows = _as_dask({"fg_coords": fg_coords, "final_positions": final_positions})
    _check_chunks(*(array.chunks[0] for array in rows))
    if 0 in shape:  # there is no block whose task could find rows that lie in none
        pairs = zip(*(array.to_delayed().ravel() for array in rows), strict=True)
        checked = [later("check-rows", as_rows, *pair, shape, f" in chunk {part}") for part, pair in enumerate(pairs)]
        return da.from_delayed(later("no-labels", _no_labels, shape, checked), shape, np.int32)
    chosen = tuple(max(1, min(n, 128)) for n in shape)
    grid = BlockGrid(shape, triple(chosen if options.block_shape is None else options.block_shape, "block_shape"))
    plan = plan_stages(Recipe.of(config), "rows")
    job = later("prepare-labels", _settled, Spec(grid, scratch, config), plan.stages, Opaque(rows))
    return over_grid(job, plan, grid)


def _as_dask(arrays: Mapping[str, Array]) -> list[Any]:
    # Dask arrays with whole rows in each chunk. NumPy and zarr arrays are divided like the other one if that is a dask
    # array, and else both alike, however they are stored. Reads of zarr arrays are checked.
    import dask.array as da

    lazy = {name: as_declared(array, name).rechunk({1: 3}) for name, array in arrays.items() if is_dask(array)}
    along: Any = next((array.chunks[0] for array in lazy.values() if not np.isnan(array.shape[0])), _ROWS)
    for name, array in arrays.items():
        if is_stored(array):
            checked = CheckedArray(absolute_node(array), name, "background")
            lazy[name] = da.from_array(checked, chunks=(along, 3), name=False)
        elif name not in lazy:
            lazy[name] = da.from_array(array, chunks=(along, 3))
    return [lazy[name] for name in arrays]


def _check_chunks(coords: Sequence[float], positions: Sequence[float]) -> None:
    must = "fg_coords and final_positions must have matching chunks"
    if len(coords) != len(positions):
        raise ValueError(f"{must}, got {len(coords)} and {len(positions)} of them along the first axis")
    for part, (n, m) in enumerate(zip(coords, positions, strict=True)):
        if n != m and n == n and m == m:  # a length that is not known, NaN, is checked when the rows are there
            raise ValueError(f"{must}, got {n} and {m} rows in chunk {part}: rechunk one of them")


def _no_labels(shape: Triple, checked: Sequence[Any]) -> NDArray[np.int32]:
    return np.zeros(shape, np.int32)


def _settled(spec: Spec, stages: Sequence[Stage], rows: Opaque) -> Prepared:
    import dask

    job = make_job(spec, {})
    assert isinstance(job.scratch, FileScratch)
    pairs = list(zip(*(array.to_delayed().ravel() for array in rows.arrays), strict=True))
    if left := _unsorted(job, len(pairs)):
        sort = dask.delayed(sort_rows, pure=False)
        with ambient(in_task=True):  # on a cluster, the same cluster computes this too
            check_workers_reach(job.scratch)
            compute(*(sort(*pairs[part], part, job.grid, job.scratch) for part in left))
        if left := _unsorted(job, len(pairs)):
            raise unreachable(job, f"chunk {left[0]} of fg_coords: no record")
    return prepare(job, stages)


def _unsorted(job: Job, parts: int) -> list[int]:
    filed = job.scratch.keys(PARTS)
    return [part for part in range(parts) if str(part) not in filed]
