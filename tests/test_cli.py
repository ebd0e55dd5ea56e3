"""The command line: parameters from files and flags, schedulers, and what it says on the way."""

import ast
import errno
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import dask
import numpy as np
import pytest
import zarr
from click.shell_completion import ShellComplete
from command_line import invoke
from distributed import Client, LocalCluster
from ome_images import image_of, scale, space, write_image

import topo_dask
from topo_dask import scores
from topo_dask.admission import plan_volume
from topo_dask.blocks.geometry import BlockGrid
from topo_dask.cli import errors, main, schedulers
from topo_dask.cli.parameters import PER_CLASS, read_parameters
from topo_dask.cli.schedulers import Scheduling, size_cluster
from topo_dask.cli.tables import read_condition, select
from topo_dask.config import get_postprocess_config
from topo_dask.looking.layers import find_layers
from topo_dask.progress import JsonLog, ProgressBars, TextLog, on_stderr, said_if_long
from topo_dask.stages.job import Job
from topo_dask.stages.stage import Stage
from topo_dask.stores import label_arrays
from topo_dask.stores.foreign import MARK
from topo_dask.stores.instance_tables import COLUMNS, PHYSICAL
from topo_dask.stores.space import Disk
from topo_dask.targets import direct_flow

SHAPE = (8, 8, 8)
COMMON = ["semantic", "flow"]


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a prediction of two classes: two cubes whose voxels flow to the centre of each."""
    labels = np.zeros(SHAPE, np.int32)
    labels[1:4, 1:4, 1:4], labels[4:7, 4:7, 4:7] = 1, 2
    flow = direct_flow(labels).astype(np.float32)
    semantic = np.repeat((labels > 0)[None], 2, 0).astype(np.float32)
    zarr.create_array(tmp_path / "semantic", data=semantic, chunks=(2, 4, 4, 4))
    zarr.create_array(
        tmp_path / "flow", data=np.concatenate([flow, flow]), chunks=(6, 4, 4, 4), config={"write_empty_chunks": True}
    )
    zarr.create_array(tmp_path / "one", data=semantic[:1])
    zarr.create_array(tmp_path / "one_flow", data=flow)
    zarr.create_array(tmp_path / "both", data=np.concatenate([semantic, flow, flow]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


TOML = """
[run]
block = [4, 4, 4]
halo = 2
resolution-nm = 16
scheduler = "synchronous"
[classes.nuc]
group = 1
n_steps = 5
convergence_radius = 1.5
min_size = 1
[classes.mito]
group = 2
n_steps = 7
convergence_radius = 1.5
min_size = 1
"""

YAML = """
run: {block: 4, halo: 2, resolution_nm: 16, scheduler: synchronous}
classes:
  nuc: {group: 1, n_steps: 5, convergence_radius: 1.5, min_size: 1}
  mito: {group: 2, n_steps: 7, convergence_radius: 1.5, min_size: 1}
