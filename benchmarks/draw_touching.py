"""Draw docs/touching.png: dense tissue as clustering alone, merge_adjacent and agglomerate see it.

    python benchmarks/draw_touching.py CACHE [FILE]

CACHE is the folder for the tissue (`scenes.py`); needs matplotlib and ``pip install crackle-codec``. The picture shows
a plane of the crop, with the settings of bench_touching.py and noise of 0.1 in the flow.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from bench_touching import METHODS, TIGHT
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from scenes import CROP, connected_pieces, fetch_cortex

import topo_dask
from topo_dask.scores import adapted_rand_error, contingency, splits_and_merges
from topo_dask.synthetic import noisy
from topo_dask.targets import diffusion_flow

NOISE, PLANE = 0.1, 48
TITLES = {None: "clustering alone", "adjacent": "merge_adjacent", "agglomerate": "agglomerate"}


def colours_of(labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Colour of each label: that of an object for the largest piece of it, one of its own for any other."""
    table = contingency(truth, labels)
    rng = np.random.default_rng(3)
    objects = rng.uniform(0.2, 1, (int(truth.max()) + 1, 3))
    colours = rng.uniform(0.2, 1, (int(labels.max()) + 1, 3))
    overlaps = np.argsort(table.counts)  # the largest come last and stay
    largest = dict(zip(table.truth[overlaps], table.labels[overlaps], strict=True))
    for row in overlaps:
        if largest[table.truth[row]] == table.labels[row]:
            colours[table.labels[row]] = objects[table.truth[row]]
    colours[0] = 0
    return colours


def draw(axes: Axes, labels: np.ndarray, truth: np.ndarray) -> None:
    """Draw a plane in colours, with the borders between labels in black."""
    plane = labels[PLANE]
    image = np.kron(colours_of(labels, truth)[plane], np.ones((4, 4, 1)))
    wide = np.kron(plane, np.ones((4, 4), plane.dtype))
    for axis in range(2):
        image[np.diff(wide, axis=axis, prepend=np.take(wide, [0], axis)) != 0] = 0
    axes.imshow(image, interpolation="nearest")
    axes.set_axis_off()


def main(cache: Path, file: Path) -> None:
    box = tuple(slice(*map(int, part.split(":"))) for part in CROP.split(","))
    truth = connected_pieces(fetch_cortex(cache)[box])
    flow = noisy(diffusion_flow(truth, 100, place=tuple(part.start for part in box)), NOISE)
    matplotlib.use("Agg")
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.6), layout="constrained")
    draw(axes[0], truth, truth)
    axes[0].set_title(f"{truth.max()} objects,\nnoise {NOISE:g} in the flow", fontsize=11)
    for ax, merge in zip(axes[1:], METHODS.values(), strict=True):
        labels = topo_dask.postprocess_single(truth != 0, flow, **TIGHT, merge=merge)
        draw(ax, labels, truth)
        error, wrong = adapted_rand_error(truth, labels).error, splits_and_merges(truth, labels)
        ax.set_title(f"{TITLES[merge]}: error {error:.3f}\n{wrong.splits} splits, {wrong.merges} merges", fontsize=11)
    figure.savefig(file, dpi=110, bbox_inches="tight", pad_inches=0.05)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/touching.png"))
