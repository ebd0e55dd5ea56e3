"""Scores from a table of pairs of two label volumes: Rand error, information, matches, splits and mergers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..given import finite_number
from ..kernels.labels import add_up
from .counting import ContingencyTable, contingency

_BATCH_CANDIDATES = 1 << 10
"""Least number of candidate pairs that are assigned together, if there are that many."""


@dataclass(frozen=True)
class AdaptedRand:
    """Adapted Rand error and its parts, each 0 to 1."""

    error: float
    precision: float
    recall: float


@dataclass(frozen=True)
class VariationOfInformation:
    """Conditional entropies in bits: `split` = H(labels | truth), `merge` = H(truth | labels)."""

    split: float
    merge: float

    @property
    def total(self) -> float:
        """The variation of information, split + merge."""
        return self.split + self.merge


@dataclass(frozen=True)
class MatchingScore:
    """Objects matched at one threshold of intersection over union (IoU).

    `tp` is the number of matched pairs, `fp` that of labels without a match, `fn` that of true objects without a
    match. `mean_iou` is the mean IoU of the matched pairs, 0 when there are none.
    """

    threshold: float
    tp: int
    fp: int
    fn: int
    precision: float
    recall: float
    f1: float
    mean_iou: float

    @property
    def panoptic_quality(self) -> float:
        """F1 times the mean IoU of the matched pairs (Kirillov et al., CVPR 2019)."""
        return self.f1 * self.mean_iou


@dataclass(frozen=True)
class SplitsAndMerges:
    """Counts of mistakes.

    `splits` is the number of cuts too many through true objects, `merges` that of cuts missing in labels, `missed` that
    of true objects and `spurious` that of labels none of whose overlaps is large enough to count.
    """

    splits: int
    merges: int
    missed: int
    spurious: int


def adapted_rand_error(truth: Any, labels: Any = None, *, ignore: Sequence[int] = (0,)) -> AdaptedRand:
    """Adapted Rand error: one minus the F-score over the pairs of voxels that share an id.

    Parameters
    ----------
    truth, labels
        As for `contingency`; or a ContingencyTable in place of both.
    ignore : sequence of int, default (0,)
        Voxels with one of these true ids do not count. Label 0 is an id like any other.

    Returns
    -------
    AdaptedRand
        `precision` is the share of pairs of voxels with the same label that are together in the truth, too (it falls
        with merges). `recall` is the share of pairs of voxels together in the truth that have the same label (it falls
        with splits). `error` is 0 for a perfect result. A share of no pairs at all is 1.

    Raises
    ------
    TypeError, ValueError, OverflowError, OSError
        As for `contingency`; TypeError also when `labels` is missing, when there are labels beside a table, or when
        `ignore` holds a value that is not an integer.

    Notes
    -----
    Arganda-Carreras et al. 2015, doi:10.3389/fnana.2015.00142. `error` equals that of
    ``skimage.metrics.adapted_rand_error``; scikit-image 0.26 returns precision and recall in the opposite
    order to its documentation and to the names here.

    Examples
    --------
    >>> import numpy as np
    >>> from topo_dask.scores import adapted_rand_error
    >>> adapted_rand_error(np.array([1, 1, 1, 1]), np.array([1, 1, 2, 2]))
    AdaptedRand(error=0.5, precision=1.0, recall=0.3333333333333333)
    """
    table = _as_table(truth, labels).without_truth(ignore)
    together = _ordered_pairs(table.counts)
    in_truth = _ordered_pairs(_totals(table.truth, table.counts))
    in_labels = _ordered_pairs(_totals(table.labels, table.counts))
    return AdaptedRand(
        error=1.0 - _share(2 * together, in_truth + in_labels),
        precision=_share(together, in_labels),
        recall=_share(together, in_truth),
    )


def variation_of_information(truth: Any, labels: Any = None, *, ignore: Sequence[int] = (0,)) -> VariationOfInformation:
    """Variation of information, in bits, in its two parts.

    Parameters
    ----------
    truth, labels
        As for `contingency`; or a ContingencyTable in place of both.
    ignore : sequence of int, default (0,)
        Voxels with one of these true ids do not count. Label 0 is an id like any other.

    Returns
    -------
    VariationOfInformation
        `split` = H(labels | truth), `merge` = H(truth | labels); both 0 for a perfect result or no voxels.

    Raises
    ------
    TypeError, ValueError, OverflowError, OSError
        As for `contingency`; TypeError also when `labels` is missing, when there are labels beside a table, or when
        `ignore` holds a value that is not an integer.

    Notes
    -----
    Meilă 2007, doi:10.1016/j.jmva.2006.11.013. ``skimage.metrics.variation_of_information`` returns (split,
    merge) and ignores nothing by default.

    Examples
    --------
    >>> import numpy as np
    >>> from topo_dask.scores import variation_of_information
    >>> variation_of_information(np.array([1, 1, 1, 1]), np.array([1, 1, 2, 2]))
    VariationOfInformation(split=1.0, merge=0.0)
    """
    table = _as_table(truth, labels).without_truth(ignore)
    total = int(table.counts.sum())
    if total == 0:
        return VariationOfInformation(0.0, 0.0)
    weights = table.counts / total
    of_truth = _totals(table.truth, table.counts, spread=True)
    of_labels = _totals(table.labels, table.counts, spread=True)
    return VariationOfInformation(
        split=float(weights @ np.log2(of_truth / table.counts)),
        merge=float(weights @ np.log2(of_labels / table.counts)),
    )


def matching_scores(
    truth: Any, labels: Any = None, thresholds: Sequence[float] = (0.5, 0.75, 0.9)
) -> list[MatchingScore]:
    """Match true objects with labels by intersection over union (IoU) and count.

    Parameters
    ----------
    truth, labels
        As for `contingency`; or a ContingencyTable in place of both (then pass the thresholds by name). 0 is no
        object.
    thresholds : sequence of float, default (0.5, 0.75, 0.9)
        Least IoU of a match, above 0 and at most 1.

    Returns
    -------
    list of MatchingScore
        One row per threshold. A share of no objects at all is 1.

    Raises
    ------
    TypeError, ValueError, OverflowError, OSError
        As for `contingency`; TypeError also when `labels` is missing, when there are labels beside a table, or when
        `thresholds` is not a sequence of numbers; ValueError also when one is not above 0 and at most 1.

    Notes
    -----
    At thresholds above 0.5 an object has at most one partner. At exactly 0.5 it can have two, which then have no
    other partner: the one with the lower id is taken. At lower thresholds the largest number of matches is sought and,
    among equal numbers, the largest sum of IoU (an assignment problem for each connected group of candidates).
    Memory grows with the number of candidates; time can grow with the square of the objects in the largest group.

    Examples
    --------
    >>> import numpy as np
    >>> from topo_dask.scores import matching_scores
    >>> row, = matching_scores(np.array([1, 1, 2, 2]), np.array([4, 4, 4, 0]), thresholds=(0.5,))
    >>> row.tp, row.fp, row.fn, row.recall
    (1, 0, 1, 0.5)
    """
    if not isinstance(thresholds, Iterable):
        raise TypeError(f"thresholds is {thresholds!r}; expected a sequence of numbers, such as (0.5,)")
    least = [finite_number(threshold, "each of thresholds") for threshold in thresholds]
    for threshold in least:
        if not 0.0 < threshold <= 1.0:
            raise ValueError(f"thresholds holds {threshold}; expected values above 0 and at most 1")
    table = _as_table(truth, labels)
    n_truth = np.setdiff1d(table.truth, [0]).size
    n_labels = np.setdiff1d(table.labels, [0]).size
    of_truth = _totals(table.truth, table.counts, spread=True)
    of_labels = _totals(table.labels, table.counts, spread=True)
    iou = table.counts / (of_truth + of_labels - table.counts)
    both = (table.truth != 0) & (table.labels != 0)
    rows = []
    for threshold in least:
        candidates = np.flatnonzero(both & (iou >= threshold))
        match = _first_of_each if threshold >= 0.5 else _best_assignment
        matched = iou[candidates][match(table.truth[candidates], table.labels[candidates], iou[candidates])]
        rows.append(_matching_row(threshold, matched, n_truth, n_labels))
    return rows


def splits_and_merges(truth: Any, labels: Any = None, *, least_share: float = 0.1) -> SplitsAndMerges:
    """Count cuts through true objects and labels that join several.

    Parameters
    ----------
    truth, labels
        As for `contingency`; or a ContingencyTable in place of both. 0 is no object.
    least_share : float, default 0.1
        Least share of an object's voxels in an overlap that counts, above 0 and at most 1. Smaller overlaps are taken
        for ragged borders.

    Returns
    -------
    SplitsAndMerges
        `splits` = sum over true objects of (labels that hold at least `least_share` of it, less one),
        `merges` = sum over labels of (true objects that fill at least `least_share` of it, less one);
        `missed` and `spurious` are the numbers of true objects and of labels without such a partner. So a label over
        more than 1 / `least_share` objects of one size is no merge but spurious, and an object in so many pieces is no
        split but missed; the other scores tell of both.

    Raises
    ------
    TypeError, ValueError, OverflowError, OSError
        As for `contingency`; TypeError also when `labels` is missing, when there are labels beside a table, or when
        `least_share` is not a number; ValueError also when it is not above 0 and at most 1.

    Examples
    --------
    >>> import numpy as np
    >>> from topo_dask.scores import splits_and_merges
    >>> splits_and_merges(np.array([1, 1, 2, 3, 0]), np.array([1, 2, 3, 3, 4]))
    SplitsAndMerges(splits=1, merges=1, missed=0, spurious=1)
    >>> splits_and_merges(np.arange(1, 12), np.ones(11, int))  # eleven objects under one label
    SplitsAndMerges(splits=0, merges=0, missed=0, spurious=1)
    """
    least_share = finite_number(least_share, "least_share")
    if not 0.0 < least_share <= 1.0:
        raise ValueError(f"least_share is {least_share}; expected above 0 and at most 1")
    table = _as_table(truth, labels)
    both = (table.truth != 0) & (table.labels != 0)
    surplus, lonely = [], []
    for ids in (table.truth, table.labels):
        share = table.counts / _totals(ids, table.counts, spread=True)
        partners = np.unique(ids[both & (share >= least_share)], return_counts=True)[1]
        surplus.append(int((partners - 1).sum()))
        lonely.append(int(np.setdiff1d(ids, [0]).size - partners.size))
    return SplitsAndMerges(surplus[0], surplus[1], lonely[0], lonely[1])


def _as_table(truth: Any, labels: Any) -> ContingencyTable:
    if isinstance(truth, ContingencyTable):
        if labels is not None:
            raise TypeError("truth is a ContingencyTable; expected no labels beside it")
        return truth
    if labels is None:
        raise TypeError("labels is missing; expected it unless truth is a ContingencyTable")
    return contingency(truth, labels)


def _totals(ids: np.ndarray, counts: np.ndarray, spread: bool = False) -> np.ndarray:
    """Return the voxel counts of the distinct ids; with `spread`, for each id as given the count of it."""
    distinct, inverse = np.unique(ids, return_inverse=True)
    totals = add_up(inverse, counts, distinct.size)
    return totals[inverse] if spread else totals


def _ordered_pairs(sizes: np.ndarray) -> int:
    """Count the ordered pairs of distinct voxels within groups, as Python integers because int64 could overflow."""
    return sum(size * (size - 1) for size in sizes.tolist())


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def _first_of_each(truth: np.ndarray, labels: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Indices of the candidates that are the first with their true id and the first with their label."""
    first_truth = np.unique(truth, return_index=True)[1]
    first_label = np.unique(labels, return_index=True)[1]
    return np.intersect1d(first_truth, first_label)