"""


@pytest.mark.parametrize(("name", "text"), [("run.toml", TOML), ("run.yaml", YAML)])
def test_a_file_gives_parameters_and_options_and_flags_win(stored: Path, name: str, text: str) -> None:
    (stored / name).write_text(text)
    planned = json.loads(invoke("plan", *COMMON, "--config", name, "--json").stdout)
    assert planned["block_shape"] == [4, 4, 4]
    assert planned["halo"] == [2, 2, 2]
    assert list(planned["stages"]) == ["nuc", "mito"]
    assert "absorb" in planned["stages"]["mito"]
    assert (planned["parameters"]["mito"]["group"], planned["parameters"]["mito"]["n_steps"]) == (2, 7)
    flagged = json.loads(invoke("plan", *COMMON, "--config", name, "--halo", 3, "--group", 1, "--json").stdout)
    assert flagged["halo"] == [3, 3, 3]
    assert "absorb" not in flagged["stages"]["mito"]


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ("[40, 16.5, 16]", ""),
        ("'40,16.5,16'", ""),
        ("[40, 16.5]", "expected one number or three like 40,16,16, got [40, 16.5]"),
        ("[40, true, 16]", "'resolution-nm' must be a number or a list of three, got [40, True, 16]"),
        ("'40,,16'", "expected one number or three like 40,16,16, got '40,,16'"),
    ],
)
def test_a_file_gives_the_edges_of_a_voxel(stored: Path, given: str, refused: str) -> None:
    (stored / "run.toml").write_text(TOML.replace("resolution-nm = 16", f"resolution-nm = {given}"))
    result = invoke("run", *COMMON, "out", "--config", "run.toml", "--quiet")
    if refused:
        assert (result.exit_code, refused in result.stderr) == (2, True)
        return
    assert (result.exit_code, result.stderr) == (0, "")
    invoke("table", "out", "--class", "nuc", "--physical", "-o", "nuc.csv")
    first = dict(zip(*(line.split(",") for line in Path("nuc.csv").read_text().split()[:2]), strict=True))
    assert float(first["volume_um3"]) == pytest.approx(int(first["voxels"]) * 0.04 * 0.0165 * 0.016)


@pytest.mark.parametrize("names", ["'nuc'", "['nuc']"])
def test_a_file_names_one_class_with_or_without_brackets(stored: Path, names: str) -> None:
    (stored / "run.toml").write_text(f"[run]\nclass = {names}\nresolution-nm = 8")
    planned = json.loads(invoke("plan", "one", "one_flow", "--config", "run.toml", "--json").stdout)
    assert list(planned["stages"]) == ["nuc"]


MIXED = """
[run]
block_shape = 4
memory_limit = "3GiB"
class_names = ["nuc", "mito"]
flow_error_threshold = 0.0
[classes.nuc]
group = 1
steps = 5
radius = 1.5
min-size = 1
flow-error = 0.4
[classes.mito]
group = 2
n-steps = 7
convergence_radius = 1.5
step_size = 0.5
min_size = 1
flow_error = 0.3
"""


def test_a_file_takes_names_of_options_and_of_parameters_in_both_tables(stored: Path) -> None:
    (stored / "run.toml").write_text(MIXED.replace("flow_error_threshold = 0.0\n", ""))
    planned = json.loads(invoke("plan", *COMMON, "--config", "run.toml", "--json").stdout)
    assert planned["block_shape"] == [4, 4, 4]
    columns = ["n_steps", "step_size", "convergence_radius", "min_size", "flow_error_threshold"]
    assert [planned["parameters"]["nuc"][name] for name in columns] == [5, 1.0, 1.5, 1, 0.4]
    assert [planned["parameters"]["mito"][name] for name in columns] == [7, 0.5, 1.5, 1, 0.3]
    (stored / "run.toml").write_text(MIXED)
    planned = json.loads(invoke("plan", *COMMON, "--config", "run.toml", "--json").stdout)
    assert {parameters["flow_error_threshold"] for parameters in planned["parameters"].values()} == {0}


@pytest.mark.parametrize(("flags", "nuc"), [("", 0.4), ("--flow-error 0", 0), ("--flow-error 0.2", 0.2)])
def test_a_flow_error_on_the_command_line_wins_also_if_it_is_0(stored: Path, flags: str, nuc: float) -> None:
    (stored / "run.toml").write_text(TOML.replace("[classes.nuc]", "[classes.nuc]\nflow_error_threshold = 0.4"))
    planned = json.loads(invoke("plan", *COMMON, "--config", "run.toml", *flags.split(), "--json").stdout)
    assert planned["parameters"]["nuc"]["flow_error_threshold"] == nuc
    assert planned["parameters"]["mito"]["flow_error_threshold"] == (0.2 if nuc == 0.2 else 0)


def test_flags_win_over_those_of_a_file_that_they_exclude(stored: Path) -> None:
    words = ["run", "one", "one_flow", "out", "--config", "run.toml"]
    file = "[run]\noverwrite = {}\nresume = {}\nquiet = true\nscheduler = 'threads'\nresolution-nm = 8\nclass = 'nuc'"
    (stored / "run.toml").write_text(file.format("true", "false"))
    assert invoke(*words).exit_code == 0
    resumed = invoke(*words, "--resume", "--json-log")
    assert resumed.exit_code == 0, resumed.stderr
    assert "relabel" not in resumed.stderr
    (stored / "run.toml").write_text(file.format("false", "true"))
    replaced = invoke(*words, "--overwrite", "--json-log")
    assert replaced.exit_code == 0, replaced.stderr
    assert '"stage": "relabel"' in replaced.stderr
    (stored / "run.toml").write_text(file.format("true", "true"))
    assert "--resume and --overwrite exclude one another" in invoke(*words).stderr
    for flag, other in (("--resume", "--overwrite"), ("--quiet", "--json-log")):
        assert "exclude one another" in invoke(*words, flag, other).stderr


def test_a_file_runs_as_the_function_does(stored: Path) -> None:
    (stored / "run.toml").write_text(TOML)
    done = invoke("run", *COMMON, "out", "--config", "run.toml", "--quiet")
    assert (done.exit_code, done.stderr) == (0, "")
    for name, options in {"nuc": {"n_steps": 5}, "mito": {"n_steps": 7, "group": 2}}.items():
        mask, flow = zarr.open("semantic")[0] > 0.5, zarr.open("flow")[:3]
        expected = topo_dask.postprocess_single(mask, flow, convergence_radius=1.5, min_size=1, **options)
        np.testing.assert_array_equal(zarr.open(f"out/labels/{name}/0")[:], expected)
        assert expected.max() == 2


FILES = [
    ("[run]\nblok = 4\n[classes.nuc]\ngroup = 1", "unknown option 'blok'; did you mean 'block'?"),
    ("[run]\nsteps = 4\n[classes.nuc]\ngroup = 1", r"'steps' belongs to \[classes.NAME\], not to \[run\]"),
    ("[run]\nconfig = 4\n[classes.nuc]\ngroup = 1", "unknown option 'config'"),
    ("run = 3\n[classes.nuc]\ngroup = 1", r"\[run\] must be a table of options, got 3"),
    ("[run]\nthreshold = 'high'\n[classes.nuc]\ngroup = 1", "'high' is not a valid float"),
    ("[run]\nblock = [4, 'a', 4]\n[classes.nuc]\ngroup = 1", "'block' must be one integer or a list of three"),
    (
        "[classes.own]\ngroup = 1",
        r"--config gives 'own' no n_steps, convergence_radius, min_size, .*classes.own.* --steps, --radius, --min-size",
    ),
    (
        "[classes.own]\ngroup = 1\nn_step = 4",
        r"\[classes.own\] has the unknown parameter 'n_step'; did you mean 'n_steps'",
    ),
    (
        "[classes.own]\ngroup = 1\nradios = 4",
        r"\[classes.own\] has the unknown parameter 'radios'; did you mean 'radius'",
    ),
    ("[classes.own]\ngroup = 4", r"run.toml: \[classes.own\]: group must be 1, 2 or 3, got 4"),
    ("[classes.own]\nsteps = -1", r"run.toml: \[classes.own\]: n_steps must be at least 0, got -1"),
    ("[classes.own]\nblock = 4", r"\[classes.own\]: 'block' belongs to \[run\], not to \[classes.NAME\]"),
    ("[classes]\nown = 4", r"\[classes.own\] must be a table of parameters, got 4"),
    ("[classes.own]\nsteps = 4\nn_steps = 4", r"\[classes.own\] has 'steps' and 'n_steps', two names of one parameter"),
    ("[run]\nblock = 4\nblock_shape = 4", r"\[run\] has 'block' and 'block_shape', two names of one option: leave one"),
    ("[run]\nresolution_nm = 4\nresolution-nm = 4", r"\[run\] has 'resolution_nm' and 'resolution-nm', two names"),
    ("[run]\nmin_fragment_ratio = 0.5", r"'min_fragment_ratio' belongs to \[classes.NAME\], not to \[run\]"),
    ("[run]\nconvergence_radius = 5", r"'convergence_radius' belongs to \[classes.NAME\], not to \[run\]"),
    ("[run]\nblock = [4.7, 4, 4]", r"\[run\]: 'block' must be one integer or a list of three, got \[4.7, 4, 4\]"),
    ("[run]\nblock = true", r"\[run\]: 'block' must be one integer or a list of three, got True"),
    ("[run]\nhalo = 2.5", r"\[run\]: 'halo' must be one integer or a list of three, got 2.5"),
    ("[run]\nlevel = 1.9", r"\[run\]: 'level' must be an integer, got 1.9"),
    ("[run]\nworkers = true", r"\[run\]: 'workers' must be an integer, got True"),
    ("[run]\nthreshold = true", r"\[run\]: 'threshold' must be a number, got True"),
    ("[run]\nthreshold = [1]", r"\[run\]: 'threshold' must be a number, got \[1\]"),
    ("[run]\nresume = 2", r"\[run\]: 'resume' must be true or false, got 2"),
    ("[run]\nclass = 3", r"\[run\]: 'class' must be text, or a list of texts, got 3"),
    ("[run]\nclass = [3]", r"\[run\]: 'class' must be text, or a list of texts, got \[3\]"),
    ("[run]\nscratch = true", r"\[run\]: 'scratch' must be text or a number, got True"),
    ("[run]\nzzz = 4", r"unknown option 'zzz'; known are block, block_shape, class, class_names, estimate, flow"),
    ("[runs]\nblock = 4", r"unknown table 'runs'; known are \[run\] and \[classes.NAME\]"),
]


@pytest.mark.parametrize(("text", "message"), FILES)
def test_mistakes_in_a_file_are_named(stored: Path, text: str, message: str) -> None:
    (stored / "run.toml").write_text(text)
    result = invoke("plan", *COMMON, "--config", "run.toml")
    assert result.exit_code == 2
    assert re.search(message, result.stderr.splitlines()[-1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: [", "run.yml is not valid YAML"),
        ("run: {block: 4}\nclasses: {own: {n_steps: 3, n_steps: 4}}", "not valid YAML: 'n_steps' is given twice"),
        ("run: {block: 4}\nrun: {halo: 4}", "not valid YAML: 'run' is given twice"),
        ("classes: {1: {group: 1}}", "run.yml: names of classes must be text, got 1: put the name in quotes"),
        ("classes: {no: {group: 1}}", "run.yml: names of classes must be text, got False: put the name in quotes"),
    ],
)
def test_mistakes_in_a_yaml_file_are_named(stored: Path, text: str, message: str) -> None:
    (stored / "run.yml").write_text(text)
    result = invoke("plan", *COMMON, "--config", "run.yml")
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(("name", "text"), [("run.toml", TOML), ("run.yaml", YAML)])
def test_a_file_may_begin_with_a_byte_order_mark(stored: Path, name: str, text: str) -> None:
    (stored / name).write_text(text, encoding="utf-8-sig")
    planned = json.loads(invoke("plan", *COMMON, "--config", name, "--json").stdout)
    assert planned["block_shape"] == [4, 4, 4]


@pytest.mark.parametrize("preset", ["published", "touching"])
def test_a_preset_beside_the_parameters_of_a_file_is_refused(stored: Path, preset: str) -> None:
    (stored / "run.toml").write_text(TOML)
    result = invoke("plan", *COMMON, "--config", "run.toml", "--preset", preset)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: --preset {preset} is for the default parameters; --config gives its own: ")


def test_a_file_that_asks_for_a_log_of_json_gets_its_errors_so(stored: Path) -> None:
    (stored / "run.toml").write_text("[run]\njson-log = true\n" + TOML.partition("[run]\n")[2])
    for slip, message in ((["--halo", "x"], "expected one integer"), (["--class", "own"], "must name the class")):
        result = invoke("run", *COMMON, "out", "--config", "run.toml", *slip)
        (event,) = map(json.loads, result.stderr.splitlines())
        assert (event["event"], event["exit_code"]) == ("error", 2)
        assert message in event["message"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["run", "", "flow", "out"], "'SEMANTIC'"),
        (["run", "semantic", "flow", ""], "'OUTPUT'"),
        (["run", "semantic", "flow", "out", "--scratch", ""], "'--scratch'"),
        (["plan", "semantic", ""], "'FLOW'"),
        (["score", "", "one"], "'TRUTH'"),
        (["score", "one", ""], "'OUTPUT|LABELS'"),
        (["table", ""], "'OUTPUT|LABELS|TABLE.csv'"),
        (["status", ""], "'OUTPUT|SCRATCH'"),
        (["show", "one", ""], "'IMAGE|LABELS|FLOW...'"),
    ],
)
def test_an_empty_place_is_not_this_folder(stored: Path, words: list[str], named: str) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    assert re.search(f"Invalid value for .*{re.escape(named[1:-1])}.*: it is empty; expected a path", result.stderr)


@pytest.mark.parametrize(
    "words",
    [
        ["run"], ["run", "semantic"], ["run", "semantic", "flow"], ["run", "--scratch"], ["status"], ["table"],
        ["table", "--flow"], ["score", "a"], ["show"], ["view", "a"], ["preview", "--image"],
    ],
)  # fmt: skip
def test_shells_complete_places_as_files(words: list[str]) -> None:
    found = ShellComplete(main, {}, "topo-dask", "_TOPO_DASK_COMPLETE").get_completions(words, "sem")
    assert [(item.type, item.value) for item in found] == [("file", "sem")]


@pytest.mark.parametrize("place", ["semantic", "flow"])
def test_a_url_that_nothing_can_open_is_named(stored: Path, place: str) -> None:
    places = {"semantic": "semantic", "flow": "flow", place: "none://bucket/volume"}
    result = invoke("plan", *places.values())
    assert result.exit_code == 2
    assert f"{place} none://bucket/volume: Protocol not known: none" in result.stderr


def test_a_class_without_parameters_is_skipped_with_a_warning(stored: Path) -> None:
    (stored / "run.toml").write_text(TOML)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = invoke("plan", *COMMON, "--config", "run.toml", "--class", "nuc", "--class", "cell")
    assert result.exit_code == 0
    assert "Warning: class 'cell' is skipped: no parameters are given for it" in result.stderr


ALL_OWN = ["--group", 3, "--steps", 9, "--radius", 2, "--min-size", 4]


@pytest.mark.parametrize("left_out", range(0, len(ALL_OWN) + 2, 2))
def test_options_give_a_class_parameters_of_its_own_only_all_together(stored: Path, left_out: int) -> None:
    (stored / "run.toml").write_text(TOML)
    flags = ALL_OWN[:left_out] + ALL_OWN[left_out + 2 :]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        alone = invoke("plan", "one", "one_flow", "--class", "mitoo", *flags, "--json")
        beside = invoke("plan", *COMMON, "--config", "run.toml", "--class", "nuc", "--class", "mitoo", *flags, "--json")
    skipped = "class 'mitoo' is skipped: no parameters are given for it in --config, nor all of --group, --steps, "
    if flags == ALL_OWN:
        for result in (alone, beside):
            assert (result.exit_code, result.stderr) == (0, "")
            found = json.loads(result.stdout)["parameters"]["mitoo"]
            assert [found[name] for name in ("group", "n_steps", "convergence_radius", "min_size")] == [3, 9, 2, 4]
        return
    assert (alone.exit_code, beside.exit_code) == (2, 0)
    assert re.search(
        r"no entry for any of \('mitoo',\); .* --config, or all of --group, .*; did you mean 'mito'\?$",
        alone.stderr.splitlines()[-1],
    )
    assert beside.stderr == f"Warning: {skipped}--radius and --min-size; did you mean 'mito'?\n"
    assert list(json.loads(beside.stdout)["parameters"]) == ["nuc"]
    assert json.loads(beside.stdout)["parameters"]["nuc"]["min_size"] == (1 if left_out == 6 else 4)


@pytest.mark.filterwarnings("default")
def test_default_parameters_are_doubted_where_edges_of_voxels_differ(stored: Path) -> None:
    for name, array in (("semantic", zarr.open("semantic")), ("flow", zarr.open("flow"))):
        axes = [{"name": "c", "type": "channel"}, *space("nanometer")]
        group = write_image(stored / f"{name}.zarr", image_of(axes, [scale(1, 32, 8, 8)], paths=["s0"]), shape=())
        group.create_array("s0", data=array[:], overwrite=True)
    plan = ["plan", "semantic.zarr", "flow.zarr", "--class", "nuc", "--class", "mito"]
    told = (
        "Warning: voxels are 32 × 8 × 8 nm, but the default parameters count voxels: the radius of 58 of 'nuc' is 1856 "
        "nm along z and 464 nm along x; if that does not fit the objects, give parameters of your own in --config\n"
    )
    own = ["--group", 1, "--steps", 9, "--radius", 2, "--min-size", 9]
    for more, warned in (([], told), (["--resolution-nm", 8], told), (["--min-size", 9], told), (own, "")):
        assert invoke(*plan, *more).stderr == warned
    run = invoke("run", *plan[1:3], "out", *plan[3:], "--quiet")
    assert run.stderr.count(told) == 1
    ours = [*plan[:3], "--config", "run.toml"]
    Path("run.toml").write_text(TOML)
    assert invoke(*ours).stderr == ""
    plain = ["plan", "semantic", "flow", *plan[3:], "--resolution-nm", "32,8,8"]
    for more, warned in (([], told), (["--min-size", 9], told), (own, "")):
        result = invoke(*plain, *more)
        assert result.stderr == warned
        assert re.search(r"^edges of a voxel, nm +\(32.0, 8.0, 8.0\)$", result.stdout, re.MULTILINE)
    assert re.search(r"^edges of a voxel, nm +unknown$", invoke(*ours, "--ome-zarr", "none").stdout, re.MULTILINE)


SLIPS = [
    (
        "run one one_flow out --class nuc --scheduler localhost:8786",
        "an address such as tcp://head:8786, got ",
    ),
    ("plan flow semantic --class nuc --resolution-nm 8", "flow must have 3 channels .*"),
    ("plan one_flow one --class a --class b --class c --resolution-nm 8", "they seem to be exchanged"),
    (
        "plan both both --class a --class b --resolution-nm 8",
        r"got 8; they seem to be foreground and flow in one array: write array\[:2\] and array\[2:\]$",
    ),
    ("plan both flow --class a --class b --resolution-nm 8", r"got 6; they seem to be .* write array\[:2\] and"),
    ("plan semantic both --class a --class b --resolution-nm 8", r"got 8; they seem to be .* write array\[:2\] and"),
    ("plan one one_flow --class a,b --resolution-nm 8", "'--class': 'a,b' holds a comma: of several repeat --class"),
    ("plan one one_flow --class nuc mito --resolution-nm 8", r"argument \(mito\); of several classes repeat --class$"),
    ("plan one one_flow --class=nuc mito", r"argument \(mito\); of several classes repeat --class$"),
    ("plan one one_flow mito", r"argument \(mito\)$"),
    (
        "plan one one_flow --class nuc --resolution-nm 40 16.5 16",
        r"arguments \(16.5 16\); join .* by commas",
    ),
    ("plan one one_flow --resolution-nm 8", "--class is not given, .*: name the class of each channel"),
    ("plan one flow --class nuc --resolution-nm 8", "flow must have 3 channels for each of the 1 classes of semantic"),
    ("plan one one_flow --class nuclei --resolution-nm 8", "the default parameters .nuc, .* have no entry for any of"),
    ("plan one one_flow --class nuk --resolution-nm 8", "have no entry for any of .*; did you mean 'nuc'?"),
    (
        "plan one one_flow --class mine --preset touching --group 1 --steps 9 --radius 2 --min-size 9",
        "'mine' has none: .* give it --merge agglomerate --radius 1.5 --steps 200 --step-size 0.5",
    ),
    ("preview one one_flow --class nuk --resolution-nm 8 --min-size 9", "have no entry for any of .* mean 'nuc'?"),
    ("plan one flo --class nuc", "flow: .*flo: there is no zarr array and no zarr group"),
    (
        "plan one one_flow --class nuc --resolution-nm 8 --scheduler threads --workers 2",
        "--workers has no meaning with --scheduler threads",
    ),
    ("plan one one_flow --scheduler tcp://localhost:1 --threads-per-worker 2", "no meaning with --scheduler tcp"),
    *(
        (f"{command} --level -1", "'--level': -1 is not in the range x>=0")
        for command in ("plan one one_flow", "run one one_flow out", "table one", "score one one", "show one")
    ),
    ("run one one_flow out --quiet --json-log", "--quiet and --json-log exclude one another"),
]


@pytest.mark.parametrize(("command", "message"), SLIPS, ids=[slip[0] for slip in SLIPS])
def test_slips_are_answered_with_the_remedy(stored: Path, command: str, message: str) -> None:
    result = invoke(*command.split())
    assert result.exit_code == 2
    assert re.search(message, result.stderr.splitlines()[-1])


def texts() -> list[str]:
    """Strings of the package outside the command line, but for docstrings; what is formatted into them is {}."""
    found = []
    root = Path(topo_dask.__file__).parent
    for path in root.rglob("*.py"):
        nodes = [] if "cli" in path.relative_to(root).parts else list(ast.walk(ast.parse(path.read_text())))
        docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
                found.append(node.value)
    return found


def test_what_messages_are_searched_for_occurs_in_them() -> None:
    whole = "\n".join(texts())
    for words in errors._FLAGS | errors._REFUSED:
        assert words in whole or re.sub("'.*'", "{}", words) in whole, f"no message has {words!r} any more"


def test_a_json_log_is_json_and_nothing_else(stored: Path) -> None:
    words = ["run", "one", "one_flow", "out", "--class", "nuc", "--resolution-nm", 64, "--json-log", "--block", 4]
    done = invoke(*words)
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.exit_code == 0
    stages = ["track", "link", "tabulate", "relabel"]
    assert [e["stage"] for e in events if e["event"] == "begin"] == stages
    assert [e["stage"] for e in events if e["event"] == "end"] == stages
    assert next(e for e in events if e["event"] == "end")["tasks"] == 8
    refused = invoke(*words)
    (error,) = [json.loads(line) for line in refused.stderr.splitlines()]
    assert (error["event"], error["exit_code"], refused.exit_code) == ("error", 2, 2)
    assert "pass --overwrite to replace it" in error["message"]
    for slip in (["--config", "none.toml"], ["--halo", "x"]):
        (event,) = [json.loads(line) for line in invoke(*words, *slip).stderr.splitlines()]
        assert (event["event"], event["exit_code"]) == ("error", 2)


def test_a_run_goes_on_when_nobody_reads_its_progress(stored: Path) -> None:
    words = ["run", "one", "one_flow", "out", "--class", "nuc", "--resolution-nm", "64", "--json-log", "--block", "4"]
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "topo_dask", *words, "--scheduler", "synchronous"]
    with os.fdopen(writer, "wb") as nobody:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=nobody, text=True, check=False)
    assert "nuc: out/labels/nuc (" in done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize("log", [[], ["--quiet"]])
def test_a_run_whose_stderr_is_closed_goes_on(stored: Path, log: list[str]) -> None:
    # Python then has no sys.stderr at all.
    words = "run", "one", "one_flow", "out", "--class", "nuc", "--resolution-nm", "8", "--scheduler", "synchronous"
    command = shlex.join([sys.executable, "-m", "topo_dask", *words, *log])
    done = subprocess.run(["bash", "-c", f"{command} 2>&-"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("nuc: out/labels/nuc (")


def test_a_json_log_tells_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = iter([0.0, 4.0, 12.0, 13.0, 20.0])
    log = JsonLog(every=10.0, clock=lambda: next(seconds))
    job = Job("nuc", BlockGrid((4, 4, 4), (1, 4, 4), (0, 0, 0)), None)  # type: ignore[arg-type]
    tick = log.begin(job, Stage("track", lambda *_: None), 4)
    for _ in range(4):
        tick()
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [e["event"] for e in events] == ["begin", "progress", "end"]
    assert (events[1]["done"], events[1]["rate"], events[1]["eta_seconds"]) == (2, round(2 / 12, 3), 12.0)
    assert events[2]["seconds"] == 20.0


def test_labels_that_no_float_holds_are_compared_and_sorted_as_they_are() -> None:
    top = 2**64 - 1
    for kind, labels in ((np.int64, [2**53 + 1, 2**53, 3]), (np.uint64, [top, top - 1, 3])):
        columns = {"label": np.array(labels, kind), "voxels": np.array([1, 1, 1])}
        for text, kept in ((f"label == {labels[1]}", labels[1:2]), (f"label > {labels[1]}", labels[:1])):
            assert select(columns, [read_condition(text)], "label")["label"].tolist() == kept
        assert select(columns, [read_condition("label > -1")], "label", True)["label"].tolist() == labels
        assert select(columns, [], "label")["label"].tolist() == labels[::-1]


class ReadOnly(io.StringIO):
    """A file that is open for reading."""

    def write(self, _: str) -> int:
        raise io.UnsupportedOperation("not writable")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"file": "log.jsonl"}, TypeError, "file must be a text file that is open for writing, got 'log.jsonl'"),
        ({"file": io.BytesIO()}, TypeError, "file must be a text file"),
        ({"file": ReadOnly()}, TypeError, "file must be a text file that is open"),
        ({"every": "10"}, TypeError, "every must be a number of seconds, got '10'"),
        ({"every": -1}, ValueError, "every must be at least 0 seconds, got -1"),
        ({"every": float("nan")}, ValueError, "every must be at least 0 seconds, got nan"),
    ],
)
def test_a_log_that_could_not_be_written_is_refused_before_the_run(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        JsonLog(**arguments)


def test_a_log_that_is_no_terminal_has_lines_with_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = iter([0.0, 10.0, 200.0, 7300.0, 7310.0, 7310.0])
    job = Job("nuc", BlockGrid((4, 4, 4), (1, 4, 4), (0, 0, 0)), None)  # type: ignore[arg-type]
    log = TextLog(every=30.0, clock=lambda: next(seconds))
    tick = log.begin(job, Stage("track", lambda *_: None), 4)
    for _ in range(4):
        tick()
    log.begin(job, Stage("link", lambda *_: None), 0)
    assert capsys.readouterr().err.splitlines() == [
        "nuc track        2 of 4, 0.01/s, 0:03:20 left",
        "nuc track        3 of 4, 0.000411/s, 0:40:33 left",
        "nuc track        4 of 4 in 2:01:50",
    ]


@pytest.mark.parametrize(("terminal", "kind"), [(True, ProgressBars), (False, TextLog)])
def test_who_looks_decides_how_progress_is_shown(monkeypatch: pytest.MonkeyPatch, terminal: bool, kind: type) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    with on_stderr() as shown:
        assert type(shown) is kind


class Screen(io.StringIO):
    """Text that is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def write(self, text: str) -> int:
        self.written.set()
        return super().write(text)


