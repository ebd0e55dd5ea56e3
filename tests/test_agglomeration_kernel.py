"""Agglomeration of contact tables: equal to the literal definition, over any hierarchy of regions."""

import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from topo_dask.kernels import agglomeration, contact_tables
from topo_dask.kernels.agglomeration import FIRST_ROOM, agglomerate_contacts
from topo_dask.kernels.contact_tables import combine_contacts, contract, drop_decided, number_nodes
from topo_dask.kernels.plateaus import Room

ONE = 1 << 24
THRESHOLDS = [0.0, 0.25, 0.5, -0.5, -3.0, 1.0, np.inf, -np.inf]
thorough = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def greedy(rows, n_nodes, threshold):
    """The definition: unite the best pair, the first of equals, until no mean is above the threshold."""
    roots = list(range(n_nodes))
    edges = {}
    for low, high, total, faces in rows:
        old = edges.get((low, high), (0, 0))
        edges[low, high] = old[0] + total, old[1] + faces
    while edges:
        score, low, high = min((-(t * 2.0**-24 / f), *pair) for pair, (t, f) in edges.items())
        if not -score > threshold:
            break
        roots = [low if root == high else root for root in roots]
        united = {}
        for pair, (total, faces) in edges.items():
            ends = sorted({low if end == high else end for end in pair})
            if len(ends) == 2:
                old = united.get(tuple(ends), (0, 0))
                united[tuple(ends)] = old[0] + total, old[1] + faces
        edges = united
    return roots


def to_table(rows):
    """Contact table of rows (low, high, sum, faces) that may repeat a pair."""
    array = np.array(rows, np.int64).reshape(-1, 4)
    return combine_contacts([(array[:, :2], array[:, 2], array[:, 3])])


def select(rows, places, place):
    return [row for row, where in zip(rows, places, strict=True) if where == place]


