"""Asking a store again: object stores fail now and then, and deny what they hold."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from zarr.storage import LocalStore, MemoryStore, ZipStore

T = TypeVar("T")
S = TypeVar("S")

TRIES = 8
"""Looks at an object of a store that is not local, before it counts as absent: half a second of them.

A store that denies one request in five wrongly denies an object eight times in a row once in 400 000.
"""

FAILURES = 12
"""Failures in a row after which a request is given up: half a minute of them."""

PAUSE_ABSENT, PAUSE_ERROR = 0.02, 0.2
"""Seconds before the second look; doubled before each further one, with a jitter of half to one and a half."""

LONGEST_ABSENT, LONGEST_ERROR = 0.1, 4.0
"""Seconds, before the jitter, beyond which a pause does not grow."""


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


async def persist(look: Callable[[], Awaitable[T | None]], looks: int | None = None) -> T | None:
    """What a remote store answers; None after so many denials, or `TRIES`; the error after `FAILURES` in a row."""
    denied = failed = 0
    while True:
        try:
            found = await look()
        except Exception as error:
            failed += 1
            if failed == FAILURES or not _is_transient(error):
                raise
            pause = min(LONGEST_ERROR, PAUSE_ERROR * 2 ** (failed - 1))
        else:
            denied, failed = denied + 1, 0
            if found is not None or denied == (looks or TRIES):
                return found
            pause = min(LONGEST_ABSENT, PAUSE_ABSENT * 2 ** (denied - 1))
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))


def in_parallel(*questions: Callable[[], Any]) -> list[Any]:
    """Answers to questions none of which waits for another; the error of the first that has one.

    Where a store that is not local takes many looks to deny, they are all taken in the time of one question.

    Examples
    --------
    >>> in_parallel(lambda: 1, lambda: 2)
    [1, 2]
    """
    if len(questions) < 2:
        return [question() for question in questions]
    with ThreadPoolExecutor(len(questions)) as pool:
        return [future.result() for future in [pool.submit(question) for question in questions]]


def in_order(act: Callable[[S], T], objects: Iterable[S], ahead: int) -> Iterator[T]:
    """What an act makes of each of some objects, in their order; up to so many are under way at a time.

    A request to an object store takes some hundredths of a second, and waits all that time.

    Examples
    --------
    >>> list(in_order(abs, [-1, 2, -3], 2))
    [1, 2, 3]
    """
    with ThreadPoolExecutor(ahead) as pool:
        under_way = deque[Any]()
        try:
            for one in objects:
                under_way.append(pool.submit(act, one))
                if len(under_way) == ahead:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


async def insist(act: Callable[[], Awaitable[Any]]) -> None:
    """Have a remote store do what can be done twice; the last error when it does not."""

    async def done() -> bool:
        await act()
        return True

    await persist(done)
