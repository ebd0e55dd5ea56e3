"""What steps, step size, radius, threshold and min_size do to objects that touch.

    python examples/choosing_parameters.py [FOLDER]

draws choosing_parameters.png: a row for each class of object, a column for each parameter, the error of `agglomerate`
against the known objects (0 is perfect) at three levels of noise. At the highest, the dashed line is `merge_adjacent`
and the dotted line is clustering alone, without a merge. In each column only its own parameter varies; the others stay
at convergence_radius 1.5, 200 steps of 0.5, threshold 0, min_size 1 (grey bands). Needs matplotlib; takes less than a
minute.

The rule that follows from it and from docs/touching.md:

- **Objects that touch** (cisternae, stacked vesicles, neurites, packed cells), diffusion flow: ``merge="agglomerate"``,
  convergence_radius 1.5, 200 steps of 0.5; or ``preset="touching"``. Where every object has one sink (packed cells) and
  the flow is clean there is nothing to mend: it changes little.
- **Clustering alone has less error** in two cases, both at noise 0.3. The plates: 0.037 against 0.120. This draw is the
  worst of twelve (seeds 0 to 11; the medians are 0.041 and 0.008): noise turned the flow at one contact of two plates,
  which steps of 1 do not join. The tubes, which hardly touch: after a travel of 2 clustering alone has 0.006, where
  agglomerate has 0.065 after a travel of 100. But agglomerate has 0.0002 after a travel of 2, and after 100 too in
  seven of the twelve draws, where clustering alone has 0.59.
- **Without a merge** travel must be short, or tubes and rods fall to pieces: flow that runs along an object ends in
  several sinks. With agglomerate it may be long.
- **Radius**: at most half the thickness of the thinnest object. With a larger radius the sinks of neighbours are joined
  before the flow at their contact is looked at, and nothing parts them again. With a smaller one nothing is lost,
  because agglomeration mends the rest.
- **Travel** (steps times step size): at least from an object's rim to its middle line, 10 voxels here. More costs time
  and changes little; it need not cover an object's length.
- **Step size**: 0.5 to 1. Shorter steps gain nothing.
- **Threshold**: leave it at 0. It hardly matters between -0.2 and 0.2; above, dense tissue falls apart
  (docs/touching.md). Raise it where you see neighbours joined.
- **min_size**: below the size of the smallest object, to remove crumbs. It mends nothing that was cut or merged. When
  it is above the size of the smallest objects, these are lost. Groups 2 and 3 split after it, so that pieces may be
  smaller; ``filter_small`` removes these.
- **Direct flow** (towards the centre of mass): no merge. At the border of long neighbours it runs along the border,
  which looks like one object.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from scipy.spatial import cKDTree

import topo_dask
from topo_dask.scores import adapted_rand_error
from topo_dask.synthetic import noisy, touching_plates, tubes
from topo_dask.targets import diffusion_flow

STEPS, STEP_SIZE, RADIUS = 200, 0.5, 1.5
TRAVELS = (2, 5, 10, 25, 50, 100, 200)
STEP_SIZES = (0.1, 0.25, 0.5, 1.0, 2.0)
RADII = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
MIN_SIZES = (1, 5, 20, 100, 500, 2000)
THRESHOLDS = (-0.5, -0.2, 0.0, 0.2, 0.4, 0.6, 0.8)
NOISES = {0.0: "#4477aa", 0.15: "#ee9944", 0.3: "#bb3344"}
FLOOR = 1e-4  # drawn for anything better, a perfect result included

Setting = tuple[int, float, float]


def packed_cells(shape: tuple[int, int, int], n: int) -> np.ndarray:
    points = np.random.default_rng(0).uniform(0, shape, (n, 3))
    nearest = cKDTree(points).query(np.argwhere(np.ones(shape, bool)))[1]
    return (nearest.reshape(shape) + 1).astype(np.int32)


def bundle(length: int, n: int, width: int) -> np.ndarray:
    y, x = np.mgrid[: n * width, : n * width] // width
    return np.repeat((1 + y * n + x)[None], length, axis=0).astype(np.int32)


SHAPES: dict[str, Callable[[], np.ndarray]] = {
    "touching plates,\n5 voxels thick": lambda: touching_plates((64, 64, 64), 3, 1, radius=(12, 18), bend=3),
    "tubes,\nhardly touching": lambda: tubes((64, 64, 64), 14, 0, length=90),
    "packed cells": lambda: packed_cells((48, 48, 48), 25),
    "bundle of straight rods,\n8 voxels wide": lambda: bundle(64, 5, 8),
}


def basins(truth: np.ndarray, flow: np.ndarray, setting: Setting) -> np.ndarray:
    n_steps, step_size, radius = setting
    return topo_dask.postprocess_single(truth != 0, flow, n_steps, step_size, radius, min_size=1)


def alone(labels: np.ndarray, flow: np.ndarray, threshold: float = 0.0) -> np.ndarray:
    return labels


WAYS: dict[str, tuple[Callable[..., np.ndarray], dict[str, str]]] = {
    "merge_adjacent": (topo_dask.merge_adjacent, {"linestyle": "--", "color": "0.3"}),
    "clustering alone": (alone, {"linestyle": ":", "color": "0.3"}),
}


def sweeps() -> dict[str, list[tuple[float, Setting]]]:
    """Each column's values and the settings that they stand for."""
    travel = STEPS * STEP_SIZE
    return {
        "travel = steps × step size [voxels]": [(t, (round(t / STEP_SIZE), STEP_SIZE, RADIUS)) for t in TRAVELS],
        "step size [voxels], same travel": [(s, (round(travel / s), s, RADIUS)) for s in STEP_SIZES],
        "convergence radius [voxels]": [(r, (STEPS, STEP_SIZE, r)) for r in RADII],
    }


