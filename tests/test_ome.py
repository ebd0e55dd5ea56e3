"""OME-Zarr: metadata in, pyramids of labels out, and what independent readers make of them."""

import contextlib
import json
from collections import Counter
from itertools import pairwise, product

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from topo_dask.blocks.geometry import BlockGrid
from topo_dask.kernels.pyramid import coarse_shape, downsample_labels, pyramid_factors
from topo_dask.stores.inputs import resolve_input
from topo_dask.stores.multiscales import Level, Multiscale, find_level, read_multiscales
from topo_dask.stores.pyramids import create_label_pyramid, downsample_block

# ------------------------------------------------------------ downsampling


def naive_downsample(labels, factors):
    """One cell at a time: the most frequent, then anything but 0, then the lowest."""
    out = np.empty([-(-n // f) for n, f in zip(labels.shape, factors, strict=True)], labels.dtype)
    for at in np.ndindex(*out.shape):
        cell = labels[tuple(slice(i * f, (i + 1) * f) for i, f in zip(at, factors, strict=True))]
        counts = Counter(cell.ravel().tolist())
        out[at] = min(counts, key=lambda v: (-counts[v], v == 0, v))
    return out


@st.composite
def label_cells(draw):
    """Labels of few values, so that ties are common, and factors."""
    shape = draw(st.tuples(*[st.integers(1, 9)] * 3))
    dtype = draw(st.sampled_from(["int32", "uint8", ">i4", "int64"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, draw(st.sampled_from([2, 4, 9])), shape).astype(dtype)
    return labels, draw(st.tuples(*[st.integers(1, 3)] * 3))


@given(label_cells())
@settings(deadline=None, max_examples=150)
def test_downsampling_equals_naive(case):
    labels, factors = case
    before = labels.copy()
    coarse = downsample_labels(labels, factors)
    np.testing.assert_array_equal(coarse, naive_downsample(labels, factors))
    assert coarse.dtype == labels.dtype.newbyteorder("=")
    np.testing.assert_array_equal(labels, before)


@given(label_cells(), st.tuples(*[st.integers(1, 4)] * 3))
@settings(deadline=None, max_examples=60)
def test_blocks_aligned_to_the_factors_equal_the_whole(case, cells):
    labels, factors = case
    whole, parts = downsample_labels(labels, factors), []
    for block in BlockGrid(whole.shape, cells):
        fine = tuple(slice(s.start * f, s.stop * f) for s, f in zip(block.write.slices, factors, strict=True))
        parts.append((block.write.slices, downsample_labels(labels[fine], factors)))
    for where, part in parts:
        np.testing.assert_array_equal(part, whole[where])


@pytest.mark.parametrize(
    ("cell", "label"),
    [
        ([0, 0, 0, 0, 7, 7, 7, 7], 7),  # background gives way in a tie
        ([0, 0, 0, 0, 7, 7, 8, 8], 0),  # but counts like a label
        ([9, 9, 9, 2, 2, 2, 0, 0], 2),  # the lower of two labels
        ([5, 5, 0, 0, 3, 3, 1, 4], 3),  # both rules at once
        ([1, 2, 3, 4, 5, 6, 7, 0], 1),
        ([0, 0, 0, 0, 0, 0, 0, 0], 0),
        ([2**31 - 1] * 8, 2**31 - 1),
    ],
)
def test_ties(cell, label):
    for order in (cell, cell[::-1], cell[3:] + cell[:3]):
        assert downsample_labels(np.array(order, np.int32).reshape(2, 2, 2), (2, 2, 2)).item() == label


@pytest.mark.parametrize(
    ("labels", "factors", "error", "message"),
    [
        (np.zeros((2, 2, 2)), (2, 2, 2), TypeError, "float64"),
        (np.zeros((2, 2), int), (2, 2, 2), ValueError, "3 axes"),
        (np.zeros((2, 2, 2), int), (2, 0, 2), ValueError, "at least 1"),
        (np.zeros((2, 2, 2), int), (2, 2), ValueError, "three integers"),
    ],
)
def test_downsampling_refuses(labels, factors, error, message):
    with pytest.raises(error, match=message):
        downsample_labels(labels, factors)


def test_an_empty_block_stays_empty():
    assert downsample_labels(np.zeros((0, 4, 4), np.int32), (2, 2, 2)).shape == (0, 2, 2)


@pytest.mark.parametrize(
    ("shape", "voxel_size", "levels", "factors"),
    [
        ((128, 128, 128), (8, 8, 8), None, []),  # small enough as it is
        ((129, 10, 10), (8, 8, 8), None, [(2, 2, 2)]),
        ((200, 1000, 1000), (40, 4, 4), None, [(1, 2, 2)] * 3 + [(2, 2, 2)]),  # 40, 32, 32
        ((1000, 2000, 2000), (40, 4, 4), None, [(1, 2, 2)] * 3 + [(2, 2, 2)] * 3),
        ((300, 300, 300), (16, 8, 8), None, [(1, 2, 2), (2, 2, 2), (2, 2, 2)]),  # exactly twice as long: not yet
        ((300, 300, 300), (15, 8, 8), None, [(2, 2, 2), (2, 2, 2)]),
        ((1, 500, 500), (1, 4, 4), None, [(1, 2, 2)] * 2),  # a single plane does not hold the others back
        ((300, 300, 300), (1, 1, 1), 1, []),
        ((300, 300, 300), (1, 1, 1), 3, [(2, 2, 2)] * 2),
        ((3, 1, 1), (1, 1, 1), 9, [(2, 1, 1)] * 2),  # nothing left to halve
    ],
)
def test_pyramid_factors(shape, voxel_size, levels, factors):
    assert pyramid_factors(shape, voxel_size, levels) == factors


@given(st.tuples(*[st.integers(1, 5000)] * 3), st.tuples(*[st.floats(0.1, 500)] * 3))
def test_the_coarsest_level_is_small_but_not_smaller_than_needed(shape, voxel_size):
    sizes = [shape]
    for factors in pyramid_factors(shape, voxel_size):
        assert max(factors) == 2
        sizes.append(coarse_shape(sizes[-1], factors))
    assert max(sizes[-1]) <= 128
    assert all(max(size) > 128 for size in sizes[:-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": 0}, "levels must be at least 1"),
        ({"longest": 0}, "longest must be at least 1"),
        ({"voxel_size": (1.0, 0.0, 1.0)}, "voxel_size must be above"),
        ({"voxel_size": (1.0, float("nan"), 1.0)}, "voxel_size must be above"),
        ({"voxel_size": (1.0, float("inf"), 1.0)}, "voxel_size must be above"),
    ],
)
def test_pyramid_factors_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        pyramid_factors((5, 500, 5), **arguments)


# ------------------------------------------------------------ metadata in


def scale(*values):
    return {"type": "scale", "scale": list(values)}


def shift(*values):
    return {"type": "translation", "translation": list(values)}


def space(unit, names="zyx"):
    return [{"name": name, "type": "space", **({"unit": unit} if unit else {})} for name in names]


def image_of(axes, *chains, paths=None, **more):
    paths = paths or [f"s{k}" for k in range(len(chains))]
    datasets = [{"path": path, "coordinateTransformations": c} for path, c in zip(paths, chains, strict=True)]
    return {"axes": axes, "datasets": datasets, **more}


def write_image(path, image, version="0.5", shape=(8, 8, 8)):
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    for k, dataset in enumerate(image["datasets"]):
        small = tuple(max(1, n >> k) for n in shape)
        with contextlib.suppress(TypeError, KeyError, ValueError):
            group.create_array(dataset["path"], shape=small, chunks=small, dtype="u1")
    if version == "0.4":
        group.attrs["multiscales"] = [{"version": "0.4", **image}]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [image]}
    return group


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_reads_axes_levels_and_placement(tmp_path, version):
    channel = {"name": "c", "type": "channel"}
    image = image_of(
        [channel, *space("micrometer")],
        [scale(1, 0.03, 0.008, 0.008)],
        [scale(1, 0.03, 0.016, 0.016), shift(0, 0, 0.004, 0.004)],
    )
    write_image(tmp_path / "a.zarr", image, version, (3, 8, 16, 16))
    found = read_multiscales(tmp_path / "a.zarr")
    assert found.axes == ("c", "z", "y", "x")
    assert found.levels == (
        Level("s0", (3, 8, 16, 16), (30.0, 8.0, 8.0), (0.0, 0.0, 0.0)),
        Level("s1", (1, 4, 8, 8), (30.0, 16.0, 16.0), (0.0, 4.0, 4.0)),
    )
    assert read_multiscales(zarr.open_group(tmp_path / "a.zarr", mode="r")) == found


def test_transformations_apply_in_order_those_of_the_image_last(tmp_path):
    image = image_of(
        space("nanometer"),
        [scale(1, 2, 2), shift(10, 0, 0)],
        coordinateTransformations=[scale(4, 4, 4), shift(0, 0, 1), {"type": "identity"}],
    )
    write_image(tmp_path / "a.zarr", image)
    (level,) = read_multiscales(tmp_path / "a.zarr").levels
    assert (level.voxel_size_nm, level.translation_nm) == ((4.0, 8.0, 8.0), (40.0, 0.0, 1.0))


@pytest.mark.parametrize(
    ("unit", "value", "nanometres"),
    [
        ("nanometer", 4.3, 4.3),
        ("micrometer", 0.0043, 4.3),  # 0.0043 * 1000 is 4.300000000000001 in floats
        ("angstrom", 43, 4.3),
        ("picometer", 4300, 4.3),
        ("millimeter", 1e-6, 1.0),
        ("meter", 1e-9, 1.0),
        ("µm", 2, 2000.0),
        ("parsec", 1, None),
        (None, 8, None),
    ],
)
def test_units(tmp_path, unit, value, nanometres):
    write_image(tmp_path / "a.zarr", image_of(space(unit), [scale(value, value, value)]))
    size = read_multiscales(tmp_path / "a.zarr").levels[0].voxel_size_nm
    assert size == (None if nanometres is None else (nanometres,) * 3)


def test_groups_and_arrays_without_multiscales_are_none(tmp_path):
    zarr.open_group(tmp_path / "a.zarr").create_array("x", shape=(2,), dtype="u1")
    assert read_multiscales(tmp_path / "a.zarr") is None
    assert read_multiscales(tmp_path / "a.zarr" / "x") is None


NM = space("nanometer")
GOOD = [scale(1, 1, 1)]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (image_of(NM, [scale(1, 1)]), "list of 3 finite numbers"),
        (image_of(NM, [scale(1, 0, 1)]), "above 0"),
        (image_of(NM, [scale(1, -1, 1)]), "above 0"),
        (image_of(NM, [scale(1, "2", 1)]), "finite numbers"),
        (image_of(NM, [scale(1, True, 1)]), "finite numbers"),
        (image_of(NM, [{"type": "scale", "path": "elsewhere"}]), "finite numbers"),
        (image_of(NM, [{"type": "affine"}]), "'affine'"),
        (image_of(NM, GOOD, paths=["../outside"]), "invalid"),
        (image_of(NM, GOOD, paths=[7]), "path"),
        (image_of(space("nanometer", "yx"), [scale(1, 1)]), "array of 2 axes"),
        ({"datasets": []}, "'axes' and 'datasets'"),
    ],
)
def test_refuses_metadata_that_can_not_be_used(tmp_path, image, message):
    write_image(tmp_path / "a.zarr", image)
    with pytest.raises(ValueError, match=message):
        read_multiscales(tmp_path / "a.zarr")


def test_refuses_unknown_versions_missing_levels_and_missing_groups(tmp_path):
    write_image(tmp_path / "new.zarr", image_of(NM, GOOD), version="0.9")
    with pytest.raises(ValueError, match=r"0\.4 and 0\.5 are understood.*'0\.9'"):
        read_multiscales(tmp_path / "new.zarr")
    group = write_image(tmp_path / "part.zarr", image_of(NM, GOOD, [scale(2, 2, 2)]))
    del group["s1"]
    with pytest.raises(FileNotFoundError, match="'s1'"):
        read_multiscales(tmp_path / "part.zarr")
    with pytest.raises(FileNotFoundError, match="no zarr array"):
        read_multiscales(tmp_path / "nothing.zarr")
    group.attrs["ome"] = {"multiscales": {}}
    with pytest.raises(ValueError, match="list of objects"):
        read_multiscales(tmp_path / "part.zarr")


# ------------------------------------------------------------ levels and inputs


def pyramid_of(*sizes):
    return Multiscale(("z", "y", "x"), tuple(Level(str(k), (9, 9, 9), s, s) for k, s in enumerate(sizes)))


ISOTROPIC = pyramid_of((4.0,) * 3, (8.0,) * 3, (16.0,) * 3)


@pytest.mark.parametrize(
    ("multiscale", "arguments", "path"),
    [
        (ISOTROPIC, {}, "0"),
        (ISOTROPIC, {"level": 2}, "2"),
        (ISOTROPIC, {"resolution_nm": 8}, "1"),
        (ISOTROPIC, {"resolution_nm": 3}, "0"),
        (ISOTROPIC, {"resolution_nm": 128**0.5}, "1"),  # between two: the finer one
        (pyramid_of((40.0, 4.0, 4.0), (40.0, 8.0, 8.0)), {"resolution_nm": 8.6}, "0"),  # as large a voxel
        (pyramid_of(None, (8.0,) * 3), {"resolution_nm": 8}, "1"),
    ],
)
def test_find_level(multiscale, arguments, path):
    assert find_level(multiscale, **arguments).path == path


@pytest.mark.parametrize(
    ("multiscale", "arguments", "message"),
    [
        (ISOTROPIC, {"level": 3}, "below 3"),
        (ISOTROPIC, {"level": -1}, "at least 0"),
        (ISOTROPIC, {"level": 0, "resolution_nm": 8}, "not both"),
        (ISOTROPIC, {"resolution_nm": 64}, r"\[4\.0, 8\.0, 16\.0\]"),
        (ISOTROPIC, {"resolution_nm": 0}, "above 0"),
        (pyramid_of(None), {"resolution_nm": 8}, "no level"),
    ],
)
def test_find_level_refuses(multiscale, arguments, message):
    with pytest.raises(ValueError, match=message):
        find_level(multiscale, **arguments)


@pytest.mark.parametrize("paths", [["s0", "s1"], ["scale0/image", "scale1/image"]])
def test_resolve_input_takes_groups_levels_and_arrays(tmp_path, paths):
    root = tmp_path / "a.zarr"
    write_image(root, image_of(NM, [scale(8, 4, 4)], [scale(8, 8, 8)], paths=paths))
    for arguments, shape, size in (
        ((root, "flow"), (8, 8, 8), (8.0, 4.0, 4.0)),
        ((f"{root}/", "flow", 1), (4, 4, 4), (8.0, 8.0, 8.0)),
        ((root, "flow", None, 8), (4, 4, 4), (8.0, 8.0, 8.0)),
        ((root / paths[1], "flow"), (4, 4, 4), (8.0, 8.0, 8.0)),
    ):
        array, voxel_size = resolve_input(*arguments)
        assert isinstance(array, zarr.Array)
        assert (array.shape, voxel_size) == (shape, size)


def test_resolve_input_of_a_relative_path_and_of_an_array_without_siblings(tmp_path, monkeypatch):
    group = write_image(tmp_path / "a.zarr", image_of(NM, [scale(8, 4, 4)], [scale(8, 8, 8)]))
    del group["s0"]
    monkeypatch.chdir(tmp_path / "a.zarr")
    assert resolve_input("s1", "flow")[1] == (8.0, 8.0, 8.0)


def test_resolve_input_of_a_plain_array(tmp_path):
    zarr.create_array(tmp_path / "plain.zarr", shape=(3, 4, 5, 6), dtype="f4")
    array, voxel_size = resolve_input(tmp_path / "plain.zarr", "flow")
    assert (array.shape, voxel_size) == ((3, 4, 5, 6), None)
    zarr.open_group(tmp_path / "g.zarr").create_array("x", shape=(2, 2, 2), dtype="u1")
    assert resolve_input(tmp_path / "g.zarr" / "x", "flow")[1] is None


def axes_of(names):
    types = {"t": "time", "c": "channel"}
    return [{"name": n, "type": types.get(n, "space"), "unit": "nanometer"} for n in names]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("tczyx", "flow has a time axis"),
        ("tzyx", "flow has a time axis"),
        ("xyz", "flow: the last three axes must be z, y, x"),
        ("yx", "flow: the last three axes must be z, y, x"),
    ],
)
def test_resolve_input_refuses_axes(tmp_path, names, message):
    image = image_of(axes_of(names), [scale(*[1] * len(names))])
    write_image(tmp_path / "a.zarr", image, shape=(2,) * len(names))
    for path in ("a.zarr", "a.zarr/s0"):
        with pytest.raises(ValueError, match=message):
            resolve_input(tmp_path / path, "flow")


