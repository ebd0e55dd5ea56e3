"""Workers on cores of their own, for a local cluster with as many threads as there are cores.

The threads of a worker hand chunks to each other, as zarr fetches and decodes them, and the system wakes each on
whichever core is idle: that of another worker, whose cache it takes.
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
        The worker's, from 0; those that a cluster starts later go round.
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
    """Binds each worker of a LocalCluster, and all threads that it will have, to its cores: ``client.register_plugin``.

    Nothing is done where the system cannot, and to a worker that is no process of its own or has no number.
    """

    name = "topo_dask binding"

    def setup(self, worker: Any) -> None:
        """Bind a worker; Dask calls this, also on those that start later or again."""
        if not hasattr(os, "sched_setaffinity") or worker.nanny is None or not isinstance(worker.name, int):
            return
        cores = cores_of(worker.name, worker.state.nthreads, sorted(os.sched_getaffinity(0)))
        for thread in Path("/proc/self/task").iterdir():
            with suppress(OSError):  # it has ended, or the system forbids it: the worker works all the same
                os.sched_setaffinity(int(thread.name), cores)
