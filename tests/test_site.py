"""The documentation site builds without a warning, so every link and anchor of its pages leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = (sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder))
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_it_loads_nothing_from_another_server(site: Path) -> None:
    pages = [page for page in site.rglob("*.html") if page.name != "report.html"]
    assert len(pages) > 20
    loaded = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*(?:src|href)=["']?(https?://[^"'\s>]+)""")
    assert {address for page in pages for address in loaded.findall(page.read_text(encoding="utf-8"))} == set()


@pytest.mark.slow
def test_it_holds_the_commands_the_functions_and_the_formulas(site: Path) -> None:
    commands = (site / "commands.html").read_text(encoding="utf-8")
    assert all(f"<code>bench {name}</code>" in commands for name in ("run", "report", "compare", "speed train"))
    functions = (site / "reference.html").read_text(encoding="utf-8")
    assert all(f">{name}</span>" in functions for name in ("load_results", "leaderboard", "load_model", "score"))
    assert 'class="arithmatex"' in (site / "methods.html").read_text(encoding="utf-8")
    assert (site / "mathjax" / "tex-svg.js").stat().st_size > 1_000_000
