"""What the command line makes of errors and warnings: one line with the remedy, and an exit code."""

import errno
import json
import os
import re
import sys
import traceback
import warnings
from contextlib import suppress
from typing import Any

import click

JSON_LOG, VERBOSE = "topo_dask.json_log", "topo_dask.verbose"
"""Keys in the context's `meta`: whether errors and warnings are JSON, and whether errors come with a traceback."""

OVERWRITE, ON_RECORD = "topo_dask.overwrite", "topo_dask.on_record"
"""Keys in the context's `meta`: whether earlier labels are replaced, and a function that says whether the run of this
command can be resumed by now."""

_BAD_INPUT = (
    ValueError,
    TypeError,
    FileExistsError,
    FileNotFoundError,
    ImportError,
    IsADirectoryError,
    MemoryError,
    NotADirectoryError,
    PermissionError,
)

_OF_CLASSES = "preview", "run", "plan"
"""Commands that take several classes."""

_ALL_OWN = "--group, --steps, --radius and --min-size"

_FLAGS = {
    "neither class_config": "neither classes in --config",
    "parameters in class_config": f"parameters in --config, or all of {_ALL_OWN}",
    "no parameters are given for it": f"no parameters are given for it in --config, nor all of {_ALL_OWN}",
    "resume=True": "--resume",
    "overwrite=True": "--overwrite",
    "on_missing='background'": "--on-missing background",
    "ome_zarr='0.4'": "--ome-zarr 0.4",
    "ome_zarr='0.5'": "--ome-zarr 0.5",
    "preset='published'": "--preset published",
    "preset='touching'": "--preset touching",
    "class_config": "--config",
    "class_names must name": "--class, or else --config, must name",
    "class_names": "--class",
    "name=<class>": "--class NAME",
    "resolution_nm": "--resolution-nm",
    "block_shape": "--block",
    "memory_limit": "--memory-limit",
    "pred_flow": "--flow",
    "scratch=": "--scratch ",
    "resume": "--resume",
    "overwrite": "--overwrite",
}
_REFUSED = {
    "box": "--box",
    "halo": "--halo",
    "instances": "LABELS",
    "level": "--level",
    "planes": "--at",
    "threshold": "--threshold",
}
"""Words that are arguments only where a message says what they must be, or what was given instead."""

_NAMES = re.compile(
    r"(?<![\w\-./'\"])(?:(?:" + "|".join(map(re.escape, _FLAGS)) + r")(?:(?<==)|(?![\w/\[]|\.\S))"
    r"|(?:" + "|".join(_REFUSED) + r")(?= must\b|; got\b))"
)


def in_flags(message: str) -> str:
    """A message in the words of the command line: arguments of functions become options, line breaks become blanks.

    Examples
    --------
    >>> in_flags("output 'a' exists: pass overwrite=True to replace it")
    "output 'a' exists: pass --overwrite to replace it"
    >>> in_flags("raise memory_limit. There is no resume.zarr")
    'raise --memory-limit. There is no resume.zarr'
    """
    return " ".join(_NAMES.sub(lambda found: (_FLAGS | _REFUSED)[found.group()], message).split())


def _set_verbose(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    ctx.meta[VERBOSE] = value or ctx.meta.get(VERBOSE, False)


def verbose_option() -> click.Option:
    """``--verbose``, which may stand before or behind the name of a command."""
    help_text = "Show the traceback of an error too."
    return click.Option(["--verbose"], is_flag=True, expose_value=False, callback=_set_verbose, help=help_text)


class Errors(click.Group):
    """Group of commands whose errors are one line with the remedy; ``--verbose`` puts the traceback before it."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; exit with 2 for bad input, 1 for what failed on the way."""
        ctx.meta[JSON_LOG] = "--json-log" in ctx.args  # where an option is wrong, `run` never begins
        ctx.meta[OVERWRITE] = "--overwrite" in ctx.args
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _say(ctx, "warning", in_flags(str(message)))
            try:
                return self._invoke(ctx)
            except (click.exceptions.Exit, click.Abort, BrokenPipeError):
                raise  # click itself ends quietly when the reader of the output has gone
            except click.ClickException as error:
                if not ctx.meta.get(JSON_LOG):
                    raise
                _say(ctx, "error", error.format_message(), exit_code=error.exit_code)
                ctx.exit(error.exit_code)
            except KeyboardInterrupt:
                _say(ctx, "error", f"interrupted{_way_on(ctx)}", exit_code=1)
                ctx.exit(1)
            except Exception as error:
                notes = "".join(f" [{note}]" for note in getattr(error, "__notes__", ()))
                refused = isinstance(error, _BAD_INPUT) or getattr(error, "errno", None) == errno.ENOSPC
                code = 2 if refused and not notes else 1  # a note says which task failed: work had begun
                message = in_flags(re.sub(r"^\[Errno \d+\] ", "", str(error)) + notes)
                _say(ctx, "error", message, exit_code=code, **_traceback(ctx, error))
                ctx.exit(code)
            finally:
                _empty_stderr()

    def _invoke(self, ctx: click.Context) -> Any:
        names_classes = any(word.partition("=")[0] == "--class" for word in ctx.args)
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            extra = re.search(r"unexpected extra arguments? \((.*)\)", error.message)
            several = names_classes and ctx.invoked_subcommand in _OF_CLASSES
            if extra and re.fullmatch(r"[\d. ]+", extra[1]):
                hint = "join the numbers of an option by commas, as in 64,128,128"
            elif extra and several:
                hint = "of several classes repeat --class"
            else:
                raise
            raise click.UsageError(f"{error.message}; {hint}", error.ctx) from None


def _way_on(ctx: click.Context) -> str:
    # Where nothing is on record, --resume begins a new run, and that one refuses to replace earlier labels.
    if ctx.invoked_subcommand != "run":
        return ""
    if not ctx.meta[OVERWRITE]:
        return "; the same command with --resume goes on"
    on_record = ctx.meta.get(ON_RECORD)  # missing if the command had not come that far
    if on_record is not None and on_record():
        return "; the same command with --resume in place of --overwrite goes on"
    return " before the run was on record; the same command begins again"


def _empty_stderr() -> None:
    # Lines that a closed pipe did not take are still buffered; Python would flush them at exit, and fail.
    if sys.stderr is None:
        return
    try:
        sys.stderr.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _traceback(ctx: click.Context, error: Exception) -> dict[str, str]:
    # With --verbose only. In a JSON log it is part of the event, so that each line stays one object; otherwise it is
    # printed above the message.
    if not ctx.meta.get(VERBOSE):
        return {}
    text = "".join(traceback.format_exception(error))
    if ctx.meta.get(JSON_LOG):
        return {"traceback": text}
    click.echo(text, err=True, nl=False)
    return {}


def _say(ctx: click.Context, event: str, message: str, **more: Any) -> None:
    with suppress(BrokenPipeError):  # nobody reads stderr any more; the exit code still tells of an error
        if ctx.meta.get(JSON_LOG):
            click.echo(json.dumps({"event": event, "message": message, **more}), err=True)
        else:
            click.echo(f"{event.capitalize()}: {message}", err=True)
