"""Freed memory is kept for the next task, unless the environment says otherwise."""

import os
import platform
import subprocess
import sys
from pathlib import Path

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
@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ({}, True),
        ({"MALLOC_TRIM_THRESHOLD_": "65536"}, True),
        ({"MALLOC_TRIM_THRESHOLD_": "1000000"}, False),
        ({"MALLOC_MMAP_THRESHOLD_": "1000000"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1000000:glibc.malloc.mmap_threshold=1000000"}, False),
    ],
)
def test_freed_memory_is_kept(told: dict[str, str], kept: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | told
    run = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    pages = 5 * (20 << 20) // 4096
    assert (int(run.stdout) < pages // 2) == kept


LARGE = """
from pathlib import Path
from topo_dask.stores.allocation import give_back_freed_memory, keep_freed_memory
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20
for allowed_mem in (None, 1 << 30, 4 << 30):
    keep_freed_memory(allowed_mem)
    before = resident()
    piece = bytearray(400 << 20)
    piece[::4096] = b"x" * (len(piece) // 4096)
    del piece
    print(resident() - before)
    give_back_freed_memory()
    print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, [False, False, False, False, True, False]),
        # All of it stays, for the next piece.
        ({"MALLOC_TRIM_THRESHOLD_": "2000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}, [True, True] + 4 * [False]),
    ],
)
def test_a_quarter_of_what_tasks_may_take_is_kept_until_the_end(told: dict[str, str], expected: list[bool]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | told
    run = subprocess.run([sys.executable, "-c", LARGE], env=environment, capture_output=True, text=True, check=True)
    kept = [int(line) > 200 for line in run.stdout.split()]
    assert kept == expected


BOUND = """
from pathlib import Path
from topo_dask.stores import allocation
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20
allocation.KEPT, allocation.MOST_KEPT = 16 << 20, 64 << 20
allocation.keep_freed_memory(1 << 30)
for size in (20 << 20, 48 << 20):
    before = resident()
    bytearray(size)[::4096] = b"x" * (size // 4096)
    print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_no_more_is_kept_than_the_most_whatever_tasks_may_take() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    run = subprocess.run([sys.executable, "-c", BOUND], env=environment, capture_output=True, text=True, check=True)
    assert [int(line) > 10 for line in run.stdout.split()] == [True, False]


ARENAS = """
import ctypes, sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from topo_dask.stores.allocation import keep_freed_memory
keep_freed_memory()
in_parallel = Barrier(4)
def allocate(_):
    in_parallel.wait()
    return [bytearray(1000) for _ in range(100)]
with ThreadPoolExecutor(4) as pool:
    list(pool.map(allocate, range(4)))
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
print(open(sys.argv[1]).read().count("<heap nr="))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
@pytest.mark.parametrize(("told", "arenas"), [(None, 1), ("3", 3)])
def test_threads_share_what_is_kept(told: str | None, arenas: int, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    if told is not None:
        environment["MALLOC_ARENA_MAX"] = told
    command = [sys.executable, "-c", ARENAS, str(tmp_path / "arenas.xml")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(run.stdout) == arenas
