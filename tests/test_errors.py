"""Failing inputs, one row each: the call, the exception, the message. Nothing is written when a run is refused."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from blockwise import run_blocks
from click.testing import CliRunner
from command_line import invoke
from zarr.storage import ZipStore

import topo_dask
from topo_dask.cli import main
from topo_dask.config import ClassConfig
from topo_dask.plan import Recipe

SHAPE = (4, 5, 6)
MASK, FLOW = np.ones(SHAPE, bool), np.ones((3, *SHAPE), np.float32)
LABELS = np.ones(SHAPE, np.int32)
PROB = np.ones((1, *SHAPE), np.float32)
CONFIG = {"nuc": {"group": 1, "n_steps": 3, "convergence_radius": 2.0, "min_size": 1}}
NAN, INF = float("nan"), float("inf")

As = Callable[[np.ndarray], Any]


def as_numpy(array: np.ndarray) -> Any:
    return array


def as_dask(array: np.ndarray) -> Any:
    return da.from_array(array, chunks=3)


def as_zarr(array: np.ndarray) -> Any:
    return zarr.create_array({}, data=array, chunks=(3,) * array.ndim)


KINDS = [as_numpy, as_dask, as_zarr]


def compute(result: Any) -> Any:
    with dask.config.set(scheduler="synchronous"):
        return dask.compute(result)[0]


def track(a: As, mask: Any = MASK, flow: Any = FLOW, n_steps: Any = 2, step_size: Any = 1.0, **more: Any) -> Any:
    return topo_dask.track_flows(a(mask), a(flow), n_steps, step_size, **more)


def cluster(a: As, coords: Any, ends: Any, shape: Any = SHAPE, radius: Any = 2.0, min_size: Any = 0) -> Any:
    return topo_dask.cluster_convergence(a(np.asarray(coords)), a(np.asarray(ends)), shape, radius, min_size)


def single(a: As, mask: Any = MASK, flow: Any = FLOW, **parameters: Any) -> Any:
    return topo_dask.postprocess_single(a(mask), a(flow), **parameters)


def classes(a: As, prob: Any = PROB, flow: Any = FLOW, names: Any = ("nuc",), config: Any = CONFIG, **more: Any) -> Any:
    return topo_dask.run_instance_segmentation(a(prob), a(flow), names, config, **more)


def one(key: str, value: Any) -> dict[str, Any]:
    """A configuration with one parameter changed."""
    return {"nuc": {**CONFIG["nuc"], key: value}}


VOXEL = [[0, 0, 0]]

CALLS: list[tuple[Callable[[As], Any], type[Exception], str]] = [
    # Shapes.
    (lambda a: track(a, MASK[0]), ValueError, r"sem_mask must have 3 axes, got shape \(5, 6\)"),
    (lambda a: track(a, MASK[None]), ValueError, r"sem_mask must have 3 axes, got shape \(1, 4, 5, 6\)"),
    (
        lambda a: track(a, flow=FLOW[0]),
        ValueError,
        r"flow must have 4 axes, got shape \(4, 5, 6\); its first axis must be the channels: dz, dy, dx$",
    ),
    (lambda a: track(a, flow=FLOW[:2]), ValueError, r"flow must have shape \(3, 4, 5, 6\).* got \(2, 4, 5, 6\)"),
    (lambda a: track(a, flow=FLOW[..., :5]), ValueError, r"flow must have shape \(3, 4, 5, 6\).* got \(3, 4, 5, 5\)"),
    (lambda a: single(a, MASK[0]), ValueError, "sem_mask must have 3 axes"),
    (lambda a: single(a, flow=FLOW[:, :3]), ValueError, r"flow must have shape .*sem_mask; got \(3, 3, 5, 6\)"),
    (lambda a: topo_dask.compact_relabel(a(LABELS[0])), ValueError, "instances must have 3 axes"),
    (lambda a: topo_dask.filter_small(a(LABELS[None]), 3), ValueError, "instances must have 3 axes"),
    (lambda a: topo_dask.split_disconnected(a(LABELS[0])), ValueError, "instances must have 3 axes"),
    (lambda a: topo_dask.merge_adjacent(a(LABELS[0]), a(FLOW)), ValueError, "instances must have 3 axes"),
    (lambda a: topo_dask.agglomerate(a(LABELS), a(FLOW[:, 1:])), ValueError, "flow must have shape .*of instances"),
    (lambda a: topo_dask.remove_bad_flow_masks(a(LABELS), a(FLOW[:1])), ValueError, "pred_flow must have shape"),
    (lambda a: topo_dask.instance_table(a(LABELS), a(FLOW[:1])), ValueError, "flow must have shape"),
    (lambda a: topo_dask.instance_table(a(LABELS), a(FLOW), channel=1), ValueError, "has 3 channels, 3 for each class"),
    (lambda a: topo_dask.instance_table(a(LABELS), a(FLOW), channel=0.5), TypeError, "channel must be an integer"),
    (lambda a: classes(a, PROB[0]), ValueError, "semantic_pred must have 4 axes.*; put an axis .* length 1 in front"),
    (
        lambda a: classes(a, PROB[0, 0]),
        ValueError,
        r"semantic_pred .* got shape \(5, 6\); .* of 2-D data one of depth 1",
    ),
    (
        lambda a: classes(a, flow=FLOW[1:]),
        ValueError,
        "flow_pred must have 3 .* got 2; .* a dz of 0 before dy, dx",
    ),
    (
        lambda a: single(a, MASK[0], FLOW[:, 0]),
        ValueError,
        r"sem_mask must have 3 axes.*one plane: array\[None\],",
    ),
    (
        lambda a: classes(a, flow=FLOW[0]),
        ValueError,
        "flow_pred must have 4 axes.*; its first axis must be the channels: dz, dy, dx, of each class",
    ),
    (
        lambda a: classes(a, flow=np.moveaxis(FLOW, 0, -1)),
        ValueError,
        r"channels must be the first axis.*last of flow_pred of shape \(4, 5, 6, 3\).* np.moveaxis\(flow_pred, -1, 0\)",
    ),
    (
        lambda a: classes(a, np.moveaxis(PROB, 0, -1)),
        ValueError,
        r"the last of semantic_pred of shape \(4, 5, 6, 1\): .* np.moveaxis\(semantic_pred, -1, 0\)",
    ),
    (
        lambda a: classes(a, np.moveaxis(PROB, 0, -1), np.moveaxis(FLOW, 0, -1)),
        ValueError,
        r"the last of sem.* and the last of flow_pred.* np.moveaxis\(semantic_pred, -1, 0\) and np.moveaxis\(flow_",
    ),
    (
        lambda a: classes(a, np.moveaxis(PROB, 0, 1), np.moveaxis(FLOW, 0, 1)),
        ValueError,
        r"the second of semantic_pred of shape \(4, 1, 5, 6\) and the second of flow_pred.* np.moveaxis\(semantic_pred",
    ),
    (lambda a: classes(a, flow=FLOW[:2]), ValueError, "3 channels for each of the 1 classes .* got 2"),
    (lambda a: classes(a, flow=np.concatenate([FLOW, FLOW])), ValueError, "3 channels for each .* got 6"),
    (lambda a: classes(a, flow=FLOW[..., 1:]), ValueError, r"the same volume, got \(4, 5, 5\) and \(4, 5, 6\)"),
    (lambda a: cluster(a, [0, 0, 0], VOXEL), ValueError, r"fg_coords must have shape \(N, 3\), got \(3,\)"),
    (lambda a: cluster(a, VOXEL, [[0.0, 0.0]]), ValueError, r"final_positions must have shape \(N, 3\), got \(1, 2\)"),
    (lambda a: cluster(a, VOXEL * 2, np.zeros((1, 3))), ValueError, "2 rows but final_positions has 1"),
    (lambda a: cluster(a, VOXEL, np.zeros((1, 3)), (4, 5)), TypeError, r"volume_shape must be three integers"),
    (lambda a: cluster(a, VOXEL, np.zeros((1, 3)), 4.5), TypeError, r"volume_shape must be three integers .* got 4.5"),
    (lambda a: cluster(a, VOXEL, np.zeros((1, 3)), (4, -5, 6)), ValueError, "volume_shape must be at least 0"),
    (lambda a: cluster(a, VOXEL, np.zeros((1, 3)), (2**70, 1, 1)), ValueError, r"volume_shape must be below 2\*\*53"),
    (lambda a: cluster(a, VOXEL, np.zeros((1, 3)), (2**40, 1, 1)), ValueError, "volume_shape has .* may have up to"),
    (lambda a: cluster(a, VOXEL, np.zeros((1, 3)), (10**7,) * 3), ValueError, "volume_shape has .* may have up to"),
    (lambda a: cluster(a, VOXEL, np.zeros((1, 3)), (4, 0, 6)), ValueError, r"fg_coords must lie in .*\(4, 0, 6\), got"),
    # Types and values of arrays.
    (lambda a: track(a, MASK.astype(complex)), TypeError, "sem_mask must hold booleans, integers or floats .*complex"),
    (lambda a: track(a, flow=FLOW.astype(complex)), TypeError, "flow must hold booleans, integers or floats"),
    (lambda a: classes(a, PROB.astype(complex)), TypeError, "semantic_pred must hold booleans, integers or floats"),
    (
        lambda a: topo_dask.compact_relabel(a(LABELS * 1.0)),
        TypeError,
        "instances must hold integers, got dtype float64",
    ),
    (lambda a: topo_dask.filter_small(a(LABELS * 1.0), 1), TypeError, "instances must hold integers"),
    (lambda a: topo_dask.split_disconnected(a(LABELS * 1j)), TypeError, "instances must hold .*complex128"),
    (lambda a: topo_dask.merge_adjacent(a(LABELS * 1.0), a(FLOW)), TypeError, "instances must hold integers"),
    (
        lambda a: topo_dask.agglomerate(a(LABELS), a(FLOW * 1j)),
        TypeError,
        "flow must hold booleans, integers or floats",
    ),
    (lambda a: topo_dask.remove_bad_flow_masks(a(LABELS * 1.0), a(FLOW)), TypeError, "instances must hold integers"),
    (lambda a: topo_dask.compact_relabel(a(-LABELS)), ValueError, "instances must not be negative, got -1"),
    (lambda a: topo_dask.filter_small(a(LABELS - 3), 1), ValueError, "instances must not be negative, got -2"),
    (lambda a: topo_dask.split_disconnected(a(-LABELS)), ValueError, "must not be negative"),
    (lambda a: topo_dask.merge_adjacent(a(-LABELS), a(FLOW)), ValueError, "must not be negative"),
    (lambda a: topo_dask.agglomerate(a(-LABELS), a(FLOW)), ValueError, "must not be negative"),
    (lambda a: topo_dask.remove_bad_flow_masks(a(-LABELS), a(FLOW)), ValueError, "must not be negative"),
    (lambda a: topo_dask.instance_table(a(-LABELS)), ValueError, "must not be negative"),
    (lambda a: cluster(a, [[0.0, 0, 0]], np.zeros((1, 3))), TypeError, "fg_coords must hold integers, got .*float64"),
    (lambda a: cluster(a, [[0, 5, 0]], np.zeros((1, 3))), ValueError, r"fg_coords must lie in .*\(4, 5, 6\)"),
    (
        lambda a: cluster(a, [*VOXEL, [0, -1, 0]], np.zeros((2, 3))),
        ValueError,
        r"fg_coords must lie in .*\(4, 5, 6\), got \[ 0 -1  0\] in row 1",
    ),
    (lambda a: cluster(a, np.array(VOXEL, np.uint64) - 2**63, np.zeros((1, 3))), ValueError, "fg_coords must lie in"),
    (
        lambda a: cluster(a, [[0, 0, 1], *VOXEL, [0, 0, 1]], np.zeros((3, 3))),
        ValueError,
        r"fg_coords must name each voxel once; \(0, 0, 1\) is there twice",
    ),
    (lambda a: cluster(a, VOXEL, np.zeros((2, 3))), ValueError, "fg_coords has 1 rows but final_positions has 2"),
    (lambda a: cluster(a, VOXEL, np.zeros((1, 3), complex)), TypeError, "final_positions must hold .*complex128"),
    (lambda a: cluster(a, VOXEL, [[NAN, 0, 0]]), ValueError, "final_positions.*finite"),
    (lambda a: cluster(a, VOXEL, [[INF, 0, 0]]), ValueError, "final_positions.*finite"),
    (
        lambda a: cluster(a, VOXEL, [[0, 0, 1e12]]),
        ValueError,
        r"2\*\*16 .* outside the volume \(4, 5, 6\), got .*1\.e\+12",
    ),
    (lambda a: cluster(a, VOXEL, [[0, -65537.0, 0]]), ValueError, r"final_positions.* outside .*-65537"),
    (lambda a: cluster(a, VOXEL, [[65541.0, 0, 0]]), ValueError, r"final_positions.* outside .*65541"),
    (
        lambda a: classes(a, np.where(np.arange(6) == 2, NAN, PROB)),
        ValueError,
        r"semantic_pred is NaN at voxel \(0, 0, 2\)",
    ),
    (lambda a: single(a, np.where(np.arange(6) == 2, NAN, MASK)), ValueError, r"sem_mask is NaN at voxel \(0, 0, 2\)"),
    (lambda a: track(a, np.where(np.arange(6) == 2, NAN, MASK)), ValueError, r"sem_mask is NaN at voxel \(0, 0, 2\)"),
    (lambda a: topo_dask.merge_adjacent(a(LABELS + (np.arange(6) > 2)), a(FLOW * NAN)), ValueError, "finite"),
    (lambda a: topo_dask.agglomerate(a(LABELS + (np.arange(6) > 2)), a(FLOW * INF)), ValueError, "finite"),
    (lambda a: topo_dask.remove_bad_flow_masks(a(LABELS), a(FLOW * NAN)), ValueError, "finite"),
    # Parameters.
    (lambda a: track(a, n_steps=-1), ValueError, "n_steps must be at least 0, got -1"),
    (lambda a: track(a, n_steps=2.5), TypeError, "n_steps must be an integer, got 2.5"),
    (lambda a: track(a, n_steps=NAN), TypeError, "n_steps must be an integer, got nan"),
    (lambda a: track(a, n_steps=True), TypeError, "n_steps must be an integer, got True"),
    (lambda a: track(a, n_steps=10**30), ValueError, "n_steps must be .*, got 1000000"),
    (lambda a: track(a, step_size=0), ValueError, "step_size must be above 0 .* got 0"),
    (lambda a: track(a, step_size=-1.0), ValueError, "step_size must be above 0 .* got -1.0"),
    (lambda a: track(a, step_size=NAN), ValueError, "step_size must be finite, got nan"),
    (lambda a: track(a, step_size=1e300), ValueError, r"step_size must be .* below 1e30, got 1e\+300"),
    (lambda a: track(a, step_size="1"), TypeError, "step_size must be a number, got '1'"),
    (lambda a: single(a, n_steps=-1), ValueError, "n_steps must be at least 0"),
    (lambda a: single(a, step_size=INF), ValueError, "step_size must be finite, got inf"),
    (lambda a: single(a, convergence_radius=0), ValueError, "convergence_radius must be above 0 .* got 0"),
    (lambda a: single(a, convergence_radius=-2.0), ValueError, "convergence_radius must be above 0 .* got -2"),
    (lambda a: single(a, convergence_radius=NAN), ValueError, "convergence_radius must be finite, got nan"),
    (lambda a: single(a, convergence_radius=None), TypeError, "convergence_radius must be a number, got None"),
    (lambda a: single(a, min_size=-1), ValueError, "min_size must be at least 0, got -1"),
    (lambda a: single(a, min_size=1.5), TypeError, "min_size must be an integer, got 1.5"),
    (lambda a: single(a, group=0), ValueError, "group must be 1, 2 or 3, got 0"),
    (lambda a: single(a, group=4), ValueError, "group must be 1, 2 or 3, got 4"),
    (lambda a: single(a, group="1"), ValueError, "group must be 1, 2 or 3, got '1'"),
    (lambda a: single(a, group=True), ValueError, "group must be 1, 2 or 3, got True"),
    (lambda a: single(a, group=NAN), ValueError, "group must be 1, 2 or 3, got nan"),
    (lambda a: single(a, merge="all"), ValueError, "merge must be None, 'adjacent' or 'agglomerate', got 'all'"),
    (lambda a: single(a, flow_error_threshold=-0.1), ValueError, "flow_error_threshold must be 0 or more, got -0.1"),
    (lambda a: single(a, flow_error_threshold=INF), ValueError, "flow_error_threshold must be finite"),
    (lambda a: cluster(a, VOXEL, np.zeros((1, 3)), radius=0.0), ValueError, "convergence_radius must be above 0"),
    (lambda a: cluster(a, VOXEL, np.zeros((1, 3)), radius=NAN), ValueError, "convergence_radius must be finite"),
    (lambda a: cluster(a, VOXEL, np.zeros((1, 3)), min_size=-1), ValueError, "min_size must be at least 0"),
    (lambda a: topo_dask.filter_small(a(LABELS), -1), ValueError, "min_size must be at least 0, got -1"),
    (lambda a: topo_dask.filter_small(a(LABELS), 1.0), TypeError, "min_size must be an integer, got 1.0"),
    (lambda a: topo_dask.split_disconnected(a(LABELS), NAN), ValueError, "min_fragment_ratio must be finite, got nan"),
    (lambda a: topo_dask.split_disconnected(a(LABELS), -0.1), ValueError, "min_fragment_ratio must be 0 or more"),
    (lambda a: topo_dask.merge_adjacent(a(LABELS), a(FLOW), NAN), ValueError, "dot_threshold must .*, got nan"),
    (lambda a: topo_dask.merge_adjacent(a(LABELS), a(FLOW), "0"), (TypeError, ValueError), "dot_threshold must .* '0'"),
    (lambda a: topo_dask.agglomerate(a(LABELS), a(FLOW), NAN), ValueError, "threshold must .*, got nan"),
    (lambda a: topo_dask.agglomerate(a(LABELS), a(FLOW), 1j), (TypeError, ValueError), "threshold must .*, got 1j"),
    (lambda a: topo_dask.remove_bad_flow_masks(a(LABELS), a(FLOW), NAN), ValueError, "threshold must be finite"),
    (lambda a: topo_dask.remove_bad_flow_masks(a(LABELS), a(FLOW), -1), ValueError, "^threshold must be 0 or more"),
    (lambda a: classes(a, names=()), ValueError, r"the semantic array has 1, got 0: \(\)"),
    (lambda a: classes(a, names=("nuc", "mito")), ValueError, "the semantic array has 1, got 2: "),
    (lambda a: classes(a, names="nuc"), TypeError, "class_names must be a sequence of str, got 'nuc'"),
    (lambda a: classes(a, names=(3,)), TypeError, r"class_names must be a sequence of str, got \(3,\)"),
    (lambda a: classes(a, names=7), TypeError, "class_names must be a sequence of str, got 7"),
    (
        lambda a: classes(a, np.concatenate([PROB, PROB]), np.concatenate([FLOW, FLOW]), names=("nuc", "nuc")),
        ValueError,
        "class_names must differ",
    ),
    (
        lambda a: classes(a, names={"nuc"}),
        TypeError,
        "class_names must be .* in the order of the channels, got {'nuc'}",
    ),
    (lambda a: classes(a, names=CONFIG), TypeError, "class_names must be .* in the order of the channels, got {'nuc'"),
    (
        lambda a: classes(a, names=None),
        ValueError,
        "class_names is not given, .* name the class of each channel, as in class_names=.'nuc'.$",
    ),
    (
        lambda a: classes(a, names=None, config=None, resolution_nm=8),
        ValueError,
        "class_names is not given, .* name the class of each channel$",
    ),
    (lambda a: classes(a, config=3), TypeError, "class_config must map class names to parameters, got 3"),
    (lambda a: classes(a, config={"nuc": 3}), TypeError, r"class_config\['nuc'\] must be a mapping .* got 3"),
    (lambda a: classes(a, config=one("radius", 3)), ValueError, r"class_config\['nuc'\]: unknown parameter 'radius'"),
    (lambda a: classes(a, config=one("group", 9)), ValueError, r"class_config\['nuc'\]: group must be 1, 2 or 3"),
    (lambda a: single(a, group=np.array([1, 2])), ValueError, r"group must be 1, 2 or 3, got array\(\[1, 2\]\)"),
    (lambda a: topo_dask.instance_table(a(LABELS), channel=3), ValueError, "channel=3 .* of pred_flow, which is not"),
    (lambda a: classes(a, PROB[:0], FLOW[:0], ()), ValueError, "the 0 classes of semantic_pred, got 0$"),
    (lambda a: classes(a, config=one("n_steps", NAN)), TypeError, r"class_config\['nuc'\]: n_steps must be an integer"),
    (lambda a: classes(a, config=one("merge", "x")), ValueError, r"class_config\['nuc'\]: merge must be None"),
    (lambda a: classes(a, flow_error_threshold=NAN), ValueError, "flow_error_threshold must be finite"),
    (lambda a: classes(a, config=None, resolution_nm=0), ValueError, "resolution_nm must be above 0, got 0"),
    (lambda a: classes(a, config=None, resolution_nm=-8), ValueError, "resolution_nm must be above 0, got -8"),
    (lambda a: classes(a, config=None, resolution_nm=NAN), ValueError, "resolution_nm must be finite, got nan"),
    (lambda a: classes(a, config=None, resolution_nm="8"), TypeError, "resolution_nm must be a number, got '8'"),
    (lambda a: classes(a, resolution_nm=-8), ValueError, "resolution_nm must be above 0, got -8"),
    (lambda a: classes(a, resolution_nm="8"), TypeError, "resolution_nm must be a number, got '8'"),
    (lambda a: classes(a, threshold=NAN), ValueError, "threshold must be finite, got nan"),
    (lambda a: classes(a, threshold="0.5"), TypeError, "threshold must be a number, got '0.5'"),
    (lambda a: classes(a, threshold=None), TypeError, "threshold must be a number, got None"),
    (lambda a: classes(a, threshold=True), TypeError, "threshold must be a number, got True"),
    (lambda a: topo_dask.get_postprocess_config(0), ValueError, "resolution_nm must be above 0, got 0"),
    (lambda a: topo_dask.get_postprocess_config(INF), ValueError, "resolution_nm must be finite, got inf"),
    (lambda a: topo_dask.get_postprocess_config("8"), TypeError, "resolution_nm must be a number, got '8'"),
]


def row_ids(rows: list[Any]) -> list[str]:
    return [f"{i}: {row[-1]}" for i, row in enumerate(rows)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("call", "error", "message"), CALLS, ids=row_ids(CALLS))
def test_functions_refuse(kind: As, call: Callable[[As], Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        compute(call(kind))


@pytest.mark.parametrize("kind", [as_numpy, as_dask])
@pytest.mark.parametrize("dtype", [object, "U3", "M8[s]", [("a", "f4")], np.longdouble])
def test_functions_refuse_what_is_no_number(kind: As, dtype: Any) -> None:
    odd = {3: np.zeros(SHAPE, dtype), 4: np.zeros((1, *SHAPE), dtype), 5: np.zeros((3, *SHAPE), dtype)}
    for call, name in (
        (lambda: track(kind, odd[3]), "sem_mask"),
        (lambda: track(kind, flow=odd[5]), "flow"),
        (lambda: topo_dask.compact_relabel(kind(odd[3])), "instances"),
        (lambda: topo_dask.remove_bad_flow_masks(kind(LABELS), kind(odd[5])), "pred_flow"),
        (lambda: classes(kind, odd[4]), "semantic_pred"),
        (lambda: classes(kind, flow=odd[5]), "flow_pred"),
    ):
        with pytest.raises(TypeError, match=f"{name} must hold booleans, integers or floats of at most 64 bits"):
            compute(call())


def masked(array: np.ndarray) -> Any:
    return np.ma.masked_array(array, True)


def masked_lazily(array: np.ndarray) -> Any:
    return da.from_array(array, chunks=3).map_blocks(masked, dtype=array.dtype)


@pytest.mark.parametrize("kind", [masked, masked_lazily])
def test_masks_are_not_lost(kind: As) -> None:
    rows, ends = np.zeros((2, 3), np.int64), np.zeros((2, 3))
    for call, name in (
        (lambda: topo_dask.track_flows(kind(MASK), FLOW, 2), "sem_mask"),
        (lambda: topo_dask.postprocess_single(MASK, kind(FLOW)), "flow"),
        (lambda: classes(as_numpy, kind(PROB)), "semantic_pred"),
        (lambda: topo_dask.run_instance_segmentation(PROB, kind(FLOW), ["nuc"], CONFIG), "flow_pred"),
        (lambda: topo_dask.compact_relabel(kind(LABELS)), "instances"),
        (lambda: topo_dask.instance_table(LABELS, kind(FLOW)), "flow"),
        (lambda: topo_dask.cluster_convergence(kind(rows), ends, SHAPE, 2.0), "fg_coords"),
        (lambda: topo_dask.cluster_convergence(rows, kind(ends), SHAPE, 2.0), "final_positions"),
    ):
        with pytest.raises(TypeError, match=f"{name}.* has masked values, which would count"):
            compute(call())
    np.testing.assert_array_equal(single(np.ma.masked_array, min_size=1), single(as_numpy, min_size=1))


UNLIKE: list[tuple[str, Callable[[np.ndarray], np.ndarray], type[Exception], str]] = [
    (
        "flow",
        lambda chunk: chunk[:1],
        ValueError,
        r"chunk \(0, 0, \d, 0\) .*, \(3, 4, \d, 6\), got \(1, 4, \d, 6\)",
    ),
    ("flow", lambda chunk: chunk[:, :, :, :3], ValueError, r"shape that it declares, .*, got \(3, 4, \d, 3\)"),
    ("flow", lambda chunk: chunk.astype("f8"), TypeError, "what it declares, float32, got float64: .* dtype="),
    (
        "sem_mask",
        lambda chunk: chunk[None],
        ValueError,
        r"shape that it declares, .*, got \(1, \d, \d, \d\): .* chunks=",
    ),
    ("sem_mask", lambda chunk: chunk * 0.5, TypeError, "what it declares, bool, got float64"),
    ("instances", lambda chunk: chunk + 0.5, TypeError, "what it declares, int32, got float64"),
    ("instances", lambda chunk: chunk.astype("i8"), TypeError, "what it declares, int32, got int64"),
    ("fg_coords", lambda chunk: chunk + 0.5, TypeError, "what it declares, int64, got float64"),
    ("final_positions", lambda chunk: chunk[:, :1], ValueError, r"declares, \(3, 3\), got \(3, 1\)"),
    ("final_positions", lambda chunk: chunk * 1j, TypeError, "what it declares, float64, got complex128"),
]


@pytest.mark.parametrize(("name", "change", "error", "message"), UNLIKE, ids=row_ids(UNLIKE))
def test_chunks_unlike_what_their_array_declares_are_refused(
    name: str, change: Callable[[np.ndarray], np.ndarray], error: type[Exception], message: str
) -> None:
    def taken(array: np.ndarray, own: str) -> Any:
        lazy = da.from_array(array, chunks=3 if array.ndim < 4 else (3, 4, 3, 6))
        return lazy.map_blocks(change, dtype=array.dtype, meta=lazy._meta) if own == name else lazy

    taken_rows = taken(np.argwhere(MASK), "fg_coords"), taken(np.argwhere(MASK) * 1.0, "final_positions")
    mask, flow, labels = taken(MASK, "sem_mask"), taken(FLOW, "flow"), taken(LABELS, "instances")
    call = {
        "instances": lambda: topo_dask.filter_small(labels, 1),
        "fg_coords": (clustered := lambda: topo_dask.cluster_convergence(*taken_rows, SHAPE)),
        "final_positions": clustered,
    }.get(name, lambda: topo_dask.postprocess_single(mask, flow))
    with pytest.raises(error, match=f"^{name}: .*{message}"):
        compute(call())


def test_chunks_may_be_of_a_smaller_type_or_another_byte_order() -> None:
    mask = da.from_array(MASK).map_blocks(lambda chunk: chunk, dtype="u1", meta=np.empty((0,) * 3, "u1"))
    flow = da.from_array(FLOW).map_blocks(lambda chunk: chunk.astype(">f2"), dtype="f4", meta=np.empty((0,) * 4, "f4"))
    found = topo_dask.postprocess_single(mask, flow, min_size=1)
    np.testing.assert_array_equal(compute(found), single(as_numpy, min_size=1))


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (None, "None"),
        ("mask.zarr", "'mask.zarr'"),
        (Path("mask.zarr"), r"PosixPath\('mask.zarr'\)"),
        (zarr.create_group({}), "<Group memory:"),
    ],
    ids=["None", "text", "path", "group"],
)
def test_functions_of_arrays_refuse_what_is_none(given: Any, got: str) -> None:
    for name, call in (
        ("sem_mask", lambda: topo_dask.postprocess_single(given, FLOW)),
        ("flow", lambda: topo_dask.track_flows(as_dask(MASK), given, 2)),
        ("instances", lambda: topo_dask.compact_relabel(given)),
        ("semantic_pred", lambda: topo_dask.run_instance_segmentation(given, FLOW, ["nuc"], CONFIG)),
        ("fg_coords", lambda: topo_dask.cluster_convergence(given, VOXEL, SHAPE)),
    ):
        with pytest.raises(TypeError, match=f"^{name} must be an array, got {got}.*; segment_volume takes paths$"):
            call()


def test_masks_of_the_parts_of_lists_are_not_lost() -> None:
    with pytest.raises(TypeError, match=r"^flow has masked values"):
        topo_dask.postprocess_single(MASK, [np.ma.masked_equal(part, 1) for part in FLOW])
    with pytest.raises(TypeError, match=r"^instances has masked values"):
        topo_dask.compact_relabel([[np.ma.masked_array([0, 70, 4], [0, 0, 1])]])
    np.testing.assert_array_equal(topo_dask.compact_relabel([[np.ma.masked_array([0, 70, 4])]]), [[[0, 2, 1]]])


def test_lists_of_lazy_arrays_are_not_computed() -> None:
    def deny(block: np.ndarray) -> np.ndarray:
        raise AssertionError("computed")

    parts = [da.from_array(part).map_blocks(deny, dtype="f4", meta=np.empty((0,) * 3, "f4")) for part in FLOW]
    for kind in (list, tuple):
        with pytest.raises(
            TypeError, match=f"^flow is a {kind.__name__} of lazy arrays, got 3: join them with da.stack"
        ):
            topo_dask.postprocess_single(MASK, kind(parts))
    with pytest.raises(TypeError, match=r"^instances is a list of lazy arrays, got 1"):
        topo_dask.compact_relabel([[da.from_array(LABELS[0, 0])]])
    np.testing.assert_array_equal(
        single(as_numpy, min_size=1), topo_dask.postprocess_single(MASK, list(FLOW), min_size=1)
    )


def test_zarr_arrays_whose_axes_are_in_another_order_are_refused() -> None:
    def named(array: np.ndarray, *axes: str) -> Any:
        return zarr.create_array({}, data=array, dimension_names=axes)

    mask, flow = named(MASK, "z", "y", "x"), named(FLOW, "c", "z", "y", "x")
    assert compute(topo_dask.postprocess_single(mask, flow, min_size=1)).max() == 1
    mask_xyz, flow_xyz, last = named(MASK, "x", "y", "z"), named(FLOW, "c", "x", "y", "z"), named(PROB, *"zyxc")
    for name, call in (
        ("sem_mask", lambda: topo_dask.postprocess_single(mask_xyz, flow)),
        ("flow", lambda: topo_dask.track_flows(mask, flow_xyz, 3)),
        ("instances", lambda: topo_dask.filter_small(mask_xyz, 1)),
        ("semantic_pred", lambda: topo_dask.run_instance_segmentation(last, flow, ["nuc"], CONFIG)),
    ):
        with pytest.raises(ValueError, match=f"^{name}: the last three axes must be z, y, x; got"):
            call()


@pytest.mark.skipif("rectilinear_chunks" not in zarr.config.get("array"), reason="zarr has chunks of one shape only")
@pytest.mark.parametrize("sharded", [False, True])
def test_zarr_arrays_in_chunks_of_several_shapes_are_refused(sharded: bool, tmp_path: Path) -> None:
    def uneven(array: np.ndarray) -> Any:
        sides: Any = [[size] if axis == 0 else [1, size - 1] for axis, size in enumerate(array.shape)]
        layout = {"chunks": (1,) * array.ndim, "shards": sides} if sharded else {"chunks": sides}
        return zarr.create_array({}, shape=array.shape, dtype=array.dtype, fill_value=0, **layout)

    mask, prob, flow = as_zarr(MASK), as_zarr(PROB), as_zarr(FLOW)
    run: Any = {"class_names": ["nuc"], "class_config": CONFIG, "scratch": tmp_path / "s"}
    for name, call in (
        ("sem_mask", lambda: topo_dask.postprocess_single(uneven(MASK), flow)),
        ("flow", lambda: topo_dask.postprocess_single(mask, uneven(FLOW))),
        ("instances", lambda: topo_dask.instance_table(uneven(LABELS))),
        ("truth .*", lambda: topo_dask.scores.contingency(uneven(LABELS), LABELS)),
        ("semantic", lambda: topo_dask.segment_volume(uneven(PROB), flow, tmp_path / "out", **run)),
        ("output", lambda: topo_dask.segment_volume(prob, flow, uneven(LABELS), **run)),
    ):
        message = f"^{name} has a rectilinear chunk grid; expected chunks of one shape: rechunk the array first"
        with zarr.config.set({"array.rectilinear_chunks": True}), pytest.raises(ValueError, match=message):
            call()
    assert not list(tmp_path.iterdir())


LAZY_OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"block_shape": 0}, ValueError, r"block_shape must be at least 1 along every axis, got \(0, 0, 0\)"),
    ({"block_shape": ()}, TypeError, r"block_shape must be three integers .* got \(\)"),
    ({"block_shape": (4, -1, 4)}, ValueError, r"block_shape must be at least 1 .* got \(4, -1, 4\)"),
    ({"block_shape": (1, 2, 3, 4)}, TypeError, r"block_shape must be three integers .* got \(1, 2, 3, 4\)"),
    ({"block_shape": (1.5, 2, 3)}, TypeError, r"block_shape must be three integers .* got \(1.5, 2, 3\)"),
    ({"block_shape": 10**19}, ValueError, r"block_shape must be below 2\*\*53 along every axis"),
    ({"block_shape": "abc"}, TypeError, "block_shape must be three integers .* got 'abc'"),
    ({"scratch": b"/tmp"}, TypeError, "scratch must be a path or a URL, got b'/tmp'"),
    ({"scratch": ""}, ValueError, "scratch must be a path or a URL, got ''"),
    ({"scratch": 3}, TypeError, "scratch must be a path or a URL, got 3"),
    ({"scratch": __file__}, FileExistsError, f"{__file__} is a file, but .* needed there for the scratch of lazy"),
    ({"scratch": "/tmp/a::b"}, ValueError, "scratch must be a path or a URL without '::', .* got '/tmp/a::b'"),
    ({"scratch": "none://a"}, ValueError, "scratch none://a: Protocol not known: none"),
    ({"halo": -1}, ValueError, r"halo must be at least 0 .* got \(-1, -1, -1\)"),
    ({"halo": (1, 2)}, TypeError, r"halo must be three integers .* got \(1, 2\)"),
    ({"halo": 1.5}, TypeError, "halo must be three integers .* got 1.5"),
    ({"halo": 10**19}, ValueError, r"halo must be below 2\*\*53 along every axis"),
    ({"halo": True}, TypeError, "halo must be three integers .* got True"),
]


def test_chunks_of_unknown_size_are_refused() -> None:
    some = da.ones(SHAPE[0], chunks=2, dtype=bool)
    mask, flow, labels = da.from_array(MASK)[some], da.from_array(FLOW)[:, some], da.from_array(LABELS)[some]
    for name, call in (
        ("sem_mask", lambda: topo_dask.postprocess_single(mask, flow)),
        ("flow", lambda: topo_dask.postprocess_single(MASK, flow)),
        ("semantic_pred", lambda: topo_dask.run_instance_segmentation(mask[None], flow, ["nuc"], CONFIG)),
        ("instances", lambda: topo_dask.compact_relabel(labels)),
    ):
        with pytest.raises(ValueError, match=f"^{name} has chunks of unknown size; call its compute_chunk_sizes"):
            call()


@pytest.mark.parametrize("kind", [as_dask, as_zarr])
@pytest.mark.parametrize(("options", "error", "message"), LAZY_OPTIONS, ids=row_ids(LAZY_OPTIONS))
def test_lazy_options_are_refused(kind: As, options: dict[str, Any], error: type[Exception], message: str) -> None:
    for call in (track, single, classes):
        with pytest.raises(error, match=message):
            call(kind, **options)
    if "halo" not in options:
        with pytest.raises(error, match=message):
            topo_dask.cluster_convergence(kind(np.array(VOXEL)), kind(np.array(VOXEL)), SHAPE, **options)


@pytest.mark.parametrize("kind", [as_dask, as_zarr])
@pytest.mark.parametrize("name", ["..", "../up", "a/b", "a\\b", "", ".", "x" * 300, "inputs", "spilled", "labels"])
def test_lazy_labels_of_classes_with_odd_names_stay_in_scratch(kind: As, name: str, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    found = classes(kind, names=(name,), config={name: CONFIG["nuc"]}, scratch=str(scratch))
    np.testing.assert_array_equal(compute(found[name]), classes(as_numpy)["nuc"])
    assert list(tmp_path.iterdir()) == [scratch]
    assert [path.name[:10] for path in scratch.iterdir()] == ["topo_dask-"]


# ------------------------------------------------------------ flow that is not finite


def line(value: float, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """A voxel at (1, 1, 2) that flows along x; a bad component at (1, 1, 30)."""
    mask, flow = np.zeros((3, 3, 40), bool), np.zeros((3, 3, 3, 40), dtype)
    mask[1, 1, 2], flow[2] = True, 1
    flow[1, 1, 1, 30] = value
    return mask, flow


def in_blocks(mask: np.ndarray, flow: np.ndarray, n_steps: int, halo: int) -> np.ndarray:
    config = ClassConfig(n_steps=n_steps, min_size=1)
    return run_blocks(Recipe.of(config), (2, 2, 8), (halo,) * 3, config=config, mask=mask, flow=flow)


WAYS: dict[str, Callable[[np.ndarray, np.ndarray, int], Any]] = {
    "track": lambda mask, flow, n: topo_dask.track_flows(mask, flow, n)[1],
    "in memory": lambda mask, flow, n: topo_dask.postprocess_single(mask, flow, n, min_size=1),
    "blocks, no halo": lambda mask, flow, n: in_blocks(mask, flow, n, 0),
    "blocks, small halo": lambda mask, flow, n: in_blocks(mask, flow, n, 3),
    "blocks, large halo": lambda mask, flow, n: in_blocks(mask, flow, n, 1000),
    "dask": lambda mask, flow, n: topo_dask.postprocess_single(as_dask(mask), as_dask(flow), n, min_size=1, halo=0),
    "zarr": lambda mask, flow, n: topo_dask.track_flows(as_zarr(mask), as_zarr(flow), n, block_shape=(3, 3, 8))[1],
}


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("way", WAYS)
def test_flow_under_a_particle_must_be_finite(way: str, dtype: str, value: float) -> None:
    mask, flow = line(value, dtype)
    with pytest.raises(ValueError, match=r"flow is not finite at voxel \(1, 1, 30\)"):
        compute(WAYS[way](mask, flow, 29))
    clean = np.where(np.isfinite(flow), flow, 0).astype(dtype)
    np.testing.assert_array_equal(compute(WAYS[way](mask, flow, 28)), compute(WAYS[way](mask, clean, 28)))


@pytest.mark.parametrize("way", WAYS)
def test_flow_where_no_particle_goes_does_not_matter(way: str) -> None:
    mask, flow = line(0, "float32")
    flow[:, 0], flow[:, 2, :, ::2], flow[:, 1, 1, :2] = NAN, INF, -INF
    clean = np.where(np.isfinite(flow), flow, 0).astype(np.float32)
    np.testing.assert_array_equal(compute(WAYS[way](mask, flow, 50)), compute(WAYS[way](mask, clean, 50)))


@pytest.mark.filterwarnings("ignore:semantic_pred holds nothing above the threshold")
@pytest.mark.parametrize(
    ("dtype", "threshold"),
    [
        (dtype, value)
        for dtype in ("float16", "float32", "float64", "uint8", "bool")
        for value in (1e300, -1e300, 70000.0)
    ],
)
def test_thresholds_beyond_the_type_of_the_probabilities(dtype: str, threshold: float) -> None:
    for kind in KINDS:
        labels = compute(classes(kind, PROB.astype(dtype), threshold=threshold)["nuc"])
        assert (labels == (threshold < 0)).all()


def test_a_halo_larger_than_the_volume_works() -> None:
    expected = classes(as_numpy)["nuc"]
    for kind in (as_dask, as_zarr):
        np.testing.assert_array_equal(compute(classes(kind, halo=(10**9, 7, 0), block_shape=2)["nuc"]), expected)


# ------------------------------------------------------------ segment_volume


def segment(place: Path, *arrays: Any, **changes: Any) -> Any:
    settings = {"class_names": ["nuc"], "class_config": CONFIG, "block_shape": 4, "progress": False, **changes}
    semantic, flow, output = (*arrays, *(as_zarr(PROB), as_zarr(FLOW), place / "out")[len(arrays) :])
    return topo_dask.segment_volume(semantic, flow, output, **settings)


def large() -> list[Any]:
    return [zarr.create_array({}, shape=(n, 256, 256, 256), chunks=(n, 64, 64, 64), dtype="f4") for n in (1, 3)]


def unsafe(place: Path, name: str) -> Any:
    return segment(place, class_names=[name], class_config={name: CONFIG["nuc"]})


RUNS: list[tuple[Callable[[Path], Any], type[Exception], str]] = [
    (
        lambda p: segment(p, PROB),
        TypeError,
        "semantic must be a path, a URL or a zarr.Array, got ndarray: run_instance_.*; or write",
    ),
    (lambda p: segment(p, as_zarr(PROB), 3), TypeError, "flow must be a path, a URL or a zarr.Array, got int"),
    (lambda p: segment(p, as_dask(PROB)), TypeError, "got Array of dask: write it with to_zarr, or see run_instance_"),
    (lambda p: segment(p, p / "none"), FileNotFoundError, "none: there is no zarr array .*: no such path"),
    (lambda p: segment(p, p), FileNotFoundError, "there is no zarr array and no zarr group$"),
    (lambda p: segment(p, as_zarr(PROB), str(p / "none")), FileNotFoundError, "none: there is no zarr array"),
    (lambda p: segment(p, as_zarr(PROB), as_zarr(FLOW), 3), TypeError, "output must be a path, a URL, .* got int"),
    (lambda p: segment(p, as_zarr(PROB), as_zarr(FLOW), ""), ValueError, "output must be a path or a URL, got ''"),
    (
        lambda p: segment(p, as_zarr(PROB), as_zarr(FLOW), "simplecache::memory://labels"),
        ValueError,
        "output must be a path or a URL without '::', which chains several, got 'simplecache::memory://labels'",
    ),
    (
        lambda p: segment(p, as_zarr(PROB), as_zarr(FLOW), "memory://"),
        ValueError,
        "output must be a folder, next to which are scratch and tables, got 'memory://'",
    ),
    (lambda p: segment(p, ""), ValueError, "semantic must be a path or a URL, got ''"),
    (lambda p: segment(p, "none://a"), ValueError, "semantic none://a: Protocol not known: none"),
    (lambda p: segment(p, as_zarr(PROB[0])), ValueError, "^semantic must have 4 axes"),
    (lambda p: segment(p, as_zarr(PROB), as_zarr(FLOW[:2])), ValueError, "3 channels for each .* of semantic, got 2"),
    (
        lambda p: segment(p, as_zarr(PROB), as_zarr(FLOW[:, 1:])),
        ValueError,
        "^flow and semantic must cover the same volume",
    ),
    (lambda p: segment(p, as_zarr(PROB * 1j)), TypeError, "^semantic must hold .*complex"),
    (lambda p: segment(p, as_zarr(PROB), as_zarr(FLOW * 1j)), TypeError, "^flow must hold .*complex"),
    (lambda p: segment(p, scratch=b"scratch"), TypeError, "scratch must be a path or a URL, got b'scratch'"),
    (lambda p: segment(p, scratch="a::b"), ValueError, "scratch must be a path or a URL without '::'"),
    (lambda p: segment(p, class_names=["a", "b"]), ValueError, "the semantic array has 1, got 2: "),
    (lambda p: segment(p, class_names=["mito"]), ValueError, r"no entry for any of \['mito'\]"),
    (lambda p: segment(p, class_config={}), ValueError, "no class to segment: class_config has no entry for any of"),
    (lambda p: segment(p, resolution_nm=True), TypeError, "resolution_nm must be a number, got True"),
    (lambda p: segment(p, overwrite="no"), TypeError, "overwrite must be True or False, got 'no'"),
    (lambda p: segment(p, resume="no"), TypeError, "resume must be True or False, got 'no'"),
    (lambda p: segment(p, level="0"), TypeError, "level must be an integer, got '0'"),
    (lambda p: segment(p, level=0.5), TypeError, "level must be an integer, got 0.5"),
    (lambda p: segment(p, level=-1), ValueError, "level must be at least 0, got -1"),
    (lambda p: segment(p, progress="bar"), TypeError, "progress must be True, False or a Progress, got 'bar'"),
    (lambda p: segment(p, class_config=one("group", 5)), ValueError, r"class_config\['nuc'\]: group must be"),
    (lambda p: segment(p, threshold=NAN), ValueError, "threshold must be finite, got nan"),
    (lambda p: segment(p, flow_error_threshold=-1), ValueError, "flow_error_threshold must be 0 or more"),
    (lambda p: unsafe(p, ".."), ValueError, r"class name '\.\.' cannot name an output array"),
    (lambda p: unsafe(p, "../up"), ValueError, "cannot name an output array"),
    (lambda p: unsafe(p, "a/b"), ValueError, "class name 'a/b' cannot name an output array"),
    (lambda p: unsafe(p, "a\\b"), ValueError, "cannot name an output array"),
    (lambda p: unsafe(p, ""), ValueError, "class name '' cannot name an output array"),
    (lambda p: unsafe(p, "x" * 300), ValueError, "1 to 100 letters"),
    (lambda p: unsafe(p, "nuc\n"), ValueError, "cannot name an output array"),
    (lambda p: unsafe(p, "zarr.json"), ValueError, "class name 'zarr.json' cannot name an output array"),
    (
        lambda p: topo_dask.segment_volume(
            as_zarr(np.concatenate([PROB] * 2)),
            as_zarr(np.concatenate([FLOW] * 2)),
            p / "out",
            class_names=["nuc", "NUC"],
            class_config=dict.fromkeys(("nuc", "NUC"), CONFIG["nuc"]),
        ),
        ValueError,
        r"class names must differ in more than capitals.* got \['nuc', 'NUC'\]",
    ),
    (lambda p: segment(p, block_shape=0), ValueError, "block_shape must be at least 1"),
    (lambda p: segment(p, block_shape=(4, -4, 4)), ValueError, "block_shape must be at least 1"),
    (lambda p: segment(p, block_shape=(4, 4, 4, 4)), TypeError, "block_shape must be three integers"),
    (lambda p: segment(p, halo=-1), ValueError, "halo must be at least 0"),
    (
        lambda p: segment(p, memory_limit="1KiB"),
        MemoryError,
        r"memory_limit must be above the 400 MiB that a worker process takes for itself: a task .* to take .* MiB more",
    ),
    (lambda p: segment(p, *large(), memory_limit="401MiB", block_shape=2000), MemoryError, "a smaller block_shape"),
    (lambda p: segment(p, *large(), memory_limit="401MiB", block_shape=None), MemoryError, "raise memory_limit"),
    (lambda p: segment(p, memory_limit=0), ValueError, "memory_limit must be above 0, got 0"),
    (lambda p: segment(p, memory_limit=-5), ValueError, "memory_limit must be above 0, got -5"),
    (lambda p: segment(p, memory_limit=4), ValueError, "memory_limit 4 is 4 bytes: say what it is in, as in '4GiB'"),
    (lambda p: segment(p, memory_limit="much"), ValueError, "memory_limit must be a size such as '4GiB', got 'much'"),
    (lambda p: segment(p, memory_limit="1e999GB"), ValueError, "memory_limit must be a size .* got '1e999GB'"),
    (lambda p: segment(p, memory_limit=""), ValueError, "memory_limit must be above 0, got ''"),
    (lambda p: segment(p, memory_limit=NAN), TypeError, "memory_limit must be a number of bytes .* got nan"),
    (lambda p: segment(p, memory_limit=True), TypeError, "memory_limit must be a number of bytes .* got True"),
    (lambda p: segment(p, memory_limit=[1]), TypeError, r"memory_limit must be a number of bytes .* got \[1\]"),
    (lambda p: segment(p, resume=True, overwrite=True), ValueError, "resume and overwrite exclude one another"),
    (lambda p: segment(p, on_missing="zeros"), ValueError, "on_missing must be 'error' or 'background', got 'zeros'"),
    (lambda p: segment(p, scratch=p / "out"), ValueError, "must not lie in one another"),
]


@pytest.mark.parametrize(("call", "error", "message"), RUNS, ids=row_ids(RUNS))
def test_runs_are_refused_before_anything_is_written(
    call: Callable[[Path], Any], error: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("a", KINDS)
def test_an_error_names_the_class_only_where_there_are_several(a: As) -> None:
    mask, flow = line(NAN, "float32")
    both = a(np.stack([mask] * 2).astype(np.float32)), a(np.concatenate([np.zeros_like(flow), flow]))
    config = dict.fromkeys(("nuc", "ves"), CONFIG["nuc"] | {"n_steps": 40})
    with pytest.raises(ValueError, match="flow is not finite") as caught:
        compute(topo_dask.run_instance_segmentation(*both, list(config), config))
    assert caught.value.__notes__[0].startswith("in class 'ves', stage 'track', block ")
    with pytest.raises(ValueError, match="flow is not finite") as caught:
        compute(topo_dask.postprocess_single(a(mask), a(flow), 40))
    assert caught.value.__notes__[0].startswith("in stage 'track', block ")


def test_a_store_that_can_not_replace_what_it_holds_is_no_output(tmp_path: Path) -> None:
    with (
        ZipStore(tmp_path / "out.zip", mode="w") as store,
        pytest.raises(ValueError, match="output is in a ZipStore, which cannot replace what it holds"),
    ):
        segment(tmp_path, as_zarr(PROB), as_zarr(FLOW), zarr.open_group(store, mode="a"), scratch=tmp_path / "scratch")
    assert [path.name for path in tmp_path.iterdir()] == ["out.zip"]


def test_an_error_on_the_way_names_class_stage_and_block(tmp_path: Path) -> None:
    mask, flow = line(NAN, "float32")
    with pytest.raises(ValueError, match=r"flow is not finite at voxel \(1, 1, 30\)") as caught:
        segment(
            tmp_path,
            as_zarr(mask[None].astype(np.float32)),
            as_zarr(flow),
            class_config=one("n_steps", 40),
            block_shape=40,
        )
    assert "in class 'nuc', stage 'track', block 0.0.0 Box(" in caught.value.__notes__[0]
    prob = np.where(np.arange(6) == 5, NAN, PROB)
    with pytest.raises(ValueError, match=r"semantic is NaN at voxel \(0, 0, 5\)"):
        segment(tmp_path, as_zarr(prob), as_zarr(FLOW), tmp_path / "other", block_shape=8)


# ------------------------------------------------------------ command line


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with the inputs, where the command line is called."""
    for name, array in (("semantic", PROB), ("flow", FLOW), ("bad", FLOW * NAN), ("short", FLOW[:, 1:])):
        zarr.create_array(tmp_path / name, data=array)
    (tmp_path / "broken.toml").write_text("[classes.nuc\n")
    (tmp_path / "empty.toml").write_text("title = 3\n")
    (tmp_path / "flat.toml").write_text("classes = 3\n")
    (tmp_path / "number.toml").write_text("[classes]\nnuc = 3\n")
    (tmp_path / "unknown.toml").write_text("[classes.nuc]\nconvergence = 3\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


INPUTS = "semantic flow"
CLASS = "--class nuc --resolution-nm 8"
COMMANDS: list[tuple[str, int, str]] = [
    ("walk", 2, "No such command 'walk'"),
    ("run", 2, "Missing argument 'SEMANTIC'"),
    ("run semantic", 2, "Missing argument 'FLOW'"),
    (f"run {INPUTS}", 2, "Missing argument 'OUTPUT'"),
    (f"run none flow out {CLASS}", 2, "none: there is no zarr array"),
    (f"run semantic none out {CLASS}", 2, "none: there is no zarr array"),
    (f"run semantic short out {CLASS}", 2, "the same volume"),
    (f"run {INPUTS} out --resolution-nm 8", 2, "--class is not given, .* name the class of each channel"),
    (f"run {INPUTS} out --class a --class b", 2, "--class, or else --config, must name the class of each channel"),
    (f"run {INPUTS} out --class other --resolution-nm 8", 2, "no entry for any of"),
    (f"run {INPUTS} out --class nuc --resolution-nm 0", 2, "--resolution-nm must be above 0"),
    (f"run {INPUTS} out --class nuc --resolution-nm 0 --steps 3", 2, "--resolution-nm must be above 0"),
    (f"run {INPUTS} out --steps 3", 2, "need --class"),
    (f"run {INPUTS} out {CLASS} --steps -1", 2, "'--steps': n_steps must be at least 0, got -1"),
    (f"run {INPUTS} out {CLASS} --steps many", 2, "'--steps': 'many' is not a valid int"),
    (f"run {INPUTS} out {CLASS} --group 4", 2, "'--group': 4 is not in the range"),
    (f"run {INPUTS} out {CLASS} --step-size 0", 2, "'--step-size': step_size must be above 0"),
    (f"run {INPUTS} out {CLASS} --radius nan", 2, "'--radius': convergence_radius must be finite"),
    (f"run {INPUTS} out {CLASS} --merge all", 2, "'--merge': 'all' is not one of"),
    (f"run {INPUTS} out {CLASS} --threshold nan", 2, "--threshold must be finite"),
    (f"run {INPUTS} out {CLASS} --flow-error -1", 2, "'--flow-error': flow_error_threshold must be 0 or more"),
    (f"run {INPUTS} out {CLASS} --block 0", 2, "--block must be at least 1"),
    (f"run {INPUTS} out {CLASS} --block a,b,c", 2, "expected one integer or three like 128,128,128, got 'a,b,c'"),
    (f"run {INPUTS} out {CLASS} --block 4,4", 2, "--block must be three integers"),
    (f"run {INPUTS} out {CLASS} --halo -1", 2, "--halo must be at least 0"),
    (f"run {INPUTS} out {CLASS} --memory-limit much", 2, "--memory-limit must be a size"),
    (f"run {INPUTS} out {CLASS} --memory-limit 1KiB", 2, "--memory-limit must be above the 400 MiB that"),
    (f"run {INPUTS} out {CLASS} --scheduler elsewhere", 2, "--scheduler must be .* got 'elsewhere'"),
    (f"run {INPUTS} out {CLASS} --resume --overwrite", 2, "exclude one another"),
    (f"run {INPUTS} out {CLASS} --scratch out", 2, "must not lie in one another"),
    (f"run {INPUTS} flow {CLASS}", 2, "flow is a zarr array: choose another path"),
    (f"run {INPUTS} empty.toml {CLASS}", 2, "exists and is no zarr group"),
    (f"run {INPUTS} out --class ../up --group 1 --steps 3 --radius 2 --min-size 1", 2, "cannot name an output array"),
    (f"run {INPUTS} out --config none.toml", 2, "'none.toml' does not exist"),
    (f"run {INPUTS} out --config broken.toml", 2, "broken.toml is not valid TOML"),
    (f"run {INPUTS} out --config empty.toml", 2, "empty.toml: unknown table 'title'; known are"),
    (f"run {INPUTS} out --config flat.toml", 2, r"flat.toml has no table \[classes.NAME\]"),
    (f"run {INPUTS} out --config number.toml", 2, r"\[classes.nuc\] must be a table of parameters, got 3"),
    (
        f"run {INPUTS} out --config number.toml --class nuc --steps 2",
        2,
        r"\[classes.nuc\] must be a table of parameters, got 3",
    ),
    (f"run {INPUTS} out --config unknown.toml", 2, r"\[classes.nuc\] has the unknown parameter 'convergence'"),
    (f"plan semantic short {CLASS}", 2, "the same volume"),
    (f"plan {INPUTS} {CLASS} --memory-limit 1KiB", 2, "--memory-limit must be above the 400 MiB that"),
    (f"plan {INPUTS} {CLASS} --block 1,2,3,4", 2, "--block must be three integers"),
    ("demo --output semantic/zarr.json", 2, "'semantic/zarr.json' is a file"),
]


@pytest.mark.parametrize(("command", "code", "message"), COMMANDS, ids=row_ids(COMMANDS))
def test_commands_refuse_in_one_line(stored: Path, command: str, code: int, message: str) -> None:
    before = sorted(stored.rglob("*"))
    result = invoke(*command.split())
    assert result.exit_code == code
    assert result.stdout == ""
    errors = [text for text in result.stderr.splitlines() if text.startswith("Error: ")]
    assert len(errors) == 1
    assert result.stderr.splitlines()[-1] == errors[0]  # click shows the usage above
    assert re.search(message, errors[0]), errors[0]
    assert sorted(stored.rglob("*")) == before


def test_a_command_that_fails_on_the_way_exits_with_1(stored: Path) -> None:
    command = ["run", "semantic", "bad", "out", *CLASS.split(), "--block", "8", "--quiet"]
    result = invoke(*command)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "flow is not finite at voxel (0, 0, 0)" in result.stderr
    assert "in class 'nuc', stage 'track', block 0.0.0" in result.stderr
    again = invoke(*command)
    assert again.exit_code == 2
    assert "holds an unfinished run: pass --resume" in again.stderr


def test_a_traceback_comes_with_the_same_message_and_exit_code(stored: Path) -> None:
    command = ["run", "semantic", "short", "out", *CLASS.split()]
    quiet = invoke(*command)
    for loud in (["--verbose", *command], [*command, "--verbose"]):
        result = invoke(*loud)
        assert result.exit_code == quiet.exit_code == 2
        assert result.stderr.startswith("Traceback (most recent call last):\n")
        assert result.stderr.endswith(f"ValueError: {quiet.stderr.partition(': ')[2]}{quiet.stderr}")
    logged = invoke(*command, "--verbose", "--json-log")
    assert logged.exit_code == 2
    (event,) = map(json.loads, logged.stderr.splitlines())
    assert event["exit_code"] == 2
    assert f"Error: {event['message']}\n" == quiet.stderr
    assert event["traceback"].startswith("Traceback (most recent call last):\n")


def test_commands_run_plan_and_resume(stored: Path) -> None:
    options = "--class nuc --group 1 --steps 5 --radius 3 --min-size 1 --resolution-nm 8 --block 4"
    planned = invoke(*f"plan {INPUTS} {options}".split())
    assert planned.exit_code == 0
    assert "track > link > tabulate > relabel" in planned.stdout
    assert "levels of the output               1\n" in planned.stdout
    assert not (stored / "out").exists()
    done = invoke(*f"run {INPUTS} out {options} --quiet --scheduler synchronous".split())
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == "nuc: out/labels/nuc (1 instance)"
    expected = topo_dask.postprocess_single(MASK, FLOW, 5, convergence_radius=3, min_size=1)
    np.testing.assert_array_equal(zarr.open_array("out/labels/nuc/0", mode="r")[:], expected)
    plain = invoke(*f"run {INPUTS} plain {options} --quiet --ome-zarr none".split())
    assert plain.stdout.strip() == "nuc: plain/nuc (1 instance)"
    np.testing.assert_array_equal(zarr.open_array("plain/nuc", mode="r")[:], expected)
    older = invoke(*f"run {INPUTS} older {options} --quiet --ome-zarr 0.4".split())
    assert older.stdout.strip() == "nuc: older/labels/nuc (1 instance)"
    assert zarr.open_group("older", mode="r").metadata.zarr_format == 2
    twice = invoke(*f"run {INPUTS} out {options} --quiet".split())
    assert twice.exit_code == 2
    assert "exists" in twice.stderr
    replaced = invoke(*f"run {INPUTS} out {options} --overwrite".split())
    assert replaced.exit_code == 0
    assert "nuc relabel" in replaced.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("--help", ["run", "plan", "demo", "--version", "--verbose"]),
        (
            "run --help",
            ["[default: 0.5]", "own, else 0]", "[default: 16]", "OUTPUT.scratch]", "--resume", "[1<=x<=3]"],
        ),
        ("plan -h", ["[default: 0.5]", "[default: 16]", "that keeps all workers busy]"]),
        ("demo --help", ["[default: topo_dask_demo]"]),
    ],
)
def test_help_shows_the_defaults(command: str, words: list[str]) -> None:
    result = CliRunner().invoke(main, command.split(), terminal_width=200)
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for word in words:
        assert word in text


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "topo_dask"]
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.strip() == f"topo-dask, version {topo_dask.__version__}"
    assert subprocess.run([*command, "walk"], capture_output=True, text=True).returncode == 2
