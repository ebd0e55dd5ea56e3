"""Warnings that name the line of the caller, wherever they come from."""

import sys
import warnings


def warn(message: str) -> None:
    """Warn with the line that called this package, from however deep in it; warnings of workers reach their client."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        frame, level = frame.f_back, level + 1
    emit = sys.modules["distributed"].warn if _in_other_process() else warnings.warn
    emit(message, UserWarning, stacklevel=level)


def _in_other_process() -> bool:
    # Whether this is a worker whose clients are in other processes.
    if "distributed" not in sys.modules:
        return False
    from distributed import get_worker

    try:
        return not str(get_worker().address).startswith("inproc://")
    except ValueError:
        return False
