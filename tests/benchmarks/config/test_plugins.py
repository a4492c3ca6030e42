"""Plug-ins: what is read from their folders, which cells depend on them, and what is refused."""

from __future__ import annotations

import dataclasses
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.config import plugins
from consistency_bench.benchmarks.config.compose import choices, compose_cells, parse_methods
from consistency_bench.benchmarks.config.schema import RunConfig
from consistency_bench.benchmarks.data.registry import load
from consistency_bench.benchmarks.execution.preflight import check_cells

SKELETONS = Path(plugins.__file__).parents[1] / "cli" / "skeletons"
METHOD = {"methods/mine.py": "method.py", "method/mine.yaml": "method.yaml"}
BENCHMARK = {"data/discs.py": "data.py", "benchmark/discs.yaml": "benchmark.yaml"}
HEADER = "# @package _global_\n# A file of a test.\n"
METRIC = "def edges(images):\n    return (images[..., 1:].float() - images[..., :-1].float()).flatten(1)[:, :32]\n"

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _without_plugins() -> Iterator[None]:
    yield
    plugins.activate([])


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write files into a folder, by their paths; without any, the skeletons of a method and a benchmark."""

    def into(files: dict[str, str] | None = None, folder: str = "plugin") -> Path:
        skeletons = {**METHOD, **BENCHMARK} if files is None else {}
        texts = {path: (SKELETONS / f"{name}.txt").read_text() for path, name in skeletons.items()}
        texts = {path: text.replace("NAME", Path(path).stem) for path, text in texts.items()} | (files or {})
        for path, text in texts.items():
            (tmp_path / folder / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / path).write_text(text)
        return tmp_path / folder

    return into


def composed(method: str, *settings: str) -> RunConfig:
    (cell,) = compose_cells(parse_methods(method), [0], settings)
    return cell.config


def test_an_included_folder_adds_its_names_and_leaves_with_the_next_one(write: Write) -> None:
    folder = write()
    write({"preset/quick.yaml": f"{HEADER}train: {{images: 1280}}\n", "metrics/edges.py": METRIC})
    plugins.activate([folder])
    assert "mine" in choices("method")
    assert "discs" in choices("benchmark")
    config = composed("mine", "benchmark=discs", "preset=quick", "eval.metrics=[fd_edges_1k]")
    assert (config.method.parts["coupling"]["kind"], config.train.images) == ("mine", 1280)
    assert load("discs").shape == (1, 16, 16)
    check_cells(compose_cells(["mine"], [0], ["benchmark=discs", "eval.metrics=[fd_edges_1k]"]))
    plugins.activate([])
    assert "mine" not in choices("method")
    for method, setting in (("mine", "seed=1"), ("ect", "benchmark=discs"), ("ect", "eval.metrics=[fd_edges_1k]")):
        with pytest.raises(UsageError):
            check_cells(compose_cells(parse_methods(method), [0], [setting]))


def test_only_cells_that_use_a_plugin_have_its_sources_in_their_ids(write: Write) -> None:
    own = ("mine", "ect", "ect", "ict"), ((), ("benchmark=discs",), ("preset=quick",), ())
    before = composed("ect", "train.images=1280"), composed("ict")
    folder = write()
    write({"preset/quick.yaml": f"{HEADER}for: {{method: ect, benchmark: digits}}\ntrain: {{images: 1280}}\n"})

    def configs() -> list[RunConfig]:
        plugins.activate([folder])
        return [composed(method, *settings) for method, settings in zip(*own, strict=True)]

    first = configs()
    assert [config.plugins != () for config in first] == [True, True, False, False]
    # A preset is its values: neither the id nor the name of a shipped configuration depends on it.
    assert [yaml.safe_dump(config.to_dict()) for config in before] == [yaml.safe_dump(c.to_dict()) for c in first[2:]]
    assert first[0].plugins[0].uses == ("method/mine", "coupling/mine")
    assert RunConfig.from_dict(yaml.safe_load(yaml.safe_dump(first[0].to_dict()))) == first[0]
    assert [a.cell.id for a in configs()] == [b.cell.id for b in first]
    with (folder / "methods" / "mine.py").open("a") as file:
        file.write("# changed\n")
    changed = [now.cell.id != then.cell.id for now, then in zip(configs(), first, strict=True)]
    assert changed == [True, True, False, False]
    assert [now.cell.group != then.cell.group for now, then in zip(configs(), first, strict=True)] == changed


def test_the_place_of_a_plugin_is_no_part_of_an_id_and_its_other_files_are_none_of_it(write: Write) -> None:
    first = write()
    plugins.activate([first])
    here = composed("mine").cell.id
    write({"runs/digits/ect/config.yaml": "a: 1\n", "notes.txt": "x", "__pycache__/a.pyc": ""})
    second = first.rename(first.with_name("moved"))
    plugins.activate([second])
    assert composed("mine").cell.id == here


def test_a_metric_is_recorded_and_is_no_part_of_an_id(write: Write) -> None:
    plain = composed("ect")
    plugins.activate([write({"metrics/edges.py": METRIC})])
    config = composed("ect", "eval.metrics=[fd_edges_1k]")
    assert config.plugins[0].uses == ("metrics/edges",)
    assert config.cell.id == plain.cell.id
    plugins.activate([])
    with pytest.raises(UsageError, match=r"uses metrics/edges of the plug-in plugin, which is not included: add --inc"):
        plugins.require(config)


def test_a_cell_says_which_plugin_is_missing_or_has_changed(write: Write) -> None:
    folder = write()
    plugins.activate([folder])
    config = composed("mine")
    plugins.require(config)
    plugins.activate([])
    with pytest.raises(UsageError, match=rf"uses method/mine.* is not included: add --include {folder}$"):
        plugins.require(config)
    with (folder / "method" / "mine.yaml").open("a") as file:
        file.write("# changed\n")
    plugins.activate([folder])
    with pytest.raises(UsageError, match=r"has changed since \(sources \w{8}, now \w{8}\): restore it, or train"):
        plugins.require(config)
    (folder / "methods" / "mine.py").write_text("1 / 0\n")
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        plugins.activate([folder])


def test_a_plugin_that_is_refused_leaves_the_others_as_they_were(write: Write) -> None:
    plugins.activate([write()])
    with pytest.raises(UsageError):
        plugins.activate([write({"methods/other.py": "x = (\n"}, "broken")])
    assert "mine" in choices("method")
    assert composed("mine").plugins


def test_nothing_of_a_plugin_is_imported_because_a_file_names_it(write: Write) -> None:
    folder = write()
    plugins.activate([folder])
    config = composed("mine")
    plugins.activate([])
    trap = folder / "methods" / "mine.py"
    trap.write_text("raise SystemExit('imported')\n")
    with pytest.raises(UsageError, match="is not included"):
        check_cells([dataclasses.replace(compose_cells(["ect"], [0], [])[0], config=config)])


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "empty": ({}, r"holds none of methods/\*\.py, method/\*\.yaml"),
    "syntax": ({"methods/a.py": "x = 1\ny = (\n"}, r"methods/a\.py:2: SyntaxError: '\(' was never closed"),
    "exception": ({"methods/a.py": "x = 1\n\n1 / 0\n"}, r"methods/a\.py:3: ZeroDivisionError: division by zero"),
    "exit": ({"methods/a.py": "import sys\nsys.exit(3)\n"}, r"methods/a\.py:2: SystemExit: 3"),
    "import": ({"methods/a.py": "import nowhere_at_all\n"}, r"methods/a\.py:1: ModuleNotFoundError: No module named"),
    "name": (
        {"methods/a.py": "from consistency_bench.methods.compose import asemble\n"},
        r"methods/a\.py:1: ImportError: cannot import name 'asemble'",
    ),
    "null byte": ({"methods/a.py": "x = 1\0\n"}, r"methods/a\.py.*: SyntaxError"),
    "no function": ({"methods/a.py": "x = 1\n"}, r"methods/a\.py: the function a is missing: write def a\(parts, con"),
    "no yaml": (
        {"methods/a.py": "def a(parts, context): ...\n"},
        r"settings of the method are missing: write .*a\.yam",
    ),
    "no module": (
        {"method/a.yaml": f"{HEADER}method: {{name: a, version: 1}}\n"},
        r"the method's function is missing: .*methods/a\.py must define a",
    ),
    "class of no part": (
        {
            "methods/a.py": "from dataclasses import dataclass\n@dataclass\nclass A:\n    share: float = 1\n"
            "KINDS = {'coupling': {'a': A}}\n"
        },
        r"A cannot be a coupling: it has no has_density, learns_noise_posterior, needs_average, match, __call__,",
    ),
    "no class": ({"methods/a.py": "KINDS = {'weight': {'a': 3}}\n"}, r"3 cannot be a weight: it is no dataclass"),
    "no section": ({"methods/a.py": "KINDS = {'noise': {}}\n"}, "KINDS has 'noise', must be one of: times, coupling"),
    "odd kind": ({"methods/a.py": "KINDS = {'weight': {'a b': 3}}\n"}, "KINDS has weight 'a b', must be a name"),
    "no mapping": ({"methods/a.py": "KINDS = [1]\n"}, "KINDS must be of the form"),
    "odd name": ({"methods/a-b.py": "x = 1\n"}, r"a-b\.py: the name must be letters, digits and underscores"),
    "keyword": ({"methods/class.py": "x = 1\n"}, r"class\.py: the name must be letters"),
    "ending": ({"benchmark/a.yml": "x: 1\n"}, r"a\.yml: the name must be letters.* and end in \.yaml"),
    "suffix": ({"method/ect+xx.yaml": "x: 1\n"}, r"ect\+xx\.yaml: the name must be .*then perhaps \+vc, \+ot or \+gc"),
    "no YAML": ({"benchmark/a.yaml": f"{HEADER}a: [1\n"}, r"benchmark/a\.yaml is not YAML"),
    "no settings": ({"benchmark/a.yaml": f"{HEADER}- 1\n"}, r"benchmark/a\.yaml: it holds no settings"),
    "no header": ({"benchmark/a.yaml": "benchmark: {name: a, version: 1}\n"}, r"a\.yaml: line 1: must be # @package"),
    "other name": (
        {"benchmark/a.yaml": f"{HEADER}benchmark: {{name: b, version: 1}}\n"},
        r"a\.yaml: it must hold benchmark: \{name: a, version: 1\}",
    ),
    "shipped method": ({"methods/ect.py": "def ect(parts, context): ...\n"}, r"settings of the method are missing"),
    "shipped benchmark": (
        {"benchmark/digits.yaml": f"{HEADER}benchmark: {{name: digits, version: 1}}\n"},
        r"plugin/benchmark/digits\.yaml: the name is that of .*config/benchmark/digits\.yaml, which is shipped",
    ),
    "shipped preset": (
        {"preset/smoke.yaml": f"{HEADER}train: {{}}\n"},
        r"plugin/preset/smoke\.yaml: .*smoke\.yaml, wh",
    ),
    "shipped data": ({"data/digits.py": "def digits(o): ...\n"}, r"plugin/data/digits\.py: the name is that of .*data"),
    "shipped metric": ({"metrics/dinov2.py": "def dinov2(i): ...\n"}, r"plugin/metrics/dinov2\.py: the name is that"),
    "shipped part": (
        {"methods/a.py": "from consistency_bench.methods.parts.weights import Snr\nKINDS = {'weight': {'snr': Snr}}\n"},
        r"plugin/methods \(weight/snr\): the name is that of .*methods/registry\.py, which is shipped",
    ),
    "import from elsewhere": (
        {"methods/a.py": "from ..helpers.x import KINDS\n", "helpers/x.py": "KINDS = {}\n"},
        r"helpers/x\.py is imported but outside of methods/, data/, metrics/ and the top of",
    ),
}


@pytest.mark.parametrize(("files", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_plugin_is_refused_in_one_sentence(files: dict[str, str], said: str, write: Write) -> None:
    folder = write(files)
    folder.mkdir(exist_ok=True)
    with pytest.raises(UsageError, match=said) as caught:
        plugins.activate([folder])
    assert "\n" not in str(caught.value)
    assert plugins.active() == ()


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, said in (
        ("nowhere", "there is no such folder"),
        ("file", "is a file, must be a folder"),
        ("", "no such"),
    ):
        with pytest.raises(UsageError, match=said):
            plugins.activate([path and tmp_path / path])


def test_names_of_two_plugins_may_not_clash(write: Write) -> None:
    first, second = write(), write(folder="second")
    with pytest.raises(UsageError, match=r"second.*: the name is that of .*/plugin/.* of the plug-in plugin; choose"):
        plugins.activate([first, second])
    plugins.activate([first, first])
    assert len(plugins.active()) == 1


MISTAKES = {
    "unknown key": ("train: {imagse: 3}", r"benchmark/mine\.yaml: line \d+: unknown key 'train\.imagse'. Did you mean"),
    "bad value": ("train: {batch: 0}", r"benchmark/mine\.yaml: .*train\.batch is 0, must be at least 1"),
    "unknown defaults": ("defaults: [nothing, _self_]", r"benchmark/mine\.yaml: .*nothing"),
    "interpolation": ("train: {batch: '${nothing.here}'}", r"benchmark/mine\.yaml: .*nothing"),
}


@pytest.mark.parametrize(("text", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_wrong_setting_is_refused_with_its_file(text: str, said: str, write: Write) -> None:
    usual = "" if text.startswith("defaults") else "defaults: [digits, _self_]\n"
    content = f"{HEADER}{usual}benchmark: {{name: mine, version: 1}}\n{text}\n"
    plugins.activate([write({"benchmark/mine.yaml": content})])
    with pytest.raises(UsageError, match=said) as caught:
        composed("ect", "benchmark=mine")
    assert "\n" not in str(caught.value)
    assert composed("ect").benchmark.name == "digits"


BUILDERS = {
    "no method": ("return 3", r"mine\(parts, context\) returned int, must return a Method"),
    "exception": ("return parts.nothing", r"methods/mine\.py:\d+: AttributeError: 'Parts' object has no attribute"),
    "wrong part": (
        "return assemble('mine', parts, coupling=Independent)",
        "'mine' cannot have method.coupling Matched: it must be Independent",
    ),
}


@pytest.mark.parametrize(("body", "said"), BUILDERS.values(), ids=BUILDERS)
def test_a_builder_that_fails_is_named_before_anything_runs(body: str, said: str, write: Write) -> None:
    folder = write()
    path = folder / "methods" / "mine.py"
    path.write_text(re.sub(r"return assemble\(.*\)", body, path.read_text()))
    plugins.activate([folder])
    with pytest.raises(UsageError, match=said):
        check_cells(compose_cells(["mine"], [0], []))


def test_paths_with_odd_characters_are_included(write: Write) -> None:
    folder = write(folder="my plug'in, [é] =x")
    plugins.activate([folder])
    assert composed("mine", "benchmark=discs").benchmark.name == "discs"
    with pytest.raises(UsageError, match=r"the path holds '\$'; rename the folder"):
        plugins.activate([write(folder="a${b}")])


def test_helpers_are_imported_within_a_plugin_and_are_part_of_its_sources(write: Write) -> None:
    text = (SKELETONS / "method.py.txt").read_text().replace("NAME", "mine")
    text = text.replace("import torch\n", "import torch\nfrom .. import shared\nfrom . import _near\n", 1)
    folder = write({"methods/mine.py": text, "methods/_near.py": "A = 1\n", "shared.py": "B = 2\n"})
    (folder / "method").mkdir()
    (folder / "method" / "mine.yaml").write_text((SKELETONS / "method.yaml.txt").read_text().replace("NAME", "mine"))
    ids = []
    for helper in ("shared.py", "methods/_near.py", "shared.py"):
        plugins.activate([folder])
        ids.append(composed("mine").cell.id)
        with (folder / helper).open("a") as file:
            file.write("C = 3\n")
    assert len(set(ids)) == 3


def test_installed_packages_are_found_by_entry_points(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder="site/my_methods")
    write({"methods/other.py": "1 / 0\n"}, folder="site/broken")
    info = tmp_path / "site" / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    points = "[consistency_bench.methods]\na = my_methods\nb = broken\nc = nowhere\n"
    (info / "entry_points.txt").write_text(f"{points}[consistency_bench.benchmarks]\na = my_methods\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    notes: list[str] = []
    plugins.activate([], installed=True, note=notes.append)
    assert [plugin.name for plugin in plugins.active()] == ["my_methods"]
    assert composed("mine").plugins[0].folder == str(tmp_path / "site" / "my_methods")
    assert [note.split(" (")[0] for note in notes] == [f"the plug-in of entry point '{name}'" for name in "bc"]
    assert "ZeroDivisionError" in notes[0]
    assert not isinstance(sys.modules.get("my_methods"), types.ModuleType)
