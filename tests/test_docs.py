"""Every file, folder and test that the documentation names exists, and every command that it shows works."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import typer
import yaml

from consistency_bench.benchmarks.cli.main import app

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


# Commands

#: What a block of commands needs that a test does not have, by the word after its language: ```bash gpu
NEEDS = ("gpu", "cluster", "data", "server")
#: A fence: language, marker and content.
BLOCK = re.compile(r"^```(\w*) ?(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Pages with commands, but for the tutorial that `test_plugin_tutorial.py` follows.
SHOWN = [page for page in PAGES if "\nbench " in page.read_text("utf-8") and page.name != "plugins.md"]
#: Everything tiny. A setting that a command gives is replaced by that of the same name.
SMALL = ("train.images=256", "network.width=16", "network.blocks=1", "run.snapshots=2", "eval.curve=[1]")
#: Options of commands that are made smaller, or leave out what takes long.
SMALLER = {"run": ("--launcher", "debug", "--no-mlflow"), "report": ("--no-mlflow",), "diagnose": ("--samples", "32")}


def commands_of(page: Path) -> Iterator[tuple[str, list[str]]]:
    """The marker of its block ("" for none) and the words of each `bench …` that a page shows."""
    for language, marker, content in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in content.replace("\\\n", "").splitlines() if language == "bash" else ():
            for part in re.split(r"\s&&\s", line):
                if part.startswith("bench "):
                    yield marker, shlex.split(part, comments=True)[1:]


def parse(words: Sequence[str]) -> None:
    """Raises where there is no such command or option, or a value is of the wrong type."""
    command, context, name = typer.main.get_command(app), None, "bench"
    while True:
        context = command.make_context(name, list(words), parent=context)
        if not hasattr(command, "resolve_command"):
            return
        name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])


def reduced(words: list[str]) -> list[str]:
    """The same command at the size of a test: a run of tiny cells of seed 0."""
    words = [*words, *SMALLER.get(words[0], ())]
    if words[0] != "run" or "--dry-run" in words or any(word.endswith(".yaml") for word in words):
        return words
    names = {setting.partition("=")[0] for setting in SMALL}
    return [*(word for word in words if word.partition("=")[0] not in names), *SMALL, "--seeds", "0"]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_are_in_fences_that_say_what_they_need(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert {marker for _, marker, _ in BLOCK.findall(text)} <= {"", *NEEDS}
    assert re.findall(r"^ +bench .*", BLOCK.sub("", text), re.MULTILINE) == []
    assert [
        content for language, _, content in BLOCK.findall(text) if not language and "\nbench " in f"\n{content}"
    ] == []


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.name)
def test_every_command_has_the_options_that_are_shown(page: Path) -> None:
    found = [words for _, words in commands_of(page)]
    for words in found:
        parse(words)
    assert found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few tiny cells, and the files that the commands of the pages name."""
    folder = tmp_path_factory.mktemp("trained")
    study = re.search(r"```yaml\n(# kl.yaml\n.*?)```", (ROOT / "docs" / "studies.md").read_text("utf-8"), re.DOTALL)
    assert study
    content = yaml.safe_load(study[1]) | {"budget": 256, "seeds": "0"}
    for name in ("kl.yaml", "study.yaml"):
        (folder / name).write_text(yaml.safe_dump(content), encoding="utf-8")
    shutil.copy(ROOT / "README.md", folder)
    shutil.copytree(ROOT / "reports" / "results", folder / "reports" / "results")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call(reduced(["run", "--methods", "ect,vct"])) == 0
    for name in ("runs-a", "runs-b"):
        shutil.copytree(folder / "runs", folder / name)
    return folder


def call(words: Sequence[str]) -> int:
    """The exit status of a command, in this process."""
    return app([*words], prog_name="bench", standalone_mode=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.name)
def test_every_command_works(page: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that need nothing else are run at a small size; of those for a GPU, the cells are composed."""
    shutil.copytree(trained, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    cell = next(Path("runs").glob("digits/ect/s0-*"))
    for marker, words in commands_of(page):
        words = [str(cell) if word == "CELL" else word for word in words]
        if not marker:
            assert call(reduced(words)) == 0, words
        elif marker == "gpu" and words[0] == "run":
            assert call([*words, "--dry-run"]) == 0, words
