"""The contract, by bits: block-wise = in memory = naive, over irregular blocks and halos."""

from collections.abc import Iterator
from contextlib import contextmanager

import naive
import numpy as np
import pytest
import strategies as some
from blockwise import run_blocks
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import topo_dask
from topo_dask import in_memory
from topo_dask.config import ClassConfig
from topo_dask.kernels import tracking
from topo_dask.plan import Recipe
from topo_dask.stages import recover, search, track

contract = settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))


def same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def draw_parts(patch: pytest.MonkeyPatch, data: st.DataObject) -> None:
    """All voxels of such blocks are one part, in few tiles, and near each other; let them be many, and far."""
    particles = data.draw(st.sampled_from([1 << 20, 1, 12, 50]), label="particles of a part")
    patch.setattr(track, "PARTICLES", particles)
    patch.setattr(recover, "PARTICLES", particles)
    around, radii, cell = data.draw(
        st.sampled_from([(4, (16, 64), 32), (0, (1, 2), 1), (1, (2, 3), 2)]), label="search"
    )
    for name, value in {"AROUND": around, "RADII": radii, "CELL": cell}.items():
        patch.setattr(search, name, value)
    patch.setattr(tracking, "TILE", data.draw(st.sampled_from([(4, 8, 8), (1, 2, 3), (2, 2, 2)]), label="tile"))


@contextmanager
def slabs_of(data: st.DataObject) -> Iterator[None]:
    """Volumes as small as those drawn here are one slab in memory; let them be many, as large ones are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            in_memory, "SLAB_VOXELS", data.draw(st.sampled_from([1 << 20, 1, 60, 200]), label="voxels of a slab")
        )
        patch.setattr(in_memory, "SLAB_PLANES", data.draw(st.integers(1, 3), label="planes of a slab"))
        draw_parts(patch, data)
        yield


@contextmanager
def pages_of(data: st.DataObject) -> Iterator[None]:
    """With its usual margin a page is the whole of such volumes; let particles turn pages, and read parts of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(track, "PAGE_MARGIN", data.draw(st.sampled_from([16, 0, 1, 2, 4]), label="margin of a page"))
        patch.setattr(track, "_SMALL", data.draw(st.sampled_from([8, 1, 0]), label="page over part"))
        draw_parts(patch, data)
        yield


@contract
@given(st.data())
def test_tracking_in_memory_equals_naive(data: st.DataObject) -> None:
    mask, flow = data.draw(some.volumes())
    n_steps, step_size = data.draw(st.integers(0, 60)), data.draw(st.sampled_from([0.25, 1.0, 1.7, 1e9]))
    with slabs_of(data):
        found = topo_dask.track_flows(mask, flow, n_steps, step_size)
    expected = naive.track_flows(mask, flow, n_steps, step_size)
    same(found[0], expected[0])
    same(found[1], expected[1])


@contract
@given(st.data())
def test_clustering_in_memory_equals_naive(data: st.DataObject) -> None:
    mask, flow = data.draw(some.volumes())
    radius = data.draw(st.sampled_from([0.5, 1.0, 1.5, 2.7, 4.0, 7.3, 40.0]))
    coords, ends = naive.track_flows(mask, flow, data.draw(st.integers(0, 20)), 1.0)
    args = (coords, ends, mask.shape, radius, data.draw(st.integers(0, 9)))
    same(topo_dask.cluster_convergence(*args), naive.cluster_convergence(*args))


