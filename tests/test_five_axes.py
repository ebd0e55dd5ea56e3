"""Images (t, c, z, y, x), as most converters write them: the time point is taken, and all else stays as it is."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from command_line import invoke
from ome_images import image_of, scale, shift, space
from zarr.codecs import BloscCodec, TransposeCodec

import topo_dask
from topo_dask.blocks.geometry import BlockGrid
from topo_dask.looking.layers import find_layers
from topo_dask.stores import ledger
from topo_dask.stores.checked import CheckedArray, ChunkError, MissingChunkError
from topo_dask.stores.first_axis import without_first_axis
from topo_dask.stores.inputs import open_input, open_labels
from topo_dask.stores.listing import stored_chunks
from topo_dask.stores.multiscales import Placement, read_multiscales
from topo_dask.stores.volumes import Foreground, Source

SHAPE, BLOCK = (6, 9, 10), (6, 5, 10)
CONFIG = {name: {"group": 1, "n_steps": 4, "convergence_radius": 1.0, "min_size": 1} for name in ("other", "nuc")}
RNG = np.random.default_rng(3)
SEMANTIC = RNG.random((2, *SHAPE)).astype(np.float32)
FLOW = RNG.normal(0, 0.6, (6, *SHAPE)).astype(np.float32)
EXPECTED = topo_dask.run_instance_segmentation(SEMANTIC, FLOW, ["other", "nuc"], CONFIG)["nuc"]
PLACE = Placement((30.0, 16.0, 8.0), (5.0, 6.0, 7.0), ("nanometer",) * 3)
FORMATS: Any = {"0.4": 2, "0.5": 3}


def store(path: Path, array: np.ndarray, version: str = "0.5", **layout: Any) -> Any:
    """An image of one level, as many leading axes of (t, c) as the array has."""
    group = zarr.open_group(path, mode="w", zarr_format=FORMATS[version])
    leading = array.ndim - 3
    kinds = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}][-leading:]
    place = [scale(*[2.0] * leading, *PLACE.scale), shift(*[9.0] * leading, *PLACE.translation)]
    image = image_of([*kinds, *space("nanometer")], place, paths=["0"])
    chunks = (*[1] * leading, 6, 5, 10)
    stored = group.create_array("0", shape=array.shape, chunks=chunks, dtype=array.dtype, fill_value=0, **layout)
    stored[:] = array
    attributes = {"multiscales": [{"version": version, **image}]}
    group.attrs.update(attributes if version == "0.4" else {"ome": {"version": version, **attributes}})
    return stored


@pytest.fixture(params=["0.4", "0.5"])
def images(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Folder with images of a foreground and a flow."""
    store(tmp_path / "semantic", SEMANTIC[None], request.param)
    store(tmp_path / "flow", FLOW[None], request.param)
    return tmp_path


def segment(semantic: Any, flow: Any, output: Path, **more: Any) -> Any:
    how = {"class_names": ["other", "nuc"], "class_config": CONFIG, "block_shape": BLOCK, "progress": False}
    return topo_dask.segment_volume(semantic, flow, output, **{**how, **more})["nuc"]


def test_the_labels_are_those_of_four_axes(images: Path) -> None:
    paths = [images / "semantic", images / "flow"]
    levels = [path / "0" for path in paths]
    for k, inputs in enumerate((paths, levels, [zarr.open_array(path, mode="r") for path in levels])):
        found = segment(*inputs, images / f"labels {k}")
        np.testing.assert_array_equal(found[:], EXPECTED)
        written = read_multiscales(images / f"labels {k}/labels/nuc")
        assert written is not None
        assert written.levels[0].placement == PLACE


def test_the_command_line_takes_them(images: Path) -> None:
    parameters = ["--group", 1, "--steps", 5, "--radius", 2, "--min-size", 1]
    inputs = [images / "semantic", images / "flow", "--class", "other", "--class", "nuc", *parameters]
    planned = invoke("plan", *inputs, "--estimate")
    assert planned.exit_code == 0, planned.output
    done = invoke("run", *inputs[:2], images / "out", *inputs[2:], "--quiet")
    assert done.exit_code == 0, done.output
    assert zarr.open_array(images / "out/labels/nuc/0", mode="r").shape == SHAPE


