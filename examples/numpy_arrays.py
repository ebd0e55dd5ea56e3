"""Labels of volumes in memory: one class, all classes of a network, and a table of what was found.

python examples/numpy_arrays.py [--size 128]
"""

import argparse

import numpy as np

import topo_dask
from topo_dask.scores import adapted_rand_error, matching_scores
from topo_dask.synthetic import blobs, noisy
from topo_dask.targets import direct_flow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="edge of the volume in voxels")
    args = parser.parse_args()

    # What a network would predict: objects that do not overlap, and a noisy vector to the middle of each.
    truth = blobs((args.size,) * 3, max(1, round(600 * (args.size / 256) ** 3)), seed=0)
    flow = noisy(direct_flow(truth), 0.2, seed=0)
    labels = topo_dask.postprocess_single(truth > 0, flow, n_steps=60, convergence_radius=4.0, min_size=50)
    match = matching_scores(truth, labels, thresholds=[0.5])[0]
    print(f"objects        {labels.max()} of {truth.max()}")
    print(f"Rand error     {adapted_rand_error(truth, labels).error:.4f}, F1 at IoU 0.5 {match.f1:.3f}")

    # Several classes: one channel of probabilities and three of flow each, parameters by class and voxel size.
    semantic = np.stack([truth > 0, truth > 0]).astype(np.float32)
    by_class = topo_dask.run_instance_segmentation(
        semantic, np.concatenate([flow, flow]), ["lyso", "ves"], resolution_nm=8
    )
    for name, found in by_class.items():
        print(f"{name:<14} {found.max()} instances with the published parameters at 8 nm")

    table = topo_dask.instance_table(labels, flow)
    largest = int(np.argmax(table["voxels"]))
    print(
        f"largest        label {table['label'][largest]}, {table['voxels'][largest]} voxels, "
        f"flow error {table['flow_error'][largest]:.3f}"
    )


if __name__ == "__main__":
    main()
