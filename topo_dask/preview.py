"""The labels that a run would give in a box of its inputs: the box is segmented in memory, as a volume of its own."""

from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import in_memory
from .admission import RunPlan
from .blocks.geometry import Box
from .doubts import warn_of_box
from .machine import machine_memory
from .plan import Recipe
from .stages.drop import Dropped

HELD_BYTES = 32
"""Most bytes that a voxel takes in memory beside its inputs: its label, and up to 25 bytes for the work."""


@dataclass(frozen=True, eq=False)
class Preview:
    """Labels of one class in a box.

    Parameters
    ----------
    mask : array of bool, shape of the box
        Whether a voxel is above the threshold.
    largest : float
        The largest value of the stored foreground.
    dropped : Dropped
        What was dropped on the way to the labels.
    labels : array of int32, shape of the box
        0 background, 1..n instances, of the box alone: an object that leaves the box may differ in the whole volume.
    voxels : array of int64, shape (n,)
        Voxels of each instance.
    cut : array of bool, shape (n,)
        Whether the instance reaches a face of the box beyond which the volume continues.
    seconds : float
        Time for tracking, clustering and the rest, without reading.
    """

    mask: NDArray[np.bool_]
    largest: float
    dropped: Dropped
    labels: NDArray[np.int32]
    voxels: NDArray[np.int64]
    cut: NDArray[np.bool_]
    seconds: float


def check_box(plan: RunPlan, box: Box) -> None:
    """Raise MemoryError when a box does not fit into memory."""
    need = box.size * (plan.semantic.dtype.itemsize + 3 * plan.flow.dtype.itemsize + HELD_BYTES)
    if need > (have := machine_memory()):
        raise MemoryError(
            f"a box of {box.shape} voxels takes {need / 2**30:.1f} GiB, and there are {have / 2**30:.1f} GiB: "
            "choose a smaller box"
        )


def preview_class(plan: RunPlan, name: str, box: Box) -> Preview:
    """Segment a box of one class of a planned run; nothing is written. Warns of input that is probably not meant.

    Raises
    ------
    ValueError, RuntimeError, OSError
        As in a run, when values or chunks cannot be used.
    """
    channel, config = plan.classes[name]
    foreground = plan.foreground(name)
    values = foreground.source.read(box)[0]
    mask, largest = foreground.mask_of(values, box), float(values.max())
    flow = np.asarray(plan.flow[(slice(3 * channel, 3 * channel + 3), *box.slices)])
    n = plan.flow.shape[0] // 3
    apart = partial(_read_apart, plan.flow, range(channel, 3 * n, n), box) if n > 1 else None
    warn_of_box(values, mask, flow, plan.threshold, name, apart)
    del values
    begin = perf_counter()
    try:
        labels, dropped = in_memory.segment(Recipe.of(config), config=config, mask=mask, flow=flow, name=name)
    except Exception as error:
        error.add_note(f"voxels are counted from {box.start}, where the box begins")
        raise
    seconds = perf_counter() - begin
    table = in_memory.tabulate(Recipe(table=True), labels, None)
    return Preview(mask, largest, dropped, labels, table["voxels"], _cut(table, box, plan.grid.shape), seconds)


def _read_apart(flow: Any, channels: range, box: Box) -> NDArray[Any]:
    return np.concatenate([flow[(slice(channel, channel + 1), *box.slices)] for channel in channels])


def _cut(table: dict[str, NDArray[Any]], box: Box, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    cut = np.zeros(len(table["label"]), bool)
    for axis, start, stop, edge, size in zip("zyx", box.start, box.stop, box.shape, shape, strict=True):
        cut |= (table[f"bbox_start_{axis}"] == 0) & (start > 0)
        cut |= (table[f"bbox_stop_{axis}"] == edge) & (stop < size)
    return cut