def test_an_interrupted_run_goes_on(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [images / "semantic", images / "flow"]

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("topo_dask.recorded_run.publish", die)
        with pytest.raises(KeyboardInterrupt):
            segment(*paths, images / "out")
    status = invoke("status", images / "out")
    assert "nuc" in status.output
    np.testing.assert_array_equal(segment(*paths, images / "out", resume=True)[:], EXPECTED)


def test_labels_go_into_the_image_they_are_of(images: Path) -> None:
    paths = [images / "semantic", images / "flow"]
    version: Any = "0.4" if (paths[0] / ".zgroup").exists() else "0.5"
    np.testing.assert_array_equal(segment(*paths, paths[0], ome_zarr=version)[:], EXPECTED)
    plain = [zarr.create_array({}, data=array) for array in (SEMANTIC, FLOW)]
    for output in (paths[0], paths[1]):  # of which the place is taken
        segment(*plain, output, ome_zarr=version, overwrite=True)
        written = read_multiscales(output / "labels/nuc")
        assert written is not None
        assert written.levels[0].placement == PLACE


@pytest.mark.parametrize(
    ("shape", "names", "message"),
    [
        (
            (7, 2, 6, 9, 10),
            "tczyx",
            r"flow has a time axis of length 7, shape \(7, 2, 6, 9, 10\) .*: write each time point",
        ),
        ((3, 6, 9, 10), "tzyx", "flow has a time axis of length 3"),
        ((2, 1, 6, 9, 10), "ctzyx", "it must be the first axis"),
        ((0, 2, 6, 9, 10), "tczyx", "flow has a time axis of length 0"),
    ],
)
def test_several_time_points_are_refused(tmp_path: Path, shape: tuple[int, ...], names: str, message: str) -> None:
    group = zarr.open_group(tmp_path / "flow", mode="w")
    group.create_array("0", shape=shape, chunks=(1,) * len(shape), dtype="f4")
    axes = [{"name": name, "type": {"t": "time", "c": "channel"}.get(name, "space")} for name in names]
    image = image_of(axes, [scale(*[1] * len(names))], paths=["0"])
    group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    flow = tmp_path / "flow"
    for given in (flow, flow / "0", zarr.open_array(flow / "0", mode="r")):
        with pytest.raises(ValueError, match=message):
            open_input(given, "flow")
    with pytest.raises(ValueError, match="has a time axis"):
        find_layers(flow)
    assert invoke("table", flow).exit_code == 2


def test_an_axis_without_a_name_stays(tmp_path: Path) -> None:
    for path, array in (("semantic", SEMANTIC), ("flow", FLOW)):
        zarr.create_array(tmp_path / path, data=array[None])
    with pytest.raises(ValueError, match=r"must have 4 axes, got shape \(1, 2, 6, 9, 10\); take its first axis away"):
        segment(tmp_path / "semantic", tmp_path / "flow", tmp_path / "out")
    assert not (tmp_path / "out").exists()


LAYOUTS: dict[str, dict[str, Any]] = {
    "c/": {},
    "c.": {"chunk_key_encoding": {"name": "default", "separator": "."}},
    "v2.": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    "shards": {"shards": (1, 2, 8, 4, 8), "dimension_names": "tczyx"},
    "transposed": {"filters": TransposeCodec(order=(3, 0, 4, 1, 2)), "compressors": BloscCodec()},
    "transposed in shards": {"shards": (1, 1, 8, 8, 8), "filters": TransposeCodec(order=(4, 3, 2, 1, 0))},
    "format 2.": {"zarr_format": 2, "order": "F", "fill_value": None},
    "format 2/": {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "raw": {"compressors": None},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("path", ["", "in/group"])
def test_without_its_first_axis_an_array_reads_the_same(tmp_path: Path, layout: str, path: str) -> None:
    data = RNG.integers(1, 99, (1, 3, 9, 7, 6)).astype("i4")
    how: dict[str, Any] = {"fill_value": 0, **LAYOUTS[layout]}
    whole = zarr.create_array(tmp_path, name=path, shape=data.shape, chunks=(1, 1, 4, 4, 4), dtype="i4", **how)
    array = without_first_axis(whole, "flow")
    assert not stored_chunks(array).any()
    whole[:, 1:, 5:] = data[:, 1:, 5:]
    stored = stored_chunks(array)
    assert stored.any()
    np.testing.assert_array_equal(stored, stored_chunks(whole)[0])
    for first, of_first in enumerate(stored):
        np.testing.assert_array_equal(stored_chunks(array, first), of_first)
    checked = pickle.loads(pickle.dumps(CheckedArray(array, "flow", "background")))
    assert (checked.shape, checked.chunks) == (data.shape[1:], (1, 4, 4, 4))
    assert checked.shards == (whole.shards and whole.shards[1:])
    for box in (
        (slice(0, 3), slice(0, 9), slice(0, 7), slice(0, 6)),
        (slice(2, 3), slice(3, 8), slice(5, 7), slice(1, 2)),
    ):
        np.testing.assert_array_equal(checked[box], whole[(0, *box)])
    assert ledger.describe_array(array) != ledger.describe_array(whole)
    assert ledger.describe_array(array) == ledger.describe_array(checked.array)


def test_an_opened_image_may_be_given_again(images: Path) -> None:
    for name, data in (("semantic", SEMANTIC[:1]), ("flow", FLOW)):
        store(images / name, data[None])
        array, place = open_input(open_input(images / name, name)[0], name)
        assert (array.shape, place) == (data.shape, PLACE)


def test_axes_are_left_out_one_by_one(tmp_path: Path) -> None:
    whole = zarr.create_array(tmp_path, data=RNG.integers(1, 99, (1, 1, 9, 7)), chunks=(1, 1, 4, 4))
    array = without_first_axis(without_first_axis(whole, "labels"), "labels")
    np.testing.assert_array_equal(array[:], whole[0, 0])
    assert stored_chunks(array).shape == (3, 2)
    assert stored_chunks(array).all()


def test_what_can_not_be_left_out_is_refused() -> None:
    for shape, chunks in (((2, 4), (1, 4)), ((1, 4), (3, 4))):
        array = zarr.create_array({}, shape=shape, chunks=chunks, dtype="u1")
        with pytest.raises(
            ValueError, match=r"flow has shape \(., 4\) in chunks of shape .*: the first axis can be left out"
        ):
            without_first_axis(array, "flow")


def test_errors_name_the_stored_chunk(tmp_path: Path) -> None:
    store(tmp_path / "flow", FLOW[None])
    array, _ = open_input(tmp_path / "flow", "flow")
    everything = tuple(slice(0, size) for size in array.shape)
    chunk = tmp_path / "flow/0/c/0/4/0/1/0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(ChunkError, match=r"flow .*: chunk c/0/4/0/1/0 is damaged"):
        CheckedArray(array, "flow")[everything]
    chunk.unlink()
    with pytest.raises(MissingChunkError, match=r"flow .*: chunk c/0/4/0/1/0 is missing"):
        CheckedArray(array, "flow")[everything]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_blocks_without_stored_foreground_are_left_out(tmp_path: Path, version: str) -> None:
    stored = store(tmp_path / "semantic", 0 * SEMANTIC[None], version)
    stored[0, 1, 0, 7] = 1
    array, _ = open_input(tmp_path / "semantic", "semantic")
    checked, grid = CheckedArray(array, "semantic", "background"), BlockGrid(SHAPE, BLOCK, (0, 0, 0))
    for channel, expected in ((0, []), (1, [(0, 1, 0)])):
        foreground = Foreground(Source(checked, "semantic", slice(channel, channel + 1)), 0.5)
        assert [block.block_id for block in foreground.stored_blocks(grid)] == expected


@pytest.mark.parametrize("leading", [1, 2])
def test_labels_with_axes_of_length_1(tmp_path: Path, leading: int) -> None:
    labels = EXPECTED.reshape((*[1] * leading, *SHAPE))
    image, plain = tmp_path / "image", tmp_path / "plain"
    store(image, labels)
    zarr.create_array(plain, data=EXPECTED)
    assert open_labels(image / "0", "labels").shape == SHAPE
    for words in (["score", plain, image], ["score", image, plain]):
        scored = invoke(*words, "--json")
        assert '"error": 0.0' in scored.stdout, scored.output
    tables = []
    for path in (image, plain):
        assert invoke("table", path, "-o", tmp_path / "table.csv").exit_code == 0
        tables.append((tmp_path / "table.csv").read_text())
    assert tables[0] == tables[1] != ""
    (layer,) = find_layers(image)
    assert (layer.kind, layer.shape(), layer.placement) == ("labels", SHAPE, PLACE)
    shown = invoke("show", image, plain, "-o", tmp_path / "figure.png")
    assert shown.exit_code == 0, shown.output
