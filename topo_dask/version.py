"""Version of the package; results on record are keyed by it."""

from importlib.metadata import version

__version__ = version("topo-dask")
