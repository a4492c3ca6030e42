"""Files and names that mean harm: nothing in them runs, nothing leaves its place, and one sentence says what is wrong.

What a published checkpoint's pickle may name is tested one by one in tests/methods/test_published_weights.py.
"""

from __future__ import annotations

import ast
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import consistency_bench.benchmarks.execution.cell
from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.common.files import read_json, read_jsonl, write_json, write_jsonl, write_text
from consistency_bench.benchmarks.common.seal import seal
from consistency_bench.benchmarks.config.compose import compose_cells, parse_methods
from consistency_bench.benchmarks.data.image_folder import ImageFolder
from consistency_bench.benchmarks.runs.folder import Run
from consistency_bench.benchmarks.training import pretrained as weights
from consistency_bench.benchmarks.training.checkpoint import LAST, load_checkpoint, load_snapshot, snapshot_path
from consistency_bench.methods.parts.options import OptionError
from consistency_bench.reports.analysis.memorisation import read_nearest
from consistency_bench.reports.analysis.posteriors import read_posterior
from consistency_bench.reports.analysis.samples import read_samples
from consistency_bench.reports.build import build_report

from ..benchmarks.conftest import put, tiny_cell
from .hostile.make import FILES, Bomb, make

ROOT = Path(consistency_bench.benchmarks.execution.cell.__file__).resolve().parents[2]
PUBLISHED = "edm-cifar10-32x32-uncond-vp"


def as_checkpoint(path: Path) -> object:
    """With the right checksum, too: a checksum says nothing of who wrote a file."""
    target = path.parent / "cell" / "checkpoints" / LAST
    target.parent.mkdir(parents=True)
    shutil.copy(path, target)
    if path.read_bytes().startswith(b"PK"):
        seal(target)
    return load_checkpoint(path.parent / "cell", torch.device("cpu"))


def as_snapshot(path: Path) -> object:
    target = snapshot_path(path.parent / "cell", 1)
    target.parent.mkdir(parents=True)
    shutil.copy(path, target)
    return load_snapshot(path.parent / "cell", 1, nn.Linear(1, 1))


def as_published(path: Path) -> object:
    return weights.prepare(PUBLISHED, path, path.parent)


def as_prepared(path: Path) -> object:
    target = path.with_name("prepared.safetensors")
    shutil.copy(path, target)
    return weights.load_prepared(str(target), nn.Linear(1, 1))


def as_config(path: Path) -> object:
    (path.parent / "cell").mkdir()
    shutil.copy(path, path.parent / "cell" / "config.yaml")
    return Run(path.parent / "cell").config


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded images do not go to the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "consistency-bench" / "decoded").mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


def as_images(path: Path) -> object:
    return ImageFolder("ffhq64", path).load()


def as_samples(path: Path) -> object:
    return read_samples(path)


def as_posterior(path: Path) -> object:
    return read_posterior(path)


def as_nearest(path: Path) -> object:
    return read_nearest(path)


BY_ENDING: dict[str, tuple[Callable[[Path], object], ...]] = {
    ".pt": (as_checkpoint, as_snapshot, as_published, as_prepared),
    ".pkl": (as_checkpoint, as_snapshot, as_published, as_prepared),
    ".safetensors": (as_checkpoint, as_snapshot, as_published, as_prepared),
    ".yaml": (as_config,),
    ".json": (read_json,),
    ".jsonl": (read_jsonl,),
    ".npz": (as_samples, as_posterior, as_nearest),
    ".zip": (as_images,),
}
CASES = [(name, reader) for name in FILES for reader in BY_ENDING[Path(name).suffix]]


