import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from topo_dask.kernels import flow_targets
from topo_dask.kernels.extents import Extents
from topo_dask.synthetic import blobs, tubes
from topo_dask.targets import diffusion_flow, direct_flow


def naive_direct(labels):
    flow = np.zeros((3, *labels.shape), np.float32)
    for label in np.unique(labels[labels != 0]):
        voxels = np.argwhere(labels == label)
        centre = voxels.sum(axis=0) / len(voxels)
        for v in voxels:
            d = centre - v
            length = np.sqrt((d[0] ** 2 + d[1] ** 2) + d[2] ** 2)
            if length > 0 and (np.rint(centre) != v).any():
                flow[(slice(None), *v)] = d / length
    return flow


PLACES = [(0, 0, 0), (3, 0, 70), None]


def naive_diffusion(labels, n_iter, place=(0, 0, 0)):
    flow = np.zeros((3, *labels.shape))
    for label in np.unique(labels[labels != 0]):
        inside = labels == label
        longest = max(np.ptp(np.argwhere(inside), axis=0)) + 1
        for d in range(3):
            start = 1.0 if place is None else np.indices(labels.shape)[d] + place[d]
            u = np.where(inside, start, 0.0)
            for _ in range(min(6 * longest, n_iter)):
                laplacian = sum(sum(sides(u, axis)) for axis in range(3)) - 6 * u
                u = np.where(inside, u + laplacian / 6, 0.0)
            below, above = sides(u, d)
            flow[d] += np.where(inside, (above - below) / 2, 0.0)
    length = np.linalg.norm(flow, axis=0)
    return flow / np.where(length > 0, length, 1)


def sides(u, axis):
    """Values of the lower and upper neighbours along an axis; what is beyond the volume repeats its edge."""
    wide = np.pad(u, [(int(a == axis),) * 2 for a in range(3)], mode="edge")
    return np.take(wide, range(u.shape[axis]), axis), np.take(wide, range(2, u.shape[axis] + 2), axis)


def follow(mask, flow, steps):
    points = np.argwhere(mask).astype(float)
    for _ in range(steps):
        index = tuple(points.astype(int).T)
        points = np.clip(points + 0.5 * flow[(slice(None), *index)].T, 0, np.array(mask.shape) - 1)
    return points


@st.composite
def label_volumes(draw):
    shape = draw(st.tuples(*[st.integers(1, 9)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from(["int32", "uint8", "int64", "uint64", ">u2", "int16"]))
    ids = draw(st.sampled_from([[0, 1, 2, 3], [0, 0, 7, 100], [5]]))
    if np.dtype(dtype).itemsize == 8:
        ids = [i * 10 ** (17 if dtype == "uint64" else 16) for i in ids]  # 10**19 needs 64 unsigned bits
    return rng.choice(np.array(ids, dtype), shape)


@st.composite
def chunked(draw, labels):
    def cut(size):
        edges = sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=3))})
        return tuple(int(n) for n in np.diff(edges))

    return da.from_array(labels, chunks=tuple(cut(size) for size in labels.shape))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_direct_flow_is_naive_and_does_not_depend_on_chunks(data):
    labels = data.draw(label_volumes())
    expected = naive_direct(labels)
    flow = direct_flow(labels)
    assert flow.dtype == np.float32
    np.testing.assert_array_equal(flow, expected)
    lazy = direct_flow(data.draw(chunked(labels)))
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), expected)


def test_direct_flow_is_zero_at_the_voxel_nearest_to_the_centre_only_if_it_is_of_the_object():
    labels = np.zeros((1, 3, 4), np.int32)
    labels[0, 0] = 1  # centre at x = 1.5: rint goes to the even 2
    labels[0, 2, [0, 2]] = 2  # centre at x = 1, which is background
    flow = direct_flow(labels)
    assert flow[2, 0, 0].tolist() == [1, 1, 0, -1]
    assert flow[2, 0, 2].tolist() == [1, 0, -1, 0]


def test_many_objects_outgrow_the_first_table():
    labels = np.arange(1, 12 * 12 * 12 + 1).reshape(12, 12, 12) * 3
    labels = labels.repeat(2, axis=2)
    flow = direct_flow(labels)
    np.testing.assert_array_equal(flow[2, :, :, ::2] + flow[2, :, :, 1::2] != 0, True)
    np.testing.assert_array_equal(flow, direct_flow(da.from_array(labels, chunks=5)).compute())


