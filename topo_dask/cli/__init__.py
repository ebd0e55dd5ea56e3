"""The command line: ``topo-dask``, or ``python -m topo_dask``. One module a command or family of commands."""

import click

from ..version import __version__
from .demonstrate import demo
from .errors import Errors
from .segmenting import plan, run


@click.group(cls=Errors, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="topo-dask")
@click.option("--verbose", is_flag=True, help="Show the traceback of an error.")
def main(verbose: bool) -> None:
    """Instance labels from predicted foreground and 3-D flow, out of core.

    The labels equal those of the whole volume in memory, bit for bit, whatever the blocks, the halo, the scheduler, or
    how often the run was interrupted.
    """


for command in (run, plan, demo):
    main.add_command(command)
