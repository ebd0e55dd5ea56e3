"""From the arguments of a lazy call to a job, in the task that prepares it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..blocks.geometry import BlockGrid
from ..blocks.memory import PAGES_MEM, RECENT_MEM
from ..config import ClassConfig
from ..doubts import warn_of_mask, warn_of_prediction
from ..stages.job import Job
from ..stages.stage import Stage
from ..stores.checked import CheckedArray
from ..stores.pages import Pages
from ..stores.recent import RecentReads
from ..stores.scratch import FileScratch
from ..stores.volumes import Foreground, Source, StoredFlow
from ..workers import resources
from .prepared import Prepared, prepare


@dataclass(frozen=True)
class Spec:
    """Everything that a job is made of except its inputs."""

    grid: BlockGrid
    scratch: FileScratch
    config: ClassConfig
    name: str = ""  # of the class, if there are several
    channel: int = 0
    places: Mapping[str, int] = field(default_factory=dict)  # of the class in spilled arrays
    whole: bool = True  # whether the arrays hold the channels of all classes

    def channel_in(self, key: str) -> int:
        """Channel of the class in an input: `mask` or `flow`."""
        return self.places.get(key, self.channel)


def make_job(spec: Spec, stored: Mapping[str, Any]) -> Job:
    """The job of a spec, whose inputs are `stored` under mask, flow, labels and threshold, or not there."""
    mask, flow, labels, threshold = (stored.get(key) for key in ("mask", "flow", "labels", "threshold"))
    return Job(
        name=spec.name,
        grid=spec.grid,
        config=spec.config,
        foreground=None if mask is None else Foreground(_foreground_of(mask, spec), threshold),
        flow=None if flow is None else _flow_of(flow, spec),
        labels=None if labels is None else Source(labels, "instances"),
        scratch=spec.scratch.within(f"channel{spec.channel}"),  # the name of a class need not be a valid path
    )


def _flow_of(flow: Any, spec: Spec) -> StoredFlow:
    # The memory of lazy arrays is not planned: an eighth of that of a process keeps what is likely to be read again.
    share = resources(None).memory // 16
    recent = RecentReads(flow, spec.grid, min(RECENT_MEM, share))
    first = 3 * spec.channel_in("flow")
    source = Source(recent, "flow", slice(first, first + 3))
    return StoredFlow(source, spec.config.step_size, Pages(min(PAGES_MEM, share)))


def _foreground_of(mask: Any, spec: Spec) -> Source:
    if mask.ndim == 3:
        return Source(mask, "sem_mask")
    channel = spec.channel_in("mask")
    return Source(mask, "semantic_pred", slice(channel, channel + 1))


def prepare_job(spec: Spec, stages: Sequence[Stage], stored: Mapping[str, Any], kind: str = "numbers") -> Prepared:
    """Make a job and run stages of it, see `prepare`; before the first, its inputs are looked at."""
    arrays = (array for array in stored.values() if isinstance(array, CheckedArray))
    return prepare(make_job(spec, stored), stages, kind, arrays, lambda: _warn_of_inputs(spec, stored))


def _warn_of_inputs(spec: Spec, stored: Mapping[str, Any]) -> None:
    mask, flow = stored.get("mask"), stored.get("flow")
    if mask is None or flow is None:
        return
    if mask.ndim == 3:
        warn_of_mask(mask, flow)
    elif (channel := spec.channel_in("mask")) == spec.channel_in("flow"):
        names = "semantic_pred", "flow_pred"
        warn_of_prediction(mask, flow, {spec.name: channel}, stored["threshold"], names, whole=spec.whole)
