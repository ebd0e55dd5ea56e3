"""Several classes of one EM-like volume in one run: convex, elongated and thin ones, each by its own group.

    python examples/em_classes.py [--size 128] [--folder topo_dask_em]

Vesicles are convex (group 1), mitochondria elongated (group 2: what is disconnected is split), microtubules thin
(group 3: and every foreground voxel gets a label). The channels of the classes share stored chunks, so that a block's
flow is read once for all of them.
"""

import argparse
from pathlib import Path

import numpy as np
import zarr

import topo_dask
from topo_dask.scores import adapted_rand_error
from topo_dask.synthetic import blobs, noisy, tubes
from topo_dask.targets import diffusion_flow, direct_flow

CLASSES = {
    "ves": {"group": 1, "n_steps": 40, "convergence_radius": 3.0, "min_size": 50},
    "mito": {
        "group": 2,
        "n_steps": 200,
        "step_size": 0.5,
        "convergence_radius": 1.5,
        "min_size": 200,
        "merge": "agglomerate",
    },
    "mt": {
        "group": 3,
        "n_steps": 60,
        "step_size": 0.5,
        "convergence_radius": 1.5,
        "min_size": 50,
        "merge": "agglomerate",
    },
}


def make_prediction(size: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    shape, share = (size,) * 3, (size / 128) ** 3
    truth = {
        "ves": blobs(shape, max(2, round(60 * share)), seed=0, radius=(4.0, 8.0)),
        "mito": tubes(shape, max(2, round(12 * share)), seed=1, radius=7.0, length=90),
        "mt": tubes(shape, max(2, round(14 * share)), seed=2, radius=2.0, length=120),
    }
    flows = [direct_flow(truth["ves"]), diffusion_flow(truth["mito"], 100), diffusion_flow(truth["mt"], 50)]
    semantic = np.stack([labels > 0 for labels in truth.values()]).astype(np.float32)
    return truth, semantic, np.concatenate([noisy(flow, 0.1, seed=0) for flow in flows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="edge of the volume in voxels")
    parser.add_argument("--folder", type=Path, default=Path("topo_dask_em"), help="must not exist")
    args = parser.parse_args()

    truth, semantic, flow = make_prediction(args.size)
    if args.folder.exists():
        parser.error(f"{args.folder} exists: remove it, or give another --folder")
    args.folder.mkdir(parents=True)
    inputs = {}
    for name, array in (("semantic", semantic), ("flow", flow)):
        chunks = (len(array), 64, 64, 64)
        # Empty chunks are written too: a chunk of the flow that is missing is an error.
        inputs[name] = zarr.create_array(
            args.folder / f"{name}.zarr", data=array, chunks=chunks, config={"write_empty_chunks": True}
        )
    labels = topo_dask.segment_volume(
        inputs["semantic"],
        inputs["flow"],
        args.folder / "labels.zarr",
        class_names=list(CLASSES),
        class_config=CLASSES,
        block_shape=(64, 64, 64),
        progress=False,
    )
    held = topo_dask.run_instance_segmentation(semantic, flow, list(CLASSES), CLASSES)
    for name, stored in labels.items():
        found = stored[:]
        print(
            f"{name:<5} group {CLASSES[name]['group']}: {found.max()} instances of {truth[name].max()}, adapted Rand "
            f"error {adapted_rand_error(truth[name], found).error:.4f}, "
            f"as in memory: {np.array_equal(found, held[name])}"
        )


if __name__ == "__main__":
    main()