@pytest.mark.parametrize(("progress", "says"), [(True, True), (False, False), (JsonLog(io.StringIO()), False)])
def test_a_run_says_that_it_compiles_if_that_takes_long(
    stored: Path, monkeypatch: pytest.MonkeyPatch, progress: Any, says: bool
) -> None:
    screen = Screen()

    def make_ready(*_: object) -> None:
        assert screen.written.wait(60 if says else 0.1) == says
        raise RuntimeError("it stops here")

    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("topo_dask.segment.make_ready", make_ready)
    monkeypatch.setattr("topo_dask.segment.said_if_long", partial(said_if_long, after=0.0))
    with pytest.raises(RuntimeError, match="it stops here"):
        topo_dask.segment_volume(
            "one", "one_flow", "out", class_names=["nuc"], resolution_nm=16, ome_zarr=None, progress=progress
        )
    assert screen.getvalue() == (
        "kernels are being compiled, or read from the cache of an earlier run\n" if says else ""
    )


def test_what_is_done_soon_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    with said_if_long("long", after=0.1):
        pass
    assert not screen.written.wait(0.3)


def test_a_disk_that_is_too_small_is_refused_input(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topo_dask.admission.disk_of", lambda url: Disk(1, 100))
    result = invoke("run", "one", "one_flow", "out", "--class", "nuc", "--resolution-nm", 64, "--quiet")
    assert result.exit_code == 2
    assert re.fullmatch(r"Error: scratch .* missing on the disk: make room, or pass --scratch <.*>\n", result.stderr)


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 7, 8, 64])
def test_a_cluster_is_sized_to_the_machine(cores: int) -> None:
    workers, threads = size_cluster(cores, None, None)
    assert cores / 2 < workers * threads <= cores
    assert workers >= min(2, cores)


