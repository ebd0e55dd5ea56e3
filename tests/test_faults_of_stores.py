"""Faults that an object store answers with: 500, 503, 404 to reads, writes, listings and removals.

The same bits; or, where a store fails for good, an error that names the object, and a run to resume. The store is S3
(moto, over HTTP), whose client is told to ask once, so that what is asked again is asked by us; and, for many draws of
faults, one in the memory of this process to which the same requests are made.
"""

import gc
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import dask
import fsspec
import numpy as np
import pytest
import zarr
from conftest import FailingServer
from object_stores import OBJECTS, Objects
from test_faults import CONFIG, HOW, predict

import topo_dask
from topo_dask import segment_volume
from topo_dask.stores import retries
from topo_dask.stores.instance_tables import find_table, find_tables, read_table, remove_table
from topo_dask.stores.ledger import CLASSES
from topo_dask.stores.scratch import FileScratch

QUICK = {"class_config": {"thin": {**CONFIG["thin"], "group": 1, "merge": None}}, "flow_error_threshold": 0.0}
"""Few stages, where it does not matter which."""

S3 = (pytest.mark.faults, pytest.mark.timeout(200))


@cache
def cut() -> tuple[np.ndarray, np.ndarray]:
    """A corner of the prediction, one octant of it background that is not stored."""
    semantic, flow = (array[:, 32:48, 32:48, 32:48] for array in predict())
    semantic = np.where(semantic > 0.5, semantic, 0)
    semantic[:, :8, :8, :8] = 0
    return semantic, flow


@cache
def expected() -> np.ndarray:
    return topo_dask.run_instance_segmentation(*cut(), ["thin"], CONFIG, flow_error_threshold=0.6)["thin"]


@cache
def quick() -> np.ndarray:
    return topo_dask.run_instance_segmentation(*cut(), ["thin"], QUICK["class_config"])["thin"]


def nothing_fails(method: str, path: str) -> None:
    """Have every request done."""


@dataclass
class Bucket:
    """A store that holds the inputs, and its faults."""

    scheme: str
    faults: FailingServer | Objects
    how: dict[str, Any] = field(default_factory=dict)

    def place(self, name: str) -> str:
        return f"{self.scheme}://volumes/{name}"

    def segment(self, **more: Any) -> np.ndarray:
        places = map(self.place, ("semantic", "flow", "out"))
        return segment_volume(*places, **{**HOW, "block_shape": (8, 16, 16), **self.how, **more})["thin"][:]

    def check(self, found: np.ndarray) -> None:
        """The labels are those of the volume in memory, as given and as stored, and nothing else is left."""
        self.faults.fail = nothing_fails
        labels = quick() if self.how else expected()
        np.testing.assert_array_equal(found, labels)
        np.testing.assert_array_equal(zarr.open_array(self.place("out/labels/thin/0"), mode="r")[:], labels)
        left = fsspec.filesystem(self.scheme, skip_instance_cache=True).find("volumes")
        assert not [name for name in left if "/out.scratch" in name or "/out.lock" in name]


