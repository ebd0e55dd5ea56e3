"""The figures of docs/parameters.md: errors by shape, kind of flow and noise, and its picture of four kinds of flow.

    python benchmarks/bench_parameters.py                           # the figures, as Markdown in the order of the page
    python benchmarks/bench_parameters.py --seed 1                  # another draw of the noise
    python benchmarks/bench_parameters.py --figure docs/flows.png   # only the picture; needs matplotlib

The figures take half a minute on one core.

Errors are adapted Rand errors, 0 is perfect. Volumes are those of `topo_dask.synthetic`, and packed cells those of
`scenes.py`. Direct and diffusion flow (``place=None``) are those of `topo_dask.targets`; Cellpose's and Omnipose's are
imitated here after their published rules. Noise is that of `noisy`, at all voxels of the objects, and of 0.1 where
nothing else is said.

Parameters follow the table *Start from these* of the page. T and R are those of the shapes as they were asked for, or
of packed cells as they turned out; min_size is a tenth of the voxels of the smallest object.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scenes import SHAPES, packed_cells
from scipy.ndimage import distance_transform_edt, find_objects, gaussian_filter

import topo_dask
from topo_dask.scores import adapted_rand_error
from topo_dask.synthetic import blobs, noisy, tubes
from topo_dask.targets import diffusion_flow, direct_flow

Parameters = dict[str, Any]

NOISE, NOISES = 0.1, (0.1, 0.3)

# ------------------------------------------------------------ four kinds of flow


def centre_heat(inside: np.ndarray) -> np.ndarray:
    """Logarithm of 1 + the heat that has spread in an object from the voxel nearest to the median of its coordinates.

    One is added to that voxel, then every voxel of the object takes the mean of itself and its six neighbours, as often
    as twice the sum of the object's edges; outside it stays 0.
    """
    coordinates = np.argwhere(inside)
    middle = np.argmin(((coordinates - np.median(coordinates, axis=0)) ** 2).sum(axis=1))
    voxels = np.flatnonzero(inside)
    steps = [step // inside.itemsize * sign for step in inside.strides for sign in (-1, 1)]
    heat = np.zeros(inside.size)
    for _ in range(2 * int(np.ptp(coordinates, axis=0).sum())):
        heat[voxels[middle]] += 1
        heat[voxels] = (heat[voxels] + sum(heat[voxels + step] for step in steps)) / 7
    return np.log1p(heat).reshape(inside.shape)


def border_distance(inside: np.ndarray) -> np.ndarray:
    """Distance to the border, smoothed by a Gaussian of one voxel."""
    return gaussian_filter(distance_transform_edt(inside), 1.0)


def climb(labels: np.ndarray, height: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Unit vectors up a height that is computed for each object alone; 0 in the background and on flat ground."""
    margin = 4  # what the Gaussian of `border_distance` reaches
    padded = np.pad(labels, margin)
    flow = np.zeros((3, *padded.shape), np.float32)
    for number, box in enumerate(find_objects(padded), 1):
        wide = tuple(slice(part.start - margin, part.stop + margin) for part in box)
        inside = padded[wide] == number
        slope = np.stack(np.gradient(height(inside)))
        length = np.linalg.norm(slope, axis=0)
        flow[:, *wide][:, inside] = (slope / np.where(length > 0, length, 1))[:, inside]
    return flow[:, margin:-margin, margin:-margin, margin:-margin]


def cellpose_flow(labels: np.ndarray) -> np.ndarray:
    """Up the heat that spreads from a voxel in the middle of each object; the rule of Cellpose, in three dimensions.

    Stringer et al., Cellpose: a generalist algorithm for cellular segmentation, Nature Methods 18 (2021). Cellpose
    itself works on planes, where it takes the mean of 3 x 3 pixels.
    """
    return climb(labels, centre_heat)


def omnipose_flow(labels: np.ndarray) -> np.ndarray:
    """Up the distance to the border of each object; the rule of Omnipose.

    Cutler et al., Omnipose: a high-precision morphology-independent solution for bacterial cell segmentation, Nature
    Methods 19 (2022). Omnipose itself takes a smooth solution of the eikonal equation; here the exact distance is
    smoothed.
    """
    return climb(labels, border_distance)


FLOWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "direct": direct_flow,
    "diffusion": lambda labels: diffusion_flow(labels, place=None),
    "Cellpose": cellpose_flow,
    "Omnipose": omnipose_flow,
}

# ------------------------------------------------------------ objects and parameters

AGGLOMERATE = {"n_steps": 200, "step_size": 0.5, "convergence_radius": 1.5, "merge": "agglomerate"}


def no_merge(travel: int, radius: float) -> Parameters:
    return {"n_steps": travel, "step_size": 1.0, "convergence_radius": radius}


class Objects(NamedTuple):
    """A volume, and the group that the page recommends for its objects."""

    make: Callable[[], np.ndarray]
    group: int


OBJECTS = {
    "nuclei, radius 7.5 to 13.8": Objects(lambda: blobs((96, 96, 96), 30), 1),
    "vesicles, radius 2.5 to 4": Objects(lambda: blobs((64, 64, 64), 200, radius=(2.5, 4.0)), 1),
    "tubes, radius 5": Objects(lambda: tubes((96, 96, 96), 12, radius=5.0), 2),
    "thin tubes, radius 1.5": Objects(lambda: tubes((96, 96, 96), 25, radius=1.5), 3),
    "plates, 5 thick": Objects(SHAPES["plates, 5 thick"], 2),
    "packed cells": Objects(lambda: packed_cells((64, 64, 64), 25), 1),
}

NUCLEI, VESICLES, TUBES, THIN, _, PACKED = OBJECTS
APART = [no_merge(28, 15 / 4), no_merge(28, 15 / 2)]
ROWS: list[tuple[str, str, list[Parameters]]] = [
    (NUCLEI, "direct", APART),
    (NUCLEI, "diffusion", APART),
    (VESICLES, "direct", [AGGLOMERATE]),
    (VESICLES, "diffusion", [AGGLOMERATE]),
    (TUBES, "diffusion", [AGGLOMERATE]),
    (TUBES, "direct", [no_merge(120, 11 / 4)]),
    (THIN, "diffusion", [AGGLOMERATE]),
    (THIN, "direct", [AGGLOMERATE]),
    (PACKED, "direct", [no_merge(71, 8 / 4), no_merge(71, 8 / 2)]),
    (PACKED, "direct", [AGGLOMERATE]),
]
"""Objects, flow, and the parameters of which the worst counts: no merge is tried at radius T/4 and T/2."""


