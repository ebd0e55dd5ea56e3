"""Where to look at a volume when a few voxels have to do."""

from .geometry import Box, Triple

_QUARTERS = (2, 2, 2), (1, 1, 1), (1, 3, 3), (3, 1, 3), (3, 3, 1)  # the middle, and a tetrahedron about it


def sample_boxes(shape: Triple, chunks: Triple, edge: int) -> list[Box]:
    """Boxes in the middle of a volume and, where there is room, at four places about it, each within one chunk.

    Parameters
    ----------
    shape, chunks : tuple of 3 int
        Shapes of the volume and of its chunks.
    edge : int
        Edge of a box; where chunks are thinner it is as much longer along other axes.

    Examples
    --------
    >>> sample_boxes((1, 4, 4), (1, 4, 4), 8)
    [Box(start=(0, 0, 0), stop=(1, 4, 4))]
    >>> sample_boxes((64, 64, 64), (32, 32, 32), 8)[:2]
    [Box(start=(32, 32, 32), stop=(40, 40, 40)), Box(start=(12, 12, 12), stop=(20, 20, 20))]
    >>> sample_boxes((64, 64, 64), (2, 64, 64), 8)[:2]
    [Box(start=(32, 24, 24), stop=(34, 40, 40)), Box(start=(16, 8, 8), stop=(18, 24, 24))]
    """
    edges = _edges(shape, chunks, edge**3)
    found: dict[Box, None] = {}
    for part in _QUARTERS if all(shape) else ():
        start, stop = [], []
        for n, chunk, longest, quarter in zip(shape, chunks, edges, part, strict=True):
            at = n * (quarter if 2 * n >= 3 * longest else 2) // 4
            low, high = at // chunk * chunk, min(n, (at // chunk + 1) * chunk)
            first = max(low, min(at - longest // 2, high - longest))
            start.append(first)
            stop.append(min(high, first + longest))
        found[Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))] = None
    return list(found)


def _edges(shape: Triple, chunks: Triple, voxels: int) -> list[int]:
    # As near to a cube of so many voxels as there is room for in a chunk.
    room = [min(sides) for sides in zip(shape, chunks, strict=True)]
    edges = list(room)
    for axes, axis in zip((3, 2, 1), sorted(range(3), key=room.__getitem__), strict=True):
        edges[axis] = max(1, min(room[axis], round(voxels ** (1 / axes))))
        voxels //= max(1, edges[axis])
    return edges
