"""Classes and their parameters, validated once."""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from numbers import Real
from typing import Any, Literal, TypeAlias

from .given import finite_number, integer
from .warning import warn

Merge = Literal["adjacent", "agglomerate"]
Preset = Literal["published", "touching"]

Resolution: TypeAlias = float | Sequence[float]
"""Edge of a voxel in nanometres, or its three edges along z, y, x."""

EVALUATED_INSTANCE_CLASSES: tuple[str, ...] = (
    "nuc",
    "ves",
    "endo",
    "lyso",
    "ld",
    "perox",
    "mito",
    "mt",
    "cell",
)
"""Instance classes of the published package, in the order of its channels."""

ESSENTIAL = ("group", "n_steps", "convergence_radius", "min_size")
"""Parameters that depend on the objects, so that the defaults of `ClassConfig` are hardly ever right."""


def _positive(value: object, name: str) -> float:
    number = finite_number(value, name)
    if number <= 0:
        raise ValueError(f"{name} must be above 0, got {value!r}")
    return number


def edges_nm(resolution_nm: Resolution) -> tuple[float, float, float]:
    """Edges of a voxel along z, y, x in nanometres, where one number stands for all three.

    Raises
    ------
    TypeError, ValueError
        When it is neither a finite number above 0 nor three of them.

    Examples
    --------
    >>> edges_nm((40, 16, 16))
    (40.0, 16.0, 16.0)
    """
    plain: Any = resolution_nm.tolist() if hasattr(resolution_nm, "tolist") else resolution_nm  # of NumPy
    given = plain if isinstance(plain, Sequence) and not isinstance(plain, str | bytes) else [plain] * 3
    if len(given) != 3:
        raise ValueError(f"resolution_nm must be one number, or three along z, y, x; got {resolution_nm!r}")
    z, y, x = (_positive(edge, "resolution_nm") for edge in given)
    return z, y, x


