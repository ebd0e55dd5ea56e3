"""What is hardly meant is warned of before the work, and what is right is not."""

import re
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from scipy.ndimage import gaussian_filter

import topo_dask
from topo_dask.blocks.sampling import sample_boxes
from topo_dask.doubts import _chunks_to_look, warn_of_box, warn_of_prediction
from topo_dask.kernels.plausibility import doubt_flow, doubt_foreground
from topo_dask.synthetic import blobs, noisy, touching_plates, tubes
from topo_dask.targets import diffusion_flow, direct_flow

LABELS = blobs((64, 64, 64), 12, seed=0)
MASK = LABELS > 0
FLOW = noisy(direct_flow(LABELS), 0.1, seed=0)
SEMANTIC = MASK[None].astype(np.float32)
CONFIG = {"nuc": {"group": 1, "n_steps": 5, "convergence_radius": 4.0, "min_size": 50}}
SOFT = gaussian_filter(SEMANTIC, 1.0, axes=(1, 2, 3))
UPSIDE = np.array([-1, 1, 1], np.float32).reshape(3, 1, 1, 1)
SCALED = (MASK[None] * np.arange(100, 164) + 7).astype(np.uint8)

WRONG: list[tuple[np.ndarray, np.ndarray, str]] = [
    (SCALED, FLOW, "semantic{} holds values up to 1[0-9]{{2}}, and all above 0.5 are foreground"),
    (
        1 + MASK[None].astype(np.uint8),
        FLOW,
        "semantic{} holds 1 and 2 alone, .* if 1 is background pass a threshold of 1",
    ),
    (SOFT * np.float32(255), FLOW, "semantic{} holds values up to 255, .*: .* pass a threshold of 127"),
    (SOFT * 16 - 8, FLOW, "semantic{} holds values from -8 to 8, which look like logits: pass a threshold of 0"),
    (SOFT * np.float32(0.4), FLOW, "semantic{} holds nothing above the threshold of 0.5 .*, and values up to 0.4: "),
    (SEMANTIC, FLOW[::-1], r"flow{} of class 'nuc' fits foreground better in the order \(dx, dy, dz\): "),
    (SEMANTIC, FLOW[[1, 2, 0]], r"flow{} of class 'nuc' fits foreground better in the order \(dy, dx, dz\): "),
    (SEMANTIC, -FLOW[::-1], r"flow{} of class 'nuc' fits .* in the order \(dx, dy, dz\), negated: "),
    (SEMANTIC, -FLOW, "flow{} of class 'nuc' points away from the middle of objects"),
    (SEMANTIC, (FLOW * 127).astype(np.int8), "flow{} of class 'nuc' has vectors 1[0-9][0-9] voxels long"),
    (SEMANTIC, FLOW * 5, "flow{} of class 'nuc' has vectors 5.0 voxels long, .*: divide it by about 5.0"),
    (SEMANTIC, FLOW * 0, "flow{} of class 'nuc' is 0 at all of [0-9]+ foreground voxels"),
    (SEMANTIC, FLOW * UPSIDE, "flow{} of class 'nuc' points away from the middle of objects along z: "),
    (SEMANTIC, (FLOW * UPSIDE)[[1, 0, 2]], r"flow{} of class 'nuc' fits .* order \(dy, dz, dx\), dz negated: "),
]


NOISE = 0.15
"""Of each component, from voxel to voxel: then no single step is beyond doubt in these balls, but their sum is."""


@pytest.mark.parametrize(
    ("mangle", "match"),
    [
        (lambda flow: flow, None),
        (lambda flow: flow[::-1], r"in the order \(dx, dy, dz\): "),
        (lambda flow: flow[[1, 2, 0]], r"in the order \(dy, dx, dz\): "),
        (lambda flow: -flow, "away from the middle of objects: "),
        (lambda flow: -flow[::-1], r"in the order \(dx, dy, dz\), negated: "),
    ],
)
def test_order_and_sign_of_noisy_flow(mangle: Any, match: str | None) -> None:
    to_middle = 22 - np.indices((88, 88, 88)) % 44
    length = np.linalg.norm(to_middle, axis=0)
    mask = length < 20
    noise = np.random.default_rng(0).normal(0, NOISE, to_middle.shape)
    doubt = doubt_flow([(mask, mangle(to_middle / np.maximum(length, 1) + noise))])
    assert doubt is None if match is None else doubt is not None and re.search(match, doubt), doubt


