"""Locks: only one run at a time works in a scratch folder or on an output."""

import json
import os
import platform
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from .bundles import to_bytes
from .processes import boot_id, numbering, start_of
from .scratch import LOCK, FileScratch, find

_CLAIMS = 8

_HELD: set[str] = set()
"""Locks that this process holds. A lock that it has given back no longer counts, even if the store still has it."""


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
def claim(scratch: FileScratch, *, take_over: bool = False) -> Iterator[Claim]:
    """Keep every other run out of scratch, or another folder of locks, for as long as the context lasts.

    A run files its lock and then looks for other locks: when two runs begin at once, at most one of them goes on. The
    lock of a process of this machine that has ended is removed. Whether a process of another machine, or of another
    container, is alive cannot be seen from here. A run that takes over removes the lock of such a process; so each
    run checks, between its stages, that its own lock is still there.

    Parameters
    ----------
    scratch : FileScratch
        Scratch of the run.
    take_over : bool
        Whether to take over from runs of other machines: set when the caller passed `resume` or `overwrite`.

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
            # One look is enough: a lock that the store hides now is found by the next call, after ours is filed.
            if (other := _other_run(scratch, token, take_over, looks=1)) is not None:
                break
            _file_lock(scratch, token)
            if (other := _other_run(scratch, token, take_over)) is None:
                break
            scratch.remove(LOCK, token)
            time.sleep(random.uniform(0.05, 0.5))
        if other is not None:
            raise _refusal(scratch, other)
        for dead in scratch.keys(LOCK) - {token}:
            scratch.remove(LOCK, dead)
        scratch.sweep()
        yield Claim(scratch, token)
    finally:
        _HELD.discard(token)
        scratch.remove(LOCK, token)
        scratch.prune()


def check_free(scratch: FileScratch, *, take_over: bool) -> None:
    """Raise FileExistsError as `claim` does when another run is at work, but look only once and write nothing."""
    if (other := _other_run(scratch, "", take_over, looks=1)) is not None:
        raise _refusal(scratch, other)


def _refusal(scratch: FileScratch, other: dict[str, Any]) -> FileExistsError:
    return FileExistsError(
        f"another run is at work in {scratch.url}: process {other['pid']} of {other['host']}; wait for it, or end it "
        "and pass resume=True"
    )


def _file_lock(scratch: FileScratch, token: str) -> None:
    # The write may fail because of another run: one that begins removes half-written files, and one that ends removes
    # the folder.
    for left in reversed(range(_CLAIMS)):
        try:
            scratch.put(LOCK, token, holder=to_bytes(_this_process()))
        except FileNotFoundError:
            if not left:
                raise
            time.sleep(random.uniform(0.0, 0.05))
        else:
            return


def _other_run(scratch: FileScratch, token: str, take_over: bool, looks: int | None = None) -> dict[str, Any] | None:
    # The holder of another lock, a process that may be at work here; None where there is no such lock.
    for key in sorted(scratch.keys(LOCK, looks) - {token}):
        bundle = find(scratch, LOCK, key)
        if bundle is not None and "holder" in bundle:
            holder: dict[str, Any] = json.loads(bytes(bundle["holder"]))
            ours = _this_process()
            here = all(holder.get(name) == ours[name] for name in ("host", "processes"))
            if _is_held(key, holder) if here else not take_over:
                return holder
    return None


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": platform.node(), "processes": numbering(), "boot": boot_id(), "pid": pid, **start_of(pid)}


def _is_held(key: str, holder: dict[str, Any]) -> bool:
    # Whether the holder is still at work; if it is alive, it is visible from here.
    import psutil

    if holder["pid"] == os.getpid():
        return key in _HELD
    if None not in (before := holder.get("boot"), now := boot_id()) and before != now:
        return False  # the machine was booted since
    try:
        # Another process may have got the same number since. A start is known to a fraction of a second. Locks of
        # earlier versions hold only the start since the epoch.
        start = start_of(holder["pid"])
        same = any(name in holder and abs(at - holder[name]) < 2 for name, at in start.items())
        return same and bool(psutil.Process(holder["pid"]).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def at_work(scratch: FileScratch) -> dict[str, Any] | None:
    """Machine (``host``) and process (``pid``) of the run at work in scratch; None where there is none.

    Whether a process of another machine is alive cannot be seen from here: it counts as being at work.
    """
    return _other_run(scratch, "", take_over=False)
