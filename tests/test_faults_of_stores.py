"""Faults that an object store (moto, over HTTP) answers with: 500, 503, 404 to reads, writes, listings and removals.

The same bits, or an error that names the object and a run to resume. The store's client asks once; what is asked again
is asked by us.
"""

import random
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zarr
from conftest import FailingServer
from test_faults import CONFIG, HOW, predict

import topo_dask
from topo_dask import segment_volume
from topo_dask.stores import retries

PLACES = tuple(f"s3://volumes/{name}" for name in ("semantic", "flow", "out"))


def cut() -> tuple[np.ndarray, np.ndarray]:
    """A corner of the prediction, one octant of it background that is not stored."""
    semantic, flow = (array[:, 32:48, 32:48, 32:48] for array in predict())
    semantic = np.where(semantic > 0.5, semantic, 0)
    semantic[:, :8, :8, :8] = 0
    return semantic, flow


@pytest.fixture
def store(s3: FailingServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FailingServer]:
    """A store that holds the inputs, and a client that gives up at once."""
    import s3fs

    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(retries, "PAUSE_ABSENT", 0)
    monkeypatch.setattr(retries, "PAUSE_ERROR", 0)
    fs = s3fs.S3FileSystem()
    fs.mkdir("volumes")
    for name, array in zip(PLACES, cut(), strict=False):
        zarr.create_array(name, data=array, chunks=(3, 8, 8, 8), fill_value=0)
    yield s3
    s3.fail = lambda method, path: None
    fs.invalidate_cache()
    fs.rm("volumes", recursive=True)


def segment(**more: Any) -> np.ndarray:
    how = {**HOW, "block_shape": (8, 16, 16), **more}
    return segment_volume(*PLACES, **how)["thin"][:]


def expected() -> np.ndarray:
    return topo_dask.run_instance_segmentation(*cut(), ["thin"], CONFIG, flow_error_threshold=0.6)["thin"]


def left_over() -> list[str]:
    import s3fs

    return [name for name in s3fs.S3FileSystem().find("volumes") if "/out.scratch" in name or "/out.lock" in name]


@pytest.mark.faults
@pytest.mark.timeout(200)
@pytest.mark.parametrize("seed", range(2))
def test_one_request_in_five_fails(store: FailingServer, seed: int) -> None:
    rng = random.Random(seed)
    store.failed.clear()

    def fail(method: str, path: str) -> int | None:
        # Removals are few: the first fails for certain.
        first = method == "POST" and all(other != "POST" for _, other, _ in store.failed)
        return rng.choice((500, 503, 404)) if first or rng.random() < 0.2 else None

    store.fail = fail
    try:
        found = segment()
    except (OSError, KeyError) as error:  # rare: denied more often than it is asked
        assert "volumes/" in "".join([str(error), *getattr(error, "__notes__", ())])  # noqa: PT017
        found = segment(resume=True)
    store.fail = lambda method, path: None
    np.testing.assert_array_equal(found, expected())
    np.testing.assert_array_equal(zarr.open_array("s3://volumes/out/labels/thin/0", mode="r")[:], expected())
    assert not left_over()
    assert len(store.failed) > 100
    assert {method for _, method, _ in store.failed} >= {"GET", "HEAD", "PUT", "POST"}
    assert {place for place in ("semantic", "flow", "out", "out.scratch") for _, _, path in store.failed
            if f"/{place}/" in path} == {"semantic", "flow", "out", "out.scratch"}  # fmt: skip


@pytest.mark.faults
@pytest.mark.timeout(200)
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
            "/out.scratch/classes/[0-9a-f]+/thin/orphans/1.0.0",
            "out.scratch/classes/[0-9a-f]+/thin/orphans/1.0.0",
        ),
        (404, "PUT", "/out/labels/thin/0/c/0/0/0", "out/labels/thin/0/c/0/0/0"),
        (500, "PUT", "/out/labels/thin/zarr.json", "volumes/out/labels/thin/zarr.json"),
        (503, "PUT", "/out.tables/thin.csv", "out.tables/thin.csv"),
    ],
)
def test_what_fails_for_good_is_named(store: FailingServer, status: int, method: str, path: str, named: str) -> None:
    store.fail = lambda asked, where: status if asked == method and re.fullmatch(f"/volumes{path}", where) else None
    with pytest.raises(OSError) as caught:  # noqa: PT011
        segment()
    assert re.search(named, "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())]))
    store.fail = lambda asked, where: None
    np.testing.assert_array_equal(segment(resume=True), expected())
    assert not left_over()
