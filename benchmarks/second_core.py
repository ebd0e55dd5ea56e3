"""What the machine gives to a second process: no ratio of two cores, or of two workers, can be expected above it.

One process alone, and then two at once, repeat a piece of work for a second: arithmetic within the first-level cache,
copies through memory, or memory that is new from the system. The ratio is the work of both against the work of the one.

    python benchmarks/second_core.py
"""

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SECONDS = 1.0


def arithmetic() -> Callable[[], Any]:
    values = np.linspace(0.0, 1.0, 2048)
    return lambda: [np.sqrt(values, out=values) for _ in range(1000)]


def copies() -> Callable[[], Any]:
    source = np.ones(1 << 25, np.float32)
    target = np.empty_like(source)
    return lambda: np.copyto(target, source)


def new_memory() -> Callable[[], Any]:
    return lambda: np.ones(1 << 25, np.float32)  # so much is given back at once when it is freed


WORK = {"arithmetic": arithmetic, "copies": copies, "new memory": new_memory}


def repeat(kind: str, together: Any) -> float:
    """Repetitions in a second."""
    work = WORK[kind]()
    work()
    together.wait()
    start, n = time.perf_counter(), 0
    while (took := time.perf_counter() - start) < SECONDS:
        work()
        n += 1
    return n / took


def rate(kind: str, n_processes: int) -> float:
    with multiprocessing.Manager() as manager, multiprocessing.Pool(n_processes) as pool:
        together = manager.Barrier(n_processes)
        return sum(pool.starmap(repeat, [(kind, together)] * n_processes, chunksize=1))


def second_core() -> str:
    """The ratio for each kind of work, as a line of text."""
    return ", ".join(f"{kind} {rate(kind, 2) / rate(kind, 1):.2f} x" for kind in WORK)


if __name__ == "__main__":
    print(f"what the machine gives to a second process: {second_core()}")