def _best_assignment(truth: np.ndarray, labels: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Indices of the largest set of candidates that share no id, of the largest total IoU among such sets."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not truth.size:
        return np.empty(0, np.int64)
    row, col = (np.unique(ids, return_inverse=True)[1] for ids in (truth, labels))
    n_rows = int(row.max()) + 1
    size = n_rows + int(col.max()) + 1
    n_groups, group = connected_components(coo_array((iou, (row, col + n_rows)), shape=(size, size)), directed=False)
    most = np.minimum(*(np.bincount(part, minlength=n_groups) for part in (group[:n_rows], group[n_rows:])))
    # Small groups are solved together, large ones apart, as the time of a search grows with all columns it is given.
    batch = (np.cumsum(np.bincount(group[row])) // _BATCH_CANDIDATES)[group[row]]
    order = np.argsort(batch, kind="stable")
    chosen = []
    for members in np.split(order, np.flatnonzero(np.diff(batch[order])) + 1):
        taken = _assign(row[members], col[members], iou[members], most[group[row[members]]])
        chosen.append(members[taken])
    return np.sort(np.concatenate(chosen))


def _assign(row: np.ndarray, col: np.ndarray, iou: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Return which candidates the best assignment takes; `most` bounds the matches in the group of each candidate."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    rows, first, row = np.unique(row, return_index=True, return_inverse=True)
    cols, col = np.unique(col, return_inverse=True)
    # Each row gets a column of its own, so that all rows can be assigned. It costs so much that one more match
    # outweighs any sum of IoU.
    own = np.arange(rows.size)
    costs = np.concatenate([2.0 - iou, 2.0 + most[first]])
    places = np.concatenate([row, own]), np.concatenate([col, cols.size + own])
    graph = coo_array((costs, places), shape=(rows.size, cols.size + rows.size)).tocsr()
    partner = min_weight_full_bipartite_matching(graph)[1]
    taken: np.ndarray = partner[row] == col
    return taken


def _matching_row(threshold: float, matched: np.ndarray, n_truth: int, n_labels: int) -> MatchingScore:
    tp = int(matched.size)
    return MatchingScore(
        threshold=float(threshold),
        tp=tp,
        fp=n_labels - tp,
        fn=n_truth - tp,
        precision=_share(tp, n_labels),
        recall=_share(tp, n_truth),
        f1=_share(2 * tp, n_truth + n_labels),
        mean_iou=float(matched.mean()) if tp else 0.0,
    )