@dataclass(frozen=True)
class ClassConfig:
    """Parameters of one class.

    Parameters
    ----------
    group : {1, 2, 3}
        1 convex: track and cluster. 2 elongated: also split what is disconnected. 3 thin: also recover orphans.
    n_steps : int
        Euler steps, 0 or more.
    step_size : float
        Length of a step in units of the flow vector; not 0 and not negative.
    convergence_radius : float
        Sinks closer than this many voxels belong together; above 0.
    min_size : int
        Instances of fewer voxels are dropped. Groups 2 and 3 split after that: a piece may be smaller.
    merge : {None, "adjacent", "agglomerate"}
        How instances that touch are united.
    flow_error_threshold : float
        Instances with a larger flow error are dropped; 0 keeps all.
    min_fragment_ratio : float
        Share of an instance's voxels from which a disconnected fragment becomes an instance of its own, even if it has
        fewer voxels than `min_size`.

    Examples
    --------
    >>> ClassConfig(group=2, n_steps=-1)
    Traceback (most recent call last):
        ...
    ValueError: n_steps must be at least 0, got -1
    """

    group: int = 1
    n_steps: int = 100
    step_size: float = 1.0
    convergence_radius: float = 4.0
    min_size: int = 50
    merge: Merge | None = None
    flow_error_threshold: float = 0.0
    min_fragment_ratio: float = 0.1

    def __post_init__(self) -> None:
        group: object = self.group
        # The type comes first: comparing an array with 1 gives no single truth value.
        if isinstance(group, bool) or not isinstance(group, Real) or group not in (1, 2, 3):
            raise ValueError(f"group must be 1, 2 or 3, got {self.group!r}")
        set_ = object.__setattr__
        set_(self, "group", int(self.group))
        set_(self, "n_steps", integer(self.n_steps, "n_steps", 0))
        set_(self, "min_size", integer(self.min_size, "min_size", 0))
        for name in ("step_size", "convergence_radius", "flow_error_threshold", "min_fragment_ratio"):
            set_(self, name, finite_number(getattr(self, name), name))
        self._check_ranges()

    def _check_ranges(self) -> None:
        # Both are used in float32 arithmetic too, which has a smaller range.
        for name in ("step_size", "convergence_radius"):
            value = getattr(self, name)
            if not 1e-30 < value < 1e30:
                raise ValueError(f"{name} must be above 0 and below 1e30, got {value!r}")
        if self.flow_error_threshold < 0:
            raise ValueError(f"flow_error_threshold must be 0 or more, got {self.flow_error_threshold!r}")
        if self.min_fragment_ratio < 0:
            raise ValueError(f"min_fragment_ratio must be 0 or more, got {self.min_fragment_ratio!r}")
        if self.merge not in (None, "adjacent", "agglomerate"):
            raise ValueError(f"merge must be None, 'adjacent' or 'agglomerate', got {self.merge!r}")

    @classmethod
    def from_mapping(cls, values: "Mapping[str, Any] | ClassConfig", name: str) -> "ClassConfig":
        """Parameters of class `name` from a mapping; errors name the class."""
        if isinstance(values, ClassConfig):
            return values
        if not isinstance(values, Mapping):
            raise TypeError(f"class_config[{name!r}] must be a mapping of parameters, got {values!r}")
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known, key=str)
        if unknown:
            close = get_close_matches(str(unknown[0]), known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {sorted(known)}"
            raise ValueError(f"class_config[{name!r}]: unknown parameter {unknown[0]!r}; {hint}")
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise type(error)(f"class_config[{name!r}]: {error}") from None

    def with_flow_error(self, threshold: float) -> "ClassConfig":
        """The same with this flow error threshold; with a `threshold` of 0 the class keeps its own."""
        return replace(self, flow_error_threshold=threshold) if threshold != 0 else self

    def to_dict(self) -> dict[str, Any]:
        """All parameters by name."""
        return asdict(self)


# Published values, one row for each class: n_steps, convergence_radius, min_size at 8, 16, 32 and 64 nm; step size 1.
# Source: janelia-cellmap/topo.
_RESOLUTIONS = (8, 16, 32, 64)
_PUBLISHED: dict[str, tuple[int, Merge | None, tuple[tuple[int, float, int], ...]]] = {
    "nuc": (1, None, ((943, 58.0, 5331), (800, 38.0, 1000), (662, 44.7, 225), (336, 31.0, 266))),
    "ves": (1, None, ((28, 2.7, 14), (20, 1.5, 5), (20, 1.5, 5), (20, 1.5, 5))),
    "endo": (1, None, ((112, 5.2, 81), (56, 3.3, 10), (26, 1.7, 5), (20, 1.5, 5))),
    "lyso": (1, None, ((110, 8.7, 226), (76, 4.7, 20), (36, 2.3, 5), (20, 1.5, 5))),
    "ld": (1, None, ((290, 17.0, 676), (152, 3.9, 80), (111, 5.3, 14), (58, 2.3, 5))),
    "perox": (1, None, ((214, 15.3, 964), (102, 6.0, 120), (52, 5.0, 40), (26, 1.7, 5))),
    "mito": (2, "adjacent", ((536, 26.5, 831), (320, 25.0, 240), (160, 12.0, 26), (90, 7.5, 7))),
    "mt": (3, None, ((300, 23.3, 83), (150, 12.0, 8), (74, 4.7, 5), (32, 1.5, 5))),
    "cell": (2, "adjacent", ((614, 3.2, 5), (300, 6.0, 5), (150, 4.3, 5), (140, 3.0, 5))),
}


# Objects that touch. The sinks of neighbours may be 3 voxels apart, and a whole step crosses the border of a thin
# object, so radius and steps are short. Particles that stop short of an object's middle do harm; more steps than needed
# do none (examples/choosing_parameters.py): hence the published travel, without a cap, and a least number of steps.
_TOUCHING: dict[str, Any] = {"merge": "agglomerate", "convergence_radius": 1.5, "step_size": 0.5, "n_steps": 200}


def get_postprocess_config(resolution_nm: Resolution, preset: Preset = "published") -> dict[str, dict[str, Any]]:
    """Parameters of every class at the nearest of the resolutions 8, 16, 32 and 64 nm.

    Parameters
    ----------
    resolution_nm : float or sequence of 3 float
        Edge of a voxel in nanometres; of three edges the shortest counts. A tie goes to the finer resolution.
    preset : {"published", "touching"}
        "published" are the values of the published package. "touching" is for objects packed against one another and
        networks trained on diffusion flow: `merge` is "agglomerate", the radius is 1.5 voxels, and steps are 0.5 long,
        as many as the published travel takes but at least 200; `group` and `min_size` are the published ones. On direct
        flow, and where every object has one sink, no merge at all is better: see docs/touching.md.

    Returns
    -------
    config : dict
        Class name to a dict of `ClassConfig` parameters, free to be changed.

    Raises
    ------
    TypeError, ValueError
        When `resolution_nm` is neither a finite number above 0 nor three, or `preset` is not one of the two.

    Warns
    -----
    UserWarning
        When the resolution is below 4 or above 128 nm.

    Notes
    -----
    The published values are those of the package janelia-cellmap/topo.

    Examples
    --------
    >>> get_postprocess_config(8)["ves"]["convergence_radius"]
    2.7
    >>> get_postprocess_config(8, "touching")["ves"]["convergence_radius"]
    1.5
    """
    if preset not in ("published", "touching"):
        raise ValueError(f"preset must be 'published' or 'touching', got {preset!r}")
    resolution = min(edges_nm(resolution_nm))
    if not _RESOLUTIONS[0] / 2 <= resolution <= _RESOLUTIONS[-1] * 2:
        warn(f"resolution_nm {resolution:g} is far from those with parameters, {_RESOLUTIONS} nm: using the nearest")
    within = min(max(resolution, _RESOLUTIONS[0]), _RESOLUTIONS[-1])  # a float far outside is as far from all of them
    column = min(range(len(_RESOLUTIONS)), key=lambda i: abs(_RESOLUTIONS[i] - within))
    config: dict[str, dict[str, Any]] = {}
    for name, (group, merge, columns) in _PUBLISHED.items():
        n_steps, radius, min_size = columns[column]
        config[name] = {
            "group": group,
            "n_steps": n_steps,
            "step_size": 1.0,
            "convergence_radius": radius,
            "min_size": min_size,
        }
        if merge is not None:
            config[name]["merge"] = merge
    return config if preset == "published" else {name: _for_touching(values) for name, values in config.items()}


def _for_touching(values: dict[str, Any]) -> dict[str, Any]:
    for_travel = math.ceil(values["n_steps"] * values["step_size"] / _TOUCHING["step_size"])
    return {**values, **_TOUCHING, "n_steps": max(for_travel, _TOUCHING["n_steps"])}


def warn_of_edges(voxel_size_nm: tuple[float, float, float] | None, radii: Mapping[str, float]) -> None:
    """Warn that default parameters count voxels, if the edges of a voxel differ by more than a tenth.

    Parameters
    ----------
    voxel_size_nm : tuple of 3 float, optional
        Edges of a voxel along z, y, x in nanometres, if they are known.
    radii : mapping
        Class name to its convergence radius in voxels.
    """
    if voxel_size_nm is None or not radii or max(voxel_size_nm) <= 1.1 * min(voxel_size_nm):
        return
    name = max(radii, key=radii.__getitem__)
    edges = sorted(zip(voxel_size_nm, "zyx", strict=True))
    short, long = (f"{radii[name] * edge:.4g} nm along {axis}" for edge, axis in (edges[0], edges[-1]))
    warn(
        f"voxels are {' × '.join(f'{edge:g}' for edge in voxel_size_nm)} nm, but the default parameters count voxels: "
        f"the radius of {radii[name]:g} of {name!r} is {long} and {short}; if that does not fit the objects, give "
        "parameters of your own in class_config"
    )


def resolve_classes(
    class_names: object,
    class_config: Mapping[str, Any] | None,
    resolution_nm: Resolution | None,
    n_channels: int,
    flow_error_threshold: float,
    preset: Preset | None = None,
) -> dict[str, tuple[int, ClassConfig]]:
    """Channel and parameters of each class that is to be segmented, in the order of channels.

    `preset` chooses the default parameters; None stands for the published ones. It cannot be combined with a
    `class_config`.

    Raises
    ------
    TypeError, ValueError
        When names, number of channels or parameters do not fit together.
    """
    given: Any = EVALUATED_INSTANCE_CLASSES if class_names is None else class_names
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"class_names must be a sequence of str, got {class_names!r}")
    if isinstance(given, Set | Mapping):
        raise TypeError(f"class_names must be a sequence of str, in the order of the channels, got {class_names!r}")
    names = tuple(given)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"class_names must be a sequence of str, got {class_names!r}")
    if len(names) != n_channels:
        if class_names is None:
            fits = isinstance(class_config, Mapping) and len(class_config) == n_channels
            such = f", as in class_names={[*class_config]}" if class_config and fits else ""
            raise ValueError(
                f"class_names is not given, and the nine published classes do not fit the semantic array of "
                f"{n_channels} channels: name the class of each channel{such}"
            )
        raise ValueError(
            f"class_names must name the class of each channel, in order: the semantic array has {n_channels}, got "
            f"{len(names)}: {names!r}"
        )
    if len(set(names)) != len(names):
        raise ValueError(f"class_names must differ from one another, got {names!r}")
    if resolution_nm is not None:
        edges_nm(resolution_nm)
    if class_config is None:
        if resolution_nm is None:
            warn("neither class_config nor resolution_nm is given: using the parameters for 8 nm voxels")
        class_config = get_postprocess_config(8 if resolution_nm is None else resolution_nm, preset or "published")
    elif preset is not None:
        values = ", ".join(f"{name} {value}" for name, value in _TOUCHING.items())
        raise ValueError(
            f"preset={preset!r} is for the default parameters; class_config gives its own: for objects that touch give "
            f"it {values} or more"
        )
    elif not isinstance(class_config, Mapping):
        raise TypeError(f"class_config must map class names to parameters, got {class_config!r}")
    threshold = ClassConfig(flow_error_threshold=flow_error_threshold).flow_error_threshold
    classes = {
        name: (channel, ClassConfig.from_mapping(class_config[name], name).with_flow_error(threshold))
        for channel, name in enumerate(names)
        if name in class_config
    }
    if classes:
        _warn_of_skipped(names, class_config)
        _warn_of_gaps(class_config, names)
    return classes


