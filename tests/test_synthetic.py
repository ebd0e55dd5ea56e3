import numpy as np
import pytest
import zarr
from skimage.measure import label as connected

from topo_dask.kernels.painting import ellipsoid_is_free, free_length, paint_ellipsoid, paint_path
from topo_dask.synthetic import Tiling, blobs, noisy, touching_plates, tubes
from topo_dask.targets import direct_flow

MAKERS = [
    (lambda seed: blobs((64, 60, 56), 10, seed, margin=1), 10, 1),
    (lambda seed: tubes((64, 60, 56), 10, seed, radius=2.0, length=60, margin=2), 10, 2),
    (lambda seed: touching_plates((96, 90, 100), 5, seed, margin=1), 25, 1),
    (lambda seed: blobs((24, 22, 26), 30, seed, radius=(1, 2), margin=1), 30, 1),
    (lambda seed: tubes((40, 36, 40), 10, seed, radius=1.0, length=40, margin=1), 10, 1),
    (lambda seed: touching_plates((64, 64, 64), 3, seed, thickness=2, radius=(10, 12), margin=1), 15, 1),
]


@pytest.mark.parametrize(("make", "n", "margin"), MAKERS)
def test_objects_are_whole_numbered_apart_from_the_faces_and_repeatable(make, n, margin):
    labels = make(3)
    assert labels.dtype == np.int32
    assert np.unique(labels).tolist() == list(range(n + 1))
    for i in range(1, n + 1):
        assert connected(labels == i, connectivity=1).max() == 1
    inner = np.pad(labels[(slice(margin, -margin),) * 3], margin)
    np.testing.assert_array_equal(labels, inner)
    np.testing.assert_array_equal(labels, make(3))
    assert (labels != make(4)).any()


def test_crowded_tubes_are_cut_short_but_not_to_stumps():
    labels = tubes((40, 40, 40), 25, seed=0, radius=2.0, length=60)
    sizes = np.bincount(labels.ravel())[1:]
    assert len(sizes) == 25
    assert sizes.min() > 100  # a quarter of the walk, 15 voxels, of a tube 13 voxels across, bends allowed for
    assert sizes.min() < sizes.max() / 2


def test_default_blobs_fill_about_17_percent():
    labels = blobs((128, 128, 128), 75, seed=0)
    assert 0.14 < (labels > 0).mean() < 0.2


def test_plates_touch_their_neighbours_in_the_stack_over_their_whole_face():
    labels = touching_plates((60, 60, 60), 1, seed=1, thickness=4, plates=3)
    sizes = np.bincount(labels.ravel())[1:]
    for axis in range(3):
        a = np.moveaxis(labels, axis, 0)
        faces = ((a[:-1] == 1) & (a[1:] == 2)).sum()
        if faces * 4 == sizes[0] == sizes[1] == sizes[2]:
            break
    else:
        pytest.fail("no axis along which each plate is 4 thick and covered by the next")


ELLIPSOIDS = [
    ((5.0, 6.0, 7.0), (2.0, 3.0, 4.0)),  # voxels lie on the very surface along each axis
    ((5.5, 6.25, 7.0), (2.5, 1.25, 0.5)),
    ((0.0, 12.0, 6.0), (3.0, 3.0, 3.0)),  # cut by the volume
    ((11.0, 0.0, 14.5), (2.0, 1.0, 2.5)),
    ((-2.0, 5.0, 5.0), (1.0, 2.0, 2.0)),  # outside
]


def ellipsoid(centre, radii):
    away = np.moveaxis(np.indices((12, 13, 14)), 0, -1) - centre
    return ((away / radii) ** 2).sum(axis=-1) <= 1


@pytest.mark.parametrize(("centre", "radii"), ELLIPSOIDS)
def test_an_ellipsoid_is_all_voxels_within_it(centre, radii):
    inside = ellipsoid(centre, radii)
    centre, radii = np.array(centre), np.array(radii)
    labels = np.zeros(inside.shape, np.int32)
    paint_ellipsoid(labels, centre, radii, 3)
    np.testing.assert_array_equal(labels, 3 * inside)
    labels = np.where(inside, 0, 4).astype(np.int32)
    assert ellipsoid_is_free(labels, centre, radii)
    for voxel in np.argwhere(inside):
        labels[tuple(voxel)] = 4
        assert not ellipsoid_is_free(labels, centre, radii)
        labels[tuple(voxel)] = 0


def test_a_path_is_free_up_to_the_first_ball_that_meets_an_object():
    labels = np.zeros((12, 13, 14), np.int32)
    path = np.array([[5.0, 5.0, x] for x in range(3, 10)])
    assert free_length(labels, path, 2.0) == len(path)
    paint_path(labels, path[:3], 2.0, 1)
    expected = np.logical_or.reduce([ellipsoid(point, (2.0, 2.0, 2.0)) for point in path[:3]])
    np.testing.assert_array_equal(labels, expected)
    labels[:] = 0
    labels[5, 7, 8] = 2  # at the very surface of the ball about x = 8
    assert free_length(labels, path, 2.0) == 5


