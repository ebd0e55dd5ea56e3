"""Groups that grow, and their contacts: unite two groups, find the contact of two, look up the group of a node."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .compiled import kernel, part
from .fixed_point import EXACT, SCALE

_UNIT = 1.0 / SCALE
_EXACT = int(EXACT)
_EDGE_BITS = 0xFFFFFFFF
# An edge is one contact of the current groups; faces == 0 marks an edge that is gone. `bound` is the score under
# which the edge waits in the queue. An edge has 32 bytes, half a cache line, so that one miss fetches all of it.
_EDGE = np.dtype([("total", "i8"), ("faces", "i8"), ("bound", "f8"), ("a", "i4"), ("b", "i4")])


class Graph(NamedTuple):
    """Current groups and their contacts. A group is known by one of its nodes, its root in `parent`."""

    edges: NDArray[np.void]  # [C] of _EDGE
    following: NDArray[np.int32]  # [2 C] linked lists of half-edges: 2 e is edge e at its end a, 2 e + 1 at b
    slots: NDArray[np.int64]  # open-addressing table pair of roots -> edge: tag << 32 | edge, -1 free
    shift: int  # slot >> shift is the position where the search for it starts
    first: NDArray[np.int32]  # [n_nodes] first half-edge of a root's list, -1 none
    length: NDArray[np.int32]  # [n_nodes] half-edges in the list, those of vanished edges included
    parent: NDArray[np.int32]  # [n_nodes] union-find
    lowest: NDArray[np.int32]  # [n_nodes] of a root: the group's id


def make_graph(pairs: NDArray[np.int64], sums: NDArray[np.int64], faces: NDArray[np.int64], n_nodes: int) -> Graph:
    """Graph in which every node is a group of its own, with the contacts of a contact table."""
    bits = max(3, (len(pairs) * 3 // 2).bit_length())
    graph = Graph(
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
def _fill_graph(graph: Graph, pairs: NDArray[np.int64], sums: NDArray[np.int64], faces: NDArray[np.int64]) -> None:
    for edge in range(len(pairs)):
        a, b = pairs[edge, 0], pairs[edge, 1]
        record = graph.edges[edge]
        record.total, record.faces = sums[edge], faces[edge]
        record.a, record.b = a, b
        record.bound = score(graph, edge)
        for half, end in ((2 * edge, a), (2 * edge + 1, b)):
            graph.following[half] = graph.first[end]
            graph.first[end] = half
            graph.length[end] += 1
        tag = _tag(a, b)
        graph.slots[_locate(graph, tag, a, b)] = tag << 32 | edge


@part
def score(graph: Graph, edge: int) -> float:
    """Score of an edge: the mean over its faces."""
    record = graph.edges[edge]
    return np.float64(record.total) * _UNIT / np.float64(record.faces)


@part
def contact_of(graph: Graph, a: int, b: int) -> int:
    """Edge between two roots, -1 when they do not touch."""
    slot = graph.slots[_locate(graph, _tag(a, b), a, b)]
    return slot & _EDGE_BITS if slot >= 0 else -1


def resolve(graph: Graph) -> NDArray[np.int64]:
    """Lowest node of the group of every node."""
    parent = graph.parent
    while not np.array_equal(above := parent[parent], parent):  # halves the way to the root
        parent = above
    return graph.lowest[parent].astype(np.int64)


@part
def merge_groups(graph: Graph, a: int, b: int) -> bool:
    """Unite two roots by moving the shorter list of contacts. Returns False when a sum or face count passes 2**53."""
    if graph.length[a] > graph.length[b]:
        a, b = b, a
    graph.parent[a] = b
    if graph.lowest[a] < graph.lowest[b]:
        graph.lowest[b] = graph.lowest[a]
    half = np.int64(graph.first[a])
    exact = True
    while half >= 0:
        after = np.int64(graph.following[half])
        edge = half >> 1
        record = graph.edges[edge]
        if record.faces > 0:
            other = np.int64(record.a if half & 1 else record.b)
            _drop_slot(graph, _tag(a, other), edge)
            if other == b:
                record.faces = 0
            else:
                exact &= _attach(graph, half, b, other)
        half = after
    return exact


@part
def _attach(graph: Graph, half: int, root: int, other: int) -> bool:
    """Make a moved half-edge the contact of (root, other), or add it to the one there. Returns as `merge_groups`."""
    edge = half >> 1
    tag = _tag(root, other)
    position = _locate(graph, tag, root, other)
    record = graph.edges[edge]
    if graph.slots[position] >= 0:
        rival = graph.edges[graph.slots[position] & _EDGE_BITS]
        total, faces = record.total + rival.total, record.faces + rival.faces
        # The higher of the two bounds is one for the sum, too, so the edge with that bound stays.
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


@part
def _tag(a: int, b: int) -> int:
    """Hash of an unordered pair, 31 bits (two multiply-and-shift rounds)."""
    low, high = (a, b) if a < b else (b, a)
    mixed = np.uint64(low) << np.uint64(32) | np.uint64(high)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xD6E8FEB86659FD93)
    return int(np.int64(mixed >> np.uint64(33)))


@part
def _locate(graph: Graph, tag: int, a: int, b: int) -> int:
    """Position of the slot of the pair (a, b), or of the free slot in which to put it."""
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


@part
def _drop_slot(graph: Graph, tag: int, edge: int) -> None:
    """Free the slot of an edge and move later entries up, so that no search stops at a gap."""
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
