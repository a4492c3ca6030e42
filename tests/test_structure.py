"""The shape of the project: packages, the direction of imports, and where names may be known."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("methods", "benchmarks", "slurm", "reports")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

#: What each folder may import of the others: all of a folder, or single modules of it.
ALLOWED = {
    "methods": (),
    "benchmarks": ("methods",),
    "slurm": ("benchmarks",),
    "reports": ("benchmarks.records", "benchmarks.files"),
    "benchmarks.cli": ("methods", "benchmarks", "slurm", "reports"),
}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports_between_folders(path: Path) -> Iterator[str]:
    """Modules of our own that a file imports relatively, as dotted paths below the root."""
    package = module_of(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            if node.module:
                yield ".".join([*base, node.module])
            else:
                yield from (".".join([*base, name.name]) for name in node.names)


def is_below(module: str, roof: str) -> bool:
    return module == roof or module.startswith(f"{roof}.")


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_point_one_way(path: Path) -> None:
    module = module_of(path)
    home = "benchmarks.cli" if is_below(module, "benchmarks.cli") else module.split(".")[0]
    for imported in imports_between_folders(path):
        allowed = (home.split(".")[0], *ALLOWED[home])
        assert any(is_below(imported, roof) for roof in allowed), f"{module} imports {imported}"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_our_own_packages_are_imported_relatively(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            assert (name or "").split(".")[0] not in ("consistency_bench", *FOLDERS), (
                f"{module_of(path)} imports {name}"
            )


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_no_branch_on_a_method_name(path: Path) -> None:
    """Comparing with a method's name is for the registry and the composition of configurations alone."""
    if module_of(path) in ("methods.registry", "benchmarks.config.compose"):
        return
    names = {file.stem for file in (ROOT / "benchmarks" / "config" / "method").glob("*.yaml")}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        constants: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            constants = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            constants = [node.value]
        for constant in constants:
            for inner in ast.walk(constant):
                assert not (isinstance(inner, ast.Constant) and inner.value in names), (
                    f"{module_of(path)}: {inner.lineno}"
                )


def test_every_package_is_listed_for_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"])
    found = {f"consistency_bench.{module_of(path.parent)}" for path in SOURCES if path.name == "__init__.py"}
    assert listed == found
    assert {f"consistency_bench.{module_of(path.parent)}" for path in SOURCES} == found  # no folder without __init__


def test_the_readme_holds_exactly_two_set_up_commands() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line.startswith("python3 -m venv ")]
    assert len(commands) == 2
    assert commands[0].endswith("bench run --methods ict,ect,sct,vct")
    assert commands[1].endswith("pytest")
