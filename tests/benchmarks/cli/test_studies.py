"""Studies: a file with a question becomes tables that nothing else changes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ..conftest import TINY, Said

ROOT = Path(__file__).parents[3]
Call = Callable[..., Said]
SETTINGS = {key: yaml.safe_load(value) for key, _, value in (setting.partition("=") for setting in TINY)}
BENCHMARK, BUDGET = SETTINGS.pop("benchmark"), SETTINGS.pop("train.images")
SETTINGS["eval.nfe"] = [1, 2]


def write(path: Path, **changes: object) -> Path:
    """A study of tiny cells; a change to None removes a key."""
    content = {
        "name": "kl",
        "question": "Does it help?",
        "methods": ["ect", "vct"],
        "seeds": "0-1",
        "benchmark": BENCHMARK,
        "budget": BUDGET,
        "overrides": SETTINGS,
    }
    content = {key: value for key, value in (content | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def digests(folder: Path) -> dict[str, str]:
    """The content of all files below a folder but the stamp of its report."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".report.json"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run(call: Call, *arguments: str | Path) -> Said:
    return call("run", *arguments, "--launcher", "debug", "--no-mlflow", "--out", "runs")


# Mistakes

MISTAKES: dict[str, tuple[dict[str, object], str]] = {
    "key": ({"ablatons": {}}, "unknown key 'ablatons'. Did you mean: ablations? Available: name, question"),
    "no question": ({"question": None}, "question is missing"),
    "empty question": ({"question": " "}, "question is empty, must be the sentence that the study answers"),
    "name": ({"name": "../x"}, "name is '../x', must be up to 60 letters, digits, dots, dashes"),
    "method": ({"methods": ["ect", "vkt"]}, "unknown method 'vkt'. Did you mean: vct? Available: ect"),
    "no methods": ({"methods": []}, "methods is empty, must be a list of methods such as [ect, vct]"),
    "seeds": ({"seeds": "3-1"}, "seeds has the range '3-1', which ends before it starts"),
    "budget": ({"budget": "many"}, "budget is 'many', must be a whole number or null"),
    "budget twice": ({"overrides": {"train.images": 3}}, "overrides has train.images, which budget sets already"),
    "own key": ({"overrides": {"seeds": 3}}, "overrides has 'seeds', which is a key of the study: write it at the top"),
    "override": ({"overrides": {"train.lrr": 3}}, "unknown key 'train.lrr'. Did you mean: train.lr?"),
    "value": ({"overrides": {"train.lr": -3}}, "train.lr is -3.0, must be a number above 0"),
    "no list": (
        {"ablations": {"train.lr": 3}},
        "ablations: train.lr is 3, must be a list of values such as [1, 3, 10]",
    ),
    "both": ({"ablations": {"network.width": [8]}}, "ablations has 'network.width', which overrides sets already"),
    "no mapping": ({"variants": [{}, 3]}, "variants[1] is 3, must be a mapping"),
    "variant of own key": (
        {"variants": [{"preset": "smoke"}]},
        "variants[0] has 'preset', which is a key of the study: write it at the top",
    ),
    "variant and override": (
        {"variants": [{}, {"network.width": 8}]},
        "variants[1] has 'network.width', which overrides sets already: leave one of them out",
    ),
    "variant and ablation": (
        {"ablations": {"train.lr": [1, 2]}, "variants": [{"train.lr": 3}]},
        "variants[0] has 'train.lr', which ablations sets already",
    ),
    "value of a variant": (
        {"variants": [{"train.lr": 3}, {"train.lr": -3}]},
        "variants[1]: train.lr is -3.0, must be a number above 0",
    ),
    "key of a variant": ({"variants": [{"train.lrr": 3}]}, "variants[0]: unknown key 'train.lrr'. Did you mean"),
    "variant without effect": (
        {"variants": [{"eval.draws": 2}]},
        "variants[0]: key 'eval.draws' cannot be swept: it changes neither training nor sampling",
    ),
    "variants without default": (
        {"variants": [{"train.lr": 1}, {"train.lr": 2}], "baseline": "vct"},
        "baseline is 'vct', which has 2 configurations in this study and none with the default of every key",
    ),
    "baseline": ({"baseline": "sct"}, "baseline is 'sct', must be one of methods: ect, vct"),
    "no default": (
        {"ablations": {"method.coupling.kl_weight": [1, 2]}, "baseline": "vct"},
        "baseline is 'vct', which has 2 configurations in this study and none with the default of every key that",
    ),
    "metric": ({"headline": {"metric": "fid50k"}}, "headline.metric is 'fid50k', must be one of: fd_points_500"),
    "nfe": ({"headline": {"nfe": 3}}, "headline.nfe is 3, must be one of: 1, 2; overrides adds others: eval.nfe"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_sentence_with_the_file(case: str, call: Call, tmp_path: Path) -> None:
    changes, sentence = MISTAKES[case]
    said = run(call, write(tmp_path / "study.yaml", **changes).name)
    assert (said.status, said.out) == (2, "")
    assert [line for line in said.err.splitlines() if "applies to" not in line] == [said.err.splitlines()[-1]]
    assert re.sub(r"line \d+: ", "", said.err.splitlines()[-1]).startswith(f"bench: study.yaml: {sentence}")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "text", "message"),
    [
        ({"seeds": "3-1"}, "seeds: 3-1", "seeds has the range '3-1'"),
        ({"variants": [{"train.lr": 3}, {"train.lr": -3}]}, "- train.lr: -3", "variants[1]: train.lr is -3.0"),
        ({"variants": [{}, {"network.width": 8}]}, "- network.width: 8", "variants[1] has 'network.width'"),
    ],
)
def test_a_mistake_is_found_in_its_line(
    changes: dict[str, object], text: str, message: str, call: Call, tmp_path: Path
) -> None:
    write(tmp_path / "study.yaml", **changes)
    line = (tmp_path / "study.yaml").read_text().splitlines().index(text) + 1
    assert run(call, "study.yaml").err.splitlines()[-1].startswith(f"bench: study.yaml: line {line}: {message}")