@pytest.mark.parametrize(("name", "reader"), CASES, ids=[f"{name}-{reader.__name__}" for name, reader in CASES])
def test_a_hostile_file_is_refused_with_a_sentence(
    name: str, reader: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / name
    path.write_bytes(FILES[name](canary))
    monkeypatch.chdir(tmp_path)
    before = {p for p in tmp_path.parent.rglob("*") if "cell" not in p.parts and p.name != "prepared.safetensors"}
    with pytest.raises((UsageError, OptionError)) as caught:
        reader(path)
    assert len(str(caught.value)) < 600
    assert path.stem in str(caught.value) or "cell" in str(caught.value) or "prepared" in str(caught.value)
    assert not canary.exists()
    after = {p for p in tmp_path.parent.rglob("*") if "cell" not in p.parts and p.name != "prepared.safetensors"}
    assert after == before


def test_those_who_run_what_is_in_them_make_the_canary(tmp_path: Path) -> None:
    """That the canary sings: else the test above could not fail."""
    canary = tmp_path / "canary"
    make(tmp_path / "files", canary)
    assert {path.name for path in (tmp_path / "files").iterdir()} == set(FILES)
    pickle.loads((tmp_path / "files" / "pickle.pkl").read_bytes())
    assert canary.exists()
    canary.unlink()
    torch.load(tmp_path / "files" / "checkpoint-zip.pt", weights_only=False)
    assert canary.exists()
    canary.unlink()
    yaml.unsafe_load((tmp_path / "files" / "object.yaml").read_text())
    assert canary.exists()
    assert Bomb(canary).canary == canary


# Names


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "ect/../../x", "..", "ect\0", "<script>", "=cmd|' /C calc'!A0"]
)
def test_a_name_that_is_a_path_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="unknown method"):
        parse_methods(name)
    for setting in (f"benchmark='{name}'", f"preset='{name}'"):
        with pytest.raises(UsageError):
            compose_cells(["ect"], [0], [setting.replace("'!A0'", "!A0'")])


@pytest.mark.parametrize(
    "setting",
    [
        "method.coupling._target_=os.system",
        "method.coupling={_target_: os.system, command: true}",
        "network._target_=os.system",
        "network={_target_: os.system}",
        "train.ema={_target_: os.system, kind: halflife, images: 1}",
        "sample._target_=os.system",
        "+train._target_=os.system",
        "hydra.run.dir=/tmp/x",
        "data._target_=os.system",
    ],
)
def test_nothing_that_hydra_would_call_is_taken(setting: str, tmp_path: Path) -> None:
    from consistency_bench.benchmarks.execution.preflight import check_cells

    with pytest.raises((UsageError, OptionError)) as caught:
        check_cells(compose_cells(["ect"], [0], ["benchmark=toy2d", setting]), here=True)
    assert any(word in str(caught.value) for word in ("_target_", "unknown key 'hydra", "unknown key '", "key=value"))


INJECTION = "<img src=x onerror=alert(1)> | [x](javascript:alert(1)) `a` **b** =HYPERLINK(1) \u202e\x1b[2J"


def test_what_a_folder_of_results_says_is_text_in_the_report(tmp_path: Path) -> None:
    """Method, benchmark, variant, error and metric come from files that somebody else may have written."""
    cell = tiny_cell("ect")
    folder = put(cell, tmp_path)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["cell"] |= {"method": INJECTION, "variant": INJECTION, "benchmark": f"../../{INJECTION}"}
    write_text(folder / "config.yaml", yaml.safe_dump(config))
    write_json(folder / "status.json", {"state": "failed", "error": INJECTION, "images": 0})
    write_jsonl(folder / "records.jsonl", [])
    build_report(tmp_path, mlflow=False)
    for page in [*tmp_path.rglob("*.md")]:
        text = page.read_text(encoding="utf-8")
        assert "<img" not in text
        assert not re.search(r"(?<!\\)\]\(javascript:", text)
        assert "\x1b" not in text
        assert "\u202e" not in text
    outside = [path for path in tmp_path.parent.iterdir() if path.suffix in (".md", ".svg", ".png")]
    assert outside == []


# What the code never does

NEVER = {
    "eval",
    "exec",
    "os.system",
    "pickle.load",
    "pickle.loads",
    "yaml.unsafe_load",
    "yaml.full_load",
    "hydra.utils",
}
NEVER |= {"instantiate", "extractall", "marshal.loads", "shelve.open", "joblib.load", "dill.load", "os.popen"}


def _calls(path: Path) -> list[tuple[str, set[str], ast.Call]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [(ast.unparse(node.func), {ast.unparse(k) for k in node.keywords}, node) for node in calls]


def dangerous(name: str, keywords: set[str]) -> bool:
    """Whether a call runs, or may run, what a file says."""
    if name in NEVER or name.rpartition(".")[2] in ("extractall", "instantiate"):
        return True
    if name == "torch.load" and "weights_only=True" not in keywords:
        return True
    if name in ("np.load", "numpy.load") and "allow_pickle=True" in keywords:
        return True
    return "shell=True" in keywords or (name == "yaml.load" and not any("SafeLoader" in word for word in keywords))


def test_the_code_runs_nothing_that_a_file_says() -> None:
    sources = [path for part in ("methods", "benchmarks", "slurm", "reports") for path in (ROOT / part).rglob("*.py")]
    assert len(sources) > 100
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {name}"
        for path in sources
        for name, keywords, node in _calls(path)
        if dangerous(name, keywords)
    ]
    assert found == []
