"""A read under way: whether it has failed, what the store has denied it, and what zarr still holds of it."""

import time
from collections.abc import Set
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Event
from weakref import ReferenceType, ref

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer

_LOOK, _LONGEST = 0.0005, 1.0
"""Seconds between two looks whether threads of zarr have let go of chunks, and after which nobody waits any more."""


@dataclass
class Read:
    """A read under way.

    Parameters
    ----------
    failed : Event
        Whether it has failed.
    denied : dict, optional
        Objects, or parts of them, that the store has denied once and that count as absent so far; None once all have
        been looked for, and the values are read again because some are there.
    absent : set of str
        Those that are not.
    lent : list of weakref
        Stored bytes that zarr was given for the present part of the read.
    """

    failed: Event = field(default_factory=Event)
    denied: dict[str, ByteRequest | None] | None = field(default_factory=dict)
    absent: Set[str] = frozenset()
    lent: list[ReferenceType[Buffer]] = field(default_factory=list)

    def lend(self, found: Buffer) -> Buffer:
        """The same bytes, to give to zarr, in an object that no store keeps."""
        found = found[:]
        self.lent.append(ref(found))
        return found

    def await_release(self) -> None:
        """Wait until zarr has let go of the stored bytes, and of what it has decoded of them.

        A thread that has decoded a chunk holds it until it gets the processor again. On a busy machine a read in parts
        would have many of its parts in memory.
        """
        latest = time.monotonic() + _LONGEST
        while any(given() is not None for given in self.lent) and time.monotonic() < latest:
            time.sleep(_LOOK)
        self.lent.clear()


READ: ContextVar[Read | None] = ContextVar("read", default=None)
"""The read that the present code works for; zarr's tasks inherit it from the thread that reads."""
