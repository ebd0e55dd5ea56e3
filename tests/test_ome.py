"""OME-Zarr in: downsampling of labels, metadata, levels, and what may be an input."""

import naive
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from ome_images import image_of, scale, shift, space, write_image
from walked_files import WalkedFileSystem

from topo_dask.blocks.geometry import BlockGrid
from topo_dask.kernels.pyramid import coarse_shape, downsample_labels, pyramid_factors
from topo_dask.stores.inputs import open_input, open_labels
from topo_dask.stores.multiscales import Level, Placement, read_axes, read_multiscales

# ------------------------------------------------------------ downsampling


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
    np.testing.assert_array_equal(coarse, naive.downsample_labels(labels, factors))
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
    ("shape", "voxel_size", "longest", "factors"),
    [
        ((128, 128, 128), (8, 8, 8), 128, []),  # small enough as it is
        ((129, 10, 10), (8, 8, 8), 128, [(2, 2, 2)]),
        ((200, 1000, 1000), (40, 4, 4), 128, [(1, 2, 2)] * 3 + [(2, 2, 2)]),  # 40, 32, 32
        ((1000, 2000, 2000), (40, 4, 4), 128, [(1, 2, 2)] * 3 + [(2, 2, 2)] * 3),
        ((300, 300, 300), (16, 8, 8), 128, [(1, 2, 2), (2, 2, 2), (2, 2, 2)]),  # exactly twice as long: not yet
        ((300, 300, 300), (15, 8, 8), 128, [(2, 2, 2), (2, 2, 2)]),
        ((1, 500, 500), (1, 4, 4), 128, [(1, 2, 2)] * 2),  # a single plane does not hold the others back
        ((300, 300, 300), (1, 1, 1), 300, []),
        ((300, 300, 300), (1, 1, 1), 75, [(2, 2, 2)] * 2),
        ((3, 1, 1), (1, 1, 1), 1, [(2, 1, 1)] * 2),  # nothing left to halve
        ((0, 5, 5), (1, 1, 1), 2, [(1, 2, 2)] * 2),
    ],
)
def test_pyramid_factors(shape, voxel_size, longest, factors):
    assert pyramid_factors(shape, voxel_size, longest) == factors


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
        Level("s0", (3, 8, 16, 16), Placement((0.03, 0.008, 0.008), units=("micrometer",) * 3)),
        Level("s1", (1, 4, 8, 8), Placement((0.03, 0.016, 0.016), (0.0, 0.004, 0.004), ("micrometer",) * 3)),
    )
    assert [level.voxel_size_nm for level in found.levels] == [(30.0, 8.0, 8.0), (30.0, 16.0, 16.0)]
    assert [level.placement.translation_nm for level in found.levels] == [(0.0, 0.0, 0.0), (0.0, 4.0, 4.0)]
    assert read_multiscales(zarr.open_group(tmp_path / "a.zarr", mode="r")) == found


def test_transformations_apply_in_order_those_of_the_image_last(tmp_path):
    image = image_of(
        space("nanometer"),
        [scale(1, 2, 2), shift(10, 0, 0)],
        coordinateTransformations=[scale(4, 4, 4), shift(0, 0, 1), {"type": "identity"}],
    )
    write_image(tmp_path / "a.zarr", image)
    (level,) = read_multiscales(tmp_path / "a.zarr").levels
    assert (level.placement.voxel_size_nm, level.placement.translation_nm) == ((4.0, 8.0, 8.0), (40.0, 0.0, 1.0))


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


@pytest.mark.parametrize("paths", [["s0", "s1"], ["scale0/image", "scale1/image"]])
def test_open_input_takes_groups_levels_and_arrays(tmp_path, paths):
    root = tmp_path / "a.zarr"
    write_image(root, image_of(NM, [scale(8, 4, 4)], [scale(8, 8, 8)], paths=paths))
    for arguments, shape, size in (
        ((root, "flow"), (8, 8, 8), (8.0, 4.0, 4.0)),
        ((f"{root}/", "flow", 1), (4, 4, 4), (8.0, 8.0, 8.0)),
        ((root / paths[1], "flow"), (4, 4, 4), (8.0, 8.0, 8.0)),
    ):
        array, placement = open_input(*arguments)
        assert isinstance(array, zarr.Array)
        assert (array.shape, placement.voxel_size_nm) == (shape, size)


@pytest.mark.parametrize("kind", ["path", "group", "memory", "fsspec"])
def test_an_open_array_has_the_place_of_its_image(tmp_path, kind):
    image = image_of(NM, [scale(8, 4, 4)], [scale(8, 8, 8), shift(0, 2, 2)])
    if kind == "memory":
        group = zarr.create_group({}, attributes={"ome": {"version": "0.5", "multiscales": [image]}})
        array = group.create_array("s1", shape=(4, 4, 4), dtype="u1")
    else:
        write_image(tmp_path / "a.zarr", image)
        if kind == "path":
            array = zarr.open_array(tmp_path / "a.zarr" / "s1", mode="r")
        elif kind == "group":
            array = zarr.open_group(tmp_path / "a.zarr")["s1"]
        else:
            array = zarr.open_array(f"walked://{tmp_path}/a.zarr/s1", mode="r")
    opened, placement = open_input(array, "semantic")
    assert opened is array
    assert placement == Placement((8.0, 8.0, 8.0), (0.0, 2.0, 2.0), ("nanometer",) * 3)


