"""Average-linkage agglomeration of a contact table, in one piece or region by region with the same result.

Contact tables are described in `contact_tables`. Two facts carry this module.

*Scores never rise.* The mean of two contacts put together lies between their means, and correct rounding
keeps that order, so a contact of a united group scores at most as much as the better of the contacts it was
made of (reducibility). So an earlier score of a contact stays an upper bound: the queue needs no update at a union.

*A plateau is settled by itself.* Take a set K of nodes connected by contacts that score exactly s, such that
every other contact of K is known and scores less than s. Whichever groups are united outside K, the contacts
that leave K stay below s. So the unions inside K come first for its nodes and do not depend on unions outside,
and earlier unions outside do not depend on K. Therefore K may be settled at once, even if contacts elsewhere
score higher. Without ties K is one pair, whose nodes are strictly each other's best: reciprocal nearest
neighbours (Murtagh 1983). With ties, reciprocal pairs alone are not enough: the id of a group falls when it is
united, and that can change a tie elsewhere. Inside K the group of lowest id unites with its neighbour of lowest
id, again and again until no contact at s is left; then the next group does the same.
"""

import numpy as np
from numpy.typing import NDArray

from .compiled import kernel
from .contact_queue import Queue, enqueue, make_queue, take
from .contact_tables import check_contacts, check_scores
from .group_graph import Graph, make_graph, resolve, score
from .plateaus import Room, settle

FIRST_ROOM = 64
"""Contacts of one score for which there is room at the start."""


def agglomerate_contacts(
    pairs: NDArray[np.int64],
    sums: NDArray[np.int64],
    faces: NDArray[np.int64],
    n_nodes: int,
    threshold: float,
    frozen: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Unite the pair of groups with the highest mean score until no mean is strictly above the threshold.

    Among pairs of equal means, the pair whose (lower id, higher id) comes first in lexicographic order is united
    first; the id of a group is its lowest node. Sums and face counts of contacts that become parallel add up.

    With `frozen` the table is the part of a region. Then only those pairs are united that the whole table would
    certainly unite too: pairs in which each is strictly the best partner of the other. Pairs of equal score that
    share nodes form a plateau. They are united in the canonical order when no node of the plateau is frozen or left;
    otherwise all its nodes are left for the tier above. A group whose best partner is frozen or left is left, too.
    The table contracted by the result can be agglomerated again, in regions of any shape and in any number of tiers:
    the groups at the end are those of the whole table, ties included (cf. the chunk-exact agglomeration of Lu et
    al., arXiv 2106.10795).

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
        Number of nodes, at most 2**31 - 1. In the part of a region, nodes are numbered in the order of their ids in
        the whole table; the id of a node that is already a group is its lowest id.
    threshold : float
        Mean score of a face, in score units; inf unites nothing, -inf unites all nodes that touch.
    frozen : ndarray of bool, shape (n_nodes,), optional
        True for nodes that have a contact, or faces of a contact, outside this table. The contacts of all other
        nodes must be complete here, including contacts with frozen nodes. Without `frozen` the table is whole.

    Returns
    -------
    ndarray of int64, shape (n_nodes,)
        For every node the lowest node of its group; a frozen node is a group of its own.

    Raises
    ------
    ValueError
        When the table or `frozen` is not as described or the threshold is NaN.
    OverflowError
        When a sum that is complete leaves the range of exact float64, given or united.

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

    Node 3 may have a better partner elsewhere, so node 2 must wait for the tier above:

    >>> pairs = np.array([[0, 1], [1, 2], [2, 3]])
    >>> sums = np.array([3, 1, 2]) << 24
    >>> frozen = np.array([False, False, False, True])
    >>> agglomerate_contacts(pairs, sums, np.array([1, 1, 1]), 4, threshold=0.0, frozen=frozen)
    array([0, 0, 2, 3])
    """
    check_contacts(pairs, sums, faces, n_nodes)
    left = np.zeros(n_nodes, np.bool_) if frozen is None else frozen.copy()
    if left.shape != (n_nodes,) or left.dtype != np.bool_:
        raise ValueError(f"frozen is {left.dtype} {left.shape}: expected bool ({n_nodes},)")
    if np.isnan(threshold):
        raise ValueError(f"threshold is {threshold}: expected a number")
    check_scores(pairs, sums, left)
    queue = make_queue(sums, faces, threshold)
    graph = make_graph(pairs, sums, faces, n_nodes)
    wanted = FIRST_ROOM
    while wanted > 0:
        wanted = int(_run(graph, queue, left, float(threshold), Room.of(wanted)))
    if wanted < 0:
        raise OverflowError("contact score: the sum or face count of a united contact exceeds 2**53")
    return resolve(graph)


@kernel
def _run(graph: Graph, queue: Queue, left: NDArray[np.bool_], threshold: float, room: Room) -> int:
    """Unite plateau by plateau, from the highest score down.

    `left` marks the roots that are left for the tier above. Returns 0 at the end, or -1 as soon as `merge_groups`
    returns False. If `room` is too small for a plateau it returns the number of contacts of that: callers must call
    again with room for as many.
    """
    # The list no longer needs the places it has passed, and each edge that was taken had one of them: they hold the
    # edges of the plateau.
    tied, state = queue.order, queue.state
    least = -np.inf if state[2] == 0 else score(graph, np.int64(tied[0]))
    while True:
        edge = take(graph, queue, threshold, least)
        if edge >= 0:
            tied[state[2]] = edge
            state[2] += 1
            least = score(graph, edge)
            continue
        count = state[2]
        if count == 0 or 2 * count > len(room.ids):
            return int(count)
        state[2] = 0
        if not settle(graph, tied, count, least, left, room):
            return -1
        for i in range(count):
            record = graph.edges[tied[i]]
            if record.faces > 0 and not left[record.a]:
                enqueue(graph, queue, np.int64(tied[i]), threshold)
        least = -np.inf
