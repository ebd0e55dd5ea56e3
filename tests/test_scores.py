import tracemalloc
import warnings
from unittest import mock

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from skimage import metrics

from topo_dask.scores import (
    ContingencyTable,
    SplitsAndMerges,
    adapted_rand_error,
    contingency,
    counting,
    matching_scores,
    measures,
    splits_and_merges,
    variation_of_information,
)


def naive_table(truth, labels):
    pairs = np.stack([truth.ravel().astype(np.int64), labels.ravel().astype(np.int64)])
    (a, b), counts = np.unique(pairs, axis=1, return_counts=True)
    return a.tolist(), b.tolist(), counts.tolist()


def as_lists(table):
    return table.truth.tolist(), table.labels.tolist(), table.counts.tolist()


def stored(array, chunks, shards=None):
    out = zarr.create_array({}, shape=array.shape, chunks=chunks, shards=shards, dtype=array.dtype)
    out[:] = array
    return out


class Named(da.Array):
    """A dask array of a class that is not Dask's, as packages on top of it define them."""


def of_own_class(array):
    return Named(array.dask, array.name, array.chunks, array.dtype)


@st.composite
def volume_pairs(draw):
    shape = draw(st.tuples(*[st.integers(1, 8)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pair = []
    for _ in range(2):
        n = draw(st.integers(1, 6))
        dtype = draw(st.sampled_from(["int32", "uint8", "int64", "uint64", "bool"]))
        ids = rng.integers(0, 2**62 if dtype[-2:] == "64" else 200, n)
        ids[0] = 0
        pair.append(rng.choice(ids, shape).astype(dtype).repeat(2, axis=2))
    return pair


KINDS = {
    "numpy": lambda a: a,
    "fortran": np.asfortranarray,
    "zarr": lambda a: stored(a, (3, 2, 5)),
    "sharded": lambda a: stored(a, (1, 2, 2), (2, 4, 4)),
    "dask": lambda a: da.from_array(a, chunks=(2, 3, 4)),
    "dask, of a class of its own": lambda a: of_own_class(da.from_array(a, chunks=(4, 1, 3))),
}


@settings(deadline=None, max_examples=60)
@given(
    volume_pairs(),
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(sorted(KINDS)),
    st.sampled_from([1, 64, 1 << 24]),
)
def test_every_mix_of_arrays_and_blocks_counts_the_same(pair, first, second, block_bytes):
    truth, labels = pair
    before = counting._BLOCK_BYTES
    counting._BLOCK_BYTES = block_bytes
    try:
        with dask.config.set(scheduler="synchronous"):
            table = contingency(KINDS[first](truth), KINDS[second](labels), threads=2)
    finally:
        counting._BLOCK_BYTES = before
    assert as_lists(table) == naive_table(truth, labels)
    assert table.counts.dtype == np.int64


def test_table_outgrows_its_first_size():
    rng = np.random.default_rng(0)
    truth, labels = rng.integers(0, 300, (2, 40, 40, 40))
    assert as_lists(contingency(truth, labels)) == naive_table(truth, labels)


@pytest.mark.parametrize("repeats", [1, 8])
def test_each_row_is_combined_a_few_times_however_many_blocks_there_are(repeats):
    truth = np.tile(np.arange(2000), repeats)
    blocks, threads = truth.size // 10, 2
    combined = []

    def combine(tables):
        combined.append(sum(map(len, tables)))
        return counting_combine(tables)

    counting_combine = counting._combine
    with mock.patch.multiple(counting, _BLOCK_BYTES=10 * truth.itemsize, _combine=combine):
        table = contingency(truth, truth + 1, threads=threads)
    assert as_lists(table) == naive_table(truth, truth + 1)
    assert sum(combined) <= 4 * truth.size
    assert len(combined) < blocks / (4 * threads)
    assert max(combined) <= 1.5 * 2000 + 4 * threads * 10  # held at once: half as much as is combined, and a batch


@pytest.mark.parametrize("other", [np.asarray, da.from_array])
def test_an_array_that_is_gone_or_damaged_is_an_error(tmp_path, other):
    truth = np.repeat(np.arange(1, 5), 16).reshape(4, 4, 4)
    opened = zarr.create_array(tmp_path / "truth", data=truth, chunks=(2, 4, 4))
    (tmp_path / "truth").rename(tmp_path / "moved")
    with pytest.raises(OSError, match=r"^truth .* is missing, and so are the array's metadata"):
        contingency(opened, other(truth))
    (tmp_path / "moved").rename(tmp_path / "truth")
    (tmp_path / "truth" / "c" / "0" / "0" / "0").write_bytes(b"damaged")
    with pytest.raises(OSError, match=r"^truth .*chunk c/0/0/0 is damaged"):
        contingency(opened, other(truth))


def test_boxes_cover_the_volume_once_in_whole_chunks():
    volume = stored(np.zeros((7, 9, 11), np.int32), (2, 4, 5))
    seen = np.zeros(volume.shape, int)
    for box in counting._boxes(volume, np.zeros(volume.shape, np.int32)):
        seen[box] += 1
        assert all(s.start % c == 0 for s, c in zip(box, volume.chunks, strict=True))
    assert (seen == 1).all()


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((1, 16, 16), (16, 1, 16), (1, 16, 16)),  # whole chunks of both would be the volume
        ((1, 16, 16), (16, 4, 4), (1, 16, 16)),
        ((2, 2, 2), (4, 4, 4), (4, 4, 16)),  # blocks of the first would decode each chunk of the second 4 times
        ((4, 4, 4), (2, 2, 2), (4, 4, 16)),
        ((8, 8, 8), (1, 1, 16), (8, 8, 8)),  # a chunk of more than a block is read once, not once a line
    ],
)
def test_blocks_are_of_one_arrays_chunks_that_which_has_least_decoded(first, second, expected):
    volumes = [stored(np.zeros((16, 16, 16), np.int32), chunks) for chunks in (first, second)]
    with mock.patch.object(counting, "_BLOCK_BYTES", 16 * 16 * 4):
        boxes = list(counting._boxes(*volumes))
    assert {tuple(s.stop - s.start for s in box) for box in boxes} == {expected}
    assert len(boxes) == 16**3 // np.prod(expected)


@pytest.mark.parametrize(("first", "second"), [("u1", "i8"), ("i8", "u1")])
def test_blocks_of_the_wider_volume_are_no_larger_than_what_a_thread_holds(first, second):
    truth, labels = np.zeros((16, 16, 16), first), np.zeros((16, 16, 16), second)
    with mock.patch.object(counting, "_BLOCK_BYTES", 16 * 16 * 8):
        boxes = list(counting._boxes(truth, labels))
    assert [truth[box].shape for box in boxes] == [(1, 16, 16)] * 16


@settings(deadline=None, max_examples=60)
@given(volume_pairs(), st.sampled_from([(0,), (), (0, 3)]))
def test_rand_and_information_agree_with_skimage(pair, ignore):
    truth, labels = (np.unique(a, return_inverse=True)[1].reshape(a.shape) for a in pair)
    assume(not np.isin(truth, ignore).all())  # skimage divides by zero
    ours = variation_of_information(truth, labels, ignore=ignore)
    theirs = metrics.variation_of_information(truth, labels, ignore_labels=ignore)
    np.testing.assert_allclose((ours.split, ours.merge), theirs, atol=1e-9)
    rand = adapted_rand_error(truth, labels, ignore=ignore)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # and by the number of pairs
        error, *shares = metrics.adapted_rand_error(truth, labels, ignore_labels=ignore)
    if np.isfinite([error, *shares]).all():
        assert rand.error == error
        assert sorted([rand.precision, rand.recall]) == sorted(shares)  # 0.26 has them in the other order


FIRST = 720_575_940_623_374_218
"""Ids of this size, as of FlyWire, are the same as their neighbours in float64."""


@pytest.mark.parametrize(
    ("ignore", "kept"),
    [
        ((0, np.uint64(FIRST)), [FIRST + 1, FIRST + 2]),
        (np.array([FIRST + 1], np.uint64), [FIRST, FIRST + 2]),
        ((FIRST, np.int8(-1), 2**63 + 1, 2**64), [FIRST + 1, FIRST + 2]),
        ((2**63, -(2**63) - 1), [FIRST, FIRST + 1, FIRST + 2]),
        ((), [FIRST, FIRST + 1, FIRST + 2]),
    ],
)
def test_large_ids_are_ignored_one_by_one(ignore, kept):
    truth = np.array([FIRST, FIRST + 1, FIRST + 2], np.uint64)
    assert contingency(truth, truth).without_truth(ignore).truth.tolist() == kept


@pytest.mark.parametrize("largest", [2**63 - 1, -(2**63)])
def test_ids_at_the_ends_of_the_range_are_ignored(largest):
    table = ContingencyTable(np.array([largest, 1]), np.array([1, 1]), np.array([1, 1]))
    assert table.without_truth([largest]).truth.tolist() == [1]


def test_ids_to_ignore_are_integers():
    with pytest.raises(TypeError, match="float"):
        adapted_rand_error(np.array([1, 2]), np.array([1, 2]), ignore=(0.5,))


def test_rand_precision_falls_with_merges_and_recall_with_splits():
    whole, halves = np.ones(8, int), np.repeat([1, 2], 4)
    split, merge = adapted_rand_error(whole, halves), adapted_rand_error(halves, whole)
    assert (split.precision, split.recall) == (1.0, 24 / 56)
    assert (merge.precision, merge.recall) == (24 / 56, 1.0)
    assert variation_of_information(whole, halves).total == variation_of_information(halves, whole).merge == 1.0


def test_rand_of_counts_whose_squares_overflow_int64():
    n = 2**40
    table = ContingencyTable(np.array([1, 2]), np.array([1, 1]), np.array([n, n]))
    rand = adapted_rand_error(table)
    assert rand.recall == 1.0
    assert rand.precision == pytest.approx(0.5)


def brute_force_match(iou, threshold):
    """Best (number, sum of IoU) over all assignments, by trying every one."""

    def best(row, taken):
        if row == iou.shape[0]:
            return 0, 0.0
        options = [best(row + 1, taken)]
        for col in range(iou.shape[1]):
            if col not in taken and iou[row, col] >= threshold:
                n, total = best(row + 1, taken | {col})
                options.append((n + 1, total + iou[row, col]))
        return max(options)

    return best(0, frozenset())


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.75, 1.0]))
def test_matching_is_the_best_of_all_assignments(seed, threshold):
    rng = np.random.default_rng(seed)
    truth, labels = rng.integers(0, rng.integers(2, 6, (2, 1)), (2, rng.integers(2, 16)))
    a, b = (np.setdiff1d(ids, [0]) for ids in (truth, labels))
    iou = np.array(
        [[((truth == i) & (labels == j)).sum() / ((truth == i) | (labels == j)).sum() for j in b] for i in a]
    )
    n, total = brute_force_match(iou.reshape(len(a), len(b)), threshold)
    (row,) = matching_scores(truth, labels, thresholds=(threshold,))
    assert (row.tp, row.fp, row.fn) == (n, len(b) - n, len(a) - n)
    assert row.mean_iou == pytest.approx(total / n if n else 0.0)


