"""Objects that touch: clustering alone, merge_adjacent and agglomerate on flow with noise, scored against the truth.

Real tissue (dense mouse cortex, 512^3) and stacks of touching plates:

    python benchmarks/bench_touching.py --cache FOLDER               # a crop of 96 x 128 x 128, and plates
    python benchmarks/bench_touching.py --cache FOLDER --draws 12    # the same, errors over draws of the noise
    python benchmarks/bench_touching.py --cache FOLDER --shape full  # all of it, zarr to zarr
    python benchmarks/bench_touching.py --robustness                 # the tables of docs/touching.md

`scenes.py` says where the tissue comes from; it takes ``pip install crackle-codec``. The true objects are the
6-connected components of the volume or crop, without those of fewer than 200 voxels. Coordinates of the flow are those
of the whole volume, also in a crop; with ``--free`` the flow does not depend on where an object lies.

Parameters are the recommended ones and are not fitted to the truth: convergence_radius 1.5, 200 steps of 0.5, threshold
0, and min_size 50, the default of `postprocess_single`.
"""

import argparse
import itertools
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import zarr
from scenes import CROP, SHAPES, connected_pieces, fetch_cortex, weakened

import topo_dask
from topo_dask.scores import adapted_rand_error, contingency, splits_and_merges
from topo_dask.stages.gather import contacts_kind
from topo_dask.stores import ledger
from topo_dask.stores.scratch import FileScratch
from topo_dask.synthetic import noisy, touching_plates
from topo_dask.targets import Place, diffusion_flow, direct_flow

Box = tuple[slice, ...]

TIGHT = {"group": 1, "n_steps": 200, "step_size": 0.5, "convergence_radius": 1.5, "min_size": 50}
METHODS = {"clustering": None, "merge_adjacent": "adjacent", "agglomerate": "agglomerate"}
BARS = {"cortex": {0.0: 0.005, 0.1: 0.01, 0.2: 0.02}, "plates": {0.0: 0.005, 0.1: 0.015, 0.2: 0.02}}
"""Target errors of agglomerate that the project set itself, by volume and noise."""


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
            verdict = "" if bar is None else f" | target {bar}: {'met' if float(row.split()[0]) <= bar else 'MISSED'}"
            print(f"{sigma:<5} {method:14} {row}{verdict}", flush=True)


def report_draws(name: str, truth: np.ndarray, place: Place, arguments: argparse.Namespace) -> None:
    """Print errors at every noise over several draws: median, lowest, highest, and how many meet the target."""
    target = diffusion_flow(truth, 100, place=place)
    print(f"\n{name} {truth.shape} at {place}: {truth.max()} objects, {arguments.draws} draws")
    for sigma in arguments.noise:
        flows = [noisy(target, sigma, seed) for seed in range(arguments.draws if sigma else 1)]
        for method in arguments.method or METHODS:
            setting = {**TIGHT, "merge": METHODS[method]}
            found = (topo_dask.postprocess_single(truth != 0, flow, **setting) for flow in flows)
            errors = np.array([adapted_rand_error(truth, labels).error for labels in found])
            bar = BARS[name].get(sigma) if method == "agglomerate" else None
            verdict = "" if bar is None else f" target {bar}: met by {np.count_nonzero(errors <= bar)} of {len(errors)}"
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


def count_contacts(scratch: FileScratch) -> list[int]:
    """Rows of the contact tables of the blocks, and of those that each level of regions leaves undecided."""
    run = ledger.recorded(scratch)
    assert run is not None
    tables = ledger.compartment(scratch, run["run"], "cortex")
    kinds = itertools.takewhile(tables.keys, map(contacts_kind, itertools.count(-1)))
    return [sum(len(tables.get(kind, key)["sums"]) for key in tables.keys(kind)) for kind in kinds]


def segment_stored(cache: Path, method: str, block_shape: tuple[int, ...] | None) -> tuple[Cost, list[int]]:
    """Segment what is in the cache, and look at the tables before they are removed with the scratch."""
    config = {"cortex": {**TIGHT, "merge": METHODS[method]}}
    contacts: list[int] = []
    clear = ledger.clear
    began = time.perf_counter()
    with mock.patch.object(ledger, "clear", lambda scratch: [contacts.extend(count_contacts(scratch)), clear(scratch)]):
        topo_dask.segment_volume(
            cache / "mask.zarr",
            cache / "flow.zarr",
            cache / "labels.zarr",
            class_names=["cortex"],
            class_config=config,
            block_shape=block_shape,
            memory_limit="3GiB",
            ome_zarr=None,
            overwrite=True,
            progress=False,
        )
    return cost_since(began), contacts


def report_full(arguments: argparse.Namespace) -> None:
    """Print scores and cost of the whole volume, out of core."""
    print(
        "whole volume, out of core", f"{'':8}error  splits merges      s   GiB  contacts of blocks, left by each level"
    )
    for sigma in arguments.noise:
        apart(store_prediction, arguments.cache, None if arguments.free else (0, 0, 0), sigma, arguments.seed)
        for method, block in itertools.product(arguments.method or ["agglomerate"], arguments.block):
            cost, contacts = apart(segment_stored, arguments.cache, method, block)
            labels = zarr.open_array(arguments.cache / "labels.zarr" / "cortex")
            found = score(zarr.open_array(arguments.cache / "truth.zarr"), labels)
            print(f"{sigma:<5} {method:26}", found, cost, "", *contacts, flush=True)


# ------------------------------------------------------------ other shapes, other flows

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
    parser.add_argument("--free", action="store_true", help="flow that does not depend on where an object lies")
    parser.add_argument("--block", type=_triple, nargs="+", help="block shapes [40,50,64; full: what fits]")
    parser.add_argument("--method", choices=METHODS, nargs="+", help="[all; full: agglomerate]")
    parser.add_argument("--robustness", action="store_true", help="other shapes and flows, as Markdown")
    arguments = parser.parse_args()
    blocks = [None] if arguments.shape == "full" else [(40, 50, 64)]
    arguments.block = arguments.block or blocks
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
