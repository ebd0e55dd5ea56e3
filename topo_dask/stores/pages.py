"""Pages: regions of the flow that are kept at hand for as long as particles are likely to come by again.

The blocks of a large object all send their particles towards the same places, so the tasks of a process share them.
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
"""Pages of which it is remembered that they were let go."""


class Pages:
    """Regions of flow fields, the latest used ones, within a number of bytes.

    Copies of it in one process, as tasks of a cluster unpickle them, are the same object. A process keeps the pages
    of one run at a time. Half of what is allowed is used, and more as soon as pages are asked for again that were let
    go a moment ago: small objects ask for few pages again.

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
        """A page that is at hand, or None."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def get(self, key: Hashable, make: Callable[[], Region]) -> Region:
        """A page, made if it is not at hand, by one thread for all who wait for it."""
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
        """Let go of all pages."""
        with self._lock:
            self._kept.clear()


def _of_this_process(allowed_mem: int, token: str) -> Pages:
    return of_this_process("pages", token, lambda: Pages(allowed_mem, token))
