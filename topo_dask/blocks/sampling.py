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
        Longest edge of a box.

    Examples
    --------
    >>> sample_boxes((1, 4, 4), (1, 4, 4), 8)
    [Box(start=(0, 0, 0), stop=(1, 4, 4))]
    >>> sample_boxes((64, 64, 64), (32, 32, 32), 8)[:2]
    [Box(start=(32, 32, 32), stop=(40, 40, 40)), Box(start=(12, 12, 12), stop=(20, 20, 20))]
    """
    found: dict[Box, None] = {}
    for part in _QUARTERS if all(shape) else ():
        start, stop = [], []
        for n, chunk, quarter in zip(shape, chunks, part, strict=True):
            at = n * (quarter if n >= 3 * edge else 2) // 4
            low, high = at // chunk * chunk, min(n, (at // chunk + 1) * chunk)
            first = max(low, min(at - edge // 2, high - edge))
            start.append(first)
            stop.append(min(high, first + edge))
        found[Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))] = None
    return list(found)
