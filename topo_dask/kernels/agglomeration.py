"""Average-linkage agglomeration of a contact table, in one piece or region by region with the same result.

A **contact table** is three arrays: `pairs`, int64 [C, 2], the two nodes of a contact, the lower first, rows
unique and in lexicographic order; `sums`, int64 [C], the fixed-point sum of the scores of its faces; `faces`,
int64 [C], their number. The score of a contact is the mean ``sums * 2**-24 / faces`` in float64.

Two facts carry this module.

*Scores never rise.* The mean of two contacts put together lies between their means, and correct rounding
keeps that order, so a contact of a united group scores at most the better of the contacts it was made of
(reducibility). Hence a score a contact once had stays an upper bound: the queue needs no update at a union.

*A plateau is settled by itself.* Take a set K of nodes connected by contacts that score exactly s, such that
every other contact of K is known and scores less than s. Whatever is united outside K, the contacts that
leave K stay below s; the unions inside K come first for its nodes and depend on nothing outside, nor does
anything outside that comes before them depend on K. So K may be settled at once, whatever scores higher
elsewhere. Without ties K is one pair, each other's strictly best: reciprocal nearest neighbours (Murtagh
1983). With ties, reciprocal pairs alone would not do: the id of a group falls when it is united, and that can
turn a tie elsewhere. Inside K the group of lowest id takes its neighbour of lowest id until none at s is
left, then the next group does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .compiled import kernel
from .fixed_point import EXACT, SCALE, check_exact

Table = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""`pairs` [C, 2], `sums` [C] and `faces` [C] of a contact table."""

_UNIT = 1.0 / SCALE
_EXACT = int(EXACT)
_MAX_CONTACTS = 1 << 30
_EDGE_BITS = 0xFFFFFFFF
# An edge is one contact of the current groups; faces == 0 marks one that is gone. `bound` is the score under
# which the edge waits in the queue. 32 bytes: half a cache line, so that one miss fetches all of it.
_EDGE = np.dtype([("total", "i8"), ("faces", "i8"), ("bound", "f8"), ("a", "i4"), ("b", "i4")])


class _Graph(NamedTuple):
    """Current groups and their contacts. A group is known by one of its nodes, its root in `parent`."""

    edges: NDArray[np.void]  # [C] of _EDGE
    following: NDArray[np.int32]  # [2 C] linked lists of half-edges: 2 e is edge e at its end a, 2 e + 1 at b
    slots: NDArray[np.int64]  # open-addressing table pair of roots -> edge: tag << 32 | edge, -1 free
    shift: int  # slot >> shift is the position where the search for it starts
    first: NDArray[np.int32]  # [n_nodes] first half-edge of a root's list, -1 none
    length: NDArray[np.int32]  # [n_nodes] half-edges in the list, those of vanished edges included
    parent: NDArray[np.int32]  # [n_nodes] union-find
    lowest: NDArray[np.int32]  # [n_nodes] of a root: the group's id


class _Queue(NamedTuple):
    """Edges above the threshold by upper bound: the first scores in a sorted list, later ones in a heap."""

    order: NDArray[np.int32]  # [m] edges, best first
    bounds: NDArray[np.float64]  # [m] heap
    members: NDArray[np.int32]  # [m] edge of each heap entry
    state: NDArray[np.int64]  # [2] place in `order`, size of the heap


