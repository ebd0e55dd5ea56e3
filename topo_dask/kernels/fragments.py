"""Fragments: the 6-connected pieces of instances, in one block and across the face of two."""

import numpy as np
from numpy.typing import NDArray

from .compiled import kernel, part
from .labels import add_up, apply_lut, check_label_count, number_roots
from .linking import flatten_roots, join_sets


@part
def _joined(number, label, x, goes_on, row, out, parents):  # type: ignore[no-untyped-def]
    # Number of voxel x after a look at the voxel beside it in an earlier row. If both rows had this label at the voxel
    # before, their numbers are united already.
    if row[x] != label or (goes_on and row[x - 1] == label):
        return number
    beside = np.int64(out[x])
    if number != 0:
        join_sets(parents, number, beside)
    return beside


@kernel
def _scan(labels, numbers, parents):  # type: ignore[no-untyped-def]
    # Gives each voxel the number of a neighbour before it, or a new number, and unites numbers that meet.
    depth, height, width = labels.shape
    n = 0
    for z in range(depth):
        for y in range(height):
            row, out = labels[z, y], numbers[z, y]
            # Before the first row and plane come the last ones: these are not read.
            row_above, out_above = labels[z, y - 1], numbers[z, y - 1]
            row_before, out_before = labels[z - 1, y], numbers[z - 1, y]
            for x in range(width):
                label, number = row[x], np.int64(0)
                if label != 0:
                    goes_on = x > 0 and row[x - 1] == label
                    if goes_on:
                        number = np.int64(out[x - 1])
                    if y > 0:
                        number = _joined(number, label, x, goes_on, row_above, out_above, parents)
                    if z > 0:
                        number = _joined(number, label, x, goes_on, row_before, out_before, parents)
                    if number == 0:
                        n += 1
                        number = np.int64(n)
                        parents[n] = number
                out[x] = number
    flatten_roots(parents[: n + 1])
    return n


def find_fragments(labels: NDArray[np.int32]) -> tuple[NDArray[np.uint32], int]:
    """Number the 6-connected pieces of equal labels in one block.

    Parameters
    ----------
    labels : ndarray of int32, shape (d, h, w)
        Labels, 0 for background.

    Returns
    -------
    numbers : ndarray of uint32, shape (d, h, w)
        Fragment of each voxel, from 1; 0 for background.
    n : int
        Number of fragments.

    Examples
    --------
    >>> find_fragments(np.array([[[4, 4, 0, 4]]], np.int32))
    (array([[[1, 1, 0, 2]]], dtype=uint32), 2)
    """
    numbers = np.empty(labels.shape, np.uint32)
    parents = np.empty(labels.size + 1, np.int64)
    parents[0] = 0
    n = _scan(labels, numbers, parents)
    lut = number_roots(parents[: n + 1])[1:] - 1  # the background was a set too
    apply_lut(numbers, lut, out=numbers.view(np.int32))
    return numbers, int(lut.max(initial=0))


def face_pairs(
    lower: NDArray[np.uint32],
    upper: NDArray[np.uint32],
    lower_labels: NDArray[np.int32],
    upper_labels: NDArray[np.int32],
) -> NDArray[np.int64]:
    """Pairs of fragments that touch across the common face of two blocks and belong to the same instance.

    Parameters
    ----------
    lower, upper : ndarray of uint32, shape (a, b)
        Fragment numbers in the last plane of one block and in the first plane of the next.
    lower_labels, upper_labels : ndarray of int32, shape (n,)
        Label of each fragment of the two blocks, number 1 first.

    Returns
    -------
    pairs : ndarray of int64, shape (M, 2)
        Distinct pairs (number in the lower block, number in the upper block).

    Examples
    --------
    >>> face_pairs(np.array([[1, 0, 2]], np.uint32), np.array([[1, 1, 1]], np.uint32),
    ...            np.array([7, 8], np.int32), np.array([7], np.int32))
    array([[1, 1]])
    """
    both = (lower > 0) & (upper > 0)
    a, b = lower[both].astype(np.int64), upper[both].astype(np.int64)
    same = lower_labels[a - 1] == upper_labels[b - 1]
    codes = np.unique(a[same] << 32 | b[same])
    return np.stack((codes >> 32, codes & 0xFFFFFFFF), axis=1)


def divide_instances(
    labels: NDArray[np.int32], counts: NDArray[np.int64], firsts: NDArray[np.int64], min_ratio: float
) -> NDArray[np.int32]:
    """Decide which fragments become instances, and number the instances.

    Instances are taken in ascending order of their labels, and the fragments of each in the order of their first
    voxels. An instance of one fragment, or without a large fragment, stays one instance. Otherwise each large fragment
    becomes an instance. A fragment is large when it has at least ``max(1, int(total * min_ratio))`` voxels.

    Parameters
    ----------
    labels : ndarray of int32, shape (F,)
        Instance of each fragment.
    counts, firsts : ndarray of int64, shape (F,)
        Voxels and first voxel (raster index) of each fragment.
    min_ratio : float
        Least share of a large fragment in its instance's voxels.

    Returns
    -------
    new_labels : ndarray of int32, shape (F,)
        Label of each fragment, from 1; 0 for a small one, whose voxels go to the nearest large one.

    Examples
    --------
    >>> divide_instances(np.array([2, 1, 2, 2], np.int32), np.array([50, 9, 49, 1]), np.array([7, 5, 3, 0]), 0.1)
    array([3, 1, 2, 0], dtype=int32)
    """
    order = np.lexsort((firsts, labels))
    _, instance = np.unique(labels[order], return_inverse=True)
    size = np.bincount(instance)
    total = add_up(instance, counts[order], len(size))
    # A ratio above 1 means the same as 1: no fragment among several is the whole. total * 1e300 would not fit int64.
    large = counts[order] >= np.maximum(1, (total * min(min_ratio, 1.0)).astype(np.int64))[instance]
    whole = (size == 1) | (add_up(instance, large, len(size)) == 0)
    begins = np.concatenate(([True], instance[1:] != instance[:-1])) if len(instance) else large
    opens = np.where(whole[instance], begins, large)
    check_label_count(int(np.count_nonzero(opens)))
    ids = np.cumsum(opens, dtype=np.int32)
    ids[~whole[instance] & ~large] = 0
    new_labels = np.empty(len(labels), np.int32)
    new_labels[order] = ids
    return new_labels
