"""Contacts of exactly the same score: the canonical order of ties, and the groups that must wait for the tier above."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .compiled import part
from .contact_queue import pop, push
from .group_graph import Graph, contact_of, merge_groups, score
from .linking import find_root
from .searching import first_place


class Room(NamedTuple):
    """Working memory for plateaus, two entries for each contact of one score.

    It is made outside the kernels: a kernel that allocates or sorts takes twice as long to compile.
    """

    ids: NDArray[np.int32]  # [2 n] both groups of each contact, ascending
    neighbours: NDArray[np.int32]  # [2 n] the group at the other end
    keys: NDArray[np.float64]  # [2 n] heap
    items: NDArray[np.int32]  # [2 n] of the heap, or a stack

    @classmethod
    def of(cls, n: int) -> "Room":
        """Room for `n` contacts."""
        size = 2 * max(1, n)
        ids, neighbours, items = np.empty((3, size), np.int32)
        return cls(ids, neighbours, np.empty(size), items)


@part
def settle(graph: Graph, tied: NDArray[np.int32], count: int, at: float, left: NDArray[np.bool_], room: Room) -> bool:
    """Settle all plateaus of one score. The first `count` edges of `tied` are all those that score `at`."""
    _sort_ends(graph, tied, count, room)
    _leave_plateaus(graph, 2 * count, room, left)
    exact = True
    for i in range(2 * count):
        group = np.int64(room.ids[i])
        root = find_root(graph.parent, group)
        if exact and graph.lowest[root] == group and not left[root] and (i == 0 or room.ids[i - 1] != group):
            exact = _grow(graph, group, at, 2 * count, room)
    return exact


@part
def _sort_ends(graph: Graph, tied: NDArray[np.int32], count: int, room: Room) -> None:
    """Write the two groups of every edge to `room`, in the order of their ids."""
    for i in range(count):
        record = graph.edges[tied[i]]
        for half in range(2):
            end = np.int64(record.b if half else record.a)
            push(room.keys, room.items, 2 * i + half, -np.float64(graph.lowest[end]), 2 * i + half)
    for i in range(2 * count):
        half = pop(room.keys, room.items, 2 * count - i)
        record = graph.edges[tied[half >> 1]]
        low, high = (record.b, record.a) if half & 1 else (record.a, record.b)
        room.ids[i], room.neighbours[i] = graph.lowest[low], graph.lowest[high]


@part
def _leave_plateaus(graph: Graph, n: int, room: Room, left: NDArray[np.bool_]) -> None:
    """Mark all nodes of a plateau as left if one of them is."""
    ids, stack, size = room.ids, room.items, 0
    for i in range(n):  # each group is put on the stack once: here, or when it is marked
        if (i == 0 or ids[i] != ids[i - 1]) and left[find_root(graph.parent, np.int64(ids[i]))]:
            stack[size] = ids[i]
            size += 1
    while size > 0:
        size -= 1
        group = np.int64(stack[size])
        place = first_place(ids, n, group)
        while place < n and ids[place] == group:
            neighbour = np.int64(room.neighbours[place])
            root = find_root(graph.parent, neighbour)
            if not left[root]:
                left[root] = True
                stack[size] = neighbour
                size += 1
            place += 1


@part
def _grow(graph: Graph, group: int, at: float, n: int, room: Room) -> bool:
    """Unite a group with its neighbour of lowest id until none is left at this score. Returns as `merge_groups`."""
    size, newest = np.int64(0), group  # not a literal, for which `push` would be compiled again
    while True:
        place = first_place(room.ids, n, newest)
        while place < n and room.ids[place] == newest:
            neighbour = np.int64(room.neighbours[place])
            push(room.keys, room.items, size, -np.float64(neighbour), neighbour)
            size += 1
            place += 1
        root = find_root(graph.parent, group)
        newest = -1
        while newest < 0:
            if size == 0:
                return True
            neighbour = pop(room.keys, room.items, size)
            size -= 1
            other = find_root(graph.parent, neighbour)
            if other != root:
                edge = contact_of(graph, root, other)
                if edge >= 0 and score(graph, edge) == at:
                    newest = neighbour
        if not merge_groups(graph, root, other):
            return False
