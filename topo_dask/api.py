"""The public functions: NumPy in, NumPy out; dask or zarr arrays in, lazy dask arrays out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import held, lazy
from .blocks.geometry import triple
from .config import ClassConfig, Merge, Preset, finite_number, resolve_classes
from .plan import Recipe
from .stores.volumes import check_array, check_prediction

Array = Any
"""numpy.ndarray, dask.array.Array or zarr.Array."""


def _volume(array: Array, name: str) -> Array:
    array = array if lazy.is_lazy(array) else np.asarray(array)
    check_array(array, name, 3)
    return array


def _labels(array: Array) -> Array:
    array = _volume(array, "instances")
    if np.dtype(array.dtype).kind not in "biu":
        raise TypeError(f"instances must hold integers, got dtype {array.dtype}")
    return array


def _flow(array: Array, volume: Array, volume_name: str, name: str = "flow") -> Array:
    array = array if lazy.is_lazy(array) else np.asarray(array)
    check_array(array, name, 4)
    expected = (3, *volume.shape)
    if tuple(array.shape) != tuple(expected):
        raise ValueError(
            f"{name} must have shape {tuple(expected)}: 3 components (dz, dy, dx) and the shape of "
            f"{volume_name}; got {tuple(array.shape)}"
        )
    return array


def _run(recipe: Recipe, deferred: lazy.Options, *, config: ClassConfig | None = None, **arrays: Array) -> Array:
    if any(lazy.is_lazy(array) for array in arrays.values()):
        return lazy.segment_lazily(recipe, deferred, config=config, **arrays)
    return held.segment_held(recipe, config=config, **arrays)


def track_flows(
    sem_mask: Array,
    flow: Array,
    n_steps: int,
    step_size: float = 1.0,
    *,
    block_shape: Sequence[int] | None = None,
    halo: int | Sequence[int] | None = None,
    scratch: str | None = None,
) -> tuple[Array, Array]:
    """Follow every foreground voxel along the flow (Euler integration).

    One step reads the flow at the voxel under the position (no interpolation), adds ``step_size`` times that vector,
    rounded in the flow's own type, to the float64 position, and clips to the volume. The mask chooses which voxels
    start, not where they may go.

    Parameters
    ----------
    sem_mask : array of bool, shape (D, H, W)
        Foreground; 0 is background.
    flow : array of float32 or float64, shape (3, D, H, W)
        Vectors (dz, dy, dx) in voxels; other types are converted to float32.
    n_steps : int
        Number of steps, 0 or more.
    step_size : float
        Length of a step in units of the flow vector.
    block_shape, halo, scratch
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
    mask = _volume(sem_mask, "sem_mask")
    flow = _flow(flow, mask, "sem_mask")
    config = ClassConfig(n_steps=n_steps, step_size=step_size)
    if lazy.is_lazy(mask) or lazy.is_lazy(flow):
        return lazy.track_lazily(config, lazy.Options(block_shape, halo, scratch), mask=mask, flow=flow)
    return held.track_held(mask, flow, config.n_steps, config.step_size)


