"""Predictions, scratch and labels in an object store (S3); here one that runs on this machine.

    python examples/object_store.py [--size 64]

Needs s3fs, and moto[server] for the stand-in store; with a real store, leave out the server and its endpoint. Reads are
checked and repeated: when a store denies an object for a moment, its chunk is not read as zeros.
"""

import argparse
import logging
import os

import fsspec
import numpy as np
import zarr
from moto.server import ThreadedMotoServer

import topo_dask
from topo_dask.synthetic import blobs, noisy
from topo_dask.targets import direct_flow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="edge of the volume in voxels")
    args = parser.parse_args()

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request otherwise
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ.update(AWS_ENDPOINT_URL=f"http://{host}:{port}", AWS_ACCESS_KEY_ID="demo", AWS_SECRET_ACCESS_KEY="demo")
    fsspec.filesystem("s3").mkdir("volumes")

    truth = blobs((args.size,) * 3, max(1, round(9 * (args.size / 64) ** 3)), seed=0)
    flow = noisy(direct_flow(truth), 0.1, seed=0)
    for name, array in (("semantic", (truth > 0)[None].astype(np.float32)), ("flow", flow)):
        # Empty chunks are written too: a chunk of the flow that is missing is an error.
        zarr.create_array(
            f"s3://volumes/{name}.zarr",
            data=array,
            chunks=(len(array), 32, 32, 32),
            config={"write_empty_chunks": True},
        )
    labels = topo_dask.segment_volume(
        "s3://volumes/semantic.zarr",
        "s3://volumes/flow.zarr",
        "s3://volumes/labels.zarr",
        class_names=["lyso"],
        resolution_nm=8,
        block_shape=(32, 32, 32),
        progress=False,
    )["lyso"]
    held = topo_dask.run_instance_segmentation((truth > 0)[None], flow, ["lyso"], resolution_nm=8)["lyso"]
    print(f"labels         {labels.store_path}, {labels[:].max()} instances of {truth.max()}")
    print(f"as in memory   {np.array_equal(labels[:], held)}")
    server.stop()


if __name__ == "__main__":
    main()
