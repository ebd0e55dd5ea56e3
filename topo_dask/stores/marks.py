"""Marks: attributes that a run writes into its labels, by which later runs recognise them."""

import os
from contextlib import suppress
from typing import Any, NamedTuple

from .addresses import absolute, followed
from .checked import check_unchanged
from .foreign import MARK
from .persistent import store_at
from .places import Target, existing_group, members
from .pyramids import LABELS


def has_labels(group: Any, place: str) -> bool:
    """Whether a run has written labels at a place of a group."""
    return place in group and MARK in group[place].attrs


def check_owned(target: Target, place: str, run: str) -> None:
    """Raise RuntimeError when another run has replaced what is at a place since this one opened it.

    An array that was given has no mark: see `check_unchanged`.
    """
    if target.is_array:
        check_unchanged(target.node)
        return
    group = existing_group(target)
    mark = group[place].attrs.get(MARK) if group is not None and place in group else None
    _check_mark(mark, run, f"output {place!r} in {target.url or target.node.store}")


def check_run(array: Any, run: str) -> None:
    """Raise RuntimeError when an array does not bear the mark of a run, as it is stored now."""
    import zarr

    try:
        # Only the format of the array: a store that is not local is asked many times for a file that is absent.
        mark = zarr.open_array(array.store_path, mode="r", zarr_format=array.metadata.zarr_format).attrs.get(MARK)
    except FileNotFoundError:
        mark = None
    _check_mark(mark, run, f"output {array.store_path}")


def _check_mark(mark: Any, run: str, what: str) -> None:
    if not isinstance(mark, dict) or mark.get("run") != run:
        raise RuntimeError(
            f"{what} was replaced by another run while this one was at work: give each run an output of its own"
        )


def read_marks(url: str) -> dict[str, dict[str, Any]]:
    """Marks of the labels at a path or URL: of those in a group, plain or OME-Zarr, by their place in it.

    If the labels themselves, or a level of them, are there, their place is "". Empty where no run has written any.
    """
    return _marks_at(url, _group_at(url))


def _group_at(url: str) -> Any:
    # None where there is nothing, an array, or something that the caller will fail to open.
    try:
        return existing_group(Target(absolute(url)))
    except FileExistsError:
        return None


def _marks_at(url: str, group: Any) -> dict[str, dict[str, Any]]:
    if (own := _own_mark(url, group)) is not None:
        return {"": own}
    return {} if group is None else _marks_in(group)


def _marks_in(group: Any) -> dict[str, dict[str, Any]]:
    import zarr

    groups = {"": group, f"{LABELS}/": group.get(LABELS)}
    groups = {inner: node for inner, node in groups.items() if isinstance(node, zarr.Group)}
    marks = {inner + name: node.attrs.get(MARK) for inner, one in groups.items() for name, node in members(one)}
    return {place: mark for place, mark in marks.items() if isinstance(mark, dict)}


class Found(NamedTuple):
    """Path or URL of labels, and the mark of the run that wrote them: empty where no run did, or none is known."""

    url: str
    mark: dict[str, Any]


def find_labels(url: str, name: str | None = None) -> Found:
    """The labels of a class in the output of a run, OME-Zarr or plain.

    Parameters
    ----------
    url : str
        Path or URL of the output.
    name : str, optional
        Class; by default the only one that is there. Where no run has written labels, the result is `url` itself, an
        array or an image.

    Raises
    ------
    ValueError
        When no class is named and there are several, when there are labels of other classes only, when the class has
        labels in both layouts, or when the run has not finished them.
    """
    group = _group_at(url)
    marks = _marks_at(url, group)
    if own := marks.get(""):
        _check_whole(own, url)
        return Found(url if name in (None, own["class"]) else f"{url.rstrip('/')}/{name}", own)
    names = sorted(set(map(os.path.basename, marks)))
    if name is None and len(names) > 1:
        raise ValueError(f"{url} has labels of {', '.join(names)}: choose one with name=<class>")
    name = next(iter(names), None) if name is None else name
    if name is None:
        return Found(url, {})
    places = [place for place in (name, f"{LABELS}/{name}") if place in marks]
    if len(places) > 1:
        raise ValueError(f"{url} has labels of {name!r} in {' and in '.join(places)}: give the path of those you mean")
    if places:
        _check_whole(marks[places[0]], url)
        return Found(f"{url.rstrip('/')}/{places[0]}", marks[places[0]])
    others = [path for path in (f"{LABELS}/{name}", name) if group is not None and path in group]
    if names and not others:
        raise ValueError(f"{url} has labels of {', '.join(names)}, and none of {name!r}")
    return Found(f"{url.rstrip('/')}/{next(iter(others), name)}", {})


def check_whole(url: str) -> None:
    """Raise ValueError when a run has not finished the labels at a path or URL, or those of which it is a level."""
    group = _group_at(url)
    own = _own_mark(url, group)
    if own is not None and (group is not None or _is_in_place(url, own["class"])):
        _check_whole(own, url)


def _is_in_place(url: str, name: str) -> bool:
    # Whether an array lies where a run puts labels of a class. A level that was copied to another place is let through:
    # its own mark never says that it is whole.
    above, _, last = followed(absolute(url)).rpartition("/")
    return name in (last, os.path.basename(above)) and _group_at(above) is not None


def _check_whole(mark: dict[str, Any], url: str) -> None:
    if not mark.get("complete"):
        raise ValueError(f"labels of {mark['class']!r} in {url} are not whole: the run has not finished them")


def _own_mark(url: str, group: Any) -> dict[str, Any] | None:
    # The mark of a group or an array that is the labels of a class.
    import zarr

    node = group
    if node is None:
        with suppress(OSError, ValueError):  # no array either
            node = zarr.open_array(store_at(absolute(url)), mode="r")
    return None if node is None else mark_of(node, url)


def mark_of(node: Any, url: str) -> dict[str, Any] | None:
    """Mark of the labels that a group or array at a path or URL is, or is a level of; None if no run wrote it.

    Only the mark of the group says that labels are whole, those of its levels do not.
    """
    mark = node.attrs.get(MARK)
    if not isinstance(mark, dict):
        return None
    above, _, level = followed(absolute(url)).rpartition("/")
    if hasattr(node, "shape") and level.isdecimal() and not mark.get("complete"):
        with suppress(OSError, ValueError):  # an array that lies alone
            group = existing_group(Target(above))
            around = None if group is None else group.attrs.get(MARK)
            if isinstance(around, dict) and around.get("run") == mark.get("run"):
                return around
    return mark