def test_centres_of_all_objects_are_found_once_for_all_blocks(monkeypatch):
    labels = np.arange(1, 513).reshape(8, 8, 8)
    found = []

    def centres(self):
        found.append(len(self.counts))
        return original(self)

    original = Extents.centres
    monkeypatch.setattr(Extents, "centres", centres)
    direct_flow(da.from_array(labels, chunks=4)).compute(scheduler="sync")
    assert found == [512]


@settings(deadline=None, max_examples=40)
@given(label_volumes(), st.integers(1, 60), st.sampled_from(PLACES))
def test_diffusion_flow_is_naive(labels, n_iter, place):
    expected = naive_diffusion(labels, n_iter, place)
    flow = diffusion_flow(labels, n_iter, place=place, threads=1)
    assert flow.dtype == np.float32
    # Differences that cancel exactly in one order of summation leave rounding in another: compare the rest.
    sure = np.abs(np.linalg.norm(expected, axis=0) - np.linalg.norm(flow, axis=0)) < 0.5
    assert sure.mean() > 0.8
    close = np.isclose(flow, expected, atol=1e-4).all(axis=0)
    assert close[sure].mean() > 0.9


@pytest.mark.parametrize("place", PLACES)
def test_diffusion_flow_is_naive_on_solid_objects(place):
    labels = blobs((24, 26, 28), 4, seed=3, radius=(4.0, 7.0))[:, 5:-5, 6:]  # some are cut by the volume's faces
    np.testing.assert_allclose(diffusion_flow(labels, 50, place=place), naive_diffusion(labels, 50, place), atol=1e-5)


def test_small_objects_are_diffused_many_in_a_task_and_large_ones_apart(monkeypatch):
    labels = np.zeros((24, 24, 64), np.int64)
    labels[:, :, :24] = np.arange(1, 1729).reshape(12, 12, 12).repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
    labels[:, :, 26:44], labels[:, :, 46:] = 5000, 6000
    tasks = []

    def diffuse(*args):
        tasks.append(args[4].tolist())
        kernel(*args)

    kernel = flow_targets.diffuse_objects
    monkeypatch.setattr(flow_targets, "diffuse_objects", diffuse)
    flow = diffusion_flow(labels, threads=2)
    assert sorted(one for objects in tasks for one in objects) == list(range(1730))
    assert len(tasks) <= 5
    assert not any({1728, 1729} <= set(objects) for objects in tasks)
    for one in (1, 900, 5000):
        np.testing.assert_array_equal(np.where(labels == one, flow, 0), diffusion_flow(np.where(labels == one, one, 0)))


@pytest.mark.parametrize("place", [(0, 0, 0), None])
def test_diffusion_flow_of_a_crop_at_its_place_is_that_of_the_whole(place):
    labels = np.pad(tubes((40, 40, 40), 6, seed=2, radius=2.0, length=50), 1)
    flow = diffusion_flow(labels, place=place, threads=1)
    np.testing.assert_array_equal(flow, diffusion_flow(labels, place=place, threads=3))
    alone = np.where(labels == 4, np.uint64(2**63 + 1), np.uint64(0))
    whole = np.pad(alone, ((3, 1), (0, 5), (7, 0)))
    here = None if place is None else (3, 0, 7)
    expected = np.where(labels == 4, diffusion_flow(labels, place=here), 0)
    np.testing.assert_array_equal(diffusion_flow(whole, place=place)[:, 3:-1, :-5, 7:], expected)


def test_an_object_cut_by_the_volume_does_not_pile_up_there():
    rod = np.zeros((3, 3, 30), np.int32)
    rod[1, 1] = 1
    whole = np.pad(rod, ((0, 0), (0, 0), (10, 10)), mode="edge")
    flow, longer = diffusion_flow(rod, 20, place=None)[2, 1, 1], diffusion_flow(whole, 20, place=None)[2, 1, 1]
    np.testing.assert_array_equal(flow, 0)
    assert not longer[10:-10].any()


