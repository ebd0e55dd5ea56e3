"""The file that ``--config`` names: options of a run, and parameters of its classes."""

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from ..config import ClassConfig
from .errors import JSON_LOG
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
    options = _read_run(f"{path}: [run]", run, known)
    if options.get("json_log"):  # errors in other options are found before `run` begins
        ctx.meta[JSON_LOG] = True
    ctx.default_map = {**(ctx.default_map or {}), **options}
    classes = content.get("classes")
    if (classes is None and not run) or (classes is not None and not (classes and isinstance(classes, dict))):
        raise click.UsageError(f"{path} has no table [classes.NAME]")
    if classes is None:
        return None
    for name in classes:
        if not isinstance(name, str):
            raise click.UsageError(f"{path}: names of classes must be text, got {name!r}: put the name in quotes")
    return {name: _read_class(f"{path}: [classes.{name}]", given, known) for name, given in classes.items()}


def _parse(path: Path) -> dict[Any, Any]:
    import yaml

    kind = "YAML" if path.suffix in (".yaml", ".yml") else "TOML"
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a mark before the first line
        content = _load_yaml(text) if kind == "YAML" else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} is not valid {kind}: {error}") from None
    if not isinstance(content, dict):
        raise click.UsageError(f"{path} has no table [classes.NAME]")
    return content


def _load_yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
        # Refuses a key that is given twice: as in TOML, neither value is surely the one that was meant.
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for at, key in enumerate(keys):
                if key.value in [earlier.value for earlier in keys[:at]]:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            return super().construct_mapping(node, deep)

    return yaml.load(text, Loader)


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
    names = {key: None if option.name in PER_CLASS else str(option.name) for key, option in options.items()}
    found = {}
    for name, (key, value) in _by_name(where, run, dict.fromkeys(_CLASS_PARAMETERS) | names, "option").items():
        if name is None:
            raise click.UsageError(f"{where}: {key!r} belongs to [classes.NAME], not to [run]")
        _check_type(f"{where}: {key!r}", by_name[name], value)
        found[name] = [value] if by_name[name].multiple and isinstance(value, str) else value
    return found


def _check_type(what: str, option: click.Option, value: Any) -> None:
    # click would cut fractions off, and take a truth value for a number. It reads text itself, as on the command line.
    if isinstance(value, str) or value is None:
        return
    numbers: tuple[type, ...] = (int, float)
    of_type = numbers
    if option.is_flag:
        expected, of_type = "true or false", (bool,)
    elif option.multiple:
        expected, of_type = "text, or a list of texts", (list,) if _are(value, str) else ()
    elif option.nargs == 1 and option.type.name == "Z,Y,X":
        expected, of_type = "one integer or a list of three", (int, list) if _are(value, int) else (int,)
    elif option.type.name == "NM|Z,Y,X":
        expected, of_type = "a number or a list of three", (*numbers, list) if _are(value, numbers) else numbers
    elif isinstance(option.type, click.types.FloatParamType):
        expected = "a number"
    elif isinstance(option.type, click.types.IntParamType):
        expected, of_type = "an integer", (int,)
    else:
        expected = "text or a number"
    if not isinstance(value, of_type) or (isinstance(value, bool) and not option.is_flag):
        raise click.UsageError(f"{what} must be {expected}, got {value!r}")


def _are(values: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(values, list) and all(isinstance(v, kind) and not isinstance(v, bool) for v in values)


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
