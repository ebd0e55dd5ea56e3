"""Instance labels from predicted foreground and 3-D flow, out of core and exact."""

from importlib import import_module
from typing import Any

from .api.clustering import cluster_convergence, track_flows
from .api.pipelines import postprocess_single, run_instance_segmentation
from .api.relabelling import (
    agglomerate,
    compact_relabel,
    filter_small,
    instance_table,
    merge_adjacent,
    remove_bad_flow_masks,
    split_disconnected,
)
from .config import EVALUATED_INSTANCE_CLASSES, get_postprocess_config
from .segment import segment_volume
from .version import __version__

__all__ = [
    "EVALUATED_INSTANCE_CLASSES",
    "__version__",
    "agglomerate",
    "cluster_convergence",
    "compact_relabel",
    "filter_small",
    "get_postprocess_config",
    "instance_table",
    "merge_adjacent",
    "postprocess_single",
    "remove_bad_flow_masks",
    "run_instance_segmentation",
    "segment_volume",
    "split_disconnected",
    "track_flows",
]

_ON_DEMAND = frozenset({"binding", "progress", "scores", "synthetic", "targets"})
"""Public modules that are imported when they are first used, so that ``import topo_dask`` stays quick."""


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_ON_DEMAND})