def test_an_open_array_that_belongs_to_no_image_has_no_place(tmp_path):
    for store in ({}, tmp_path / "plain.zarr"):
        array = zarr.create_array(store, shape=(4, 4, 4), dtype="u1")
        assert open_input(array, "semantic") == open_input(array, "semantic", 0) == (array, None)
    with pytest.raises(ValueError, match="semantic is an array and has no levels"):
        open_input(array, "semantic", 1)


@pytest.mark.parametrize("kind", ["path", "open"])
@pytest.mark.parametrize(
    "attributes",
    [
        {"multiscales": [{"version": "0.3", "axes": ["z", "y", "x"], "datasets": [{"path": "0"}]}]},
        {"multiscales": [{"version": "0.4", **image_of(space(None), [{"type": "affine"}], paths=["0"])}]},
        {"ome": {"version": "0.7", "multiscales": [image_of(space(None), [], paths=["0"])]}},
        {"multiscales": "none"},
        {"multiscales": [{"datasets": [{"path": 7}, "0"]}]},
    ],
)
def test_an_array_inside_an_image_that_is_not_understood_and_is_none_of_its_levels(tmp_path, kind, attributes):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", attributes=attributes)
    for name in ("0", "predicted/flow"):
        group.create_array(name, shape=(4, 4, 4), dtype="u1")
    given = tmp_path / "a.zarr/predicted/flow"
    array, placement = open_input(zarr.open_array(given) if kind == "open" else given, "flow")
    assert (array.shape, placement) == ((4, 4, 4), None)


def test_an_array_that_is_a_level_of_an_image_that_is_not_understood_is_refused(tmp_path):
    write_image(tmp_path / "a.zarr", image_of(NM, [scale(8, 4, 4)]), version="0.7")
    with pytest.raises(ValueError, match=r"OME-Zarr 0\.4 and 0\.5 are understood"):
        open_input(tmp_path / "a.zarr/s0", "flow")


@pytest.mark.parametrize("kind", ["path", "open"])
def test_damaged_metadata_of_the_image_around_an_array_are_an_error_of_the_argument(tmp_path, kind):
    write_image(tmp_path / "a.zarr", image_of(NM, [scale(8, 4, 4)]))
    given = tmp_path / "a.zarr/s0"
    array = zarr.open_array(given) if kind == "open" else given
    (tmp_path / "a.zarr/zarr.json").write_text("{")
    with pytest.raises(ValueError, match=r"^flow: .*a\.zarr: its zarr metadata cannot be read"):
        open_input(array, "flow")


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("above", ["a.zarr", "a.zarr/predicted"])
def test_an_array_that_lies_in_another_has_no_place(tmp_path, above, zarr_format):
    zarr.create_array(tmp_path / above, shape=(2, 2), dtype="u1", zarr_format=zarr_format)
    zarr.create_array(tmp_path / "a.zarr/predicted/flow", shape=(4, 4, 4), dtype="u1")
    array, placement = open_input(tmp_path / "a.zarr/predicted/flow", "flow")
    assert (array.shape, placement) == ((4, 4, 4), None)


@pytest.mark.parametrize("allowed", ["predicted", "predicted/s1"])
def test_an_array_of_a_bucket_that_lets_nobody_read_what_is_above(tmp_path, allowed, monkeypatch):
    write_image(tmp_path / "predicted", image_of(NM, [scale(8, 4, 4)], [scale(8, 8, 8)]))

    def fail(path):
        if not path.startswith(f"{tmp_path}/{allowed}/"):
            raise PermissionError(f"403 Forbidden {path}")

    monkeypatch.setattr(WalkedFileSystem, "fail", staticmethod(fail))
    array, placement = open_input(f"walked://{tmp_path}/predicted/s1", "flow")
    assert array.shape == (4, 4, 4)
    assert (placement is None) == (allowed != "predicted")


def test_open_input_of_a_relative_path_and_of_an_array_without_siblings(tmp_path, monkeypatch):
    group = write_image(tmp_path / "a.zarr", image_of(NM, [scale(8, 4, 4)], [scale(8, 8, 8)]))
    del group["s0"]
    monkeypatch.chdir(tmp_path / "a.zarr")
    assert open_input("s1", "flow")[1].voxel_size_nm == (8.0, 8.0, 8.0)


def test_open_input_of_a_plain_array(tmp_path):
    zarr.create_array(tmp_path / "plain.zarr", shape=(3, 4, 5, 6), dtype="f4")
    array, placement = open_input(tmp_path / "plain.zarr", "flow")
    assert (array.shape, placement) == ((3, 4, 5, 6), None)
    zarr.open_group(tmp_path / "g.zarr").create_array("x", shape=(2, 2, 2), dtype="u1")
    assert open_input(tmp_path / "g.zarr" / "x", "flow")[1] is None


