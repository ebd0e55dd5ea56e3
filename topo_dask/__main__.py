"""``python -m topo_dask`` is ``topo-dask``."""

from .cli import main

main(prog_name="topo-dask")