def agglomerate_contacts(
    pairs: NDArray[np.int64],
    sums: NDArray[np.int64],
    faces: NDArray[np.int64],
    n_nodes: int,
    threshold: float,
) -> NDArray[np.int64]:
    """Unite the pair of groups with the highest mean score until no mean is strictly above the threshold.

    Of equal means the pair whose (lower id, higher id) comes first in lexicographic order goes first; the id
    of a group is its lowest node. Sums and face counts of contacts that become parallel add up.

    Parameters
    ----------
    pairs : ndarray of int64, shape (C, 2)
        Nodes in contact, ``0 <= low < high < n_nodes``, rows unique and in lexicographic order. At most 2**30
        rows.
    sums : ndarray of int64, shape (C,)
        Sum of the scores of the faces in units of 2**-24, of magnitude at most 2**53.
    faces : ndarray of int64, shape (C,)
        Number of faces, 1 to 2**53.
    n_nodes : int
        Number of nodes, at most 2**31 - 1.
    threshold : float
        Mean score of a face, in score units; inf unites nothing, -inf unites whatever touches.

    Returns
    -------
    ndarray of int64, shape (n_nodes,)
        For every node the lowest node of its group.

    Raises
    ------
    ValueError
        When the table is not as described or the threshold is NaN.
    OverflowError
        When a sum leaves the range of exact float64, given or united.

    Notes
    -----
    Average linkage on a signed graph: GASP (Bailoni et al., CVPR 2022), with a fixed order of ties. Time is
    O(C log^2 C). Memory besides the table: 32 bytes a contact for edges, 8 for lists, 12 to 24 for the hash
    table, 4 for the order, at most 12 for the heap; 25 bytes a node.

    Examples
    --------
    >>> import numpy as np
    >>> pairs = np.array([[0, 1], [0, 2], [1, 2]])
    >>> sums = np.array([3, -4, 2]) << 24
    >>> agglomerate_contacts(pairs, sums, np.array([1, 1, 1]), 3, threshold=0.0)
    array([0, 0, 2])
    """
    _check_table(pairs, sums, faces, n_nodes)
    return _agglomerate(pairs, sums, faces, np.zeros(n_nodes, np.bool_), threshold)


def agglomerate_inside(
    pairs: NDArray[np.int64],
    sums: NDArray[np.int64],
    faces: NDArray[np.int64],
    n_nodes: int,
    frozen: NDArray[np.bool_],
    threshold: float,
) -> NDArray[np.int64]:
    """Unite what `agglomerate_contacts` on the whole table is certain to unite, given a region's part of it.

    A pair is united when it is strictly the best of both ends. Pairs of equal score that share nodes are
    settled in the canonical order when no node of that plateau is frozen or left, else all its nodes are left
    for the level above. So is every group whose best partner is frozen or left. Contracting the table by the
    result and going on, in regions of any shape and in any number of levels, ends in the groups of
    `agglomerate_contacts`, ties included (cf. the chunk-exact agglomeration of Lu et al., arXiv 2106.10795).

    Parameters
    ----------
    pairs, sums, faces, n_nodes, threshold
        As in `agglomerate_contacts`. Nodes are numbered in the order of the ids they have in the whole table;
        a node that is a group already, by its lowest id.
    frozen : ndarray of bool, shape (n_nodes,)
        True for nodes with any contact, or any face of one, outside this table. The contacts of all other
        nodes must be complete here, those with frozen nodes included.

    Returns
    -------
    ndarray of int64, shape (n_nodes,)
        For every node the lowest node of its group; a frozen node is alone.

    Raises
    ------
    ValueError, OverflowError
        As `agglomerate_contacts`.

    Examples
    --------
    >>> import numpy as np
    >>> pairs = np.array([[0, 1], [1, 2], [2, 3]])
    >>> sums = np.array([3, 1, 2]) << 24
    >>> frozen = np.array([False, False, False, True])
    >>> agglomerate_inside(pairs, sums, np.array([1, 1, 1]), 4, frozen, threshold=0.0)
    array([0, 0, 2, 3])
    """
    _check_table(pairs, sums, faces, n_nodes)
    if frozen.shape != (n_nodes,) or frozen.dtype != np.bool_:
        raise ValueError(f"frozen is {frozen.dtype} {frozen.shape}: expected bool ({n_nodes},)")
    return _agglomerate(pairs, sums, faces, frozen.copy(), threshold)