def dense_match(table, threshold):
    """Best (number, sum of IoU) by an assignment of all ids to all ids."""
    shape = table.truth.max() + 1, table.labels.max() + 1
    counts = np.zeros(shape, int)
    counts[table.truth, table.labels] = table.counts
    union = counts.sum(axis=1, keepdims=True) + counts.sum(axis=0) - counts
    iou = (counts / np.maximum(union, 1))[1:, 1:]
    allowed = iou >= threshold
    best = linear_sum_assignment(np.where(allowed, min(shape) + iou, 0), maximize=True)
    return np.count_nonzero(allowed[best]), iou[best][allowed[best]].sum()


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 4, 1000]), st.sampled_from([1, 4, 1024]))
def test_matching_is_that_of_a_dense_assignment(seed, most, candidates):
    rng = np.random.default_rng(seed)
    density = rng.choice([0.05, 0.2, 1.0])  # many groups, or one
    truth, labels = np.nonzero(rng.random(rng.integers(2, 30, 2)) < density)
    assume(truth.any() and labels.any())
    table = ContingencyTable(truth, labels, rng.integers(1, most, truth.size))  # few different counts: many ties
    thresholds = (0.01, 0.1, 0.3, 0.49)
    with mock.patch.object(measures, "_BATCH_CANDIDATES", candidates):
        rows = matching_scores(table, thresholds=thresholds)
    for row, threshold in zip(rows, thresholds, strict=True):
        n, total = dense_match(table, threshold)
        assert row.tp == n
        assert row.mean_iou * n == pytest.approx(total)