def test_resolve_input_refuses_other_things(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr")
    group.create_array("raw", shape=(2, 2, 2), dtype="u1")
    with pytest.raises(ValueError, match=r"flow: .*without multiscales.*\['raw'\]"):
        resolve_input(tmp_path / "a.zarr", "flow")
    with pytest.raises(ValueError, match=r"flow: .*has no levels"):
        resolve_input(tmp_path / "a.zarr" / "raw", "flow", 1)
    with pytest.raises(FileNotFoundError, match=r"b\.zarr"):
        resolve_input(tmp_path / "b.zarr", "flow")


@pytest.mark.filterwarnings("ignore:Call to deprecated class Scaler:DeprecationWarning")  # its own default argument
def test_reads_what_ome_zarr_writes(tmp_path):
    from ome_zarr.writer import write_image as write

    volume = np.arange(2 * 6 * 8 * 8, dtype=np.uint16).reshape(2, 6, 8, 8)
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    size = dict(zip("czyx", (1.0, 0.03, 0.008, 0.008), strict=True))
    units = dict.fromkeys("zyx", "micrometer")
    write(volume, group, axes="czyx", scale=size, axes_units=units, scale_factors=[], scaler=None)
    array, voxel_size = resolve_input(tmp_path / "a.zarr", "semantic")
    assert voxel_size == (30.0, 8.0, 8.0)
    np.testing.assert_array_equal(array[:], volume)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_reads_what_ngff_zarr_writes(tmp_path, version):
    import ngff_zarr

    volume = np.arange(6 * 8 * 8, dtype=np.uint16).reshape(6, 8, 8)
    image = ngff_zarr.to_ngff_image(
        volume,
        dims=["z", "y", "x"],
        scale={"z": 0.03, "y": 0.008, "x": 0.008},
        translation={"z": 1.0, "y": 0.0, "x": 0.5},
        axes_units=dict.fromkeys("zyx", "micrometer"),
    )
    root = str(tmp_path / "a.zarr")
    ngff_zarr.to_ngff_zarr(root, ngff_zarr.to_multiscales(image, scale_factors=[]), version=version)
    (level,) = read_multiscales(root).levels
    assert (level.voxel_size_nm, level.translation_nm) == ((30.0, 8.0, 8.0), (1000.0, 0.0, 500.0))
    for path in (root, f"{root}/{level.path}"):
        array, voxel_size = resolve_input(path, "flow")
        assert voxel_size == (30.0, 8.0, 8.0)
        np.testing.assert_array_equal(array[:], volume)


# ------------------------------------------------------------ labels out

VERSIONS = {"0.4": None, "0.5": (8, 32, 32)}  # and the shards to try


def blobs(shape, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 6, [-(-n // 5) for n in shape])
    return np.kron(coarse, np.ones((5, 5, 5), int))[tuple(map(slice, shape))].astype(np.int32)


def write_pyramid(container, name, labels, **arguments):
    """The pyramid of labels, block by block; returns its levels."""
    arrays = create_label_pyramid(container, name, labels.shape, **arguments)
    factors = pyramid_factors(labels.shape, arguments["voxel_size_nm"], arguments.get("levels"))
    arrays[0][:] = labels
    for (fine, coarse), factor in zip(pairwise(arrays), factors, strict=True):
        for block in BlockGrid(coarse.shape, coarse.shards or coarse.chunks):
            downsample_block(fine, coarse, block.write, factor)
    return arrays


@pytest.fixture(params=VERSIONS)
def written(request, tmp_path):
    """A pyramid of odd shape and anisotropic voxels: path, version, and its levels from the naive reference."""
    labels = [blobs((17, 75, 150))]
    for factors in ((1, 2, 2), (2, 2, 2), (2, 2, 2)):
        labels.append(naive_downsample(labels[-1], factors))
    arguments = {"chunks": (8, 16, 16), "shards": VERSIONS[request.param], "voxel_size_nm": (16.0, 8.0, 8.0)}
    arguments |= {"translation_nm": (100.0, 0.0, 0.5), "levels": 4, "version": request.param}
    arguments |= {"colors": {1: (255, 0, 0, 255)}, "properties": {1: {"class": "mito"}}}
    write_pyramid(tmp_path / "out.zarr", "mito", labels[0], **arguments)
    return tmp_path / "out.zarr", request.param, labels


SIZES = [(16.0, 8.0, 8.0), (16.0, 16.0, 16.0), (32.0, 32.0, 32.0), (64.0, 64.0, 64.0)]
CENTRES = [(100.0, 0.0, 0.5), (100.0, 4.0, 4.5), (108.0, 12.0, 12.5), (124.0, 28.0, 28.5)]


def test_pyramid_written_block_by_block_equals_naive(written):
    path, _, labels = written
    found = read_multiscales(path / "labels/mito")
    assert [level.path for level in found.levels] == ["0", "1", "2", "3"]
    assert [level.voxel_size_nm for level in found.levels] == SIZES
    assert [level.translation_nm for level in found.levels] == CENTRES
    for level, expected in zip(found.levels, labels, strict=True):
        array = zarr.open_array(path / "labels/mito" / level.path, mode="r")
        assert (array.dtype, array.fill_value) == (np.int32, 0)
        np.testing.assert_array_equal(array[:], expected)


def test_validator_accepts_the_metadata(written):
    import ome_zarr_models.v04
    import ome_zarr_models.v05

    path, version, _ = written
    group = zarr.open_group(path / "labels", mode="r")
    models = {"0.4": ome_zarr_models.v04, "0.5": ome_zarr_models.v05}[version]
    listed = models.labels.Labels.from_zarr(group)
    label = models.image_label.ImageLabel.from_zarr(group["mito"])
    if version == "0.4":
        listing, image_label = listed.attributes.labels, label.attributes.image_label
    else:
        listing, image_label = listed.attributes.ome.labels, label.attributes.ome.image_label
    assert listing == ["mito"]
    assert image_label.version == version
    assert image_label.colors[0].rgba == (255, 0, 0, 255)
    assert image_label.properties[0].label_value == 1


def test_ome_zarr_opens_it(written):
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    path, _, labels = written
    listed = list(Reader(parse_url(path / "labels"))())  # from the list of labels, as viewers do
    node = next(node for node in listed if node.zarr.basename() == "mito")
    assert [axis["unit"] for axis in node.metadata["axes"]] == ["nanometer"] * 3
    assert node.metadata["color"] == {1: [1.0, 0.0, 0.0, 1.0]}
    scales = [chain[0]["scale"] for chain in node.metadata["coordinateTransformations"]]
    assert scales == [list(size) for size in SIZES]
    for data, expected in zip(node.data, labels, strict=True):
        np.testing.assert_array_equal(data.compute(), expected)


def test_ngff_zarr_opens_it(written):
    import ngff_zarr

    path, version, labels = written
    store = str(path / "labels/mito")
    if version == "0.4":
        # By its reader of mappings: that of folders (zarrs, in Rust) did not know checksums in format 2 until 2026.
        files = [file for file in (path / "labels/mito").rglob("*") if file.is_file()]
        store = {file.relative_to(path / "labels/mito").as_posix(): file.read_bytes() for file in files}
    found = ngff_zarr.from_ngff_zarr(store, validate=True, version=version)
    for image, expected, size, centre in zip(found.images, labels, SIZES, CENTRES, strict=True):
        assert tuple(image.scale[axis] for axis in "zyx") == size
        assert tuple(image.translation[axis] for axis in "zyx") == centre
        np.testing.assert_array_equal(np.asarray(image.data), expected)


@pytest.mark.parametrize("version", VERSIONS)
def test_no_flipped_bit_goes_unnoticed(tmp_path, version):
    labels = blobs((8, 16, 16))
    create_label_pyramid(tmp_path, "mito", labels.shape, chunks=(8, 16, 16), shards=VERSIONS[version], version=version)[
        0
    ][:] = labels
    folder = tmp_path / "labels/mito/0"
    chunk = max((file for file in folder.rglob("0") if file.is_file()), key=lambda file: file.stat().st_size)
    intact, frame = chunk.read_bytes(), b"\x28\xb5\x2f\xfd"
    start = intact.index(frame)
    assert intact[start + 4] & 4  # the checksum flag of a zstd frame
    noticed = 0
    for at, bit in product(range(start + 5, len(intact)), (0, 3, 7)):
        broken = bytearray(intact)
        broken[at] ^= 1 << bit
        chunk.write_bytes(broken)
        try:
            found = zarr.open_array(folder, mode="r")[:]
        except (RuntimeError, ValueError):  # what the codecs raise
            noticed += 1
        else:
            np.testing.assert_array_equal(found, labels)
    assert noticed > len(intact)  # of three times as many tries


def test_labels_in_an_image_point_to_it_and_are_found_from_it(tmp_path):
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    write_image(tmp_path / "a.zarr", image_of(NM, [scale(8, 8, 8)], [scale(16, 16, 16)]))
    for name in ("nuc", "mito"):
        create_label_pyramid(tmp_path / "a.zarr", name, (8, 8, 8), chunks=(8, 8, 8), voxel_size_nm=(8, 8, 8), levels=2)
    attributes = json.loads((tmp_path / "a.zarr/labels/nuc/zarr.json").read_text())["attributes"]
    assert attributes["ome"]["image-label"] == {"version": "0.5", "source": {"image": "../../"}}
    assert zarr.open_group(tmp_path / "a.zarr/labels").attrs["ome"] == {"version": "0.5", "labels": ["mito", "nuc"]}
    names = [node.zarr.basename() for node in Reader(parse_url(tmp_path / "a.zarr"))()]
    assert {"mito", "nuc"} <= set(names)
    assert len(read_multiscales(tmp_path / "a.zarr").levels) == 2  # the image's own metadata are as they were


def test_without_a_voxel_size_scales_are_relative(tmp_path):
    create_label_pyramid(tmp_path / "a.zarr", "nuc", (9, 200, 9), chunks=(8, 8, 8))
    attributes = zarr.open_group(tmp_path / "a.zarr/labels/nuc").attrs["ome"]
    assert attributes["multiscales"][0]["axes"][0] == {"name": "z", "type": "space"}
    chains = [dataset["coordinateTransformations"] for dataset in attributes["multiscales"][0]["datasets"]]
    assert [chain[0]["scale"] for chain in chains] == [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]
    assert read_multiscales(tmp_path / "a.zarr/labels/nuc").levels[1].voxel_size_nm is None


def test_an_existing_name_is_kept_unless_it_is_to_be_overwritten(tmp_path):
    arguments = {"shape": (4, 4, 4), "chunks": (4, 4, 4)}
    create_label_pyramid(tmp_path / "a.zarr", "nuc", **arguments)[0][:] = 5
    with pytest.raises(FileExistsError, match="'nuc'"):
        create_label_pyramid(tmp_path / "a.zarr", "nuc", **arguments)
    assert zarr.open_array(tmp_path / "a.zarr/labels/nuc/0", mode="r")[0, 0, 0] == 5
    (array,) = create_label_pyramid(tmp_path / "a.zarr", "nuc", overwrite=True, **arguments)
    assert not array[:].any()


PLAIN = {"name": "nuc", "shape": (8, 8, 8), "chunks": (4, 4, 4)}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"version": "0.6"}, ValueError, "version must be one of"),
        ({"name": "a/b"}, ValueError, "one part of a path"),
        ({"name": ".."}, ValueError, "one part of a path"),
        ({"shape": (8, 8)}, TypeError, "shape"),
        ({"chunks": (0, 4, 4)}, ValueError, "chunks"),
        ({"shards": (6, 4, 4)}, ValueError, "multiple of chunks"),
        ({"shards": (8, 8, 8), "version": "0.4"}, ValueError, "0.4 has none"),
        ({"voxel_size_nm": (8, 0, 8)}, ValueError, "voxel_size_nm"),
        ({"translation_nm": (8, float("nan"), 8)}, ValueError, "translation_nm"),
        ({"levels": 0}, ValueError, "levels must be at least 1"),
        ({"colors": {1: (0, 0, 300, 0)}}, ValueError, "colors: label 1"),
    ],
)
def test_refuses_before_anything_is_made(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        create_label_pyramid(tmp_path / "a.zarr", **{**PLAIN, **arguments})
    assert not (tmp_path / "a.zarr").exists()


def test_refuses_a_container_of_the_other_zarr_format(tmp_path):
    write_image(tmp_path / "a.zarr", image_of(NM, GOOD), version="0.4")
    with pytest.raises(ValueError, match="needs zarr format 3"):
        create_label_pyramid(tmp_path / "a.zarr", **PLAIN)
    assert not (tmp_path / "a.zarr/zarr.json").exists()
    assert len(create_label_pyramid(tmp_path / "a.zarr", version="0.4", **PLAIN)) == 1


def test_downsample_block_refuses_levels_that_do_not_fit(tmp_path):
    fine, coarse = (zarr.create_array({}, shape=(n, n, n), chunks=(4, 4, 4), dtype="i4") for n in (9, 4))
    with pytest.raises(ValueError, match=r"target must have shape \(5, 5, 5\)"):
        downsample_block(fine, coarse, BlockGrid((4, 4, 4), (4, 4, 4)).block((0, 0, 0)).write, (2, 2, 2))
