"""Fragments of one block: the pieces that another library finds, numbered in the raster order of their first voxels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from skimage.measure import label

from topo_dask.kernels import labels as labels_module
from topo_dask.kernels.fragments import divide_instances, face_pairs, find_fragments
from topo_dask.kernels.labels import number_kept


def check(labels: NDArray[np.int32]) -> int:
    numbers, n = find_fragments(labels)
    assert numbers.dtype == np.uint32
    assert numbers.flags.c_contiguous
    expected, expected_n = label(labels, background=0, connectivity=1, return_num=True)
    assert n == expected_n
    np.testing.assert_array_equal(numbers > 0, expected > 0)
    # As many pairs as pieces: the same pieces.
    inside = expected > 0
    assert len(np.unique(np.stack((numbers[inside], expected[inside])), axis=1).T) == n
    found, firsts = np.unique(numbers[inside], return_index=True)
    np.testing.assert_array_equal(found, np.arange(1, n + 1))
    assert (np.diff(firsts) > 0).all()
    return n


@settings(deadline=None)
@given(arrays(np.int32, array_shapes(min_dims=3, max_dims=3, max_side=7), elements=st.sampled_from([0, 1, 2, 7])))
def test_pieces_of_equal_labels_are_those_of_scikit_image(labels: NDArray[np.int32]) -> None:
    check(labels)


@pytest.mark.parametrize("values", [1, 2, 3, 1 << 30])
@pytest.mark.parametrize("share", [0.05, 0.35, 0.7, 1.0])
def test_pieces_that_wind_through_a_block(values: int, share: float) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(1, values, (20, 30, 25), np.int32, endpoint=True)
    labels[rng.random(labels.shape) >= share] = 0
    assert check(labels) >= 1


def test_a_comb_is_one_piece_whose_teeth_meet_last() -> None:
    for axes in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        comb = np.zeros((9, 9, 9), np.int32)
        comb[::2] = 4
        comb[-1, -1, -1] = comb[:, -1, -1] = 4
        assert check(np.ascontiguousarray(comb.transpose(axes))) == 1


def test_nothing_is_in_an_empty_block() -> None:
    for shape in ((0, 3, 3), (3, 0, 3), (3, 3, 0), (2, 2, 2)):
        assert check(np.zeros(shape, np.int32)) == 0


@pytest.mark.parametrize("n", [1 << 8, 1 << 16, 1 << 20])
def test_fragments_of_the_highest_numbers_meet_across_a_face(n: int) -> None:
    lower, upper = np.array([[1, n, n, 0, n, 2]], np.uint32), np.array([[n, 1, n, n, 1, 2]], np.uint32)
    labels = np.full(n, 7, np.int32)
    labels[1] = 8  # 2 is another instance here
    assert face_pairs(lower, upper, labels, np.full(n, 7, np.int32)).tolist() == [[1, n], [n, 1], [n, n]]


def test_more_instances_than_labels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fragments = np.array([1, 1, 2], np.int32), np.array([5, 5, 5]), np.arange(3)
    monkeypatch.setattr(labels_module, "MAX_LABEL", 3)
    assert divide_instances(*fragments, 0.1).tolist() == [1, 2, 3]
    assert number_kept(np.array([True, True, False, True])).tolist() == [1, 2, 0, 3]
    monkeypatch.setattr(labels_module, "MAX_LABEL", 2)
    with pytest.raises(OverflowError, match="3 instances do not fit into int32 labels, which end at 2"):
        divide_instances(*fragments, 0.1)
    with pytest.raises(OverflowError, match="3 instances do not fit into int32 labels, which end at 2"):
        number_kept(np.array([True, True, False, True]))
