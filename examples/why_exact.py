"""Why exactness matters: the same prediction, cut into blocks and glued, and segmented by topo_dask.

    python examples/why_exact.py [--figure why_exact.png]

The usual way out of memory is to crop each block with a margin, segment it as if it were the whole image, and glue
labels that meet at the faces of the blocks. Here this is done with this package's own in-memory function, so that only
the stitch differs. Two labels are glued across a face when each shares more of its voxels there with the other than
with any third label, and they share at least half of those of the smaller one. Objects whose middle lies outside a crop
are cut, and neighbours that such pieces run into are merged. topo_dask reads the same blocks with the same margin and
gives the labels of the whole volume. Needs matplotlib (the extra `demo`).
"""

import argparse
import itertools
from pathlib import Path

import dask.array as da
import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

import topo_dask
from topo_dask.looking.colours import colour_labels, outline
from topo_dask.scores import adapted_rand_error, contingency
from topo_dask.synthetic import noisy
from topo_dask.targets import direct_flow

SHAPE, BLOCK, HALO = (64, 192, 192), 32, 8
PARAMETERS = {"n_steps": 150, "convergence_radius": 4.0, "min_size": 100}


def make_prediction() -> tuple[np.ndarray, np.ndarray]:
    """Foreground and flow of packed cells, about 40 voxels across."""
    points = np.random.default_rng(0).uniform(0, SHAPE, (40, 3))
    nearest = cKDTree(points).query(np.argwhere(np.ones(SHAPE, bool)))[1]
    truth = (nearest.reshape(SHAPE) + 1).astype(np.int32)
    return truth > 0, noisy(direct_flow(truth), 0.1, seed=0)


def label_crops(mask: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Labels of each block, as if block and margin were all there is."""
    labels = np.zeros(SHAPE, np.int32)
    for corner in itertools.product(*(range(0, size, BLOCK) for size in SHAPE)):
        own = tuple(slice(a, min(a + BLOCK, s)) for a, s in zip(corner, SHAPE, strict=True))
        crop = tuple(slice(max(0, a.start - HALO), a.stop + HALO) for a in own)
        found = topo_dask.postprocess_single(mask[crop], flow[(slice(None), *crop)], **PARAMETERS)
        inner = found[tuple(slice(a.start - c.start, a.stop - c.start) for a, c in zip(own, crop, strict=True))]
        labels[own] = np.where(inner > 0, inner + labels.max(), 0)
    return labels


def best_partners(pairs: np.ndarray, counts: np.ndarray, side: int) -> np.ndarray:
    """Whether each row has the most voxels of all rows with the same label on one side."""
    order = np.lexsort((counts, pairs[:, side]))
    last = np.r_[np.diff(pairs[order, side]) != 0, True]
    best = np.zeros(len(pairs), bool)
    best[order[last]] = True
    return best


def glue(labels: np.ndarray) -> np.ndarray:
    """Unite labels that are each other's best partner across a face of the blocks."""
    links = [np.empty((0, 2), np.int64)]
    for axis, size in enumerate(SHAPE):
        for at in range(BLOCK, size, BLOCK):
            planes = [np.take(labels, at - 1, axis).ravel(), np.take(labels, at, axis).ravel()]
            both = np.stack(planes, axis=1)[(planes[0] > 0) & (planes[1] > 0)]
            if len(both) == 0:
                continue
            pairs, counts = np.unique(both, axis=0, return_counts=True)
            sizes = [np.bincount(plane, minlength=labels.max() + 1) for plane in planes]
            smaller = np.minimum(sizes[0][pairs[:, 0]], sizes[1][pairs[:, 1]])
            kept = best_partners(pairs, counts, 0) & best_partners(pairs, counts, 1) & (2 * counts >= smaller)
            links.append(pairs[kept])
    rows, columns = np.concatenate(links).T
    n = int(labels.max()) + 1
    groups = connected_components(coo_array((np.ones(len(rows)), (rows, columns)), shape=(n, n)), directed=False)[1]
    return topo_dask.compact_relabel(np.where(labels > 0, groups[labels] + 1, 0))


def block_by_block(mask: np.ndarray, flow: np.ndarray) -> np.ndarray:
    chunks = (BLOCK, BLOCK, BLOCK)
    lazy = topo_dask.postprocess_single(
        da.from_array(mask, chunks), da.from_array(flow, (3, *chunks)), **PARAMETERS, block_shape=chunks, halo=HALO
    )
    return lazy.compute()


def draw(path: Path, whole: np.ndarray, glued: np.ndarray, exact: np.ndarray) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"hatch.color": "white", "hatch.linewidth": 1.0})
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    z = int((renamed(whole, glued) != whole).sum(axis=(1, 2)).argmax())
    palette = np.full((int(glued.max()) + int(whole.max()) + 1, 3), 90, np.uint8)  # grey for labels of no object
    palette[whole[z]] = colour_labels(whole[z])
    figure, axes = plt.subplots(1, 3, figsize=(11, 4.4), layout="constrained")
    panels = (("whole volume in memory", whole), ("crop and glue", glued), ("topo_dask, block by block", exact))
    for axis, (title, labels) in zip(axes, panels, strict=True):
        plane = renamed(whole, labels)[z]
        axis.imshow(np.where(outline(labels[z])[..., None], 0, palette[plane]), interpolation="nearest")
        if (wrong := plane != whole[z]).any():
            axis.contourf(wrong, levels=[0.5, 1.5], colors="none", hatches=["////"])
        if labels is not whole:
            for at in range(BLOCK, SHAPE[1], BLOCK):
                axis.axhline(at - 0.5, color="white", lw=0.8, ls=":")
                axis.axvline(at - 0.5, color="white", lw=0.8, ls=":")
        axis.set(title=title, xlabel=describe(whole, labels), xticks=[], yticks=[])
    keys = [
        Patch(facecolor="0.6", edgecolor="white", hatch="////", label="given to another object, or to none"),
        Line2D([], [], color="0.5", ls=":", label="borders of blocks"),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110)


def renamed(whole: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Labels under the names of the objects of the whole, one to one with most voxels right; others get new names."""
    overlap = np.zeros((int(whole.max()), int(labels.max())))
    table = contingency(whole, labels)
    overlap[table.truth - 1, table.labels - 1] = table.counts  # there is no background here
    objects, partners = linear_sum_assignment(-overlap)
    names = np.arange(overlap.shape[1]) + overlap.shape[0] + 1
    names[partners] = objects + 1
    return names[labels - 1]


def describe(whole: np.ndarray, labels: np.ndarray) -> str:
    if labels is whole:
        return f"{labels.max()} objects"
    if np.array_equal(whole, labels):
        return f"{labels.max()} objects; equal, bit for bit"
    wrong = len(np.unique(whole[renamed(whole, labels) != whole]))
    error = adapted_rand_error(whole, labels).error
    return f"{labels.max()} objects; {wrong} of {whole.max()} are not whole, Rand error {error:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, default=Path("why_exact.png"))
    args = parser.parse_args()
    mask, flow = make_prediction()
    whole = topo_dask.postprocess_single(mask, flow, **PARAMETERS)
    glued, exact = glue(label_crops(mask, flow)), block_by_block(mask, flow)
    for name, labels in (("whole", whole), ("crop and glue", glued), ("topo_dask", exact)):
        print(f"{name:<14} {describe(whole, labels)}")
    draw(args.figure, whole, glued, exact)
    print(f"figure         {args.figure}")


if __name__ == "__main__":
    main()
