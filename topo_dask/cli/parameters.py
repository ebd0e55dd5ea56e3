"""Parameters of classes, from flags and from a file."""

import tomllib
from typing import Any

import click


def read_parameters(values: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `plan_volume` and `segment_volume` from the values of the options."""
    # Flags win over the file, the file over the published values.
    names = ("group", "n_steps", "step_size", "convergence_radius", "min_size", "merge")
    flags = {name: values.pop(name) for name in names}
    flags = {name: value for name, value in flags.items() if value is not None}
    classes, path = values.pop("classes"), values.pop("config")
    config: dict[str, Any] | None = None
    if path is not None:
        try:
            config = tomllib.loads(path.read_text()).get("classes")
        except tomllib.TOMLDecodeError as error:
            raise click.UsageError(f"{path} is not valid TOML: {error}") from None
        if not config or not isinstance(config, dict):
            raise click.UsageError(f"{path} has no table [classes.NAME]")
        for name, parameters in config.items():
            if not isinstance(parameters, dict):
                raise click.UsageError(f"{path}: classes.{name} must be a table of parameters, got {parameters!r}")
    if flags:
        from ..config import get_postprocess_config

        if not classes:
            raise click.UsageError("parameters given as options need --class to say what they are for")
        resolution = values["resolution_nm"]
        preset = None if config else values.pop("preset")
        base = config or get_postprocess_config(8 if resolution is None else resolution, preset or "published")
        config = {name: {**base.get(name, {}), **flags} for name in classes}
    return {**values, "class_names": list(classes) or (list(config) if config else None), "class_config": config}
