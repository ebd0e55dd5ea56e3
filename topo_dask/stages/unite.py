"""Unite instances that touch, by the flow on both sides of their contacts: count the contacts, then decide."""

import numpy as np
from numpy.typing import NDArray

from ..blocks.geometry import Block
from ..kernels.agglomeration import agglomerate_contacts
from ..kernels.contact_tables import Table, combine_contacts, number_nodes
from ..kernels.contacts import tabulate_contacts, unite_contacts
from ..kernels.labels import add_up, number_roots
from ..stores.filed import find_filed, listed
from .gather import contacts_kind, table_of
from .job import Job, View, file_dropped, file_luts, read_columns


def count_contacts(job: Job, key: str, view: View, mode: str) -> None:
    """File the contact table of a block. Each voxel face counts once; a block counts those on its own upper faces.

    Parameters
    ----------
    view : View
        Labels on which the contacts are counted.
    mode : {"adjacent", "agglomerate"}
        Score of a face.
    """
    assert not view.patches  # the planes of the next blocks are read without patches
    block = job.grid.named(key)
    labels, beyond = _labels_with_margin(job, block, view)
    box = block.write.grow((0, 0, 0), beyond, job.grid.shape)
    flow = job.need_flow().read(box)
    pairs, sums, faces = tabulate_contacts(labels, flow, block.write.shape, mode, origin=block.write.start)
    job.scratch.put("contacts", key, pairs=pairs, sums=sums, faces=faces)


def _labels_with_margin(job: Job, block: Block, view: View) -> tuple[NDArray[np.int32], tuple[int, int, int]]:
    # Returns the block's labels and, along axes with a next block, the first plane of that. Edges and corners of the
    # margin belong to no face of this block and stay 0.
    above = [job.grid.above(block, axis) for axis in range(3)]
    z, y, x = (int(neighbour is not None) for neighbour in above)
    depth, height, width = block.write.shape
    labels = np.zeros((depth + z, height + y, width + x), np.int32)
    labels[:depth, :height, :width] = view.read(job, block)
    for axis, neighbour in enumerate(above):
        beyond = None if neighbour is None else find_filed(job.scratch, f"{view.numbers}.faces", neighbour.key)
        if neighbour is not None and beyond is not None:
            plane = beyond[f"lower{axis}"]
            lut = np.concatenate(([0], job.scratch.get(view.lut, neighbour.key)["lut"]))
            index: list[int | slice] = [slice(0, depth), slice(0, height), slice(0, width)]
            index[axis] = -1
            labels[tuple(index)] = lut[plane]
    return labels, (z, y, x)


def unite(job: Job, view: View, mode: str, threshold: float, min_size: int, tiers: int = 0) -> None:
    """Combine the contact tables that are left, unite instances and file a look-up table for each block.

    Parameters
    ----------
    view : View
        Labels that the contacts were counted on.
    mode : {"adjacent", "agglomerate"}
        Single linkage of pairs above the threshold, or average linkage.
    threshold : float
        Mean score above which instances are united.
    min_size : int
        United instances of fewer voxels are dropped.
    tiers : int
        Number of tiers of regions in which instances have been united before.
    """
    rows, columns = read_columns(job, view.lut, ("lut",))
    if not rows:
        return
    lut = columns[0]
    n = int(lut.max(initial=0))
    roots = _roots_below(job, n, tiers)
    nodes, (pairs, sums, faces) = number_nodes(_gather_tables(job, tiers))
    solve = unite_contacts if mode == "adjacent" else agglomerate_contacts
    roots[nodes - 1] = nodes[solve(pairs, sums, faces, len(nodes), threshold)] - 1
    for _ in range(tiers):  # a root of one tier may have been united at the next
        roots = roots[roots]
    keep = np.ones(n, np.bool_)
    if min_size > 1:
        counts = read_columns(job, f"{view.numbers}.extents", ("counts",))[1][0]
        labelled = lut > 0
        voxels = add_up(roots[lut[labelled] - 1], counts[labelled], n)
        keep = voxels >= min_size
        file_dropped(job, "unite", voxels, min_size)
    united = np.concatenate((np.zeros(1, np.int32), number_roots(roots, keep)))
    file_luts(job, "unite", rows, united[lut])


def _gather_tables(job: Job, tiers: int) -> Table:
    kind = contacts_kind(tiers - 1)
    bundles = job.scratch.get_each(kind, sorted(listed(job.scratch, kind)))
    return combine_contacts([table_of(bundle) for bundle in bundles])


def _roots_below(job: Job, n: int, tiers: int) -> NDArray[np.int64]:
    roots = np.arange(n)
    for tier in range(tiers):
        kind = f"{contacts_kind(tier)}.united"
        for bundle in job.scratch.get_each(kind, listed(job.scratch, kind)):
            roots[bundle["nodes"] - 1] = bundle["roots"] - 1
    return roots