def cluster_convergence(
    fg_coords: Array,
    final_positions: Array,
    volume_shape: Sequence[int],
    convergence_radius: float = 4.0,
    min_size: int = 50,
    *,
    block_shape: Sequence[int] | None = None,
    scratch: str | None = None,
) -> Array:
    """Group end points into sinks and sinks into instances.

    A sink is an occupied cell of a grid of edge ``max(1, convergence_radius / 2)``; sinks whose centres (mean end
    points) are strictly closer than `convergence_radius` belong together, by single linkage.

    Parameters
    ----------
    fg_coords : array of int64, shape (N, 3)
        Foreground voxels, each once.
    final_positions : array of float64, shape (N, 3)
        Where they end, in voxels.
    volume_shape : sequence of 3 int
        Shape (D, H, W) of the volume.
    convergence_radius : float
        Radius in voxels, above 0.
    min_size : int
        Instances of fewer voxels are dropped.
    block_shape, scratch
        For lazy arrays, see `postprocess_single`.

    Returns
    -------
    labels : array of int32, shape (D, H, W)
        0 background, 1..n instances, numbered by their lowest cell in raster order.

    Raises
    ------
    ValueError, TypeError
        When an argument does not fit, or a position is not finite.

    Examples
    --------
    >>> import numpy as np, topo_dask
    >>> coords = np.array([[0, 0, 0], [0, 0, 1], [0, 0, 9]])
    >>> topo_dask.cluster_convergence(coords, coords.astype(float), (1, 1, 10), 3.0, min_size=1)
    array([[[1, 1, 0, 0, 0, 0, 0, 0, 0, 2]]], dtype=int32)
    """
    config = ClassConfig(convergence_radius=convergence_radius, min_size=min_size)
    shape = triple(tuple(volume_shape), "volume_shape", at_least=0)
    deferred = lazy.is_lazy(fg_coords) or lazy.is_lazy(final_positions)
    if not deferred:
        fg_coords, final_positions = np.asarray(fg_coords), np.asarray(final_positions, np.float64)
    for name, array in (("fg_coords", fg_coords), ("final_positions", final_positions)):
        if array.ndim != 2 or array.shape[1] != 3:
            raise ValueError(f"{name} must have shape (N, 3), got {array.shape}")
    if np.dtype(fg_coords.dtype).kind not in "iu":
        raise TypeError(f"fg_coords must hold integers, got dtype {fg_coords.dtype}")
    if deferred:
        options = lazy.Options(block_shape, None, scratch)
        return lazy.cluster_lazily(config, options, fg_coords, final_positions, shape)
    if len(fg_coords) != len(final_positions):
        raise ValueError(f"fg_coords has {len(fg_coords)} rows but final_positions has {len(final_positions)}")
    if len(fg_coords) and (fg_coords.min() < 0 or (fg_coords >= np.array(shape)).any()):
        raise ValueError(f"fg_coords must lie in a volume of shape {shape}")
    return held.cluster_held(fg_coords, final_positions, shape, config.convergence_radius, config.min_size)


def compact_relabel(
    instances: Array,
    *,
    block_shape: Sequence[int] | None = None,
    scratch: str | None = None,
) -> Array:
    """Number labels 1..n in ascending order of their old ids; 0 stays 0.

    Parameters
    ----------
    instances : array of int, shape (D, H, W)
        Labels of any integer type, 0 background; they need not be contiguous.
    block_shape, scratch
        For lazy arrays, see `postprocess_single`.

    Returns
    -------
    labels : array of int32, shape (D, H, W)

    Raises
    ------
    OverflowError
        When there are more than 2**31 - 1 labels.

    Examples
    --------
    >>> import numpy as np, topo_dask
    >>> topo_dask.compact_relabel(np.array([[[0, 70, 5_000_000_000]]]))
    array([[[0, 1, 2]]], dtype=int32)
    """
    return _run(Recipe(), lazy.Options(block_shape, None, scratch), labels=_labels(instances))


def filter_small(
    instances: Array,
    min_size: int,
    *,
    block_shape: Sequence[int] | None = None,
    scratch: str | None = None,
) -> Array:
    """Drop instances of fewer than `min_size` voxels and number the rest 1..n in ascending order of their old ids.

    Parameters
    ----------
    instances : array of int, shape (D, H, W)
        Labels, 0 background.
    min_size : int
        Least number of voxels of an instance that is kept.
    block_shape, scratch
        For lazy arrays, see `postprocess_single`.

    Returns
    -------
    labels : array of int32, shape (D, H, W)

    Examples
    --------
    >>> import numpy as np, topo_dask
    >>> topo_dask.filter_small(np.array([[[4, 9, 9]]]), 2)
    array([[[0, 1, 1]]], dtype=int32)
    """
    recipe = Recipe(min_size=ClassConfig(min_size=min_size).min_size)
    return _run(recipe, lazy.Options(block_shape, None, scratch), labels=_labels(instances))


