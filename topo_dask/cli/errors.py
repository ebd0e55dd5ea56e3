"""What the command line makes of errors: one line with the remedy, and an exit code."""

from typing import Any

import click


class Errors(click.Group):
    """Group of commands whose errors are one line with the remedy, unless ``--verbose`` asks for the traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; exit with 2 for bad input, 1 for what failed on the way."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.params.get("verbose"):
                raise
            notes = "".join(f" [{note}]" for note in getattr(error, "__notes__", ()))
            click.echo(" ".join(f"Error: {error}{notes}".split()), err=True)
            bad_input = isinstance(error, (ValueError, TypeError, FileExistsError, FileNotFoundError, MemoryError))
            ctx.exit(2 if bad_input and not notes else 1)
