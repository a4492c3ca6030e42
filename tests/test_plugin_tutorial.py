"""The tutorial of docs/plugins.md, followed literally: the package from a wheel, the folder outside the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
TUTORIAL = PAGE.partition("## Tutorial")[2].partition("\n## ")[0]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
#: The file that a block is written to is the last one in code letters before it.
FILE = re.compile(r"`([\w./-]+\.(?:py|yaml))`")


def blocks() -> list[tuple[str, str, str]]:
    """Language, file ("" for commands) and text of each block, in order."""
    found = []
    for match in BLOCK.finditer(TUTORIAL):
        names = FILE.findall(TUTORIAL[: match.start()])
        found.append((match[1], names[-1] if match[1] != "bash" else "", match[2]))
    return found


def run(*command: str | Path, cwd: Path, **extra: str) -> str:
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "CONSISTENCY_BENCH_INCLUDE")
    }
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env={**environment, **extra}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the wheel, and the other packages of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("methods", "benchmarks", "slurm", "reports"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    options = ("--no-deps", "--no-build-isolation", "--no-index")
    run(*pip, "wheel", "-q", *options, "-w", folder, source, cwd=folder)
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    programs = folder / "venv" / "bin"
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    outer = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "outer.pth").write_text("".join(f"{path}\n" for path in outer))
    (wheel,) = folder.glob("*.whl")
    run(*pip, "--python", programs / "python", "install", "-q", "--no-deps", "--no-index", wheel, cwd=folder)
    return programs


def test_the_coupling_of_the_tutorial_has_40_lines_at_most() -> None:
    (text,) = (text for _, file, text in blocks() if file == "plugin/methods/sliced.py")
    assert len([line for line in text.splitlines() if line.strip()]) <= 40


@pytest.mark.slow
def test_the_tutorial_works_as_it_is_written(programs: Path, tmp_path: Path) -> None:
    where = run(programs / "python", "-c", "import consistency_bench.methods as m; print(m.__path__)", cwd=tmp_path)
    assert str(programs.parent) in where
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    said = []
    for language, file, text in blocks():
        if language == "bash":
            said.append(run("bash", "-euo", "pipefail", "-c", text, cwd=tmp_path, PATH=path))
        else:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(text)
    assert "all 12 checks passed" in said[0]
    study = tmp_path / "runs" / "studies" / "sliced"
    board = (study / "leaderboard.md").read_text()
    assert re.search(r"\| sliced v1 \| method\.coupling\.frequency=1", board)
    assert len(list((tmp_path / "runs").glob("images-*/sliced/s*"))) == 4
    assert (study / "report.html").is_file()
    # The skeletons are part of the wheel.
    run(programs / "bench", "new", "method", "other", cwd=tmp_path)
    assert (tmp_path / "plugin" / "methods" / "other.py").is_file()