def split_disconnected(
    instances: Array,
    min_fragment_ratio: float = 0.1,
    *,
    block_shape: Sequence[int] | None = None,
    scratch: str | None = None,
) -> Array:
    """Split instances into their 6-connected fragments; small ones join the nearest large one of their instance.

    A fragment is large when it has at least ``max(1, int(total * min_fragment_ratio))`` of its instance's voxels. An
    instance of one fragment, or without a large one, stays whole.

    Parameters
    ----------
    instances : array of int, shape (D, H, W)
        Labels, 0 background.
    min_fragment_ratio : float
        Share of an instance from which a fragment is large.
    block_shape, scratch
        For lazy arrays, see `postprocess_single`.

    Returns
    -------
    labels : array of int32, shape (D, H, W)
        Numbered by old id, then by the fragments' first voxels in raster order.

    Examples
    --------
    >>> import numpy as np, topo_dask
    >>> topo_dask.split_disconnected(np.array([[[7, 7, 0, 7]]]))
    array([[[1, 1, 0, 2]]], dtype=int32)
    """
    ratio = ClassConfig(min_fragment_ratio=min_fragment_ratio).min_fragment_ratio
    recipe = Recipe(split=True, min_fragment_ratio=ratio)
    return _run(recipe, lazy.Options(block_shape, None, scratch), labels=_labels(instances))


def _unite(instances: Array, flow: Array, merge: Merge, threshold: tuple[str, float], options: lazy.Options) -> Array:
    labels = _labels(instances)
    name, value = threshold
    recipe = Recipe(merge=merge, merge_threshold=finite_number(value, name))
    return _run(recipe, options, labels=labels, flow=_flow(flow, labels, "instances"))


def merge_adjacent(
    instances: Array,
    flow: Array,
    dot_threshold: float = 0.0,
    *,
    block_shape: Sequence[int] | None = None,
    scratch: str | None = None,
) -> Array:
    """Unite labels that touch through voxel faces where the flow on both sides runs the same way.

    Pairs whose mean dot product over all common faces is strictly above the threshold are united. It mends elongated
    objects that have several sinks.

    Parameters
    ----------
    instances : array of int, shape (D, H, W)
        Labels, 0 background.
    flow : array of float, shape (3, D, H, W)
        Vectors (dz, dy, dx) in voxels.
    dot_threshold : float
        Mean dot product above which two labels are united.
    block_shape, scratch
        For lazy arrays, see `postprocess_single`.

    Returns
    -------
    labels : array of int32, shape (D, H, W)
        Numbered by the lowest old id of each group.

    Notes
    -----
    The rule is that of janelia-cellmap/topo. Where objects are packed, `agglomerate` is the better choice.

    Examples
    --------
    >>> import numpy as np, topo_dask
    >>> topo_dask.merge_adjacent(np.array([[[3, 5, 9]]]), np.array([0.0, 0, 1] * 3).reshape(3, 3).T[:, None, None])
    array([[[1, 1, 1]]], dtype=int32)
    """
    options = lazy.Options(block_shape, None, scratch)
    return _unite(instances, flow, "adjacent", ("dot_threshold", dot_threshold), options)


def agglomerate(
    instances: Array,
    flow: Array,
    threshold: float = 0.0,
    *,
    block_shape: Sequence[int] | None = None,
    scratch: str | None = None,
) -> Array:
    """Unite labels that touch by average linkage of the agreement of the flow at their contacts.

    The face between voxels a and b (b follows a along axis k) scores ``f_a . f_b + (f_a[k] - f_b[k])``: flows that run
    the same way, or into each other across the face, belong together; flows that part do not. The pair of groups with
    the highest mean score over all their common faces is united, again and again, until no mean is strictly above the
    threshold.

    Parameters
    ----------
    instances : array of int, shape (D, H, W)
        Labels, 0 background.
    flow : array of float, shape (3, D, H, W)
        Vectors (dz, dy, dx) in voxels.
    threshold : float
        Mean score above which two groups are united.
    block_shape, scratch
        For lazy arrays, see `postprocess_single`.

    Returns
    -------
    labels : array of int32, shape (D, H, W)
        Numbered by the lowest old id of each group.

    Notes
    -----
    Average linkage on signed graphs: GASP (Bailoni et al., CVPR 2022).

    Examples
    --------
    >>> import numpy as np, topo_dask
    >>> flow = np.zeros((3, 1, 1, 4), np.float32); flow[2] = [1, -1, -1, 1]
    >>> topo_dask.agglomerate(np.array([[[1, 2, 3, 4]]]), flow)
    array([[[1, 1, 1, 2]]], dtype=int32)
    """
    options = lazy.Options(block_shape, None, scratch)
    return _unite(instances, flow, "agglomerate", ("threshold", threshold), options)