@pytest.mark.parametrize("text", ["- 1\n", "a: [1\n", "", "name: 3\nquestion: x\n"])
def test_a_file_that_is_no_study_is_named(text: str, call: Call, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(text)
    said = run(call, "study.yaml")
    assert said.status == 2
    assert said.err.startswith("bench: study.yaml")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("more", [["--seeds", "0-2"], ["--methods", "ect"], ["train.lr=1"], ["other.yaml"]])
def test_settings_beside_a_study_are_refused(more: list[str], call: Call, tmp_path: Path) -> None:
    said = run(call, write(tmp_path / "study.yaml"), *more)
    assert said.status == 2
    assert "cannot stand beside" in said.err
    assert "edit the file" in said.err


def test_a_dry_run_shows_the_cells_of_ablations_and_writes_nothing(call: Call, tmp_path: Path) -> None:
    file = write(tmp_path / "study.yaml", ablations={"method.coupling.kl_weight": [1, 10]}, baseline="vct")
    said = call("run", file, "--dry-run", "--out", "runs")
    assert said.status == 0
    assert "cells: 6, 0 done, 6 to run" in said.out
    assert said.out.count("method.coupling.kl_weight=1,") == 2
    assert "method.coupling.kl_weight applies to vct; ect has no such key" in said.err
    assert not (tmp_path / "runs").exists()


def test_values_are_read_as_on_the_command_line(call: Call, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(
        "name: x\nquestion: y\nmethods: vct\nseeds: 3\nbenchmark: toy2d\n"
        "overrides: {train.lr: 1e-4, train.ema: {kind: halflife, images: 1000}}\n"
        "ablations: {method.coupling.encoder_variance: [learned, 'fixed:0.09']}\n"
    )
    said = call("run", "study.yaml", "--dry-run")
    assert said.status == 0, said.err
    assert "s3-" in said.out
    assert "train.lr=0.0001" in said.out
    assert "method.coupling.encoder_variance=fixed:0.09" in said.out


# Runs


@pytest.mark.slow
def test_studies_share_cells_and_never_mix_tables(call: Call, tmp_path: Path) -> None:
    out, folder = tmp_path / "runs", tmp_path / "runs" / "studies" / "kl"
    (tmp_path / "x").mkdir()
    said = run(call, write(tmp_path / "kl.yaml", baseline="ect", headline={"nfe": 2}))
    assert said.status == 0, said.err
    text = (folder / "leaderboard.md").read_text(encoding="utf-8")
    assert text.startswith(
        "# Study kl\n\n**Does it help?** Methods: ect, vct; seeds: 0-1. Headline: fd_points_500 at NF"
    )
    assert text.index("### NFE 2:") < text.index("### NFE 1:")
    assert "| difference to ect | verdict |" in text
    assert all((folder / link).exists() for link in re.findall(r"\]\(([^)#:]+)\)", text))
    assert "<h1>Study kl</h1>" in (folder / "report.html").read_text(encoding="utf-8")
    assert not (out / "leaderboard.md").exists()
    before = digests(folder)

    adhoc = [f"{key}={json.dumps(value)}" for key, value in SETTINGS.items()]
    adhoc = [*adhoc, f"benchmark={BENCHMARK}", "--methods", "ect,vct"]
    said = run(call, *adhoc, f"train.images={BUDGET}", "--seeds", "0")
    assert "all 2 cells are done already" in said.out
    run(call, *adhoc, "train.images=512", "--seeds", "0-1")
    assert digests(folder) == before
    root = (out / "leaderboard.md").read_text(encoding="utf-8")
    assert "## toy2d\n\n2 configurations, seeds 0: 2 cells" in root  # not seed 1, which only the study asked for
    assert "## toy2d, train.images=512\n\n2 configurations, seeds 0, 1: 4 cells" in root
    tables = {name: digest for name, digest in digests(out).items() if name in ("leaderboard.md", "report.html")}

    other = {**SETTINGS, "eval.nfe": [1, 2, 3], "eval.draws": 2}
    said = run(call, write(tmp_path / "b.yaml", name="nfe", methods=["ect", "sct"], overrides=other))
    assert said.status == 0, said.err
    assert "cells: 4, 0 done, 4 to run" in said.out
    assert "### NFE 3" in (out / "studies" / "nfe" / "leaderboard.md").read_text(encoding="utf-8")
    assert call("report", "--no-mlflow").status == 0
    assert digests(folder) == before
    assert {name: digest for name, digest in digests(out).items() if name in tables} == tables

    said = run(call, write(tmp_path / "kl.yaml", seeds="0-2", question="Does it help at all?"), "--dry-run")
    assert "question is Does it help at all?, was Does it help?" in said.err
    assert "seeds is 0-2, was 0-1" in said.err
    assert "cells: 6, 4 done, 2 to run" in said.out

    said = run(call, write(tmp_path / "kl.yaml", budget=512))
    assert said.status == 2
    assert f"budget of study 'kl' is 512, was {BUDGET} when it ran here" in said.err
    said = run(call, write(tmp_path / "c.yaml", name="guided", overrides={**SETTINGS, "sample.guidance": 2}))
    assert said.status == 2
    assert "belongs to study 'nfe'" in said.err or "without a study" in said.err or "belongs to study 'kl'" in said.err
    assert not (out / "studies" / "guided").exists()


def put_example(name: str, folder: Path) -> str:
    """Write an example of the docs to a file of its name."""
    document = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    examples = dict(re.findall(r"```yaml\n# (\S+)\n(.*?)```", document, re.DOTALL))
    (folder / name).write_text(examples[name], encoding="utf-8")
    return name


@pytest.mark.slow
def test_scratch_and_tuning_of_the_docs_are_in_one_ranking(call: Call, tmp_path: Path) -> None:
    said = call("run", put_example("tuning.yaml", tmp_path), "--no-mlflow")
    assert said.status == 0, said.err
    folder = tmp_path / "runs" / "studies" / "tuning"
    text = (folder / "leaderboard.md").read_text(encoding="utf-8")
    assert "Baseline: ect train.images=12800. Budget: 12,800 images, unless the variant states another." in text
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == ["toy2d"]
    assert "6 configurations, seeds 0, 1: 12 cells (12 finished). Each training sees 6.4 k or 12.8 k images" in text
    costs = text[text.index("### Cost") :].partition("At equal compute")[0]
    tuned = re.findall(r"^\| (\w+) v1 \|.*\| 0\.00640 \+ 0\.00640 \|", costs, re.MULTILINE)
    assert sorted(tuned) == ["ect", "vct"]
    pages = sorted(path.stem for path in (folder / "ablations").glob("*.md"))
    assert pages == ["toy2d-ect-train.init", "toy2d-vct-method.coupling.kl_weight", "toy2d-vct-train.init"]


@pytest.mark.slow
def test_the_example_of_the_docs_runs(call: Call, tmp_path: Path) -> None:
    said = call("run", put_example("kl.yaml", tmp_path))
    assert said.status == 0, said.err
    assert "leaderboard: runs/studies/kl-weight/leaderboard.md" in said.out
    assert call("status", "--study", "kl-weight").out.count("done") >= 6
    said = call("report", "--study", "kl-wight")
    assert (said.status, said.err) == (
        2,
        "bench: unknown study 'kl-wight'. Did you mean: kl-weight? Available: kl-weight\n",
    )
    _check_damage(call, tmp_path / "runs" / "studies" / "kl-weight")


def _check_damage(call: Call, folder: Path) -> None:
    """A damaged or lost list of cells is named, its cells enter no other table, and running the study restores it."""
    before = digests(folder)
    for damage in (lambda file: file.unlink(), lambda file: file.write_text(file.read_text().replace("ect", "sct"))):
        damage(folder / "cells.json")
        said = call("report", "--no-mlflow")
        assert said.status != 0
        assert "studies/kl-weight/cells.json" in said.err
        assert "bench run runs/studies/kl-weight/study.yaml --out runs" in said.err
        assert not (folder.parents[1] / "leaderboard.md").exists()
        assert call("run", "runs/studies/kl-weight/study.yaml", "--no-mlflow").status == 0
        assert digests(folder) == before