@pytest.mark.parametrize("shape", ["ball", "plate", "tube"])
def test_following_the_diffusion_flow_gathers_voxels_deep_inside(shape):
    if shape == "ball":
        labels = blobs((27, 27, 27), 1, radius=(10.0, 10.0))
    elif shape == "plate":
        labels = np.pad(np.ones((5, 30, 30), np.int32), 2)
    else:
        labels = tubes((60, 60, 60), 1, seed=5, radius=3.5, length=70)
    mask = labels > 0
    ends = follow(mask, diffusion_flow(labels), 200)
    at = tuple(np.rint(ends).astype(int).T)
    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]
    assert mask[at].all()
    assert depth[at].mean() > 0.7 * depth.max()
    sinks = len(np.unique(np.rint(ends / 0.75), axis=0))
    assert sinks < mask.sum() / 50


def test_long_thin_object_does_not_underflow():
    labels = np.zeros((3, 3, 902), np.int32)  # background all around: the field flows out through no end of the volume
    labels[1, 1, 1:-1] = 1  # decays like 3**-5400
    assert (np.abs(diffusion_flow(labels, 10_000)[2, 1, 1, 1:-1]) == 1).mean() > 0.99


@pytest.mark.parametrize("place", PLACES)
def test_lazy_diffusion_equals_in_memory_when_depth_suffices(place):
    labels = blobs((50, 40, 40), 6, seed=1, radius=(4.0, 6.0))[5:-5, 4:] * 11
    lazy = diffusion_flow(da.from_array(labels, chunks=(20, 12, 40)), depth=13, place=place)
    assert lazy.chunks == ((3,), (20, 20), (12, 12, 12), (40,))
    np.testing.assert_array_equal(lazy.compute(), diffusion_flow(labels, place=place))
    narrow = diffusion_flow(da.from_array(labels, chunks=(20, 13, 7)), depth=13, place=place)  # narrower than the depth
    assert narrow.chunks == ((3,), (20, 20), (13, 13, 10), (7, 7, 7, 7, 7, 5))
    np.testing.assert_array_equal(narrow.compute(), lazy.compute())


@pytest.mark.parametrize("dtype", ["<u8", ">u8"])
def test_lazy_flows_of_ids_that_need_all_bits_equal_those_in_memory(dtype):
    labels = np.zeros((3, 4, 5), dtype)
    labels[:2], labels[2, 1:] = 2**63 + 1, 2**63 + 2
    lazy = da.from_array(labels, chunks=(2, 4, 5))
    np.testing.assert_array_equal(diffusion_flow(lazy, depth=3), diffusion_flow(labels))
    np.testing.assert_array_equal(direct_flow(lazy), direct_flow(labels))


@pytest.mark.parametrize(("dtype", "label"), [(np.int32, 9), (np.uint64, 2**63 + 9)])
def test_lazy_diffusion_refuses_cut_objects(dtype, label):
    labels = np.zeros((4, 4, 40), dtype)
    labels[1, 1, 2:38] = label
    lazy = diffusion_flow(da.from_array(labels, chunks=(4, 4, 20)), depth=5)
    with pytest.raises(ValueError, match=rf"object {label} spans \[1, 1, 2\] to \[1, 1, 37\]"):
        lazy.compute()
    labels[1, 1, 20:] = 0  # now it fits into the first block
    lazy = diffusion_flow(da.from_array(labels, chunks=(4, 4, 20)), depth=0)
    np.testing.assert_array_equal(lazy.compute(), diffusion_flow(labels))


def test_building_computes_nothing_and_keeps_the_chunks():
    def refuse(*args, **kwargs):
        raise AssertionError("computed while building")

    labels = da.map_blocks(
        refuse,
        da.zeros((6, 7, 8), chunks=(3, 7, 4), dtype=np.int32),
        dtype=np.int32,
        meta=np.empty((0, 0, 0), np.int32),
    )
    with dask.config.set(scheduler=refuse):
        for flow in (direct_flow(labels), diffusion_flow(labels, depth=2)):
            assert flow.chunks == ((3,), *labels.chunks)
            assert flow.dtype == np.float32


