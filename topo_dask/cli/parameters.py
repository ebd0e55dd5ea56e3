"""Parameters of classes, from options and from a file."""

import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

import click
from click.core import ParameterSource

from ..config import (
    ESSENTIAL,
    EVALUATED_INSTANCE_CLASSES,
    ClassConfig,
    get_postprocess_config,
    nothing_to_segment,
    warn_of_edges,
)

_FILE, _COMMAND_LINE = ParameterSource.DEFAULT_MAP, ParameterSource.COMMANDLINE

PER_CLASS = ("group", "n_steps", "step_size", "convergence_radius", "min_size", "merge")

OPTION_OF = {
    "n_steps": "steps",
    "convergence_radius": "radius",
    "flow_error_threshold": "flow-error",
    "block_shape": "block",
    "class_names": "class",
}
"""Options whose names differ from those of their parameters in Python; a file may use either name."""

OF_RESOLUTION = {"n_steps", "convergence_radius", "min_size"}
"""Parameters whose defaults depend on the size of a voxel."""


def yields_to(other: str) -> Callable[[click.Context, click.Parameter, bool], bool]:
    """Callback of a flag that excludes the flag `other`: `other` on the command line turns off the flag of a file."""

    def settle(ctx: click.Context, option: click.Parameter, value: bool) -> bool:
        sources = [ctx.get_parameter_source(str(name)) for name in (option.name, other)]
        return value and not (ctx.params.get(other) and sources == [_FILE, _COMMAND_LINE])

    return settle


def check_parameter(ctx: click.Context, option: click.Parameter, value: Any) -> Any:
    """Callback of an option that is a parameter of classes: an error in its value names the option."""
    if value is not None:
        try:
            ClassConfig(**{str(option.name): value})
        except (TypeError, ValueError) as error:
            raise click.BadParameter(str(error), ctx, option) from None
    return value


def read_parameters(semantic: str, flow: str, values: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `plan_volume` and `segment_volume` from the values of the options.

    Options may replace some of the default parameters. The others are then the defaults for the resolution that is
    given, else for the one in the metadata of the inputs.
    """
    values = dict(values)
    flags = {name: value for name in PER_CLASS if (value := values.pop(name)) is not None}
    classes, config = values.pop("classes"), values.pop("config")
    names = classes or list(config or ())
    if flags:
        if not names:
            raise click.UsageError("parameters given as options need --class to say what they are for")
        # Options win over the file, and the file over the published values.
        base = config or _defaults(semantic, flow, values, flags, names)
        found = _with_flags(base, flags, names, values["preset"])
        if found.keys().isdisjoint(names):
            raise ValueError(nothing_to_segment(names, config))
        if not config:
            values["preset"] = None  # used up: a run with given parameters refuses a preset
        config = found
    _check_whole(config or {}, names)
    error = values.pop("flow_error_threshold")
    if config and error == 0:  # a 0 tells the functions to use each class's own threshold; here it turns all off
        config = {name: {**parameters, "flow_error_threshold": 0.0} for name, parameters in config.items()}
    values["flow_error_threshold"] = error or 0.0
    return {**values, "class_names": list(classes) or (list(config) if config else None), "class_config": config}


def say_parameters(name: str, config: ClassConfig) -> str:
    """Line that tells the parameters of a class, but those that are 0 or None."""
    given = ", ".join(f"{key} {value}" for key, value in config.to_dict().items() if value)
    return f"parameters of {name:<20} {given}"


def _with_flags(
    base: dict[str, Any], flags: dict[str, Any], names: Sequence[str], preset: str | None
) -> dict[str, dict[str, Any]]:
    # Some parameters of all classes replaced. A class that is neither in the file nor among the defaults gets the
    # options as its parameters only if all essential ones are given: no default of the others would fit its objects.
    own = dict.fromkeys(names, flags) if flags.keys() >= set(ESSENTIAL) else {}
    if preset and (outside := sorted(own.keys() - base.keys())):
        raise click.UsageError(
            f"--preset is for classes with default parameters; {outside[0]!r} has none: for objects that touch "
            "give it --merge agglomerate --radius 1.5 --steps 200 --step-size 0.5"
        )
    return {**own, **{name: {**parameters, **flags} for name, parameters in base.items()}}


def _check_whole(config: dict[str, Any], names: Sequence[str]) -> None:
    # A gap in a published class is only warned of later, with the value that is used: its user may expect the published
    # value. For other classes no value can be expected.
    for name in names:
        if name not in config or name in EVALUATED_INSTANCE_CLASSES:
            continue
        if gaps := [gap for gap in ESSENTIAL if gap not in config[name]]:
            flags = ", ".join("--" + OPTION_OF.get(gap, gap).replace("_", "-") for gap in gaps)
            raise click.UsageError(
                f"--config gives {name!r} no {', '.join(gaps)}, and no default fits all objects: add them "
                f"to [classes.{name}], or pass {flags}"
            )


def _defaults(
    semantic: str, flow: str, values: dict[str, Any], flags: dict[str, Any], names: Collection[str]
) -> dict[str, Any]:
    from ..placing import choose_resolution, place_of_prediction
    from ..stores.inputs import open_prediction

    _, _, place, place_of_flow = open_prediction(semantic, flow, values["level"])
    given = values["resolution_nm"]
    resolution, voxel_size_nm = choose_resolution(given, place_of_prediction(place, place_of_flow, given))
    if flags.keys() >= OF_RESOLUTION:
        resolution = 8  # or any other: none of what depends on it is used, and nobody need hear of it
    elif resolution is None:
        warnings.warn(
            "neither classes in --config nor --resolution-nm is given: using the parameters for 8 nm voxels where no "
            "option says otherwise",
            UserWarning,
            stacklevel=2,
        )
    config = get_postprocess_config(8 if resolution is None else resolution, values["preset"] or "published")
    if "convergence_radius" not in flags:
        radii = {name: config[name]["convergence_radius"] for name in names if name in config}
        warn_of_edges(voxel_size_nm, radii)
    return config
