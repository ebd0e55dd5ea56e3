"""Checked reads: right or refused, whatever happened to the stored chunks."""

import asyncio
import json
import os
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec
from zarr.core.sync import sync
from zarr.storage import MemoryStore, WrapperStore

from topo_dask.blocks.geometry import BlockGrid
from topo_dask.stores import checked, retries, under_way
from topo_dask.stores.checked import CheckedArray, ChunkError, MissingChunkError
from topo_dask.stores.chunk_form import document_of
from topo_dask.stores.limits import check_metadata
from topo_dask.stores.listing import stored_chunks
from topo_dask.stores.volumes import Foreground, Source

SHAPE, CHUNKS, SHARDS = (12, 10, 9), (4, 5, 3), (8, 10, 6)
WHOLE = tuple(slice(0, size) for size in SHAPE)
# Some chunks of the first shard: zarr reads its index, then ranges.
PART = (slice(1, 6), slice(2, 4), slice(0, 4))
INDEX_FIRST = {"shards": {"shape": SHARDS, "index_location": "start"}}
BIG_FORTRAN = {"dtype": ">u4", "order": "F", "zarr_format": 2}

UNGUARDED = {
    "raw": {"compressors": None},
    "zstd": {"compressors": ZstdCodec()},
    "blosc": {"compressors": BloscCodec(cname="lz4")},
    "blosc, big endian, transposed": {
        "compressors": BloscCodec(),
        "serializer": BytesCodec(endian="big"),
        "filters": [TransposeCodec(order=(2, 0, 1))],
    },
    "shards of zstd": {"shards": SHARDS, "compressors": ZstdCodec()},
    "shards of blosc": {"shards": SHARDS, "compressors": BloscCodec()},
    "shards of raw": {"shards": SHARDS, "compressors": None},
    "index first, blosc": {**INDEX_FIRST, "compressors": BloscCodec()},
    "index first, raw": {**INDEX_FIRST, "compressors": None},
    "v2 raw": {**BIG_FORTRAN, "compressors": None},
    "v2 blosc": {**BIG_FORTRAN, "compressors": numcodecs.Blosc()},
    "v2 lz4": {"zarr_format": 2, "compressors": numcodecs.LZ4()},
    "v2 delta, blosc": {
        "zarr_format": 2,
        "filters": [numcodecs.Delta("<u4")],
        "compressors": numcodecs.Blosc(cname="zstd"),
    },
}
GUARDED = {
    "raw, crc32c": {"compressors": [Crc32cCodec()]},
    "crc32c in blosc": {"compressors": [Crc32cCodec(), BloscCodec()]},
    "blosc, crc32c": {"compressors": [BloscCodec(), Crc32cCodec()]},
    "zstd with checksum": {"compressors": ZstdCodec(checksum=True)},
    "gzip": {"compressors": GzipCodec()},
    "shards of zstd with checksum": {"shards": SHARDS, "compressors": ZstdCodec(checksum=True)},
    "shards of raw, crc32c": {"shards": SHARDS, "compressors": [Crc32cCodec()]},
    "index first, blosc, crc32c": {**INDEX_FIRST, "compressors": [BloscCodec(), Crc32cCodec()]},
    "v2 zlib": {"zarr_format": 2, "compressors": numcodecs.Zlib()},
}
LAYOUTS = UNGUARDED | GUARDED
SEEDS = [pytest.param(range(20), id="20"), pytest.param(range(20, 120), id="100", marks=pytest.mark.faults)]


def truth():
    return np.random.default_rng(0).integers(1, 2**20, SHAPE, dtype=np.uint32) >> np.uint32(8)


def create(store, layout=None, **options):
    options = {"shape": SHAPE, "chunks": CHUNKS, "dtype": "u4", "fill_value": 0, **(layout or {}), **options}
    array = zarr.create_array(store, **options)
    array[:] = truth()
    return array


def chunk_files(root):
    names = ("zarr.json", ".zarray", ".zattrs")
    return sorted(path for path in Path(root).rglob("*") if path.is_file() and path.name not in names)


def truncate(data, rng):
    return data[: rng.integers(1, len(data))]


