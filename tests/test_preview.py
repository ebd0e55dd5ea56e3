"""`preview`: a box of a prediction, segmented as a volume of its own."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import zarr
from command_line import invoke

import topo_dask
from topo_dask import preview
from topo_dask.admission import plan_volume
from topo_dask.blocks.geometry import Box
from topo_dask.looking import sections
from topo_dask.looking.layers import Crop
from topo_dask.synthetic import blobs
from topo_dask.targets import direct_flow

BOX = Box((4, 10, 0), (40, 48, 30))
CONFIG = {name: {"group": 2, "n_steps": 60, "convergence_radius": 3.0, "min_size": 20} for name in ("nuc", "mito")}


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Foreground and flow of two classes, of which the second is empty."""
    truth = blobs((48, 48, 48), 25, seed=1, radius=(4, 8))
    mask, flow = (truth > 0).astype(np.float32), direct_flow(truth)
    zarr.create_array(tmp_path / "semantic", data=np.stack([mask, 0 * mask]), chunks=(1, 20, 20, 20))
    zarr.create_array(tmp_path / "flow", data=np.concatenate([flow, 0 * flow]), chunks=(3, 20, 20, 20))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_preview_is_the_box_as_a_volume_of_its_own(stored: Path) -> None:
    plan = plan_volume("semantic", "flow", class_names=["nuc", "mito"], class_config=CONFIG, on_missing="background")
    found = preview.preview_class(plan, "nuc", BOX)
    semantic, flow = (zarr.open_array(name)[(slice(None), *BOX.slices)] for name in ("semantic", "flow"))
    expected = topo_dask.run_instance_segmentation(semantic, flow, ["nuc", "mito"], CONFIG)["nuc"]
    np.testing.assert_array_equal(found.labels, expected)
    np.testing.assert_array_equal(found.voxels, np.bincount(expected.ravel())[1:])


def test_what_is_cut_reaches_a_face_inside_the_volume(stored: Path) -> None:
    plan = plan_volume("semantic", "flow", class_names=["nuc", "mito"], class_config=CONFIG, on_missing="background")
    found = preview.preview_class(plan, "nuc", BOX)
    # The box's upper y and lower x are the volume's own.
    faces = [found.labels[0], found.labels[-1], found.labels[:, 0], found.labels[:, :, -1]]
    cut = set().union(*map(np.unique, faces)) - {0}
    assert {label + 1 for label in np.flatnonzero(found.cut)} == cut
    assert 0 < len(cut) < len(found.cut)


def test_a_box_beyond_memory_is_refused(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "machine_memory", lambda: 48**3 * (4 + 12 + preview.HELD_BYTES) - 1)
    plan = plan_volume("semantic", "flow", class_names=["nuc", "mito"], class_config=CONFIG)
    preview.check_box(plan, BOX)
    with pytest.raises(MemoryError, match=r"and there are 0\.0 GiB: choose a smaller box"):
        preview.check_box(plan, Box.whole((48, 48, 48)))


def test_a_voxel_that_is_no_number_is_named_where_it_is(stored: Path) -> None:
    zarr.open_array("semantic", mode="r+")[0, 20, 20, 7] = np.nan
    plan = plan_volume("semantic", "flow", class_names=["nuc", "mito"], class_config=CONFIG, on_missing="background")
    with pytest.raises(ValueError, match=r"semantic is NaN at voxel \(20, 20, 7\)"):
        preview.preview_class(plan, "nuc", BOX)
    zarr.open_array("semantic", mode="r+")[0, 20, 20, 7] = 0
    zarr.open_array("flow", mode="r+")[:3, 4:24, 10:30, 0:20] = np.inf
    with pytest.raises(ValueError, match="flow") as raised:
        preview.preview_class(plan, "nuc", BOX)
    assert "voxels are counted from (4, 10, 0), where the box begins" in raised.value.__notes__


def test_a_crop_is_read_by_places_in_the_volume() -> None:
    volume = np.arange(6 * 7 * 8).reshape(6, 7, 8)
    box, part = Box((1, 2, 3), (5, 6, 8)), Box((2, 2, 4), (3, 6, 8))
    np.testing.assert_array_equal(Crop(volume[box.slices], box, (6, 7, 8))[part.slices], volume[part.slices])


OPTIONS = "--class nuc --class mito --resolution-nm 32 --on-missing background --radius 3 --min-size 20"