def nothing_to_segment(class_names: Iterable[str] | None, class_config: Mapping[str, Any] | None) -> str:
    """Message, with the remedy, for the case that no class has parameters."""
    known = EVALUATED_INSTANCE_CLASSES if class_config is None else class_config
    has = f"the default parameters ({', '.join(known)}) have" if class_config is None else "class_config has"
    hint = next(filter(None, (_closest(name, known) for name in class_names or ())), "")
    return f"no class to segment: {has} no entry for any of {class_names!r}; give them parameters in class_config{hint}"


def _closest(name: str, known: Iterable[object]) -> str:
    close = get_close_matches(name, map(str, known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _warn_of_skipped(names: tuple[str, ...], class_config: Mapping[str, Any]) -> None:
    for name in names:
        if name not in class_config:
            warn(f"class {name!r} is skipped: no parameters are given for it{_closest(name, class_config)}")


def _warn_of_gaps(class_config: Mapping[str, Any], names: tuple[str, ...]) -> None:
    # Users who name a published class may expect the published values for parameters that they leave out.
    for name in names:
        given = class_config.get(name)
        if name not in _PUBLISHED or not isinstance(given, Mapping):
            continue
        if gaps := [gap for gap in ESSENTIAL if gap not in given]:
            used = ", ".join(f"{gap}={getattr(ClassConfig, gap)}" for gap in gaps)
            warn(
                f"class_config gives {name!r} no {', '.join(gaps)}: using {used}; the published values are those of "
                "get_postprocess_config"
            )
