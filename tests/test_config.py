import warnings

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import topo_dask
from topo_dask.cli import main
from topo_dask.config import ClassConfig, get_postprocess_config, resolve_classes

RESOLUTIONS = (8, 16, 32, 64)

# Spot values of the published table: class, resolution, group, n_steps, radius, min_size, merge.
PUBLISHED = [
    ("nuc", 8, 1, 943, 58.0, 5331, None),
    ("mito", 8, 2, 536, 26.5, 831, "adjacent"),
    ("ves", 8, 1, 28, 2.7, 14, None),
    ("perox", 16, 1, 102, 6.0, 120, None),
    ("cell", 16, 2, 300, 6.0, 5, "adjacent"),
    ("mt", 32, 3, 74, 4.7, 5, None),
    ("nuc", 32, 1, 662, 44.7, 225, None),
    ("mito", 64, 2, 90, 7.5, 7, "adjacent"),
    ("ld", 64, 1, 58, 2.3, 5, None),
]


@pytest.mark.parametrize(("name", "resolution", "group", "n_steps", "radius", "min_size", "merge"), PUBLISHED)
def test_published_values(name, resolution, group, n_steps, radius, min_size, merge):
    expected = {"group": group, "n_steps": n_steps, "step_size": 1.0, "convergence_radius": radius}
    expected |= {"min_size": min_size} | ({"merge": merge} if merge else {})
    assert get_postprocess_config(resolution)[name] == expected
    assert get_postprocess_config(resolution, preset="published")[name] == expected


@pytest.mark.parametrize("preset", ["published", "touching"])
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_every_class_has_valid_parameters(resolution, preset):
    config = get_postprocess_config(resolution, preset)
    assert set(config) == set(topo_dask.EVALUATED_INSTANCE_CLASSES)
    for name, values in config.items():
        ClassConfig.from_mapping(values, name)


@pytest.mark.parametrize(
    ("asked", "taken"),
    [(0.1, 8), (11.9, 8), (12, 8), (12.1, 16), (24, 16), (40, 32), (48, 32), (49, 64), (1e9, 64), (2**60, 64)],
)
@pytest.mark.parametrize("preset", ["published", "touching"])
@pytest.mark.filterwarnings("ignore:resolution_nm .* is far from:UserWarning")
def test_nearest_resolution_and_ties_to_the_finer(asked, taken, preset):
    assert get_postprocess_config(asked, preset) == get_postprocess_config(taken, preset)


@pytest.mark.parametrize("edges", [(40, 16, 16), [16.0, 17.0, 16.0], np.array([16, 90, 16])])
def test_of_three_edges_the_shortest_counts(edges):
    assert get_postprocess_config(edges) == get_postprocess_config(16)


@pytest.mark.parametrize(
    ("edges", "error", "told"),
    [
        ((40, 16), ValueError, r"must be one number, or three along z, y, x; got \(40, 16\)"),
        ((40, 16, 0), ValueError, "resolution_nm must be above 0, got 0"),
        ((40, 16, float("nan")), ValueError, "resolution_nm must be finite"),
        ({40, 16, 8}, TypeError, "resolution_nm must be a number"),
        ("8", TypeError, "resolution_nm must be a number, got '8'"),
        (b"abc", TypeError, "resolution_nm must be a number, got b'abc'"),
    ],
)
def test_edges_that_are_none_are_refused(edges, error, told):
    prob, flow = np.ones((1, 1, 2, 3)), np.zeros((3, 1, 2, 3), np.float32)
    with pytest.raises(error, match=told):
        topo_dask.run_instance_segmentation(prob, flow, ["nuc"], {"nuc": {}}, resolution_nm=edges)


def test_edges_that_differ_are_warned_of_where_parameters_are_the_default_ones():
    prob, flow = np.ones((1, 1, 2, 3)), np.zeros((3, 1, 2, 3), np.float32)
    with pytest.warns(
        UserWarning, match="voxels are 40 × 16 × 16 nm, but .* the radius of 38 of 'nuc' is 1520 nm along z"
    ):
        topo_dask.run_instance_segmentation(prob, flow, ["nuc"], resolution_nm=(40, 16, 16))


@pytest.mark.parametrize("asked", [0.016, 3.9, 129, 16000])
def test_a_resolution_that_is_far_from_the_table_is_warned_of(asked):
    with pytest.warns(UserWarning, match=rf"resolution_nm {asked} is far from those with parameters"):
        get_postprocess_config(asked)


