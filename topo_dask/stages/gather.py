"""Agglomerate region by region, exactly. Only contacts that no region can decide are left for the whole volume.

The regions of tier k are ``2**k`` blocks wide; the regions of tier 0 are the blocks. Each region adds up the contact
tables of the regions in it. It unites those instances that the table of the whole volume would certainly unite too
(`agglomerate_contacts` with frozen nodes). It passes on the other contacts: those of instances that reach out of the
region, and those of instances whose union depends on them.
"""

import numpy as np
from numpy.typing import NDArray

from ..kernels.agglomeration import agglomerate_contacts
from ..kernels.contact_tables import Table, combine_contacts, contract, drop_decided, number_nodes
from ..stores.bundles import Arrays
from ..stores.filed import find_filed
from .job import Job


def contacts_kind(tier: int) -> str:
    """Kind of the bundles with the contact tables that a tier leaves; tier -1 stands for the tables of the blocks."""
    return "contacts" if tier < 0 else f"gather.{tier}"


def table_of(bundle: Arrays) -> Table:
    """Contact table that a bundle holds."""
    return bundle["pairs"], bundle["sums"], bundle["faces"]


def enclose(job: Job) -> None:
    """File, for each instance in a block's contact table, the tier from which on one region holds all its contacts."""
    blocks = job.occupied("contacts")
    tables = job.scratch.get_each("contacts", (block.key for block in blocks))
    parts = [np.unique(table["pairs"]) for table in tables]
    n = max((int(nodes[-1]) for nodes in parts if len(nodes)), default=0)
    lowest = np.full((n + 1, 3), np.iinfo(np.int32).max, np.int32)
    highest = np.zeros((n + 1, 3), np.int32)
    for block, nodes in zip(blocks, parts, strict=True):
        where = np.array(block.block_id, np.int32)
        lowest[nodes] = np.minimum(lowest[nodes], where)
        highest[nodes] = np.maximum(highest[nodes], where)

    def tiers_of(nodes: NDArray[np.int64]) -> NDArray[np.uint8]:
        # Two blocks are in one region of tier k when the bits of their indices from the k-th on are the same.
        tiers: NDArray[np.uint8] = np.frexp((lowest[nodes] ^ highest[nodes]).max(axis=1))[1].astype(np.uint8)
        return tiers

    own = zip(blocks, parts, strict=True)
    job.scratch.put_each("enclose", ((block.key, {"nodes": nodes, "tiers": tiers_of(nodes)}) for block, nodes in own))


def gather(job: Job, key: str, tier: int, threshold: float) -> None:
    """Unite instances inside one region; file which were united, and the contacts that are left.

    Parameters
    ----------
    job : Job
        The job; the blocks of its grid are the regions of this tier.
    tier : int
        Tier of the region.
    threshold : float
        Mean score above which instances are united.
    """
    below = _bundles_below(job, key, tier)
    nodes, (pairs, sums, faces) = number_nodes(combine_contacts([table_of(bundle) for bundle in below]))
    reach = _reach_of(nodes, below)
    frozen = reach > tier
    roots = agglomerate_contacts(pairs, sums, faces, len(nodes), threshold, frozen)
    pairs, sums, faces = drop_decided(*contract(pairs, sums, faces, roots), frozen, threshold)
    left = np.unique(pairs)
    united = np.flatnonzero(roots != np.arange(len(nodes)))
    kind = contacts_kind(tier)
    job.scratch.put(f"{kind}.united", key, nodes=nodes[united], roots=nodes[roots[united]])
    table = {"pairs": nodes[pairs], "sums": sums, "faces": faces}
    job.scratch.put(kind, key, **table, nodes=nodes[left], tiers=reach[left])


def _bundles_below(job: Job, key: str, tier: int) -> list[Arrays]:
    if tier == 0:
        return [{**job.scratch.get("contacts", key), **job.scratch.get("enclose", key)}]
    z, y, x = (2 * i for i in job.grid.named(key).block_id)
    inside = (f"{z + i}.{y + j}.{x + k}" for i, j, k in np.ndindex(2, 2, 2))
    found = (find_filed(job.scratch, contacts_kind(tier - 1), name) for name in inside)
    return [bundle for bundle in found if bundle is not None]


def _reach_of(nodes: NDArray[np.int64], bundles: list[Arrays]) -> NDArray[np.uint8]:
    # Tier from which on a region holds all contacts of a node. All bundles that know a node agree on it.
    reach = np.zeros(len(nodes), np.uint8)
    for bundle in bundles:
        reach[np.searchsorted(nodes, bundle["nodes"])] = bundle["tiers"]
    return reach
