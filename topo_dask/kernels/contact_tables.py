"""Contact tables: which nodes touch, and how well the flow agrees there, as sums that add up in any order.

A **contact table** is three arrays: `pairs`, int64 [C, 2], the two nodes of a contact, the lower first, rows
unique and in lexicographic order; `sums`, int64 [C], the fixed-point sum of the scores of its faces; `faces`,
int64 [C], their number. The score of a contact is the mean ``sums * 2**-24 / faces`` in float64.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .fixed_point import EXACT, SCALE, check_exact, check_sums

Table = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""`pairs` [C, 2], `sums` [C] and `faces` [C] of a contact table."""

_MAX_CONTACTS = 1 << 30


def combine_contacts(tables: Sequence[Table]) -> Table:
    """Add up the contact tables of several blocks.

    Parameters
    ----------
    tables : sequence of (pairs, sums, faces)
        Contact tables over the same ids, in any order; ids are any int64 >= 0.

    Returns
    -------
    pairs, sums, faces
        Contact table in canonical order.

    Raises
    ------
    OverflowError
        When a sum exceeds 2**62, or a number of faces 2**53. Sums of a part of the volume need not be exact floats.

    Examples
    --------
    >>> import numpy as np
    >>> left = np.array([[4, 7]]), np.array([10]), np.array([1])
    >>> right = np.array([[2, 4], [4, 7]]), np.array([5, -3]), np.array([2, 2])
    >>> combine_contacts([left, right])
    (array([[2, 4],
           [4, 7]]), array([5, 7]), array([2, 3]))
    """
    if not tables:
        return np.empty((0, 2), np.int64), np.empty(0, np.int64), np.empty(0, np.int64)
    pairs, sums, faces = (np.concatenate(column) for column in zip(*tables, strict=True))
    return _add_parallel(pairs, sums, faces)


def contract(
    pairs: NDArray[np.int64], sums: NDArray[np.int64], faces: NDArray[np.int64], roots: NDArray[np.int64]
) -> Table:
    """Contact table of groups: nodes become their roots, contacts inside a group are left out, parallel ones add up.

    Parameters
    ----------
    pairs, sums, faces
        Contact table, as in `agglomerate_contacts`.
    roots : ndarray of int64, shape (n_nodes,)
        Group of every node.

    Returns
    -------
    pairs, sums, faces
        Contact table in canonical order, over the values of `roots`.

    Raises
    ------
    OverflowError
        When a sum exceeds 2**62, or a number of faces 2**53. Sums of a part of the volume need not be exact floats.

    Examples
    --------
    >>> import numpy as np
    >>> pairs, sums, faces = np.array([[0, 1], [0, 2], [1, 2]]), np.array([3, -4, 2]), np.array([1, 1, 5])
    >>> contract(pairs, sums, faces, roots=np.array([0, 0, 2]))
    (array([[0, 2]]), array([-2]), array([6]))
    """
    ends = roots[pairs]
    apart = ends[:, 0] != ends[:, 1]
    return _add_parallel(np.sort(ends[apart], axis=1), sums[apart], faces[apart])


def number_nodes(table: Table) -> tuple[NDArray[np.int64], Table]:
    """Ids of a contact table in ascending order, and the table with each id replaced by its place in that order.

    Parameters
    ----------
    table : (pairs, sums, faces)
        Contact table over any ids.

    Returns
    -------
    nodes : ndarray of int64, shape (n,)
    table : (pairs, sums, faces)
        Contact table over nodes 0 to n - 1, in the same order.

    Examples
    --------
    >>> import numpy as np
    >>> nodes, (pairs, sums, faces) = number_nodes((np.array([[4, 70]]), np.array([10]), np.array([1])))
    >>> nodes, pairs
    (array([ 4, 70]), array([[0, 1]]))
    """
    pairs, sums, faces = table
    nodes, places = np.unique(pairs, return_inverse=True)
    return nodes, (places.reshape(-1, 2), sums, faces)


def drop_decided(
    pairs: NDArray[np.int64],
    sums: NDArray[np.int64],
    faces: NDArray[np.int64],
    reaching: NDArray[np.bool_],
    threshold: float,
) -> Table:
    """Leave out the contacts of nodes that will not be united with any other node.

    Scores never rise. So a node stays alone when all its contacts are known and none is above the threshold. No other
    node needs these contacts.

    Parameters
    ----------
    pairs, sums, faces
        Contact table over nodes 0 to n - 1.
    reaching : ndarray of bool, shape (n,)
        Nodes that may have contacts elsewhere.
    threshold : float
        Mean score above which groups are united.

    Returns
    -------
    pairs, sums, faces
        The rows in which each of the two nodes is reaching or has a contact above the threshold.

    Examples
    --------
    >>> import numpy as np
    >>> pairs, sums = np.array([[0, 1], [1, 2], [2, 3]]), np.array([-1, -1, 1]) << 24
    >>> reaching = np.array([True, False, False, False])
    >>> drop_decided(pairs, sums, np.array([1, 1, 1]), reaching, 0.0)[0]
    array([[2, 3]])
    """
    alive = reaching.copy()
    alive[pairs[scores_of(sums, faces) > threshold]] = True
    kept = alive[pairs].all(axis=1)
    return pairs[kept], sums[kept], faces[kept]


