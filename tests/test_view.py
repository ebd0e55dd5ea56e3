"""What can be looked at, the figure of a box, and the viewer: in pieces, and in a real browser."""

import io
import re
import shutil
import socket
import subprocess
import sys
import zlib
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import neuroglancer
import numpy as np
import pytest
import zarr
from command_line import invoke
from matplotlib.transforms import Bbox
from neuroglancer.local_volume import MeshesNotSupportedForVolume
from ome_images import image_of, scale, shift, space, write_image

from topo_dask.blocks.geometry import Box
from topo_dask.cli.showing import open_layers
from topo_dask.looking.colours import colour_flow, colour_labels, flow_wheel, outline, stretch
from topo_dask.looking.layers import Layer, find_layers
from topo_dask.looking.overview import FLOW_NOTE, NOTES
from topo_dask.looking.sections import choose_box, choose_level, draw_sections
from topo_dask.looking.viewer import Pyramid, open_viewer

SIZE = (30.0, 8.0, 4.0)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Image of two levels that differ, with voxels of 30 x 8 x 4 nm; labels, flow and probabilities beside it."""
    chains = [[scale(*(s * f for s in SIZE))] for f in (1, 2)]
    group = write_image(tmp_path / "image.zarr", image_of(space("nanometer"), *chains), shape=(8, 12, 16))
    group["s0"][:] = np.arange(8 * 12 * 16).reshape(8, 12, 16) % 200
    group["s1"][:] = 250
    labels = np.zeros((8, 12, 16), np.int32)
    labels[2:6, 2:6, 2:6], labels[2:6, 2:6, 9:14] = 1, 70_000
    zarr.create_array(tmp_path / "labels", data=labels)
    zarr.create_array(tmp_path / "flow", data=np.random.default_rng(0).normal(size=(6, *labels.shape)).astype("f4"))
    zarr.create_array(tmp_path / "semantic", data=np.zeros((2, *labels.shape), np.float32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def kinds(*paths: str) -> list[tuple[str, str, int]]:
    return [(layer.kind, layer.name, len(layer.levels)) for path in paths for layer in find_layers(path)]


def test_layers_are_told_by_metadata_type_and_values(folder: Path) -> None:
    assert kinds("image.zarr", "labels", "semantic") == [
        ("image", "image.zarr", 2),
        ("labels", "labels", 1),
        ("image", "semantic 0", 1),
        ("image", "semantic 1", 1),
    ]
    zarr.create_array("three", data=np.random.default_rng(0).random((3, 8, 12, 16), np.float32))
    assert kinds("three") == [("image", f"three {c}", 1) for c in range(3)]
    assert kinds("flow") == [("flow", "flow 0", 1), ("flow", "flow 1", 1)]
    assert kinds("image=flow")[5] == ("image", "flow 5", 1)
    assert find_layers("image.zarr")[0].voxel_size_nm == SIZE
    assert find_layers("image.zarr/s1")[0].voxel_size_nm == tuple(2 * edge for edge in SIZE)


@pytest.mark.parametrize("ome_zarr", ["0.5", "0.4", "none"])
def test_the_output_of_a_run_is_its_labels(folder: Path, ome_zarr: str) -> None:
    zarr.create_array("mask", data=(zarr.open("labels")[:] > 0).astype("f4")[None])
    zarr.create_array("field", data=np.ones((3, 8, 12, 16), np.float32))
    words = ["run", "mask", "field", "out", "--class", "nuc", "--resolution-nm", "64", "--ome-zarr", ome_zarr]
    done = invoke(*words, "--min-size", "1", "--quiet")
    assert done.exit_code == 0, done.stderr
    (layer,) = find_layers("out")
    assert (layer.kind, layer.shape()) == ("labels", (8, 12, 16))
    assert layer.name.endswith("/nuc")


def test_a_group_of_labels_is_its_labels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zarr.open_group("image.zarr/labels", mode="w")
    for name in ("cell", "nuc"):
        write_image(f"image.zarr/labels/{name}", image_of(space("nanometer"), [scale(*SIZE)]), shape=(8, 12, 16))
    assert kinds("image.zarr/labels") == [("labels", "labels/cell", 1), ("labels", "labels/nuc", 1)]
    assert kinds("image.zarr/labels/") == kinds("image.zarr")[1:] == kinds("image.zarr/labels")
    assert invoke("show", "image.zarr", "image.zarr/labels/nuc", "image.zarr/labels").exit_code == 0
    monkeypatch.chdir("image.zarr/labels")
    assert kinds(".") == [("labels", "./cell", 1), ("labels", "./nuc", 1)]


def test_a_section_is_that_of_the_array(folder: Path) -> None:
    layers = [*find_layers("labels"), find_layers("flow")[1]]
    figure = draw_sections(layers, [slice(1, 7), slice(None), slice(2, 15)], planes=(3, 4, 5))
    labels, flow = zarr.open("labels")[:], zarr.open("flow")[3:]
    *pictures, wheel = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    np.testing.assert_array_equal(wheel, flow_wheel(96))
    expected = [
        colour_labels(labels[3, :, 2:15]),
        colour_flow(flow[1:, 3, :, 2:15]),
        colour_labels(labels[1:7, 4, 2:15]),
        colour_flow(flow[[0, 2], 1:7, 4, 2:15]),
        colour_labels(labels[1:7, :, 5]),
        colour_flow(flow[:2, 1:7, :, 5]),
    ]
    for picture, array in zip(pictures, expected, strict=True):
        np.testing.assert_array_equal(picture, array)
    assert tuple(figure.axes[0].images[0].get_extent()) == (1.5, 14.5, 11.5, -0.5)


def test_labels_over_a_dimmed_image_keep_their_colours(folder: Path) -> None:
    # White below all labels, as the foreground that they were made from.
    bright = zarr.create_array({}, data=(zarr.open("labels")[:] > 0).astype(np.uint8), chunks=(8, 12, 16))
    layers = [Layer("image", "foreground", (bright,)), *find_layers("labels")]
    for dim in (True, False):
        drawn = np.asarray(draw_sections(layers, dim=dim).axes[1].images[0].get_array(), float)
        inside = (zarr.open("labels")[4] > 0) & ~outline(zarr.open("labels")[4])
        saturation = np.ptp(drawn[inside], axis=-1) / drawn[inside].max(axis=-1)
        assert (saturation.min() > 0.3) == dim, saturation.min()


def test_the_legend_of_a_flow_tells_what_brightness_is(folder: Path) -> None:
    *_, wheel = draw_sections(find_layers("flow")[:1]).axes
    assert wheel.get_title() == FLOW_NOTE == NOTES[2]


def test_a_section_of_a_level_has_its_voxels(folder: Path) -> None:
    figure = draw_sections(find_layers("image.zarr"), level=1)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), stretch(np.full((6, 8), 250)))
    assert figure.axes[0].get_aspect() == SIZE[1] / SIZE[2]


@pytest.mark.parametrize("unit", ["nanometer", None])
def test_a_level_that_is_coarser_along_some_axes_has_the_proportions_of_its_voxels(
    folder: Path, unit: str | None
) -> None:
    chains = [[scale(30, 8, 8)], [scale(30, 32, 32)]]
    group = write_image("flat", image_of(space(unit), *chains), shape=(8, 40, 64))
    del group["s1"]
    group.create_array("s1", shape=(8, 10, 16), dtype="u1")
    figure = draw_sections(find_layers("flat"), level=1)
    assert [axes.get_aspect() for axes in figure.axes] == pytest.approx([1, 30 / 32, 30 / 32])


@pytest.mark.parametrize("box", [(64, 64, 64), (64, 64, 1), (64, 1, 64), (1, 64, 600)])
def test_a_box_of_any_shape_has_a_figure_to_be_read(box: tuple[int, int, int]) -> None:
    array = zarr.create_array({}, shape=tuple(100_000 + n for n in box), chunks=(64, 64, 64), dtype="u1")
    spans = [slice(100_000, 100_000 + n) for n in box]
    figure = draw_sections([Layer("image", "n" * 60, (array,)), Layer("labels", "n" * 70, (array,))], spans)
    width, height = figure.get_size_inches()
    assert width == pytest.approx(5.2)
    assert height < 9
    figure.draw_without_rendering()
    taken = [axes.get_tightbbox() for axes in figure.axes]
    assert not [pair for pair in combinations(taken, 2) if Bbox.intersection(*pair)]
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        ticks = [tick.label1.get_window_extent() for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        assert ticks
        assert not [pair for pair in combinations(ticks, 2) if Bbox.intersection(*pair)]
    pictures = [axes.get_window_extent() for axes in figure.axes]
    assert min(min(picture.width, picture.height) for picture in pictures) > 7
    if min(box) > 1:
        assert all(picture.width == pytest.approx(picture.height) for picture in pictures)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["labels", "--box", "0:9,:,:"], "--box must lie in 0:8 along z, and not be empty; got 0:9"),
        (["labels", "--box", "3:3,:,:"], "got 3:3"),
        (["labels", "--box", "3,4,5"], "expected three spans like 0:64,100:200,:"),
        (["labels", "--at", "1,2,99"], "--at must lie in the box"),
        (["labels", "--level", "1"], "level 1: none of ['labels'] has levels"),
        (["image.zarr", "--level", "2"], "image.zarr has 2 levels, from 0; got level 2"),
        (["image.zarr", "labels", "--level", "1"], "what is drawn together must have one shape at level 1"),
        (["image=a/raw", "image=b/raw"], "got a/raw: (8, 12, 16), b/raw: (4, 12, 16)"),
        (["nowhere"], "nowhere: there is no zarr array and no zarr group"),
        (["."], "there is no zarr array and no zarr group"),
        (["flow=labels"], "labels must have 3 channels a class to be a flow"),
        (["labels", "-o", "figure.xyz"], "figure.xyz must end in .png, .pdf or .svg"),
    ],
)
def test_what_can_not_be_shown_is_refused(folder: Path, words: list[str], message: str) -> None:
    for name, depth in {"a": 8, "b": 4}.items():
        zarr.create_array(f"{name}/raw", shape=(depth, 12, 16), dtype="u1")
    result = invoke("show", *words)
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]


def test_the_wheel_lies_below_the_planes_of_a_flow(folder: Path) -> None:
    for paths, wheels in ((["flow"], [True]), (["labels", "flow"], [False, True]), (["labels"], [])):
        layers = [find_layers(path)[0] for path in paths]
        figure = draw_sections(layers)
        figure.draw_without_rendering()
        assert [bool(axes.images) for axes in figure.axes[3 * len(layers) :]] == wheels
        for row in range(len(figure.axes) // len(layers) - 1):
            above, below = (figure.axes[n * len(layers) + len(layers) - 1].get_position() for n in (row, row + 1))
            assert above.y0 > below.y1


def test_a_box_may_not_be_huge() -> None:
    with pytest.raises(ValueError, match="box must be at most 2048 voxels long, got 3000 along x: choose a part of it"):
        choose_box((8, 8, 3000), [slice(None)] * 3)


def test_one_level_of_a_pyramid_goes_with_a_plain_array_of_its_shape(folder: Path) -> None:
    layers = [*find_layers("image.zarr"), *find_layers("labels")]
    assert list(choose_level(layers, 0).values()) == [0, 0]


def test_a_figure_is_written(folder: Path) -> None:
    result = invoke("show", "image.zarr", "labels", "flow", "-o", "figure.png")
    assert (result.exit_code, result.stdout) == (0, "figure: figure.png\n")
    assert Path("figure.png").stat().st_size > 1000


def ask(volume: Pyramid, scale_key: str, start: tuple[int, ...], end: tuple[int, ...]) -> np.ndarray:
    data, _ = volume.get_encoded_subvolume("npz", np.array(start), np.array(end), scale_key)
    voxels = np.load(io.BytesIO(zlib.decompress(data)))
    assert voxels.dtype == volume.data_type
    return voxels


def test_the_viewer_gets_coarse_scales_from_stored_levels(folder: Path) -> None:
    volume = Pyramid(find_layers("image.zarr")[0])
    shutil.rmtree("image.zarr/s0/c")  # what is read of the finest level from here on is 0
    assert (ask(volume, "2,2,2", (0, 0, 0), (4, 6, 8)) == 250).all()
    assert (ask(volume, "4,4,4", (0, 0, 0), (2, 3, 4)) == 250).all()
    assert (ask(volume, "1,1,1", (0, 0, 0), (8, 12, 16)) == 0).all()
    assert (ask(volume, "1,2,2", (0, 0, 0), (8, 6, 8)) == 0).all()  # no stored level has these voxels


def test_the_viewer_gets_the_voxels_that_are_stored(folder: Path) -> None:
    box = ((1, 2, 3), (7, 11, 15))
    labels = Pyramid(find_layers("labels")[0])
    assert labels.info()["dataType"] == "uint32"
    assert labels.info()["volumeType"] == "segmentation"
    np.testing.assert_array_equal(ask(labels, "1,1,1", *box), zarr.open("labels")[1:7, 2:11, 3:15])
    large = zarr.create_array("large", data=np.array([[[0, 2**40]]], np.int64))
    assert ask(Pyramid(find_layers("large")[0]), "1,1,1", (0, 0, 0), large.shape).tolist() == [[[0, 2**40]]]
    assert Pyramid(find_layers("large")[0]).info()["dataType"] == "uint64"
    flow = Pyramid(find_layers("flow")[1])
    np.testing.assert_array_equal(
        ask(flow, "1,1,1,1", (0, 1, 2, 3), (3, 7, 11, 15)), zarr.open("flow")[3:, 1:7, 2:11, 3:15]
    )
    space = Pyramid(find_layers("image.zarr")[0]).info()["coordinateSpace"]
    assert {name: float(value) for name, (value, _) in space.items()} == pytest.approx(
        {name: edge * 1e-9 for name, edge in zip("zyx", SIZE, strict=True)}
    )


@pytest.mark.parametrize("path", ["labels", "semantic", "flow"])
def test_what_was_moved_since_it_was_opened_is_not_shown_as_background(folder: Path, path: str) -> None:
    shutil.rmtree(folder / path / "c", ignore_errors=True)
    layer = find_layers(path)[0]
    volume = Pyramid(layer)
    assert not layer.read(Box((0, 0, 0), (8, 12, 16))).any()
    (folder / path).rename("moved")
    with pytest.raises(OSError, match=f"{path} .* is missing, and so are the array's metadata"):
        layer.read(Box((0, 0, 0), (8, 12, 16)))
    with pytest.raises(OSError, match=f"{path} .* is missing, and so are the array's metadata"):
        ask(volume, ",".join("1" * len(volume.shape)), (0,) * len(volume.shape), volume.shape)


def test_the_viewer_makes_surfaces_of_what_fits_into_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(Pyramid(find_layers("labels")[0]).get_object_mesh(70_000)) > 100
    monkeypatch.setattr("topo_dask.looking.viewer.MOST_MESHED", 100)
    with pytest.raises(MeshesNotSupportedForVolume):
        Pyramid(find_layers("labels")[0]).get_object_mesh(70_000)


@pytest.mark.parametrize("unit", ["nanometer", None])
def test_layers_lie_where_their_metadata_say(folder: Path, unit: str | None) -> None:
    places = {"a": [scale(30, 8, 4)], "b": [scale(30, 8, 4), shift(60, 0, 8)], "c": [scale(60, 16, 8), shift(15, 4, 2)]}
    for name, chain in places.items():
        write_image(folder / name, image_of(space(unit), chain), shape=(8, 12, 16))
    viewer = open_viewer([layer for name in (*places, "labels", "flow") for layer in find_layers(name)])
    neuroglancer.stop()
    moved = {layer.name: layer.source[0].transform.matrix[:, -1].tolist() for layer in viewer.state.layers}
    # The coarse level's first voxel has its centre half a fine voxel further, and the same corner.
    assert moved == {
        "a": [0] * 3,
        "b": [2, 0, 2],
        "c": [0] * 3,
        "labels": [0] * 3,
        "flow 0": [0] * 4,
        "flow 1": [0] * 4,
    }
    assert viewer.state.position.tolist() == [8, 6, 4]
    edges = {layer.name: layer.source[0].transform.output_dimensions.scales.tolist() for layer in viewer.state.layers}
    in_units = 1e-9 if unit else 1.0  # the viewer counts in metres
    assert edges["a"] == edges["labels"] == pytest.approx([30 * in_units, 8 * in_units, 4 * in_units])
    assert edges["c"] == pytest.approx([60 * in_units, 16 * in_units, 8 * in_units])


def test_a_figure_of_layers_at_different_places_is_refused(folder: Path) -> None:
    for name, chain in {"a": [scale(30, 8, 4), shift(0, 0, 1)], "b": [scale(30, 8, 4), shift(60, 0, 8)]}.items():
        write_image(folder / name, image_of(space("nanometer"), chain), shape=(8, 12, 16))
    assert invoke("show", "image.zarr", "a").exit_code == 0
    result = invoke("show", "image.zarr", "b")
    assert result.exit_code == 2
    assert "must lie at one place" in result.stderr


def test_two_layers_of_one_name_are_compared_too(folder: Path) -> None:
    for k, name in enumerate("ab"):
        Path(name).mkdir()
        write_image(f"{name}/raw", image_of(space("nanometer"), [scale(*SIZE), shift(0, 0, 8 * k)]), shape=(8, 12, 16))
    with pytest.raises(ValueError, match="must lie at one place"):
        choose_level([*find_layers("a/raw"), *find_layers("b/raw")], 0)


def test_every_layer_has_a_name_of_its_own(folder: Path) -> None:
    for name in ("a/x/labels/nuc", "b/x/labels/nuc", "c.zarr/labels/nuc"):
        zarr.create_array(name, shape=(8, 12, 16), dtype="i4")
    found = open_layers(("a/x/labels/nuc", "b/x/labels/nuc", "c.zarr/labels/nuc", "labels", "image=labels"))
    names = ["a/x/labels/nuc", "b/x/labels/nuc", "c.zarr/labels/nuc", "labels", "labels (2)"]
    assert [layer.name for layer in found] == names
    viewer = open_viewer(found)
    neuroglancer.stop()
    assert [layer.name for layer in viewer.state.layers] == names


def test_the_viewer_loses_no_layer_of_the_same_name(folder: Path) -> None:
    viewer = open_viewer([*find_layers("labels"), *find_layers("image=labels")])
    neuroglancer.stop()
    assert [layer.type for layer in viewer.state.layers] == ["segmentation", "image"]


def test_labels_that_are_not_whole_are_called_unfinished(folder: Path) -> None:
    mark = {"kind": "labels", "class": "x", "run": "y"}
    for facts, name in (({}, "image.zarr (unfinished)"), ({"complete": True}, "image.zarr")):
        zarr.open("image.zarr").attrs["topo_dask"] = {**mark, **facts}
        assert find_layers("image.zarr")[0].name.endswith(name)


def test_a_kind_that_is_none_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match="told by image, labels, flow; got 'mask' in 'mask=semantic'"):
        find_layers("mask=semantic")


def test_view_says_where_it_serves(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def wait(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr("topo_dask.cli.showing.Event", Interrupted)
    result = invoke("view", "image.zarr", "labels", "--no-open")
    neuroglancer.stop()
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("http://127.0.0.1:")
    assert "serving image.zarr, labels" in result.stdout


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost"])
def test_addresses_of_both_families_are_served(folder: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    if address == "::1":
        try:
            socket.create_server((address, 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this machine has no IPv6")
    monkeypatch.setattr("topo_dask.looking.viewer.open_viewer", lambda *_, **how: how)
    monkeypatch.setattr("topo_dask.cli.showing.Event", lambda: SimpleNamespace(wait=lambda: None))
    result = invoke("view", "image.zarr", "--no-open", "--address", address)
    assert result.exit_code == 0, result.stderr
    assert f"{{'address': '{address}', 'port': 0}}" in result.stdout


@pytest.mark.parametrize(
    ("words", "package"),
    [
        (["show", "image.zarr"], "matplotlib.backend_bases"),
        (["preview", "image.zarr", "flow"], "matplotlib.backend_bases"),
        (["view", "image.zarr"], "neuroglancer"),
    ],
)
def test_a_package_that_is_not_installed_is_named_before_the_work(
    folder: Path, words: list[str], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "topo_dask.looking.viewer", raising=False)
    result = invoke(*words)
    assert result.exit_code == 2
    assert re.fullmatch(f"Error: .* the package {package}: pip install 'topo-dask.*'\n", result.stderr)


def test_a_port_that_is_taken_is_named(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = invoke("view", "image.zarr", "--no-open", "--port", port)
    neuroglancer.stop()
    assert result.exit_code == 1
    assert f"cannot serve at 127.0.0.1, port {port}: Address already in use" in result.stderr
    assert "; --port 0 takes one that is free" in result.stderr


@pytest.mark.parametrize("address", ["192.0.2.1", "no.such.invalid"])
def test_an_address_that_is_not_of_this_machine_is_named(folder: Path, address: str) -> None:
    result = invoke("view", "image.zarr", "--no-open", "--address", address)
    assert result.exit_code == 1
    assert re.search(f"cannot serve at {address}, port 0: .*; give --address one of this machine", result.stderr)


FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --use-angle=swiftshader --enable-unsafe-swiftshader --window-size=600,400
--remote-debugging-port=0"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.timeout(120)
def test_a_real_browser_shows_image_and_labels(folder: Path) -> None:
    viewer = open_viewer([*find_layers("image.zarr"), *find_layers("labels")])
    command = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={folder / 'profile'}", str(viewer)]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        taken = viewer.screenshot(size=[600, 400]).screenshot.image_pixels.astype(int)
    finally:
        browser.terminate()
        browser.wait()
        neuroglancer.stop()
    # The plane across z is at the upper left: labels are in colour, the image around them is grey.
    panel = taken[:200, :300, :3]
    spread = panel.max(axis=-1) - panel.min(axis=-1)
    colours = {tuple(pixel // 64) for pixel in panel[spread > 60].reshape(-1, 3)}
    assert (spread > 60).mean() > 0.02
    assert len(colours) >= 2