def test_what_is_refused_is_refused_before_a_cluster_is_started(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(machine: object) -> None:
        raise OSError("started")

    monkeypatch.setattr("topo_dask.cli.schedulers._local_cluster", start)
    options = ["one", "one_flow", "out", "--scheduler", "cluster", "--class", "nuc", "--resolution-nm", 64]
    for more, message in (
        (["--class", "mito"], "has 1, got 2"),
        (["--memory-limit", "1KiB"], "--memory-limit must be above the 400 MiB"),
        (["--memory-limit", "much"], "--memory-limit must be a size"),
    ):
        result = invoke("run", *options, *more)
        assert result.exit_code == 2
        assert message in result.stderr
    assert "started" in invoke("run", *options).stderr


def test_a_cluster_is_planned_with_the_memory_that_it_will_have(stored: Path) -> None:
    options = ["one", "one_flow", "--class", "nuc", "--resolution-nm", 64, "--json", "--scheduler", "cluster"]
    size = ["--workers", 2, "--threads-per-worker", 2, "--memory-limit", "2GiB"]
    planned = json.loads(invoke("plan", *options, *size).stdout)
    like_it = {"n_workers": 2, "threads_per_worker": 2, "memory_limit": "2GiB", "processes": False}
    with LocalCluster(**like_it, dashboard_address="127.0.0.1:0") as cluster, Client(cluster):
        started = plan_volume("one", "one_flow", class_names=["nuc"], resolution_nm=64)
    assert planned["allowed_bytes"] == started.allowed_mem


def test_a_plan_for_programs_has_keys_and_whole_numbers_and_one_for_people_has_labels(stored: Path) -> None:
    words = ["plan", "one", "one_flow", "--class", "nuc", "--resolution-nm", 64, "--block", 4, "--estimate"]
    found = json.loads(invoke(*words, "--json").stdout)
    planned = plan_volume("one", "one_flow", class_names=["nuc"], resolution_nm=64, block_shape=(4, 4, 4))
    assert (found["volume"], found["block_shape"], found["n_blocks"], found["n_levels"]) == ([8] * 3, [4] * 3, 8, 1)
    sizes = ("scratch_bytes", planned.scratch_bytes), ("output_bytes", planned.output_bytes)
    for key, expected in (("task_bytes", planned.task_mem), ("global_bytes", planned.global_mem), *sizes):
        assert found[key] == expected > 0
    assert (found["expected_scratch_bytes"], found["expected_output_bytes"]) == planned.expected_bytes()
    assert all(isinstance(value, int) for key, value in found.items() if key.endswith("_bytes"))
    assert found["n_foreground_blocks"] >= found["n_timed_blocks"] > 0 < found["seconds"]
    assert all(re.fullmatch("[a-z_]+", key) for key in found)
    lines = dict(re.split(" {2,}| (?=[0-9(])", line, maxsplit=1) for line in invoke(*words).stdout.splitlines())
    assert lines["block"] == "(4, 4, 4)"
    assert lines["projected memory of a task, MiB"] == str(round(planned.task_mem / 2**20))
    assert lines["scratch at most, GiB"] == str(round(planned.scratch_bytes / 2**30, 3))
    assert float(lines["estimated time, s"]) == round(float(lines["estimated time, s"]), 1)


def test_flags_replace_parameters_of_the_resolution_that_the_input_has(tmp_path: Path) -> None:
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "nanometer"} for n in "zyx")]
    image = {
        "axes": axes,
        "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 32, 33, 33]}]}],
    }
    for name, channels in (("semantic", 1), ("flow", 3)):
        group = zarr.create_group(tmp_path / name, attributes={"ome": {"version": "0.5", "multiscales": [image]}})
        group.create_array("0", shape=(channels, 8, 8, 8), dtype="f4")
    places = (str(tmp_path / "semantic"), str(tmp_path / "flow"))
    values = dict.fromkeys([*PER_CLASS, "config", "resolution_nm", "preset", "level", "flow_error_threshold"])
    options = {**values, "classes": ["nuc"], "min_size": 7, "preset": "published"}
    asked = options.copy()
    found = read_parameters(*places, options)
    assert options == asked
    assert found["preset"] is None  # which excludes parameters of one's own
    given = found["class_config"]["nuc"]
    assert given == {**get_postprocess_config(32)["nuc"], "min_size": 7}
    assert given["n_steps"] != get_postprocess_config(8)["nuc"]["n_steps"]


