"""What the stages have filed in scratch, by the records that they leave when they are done.

A listing may lack bundles that are there, where a store shows them late; a record does not.
"""

import numpy as np
from numpy.typing import NDArray

from .bundles import Arrays
from .scratch import FileScratch, Scratch, find
from .sharing import of_this_process

FILED = "filed"
"""Kind of the records that list what a stage has filed, once all its tasks are done: the keys of each kind, by line."""


def listed(scratch: Scratch, kind: str) -> set[str]:
    """Keys of the bundles of a kind whose stage is done: those on record, else those listed; OSError without either.

    The record comes first: a listing may lack some bundles, or all, if an object store or a network file system shows
    them late. A task that relied on it would leave those out, and its result would be filed as done.
    """
    record = _record_of(scratch, kind) if isinstance(scratch, FileScratch) else None
    if record is not None:
        return keys_in(record, kind)
    keys = scratch.keys(kind)
    if not keys and isinstance(scratch, FileScratch):
        raise OSError(f"no bundles are found in {scratch.url}/{kind}, and no record that there are none")
    return keys


def _record_of(scratch: FileScratch, kind: str) -> Arrays | None:
    # The record that the stage which files bundles of this kind has left.
    records = (scratch.get(FILED, name) for name in sorted(scratch.keys(FILED)))
    return next((record for record in records if kind in record), None)


def keys_in(record: Arrays, kind: str) -> set[str]:
    """Keys of a kind of bundle that the record of a stage names."""
    return set(bytes(record[kind]).decode().split("\n")) - {""}


def find_filed(scratch: Scratch, kind: str, key: str) -> Arrays | None:
    """A bundle of a kind whose stage is done and on record, or None if that record says that there is none.

    OSError if the bundle is on record but not found, or if there is no record. A store may hide for a while what it
    holds and still accept writes: a task would then file its result without a neighbour that is there.
    """
    found = find(scratch, kind, key)
    if found is None and isinstance(scratch, FileScratch) and _is_filed(scratch, kind, key):
        raise OSError(f"scratch bundle {scratch.url}/{kind}/{key} is lost; run again with resume=True")
    return found


def _is_filed(scratch: FileScratch, kind: str, key: str) -> bool:
    # A process reads the record once: what the stages of a run file depends on its inputs alone, also if a stage is
    # done again.
    known = of_this_process("filed keys", scratch.url, dict[str, NDArray[np.bytes_]])
    if kind not in known:
        record = _record_of(scratch, kind)
        if record is None:
            raise OSError(
                f"no bundle {scratch.url}/{kind} is on record, and it cannot be told which there are; run again with "
                "resume=True"
            )
        known[kind] = np.array(sorted(keys_in(record, kind)), "S")  # takes a tenth of the memory of a set
    at = np.searchsorted(known[kind], key.encode())
    return bool(at < len(known[kind]) and known[kind][at] == key.encode())