@pytest.mark.parametrize("kind", ["dask", "zarr"])
def test_lazy_arrays_are_looked_at_when_they_are_computed(kind: str) -> None:
    lazily: Any = {
        "dask": lambda array: da.from_array(array, chunks=(*array.shape[:-3], 16, 64, 64)),
        "zarr": lambda array: zarr.create_array(
            {}, data=np.ascontiguousarray(array), chunks=(*array.shape[:-3], 16, 64, 64)
        ),
    }[kind]
    soft, flow = lazily(SOFT[0]), lazily(FLOW)
    labels = topo_dask.postprocess_single(soft, flow, 5)
    with pytest.warns(UserWarning, match="sem_mask holds fractions") as told:
        labels.compute()
    assert len(told) == 1
    labels.compute()
    labels = topo_dask.run_instance_segmentation(lazily(SEMANTIC), lazily(-FLOW), ["nuc"], CONFIG)["nuc"]
    with pytest.warns(UserWarning, match="flow_pred of class 'nuc' points away"):
        labels[:8].compute()
    labels[8:].compute()


@pytest.mark.parametrize("processes", [True, False])
def test_clients_hear_once_what_workers_warn_of(processes: bool) -> None:
    flow = da.from_array(-FLOW, chunks=(3, 16, 64, 64))
    labels = topo_dask.postprocess_single(da.from_array(MASK), flow, 5)
    told = pytest.warns(UserWarning, match="flow points away from the middle of objects")
    with (
        LocalCluster(n_workers=1, processes=processes, dashboard_address=":0") as cluster,
        Client(cluster),
        told as heard,
    ):
        labels.compute()
        for _ in range(1000):  # it may come after the labels
            if not len(heard):
                time.sleep(0.01)
        time.sleep(0.2)
    assert len(heard) == 1


@pytest.mark.parametrize(("semantic", "flow", "message"), WRONG)
def test_what_is_hardly_meant_is_warned_of(semantic: Any, flow: Any, message: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=message.format("_pred")):
        expected = topo_dask.run_instance_segmentation(semantic, flow, ["nuc"], CONFIG)["nuc"]
    stored = [zarr.create_array({}, data=np.ascontiguousarray(a), chunks=(1, 16, 64, 64)) for a in (semantic, flow)]
    options = {"class_names": ["nuc"], "class_config": CONFIG, "block_shape": 64, "progress": False}
    with pytest.warns(UserWarning, match=message.format("")):
        found = topo_dask.segment_volume(*stored, tmp_path / "out", on_missing="background", **options)["nuc"]
    np.testing.assert_array_equal(found[:], expected)


@pytest.mark.parametrize(("semantic", "flow", "message"), [*WRONG, (SEMANTIC, FLOW, None)])
def test_a_box_that_was_read_is_looked_at(semantic: Any, flow: Any, message: str | None) -> None:
    with pytest.warns(UserWarning, match=message.format("")) if message else nullcontext():
        warn_of_box(semantic[0], semantic[0] > 0.5, flow, 0.5, "nuc")


@pytest.mark.parametrize("times", [1, 2, 4])
def test_probabilities_that_were_enlarged_are_no_labels(times: int) -> None:
    values = np.rint(255 * SOFT[0]).astype(np.uint8)
    for axis in range(3):
        values = values.repeat(times, axis)
    doubt = doubt_foreground(values, 0.5)
    assert doubt is not None
    assert "times 255" in doubt


def test_order_across_classes_is_not_judged_by_some_of_them() -> None:
    flow = np.concatenate([FLOW[[0]], FLOW[[0]], FLOW[[1]], FLOW[[1]], FLOW[[2]], FLOW[[2]]])  # dz of both come first
    semantic = np.concatenate([SEMANTIC, SEMANTIC])
    with pytest.warns(UserWarning, match="if the dz of all classes come first"):
        warn_of_prediction(semantic, flow, {"a": 0}, 0.5)
    warn_of_prediction(semantic, flow, {"a": 0}, 0.5, whole=False)


