"""The record of what a run is: a run goes on only where everything that shapes its labels is the same.

Which blocks are done is recorded by the bundles of each stage (see `scratch`); this is the key to all of them.
"""

import hashlib
import json
from typing import Any
from uuid import uuid4

import numpy as np

from .scratch import FileScratch, find

RUN, MANIFEST, VOID, CLASSES = "run", "manifest", "void", "classes"


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


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [d for key in keys for d in _differences(old.get(key), new.get(key), f"{path}.{key}".strip("."))]
    return [] if old == new else [f"{path}: {old!r} then, {new!r} now"]


def admit(scratch: FileScratch, record: dict[str, Any], *, resume: bool, overwrite: bool) -> str | None:
    """Name of an interrupted run to go on with, or None to begin; refuse what does not fit. Nothing is written.

    Raises
    ------
    FileExistsError
        When scratch holds an unfinished run and neither `resume` nor `overwrite` is set, or holds something else.
    ValueError
        When `resume` is set and the run there is another one; the message says what differs.
    """
    bundle, void = find(scratch, RUN, MANIFEST), find(scratch, VOID, VOID)
    if bundle is None and void is None and not scratch.is_empty():
        raise FileExistsError(f"scratch {scratch.url} is not empty and holds no run of topo_dask: choose another")
    if bundle is None or void is not None or overwrite:
        return None
    if not resume:
        raise FileExistsError(
            f"scratch {scratch.url} holds an unfinished run: pass resume=True to go on with it, or overwrite=True to "
            "begin again"
        )
    old = json.loads(bytes(bundle["record"]).decode())
    name: str = old.pop("run")
    differences = _differences(old, json.loads(json.dumps(record)))
    if differences:
        raise ValueError(f"the run in {scratch.url} can not be resumed, it is another one: {'; '.join(differences)}")
    return name


def begin(scratch: FileScratch, record: dict[str, Any]) -> str:
    """Clear scratch, file the record of a new run there, and return the run's name."""
    clear(scratch)
    name = uuid4().hex
    text = json.dumps({**record, "run": name}, sort_keys=True).encode()
    scratch.put(RUN, MANIFEST, record=np.frombuffer(text, np.uint8))
    return name


def compartment(scratch: FileScratch, name: str) -> FileScratch:
    """Where the bundles of one class go."""
    return scratch.within(CLASSES).within(name)


def clear(scratch: FileScratch) -> None:
    """Remove what runs have filed, and nothing else; the place too if nothing is left in it.

    The run is declared void first: one whose bundles are half removed must never be resumed.
    """
    if scratch.is_empty():
        return
    scratch.put(VOID, VOID)
    for kind in (CLASSES, RUN, VOID):
        scratch.discard(kind)
    if scratch.is_empty():
        scratch.discard_all()
