"""A run on a SLURM cluster through dask-jobqueue (the extra `slurm`).

    python examples/slurm.py semantic.zarr flow.zarr labels.zarr --queue normal --workers 64
    python examples/slurm.py semantic.zarr flow.zarr labels.zarr --show      # prints the job script, submits nothing

A worker is one job: `--cores` threads that share `--memory`. Blocks are chosen so that a task fits. When the wall time
ends a job, other jobs do its blocks again. When the wall time ends this script, start it again with --resume.
"""

import argparse

from dask_jobqueue import SLURMCluster
from distributed import Client

import topo_dask


def make_cluster(args: argparse.Namespace) -> SLURMCluster:
    return SLURMCluster(
        queue=args.queue,
        cores=args.cores,
        processes=1,
        memory=args.memory,
        walltime=args.walltime,
        # Workers leave before SLURM ends them, so that they hand back what they have not begun.
        worker_extra_args=["--lifetime", args.lifetime, "--lifetime-stagger", "4m"],
        scheduler_options={"dashboard_address": None, "host": args.host},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("semantic")
    parser.add_argument("flow")
    parser.add_argument("output", help="on a file system that all nodes share; so is its scratch, next to it")
    parser.add_argument("--class", dest="classes", action="append", default=None)
    parser.add_argument("--resolution-nm", type=float, default=None, help="if not what the metadata of the inputs tell")
    parser.add_argument("--queue", default="normal")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--cores", type=int, default=8)
    parser.add_argument("--memory", default="32GiB")
    parser.add_argument("--walltime", default="04:00:00")
    parser.add_argument("--lifetime", default="3h50m")
    parser.add_argument("--host", default=None, help="address of this node that the workers reach")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--show", action="store_true", help="print the job script and submit nothing")
    args = parser.parse_args()

    with make_cluster(args) as cluster:
        if args.show:
            print(cluster.job_script())
            return
        cluster.scale(jobs=args.workers)
        with Client(cluster) as client:
            client.wait_for_workers(1)
            labels = topo_dask.segment_volume(
                args.semantic,
                args.flow,
                args.output,
                class_names=args.classes,
                resolution_nm=args.resolution_nm,
                resume=args.resume,
            )
        for name, array in labels.items():
            print(f"{name}: {array.store_path}")


if __name__ == "__main__":
    main()
