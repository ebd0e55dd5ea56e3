"""A file system without a search of its own, as those of sftp, smb, webdav and ftp: fsspec walks its folders."""

from collections.abc import Callable
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


class WalkedFileSystem(LocalFileSystem):
    """File system ``walked://`` over the files of this machine, which remembers listings."""

    protocol = "walked"
    fail: Callable[[str], None] = staticmethod(lambda path: None)

    def __init__(self, **more: Any) -> None:
        super().__init__(**{**more, "auto_mkdir": True})
        self.remembered: dict[str, list[Any]] = {}

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return super()._strip_protocol(str(path).removeprefix("walked://"))

    def unstrip_protocol(self, name: str) -> str:
        return f"walked://{self._strip_protocol(name)}"

    def invalidate_cache(self, path: str | None = None) -> None:
        self.remembered.clear()
        super().invalidate_cache(path)

    def cat_file(self, path: str, *part: Any, **more: Any) -> Any:
        type(self).fail(self._strip_protocol(path))
        return super().cat_file(path, *part, **more)

    def ls(self, path: str, detail: bool = False, **more: Any) -> list[Any]:
        path = self._strip_protocol(path)
        if path not in self.remembered:
            type(self).fail(path)
            self.remembered[path] = super().ls(path, detail=True, **more)
        return [entry if detail else entry["name"] for entry in self.remembered[path]]


fsspec.register_implementation("walked", WalkedFileSystem, clobber=True)
