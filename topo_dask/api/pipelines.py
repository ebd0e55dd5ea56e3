"""From a prediction to labels in one call: one class, or all classes of a network."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack, overload

from .. import in_memory, lazy
from ..config import (
    ClassConfig,
    Merge,
    Preset,
    Resolution,
    edges_nm,
    nothing_to_segment,
    resolve_classes,
    warn_of_edges,
)
from ..doubts import warn_of_mask, warn_of_prediction
from ..given import finite_number
from ..plan import Recipe
from ..stores.addresses import Place
from ..stores.input_shapes import check_prediction
from ..warning import warn
from .arguments import Array, BlocksWithHalo, DaskArray, Held, Labels, Lazy, as_flow, as_sized, as_volume, segment


@overload
def postprocess_single(
    sem_mask: Held,
    flow: Held,
    n_steps: int = ...,
    step_size: float = ...,
    convergence_radius: float = ...,
    min_size: int = ...,
    group: int = ...,
    *,
    merge: Merge | None = ...,
    flow_error_threshold: float = ...,
    **lazily: Unpack[BlocksWithHalo],
) -> Labels: ...
@overload
def postprocess_single(
    sem_mask: Lazy,
    flow: Held | Lazy,
    n_steps: int = ...,
    step_size: float = ...,
    convergence_radius: float = ...,
    min_size: int = ...,
    group: int = ...,
    *,
    merge: Merge | None = ...,
    flow_error_threshold: float = ...,
    **lazily: Unpack[BlocksWithHalo],
) -> DaskArray: ...
@overload
def postprocess_single(
    sem_mask: Held,
    flow: Lazy,
    n_steps: int = ...,
    step_size: float = ...,
    convergence_radius: float = ...,
    min_size: int = ...,
    group: int = ...,
    *,
    merge: Merge | None = ...,
    flow_error_threshold: float = ...,
    **lazily: Unpack[BlocksWithHalo],
) -> DaskArray: ...
def postprocess_single(
    sem_mask: Array,
    flow: Array,
    n_steps: int = 100,
    step_size: float = 1.0,
    convergence_radius: float = 4.0,
    min_size: int = 50,
    group: int = 1,
    *,
    merge: Merge | None = None,
    flow_error_threshold: float = 0.0,
    block_shape: Sequence[int] | None = None,
    halo: int | Sequence[int] | None = None,
    scratch: Place | None = None,
) -> Array:
    """Instance labels of one class from its foreground and flow.

    Parameters
    ----------
    sem_mask : array of bool, shape (D, H, W)
        Foreground; 0 is background.
    flow : array of float32, float64 or float16, shape (3, D, H, W)
        Vectors (dz, dy, dx), about one voxel long; float16 and other types are used as float32.
    n_steps : int
        Euler steps.
    step_size : float
        Length of a step in units of the flow vector.
    convergence_radius : float
        Sinks closer than this many voxels belong together.
    min_size : int
        Instances of fewer voxels are dropped. Groups 2 and 3 split after that: a piece may be smaller, down to a tenth
        of its instance, see `split_disconnected`.
    group : {1, 2, 3}
        1: track and cluster. 2: and split what is disconnected. 3: and give orphans the nearest label.
    merge : {None, "adjacent", "agglomerate"}
        Unite instances that touch: see `merge_adjacent` and `agglomerate`.
    flow_error_threshold : float
        Above 0: drop instances with a larger flow error, see `remove_bad_flow_masks`.
    block_shape : sequence of 3 int, optional
        For lazy arrays: voxels of a task, and chunks of the result; the labels do not depend on it. By default blocks
        grow from the chunks of the first lazy array, and the result has the chunks of the first dask array.
    halo : int or sequence of 3 int, optional
        For lazy arrays: margin read around a block, 16 by default. A matter of speed only.
    scratch : path or URL, optional
        For lazy arrays: where intermediates go; all workers must reach it. Default: the ``temporary-directory`` of
        Dask's configuration, else that of the system. Every call makes a folder there. The folder is removed with the
        last array that needs it; or when this process ends, if the array was sent to other processes or the place is
        an object store. If this process is killed, or another one goes on to use the array after it has ended, the
        folder stays until a process of the same machine uses the same place again; in an object store it stays for
        good.

    Returns
    -------
    labels : array of int32, shape (D, H, W)
        0 background, 1..n instances. NumPy for NumPy; a lazy dask array when an input is a dask or zarr array.

    Raises
    ------
    ValueError, TypeError
        When an argument does not fit, a particle reads a vector that is not finite, or a chunk is not what its dask
        array declares.
    OverflowError
        When the flow is so long that sums for `merge` or the flow error pass their range (see there), or
        `convergence_radius` so large that sums of end points do (see `cluster_convergence`), or there are more than
        2**31 - 1 instances.
    OSError, RuntimeError
        For lazy arrays, when something in scratch or of an input was lost, workers do not reach it, or scratch is full.

    Warns
    -----
    UserWarning
        When the arrays look, in a few boxes, as if something else was meant: a mask of probabilities or logits; flow
        that is scaled, 0, points away from objects, or fits in another order. Lazy arrays are looked at when the result
        is computed.

    Notes
    -----
    A dask input is written to scratch once for each call: persist or store what several calls share. Keep a reference
    to what you have persisted until the result is computed; Dask drops it with the last reference. A chunk of a zarr
    array that was never written reads as the array's fill value.

    Examples
    --------
    >>> import numpy as np, topo_dask
    >>> flow = np.zeros((3, 1, 1, 6), np.float32); flow[2] = [1, 0, 0, 0, 0, -1]
    >>> topo_dask.postprocess_single(np.ones((1, 1, 6)), flow, convergence_radius=2.0, min_size=1)
    array([[[1, 1, 1, 1, 1, 1]]], dtype=int32)
    """
    mask = as_volume(sem_mask, "sem_mask")
    config = ClassConfig(
        group=group,
        n_steps=n_steps,
        step_size=step_size,
        convergence_radius=convergence_radius,
        min_size=min_size,
        merge=merge,
        flow_error_threshold=flow_error_threshold,
    )
    flow = as_flow(flow, mask, "sem_mask")
    options = lazy.Options(block_shape, halo, scratch)
    if not (lazy.is_lazy(mask) or lazy.is_lazy(flow)):
        warn_of_mask(mask, flow)
    return segment(Recipe.of(config), options, config=config, mask=mask, flow=flow)


@overload
def run_instance_segmentation(
    semantic_pred: Held,
    flow_pred: Held,
    class_names: Sequence[str] | None = ...,
    class_config: Mapping[str, Any] | None = ...,
    flow_error_threshold: float = ...,
    *,
    resolution_nm: Resolution | None = ...,
    preset: Preset | None = ...,
    threshold: float = ...,
    **lazily: Unpack[BlocksWithHalo],
) -> dict[str, Labels]: ...
@overload
def run_instance_segmentation(
    semantic_pred: Lazy,
    flow_pred: Held | Lazy,
    class_names: Sequence[str] | None = ...,
    class_config: Mapping[str, Any] | None = ...,
    flow_error_threshold: float = ...,
    *,
    resolution_nm: Resolution | None = ...,
    preset: Preset | None = ...,
    threshold: float = ...,
    **lazily: Unpack[BlocksWithHalo],
) -> dict[str, DaskArray]: ...
@overload
def run_instance_segmentation(
    semantic_pred: Held,
    flow_pred: Lazy,
    class_names: Sequence[str] | None = ...,
    class_config: Mapping[str, Any] | None = ...,
    flow_error_threshold: float = ...,
    *,
    resolution_nm: Resolution | None = ...,
    preset: Preset | None = ...,
    threshold: float = ...,
    **lazily: Unpack[BlocksWithHalo],
) -> dict[str, DaskArray]: ...
def run_instance_segmentation(
    semantic_pred: Array,
    flow_pred: Array,
    class_names: Sequence[str] | None = None,
    class_config: Mapping[str, Any] | None = None,
    flow_error_threshold: float = 0.0,
    *,
    resolution_nm: Resolution | None = None,
    preset: Preset | None = None,
    threshold: float = 0.5,
    block_shape: Sequence[int] | None = None,
    halo: int | Sequence[int] | None = None,
    scratch: Place | None = None,
) -> dict[str, Array]:
    """Instance labels of every class of a prediction.

    Parameters
    ----------
    semantic_pred : array, shape (N, D, H, W)
        Foreground probability of each class; foreground where it is above `threshold`.
    flow_pred : array, shape (3N, D, H, W)
        Channels 3c, 3c + 1, 3c + 2 are class c's dz, dy, dx in voxels.
    class_names : sequence of str, optional
        Name of each class, by default `EVALUATED_INSTANCE_CLASSES`.
    class_config : mapping, optional
        Class name to a mapping of `group`, `n_steps`, `step_size`, `convergence_radius`, `min_size` and optionally
        `merge`, `flow_error_threshold` and `min_fragment_ratio` (see `split_disconnected`). A class without an entry is
        skipped. Default: `get_postprocess_config` for `resolution_nm`.
    flow_error_threshold : float
        Above 0: drop instances with a larger flow error; it replaces what `class_config` says.
    resolution_nm : float or sequence of 3 float, optional
        Edge of a voxel in nanometres, or its edges along z, y, x, the shortest of which chooses the default parameters;
        without it and `class_config` it is 8, and a warning says so.
    preset : {"published", "touching"}, optional
        Which default parameters: see `get_postprocess_config`. Not together with `class_config`.
    threshold : float
        Probability above which a voxel is foreground.
    block_shape, halo, scratch : optional
        For lazy arrays, see `postprocess_single`.

    Returns
    -------
    labels : dict
        Class name to labels of int32, shape (D, H, W). Empty, with a warning, where no class has parameters.

    Raises
    ------
    ValueError, TypeError
        When shapes, names or parameters do not fit together, a probability is NaN, or as in `postprocess_single`.
    OverflowError, OSError, RuntimeError
        See `postprocess_single`.

    Warns
    -----
    UserWarning
        When the arrays look, in a few boxes, as if something else was meant, see `postprocess_single`; when a class
        has no parameters, or some of them are left out, so that defaults are used. Of the default parameters it warns
        when no `resolution_nm` chooses them, when its edges differ by more than a tenth, because parameters count
        voxels, and as in `get_postprocess_config`.

    Examples
    --------
    >>> import numpy as np, topo_dask
    >>> config = {"nuc": {"group": 1, "n_steps": 5, "convergence_radius": 3.0, "min_size": 1}}
    >>> prob, flow = np.ones((1, 1, 1, 3)), np.zeros((3, 1, 1, 3), np.float32)
    >>> topo_dask.run_instance_segmentation(prob, flow, ["nuc"], config)
    {'nuc': array([[[1, 1, 1]]], dtype=int32)}
    """
    semantic, flow = as_sized(semantic_pred, "semantic_pred"), as_sized(flow_pred, "flow_pred")
    check_prediction(semantic, flow, ("semantic_pred", "flow_pred"))
    threshold = finite_number(threshold, "threshold")
    classes = resolve_classes(class_names, class_config, resolution_nm, semantic.shape[0], flow_error_threshold, preset)
    if not classes:
        warn(nothing_to_segment(class_names, class_config))
    if class_config is None and resolution_nm is not None:
        warn_of_edges(edges_nm(resolution_nm), {name: one.convergence_radius for name, (_, one) in classes.items()})
    options = lazy.Options(block_shape, halo, scratch)
    if lazy.is_lazy(semantic) or lazy.is_lazy(flow):
        return lazy.segment_classes_lazily(classes, options, semantic, flow, threshold)
    channels = {name: channel for name, (channel, _) in classes.items()}
    warn_of_prediction(semantic, flow, channels, threshold, ("semantic_pred", "flow_pred"))
    return {
        name: in_memory.segment(
            Recipe.of(config),
            config=config,
            mask=semantic[channel],
            flow=flow[3 * channel : 3 * channel + 3],
            threshold=threshold,
            name=name,
        )[0]
        for name, (channel, config) in classes.items()
    }
