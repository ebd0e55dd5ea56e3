"""The record of a run: a run is resumed only if everything that shapes its labels is the same.

The record says which run scratch belongs to. Which blocks are done is told by the bundles of each stage, see `scratch`.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from .bundles import Arrays, DamagedBundleError, to_bytes
from .locks import claim
from .places import name_of
from .retries import in_parallel
from .scratch import FileScratch, find

RUN, MANIFEST, VOID, CLASSES = "run", "manifest", "void", "classes"

_FAILURE = "_failure"
"""Kind of the bundle that holds the error of a run; no class can have this name."""


def describe_array(array: Any) -> dict[str, Any]:
    """Describe an input without reading its voxels: place, shape, type, and a digest of its metadata."""
    metadata = {key: value for key, value in array.metadata.to_dict().items() if key != "attributes"}
    text = json.dumps(metadata, sort_keys=True, default=str)
    return {
        "store": name_of(array),
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "metadata": hashlib.sha256(text.encode()).hexdigest()[:16],
    }


def digest(record: dict[str, Any]) -> str:
    """Digest of a record: the same for runs that give the same labels, so blocks and halo are left out."""
    left_out = {"block_shape", "halo", "chunks"} | ({"on_missing"} if _met_none_missing(record) else set())
    kept = {key: value for key, value in record.items() if key not in left_out}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


def digests(record: dict[str, Any]) -> set[str]:
    """Digests of complete runs that have the labels of this one, also if missing chunks were an error to them."""
    return {digest(record), digest({**record, "on_missing": "error"})}


def _met_none_missing(record: dict[str, Any]) -> bool:
    # A run for which a missing chunk is an error has read none so far: its work is right for both policies.
    return bool(record.get("on_missing", "error") == "error")


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [d for key in keys for d in _differences(old.get(key), new.get(key), f"{path}.{key}".strip("."))]
    return [] if old == new else [f"{path}: {old!r} then, {new!r} now"]


def admit(scratch: FileScratch, record: dict[str, Any], *, resume: bool, overwrite: bool) -> str | None:
    """Name of an interrupted run to go on with, or None to begin one; raise if neither fits. Nothing is written.

    A run for which a missing chunk is an error has read none so far. It may go on with chunks that mean background, see
    `go_on`, but not the other way round.

    Raises
    ------
    FileExistsError
        When scratch holds an unfinished run and neither `resume` nor `overwrite` is set, or holds something else.
    ValueError
        When `resume` is set and the run there is another one; the message says what differs.
    """
    old, void, ours = in_parallel(
        lambda: recorded(scratch),
        lambda: _note(scratch, VOID, VOID),
        lambda: scratch.holds_only(CLASSES),  # bundles of tasks that went on after their run had ended
    )
    if old is None and void is None and not ours:
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
        raise ValueError(
            f"the run in {scratch.url} cannot be resumed, it is another one: {'; '.join(differences)}. Ask for what "
            "it was begun with, or pass overwrite=True to begin again"
        )
    return name


def recorded(scratch: FileScratch) -> dict[str, Any] | None:
    """Record of the run in scratch, or None when there is none."""
    bundle = _note(scratch, RUN, MANIFEST)
    return None if bundle is None else dict(json.loads(bytes(bundle["record"])))


def _note(scratch: FileScratch, kind: str, key: str) -> Arrays | None:
    # The bundles that say which run is here and whether it may be resumed: damage to them cannot be repaired.
    try:
        return find(scratch, kind, key)
    except DamagedBundleError as error:
        raise OSError(
            f"the record of the run in {scratch.url} is damaged: remove that folder and begin again with overwrite=True"
        ) from error


def begin(scratch: FileScratch, record: dict[str, Any], *, overwrite: bool) -> str:
    """Clear scratch, file the record of a new run there and whether it may replace labels; return the run's name."""
    clear(scratch)
    name = uuid4().hex
    _file_record(scratch, record, name, overwrite)
    return name


def go_on(scratch: FileScratch, record: dict[str, Any]) -> str:
    """Name of the run in scratch, which `admit` accepted; if missing chunks now mean background, its record says so.

    The error that ended it is forgotten.
    """
    old = recorded(scratch)
    assert old is not None
    name: str = old["run"]
    _notes(scratch, name).discard(_FAILURE)
    if _met_none_missing(old) and not _met_none_missing(record):
        _file_record(scratch, record, name, may_replace(scratch))
    return name


def _file_record(scratch: FileScratch, record: dict[str, Any], name: str, overwrite: bool) -> None:
    # The command shapes no label, so it is not part of the record: it helps people to resume the run.
    origin = {"command": sys.argv, "folder": os.getcwd(), "overwrite": overwrite}
    scratch.put(RUN, MANIFEST, record=to_bytes({**record, "run": name}), origin=to_bytes(origin))


def read_run(scratch: FileScratch) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Record of the unfinished run in scratch, and how it was begun (command, folder, overwrite); None without one."""
    bundle = _note(scratch, RUN, MANIFEST)
    if bundle is None or is_void(scratch):
        return None
    record, origin = (json.loads(bytes(bundle[name])) for name in ("record", "origin"))
    return record, origin


def is_void(scratch: FileScratch) -> bool:
    """Whether scratch holds the rest of a run whose removal was interrupted."""
    return _note(scratch, VOID, VOID) is not None


def may_replace(scratch: FileScratch) -> bool:
    """Whether the unfinished run in scratch was begun with `overwrite`: it may not have removed all old labels yet."""
    found = read_run(scratch)
    return found is not None and bool(found[1]["overwrite"])


@contextmanager
def noting_failure(scratch: FileScratch, run: str, check: Callable[[], None]) -> Iterator[None]:
    """File the error that ends a run, for people who ask how far it has come; `go_on` removes it.

    Nothing is filed if `check` raises an error: then scratch is another run's.
    """
    try:
        yield
    except Exception as error:
        text = str(error) + "".join(f" [{note}]" for note in getattr(error, "__notes__", ()))
        with suppress(Exception):  # the disk may be full: the error itself must not be lost
            check()
            _notes(scratch, run).put(_FAILURE, _FAILURE, note=to_bytes({"error": text}))
        raise


def failure(scratch: FileScratch, run: str) -> str | None:
    """Error that ended a run; None if there was none, or the run was killed before it could tell."""
    with suppress(DamagedBundleError):
        bundle = find(_notes(scratch, run), _FAILURE, _FAILURE)
        return None if bundle is None else str(json.loads(bytes(bundle["note"]))["error"])
    return None


def _notes(scratch: FileScratch, run: str) -> FileScratch:
    return scratch.within(CLASSES).within(run)


def compartment(scratch: FileScratch, run: str, name: str) -> FileScratch:
    """Scratch for one class of a run: tasks of a run that has ended may still file bundles, but not among these."""
    return scratch.within(CLASSES).within(run).within(name)


def clear(scratch: FileScratch) -> None:
    """Remove what runs have filed, and nothing else.

    The run is marked as void first: after an interruption it must not be resumed with half of its bundles.
    """
    if scratch.is_empty():
        return
    scratch.put(VOID, VOID)
    in_parallel(lambda: scratch.discard(CLASSES), lambda: scratch.discard(RUN))
    scratch.discard(VOID)


def clear_void(scratch: FileScratch) -> None:
    """Remove the rest of a run whose removal was interrupted."""
    if is_void(scratch):
        with claim(scratch, take_over=True):
            clear(scratch)
