"""Listings through file systems that fsspec walks folder by folder: a folder that cannot be listed is not empty."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.dirfs import DirFileSystem
from object_stores import OBJECTS
from walked_files import WalkedFileSystem
from zarr.storage import FsspecStore

from topo_dask.stores import retries
from topo_dask.stores.listing import stored_chunks
from topo_dask.stores.outputs import OutputSpec, check_outputs
from topo_dask.stores.persistent import PersistentStore, persistent_array
from topo_dask.stores.places import locate_output
from topo_dask.stores.scratch import FileScratch

SHAPE, CHUNKS = (4, 4, 4), (2, 2, 2)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "PAUSE_ABSENT", 0)
    monkeypatch.setattr(retries, "PAUSE_ERROR", 0)


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Have so many listings of a folder fail."""

    def fail(folder: Path, times: int, error: type[OSError] = TimeoutError) -> list[str]:
        failed: list[str] = []

        def one(path: str) -> None:
            if path == str(folder) and len(failed) < times:
                failed.append(path)
                raise error(path)

        monkeypatch.setattr(WalkedFileSystem, "fail", staticmethod(one))
        return failed

    return fail


def walked(path: Path) -> FsspecStore:
    return FsspecStore.from_url(f"walked://{path}")


def inside(path: Path) -> FsspecStore:
    return FsspecStore(AsyncFileSystemWrapper(DirFileSystem(str(path), WalkedFileSystem()), asynchronous=True), path="")


async def all_keys(store: FsspecStore) -> list[str]:
    return [key async for key in PersistentStore(store).list()]


@pytest.mark.parametrize("store", [walked, inside])
@pytest.mark.parametrize("error", [TimeoutError, FileNotFoundError])
def test_a_folder_that_cannot_be_listed_is_asked_for_again(
    tmp_path: Path, store: Any, error: type[OSError], fail: Any
) -> None:
    zarr.create_array(tmp_path, data=np.ones(SHAPE), chunks=CHUNKS)
    array = zarr.open_array(store(tmp_path), mode="r")
    failed = fail(tmp_path / "c/0/1", 2, error)
    stored = stored_chunks(array)
    assert len(failed) == 2
    assert stored is not None
    assert stored.all()
    fail(tmp_path / "c/0/1", 10**6, error)
    with pytest.raises(OSError, match="c/0/1"):
        stored_chunks(array)


@pytest.mark.parametrize("store", [walked, inside])
def test_listings_are_not_taken_from_memory(tmp_path: Path, store: Any) -> None:
    written = zarr.create_array(tmp_path, shape=SHAPE, chunks=CHUNKS, dtype="u1")
    written[0, 0, 0] = 1
    array = zarr.open_array(store(tmp_path), mode="r")
    for chunks in (1, 8):
        stored = stored_chunks(array)
        assert stored is not None
        assert stored.sum() == chunks == persistent_array(array).nchunks_initialized
        written[:] = 1


@pytest.mark.parametrize(("target", "says"), [("elsewhere", "to a folder"), ("nowhere", "that leads nowhere")])
def test_chunks_behind_a_link_are_not_taken_for_missing(tmp_path: Path, target: str, says: str) -> None:
    zarr.create_array(tmp_path / "a", data=np.ones(SHAPE), chunks=CHUNKS)
    array = zarr.open_array(walked(tmp_path / "a"), mode="r")
    chunk, folder = tmp_path / "a/c/1/1/1", tmp_path / "a/c/0"
    chunk.rename(tmp_path / "chunk")
    chunk.symlink_to(tmp_path / "chunk")
    stored = stored_chunks(array)
    assert stored is not None
    assert stored.all()
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / target)
    with pytest.raises(OSError, match=f"a/c/0 is a link {says}"):
        stored_chunks(array)
    assert "c/0" in asyncio.run(all_keys(walked(tmp_path / "a")))  # to those who remove files it is one of others


def test_a_folder_that_is_not_there_has_no_keys(tmp_path: Path) -> None:
    array = zarr.create_array(walked(tmp_path), shape=SHAPE, chunks=CHUNKS, dtype="u1")
    stored = stored_chunks(array, 0)
    assert stored is not None
    assert not stored.any()


def test_files_of_others_stay_in_scratch_where_their_folder_cannot_be_listed(tmp_path: Path, fail: Any) -> None:
    scratch, notes = FileScratch(f"walked://{tmp_path}"), tmp_path / "classes/mine/notes.txt"
    scratch.put("classes", "0.0.0", a=np.zeros(1))
    notes.parent.mkdir()
    notes.write_text("mine")
    assert fail(tmp_path / "classes/mine", 1) == []
    scratch.discard("classes")
    assert notes.read_text() == "mine"
    assert not (tmp_path / "classes/0.0.0").exists()


def test_an_array_given_as_output_is_not_taken_for_empty(tmp_path: Path, fail: Any) -> None:
    zarr.create_array(tmp_path, data=np.ones(SHAPE, "i4"), chunks=CHUNKS)
    array = zarr.open_array(walked(tmp_path), mode="r+")
    fail(tmp_path / "c", 1)
    with pytest.raises(FileExistsError, match="output is an array that is not empty"):
        check_outputs(locate_output(array), None, ["nuc"], OutputSpec(SHAPE, CHUNKS, None), None, ())


def test_file_systems_with_a_search_of_their_own_are_asked_once() -> None:
    array = zarr.create_array("failing://found/array", data=np.ones(SHAPE), chunks=CHUNKS)
    asked: list[tuple[str, str]] = []
    try:
        OBJECTS.fail = lambda method, path: asked.append((method, path))
        stored = stored_chunks(zarr.Array(array.async_array))
        assert stored is not None
        assert stored.all()
        assert asked == [("LIST", "/found/array")]
    finally:
        OBJECTS.fail = lambda method, path: None
        OBJECTS.stored.clear()


def test_all_keys_are_listed(tmp_path: Path) -> None:
    zarr.create_array(tmp_path, data=np.ones(SHAPE), chunks=(2, 4, 4))

    assert sorted(asyncio.run(all_keys(walked(tmp_path)))) == ["c/0/0/0", "c/1/0/0", "zarr.json"]
