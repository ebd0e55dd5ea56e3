"""Repeated requests: object stores fail now and then, or deny an object that they hold."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from operator import call
from typing import Any, TypeVar

from zarr.storage import LocalStore, MemoryStore, ZipStore

T = TypeVar("T")
S = TypeVar("S")

TRIES = 8
"""How often a store that is not local must deny an object before it counts as absent; this takes half a second.

A store that denies one request in five wrongly denies an object eight times in a row once in 400 000.
"""

FAILURES = 12
"""How often in a row a request must fail before it is given up; this takes half a minute."""

PAUSE_ABSENT, PAUSE_ERROR = 0.02, 0.2
"""Seconds before the second try, after a denial and after an error. They double before each further try, and are
multiplied by a random factor from 0.5 to 1.5."""

LONGEST_ABSENT, LONGEST_ERROR = 0.1, 4.0
"""Longest pauses in seconds, before the random factor."""

_TOGETHER = 32
"""Objects that `find_some` looks for at the same time."""


def is_local(store: Any) -> bool:
    """Whether the first answer of a store is final: it is a folder, an archive, or memory."""
    return isinstance(store, LocalStore | MemoryStore | ZipStore)


def _is_transient(error: BaseException) -> bool:
    """Whether a request that failed with this error may succeed when it is repeated."""
    response = getattr(error, "response", None)
    status = getattr(error, "status", getattr(error, "code", None))
    if isinstance(response, dict):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if isinstance(status, int) and 400 <= status < 500:
        return status in (408, 425, 429)
    return not isinstance(error, PermissionError | TypeError | ValueError | LookupError | AttributeError | MemoryError)


async def persist(look: Callable[[], Awaitable[T | None]], looks: int | None = None) -> T | None:
    """Repeat a look at a remote store until it finds something.

    Parameters
    ----------
    look : callable
        Coroutine function that returns None where the store denies what is looked for.
    looks : int, optional
        Denials after which None is returned; `TRIES` by default.

    Raises
    ------
    Exception
        The error of the look: at once if a repetition would not help, else after `FAILURES` in a row.
    """
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
            pause = _pause_absent(denied)
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))


async def find_some(look: Callable[[S], Awaitable[bool]], objects: Iterable[S], looks: int) -> set[S]:
    """Those of several objects that one of so many looks finds; a remote store has denied each of them before.

    There is a pause before each look, as `persist` makes it, but one for all objects: it takes as long as with one.
    """
    places, found, left = asyncio.Semaphore(_TOGETHER), set[S](), list(objects)

    async def find(name: S) -> None:
        async with places:
            if await look(name):
                found.add(name)

    for denied in range(1, looks + 1):
        if not (left := [name for name in left if name not in found]):
            break
        await asyncio.sleep(_pause_absent(denied) * random.uniform(0.5, 1.5))
        await asyncio.gather(*map(find, left))
    return found


def _pause_absent(denied: int) -> float:
    return min(LONGEST_ABSENT, PAUSE_ABSENT * 2.0 ** (denied - 1))


def in_parallel(*questions: Callable[[], Any]) -> list[Any]:
    """Answers to questions that are asked at the same time; the error of the first question that fails.

    A remote store is asked many times before an object counts as absent: several questions take as long as one.

    Examples
    --------
    >>> in_parallel(lambda: 1, lambda: 2)
    [1, 2]
    """
    if len(questions) < 2:
        return [question() for question in questions]
    return list(in_order(call, questions, len(questions)))


def in_order(act: Callable[[S], T], objects: Iterable[S], ahead: int) -> Iterator[T]:
    """Results of a function for each of some objects, in their order; up to `ahead` calls run at a time.

    A request to an object store takes some hundredths of a second, nearly all of it waiting.

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
    """Repeat a request that may be done twice until a remote store accepts it; its last error when it does not."""

    async def done() -> bool:
        await act()
        return True

    await persist(done)
