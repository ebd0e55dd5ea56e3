"""Parameters of classes and options of runs, from flags and from a file."""

import tomllib
import warnings
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..config import (
    ESSENTIAL,
    EVALUATED_INSTANCE_CLASSES,
    ClassConfig,
    get_postprocess_config,
    nothing_to_segment,
)

_FILE, _COMMAND_LINE = ParameterSource.DEFAULT_MAP, ParameterSource.COMMANDLINE

PER_CLASS = ("group", "n_steps", "step_size", "convergence_radius", "min_size", "merge")

_FLAG_OF = {"group": "--group", "n_steps": "--steps", "convergence_radius": "--radius", "min_size": "--min-size"}

OF_RESOLUTION = {"n_steps", "convergence_radius", "min_size"}
"""Parameters whose defaults depend on the size of a voxel."""


def read_config(ctx: click.Context, option: click.Parameter, path: Path | None) -> Any:
    """Table [classes] of a parameter file; its table [run] becomes the defaults of the command's options."""
    if path is None:
        return None
    content = _parse(path)
    unknown = sorted(set(map(str, content)) - {"run", "classes"})
    if unknown:
        raise click.UsageError(f"{path}: unknown table {unknown[0]!r}; known are [run] and [classes.NAME]")
    run = content.get("run", {})
    if not isinstance(run, dict):
        raise click.UsageError(f"{path}: [run] must be a table of options, got {run!r}")
    ctx.default_map = {**(ctx.default_map or {}), **_by_parameter(ctx, path, run)}
    classes = content.get("classes")
    if (classes is None and not run) or (classes is not None and not (classes and isinstance(classes, dict))):
        raise click.UsageError(f"{path} has no table [classes.NAME]")
    for name, parameters in (classes or {}).items():
        if not isinstance(parameters, dict):
            raise click.UsageError(f"{path}: classes.{name} must be a table of parameters, got {parameters!r}")
    return classes


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


def _by_parameter(ctx: click.Context, path: Path, run: dict[Any, Any]) -> dict[str, Any]:
    # One file serves `run` and `plan`: what only the other takes is left alone.
    group = ctx.find_root().command
    commands = [group.commands[name] for name in ("run", "plan")] if isinstance(group, click.Group) else [ctx.command]
    known = {
        flag.lstrip("-"): param
        for command in commands
        for param in command.params
        if isinstance(param, click.Option) and param.name not in ("config", "verbose")
        for flag in param.opts
    }
    found: dict[str, Any] = {}
    for key, value in run.items():
        flag = str(key).replace("_", "-")
        option = known.get(flag)
        if option is None:
            close = get_close_matches(flag, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"
            raise click.UsageError(f"{path}: [run] has the unknown option {key!r}; {hint}")
        if option.name in PER_CLASS:
            raise click.UsageError(f"{path}: {key!r} belongs to [classes.NAME], not to [run]")
        found[str(option.name)] = [value] if option.multiple and isinstance(value, str) else value
    return found


def yields_to(other: str) -> Callable[[click.Context, click.Parameter, bool], bool]:
    """Callback of a flag in a file: it is off where the command line has the flag `other`, which excludes it."""

    def settle(ctx: click.Context, option: click.Parameter, value: bool) -> bool:
        sources = [ctx.get_parameter_source(str(name)) for name in (option.name, other)]
        return value and not (ctx.params.get(other) and sources == [_FILE, _COMMAND_LINE])

    return settle


def check_parameter(ctx: click.Context, option: click.Parameter, value: Any) -> Any:
    """Callback of an option that is a parameter of classes: what it may not be is said of the option."""
    if value is not None:
        try:
            ClassConfig(**{str(option.name): value})
        except (TypeError, ValueError) as error:
            raise click.BadParameter(str(error), ctx, option) from None
    return value


def read_parameters(semantic: str, flow: str, values: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `plan_volume` and `segment_volume` from the values of the options.

    Where options replace some of the default parameters, these are the ones for the resolution that the inputs tell,
    if no other is given.
    """
    # Flags win over the file, the file over the published values.
    flags = {name: values.pop(name) for name in PER_CLASS}
    flags = {name: value for name, value in flags.items() if value is not None}
    classes, config = values.pop("classes"), values.pop("config")
    if flags:
        names = classes or list(config or ())
        if not names:
            raise click.UsageError("parameters given as options need --class to say what they are for")
        preset, base = values["preset"], config or _defaults(semantic, flow, values, flags)
        # Some of a class's parameters alone would leave the others to chance: it is then one without any.
        own = dict.fromkeys(names, flags) if flags.keys() >= set(ESSENTIAL) else {}
        if preset and (outside := sorted(own.keys() - base.keys())):
            raise click.UsageError(
                f"--preset is for classes with default parameters; {outside[0]!r} has none: for objects that touch "
                "give it --merge agglomerate --radius 1.5 --steps 200 --step-size 0.5"
            )
        found = {**own, **{name: {**parameters, **flags} for name, parameters in base.items()}}
        if found.keys().isdisjoint(names):
            raise ValueError(nothing_to_segment(names, config))
        config = found
    _check_whole(config or {}, classes or list(config or ()))
    error = values.pop("flow_error_threshold")
    if config and error == 0:  # which to the functions means that each class has its own
        config = {name: {**parameters, "flow_error_threshold": 0.0} for name, parameters in config.items()}
    values["flow_error_threshold"] = error or 0.0
    return {**values, "class_names": list(classes) or (list(config) if config else None), "class_config": config}


def _check_whole(config: dict[str, Any], names: list[str]) -> None:
    # Of the published classes, whose values one may expect, gaps are warned of with those that are used.
    for name in names:
        if name in config and name not in EVALUATED_INSTANCE_CLASSES:
            ClassConfig.from_mapping(config[name], name)  # a name that is mistaken is no gap
            if gaps := [gap for gap in ESSENTIAL if gap not in config[name]]:
                flags = ", ".join(_FLAG_OF[gap] for gap in gaps)
                raise click.UsageError(
                    f"--config gives {name!r} no {', '.join(gaps)}, and there is no default that fits all objects: add "
                    f"to [classes.{name}] what lacks, or pass {flags}"
                )


def _defaults(semantic: str, flow: str, values: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    from ..stores.inputs import open_prediction

    resolution = values["resolution_nm"]
    if resolution is None:
        _, _, *places = open_prediction(semantic, flow, values["level"])
        place = places[0] or places[1]
        resolution = None if place is None else place.edge_nm
    if resolution is None and not flags.keys() >= OF_RESOLUTION:
        warnings.warn(
            "neither --config nor --resolution-nm is given: using the parameters for 8 nm voxels where no option says "
            "otherwise",
            UserWarning,
            stacklevel=2,
        )
    return get_postprocess_config(8 if resolution is None else resolution, values.pop("preset") or "published")