tied_scores = st.tuples(st.integers(-2, 2).map(lambda k: k * ONE // 2), st.just(1))
mixed_scores = st.tuples(st.integers(-3, 6).map(lambda k: k * ONE // 2), st.integers(1, 3))
# Means so close that different fractions round to one float.
near_scores = st.tuples(st.integers(-4, 4).map((1 << 47).__add__), st.integers((1 << 20) - 2, (1 << 20) + 2))
wide_scores = st.tuples(st.integers(-(1 << 30), 1 << 30), st.integers(1, 60))
scores = st.sampled_from([tied_scores, mixed_scores, near_scores, wide_scores])


@st.composite
def contact_rows(draw, max_nodes=12, max_rows=40):
    """Nodes and rows (low, high, sum, faces): sparse, dense or with a hub, most often full of ties."""
    n_nodes = draw(st.integers(2, max_nodes))
    node = st.integers(0, n_nodes - 1)
    hub = draw(node)
    far_end = draw(st.sampled_from([node, node, st.just(hub)]))
    rows = draw(st.lists(st.tuples(node, far_end, draw(scores)), max_size=max_rows))
    return n_nodes, [(min(a, b), max(a, b), *score) for a, b, score in rows if a != b]


@st.composite
def complete_rows(draw):
    """Rows of a complete graph, where every union makes parallel contacts."""
    n_nodes = draw(st.integers(3, 8))
    score = draw(scores)
    return n_nodes, [(a, b, *draw(score)) for a in range(n_nodes) for b in range(a + 1, n_nodes)]


any_rows = st.one_of(contact_rows(), complete_rows())
thresholds = st.sampled_from(THRESHOLDS)


@thorough
@given(any_rows, thresholds)
def test_contacts_equal_the_definition(graph, threshold):
    n_nodes, rows = graph
    roots = agglomerate_contacts(*to_table(rows), n_nodes, threshold)
    assert roots.dtype == np.int64
    assert roots.tolist() == greedy(rows, n_nodes, threshold)


@pytest.mark.parametrize("kind", ["ties", "real"])
@pytest.mark.parametrize("seed", range(6))
def test_contacts_equal_the_definition_on_larger_graphs(kind, seed):
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.integers(0, 150, (700, 2)), axis=1)
    ends = ends[ends[:, 0] < ends[:, 1]]
    sums = rng.integers(-2, 3, len(ends)) * ONE // 2 if kind == "ties" else rng.integers(-ONE, ONE, len(ends))
    faces = np.ones(len(ends), np.int64) if kind == "ties" else rng.integers(1, 30, len(ends))
    rows = np.column_stack([ends, sums, faces]).tolist()
    assert agglomerate_contacts(*to_table(rows), 150, 0.0).tolist() == greedy(rows, 150, 0.0)


def test_an_id_that_falls_turns_a_tie():
    # 5 and 10 are each other's best by id, yet {1, 7} forms first and, as group 1, comes before 5 at node 10.
    rows = [(1, 5, -10 * ONE, 1), (1, 7, ONE, 1), (5, 7, -10 * ONE, 1), (5, 10, ONE, 1), (7, 10, ONE, 1)]
    roots = agglomerate_contacts(*to_table(rows), 11, 0.0)
    assert roots[[1, 5, 7, 10]].tolist() == [1, 5, 1, 1]
    assert roots.tolist() == greedy(rows, 11, 0.0)


@pytest.mark.parametrize("n", [FIRST_ROOM, FIRST_ROOM + 1, 2 * FIRST_ROOM])
def test_a_plateau_gets_room_for_all_its_contacts_and_none_of_a_lower_score(n, monkeypatch):
    # 1 unites with 0 first, so that 2 n is not united with either of them; with 1 alone it would be.
    pairs = [(2 * i, 2 * i + 1, 2 * ONE, 1) for i in range(n)]
    rows = [*pairs, (0, 2 * n, -10 * ONE, 1), (1, 2 * n, ONE, 1)]
    made = []
    monkeypatch.setattr(agglomeration, "Room", type("Noting", (), {"of": lambda n: made.append(n) or Room.of(n)}))
    roots = agglomerate_contacts(*to_table(rows), 2 * n + 1, 0.0)
    assert roots.tolist() == [i // 2 * 2 for i in range(2 * n + 1)]
    assert made == [FIRST_ROOM, n][: 1 + (n > FIRST_ROOM)]


def _agglomerate_region(table, others, lut, threshold):
    """Unite inside one region, in local numbers, enter the result in the global `lut`, and return what is left."""
    nodes, table = number_nodes(table)
    frozen = np.isin(nodes, np.concatenate([np.empty(0, np.int64), *(other[0].ravel() for other in others)]))
    roots = agglomerate_contacts(*table, len(nodes), threshold, frozen)
    assert (roots[frozen] == np.flatnonzero(frozen)).all()
    assert not frozen[roots[~frozen]].any()
    lut[nodes] = nodes[roots]
    pairs, sums, faces = drop_decided(*contract(*table, roots), frozen, threshold)
    return nodes[pairs], sums, faces


def hierarchical(rows, n_nodes, threshold, places, levels):
    """Rows lie in regions `places`; each level maps regions to larger ones, and the top holds all."""
    groups = np.arange(n_nodes)
    regions = {place: to_table(select(rows, places, place)) for place in places}
    for level in levels:
        lut = np.arange(n_nodes)
        merged = {}
        for place, table in regions.items():
            others = [other for key, other in regions.items() if key != place]
            merged.setdefault(level[place], []).append(_agglomerate_region(table, others, lut, threshold))
        groups = lut[groups]
        regions = {place: combine_contacts(tables) for place, tables in merged.items()}
    top = agglomerate_contacts(*combine_contacts(list(regions.values())), n_nodes, threshold)
    return top[groups]


@thorough
@given(any_rows, thresholds, st.data())
def test_any_hierarchy_of_regions_equals_the_definition(graph, threshold, data):
    n_nodes, rows = graph
    home = data.draw(st.lists(st.integers(0, 5), min_size=n_nodes, max_size=n_nodes))
    # Most contacts lie where their first node does, so that some nodes are complete inside a region.
    stray = data.draw(st.lists(st.integers(0, 7), min_size=len(rows), max_size=len(rows)))
    choices = [(5, home[high], *[home[low]] * 6) for low, high, *_ in rows]
    places = [choice[k] for choice, k in zip(choices, stray, strict=True)]
    level = st.lists(st.integers(0, 5), min_size=6, max_size=6)
    levels = data.draw(st.lists(level, max_size=4))
    assert hierarchical(rows, n_nodes, threshold, places, levels).tolist() == greedy(rows, n_nodes, threshold)


@pytest.mark.parametrize("tied", [False, True])
def test_blocks_of_a_lattice_equal_the_whole(tied):
    side = 24
    ids = np.random.default_rng(3).permutation(side * side).reshape(side, side)
    steps = [(ids[1:], ids[:-1]), (ids[:, 1:], ids[:, :-1])]
    ends = np.concatenate([np.column_stack([a.ravel(), b.ravel()]) for a, b in steps])
    rng = np.random.default_rng(4)
    sums = rng.integers(-2, 4, len(ends)) * ONE if tied else rng.normal(0.2, 1.0, len(ends)) * ONE
    rows = np.column_stack([np.sort(ends, axis=1), sums.astype(np.int64), np.ones(len(ends), np.int64)])
    block = np.zeros(side * side, np.int64)
    block[ids] = np.arange(side)[:, None] // 6 * 4 + np.arange(side) // 6
    places = block[ends[:, 0]].tolist()
    quads = [i // 8 * 2 + i % 4 // 2 for i in range(16)]
    rows = rows.tolist()
    whole = agglomerate_contacts(*to_table(rows), side * side, 0.0)
    assert hierarchical(rows, side * side, 0.0, places, [quads, list(range(16))]).tolist() == whole.tolist()
    assert whole.tolist() == greedy(rows, side * side, 0.0)


INSIDE = {  # rows, frozen nodes, roots, why
    "free pair": ([(0, 1, ONE, 1)], [], [0, 0], "each other's best"),
    "frozen end": ([(0, 1, ONE, 1)], [1], [0, 1], "1 may have a better partner"),
    "best is frozen": ([(0, 1, ONE, 1), (1, 2, 2 * ONE, 1)], [2], [0, 1, 2], "1 waits for 2, and 0 for 1"),
    "frozen is worse": ([(0, 1, 2 * ONE, 1), (1, 2, ONE, 1)], [2], [0, 0, 2], "2 comes later"),
    "wait is passed on": (
        [(0, 1, ONE, 1), (1, 2, 2 * ONE, 1), (2, 3, 3 * ONE, 1)],
        [3],
        [0, 1, 2, 3],
        "all wait",
    ),
    "tie known": ([(0, 1, ONE, 1), (1, 2, ONE, 1)], [], [0, 0, 0], "the whole plateau is known"),
    "tie open": ([(0, 1, ONE, 1), (1, 2, ONE, 1)], [2], [0, 1, 2], "the plateau may go on beyond 2"),
    "tie apart": ([(0, 1, ONE, 1), (2, 3, ONE, 1)], [3], [0, 0, 2, 3], "equal, but with no node in common"),
    "below threshold": ([(0, 1, 2 * ONE, 1), (1, 2, 0, 1)], [], [0, 0, 2], "the threshold is strict"),
}


@pytest.mark.parametrize("case", INSIDE)
def test_what_is_united_inside_a_region(case):
    rows, frozen_nodes, expected, why = INSIDE[case]
    frozen = np.isin(np.arange(len(expected)), frozen_nodes)
    before = frozen.copy()
    roots = agglomerate_contacts(*to_table(rows), len(expected), 0.0, frozen)
    assert roots.tolist() == expected, why
    assert (frozen == before).all()


@thorough
@given(any_rows, thresholds)
def test_frozen_extremes(graph, threshold):
    n_nodes, rows = graph
    table = to_table(rows)
    none, every = np.zeros(n_nodes, np.bool_), np.ones(n_nodes, np.bool_)
    expected = agglomerate_contacts(*table, n_nodes, threshold)
    assert agglomerate_contacts(*table, n_nodes, threshold, none).tolist() == expected.tolist()
    assert agglomerate_contacts(*table, n_nodes, threshold, every).tolist() == list(range(n_nodes))


@thorough
@given(any_rows, st.data())
def test_contract_and_combine_equal_dictionaries(graph, data):
    n_nodes, rows = graph
    roots = data.draw(st.lists(st.integers(0, n_nodes - 1), min_size=n_nodes, max_size=n_nodes))
    offset = data.draw(st.sampled_from([0, 1 << 40]))  # wide ids are sorted in another way
    parts = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    blocks = [to_table(select(rows, parts, part)) for part in range(3)]
    whole = combine_contacts([(pairs + offset, sums, faces) for pairs, sums, faces in blocks])
    pairs, sums, faces = contract(whole[0] - offset, *whole[1:], np.array(roots, np.int64) + offset)
    expected = {}
    for a, b, total, count in rows:
        ends = tuple(sorted((roots[a] + offset, roots[b] + offset)))
        if ends[0] != ends[1]:
            old = expected.get(ends, (0, 0))
            expected[ends] = old[0] + total, old[1] + count
    assert [(*p, t, f) for p, t, f in zip(pairs.tolist(), sums.tolist(), faces.tolist(), strict=True)] == [
        (*pair, *value) for pair, value in sorted(expected.items())
    ]
    assert pairs.dtype == sums.dtype == faces.dtype == np.int64


@pytest.mark.parametrize("ascending", [True, False])
def test_a_hub_costs_no_more_than_its_contacts(ascending):
    leaves = 100_000
    order = np.arange(leaves) if ascending else np.arange(leaves)[::-1]
    pairs = np.column_stack([np.arange(leaves), np.full(leaves, leaves)])
    table = pairs, (order + 1) * 64, np.ones(leaves, np.int64)
    agglomerate_contacts(*GOOD)  # compiles
    began = time.process_time()
    assert not agglomerate_contacts(*table, leaves + 1, 0.0).any()
    assert not agglomerate_contacts(pairs, np.full(leaves, ONE), table[2], leaves + 1, 0.0).any()
    assert time.process_time() - began < 10.0  # takes 0.1 s; quadratic work would take minutes


def test_empty_tables():
    empty = to_table([])
    assert agglomerate_contacts(*empty, 3, 0.0).tolist() == [0, 1, 2]
    assert agglomerate_contacts(*empty, 0, 0.0).tolist() == []
    assert [len(column) for column in combine_contacts([])] == [0, 0, 0]
    assert [len(column) for column in contract(*empty, np.arange(3))] == [0, 0, 0]


GOOD = (np.array([[0, 1], [1, 2]]), np.array([ONE, ONE]), np.array([1, 1]), 3, 0.0)
BAD = [  # place of the argument, its value, exception, message
    (0, np.array([[1, 2], [0, 1]]), ValueError, r"pairs\[1\] is \[0, 1\].*lexicographic"),
    (0, np.array([[0, 1], [0, 1]]), ValueError, r"pairs\[1\] is \[0, 1\].*unique"),
    (0, np.array([[0, 1], [2, 2]]), ValueError, r"pairs\[1\] is \[2, 2\]"),
    (0, np.array([[-1, 1], [1, 2]]), ValueError, r"pairs\[0\] is \[-1, 1\]"),
    (0, np.array([[0, 1], [1, 3]]), ValueError, r"pairs\[1\] is \[1, 3\].*n_nodes = 3"),
    (0, np.array([0, 1]), ValueError, r"pairs is int64 \(2,\)"),
    (1, np.array([1.0, 2.0]), ValueError, r"sums is float64 \(2,\): expected int64 \(2,\)"),
    (1, np.array([1, (1 << 53) + 1]), OverflowError, r"contact scores: .*2\*\*53"),
    (2, np.array([1]), ValueError, r"faces is int64 \(1,\): expected int64 \(2,\)"),
    (2, np.array([0, 1]), ValueError, r"faces runs from 0 to 1: expected 1 to 2\*\*53"),
    (2, np.array([1, (1 << 53) + 1]), ValueError, r"faces runs from 1 to 9007199254740993: expected 1 to 2\*\*53"),
    (3, -1, ValueError, r"n_nodes is -1"),
    (3, 1 << 31, ValueError, r"n_nodes is 2147483648: expected 0 to 2\*\*31 - 1"),
    (4, np.nan, ValueError, r"threshold is nan"),
]


@pytest.mark.parametrize(("place", "value", "error", "message"), BAD)
def test_bad_arguments_are_named(place, value, error, message):
    arguments = [*GOOD[:place], value, *GOOD[place + 1 :]]
    with pytest.raises(error, match=message):
        agglomerate_contacts(*arguments)


@pytest.mark.parametrize("frozen", [np.zeros(2, np.bool_), np.zeros(3, np.int64)])
def test_frozen_is_checked(frozen):
    with pytest.raises(ValueError, match=r"frozen is .*: expected bool \(3,\)"):
        agglomerate_contacts(*GOOD, frozen)


def test_sums_that_leave_the_exact_range_are_refused():
    half = 1 << 52
    triangle = to_table([(0, 1, half + 4, 1), (0, 2, half, 1), (1, 2, half + 2, 1)])
    with pytest.raises(OverflowError, match="2\\*\\*53"):
        agglomerate_contacts(*triangle, 3, 0.0)
    assert contract(*triangle, np.array([0, 0, 2]))[1].tolist() == [(1 << 53) + 2]
    wrapped = np.tile([[0, 1]], (2048, 1)), np.full(2048, 1 << 53), np.ones(2048, np.int64)
    assert wrapped[1].sum() == 0
    large = np.array([[0, 1]]), np.array([1 << 62]), np.array([1])
    assert combine_contacts([large])[1].tolist() == [1 << 62]
    for tables in ([wrapped], [large, large]):
        with pytest.raises(OverflowError, match="2\\*\\*38"):
            combine_contacts(tables)


def test_faces_that_leave_the_exact_range_are_refused():
    large = np.array([[0, 1]]), np.array([0]), np.array([1 << 53])
    assert combine_contacts([large])[2].tolist() == [1 << 53]
    for n in (2, 1024, 2048):  # the number of faces of the last two wraps around, to the least int64 and to 0
        with pytest.raises(OverflowError, match=r"faces: .*2\*\*53"):
            combine_contacts([large] * n)


FAR = 1 << 52
TOO_FAR = {  # what the contacts of 0 and 1 with another node add up to
    "a sum": ((FAR + 4, 1), (FAR, 1)),
    "a negative sum": ((-FAR - 4, 1), (-FAR, 1)),
    "faces": ((4 * ONE, FAR + 4), (0, FAR)),
}


@pytest.mark.parametrize("swapped", [False, True], ids=["the contact of 0 is better", "that of 1 is better"])
@pytest.mark.parametrize("other", [2, 3], ids=["the other sum is good after", "before"])
@pytest.mark.parametrize("what", TOO_FAR)
def test_a_united_contact_that_leaves_the_exact_range_is_refused(what, other, swapped):
    of_0, of_1 = TOO_FAR[what][:: -1 if swapped else 1]
    best, good = (0, 1, 1 << 53, 1), [(0, 5 - other, ONE, 1), (1, 5 - other, ONE, 1)]
    assert agglomerate_contacts(*to_table([best, *good]), 6, float(1 << 28)).tolist() == [0, 0, 2, 3, 4, 5]
    rows = [best, *good, (0, other, *of_0), (1, other, *of_1)]
    for more in ([], [(4, 5, 1 << 53, 1)]):  # a pair that is united after, at the same score
        with pytest.raises(OverflowError, match=r"contact score: .* united contact exceeds 2\*\*53"):
            agglomerate_contacts(*to_table(rows + more), 6, float(1 << 28))


def test_wide_ids_are_in_lexicographic_order():
    low, high = (1 << 32) - 3, (1 << 32) - 2  # packed into one number, these two would wrap around
    one = np.array([ONE]), np.array([1])
    pairs, _, _ = combine_contacts([(np.array([pair]), *one) for pair in ((low, high), (1, high))])
    assert pairs.tolist() == [[1, high], [low, high]]


def test_more_contacts_than_a_graph_has_numbers_for_are_refused(monkeypatch):
    monkeypatch.setattr(contact_tables, "_MAX_CONTACTS", 2)
    agglomerate_contacts(*GOOD)
    monkeypatch.setattr(contact_tables, "_MAX_CONTACTS", 1)
    with pytest.raises(ValueError, match=r"pairs has 2 rows: expected at most 2\*\*30; agglomerate smaller regions"):
        agglomerate_contacts(*GOOD)


def test_sums_that_are_not_complete_may_be_large():
    table = np.array([[0, 1], [1, 2]]), np.array([-1 << 60, 5]), np.array([1, 1])
    frozen = np.array([True, True, False])
    assert agglomerate_contacts(*table, 3, 0.0, frozen).tolist() == [0, 1, 2]
    with pytest.raises(OverflowError, match=r"contact scores: .*2\*\*53"):
        agglomerate_contacts(*table, 3, 0.0, np.array([True, False, False]))


def test_arguments_are_left_alone():
    before = [np.copy(column) for column in GOOD[:3]]
    agglomerate_contacts(*GOOD)
    contract(*GOOD[:3], np.array([0, 0, 2]))
    assert all((column == kept).all() for column, kept in zip(GOOD[:3], before, strict=True))