def contract(
    pairs: NDArray[np.int64], sums: NDArray[np.int64], faces: NDArray[np.int64], roots: NDArray[np.int64]
) -> Table:
    """Contact table of groups: nodes become their roots, contacts inside a group go, parallel ones add up.

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
        When a sum or a number of faces exceeds 2**53.

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
        When a sum or a number of faces exceeds 2**53.

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


def _agglomerate(
    pairs: NDArray[np.int64],
    sums: NDArray[np.int64],
    faces: NDArray[np.int64],
    left: NDArray[np.bool_],
    threshold: float,
) -> NDArray[np.int64]:
    if np.isnan(threshold):
        raise ValueError(f"threshold is {threshold}: expected a number")
    queue = _make_queue(sums, faces, threshold)
    graph = _make_graph(pairs, sums, faces, len(left))
    if not _run(graph, queue, left, float(threshold)):
        raise OverflowError("contact score: the sum or face count of a united contact exceeds 2**53")
    return np.asarray(_resolve(graph), dtype=np.int64)


def _add_parallel(pairs: NDArray[np.int64], sums: NDArray[np.int64], faces: NDArray[np.int64]) -> Table:
    if not len(pairs):
        return pairs, sums, faces
    span = int(pairs.max()) + 1
    # One sort of packed pairs takes a third of the time of a lexsort.
    low, high = pairs[:, 0], pairs[:, 1]
    order = np.argsort(low * span + high) if span < 1 << 31 else np.lexsort((high, low))
    pairs = pairs[order]
    starts = np.flatnonzero(np.r_[True, (pairs[1:] != pairs[:-1]).any(axis=1)])
    return pairs[starts], _add_runs(sums[order], starts, "sums"), _add_runs(faces[order], starts, "faces")


def _add_runs(values: NDArray[np.int64], starts: NDArray[np.int64], what: str) -> NDArray[np.int64]:
    totals = np.add.reduceat(values, starts)
    check_exact(totals, what)
    # A total that wrapped around may look small; its float shadow does not.
    check_exact(np.add.reduceat(values * 0.5, starts), what)
    return np.asarray(totals, dtype=np.int64)


def _check_table(pairs: NDArray[np.int64], sums: NDArray[np.int64], faces: NDArray[np.int64], n_nodes: int) -> None:
    if not 0 <= n_nodes < 1 << 31:
        raise ValueError(f"n_nodes is {n_nodes}: expected 0 to 2**31 - 1")
    rows = len(pairs)
    if rows > _MAX_CONTACTS:
        raise ValueError(f"pairs has {rows} rows: expected at most 2**30; agglomerate smaller regions first")
    columns = ("pairs", pairs, (rows, 2)), ("sums", sums, (rows,)), ("faces", faces, (rows,))
    for name, array, shape in columns:
        if array.dtype != np.int64 or array.shape != shape:
            raise ValueError(f"{name} is {array.dtype} {array.shape}: expected int64 {shape}")
    check_exact(sums, "sums")
    if rows and not 1 <= faces.min() <= faces.max() <= _EXACT:
        raise ValueError(f"faces runs from {faces.min()} to {faces.max()}: expected 1 to 2**53")
    row = _first_bad_row(pairs, n_nodes)
    if row >= 0:
        raise ValueError(
            f"pairs[{row}] is {pairs[row].tolist()}: expected 0 <= low < high < n_nodes = {n_nodes}, "
            "rows unique and in lexicographic order"
        )


def _make_queue(sums: NDArray[np.int64], faces: NDArray[np.int64], threshold: float) -> _Queue:
    scores = sums * _UNIT
    scores /= faces
    above = np.flatnonzero(scores > threshold).astype(np.int32)
    order = above[np.argsort(-scores[above])]
    # Every edge waits in one place, so the heap never holds more than began in the list.
    heap = np.empty(len(order), np.float64), np.empty(len(order), np.int32)
    return _Queue(order, *heap, np.zeros(2, np.int64))


def _make_graph(pairs: NDArray[np.int64], sums: NDArray[np.int64], faces: NDArray[np.int64], n_nodes: int) -> _Graph:
    bits = max(3, (len(pairs) * 3 // 2).bit_length())
    graph = _Graph(
        edges=np.empty(len(pairs), _EDGE),
        following=np.empty(2 * len(pairs), np.int32),
        slots=np.full(1 << bits, -1, np.int64),
        shift=63 - bits,
        first=np.full(n_nodes, -1, np.int32),
        length=np.zeros(n_nodes, np.int32),
        parent=np.arange(n_nodes, dtype=np.int32),
        lowest=np.arange(n_nodes, dtype=np.int32),
    )
    _fill_graph(graph, pairs, sums, faces)
    return graph


@kernel
def _first_bad_row(pairs: NDArray[np.int64], n_nodes: int) -> int:
    last_low, last_high = -1, -1
    for row in range(len(pairs)):
        low, high = pairs[row, 0], pairs[row, 1]
        ascending = low > last_low or (low == last_low and high > last_high)
        if not (ascending and 0 <= low < high < n_nodes):
            return row
        last_low, last_high = low, high
    return -1


@kernel
def _fill_graph(graph: _Graph, pairs: NDArray[np.int64], sums: NDArray[np.int64], faces: NDArray[np.int64]) -> None:
    for edge in range(len(pairs)):
        a, b = pairs[edge, 0], pairs[edge, 1]
        record = graph.edges[edge]
        record.total, record.faces = sums[edge], faces[edge]
        record.a, record.b = a, b
        record.bound = _score(graph, edge)
        for half, end in ((2 * edge, a), (2 * edge + 1, b)):
            graph.following[half] = graph.first[end]
            graph.first[end] = half
            graph.length[end] += 1
        tag = _tag(a, b)
        graph.slots[_locate(graph, tag, a, b)] = tag << 32 | edge


@kernel
def _score(graph: _Graph, edge: int) -> float:
    record = graph.edges[edge]
    return np.float64(record.total) * _UNIT / np.float64(record.faces)


@kernel
def _tag(a: int, b: int) -> int:
    """Hash of an unordered pair, 31 bits (two multiply-and-shift rounds)."""
    mixed = np.uint64(min(a, b)) << np.uint64(32) | np.uint64(max(a, b))
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xD6E8FEB86659FD93)
    return int(np.int64(mixed >> np.uint64(33)))


@kernel
def _locate(graph: _Graph, tag: int, a: int, b: int) -> int:
    """Position of the slot of the pair (a, b), or of the free slot where it belongs."""
    mask = len(graph.slots) - 1
    position = tag << 32 >> graph.shift
    while True:
        slot = graph.slots[position]
        if slot < 0:
            return position
        if slot >> 32 == tag:
            record = graph.edges[slot & _EDGE_BITS]
            if (record.a == a and record.b == b) or (record.a == b and record.b == a):
                return position
        position = (position + 1) & mask


@kernel
def _drop_slot(graph: _Graph, tag: int, edge: int) -> None:
    """Free the slot of an edge and move later ones up, so that no search meets a gap."""
    mask = len(graph.slots) - 1
    position = tag << 32 >> graph.shift
    while graph.slots[position] != (tag << 32 | edge):
        position = (position + 1) & mask
    gap = position
    while True:
        position = (position + 1) & mask
        slot = graph.slots[position]
        if slot < 0:
            break
        if (position - (slot >> graph.shift)) & mask >= (position - gap) & mask:
            graph.slots[gap] = slot
            gap = position
    graph.slots[gap] = -1


@kernel
def _find(parent: NDArray[np.int32], node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@kernel
def _resolve(graph: _Graph) -> NDArray[np.int64]:
    roots = np.empty(len(graph.parent), np.int64)
    for node in range(len(roots)):
        roots[node] = graph.lowest[_find(graph.parent, node)]
    return roots


@kernel
def _unite(graph: _Graph, a: int, b: int) -> bool:
    """Unite two roots; the shorter list of contacts moves. False when a sum or a face count passes 2**53."""
    if graph.length[a] > graph.length[b]:
        a, b = b, a
    graph.parent[a] = b
    graph.lowest[b] = min(graph.lowest[a], graph.lowest[b])
    half = graph.first[a]
    exact = True
    while half >= 0:
        after = graph.following[half]
        edge = half >> 1
        record = graph.edges[edge]
        if record.faces > 0:
            other = record.a if half & 1 else record.b
            _drop_slot(graph, _tag(a, other), edge)
            if other == b:
                record.faces = 0
            else:
                exact &= _attach(graph, half, b, other)
        half = after
    return exact


@kernel
def _attach(graph: _Graph, half: int, root: int, other: int) -> bool:
    """Make a moved half-edge a contact of (root, other), or add it to the one there. False as in `_unite`."""
    edge = half >> 1
    tag = _tag(root, other)
    position = _locate(graph, tag, root, other)
    record = graph.edges[edge]
    if graph.slots[position] >= 0:
        rival = graph.edges[graph.slots[position] & _EDGE_BITS]
        total, faces = record.total + rival.total, record.faces + rival.faces
        # The higher bound holds for the sum of both, so the edge that waits under it stays.
        if rival.bound >= record.bound:
            rival.total, rival.faces, record.faces = total, faces, 0
            return bool(-_EXACT <= total <= _EXACT and faces <= _EXACT)
        record.total, record.faces, rival.faces = total, faces, 0
    graph.slots[position] = tag << 32 | edge
    if half & 1:
        record.b = root
    else:
        record.a = root
    graph.following[half] = graph.first[root]
    graph.first[root] = half
    graph.length[root] += 1
    return bool(-_EXACT <= record.total <= _EXACT and record.faces <= _EXACT)


@kernel
def _push(keys: NDArray[np.float64], items: NDArray[np.int32], size: int, key: float, item: int) -> None:
    """Add an item to a binary heap of `size` entries, the highest key on top."""
    child = size
    while child > 0 and keys[(child - 1) >> 1] < key:
        keys[child], items[child] = keys[(child - 1) >> 1], items[(child - 1) >> 1]
        child = (child - 1) >> 1
    keys[child], items[child] = key, item


@kernel
def _pop(keys: NDArray[np.float64], items: NDArray[np.int32], size: int) -> int:
    """Remove and return the top item of a binary heap of `size` entries."""
    top = int(items[0])
    size -= 1
    key, item = keys[size], items[size]
    place, child = 0, 1
    while child < size:
        if child + 1 < size and keys[child + 1] > keys[child]:
            child += 1
        if keys[child] <= key:
            break
        keys[place], items[place] = keys[child], items[child]
        place, child = child, 2 * child + 1
    keys[place], items[place] = key, item
    return top


@kernel
def _enqueue(graph: _Graph, queue: _Queue, edge: int, threshold: float) -> None:
    score = _score(graph, edge)
    graph.edges[edge].bound = score
    if score > threshold:
        _push(queue.bounds, queue.members, queue.state[1], score, edge)
        queue.state[1] += 1


@kernel
def _take(graph: _Graph, queue: _Queue, threshold: float, least: float) -> int:
    """Remove and return an edge of the highest score, -1 when that is below `least` or none is left.

    An edge found under a bound it no longer reaches goes back under its score.
    """
    while True:
        listed = queue.state[0] < len(queue.order)
        if listed:
            edge = queue.order[queue.state[0]]
            # The bound of an edge, even of one that is gone, stays the same until its entry is taken.
            bound = graph.edges[edge].bound
        if queue.state[1] > 0 and (not listed or queue.bounds[0] > bound):
            if queue.bounds[0] < least:
                return -1
            bound = queue.bounds[0]
            edge = _pop(queue.bounds, queue.members, queue.state[1])
            queue.state[1] -= 1
        elif listed and bound >= least:
            queue.state[0] += 1
        else:
            return -1
        if graph.edges[edge].faces > 0:
            if _score(graph, edge) == bound:
                return int(edge)
            _enqueue(graph, queue, edge, threshold)


@kernel
def _run(graph: _Graph, queue: _Queue, left: NDArray[np.bool_], threshold: float) -> bool:
    """Unite plateau by plateau, from the highest score down. False as in `_unite`.

    `left` marks the roots that are left for the level above.
    """
    tied = np.empty(16, np.int32)
    exact = True
    while exact:
        edge = _take(graph, queue, threshold, -np.inf)
        if edge < 0:
            break
        score = _score(graph, edge)
        count = 0
        while edge >= 0:
            if count == len(tied):
                tied = np.append(tied, np.empty_like(tied))
            tied[count] = edge
            count += 1
            edge = _take(graph, queue, threshold, score)
        a, b = graph.edges[tied[0]].a, graph.edges[tied[0]].b
        if count > 1:
            exact = _settle(graph, tied[:count], score, left)
            for edge in tied[:count]:
                if graph.edges[edge].faces > 0 and not left[graph.edges[edge].a]:
                    _enqueue(graph, queue, edge, threshold)
        elif left[a] or left[b]:
            left[a] = left[b] = True
        else:
            exact = _unite(graph, a, b)
    return exact


@kernel
def _settle(graph: _Graph, tied: NDArray[np.int32], score: float, left: NDArray[np.bool_]) -> bool:
    """Settle all plateaus of one score: `tied` holds every edge that scores it."""
    ids = np.empty(2 * len(tied), np.int32)
    neighbours = np.empty_like(ids)
    for i, edge in enumerate(tied):
        low, high = graph.lowest[graph.edges[edge].a], graph.lowest[graph.edges[edge].b]
        ids[2 * i], neighbours[2 * i] = low, high
        ids[2 * i + 1], neighbours[2 * i + 1] = high, low
    order = np.argsort(ids)
    ids, neighbours = ids[order], neighbours[order]
    _leave_plateaus(graph, ids, neighbours, left)
    keys, items = np.empty(len(ids)), np.empty(len(ids), np.int32)
    exact = True
    for i, group in enumerate(ids):
        root = _find(graph.parent, group)
        if exact and graph.lowest[root] == group and not left[root] and (i == 0 or ids[i - 1] != group):
            exact = _grow(graph, group, score, ids, neighbours, keys, items)
    return exact


@kernel
def _leave_plateaus(
    graph: _Graph, ids: NDArray[np.int32], neighbours: NDArray[np.int32], left: NDArray[np.bool_]
) -> None:
    """Leave every node of a plateau that has a node left already."""
    stack = [np.int32(0) for _ in range(0)]
    for group in ids:
        if left[_find(graph.parent, group)]:
            stack.append(group)
    while stack:
        group = stack.pop()
        place = np.searchsorted(ids, group)
        while place < len(ids) and ids[place] == group:
            root = _find(graph.parent, neighbours[place])
            if not left[root]:
                left[root] = True
                stack.append(neighbours[place])
            place += 1


@kernel
def _grow(
    graph: _Graph,
    group: int,
    score: float,
    ids: NDArray[np.int32],
    neighbours: NDArray[np.int32],
    keys: NDArray[np.float64],
    items: NDArray[np.int32],
) -> bool:
    """Let the lowest group of a plateau take its neighbour of lowest id, on and on. False as in `_unite`."""
    size, newest = 0, group
    while True:
        place = np.searchsorted(ids, newest)
        while place < len(ids) and ids[place] == newest:
            _push(keys, items, size, -np.float64(neighbours[place]), neighbours[place])
            size += 1
            place += 1
        root = _find(graph.parent, group)
        newest = -1
        while newest < 0:
            if size == 0:
                return True
            neighbour = _pop(keys, items, size)
            size -= 1
            other = _find(graph.parent, neighbour)
            if other != root:
                slot = graph.slots[_locate(graph, _tag(root, other), root, other)]
                if slot >= 0 and _score(graph, slot & _EDGE_BITS) == score:
                    newest = neighbour
        if not _unite(graph, root, other):
            return False