def garbage(data, rng):
    return rng.bytes(int(rng.integers(1, 2 * len(data))) // 2 * 2 + 1)


def extend(data, rng):
    return data + rng.bytes(int(rng.integers(1, 50)))


def flip(data, rng):
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return bytes(data)


def right_or_refused(array, box, file=None):
    """Whether the read is refused; it fails when a value is wrong."""
    try:
        values = array[box]
    except ChunkError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert message.startswith("flow (")
        assert file is None or str(file).endswith(message.split(": chunk ")[1].split()[0])
        return True
    np.testing.assert_array_equal(values, truth()[box])
    return False


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reads_what_was_written(tmp_path, layout):
    array = CheckedArray(create(tmp_path, LAYOUTS[layout]), "flow")
    rng = np.random.default_rng(1)
    assert not right_or_refused(array, WHOLE)
    assert not right_or_refused(array, PART)
    for _ in range(10):
        ends = [sorted(rng.integers(0, size + 1, 2)) for size in SHAPE]
        assert not right_or_refused(array, tuple(slice(*pair) for pair in ends))


@pytest.mark.parametrize("at_once", [1, 600, 5000])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_reads_the_same_some_chunks_at_a_time(tmp_path, layout, at_once):
    array = CheckedArray(create(tmp_path, LAYOUTS[layout]), "flow", at_once=at_once)
    rng = np.random.default_rng(1)
    assert not right_or_refused(array, WHOLE)
    for _ in range(10):
        ends = [sorted(rng.integers(0, size + 1, 2)) for size in SHAPE]
        assert not right_or_refused(array, tuple(slice(*pair) for pair in ends))


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("damage", [truncate, garbage])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_wrong_length_is_refused(tmp_path, layout, damage, seeds):
    check_damage(tmp_path, LAYOUTS[layout], damage, seeds)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bytes_behind_a_chunk_change_nothing(tmp_path, layout):
    check_damage(tmp_path, LAYOUTS[layout], extend, range(3))


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("layout", GUARDED)
def test_flipped_bits_are_refused(tmp_path, layout, seeds):
    check_damage(tmp_path, GUARDED[layout], flip, seeds)


def check_damage(root, layout, damage, seeds):
    array = CheckedArray(create(root, layout), "flow")
    files = chunk_files(root)
    refused = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        file = files[rng.integers(len(files))] if seed % 2 else files[0]
        data = file.read_bytes()
        file.write_bytes(damage(data, rng))
        refused += right_or_refused(array, WHOLE, file)
        if "shards" in layout:
            right_or_refused(array, PART, file)
        file.write_bytes(data)
    assert not right_or_refused(array, WHOLE)
    # Some decoders put up with bytes behind their data, and some bits (the time in a gzip header) mean nothing.
    assert refused == len(seeds) or damage is extend or (damage is flip and refused > len(seeds) / 2)


@pytest.mark.parametrize("layout", ["shards of zstd", "shards of blosc", "shards of raw", "index first, raw"])
@pytest.mark.parametrize("entry", [(2**64 - 10, 20), (0, 2**63), (10**6, 50), (5, 0), (2**64 - 1, 7), (7, 2**64 - 1)])
@pytest.mark.parametrize("box", [WHOLE, PART])
def test_index_that_points_elsewhere_is_refused(tmp_path, layout, entry, box):
    array = CheckedArray(create(tmp_path, LAYOUTS[layout]), "flow")
    file = chunk_files(tmp_path)[0]
    data, size = bytearray(file.read_bytes()), 16 * 8 + 4
    at = 0 if layout.startswith("index first") else len(data) - size
    index = np.array(entry, "<u8").tobytes() + data[at + 16 : at + size - 4]
    # The checksum is right: only the entry is wrong.
    data[at : at + size] = bytes(numcodecs.CRC32C(location="end").encode(index))
    file.write_bytes(data)
    with pytest.raises(ChunkError, match=r"flow .*chunk c/0/0/0 .*index points outside"):
        array[box]


@pytest.mark.parametrize("layout", ["blosc", "shards of blosc", "index first, blosc", "v2 blosc"])
@pytest.mark.parametrize("box", [WHOLE, PART])
@pytest.mark.parametrize(
    ("at", "says"), [(4, "holds 10[0-9]+ bytes instead of 240"), (12, "bytes, its Blosc header says")]
)
def test_blosc_header_that_lies_is_refused(tmp_path, layout, box, at, says):
    # The length of the file is right; in a shard so is its index.
    array = CheckedArray(create(tmp_path, LAYOUTS[layout]), "flow")
    file = chunk_files(tmp_path)[0]
    data = bytearray(file.read_bytes())
    at += 16 * 8 + 4 if layout.startswith("index first") else 0
    data[at : at + 4] = np.array(10**6 + 7, "<u4").tobytes()
    file.write_bytes(data)
    with pytest.raises(ChunkError, match=rf"flow .*chunk (c/0/0/0|0\.0\.0) is damaged.*{says}"):
        array[box]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_empty_chunk_is_refused(tmp_path, layout):
    array = CheckedArray(create(tmp_path, LAYOUTS[layout]), "flow", "background")
    chunk_files(tmp_path)[0].write_bytes(b"")
    with pytest.raises(ChunkError, match=r"flow .*chunk (c/0/0/0|0\.0\.0) is damaged: it is empty"):
        array[WHOLE]
    with pytest.raises(ChunkError, match=r"flow .*chunk (c/0/0/0|0\.0\.0) is damaged: it (is empty|has 0 bytes)"):
        array[PART]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("box", [WHOLE, PART])
def test_missing_chunk(tmp_path, layout, box):
    array = create(tmp_path, LAYOUTS[layout], fill_value=3)
    file = chunk_files(tmp_path)[0]
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"flow .*chunk (c/0/0/0|0\.0\.0) is missing.*on_missing='background'"):
        CheckedArray(array, "flow")[box]
    expected = truth()
    expected[tuple(slice(0, size) for size in array.shards or array.chunks)] = 3
    np.testing.assert_array_equal(CheckedArray(array, "flow", "background")[box], expected[box])


