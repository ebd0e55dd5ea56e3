"""A file system without a search of its own, as those of sftp, smb, webdav and ftp: fsspec walks its folders."""

from collections.abc import Callable
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


class WalkedFileSystem(LocalFileSystem):
    """File system ``walked://`` over the files of this machine, some of whose listings fail; not one that is local."""

    protocol = "walked"
    fail: Callable[[str], None] = staticmethod(lambda path: None)

    def __init__(self, **more: Any) -> None:
        super().__init__(**{**more, "auto_mkdir": True})

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return super()._strip_protocol(str(path).removeprefix("walked://"))

    def unstrip_protocol(self, name: str) -> str:
        return f"walked://{self._strip_protocol(name)}"

    def ls(self, path: str, detail: bool = False, **more: Any) -> list[Any]:
        type(self).fail(self._strip_protocol(path))
        return super().ls(path, detail=detail, **more)


fsspec.register_implementation("walked", WalkedFileSystem, clobber=True)