FLOW, ONES = np.zeros((3, 2, 2, 2)), np.ones((2, 2, 2), int)
CUBE = (32, 32, 32)
REFUSED = [
    (lambda: blobs(CUBE, 500), ValueError, "found no free place in 1000 tries"),
    (lambda: blobs((8, 64, 64), 1), ValueError, "expected room"),
    (lambda: blobs((32, 32), 1), TypeError, r"shape must be three integers .* got \(32, 32\)"),
    (lambda: blobs(CUBE, -1), ValueError, "n must be at least 0, got -1"),
    (lambda: blobs(CUBE, 1, margin=-1), ValueError, "margin must be at least 0, got -1"),
    (lambda: blobs(CUBE, 5, radius=(0.3, 0.5)), ValueError, r"radius is \(0.3, 0.5\); expected at least 1"),
    (lambda: blobs(CUBE, 5, radius=(5, 3)), ValueError, r"radius is \(5, 3\); expected the lowest first"),
    (lambda: blobs(CUBE, 5, radius=(5, np.nan)), ValueError, "each of radius must be finite, got nan"),
    (lambda: blobs(CUBE, 5, radius=5), TypeError, "radius is 5; expected two numbers"),
    (lambda: tubes(CUBE, -1), ValueError, "n must be at least 0, got -1"),
    (lambda: tubes(CUBE, 1, radius=0.5), ValueError, "radius is 0.5"),
    (lambda: tubes(CUBE, 1, radius=np.nan), ValueError, "radius must be finite, got nan"),
    (lambda: tubes(CUBE, 1, length=0), ValueError, "length must be at least 1, got 0"),
    (lambda: tubes(CUBE, 1, margin=-3), ValueError, "margin must be at least 0, got -3"),
    (lambda: touching_plates(CUBE, 1), ValueError, "expected room"),
    (lambda: touching_plates(CUBE, -1), ValueError, "n_stacks must be at least 0, got -1"),
    (lambda: touching_plates(CUBE, plates=1.5), TypeError, "plates must be an integer, got 1.5"),
    (lambda: touching_plates(CUBE, bend=np.inf), ValueError, "bend must be finite, got inf"),
    (lambda: touching_plates(CUBE, radius=(-3, -2)), ValueError, r"radius is \(-3.0, -2.0\); expected above 0"),
    (lambda: touching_plates((96, 96, 96), thickness=1), ValueError, "thickness is 1; expected at least 2 for bend"),
    (
        lambda: touching_plates((96, 96, 96), thickness=2, bend=9, radius=(12, 16)),
        ValueError,
        "expected at least 3 for bend",
    ),
    (lambda: touching_plates((96, 96, 96), bend=-1), ValueError, "bend is -1.0; expected at least 0"),
    (lambda: noisy(FLOW, -1.0), ValueError, "sigma is -1.0"),
    (lambda: noisy(FLOW, np.nan), ValueError, "sigma must be finite, got nan"),
    (lambda: noisy(FLOW, np.inf), ValueError, "sigma must be finite, got inf"),
    (lambda: noisy(FLOW, 1e300), ValueError, r"sigma is 1e\+300; expected at least 0 and below 1e30"),
    (lambda: noisy(FLOW, "1"), TypeError, "sigma must be a number, got '1'"),
    (lambda: noisy(FLOW.tolist(), 1.0), TypeError, "flow is a list; expected a NumPy array"),
    (lambda: noisy(FLOW.astype(int), 1.0), TypeError, "flow has dtype int64; expected floats"),
    (lambda: noisy(np.ma.masked_equal(FLOW, 0), 1.0), TypeError, "flow has masked values"),
    (lambda: noisy(FLOW[:2], 1.0), ValueError, r"flow has shape \(2, 2, 2, 2\); expected \(3, D, H, W\)"),
    (lambda: noisy(FLOW[0], 1.0), ValueError, r"flow has shape \(2, 2, 2\); expected \(3, D, H, W\)"),
    (lambda: noisy(FLOW[:, :0], 1.0), ValueError, r"\(3, 0, 2, 2\); .* of at least two voxels"),
    (lambda: noisy(FLOW[:, :1, :1, :1], 1.0), ValueError, r"\(3, 1, 1, 1\); .* of at least two voxels"),
    (lambda: noisy(FLOW, 1.0, labels=np.zeros((2, 2))), ValueError, r"shape \(2, 2\)"),
    (lambda: noisy(FLOW, 1.0, labels=ONES.tolist()), TypeError, "labels is a list; expected a NumPy array"),
    (lambda: Tiling(ONES, np.zeros((3, 2, 2, 3)), (4, 4, 4)), ValueError, r"\(3, 2, 2, 3\)"),
    (lambda: Tiling(ONES, FLOW, (4, 0, 4)), ValueError, r"\(4, 0, 4\)"),
    (lambda: Tiling(ONES, FLOW, (4, 4.5, 4)), TypeError, "shape must be three integers"),
    (lambda: Tiling(ONES.tolist(), FLOW, (4, 4, 4)), TypeError, "labels is a list"),
    (lambda: Tiling(np.ma.masked_equal(ONES, 1), FLOW, (4, 4, 4)), TypeError, "labels has masked values"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"chunks": (64, 64)}, TypeError, "chunks must be three integers"),
        ({"chunks": (0, 1, 1)}, ValueError, "chunks must be at least 1"),
        ({"dtype": "int8"}, ValueError, "dtype is 'int8'; expected a type of floats"),
        ({"dtype": "float99"}, TypeError, "float99"),
        ({"threads": 0}, ValueError, "threads must be at least 1, got 0"),
        ({"threads": 1.5}, TypeError, "threads must be an integer, got 1.5"),
    ],
)
def test_nothing_is_written_where_options_cannot_be_used(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        Tiling(ONES, FLOW, (4, 4, 4)).write_zarr(tmp_path / "mask", tmp_path / "flow", **options)
    assert not list(tmp_path.iterdir())


def test_tilings_are_compared_as_objects():
    one, other = (Tiling(ONES, FLOW, (4, 4, 4)) for _ in range(2))
    assert one == one
    assert len({one, other}) == 2


def test_noise_has_the_deviation_asked_for_and_leaves_unit_vectors():
    labels = blobs((64, 64, 64), 10, seed=0)
    flow = direct_flow(labels)
    out = noisy(flow, 0.2, seed=1)
    moving = flow.any(axis=0)
    assert out.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(out, axis=0), moving, atol=1e-6)
    # The angle between the vectors: two components of noise across the vector, each of deviation 0.2.
    across = np.sqrt(1 - (out * flow).sum(axis=0)[moving].clip(-1, 1) ** 2)
    assert 0.2 < np.sqrt((across**2).mean()) < 0.32
    np.testing.assert_array_equal(out, noisy(flow, 0.2, seed=1))
    assert (out != noisy(flow, 0.2, seed=2)).any()
    np.testing.assert_allclose(noisy(flow, 0.0), flow, atol=1e-6)
    at_rest = (labels > 0) & ~moving
    assert (noisy(flow, 0.2, labels=labels).any(axis=0) == (labels > 0)).all()
    assert np.linalg.norm(noisy(flow, 0.2, labels=labels)[:, at_rest], axis=0).max() < 1


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_noise_does_not_depend_on_the_order_of_bytes(dtype):
    flow = direct_flow(blobs((32, 32, 32), 2, seed=0)).astype(f"<{dtype}")
    out = noisy(flow.astype(f">{dtype}"), 0.2)
    assert out.dtype == f">{dtype}"
    np.testing.assert_array_equal(out, noisy(flow, 0.2))


