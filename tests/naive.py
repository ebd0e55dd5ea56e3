"""The method as an executable specification: slow, obvious, independent of the package.

Whole volumes in memory, NumPy and plain Python only; every function has the name and the signature of the
package's own. Tests compare the two bit for bit, and benchmarks use this as the straightforward version.
Arrays are (z, y, x); flow is [3, D, H, W]; labels may come in any integer type and leave as int32.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

EVALUATED_INSTANCE_CLASSES = ("nuc", "ves", "endo", "lyso", "ld", "perox", "mito", "mt", "cell")

UNIT = 2.0**24  # a real number that is summed becomes the integer rint(x * UNIT) first


# ------------------------------------------------------------ shared pieces


def _fixed(x: np.ndarray) -> np.ndarray:
    """Integers to add up instead of the real numbers x."""
    if not np.isfinite(x).all():
        raise ValueError("flow: a value that is needed is not finite, expected finite numbers")
    return np.rint(x * UNIT).astype(np.int64)


def _used(flow: np.ndarray) -> np.ndarray:
    """The flow in its own type where that is float32 or float64, else in float32."""
    is_double = flow.dtype.kind == "f" and flow.dtype.itemsize == 8
    return flow.astype(np.float64 if is_double else np.float32)


def _sum_of_squares(v: np.ndarray) -> np.ndarray:
    """|v|^2 of vectors [N, 3], added up as (z + y) + x."""
    z, y, x = v.T
    return (z * z + y * y) + x * x


def _ids(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels[labels > 0])


def _unite(n: int, pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """Group number of each of n nodes, 1.. in the order of the groups' lowest members (union-find)."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return np.unique([root(i) for i in range(n)], return_inverse=True)[1] + 1


