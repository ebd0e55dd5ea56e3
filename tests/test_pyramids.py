"""OME-Zarr out: whole runs, what a validator and three independent readers make of them, and images that get labels."""

import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import dask
import naive
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from ome_images import image_of, scale, shift, space, write_image
from strategies import block_shapes, labels, shapes

import topo_dask
from topo_dask import placing, segment_volume
from topo_dask.admission import plan_volume
from topo_dask.blocks.geometry import BlockGrid
from topo_dask.config import ClassConfig
from topo_dask.execute import run, serial
from topo_dask.plan import Recipe, plan_stages
from topo_dask.stages.job import CoarserLevel, Job
from topo_dask.stages.stage import Stage
from topo_dask.stores.marks import find_labels
from topo_dask.stores.multiscales import Placement, read_multiscales
from topo_dask.stores.volumes import Output

VERSIONS = {"0.4": 2, "0.5": 3}
SHAPE, BLOCK = (17, 75, 150), (8, 38, 50)
CONFIG = {"nuc": {"group": 1, "n_steps": 1, "convergence_radius": 1.5, "min_size": 1}}
UNITS = space("micrometer")
CHAIN = [scale(0.016, 0.008, 0.008), shift(0.1, 0.0, 0.0005)]


@pytest.fixture(autouse=True, scope="module")
def _pyramids_of_four_levels() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placing, "COARSEST", 20)
        yield


