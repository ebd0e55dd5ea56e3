"""The record of what a run is: a run goes on only where everything that shapes its labels is the same.

Which blocks are done is recorded by the bundles of each stage (see `scratch`); this is the key to all of them.
"""

import hashlib
import json
import os
import platform
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from .scratch import LOCK, Arrays, DamagedBundleError, FileScratch, find

RUN, MANIFEST, VOID, CLASSES = "run", "manifest", "void", "classes"

_CLAIMS = 8

_HELD: set[str] = set()
"""Locks that this process holds: one that it has given back counts no more, should its store not let it be removed."""


def describe_array(array: Any) -> dict[str, Any]:
    """What identifies an input without reading it: store, shape, type, chunks and codecs."""
    metadata = array.metadata.to_dict()
    text = json.dumps(metadata, sort_keys=True, default=str)
    return {
        "store": f"{array.store}/{array.path}",
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "metadata": hashlib.sha256(text.encode()).hexdigest()[:16],
    }


def digest(record: dict[str, Any]) -> str:
    """Short name of a record, the same for runs that give the same labels: whatever their blocks and halo."""
    left_out = {"block_shape", "halo", "chunks"} | ({"on_missing"} if _met_none_missing(record) else set())
    kept = {key: value for key, value in record.items() if key not in left_out}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


def digests(record: dict[str, Any]) -> set[str]:
    """Digests of the runs that are complete with the labels of this one: they may have met no missing chunk."""
    return {digest(record), digest({**record, "on_missing": "error"})}


def _met_none_missing(record: dict[str, Any]) -> bool:
    # What such a run has done is right whatever a missing chunk means.
    return bool(record.get("on_missing", "error") == "error")


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [d for key in keys for d in _differences(old.get(key), new.get(key), f"{path}.{key}".strip("."))]
    return [] if old == new else [f"{path}: {old!r} then, {new!r} now"]


def admit(scratch: FileScratch, record: dict[str, Any], *, resume: bool, overwrite: bool) -> str | None:
    """Name of an interrupted run to go on with, or None to begin; refuse what does not fit. Nothing is written.

    A run that took a missing chunk for an error has met none so far: it may go on with chunks that mean background, see
    `go_on`, but not the other way round.

    Raises
    ------
    FileExistsError
        When scratch holds an unfinished run and neither `resume` nor `overwrite` is set, or holds something else.
    ValueError
        When `resume` is set and the run there is another one; the message says what differs.
    """
    old, void = recorded(scratch), _note(scratch, VOID, VOID)
    if old is None and void is None and not scratch.holds_only(CLASSES):  # left by tasks that outlived their run
        raise FileExistsError(f"scratch {scratch.url} is not empty and holds no run of topo_dask: choose another")
    if old is None or void is not None or overwrite:
        return None
    if not resume:
        raise FileExistsError(
            f"scratch {scratch.url} holds an unfinished run: pass resume=True to go on with it, or overwrite=True to "
            "begin again"
        )
    name: str = old.pop("run")
    if _met_none_missing(old):
        old["on_missing"] = record["on_missing"]
    differences = _differences(old, json.loads(json.dumps(record)))
    if differences:
        raise ValueError(f"the run in {scratch.url} can not be resumed, it is another one: {'; '.join(differences)}")
    return name


def recorded(scratch: FileScratch) -> dict[str, Any] | None:
    """Record of the run in scratch, or None when there is none."""
    bundle = _note(scratch, RUN, MANIFEST)
    return None if bundle is None else dict(json.loads(bytes(bundle["record"])))


def _note(scratch: FileScratch, kind: str, key: str) -> Arrays | None:
    # What says which run is here, and whether it may be resumed; without it nothing can be made good.
    try:
        return find(scratch, kind, key)
    except DamagedBundleError as error:
        raise OSError(
            f"the record of the run in {scratch.url} is damaged: remove that folder and begin again with overwrite=True"
        ) from error


@dataclass(frozen=True)
class Claim:
    """The lock of a run that is at work."""

    scratch: FileScratch
    token: str

    def check(self) -> None:
        """Raise RuntimeError when the lock is gone: another run has taken over, and this one must not go on."""
        if find(self.scratch, LOCK, self.token) is None:
            raise RuntimeError(
                f"another run has taken over {self.scratch.url} with resume=True or overwrite=True while this one was "
                "at work: let that one end"
            )


