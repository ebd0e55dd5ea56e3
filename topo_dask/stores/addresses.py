"""Addresses of arrays, groups and folders: paths on this machine, and URLs of other stores."""

import os
import re

Place = str | os.PathLike[str]
"""Path or URL, as a caller gives it."""


def unfiled(address: str) -> str:
    """A path in place of a URL of files of this machine; other addresses unchanged.

    As in fsspec, percent signs in such a URL stand for themselves, and ``local:`` is another name of ``file:``.

    Examples
    --------
    >>> unfiled("file:///data/flow"), unfiled("file:/data/flow"), unfiled("s3://data/flow")
    ('/data/flow', '/data/flow', 's3://data/flow')
    """
    return re.sub(r"^(file|local):(//|(?=/))", "", address)


def is_url(address: str) -> bool:
    """Whether an address is a URL; for a path of this machine it is not.

    Examples
    --------
    >>> is_url("s3://data/flow"), is_url("/data/flow")
    (True, False)
    """
    return "://" in address


def is_memory(address: str | None) -> bool:
    """Whether an address is in fsspec's file system in the memory of a process."""
    return address is not None and address.startswith("memory:")


def absolute(address: str) -> str:
    """Absolute path or URL, so that every process finds the same place; a path for a URL of files of this machine.

    Slashes at its end are left out: an object store would take what is put after two slashes for another folder.

    Examples
    --------
    >>> absolute("file:/data/flow"), absolute("/data/./flow"), absolute("s3://data/flow/")
    ('/data/flow', '/data/flow', 's3://data/flow')
    """
    address = unfiled(address)
    if is_url(address):
        return re.sub("(?<=[^:/])/+$", "", address)
    return os.path.abspath(os.path.expanduser(address))


def check_protocol(address: str, name: str) -> None:
    """Raise ValueError or ImportError, naming argument and address, if nothing here can open such URLs."""
    if is_url(address):
        from fsspec import get_filesystem_class

        try:
            get_filesystem_class(address.partition("://")[0])
        except (ValueError, ImportError) as error:
            raise type(error)(f"{name} {address}: {error}") from error


def followed(address: str) -> str:
    """The place that a path leads to through symbolic links; a URL without slashes at its end.

    Examples
    --------
    >>> followed("s3://data/flow/")
    's3://data/flow'
    """
    return address.rstrip("/") if is_url(address) else os.path.realpath(address)


def nested(one: str, other: str) -> bool:
    """Whether two places are the same, or one lies in the other; symbolic links are followed.

    Examples
    --------
    >>> nested("s3://data/flow", "s3://data"), nested("s3://data/flow", "s3://data/flows")
    (True, False)
    """
    places = [f"{followed(address)}/" for address in (one, other)]
    return places[0].startswith(places[1]) or places[1].startswith(places[0])