@pytest.fixture
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A store of the scheme that the test is given."""
    made = Bucket(request.param, OBJECTS if request.param == "failing" else request.getfixturevalue("s3"))
    monkeypatch.setattr(retries, "PAUSE_ABSENT", 0)
    monkeypatch.setattr(retries, "PAUSE_ERROR", 0)
    fs = fsspec.filesystem(made.scheme)
    if made.scheme == "s3":
        monkeypatch.setattr(type(fs), "retries", 1)
        fs.mkdir("volumes")
    for name, array in zip(("semantic", "flow"), cut(), strict=True):
        zarr.create_array(made.place(name), data=array, chunks=(3, 8, 8, 8), fill_value=0)
    made.faults.failed.clear()
    yield made
    made.faults.fail = nothing_fails
    fs.invalidate_cache()
    fs.rm("volumes", recursive=True)


def some_fail(faults: FailingServer | Objects, rng: random.Random, rate: float) -> None:
    """Have a share of all requests fail; removals are few, and the first fails for certain."""

    def fail(method: str, path: str) -> int | None:
        first = method == "POST" and all(other != "POST" for _, other, _ in faults.failed)
        return rng.choice((500, 503, 404)) if first or rng.random() < rate else None

    faults.fail = fail


def check_named(error: Exception) -> None:
    assert "volumes/" in "".join([str(error), *getattr(error, "__notes__", ())])


@pytest.mark.parametrize("bucket", ["failing"], indirect=True)
def test_inputs_are_not_asked_for_files_of_format_2(bucket: Bucket) -> None:
    bucket.how, asked = QUICK, list[str]()
    bucket.faults.fail = lambda _, path: asked.append(path.removeprefix("/volumes/"))
    bucket.check(bucket.segment())
    assert {"semantic/zarr.json", "flow/zarr.json"} <= {*asked}
    assert not [path for path in asked if path.startswith(("semantic/.z", "flow/.z"))]
    assert asked.index("out/.zgroup") < 8  # looks for files of the two formats take turns


@pytest.mark.parametrize(
    ("bucket", "seed"),
    [
        *(("failing", seed) for seed in range(4)),
        *(pytest.param("failing", seed, marks=pytest.mark.faults) for seed in range(4, 40)),
        pytest.param("s3", 0, marks=S3),
    ],
    indirect=["bucket"],
)
def test_one_request_in_five_fails(bucket: Bucket, seed: int) -> None:
    some_fail(bucket.faults, random.Random(seed), 0.2)
    bucket.check(bucket.segment())
    failed = bucket.faults.failed
    assert len(failed) > 100
    assert {method for _, method, _ in failed} >= {"GET", "HEAD", "PUT", "POST"}
    assert {place for place in ("semantic", "flow", "out", "out.scratch") for _, _, path in failed
            if f"/{place}/" in path} == {"semantic", "flow", "out", "out.scratch"}  # fmt: skip


@pytest.mark.parametrize(
    ("bucket", "seed"),
    [
        *(("failing", seed) for seed in range(4)),
        *(pytest.param("failing", seed, marks=pytest.mark.faults) for seed in range(4, 30)),
        pytest.param("s3", 0, marks=S3),
    ],
    indirect=["bucket"],
)
@pytest.mark.filterwarnings("ignore:.*never awaited", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_store_that_goes_away_is_named_and_the_run_resumed(bucket: Bucket, seed: int) -> None:
    rng = random.Random(seed)
    bucket.how = QUICK if bucket.scheme == "s3" else {}
    left = rng.randrange(20, 300 if bucket.how else 600)  # of some 500 and 900

    def fail(method: str, path: str) -> int | None:
        nonlocal left
        left -= 1
        return rng.choice((500, 503, 404)) if left < 0 else None

    bucket.faults.fail = fail
    with pytest.raises((OSError, KeyError, RuntimeError)) as caught:
        bucket.segment()
    check_named(caught.value)
    del caught
    gc.collect()  # what zarr has begun and not awaited
    bucket.faults.fail = nothing_fails
    bucket.check(bucket.segment(resume=True))


@pytest.mark.parametrize("bucket", ["failing"], indirect=True)
@pytest.mark.parametrize(
    ("own", "beyond"), [("numbers/0.0.0", "numbers.faces/1.0.0"), ("fragments.ids/0.0.0", "fragments.ids/1.0.0")]
)
def test_a_neighbour_that_a_store_denies_with_all_else_is_not_taken_for_none(
    bucket: Bucket, own: str, beyond: str
) -> None:
    read: list[str] = []

    def fail(method: str, path: str) -> int | None:
        if method == "GET":
            read.append(path.rsplit("/thin/", maxsplit=1)[-1])
        away = own in read and beyond in read[read.index(own) :]
        return 404 if away and method != "PUT" else None

    bucket.faults.fail = fail
    with dask.config.set(scheduler="synchronous"), pytest.raises((OSError, KeyError, RuntimeError)):
        bucket.segment()
    assert bucket.faults.failed
    bucket.faults.fail = nothing_fails
    bucket.check(bucket.segment(resume=True))


@pytest.mark.parametrize(
    ("status", "method", "path", "named"),
    [
        (503, "GET", "/flow/c/0/1/1/1", "flow .*chunk c/0/1/1/1"),
        (404, "GET", "/semantic/c/0/1/1/1", "semantic .*chunk c/0/1/1/1"),
        (
            500,
            "PUT",
            "/out.scratch/classes/[0-9a-f]+/thin/track/1.0.0",
            "out.scratch/classes/[0-9a-f]+/thin/track/1.0.0",
        ),
        (
            404,
            "GET",
            "/out.scratch/classes/[0-9a-f]+/thin/link/1.0.0",
            "out.scratch/classes/[0-9a-f]+/thin/link/1.0.0",
        ),
        (404, "PUT", "/out/labels/thin/0/c/0/0/0", "out/labels/thin/0/c/0/0/0"),
        (500, "PUT", "/out/labels/thin/zarr.json", "volumes/out/labels/thin/zarr.json"),
        (503, "PUT", "/out.tables/thin.csv", "out.tables/thin.csv"),
    ],
)
@pytest.mark.parametrize("bucket", ["failing", pytest.param("s3", marks=S3)], indirect=True)
def test_what_fails_for_good_is_named(
    bucket: Bucket, status: int, method: str, path: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bucket.scheme == "s3":  # fewer requests
        bucket.how = QUICK
        monkeypatch.setattr(retries, "TRIES", 2)
        monkeypatch.setattr(retries, "FAILURES", 2)
    bucket.faults.fail = lambda asked, where: (
        status if asked == method and re.fullmatch(f"/volumes{path}", where) else None
    )
    with pytest.raises(OSError) as caught:  # noqa: PT011
        bucket.segment()
    assert re.search(named, "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())]))
    bucket.faults.fail = nothing_fails
    bucket.check(bucket.segment(resume=True))


@pytest.mark.parametrize("bucket", ["failing", pytest.param("s3", marks=S3)], indirect=True)
def test_tables_are_asked_for_again(bucket: Bucket) -> None:
    bucket.how = QUICK
    labels = bucket.segment()
    for seed in range(10):
        some_fail(bucket.faults, random.Random(seed), 0.2)
        place = find_table(bucket.place("out.tables"), "thin")
        assert find_tables(bucket.place("out.tables")) == [place] == [bucket.place("out.tables/thin.csv")]
        assert len(read_table(place)["label"]) == labels.max() > 0
    assert bucket.faults.failed
    bucket.faults.fail = nothing_fails
    for _ in range(2):
        remove_table(bucket.place("out.tables"), "thin")
    assert find_table(bucket.place("out.tables"), "thin") is None
    assert find_tables(bucket.place("nowhere")) == []


@pytest.mark.parametrize("bucket", ["failing"], indirect=True)
def test_what_others_put_beside_bundles_is_seen_from_one_listing(bucket: Bucket) -> None:
    scratch, asked = FileScratch(bucket.place("scratch")), []
    for number in range(3):
        scratch.put(CLASSES, f"0.0.{number}", x=np.arange(3))
    assert scratch.holds_only(CLASSES)
    OBJECTS.stored["volumes/scratch/classes/0.0.9"] = b"mine"
    assert not scratch.holds_only(CLASSES)
    OBJECTS.stored["volumes/scratch/others/0.0.0"] = b"mine"
    bucket.faults.fail = lambda method, path: asked.append((method, path))
    assert not scratch.holds_only(CLASSES)
    assert asked == [("LIST", "/volumes/scratch")]


@pytest.mark.parametrize("bucket", ["failing"], indirect=True)
def test_a_run_that_begins_does_not_ask_what_others_have_done(bucket: Bucket) -> None:
    asked: list[tuple[str, str]] = []

    def note(method: str, path: str) -> None:
        asked.append((method, re.sub(".*/classes/[0-9a-f]+/thin/", "in scratch: ", path)))

    bucket.faults.fail = note
    bucket.check(bucket.segment())
    written: set[str] = set()
    for method, path in asked:
        if path.startswith("in scratch: "):
            if method == "PUT":
                written |= {path, path.split("/")[0]}
            elif not path.endswith(("split.seeds", "split.small", "absorb")):  # of which there are none
                assert path in written
    assert {f"in scratch: {kind}" for kind in ("track", "done", "filed", "relabel")} <= written


@pytest.mark.parametrize("bucket", ["failing"], indirect=True)
@pytest.mark.parametrize("kind", ["numbers", "fragments", "split.small", "contacts"])
def test_bundles_that_are_all_denied_are_not_taken_for_none(bucket: Bucket, kind: str) -> None:
    asked, denied = [], range(0)

    def fail(method: str, path: str) -> int | None:
        asked.append(path)
        return 404 if method == "LIST" and path.endswith(f"/{kind}") and asked.count(path) in denied else None

    bucket.faults.fail = fail
    with dask.config.set(scheduler="synchronous"):
        bucket.segment(overwrite=True)
    looks = max(asked.count(path) for path in asked if path.endswith(f"/{kind}"))
    assert looks > 1
    for first in range(1, looks + 1):  # so many times in a row, beginning with each look at it
        asked.clear()
        denied = range(first, first + retries.TRIES)
        try:
            with dask.config.set(scheduler="synchronous"):
                found = bucket.segment(overwrite=True)
        except (OSError, KeyError, RuntimeError) as error:
            check_named(error)
            found = bucket.segment(resume=True)
        np.testing.assert_array_equal(found, expected())


@pytest.mark.faults
@pytest.mark.timeout(200)
@pytest.mark.usefixtures("s3")
def test_scratch_of_lazy_arrays_in_a_store_goes_when_the_process_ends() -> None:
    import s3fs

    files = s3fs.S3FileSystem()
    files.mkdir("scratch-of-lazy")
    code = (
        "import numpy as np, topo_dask, dask.array as da, fsspec; a = da.ones((1, 4, 4), dtype=bool);"
        "f = da.zeros((3, 1, 4, 4)); l = topo_dask.postprocess_single(a, f, scratch='s3://scratch-of-lazy/here');"
        "l.compute(); print(len(fsspec.filesystem('s3').find('scratch-of-lazy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=150)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 5
    files.invalidate_cache()
    assert files.find("scratch-of-lazy") == []