def remove_bad_flow_masks(
    instances: Array,
    pred_flow: Array,
    threshold: float = 0.4,
    *,
    block_shape: Sequence[int] | None = None,
    scratch: str | None = None,
) -> Array:
    """Drop instances whose flow differs too much from unit vectors towards their centre of mass.

    Parameters
    ----------
    instances : array of int, shape (D, H, W)
        Labels, 0 background; not modified.
    pred_flow : array of float, shape (3, D, H, W)
        Vectors (dz, dy, dx) in voxels.
    threshold : float
        Largest mean squared difference, over voxels and the three components, of an instance that is kept.
    block_shape, scratch
        For lazy arrays, see `postprocess_single`.

    Returns
    -------
    labels : array of int32, shape (D, H, W)
        Numbered compactly in ascending order of the old ids.

    Examples
    --------
    >>> import numpy as np, topo_dask
    >>> flow = np.zeros((3, 1, 1, 5)); flow[2] = [1, -1, 0, -1, 1]
    >>> topo_dask.remove_bad_flow_masks(np.array([[[4, 4, 0, 6, 6]]]), flow)
    array([[[1, 1, 0, 0, 0]]], dtype=int32)
    """
    labels = _labels(instances)
    limit = ClassConfig(flow_error_threshold=threshold).flow_error_threshold
    flow = _flow(pred_flow, labels, "instances", "pred_flow")
    options = lazy.Options(block_shape, None, scratch)
    return _run(Recipe(flow_error=limit), options, labels=labels, flow=flow)


def instance_table(
    instances: Array,
    pred_flow: Array | None = None,
    *,
    block_shape: Sequence[int] | None = None,
    scratch: str | None = None,
) -> dict[str, Any]:
    """Statistics of every instance, from sums that blocks combine exactly.

    Unlike the other functions it works at once for lazy arrays too: a table is small.

    Parameters
    ----------
    instances : array of int, shape (D, H, W)
        Labels, 0 background.
    pred_flow : array of float, shape (3, D, H, W), optional
        Vectors (dz, dy, dx) in voxels, for the flow errors.
    block_shape, scratch
        For lazy arrays, see `postprocess_single`.

    Returns
    -------
    table : dict
        Column name to a NumPy array with a row for each label in ascending order: `label`; `voxels`; the bounding box
        in voxels, `bbox_start_z` to `bbox_stop_x`, its stop exclusive; the centre of mass in voxels, `centroid_z` to
        `centroid_x`; and `flow_error`, see `remove_bad_flow_masks`, NaN without a flow. It is what
        ``pandas.DataFrame`` takes.

    Examples
    --------
    >>> import numpy as np, topo_dask
    >>> table = topo_dask.instance_table(np.array([[[0, 70, 70, 4]]]))
    >>> table["label"], table["voxels"], table["centroid_x"]
    (array([ 4, 70], dtype=uint64), array([1, 2]), array([3. , 1.5]))
    """
    labels = _labels(instances)
    flow = None if pred_flow is None else _flow(pred_flow, labels, "instances", "pred_flow")
    recipe = Recipe(table=True, flow_error=None if flow is None else float("inf"))
    if lazy.is_lazy(labels) or lazy.is_lazy(flow):
        arrays = {"labels": labels} if flow is None else {"labels": labels, "flow": flow}
        table: dict[str, Any] = lazy.tabulate_lazily(
            recipe, lazy.Options(block_shape, None, scratch), **arrays
        ).compute()
        return table
    return held.tabulate_held(recipe, labels, flow)


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
    scratch: str | None = None,
) -> Array:
    """Instance labels of one class from its foreground and flow.

    Parameters
    ----------
    sem_mask : array of bool, shape (D, H, W)
        Foreground; 0 is background.
    flow : array of float32 or float64, shape (3, D, H, W)
        Vectors (dz, dy, dx), about one voxel long; other types are converted to float32.
    n_steps : int
        Euler steps.
    step_size : float
        Length of a step in units of the flow vector.
    convergence_radius : float
        Sinks closer than this many voxels belong together.
    min_size : int
        Instances of fewer voxels are dropped.
    group : {1, 2, 3}
        1: track and cluster. 2: and split what is disconnected. 3: and give orphans the nearest label.
    merge : {None, "adjacent", "agglomerate"}
        Unite instances that touch: see `merge_adjacent` and `agglomerate`.
    flow_error_threshold : float
        Above 0: drop instances with a larger flow error, see `remove_bad_flow_masks`.
    block_shape : sequence of 3 int, optional
        For lazy arrays: voxels of a task, and chunks of the result. The labels do not depend on it.
    halo : int or sequence of 3 int, optional
        For lazy arrays: margin read around a block. A matter of speed only.
    scratch : str, optional
        For lazy arrays: path or store URL, reachable by all workers, for intermediates. Default: a temporary
        directory, removed at exit. Chunks of a zarr array that were never written read as its fill value.

    Returns
    -------
    labels : array of int32, shape (D, H, W)
        0 background, 1..n instances. NumPy for NumPy; a lazy dask array when an input is a dask or zarr array.

    Raises
    ------
    ValueError, TypeError
        When an argument does not fit, or a particle reads a vector that is not finite.

    Examples
    --------
    >>> import numpy as np, topo_dask
    >>> flow = np.zeros((3, 1, 1, 6), np.float32); flow[2] = [1, 0, 0, 0, 0, -1]
    >>> topo_dask.postprocess_single(np.ones((1, 1, 6)), flow, convergence_radius=2.0, min_size=1)
    array([[[1, 1, 1, 1, 1, 1]]], dtype=int32)
    """
    mask = _volume(sem_mask, "sem_mask")
    config = ClassConfig(
        group=group,
        n_steps=n_steps,
        step_size=step_size,
        convergence_radius=convergence_radius,
        min_size=min_size,
        merge=merge,
        flow_error_threshold=flow_error_threshold,
    )
    flow = _flow(flow, mask, "sem_mask")
    options = lazy.Options(block_shape, halo, scratch)
    return _run(Recipe.of(config), options, config=config, mask=mask, flow=flow)


