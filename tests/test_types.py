"""What type checkers of users are told: NumPy in, NumPy out; dask or zarr in, dask out."""

import textwrap
from pathlib import Path

import pytest

import topo_dask

CALLS = """
    from typing import Any, assert_type

    import dask.array as da
    import numpy as np
    import topo_dask
    import zarr
    from numpy.typing import NDArray

    Labels = NDArray[np.int32]

    def use(held: NDArray[Any], lazy: da.Array, stored: zarr.Array[Any]) -> None:
        assert_type(topo_dask.postprocess_single(held > 0.5, held, 9, min_size=1), Labels)
        assert_type(topo_dask.postprocess_single(lazy, lazy, 9, block_shape=(1, 2, 3), halo=4), da.Array)
        assert_type(topo_dask.postprocess_single(stored, lazy, group=2, scratch="scratch"), da.Array)
        assert_type(topo_dask.run_instance_segmentation(held, held, ["nuc"]), dict[str, Labels])
        assert_type(topo_dask.run_instance_segmentation(stored, stored, resolution_nm=8), dict[str, da.Array])
        assert_type(topo_dask.track_flows(held, held, 9), tuple[NDArray[np.int64], NDArray[np.float64]])
        assert_type(topo_dask.track_flows(stored, stored, 9, halo=1), tuple[da.Array, da.Array])
        assert_type(topo_dask.cluster_convergence(held, held, (1, 2, 3)), Labels)
        assert_type(topo_dask.cluster_convergence(*topo_dask.track_flows(lazy, lazy, 9), (1, 2, 3)), da.Array)
        assert_type(topo_dask.compact_relabel(held), Labels)
        assert_type(topo_dask.compact_relabel(instances=stored), da.Array)
        assert_type(topo_dask.filter_small(held, 5), Labels)
        assert_type(topo_dask.filter_small(lazy, min_size=5, block_shape=(1, 2, 3)), da.Array)
        assert_type(topo_dask.split_disconnected(held), Labels)
        assert_type(topo_dask.split_disconnected(lazy, 0.2), da.Array)
        assert_type(topo_dask.merge_adjacent(held, held, 0.5), Labels)
        assert_type(topo_dask.merge_adjacent(stored, flow=stored), da.Array)
        assert_type(topo_dask.agglomerate(held, held), Labels)
        assert_type(topo_dask.agglomerate(lazy, stored, threshold=0.1), da.Array)
        assert_type(topo_dask.remove_bad_flow_masks(held, held), Labels)
        assert_type(topo_dask.remove_bad_flow_masks(lazy, pred_flow=lazy), da.Array)
        assert_type(topo_dask.instance_table(lazy, held), dict[str, NDArray[Any]])
        assert_type(topo_dask.segment_volume("a", stored, "b"), dict[str, zarr.Array[Any]])
        assert_type(topo_dask.agglomerate(held, stored), da.Array)
        assert_type(topo_dask.agglomerate(stored, held), da.Array)
        topo_dask.filter_small(held, "5")  # type: ignore[call-overload]
        topo_dask.filter_small(held, 5, halo=3)  # type: ignore[call-overload]
        topo_dask.segment_volume(3, stored, "b")  # type: ignore[arg-type]
"""


def test_type_checkers_of_users_know_what_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mypy = pytest.importorskip("mypy.api")
    monkeypatch.setenv("MYPYPATH", str(Path(topo_dask.__file__).parents[1]))
    monkeypatch.chdir(tmp_path)  # without the settings of this project
    Path("calls.py").write_text(textwrap.dedent(CALLS))
    out, errors, code = mypy.run(["--follow-imports=silent", "--warn-unused-ignores", "calls.py"])
    assert code == 0, out + errors
