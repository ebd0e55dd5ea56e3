"""Functions of label volumes: numbering, filters, splits and mergers, and the table of instances."""

from collections.abc import Sequence
from typing import Any, Unpack, overload

from numpy.typing import NDArray

from .. import in_memory, lazy
from ..config import ClassConfig, Merge
from ..given import finite_number, integer
from ..plan import Recipe
from ..stores.addresses import Place
from .arguments import Array, Blocks, DaskArray, Held, Labels, Lazy, as_flow, as_labels, segment


@overload
def compact_relabel(instances: Held, **lazily: Unpack[Blocks]) -> Labels: ...
@overload
def compact_relabel(instances: Lazy, **lazily: Unpack[Blocks]) -> DaskArray: ...
def compact_relabel(
    instances: Array,
    *,
    block_shape: Sequence[int] | None = None,
    scratch: Place | None = None,
) -> Array:
    """Number labels 1..n in ascending order of their old ids; 0 stays 0.

    Parameters
    ----------
    instances : array of int, shape (D, H, W)
        Labels of any integer type, 0 background; they need not be contiguous.
    block_shape, scratch : optional
        For lazy arrays, see `postprocess_single`.

    Returns
    -------
    labels : array of int32, shape (D, H, W)

    Raises
    ------
    TypeError
        When `instances` does not hold integers.
    ValueError
        When a label is negative, or an argument does not fit.
    OverflowError
        When there are more than 2**31 - 1 instances.
    OSError, RuntimeError
        For lazy arrays, see `postprocess_single`.

    Examples
    --------
    >>> import numpy as np, topo_dask
    >>> topo_dask.compact_relabel(np.array([[[0, 70, 5_000_000_000]]]))
    array([[[0, 1, 2]]], dtype=int32)
    """
    return segment(Recipe(), lazy.Options(block_shape, None, scratch), labels=as_labels(instances))


@overload
def filter_small(instances: Held, min_size: int, **lazily: Unpack[Blocks]) -> Labels: ...
@overload
def filter_small(instances: Lazy, min_size: int, **lazily: Unpack[Blocks]) -> DaskArray: ...
def filter_small(
    instances: Array,
    min_size: int,
    *,
    block_shape: Sequence[int] | None = None,
    scratch: Place | None = None,
) -> Array:
    """Drop instances of fewer than `min_size` voxels and number the rest 1..n in ascending order of their old ids.

    Parameters
    ----------
    instances : array of int, shape (D, H, W)
        Labels, 0 background.
    min_size : int
        Least number of voxels of an instance that is kept.
    block_shape, scratch : optional
        For lazy arrays, see `postprocess_single`.

    Returns
    -------
    labels : array of int32, shape (D, H, W)

    Raises
    ------
    TypeError
        When `instances` does not hold integers.
    ValueError
        When a label is negative, or an argument does not fit.
    OverflowError
        When there are more than 2**31 - 1 instances.
    OSError, RuntimeError
        For lazy arrays, see `postprocess_single`.

    Examples
    --------
    >>> import numpy as np, topo_dask
    >>> topo_dask.filter_small(np.array([[[4, 9, 9]]]), 2)
    array([[[0, 1, 1]]], dtype=int32)
    """
    recipe = Recipe(min_size=ClassConfig(min_size=min_size).min_size)
    return segment(recipe, lazy.Options(block_shape, None, scratch), labels=as_labels(instances))


