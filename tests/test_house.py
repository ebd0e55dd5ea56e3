"""The house: who may import whom, docstrings whose examples run, and functions short enough to read."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

import topo_dask
from topo_dask import scores, synthetic, targets

ROOT = Path(topo_dask.__file__).parent
MODULES = sorted(
    module.name for module in pkgutil.walk_packages([str(ROOT)], "topo_dask.") if not module.name.endswith("__main__")
)
FLOORS = """
version machine binding given warning
config kernels blocks
stores
doubts placing synthetic targets scores
stages looking
plan
census status
execute cancelling
cluster progress in_memory
surroundings
workers
admission readiness
recorded_run
lazy preview segment
api estimate
__init__ demo
cli
__main__
"""
"""Every module and package; each imports only what stands in lines above its own."""

LEVEL = {name: level for level, names in enumerate(FLOORS.split("\n")) for name in names.split()}

NARROW = {
    "stores": {"blocks", "kernels"},
    "stages": {"blocks", "config", "given", "kernels", "stores"},
    "plan": {"blocks", "config", "stages", "stores"},
    "census": {"plan", "stages", "stores"},
    "execute": {"census", "machine", "plan", "stages", "stores"},
}
"""Of what is below them these import less."""


def imported(path: Path) -> set[str]:
    """Full names of what a module imports of topo_dask, wherever in it: modules, and names of theirs."""
    package = ["topo_dask", *path.relative_to(ROOT).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *(node.module or "").split(".")] if node.module else base)
            found.update([origin, *(f"{origin}.{alias.name}" for alias in node.names)])
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.startswith("topo_dask.")}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0].removesuffix(".py")
    others = {name.split(".")[1] for name in imported(path)} - {layer}
    assert not {name for name in others if LEVEL[name] >= LEVEL[layer]}
    assert others <= NARROW.get(layer, others)


def test_no_modules_import_each_other_in_a_circle() -> None:
    paths = {name: Path(*name.split(".")[1:]) for name in MODULES}
    files = {name: ROOT / path.with_suffix(".py") for name, path in paths.items()}
    imports = {name: imported(file) & set(MODULES) for name, file in files.items() if file.exists()}
    assert len(imports) > 100
    TopologicalSorter(imports).prepare()


def packages(path: Path) -> set[str]:
    """Packages, not of ours, that a module imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").glob("*.py")), ids=lambda path: path.name)
def test_kernels_know_nothing_of_stores(path: Path) -> None:
    assert not packages(path) & {"dask", "distributed", "zarr", "fsspec"}


@pytest.mark.parametrize("path", sorted((ROOT / "stages").glob("*.py")), ids=lambda path: path.name)
def test_stages_leave_input_and_output_to_stores(path: Path) -> None:
    assert not packages(path) & {"csv", "dask", "distributed", "fsspec", "io", "os", "pathlib", "shutil", "zarr"}


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0


PUBLIC = [
    (module, name)
    for module in (topo_dask, scores, synthetic, targets)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__.startswith(module.__name__) and not name.startswith("_")
]


def sections(function: Any) -> dict[str, str]:
    """Sections of a docstring in NumPy's style."""
    parts = re.split(r"^(\w+)\n-+$", inspect.getdoc(function) or "", flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=[name for _, name in PUBLIC])
def test_public_docstrings_have_all_parameters_errors_and_an_example(module: Any, name: str) -> None:
    function = getattr(module, name)
    found = sections(function)
    entries = re.findall(r"^(\w[\w, ]*?)(?: : .*)?$", found["Parameters"], flags=re.MULTILINE)
    assert ", ".join(entries).split(", ") == list(inspect.signature(function).parameters)
    assert {"Returns", "Raises", "Examples"} <= set(found)
    assert ">>> " in found["Examples"]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 80, f"{node.name} has {lines} lines"


def test_type_checkers_of_users_are_told_that_there_are_types() -> None:
    assert (ROOT / "py.typed").is_file()


def test_public_modules_come_with_the_package_when_they_are_used() -> None:
    script = """
import sys, topo_dask
later = {"scores", "synthetic", "targets"}
assert not {f"topo_dask.{name}" for name in later} & set(sys.modules)
assert later | {"binding", "progress"} < set(dir(topo_dask))
assert topo_dask.binding.Binding and topo_dask.progress.JsonLog
assert topo_dask.scores.matching_scores and topo_dask.targets.direct_flow and topo_dask.synthetic.blobs
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="module 'topo_dask' has no attribute 'no_such'"):
        topo_dask.no_such  # noqa: B018