def test_memory_of_matching_follows_the_candidates_where_all_objects_are_connected():
    n = 3000
    truth = np.repeat(np.arange(1, n + 1), 2)
    table = contingency(truth[:-1], truth[1:])  # a chain: each label is half of one object and half of the next
    tracemalloc.start()
    try:
        (row,) = matching_scores(table, thresholds=(0.1,))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert row.tp == n
    assert peak < 1000 * table.counts.size


def test_matching_rows_by_hand():
    truth = np.repeat([1, 2, 3, 0], [10, 10, 10, 10])
    labels = np.repeat([7, 0, 8, 9, 5], [9, 1, 8, 12, 10])  # IoU 0.9, 8 / 10, 10 / 12; 5 is spurious
    half, most, nine = matching_scores(truth, labels)
    assert [row.threshold for row in (half, most, nine)] == [0.5, 0.75, 0.9]
    assert (half.tp, half.fp, half.fn, half.precision, half.recall) == (3, 1, 0, 0.75, 1.0)
    assert half.f1 == 6 / 7
    assert half.mean_iou == pytest.approx((0.9 + 0.8 + 10 / 12) / 3)
    assert half.panoptic_quality == half.f1 * half.mean_iou
    assert (most.tp, nine.tp, nine.mean_iou) == (3, 1, 0.9)