def run_instance_segmentation(
    semantic_pred: Array,
    flow_pred: Array,
    class_names: Sequence[str] | None = None,
    class_config: Mapping[str, Any] | None = None,
    flow_error_threshold: float = 0.0,
    *,
    resolution_nm: float | None = None,
    preset: Preset | None = None,
    threshold: float = 0.5,
    block_shape: Sequence[int] | None = None,
    halo: int | Sequence[int] | None = None,
    scratch: str | None = None,
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
        `merge`. A class without an entry is skipped. Default: `get_postprocess_config` for `resolution_nm`.
    flow_error_threshold : float
        Above 0: drop instances with a larger flow error.
    resolution_nm : float, optional
        Edge of a voxel in nanometres, for the default parameters; 8 with a warning if nothing is given.
    preset : {"published", "touching"}, optional
        Which default parameters: see `get_postprocess_config`. Not together with `class_config`.
    threshold : float
        Probability above which a voxel is foreground.
    block_shape, halo, scratch
        For lazy arrays, see `postprocess_single`.

    Returns
    -------
    labels : dict
        Class name to labels of int32, shape (D, H, W).

    Raises
    ------
    ValueError, TypeError
        When shapes, names or parameters do not fit together.

    Examples
    --------
    >>> import numpy as np, topo_dask
    >>> config = {"nuc": {"group": 1, "n_steps": 5, "convergence_radius": 3.0, "min_size": 1}}
    >>> prob, flow = np.ones((1, 1, 1, 3)), np.zeros((3, 1, 1, 3), np.float32)
    >>> topo_dask.run_instance_segmentation(prob, flow, ["nuc"], config)
    {'nuc': array([[[1, 1, 1]]], dtype=int32)}
    """
    semantic = semantic_pred if lazy.is_lazy(semantic_pred) else np.asarray(semantic_pred)
    flow = flow_pred if lazy.is_lazy(flow_pred) else np.asarray(flow_pred)
    check_prediction(semantic, flow)
    threshold = finite_number(threshold, "threshold")
    classes = resolve_classes(class_names, class_config, resolution_nm, semantic.shape[0], flow_error_threshold, preset)
    options = lazy.Options(block_shape, halo, scratch)
    if lazy.is_lazy(semantic) or lazy.is_lazy(flow):
        return lazy.segment_classes_lazily(classes, options, semantic, flow, threshold)
    return {
        name: held.segment_held(
            Recipe.of(config),
            config=config,
            mask=semantic[channel],
            flow=flow[3 * channel : 3 * channel + 3],
            threshold=threshold,
        )
        for name, (channel, config) in classes.items()
    }