def test_the_policy_holds_where_zarr_takes_missing_chunks_for_errors(tmp_path):
    with zarr.config.set({"array.read_missing_chunks": False}):
        test_missing_chunk(tmp_path, "raw", WHOLE)


@pytest.mark.parametrize("on_missing", ["error", "background"])
@pytest.mark.parametrize("place", ["c/0/0/0", "c/0/0", "c/0"])
@pytest.mark.parametrize("kind", ["link", "other"])
def test_what_is_there_and_is_no_chunk_is_not_missing(tmp_path, kind, place, on_missing):
    array = create(tmp_path)
    entry = tmp_path / place
    entry.rename(tmp_path / "elsewhere")
    if kind == "link":
        entry.symlink_to("nowhere")
    elif place == "c/0/0/0":
        entry.mkdir()
    else:
        entry.touch()
    with pytest.raises(ChunkError, match=rf"flow .*chunk c/0/./. cannot be read: {entry} is a link that leads nowhere"):
        CheckedArray(array, "flow", on_missing)[PART]
    if place == "c/0/0/0":
        stored = stored_chunks(array)
        assert stored is not None
        assert stored[0, 0, 0]
    else:
        problem = "link that leads nowhere" if kind == "link" else "file: a folder of chunks is expected there"
        with pytest.raises(OSError, match=f"{entry} is a {problem}"):
            stored_chunks(array)


def test_inner_chunk_declared_empty_is_the_fill_value():
    array = zarr.create_array({}, shape=(8, 8), chunks=(2, 2), shards=(8, 8), dtype="u1", fill_value=9)
    array[:2, :2] = 1
    values = CheckedArray(array)[0:4, 0:4]
    assert (values[:2, :2] == 1).all()
    assert (values[2:] == 9).all()


class Flaky(WrapperStore):
    """Store whose first answers for a chunk are wrong."""

    def __init__(self, store, answers=()):
        super().__init__(store)
        self.answers = answers
        self.asked = []

    async def get(self, key, prototype, byte_range=None):
        self.asked.append(key)
        tries = self.asked.count(key) - 1
        if key.startswith("c/") and tries < len(self.answers):
            if self.answers[tries] is None:
                return None
            raise self.answers[tries]
        return await super().get(key, prototype, byte_range)


class Listed(WrapperStore):
    """Store that notes what is listed."""

    def __init__(self, store):
        super().__init__(store)
        self.prefixes = []

    async def list_prefix(self, prefix):
        self.prefixes.append(prefix)
        async for key in super().list_prefix(prefix):
            yield key


class StatusError(Exception):
    def __init__(self, status):
        super().__init__(f"status {status}")
        self.status = status


@pytest.fixture
def _no_pause(monkeypatch):
    monkeypatch.setattr(retries, "PAUSE_ABSENT", 0)
    monkeypatch.setattr(retries, "PAUSE_ERROR", 0)


def flaky(answers, **layout):
    memory = MemoryStore()
    create(memory, layout)
    store = Flaky(memory, answers)
    return CheckedArray(zarr.open_array(store, mode="r+"), "flow"), store


