"""The steps from flow to instances, one by one: track, then cluster."""

from collections.abc import Sequence
from typing import Unpack, overload

import numpy as np
from numpy.typing import NDArray

from .. import in_memory, lazy
from ..blocks.geometry import triple
from ..config import ClassConfig
from ..stages.settle import as_rows
from ..stores.addresses import Place
from ..stores.input_shapes import check_array
from ..stores.limits import check_shape
from .arguments import Array, Blocks, BlocksWithHalo, DaskArray, Held, Labels, Lazy, as_array, as_flow, as_volume


@overload
def track_flows(
    sem_mask: Held, flow: Held, n_steps: int, step_size: float = ..., **lazily: Unpack[BlocksWithHalo]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]: ...
@overload
def track_flows(
    sem_mask: Lazy, flow: Held | Lazy, n_steps: int, step_size: float = ..., **lazily: Unpack[BlocksWithHalo]
) -> tuple[DaskArray, DaskArray]: ...
@overload
def track_flows(
    sem_mask: Held, flow: Lazy, n_steps: int, step_size: float = ..., **lazily: Unpack[BlocksWithHalo]
) -> tuple[DaskArray, DaskArray]: ...
def track_flows(
    sem_mask: Array,
    flow: Array,
    n_steps: int,
    step_size: float = 1.0,
    *,
    block_shape: Sequence[int] | None = None,
    halo: int | Sequence[int] | None = None,
    scratch: Place | None = None,
) -> tuple[Array, Array]:
    """Follow every foreground voxel along the flow (Euler integration).

    One step reads the flow at the voxel under the position (no interpolation), adds ``step_size`` times that vector,
    rounded in the type in which the flow is used, to the float64 position, and clips to the volume. The mask chooses
    which voxels start, not where they may go.

    Parameters
    ----------
    sem_mask : array of bool, shape (D, H, W)
        Foreground; 0 is background.
    flow : array of float32, float64 or float16, shape (3, D, H, W)
        Vectors (dz, dy, dx) in voxels; float16 and other types are used as float32.
    n_steps : int
        Number of steps, 0 or more.
    step_size : float
        Length of a step in units of the flow vector.
    block_shape, halo, scratch : optional
        For lazy arrays, see `postprocess_single`.

    Returns
    -------
    fg_coords : array of int64, shape (N, 3)
        Foreground voxels in raster order.
    final_positions : array of float64, shape (N, 3)
        Where they end, in voxels. Lazy arrays have one chunk of unknown length for each layer of blocks along z.

    Raises
    ------
    ValueError, TypeError
        When an argument does not fit, or a particle reads a vector that is not finite.
    OSError, RuntimeError
        For lazy arrays, see `postprocess_single`.

    Notes
    -----
    The method is that of Cellpose (Stringer et al., Nature Methods 2021) in the form of janelia-cellmap/topo.

    Examples
    --------
    >>> import numpy as np, topo_dask
    >>> flow = np.zeros((3, 1, 1, 4), np.float32); flow[2, ..., :3] = 1
    >>> coords, ends = topo_dask.track_flows(np.ones((1, 1, 4)), flow, n_steps=10)
    >>> ends[:, 2]
    array([3., 3., 3., 3.])
    """
    mask = as_volume(sem_mask, "sem_mask")
    flow = as_flow(flow, mask, "sem_mask")
    config = ClassConfig(n_steps=n_steps, step_size=step_size)
    if lazy.is_lazy(mask) or lazy.is_lazy(flow):
        return lazy.track_lazily(config, lazy.Options(block_shape, halo, scratch), mask=mask, flow=flow)
    return in_memory.track(mask, flow, config.n_steps, config.step_size)


