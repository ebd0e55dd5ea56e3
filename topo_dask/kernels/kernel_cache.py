"""A cache of compiled kernels for all processes of a user, if there is a folder for it.

Numba's own cache has four faults. It is keyed by the file of the function alone, so it would serve stale code after a
change to a kernel that another kernel calls. It raises when its index is damaged. It raises when there is nowhere to
write. Two processes can mix up the code of two overloads. Our cache is a folder named by a hash over all kernels and
the version of numba. Whatever goes wrong with it, the kernel is compiled.

It is built on private classes of numba. With a numba in which these differ there is no cache.
"""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, _CacheLocator


def _cache_folder() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not root.is_absolute():  # the specification says that it must be ignored
        root = Path.home() / ".cache"
    digest = hashlib.sha256(f"{numba.__version__} {sys.version}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return root / "topo_dask" / digest.hexdigest()[:16]


class _Locator(_CacheLocator):  # type: ignore[misc]
    def __init__(self, py_func: Any, py_file: str) -> None:
        self._path = str(_FOLDER)

    def get_cache_path(self) -> str:
        return self._path

    def get_source_stamp(self) -> int:
        return 0  # the name of the folder already depends on the source

    def get_disambiguator(self) -> None:
        return None

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> "_Locator":
        locator = cls(py_func, py_file)
        locator.ensure_cache_path()
        return locator


class _Impl(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _Files(IndexDataCacheFile):  # type: ignore[misc]
    # Numba numbers the files of a function's overloads. Two processes that compile two overloads at once may take the
    # same number, and then one process reads the code of the other. Here the name follows from the overload.
    def save(self, key: Any, data: Any) -> None:
        name = self._data_name(int(hashlib.sha256(repr(key).encode()).hexdigest()[:15], 16))
        self._save_data(name, data)
        self._save_index({**self._load_index(), key: name})


class _Cache(FunctionCache):  # type: ignore[misc]
    _impl_class = _Impl

    def __init__(self, py_func: Any) -> None:
        super().__init__(py_func)
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, self._impl.locator.get_source_stamp())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever a damaged file raises, the kernel is then compiled
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception:  # a full or read-only disk must not stop the run either
            self.disable()


def _find_folder() -> Path | None:
    try:
        folder = _cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder if os.access(folder, os.W_OK) else None


_FOLDER = _find_folder()


def keep(dispatcher: Any) -> None:
    """Cache the results of a dispatcher, if there is a folder for them and the function is in a module."""
    if _FOLDER is not None and dispatcher.py_func.__module__ != "__main__":
        dispatcher._cache = _Cache(dispatcher.py_func)
