"""The cache of compiled kernels: never stale, never fatal."""

import subprocess
import sys
from pathlib import Path

CODE = "import numpy as np; from topo_dask.kernels.linking import connected as c; print(c(np.array([[3, 1]]), 5))"


def run_with(home: Path) -> str:
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
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


def test_a_numba_whose_cache_is_another_only_costs_time(tmp_path: Path) -> None:
    without = "import numba.core.caching as c; del c._CacheLocator; "
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", without + CODE], env=environment, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[0 1 2 1 4]", "")
    assert not list(tmp_path.iterdir())
