"""A queue of contacts by upper bounds of their scores, which fall as groups grow."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .compiled import part
from .contact_tables import scores_of
from .group_graph import Graph, score


class Queue(NamedTuple):
    """Edges above the threshold by upper bound: a sorted list holds the first scores, a heap holds later ones."""

    order: NDArray[np.int32]  # [m] edges, best first
    bounds: NDArray[np.float64]  # [m] heap
    members: NDArray[np.int32]  # [m] edge of each heap entry
    state: NDArray[np.int64]  # [3] place in `order`, size of the heap, edges taken and not yet dealt with


def make_queue(sums: NDArray[np.int64], faces: NDArray[np.int64], threshold: float) -> Queue:
    """Queue of the contacts of a table whose score is strictly above the threshold."""
    scores = scores_of(sums, faces)
    above = np.flatnonzero(scores > threshold).astype(np.int32)
    order = above[np.argsort(-scores[above])]
    # Every edge waits in one place only, so the heap never holds more edges than the list did at the start.
    heap = np.empty(len(order), np.float64), np.empty(len(order), np.int32)
    return Queue(order, *heap, np.zeros(3, np.int64))


@part
def enqueue(graph: Graph, queue: Queue, edge: int, threshold: float) -> None:
    """Put an edge in the queue under its present score, if that is above the threshold."""
    now = score(graph, edge)
    graph.edges[edge].bound = now
    if now > threshold:
        push(queue.bounds, queue.members, queue.state[1], now, edge)
        queue.state[1] += 1


@part
def take(graph: Graph, queue: Queue, threshold: float, least: float) -> int:
    """Remove and return an edge of the highest score; -1 when that score is below `least` or no edge is left.

    An edge whose score is now below its bound goes back into the queue under its score.
    """
    while True:
        listed = queue.state[0] < len(queue.order)
        if listed:
            edge = np.int64(queue.order[queue.state[0]])
            # The bound of an edge stays the same until its entry is taken, even when the edge is gone.
            bound = graph.edges[edge].bound
        if queue.state[1] > 0 and (not listed or queue.bounds[0] > bound):
            if queue.bounds[0] < least:
                return -1
            bound = queue.bounds[0]
            edge = pop(queue.bounds, queue.members, queue.state[1])
            queue.state[1] -= 1
        elif listed and bound >= least:
            queue.state[0] += 1
        else:
            return -1
        if graph.edges[edge].faces > 0:
            if score(graph, edge) == bound:
                return int(edge)
            enqueue(graph, queue, edge, threshold)


@part
def push(keys: NDArray[np.float64], items: NDArray[np.int32], size: int, key: float, item: int) -> None:
    """Add an item to a binary heap of `size` entries, the highest key on top."""
    child = size
    while child > 0 and keys[(child - 1) >> 1] < key:
        keys[child], items[child] = keys[(child - 1) >> 1], items[(child - 1) >> 1]
        child = (child - 1) >> 1
    keys[child], items[child] = key, item


@part
def pop(keys: NDArray[np.float64], items: NDArray[np.int32], size: int) -> int:
    """Remove and return the top item of a binary heap of `size` entries."""
    top = np.int64(items[0])
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
    return int(top)