def axes_of(names):
    types = {"t": "time", "c": "channel"}
    return [{"name": n, "type": types.get(n, "space"), "unit": "nanometer"} for n in names]


@pytest.mark.parametrize("other", ["", "zy", "c", "t"])
def test_axes_without_a_type_are_of_space_if_they_are_z_y_or_x(other):
    assert read_axes({"axes": [other, "Z", "y", "x"]})[:2] == ((other, "z", "y", "x"), [1, 2, 3])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("tczyx", "flow has a time axis"),
        ("tzyx", "flow has a time axis"),
        ("xyz", "flow: the last three axes must be z, y, x"),
        ("yx", "flow: the last three axes must be z, y, x"),
    ],
)
def test_open_input_refuses_axes(tmp_path, names, message):
    image = image_of(axes_of(names), [scale(*[1] * len(names))])
    write_image(tmp_path / "a.zarr", image, shape=(2,) * len(names))
    for path in ("a.zarr", "a.zarr/s0"):
        with pytest.raises(ValueError, match=message):
            open_input(tmp_path / path, "flow")


def test_a_level_of_the_second_of_two_images_lies_where_that_image_says(tmp_path):
    group = write_image(tmp_path / "a.zarr", image_of(NM, GOOD))
    for name in ("b", "turned"):
        group.create_array(name, shape=(4, 4, 4), dtype="u1")
    ome = group.attrs.asdict()["ome"]
    ome["multiscales"].append(image_of(NM, [scale(8, 4, 4)], paths=["b"]))
    ome["multiscales"].append(image_of(space("nanometer", "xyz"), [scale(4, 4, 8)], paths=["turned"]))
    group.attrs["ome"] = ome
    assert open_input(tmp_path / "a.zarr/b", "flow")[1].voxel_size_nm == (8.0, 4.0, 4.0)
    with pytest.raises(ValueError, match="flow: the last three axes must be z, y, x"):
        open_input(tmp_path / "a.zarr/turned", "flow")
    assert open_input(tmp_path / "a.zarr", "flow")[1].voxel_size_nm == (1.0, 1.0, 1.0)


def test_channels_of_a_plane_are_no_planes(tmp_path):
    write_image(tmp_path / "a.zarr", image_of(axes_of("cyx"), [scale(1, 1, 1)]), shape=(2, 8, 8))
    write_image(tmp_path / "b.zarr", image_of(axes_of("tcyx"), [scale(1, 1, 1, 1)]), shape=(1, 1, 8, 8))
    for path in ("a.zarr", "a.zarr/s0"):
        with pytest.raises(ValueError, match=r"truth: the last three axes must be z, y, x; got \('c', 'y', 'x'\)"):
            open_labels(tmp_path / path, "truth")
    assert open_labels(tmp_path / "b.zarr", "truth").shape == (1, 8, 8)  # one channel is a plane


def test_open_input_refuses_other_things(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr")
    group.create_array("raw", shape=(2, 2, 2), dtype="u1")
    with pytest.raises(ValueError, match=r"flow: .*without multiscales.*\['raw'\]"):
        open_input(tmp_path / "a.zarr", "flow")
    for name in ("labels/nuc", "labels/mito"):
        group.create_group(name)
    with pytest.raises(ValueError, match=r"in it: \['labels/mito', 'labels/nuc', 'raw'\]"):
        open_input(tmp_path / "a.zarr", "flow")
    assert open_input(tmp_path / "a.zarr" / "raw", "flow", 0)[0].shape == (2, 2, 2)
    with pytest.raises(ValueError, match="flow is an array and has no levels"):
        open_input(tmp_path / "a.zarr" / "raw", "flow", 1)
    with pytest.raises(FileNotFoundError, match=r"b\.zarr"):
        open_input(tmp_path / "b.zarr", "flow")


@pytest.mark.filterwarnings("ignore:Call to deprecated class Scaler:DeprecationWarning")  # its own default argument
@pytest.mark.parametrize("axes", ["czyx", "tczyx"])
def test_reads_what_ome_zarr_writes(tmp_path, axes):
    from ome_zarr.writer import write_image as write

    volume = np.arange(2 * 6 * 8 * 8, dtype=np.uint16).reshape(2, 6, 8, 8)
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    size = dict(zip("tczyx", (7.0, 1.0, 0.03, 0.008, 0.008), strict=True))
    units = dict.fromkeys("zyx", "micrometer")
    written, size = volume.reshape((1,) * (len(axes) - 4) + volume.shape), {axis: size[axis] for axis in axes}
    write(written, group, axes=axes, scale=size, axes_units=units, scale_factors=[], scaler=None)
    array, placement = open_input(tmp_path / "a.zarr", "semantic")
    assert placement.voxel_size_nm == (30.0, 8.0, 8.0)
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
    assert (level.placement.voxel_size_nm, level.placement.translation_nm) == ((30.0, 8.0, 8.0), (1000.0, 0.0, 500.0))
    for path in (root, f"{root}/{level.path}"):
        array, placement = open_input(path, "flow")
        assert placement.voxel_size_nm == (30.0, 8.0, 8.0)
        np.testing.assert_array_equal(array[:], volume)