def mask() -> np.ndarray:
    """Boxes of a few voxels, many of which touch; the first blocks are empty."""
    rng = np.random.default_rng(0)
    boxes = rng.random([-(-n // 5) for n in SHAPE]) < 0.2
    found = np.kron(boxes, np.ones((5, 5, 5), bool))[tuple(map(slice, SHAPE))]
    found[:8, :38] = False
    return found


MASK = mask()
FLOW = np.zeros((3, *SHAPE), np.float16)
EXPECTED = topo_dask.run_instance_segmentation(MASK[None], FLOW, ["nuc"], CONFIG)["nuc"]


def store_image(path: Path, array: np.ndarray, version: str, *chain: Any, units: Any = UNITS) -> None:
    """An OME-Zarr image of one level, axes c, z, y, x."""
    values = [{**one, one["type"]: [float(one["type"] == "scale"), *one[one["type"]]]} for one in chain or CHAIN]
    axes = [{"name": "c", "type": "channel"}, *units]
    group = zarr.open_group(path, mode="w", zarr_format=VERSIONS[version])
    group.create_array("s0", data=array, chunks=(1, 8, 40, 40))
    image = image_of(axes, values)
    if version == "0.4":
        group.attrs["multiscales"] = [{"version": version, **image}]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [image]}


def store_plain(folder: Path) -> tuple[Path, Path]:
    for name, array in (("semantic", MASK[None]), ("flow", FLOW)):
        zarr.create_array(folder / name, data=array, chunks=(1, 8, 40, 40))
    return folder / "semantic", folder / "flow"


def segment(semantic: Any, flow: Any, output: Any, name: str = "nuc", **more: Any) -> Any:
    arguments = {"class_names": [name], "class_config": {name: CONFIG["nuc"]}, "block_shape": BLOCK}
    return segment_volume(semantic, flow, output, **arguments, on_missing="background", progress=False, **more)[name]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", params=VERSIONS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[Any]]:
    """A run over OME-Zarr with anisotropic voxels: output, version, and the levels by the naive reference."""
    folder, version = tmp_path_factory.mktemp("written"), request.param
    for name, array in (("semantic", MASK[None]), ("flow", FLOW)):
        store_image(folder / name, array, version)
    found = segment(folder / "semantic", folder / "flow", folder / "out", ome_zarr=version)
    assert (found.path, found.metadata.zarr_format) == ("labels/nuc/0", VERSIONS[version])
    levels = [EXPECTED]
    for factors in ((1, 2, 2), (2, 2, 2), (2, 2, 2)):
        levels.append(naive.downsample_labels(levels[-1], factors))
    return folder / "out", version, levels


SIZES = [(16.0, 8.0, 8.0), (16.0, 16.0, 16.0), (32.0, 32.0, 32.0), (64.0, 64.0, 64.0)]
CENTRES = [(100.0, 0.0, 0.5), (100.0, 4.0, 4.5), (108.0, 12.0, 12.5), (124.0, 28.0, 28.5)]


def in_nanometres(values: Any) -> tuple[float, ...]:
    return tuple(1000 * value for value in values)


def test_the_pyramid_of_a_run_equals_naive(written: Any) -> None:
    output, _, levels = written
    found = read_multiscales(output / "labels/nuc")
    assert found is not None
    assert [level.path for level in found.levels] == ["0", "1", "2", "3"]
    for level, expected, size, centre in zip(found.levels, levels, SIZES, CENTRES, strict=True):
        assert level.placement is not None
        assert level.placement.units == ("micrometer",) * 3  # those of the input
        assert level.placement.voxel_size_nm == pytest.approx(size)
        assert level.placement.translation_nm == pytest.approx(centre)
        array = zarr.open_array(output / "labels/nuc" / level.path, mode="r")
        assert (array.dtype, array.fill_value) == (np.int32, 0)
        assert expected.max() > 20
        np.testing.assert_array_equal(array[:], expected)


def test_a_validator_accepts_the_metadata(written: Any) -> None:
    import ome_zarr_models.v04
    import ome_zarr_models.v05

    output, version, _ = written
    group = zarr.open_group(output / "labels", mode="r")
    models: Any = {"0.4": ome_zarr_models.v04, "0.5": ome_zarr_models.v05}[version]
    listed = models.labels.Labels.from_zarr(group)
    label = models.image_label.ImageLabel.from_zarr(group["nuc"])
    if version == "0.4":
        listing, image_label = listed.attributes.labels, label.attributes.image_label
    else:
        listing, image_label = listed.attributes.ome.labels, label.attributes.ome.image_label
    assert listing == ["nuc"]
    assert image_label.version == version


def test_ome_zarr_opens_it(written: Any) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    output, _, levels = written
    listed = list(Reader(parse_url(output / "labels"))())  # from the list of labels, as viewers do
    node = next(node for node in listed if node.zarr.basename() == "nuc")
    assert [axis["unit"] for axis in node.metadata["axes"]] == ["micrometer"] * 3
    scales = [in_nanometres(chain[0]["scale"]) for chain in node.metadata["coordinateTransformations"]]
    assert scales == [pytest.approx(size) for size in SIZES]
    for data, expected in zip(node.data, levels, strict=True):
        np.testing.assert_array_equal(data.compute(), expected)


def test_ngff_zarr_opens_it(written: Any) -> None:
    import ngff_zarr

    output, version, levels = written
    found = ngff_zarr.from_ngff_zarr(str(output / "labels/nuc"), validate=True, version=version)
    for image, expected, size, centre in zip(found.images, levels, SIZES, CENTRES, strict=True):
        assert in_nanometres(image.scale[axis] for axis in "zyx") == pytest.approx(size)
        assert in_nanometres(image.translation[axis] for axis in "zyx") == pytest.approx(centre)
        np.testing.assert_array_equal(np.asarray(image.data), expected)


def test_tensorstore_opens_it(written: Any) -> None:
    import tensorstore

    output, version, levels = written
    for level, expected in enumerate(levels):
        kvstore = {"driver": "file", "path": str(output / "labels/nuc" / str(level))}
        driver = {"0.4": "zarr", "0.5": "zarr3"}[version]
        array = tensorstore.open({"driver": driver, "kvstore": kvstore}).result()
        assert array.dtype.numpy_dtype == np.int32
        np.testing.assert_array_equal(array.read().result(), expected)


def test_no_flipped_bit_goes_unnoticed(written: Any, tmp_path: Path) -> None:
    output, _, levels = written
    folder = tmp_path / "3"
    shutil.copytree(output / "labels/nuc/3", folder)
    chunk = max((file for file in folder.rglob("[0-9]*") if file.is_file()), key=lambda file: file.stat().st_size)
    intact, noticed = chunk.read_bytes(), 0
    for at, bit in product(
        range(10, len(intact), 3), (0, 3, 7)
    ):  # behind the header, whose time and system say nothing
        broken = bytearray(intact)
        broken[at] ^= 1 << bit
        chunk.write_bytes(broken)
        try:
            found = zarr.open_array(folder, mode="r")[:]
        except (RuntimeError, ValueError, OSError, EOFError, zlib.error):  # what the codecs raise
            noticed += 1
        else:
            np.testing.assert_array_equal(found, levels[3])
    assert noticed > len(intact) / 3  # of three times as many tries


# ------------------------------------------------------------ into an image


def image_with_labels(path: Path, version: str) -> zarr.Group:
    """An image of two levels, the second of the volume's shape, with labels and a table of somebody else."""
    doubled = tuple(2 * n for n in SHAPE)
    chains = [[scale(0.008, 0.004, 0.004)], [scale(0.016, 0.008, 0.008), shift(0.004, 0.002, 0.002)]]
    group = write_image(path, image_of(UNITS, *chains), version, doubled)
    group.create_group("tables").create_array("mine", data=np.arange(9))
    theirs = group.create_group("labels").create_group("theirs")
    theirs.create_array("0", data=np.ones((2, 2, 2), np.int32))
    listed = {"labels": ["theirs"], "more": 1}
    group["labels"].attrs.update(listed if version == "0.4" else {"ome": {"version": version, **listed}})
    return group


def listing(image: Path, version: str) -> Any:
    attributes = zarr.open_group(image / "labels", mode="r").attrs.asdict()
    return attributes if version == "0.4" else attributes["ome"]


@pytest.mark.parametrize("given_as", ["path", "group", "consolidated"])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part:UserWarning")
def test_an_image_gets_labels_and_is_not_touched_otherwise(tmp_path: Path, version: Any, given_as: str) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    inputs, image = store_plain(tmp_path), tmp_path / "image.zarr"
    group = image_with_labels(image, version)
    if given_as == "consolidated":
        group = zarr.consolidate_metadata(group.store)
    before = snapshot(image)
    output = image if given_as == "path" else group
    for name in ("nuc", "again"):
        np.testing.assert_array_equal(segment(*inputs, output, name, ome_zarr=version)[:], EXPECTED)
    after = snapshot(image)
    changed = {path for path in before if before[path] != after.get(path)}
    own = {"labels/.zattrs" if version == "0.4" else "labels/zarr.json"}
    anew = {".zmetadata" if version == "0.4" else "zarr.json"} if given_as == "consolidated" else set()
    assert changed == own | anew
    assert all(path.startswith(("labels/nuc/", "labels/again/")) for path in after.keys() - before.keys())
    assert listing(image, version)["labels"] == ["theirs", "nuc", "again"]
    assert listing(image, version)["more"] == 1
    attributes = zarr.open_group(image / "labels/nuc", mode="r").attrs.asdict()
    image_label = (attributes if version == "0.4" else attributes["ome"])["image-label"]
    assert image_label == {"version": version, "source": {"image": "../../"}}
    found = read_multiscales(image / "labels/nuc")
    assert found is not None
    assert found.levels[0].placement == read_multiscales(image).levels[1].placement  # type: ignore[union-attr]
    if given_as == "path":
        assert {"nuc", "again"} <= {node.zarr.basename() for node in Reader(parse_url(image))()}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part:UserWarning")
def test_consolidated_metadata_tell_of_the_labels_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: Any
) -> None:
    inputs, image = store_plain(tmp_path), tmp_path / "image.zarr"
    theirs = zarr.consolidate_metadata(image_with_labels(image, version).store).attrs.asdict()

    def found() -> set[str]:
        group = zarr.open_group(image, mode="r", use_consolidated=True)
        assert group.attrs.asdict() == theirs
        return set(group["labels"].keys())

    segment(*inputs, image, ome_zarr=version)
    assert found() == {"theirs", "nuc"}
    monkeypatch.setattr(Stage, "run", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        segment(*inputs, image, ome_zarr=version, overwrite=True)
    assert found() == {"theirs"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part:UserWarning")
def test_labels_with_consolidated_metadata_around_them_are_those_that_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: Any
) -> None:
    inputs, output = store_plain(tmp_path), tmp_path / "out.zarr"
    segment(*inputs, output, ome_zarr=version)
    zarr.consolidate_metadata(output / "labels")

    def fail(self: Stage, *arguments: Any) -> None:
        real(self, *arguments)
        if self.name == "relabel":
            raise ValueError("stop here")

    real = Stage.run
    with monkeypatch.context() as patch:
        patch.setattr(Stage, "run", fail)
        with pytest.raises(ValueError, match="stop here"):
            segment(*inputs, output, ome_zarr=version, overwrite=True)
    assert list(zarr.open_group(output / "labels", mode="r", use_consolidated=True)) == []
    with pytest.raises(ValueError, match=r"labels of 'nuc' in .* are not whole"):
        find_labels(str(output))
    segment(*inputs, output, ome_zarr=version, resume=True)
    labels = zarr.open_group(output / "labels", mode="r", use_consolidated=True)
    assert find_labels(str(output)).mark == labels["nuc"].attrs["topo_dask"]


@pytest.mark.parametrize(("version", "other"), [("0.4", "0.5"), ("0.5", "0.4")])
def test_a_container_of_the_other_zarr_format_is_refused(tmp_path: Path, version: Any, other: Any) -> None:
    inputs = store_plain(tmp_path)
    image_with_labels(tmp_path / "image.zarr", version)
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match=rf"zarr format {VERSIONS[version]}.*: pass ome_zarr='{version}' or choose"):
        segment(*inputs, tmp_path / "image.zarr", ome_zarr=other)
    assert snapshot(tmp_path) == before


def test_labels_are_listed_when_they_are_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, image = store_plain(tmp_path), tmp_path / "image.zarr"
    image_with_labels(image, "0.5")
    segment(*inputs, image)
    assert listing(image, "0.5")["labels"] == ["theirs", "nuc"]

    def fail(self: Stage, job: Any, key: str) -> None:
        if self.name == "downsample.2":
            raise ValueError("stop here")
        real(self, job, key)

    real = Stage.run
    with monkeypatch.context() as patch:
        patch.setattr(Stage, "run", fail)
        with pytest.raises(ValueError, match="stop here"):
            segment(*inputs, image, overwrite=True)
    assert listing(image, "0.5")["labels"] == ["theirs"]
    assert zarr.open_array(image / "labels/nuc/1", mode="r")[:].any()
    np.testing.assert_array_equal(segment(*inputs, image, resume=True)[:], EXPECTED)
    assert listing(image, "0.5")["labels"] == ["theirs", "nuc"]


# ------------------------------------------------------------ place in space


def placement_of(output: Path) -> Any:
    found = read_multiscales(output / "labels/nuc")
    assert found is not None
    return found.levels[0].placement


@pytest.mark.filterwarnings("ignore:labels lie elsewhere than the image")
def test_where_the_place_in_space_comes_from(tmp_path: Path) -> None:
    plain = store_plain(tmp_path)
    for i, (name, array) in enumerate({"semantic": MASK[None], "flow": FLOW}.items()):
        store_image(tmp_path / f"{name}.ome", array, "0.5", scale(1, 2, 3), shift(4, 5, 6 + i))
    ome = tmp_path / "semantic.ome", tmp_path / "flow.ome"
    image_with_labels(tmp_path / "image", "0.5")
    for i, (inputs, output, more, size, centre, unit) in enumerate(
        [
            (ome, "out", {"resolution_nm": 64}, (1, 2, 3), (4, 5, 6), "micrometer"),
            ((ome[0] / "s0", plain[1]), "image", {}, (1, 2, 3), (4, 5, 6), "micrometer"),
            ((plain[0], ome[1]), "out", {}, (1, 2, 3), (4, 5, 7), "micrometer"),
            (plain, "image", {"resolution_nm": 64}, (0.016, 0.008, 0.008), (0.004, 0.002, 0.002), "micrometer"),
            (plain, "out", {"resolution_nm": 64}, (64, 64, 64), (0, 0, 0), "nanometer"),
            (plain, "out", {}, (1, 1, 1), (0, 0, 0), None),
        ]
    ):
        place = tmp_path / (output if output == "image" else f"out{i}")
        segment(*inputs, place, **more, overwrite=True)
        found = placement_of(place)
        assert (found.scale, found.translation, found.units) == (size, centre, (unit,) * 3)


def test_an_image_of_another_shape_gets_no_labels_that_do_not_say_where_they_lie(tmp_path: Path) -> None:
    plain = store_plain(tmp_path)
    store_image(tmp_path / "image", MASK[None, :, :-1], "0.5")
    message = re.escape(f"labels of shape {SHAPE} have that of no level of the image they go into")
    with pytest.raises(ValueError, match=f"{message}, .*{re.escape(str(MASK[:, :-1].shape))}.* choose another output"):
        segment(*plain, tmp_path / "image")
    assert "labels" not in zarr.open_group(tmp_path / "image", mode="r")
    segment(*plain, tmp_path / "image", ome_zarr=None)
    store_image(tmp_path / "placed", MASK[None], "0.5")
    with pytest.warns(UserWarning, match=f"{message}, .*: they lie in it where the metadata of the inputs say"):
        segment(tmp_path / "placed", plain[1], tmp_path / "image", overwrite=True)


@pytest.mark.parametrize(
    ("chain", "unit", "apart"),
    [
        ([scale(0.016, 0.008, 0.008), shift(0.004, 0.002, 0.002)], "micrometer", False),
        ([scale(16, 8, 8)], "nanometer", False),  # writers disagree on the translation of coarse levels
        ([scale(0.016, 0.008, 0.008)], None, False),
        ([scale(1, 1, 1)], None, True),
        ([scale(0.016, 0.008, 0.004)], "micrometer", True),
        ([scale(0.016, 0.008, 0.008), shift(0, 0, 0.02)], "micrometer", True),
    ],
)
def test_labels_that_lie_elsewhere_than_their_image_are_warned_of(
    tmp_path: Path, chain: Any, unit: str | None, apart: bool
) -> None:
    _, flow = store_plain(tmp_path)
    store_image(tmp_path / "placed", MASK[None], "0.5", *chain, units=space(unit))
    image_with_labels(tmp_path / "image", "0.5")
    told = "labels lie elsewhere than the image that they go into"
    with pytest.warns(UserWarning, match=told) if apart else nullcontext():
        segment(tmp_path / "placed", flow, tmp_path / "image")
    assert placement_of(tmp_path / "image").scale == tuple(chain[0]["scale"])


def test_voxels_of_two_sizes_are_warned_of(tmp_path: Path) -> None:
    store_image(tmp_path / "semantic", MASK[None], "0.5", scale(40, 8, 8))
    store_image(tmp_path / "flow", FLOW, "0.5", scale(8, 8, 8))
    with pytest.warns(UserWarning, match=r"semantic has voxels of \(40000.0, 8000.0, 8000.0\) nm, flow of \(8000.0, "):
        plan_volume(tmp_path / "semantic", tmp_path / "flow", class_names=["nuc"], class_config=CONFIG)
    store_image(tmp_path / "flow", FLOW, "0.5", scale(40.0001, 8, 8))
    plan_volume(tmp_path / "semantic", tmp_path / "flow", class_names=["nuc"], class_config=CONFIG)


@pytest.mark.filterwarnings("ignore:voxels are 16 × 8 × 8 nm, but the default parameters count voxels")
def test_resolution_is_the_shortest_edge_of_a_voxel(tmp_path: Path) -> None:
    for name, array in (("semantic", MASK[None]), ("flow", FLOW)):
        store_image(tmp_path / name, array, "0.5")
    planned = plan_volume(tmp_path / "semantic", tmp_path / "flow", class_names=["mito"], block_shape=BLOCK)
    expected = topo_dask.get_postprocess_config(8)["mito"]
    assert {name: planned.classes["mito"][1].to_dict()[name] for name in expected} == dict(expected)


def test_plain_inputs_have_the_voxels_that_the_caller_gives(tmp_path: Path) -> None:
    segment(*store_plain(tmp_path), tmp_path / "out", resolution_nm=(16, 8, 8))
    assert placement_of(tmp_path / "out") == Placement((16.0, 8.0, 8.0), units=("nanometer",) * 3)
    shapes = [zarr.open_array(tmp_path / f"out/labels/nuc/{level}").shape for level in (0, 1)]
    assert shapes == [SHAPE, (SHAPE[0], -(-SHAPE[1] // 2), -(-SHAPE[2] // 2))]


@pytest.mark.filterwarnings("ignore:labels lie elsewhere than the image")
@pytest.mark.parametrize("placed", ["input", "image"])
def test_voxels_that_the_caller_gives_must_be_those_of_the_metadata(tmp_path: Path, placed: str) -> None:
    semantic, flow = store_plain(tmp_path)
    store_image(tmp_path / "placed", MASK[None], "0.5", scale(0.016, 0.008, 0.008))
    image = None if placed == "input" else read_multiscales(tmp_path / "placed")
    inputs = (tmp_path / "placed" if placed == "input" else semantic), flow
    arguments: dict[str, Any] = {"class_names": ["nuc"], "class_config": CONFIG, "image": image}
    for same in ((16, 8, 8), np.array([16, 8, 8]), 4, np.array(4)):
        planned = plan_volume(*inputs, resolution_nm=same, **arguments)
        assert planned.pyramid is not None
        assert planned.pyramid.placement.voxel_size_nm == (16.0, 8.0, 8.0)
    with pytest.raises(
        ValueError, match=r"gives voxels of \(8.0, 8.0, 16.0\) nm, .* metadata \(16.0, 8.0, 8.0\) nm: corr"
    ):
        plan_volume(*inputs, resolution_nm=(8, 8, 16), **arguments)


def test_voxels_of_no_unit_have_the_edges_that_the_caller_gives(tmp_path: Path) -> None:
    _, flow = store_plain(tmp_path)
    store_image(tmp_path / "placed", MASK[None], "0.5", scale(0.5, 1, 1), shift(3, 0, 7), units=space(None))
    given: dict[str, Any] = {"class_names": ["nuc"], "class_config": CONFIG}
    three, one = (plan_volume(tmp_path / "placed", flow, resolution_nm=r, **given).pyramid for r in ((40, 16, 16), 16))
    assert three is not None
    assert three.placement == Placement((40.0, 16.0, 16.0), (240.0, 0.0, 112.0), ("nanometer",) * 3)
    assert one is not None
    assert one.placement == Placement((0.5, 1.0, 1.0), (3.0, 0.0, 7.0))
    image = read_multiscales(tmp_path / "placed")
    semantic, _ = store_plain(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"the OME-Zarr metadata \(0.5, 1.0, 1.0\) without a unit of length: correct"):
        plan_volume(semantic, flow, image=image, resolution_nm=(40, 16, 16), **given)


def test_metadata_with_a_unit_win(tmp_path: Path) -> None:
    store_image(tmp_path / "semantic", MASK[None], "0.5", scale(1, 1, 1), units=space(None))
    store_image(tmp_path / "flow", FLOW, "0.5", scale(0.016, 0.008, 0.008))
    plan = plan_volume(tmp_path / "semantic", tmp_path / "flow", class_names=["nuc"], class_config=CONFIG)
    assert plan.pyramid is not None
    assert plan.pyramid.placement.voxel_size_nm == (16.0, 8.0, 8.0)


def test_default_parameters_are_doubted_where_the_image_has_voxels_that_are_longer_along_z(tmp_path: Path) -> None:
    store_image(tmp_path / "image", MASK[None], "0.5", scale(0.032, 0.008, 0.008))
    arguments: dict[str, Any] = {"class_names": ["nuc"], "image": read_multiscales(tmp_path / "image")}
    with pytest.warns(UserWarning, match=r"voxels are 32 × 8 × 8 nm, but the default parameters count voxels"):
        plan_volume(*store_plain(tmp_path), resolution_nm=8, **arguments)


# ------------------------------------------------------------ the plan


def test_the_plan_counts_all_levels(tmp_path: Path) -> None:
    inputs = store_plain(tmp_path)
    arguments: dict[str, Any] = {"class_names": ["nuc"], "class_config": CONFIG, "block_shape": BLOCK}
    plans = [plan_volume(*inputs, **arguments, ome_zarr=version) for version in ("0.5", None)]
    names = [[stage.name for stage in plan.plans["nuc"].writers] for plan in plans]
    assert names == [["relabel", "downsample.1", "downsample.2", "downsample.3"], ["relabel"]]
    voxels = np.prod(SHAPE), 9 * 38 * 75, 5 * 19 * 38, 3 * 10 * 19
    assert [plan.output_bytes for plan in plans] == [4 * sum(voxels), 4 * voxels[0]]
    with pytest.raises(ValueError, match=r"ome_zarr must be one of .* or None for plain arrays; got '0.6'"):
        plan_volume(*inputs, **arguments, ome_zarr="0.6")  # type: ignore[arg-type]


def test_axes_in_different_units_are_halved_by_their_lengths(tmp_path: Path) -> None:
    _, flow = store_plain(tmp_path)
    mixed = [*space("nanometer", "z"), *space("micrometer", "yx")]
    store_image(tmp_path / "mixed", MASK[None], "0.5", scale(16, 0.008, 0.008), units=mixed)
    store_image(tmp_path / "alike", MASK[None], "0.5", scale(0.016, 0.008, 0.008))
    arguments: dict[str, Any] = {"class_names": ["nuc"], "class_config": CONFIG, "block_shape": BLOCK}
    plans = [plan_volume(tmp_path / name, flow, **arguments) for name in ("mixed", "alike")]
    assert plans[0].factors == plans[1].factors == ((1, 2, 2), (2, 2, 2), (2, 2, 2))


def test_blocks_without_labels_are_not_downsampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, done, real = store_plain(tmp_path), [], Stage.run
    monkeypatch.setattr(Stage, "run", lambda *given: (done.append((given[0].name, given[2])), real(*given))[1])
    with dask.config.set(scheduler="synchronous"):
        segment(*inputs, tmp_path / "out")
    tasks = {name: [key for stage, key in done if stage == name] for name, _ in done}
    assert len(tasks["relabel"]) == 3 * 2 * 3 - 3
    assert sorted(tasks["downsample.1"]) == ["0.0.0", "0.0.1", "1.0.0", "1.0.1"]
    assert tasks["downsample.2"] == tasks["downsample.3"] == ["0.0.0"]


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_the_pyramid_does_not_depend_on_the_blocks(data: st.DataObject) -> None:
    shape = data.draw(shapes(max_side=14, max_voxels=900))
    finest = data.draw(labels(shape)) % 7
    factors = data.draw(st.lists(st.tuples(*[st.integers(1, 2)] * 3), min_size=1, max_size=3))
    grid = BlockGrid(shape, data.draw(block_shapes(shape)))  # type: ignore[arg-type]
    expected = [finest.astype(np.int32)]
    for factor in factors:
        expected.append(naive.downsample_labels(expected[-1], factor))
    found = [expected[0], *(np.zeros(level.shape, np.int32) for level in expected[1:])]
    levels = tuple(CoarserLevel(f, Output(array)) for f, array in zip(factors, found[1:], strict=True))  # type: ignore[arg-type]
    job = Job("test", grid, ClassConfig(), output=Output(found[0]), levels=levels)
    for block in grid:
        if found[0][block.write.slices].any():
            job.scratch.put("relabel", block.key)
    run(job, plan_stages(Recipe(), pyramid=factors).writers[1:], serial)  # type: ignore[arg-type]
    for array, level in zip(found, expected, strict=True):
        np.testing.assert_array_equal(array, level)