def scores_of(sums: NDArray[np.int64], faces: NDArray[np.int64]) -> NDArray[np.float64]:
    """Score of each contact: the mean over its faces."""
    scores = np.multiply(sums, 1.0 / SCALE, dtype=np.float64)
    return np.divide(scores, faces, out=scores)


def check_contacts(pairs: NDArray[np.int64], sums: NDArray[np.int64], faces: NDArray[np.int64], n_nodes: int) -> None:
    """Refuse arrays that are not a contact table over nodes 0 to n_nodes - 1; `check_scores` checks the sums.

    Raises
    ------
    ValueError
        When the arrays are not as the module describes.
    """
    if not 0 <= n_nodes < 1 << 31:
        raise ValueError(f"n_nodes is {n_nodes}: expected 0 to 2**31 - 1")
    rows = len(pairs)
    if rows > _MAX_CONTACTS:
        raise ValueError(f"pairs has {rows} rows: expected at most 2**30; agglomerate smaller regions first")
    columns = ("pairs", pairs, (rows, 2)), ("sums", sums, (rows,)), ("faces", faces, (rows,))
    for name, array, shape in columns:
        if array.dtype != np.int64 or array.shape != shape:
            raise ValueError(f"{name} is {array.dtype} {array.shape}: expected int64 {shape}")
    if rows and not 1 <= faces.min() <= faces.max() <= int(EXACT):
        raise ValueError(f"faces runs from {faces.min()} to {faces.max()}: expected 1 to 2**53")
    row = _first_bad_row(pairs, n_nodes)
    if row >= 0:
        raise ValueError(
            f"pairs[{row}] is {pairs[row].tolist()}: expected 0 <= low < high < n_nodes = {n_nodes}, "
            "rows unique and in lexicographic order"
        )


def check_scores(pairs: NDArray[np.int64], sums: NDArray[np.int64], frozen: NDArray[np.bool_]) -> None:
    """Raise OverflowError when a sum that is complete exceeds 2**53.

    A sum between two frozen nodes may be incomplete: there may be faces elsewhere whose scores have the other sign. It
    is not checked, so that an error does not depend on how the volume was cut.
    """
    if sums.size and max(int(sums.max()), -int(sums.min())) > EXACT:
        check_exact(sums[~frozen[pairs].all(axis=1)], "contact scores")


def _add_parallel(pairs: NDArray[np.int64], sums: NDArray[np.int64], faces: NDArray[np.int64]) -> Table:
    if not len(pairs):
        return pairs, sums, faces
    span = int(pairs.max()) + 1
    # One sort of packed pairs takes a third of the time of a lexsort.
    low, high = pairs[:, 0], pairs[:, 1]
    order = np.argsort(low * span + high) if span < 1 << 31 else np.lexsort((high, low))
    pairs = pairs[order]
    starts = np.flatnonzero(np.r_[True, (pairs[1:] != pairs[:-1]).any(axis=1)])
    return pairs[starts], _add_sums(sums[order], starts), _add_faces(faces[order], starts)


def _add_sums(sums: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    totals: NDArray[np.int64] = np.add.reduceat(sums, starts)
    # A total that wrapped around may look small; the same sum in floats, of halves, does not.
    for values in (totals, np.add.reduceat(sums * 0.5, starts)):
        check_sums(values, "contact scores", "flow vectors are expected to be about one voxel long")
    return totals


def _add_faces(faces: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    totals: NDArray[np.int64] = np.add.reduceat(faces, starts)
    check_exact(totals, "faces")
    check_exact(np.add.reduceat(faces * 0.5, starts), "faces")
    return totals


def _first_bad_row(pairs: NDArray[np.int64], n_nodes: int) -> int:
    low, high = pairs[:, 0], pairs[:, 1]
    good = (low >= 0) & (low < high) & (high < n_nodes)
    good[1:] &= (low[1:] > low[:-1]) | ((low[1:] == low[:-1]) & (high[1:] > high[:-1]))
    return -1 if good.all() else int(np.argmin(good))