def test_a_class_that_is_skipped_is_warned_of():
    prob, flow = np.ones((2, 1, 2, 3)), np.zeros((6, 1, 2, 3), np.float32)
    with pytest.warns(UserWarning, match=r"class 'nuk' is skipped.*; did you mean 'nuc'\?"):
        assert set(topo_dask.run_instance_segmentation(prob, flow, ["nuc", "nuk"], resolution_nm=64)) == {"nuc"}
    config = {"cells": {"group": 1, "n_steps": 1, "convergence_radius": 3.0, "min_size": 1}}
    with pytest.warns(UserWarning, match="class 'other' is skipped: no parameters are given for it$"):
        assert set(topo_dask.run_instance_segmentation(prob, flow, ["other", "cells"], config)) == {"cells"}


@pytest.mark.parametrize("config", [None, {}, {"mito": {}}])
def test_no_class_at_all_is_warned_of(config):
    prob, flow = np.ones((1, 1, 2, 3)), np.zeros((3, 1, 2, 3), np.float32)
    with pytest.warns(UserWarning, match=r"no class to segment: .* no entry for any of \['nuclei'\]"):
        assert topo_dask.run_instance_segmentation(prob, flow, ["nuclei"], config, resolution_nm=8) == {}


def test_warnings_name_the_line_that_called_the_package(tmp_path):
    prob, flow = np.ones((2, 1, 2, 3)), np.ones((6, 1, 2, 3), np.float32)
    stored = [zarr.create_array({}, data=array) for array in (prob, flow)]
    config = {"mito": {"n_steps": 1}}
    calls = [
        lambda: topo_dask.run_instance_segmentation(prob[:1], flow[:3], ["mito"]),
        lambda: topo_dask.run_instance_segmentation(prob, flow, ["mito", "x"], config),
        lambda: topo_dask.run_instance_segmentation(prob[:1], flow[:3], ["mito"], resolution_nm=1000),
        lambda: topo_dask.get_postprocess_config(1000),
        lambda: topo_dask.segment_volume(
            *stored, tmp_path / "a", class_names=["mito", "x"], class_config=config, progress=False
        ),
    ]
    for call in calls:
        with pytest.warns(UserWarning, match="class|resolution") as caught:
            call()
        assert {warning.filename for warning in caught} == {__file__}


def test_what_a_published_class_is_not_given_is_warned_of():
    prob, flow = np.ones((1, 1, 2, 3)), np.zeros((3, 1, 2, 3), np.float32)
    some = {"mito": {"n_steps": 1, "convergence_radius": 3.0}}
    with pytest.warns(UserWarning, match=r"gives 'mito' no group, min_size: using group=1, min_size=50; the published"):
        topo_dask.run_instance_segmentation(prob, flow, ["mito"], some)


def test_a_table_may_be_changed_without_changing_the_next():
    get_postprocess_config(8, "touching")["ves"]["n_steps"] = 1
    get_postprocess_config(8)["ves"]["n_steps"] = 1
    assert get_postprocess_config(8)["ves"]["n_steps"] == 28


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_touching_keeps_group_and_size_and_travels_as_far(resolution):
    published, touching = get_postprocess_config(resolution), get_postprocess_config(resolution, "touching")
    for name, values in touching.items():
        kept = {key: published[name][key] for key in ("group", "min_size")}
        changed = {"merge": "agglomerate", "convergence_radius": 1.5, "step_size": 0.5}
        assert values == {**kept, **changed, "n_steps": values["n_steps"]}
        assert values["n_steps"] * values["step_size"] == max(100, published[name]["n_steps"])


INVALID = [
    ((8, "dense"), ValueError, "preset must be 'published' or 'touching', got 'dense'"),
    ((8, None), ValueError, "preset must be .* got None"),
    ((0,), ValueError, "resolution_nm must be above 0, got 0"),
    ((-8,), ValueError, "resolution_nm must be above 0"),
    ((float("nan"),), ValueError, "resolution_nm must be finite"),
    (("8",), TypeError, "resolution_nm must be a number, got '8'"),
    ((True,), TypeError, "resolution_nm must be a number"),
    ((10**400,), ValueError, "resolution_nm must be finite as a float, below 1.8e308; got a larger int"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), INVALID)