def least_size(truth: np.ndarray) -> int:
    return max(1, int(np.bincount(truth.ravel())[1:].min()) // 10)


def segment(truth: np.ndarray, flow: np.ndarray, group: int, parameters: Parameters) -> np.ndarray:
    return topo_dask.postprocess_single(truth != 0, flow, group=group, min_size=least_size(truth), **parameters)


def error_of(truth: np.ndarray, flow: np.ndarray, group: int, parameters: Parameters) -> float:
    return adapted_rand_error(truth, segment(truth, flow, group, parameters)).error


# ------------------------------------------------------------ the tables, in the order of the page


def print_table(title: str, head: list[str], rows: Iterator[list[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def kinds_of_flow(seed: int) -> Iterator[list[str]]:
    """Yield the errors of agglomerate on three kinds of flow, a row for each shape."""
    for name, (make, group) in OBJECTS.items():
        truth = make()
        flows = (noisy(FLOWS[kind](truth), NOISE, seed, truth) for kind in ("diffusion", "Cellpose", "Omnipose"))
        yield [name, *(f"{error_of(truth, flow, group, AGGLOMERATE):.3f}" for flow in flows)]


def start_from_these(seed: int) -> Iterator[list[str]]:
    """Yield the rows of the page's table: its errors at every noise."""
    for name, kind, settings in ROWS:
        truth, group = OBJECTS[name].make(), OBJECTS[name].group
        flows = [noisy(FLOWS[kind](truth), noise, seed, truth) for noise in NOISES]
        errors = (max(error_of(truth, flow, group, setting) for setting in settings) for flow in flows)
        merge = settings[0].get("merge", "none")
        yield [name, kind, str(group), merge, "; ".join(f"{error:.3f}" for error in errors)]


def packed_by_radius_and_steps(seed: int) -> Iterator[list[str]]:
    """Yield how many instances the cells become: at several radii, at several numbers of steps, with negated flow.

    What does not vary is radius 1.5, 100 steps of 1, no merge, and min_size 50, the default.
    """
    truth = OBJECTS[PACKED].make()
    flow = noisy(direct_flow(truth), NOISE, seed, truth)

    def count(flow: np.ndarray, n_steps: int = 100, radius: float = 1.5) -> int:
        labels = topo_dask.postprocess_single(truth != 0, flow, n_steps=n_steps, convergence_radius=radius)
        return int(labels.max())

    for radius in (1.5, 4.0, 7.0, 12.0, 20.0, 30.0):
        yield [f"radius {radius:g}", str(count(flow, radius=radius))]
    for n_steps in (40, 20, 10, 5, 2, 0):
        yield [f"{n_steps} steps", str(count(flow, n_steps=n_steps))]
    yield ["negated flow", str(count(-flow))]


def longer_along_z(seed: int) -> Iterator[list[str]]:
    """Yield instances and errors for voxels four times as long along z: every fourth plane of a volume.

    Targets are made from the labels of these planes. A network that predicts vectors of one length in micrometres is
    imitated by every fourth plane of the targets of the whole volume, and its dz divided by 4 or not.
    """
    ellipsoids = "ellipsoids", blobs((128, 128, 128), 40, radius=(10.0, 16.0)), "direct", 1
    long = "tubes", tubes((128, 96, 96), 14, radius=6.0), "diffusion", 2
    for name, whole, kind, group in (ellipsoids, long):
        truth = np.ascontiguousarray(whole[::4])
        network = noisy(FLOWS[kind](whole)[:, ::4], NOISE, seed, truth)
        divided = network * np.array([1 / 4, 1, 1], np.float32).reshape(3, 1, 1, 1)
        flows = {"of these planes": noisy(FLOWS[kind](truth), NOISE, seed, truth)}
        flows |= {"in micrometres": network, "in micrometres, dz / 4": divided}
        settings = [no_merge(32, radius) for radius in (1.5, 2.0, 4.0, 8.0)] if group == 1 else [AGGLOMERATE]
        for of, flow in flows.items():
            for setting in settings:
                labels = segment(truth, flow, group, setting)
                found = f"{labels.max()} of {len(np.unique(truth)) - 1}"
                error = f"{adapted_rand_error(truth, labels).error:.3f}"
                yield [name, f"{kind}, {of}", f"{setting['convergence_radius']:g}", found, error]


def report(seed: int) -> None:
    head = ["objects", "diffusion", "Cellpose", "Omnipose"]
    print_table("Which kind of flow: errors with agglomerate", head, kinds_of_flow(seed))
    noises = "; ".join(f"{noise:g}" for noise in NOISES)
    head = ["objects", "flow", "group", "merge", f"error at noise {noises}"]
    print_table("Start from these", head, start_from_these(seed))
    head = ["changed", "instances"]
    print_table("What preview tells: 25 packed cells, direct flow", head, packed_by_radius_and_steps(seed))
    head = ["objects", "flow", "radius", "instances", "error"]
    print_table("Voxels that are longer along z", head, longer_along_z(seed))


# ------------------------------------------------------------ the picture


def ball_and_rods() -> np.ndarray:
    """A ball of radius 11 and two rods of radius 6, 55 voxels long."""
    z, y, x = np.ogrid[-12:12, :64, :96]
    labels = np.zeros((24, 64, 96), np.int32)
    labels[z**2 + (y - 32) ** 2 + (x - 20) ** 2 < 11**2] = 1
    for label, middle in ((2, 16), (3, 46)):
        labels[(z**2 + (y - middle) ** 2 < 6**2) & (x > 36) & (x < 92)] = label
    return labels


def draw(file: Path) -> None:
    """Draw the objects and each kind of their flow, without noise, as ``topo-dask show`` does."""
    from topo_dask.looking.layers import Layer
    from topo_dask.looking.sections import draw_sections

    labels = ball_and_rods()
    layers = [Layer("image", "objects", (labels != 0,))]
    layers += [Layer("flow", kind, (flow_of(labels),), channel=slice(3)) for kind, flow_of in FLOWS.items()]
    draw_sections(layers, planes=(12, 46, 48)).savefig(file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the picture instead, into this file")
    arguments = parser.parse_args()
    if arguments.figure is None:
        report(arguments.seed)
    else:
        draw(arguments.figure)