ONES = np.ones((2, 2, 2), np.int32)
LAZY = da.from_array(ONES)
REFUSED = [
    (lambda: direct_flow([[[1]]]), TypeError, "labels is a list"),
    (lambda: direct_flow(zarr.zeros((1, 1, 1), dtype="i4")), TypeError, r"labels is a Array; .*from_zarr\(array\)"),
    (lambda: direct_flow(ONES.astype(float)), TypeError, "float64"),
    (lambda: direct_flow(ONES.astype(bool)), TypeError, "bool"),
    (lambda: direct_flow(np.ma.masked_equal(ONES, 1)), TypeError, "labels has masked values"),
    (lambda: diffusion_flow(np.ma.masked_equal(ONES, 1)), TypeError, "labels has masked values"),
    (lambda: direct_flow(ONES[0]), ValueError, r"\(2, 2\)"),
    (lambda: direct_flow(LAZY[0]), ValueError, r"\(2, 2\)"),
    (lambda: diffusion_flow(ONES, 0), ValueError, "n_iter must be at least 1, got 0"),
    (lambda: diffusion_flow(ONES, 1.5), TypeError, "n_iter must be an integer, got 1.5"),
    (lambda: diffusion_flow(ONES, threads=0), ValueError, "threads must be at least 1, got 0"),
    (lambda: diffusion_flow(ONES, threads="2"), TypeError, "threads must be an integer, got '2'"),
    (lambda: diffusion_flow(ONES, depth=3), TypeError, "depth=3"),
    (lambda: diffusion_flow(LAZY, depth=1, threads=2), TypeError, "threads=2 is for NumPy arrays"),
    (lambda: diffusion_flow(LAZY), TypeError, "depends on its whole object"),
    (lambda: diffusion_flow(LAZY, depth=-1), ValueError, "depth must be at least 0, got -1"),
    (lambda: diffusion_flow(LAZY, depth=1.5), TypeError, "depth must be an integer, got 1.5"),
    (lambda: diffusion_flow(ONES, place=(1, 2)), TypeError, "place must be three integers"),
    (lambda: diffusion_flow(ONES, place=(0, 0, -1)), ValueError, "place must be at least 0"),
    (lambda: diffusion_flow(ONES, place=(0, 0, 2**63)), ValueError, r"place must be below 2\*\*53"),
    (lambda: direct_flow(LAZY[LAZY[:, 0, 0] > 0]), ValueError, "unknown size"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda block: block[:, :1], ValueError, r"must have the shape that it declares, \(2, 2, 2\), got \(2, 1, 2\)"),
        (lambda block: block + 0.5, TypeError, "must hold what it declares, int32, got float64"),
        (lambda block: np.ma.masked_equal(block, 1), TypeError, "has masked values"),
    ],
)
def test_chunks_that_are_not_what_they_declare_are_refused(change, error, message):
    labels = da.from_array(np.ones((2, 4, 2), np.int32), chunks=2).map_blocks(change, dtype=np.int32)
    with dask.config.set(scheduler="synchronous"):
        for flow in (direct_flow(labels), diffusion_flow(labels, depth=2)):
            with pytest.raises(error, match=f"labels.* {message}"):
                flow.compute()


@pytest.mark.parametrize("shape", [(0, 3, 3), (3, 3, 0), (3, 3, 3)])
def test_no_object(shape):
    labels = np.zeros(shape, np.uint16)
    for flow in (direct_flow(labels), diffusion_flow(labels), direct_flow(da.from_array(labels)).compute()):
        assert flow.shape == (3, *shape)
        assert not flow.any()


EMPTY = [((0,), (4,), (4,)), ((0, 0), (4,), (4,)), ((2, 2), (0,), (4,)), ((4,), (0, 4), (0, 0, 0))]
PARTLY_EMPTY = [((0, 4), (4,), (4,)), ((4, 0), (4,), (4,)), ((0, 0, 2, 2), (0, 4), (2, 0, 2))]


@pytest.mark.parametrize("depth", [0, 1, 3, 9])
@pytest.mark.parametrize("chunks", [*EMPTY, *PARTLY_EMPTY], ids=str)
def test_lazy_flows_of_chunks_of_length_zero(chunks, depth):
    labels = np.zeros([sum(sizes) for sizes in chunks], int)
    labels[:1, 1:2, :1], labels[3:, 3:, 2:] = 1, 2  # each within a chunk
    lazy = da.from_array(labels, chunks=chunks)
    for flow, expected in (
        (direct_flow(lazy), direct_flow(labels)),
        (diffusion_flow(lazy, depth=depth), diffusion_flow(labels)),
    ):
        assert flow.chunks == ((3,), *chunks)
        np.testing.assert_array_equal(flow.compute(), expected)