def test_thresholds_may_come_one_by_one():
    truth = np.arange(4)
    assert matching_scores(truth, truth, (t for t in (0.5, 0.9))) == matching_scores(truth, truth, (0.5, 0.9))


def test_below_a_half_the_best_assignment_counts():
    # 1 and 8 overlap most, IoU 60 / 140; with them neither 7 nor 2, each at exactly 0.4, would find a partner.
    truth, labels = np.repeat([1, 1, 2], [60, 40, 40]), np.repeat([8, 7, 8], [60, 40, 40])
    low, lower = matching_scores(truth, labels, thresholds=(0.41, 0.4))
    assert (low.tp, low.fp, low.fn) == (1, 1, 1)
    assert (lower.tp, lower.mean_iou) == (2, 0.4)


def test_a_share_of_exactly_the_least_counts():
    truth, labels = np.repeat([1, 1], [9, 1]), np.repeat([5, 6], [9, 1])
    assert splits_and_merges(truth, labels) == SplitsAndMerges(splits=1, merges=0, missed=0, spurious=0)
    assert splits_and_merges(truth, labels, least_share=0.11).splits == 0


def test_splits_and_merges_by_hand():
    truth = np.repeat([1, 2, 3, 4], [100, 100, 100, 100])
    labels = np.repeat([1, 2, 3, 4, 0], [50, 45, 5 + 100, 100, 100])  # 3 holds 5 % of object 1: a ragged border
    assert splits_and_merges(truth, labels) == SplitsAndMerges(splits=1, merges=0, missed=1, spurious=0)
    assert splits_and_merges(labels, truth) == SplitsAndMerges(splits=0, merges=1, missed=0, spurious=1)
    assert splits_and_merges(truth, labels, least_share=0.04).splits == 2


def test_all_scores_share_one_table_and_lazy_arrays_are_read_once():
    reads = []
    rng = np.random.default_rng(0)
    truth, labels = rng.integers(0, 5, (2, 6, 6, 6))

    def count(block):
        reads.append(block.shape)
        return block

    lazy = da.map_blocks(count, da.from_array(truth, chunks=3), dtype=truth.dtype, meta=truth[:0])
    table = contingency(lazy, labels)
    assert len(reads) == 8
    for score in (adapted_rand_error, variation_of_information, matching_scores, splits_and_merges):
        assert score(table) == score(truth, labels)


def test_perfect_and_empty_volumes():
    empty = np.zeros((3, 3), int)
    for truth in (empty, np.zeros((0, 3), int), np.arange(9).reshape(3, 3)):
        assert adapted_rand_error(truth, truth).error == 0.0
        assert variation_of_information(truth, truth).total == 0.0
        row = matching_scores(truth, truth)[0]
        assert (row.fp, row.fn, row.f1) == (0, 0, 1.0)
        assert splits_and_merges(truth, truth) == SplitsAndMerges(0, 0, 0, 0)


def never(block):
    raise AssertionError("read before the check")