@overload
def cluster_convergence(
    fg_coords: Held,
    final_positions: Held,
    volume_shape: Sequence[int],
    convergence_radius: float = ...,
    min_size: int = ...,
    **lazily: Unpack[Blocks],
) -> Labels: ...
@overload
def cluster_convergence(
    fg_coords: Lazy,
    final_positions: Held | Lazy,
    volume_shape: Sequence[int],
    convergence_radius: float = ...,
    min_size: int = ...,
    **lazily: Unpack[Blocks],
) -> DaskArray: ...
@overload
def cluster_convergence(
    fg_coords: Held,
    final_positions: Lazy,
    volume_shape: Sequence[int],
    convergence_radius: float = ...,
    min_size: int = ...,
    **lazily: Unpack[Blocks],
) -> DaskArray: ...
def cluster_convergence(
    fg_coords: Array,
    final_positions: Array,
    volume_shape: Sequence[int],
    convergence_radius: float = 4.0,
    min_size: int = 50,
    *,
    block_shape: Sequence[int] | None = None,
    scratch: Place | None = None,
) -> Array:
    """Group end points into sinks and sinks into instances.

    A sink is an occupied cell of a grid of edge ``max(1, convergence_radius / 2)``; sinks whose centres (mean end
    points) are strictly closer than `convergence_radius` belong together, by single linkage.

    Parameters
    ----------
    fg_coords : array of int64, shape (N, 3)
        Foreground voxels, each once.
    final_positions : array of float64, shape (N, 3)
        Where they end, in voxels. Those of `track_flows` lie in the volume; others may lie up to 2**16 outside it.
        If both arrays are dask arrays, their chunks must have the same numbers of rows.
    volume_shape : sequence of 3 int
        Shape (D, H, W) of the volume.
    convergence_radius : float
        Radius in voxels, above 0.
    min_size : int
        Instances of fewer voxels are dropped.
    block_shape : sequence of 3 int, optional
        For lazy arrays: voxels of a task, and chunks of the result, at most 128 along an axis by default.
    scratch : path or URL, optional
        For lazy arrays: where intermediates go, by default a temporary directory, see `postprocess_single`.

    Returns
    -------
    labels : array of int32, shape (D, H, W)
        0 background, 1..n instances, numbered by their lowest cell in raster order.

    Raises
    ------
    ValueError, TypeError
        When an argument does not fit, or a position is not finite or further outside.
    OverflowError
        When `convergence_radius` is so large that the distances of the end points in one cell from its origin pass
        2**38 voxels together, or there are more than 2**31 - 1 instances.
    OSError, RuntimeError
        For lazy arrays, see `postprocess_single`.

    Examples
    --------
    >>> import numpy as np, topo_dask
    >>> coords = np.array([[0, 0, 0], [0, 0, 1], [0, 0, 9]])
    >>> topo_dask.cluster_convergence(coords, coords.astype(float), (1, 1, 10), 3.0, min_size=1)
    array([[[1, 1, 0, 0, 0, 0, 0, 0, 0, 2]]], dtype=int32)
    """
    config = ClassConfig(convergence_radius=convergence_radius, min_size=min_size)
    shape = triple(volume_shape, "volume_shape", at_least=0)
    check_shape(shape, "volume_shape")
    fg_coords, final_positions = as_array(fg_coords, "fg_coords"), as_array(final_positions, "final_positions")
    deferred = lazy.is_lazy(fg_coords) or lazy.is_lazy(final_positions)
    for name, array in (("fg_coords", fg_coords), ("final_positions", final_positions)):
        if array.ndim != 2 or array.shape[1] != 3:
            raise ValueError(f"{name} must have shape (N, 3), got {array.shape}")
    rows = [array.shape[0] for array in (fg_coords, final_positions)]
    if rows[0] != rows[1] and all(n == n for n in rows):  # the number of lazy rows may be unknown: NaN
        raise ValueError(f"fg_coords has {rows[0]} rows but final_positions has {rows[1]}")
    if np.dtype(fg_coords.dtype).kind not in "iu":
        raise TypeError(f"fg_coords must hold integers, got dtype {fg_coords.dtype}")
    check_array(final_positions, "final_positions", 2)
    if deferred:
        options = lazy.Options(block_shape, None, scratch)
        return lazy.cluster_lazily(config, options, fg_coords, final_positions, shape)
    return in_memory.cluster(config, *as_rows(fg_coords, final_positions, shape), shape)
