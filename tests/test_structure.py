"""What the documentation says of the project's shape, held against the source."""

from __future__ import annotations

import ast
import importlib.metadata
import itertools
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from consistency_bench.benchmarks.config.compose import GROUPS, choices

ROOT = Path(__file__).parents[1]
TOP = ("methods", "benchmarks", "slurm", "reports")
#: Published results, which are in the repository and not in the package.
RESULTS = ROOT / "reports" / "results"
#: The import name itself, whose subpackages are the other folders.
PACKAGE = ROOT / "benchmarks" / "package"
SOURCES = [path for folder in TOP for path in sorted((ROOT / folder).rglob("*.py")) if path.parent != PACKAGE]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# Packages


def test_the_package_list_is_that_of_the_folders() -> None:
    """A subpackage that is forgotten works when installed editable and is missing from the wheel."""
    folders = {path.parent for folder in TOP for path in (ROOT / folder).rglob("__init__.py")}
    packages = {"consistency_bench." + name_of(folder).replace("/", ".") for folder in folders - {PACKAGE}}
    packages.add("consistency_bench")
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == packages


def test_every_module_is_in_a_package() -> None:
    for path in SOURCES:
        assert (path.parent / "__init__.py").exists(), name_of(path)


def test_every_file_that_is_not_code_is_shipped() -> None:
    folders = PYPROJECT["tool"]["setuptools"]["package-dir"]
    shipped = {
        path
        for package, patterns in PYPROJECT["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in (ROOT / folders.get(package, package.removeprefix("consistency_bench.").replace(".", "/"))).glob(
            pattern
        )
    }
    needed = {path for folder in TOP for path in (ROOT / folder).rglob("*") if path.is_file()}
    needed = {path for path in needed if path.suffix not in (".py", ".pyc") and RESULTS not in path.parents}
    assert needed - shipped == set()
    assert any(path.suffix == ".yaml" for path in shipped)
    assert any(path.suffix == ".safetensors" for path in shipped)


# Imports


class Import(NamedTuple):
    source: Path
    target: str  # dotted, from the top folder: "benchmarks.files"; or an outside package: "torch.nn"
    level: int  # 0: absolute