def test_flags_without_a_resolution_are_warned_of(stored: Path) -> None:
    some = ["plan", "one", "one_flow", "--class", "nuc", "--steps", 5, "--radius", 2]
    assert "using the parameters for 8 nm voxels where no option says otherwise" in invoke(*some).stderr
    assert invoke(*some, "--min-size", 1).stderr == ""
    far = "--resolution-nm", 260  # as voxels of light microscopy are, and their metadata say
    assert "--resolution-nm 260 is far from those with parameters" in invoke(*some, *far).stderr
    assert invoke(*some, *far, "--min-size", 1).stderr == ""


def test_a_file_without_classes_is_not_said_to_be_missing(stored: Path) -> None:
    (stored / "run.toml").write_text("[run]\nclass = 'nuc'")
    plain = ["plan", "one", "one_flow", "--config", "run.toml"]
    for words in (plain, [*plain, "--steps", "5"]):
        assert "neither classes in --config nor --resolution-nm is given: using the" in invoke(*words).stderr


def test_a_cluster_is_started_with_the_workers_asked_for(stored: Path) -> None:
    words = ["run", "one", "one_flow", "out", "--class", "nuc", "--resolution-nm", 64, "--radius", 1.5, "--quiet"]
    done = invoke(*words, "--scheduler", "cluster", "--workers", 1, "--threads-per-worker", 2, "--min-size", 1)
    assert done.exit_code == 0, done.stderr
    assert zarr.open("out/labels/nuc/0")[:].max() == 2


def test_a_cluster_looks_at_itself_less_often_unless_the_user_has_said_how_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = "distributed.worker.profile.interval", "distributed.admin.tick.interval"
    before = [dask.config.get(name) for name in names]
    with Scheduling("cluster", 1, 1, "1GiB").start():
        found = Client.current().run(lambda: [dask.config.get(name) for name in names])
    assert list(found.values()) == [["100ms", "500ms"]]
    assert [dask.config.get(name) for name in names] == before
    monkeypatch.setenv("DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL", "30ms")
    assert list(schedulers._calm()) == [names[0]]


def interrupt(words: list[str], when: Callable[[], bool], number: int) -> tuple[int, list[str]]:
    """Exit code and stderr of a command that gets SIGTERM, or whose terminal sends Ctrl-C to all its processes."""
    command = [sys.executable, "-m", "topo_dask", *words]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while not when():
        assert process.poll() is None
        time.sleep(0.05)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    stderr = process.communicate(timeout=60)[1]
    return process.returncode, stderr.splitlines()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_cluster_ends_in_one_line_and_the_run_is_resumed(stored: Path, number: int) -> None:
    words = [
        "run",
        "one",
        "one_flow",
        "out",
        "--class",
        "nuc",
        "--resolution-nm",
        "64",
        "--radius",
        "1.5",
        "--block",
        "1",
    ]
    words += ["--min-size", "1", "--scheduler", "cluster", "--workers", "2", "--quiet"]
    started = stored / "out.scratch"
    code, lines = interrupt(words, lambda: any(started.rglob("track")), number)
    assert (code, lines) == (1, ["Error: interrupted; the same command with --resume goes on"])
    words = words[: words.index("--scheduler")]
    assert invoke(*words, "--resume", "--quiet").exit_code == 0
    assert zarr.open("out/labels/nuc/0")[:].max() == 2


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("kind", "number"), [("processes", "TERM"), ("processes", "KILL"), ("threads", "TERM")])
def test_tasks_end_with_their_run(stored: Path, kind: str, number: str) -> None:
    words = ["run", "one", "one_flow", "out", "--class", "nuc", "--resolution-nm", "64", "--radius", "1.5"]
    words += ["--min-size", "1", "--block", "1", "--quiet"]
    code, lines = interrupt(  # which waits for all processes that have its stderr
        [*words, "--scheduler", kind],
        lambda: any((stored / "out.scratch").rglob("track")),
        getattr(signal, f"SIG{number}"),
    )
    told = "Error: interrupted; the same command with --resume goes on"
    assert code == -signal.SIGKILL if number == "KILL" else (code, lines) == (1, [told])
    assert invoke(*words, "--scheduler", "threads", "--resume").exit_code == 0