def test_what_is_minus_infinity_or_a_logarithm_is_no_logit() -> None:
    assert doubt_foreground(np.where(MASK, 0.9, -np.inf), 0.5) is None
    assert doubt_foreground(np.log(np.clip(SOFT, 1e-6, 1)), 0.5) is None


def test_a_mask_of_probabilities_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="sem_mask holds fractions, such as 0.[39], and all but 0 count as foreground"):
        topo_dask.postprocess_single(np.where(MASK, np.float32(0.9), np.float32(0.3)), FLOW, 1)
    for given, remedy in (
        (
            np.rint(SOFT[0] * 255).astype(np.uint8),
            "values up to 255, .*: of probabilities times 255 pass probability > 127",
        ),
        (SOFT[0] * 16 - 8, "fractions, .*: of logits pass logits > 0"),
        (20 + MASK * np.uint8(210), "20 and 230 alone, .*: if 20 is background pass mask > 20"),
    ):
        with pytest.warns(UserWarning, match=f"sem_mask holds {remedy}"):
            topo_dask.postprocess_single(given, FLOW, 1)
    with pytest.warns(UserWarning, match="^flow points away from the middle of objects"):
        topo_dask.postprocess_single(MASK, -FLOW, 1)


def test_masks_of_any_type_and_what_can_not_be_told_are_not_doubted(tmp_path: Path) -> None:
    for mask in (MASK, MASK.astype(np.uint8) * 255, MASK.astype(np.float64), LABELS, LABELS.astype(np.uint8)):
        topo_dask.postprocess_single(mask, FLOW, 1)
    topo_dask.postprocess_single(MASK[:8, :8, :8], -FLOW[:, :8, :8, :8], 1)
    chunks = [zarr.create_array({}, data=a, chunks=(1, 16, 64, 64)) for a in (SEMANTIC, FLOW)]
    del chunks[1].store_path.store._store_dict["c/0/2/0/0"]  # in the middle
    with pytest.raises(FileNotFoundError, match="is missing"):
        topo_dask.segment_volume(*chunks, tmp_path / "out", class_names=["nuc"], class_config=CONFIG, progress=False)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("component", [0, 1, 2])
def test_flow_that_is_not_finite_where_no_length_was_taken_is_left_to_the_run(component: int, value: float) -> None:
    to_middle = 11.5 - np.indices((24, 24, 24))
    flow = to_middle / np.linalg.norm(to_middle, axis=0)
    flow[component, np.arange(24**3).reshape(24, 24, 24) % 27 > 0] = value  # lengths are those of every 27th voxel
    assert doubt_flow([(np.ones((24, 24, 24), bool), flow)]) is None


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("shape", ["blobs", "tubes", "plates"])
def test_right_flow_is_not_doubted(shape: str, noise: float) -> None:
    size = (96, 96, 96)
    labels = {
        "blobs": lambda: blobs(size, 30, seed=1),
        "tubes": lambda: tubes(size, 25, seed=1),
        "plates": lambda: touching_plates(size, 4, seed=1),
    }[shape]()
    for right in (direct_flow(labels), diffusion_flow(labels, 40, place=None)):
        given = noisy(right, noise, seed=0) if noise else right
        assert np.count_nonzero(labels) > 4096
        boxes = sample_boxes(size, size, 32)
        looks = [(labels[box.slices] > 0, given[(slice(None), *box.slices)]) for box in boxes]
        assert doubt_flow(looks) is None
        if shape != "plates":  # along two axes they hardly converge
            assert doubt_flow([(mask, flow[::-1]) for mask, flow in looks]) is not None


def test_large_chunks_are_not_decoded_for_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topo_dask.doubts.LARGEST_CHUNK", 3 * 4 * 48**3)
    semantic = zarr.create_array({}, data=SEMANTIC, chunks=(1, 48, 48, 48))
    for chunks, warned in (((3, 48, 48, 48), True), ((3, 48, 48, 49), False)):
        flow = zarr.create_array({}, data=-FLOW, chunks=chunks)
        with pytest.warns(UserWarning, match="away") if warned else nullcontext():
            warn_of_prediction(semantic, flow, {"nuc": 0}, 0.5)


