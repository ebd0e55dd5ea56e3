"""The examples run, as a user would start them, at a small size; what they say of themselves is looked at."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import zarr
from command_line import invoke

import topo_dask
from topo_dask.stores.inputs import open_labels
from topo_dask.targets import direct_flow

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

CASES = [
    ("numpy_arrays.py", ["--size", "64"], r"objects +9 of 9\n"),
    ("lazy_pipeline.py", ["--size", "64"], r"objects +(\d+) of \1\n"),
    ("local_cluster.py", ["--size", "128", "--folder", "run"], r"instances +72,"),
    # Of these two sizes some chunks of the flow are empty.
    ("em_classes.py", ["--size", "66", "--folder", "run"], r"(?s)(as in memory: True.*){3}"),
    ("object_store.py", ["--size", "40"], r"as in memory +True"),
    ("slurm.py", ["a", "b", "c", "--show", "--host", "127.0.0.1"], r"#SBATCH --cpus-per-task=8\n"),
]

HEAVY = [("choosing_parameters.py", ["."], "")]


def run(name: str, arguments: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "PYTHONWARNINGS": "default"}
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    if re.search(r"CalledProcessError: Command .*'pip', 'download'", done.stderr):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def test_the_arrays_of_the_readme_become_labels() -> None:
    in_memory, _, lazy = python_blocks(README)
    names: dict[str, Any] = {}
    exec(in_memory, names)
    labels, promised = names["labels"], re.search(r"1 to (\d+)\n", in_memory)
    assert promised is not None
    assert labels.max() == int(promised[1])
    exec(lazy, names)
    np.testing.assert_array_equal(names["lazy"].compute(), labels)


def test_predictions_of_other_formats_are_read_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    truth = np.zeros((70, 24, 24), np.int32)
    truth[2:12, 3:13, 3:13], truth[58:68, 3:13, 3:13] = 1, 2
    mask, flow = (truth > 0).astype(np.float32), direct_flow(truth)
    page = ROOT / "docs" / "inputs.md"
    in_memory, in_pieces, tiff, n5, cellpose, flat, sized = python_blocks(page)

    np.save("semantic.npy", mask)
    np.save("flow.npy", flow)
    exec(in_memory, {})
    check_stored(mask, flow)
    for name in ("semantic.zarr", "flow.zarr"):
        shutil.rmtree(name)
    held = nullcontext({"semantic": mask[None], "flow": flow})  # in the place of HDF5, which the tests do not need
    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=lambda name: held))
    exec(in_pieces, {})
    check_stored(mask, flow)

    statement = re.search(r"`(target\[.*\] = source\[piece\])`", page.read_text())  # for foreground without a channel
    assert statement
    target = zarr.create_array({}, shape=(1, *mask.shape), dtype=mask.dtype)
    for z in (0, 64):
        piece = slice(z, z + 64), slice(0, 64)
        exec(statement[1], {"target": target, "source": mask, "piece": piece})
    np.testing.assert_array_equal(target[0], mask)

    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite("flow.tif", flow, compression="zlib", metadata={"axes": "CZYX"})
    Path("planes").mkdir()
    for z, plane in enumerate(mask):
        tifffile.imwrite(f"planes/{z:03}.tif", plane, compression="zlib")
    names: dict[str, Any] = {}
    exec(tiff, names)
    np.testing.assert_array_equal(names["flow"][:], flow)
    np.testing.assert_array_equal(names["semantic"][:], mask)
    for name in ("flow", "semantic"):
        names[name].store.close()

    import tensorstore

    spec: dict[str, Any] = {"driver": "n5", "kvstore": {"driver": "file", "path": "prediction.n5/flow"}}
    metadata = {"dimensions": flow.T.shape, "dataType": "float32", "blockSize": (16, 16, 16, 3)}
    tensorstore.open({**spec, "metadata": metadata}, create=True).result().write(flow.T).result()
    exec(n5, names)
    target = zarr.create_array({}, shape=flow.shape, dtype=names["flow"].dtype.numpy_dtype)
    piece = slice(0, 3), slice(0, 64), slice(0, 24)
    target[piece] = names["flow"][piece]
    np.testing.assert_array_equal(target[piece], flow[piece])

    names = {"flows": [None, 5 * flow, 12 * mask - 6]}
    exec(cellpose, names)
    np.testing.assert_array_equal(names["labels"], truth)
    plane_flow = direct_flow(truth[5:6])[1:, 0]
    exec(flat, {**names, "flows": [None, 5 * plane_flow, 12 * mask[5] - 6]}, planar := {})
    np.testing.assert_array_equal(planar["labels"], truth[5])
    zarr.create_array("semantic.zarr", data=12 * mask[None] - 6, overwrite=True, config={"write_empty_chunks": True})
    command = re.search(r"`topo-dask (run .*?)`", page.read_text())
    assert command
    assert invoke(*command[1].split()).exit_code == 0
    np.testing.assert_array_equal(open_labels("labels.zarr/labels/cells", "labels")[:], truth)

    shutil.rmtree("semantic.zarr")
    exec(sized, {})
    assert invoke(*command[1].split(), "--overwrite").exit_code == 0
    assert invoke("table", "labels.zarr", "--physical", "-o", "cells.csv").exit_code == 0
    volumes = np.genfromtxt("cells.csv", delimiter=",", names=True)["volume_um3"]
    np.testing.assert_allclose(volumes, 1000 * 40 * 16 * 16 / 1e9)


def check_stored(mask: np.ndarray, flow: np.ndarray) -> None:
    """What the page has written is the prediction, with all of its chunks."""
    for name, expected in {"semantic": mask[None], "flow": flow}.items():
        array = zarr.open_array(f"{name}.zarr", mode="r")
        np.testing.assert_array_equal(array[:], expected)
        assert array.nchunks_initialized == array.nchunks == 2


def test_the_commands_of_the_pages_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for page in PAGES for line in re.findall(r"^topo-dask .*", page.read_text(), re.MULTILINE)]
    commands = [shlex.split(line, comments=True)[1:] for line in lines]
    toml = re.search(r"```toml\n(.*?)```", README.read_text(), re.DOTALL)
    assert toml
    Path("run.toml").write_text(toml[1])
    parameters = tomllib.loads(toml[1])
    published = topo_dask.get_postprocess_config(parameters["run"]["resolution-nm"])
    for name, given in parameters["classes"].items():
        assert {"step_size": 1.0, **given} == published[name]

    truth = np.zeros((128, 24, 24), np.int32)
    truth[3:21, 3:21, 3:21] = 1
    flow = direct_flow(truth)
    for name, array in {"raw": truth, "truth": truth, "semantic": [truth, truth], "flow": [*flow, *flow]}.items():
        data = np.asarray(array, np.float32 if name == "flow" else np.uint8)
        zarr.create_array(f"{name}.zarr", data=data, config={"write_empty_chunks": True})
    _, stored, _ = python_blocks(README)
    exec(stored, {"topo_dask": topo_dask})
    for command in (command for command in commands if command[0] != "view"):
        places = [word.replace("tcp://head:8786", "threads") for word in command]
        again = ["--overwrite"] if command[0] == "run" and not {"--resume", "--overwrite"} & {*command} else []
        done = invoke(*places, *again)
        assert done.exit_code == 0, (command, done.output)

    exported, joined = python_blocks(ROOT / "docs" / "running.md")
    names: dict[str, Any] = {}
    zarr.create_array("truth.zarr", data=np.where(np.arange(24) < 12, truth, 2 * truth), overwrite=True)
    exec(joined, names)
    assert names["joined"] == {1: [1, 2]}

    tifffile = pytest.importorskip("tifffile")
    exec(exported, names)
    np.testing.assert_array_equal(tifffile.imread("nuc.tif"), truth)


def test_the_parameters_of_the_worked_example_do_what_the_page_says() -> None:
    page = ROOT / "docs" / "parameters.md"
    (example,) = python_blocks(page)
    told = re.findall(r"^\| ([^|]+) \| (\d+) \| (0\.\d+) \|", page.read_text(), re.MULTILINE)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["found"] == {name: (int(n), pytest.approx(float(error), abs=0.001)) for name, n, error in told}
    assert names["truth"].max() == 12
    assert np.bincount(names["truth"].ravel())[1:].min() == 3153


@pytest.mark.parametrize(("name", "arguments", "says"), CASES, ids=[case[0] for case in CASES])
def test_example_runs(name: str, arguments: list[str], says: str, tmp_path: Path) -> None:
    assert re.search(says, run(name, arguments, tmp_path))


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_example_explains_itself_and_does_nothing_else(name: str, tmp_path: Path) -> None:
    assert run(name, ["--help"], tmp_path).startswith(f"usage: {name}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["local_cluster.py", "em_classes.py"])
def test_example_says_what_to_do_about_its_first_run(name: str, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with pytest.raises(AssertionError, match=r"error: here exists: remove it, or give another --folder"):
        run(name, ["--folder", "here"], tmp_path)


@pytest.mark.parametrize(("options", "expected"), [([], None), (["--resolution-nm", "16"], 16.0)])
def test_slurm_leaves_the_size_of_a_voxel_to_the_inputs(
    monkeypatch: pytest.MonkeyPatch, options: list[str], expected: float | None
) -> None:
    spec = importlib.util.spec_from_file_location("slurm", EXAMPLES / "slurm.py")
    assert spec is not None
    assert spec.loader is not None
    slurm = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(slurm)
    segment = MagicMock()
    for name in ("make_cluster", "Client"):
        monkeypatch.setattr(slurm, name, MagicMock())
    monkeypatch.setattr("topo_dask.segment_volume", segment)
    monkeypatch.setattr(sys, "argv", ["slurm.py", "semantic", "flow", "labels", *options])
    slurm.main()
    assert segment.call_args.kwargs["resolution_nm"] == expected


@pytest.mark.scale
@pytest.mark.parametrize(("name", "arguments", "says"), HEAVY, ids=[case[0] for case in HEAVY])
def test_heavy_example_runs(name: str, arguments: list[str], says: str, tmp_path: Path) -> None:
    assert re.search(says, run(name, arguments, tmp_path))
    assert list(tmp_path.glob("*.png"))


def test_the_readme_says_what_crop_and_glue_did(tmp_path: Path) -> None:
    told = re.search(r"(\d+ of \d+) cells lose voxels", README.read_text())
    assert told
    says = run("why_exact.py", ["--figure", "f.png"], tmp_path)
    assert re.search(rf"(?s)crop and glue.* {told[1]} are not whole.*topo_dask.*equal, bit for bit", says)
    assert (tmp_path / "f.png").exists()


def test_real_tissue_is_segmented() -> None:
    with tempfile.TemporaryDirectory() as folder:  # half a GiB once it is decoded
        says = run("cortex.py", ["--cache", folder, "--crop", "200:264,200:296,200:296"], Path(folder))
        assert (Path(folder) / "cortex.png").exists()
    error = re.search(r"Rand error +(0\.\d+)", says)
    assert error
    assert float(error[1]) < 0.02


def test_every_example_is_tested_and_in_the_readme() -> None:
    readme = README.read_text()
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == {case[0] for case in (*CASES, *HEAVY)} | {"cortex.py", "why_exact.py"}
    assert all(f"examples/{name}" in readme for name in names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_the_pages_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]
    for link in links:
        name, _, section = link.partition("#")
        target = page.parent / name if name else page
        assert target.is_file(), link
        if section:
            headings = re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE)
            assert section in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, link