@settings(max_examples=100, deadline=None)
@given(
    some.seeds,
    st.sampled_from([0.5, 1.5, 4.0, 40.0, 1e4]),
    st.sampled_from([1.0, 20.0, 60_000.0]),
    st.tuples(*[st.sampled_from([0, 0, -9, -100])] * 3),
)
@example(0, 1.5, 1.0, (0, -100, 0))
@example(0, 1.5, 1.0, (0, 0, -100))
def test_end_points_outside_are_in_the_nearest_cell(
    seed: int, radius: float, away: float, shift: tuple[int, int, int]
) -> None:
    rng, shape = np.random.default_rng(seed), (5, 3, 9)
    coords = np.argwhere(np.ones(shape, bool))
    ends = rng.choice(
        [coords + rng.normal(0, away / 10, coords.shape), coords + rng.uniform(-away, away, coords.shape)]
    )
    args = (coords, ends + np.array(shift), shape, radius, 0)
    same(topo_dask.cluster_convergence(*args), naive.cluster_convergence(*args))


@contract
@given(st.data())
def test_postprocessing_equals_naive(data: st.DataObject) -> None:
    mask, flow = data.draw(some.volumes())
    parameters = data.draw(some.parameters())
    expected = naive.postprocess_single(mask, flow, **parameters)
    with slabs_of(data):
        same(topo_dask.postprocess_single(mask, flow, **parameters), expected)
    config = ClassConfig(**parameters)
    block_shape, halo = data.draw(some.block_shapes(mask.shape)), data.draw(some.halos(mask.shape))
    with pages_of(data):
        same(run_blocks(Recipe.of(config), block_shape, halo, config=config, mask=mask, flow=flow), expected)


@contract
@given(st.data())
def test_label_functions_equal_naive(data: st.DataObject) -> None:
    labels, flow = data.draw(some.labelled_volumes())
    block_shape = data.draw(some.block_shapes(labels.shape))
    number = data.draw(st.sampled_from([-0.5, 0.0, 0.1, 0.3, 1.0]))
    size, ratio = data.draw(st.integers(0, 12)), data.draw(st.sampled_from([0.0, 0.1, 0.3, 0.6, 2.0]))
    cases = {
        "compact_relabel": ((), Recipe()),
        "filter_small": ((size,), Recipe(min_size=size)),
        "split_disconnected": ((ratio,), Recipe(split=True, min_fragment_ratio=ratio)),
        "merge_adjacent": ((flow, number), Recipe(merge="adjacent", merge_threshold=number)),
        "agglomerate": ((flow, number), Recipe(merge="agglomerate", merge_threshold=number)),
        "remove_bad_flow_masks": ((flow, abs(number)), Recipe(flow_error=abs(number))),
    }
    name = data.draw(st.sampled_from(sorted(cases)))
    arguments, recipe = cases[name]
    before = labels.copy()
    expected = getattr(naive, name)(labels, *arguments)
    with slabs_of(data):
        same(getattr(topo_dask, name)(labels, *arguments), expected)
    same(run_blocks(recipe, block_shape, labels=labels, flow=flow), expected)
    same(labels, before)


@pytest.mark.parametrize("name", ["merge_adjacent", "agglomerate"])
def test_integer_flow_is_used_as_float32(name: str) -> None:
    labels, flow = np.array([[[1, 2]]]), np.zeros((3, 1, 1, 2), np.int64)
    flow[0] = 2**24 + 1, 1  # the first is 2**24 in float32, and the score of the contact with it: not above that
    expected = getattr(naive, name)(labels, flow, 2.0**24)
    same(getattr(topo_dask, name)(labels, flow, 2.0**24), expected)
    same(expected, labels.astype(np.int32))


@contract
@given(st.data())
def test_agglomeration_in_tiers_equals_naive(data: st.DataObject) -> None:
    labels, flow = data.draw(some.labelled_volumes(max_ids=60, rare=False))
    block_shape = data.draw(some.block_shapes(labels.shape))
    threshold = data.draw(st.sampled_from([-0.5, 0.0, 0.3]))
    recipe = Recipe(merge="agglomerate", merge_threshold=threshold)
    found = run_blocks(recipe, block_shape, labels=labels, flow=flow, tiers=data.draw(st.integers(0, 5)))
    same(found, naive.agglomerate(labels, flow, threshold))
