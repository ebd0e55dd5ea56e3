"""Each worker on its own cores, for a local cluster with as many threads as there are cores.

The threads of a worker hand chunks to each other while zarr fetches and decodes them. The system wakes a thread on any
idle core, also on that of another worker, and there it displaces the other worker's data from the cache.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from distributed import WorkerPlugin


def cores_of(number: int, threads: int, cores: list[int]) -> set[int]:
    """Cores of a worker.

    Parameters
    ----------
    number : int
        Number of the worker, from 0. Where there are more workers than cores for them, the first cores are used again.
    threads : int
        Threads of each worker.
    cores : list of int
        All cores.

    Examples
    --------
    >>> cores_of(1, 2, [0, 1, 4, 5]), cores_of(2, 2, [0, 1, 4, 5])
    ({4, 5}, {0, 1})
    """
    return {cores[(number * threads + i) % len(cores)] for i in range(threads)}


class Binding(WorkerPlugin):  # type: ignore[misc]
    """Binds each worker of a LocalCluster, and all its present and later threads, to its cores.

    Pass it to ``client.register_plugin``. It does nothing on systems that cannot bind, nor to a worker that is not a
    process of its own or has no number.
    """

    name = "topo_dask binding"

    def setup(self, worker: Any) -> None:
        """Bind a worker. Dask calls this for every worker, also for one that starts later or again."""
        if not hasattr(os, "sched_setaffinity") or worker.nanny is None or not isinstance(worker.name, int):
            return
        cores = cores_of(worker.name, worker.state.nthreads, sorted(os.sched_getaffinity(0)))
        for thread in Path("/proc/self/task").iterdir():
            with suppress(OSError):  # the thread has ended, or the system forbids it: the worker works unbound
                os.sched_setaffinity(int(thread.name), cores)
