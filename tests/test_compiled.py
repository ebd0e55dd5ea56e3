"""The cache of compiled kernels: never stale, never fatal."""

import gc
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from numba import njit, types
from numba.core import event
from numba.core.errors import TypingError

import topo_dask
from topo_dask.kernels.compiled import part
from topo_dask.kernels.linking import find_root

PACKAGE = Path(topo_dask.__file__).parent
CODE = "import numpy as np; from topo_dask.kernels.linking import connected as c; print(c(np.array([[3, 1]]), 5))"


def run_with(home: Path, code: str = CODE, cwd: Path | None = None, **more: str) -> str:
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", **more}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_damaged_missing_and_unusable_caches_only_cost_time(tmp_path: Path) -> None:
    expected = "[0 1 2 1 4]"
    assert run_with(tmp_path) == expected
    files = [path for path in (tmp_path / ".cache").rglob("*") if path.is_file()]
    assert any(path.suffix == ".nbc" for path in files)
    assert run_with(tmp_path) == expected
    for path in files:
        path.write_bytes(b"damaged")
    assert run_with(tmp_path) == expected
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / ".cache").write_text("a file where the folder should be")
    assert run_with(blocked) == expected


def test_a_change_to_what_a_kernel_calls_is_noticed(tmp_path: Path) -> None:
    copied = shutil.copytree(PACKAGE, tmp_path / "topo_dask", ignore=shutil.ignore_patterns("__pycache__"))
    assert run_with(tmp_path, cwd=tmp_path) == "[0 1 2 1 4]"
    linking = copied / "kernels" / "linking.py"
    for old, new in (("if a < b:", "if a > b:"), ("elif b < a:", "elif b > a:")):  # the root is the highest member
        assert linking.read_text().count(old) == 1
        linking.write_text(linking.read_text().replace(old, new))
    assert run_with(tmp_path, cwd=tmp_path) == "[0 3 2 3 4]"


def test_each_type_of_arguments_has_its_own_code_in_the_cache(tmp_path: Path) -> None:
    code = CODE + "; print(c(np.array([[3, 1]], np.int32), 5))"
    for _ in range(2):  # compiled, then read
        assert run_with(tmp_path, code).split("\n") == ["[0 1 2 1 4]"] * 2


def test_a_relative_folder_for_caches_is_ignored(tmp_path: Path) -> None:
    assert run_with(tmp_path, cwd=tmp_path, PYTHONPATH=str(PACKAGE.parent), XDG_CACHE_HOME="caches") == "[0 1 2 1 4]"
    assert [path.name for path in tmp_path.iterdir()] == [".cache"]


def test_a_numba_whose_cache_is_another_only_costs_time(tmp_path: Path) -> None:
    without = "import numba.core.caching as c; del c._CacheLocator; "
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", without + CODE], env=environment, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[0 1 2 1 4]", "")
    assert not list(tmp_path.iterdir())


class _Compilations(event.Listener):  # type: ignore[misc]
    def __init__(self) -> None:
        self.collected: list[bool] = []

    def on_start(self, compilation: event.Event) -> None:
        self.collected.append(gc.isenabled())

    def on_end(self, compilation: event.Event) -> None:
        pass


def test_the_collector_of_cycles_waits_while_a_kernel_compiles_and_goes_on_after_it() -> None:
    parents = types.Array(types.int64, 1, "C")
    with event.install_listener("numba:compile", _Compilations()) as compilations:
        part(find_root.py_func).compile((parents, types.int64))
        assert compilations.collected == [False]
        assert gc.isenabled()
        with pytest.raises(TypingError):
            part(find_root.py_func).compile((types.int64, types.int64))
        assert gc.isenabled()
        gc.disable()
        try:
            part(find_root.py_func).compile((types.Array(types.int32, 1, "C"), types.int64))
            assert not gc.isenabled()
        finally:
            gc.enable()


def test_the_collector_goes_on_after_a_kernel_that_calls_others(tmp_path: Path) -> None:
    assert run_with(tmp_path, f"import gc; {CODE}; print(gc.isenabled())").split("\n") == ["[0 1 2 1 4]", "True"]


def test_what_others_compile_is_left_alone() -> None:
    made: dict[str, Any] = {}
    exec("def half(x): return x / 2", made)  # Such a function has no module.
    with event.install_listener("numba:compile", _Compilations()) as compilations:
        njit(made["half"]).compile((types.float64,))
    assert compilations.collected == [True]