def test_invalid_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        get_postprocess_config(*arguments)


INVALID_CLASSES = [
    ({"group": 4}, ValueError, r"class_config\['mito'\]: group must be 1, 2 or 3, got 4"),
    ({"n_steps": -1}, ValueError, "n_steps must be at least 0, got -1"),
    ({"n_steps": 1.5}, TypeError, "n_steps must be an integer, got 1.5"),
    ({"step_size": 0}, ValueError, "step_size must be above 0"),
    ({"convergence_radius": float("inf")}, ValueError, "convergence_radius must be finite"),
    ({"min_size": "9"}, TypeError, "min_size must be an integer, got '9'"),
    ({"merge": "all"}, ValueError, "merge must be None, 'adjacent' or 'agglomerate', got 'all'"),
    ({"flow_error_threshold": -0.1}, ValueError, "flow_error_threshold must be 0 or more"),
    ({"min_fragment_ratio": -1}, ValueError, "min_fragment_ratio must be 0 or more"),
    ({"radius": 4}, ValueError, "unknown parameter 'radius'; known are"),
    ({"radius": 4, 3: 4}, ValueError, "unknown parameter 3; known are"),
    ({"step_size": 10**400}, ValueError, "step_size must be finite as a float"),
    (7, TypeError, r"class_config\['mito'\] must be a mapping"),
]


@pytest.mark.parametrize(("values", "error", "message"), INVALID_CLASSES)
def test_invalid_parameters_are_named_with_their_class(values, error, message):
    with pytest.raises(error, match=message):
        ClassConfig.from_mapping(values, "mito")


def test_preset_reaches_the_classes():
    classes = resolve_classes(["ves"], None, 8, 1, 0.0, "touching")
    assert classes["ves"] == (0, ClassConfig.from_mapping(get_postprocess_config(8, "touching")["ves"], "ves"))
    assert resolve_classes(["ves"], None, 8, 1, 0.0) == resolve_classes(["ves"], None, 8, 1, 0.0, "published")


def test_preset_and_class_config_exclude_one_another():
    with pytest.raises(ValueError, match=r"preset='touching' is for the .* give it merge agglomerate, .*n_steps 200"):
        resolve_classes(["ves"], {"ves": {}}, 8, 1, 0.0, "touching")


def test_without_resolution_the_finest_is_taken_and_a_warning_says_so():
    with pytest.warns(UserWarning, match="8 nm"):
        classes = resolve_classes(["ves"], None, None, 1, 0.0, "touching")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert classes == resolve_classes(["ves"], None, 8, 1, 0.0, "touching")


def test_preset_is_an_argument_of_every_driver(tmp_path):
    import zarr

    from topo_dask.admission import plan_volume

    semantic = zarr.create_array(tmp_path / "semantic.zarr", data=np.ones((1, 8, 8, 8), np.float32))
    flow = zarr.create_array(tmp_path / "flow.zarr", data=np.full((3, 8, 8, 8), 0.25, np.float32))
    common = {"class_names": ["ves"], "resolution_nm": 64, "preset": "touching"}
    planned = plan_volume(semantic, flow, **common, block_shape=(8, 8, 8))
    assert planned.classes["ves"][1].merge == "agglomerate"
    held = topo_dask.run_instance_segmentation(semantic[:], flow[:], **common)["ves"]
    stored = topo_dask.segment_volume(semantic, flow, tmp_path / "out.zarr", **common, progress=False)["ves"]
    np.testing.assert_array_equal(held, stored[:])


@pytest.mark.parametrize("flags", [[], ["--min-size", "3"]])
def test_preset_on_the_command_line(tmp_path, flags):
    import zarr

    for name, channels in (("semantic", 1), ("flow", 3)):
        zarr.create_array(tmp_path / name, data=np.ones((channels, 8, 8, 8), np.float32))
    inputs = [str(tmp_path / "semantic"), str(tmp_path / "flow"), "--class", "ves", "--resolution-nm", "64"]
    stages = {
        preset: CliRunner().invoke(main, ["plan", *inputs, "--preset", preset, "--json", *flags]).stdout
        for preset in ("published", "touching")
    }
    assert '"unite"' in stages["touching"]  # vesicles are not merged by the published parameters
    assert '"unite"' not in stages["published"]