def _label_of_nearest(points: np.ndarray, sources: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Label of the source nearest to each point, the lowest of several; coordinates int64 [N, 3]."""
    found = np.zeros(len(points), labels.dtype)
    for i, point in enumerate(points):
        squared = ((sources - point) ** 2).sum(axis=1)
        found[i] = labels[squared == squared.min()].min()
    return found


# ------------------------------------------------------------ track


def track_flows(
    sem_mask: np.ndarray, flow: np.ndarray, n_steps: int, step_size: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    flow = _used(flow)
    step = flow.dtype.type(step_size)
    last = np.array(sem_mask.shape)[:, None] - 1
    fg_coords = np.argwhere(sem_mask)
    position = fg_coords.T.astype(np.float64)
    for _ in range(n_steps):
        iz, iy, ix = np.clip(position, 0, last).astype(np.int64)  # astype truncates
        under = flow[:, iz, iy, ix]
        if not np.isfinite(under).all():
            raise ValueError("flow: a value under a particle is not finite, expected finite numbers")
        with np.errstate(over="ignore"):  # an infinite displacement is clipped like any other
            displacement = step * under
        position = np.clip(position + displacement, 0, last)
    return fg_coords, np.ascontiguousarray(position.T)


# ------------------------------------------------------------ cluster


def cluster_convergence(
    fg_coords: np.ndarray,
    final_positions: np.ndarray,
    volume_shape: Sequence[int],
    convergence_radius: float,
    min_size: int,
) -> np.ndarray:
    labels = np.zeros(tuple(volume_shape), np.int32)
    if len(fg_coords) == 0:
        return labels
    g = max(1.0, convergence_radius / 2)
    last_cell = np.array([int(size / g) for size in volume_shape])
    cell = np.clip(np.rint(final_positions / g), 0, last_cell).astype(np.int64)
    number = np.ravel_multi_index(tuple(cell.T), tuple(last_cell + 1))

    # A sink is an occupied cell; np.unique puts them in the order of their numbers.
    _, first, sink, count = np.unique(number, return_index=True, return_inverse=True, return_counts=True)
    origin = (cell[first] * g).astype(np.int64)
    offset_sum = np.zeros_like(origin)
    np.add.at(offset_sum, sink, _fixed(final_positions - origin[sink]))
    # Whole voxels are added up as integers: the exact sum is rounded once, however large.
    whole = origin * count[:, None] + offset_sum // int(UNIT)
    centre = (whole + offset_sum % int(UNIT) / UNIT) / count[:, None]

    instance = _unite(len(centre), _close_pairs(centre, convergence_radius))
    labels[tuple(fg_coords.T)] = instance[sink]
    return filter_small(labels, min_size)


def _close_pairs(centre: np.ndarray, radius: float) -> Iterable[tuple[int, int]]:
    """Every two centres strictly closer than radius. Those further apart along z need no looking at."""
    by_z = np.argsort(centre[:, 0])
    end = np.searchsorted(centre[by_z, 0], centre[by_z, 0] + radius, side="right")
    for i, a in enumerate(by_z):
        others = by_z[i + 1 : end[i]]
        near = _sum_of_squares(centre[others] - centre[a]) < radius * radius
        yield from ((int(a), int(b)) for b in others[near])


# ------------------------------------------------------------ number and filter


def compact_relabel(instances: np.ndarray) -> np.ndarray:
    rank = np.searchsorted(_ids(instances), instances) + 1
    return np.where(instances > 0, rank, 0).astype(np.int32)


def filter_small(instances: np.ndarray, min_size: int) -> np.ndarray:
    ids, sizes = np.unique(instances[instances > 0], return_counts=True)
    big_enough = np.isin(instances, ids[sizes >= min_size])
    return compact_relabel(np.where(big_enough, instances, 0))


# ------------------------------------------------------------ split and orphans


def split_disconnected(instances: np.ndarray, min_fragment_ratio: float = 0.1) -> np.ndarray:
    out = np.zeros(instances.shape, np.int32)
    n = 0
    for k in _ids(instances):
        mask = instances == k
        voxels = np.argwhere(mask)  # in raster order
        fragment = ndimage.label(mask)[0][mask]  # of each voxel; faces connect, edges and corners do not
        by_first_voxel = list(dict.fromkeys(fragment.tolist()))
        enough = max(1, int(len(voxels) * min_fragment_ratio))
        large = [f for f in by_first_voxel if np.count_nonzero(fragment == f) >= enough]
        new = np.zeros(len(voxels), np.int32)
        if not large:
            n += 1
            new[:] = n
        for f in large:
            n += 1
            new[fragment == f] = n
        small = new == 0
        new[small] = _label_of_nearest(voxels[small], voxels[~small], new[~small])
        out[mask] = new
    return out


def recover_orphans(labels: np.ndarray, sem_mask: np.ndarray) -> np.ndarray:
    if labels.max() > np.iinfo(np.int32).max:
        raise OverflowError(f"labels: largest is {labels.max()}, expected at most 2**31 - 1")
    out = labels.astype(np.int32)
    labelled = labels > 0
    orphan = ~labelled & (sem_mask != 0)
    if labelled.any():
        out[orphan] = _label_of_nearest(np.argwhere(orphan), np.argwhere(labelled), out[labelled])
    return out


# ------------------------------------------------------------ merge


def _contacts(labels: np.ndarray, flow: np.ndarray, head_on: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (lower, higher) of touching labels, int [M, 2], with the fixed-point sum and the number of faces.

    The score of a face is the dot product of the flow on its two sides; head_on adds how much the two flows
    run into each other across it.
    """
    flow = _used(flow)
    pairs, scores = [], []
    for axis in range(3):
        a = tuple(slice(None, -1) if k == axis else slice(None) for k in range(3))
        b = tuple(slice(1, None) if k == axis else slice(None) for k in range(3))
        touch = (labels[a] > 0) & (labels[b] > 0) & (labels[a] != labels[b])
        fa = flow[:, *a][:, touch].astype(np.float64)
        fb = flow[:, *b][:, touch].astype(np.float64)
        dot = (fa[0] * fb[0] + fa[1] * fb[1]) + fa[2] * fb[2]
        scores.append(_fixed(dot + (fa[axis] - fb[axis]) if head_on else dot))
        pairs.append(np.stack([labels[a][touch], labels[b][touch]], axis=1))
    score = np.concatenate(scores)
    return _add_up(np.concatenate(pairs), score, np.ones_like(score))


def _add_up(pairs: np.ndarray, sums: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One row for each different pair (lower, higher), in ascending order, with its totals."""
    pairs = np.sort(pairs.astype(np.int64), axis=1)
    n = pairs.max(initial=0) + 1
    code, row = np.unique(pairs[:, 0] * n + pairs[:, 1], return_inverse=True)
    total_sums, total_faces = np.zeros_like(code), np.zeros_like(code)
    np.add.at(total_sums, row, sums)
    np.add.at(total_faces, row, faces)
    return np.stack([code // n, code % n], axis=1), total_sums, total_faces


def merge_adjacent(instances: np.ndarray, flow: np.ndarray, dot_threshold: float = 0.0) -> np.ndarray:
    labels = compact_relabel(instances)
    pairs, sums, faces = _contacts(labels, flow, head_on=False)
    united = pairs[sums / UNIT / faces > dot_threshold] - 1
    lut = np.append(0, _unite(int(labels.max()), united.tolist()))
    return lut[labels].astype(np.int32)


def agglomerate(instances: np.ndarray, flow: np.ndarray, threshold: float = 0.0) -> np.ndarray:
    labels = compact_relabel(instances)
    pairs, sums, faces = _contacts(labels, flow, head_on=True)
    group = np.arange(labels.max() + 1)  # of each label; a group's id is its lowest member's
    while True:
        apart = group[pairs[:, 0]] != group[pairs[:, 1]]
        between, total, count = _add_up(group[pairs[apart]], sums[apart], faces[apart])
        mean = total / UNIT / count
        if not (mean > threshold).any():
            return compact_relabel(group[labels])
        lower, higher = between[np.argmax(mean)]  # the first of several, that is the lowest pair
        group[group == higher] = lower


# ------------------------------------------------------------ flow error


def remove_bad_flow_masks(instances: np.ndarray, pred_flow: np.ndarray, threshold: float = 0.4) -> np.ndarray:
    flow = _used(pred_flow)
    kept = instances.copy()
    for k in _ids(instances):
        mask = instances == k
        voxels = np.argwhere(mask)
        to_centre = voxels.sum(axis=0) / len(voxels) - voxels
        length = np.sqrt(_sum_of_squares(to_centre))
        unit = to_centre / np.maximum(length, 1e-8)[:, None]
        squared = _sum_of_squares(unit - flow[:, mask].T.astype(np.float64))
        error = (int(_fixed(squared).sum()) / UNIT) / (3 * len(voxels))
        if error > threshold:
            kept[mask] = 0
    return compact_relabel(kept)


# ------------------------------------------------------------ the whole


def postprocess_single(
    sem_mask: np.ndarray,
    flow: np.ndarray,
    n_steps: int = 100,
    step_size: float = 1.0,
    convergence_radius: float = 4.0,
    min_size: int = 50,
    group: int = 1,
    *,
    merge: str | None = None,
    flow_error_threshold: float = 0.0,
) -> np.ndarray:
    fg_coords, ends = track_flows(sem_mask, flow, n_steps, step_size)
    at_first = 0 if merge == "agglomerate" else min_size
    labels = cluster_convergence(fg_coords, ends, sem_mask.shape, convergence_radius, at_first)
    if merge == "adjacent":
        labels = merge_adjacent(labels, flow)
    if merge == "agglomerate":
        labels = filter_small(agglomerate(labels, flow), min_size)
    if group >= 2:
        labels = split_disconnected(labels)
    if group == 3:
        labels = recover_orphans(labels, sem_mask)
    if flow_error_threshold > 0:
        labels = remove_bad_flow_masks(labels, flow, flow_error_threshold)
    return labels


def run_instance_segmentation(
    semantic_pred: np.ndarray,
    flow_pred: np.ndarray,
    class_names: Sequence[str] | None = None,
    class_config: Mapping[str, Mapping[str, Any]] | None = None,
    flow_error_threshold: float = 0.0,
    *,
    threshold: float = 0.5,
) -> dict[str, np.ndarray]:
    if class_config is None:
        raise ValueError("class_config: is None, expected parameters of each class (no table is built in)")
    labels = {}
    for c, name in enumerate(EVALUATED_INSTANCE_CLASSES if class_names is None else class_names):
        if name in class_config:
            mask, flow = semantic_pred[c] > threshold, flow_pred[3 * c : 3 * c + 3]
            labels[name] = postprocess_single(
                mask, flow, **class_config[name], flow_error_threshold=flow_error_threshold
            )
    return labels


def downsample_labels(labels: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    """One cell at a time: the most frequent, then anything but 0, then the lowest."""
    out = np.empty([-(-n // f) for n, f in zip(labels.shape, factors, strict=True)], labels.dtype)
    for at in np.ndindex(*out.shape):
        cell = labels[tuple(slice(i * f, (i + 1) * f) for i, f in zip(at, factors, strict=True))]
        counts = Counter(cell.ravel().tolist())
        out[at] = min(counts, key=lambda v: (-counts[v], v == 0, v))
    return out
