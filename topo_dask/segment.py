"""Segment a stored prediction into stored labels, stage by stage, in a run that can be resumed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from .admission import check_space, plan_volume, warn_of_doubts
from .config import Preset, Resolution
from .execute import Progress, run
from .given import integer
from .progress import on_stderr, said_if_long
from .readiness import make_ready
from .recorded_run import RecordedRun
from .stores import ledger, locks
from .stores.addresses import Place
from .stores.allocation import give_back_freed_memory, keep_freed_memory
from .stores.checked import OnMissing
from .stores.multiscales import read_multiscales
from .stores.outputs import ANOTHER
from .stores.places import Target, check_folder, existing_group, locate_output, place_of_scratch
from .stores.pyramids import Version
from .stores.retries import in_parallel
from .stores.scratch import FileScratch
from .surroundings import ambient
from .workers import SHARED_PLACE, check_workers_reach, check_workers_see

if TYPE_CHECKING:
    import zarr

_COMPILING = "kernels are being compiled, or read from the cache of an earlier run"


def segment_volume(
    semantic: "Place | zarr.Array[Any]",
    flow: "Place | zarr.Array[Any]",
    output: "Place | zarr.Group | zarr.Array[Any]",
    *,
    class_names: Sequence[str] | None = None,
    class_config: Mapping[str, Any] | None = None,
    resolution_nm: Resolution | None = None,
    preset: Preset | None = None,
    threshold: float = 0.5,
    flow_error_threshold: float = 0.0,
    block_shape: Sequence[int] | None = None,
    halo: int | Sequence[int] | None = None,
    memory_limit: int | str | None = None,
    scratch: Place | None = None,
    on_missing: OnMissing = "error",
    level: int | None = None,
    ome_zarr: Version | None = "0.5",
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | Progress = True,
) -> "dict[str, zarr.Array[Any]]":
    """Segment a stored prediction into stored labels, out of core.

    It runs on the active `dask.distributed.Client` if there is one, else on Dask's configured scheduler (threads by
    default). The labels equal those of the whole volume in memory, bit for bit, whatever the blocks and the halo.

    Parameters
    ----------
    semantic : path, URL or zarr.Array, shape (N, D, H, W)
        Foreground probability of each class; foreground where it is above `threshold`.
    flow : path, URL or zarr.Array, shape (3N, D, H, W)
        Channels 3c, 3c + 1, 3c + 2 are class c's dz, dy, dx in voxels.
    output : path, URL, zarr.Group or zarr.Array
        Group that gets the labels of each class as an OME-Zarr image label with its pyramid, ``labels/<class>``: an
        OME-Zarr image, any other zarr group, or a path where there is nothing yet. Whatever else is in the group stays
        as it is. Or, for one class, an empty int32 array (D, H, W), which gets no pyramid.
    class_names, class_config, resolution_nm, preset, threshold, flow_error_threshold
        See `run_instance_segmentation`. `resolution_nm` is by default what the OME-Zarr metadata of the inputs tell.
    block_shape : sequence of 3 int, optional
        Voxels of a task; a multiple of the output's chunks or shards. Default: the largest that `memory_limit` allows,
        up to 256 along an axis, or to 128 where a small volume would leave workers idle; a flat one up to 2**20 voxels.
    halo : int or sequence of 3 int, optional
        Margin in voxels that is read around a block, 16 by default. It affects the speed only.
    memory_limit : int or str, optional
        Bytes that a worker process may take, such as ``"4GiB"``. Default: the workers' own limits, else their share of
        the memory of the machine that they are on.
    scratch : path or URL, optional
        Place for the intermediates, which every worker must reach. Default: the output's path with ``.scratch``
        appended. They are removed when the run is complete.
    on_missing : {"error", "background"}
        Whether a chunk of the flow that was never written is an error, which names it, or stands for the array's fill
        value, which is 0 unless the array has another. A chunk of the foreground that was never written always stands
        for the fill value. A run that ended with this error may be resumed with "background".
    level : int, optional
        Level of an OME-Zarr multiscale image, 0 by default.
    ome_zarr : {"0.5", "0.4"} or None
        Version of OME-Zarr that is written: 0.5 uses zarr format 3, 0.4 uses format 2. None writes one plain array for
        each class, ``<output>/<class>``. The place in space is that of the OME-Zarr input, be it the image or an array
        in it; else that of the level of the same shape in the image that is written into; else voxels have the size
        that `resolution_nm` gives, or no unit. Three edges also stand where the inputs' metadata
        have no unit.
    resume : bool
        Go on with an interrupted run, in its blocks and with its halo: what is on record in scratch is not done again.
        If the run is already complete, its labels are returned. An array as `output` has no mark that says whether its
        labels are complete, or whose they are: it is emptied before an interrupted run goes on.
    overwrite : bool
        Replace the output and the scratch of an earlier run: the labels of each class in either layout, see `ome_zarr`,
        and their tables. Nothing else is ever removed.
    progress : bool or Progress
        Whether to show bars on the terminal, or lines if stderr is no terminal; or an object that is told of each
        stage, such as `topo_dask.progress.JsonLog`.

    Returns
    -------
    labels : dict
        Class name to its zarr.Array of int32, the finest level: 0 background, 1..n instances. The statistics of each
        instance are in ``<output>.tables/<class>.csv``, where the output is at a path or URL.

    Raises
    ------
    ValueError, TypeError
        When an argument does not fit; when `resolution_nm` gives three edges of a voxel and the metadata of the inputs
        or of the output give others; when `output` is an OME-Zarr image, none of its levels has the shape of the
        labels, and the inputs do not say where in space they lie. On the way: when a probability is NaN, or a particle
        reads a vector that is not finite.
    MemoryError
        When a task is projected to take more than is allowed.
    FileExistsError
        When there is an output, a table or an unfinished run, and neither `resume` nor `overwrite` says what to do with
        it: an output has the labels of a class either as OME-Zarr or plain. When `output` is labels that a run wrote,
        or lies among them. When labels that are to be replaced have a symbolic link in place of a folder. When a file,
        or a link that leads nowhere, lies where the run needs a folder.
    PermissionError
        When the group or array given as output is open for reading only.
    OSError
        When less disk is free than scratch and output are expected to take, or a read or write fails.
    OverflowError
        See `postprocess_single`.
    RuntimeError
        When the Dask client is asynchronous or its scheduler is gone, when the cluster has no workers, or some without
        this version of this package; when its processes die or leave, or another run takes over this one.

    Warns
    -----
    UserWarning
        A few boxes are read first, and a warning says if they look wrong: foreground that seems to be logits or scaled
        probabilities, or that is all below the threshold; flow that is scaled, is 0, points away from objects, or fits
        better in another order. Other warnings say that the metadata of the two inputs have voxels of different sizes,
        or that labels go into an image of other shapes, or of voxels of another size or place, where the metadata of
        the inputs say; or that chunks of an input are shared by so many blocks that decoding them may take most of the
        time. Those of parameters are in `run_instance_segmentation`.

    Notes
    -----
    A coarser level holds the most frequent label of each cell of the level before it. In a tie, labels win over
    background, and the lowest label wins. An axis is halved unless voxels are twice as long along it as along the axis
    where they are shortest.

    If the output's group, or the group of the labels in it, has consolidated metadata, they are written again when
    labels are added or removed; those of groups above it are not.

    If the C library is glibc, this process and the workers tell it to keep freed memory: a quarter of what tasks may
    take, at least 256 MiB and at most 1 GiB. When the run is over, this process keeps 256 MiB; workers keep as much as
    before. All threads that begin later share one arena. Environment variables decide instead, where they are set:
    ``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_`` or ``glibc.malloc`` in ``GLIBC_TUNABLES``; for the arena
    ``MALLOC_ARENA_MAX``.

    Examples
    --------
    >>> import numpy as np, tempfile, zarr
    >>> folder = tempfile.mkdtemp()
    >>> semantic = zarr.create_array(f"{folder}/semantic.zarr", data=np.ones((1, 1, 8, 8), np.float32))
    >>> flow = zarr.create_array(f"{folder}/flow.zarr", data=np.full((3, 1, 8, 8), 0.5, np.float32))
    >>> config = {"nuc": {"group": 1, "n_steps": 5, "convergence_radius": 3.0, "min_size": 1}}
    >>> labels = segment_volume(semantic, flow, f"{folder}/labels.zarr", class_names=["nuc"], class_config=config,
    ...                         block_shape=(1, 4, 4), progress=False)
    >>> np.unique(labels["nuc"][:])
    array([1], dtype=int32)
    """
    keep_freed_memory()  # early: threads that have begun before keep arenas of their own
    target = locate_output(output)
    _check_options(resume, overwrite, progress, level)
    store = FileScratch(target.beside(".scratch") if scratch is None else place_of_scratch(scratch))
    there = existing_group(target)
    _check_folders(target, store)
    plan = plan_volume(
        semantic,
        flow,
        class_names=class_names,
        class_config=class_config,
        resolution_nm=resolution_nm,
        preset=preset,
        threshold=threshold,
        flow_error_threshold=flow_error_threshold,
        block_shape=block_shape,
        halo=halo,
        memory_limit=memory_limit,
        on_missing=on_missing,
        level=level,
        ome_zarr=None if target.is_array else ome_zarr,
        image=None if there is None else read_multiscales(there),
        recorded=ledger.recorded(store) if resume else None,
    )
    asked = RecordedRun(plan, target, store, overwrite=overwrite, resume=resume)
    asked.check_places()
    if resume and ledger.read_run(store) is None and (whole := asked.finished()):
        ledger.clear_void(store)
        return whole
    take_over = resume or overwrite
    _check_free(target, store, take_over)
    if asked.admit(lambda: there)[0] is None:  # refuse what can be refused before anything is written
        check_space(plan, store.url, target.url)
        for checked in (plan.semantic, plan.flow):
            checked.check_metadata()  # the first read would, when old labels are gone
        warn_of_doubts(plan)
    with (
        _freed_memory_given_back(),
        _claimed(target, store, take_over) as check,
        ambient() as executor,
        on_stderr() if progress is True else nullcontext(progress or None) as bars,
    ):
        earlier, group = asked.admit(lambda: existing_group(target))  # again: another run may have been at work
        check_workers_reach(store)
        if target.locks_as_named is not None:  # asked now: old labels are removed before there is a new array to see
            check_workers_reach(FileScratch(target.locks_as_named), SHARED_PLACE, f"output {target.url}")
        for name, checked in (("semantic", plan.semantic), ("flow", plan.flow)):
            check_workers_see(name, checked.array)
        with said_if_long(_COMPILING) if progress is True else nullcontext():
            make_ready((config for _, config in plan.classes.values()), plan.flow.dtype, plan.factors)
        jobs = asked.segment(earlier, group, partial(run, executor=executor, progress=bars, check=check), check)
        ledger.clear(store)
    return {name: job.output.array for name, job in jobs.items() if job.output is not None}


def _check_options(resume: bool, overwrite: bool, progress: object, level: int | None) -> None:
    for name, value in (("resume", resume), ("overwrite", overwrite)):
        if not isinstance(value, bool):  # any text is true, "no" too, and labels would be replaced
            raise TypeError(f"{name} must be True or False, got {value!r}")
    if level is not None:
        integer(level, "level", 0)
    if resume and overwrite:
        raise ValueError("resume and overwrite exclude one another: go on with the run, or begin again")
    if not isinstance(progress, bool | None) and not hasattr(progress, "begin"):
        raise TypeError(f"progress must be True, False or a Progress, got {progress!r}")


def _check_folders(target: Target, scratch: FileScratch) -> None:
    # Otherwise the system would only say that something is no folder, for the tables when all labels are done.
    if target.url is not None and target.locks is not None:
        check_folder(target.url, "the output", ANOTHER)
        check_folder(target.locks, "the locks of the run", ANOTHER)
        check_folder(target.beside(".tables"), "the tables of instances", ANOTHER)
    check_folder(scratch.url, "the scratch of the run", "pass scratch=<another folder>")


@contextmanager
def _freed_memory_given_back() -> Iterator[None]:
    # When the run is over, no task needs the freed memory any more: it goes back to the system, for the caller to use.
    try:
        yield
    finally:
        give_back_freed_memory()


def _lock_places(target: Target, scratch: FileScratch) -> list[FileScratch]:
    return [scratch] if target.locks is None else [FileScratch(target.locks), scratch]


def _check_free(target: Target, scratch: FileScratch, take_over: bool) -> None:
    # Checked first: the scratch and labels of a run at work look like those of an interrupted one, and the errors about
    # these would advise to resume or replace it.
    in_parallel(*(partial(locks.check_free, place, take_over=take_over) for place in _lock_places(target, scratch)))


@contextmanager
def _claimed(target: Target, scratch: FileScratch, take_over: bool) -> Iterator[Callable[[], None]]:
    # Keeps other runs out of output and scratch. Yields a function that raises RuntimeError when another run has taken
    # over one of them.
    with ExitStack() as stack:
        claims = [
            stack.enter_context(locks.claim(place, take_over=take_over)) for place in _lock_places(target, scratch)
        ]

        def check() -> None:
            for claim in claims:
                claim.check()

        yield check
