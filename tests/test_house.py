"""The house: who may import whom, docstrings whose examples run, and functions short enough to read."""

import ast
import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import topo_dask

ROOT = Path(topo_dask.__file__).parent
MODULES = sorted(
    module.name for module in pkgutil.walk_packages([str(ROOT)], "topo_dask.") if not module.name.endswith("__main__")
)
LAYERS = {
    "kernels": {"kernels"},
    "blocks": {"blocks"},
    "stores": {"stores", "blocks", "kernels"},
    "stages": {"stages", "stores", "blocks", "kernels", "config"},
    "plan": {"stages", "stores", "blocks", "config"},
    "census": {"plan", "stages", "stores"},
    "execute": {"census", "plan", "stages", "stores"},
}


def imported(path: Path) -> set[str]:
    """First names below topo_dask that a module imports, wherever in it."""
    package = ["topo_dask", *path.relative_to(ROOT).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names = [*base, *(node.module or "").split(".")] if node.module else base
            found.update([".".join(names)] if node.module else [".".join([*names, a.name]) for a in node.names])
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name.split(".")[1] for name in found if name.startswith("topo_dask.")}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0].removesuffix(".py")
    allowed = LAYERS.get(layer)
    if allowed is not None and path.name != "__init__.py":
        assert imported(path) <= allowed


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").glob("*.py")), ids=lambda path: path.name)
def test_kernels_know_nothing_of_stores(path: Path) -> None:
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        (node.module or "").split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and not node.level
    }
    assert not names & {"dask", "distributed", "zarr", "fsspec"}


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0


@pytest.mark.parametrize("name", [name for name in topo_dask.__all__ if callable(getattr(topo_dask, name))])
def test_public_docstrings_name_every_parameter_and_have_an_example(name: str) -> None:
    function = getattr(topo_dask, name)
    text = inspect.getdoc(function) or ""
    head = text.split("Returns\n")[0]
    for parameter in inspect.signature(function).parameters:
        assert parameter in head, f"{name}: {parameter} is not in the docstring"
    assert ">>> " in text


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 80, f"{node.name} has {lines} lines"
