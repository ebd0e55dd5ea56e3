"""Freed memory is kept for the next task, unless the environment says otherwise."""

import os
import platform
import subprocess
import sys

import pytest

CODE = """
import resource
from topo_dask.stores.allocation import keep_freed_memory
keep_freed_memory()
bytearray(20 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    bytearray(20 << 20)[::4096] = b"x" * 5120
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
@pytest.mark.parametrize(("told", "kept"), [(None, True), ("65536", True), ("1000000", False)])
def test_freed_memory_is_kept(told: str | None, kept: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    if told is not None:
        environment["MALLOC_TRIM_THRESHOLD_"] = told
    run = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    pages = 5 * (20 << 20) // 4096
    assert (int(run.stdout) < pages // 2) == kept
