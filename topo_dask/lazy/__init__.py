"""Lazy arrays: dask or zarr in, dask out, over the same plans.

A lazy result has three kinds of tasks: *spill* writes a dask input to scratch, once; *prepare* runs all stages but the
last, once, on whatever computes the task itself (threads, processes or a cluster); and one task for each block looks up
the labels of that block. Scratch has a record of what is done, so that computing another block later repeats nothing.
"""

from .labels import segment_classes_lazily, segment_lazily, tabulate_lazily
from .options import Options, is_lazy, is_stored
from .rows import cluster_lazily, track_lazily

__all__ = [
    "Options",
    "cluster_lazily",
    "is_lazy",
    "is_stored",
    "segment_classes_lazily",
    "segment_lazily",
    "tabulate_lazily",
    "track_lazily",
]