def right_foreground() -> Iterator[tuple[Any, float]]:
    rng = np.random.default_rng(0)
    for sigma in (0.0, 0.1, 0.3):
        probability = SOFT + rng.normal(0, sigma, SOFT.shape).astype(np.float32)
        yield from ((probability, 0.5), (16 * probability - 8, 0.0), (255 * probability, 127))
        yield np.rint(255 * probability.clip(0, 1)).astype(np.uint8), 127
        yield from ((probability.clip(0, 1) * np.float32(0.04), 0.5), (SEMANTIC * 0, 0.5))  # no objects
    yield from ((SEMANTIC * 255, 0.5), (LABELS[None] % 2, 0.5), (SEMANTIC * 0 + 1, 0.5))
    yield from ((LABELS[None], 0.5), (30 * LABELS[None].astype(np.uint16), 0.5))


def test_right_foreground_is_not_doubted() -> None:
    for values, threshold in right_foreground():
        assert doubt_foreground(values, threshold) is None


def test_boxes_reach_across_planes() -> None:
    semantic = zarr.create_array({}, data=SEMANTIC, chunks=(1, 1, 64, 64))
    for given, message in ((FLOW[::-1], "order"), (FLOW * 1000, "long"), (-FLOW, "away"), (FLOW, None)):
        flow = zarr.create_array({}, data=np.ascontiguousarray(given), chunks=(1, 1, 64, 64))
        with pytest.warns(UserWarning, match=message) if message else nullcontext():
            warn_of_prediction(semantic, flow, {"nuc": 0}, 0.5)


@pytest.mark.parametrize(
    ("semantic", "flow", "joined"),
    [
        ((1, 64, 64, 64), (3, 64, 64, 64), (64, 64, 64)),
        ((1, 64, 64, 64), (1, 16, 32, 128), (16, 32, 64)),
        ((1, 4, 8, 512), (3, 4, 8, 512), (16, 16, 512)),
        ((1, 1, 64, 64), (1, 1, 64, 64), (16, 64, 64)),
        ((1, 1, 512, 512), (1, 1, 512, 512), (12, 512, 512)),  # 4 MiB a plane, of foreground and three components
        ((1, 1, 4096, 4096), (1, 1, 4096, 4096), (1, 4096, 4096)),
    ],
)
def test_thin_chunks_are_joined_while_that_is_cheap(semantic: Any, flow: Any, joined: Any) -> None:
    arrays = [
        zarr.create_array({}, shape=(n, 4096, 4096, 4096), chunks=chunks, dtype="f4")
        for n, chunks in ((1, semantic), (3, flow))
    ]
    assert _chunks_to_look(*arrays) == joined


@pytest.mark.parametrize("own", [True, False])
def test_all_dz_first_is_named(own: bool) -> None:
    other = LABELS[::-1, :, ::-1] if own else LABELS * (LABELS % 2)  # classes apart, or one within the other
    labels = [LABELS * (other == 0), other] if own else [LABELS, other]
    semantic = np.stack(labels) > 0
    flow = np.concatenate([direct_flow(part) for part in labels])
    warn_of_prediction(semantic, flow, {"a": 0, "b": 1}, 0.5)
    with pytest.warns(UserWarning, match="class '[ab]' fits foreground better if the dz of all classes come first"):
        warn_of_prediction(
            semantic, flow.reshape(2, 3, 64, 64, 64).swapaxes(0, 1).reshape(6, 64, 64, 64), {"a": 0, "b": 1}, 0.5
        )


@pytest.mark.filterwarnings("ignore:class 'b' is skipped:UserWarning")
def test_all_dz_first_is_named_of_a_stored_flow_though_classes_are_skipped() -> None:
    semantic = np.stack([LABELS, LABELS[::-1]]) > 0
    flow = np.stack([direct_flow(LABELS), direct_flow(LABELS[::-1])], axis=1).reshape(6, *LABELS.shape)
    stored = (zarr.create_array({}, data=array) for array in (semantic.astype("u1"), flow))
    config = {"a": {"group": 1, "n_steps": 1, "convergence_radius": 4.0, "min_size": 1}}
    lazy = topo_dask.run_instance_segmentation(*stored, ["a", "b"], config)["a"]
    with pytest.warns(UserWarning, match="class 'a' fits foreground better if the dz of all classes come first"):
        lazy.blocks[0, 0, 0].compute()
