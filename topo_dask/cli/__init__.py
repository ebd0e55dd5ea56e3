"""The command line: ``topo-dask``, or ``python -m topo_dask``. One module for each command, or family of commands."""

import click

from ..version import __version__
from .completing import completion
from .demonstrate import demo
from .errors import Errors, verbose_option
from .following import status
from .previewing import preview
from .scoring import score
from .segmenting import plan, run
from .showing import show, view
from .tables import table

EPILOG = """Exit codes: 0 all is well; 1 it failed on the way, and can be resumed; 2 the input was refused, and nothing
was written.

Completion of commands and options in your shell: see `topo-dask completion --help`.
"""


@click.group(cls=Errors, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}, epilog=EPILOG)
@click.version_option(__version__, prog_name="topo-dask")
def main() -> None:
    """Instance labels from predicted foreground and 3-D flow, out of core.

    The labels equal those of the whole volume in memory, bit for bit, whatever the blocks, the halo, the scheduler, or
    how often the run was interrupted.
    """


main.params.append(verbose_option())
for command in (preview, run, plan, status, table, score, show, view, demo, completion):
    command.params.append(verbose_option())
    main.add_command(command)