def imports_of(path: Path) -> Iterator[Import]:
    package = name_of(path.parent).split("/")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (Import(path, alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names if node.level else ():
                inner = ROOT.joinpath(*module, alias.name)
                is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                yield Import(path, ".".join([*module, alias.name] if is_module else module), node.level)
            if not node.level and node.module:
                yield Import(path, node.module, 0)


IMPORTS = [item for path in SOURCES for item in imports_of(path)]
INSIDE = [item for item in IMPORTS if item.level]
OUTSIDE = [item for item in IMPORTS if not item.level]

#: The packages, lowest first: each imports from itself and from those before it.
ORDER = (
    "methods/parts",
    "methods/networks",
    "methods",
    "benchmarks/common",
    "benchmarks/data",
    "benchmarks/metrics/extractors",
    "benchmarks/metrics",
    "benchmarks/config",
    "benchmarks/runs",
    "benchmarks/training",
    "benchmarks/evaluation",
    "benchmarks/execution",
    "benchmarks/doctor",
    "benchmarks/speed",
    "slurm",
    "slurm/local",
    "reports/analysis",
    "reports/plots",
    "reports/pages",
    "reports/tracking",
    "reports",
    "benchmarks/cli",
)
#: Reports read files, and nothing of how the files came to be.
UNREPORTED = ("benchmarks.training", "benchmarks.evaluation", "benchmarks.execution", "benchmarks.data", "methods")


def package_of(target: str) -> str:
    path = ROOT / target.replace(".", "/")
    return name_of(path if (path / "__init__.py").exists() else path.parent)


def part_of(path: Path) -> str:
    return name_of(path).split("/")[0]


def begins(target: str, prefixes: tuple[str, ...]) -> bool:
    return any(target == prefix or target.startswith(f"{prefix}.") for prefix in prefixes)


def test_the_order_names_every_package() -> None:
    assert set(ORDER) == {name_of(path.parent) for path in SOURCES} - {"benchmarks"}


def test_dependencies_point_one_way() -> None:
    against = [
        f"{name_of(item.source)} imports {item.target}"
        for item in INSIDE
        if name_of(item.source.parent) != "benchmarks"
        and ORDER.index(package_of(item.target)) > ORDER.index(name_of(item.source.parent))
    ]
    assert against == []


def test_reports_know_nothing_of_how_files_came_to_be() -> None:
    reports = [item for item in INSIDE if part_of(item.source) == "reports"]
    assert [
        f"{name_of(item.source)} imports {item.target}" for item in reports if begins(item.target, UNREPORTED)
    ] == []


def test_the_command_is_imported_by_no_other_package() -> None:
    users = {name_of(item.source.parent) for item in INSIDE if begins(item.target, ("benchmarks.cli",))}
    assert users <= {"benchmarks/cli"}


def test_imports_between_our_packages_are_relative() -> None:
    absolute = [
        f"{name_of(item.source)} imports {item.target}"
        for item in OUTSIDE
        if begins(item.target, (*TOP, "consistency_bench", "tests"))
    ]
    assert absolute == []


def test_methods_need_torch_and_scipy_alone() -> None:
    used = {item.target.split(".")[0] for item in OUTSIDE if part_of(item.source) == "methods"}
    assert used - set(sys.stdlib_module_names) <= {"torch", "scipy"}


def test_every_package_that_is_imported_is_declared() -> None:
    # Where the names differ, or another package is known to bring it along.
    names = {
        "sklearn": "scikit-learn",
        "hydra": "hydra-core",
        "omegaconf": "hydra-core",
        "yaml": "hydra-core",
        "cleanfid": "clean-fid",
    }
    names |= {"markupsafe": "jinja2", "PIL": "pillow"}
    declared = {re.split(r"[\s<>=!~\[]", requirement)[0] for requirement in PYPROJECT["project"]["dependencies"]}
    used = {item.target.split(".")[0] for item in OUTSIDE} - set(sys.stdlib_module_names)
    assert {names.get(name, name) for name in used} - declared == set()


# No branch on a method's name

METHODS = choices("method")
NAMED = ("methods/registry.py", "benchmarks/config/compose.py")


def compared_names(path: Path) -> Iterator[str]:
    """Names of methods that a comparison or a `match` in this file mentions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare):
            parts: list[ast.AST] = [node.left, *node.comparators]
        elif isinstance(node, ast.match_case):
            parts = [node.pattern]
        else:
            continue
        for part in itertools.chain.from_iterable(map(ast.walk, parts)):
            if isinstance(part, ast.Constant) and part.value in METHODS:
                yield f"{name_of(path)}:{part.lineno} compares with {part.value!r}"


def test_nothing_branches_on_a_method_s_name() -> None:
    found = [line for path in SOURCES if name_of(path) not in NAMED for line in compared_names(path)]
    assert found == []


def test_every_method_without_a_composition_is_a_file() -> None:
    bases = {name for name in METHODS if "+" not in name}
    for name in bases:
        source = (ROOT / "methods" / f"{name}.py").read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(parts: Parts, context: Context\) -> Method:", source, re.MULTILINE)
    files = {path.stem for path in (ROOT / "methods").glob("*.py")}
    assert files - bases == {"__init__", "compose", "loss", "registry"}


# Configuration

YAMLS = sorted((ROOT / "benchmarks" / "config").glob("*/**/*.yaml"))
IDS = [path.relative_to(ROOT / "benchmarks" / "config").with_suffix("").as_posix() for path in YAMLS]


@pytest.mark.parametrize("path", YAMLS, ids=IDS)
def test_every_yaml_file_says_what_it_is(path: Path) -> None:
    first, second, *_ = path.read_text(encoding="utf-8").splitlines()
    assert first == "# @package _global_"
    assert second.startswith("# ")
    assert second.endswith((".", ")"))


def test_every_group_of_files_is_known() -> None:
    folders = {path.parent.relative_to(ROOT / "benchmarks" / "config").as_posix() for path in YAMLS}
    assert folders == {*GROUPS, "method", "preset/paper", "preset/common"}


def test_methods_and_benchmarks_carry_versions() -> None:
    for group in ("method", "benchmark"):
        for name in choices(group):
            path = ROOT / "benchmarks" / "config" / group / f"{name}.yaml"
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            assert content[group]["name"] == name
            assert isinstance(content[group]["version"], int)


# Versions


def test_versions_agree() -> None:
    found = re.search(r'^__version__ = "(.+)"$', (PACKAGE / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    declared = found[1]
    assert importlib.metadata.version("consistency-bench") == declared
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1].strip("[]") == declared
    python = PYPROJECT["project"]["requires-python"].removeprefix(">=")
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + python.replace(".", "")
    assert PYPROJECT["tool"]["pyright"]["pythonVersion"] == python
    assert f"Python ≥ {python}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_constraints_satisfy_what_is_required() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.partition("==") for line in lines if "==" in line and not line.startswith("#")]
    pinned = {canonicalize_name(name): version.split()[0] for name, _, version in pins}
    project = PYPROJECT["project"]
    for text in [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]:
        requirement = Requirement(text)
        if requirement.name == project["name"]:  # an extra that includes another one
            continue
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), text
