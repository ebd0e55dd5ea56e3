"""Instance labels from predicted foreground and 3-D flow, out of core and exact."""

from .api import (
    agglomerate,
    cluster_convergence,
    compact_relabel,
    filter_small,
    instance_table,
    merge_adjacent,
    postprocess_single,
    remove_bad_flow_masks,
    run_instance_segmentation,
    split_disconnected,
    track_flows,
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
