"""What may be an input of a run: paths and URLs, both formats of zarr, levels of images, and their voxel sizes."""

import functools
import re
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from ome_images import image_of, scale, space

import topo_dask
from topo_dask.admission import plan_volume
from topo_dask.looking.layers import find_layers
from topo_dask.stores.inputs import open_input, open_prediction
from topo_dask.stores.multiscales import read_multiscales


class NoCredentialsError(Exception):
    """What clients of stores raise, which knows neither arguments nor URLs."""


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (NoCredentialsError("Unable to locate credentials"), PermissionError),
        (PermissionError("Forbidden"), PermissionError),
        (OSError(None, "Could not connect"), OSError),
    ],
    ids=str,
)
def test_errors_of_object_stores_name_argument_and_url(
    raised: Exception, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise raised

    monkeypatch.setattr("topo_dask.stores.inputs.open_node", fail)
    with pytest.raises(error, match=re.escape(f"flow memory://bucket/flow cannot be opened: {raised}")):
        open_input("memory://bucket/flow", "flow")


SHAPE, BLOCK = (6, 9, 10), (6, 5, 10)
CONFIG = {"nuc": {"group": 1, "n_steps": 4, "convergence_radius": 1.0, "min_size": 1}}
RNG = np.random.default_rng(3)
SEMANTIC = RNG.random((1, *SHAPE)).astype(np.float32)
FLOW = RNG.normal(0, 0.6, (3, *SHAPE)).astype(np.float32)
EXPECTED = topo_dask.run_instance_segmentation(SEMANTIC, FLOW, ["nuc"], CONFIG)["nuc"]


def store(path: Path, array: np.ndarray, version: str, levels: int = 2) -> None:
    """An image whose last level is the array, with voxels of 30, 16, 16 nanometres; those before it are all 7."""
    zarr_format: Any = {"0.4": 2, "0.5": 3}[version]
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    chains = [[scale(1, 0.03, 0.016 / 2**k, 0.016 / 2**k)] for k in reversed(range(levels))]
    image = image_of([{"name": "c", "type": "channel"}, *space("micrometer")], *chains)
    for k in range(levels):
        data = array if k == levels - 1 else np.full((len(array), 12, 18, 20), 7, array.dtype)
        group.create_array(f"s{k}", data=data, chunks=(len(array), 6, 5, 10))
    attributes = {"multiscales": [{"version": version, **image}]}
    group.attrs.update(attributes if version == "0.4" else {"ome": {"version": version, **attributes}})


@pytest.fixture(params=["0.4", "0.5"])
def images(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Folder with images of a foreground and a flow."""
    store(tmp_path / "semantic", SEMANTIC, request.param)
    store(tmp_path / "flow", FLOW, request.param)
    return tmp_path


def check(semantic: Any, flow: Any, output: Path, size: Any = (30.0, 16.0, 16.0), **more: Any) -> None:
    found = topo_dask.segment_volume(
        semantic, flow, output, class_names=["nuc"], class_config=CONFIG, block_shape=BLOCK, progress=False, **more
    )
    np.testing.assert_array_equal(found["nuc"][:], EXPECTED)
    written = read_multiscales(output / "labels" / "nuc")
    assert written is not None
    assert written.levels[0].voxel_size_nm == size


def test_levels_of_images(images: Path) -> None:
    semantic, flow = images / "semantic", images / "flow"
    check(semantic, f"{flow}/", images / "by_level", level=1)
    check(semantic / "s1", str(flow / "s1"), images / "by_path")
    arrays = [zarr.open_array(path / "s1", mode="r") for path in (semantic, flow)]
    check(*arrays, images / "open")
    lazy = topo_dask.run_instance_segmentation(*arrays, ["nuc"], CONFIG, block_shape=BLOCK)["nuc"]
    np.testing.assert_array_equal(lazy.compute(), EXPECTED)
    for place, level, message in (
        (flow, 2, "level must be at least 0 and below 2"),
        (flow, -1, "level must be at least 0 and below 2"),
        (flow / "s1", 1, "flow is an array and has no levels"),
        (flow / "s1", None, "must cover the same volume"),
    ):
        with pytest.raises(ValueError, match=message):
            plan_volume(semantic, place, class_names=["nuc"], class_config=CONFIG, level=level)


def test_a_home_folder_is_found(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(images))
    check("~/semantic", Path("~/flow"), images / "out", level=1)
    assert find_layers("labels=~/out/labels/nuc")
    with pytest.raises(FileNotFoundError, match=f"semantic: {images}/nothing: there is no zarr array"):
        open_prediction("~/nothing", "~/flow")


@pytest.mark.parametrize("inside", ["", "/prediction/flow"])
def test_a_file_of_another_format_is_told_from_a_path_with_nothing(tmp_path: Path, inside: str) -> None:
    (tmp_path / "flow.h5").write_bytes(bytes(9))
    with pytest.raises(NotADirectoryError, match=r"^flow: \S*flow\.h5 is a file, .* zarr\.create_array\(path, data="):
        open_input(f"{tmp_path}/flow.h5{inside}", "flow")


@pytest.mark.parametrize("inside", ["", "image/0"])
def test_an_archive_is_opened_by_the_url_that_the_message_gives(tmp_path: Path, inside: str) -> None:
    with zarr.storage.ZipStore(tmp_path / "flow.zarr.zip", mode="w") as store:
        zarr.create_array(store, name=inside or None, data=np.arange(8))
    with pytest.raises(NotADirectoryError, match=r"^flow: \S*flow\.zarr\.zip is an archive: give zip") as caught:
        open_input(f"{tmp_path}/flow.zarr.zip/{inside}", "flow")
    url = re.search(r"give (\S+), or unpack it", str(caught.value))
    assert url
    np.testing.assert_array_equal(open_input(url[1], "flow")[0][:], np.arange(8))


def test_a_folder_of_n5_is_told_from_one_with_nothing(tmp_path: Path) -> None:
    (tmp_path / "attributes.json").write_text('{"dimensions": [8, 8, 8, 1], "dataType": "float32"}')
    with pytest.raises(FileNotFoundError, match=r"^flow: \S* is N5, and no zarr: copy it once, see docs/inputs\.md$"):
        open_input(tmp_path, "flow")


class OfAnotherLibrary:
    """An array as h5py and others have them."""

    shape, dtype = (1, 4, 4, 4), np.dtype("f4")


@pytest.mark.parametrize("array", [np.zeros((1, 4, 4, 4)), OfAnotherLibrary()])
def test_arrays_that_are_not_stored_by_zarr_are_told_the_way_in(array: Any) -> None:
    with pytest.raises(TypeError, match=r"got \w+: run_instance_segmentation .* zarr\.create_array\(path, data="):
        open_input(array, "flow")


@pytest.mark.filterwarnings("ignore:voxels are 30 × .* nm, but the default parameters count voxels")
def test_the_shortest_edge_of_a_voxel_chooses_the_parameters(images: Path) -> None:
    for level, resolution in ((1, 16), (0, 8)):
        inputs = (images / "semantic", images / "flow")
        found, given = (
            plan_volume(*inputs, class_names=["mito"], level=level, block_shape=BLOCK, **more).classes
            for more in ({}, {"resolution_nm": resolution})
        )
        assert found == given
    other = plan_volume(*inputs, class_names=["mito"], level=1, block_shape=BLOCK, resolution_nm=64).classes
    assert other != given


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def http(images: Path) -> Iterator[str]:
    """URL of the folder, which can only be read."""
    pytest.importorskip("aiohttp")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(images)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("which", ["semantic", "flow"])
@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part:UserWarning")
def test_consolidated_metadata_that_are_out_of_date_cost_no_earlier_labels(images: Path, which: str) -> None:
    check(images / "semantic", images / "flow", images / "out", level=1)
    zarr.consolidate_metadata(str(images / which))
    level = images / which / "s1"
    data, zarr_format = zarr.open_array(level)[:], zarr.open_array(level).metadata.zarr_format
    zarr.create_array(level, data=data, chunks=(len(data), 3, 5, 10), zarr_format=zarr_format, overwrite=True)
    with pytest.raises(OSError, match=rf"^{which} .* consolidated metadata above it are out of date"):
        check(images / "semantic", images / "flow", images / "out", level=1, overwrite=True)
    np.testing.assert_array_equal(zarr.open_array(images / "out/labels/nuc/0")[:], EXPECTED)
    assert not (images / "out.scratch").exists()


@pytest.mark.parametrize("place", ["plain", "folder/plain"])
def test_an_array_in_no_group_by_http(http: str, images: Path, place: str) -> None:
    zarr.create_array(images / place, data=FLOW)
    array, placement = open_input(f"{http}/{place}", "flow")
    assert (array.shape, placement) == (FLOW.shape, None)


def test_inputs_by_http(http: str, images: Path) -> None:
    check(f"{http}/semantic", f"{http}/flow", images / "group", level=1)
    check(f"{http}/semantic/s1", f"{http}/flow/s1", images / "array")
    with pytest.raises(FileNotFoundError, match=r"flow: .*nothing: there is no zarr array"):
        check(f"{http}/semantic/s1", f"{http}/nothing", images / "none")


@pytest.mark.faults
@pytest.mark.timeout(200)
@pytest.mark.usefixtures("s3")
def test_inputs_and_output_by_s3(images: Path) -> None:
    import s3fs

    version = read_version(images / "semantic")
    bucket = f"inputs-{version.replace('.', '')}"
    s3fs.S3FileSystem().put(str(images), f"s3://{bucket}", recursive=True)
    found = topo_dask.segment_volume(
        *(f"s3://{bucket}/{name}" for name in ("semantic", "flow", "semantic")),
        **{"class_names": ["nuc"], "class_config": CONFIG, "level": 1, "block_shape": BLOCK, "progress": False},
        ome_zarr=version,
    )
    np.testing.assert_array_equal(found["nuc"][:], EXPECTED)
    written = read_multiscales(f"s3://{bucket}/semantic/labels/nuc")
    assert written is not None
    assert written.levels[0].voxel_size_nm == (30.0, 16.0, 16.0)


def read_version(image: Path) -> Any:
    return "0.4" if zarr.open_group(image, mode="r").metadata.zarr_format == 2 else "0.5"


@pytest.mark.parametrize("names", ["cxyz", "zyxc", "CXYZ"])
def test_axes_that_an_array_names_in_another_order_are_refused(names: str) -> None:
    right = zarr.create_array({}, data=SEMANTIC, dimension_names=("c", "z", "y", "x"))
    wrong = zarr.create_array({}, data=FLOW, dimension_names=names)
    with pytest.raises(ValueError, match=r"flow: the last three axes must be z, y, x; got \('"):
        plan_volume(right, wrong, class_names=["nuc"], class_config=CONFIG)
    plan_volume(right, zarr.create_array({}, data=FLOW), class_names=["nuc"], class_config=CONFIG)


@pytest.mark.parametrize("text", ["", "garbage", '{"zarr_format": 3, "node_type": "array"}', "[]", "\xff"])
@pytest.mark.parametrize(
    ("damaged", "asked", "place"),
    [
        ("semantic", "semantic", "{}/semantic"),
        ("semantic/s1", "semantic/s1", "{}/semantic/s1"),
        ("semantic", "semantic/s1", "{}/semantic"),
        ("semantic/s0", "semantic", "<Group file://{}/semantic>: level 's0'"),
    ],
)
def test_metadata_that_are_damaged_are_named(tmp_path: Path, text: str, damaged: str, asked: str, place: str) -> None:
    store(tmp_path / "semantic", SEMANTIC, "0.5")
    (tmp_path / damaged / "zarr.json").write_text(text, encoding="latin1")
    says = "(: its zarr metadata cannot be read| is in the metadata but not in the store)"
    with pytest.raises((ValueError, FileNotFoundError), match=f"semantic: {place.format(tmp_path)}{says}"):
        open_input(tmp_path / asked, "semantic")
