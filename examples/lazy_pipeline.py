"""From an image to measurements with lazy arrays: a network by map_blocks, labels, intensity of every instance.

    python examples/lazy_pipeline.py [--size 96]

Nothing is computed before the last lines; the labels are the same whatever the chunks. The network is a stand-in: it
smooths, thresholds, and follows the distance transform, and it reads each chunk with the margin that this needs.
"""

import argparse

import dask
import dask.array as da
import numpy as np
from scipy import ndimage

import topo_dask
from topo_dask.synthetic import blobs

MARGIN = 16


def network(chunk: np.ndarray) -> np.ndarray:
    """Foreground and flow of a chunk, float32 [4, d, h, w]."""
    smooth = ndimage.gaussian_filter(chunk.astype(np.float32), 1.0)
    foreground = smooth > 100
    summit = ndimage.gaussian_filter(np.minimum(ndimage.distance_transform_edt(foreground), MARGIN - 4), 2.0)
    flow = np.stack(np.gradient(summit)).astype(np.float32)
    length = np.maximum(np.linalg.norm(flow, axis=0), 1e-6)
    return np.concatenate([foreground[None].astype(np.float32), flow / length * foreground])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96, help="edge of the volume in voxels")
    args = parser.parse_args()

    truth = blobs((args.size,) * 3, max(1, round(30 * (args.size / 96) ** 3)), seed=0, radius=(6.0, 11.0))
    rng = np.random.default_rng(0)
    image = da.from_array((rng.normal(40, 10, truth.shape) + 140 * (truth > 0)).astype(np.float32), chunks=48)

    padded = da.overlap.overlap(image, depth=MARGIN, boundary="reflect")
    predicted = padded.map_blocks(network, new_axis=0, chunks=((4,), *padded.chunks), dtype=np.float32)
    margins = {0: 0, 1: MARGIN, 2: MARGIN, 3: MARGIN}
    predicted = da.overlap.trim_internal(predicted, margins, boundary=dict.fromkeys(range(1, 4), "reflect"))
    labels = topo_dask.postprocess_single(
        predicted[0] > 0.5, predicted[1:], n_steps=60, step_size=0.5, convergence_radius=4.0, min_size=100
    )
    print(f"lazy           {labels.dtype} {labels.shape} in chunks of {labels.chunksize}")

    # Sums by label, chunk by chunk; what leaves a chunk is small.
    n = int(labels.max().compute())
    pairs = zip(labels.to_delayed().ravel(), image.to_delayed().ravel(), strict=True)
    count = dask.delayed(lambda a, b: np.stack([np.bincount(a.ravel(), w, n + 1) for w in (None, b.ravel())]))
    voxels, intensity = dask.delayed(sum)([count(a, b) for a, b in pairs]).compute()[:, 1:]
    print(f"objects        {n} of {truth.max()}")
    print(f"mean intensity {np.mean(intensity / voxels):.1f}, smallest object {int(voxels.min())} voxels")


if __name__ == "__main__":
    main()
