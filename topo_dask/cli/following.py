"""``status``: how far a run has come, and how to go on with it."""

import json
import os
import shlex
from dataclasses import asdict
from pathlib import PurePath
from typing import TYPE_CHECKING

import click

from .errors import in_flags
from .options import Place

if TYPE_CHECKING:
    from ..status import RunStatus, StageStatus


@click.command()
@click.argument("place", type=Place(), metavar="OUTPUT|SCRATCH")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(place: str, as_json: bool) -> None:
    """Show what is done and what is left of a run.

    For each class and stage: how many of its tasks are done. Then whether a process is at work; if none is, the error
    that ended the run, and the command that resumes it. Nothing is changed, so that a run at work may be watched.
    """
    from ..status import read_status

    found = read_status(place)
    if as_json:
        click.echo(json.dumps({"complete": found.is_complete, **asdict(found)}))
        return
    if found.is_complete:
        click.echo(f"finished: {found.output}")
        for name in found.classes:
            click.echo(f"  {name}: whole")
        return
    for name, stages in found.classes.items():
        click.echo(name)
        for stage in stages:
            click.echo(f"  {stage.name:<12} {_describe(stage)}")
    click.echo(_outlook(found))


def _describe(stage: "StageStatus") -> str:
    if stage.total is None:
        return "waits for what is above"
    return f"{stage.done} of {stage.total}{'  done' if stage.is_complete else ''}"


def _outlook(found: "RunStatus") -> str:
    if found.holder is not None:
        return f"at work: process {found.holder['pid']} of {found.holder['host']}"
    assert found.origin is not None
    command, folder = found.origin["command"], found.origin["folder"]
    begin = "interrupted; to go on"
    if found.failure is not None:
        begin = f"failed: {in_flags(found.failure)}\nto go on, once that is mended"
    if not _is_run(command):
        return f"{begin}: call segment_volume as before with resume=True (it was called by {command[0]})"
    words = [word for word in command[1:] if word not in ("--resume", "--overwrite")]
    there = "" if folder == os.getcwd() else f"cd {shlex.quote(folder)} && "
    return f"{begin}: {there}{shlex.join(['topo-dask', *words, '--resume'])}"


def _is_run(command: list[str]) -> bool:
    # A user's script that calls segment_volume may have any words as arguments, "run" among them.
    program = PurePath(command[0]).parts
    ours = program[-1:] == ("topo-dask",) or program[-2:] == ("topo_dask", "__main__.py")
    return ours and next((word for word in command[1:] if not word.startswith("-")), None) == "run"