@pytest.mark.usefixtures("_no_pause")
@pytest.mark.parametrize(
    "answers",
    [
        [None],
        [None, None, TimeoutError("slow"), None],
        [ConnectionResetError("gone"), OSError("no route")],
        [StatusError(503), StatusError(429), StatusError(500)],
    ],
)
def test_what_passes_is_tried_again(answers):
    for policy in ("error", "background"):
        array, store = flaky(answers)
        store.asked.clear()
        assert not right_or_refused(CheckedArray(array.array, "flow", policy), WHOLE)
        again = policy == "background" and None in answers  # what was denied at first is read when it has been found
        assert store.asked.count("c/2/1/2") == len(answers) + 1 + again


@pytest.mark.usefixtures("_no_pause")
@pytest.mark.parametrize(
    ("answers", "tries", "message"),
    [
        ([ConnectionResetError("gone")] * 99, retries.FAILURES, "cannot be read: ConnectionResetError: gone"),
        ([StatusError(503)] * 99, retries.FAILURES, "cannot be read: StatusError: status 503"),
        ([StatusError(403)] * 9, 1, "cannot be read: StatusError: status 403"),
        ([PermissionError("no")] * 9, 1, "cannot be read: PermissionError: no"),
        (
            [None] * 99,
            2 * retries.TRIES,
            f"cannot be read: OSError: exists, but was not found {2 * retries.TRIES} times",
        ),
    ],
)
@pytest.mark.parametrize("policy", ["error", "background"])
def test_what_lasts_is_refused_by_name(answers, tries, message, policy):
    array, store = flaky(answers)
    store.asked.clear()
    with pytest.raises(ChunkError, match=rf"flow .*chunk c/0/0/0 {message}"):
        CheckedArray(array.array, "flow", policy)[0:1, 0:1, 0:1]
    first = retries.TRIES if policy == "background" and None in answers else 0
    assert store.asked == ["zarr.json", *["c/0/0/0"] * (first + tries)]


@pytest.mark.usefixtures("_no_pause")
def test_a_shard_that_vanishes_during_a_read_is_refused():
    array, _ = flaky([], shards=SHARDS)

    class Vanishing(Flaky):
        async def get(self, key, prototype, byte_range=None):
            tries = self.asked.count(key)
            self.asked.append(key)
            return None if key.startswith("c/") and tries else await self._store.get(key, prototype, byte_range)

        async def get_ranges(self, key, byte_ranges, **options):
            raise BaseExceptionGroup("gone", [FileNotFoundError(key)])
            yield

        async def exists(self, key):
            return False

    store = Vanishing(array.array.store_path.store._store)
    for policy in ("error", "background"):
        store.asked.clear()
        with pytest.raises(ChunkError, match="chunk c/0/0/0 vanished"):
            CheckedArray(zarr.open_array(store, mode="r+"), "flow", policy)[PART]
    del store._store._store_dict["c/0/0/1"]  # beside one that was left out
    store.asked.clear()
    with pytest.raises(ChunkError, match="chunk c/0/0/0 vanished"):
        CheckedArray(zarr.open_array(store, mode="r+"), "flow", "background")[1:6, 2:4, 0:8]


@pytest.mark.usefixtures("_no_pause")
@pytest.mark.parametrize("answers", [[], [None]], ids=["first", "second"])  # look that finds a chunk which is there
@pytest.mark.parametrize("layout", [{}, {"shards": (2,)}])
def test_chunks_that_are_left_out_are_waited_for_together(layout, answers, monkeypatch):
    pauses = []
    memory = MemoryStore()
    array = zarr.create_array(memory, shape=(128,), chunks=(1,), dtype="u1", fill_value=0, **layout)
    array[40:42] = 7
    monkeypatch.setattr(retries.random, "uniform", lambda a, b: pauses.append(a) or 1.0)
    store = Flaky(memory, answers)
    checked = CheckedArray(zarr.open_array(store, mode="r+"), "flow", "background")
    assert np.flatnonzero(checked[0:128,]).tolist() == [40, 41]
    assert 0 < len(pauses) <= retries.TRIES
    assert store.asked.count("c/0") == retries.TRIES
    del memory._store_dict["zarr.json"]
    with pytest.raises(ChunkError, match=r"chunk c/0 is missing, and so are the array's metadata"):
        checked[0:128,]


