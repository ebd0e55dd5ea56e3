"""Union-find, and the single linkage of sinks whose centres are closer than a radius.

The root of a set is always its lowest member. So sets numbered by their roots are numbered by their lowest members,
whatever the order of the unions.
"""

import numpy as np
from numpy.typing import NDArray

from .compiled import kernel, part


@part
def find_root(parents, i):  # type: ignore[no-untyped-def]
    """Root of `i`; halves the path to it."""
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


@part
def join_sets(parents, i, j):  # type: ignore[no-untyped-def]
    """Unite the sets of `i` and `j` under the lower root."""
    a, b = find_root(parents, i), find_root(parents, j)
    if a < b:
        parents[b] = a
    elif b < a:
        parents[a] = b


@part
def flatten_roots(parents):  # type: ignore[no-untyped-def]
    """Point every member straight at its root, in place."""
    for i in range(len(parents)):
        parents[i] = parents[parents[i]]


@kernel
def _connect(pairs, parents):  # type: ignore[no-untyped-def]
    for i in range(len(pairs)):
        join_sets(parents, pairs[i, 0], pairs[i, 1])
    flatten_roots(parents)


def connected(pairs: NDArray[np.int64], n_nodes: int) -> NDArray[np.int64]:
    """Connected components of a graph.

    Parameters
    ----------
    pairs : ndarray of int64, shape (M, 2)
        Linked nodes.
    n_nodes : int
        Number of nodes.

    Returns
    -------
    roots : ndarray of int64, shape (n_nodes,)
        Lowest node of each node's component.

    Examples
    --------
    >>> connected(np.array([[3, 1], [3, 4]]), 5)
    array([0, 1, 2, 1, 1])
    """
    parents = np.arange(n_nodes, dtype=np.int64)
    _connect(np.ascontiguousarray(pairs), parents)
    return parents


@kernel
def _hash(centres, scale, height, width, keys):  # type: ignore[no-untyped-def]
    for i in range(len(centres)):
        z, y, x = centres[i, 0] * scale, centres[i, 1] * scale, centres[i, 2] * scale
        keys[i] = ((np.int64(z) + 1) * height + np.int64(y) + 1) * width + np.int64(x) + 1


@kernel
def _link(keys, order, centres, row_offsets, radius, pointers, parents):  # type: ignore[no-untyped-def]
    # Sinks are sorted by the number of their hash cell. Three neighbour cells in a row are one run in that order. The
    # begin of the run only moves forward from sink to sink, so one pointer for each row finds all neighbours.
    n = len(order)
    limit = radius * radius
    for i in range(n):
        a = order[i]
        for row in range(len(row_offsets)):
            first = keys[i] + row_offsets[row] - 1
            j = pointers[row]
            while j < n and keys[j] < first:
                j += 1
            pointers[row] = j
            j = j if j > i else i + 1
            while j < n and keys[j] <= first + 2:
                b = order[j]
                dz = centres[a, 0] - centres[b, 0]
                dy = centres[a, 1] - centres[b, 1]
                dx = centres[a, 2] - centres[b, 2]
                if (dz * dz + dy * dy) + dx * dx < limit:
                    join_sets(parents, a, b)
                j += 1
    flatten_roots(parents)


def link_sinks(centres: NDArray[np.float64], radius: float) -> NDArray[np.int64]:
    """Single linkage of sinks: two are linked when their centres are strictly closer than `radius`.

    A hash of cells of edge `radius` gives the neighbours of each sink. So the time is linear in the number of sinks,
    as long as a cell holds few of them.

    Parameters
    ----------
    centres : ndarray of float64, shape (S, 3)
        Centres in voxels, in the canonical order of the sinks.
    radius : float
        Radius in voxels, above 0.

    Returns
    -------
    roots : ndarray of int64, shape (S,)
        Lowest sink of each sink's instance.

    Examples
    --------
    >>> link_sinks(np.array([[0.0, 0, 0], [0, 0, 3], [0, 0, 5], [9, 9, 9]]), 3.0)
    array([0, 1, 1, 3])
    """
    parents = np.arange(len(centres), dtype=np.int64)
    if len(centres) < 2:
        return parents
    # One cell of margin on both sides keeps the neighbours of a border cell out of the next row. An edge below one
    # voxel would only make more cells with fewer sinks. The edge is a little longer than the radius because products
    # with `scale` are rounded.
    edge = max(radius, 1.0) * (1.0 + 2.0**-20)
    scale = 1.0 / edge
    # A centre may lie below 0: the numbers of rows and planes must still be positive.
    height, width = (int(max(centres[:, k].max(), 0.0) * scale) + 3 for k in (1, 2))
    keys = np.empty(len(centres), np.int64)
    _hash(centres, scale, height, width, keys)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    rows = [dz * height + dy for dz, dy in ((0, 0), (0, 1), (1, -1), (1, 0), (1, 1))]
    offsets = np.array(rows, np.int64) * width
    _link(keys, order, centres, offsets, float(radius), np.zeros_like(offsets), parents)
    return parents
