"""Pages of the flow that are kept at hand: fewer reads, the same bits, no more memory than allowed."""

import pickle
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import zarr

import topo_dask
from topo_dask.blocks.geometry import BlockGrid, Box
from topo_dask.blocks.memory import PAGE_MARGIN, PAGES_MEM
from topo_dask.kernels.tracking import region_of
from topo_dask.stages.track import follow_leavers
from topo_dask.stores import checked, volumes
from topo_dask.stores.pages import Pages

PAGE = region_of(np.zeros((3, 2, 2, 2), np.float32), (0, 0, 0), 1.0)


def made(calls: list[str], name: str) -> Any:
    return lambda: calls.append(name) or PAGE


def kept(pages: Pages) -> str:
    return "".join(name for name in "abcdef" if pages.find(name) is not None)


def test_the_latest_pages_are_kept_within_half_of_the_bytes_allowed() -> None:
    pages, calls = Pages(4 * PAGE.vectors.nbytes), list[str]()
    for name in "abac":
        pages.get(name, made(calls, name))
    assert kept(pages) == "ac"  # b was not asked for again
    pages.get("d", made(calls, "d"))
    assert calls == ["a", "b", "c", "d"]
    assert kept(pages) == "cd"
    pages.clear()
    assert kept(pages) == ""


def test_more_pages_are_kept_where_they_are_asked_for_again_up_to_what_is_allowed() -> None:
    pages, calls = Pages(4 * PAGE.vectors.nbytes), list[str]()
    for name in "abca":
        pages.get(name, made(calls, name))
    assert calls == ["a", "b", "c", "a"]
    assert kept(pages) == "abc"  # a had been let go for c
    for name in "abcdef" * 3:
        pages.get(name, made(calls, name))
    assert len(kept(pages)) == 4


def test_a_large_page_takes_the_room_of_several_small_ones() -> None:
    large = region_of(np.zeros((3, 2, 2, 6), np.float32), (0, 0, 0), 1.0)
    pages, calls = Pages(8 * PAGE.vectors.nbytes), list[str]()
    for name in "abcd":
        pages.get(name, made(calls, name))
    pages.get("e", lambda: large)
    assert kept(pages) == "de"


def test_no_page_is_kept_where_nothing_is_allowed() -> None:
    pages, calls = Pages(0), list[str]()
    for _ in range(2):
        pages.get("a", made(calls, "a"))
    assert calls == ["a", "a"]


def test_a_page_is_made_once_for_all_threads_that_ask_for_it() -> None:
    pages, calls, begun = Pages(1 << 20), list[str](), Event()

    def make() -> Any:
        calls.append("a")
        begun.set()
        time.sleep(0.1)  # the other thread asks meanwhile
        return PAGE

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(pages.get, "a", make)
        assert begun.wait(60)
        assert pool.submit(pages.get, "a", make).result() is first.result() is PAGE
    assert calls == ["a"]


def test_pages_of_one_class_are_not_those_of_another() -> None:
    box, pages = Box((0, 0, 0), (2, 2, 2)), Pages(1 << 20)
    array = np.repeat(np.arange(6, dtype=np.float32), 8).reshape(6, 2, 2, 2)
    flows = [volumes.StoredFlow(volumes.Source(array, "flow", slice(c, c + 3)), 1.0, pages) for c in (0, 3)]
    for _ in range(2):
        assert [flow.page(box).vectors[0, 0, 0].tolist() for flow in flows] == [[0, 1, 2], [3, 4, 5]]


def test_a_page_at_hand_is_not_read_again() -> None:
    array, box, inner = np.ones((3, 8, 8, 8), np.float32), Box((0, 0, 0), (4, 4, 4)), Box((1, 1, 1), (2, 3, 4))
    flow = volumes.StoredFlow(volumes.Source(array, "flow", slice(0, 3)), 1.0, Pages(1 << 20))
    assert flow.part(box, inner).vectors.shape == (1, 2, 3, 3)
    page = flow.page(box)
    assert page.vectors.shape == (4, 4, 4, 3)
    assert flow.region(box) is flow.part(box, inner) is page


def test_tasks_of_one_process_share_the_pages_of_one_run() -> None:
    first, second = (pickle.dumps(Pages(1 << 20)) for _ in range(2))
    one = pickle.loads(first)
    assert pickle.loads(first) is one
    assert pickle.loads(second) is not one
    assert pickle.loads(first) is not one  # the second run took its place


