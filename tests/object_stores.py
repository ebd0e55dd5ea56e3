"""An object store in the memory of this process, some of whose requests fail: many times as fast as a server."""

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem

ERRORS: dict[int, Callable[[str], OSError]] = {
    404: FileNotFoundError,
    500: lambda path: OSError(errno.EREMOTEIO, "InternalError"),
    503: lambda path: OSError(errno.EBUSY, "SlowDown"),
}


@dataclass
class Objects:
    """What is stored, and which requests fail; `fail` and `failed` are those of `conftest.FailingServer`."""

    stored: dict[str, bytes] = field(default_factory=dict)
    fail: Callable[[str, str], int | None] = lambda method, path: None
    failed: list[tuple[int, str, str]] = field(default_factory=list)

    def request(self, method: str, path: str, act: Callable[[], Any]) -> Any:
        """Do what is asked, or fail; every other write that is answered with 500 or 503 has happened all the same."""
        status = self.fail(method, f"/{path}")
        if status is None:
            return act()
        self.failed.append((status, method, f"/{path}"))
        if method in ("PUT", "POST") and status != 404 and len(self.failed) % 2:
            act()
        raise ERRORS[status](path)

    def below(self, path: str) -> list[str]:
        """Keys of a folder, from one request."""
        return self.request("LIST", path, lambda: sorted(key for key in [*self.stored] if key.startswith(f"{path}/")))


OBJECTS = Objects()


class FailingFileSystem(AsyncFileSystem):
    """File system ``failing://`` over `OBJECTS`, which makes the requests that s3fs makes of S3, one by one."""

    protocol = "failing"

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **more: Any) -> bytes:
        path = self._strip_protocol(path)

        def read() -> bytes:
            if path not in OBJECTS.stored:
                raise FileNotFoundError(path)
            return OBJECTS.stored[path][start:end]

        return OBJECTS.request("GET", path, read)

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **more: Any) -> None:
        path = self._strip_protocol(path)
        OBJECTS.request("PUT", path, lambda: OBJECTS.stored.update({path: bytes(value)}))

    async def _info(self, path: str, **more: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        try:
            if OBJECTS.request("HEAD", path, lambda: path in OBJECTS.stored):
                return {"name": path, "size": len(OBJECTS.stored[path]), "type": "file"}
        except FileNotFoundError:
            pass
        if OBJECTS.below(path):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    async def _exists(self, path: str, **more: Any) -> bool:
        try:
            await self._info(path)
        except FileNotFoundError:
            return False
        return True

    async def _ls(self, path: str, detail: bool = True, **more: Any) -> list[Any]:
        path = self._strip_protocol(path)
        names = sorted({f"{path}/{key.removeprefix(f'{path}/').split('/')[0]}" for key in OBJECTS.below(path)})
        if not names:
            raise FileNotFoundError(path)
        return [{"name": name, "size": 0, "type": "file"} for name in names] if detail else names

    async def _find(self, path: str, maxdepth: int | None = None, withdirs: bool = False, **more: Any) -> list[str]:
        return OBJECTS.below(self._strip_protocol(path))

    async def _rm(self, path: str, recursive: bool = False, **more: Any) -> None:
        path = self._strip_protocol(path)
        keys = OBJECTS.below(path) if recursive else [path]
        if not recursive and not await self._exists(path):
            raise FileNotFoundError(path)
        if keys:
            OBJECTS.request("POST", path, lambda: [OBJECTS.stored.pop(key, None) for key in keys])


fsspec.register_implementation("failing", FailingFileSystem, clobber=True)
