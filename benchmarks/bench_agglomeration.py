"""Time and peak memory of the agglomeration; the aim is 1e6 groups and 1e7 contacts in 20 s and 2 GiB."""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from topo_dask.kernels.agglomeration import agglomerate_contacts
from topo_dask.kernels.contact_tables import Table, combine_contacts
from topo_dask.kernels.fixed_point import SCALE


def _table(low: np.ndarray, high: np.ndarray, scores: np.ndarray, faces: np.ndarray) -> Table:
    pairs = np.stack([np.minimum(low, high), np.maximum(low, high)], axis=1)
    apart = low != high
    return combine_contacts([(pairs[apart], np.rint(scores * faces * SCALE).astype(np.int64)[apart], faces[apart])])


def random_graph(n: int, contacts: int, mean: float = 0.0) -> Table:
    rng = np.random.default_rng(0)
    ends = rng.integers(0, n, (2, contacts))
    return _table(*ends, rng.normal(mean, 0.5, contacts), rng.integers(1, 50, contacts))


def local_graph(n: int, contacts: int) -> Table:
    """Contacts with groups nearby, as between the provisional groups of a volume."""
    rng = np.random.default_rng(0)
    low = rng.integers(0, n, contacts)
    high = (low + rng.integers(1, 40, contacts)) % n
    return _table(low, high, rng.normal(0.0, 0.5, contacts), rng.integers(1, 50, contacts))


def tied_graph(n: int, contacts: int) -> Table:
    rng = np.random.default_rng(0)
    ends = rng.integers(0, n, (2, contacts))
    return _table(*ends, rng.integers(-2, 3, contacts) / 2, np.ones(contacts, np.int64))


def falling_star(n: int) -> Table:
    """A hub of the highest id whose id falls with every union."""
    leaves = np.arange(n)
    return _table(leaves, np.full(n, n), 1.0 + leaves / n, np.ones(n, np.int64))


def star_in_graph(n: int, contacts: int, leaves: int) -> Table:
    rng = np.random.default_rng(1)
    spokes = rng.permutation(n)[:leaves]
    star = _table(spokes, np.full(leaves, n), rng.normal(1.0, 0.5, leaves), np.ones(leaves, np.int64))
    return combine_contacts([random_graph(n, contacts), star])


CASES = {
    "random": lambda k: random_graph(int(1e6 * k), int(1e7 * k)),
    "attractive": lambda k: random_graph(int(1e6 * k), int(1e7 * k), 0.5),
    "repulsive": lambda k: random_graph(int(1e6 * k), int(1e7 * k), -0.7),
    "local": lambda k: local_graph(int(1e6 * k), int(1e7 * k)),
    "tied": lambda k: tied_graph(int(1e6 * k), int(1e7 * k)),
    "star": lambda k: falling_star(int(1e5 * k)),
    "graph + star": lambda k: star_in_graph(int(1e6 * k), int(1e7 * k), int(1e5 * k)),
}


def measure(path: Path) -> None:
    """Agglomerate a stored table; runs in a process of its own, so that the peak is that of this step."""
    pairs, sums, faces = (np.load(path / f"{column}.npy") for column in ("pairs", "sums", "faces"))
    n_nodes = int(pairs.max()) + 1
    agglomerate_contacts(pairs[:1], sums[:1], faces[:1], n_nodes, 0.0)  # compiles
    began = time.perf_counter(), time.process_time()
    roots = agglomerate_contacts(pairs, sums, faces, n_nodes, 0.0)
    wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    groups = len(np.unique(roots))
    print(
        f"{path.name:13s} {n_nodes:9,} nodes {len(pairs):11,} contacts {groups:9,} groups"
        f"  {wall:6.2f} s ({cpu:.2f} s of CPU)  peak {peak:.2f} GiB",
        flush=True,
    )


def store(name: str, scale: float, path: Path) -> None:
    path.mkdir()
    for column, array in zip(("pairs", "sums", "faces"), CASES[name](scale), strict=True):
        np.save(path / f"{column}.npy", array)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="1 is the size that the aim is for")
    parser.add_argument("cases", nargs="*", default=list(CASES), help=f"of {', '.join(CASES)}")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.cases:
            for target, args in (
                (store, (name, arguments.scale, Path(folder, name))),
                (measure, (Path(folder, name),)),
            ):
                process = context.Process(target=target, args=args)
                process.start()
                process.join()


if __name__ == "__main__":
    main()
