"""What lazy calls begin with: scratch, blocks and inputs, and tasks of their own."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any
from uuid import uuid4

from ..blocks.geometry import BlockGrid, triple
from ..given import as_declared, is_dask
from ..stores.checked import CheckedArray
from ..stores.inputs import absolute_node
from ..stores.scratch import FileScratch
from .leases import open_scratch
from .options import Array, Options, choose_blocks, is_stored
from .spilled import Opaque, spill

ARGUMENTS = {"mask": "sem_mask", "labels": "instances", "flow": "flow"}
"""The caller's names of the arrays, for messages."""


def set_up(
    options: Options,
    arrays: Mapping[str, Array],
    names: Mapping[str, str] = ARGUMENTS,
    channels: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> tuple[FileScratch, BlockGrid, dict[str, Any]]:
    """Open new scratch, choose blocks of the volume that the first array covers, and make the arrays ready to be read.

    Zarr arrays are read in place. The others become delayed ones, which a task will spill; of an array with an entry in
    `channels`, only these channels. `names` are for messages.
    """
    scratch, given = open_scratch(options.scratch), list(arrays.values())
    grid = choose_blocks(options, given, triple(tuple(given[0].shape[-3:]), "shape", at_least=0))
    return scratch, grid, _stored(arrays, names, scratch, channels)


def _stored(
    arrays: Mapping[str, Array], names: Mapping[str, str], scratch: FileScratch, channels: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    import dask.array as da

    found, deferred = dict[str, Any](), dict[str, Any]()
    for key, array in arrays.items():
        if is_stored(array):
            found[key] = CheckedArray(absolute_node(array), names[key], "background")
        else:
            whole = as_declared(array if is_dask(array) else da.from_array(array), names[key])
            deferred[key] = whole[list(channels[key])] if key in channels else whole
    if deferred:
        carrier = Opaque({names[key]: array for key, array in deferred.items()})
        spilled = later("spill", spill, carrier, scratch)
        found |= {key: spilled[names[key]] for key in deferred}
    return found


def later(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """A delayed call, whose key begins with a name and is new: no two calls share a result.

    Where the caller's annotations ask for resources of a worker, such as a GPU, it goes without. It has the cluster do
    tasks, and waits for them: a resource that it held is one that they may need.
    """
    import dask

    with dask.annotate(resources={}):
        return dask.delayed(function, pure=True)(*arguments, dask_key_name=f"{name}-{uuid4().hex}")