@pytest.fixture(scope="module")
def tiling():
    labels = blobs((20, 24, 28), 3, seed=2, radius=(4.0, 6.0), margin=1)
    return Tiling(labels, direct_flow(labels), (50, 24, 60))


def test_tiling_reads_what_tile_repeats(tiling):
    labels = np.tile(tiling.labels, (3, 1, 3))[:50, :24, :60]
    flow = np.tile(tiling.flow, (1, 3, 1, 3))[:, :50, :24, :60]
    rng = np.random.default_rng(0)
    for _ in range(30):
        box = tuple(slice(*sorted(int(i) for i in rng.integers(0, size + 1, 2))) for size in tiling.shape)
        mask, vectors = tiling.read(box)
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, labels[box] > 0)
        np.testing.assert_array_equal(vectors, flow[(slice(None), *box)])


def test_tiling_reads_every_voxel_of_a_box(tiling):
    with pytest.raises(ValueError, match="step 2 along axis 1"):
        tiling.read((slice(0, 4), slice(0, 4, 2), slice(0, 4)))


def test_written_volume_is_the_one_read(tiling, tmp_path):
    mask, flow = tiling.write_zarr(tmp_path / "mask", tmp_path / "flow", chunks=(16, 24, 20), threads=3)
    assert (mask.shape, mask.chunks, mask.dtype) == ((1, 50, 24, 60), (1, 16, 24, 20), np.uint8)
    assert (flow.shape, flow.chunks, flow.dtype) == ((3, 50, 24, 60), (3, 16, 24, 20), np.float16)
    inside, vectors = tiling.read((slice(None),) * 3)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "mask", mode="r")[0], inside)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "flow", mode="r")[:], vectors.astype(np.float16))
    with pytest.raises(zarr.errors.ContainsArrayError):
        tiling.write_zarr(tmp_path / "mask", tmp_path / "flow")