@contextmanager
def claim(scratch: FileScratch, *, insist: bool = False) -> Iterator[Claim]:
    """Keep every other run out of scratch, or another folder of locks, for as long as the context lasts.

    A run files its lock, then looks for others: of two that begin at once at most one goes on. A lock of a process of
    this machine that is no more is swept. Whether a process of another machine, or of another container, lives can not
    be seen from here: who insists sweeps its lock, and it has to look whether its own is still there.

    Parameters
    ----------
    scratch : FileScratch
        Scratch of the run.
    insist : bool
        Whether locks of other machines count for nothing: set when the caller said `resume` or `overwrite`.

    Yields
    ------
    claim : Claim
        The lock of this run.

    Raises
    ------
    FileExistsError
        When another run is at work; the message names its machine and process.
    """
    token = uuid4().hex
    _HELD.add(token)
    try:
        for _ in range(_CLAIMS):
            if (other := _other_run(scratch, token, insist)) is not None:
                break
            _file_lock(scratch, token)
            if (other := _other_run(scratch, token, insist)) is None:
                break
            scratch.remove(LOCK, token)
            time.sleep(random.uniform(0.05, 0.5))
        if other is not None:
            raise FileExistsError(
                f"another run is at work in {scratch.url}: process {other['pid']} of {other['host']}; wait for "
                "it, or end it and pass resume=True"
            )
        for dead in scratch.keys(LOCK) - {token}:
            scratch.remove(LOCK, dead)
        scratch.sweep()
        yield Claim(scratch, token)
    finally:
        _HELD.discard(token)
        scratch.remove(LOCK, token)
        scratch.prune()


def _file_lock(scratch: FileScratch, token: str) -> None:
    # A run that begins sweeps, and one that ends removes, the folder in which this one is about to file its lock.
    for left in reversed(range(_CLAIMS)):
        try:
            scratch.put(LOCK, token, holder=_to_bytes(_this_process()))
        except FileNotFoundError:
            if not left:
                raise
            time.sleep(random.uniform(0.0, 0.05))
        else:
            return


def _other_run(scratch: FileScratch, token: str, insist: bool) -> dict[str, Any] | None:
    # Another process that may be at work here, or None.
    for key in sorted(scratch.keys(LOCK) - {token}):
        bundle = find(scratch, LOCK, key)
        if bundle is not None and "holder" in bundle:
            holder: dict[str, Any] = json.loads(bytes(bundle["holder"]))
            ours = _this_process()
            here = all(holder.get(name) == ours[name] for name in ("host", "processes"))
            if _is_held(key, holder) if here else not insist:
                return holder
    return None


def _this_process() -> dict[str, Any]:
    import psutil

    started = psutil.Process().create_time()
    return {"host": platform.node(), "processes": _processes(), "pid": os.getpid(), "started": started}


def _processes() -> int | None:
    # Which processes are seen from here: containers of one host name have numbers of their own for theirs.
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None


def _is_held(key: str, holder: dict[str, Any]) -> bool:
    # Whether a process that would be seen from here is at work.
    import psutil

    if holder["pid"] == os.getpid():
        return key in _HELD
    try:
        process = psutil.Process(holder["pid"])
        # Numbers of processes are used again, and their start is told to a fraction of a second.
        same = abs(float(process.create_time()) - float(holder["started"])) < 2
        return same and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _to_bytes(record: dict[str, Any]) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(record, sort_keys=True).encode(), np.uint8)


def begin(scratch: FileScratch, record: dict[str, Any]) -> str:
    """Clear scratch, file the record of a new run there, and return the run's name."""
    clear(scratch)
    name = uuid4().hex
    _file_record(scratch, record, name)
    return name


def go_on(scratch: FileScratch, record: dict[str, Any]) -> str:
    """Name of the run in scratch, which was admitted; its record is replaced if missing chunks now mean background."""
    old = recorded(scratch)
    assert old is not None
    name: str = old["run"]
    if _met_none_missing(old) and not _met_none_missing(record):
        _file_record(scratch, record, name)
    return name


def _file_record(scratch: FileScratch, record: dict[str, Any], name: str) -> None:
    # How the run was called shapes no label, and is no part of the record: it is for people who want to go on with it.
    origin = {"command": sys.argv, "folder": os.getcwd()}
    scratch.put(RUN, MANIFEST, record=_to_bytes({**record, "run": name}), origin=_to_bytes(origin))


def read_run(scratch: FileScratch) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Record of the unfinished run in scratch, and the command and folder it was begun with; None without a run."""
    bundle = _note(scratch, RUN, MANIFEST)
    if bundle is None or _note(scratch, VOID, VOID) is not None:
        return None
    record, origin = (json.loads(bytes(bundle[name])) for name in ("record", "origin"))
    return record, origin


def at_work(scratch: FileScratch) -> dict[str, Any] | None:
    """Machine (``host``) and process (``pid``) of the run at work in scratch; None where there is none.

    Whether a process of another machine lives can not be seen from here: it counts as being at work.
    """
    return _other_run(scratch, "", insist=False)


def compartment(scratch: FileScratch, run: str, name: str) -> FileScratch:
    """Where the bundles of one class of a run go: tasks of a run that has ended may still be at work elsewhere."""
    return scratch.within(CLASSES).within(run).within(name)


def clear(scratch: FileScratch) -> None:
    """Remove what runs have filed, and nothing else.

    The run is declared void first: one whose bundles are half removed must never be resumed.
    """
    if scratch.is_empty():
        return
    scratch.put(VOID, VOID)
    for kind in (CLASSES, RUN, VOID):
        scratch.discard(kind)


def clear_void(scratch: FileScratch) -> None:
    """Remove what is left of a run that was killed while its bundles were removed."""
    if _note(scratch, VOID, VOID) is not None:
        with claim(scratch, insist=True):
            clear(scratch)
