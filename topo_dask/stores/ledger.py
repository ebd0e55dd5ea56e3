"""The record of what a run is: a run goes on only where everything that shapes its labels is the same.

Which blocks are done is recorded by the bundles of each stage (see `scratch`); this is the key to all of them.
"""

import hashlib
import json
from typing import Any

import numpy as np

from .scratch import FileScratch, find

KIND, KEY = "run", "manifest"


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


def admit(scratch: FileScratch, record: dict[str, Any], *, resume: bool, overwrite: bool) -> bool:
    """Whether an interrupted run is there to go on with; refuse what does not fit.

    Raises
    ------
    FileExistsError
        When scratch holds an unfinished run and neither `resume` nor `overwrite` is set, or holds something else.
    ValueError
        When `resume` is set and the run there is another one; the message says what differs.
    """
    bundle = find(scratch, KIND, KEY)
    if bundle is None:
        if not scratch.is_empty():
            raise FileExistsError(f"scratch {scratch.url} is not empty and holds no run of topo_dask: choose another")
        return False
    old = json.loads(bytes(bundle["record"]).decode())
    differences = _differences(old, json.loads(json.dumps(record)))
    if overwrite:
        scratch.discard_all()
        return False
    if not resume:
        raise FileExistsError(
            f"scratch {scratch.url} holds an unfinished run: pass resume=True to go on with it, or overwrite=True to "
            "begin again"
        )
    if differences:
        raise ValueError(f"the run in {scratch.url} can not be resumed, it is another one: {'; '.join(differences)}")
    return True


def begin(scratch: FileScratch, record: dict[str, Any]) -> None:
    """File the record of a run."""
    text = json.dumps(record, sort_keys=True).encode()
    scratch.put(KIND, KEY, record=np.frombuffer(text, np.uint8))