def test_large_objects_read_each_page_once_and_give_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Everything flows to one corner, far from most blocks.
    vectors = np.full((3, 32, 32, 32), -0.5, np.float16)
    vectors += np.random.default_rng(0).normal(0, 0.1, vectors.shape).astype(np.float16)
    config = {"one": {"group": 1, "n_steps": 100, "min_size": 2}}
    flow = zarr.create_array(tmp_path / "flow.zarr", data=vectors, chunks=(3, 8, 8, 8))
    mask = zarr.create_array(tmp_path / "mask.zarr", data=np.ones((1, 32, 32, 32), "u1"), chunks=(1, 8, 8, 8))
    reads: list[Any] = []
    real = checked.CheckedArray.__getitem__

    def counting(self: Any, index: Any) -> Any:
        reads.extend([index] if self.name.startswith("flow") else [])
        return real(self, index)

    monkeypatch.setattr(checked.CheckedArray, "__getitem__", counting)
    expected = topo_dask.run_instance_segmentation(np.ones((1, 32, 32, 32)), vectors, ["one"], config)["one"]
    found, counts = [], []
    for allowed in (PAGES_MEM, 0):
        monkeypatch.setattr("topo_dask.admission.PAGES_MEM", allowed)
        reads.clear()
        labels = topo_dask.segment_volume(
            mask, flow, tmp_path / f"{allowed}.zarr", class_names=["one"], class_config=config, block_shape=8, halo=2,
            progress=False,
        )["one"]  # fmt: skip
        found.append(labels[:])
        counts.append(len(reads))
    reads.clear()
    lazy = topo_dask.run_instance_segmentation(mask, flow, ["one"], config, block_shape=(8, 8, 8), halo=2)["one"]
    np.testing.assert_array_equal(lazy.compute(), expected)
    assert 0 < len(reads) <= 2 * 64
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_array_equal(found[1], expected)
    assert counts[0] <= 2 * 64  # the region of each of 64 blocks, and each page once
    assert counts[1] > 2 * counts[0]


@pytest.mark.parametrize(("end", "pages"), [(71, 0), (255, 3)])
def test_few_particles_that_go_a_little_too_far_read_what_is_around_them(
    end: int, pages: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (64, 64, 256)
    vectors, semantic = np.zeros((3, *shape), np.float32), np.zeros((1, *shape), "u1")
    vectors[2, 30:33, 40, :end], semantic[0, 30:33, 40, :64] = 1, 1
    config = {"one": {"group": 1, "n_steps": 300, "min_size": 2}}
    mask, flow = zarr.create_array({}, data=semantic), zarr.create_array({}, data=vectors, chunks=(3, 16, 16, 16))
    reads: list[tuple[int, ...]] = []
    region = volumes.StoredFlow.region

    def noting(self: Any, box: Box) -> Any:
        reads.extend([box.shape] if box.shape[2] > 6 else [])  # those are of the volume that is compiled with
        return region(self, box)

    monkeypatch.setattr(volumes.StoredFlow, "region", noting)
    labels = topo_dask.segment_volume(
        mask, flow, zarr.create_group({}), class_names=["one"], class_config=config, block_shape=64, halo=2,
        on_missing="background", progress=False, scratch=tmp_path / "scratch",
    )["one"]  # fmt: skip
    np.testing.assert_array_equal(labels[:], topo_dask.postprocess_single(semantic[0], vectors, 300, min_size=2))
    assert labels[:].max() == 1
    assert reads[0] == (64, 64, 66)
    assert np.prod(reads[1]) * 8 <= 64 * 64 * 96
    assert len(reads[2:]) == pages
    assert all(shape[0] == shape[1] == 64 for shape in reads[2:])


@pytest.mark.parametrize(
    ("edges", "starts", "widths"),
    [
        ((1, 1), (95, 96, 97, 120), [116, 132, 116]),  # three of four come to where the last waits
        ((64, 64), (40, 130), [33, 116, 132, 116]),  # who has come from elsewhere is likely to go on
    ],
    ids=["the page with most particles is read first", "only around those that have all just left"],
)
def test_particles_that_go_the_same_way_are_waited_for(
    edges: tuple[int, int], starts: tuple[int, ...], widths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (*edges, 300)
    vectors, reads = np.zeros((3, *shape), np.float32), list[int]()
    vectors[2, ..., :250] = 1
    region = volumes.StoredFlow.region

    def noting(self: Any, box: Box) -> Any:
        reads.append(box.shape[2])
        return region(self, box)

    monkeypatch.setattr(volumes.StoredFlow, "region", noting)
    positions = np.array([[edges[0] // 2, edges[1] // 2, x] for x in starts], float)
    flow = volumes.StoredFlow(volumes.Source(vectors, "flow", slice(0, 3)))
    follow_leavers(flow, BlockGrid(shape, (*edges, 100)), positions, np.full(len(starts), 400))
    assert (positions[:, 2] == 250).all()
    assert reads == widths


@pytest.mark.parametrize("halo", [0, 32])
def test_a_task_holds_one_page_at_a_time_and_none_is_larger_than_its_memory_counts(
    halo: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, widths, held = (1, 1, 400), list[int](), list[Any]()
    vectors = np.zeros((3, *shape), np.float32)
    vectors[2, ..., :350] = 1
    region = volumes.StoredFlow.region

    def noting(self: Any, box: Box) -> Any:
        assert [one() for one in held if one() is not None] == []
        found = region(self, box)
        widths.append(box.shape[2])
        held.append(weakref.ref(found.vectors))
        return found

    monkeypatch.setattr(volumes.StoredFlow, "region", noting)
    positions = np.array([[0, 0, 101.0]])
    flow = volumes.StoredFlow(volumes.Source(vectors, "flow", slice(0, 3)))
    follow_leavers(flow, BlockGrid(shape, (1, 1, 50), (0, 0, halo)), positions, np.array([400]))
    assert positions.tolist() == [[0, 0, 350]]
    assert len(widths) >= 3
    assert max(widths) == 50 + 2 * max(PAGE_MARGIN, halo)