@pytest.mark.usefixtures("_no_pause")
def test_a_chunk_that_vanishes_before_the_read_is_done_is_refused():
    class Vanishing(Flaky):
        async def get(self, key, prototype, byte_range=None):
            if key == "c/0/0/1" and self.asked.count(key) == 1:
                del self._store._store_dict["c/0/0/0"]  # which has been read
            return await super().get(key, prototype, byte_range)

    memory = MemoryStore()
    create(memory)
    store = Vanishing(memory, [None])
    store.asked.append("c/0/0/0")  # found at once
    with pytest.raises(ChunkError, match="chunk c/0/0/0 vanished while it was read"):
        CheckedArray(zarr.open_array(store, mode="r+"), "flow", "background")[0:4, 0:5, 0:6]


@pytest.mark.usefixtures("_no_pause")
def test_chunks_that_are_found_later_are_fetched_once():
    fetched = []

    class Weighed(Flaky):
        async def get(self, key, prototype, byte_range=None):
            found = await super().get(key, prototype, byte_range)
            fetched.append(len(found) if found is not None and key.startswith("c/") else 0)
            return found

    memory = MemoryStore()
    create(memory, compressors=None)
    array = CheckedArray(zarr.open_array(Weighed(memory, [None]), mode="r+"), "flow", "background")
    assert not right_or_refused(array, WHOLE)
    stored = [len(value) for key, value in memory._store_dict.items() if key.startswith("c/")]
    assert sum(fetched) <= sum(stored) + len(stored)  # a byte of each told that it is there


@pytest.mark.parametrize("layout", [{}, {"shards": tuple(2 * n for n in CHUNKS)}], ids=["chunks", "shards"])
def test_a_read_in_parts_waits_until_zarr_has_let_go_of_a_part(layout, monkeypatch):
    given, held, judge = [], [], checked._CheckedStore._judge

    def note(self, key, found, part):
        held.append(sum(one() is not None for one in given))
        judge(self, key, found, part)

    def lend(self, found):
        found = lend.real(self, found)
        given.append(weakref.ref(found))
        threading.Timer(0.02, list, [[found]]).start()  # as a thread that waits for the processor
        return found

    lend.real = under_way.Read.lend
    monkeypatch.setattr(checked._CheckedStore, "_judge", note)
    monkeypatch.setattr(under_way.Read, "lend", lend)
    array = CheckedArray(create(MemoryStore(), layout), "flow", "error", at_once=1)
    assert not right_or_refused(array, WHOLE)
    assert len(held) > 8
    assert max(held) <= (1 if layout else 0)  # of a shard the index, and then a chunk


def test_every_chunk_is_fetched_once():
    array, store = flaky([])
    store.asked.clear()
    array[0:8, 0:5, 0:9]
    assert store.asked[0] == "zarr.json"
    assert sorted(store.asked[1:]) == sorted(f"c/{z}/0/{x}" for z, x in product(range(2), range(3)))


@pytest.mark.parametrize(("chunks", "parts"), [(0, 6), (1, 6), (2, 4), (3, 2), (6, 1), (10, 1)])
def test_no_more_chunks_are_read_at_once_than_asked_for(chunks, parts, monkeypatch):
    array, store = flaky([])
    array = replace(array, at_once=(chunks + 1) * 2 * 4 * 4 * 5 * 3)
    store.asked.clear()
    shapes = []
    read = zarr.Array.get_basic_selection

    def note(self, box, **how):
        shapes.append(box)
        return read(self, box, **how)

    monkeypatch.setattr(zarr.Array, "get_basic_selection", note)
    inside = np.s_[1:8, 0:5, 1:9]  # begins within chunks, none of which is read twice
    np.testing.assert_array_equal(array[inside], truth()[inside])
    assert len(shapes) == parts
    assert sorted(store.asked[1:]) == sorted(f"c/{z}/0/{x}" for z, x in product(range(2), range(3)))


@pytest.mark.parametrize("at_once", [None, 600])
def test_zarr_may_be_configured_to_read_without_a_limit(at_once):
    array, _ = flaky([])
    with zarr.config.set({"async.concurrency": None}):
        np.testing.assert_array_equal(replace(array, at_once=at_once)[0:8, 0:5, 0:9], truth()[0:8, 0:5, 0:9])


def rewrite(path: Path, **options: Any) -> None:
    zarr.create_array(path, shape=SHAPE, chunks=CHUNKS, dtype="u4", overwrite=True, **options)[...] = truth()


def chunk_otherwise(path: Path) -> None:
    zarr.create_array(path, shape=SHAPE, chunks=(5, 4, 3), dtype="u4", overwrite=True)[...] = truth()