A = np.zeros((2, 3), int)
LAZY = da.map_blocks(never, da.zeros((2, 4), dtype=int), dtype=int, meta=np.empty((0, 0), int))
UNSIZED = LAZY[LAZY > 0]
REFUSED = [
    (
        lambda: contingency(A, LAZY),
        ValueError,
        r"labels has shape \(2, 4\); expected that of truth, \(2, 3\)",
    ),
    (lambda: contingency(UNSIZED, UNSIZED), ValueError, r"truth has chunks of unknown size; .*compute_chunk_sizes\(\)"),
    (lambda: contingency(A, UNSIZED), ValueError, "labels has chunks of unknown size"),
    (lambda: contingency(A, [[1]]), TypeError, "labels is a list"),
    (lambda: contingency(A.astype(float), A), TypeError, "truth has dtype float64"),
    (lambda: contingency(A, np.ma.masked_equal(A, 0)), TypeError, "labels has masked values"),
    (lambda: contingency(A, A, threads=0), ValueError, "threads must be at least 1, got 0"),
    (lambda: contingency(A, A, threads=1.5), TypeError, "threads must be an integer, got 1.5"),
    (lambda: contingency(A, A, threads="2"), TypeError, "threads must be an integer, got '2'"),
    (lambda: contingency(A, np.full((2, 3), 2**63, np.uint64)), OverflowError, "9223372036854775808"),
    (lambda: adapted_rand_error(A), TypeError, "labels is missing"),
    (lambda: adapted_rand_error(contingency(A, A), A), TypeError, "no labels beside"),
    (lambda: matching_scores(A, A, [0.5, 0.0]), ValueError, "holds 0.0"),
    (lambda: matching_scores(A, A, [1.1]), ValueError, "holds 1.1"),
    (lambda: matching_scores(A, A, 0.5), TypeError, r"thresholds is 0.5; .* such as \(0.5,\)"),
    (lambda: matching_scores(A, A, ["0.5"]), TypeError, "each of thresholds must be a number, got '0.5'"),
    (lambda: splits_and_merges(A, A, least_share=0), ValueError, "least_share is 0"),
    (lambda: splits_and_merges(A, A, least_share=None), TypeError, "least_share must be a number, got None"),
    (lambda: adapted_rand_error(A, A, ignore=0), TypeError, r"ignore is 0; expected a sequence of integers"),
    (lambda: adapted_rand_error(A, A, ignore=["0"]), TypeError, "ignore holds '0', a str; expected integers"),
    (lambda: ContingencyTable(A[0], A[0], A[0, :2]), ValueError, "expected three equal ones"),
]


def unlike(cut):
    """A lazy array of shape (2, 4) whose chunks are not what it declares."""
    return da.map_blocks(cut, da.ones((2, 4), chunks=2, dtype=int), dtype=int)


@pytest.mark.parametrize("other", [np.ones((2, 4), int), da.ones((2, 4), chunks=(1, 3), dtype=int)], ids=type)
@pytest.mark.parametrize(
    ("cut", "error", "message"),
    [
        (lambda block: block[:, :1], ValueError, r"must have the shape that it declares, \(2, 2\), got \(2, 1\)"),
        (lambda block: block + 0.5, TypeError, "must hold what it declares, int64, got float64"),
        (lambda block: np.ma.masked_array(block, True), TypeError, "has masked values"),
    ],
)
def test_chunks_that_are_not_what_they_declare_are_refused(other, cut, error, message):
    odd = unlike(cut)
    with dask.config.set(scheduler="synchronous"):
        for name, pair in (("truth", (odd, other)), ("labels", (other, odd))):
            with pytest.raises(error, match=f"{name}.* {message}"):
                contingency(*pair)


def test_blocks_of_different_shapes_are_not_counted():
    with pytest.raises(ValueError, match=r"shape \(1, 3\); expected that of truth, \(2, 3\)"):
        counting._count_block(A, A[:1])


def test_axes_in_another_order_are_refused_though_the_shapes_are_the_same():
    def named(*axes):
        return zarr.create_array({}, shape=(4, 4, 4), chunks=(2, 2, 2), dtype="i4", dimension_names=axes)

    with pytest.raises(
        ValueError, match=r"labels has axes \('x', 'y', 'z'\); expected those of truth, \('z', 'y', 'x'\)"
    ):
        contingency(named("z", "y", "x"), named("X", "Y", "Z"))
    for others in (
        named("x", "y", "z"),
        named("X", "Y", "Z"),
        named("d", "h", "w"),
        named(None, None, None),
        np.zeros((4, 4, 4), int),
    ):
        assert contingency(named("x", "y", "z"), others).counts.tolist() == [64]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
