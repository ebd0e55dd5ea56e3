"""The file that ``--config`` names: options of a run, and parameters of its classes."""

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from ..config import ClassConfig
from .parameters import OPTION_OF, PER_CLASS

_CLASS_PARAMETERS = [field.name for field in fields(ClassConfig)]


def read_config(ctx: click.Context, option: click.Parameter, path: Path | None) -> Any:
    """Table [classes] of a parameter file, checked; its table [run] becomes the defaults of the command's options.

    Keys are names of options or of parameters in Python, with dashes or underscores.
    """
    if path is None:
        return None
    content = _parse(path)
    unknown = sorted(set(map(str, content)) - {"run", "classes"})
    if unknown:
        raise click.UsageError(f"{path}: unknown table {unknown[0]!r}; known are [run] and [classes.NAME]")
    run, known = content.get("run", {}), _options(ctx)
    if not isinstance(run, dict):
        raise click.UsageError(f"{path}: [run] must be a table of options, got {run!r}")
    ctx.default_map = {**(ctx.default_map or {}), **_read_run(f"{path}: [run]", run, known)}
    classes = content.get("classes")
    if (classes is None and not run) or (classes is not None and not (classes and isinstance(classes, dict))):
        raise click.UsageError(f"{path} has no table [classes.NAME]")
    if classes is None:
        return None
    return {name: _read_class(f"{path}: [classes.{name}]", given, known) for name, given in classes.items()}


def _parse(path: Path) -> dict[Any, Any]:
    import yaml

    kind = "YAML" if path.suffix in (".yaml", ".yml") else "TOML"
    try:
        text = path.read_text()
        content = yaml.safe_load(text) if kind == "YAML" else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} is not valid {kind}: {error}") from None
    if not isinstance(content, dict):
        raise click.UsageError(f"{path} has no table [classes.NAME]")
    return content


def _options(ctx: click.Context) -> dict[str, click.Option]:
    # By all their names. One file serves `run` and `plan`, so options of either are known.
    group = ctx.find_root().command
    commands = [group.commands[name] for name in ("run", "plan")] if isinstance(group, click.Group) else [ctx.command]
    known = {
        flag.lstrip("-"): param
        for command in commands
        for param in command.params
        if isinstance(param, click.Option) and param.name not in ("config", "verbose")
        for flag in param.opts
    }
    return known | {parameter: known[option] for parameter, option in OPTION_OF.items() if option in known}


def _read_run(where: str, run: dict[Any, Any], options: Mapping[str, click.Option]) -> dict[str, Any]:
    by_name = {str(option.name): option for option in options.values()}
    names = dict.fromkeys(_CLASS_PARAMETERS) | {spelling: str(option.name) for spelling, option in options.items()}
    found = {}
    for name, (key, value) in _by_name(where, run, names, "option").items():
        if name is None or name in PER_CLASS:
            raise click.UsageError(f"{where}: {key!r} belongs to [classes.NAME], not to [run]")
        found[name] = [value] if by_name[name].multiple and isinstance(value, str) else value
    return found


def _read_class(where: str, given: Any, options: Mapping[str, click.Option]) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise click.UsageError(f"{where} must be a table of parameters, got {given!r}")
    names = dict.fromkeys(options) | {spelling: name for name in _CLASS_PARAMETERS for spelling in _spellings(name)}
    found = {}
    for name, (key, value) in _by_name(where, given, names, "parameter").items():
        if name is None:
            raise click.UsageError(f"{where}: {key!r} belongs to [run], not to [classes.NAME]")
        found[name] = value
    try:
        ClassConfig(**found)
    except (TypeError, ValueError) as error:
        raise click.UsageError(f"{where}: {error}") from None
    return found


def _spellings(parameter: str) -> tuple[str, ...]:
    return (parameter, OPTION_OF[parameter]) if parameter in OPTION_OF else (parameter,)


def _by_name(where: str, table: dict[Any, Any], names: Mapping[str, str | None], kind: str) -> dict[str | None, Any]:
    # Keys and values under one name for all spellings of a key; under None where the key belongs into another table.
    by_spelling = {_dashed(spelling): name for spelling, name in names.items()}
    found: dict[str | None, Any] = {}
    for key, value in table.items():
        if _dashed(key) not in by_spelling:
            known = [spelling for spelling, name in names.items() if name is not None]
            close = get_close_matches(str(key), known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"
            raise click.UsageError(f"{where} has the unknown {kind} {key!r}; {hint}")
        name = by_spelling[_dashed(key)]
        if name is not None and name in found:
            raise click.UsageError(
                f"{where} has {found[name][0]!r} and {key!r}, two names of one {kind}: leave one of them out"
            )
        found[name] = key, value
    return found


def _dashed(key: object) -> str:
    return str(key).replace("_", "-")