CHANGES = {
    "chunks of other names": lambda path: rewrite(path, chunk_key_encoding={"name": "default", "separator": "."}),
    "chunks of another shape": chunk_otherwise,
    "another order": lambda path: rewrite(path, filters=[TransposeCodec(order=(2, 1, 0))]),
    "another fill value": lambda path: rewrite(path, fill_value=9),
    "resized": lambda path: zarr.open_array(path, mode="r+").resize((4, 5, 9)),
}


@pytest.mark.parametrize("on_missing", ["error", "background"])
@pytest.mark.parametrize("change", CHANGES)
def test_an_array_that_was_replaced_since_it_was_opened_is_refused(tmp_path, change, on_missing):
    # zarr would read it by the old metadata: other values, or background.
    array = CheckedArray(create(tmp_path), "flow", on_missing)
    CHANGES[change](tmp_path)
    with pytest.raises(ChunkError, match=r"flow .*its metadata are not those that it was opened with"):
        array[WHOLE]
    box = slice(0, 4), slice(0, 5), slice(0, 9)
    np.testing.assert_array_equal(CheckedArray(zarr.open_array(tmp_path), "flow")[box], truth()[box])


def test_an_array_that_was_resized_by_way_of_the_same_object_is_refused(tmp_path):
    opened = create(tmp_path)
    array = CheckedArray(opened, "flow", "background")
    opened.resize((4, 5, 9))
    with pytest.raises(ChunkError, match="its metadata are not those that it was opened with"):
        array[0:4, 0:5, 0:9]


def test_an_array_that_is_resized_between_two_reads_is_not_background(tmp_path):
    array = CheckedArray(create(tmp_path), "flow", "background")
    array[PART]
    zarr.open_array(tmp_path, mode="r+").resize((4, 5, 9))
    with pytest.raises(ChunkError, match="its metadata are not those that it was opened with"):
        array[WHOLE]


@pytest.mark.parametrize("layout", ["zstd", "shards of zstd", "v2 delta, blosc"])
def test_other_attributes_and_other_words_are_no_other_array(tmp_path, layout):
    array = CheckedArray(create(tmp_path, LAYOUTS[layout]), "flow")
    document = tmp_path / document_of(array.array)
    zarr.open_array(tmp_path, mode="r+").attrs["unit"] = "nm"
    found = json.loads(document.read_text())
    found["fill_value"] = float(found["fill_value"])
    document.write_text(json.dumps(found, indent=7))
    np.testing.assert_array_equal(array[WHOLE], truth())


def test_a_mask_whose_chunks_all_have_other_names_is_not_empty(tmp_path):
    mask = Foreground(Source(CheckedArray(create(tmp_path), "mask", "background"), "mask"))
    rewrite(tmp_path, chunk_key_encoding={"name": "default", "separator": "."})
    with pytest.raises(ChunkError, match="its metadata are not those that it was opened with"):
        list(mask.stored_blocks(BlockGrid(SHAPE, CHUNKS)))


@pytest.mark.parametrize("layout", ["blosc", "shards of zstd", "v2 lz4"])
def test_pickle(tmp_path, layout):
    array = CheckedArray(create(tmp_path, LAYOUTS[layout]), "flow", "background", at_once=600)
    copy = pickle.loads(pickle.dumps(array))
    assert (copy.name, copy.on_missing, copy.path, copy.at_once) == ("flow", "background", array.path, 600)
    assert (copy.shape, copy.ndim, copy.dtype, copy.fill_value) == (SHAPE, 3, np.dtype("u4"), 0)
    assert (copy.chunks, copy.shards) == (array.array.chunks, array.array.shards)
    np.testing.assert_array_equal(copy[WHOLE], truth())


@pytest.mark.parametrize(
    "index", [0, (0, 0, 0), WHOLE[:2], (..., *WHOLE), (slice(0, 13), *WHOLE[1:]), (slice(0, 4, 2), *WHOLE[1:]),
              (slice(-3, 4), *WHOLE[1:]), (slice(4, 3), *WHOLE[1:])]
)  # fmt: skip
def test_only_boxes_in_range(index):
    with pytest.raises(IndexError, match="flow"):
        CheckedArray(create({}), "flow")[index]


@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec")
@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"compressors": [BloscCodec(), ZstdCodec()]}, "Blosc inside zstd cannot be checked"),
        (
            {"zarr_format": 2, "filters": [numcodecs.Blosc()], "compressors": numcodecs.Zlib()},
            "Blosc inside zlib cannot be checked",
        ),
    ],
)
def test_packing_that_can_not_be_checked_is_refused(layout, message):
    with pytest.raises(ValueError, match=f"flow .*{message}"):
        CheckedArray(create({}, layout), "flow")


