"""Injected faults: the bits of the undisturbed run, or an error that names the culprit and a run to resume.

As a script, this is the run that the tests disturb: ``python test_faults.py FOLDER STAGE`` kills itself while it files
the second bundle of a stage (STAGE "-": never; "stage:1": the first; ``... FOLDER STAGE agglomerate``: of a run with
that merge and a pyramid of three levels), ``... FOLDER limit BYTES`` may write no larger
file, ``... FOLDER cluster FILE`` works on the cluster of that scheduler file.
"""

import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import naive
import numpy as np
import pytest
import zarr

import topo_dask
from topo_dask import placing, segment_volume
from topo_dask.blocks.memory import ROW_BYTES
from topo_dask.cluster import restore_workers
from topo_dask.kernels import labels as labels_module
from topo_dask.stores import ledger, locks
from topo_dask.stores.bundles import to_bytes
from topo_dask.stores.scratch import FileScratch, count_rows, find
from topo_dask.stores.space import Disk
from topo_dask.stores.volumes import StoredFlow
from topo_dask.workers import check_workers_reach

SHAPE, BLOCK = (96, 96, 96), (32, 32, 32)
CONFIG = {"thin": {"group": 3, "n_steps": 20, "convergence_radius": 1.5, "min_size": 9, "merge": "adjacent"}}
AGGLOMERATED = {"thin": {**CONFIG["thin"], "merge": "agglomerate"}}
HOW: dict[str, Any] = {
    "class_names": ["thin"],
    "class_config": CONFIG,
    "flow_error_threshold": 0.6,
    "block_shape": BLOCK,
    "halo": 4,
    "progress": False,
}
STAGES = [
    *("track", "link", "contacts", "unite", "fragments", "join", "split", "absorb", "survey", "orphans"),
    *("tabulate", "errors", "drop", "relabel", "downsample.1"),
]


@cache
def predict() -> tuple[np.ndarray, np.ndarray]:
    """Touching balls, the flow to their middles and noise; some blocks without foreground."""
    rng = np.random.default_rng(5)
    semantic = np.where(rng.random(SHAPE) < 0.004, 0.9, 0.1).astype(np.float32)
    flow = rng.normal(0, 0.2, (3, *SHAPE)).astype(np.float32)
    grid = np.indices(SHAPE).astype(np.float32)
    for centre in rng.uniform(8, 88, (60, 3)).astype(np.float32):
        way = centre[:, None, None, None] - grid
        length = np.sqrt((way**2).sum(axis=0))
        inside = length < 9
        semantic[inside] = 0.9
        flow[:, inside] += (way / np.maximum(length, 1))[:, inside]
    semantic[:32, :32] = 0
    return semantic[None], flow


@cache
def expected() -> np.ndarray:
    """Labels in memory."""
    return topo_dask.run_instance_segmentation(*predict(), ["thin"], CONFIG, flow_error_threshold=0.6)["thin"]


