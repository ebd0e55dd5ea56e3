"""The public functions: NumPy in, NumPy out; dask or zarr arrays in, lazy dask arrays out."""

from .clustering import cluster_convergence, track_flows
from .pipelines import postprocess_single, run_instance_segmentation
from .relabelling import (
    agglomerate,
    compact_relabel,
    filter_small,
    instance_table,
    merge_adjacent,
    remove_bad_flow_masks,
    split_disconnected,
)

__all__ = [
    "agglomerate",
    "cluster_convergence",
    "compact_relabel",
    "filter_small",
    "instance_table",
    "merge_adjacent",
    "postprocess_single",
    "remove_bad_flow_masks",
    "run_instance_segmentation",
    "split_disconnected",
    "track_flows",
]
