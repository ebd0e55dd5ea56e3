"""Asking a store again: object stores fail now and then, and deny what they hold."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from zarr.storage import LocalStore, MemoryStore, ZipStore

T = TypeVar("T")

TRIES = 5
"""Looks at an object of a store that is not local, before it counts as absent or out of reach."""

PAUSE_ABSENT, PAUSE_ERROR = 0.05, 0.2
"""Seconds before the second look; doubled before each further one, with a jitter of half to one and a half."""


def is_local(store: Any) -> bool:
    """Whether a store answers for good the first time: a folder, an archive, or memory."""
    return isinstance(store, LocalStore | MemoryStore | ZipStore)


def _is_transient(error: BaseException) -> bool:
    """Whether a request that failed like this may succeed when it is made again."""
    response = getattr(error, "response", None)
    status = getattr(error, "status", getattr(error, "code", None))
    if isinstance(response, dict):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if isinstance(status, int) and 400 <= status < 500:
        return status in (408, 425, 429)
    return not isinstance(error, PermissionError | TypeError | ValueError | LookupError | AttributeError | MemoryError)


async def persist(look: Callable[[], Awaitable[T | None]]) -> T | None:
    """What a remote store answers, asked again after an error or a None; the last error when there is no answer."""
    error: Exception | None = None
    for attempt in range(TRIES):
        if attempt:
            pause = PAUSE_ERROR if error else PAUSE_ABSENT
            await asyncio.sleep(pause * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        error = None
        try:
            found = await look()
        except Exception as raised:
            if not _is_transient(raised):
                raise
            error = raised
        else:
            if found is not None:
                return found
    if error:
        raise error
    return None