def test_an_interrupted_run_says_how_it_goes_on(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["run", "one", "one_flow", "out", "--class", "nuc", "--resolution-nm", "8", "--quiet"]
    assert invoke(*words).exit_code == 0

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(label_arrays, "_replace", interrupted)
        result = invoke(*words, "--overwrite")
    assert result.stderr == "Error: interrupted; the same command with --resume in place of --overwrite goes on\n"
    resumed = invoke(*words, "--resume")
    assert resumed.exit_code == 0, resumed.stderr


@pytest.mark.parametrize("at", ["topo_dask.cli.segmenting.read_parameters", "topo_dask.segment.ledger.begin"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_run_that_is_not_on_record_says_to_begin_again(
    stored: Path, monkeypatch: pytest.MonkeyPatch, at: str, earlier: bool
) -> None:
    words = ["run", "one", "one_flow", "out", "--class", "nuc", "--resolution-nm", "8", "--quiet"]
    assert invoke(*words).exit_code == 0

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    if earlier:
        with monkeypatch.context() as patched:
            patched.setattr(label_arrays, "_replace", interrupted)
            patched.setattr(sys, "argv", ["topo-dask", "another", "command"])
            invoke(*words, "--radius", "3", "--overwrite")
    with monkeypatch.context() as patched:
        patched.setattr(at, interrupted)
        result = invoke(*words, "--overwrite")
        Path("again.toml").write_text("[run]\noverwrite = true\n")
        by_file = invoke(*words, "--config", "again.toml")
    assert result.stderr == "Error: interrupted before the run was on record; the same command begins again\n"
    if "ledger" in at:  # else nobody has read the file
        assert by_file.stderr == result.stderr
    assert invoke(*words, "--overwrite").exit_code == 0


def test_a_cluster_that_is_not_there_is_named(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topo_dask.cli.schedulers.TO_CONNECT", "500ms")
    result = invoke("plan", "one", "one_flow", "--scheduler", "tcp://127.0.0.1:9", "--class", "nuc")
    assert result.exit_code == 2
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in result.stderr


@pytest.fixture
def segmented(stored: Path) -> Path:
    """The folder with the labels of both classes: two cubes of 27 voxels each."""
    (stored / "run.toml").write_text(TOML)
    assert invoke("run", *COMMON, "out", "--config", "run.toml", "--quiet").exit_code == 0
    return stored


@pytest.mark.parametrize(
    "words",
    [
        ["out", "--class", "nuc"],
        ["out.tables/nuc.csv"],
        ["out/labels/nuc"],
        ["out/labels/nuc", "--flow", "one_flow"],
        ["out", "--class", "nuc", "--flow", "one_flow"],
    ],
)
def test_tables_are_read_or_computed(segmented: Path, words: list[str]) -> None:
    shown = invoke("table", *words, "--where", "centroid_z > 2", "--sort", "voxels", "--descending")
    assert shown.exit_code == 0, shown.stderr
    head, row = (line.split() for line in shown.stdout.splitlines())
    values = dict(zip(head, row, strict=True))
    assert (values["label"], values["voxels"], values["bbox_start_z"], values["centroid_x"]) == ("2", "27", "4", "5")
    assert values["flow_error"] == ("0" if "--flow" in words else "-")
    assert shown.stderr.endswith("1 of 2 instances\n")
    none = invoke("table", *words, "--where", "voxels > 1000")
    assert (none.exit_code, len(none.stdout.splitlines())) == (0, 1)
    assert none.stderr.endswith("0 of 2 instances\n")


@pytest.mark.parametrize("words", [["out", "--class", "nuc"], ["out/labels/nuc"], ["out/labels/nuc/0"]])
def test_tables_tell_micrometres(segmented: Path, words: list[str]) -> None:
    options = "--physical", "--where", "centroid_um_z > 0.05", "--sort", "volume_um3", "-o", "rows.json"
    done = invoke("table", *words, *options)
    assert done.exit_code == 0, done.stderr
    (row,) = json.loads(Path("rows.json").read_text())
    assert list(row) == [*COLUMNS, *PHYSICAL]
    assert row["volume_um3"] == pytest.approx(27 * 0.016**3)
    assert [row[f"centroid_um_{axis}"] for axis in "zyx"] == pytest.approx([5 * 0.016] * 3)


@pytest.mark.parametrize("name", ["rows.csv", "rows.json"])
def test_tables_are_exported_whole(segmented: Path, name: str) -> None:
    done = invoke("table", "out", "--class", "mito", "--rows", 1, "-o", name)
    assert done.stdout == f"2 instances: {name}\n"
    if name == "rows.csv":
        assert Path(name).read_bytes() == Path("out.tables/mito.csv").read_bytes()
    else:
        first = json.loads(Path(name).read_text())[0]
        assert (first["label"], first["voxels"], first["flow_error"]) == (1, 27, None)


def test_rows_that_are_not_shown_are_counted(segmented: Path) -> None:
    lines = invoke("table", "out", "--class", "mito", "--rows", 1).stdout.splitlines()
    assert len(lines) == 3
    assert "1 of 2 more" in lines[-1]


TABLES = [
    ("table out", "out has labels of mito, nuc: choose one with --class NAME"),
    ("table out --class nucleus", "out has labels of mito, nuc, and none of 'nucleus'"),
    ("table out --class nuc --level 7", "--level must be at least 0 and below 1"),
    ("table other.csv", "other.csv is no table of topo_dask: its columns must be label, voxels"),
    ("table out.tables/nuc.csv --class nuc", "--class is for OUTPUT or LABELS, and out.tables/nuc.csv is the table"),
    ("table out.tables/nuc.csv --flow one_flow", "--flow is for OUTPUT or LABELS"),
    ("table out.tables/nuc.csv --level 0", "--level is for OUTPUT or LABELS"),
    ("table out.tables/nuc.csv --physical", "--physical is for OUTPUT or LABELS"),
    ("table nowhere", "nowhere: there is no zarr array and no zarr group"),
]


@pytest.mark.parametrize(("command", "message"), TABLES, ids=[row[0] for row in TABLES])
def test_tables_are_refused_with_the_remedy(segmented: Path, command: str, message: str) -> None:
    Path("other.csv").write_text("a,b\n1,2\n")
    result = invoke(*command.split())
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]


def test_tables_go_with_their_labels(segmented: Path) -> None:
    edited = "out.tables/mito.csv"
    Path(edited).write_text(Path(edited).read_text().replace(",27,", ",28,", 1))
    words = "table", "moved", "--class"
    Path("out").rename("moved")
    assert invoke("table", "out", "--class", "nuc").exit_code == 2  # there are no labels
    assert invoke(*words, "nuc").exit_code == 0
    Path("out.tables").rename("moved.tables")
    Path("moved/labels/nuc/0/c").rename("away")  # so it is read
    assert invoke(*words, "nuc").stdout.splitlines()[1].split()[1] == "27"
    refused = invoke(*words, "mito")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "moved.tables/mito.csv is not the table that the run left of these labels of 'mito'" in refused.stderr
    assert "28" in invoke("table", "moved.tables/mito.csv").stdout  # as the message says
    Path("moved.tables/mito.csv").unlink()
    assert invoke(*words, "mito").stdout.splitlines()[1].split()[1] == "27"


def test_the_table_of_a_coarser_level_is_computed(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topo_dask.placing.COARSEST", 4)
    options = "--class", "nuc", "--resolution-nm", 8, "--min-size", 1, "--quiet"
    assert invoke("run", "one", "one_flow", "out", *options).exit_code == 0
    for level in (0, 1):
        voxels = np.argwhere(zarr.open(f"out/labels/nuc/{level}")[:])
        n = len(voxels)
        (row,) = invoke("table", "out", "--level", level).stdout.splitlines()[1:]
        assert row.split()[1] == str(n)
        # The centre of the first voxel of level 1 lies half a fine voxel beyond that of level 0.
        (row,) = invoke("table", "out", "--level", level, "--physical").stdout.splitlines()[1:]
        volume, *centre = map(float, row.split()[-4:])
        assert volume == pytest.approx(n * (0.008 * 2**level) ** 3, rel=1e-3)
        assert centre == pytest.approx(voxels.mean(axis=0) * 0.008 * 2**level + 0.004 * level, rel=1e-3)
    assert n < 54
    refused = invoke("table", "out", "--level", 1, "--where", "flow_error < 1")
    assert "flow_error is not known" in refused.stderr


def test_a_table_that_the_labels_do_not_know_of_is_computed(segmented: Path) -> None:
    group = zarr.open_group("out/labels/nuc", mode="r+")
    group.attrs[MARK] = {key: value for key, value in group.attrs[MARK].items() if key != "table"}
    Path("out.tables/nuc.csv").write_text("label\r\n")
    assert invoke("table", "out", "--class", "nuc").stdout.splitlines()[1].split()[1] == "27"


def test_plain_labels_have_their_table(stored: Path) -> None:
    options = "--class", "nuc", "--resolution-nm", 8, "--min-size", 1, "--ome-zarr", "none", "--quiet"
    assert invoke("run", "one", "one_flow", "plain", *options).exit_code == 0
    Path("plain/nuc/c").rename("away")  # so it is read
    assert len(invoke("table", "plain").stdout.splitlines()) == 2


NOT_WORTH_COMPUTING = [
    ("--where voxels", "--where must be like 'voxels >= 500', got 'voxels'"),
    ("--where voxels>x", "'x' is not a number"),
    ("--where voxels>1 --where size>1", "there is no column 'size': label, voxels,"),
    ("--where flow_error<1", "flow_error is not known; the run needs --flow-error, or this --flow"),
    ("--sort flow_error", "--sort flow_error: flow_error is not known; the run needs --flow-error, or this --flow"),
    ("--sort size", "there is no column 'size': label, voxels,"),
    ("--sort volume_um3", "the column 'volume_um3' needs --physical"),
    ("--where centroid_um_z>1", "the column 'centroid_um_z' needs --physical"),
    (
        "--physical",
        "--physical: the metadata of labels tell no size of a voxel in a unit of length; labels get it from the "
        "metadata of the run's input, or from --resolution-nm if those give no scale. Plain arrays, such as those of "
        "--ome-zarr none, have no place for it",
    ),
    ("-o rows.xlsx", "--output must end in .csv or .json, got 'rows.xlsx'"),
    ("-o there/rows.csv", "--output 'there/rows.csv': there is no folder "),
    ("-o one/zarr.json/rows.csv", "--output 'one/zarr.json/rows.csv': there is no folder "),
    ("-o folder.csv", "File 'folder.csv' is a directory"),
]


@pytest.mark.parametrize(("options", "message"), NOT_WORTH_COMPUTING, ids=[row[0] for row in NOT_WORTH_COMPUTING])
def test_tables_are_refused_before_they_are_computed(
    stored: Path, monkeypatch: pytest.MonkeyPatch, options: str, message: str
) -> None:
    computed: list[tuple[object, ...]] = []
    monkeypatch.setattr("topo_dask.api.relabelling.instance_table", lambda *arrays: computed.append(arrays))
    Path("folder.csv").mkdir()
    zarr.create_array("labels", data=np.ones((4, 8, 8), np.int32))
    result = invoke("table", "labels", *options.split())
    assert (result.exit_code, computed) == (2, [])
    assert message in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("halves", "LABELS must hold integers, got dtype float32"),
        ("flat", "LABELS must have 3 axes, got shape .8, 8."),
        ("labels --flow flat_flow", "--flow must have shape .3, 4, 8, 8.: .* the shape of LABELS; got .3, 1, 8, 8."),
    ],
)
def test_what_is_no_labels_for_a_table_is_told_in_the_words_of_the_command(
    stored: Path, words: str, message: str
) -> None:
    zarr.create_array("labels", data=np.ones((4, 8, 8), np.int32))
    zarr.create_array("halves", data=np.full((4, 8, 8), 0.5, np.float32))
    zarr.create_array("flat", data=np.ones((8, 8), np.int32))
    zarr.create_array("flat_flow", data=np.ones((3, 1, 8, 8), np.float32))
    result = invoke("table", *words.split())
    assert result.exit_code == 2
    assert re.match(f"Error: {message}", result.stderr), result.stderr


@pytest.mark.parametrize(("output", "message"), [("new.csv", "cannot be written to"), ("old.csv", "is not writable")])
def test_tables_that_can_not_be_written_are_refused(
    stored: Path, monkeypatch: pytest.MonkeyPatch, output: str, message: str
) -> None:
    Path("old.csv").touch()
    monkeypatch.setattr(os, "access", lambda place, mode: mode != os.W_OK)
    result = invoke("table", "nowhere", "-o", output)
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed(shell: str) -> None:
    result = invoke("completion", shell)
    assert result.exit_code == 0
    assert "_TOPO_DASK_COMPLETE" in result.stdout


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_says_what_it_does_and_its_defaults(name: str) -> None:
    command = main.commands[name]
    assert command.help
    assert len(command.help.split("\n")[0]) < 100
    for option in command.params:
        if isinstance(option, click.Option) and not option.is_flag and not option.required:
            has_default = option.default is not None or option.multiple
            assert option.help
            assert has_default or "[default:" in option.help, option.name


def test_the_length_of_a_step_is_in_units_of_the_flow() -> None:
    assert "factor on the flow vector" in " ".join(invoke("run", "--help").stdout.split())


def test_a_reader_that_has_gone_is_no_error(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(*_: object, **__: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("topo_dask.admission.plan_volume", leave)
    result = invoke("plan", "semantic.zarr", "flow.zarr", "--class", "ves", "--resolution-nm", 8)
    assert (result.exit_code, result.stderr) == (1, "")


# ------------------------------------------------------------ score


def test_scores_are_those_of_the_functions(segmented: Path) -> None:
    truth = np.zeros(SHAPE, np.int64)
    truth[1:4, 1:4, 1:4], truth[4:7, 4:7, 4:6], truth[4:7, 4:7, 6] = 5, 9, 11
    zarr.create_array("truth", data=truth)
    found = json.loads(invoke("score", "truth", "out", "--class", "nuc", "--threshold", 0.6, "--json").stdout)
    labels = zarr.open("out/labels/nuc/0")[:]
    assert found["adapted_rand"]["error"] == scores.adapted_rand_error(truth, labels).error > 0
    assert found["variation_of_information"]["merge"] == scores.variation_of_information(truth, labels).merge > 0
    assert found["objects"] == {"splits": 0, "merges": 1, "missed": 0, "spurious": 0}
    assert [(row["threshold"], row["tp"], row["fn"]) for row in found["matches"]] == [(0.6, 2, 1)]
    lines = invoke("score", "truth", "out/labels/nuc").stdout.splitlines()
    assert [line[:32].rstrip() for line in lines[:2]] == ["adapted Rand", "variation of information, bits"]
    assert lines[2].split() == ["objects", "splits", "0", "merges", "1", "missed", "0", "spurious", "0"]
    assert [line.split()[:4] for line in lines[3:]] == [
        ["matches", "threshold", t, "tp"] for t in ("0.5", "0.75", "0.9")
    ]


def test_a_condition_on_what_is_not_known_and_its_order_are_refused(segmented: Path) -> None:
    for place in (("out", "--class", "nuc"), ("out.tables/nuc.csv",)):
        for option in (("--where", "flow_error < 0.1"), ("--sort", "flow_error")):
            result = invoke("table", *place, *option)
            assert (result.exit_code, result.stdout) == (2, "")
            assert "flow_error is not known; the run needs --flow-error, or this --flow" in result.stderr


def test_the_channels_of_a_class_are_taken_from_the_flow_of_several(segmented: Path) -> None:
    flow = zarr.open("one_flow")[:]
    zarr.create_array("turned", data=np.concatenate([flow, -flow]))
    zarr.create_array("three", data=np.concatenate([flow, -flow, -flow]))
    zarr.create_array("copy", data=zarr.open("out/labels/nuc/0")[:])

    def errors(*words: object) -> set[str]:
        done = invoke("table", *words)
        return {line.split()[-1] for line in done.stdout.splitlines()[1:]} or {done.stderr}

    for words in (["out", "--class", "nuc"], ["out/labels/nuc"], ["copy", "--channel", 0]):
        assert errors(*words, "--flow", "turned") == {"0"}
    right = errors("out", "--class", "mito", "--flow", "turned")
    assert right == errors("copy", "--flow", "turned", "--channel", 1)
    assert right.isdisjoint({"0", "-"})
    for words in (["out", "--class", "nuc", "--flow", "three"], ["copy", "--flow", "turned"]):
        (refused,) = errors(*words)
        assert re.search("channels, 3 for each class, and nothing says .*: choose with --channel", refused)
    assert "channel 2 is not among the classes" in errors("copy", "--flow", "turned", "--channel", 2).pop()
    assert "--flow must have shape (3, 8, 8, 8)" in errors("copy", "--flow", "semantic").pop()
    assert "there is no --flow" in errors("out", "--class", "nuc", "--channel", 0).pop()


def test_plain_labels_by_their_own_path_are_those_of_the_run(stored: Path) -> None:
    zarr.create_array("two", data=np.concatenate([zarr.open("one")[:]] * 2))
    flow = zarr.open("one_flow")[:]
    zarr.create_array("two_flow", data=np.concatenate([flow, -flow]))
    names = "--class", "nuc", "--class", "cell", "--resolution-nm", 8, "--min-size", 1
    assert invoke("run", "two", "two_flow", "out", *names, "--ome-zarr", "none", "--quiet").exit_code == 0
    by_class = invoke("table", "out", "--class", "cell", "--flow", "two_flow")
    assert by_class.exit_code == 0
    for words in (["out/cell"], ["out/cell", "--class", "cell"]):
        assert invoke("table", *words, "--flow", "two_flow").stdout == by_class.stdout
    array = zarr.open_array("out/cell", mode="r+")
    array.attrs[MARK] = {**array.attrs[MARK], "complete": False}
    for command in (["table", "out/cell"], ["score", "one", "out/cell"]):
        assert "labels of 'cell' in out/cell are not whole" in invoke(*command).stderr


def test_the_home_folder_is_known_to_tables(segmented: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(segmented))
    Path("out/labels/nuc/0/c").rename("away")  # so the table is read
    expected = invoke("table", "out", "--class", "nuc").stdout
    assert expected.splitlines()[1].split()[1] == "27"
    for words in (["~/out", "--class", "nuc"], ["~/out.tables/nuc.csv"]):
        assert invoke("table", *words).stdout == expected


def test_the_table_of_the_folder_that_one_is_in_is_that_of_the_run(
    segmented: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("out/labels/nuc/0/c").rename("away")  # so the table is read
    expected = invoke("table", "out", "--class", "nuc").stdout
    monkeypatch.chdir("out")
    for place in (".", "labels/.."):
        assert invoke("table", place, "--class", "nuc").stdout == expected


def test_labels_in_an_archive_have_no_table_beside_them(segmented: Path) -> None:
    expected = invoke("table", "out/labels/nuc/0").stdout
    with zarr.storage.ZipStore("archive.zip", mode="w") as archive:
        zarr.create_array(archive, name="nuc", data=zarr.open_array("out/labels/nuc/0")[:])
    result = invoke("table", "zip://nuc::archive.zip")
    assert (result.exit_code, result.stdout) == (0, expected)


def test_the_table_beside_an_array_is_named_and_another_computed(stored: Path) -> None:
    from topo_dask import segment_volume

    labels = zarr.create_array("array", shape=SHAPE, chunks=SHAPE, dtype="i4")
    options = {"class_names": ["nuc"], "resolution_nm": 8, "progress": False}
    segment_volume("one", "one_flow", labels, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = invoke("table", "array")
    assert result.exit_code == 0
    table = f"{stored}/array.tables/nuc.csv"
    assert f"Warning: array bears no mark of the run that left {table}: computing; give" in result.stderr
    zarr.create_array("array", shape=SHAPE, chunks=SHAPE, dtype="i4", overwrite=True)
    segment_volume("one", "one_flow", zarr.open_array("array", mode="r+"), **options)  # its table is replaced


def test_an_output_beside_labels_that_lie_alone_is_one_like_others(segmented: Path) -> None:
    Path("alone").mkdir()
    Path("out/labels").rename("alone/labels")
    Path("alone/labels/nuc.tables").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = invoke("run", *COMMON, "alone/labels/new", "--config", "run.toml", "--quiet")
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize("ome_zarr", ["0.5", "none"])
def test_the_only_class_of_an_output_needs_no_name(stored: Path, ome_zarr: str) -> None:
    options = "--class", "nuc", "--resolution-nm", 8, "--min-size", 1, "--ome-zarr", ome_zarr, "--quiet"
    assert invoke("run", "one", "one_flow", "only", *options).exit_code == 0
    place = "only/nuc" if ome_zarr == "none" else "only/labels/nuc"
    found = [invoke("score", place, place_or_class).stdout for place_or_class in ("only", place)]
    assert found[0] == found[1] != ""
    assert invoke("table", "only", "--flow", "one_flow").stdout == invoke("table", place, "--flow", "one_flow").stdout


def test_the_path_that_a_run_prints_is_no_output(segmented: Path) -> None:
    result = invoke("run", *COMMON, "out/labels/nuc", "--config", "run.toml", "--overwrite")
    assert result.exit_code == 2
    assert f"lies where a run put its labels of mito, nuc: give {segmented}/out\n" in result.stderr


def test_labels_are_those_of_the_run_beside_labels_of_others_and_in_one_layout(stored: Path) -> None:
    zarr.open_group("only", mode="w").create_group("labels").create_array("nuc", data=np.zeros(SHAPE, np.int32))
    options = "--class", "nuc", "--resolution-nm", 8, "--min-size", 1, "--quiet", "--scheduler", "synchronous"
    done = invoke("run", "one", "one_flow", "only", *options, "--ome-zarr", "none")
    assert done.stdout == "nuc: only/nuc (1 instance)\n", done.stderr
    assert invoke("score", "only/nuc", "only").stdout == invoke("score", "only/nuc", "only/nuc").stdout != ""
    zarr.open_array("only/labels/nuc").attrs[MARK] = {"class": "nuc", "complete": True}
    result = invoke("score", "only/nuc", "only")
    assert result.exit_code == 2
    assert "only has labels of 'nuc' in nuc and in labels/nuc: give the path of those you mean" in result.stderr
    assert "  nuc: whole\n" in invoke("status", "only").stdout


@pytest.mark.parametrize("command", ["score out", "table --flow one_flow"])
def test_labels_that_are_not_named_or_not_whole_are_refused(segmented: Path, command: str) -> None:
    result = invoke(*command.split(), "out")
    assert result.exit_code == 2
    assert "out has labels of mito, nuc: choose one with --class NAME\n" in result.stderr
    group = zarr.open_group("out/labels/nuc", mode="r+")
    group.attrs[MARK] = {key: value for key, value in group.attrs[MARK].items() if key != "complete"}
    for place in (["out", "--class", "nuc"], ["out/labels/nuc"]):
        result = invoke(*command.split(), *place)
        assert result.exit_code == 2
        assert f"labels of 'nuc' in {place[0]} are not whole: the run has not finished them" in result.stderr


def test_levels_of_labels_are_whole_where_their_group_is(stored: Path) -> None:
    shape = (2, 2, 300)
    zarr.create_array("long", data=np.ones((1, *shape), np.float32))
    zarr.create_array("long_flow", data=np.ones((3, *shape), np.float32))
    options = "--class", "nuc", "--group", 1, "--steps", 1, "--radius", 2, "--min-size", 1, "--quiet"
    assert invoke("run", "long", "long_flow", "out", *options).exit_code == 0
    places = ["out/labels/nuc", "out/labels/nuc/0", "out/labels/nuc/1"]
    commands = [("table", "{}"), ("score", "{}", "{}"), ("show", "{}", "-o", "figure.png")]
    words = [[word.format(place) for word in command] for place in places for command in commands]
    assert [(invoke(*command).exit_code, command) for command in words] == [(0, command) for command in words]
    assert [find_layers(place)[0].name for place in places] == ["labels/nuc", "nuc/0", "nuc/1"]
    group = zarr.open_group("out/labels/nuc", mode="r+")
    group.attrs[MARK] = {key: value for key, value in group.attrs[MARK].items() if key != "complete"}
    for command in words:
        result = invoke(*command)
        assert result.exit_code == (0 if command[0] == "show" else 2)
        assert command[0] == "show" or f"labels of 'nuc' in {command[-1]} are not whole" in result.stderr
    assert all(find_layers(place)[0].name.endswith(" (unfinished)") for place in places)


@pytest.mark.parametrize("place", ["labels/nuc", "labels/nuc/0", "nuc"])
def test_a_truth_that_a_run_has_not_finished_is_refused(stored: Path, place: str) -> None:
    ome_zarr = "none" if place == "nuc" else "0.5"
    options = "--class", "nuc", "--resolution-nm", 8, "--min-size", 1, "--ome-zarr", ome_zarr, "--quiet"
    assert invoke("run", "one", "one_flow", "only", *options).exit_code == 0
    copies = "copy", "copies/nuc"  # the latter is called as labels of a run are, but in no group
    for copy in copies:
        shutil.copytree(f"only/{place}", copy)
    labels = zarr.open(f"only/{place.removesuffix('/0')}", mode="r+")
    labels.attrs[MARK] = {key: value for key, value in labels.attrs[MARK].items() if key != "complete"}
    zarr.create_array("other", data=np.ones(SHAPE, np.int32))
    result = invoke("score", f"only/{place}", "other")
    assert result.exit_code == 2
    assert f"labels of 'nuc' in only/{place} are not whole: the run has not finished them" in result.stderr
    assert [invoke("score", copy, "other").exit_code for copy in copies] == [0, 0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("score nowhere out/labels/nuc", "truth: .*nowhere: there is no zarr array"),
        ("score few out/labels/nuc", "labels has shape .8, 8, 8.; expected that of truth, .4, 8, 8."),
        ("score one one_flow", "truth has dtype float32"),
        ("score classes classes", "truth must be one volume, .z, y, x., got 2 in shape .2, 8, 8, 8."),
        ("score out/labels/nuc out/labels/nuc --threshold 0", "0.* is not in the range"),
    ],
)
def test_what_can_not_be_scored_is_refused(segmented: Path, words: str, message: str) -> None:
    zarr.create_array("few", data=np.zeros((4, 8, 8), np.int32))
    zarr.create_array("classes", data=np.zeros((2, *SHAPE), np.int32))
    result = invoke(*words.split())
    assert result.exit_code == 2
    assert re.search(message, result.stderr.splitlines()[-1]), result.stderr
