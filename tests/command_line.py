"""The command line, called from tests."""

from click.testing import CliRunner, Result

from topo_dask.cli import main

QUICK = {name: {"scheduler": "threads"} for name in ("run", "plan")}
"""The default, worker processes, takes seconds to start; the tests of schedulers ask for it."""


def invoke(*words: object) -> Result:
    """Result of a command, which runs on threads unless it says otherwise."""
    return CliRunner().invoke(main, [str(word) for word in words], default_map=QUICK)
