"""Scratch of lazy arrays: which process it belongs to, and when it is removed."""

import atexit
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import weakref
from contextlib import suppress
from functools import cache
from typing import Any
from uuid import uuid4

from ..stores.addresses import Place, is_memory, is_url
from ..stores.places import check_folder, place_of_scratch
from ..stores.processes import boot_id, numbering
from ..stores.scratch import FileScratch

_OURS = re.compile(r"topo_dask-([0-9a-f]{8})-([0-9]+)-[0-9a-f]{32}")
"""Name of a folder of scratch: its machine, and the number of its process."""

_REMOVE = """
import sys
from fsspec.core import url_to_fs
fs, path = url_to_fs(sys.argv[1])
try:
    fs.rm(path, recursive=True)
except FileNotFoundError:  # nothing was filed
    pass
"""


def open_scratch(place: Place | None) -> FileScratch:
    """A new folder in the place that the caller chose: it is removed with the graph that it is for; the place stays.

    If the graph is sent to other processes, or the place is a store, the folder is removed when this process ends.
    Folders of killed processes of this machine are removed when the next process asks for scratch in the same place.
    """
    import dask

    usual = dask.config.get("temporary-directory", None) or tempfile.gettempdir()
    root = place_of_scratch(usual if place is None else place)
    check_folder(root, "the scratch of lazy arrays", "pass scratch=<another folder>")
    url = f"{root.rstrip('/')}/topo_dask-{_machine()}-{os.getpid()}-{uuid4().hex}"
    if not is_url(url):
        _sweep(root)
        return _Leased(url)
    atexit.register(_remove, url, os.getpid())
    return FileScratch(url)


def _machine() -> str:
    # Machines may have the same name, and share the place. Containers number their processes independently.
    return hashlib.sha256(f"{platform.node()} {numbering()} {boot_id()}".encode()).hexdigest()[:8]


@cache
def _sweep(root: str) -> None:
    # Once in a process and place: a killed kernel must not fill the disk with copies of its inputs. Of other users'
    # processes it may be impossible to see whether they live.
    import psutil

    if boot_id() is None:
        return
    with suppress(OSError), os.scandir(root) as entries:
        for entry in entries:
            match = _OURS.fullmatch(entry.name)
            if match is None or match[1] != _machine() or psutil.pid_exists(int(match[2])):
                continue
            with suppress(FileNotFoundError):  # another process may be sweeping, too
                if entry.stat(follow_symlinks=False).st_uid == os.getuid():
                    shutil.rmtree(entry.path, ignore_errors=True)


class _Leased(FileScratch):
    # Removed with the last graph that holds it. Once it was pickled other processes may use it: then it is removed when
    # this process ends.

    _end: "weakref.finalize[Any, _Leased]"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        object.__setattr__(self, "_end", weakref.finalize(self, _remove, url, os.getpid()))

    def __reduce__(self) -> tuple[Any, ...]:
        if (end := self._end.detach()) is not None:
            _, function, arguments, _ = end
            atexit.register(function, *arguments)
        return FileScratch, (self.url,)


def _remove(url: str, owner: int) -> None:
    if os.getpid() != owner or is_memory(url):
        return
    if is_url(url):
        # Clients of stores may start threads, which a process that is ending cannot: another process does it.
        subprocess.run([sys.executable, "-c", _REMOVE, url], check=False)
    else:
        shutil.rmtree(url, ignore_errors=True)
