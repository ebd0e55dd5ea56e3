"""Split disconnected instances: fragments in each block, joined across faces, large ones made instances."""

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import Block
from ..kernels.extents import measure
from ..kernels.fragments import divide_instances, face_pairs, find_fragments
from ..kernels.linking import connected
from ..stores.scratch import Scratch, find_filed
from .job import Job, View, extent_columns
from .tables import file_luts, read_columns

PIECE = 1 << 15
"""Rows of a table in one bundle of scratch."""

SEED_COLUMNS = ("labels", "blocks", "lower", "upper")


def fragments(job: Job, key: str, view: View) -> None:
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
    """File which fragments of a block go on in the next block along each axis."""
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
    """Join the fragments of all blocks, decide which become instances, and file a look-up table a block.

    For the voxels of small fragments it files where the large fragments of their instances are.
    """
    rows, columns = read_columns(job, "fragments.ids", ("ids",))
    if not rows:
        return
    ids = columns[0]
    counts, firsts, lower, upper = read_columns(job, "fragments.extents", ("counts", "firsts", "lower", "upper"))[1]
    roots = connected(_face_links(job, rows), len(ids))
    voxels = np.zeros(len(ids), np.int64)
    np.add.at(voxels, roots, counts)
    first = np.full(len(ids), np.iinfo(np.int64).max)
    np.minimum.at(first, roots, firsts)
    is_root = roots == np.arange(len(ids))
    new = np.zeros(len(ids), np.int32)
    new[is_root] = divide_instances(ids[is_root], voxels[is_root], first[is_root], min_fragment_ratio)
    new = new[roots]
    file_luts(job, "split", rows, new)
    block_ids = np.array([block.block_id for block, _ in rows], np.int64)
    blocks = np.repeat(block_ids, [part.stop - part.start for _, part in rows], axis=0)
    _file_seeds(job, rows, ids, new, blocks, lower, upper)


def _face_links(job: Job, rows: list[tuple[Block, slice]]) -> NDArray[np.int64]:
    offsets = {block.key: part.start for block, part in rows}
    links = [np.empty((0, 2), np.int64)]
    for block, _ in rows:
        for name, pairs in job.scratch.get("join", block.key).items():
            neighbour = job.grid.above(block, int(name.removeprefix("axis")))
            assert neighbour is not None
            links.append(pairs + np.array([offsets[block.key] - 1, offsets[neighbour.key] - 1]))
    return np.concatenate(links)


def _file_seeds(
    job: Job,
    rows: list[tuple[Block, slice]],
    ids: NDArray[np.int32],
    new: NDArray[np.int32],
    blocks: NDArray[np.int64],
    lower: NDArray[np.int64],
    upper: NDArray[np.int64],
) -> None:
    # Pieces of large fragments, by instance, for the instances that have small ones; and for each block with small
    # ones which rows of that table concern it.
    small = new == 0
    wanted = np.unique(ids[small])
    seeds = np.flatnonzero(~small & np.isin(ids, wanted))
    seeds = seeds[np.argsort(ids[seeds], kind="stable")]
    begins = np.searchsorted(ids[seeds], wanted)
    ends = np.searchsorted(ids[seeds], wanted, side="right")
    columns = (new[seeds], blocks[seeds], lower[seeds], upper[seeds])
    for i in range(0, len(seeds), PIECE):
        bundle = dict(zip(SEED_COLUMNS, (column[i : i + PIECE] for column in columns), strict=True))
        job.scratch.put("split.seeds", str(i // PIECE), **bundle)
    for block, part in rows:
        if small[part].any():
            instances = np.unique(ids[part][small[part]])
            at = np.searchsorted(wanted, instances)
            job.scratch.put("split.small", block.key, ids=instances, begins=begins[at], ends=ends[at])


def seed_rows(scratch: Scratch, begin: int, end: int) -> list[NDArray[np.int64]]:
    """Rows begin..end of the table of seeds: labels, block indices, lower and upper corners."""
    parts = []
    for piece in range(begin // PIECE, (end - 1) // PIECE + 1):
        bundle = scratch.get("split.seeds", str(piece))
        part = slice(max(begin - piece * PIECE, 0), end - piece * PIECE)
        parts.append([bundle[name][part] for name in SEED_COLUMNS])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]