def draw_curves(
    axes: np.ndarray, truth: np.ndarray, flow: np.ndarray, unite: Callable[..., np.ndarray], **style: str
) -> None:
    """Draw one way to unite basins into the five axes of a row."""

    def error(labels: np.ndarray) -> float:
        return max(FLOOR, adapted_rand_error(truth, labels).error)

    for ax, points in zip(axes, sweeps().values(), strict=False):
        errors = [error(unite(basins(truth, flow, setting), flow)) for _, setting in points]
        ax.plot([value for value, _ in points], errors, **style)
    labels = basins(truth, flow, (STEPS, STEP_SIZE, RADIUS))
    axes[3].plot(THRESHOLDS, [error(unite(labels, flow, threshold)) for threshold in THRESHOLDS], **style)
    united = unite(labels, flow)
    axes[4].plot(MIN_SIZES, [error(topo_dask.filter_small(united, size)) for size in MIN_SIZES], **style)


def draw_row(axes: np.ndarray, truth: np.ndarray) -> None:
    """Draw one class of object: agglomerate at every noise, the other ways at the highest."""
    target = diffusion_flow(truth, 100)
    for noise, colour in NOISES.items():
        flow, style = noisy(target, noise), {"color": colour, "marker": "o", "ms": 3.5, "clip_on": False}
        draw_curves(axes, truth, flow, topo_dask.agglomerate, label=f"agglomerate, noise {noise:g}", **style)
    for name, (unite, style) in WAYS.items():
        draw_curves(axes, truth, flow, unite, label=f"{name}, noise {noise:g}", lw=1.3, clip_on=False, **style)


def main(folder: Path) -> None:
    matplotlib.use("Agg")
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(len(SHAPES), 5, figsize=(15.0, 9.4), sharey=True, sharex="col", squeeze=False)
    for row, (name, make) in zip(axes, SHAPES.items(), strict=True):
        draw_row(row, make())
        row[0].set_ylabel("adapted Rand error")
        row[0].annotate(
            name, (-0.34, 0.5), xycoords="axes fraction", rotation=90, va="center", ha="right", weight="bold"
        )
    chosen = (STEPS * STEP_SIZE, STEP_SIZE, RADIUS, 0.0, 1)
    for column, title, value in zip(axes.T, [*sweeps(), "threshold", "min_size [voxels]"], chosen, strict=True):
        column[-1].set_xlabel(title)
        for ax in column:
            ax.axvspan(*_band(title, value), color="0.92", zorder=0)
            ax.set_yscale("log", nonpositive="clip")
            ax.set_ylim(FLOOR, 1)
            ax.set_xscale("log" if title.startswith(("travel", "step", "min")) else "linear")
    for ax, ticks in ((axes[-1, 0], TRAVELS), (axes[-1, 1], STEP_SIZES), (axes[-1, 4], MIN_SIZES)):
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
    axes[0, 0].set_yticks([FLOOR, 1e-3, 1e-2, 1e-1, 1], ["0", "0.001", "0.01", "0.1", "1"])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper center", ncols=5, frameon=False)
    figure.tight_layout(rect=(0.02, 0, 1, 0.965))
    figure.savefig(folder / "choosing_parameters.png", dpi=130)


def _band(title: str, value: float) -> tuple[float, float]:
    if title == "threshold":
        return value - 0.05, value + 0.05
    return (value - 0.15, value + 0.15) if title.startswith("convergence") else (value / 1.13, value * 1.13)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("."), help="where the picture goes")
    out = parser.parse_args().folder
    out.mkdir(parents=True, exist_ok=True)
    main(out)
