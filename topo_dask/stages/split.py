"""Split disconnected instances: find fragments in each block, join them across faces, make large ones instances."""

import numpy as np
from numpy.typing import NDArray

from ..kernels.extents import measure
from ..kernels.fragments import divide_instances, face_pairs, find_fragments
from ..kernels.labels import add_up
from ..kernels.linking import connected
from ..stores.filed import find_filed
from .job import BlockRows, Job, View, extent_columns, file_luts, read_columns
from .seeds import file_seeds


def number_fragments(job: Job, key: str, view: View) -> None:
    """Number the fragments of a block and file them, their planes on all six faces, and their extents."""
    block = job.grid.named(key)
    labels = view.read(job, block)
    numbers, n = find_fragments(labels)
    faces = {
        f"{side}{axis}": np.take(numbers, plane, axis=axis)
        for axis in range(3)
        for side, plane in (("lower", 0), ("upper", -1))
    }
    extents = measure(numbers, n, block.write.start, job.grid.shape)
    job.scratch.put("fragments.extents", key, **extent_columns(extents))
    job.scratch.put("fragments.faces", key, **faces)
    firsts = extents.firsts
    del extents
    z, y, x = (i - a for i, a in zip(np.unravel_index(firsts, job.grid.shape), block.write.start, strict=True))
    job.scratch.put("fragments.ids", key, ids=labels[z, y, x])
    job.scratch.put("fragments", key, numbers=numbers)


def join(job: Job, key: str) -> None:
    """File which fragments of a block continue in the next block along each axis."""
    block = job.grid.named(key)
    own_ids = job.scratch.get("fragments.ids", key)["ids"]
    own = job.scratch.get("fragments.faces", key)
    pairs = {}
    for axis in range(3):
        neighbour = job.grid.above(block, axis)
        beyond = None if neighbour is None else find_filed(job.scratch, "fragments.ids", neighbour.key)
        if neighbour is None or beyond is None:
            continue
        plane = job.scratch.get("fragments.faces", neighbour.key)[f"lower{axis}"]
        pairs[f"axis{axis}"] = face_pairs(own[f"upper{axis}"], plane, own_ids, beyond["ids"])
    job.scratch.put("join", key, **pairs)


def split(job: Job, min_fragment_ratio: float) -> None:
    """Join the fragments of all blocks, decide which become instances, and file a look-up table for each block.

    It also files where the large fragments of instances with small ones are; voxels of small fragments search there.
    """
    rows, columns = read_columns(job, "fragments.ids", ("ids",))
    if not rows:
        return
    ids = columns[0]
    counts, firsts, lower, upper = read_columns(job, "fragments.extents", ("counts", "firsts", "lower", "upper"))[1]
    roots = connected(_face_links(job, rows), len(ids))
    voxels = add_up(roots, counts, len(ids))
    first = np.full(len(ids), np.iinfo(np.int64).max)
    np.minimum.at(first, roots, firsts)
    is_root = roots == np.arange(len(ids))
    new = np.zeros(len(ids), np.int32)
    new[is_root] = divide_instances(ids[is_root], voxels[is_root], first[is_root], min_fragment_ratio)
    new = new[roots]
    file_luts(job, "split", rows, new)
    file_seeds(job, rows, ids, new, lower, upper)


def _face_links(job: Job, rows: BlockRows) -> NDArray[np.int64]:
    offsets = {block.key: part.start for block, part in rows}
    links = [np.empty((0, 2), np.int64)]
    joins = job.scratch.get_each("join", offsets)
    for (block, _), join_of_block in zip(rows, joins, strict=True):
        for name, pairs in join_of_block.items():
            neighbour = job.grid.above(block, int(name.removeprefix("axis")))
            assert neighbour is not None
            links.append(pairs + np.array([offsets[block.key] - 1, offsets[neighbour.key] - 1]))
    return np.concatenate(links)
