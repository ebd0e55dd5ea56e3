"""Pages: regions of the flow that are kept in memory while more particles are likely to need them.

All blocks of a large object send their particles towards the same places, so the tasks of a process share the pages.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any
from uuid import uuid4

from ..kernels.tracking import Region
from .sharing import of_this_process

_STRIPES = 16

_REMEMBERED = 32
"""Dropped pages whose keys are remembered, to notice when one of them is asked for again."""


class Pages:
    """The most recently used regions of flow fields, within a number of bytes.

    All copies that tasks of a cluster unpickle in one process are the same object. A process keeps the pages of one run
    at a time. At first, pages take half of the bytes allowed: where objects are small, few pages are asked for again.
    They take more as soon as a page is asked for again that was dropped a moment ago.

    Parameters
    ----------
    allowed_mem : int
        Bytes that may be kept; 0 keeps nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from topo_dask.kernels.tracking import region_of
    >>> pages = Pages(1 << 20)
    >>> made = lambda: region_of(np.zeros((3, 1, 1, 1)), (0, 0, 0), 1.0)
    >>> pages.get("box", made) is pages.get("box", made)
    True
    """

    def __init__(self, allowed_mem: int, token: str | None = None) -> None:
        self._allowed_mem = allowed_mem
        self._token = token or uuid4().hex
        self._room = allowed_mem // 2
        self._kept: OrderedDict[Hashable, Region] = OrderedDict()
        self._let_go: OrderedDict[Hashable, None] = OrderedDict()
        self._lock = Lock()
        self._making = [Lock() for _ in range(_STRIPES)]

    def __reduce__(self) -> tuple[Any, ...]:
        return _of_this_process, (self._allowed_mem, self._token)

    def find(self, key: Hashable) -> Region | None:
        """The page if it is in memory, else None."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def get(self, key: Hashable, make: Callable[[], Region]) -> Region:
        """The page. If it is not in memory, one thread makes it, and the other threads that ask for it wait."""
        with self._making[hash(key) % _STRIPES]:
            page = self.find(key)
            if page is None:
                page = make()
                self._keep(key, page)
        return page

    def _keep(self, key: Hashable, page: Region) -> None:
        with self._lock:
            self._kept[key] = page
            if key in self._let_go:
                del self._let_go[key]
                self._room = min(self._allowed_mem, self._room + page.vectors.nbytes)
            while self._kept and sum(kept.vectors.nbytes for kept in self._kept.values()) > self._room:
                self._let_go[self._kept.popitem(last=False)[0]] = None
            while len(self._let_go) > _REMEMBERED:
                self._let_go.popitem(last=False)

    def clear(self) -> None:
        """Drop all pages."""
        with self._lock:
            self._kept.clear()


def _of_this_process(allowed_mem: int, token: str) -> Pages:
    return of_this_process("pages", token, lambda: Pages(allowed_mem, token))