def test_policy_must_be_known():
    with pytest.raises(ValueError, match="on_missing must be 'error' or 'background', got 'zeros'"):
        CheckedArray(create({}), "flow", "zeros")


ENCODINGS = {
    "c/": {},
    "c.": {"chunk_key_encoding": {"name": "default", "separator": "."}},
    "v2/": {"chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "v2.": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    "format 2/": {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "format 2.": {"zarr_format": 2},
}


def found_chunks(array, first=None):
    return set(map(tuple, np.argwhere(stored_chunks(array, first)).tolist()))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("path", ["", "in/group"])
@pytest.mark.parametrize("shards", [None, (4, 4, 4)])
@pytest.mark.parametrize("local", [True, False])
def test_stored_chunks(tmp_path, encoding, path, shards, local):
    layout = ENCODINGS[encoding]
    if shards and "zarr_format" in layout:
        pytest.skip("format 2 has no shards")
    store = tmp_path if local else MemoryStore()
    array = zarr.create_array(
        store, name=path, shape=(50, 9, 9), chunks=(2, 2, 2), shards=shards, dtype="u1", fill_value=0, **layout
    )
    assert found_chunks(array) == found_chunks(array, 3) == set()
    array[46, 0, 8] = 1
    array[0:5, 3, 3] = 1
    edge = 4 if shards else 2
    expected = {(46 // edge, 0, 8 // edge)} | {(z // edge, 3 // edge, 3 // edge) for z in range(5)}
    assert found_chunks(array) == found_chunks(CheckedArray(array)) == expected
    for first in range(50 // edge):
        assert found_chunks(array, first) == {chunk[1:] for chunk in expected if chunk[0] == first}


def test_stored_chunks_passes_over_what_is_no_chunk(tmp_path):
    array = create(tmp_path)
    everything = found_chunks(array)
    assert everything == set(product(range(3), range(2), range(3)))
    for name in ("c/0/0/0.7.partial", "c/0/0/99", "c/0/0/00", "c/0/0/x", "notes.txt"):
        (tmp_path / name).write_text("no chunk")
    assert found_chunks(array) == everything


def test_stored_chunks_behind_a_link(tmp_path):
    array = create(tmp_path / "a.zarr")
    (tmp_path / "a.zarr/c/1").rename(tmp_path / "elsewhere")
    (tmp_path / "a.zarr/c/1").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a.zarr/c/2/loop").symlink_to(tmp_path / "a.zarr")
    assert found_chunks(array) == set(product(range(3), range(2), range(3)))


def test_only_what_is_asked_for_is_listed(tmp_path, monkeypatch):
    def scandir(folder, real=os.scandir):
        looked_at.append(Path(folder).relative_to(tmp_path).parts[:2])
        return real(folder)

    looked_at, store = [], Listed(MemoryStore())
    monkeypatch.setattr(os, "scandir", scandir)
    for where in (tmp_path, store):
        array = zarr.create_array(where, shape=(30, 4, 4), chunks=(1, 2, 2), dtype="u1", fill_value=0)
        array[:29] = 1
        looked_at.clear()
        assert found_chunks(array, 3) == set(product(range(2), range(2)))
        assert found_chunks(array, 29) == set()
        if where is tmp_path:
            assert set(looked_at) == {(), ("c",), ("c", "3")}
    assert store.prefixes == ["c/3/", "c/29/", ""]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_blocks_that_a_stored_chunk_meets(data):
    sizes, edges = (st.tuples(*[st.integers(least, 9)] * 3) for least in (0, 1))
    shape, chunk, block = data.draw(sizes, "shape"), data.draw(edges, "chunk"), data.draw(edges, "block")
    array = zarr.create_array({}, shape=(2, *shape), chunks=(1, *chunk), dtype="u1", fill_value=0)
    grid, chunks = BlockGrid(shape, block), BlockGrid(shape, chunk)
    stored = [one.write for one in chunks if data.draw(st.booleans())]
    for box in stored:
        array[(1, *box.slices)] = 1
    met = {one.block_id for box in stored for one in grid.touching(box)}
    foreground = Foreground(Source(CheckedArray(array, "semantic", "background"), "semantic", slice(1, 2)), 0.5)
    for _ in range(2):
        assert [one.block_id for one in foreground.stored_blocks(grid)] == sorted(met)
    assert list(Foreground(replace(foreground.source, channels=slice(0, 1)), 0.5).stored_blocks(grid)) == []


def test_a_folder_that_is_denied_is_looked_for_among_all():
    class Denying(Listed):
        async def list_prefix(self, prefix):
            async for key in super().list_prefix(prefix):
                if prefix != "c/3/":
                    yield key

    store = Denying(MemoryStore())
    array = zarr.create_array(store, shape=(5, 4, 4), chunks=(1, 2, 2), dtype="u1", fill_value=0)
    array[:] = 1
    assert found_chunks(array, 3) == set(product(range(2), range(2)))
    assert store.prefixes == ["c/3/", ""]


def test_stored_chunks_is_none_when_the_store_can_not_list():
    class Silent(Flaky):
        supports_listing = False

    class Forgetful(Flaky):
        async def list_prefix(self, prefix):
            return
            yield

    memory = MemoryStore()
    create(memory)
    for store in (Silent(memory), Forgetful(memory)):
        assert stored_chunks(zarr.open_array(store, mode="r+")) is None


class Claim:
    """Array that has only metadata."""

    def __init__(self, shape, chunks, shards=None, dtype="f4"):
        self.shape, self.chunks, self.shards, self.dtype = shape, chunks, shards, np.dtype(dtype)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (Claim((2**62, 4), (2, 2)), "flow has shape .*an axis may have up to 2147483647 voxels: split"),
        (Claim((2**70, 4), (2, 2)), "an axis may have up to 2147483647 voxels"),
        (Claim((2**31 - 1,) * 3, (2, 2, 2)), "it may have up to 4611686018427387904 voxels: split"),
        (Claim((4, 4), (2**20, 2**20)), r"chunks of shape \(1048576, 1048576\) \(4398046511104 bytes\).*rechunk"),
        (Claim((4, 4), (0, 2)), r"chunks of shape \(0, 2\) \(0 bytes\); a chunk may have 1 to 8589934592 bytes"),
        (Claim((4, 4), (1, 1), (2**13, 2**13)), "a shard may hold 1 to 16777216 chunks: rechunk"),
        (Claim((4, 4), (2, 2), (0, 2)), "a shard may hold 1 to"),
    ],
)
def test_hostile_metadata_is_refused(array, message):
    with pytest.raises(ValueError, match=message):
        check_metadata(array, "flow")


@pytest.mark.parametrize("layout", ["raw", "shards of raw", "v2 raw"])
def test_good_metadata_passes(layout):
    array = create({}, LAYOUTS[layout])
    check_metadata(array, "flow")
    check_metadata(CheckedArray(array), "flow")
    check_metadata(truth(), "flow")


def test_missing_is_both_kinds_of_error():
    assert issubclass(MissingChunkError, FileNotFoundError)
    error = pickle.loads(pickle.dumps(MissingChunkError("flow: chunk c/0 is missing")))
    assert str(error) == "flow: chunk c/0 is missing"


class Slow(MemoryStore):
    """Memory that takes its time, but for the first chunk, and counts what it was asked for."""

    asked = 0

    async def get(self, key: str, *arguments: Any, **options: Any) -> Any:
        self.asked += 1
        await asyncio.sleep(0 if key == "c/0" else 0.2)
        return await super().get(key, *arguments, **options)


def test_a_read_that_fails_leaves_no_reads_behind():
    array = zarr.create_array(Slow(), shape=(8,), chunks=(1,), dtype="u1", fill_value=0)
    array[1:] = 1

    async def at_work() -> int:
        return len(asyncio.all_tasks())

    with ThreadPoolExecutor(2) as pool:
        reads = [pool.submit(CheckedArray(array, "flow").__getitem__, (slice(0, 8),)) for _ in range(2)]
        for read in reads:
            with pytest.raises(MissingChunkError, match="c/0 is missing"):
                read.result(timeout=5)
    assert sync(at_work()) == 1


def test_a_read_that_fails_does_not_begin_with_the_chunks_that_are_left():
    slow = Slow()
    array = zarr.create_array(slow, shape=(200,), chunks=(1,), dtype="u1", fill_value=0)
    array[1:] = 1
    slow.asked = 0
    checked = CheckedArray(array, "flow")
    with pytest.raises(MissingChunkError, match="c/0 is missing"):
        checked[:,]

    async def at_work() -> int:
        return len(asyncio.all_tasks())

    assert slow.asked < 50
    assert sync(at_work()) == 1
    assert checked[7:8,].tolist() == [1]