@pytest.fixture(scope="module")
def undisturbed_levels(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """The pyramid of a run with agglomeration that nothing disturbed; its labels are those in memory."""
    folder = save_predicted(tmp_path_factory.mktemp("undisturbed"))
    labels = segment(folder, 24, class_config=AGGLOMERATED)
    in_memory = topo_dask.run_instance_segmentation(*predict(), ["thin"], AGGLOMERATED, flow_error_threshold=0.6)
    np.testing.assert_array_equal(labels, in_memory["thin"])
    assert labels.any()
    return [zarr.open_array(folder / f"out/labels/thin/{level}", mode="r")[:] for level in range(3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_predicted(tmp_path)


def save_predicted(tmp_path: Path) -> Path:
    for name, array in zip(("semantic", "flow"), predict(), strict=True):
        zarr.create_array(
            tmp_path / name,
            data=array,
            chunks=(3, 32, 32, 32),
            compressors=zarr.codecs.ZstdCodec(level=1, checksum=True),
        )
    return tmp_path


def segment(folder: Path, coarsest: int = 48, **more: Any) -> np.ndarray:
    with patch.object(placing, "COARSEST", coarsest):  # a pyramid of two levels
        return segment_volume(folder / "semantic", folder / "flow", folder / "out", **{**HOW, **more})["thin"][:]


def check_resumed(folder: Path) -> None:
    """Going on gives the undisturbed run's bits and leaves nothing behind."""
    np.testing.assert_array_equal(segment(folder, resume=True), expected())
    coarser = zarr.open_array(folder / "out" / "labels" / "thin" / "1", mode="r")
    np.testing.assert_array_equal(coarser[:], naive.downsample_labels(expected(), (2, 2, 2)))
    assert not (folder / "out.scratch").exists()
    assert not list((folder / "out").rglob("*.partial"))


def records(folder: Path) -> set[str]:
    root = folder / "out.scratch"
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def scratch_of(folder: Path) -> FileScratch:
    """Scratch of the class of the only run."""
    (place,) = (folder / "out.scratch" / "classes").glob("*/thin")
    return FileScratch(str(place))


def start(folder: Path, *arguments: object) -> "subprocess.Popen[str]":
    root = str(Path(topo_dask.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, __file__, str(folder), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{Path(__file__).parent}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# ------------------------------------------------------------ cheap


def small(folder: Path) -> tuple[Any, Any, Path, dict[str, Any]]:
    semantic, flow = predict()
    corner = (slice(None), *(slice(32, 48),) * 3)
    return semantic[corner], flow[corner], folder / "out", {**HOW, "block_shape": (8, 8, 8)}


def save_small(folder: Path, **changed: np.ndarray) -> Callable[..., Any]:
    semantic, flow, out, how = small(folder)
    stores = [zarr.create_array({}, data=changed.get(n, a)) for n, a in (("semantic", semantic), ("flow", flow))]
    return lambda **more: segment_volume(*stores, out, **{**how, **more})["thin"][:]


def test_too_many_labels_are_refused_before_any_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = save_small(tmp_path)
    monkeypatch.setattr(labels_module, "MAX_LABEL", 0)
    monkeypatch.setattr("topo_dask.segment.make_ready", lambda *_: None)  # its few voxels would be too many too
    with pytest.raises(OverflowError, match="instances do not fit into int32 labels") as caught:
        run()
    assert "class 'thin', stage" in caught.value.__notes__[0]
    assert zarr.open_array(tmp_path / "out" / "labels" / "thin" / "0", mode="r").nchunks_initialized == 0
    monkeypatch.undo()
    assert run(overwrite=True).max() >= 1


def test_a_second_run_is_refused_while_the_first_is_alive(tmp_path: Path) -> None:
    scratch = FileScratch(str(tmp_path / "s"))
    with locks.claim(scratch):
        match = rf"another run is at work .* process {os.getpid()} of "
        with pytest.raises(FileExistsError, match=match), locks.claim(scratch, take_over=True):
            pass
    assert not (tmp_path / "s").exists()
    holder = "f" * 32
    gone = {**locks._this_process(), "pid": 2**22 + 1, "started": 0}
    scratch.put("lock", holder, holder=to_bytes(gone))
    with locks.claim(scratch):  # of a process that is no more
        assert holder not in scratch.keys("lock")
    # Of a machine, or a container of this one, whose processes are not seen from here.
    for elsewhere in ({"host": "elsewhere"}, {"processes": 1}):
        scratch.put("lock", holder, holder=to_bytes({**gone, **elsewhere}))
        with pytest.raises(FileExistsError, match=f"of {elsewhere.get('host', gone['host'])}"), locks.claim(scratch):
            pass
        with locks.claim(scratch, take_over=True):
            assert len(scratch.keys("lock")) == 1


def test_of_many_claims_at_once_one_holds(tmp_path: Path) -> None:
    scratch, inside, most, refused = FileScratch(str(tmp_path / "s")), [0], [0], [0]

    def claim() -> None:
        try:
            with locks.claim(scratch):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.3)
                inside[0] -= 1
        except FileExistsError:
            refused[0] += 1

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1


def test_a_lock_is_filed_though_its_folder_goes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, turns = os.replace, [0]

    def replace(source: Any, target: Any) -> None:
        turns[0] += 1
        if turns[0] < 3:  # another run sweeps what is half written, and removes the folder
            os.remove(source)
            os.rmdir(Path(source).parent)
        opened(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with locks.claim(FileScratch(str(tmp_path / "s"))):
        assert turns == [3]
    assert not (tmp_path / "s").exists()


def test_halves_of_bundles_are_swept_and_damaged_ones_named(tmp_path: Path) -> None:
    scratch = FileScratch(str(tmp_path / "s"))
    scratch.put("track", "0.0.0", a=np.arange(9))
    half = tmp_path / "s" / "track" / f".0.0.1.{'0' * 32}.partial"
    half.write_bytes(b"half")
    (tmp_path / "s" / "track" / "notes.partial").write_text("mine")
    with locks.claim(scratch):
        assert not half.exists()
    assert (tmp_path / "s" / "track" / "notes.partial").exists()
    bundle = tmp_path / "s" / "track" / "0.0.0"
    whole = bundle.read_bytes()
    for damaged in (b"", whole[:5], whole[:11], whole[:-1], whole[:30] + bytes([whole[30] ^ 1]) + whole[31:]):
        bundle.write_bytes(damaged)
        with pytest.raises(OSError, match=r"scratch bundle .*track/0\.0\.0 is damaged"):
            find(scratch, "track", "0.0.0")


def test_runs_with_scratch_of_their_own_do_not_share_an_output(tmp_path: Path) -> None:
    run = save_small(tmp_path)
    with locks.claim(FileScratch(str(tmp_path / "out.lock"))):
        with pytest.raises(FileExistsError, match=rf"another run is at work in .*out\.lock: process {os.getpid()}"):
            run(scratch=tmp_path / "other")
        assert [path.name for path in tmp_path.iterdir()] == ["out.lock"]
    run(scratch=tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.tables"]


def test_too_small_a_disk_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = save_small(tmp_path)
    needed = (8 + 4) * 16**3 // 8
    monkeypatch.setattr("topo_dask.admission.disk_of", lambda url: Disk(1, needed - 1))
    with pytest.raises(OSError, match=r"scratch .*out\.scratch is expected to take 0.00 GiB .* make room"):
        run(ome_zarr=None)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("topo_dask.admission.disk_of", lambda url: Disk(int("scratch" in url), needed - 1))
    run(ome_zarr=None)  # two disks


@pytest.mark.parametrize("step", ["link", "unite", "split", "tabulate", "drop"])
def test_a_global_step_on_too_many_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    run = save_small(tmp_path)
    monkeypatch.setitem(ROW_BYTES, step, 1 << 50)
    with pytest.raises(MemoryError, match=rf"'{step}' on [1-9]\d* rows .* allowed .*resume=True and a larger mem"):
        run()
    monkeypatch.undo()
    done = scratch_of(tmp_path).keys("done")
    assert step not in done
    assert run(resume=True).max() >= 1


def test_a_store_that_denies_what_it_holds_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    scratch = FileScratch("memory://denied")
    scratch.put("a", "0", x=np.arange(3))
    turns = [0]

    def deny(call: Callable[..., Any]) -> Callable[..., Any]:
        def answer(*arguments: Any, **more: Any) -> Any:
            turns[0] += 1
            if turns[0] % 3:
                raise FileNotFoundError
            return call(*arguments, **more)

        return answer

    for name in ("ls", "cat_file", "pipe_file"):
        monkeypatch.setattr(MemoryFileSystem, name, deny(getattr(MemoryFileSystem, name)))
    for _ in range(3):
        assert scratch.keys("a") == {"0"}
        assert scratch.get("a", "0")["x"].sum() == 3
        scratch.put("a", "0", x=np.arange(3))
    monkeypatch.undo()
    scratch.discard("a")
    assert scratch.keys("a") == set()


def test_the_head_of_a_bundle_tells_its_rows(tmp_path: Path) -> None:
    scratch = FileScratch(str(tmp_path))
    scratch.put("a", "0", x=np.zeros((3, 2)), y=np.zeros(0))
    scratch.put("a", "1", x=np.zeros((4, 2)))
    assert (count_rows(scratch, "a", "x"), count_rows(scratch, "a", "y"), count_rows(scratch, "b", "x")) == (7, 0, 0)
    with pytest.raises(KeyError):
        scratch.lengths("a", "2")
    whole = (tmp_path / "a" / "0").read_bytes()
    for damaged in (b"", whole[:15], whole[:30], b"x" * 100):
        (tmp_path / "a" / "0").write_bytes(damaged)
        with pytest.raises(OSError, match=r"scratch bundle .*a/0 is damaged"):
            scratch.lengths("a", "0")


def test_foreground_that_is_not_stored_needs_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topo_dask.admission.disk_of", lambda url: Disk(1, 100))
    semantic = zarr.create_array({}, shape=(1, 64, 64, 64), chunks=(1, 32, 32, 32), dtype="f4")
    flow = zarr.create_array({}, shape=(3, 64, 64, 64), chunks=(3, 32, 32, 32), dtype="f4")
    assert not segment_volume(semantic, flow, tmp_path / "out", **HOW)["thin"][:].any()
    semantic[:, :32] = 1
    with pytest.raises(OSError, match="make room"):
        segment_volume(semantic, flow, tmp_path / "more", **HOW)


def test_resumed_runs_keep_their_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = save_small(tmp_path)
    monkeypatch.setattr(labels_module, "MAX_LABEL", 0)
    with pytest.raises(OverflowError):
        run(block_shape=None, halo=5, memory_limit="450MB")
    monkeypatch.undo()
    recorded = ledger.recorded(FileScratch(str(tmp_path / "out.scratch")))
    assert recorded is not None
    assert recorded["halo"] == [5] * 3
    with pytest.raises(ValueError, match=r"block_shape: .* then, \[8, 8, 8\] now"):
        run(resume=True)
    with pytest.raises(MemoryError, match="memory_limit"):
        run(resume=True, block_shape=None, halo=None, memory_limit="401MiB")
    assert run(resume=True, block_shape=None, halo=None).max() >= 1


def test_an_asynchronous_client_is_refused(tmp_path: Path) -> None:
    import asyncio

    from distributed import Client

    run = save_small(tmp_path)

    async def call() -> None:
        async with Client(processes=False, asynchronous=True, dashboard_address=":0", n_workers=1):
            with pytest.raises(RuntimeError, match=r"client is asynchronous.*asyncio\.to_thread"):
                run()
            assert (await asyncio.to_thread(run)).max() >= 1

    asyncio.run(call())


def test_a_client_that_is_not_running_is_refused_before_old_labels_go(tmp_path: Path) -> None:
    import dask
    from distributed import Client

    run = save_small(tmp_path)
    # Dask's configuration would go on to ask for the client that is closed in its own block.
    with dask.config.set(scheduler=None), Client(processes=False, dashboard_address=":0", n_workers=1) as client:
        labels = run()
        # As for half a minute after its scheduler was killed.
        with (
            patch.object(client, "status", "connecting"),
            pytest.raises(RuntimeError, match=r"client is connecting, not running.*close\(\)"),
        ):
            run(overwrite=True)
        client.close()
        with pytest.raises(RuntimeError, match="client is closed, not running"):
            run(overwrite=True)
    np.testing.assert_array_equal(zarr.open(tmp_path / "out" / "labels" / "thin" / "0", mode="r")[:], labels)


# ------------------------------------------------------------ killed clients


@pytest.mark.faults
@pytest.mark.parametrize("stage", STAGES)
def test_client_killed_inside_a_stage(folder: Path, stage: str) -> None:
    process = start(folder, stage)
    output = process.communicate(timeout=200)[0]
    assert process.returncode == -signal.SIGKILL, output
    assert records(folder)
    check_resumed(folder)


@pytest.mark.faults
@pytest.mark.parametrize("stage", ["enclose", "gather.0", "gather.1:1", "unite", "downsample.1", "downsample.2:1"])
def test_client_killed_inside_a_stage_of_agglomeration_or_of_the_pyramid(
    folder: Path, stage: str, undisturbed_levels: list[np.ndarray]
) -> None:
    process = start(folder, stage, "agglomerate")
    output = process.communicate(timeout=200)[0]
    assert process.returncode == -signal.SIGKILL, output
    np.testing.assert_array_equal(segment(folder, 24, resume=True, class_config=AGGLOMERATED), undisturbed_levels[0])
    for level in range(3):
        array = zarr.open_array(folder / f"out/labels/thin/{level}", mode="r")
        np.testing.assert_array_equal(array[:], undisturbed_levels[level])
    assert not (folder / "out.scratch").exists()


@pytest.mark.faults
@pytest.mark.parametrize(
    ("number", "share"),
    [(signal.SIGKILL, 0.1), (signal.SIGKILL, 0.5), (signal.SIGKILL, 0.9), (signal.SIGTERM, 0.5), (signal.SIGINT, 0.5)],
)
def test_client_killed_from_outside(folder: Path, number: signal.Signals, share: float) -> None:
    process = start(folder, "-")
    wait_for(lambda: len(records(folder)) > share * 420 or process.poll() is not None)
    process.send_signal(number)
    output = process.communicate(timeout=200)[0]
    assert process.returncode == -number, output
    check_resumed(folder)


@pytest.mark.faults
@pytest.mark.parametrize("places", [(), ("one", "two")], ids=["one scratch", "scratch of their own"])
def test_two_runs_at_once(folder: Path, places: tuple[str, ...]) -> None:
    runs = [start(folder, "-", *places[i : i + 1]) for i in range(2)]
    ends = [run.communicate(timeout=300)[0] for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 1], ends
    refused = ends[0 if runs[0].returncode else 1]
    assert "another run is at work" in refused or "unfinished run" in refused or "exists: pass overwrite" in refused
    np.testing.assert_array_equal(zarr.open_array(folder / "out" / "labels" / "thin" / "0", mode="r")[:], expected())


# ------------------------------------------------------------ killed workers


@pytest.fixture
def client(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{here}{os.pathsep}{here.parent}")
    monkeypatch.setenv("TOPO_DASK_CURE", str(folder / "cure"))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


def wait_for_workers(client: Any) -> None:
    """Both workers are there, wherever the one that died last was in being started again."""
    wait_for(lambda: restore_workers(client) or len(client.nthreads()) == 2)


class KillingFlow(StoredFlow):
    """Flow that kills the process which reads one block of it, until a file is there."""

    def region(self, box: Any) -> Any:
        if box.start == (60, 60, 60) and not Path(os.environ["TOPO_DASK_CURE"]).exists():
            os._exit(1)
        return super().region(box)


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_poison_block_is_quarantined(folder: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import test_faults

    monkeypatch.setattr("topo_dask.recorded_run.StoredFlow", test_faults.KillingFlow)
    with pytest.raises(RuntimeError) as caught:
        segment(folder)
    message = str(caught.value)
    assert re.search(r"class 'thin', stage 'track': .*block 2\.2\.2 .*all else of the stage is done", message)
    assert message.count("block ") == 1
    done = scratch_of(folder).keys("track")
    assert len(done) == 23  # 27 but for three without stored foreground and the poison
    assert "2.2.2" not in done
    (folder / "cure").touch()
    wait_for_workers(client)
    check_resumed(folder)


class SlowFlow(StoredFlow):
    """Flow that takes its time, so that a small run lasts while its workers are killed."""

    def region(self, box: Any) -> Any:
        time.sleep(0.3)
        return super().region(box)


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_workers_killed_every_two_seconds(folder: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import test_faults

    monkeypatch.setattr("topo_dask.recorded_run.StoredFlow", test_faults.SlowFlow)
    kills, ended = list[int](), threading.Event()

    def kill() -> None:
        while len(kills) < 10 and not ended.wait(2):
            names = sorted(worker.name for worker in client.cluster.scheduler.workers.values())
            nanny = client.cluster.workers.get(names[len(kills) % len(names)]) if names else None
            if nanny and (pid := nanny.pid):  # one that works, not one that is only starting
                os.kill(pid, signal.SIGKILL)
                kills.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    found = None
    try:
        while found is None:
            try:
                found = segment(folder, resume=True)
            except RuntimeError as error:
                if not re.search("the worker died, again and again, of block|has no workers yet", str(error)):
                    raise
                wait_for_workers(client)
    finally:
        ended.set()
        killer.join()
    assert len(kills) == 10  # all of them during the run
    np.testing.assert_array_equal(found, expected())


@pytest.mark.faults
@pytest.mark.timeout(120)
def test_all_workers_killed_at_once(folder: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import test_faults

    monkeypatch.setattr("topo_dask.recorded_run.StoredFlow", test_faults.SlowFlow)
    killed: set[int] = set()

    def kill() -> None:
        for share in (0.1, 0.2):
            wait_for(lambda share=share: len(records(folder)) > share * 420 and len(client.nthreads()) == 2)
            pids = client.run(os.getpid).values()
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            killed.update(pids)

    killer = threading.Thread(target=kill)
    killer.start()
    found = segment(folder)
    killer.join()
    assert len(killed) == 4
    np.testing.assert_array_equal(found, expected())


@pytest.mark.faults
def test_workers_that_a_local_cluster_gives_up_are_asked_back(
    folder: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dask

    monkeypatch.setattr("topo_dask.cluster.MAX_ABSENCE", 40)
    given_up = list(client.cluster.workers.values())

    def kill() -> None:
        wait_for(lambda: len(records(folder)) > 40)
        for nanny in given_up:
            os.kill(nanny.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "100ms"}):
        killer.start()
        np.testing.assert_array_equal(segment(folder), expected())
        killer.join()
    assert not set(given_up) & set(client.cluster.workers.values())


@pytest.mark.faults
def test_scratch_that_workers_can_not_reach(folder: Path, client: Any) -> None:
    with pytest.raises(OSError, match=r"cannot be reached by 2 workers, tcp://\S+ among them: pass scratch="):
        check_workers_reach(FileScratch("memory://scratch"))
    with pytest.raises(ValueError, match="scratch is in the memory of this process but tasks run in others"):
        segment(folder, scratch="memory://scratch")
    assert sorted(path.name for path in folder.iterdir()) == ["flow", "semantic"]


@pytest.mark.faults
@pytest.mark.timeout(200)
def test_a_cluster_without_workers_is_an_error(folder: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topo_dask.cluster.MAX_ABSENCE", 3)
    leave = threading.Thread(
        target=lambda: (wait_for(lambda: len(records(folder)) > 40), client.cluster.scale(0)),
    )
    leave.start()
    with pytest.raises(RuntimeError, match=r"class 'thin', stage '\w+': the cluster has no workers.*resume=True"):
        segment(folder)
    leave.join()
    client.cluster.scale(2)
    try:
        client.wait_for_workers(1, timeout=60)
    except TimeoutError:
        client.close()  # without a cluster, then
    check_resumed(folder)


@contextmanager
def cluster_of_processes(folder: Path) -> Iterator[tuple[str, list["subprocess.Popen[str]"]]]:
    """Where a cluster's scheduler is to be found; its scheduler and its worker, each a group of processes."""
    path = os.pathsep.join(str(place) for place in (Path(__file__).parent, Path(topo_dask.__file__).parents[1]))
    where, parts = str(folder / "scheduler.json"), (["scheduler", "--port", "0"], ["worker", "--nthreads", "1"])
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "dask", *part, "--dashboard-address", ":0", "--scheduler-file", where],
            env={**os.environ, "PYTHONPATH": path},
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        for part in parts
    ]
    try:
        yield where, processes
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.faults
@pytest.mark.timeout(200)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_scheduler_killed_or_stopped(folder: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    import dask
    from distributed import Client

    monkeypatch.setattr("topo_dask.cluster.MAX_ABSENCE", 3)
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "3s"}),
        cluster_of_processes(folder) as (where, (scheduler, _)),
        Client(scheduler_file=where, timeout=60) as client,
    ):
        client.wait_for_workers(1)
        kill = threading.Thread(
            target=lambda: (wait_for(lambda: len(records(folder)) > 100), os.kill(scheduler.pid, number)), daemon=True
        )
        kill.start()
        with pytest.raises(RuntimeError, match=r"class 'thin', stage '\S+': the cluster .*resume=True"):
            segment(folder)
        kill.join()
        scheduler.kill()
    check_resumed(folder)


@pytest.mark.faults
@pytest.mark.parametrize("workers_too", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_scheduler_and_client_killed_together(folder: Path, client: Any, share: float, workers_too: bool) -> None:
    with cluster_of_processes(folder) as (where, (scheduler, worker)):
        run = start(folder, "cluster", where)
        wait_for(lambda: len(records(folder)) > share * 420 or run.poll() is not None)
        for process in (scheduler, run, worker)[: 3 if workers_too else 2]:
            os.killpg(process.pid, signal.SIGKILL)
        output = run.communicate(timeout=60)[0]
        assert run.returncode == -signal.SIGKILL, output
        check_resumed(folder)  # on another cluster; a worker of the old one may still be at its last task


# ------------------------------------------------------------ damaged inputs


@pytest.fixture
def corner(tmp_path: Path) -> Path:
    """A small volume in blocks of 8³, enough where one block is damaged."""
    for name, array in zip(("semantic", "flow"), small(tmp_path)[:2], strict=True):
        zarr.create_array(
            tmp_path / name, data=array, chunks=(3, 8, 8, 8), compressors=zarr.codecs.ZstdCodec(level=1, checksum=True)
        )
    return tmp_path


def segment_corner(corner: Path, **more: Any) -> np.ndarray:
    return segment(corner, coarsest=8, block_shape=(8, 8, 8), **more)


def check_corner(corner: Path, **more: Any) -> None:
    """The labels of the corner are those in memory."""
    arrays = [zarr.open_array(corner / name, mode="r")[:] for name in ("semantic", "flow")]
    in_memory = topo_dask.run_instance_segmentation(*arrays, ["thin"], CONFIG, flow_error_threshold=0.6)["thin"]
    np.testing.assert_array_equal(segment_corner(corner, **more), in_memory)
    assert not (corner / "out.scratch").exists()


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def empty(data: bytes) -> bytes:
    return b""


def flip(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 8]) + data[at + 1 :]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "damage"),
    [(name, damage) for name in ("semantic", "flow") for damage in (truncate, empty, flip)] + [("flow", None)],
)
def test_damaged_chunk(corner: Path, name: str, damage: Callable[[bytes], bytes] | None) -> None:
    chunk = corner / name / "c" / "0" / "0" / "1" / "1"
    whole = chunk.read_bytes()
    if damage is None:
        chunk.unlink()
    else:
        chunk.write_bytes(damage(whole))
    with pytest.raises(OSError, match=rf"{name} .*chunk c/0/0/1/1") as caught:
        segment_corner(corner)
    assert "class 'thin', stage 'track', block" in caught.value.__notes__[0]
    assert "0.1.1" not in scratch_of(corner).keys("track")
    chunk.write_bytes(whole)
    check_corner(corner, resume=True)


@pytest.mark.faults
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", [None, (slice(8, 16),) * 3, (slice(None),) * 3])
def test_flow_that_is_no_number(corner: Path, value: float, where: Any) -> None:
    array = zarr.open_array(corner / "flow", mode="r+")
    semantic, flow = small(corner)[:2]
    if where is None:
        where = tuple(np.argwhere(semantic[0] > 0.5)[-1])
    array[(1, *where)] = value
    with pytest.raises(ValueError, match="not finite at voxel") as caught:
        segment_corner(corner)
    assert "class 'thin', stage 'track', block" in caught.value.__notes__[0]
    array[:] = flow
    check_corner(corner, resume=True)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("where", "voxel"), [((8, 9, 10), "8, 9, 10"), ((slice(8, 16),) * 3, "8, 8, 8"), ((slice(None),) * 3, "")]
)
def test_foreground_that_is_no_number(corner: Path, where: Any, voxel: str) -> None:
    array = zarr.open_array(corner / "semantic", mode="r+")
    array[(0, *where)] = np.nan
    with pytest.raises(ValueError, match=rf"semantic is NaN at voxel \({voxel}") as caught:
        segment_corner(corner)
    assert "class 'thin', stage 'track', block" in caught.value.__notes__[0]
    array[:] = small(corner)[0]
    check_corner(corner, resume=True)


@pytest.mark.faults
@pytest.mark.parametrize("where", [(8, 9, 10), (slice(8, 16),) * 3, (slice(None),) * 3])
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_foreground_is_above_or_below_the_threshold(corner: Path, where: Any, value: float) -> None:
    array = zarr.open_array(corner / "semantic", mode="r+")
    array[(0, *where)] = value
    check_corner(corner)


@pytest.mark.faults
def test_damaged_scratch(folder: Path) -> None:
    process = start(folder, "orphans")
    process.communicate(timeout=200)
    bundle = Path(scratch_of(folder).url, "fragments", "1.1.1")
    bundle.write_bytes(truncate(bundle.read_bytes()))
    with pytest.raises(OSError, match=r"scratch bundle .*fragments/1\.1\.1 is damaged"):
        segment(folder, resume=True)
    bundle.unlink()
    check_resumed(folder)


# ------------------------------------------------------------ full disks


@pytest.mark.faults
@pytest.mark.parametrize("nbytes", [600, 3000])
def test_no_file_may_grow(folder: Path, nbytes: int) -> None:
    process = start(folder, "limit", nbytes)
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 1, output
    assert "File too large" in output
    assert nbytes == 600 or "class 'thin', stage" in output  # with 600 bytes the run cannot even begin
    check_resumed(folder)


@pytest.mark.faults
@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a file system")
@pytest.mark.parametrize("place", ["out", "out.scratch"])
def test_full_disk(folder: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topo_dask.segment.check_space", lambda *_: None)  # somebody else fills the disk after the look
    disk = folder / place
    disk.mkdir()
    size = "60k" if place == "out" else "800k"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("may not mount a file system")
    try:
        with pytest.raises(OSError, match="No space left on device"):
            segment(folder)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        np.testing.assert_array_equal(segment(folder, resume=True), expected())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.faults
@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a file system")
def test_read_only_disk(folder: Path) -> None:
    disk = folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("may not mount a file system")
    try:
        for places in ((disk / "out", folder / "scratch"), (folder / "out", disk / "scratch")):
            with pytest.raises(OSError, match="Read-only file system"):
                segment_volume(folder / "semantic", folder / "flow", places[0], scratch=places[1], **HOW)
            assert sorted(path.name for path in folder.iterdir()) == ["disk", "flow", "semantic"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# ------------------------------------------------------------ the run that is disturbed


def _kill_inside(stage: str) -> None:
    stage, _, number = stage.partition(":")
    seen: dict[str, int] = {}
    replace = os.replace

    def put(source: Any, target: Any, **more: Any) -> None:
        kind, key = Path(target).parts[-2:]
        if kind == stage or (kind, key) == ("done", stage):
            seen[kind] = seen.get(kind, 0) + 1
            if kind == "done" or seen[kind] == int(number or 2):
                os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target, **more)

    os.replace = put


def main(folder: str, stage: str, *rest: str) -> None:
    if stage == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(rest[0]), int(rest[0])))
    elif stage not in ("-", "cluster"):
        _kill_inside(stage)
    if stage == "cluster":
        from distributed import Client

        with Client(scheduler_file=rest[0], timeout=60) as client:
            client.wait_for_workers(1)
            segment(Path(folder))
    elif rest == ("agglomerate",):
        segment(Path(folder), coarsest=24, class_config=AGGLOMERATED)
    else:
        segment(Path(folder), scratch=Path(folder, rest[0]) if stage == "-" and rest else None)


if __name__ == "__main__":
    main(*sys.argv[1:])