def test_each_class_gets_a_figure_and_a_line(stored: Path) -> None:
    result = invoke("preview", "semantic", "flow", *OPTIONS.split(), "--box", "4:40,10:48,0:30", "-o", "look.png")
    assert result.exit_code == 0, result.stderr
    of_nuc, nuc, of_mito, mito = result.stdout.splitlines()
    planned = invoke("plan", "semantic", "flow", *OPTIONS.split()).stdout.splitlines()
    assert {of_nuc, of_mito} < set(planned)
    assert "group 1, n_steps 662, step_size 1.0, convergence_radius 3.0, min_size 20" in of_nuc
    assert nuc.startswith("nuc: ")
    assert " cut by the box, the others of " in nuc
    assert nuc.endswith("figure: look_nuc.png")
    assert mito.startswith("mito: 0 instances; 0 of 41040 voxels above the threshold; ")
    assert all(Path(f"look_{name}.png").stat().st_size > 1000 for name in ("nuc", "mito"))
    assert {path.name for path in stored.iterdir()} == {"semantic", "flow", "look_nuc.png", "look_mito.png"}


def test_the_figure_shows_the_planes_with_most_foreground(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    semantic = zarr.open_array("semantic", mode="r+")
    semantic[:] = 0
    semantic[0, 6:8, 40:43, 20:30] = semantic[0, 7, 40, 20] = 1
    semantic[0, 6, 40, 20] = 0
    drawn, draw = [], sections.draw_sections
    monkeypatch.setattr(sections, "draw_sections", lambda *a, **k: drawn.append(k) or draw(*a, **k))
    words = ["preview", "semantic", "flow", *OPTIONS.split(), "--box", "4:40,10:48,0:30"]
    for more, seen in (
        ([], [((7, 41, 21), True), ((22, 29, 15), True)]),
        (["--at", "5,11,3"], [((5, 11, 3), True)] * 2),
    ):
        drawn.clear()
        assert invoke(*words, *more).exit_code == 0
        assert [(tuple(one["planes"]), one["dim"]) for one in drawn] == seen
    drawn.clear()
    zarr.create_array("image", data=np.zeros((48, 48, 48), np.uint8))
    assert invoke(*words, "--image", "image").exit_code == 0
    assert not any(one["dim"] for one in drawn)


@pytest.mark.filterwarnings("default")
def test_what_a_few_voxels_do_not_tell_the_box_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = np.indices((24, 24, 24)) - 11.5
    ball = np.linalg.norm(at, axis=0) < 11
    semantic, flow = np.zeros((2, 24, 160, 160), np.float32), np.zeros((6, 24, 160, 160), np.float32)
    semantic[:, :, 136:, 136:] = ball
    flow[:3, :, 136:, 136:] = flow[3:, :, 136:, 136:] = -at / np.linalg.norm(at, axis=0) * ball
    monkeypatch.chdir(tmp_path)
    zarr.create_array("semantic", data=semantic, chunks=(1, 24, 80, 80))
    words = ["preview", "semantic", "flow", *OPTIONS.split(), "--box", ":,100:160,100:160"]
    for given, told in (
        (flow, ""),
        (-flow, "Warning: flow of class 'nuc' points away from the middle of objects: "),
        (flow[[0, 3, 1, 4, 2, 5]], "Warning: flow of class 'nuc' fits foreground better if the dz of all classes come"),
    ):
        zarr.create_array("flow", data=np.ascontiguousarray(given), chunks=(3, 24, 80, 80), overwrite=True)
        warned = invoke(*words).stderr
        assert warned.startswith(told)
        assert bool(warned) == bool(told)
    for threshold, told in (("127", "1: is it a probability of 0 to 1?; "), ("0.5", "0.4; ")):
        seen = invoke(*words, "--threshold", threshold).stdout
        assert seen.count(f"; 0 of 86400 voxels above the threshold; the largest value is {told}") == 2
        zarr.create_array("semantic", data=0.4 * semantic, chunks=(1, 24, 80, 80), overwrite=True)


def test_one_instance_of_nearly_all_foreground_is_told(stored: Path) -> None:
    words = ["preview", "semantic", "flow", *OPTIONS.split(), "--box", ":,:,:"]
    for more, told in (
        ([], ""),
        (
            ["--radius", "40"],
            "nuc: one instance holds 100% of the foreground: .* the radius of 40 voxels may be larger",
        ),
        (["--radius", "40", "--merge", "adjacent"], " than they are, or merge adjacent unites them\n"),
    ):
        seen = invoke(*words, *more).stdout
        assert ("one instance" in seen) == bool(told)
        assert re.search(told, seen)


@pytest.mark.filterwarnings("ignore:semantic holds nothing above the threshold")
@pytest.mark.parametrize("merge", ["adjacent", "agglomerate"])
def test_what_was_dropped_is_counted_by_preview_and_run(stored: Path, merge: str) -> None:
    mask, flow = (zarr.open_array(name)[:n] for name, n in (("semantic", 1), ("flow", 3)))
    zarr.create_array("one", data=mask)
    zarr.create_array("one_flow", data=flow)
    # The published merge comes after what is small has been dropped.
    own = {"n_steps": 60, "convergence_radius": 3.0, "min_size": 0}
    n = topo_dask.postprocess_single(mask[0] > 0.5, flow, merge=merge, **own).max()
    filtered = topo_dask.postprocess_single(mask[0] > 0.5, flow, merge=None if merge == "adjacent" else merge, **own)
    *_, second, largest = np.sort(np.bincount(filtered.ravel())[1:])
    words = f"one one_flow --class own --group 1 --steps 60 --radius 3 --merge {merge} --on-missing background".split()
    local = ["--overwrite", "--scheduler", "threads"]
    for least, error, told in (
        (largest + 1, 0, f"0 instances; {filtered.max()} dropped for their size of {largest} voxels at most"),
        (largest, 0, f"{filtered.max() - 1} dropped for their size of {second} voxels at most"),
        (1, 1e-9, rf"0 instances; {n} dropped for their flow error of 0\.0\d+ at least"),
        (1, 0, f"{n} instances"),
    ):
        more = ["--min-size", least, "--flow-error", error]
        seen = invoke("preview", *words, *more, "--box", ":,:,:").stdout
        assert re.search(f"{told}(;| of)", seen), seen
        assert f"; {np.count_nonzero(mask)} of {mask.size} voxels above the threshold; " in seen
        done = invoke("run", *words[:2], "out", *words[2:], *more, *local, "--quiet", "--block", 20).stdout
        assert re.search(rf"{told}\)\n$", done), done
    nothing = ["run", "one", "one_flow", "out", *words[2:], *more, *local, "--threshold", 1, "--quiet"]
    assert invoke(*nothing).stdout == "own: out/labels/own (0 instances; no voxel is above the threshold)\n"
    (result,) = json.loads(invoke(*nothing, "--json").stdout).items()
    dropped = {"foreground": False, "small": 0, "largest": 0, "bad": 0, "least_error": 0.0}
    assert result == ("own", {"path": "out/labels/own", "instances": 0, "dropped": dropped})
    plain = invoke("run", *words[:2], "plain", *words[2:], *more, *local, "--block", 20, "--ome-zarr", "none", "--json")
    whole = {"path": "plain/own", "instances": n, "dropped": {**dropped, "foreground": True}}
    assert json.loads(plain.stdout) == {"own": whole}


def test_figures_of_a_preview_and_of_show_do_not_replace_one_another(stored: Path) -> None:
    preview_of_one = invoke("preview", "semantic", "flow", *OPTIONS.split(), "--box", "4:9,4:9,4:9")
    assert preview_of_one.exit_code == 0, preview_of_one.stderr
    assert invoke("show", "semantic").stdout == "figure: show.png\n"
    assert {path.name for path in stored.glob("*.png")} == {"preview_nuc.png", "preview_mito.png", "show.png"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--box 0:49,:,:", "--box must lie in 0:48 along z, and not be empty; got 0:49"),
        ("--box 0:9,:,: --at 9,1,1", "--at must lie in the box"),
        ("-o nowhere/look.png", "there is no folder"),
        ("-o look.xyz", "look.xyz must end in .png, .pdf or .svg"),
        ("--image flow --box 0:9,:,: --level 1", "semantic is an array and has no levels"),
        ("--image small", "what is drawn together must have one shape at level 0"),
        ("--image nothing", "nothing: there is no zarr array"),
        ("--threshold nan", "threshold must be finite"),
    ],
)
def test_what_can_not_be_previewed_is_refused_before_the_work(
    stored: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    zarr.create_array("small", data=np.zeros((4, 4, 4), np.uint8))
    monkeypatch.setattr(preview, "preview_class", lambda *_: pytest.fail("work began"))
    result = invoke("preview", "semantic", "flow", *OPTIONS.split(), *words.split())
    assert result.exit_code == 2
    assert message in result.stderr