@overload
def split_disconnected(instances: Held, min_fragment_ratio: float = ..., **lazily: Unpack[Blocks]) -> Labels: ...
@overload
def split_disconnected(instances: Lazy, min_fragment_ratio: float = ..., **lazily: Unpack[Blocks]) -> DaskArray: ...
def split_disconnected(
    instances: Array,
    min_fragment_ratio: float = 0.1,
    *,
    block_shape: Sequence[int] | None = None,
    scratch: Place | None = None,
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
    block_shape, scratch : optional
        For lazy arrays, see `postprocess_single`.

    Returns
    -------
    labels : array of int32, shape (D, H, W)
        Numbered by old id, then by the fragments' first voxels in raster order.

    Raises
    ------
    TypeError
        When `instances` does not hold integers.
    ValueError
        When a label is negative, or an argument does not fit.
    OverflowError
        When there are more than 2**31 - 1 instances.
    OSError, RuntimeError
        For lazy arrays, see `postprocess_single`.

    Examples
    --------
    >>> import numpy as np, topo_dask
    >>> topo_dask.split_disconnected(np.array([[[7, 7, 0, 7]]]))
    array([[[1, 1, 0, 2]]], dtype=int32)
    """
    ratio = ClassConfig(min_fragment_ratio=min_fragment_ratio).min_fragment_ratio
    recipe = Recipe(split=True, min_fragment_ratio=ratio)
    return segment(recipe, lazy.Options(block_shape, None, scratch), labels=as_labels(instances))


def _unite(instances: Array, flow: Array, merge: Merge, threshold: tuple[str, float], options: lazy.Options) -> Array:
    labels = as_labels(instances)
    name, value = threshold
    recipe = Recipe(merge=merge, merge_threshold=finite_number(value, name))
    return segment(recipe, options, labels=labels, flow=as_flow(flow, labels, "instances"))


@overload
def merge_adjacent(instances: Held, flow: Held, dot_threshold: float = ..., **lazily: Unpack[Blocks]) -> Labels: ...
@overload
def merge_adjacent(
    instances: Lazy, flow: Held | Lazy, dot_threshold: float = ..., **lazily: Unpack[Blocks]
) -> DaskArray: ...
@overload
def merge_adjacent(instances: Held, flow: Lazy, dot_threshold: float = ..., **lazily: Unpack[Blocks]) -> DaskArray: ...
def merge_adjacent(
    instances: Array,
    flow: Array,
    dot_threshold: float = 0.0,
    *,
    block_shape: Sequence[int] | None = None,
    scratch: Place | None = None,
) -> Array:
    """Unite labels that touch through voxel faces where the flow on both sides runs the same way.

    Pairs whose mean dot product over all common faces is strictly above the threshold are united. It mends elongated
    objects that have several sinks.

    Parameters
    ----------
    instances : array of int, shape (D, H, W)
        Labels, 0 background.
    flow : array of real numbers, shape (3, D, H, W)
        Vectors (dz, dy, dx), about one voxel long: the threshold is compared with products of their lengths.
        Integers and float16 are converted to float32 first.
    dot_threshold : float
        Mean dot product above which two labels are united.
    block_shape, scratch : optional
        For lazy arrays, see `postprocess_single`.

    Returns
    -------
    labels : array of int32, shape (D, H, W)
        Numbered by the lowest old id of each group.

    Raises
    ------
    TypeError
        When `instances` does not hold integers, or the flow no real numbers.
    ValueError
        When a label is negative, an argument does not fit, or the flow is not finite at a face between two labels.
    OverflowError
        When the score of a face, or the sum of the scores of a contact, passes 2**29; when the sum over the part of a
        contact in one block passes 2**38; or when there are more than 2**31 - 1 instances.
    OSError, RuntimeError
        For lazy arrays, see `postprocess_single`.

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


@overload
def agglomerate(instances: Held, flow: Held, threshold: float = ..., **lazily: Unpack[Blocks]) -> Labels: ...
@overload
def agglomerate(instances: Lazy, flow: Held | Lazy, threshold: float = ..., **lazily: Unpack[Blocks]) -> DaskArray: ...
@overload
def agglomerate(instances: Held, flow: Lazy, threshold: float = ..., **lazily: Unpack[Blocks]) -> DaskArray: ...
def agglomerate(
    instances: Array,
    flow: Array,
    threshold: float = 0.0,
    *,
    block_shape: Sequence[int] | None = None,
    scratch: Place | None = None,
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
    flow : array of real numbers, shape (3, D, H, W)
        Vectors (dz, dy, dx), about one voxel long: other lengths change how much the two terms of the score weigh.
        Integers and float16 are converted to float32 first.
    threshold : float
        Mean score above which two groups are united.
    block_shape, scratch : optional
        For lazy arrays, see `postprocess_single`.

    Returns
    -------
    labels : array of int32, shape (D, H, W)
        Numbered by the lowest old id of each group.

    Raises
    ------
    TypeError
        When `instances` does not hold integers, or the flow no real numbers.
    ValueError
        When a label is negative, an argument does not fit, or the flow is not finite at a face between two labels.
    OverflowError
        When the score of a face, or the sum of the scores of a contact, passes 2**29, also of a contact between groups
        that are united on the way; when the sum over the part of a contact in one block, or in some of them, passes
        2**38; or when there are more than 2**31 - 1 instances.
    OSError, RuntimeError
        For lazy arrays, see `postprocess_single`.

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


@overload
def remove_bad_flow_masks(
    instances: Held, pred_flow: Held, threshold: float = ..., **lazily: Unpack[Blocks]
) -> Labels: ...
@overload
def remove_bad_flow_masks(
    instances: Lazy, pred_flow: Held | Lazy, threshold: float = ..., **lazily: Unpack[Blocks]
) -> DaskArray: ...
@overload
def remove_bad_flow_masks(
    instances: Held, pred_flow: Lazy, threshold: float = ..., **lazily: Unpack[Blocks]
) -> DaskArray: ...
def remove_bad_flow_masks(
    instances: Array,
    pred_flow: Array,
    threshold: float = 0.4,
    *,
    block_shape: Sequence[int] | None = None,
    scratch: Place | None = None,
) -> Array:
    """Drop instances whose flow differs too much from unit vectors towards their centre of mass.

    Parameters
    ----------
    instances : array of int, shape (D, H, W)
        Labels, 0 background; not modified.
    pred_flow : array of real numbers, shape (3, D, H, W)
        Vectors (dz, dy, dx), about one voxel long: they are compared with unit vectors, in length too.
        Integers and float16 are converted to float32 first.
    threshold : float
        Largest mean squared difference, over voxels and the three components, of an instance that is kept. Meant for
        direct flow of unit length; flow of the diffusion kind errs more.
    block_shape, scratch : optional
        For lazy arrays, see `postprocess_single`.

    Returns
    -------
    labels : array of int32, shape (D, H, W)
        Numbered compactly in ascending order of the old ids.

    Raises
    ------
    TypeError
        When `instances` does not hold integers, or the flow no real numbers.
    ValueError
        When a label is negative, an argument does not fit, or the flow is not finite in an instance.
    OverflowError
        When the squared differences of an instance pass 2**38, or there are more than 2**31 - 1 instances.
    OSError, RuntimeError
        For lazy arrays, see `postprocess_single`.

    Examples
    --------
    >>> import numpy as np, topo_dask
    >>> flow = np.zeros((3, 1, 1, 5)); flow[2] = [1, -1, 0, -1, 1]
    >>> topo_dask.remove_bad_flow_masks(np.array([[[4, 4, 0, 6, 6]]]), flow)
    array([[[1, 1, 0, 0, 0]]], dtype=int32)
    """
    labels = as_labels(instances)
    if (limit := finite_number(threshold, "threshold")) < 0:
        raise ValueError(f"threshold must be 0 or more, got {threshold!r}")
    flow = as_flow(pred_flow, labels, "instances", "pred_flow")
    options = lazy.Options(block_shape, None, scratch)
    return segment(Recipe(flow_error=limit), options, labels=labels, flow=flow)


def instance_table(
    instances: Array,
    pred_flow: Array | None = None,
    *,
    channel: int | None = None,
    block_shape: Sequence[int] | None = None,
    scratch: Place | None = None,
) -> dict[str, NDArray[Any]]:
    """Statistics of every instance, from sums that blocks combine exactly.

    Unlike the other functions it computes lazy arrays at once: a table is small.

    Parameters
    ----------
    instances : array of int, shape (D, H, W)
        Labels, 0 background.
    pred_flow : array of float, shape (3, D, H, W), optional
        Vectors (dz, dy, dx), about one voxel long, for the flow errors.
    channel : int, optional
        Number c of the class, where the flow is that of N classes, (3N, D, H, W): channels 3c, 3c + 1 and 3c + 2 are
        taken. Refused without a flow.
    block_shape, scratch : optional
        For lazy arrays, see `postprocess_single`.

    Returns
    -------
    table : dict
        Column name to a NumPy array with a row for each label in ascending order: `label` (uint64); `voxels` (int64);
        the bounding box in voxels, `bbox_start_z` to `bbox_stop_x` (int64), its stop exclusive; the centre of mass in
        voxels, `centroid_z` to `centroid_x` (float64); and `flow_error` (float64), see `remove_bad_flow_masks`, NaN
        without a flow. ``pandas.DataFrame`` takes such a dict.

    Raises
    ------
    TypeError
        When `instances` does not hold integers, or the flow no real numbers.
    ValueError
        When a label is negative, an argument does not fit, or the flow is not finite in an instance.
    OverflowError
        When the squared differences of an instance pass 2**38, or there are more than 2**31 - 1 instances.
    OSError, RuntimeError
        For lazy arrays, see `postprocess_single`.

    Examples
    --------
    >>> import numpy as np, topo_dask
    >>> table = topo_dask.instance_table(np.array([[[0, 70, 70, 4]]]))
    >>> table["label"], table["voxels"], table["centroid_x"]
    (array([ 4, 70], dtype=uint64), array([1, 2]), array([3. , 1.5]))
    """
    labels = as_labels(instances)
    channel = None if channel is None else integer(channel, "channel", 0)
    if channel is not None and pred_flow is None:
        raise ValueError(f"channel={channel} is one of the classes of pred_flow, which is not given")
    flow = None if pred_flow is None else as_flow(pred_flow, labels, "instances", "pred_flow", channel)
    if flow is not None and channel is not None and not lazy.is_stored(flow):
        flow, channel = flow[3 * channel : 3 * channel + 3], None
    recipe = Recipe(table=True, flow_error=None if flow is None else float("inf"))
    if lazy.is_lazy(labels) or lazy.is_lazy(flow):
        arrays = {"labels": labels} if flow is None else {"labels": labels, "flow": flow}
        table: dict[str, NDArray[Any]] = lazy.tabulate_lazily(
            recipe, lazy.Options(block_shape, None, scratch), channel or 0, **arrays
        ).compute()
        return table
    return in_memory.tabulate(recipe, labels, flow)
