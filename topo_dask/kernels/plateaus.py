"""Contacts of exactly the same score: the canonical order of ties, and what must wait for the level above."""

import numpy as np
from numpy.typing import NDArray

from .compiled import kernel
from .contact_queue import pop, push
from .group_graph import Graph, contact_of, find, score, unite


@kernel
def settle(graph: Graph, tied: NDArray[np.int32], at: float, left: NDArray[np.bool_]) -> bool:
    """Settle all plateaus of one score: `tied` holds every edge that scores `at`."""
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
        root = find(graph.parent, group)
        if exact and graph.lowest[root] == group and not left[root] and (i == 0 or ids[i - 1] != group):
            exact = _grow(graph, group, at, ids, neighbours, keys, items)
    return exact


@kernel
def _leave_plateaus(
    graph: Graph, ids: NDArray[np.int32], neighbours: NDArray[np.int32], left: NDArray[np.bool_]
) -> None:
    """Leave every node of a plateau that has a node left already."""
    stack = [np.int32(0) for _ in range(0)]
    for group in ids:
        if left[find(graph.parent, group)]:
            stack.append(group)
    while stack:
        group = stack.pop()
        place = np.searchsorted(ids, group)
        while place < len(ids) and ids[place] == group:
            root = find(graph.parent, neighbours[place])
            if not left[root]:
                left[root] = True
                stack.append(neighbours[place])
            place += 1


@kernel
def _grow(
    graph: Graph,
    group: int,
    at: float,
    ids: NDArray[np.int32],
    neighbours: NDArray[np.int32],
    keys: NDArray[np.float64],
    items: NDArray[np.int32],
) -> bool:
    """Let the lowest group of a plateau take its neighbour of lowest id, on and on. False as in `unite`."""
    size, newest = 0, group
    while True:
        place = np.searchsorted(ids, newest)
        while place < len(ids) and ids[place] == newest:
            push(keys, items, size, -np.float64(neighbours[place]), neighbours[place])
            size += 1
            place += 1
        root = find(graph.parent, group)
        newest = -1
        while newest < 0:
            if size == 0:
                return True
            neighbour = pop(keys, items, size)
            size -= 1
            other = find(graph.parent, neighbour)
            if other != root:
                edge = contact_of(graph, root, other)
                if edge >= 0 and score(graph, edge) == at:
                    newest = neighbour
        if not unite(graph, root, other):
            return False
