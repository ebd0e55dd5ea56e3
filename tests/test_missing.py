"""What a missing chunk of the flow means is part of a run: one that took it for an error may take it for background."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from test_census import CONFIG, StopHereError, predict, segment, stop, store_inputs

import topo_dask
from topo_dask import plan
from topo_dask.stages.stage import Stage
from topo_dask.stores import ledger
from topo_dask.stores.checked import MissingChunkError
from topo_dask.stores.scratch import FileScratch

GONE = "0/0/1/1"


@pytest.fixture
def expected(tmp_path: Path) -> np.ndarray:
    """Labels of a flow that is 0 where a chunk is missing in the stored one."""
    semantic, flow = predict()
    store_inputs(tmp_path)
    (tmp_path / "flow" / "c" / GONE).unlink()
    flow[:, :, 12:, 12:] = 0
    return topo_dask.run_instance_segmentation(semantic, flow, ["thin"], CONFIG)["thin"]


def run(folder: Path, on_missing: str, **more: Any) -> np.ndarray:
    return segment(folder, on_missing=on_missing, halo=0, **more)


def stop_at(folder: Path, stage: str, **how: Any) -> None:
    with patch("topo_dask.segment.make_ready"), patch.object(plan, stage, stop), pytest.raises(StopHereError):
        run(folder, **how)


def test_a_run_that_met_a_missing_chunk_goes_on_with_background(tmp_path: Path, expected: np.ndarray) -> None:
    for resume in (False, True):
        with pytest.raises(MissingChunkError, match=rf"chunk c/{GONE} is missing"):
            run(tmp_path, "error", resume=resume)
    np.testing.assert_array_equal(run(tmp_path, "background", resume=True), expected)
    with pytest.raises(FileExistsError, match="exists: pass overwrite=True"):
        run(tmp_path, "error", resume=True)
    with patch.object(Stage, "run", stop):
        np.testing.assert_array_equal(run(tmp_path, "background", resume=True), expected)


@pytest.mark.parametrize("first", ["background", "error"])
def test_a_run_with_background_does_not_go_on_with_error(tmp_path: Path, expected: np.ndarray, first: str) -> None:
    if first == "error":
        with pytest.raises(MissingChunkError):
            run(tmp_path, "error")
    stop_at(tmp_path, "link", on_missing="background", resume=first == "error")
    message = r"cannot be resumed, .*: on_missing: 'background' then, 'error' now\. Ask for .* overwrite=True"
    with pytest.raises(ValueError, match=message):
        run(tmp_path, "error", resume=True)
    np.testing.assert_array_equal(run(tmp_path, "background", resume=True), expected)


def test_labels_that_met_no_missing_chunk_are_those_of_background_too(tmp_path: Path) -> None:
    store_inputs(tmp_path)
    found = run(tmp_path, "error")
    with patch.object(Stage, "run", stop):
        np.testing.assert_array_equal(run(tmp_path, "background", resume=True), found)


def test_a_run_that_was_begun_before_this_was_on_record_goes_on(tmp_path: Path, expected: np.ndarray) -> None:
    stop_at(tmp_path, "link", on_missing="background")
    scratch = FileScratch(str(tmp_path / "out.scratch"))
    record = ledger.recorded(scratch)
    assert record is not None
    name = record.pop("run")
    del record["on_missing"]
    ledger._file_record(scratch, record, name, overwrite=False)
    np.testing.assert_array_equal(run(tmp_path, "background", resume=True), expected)
