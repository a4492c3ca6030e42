"""Every file, folder and test that the documentation names exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]
#: A path inside the repository. Braces, stars and other placeholders end it, and such a path is not checked.
NAMED = re.compile(r"`((?:methods|benchmarks|slurm|reports|tests|docs|\.ci)/[\w./+-]*)`")
TEST = re.compile(r"`(tests/[\w/]+\.py)?::(\w+)`")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[\w-]+)?\)")
#: Files of the example in CONTRIBUTING.md, which do not exist.
EXAMPLES = {"methods/foo.py", "benchmarks/config/method/foo.yaml"}


def named_tests(text: str) -> Iterator[tuple[str, str]]:
    """Each `file::test`; `::test` alone belongs to the file named before it."""
    path = ""
    for file, name in TEST.findall(text):
        path = file or path
        yield path, name


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if hasattr(node, "name")}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_path_and_link_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = {ROOT / path for path in NAMED.findall(text) if path not in EXAMPLES}
    linked = {page.parent / path for path in LINK.findall(text)}
    assert sorted(str(path) for path in named | linked if not path.exists()) == []


def test_the_page_of_keys_is_that_of_the_code() -> None:
    """Regenerate it: bench show --all > docs/configuration.md"""
    from consistency_bench.benchmarks.cli.explain import page_of
    from consistency_bench.benchmarks.config.keys import all_groups

    found = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8").splitlines()
    assert found == page_of(all_groups()).splitlines(), "bench show --all > docs/configuration.md regenerates it"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_test_exists(page: Path) -> None:
    named = list(named_tests(page.read_text(encoding="utf-8")))
    missing = [f"{path}::{name}" for path, name in named if name not in functions_of(ROOT / path)]
    assert missing == []
    assert named or page.name != "reliability.md"
