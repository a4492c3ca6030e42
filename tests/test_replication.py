"""The numbers of docs/replication.md are those of the records, by a computation without code of the package.

Only what a former version of the protocol would have said needs the package's own rule.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import statistics
import zipfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy import stats

from consistency_bench.reports.analysis import comparisons
from consistency_bench.reports.analysis.formatting import difference_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "replication.md"
CELLS = ROOT / "reports" / "results" / "small-scale" / "cells.zip"
REDUCED = ROOT / "reports" / "results" / "fashion-mnist-reduced"
METRICS = {"digits": "fd_digits_2k_refheldout", "toy2d": "w2_points_500"}
HALVES = {"digits": 176000, "toy2d": 256000}
NINE = ("ict", "ect", "sct", "vct", "ict+vc", "sct+vc", "ict+ot", "ect+ot", "ect+gc")
QUOTE = re.compile(r"[+−][\d.,]+ % \([^)]*\)|\d[\d.]* ± [\d.]+ \(n=\d+\)")

Values = dict[int, float]


def measured(
    archive: zipfile.ZipFile, name: str, config: Any, metric: str, nfe: int, after: int | None = None
) -> float:
    """The value of the cell whose configuration is `name`, at its end or `after` images: a mean over sampling seeds."""
    rows = map(json.loads, archive.read(name.replace("config.yaml", "records.jsonl")).splitlines())
    wanted = (metric, nfe, after or config["train"]["images"])
    return statistics.fmean(row["value"] for row in rows if (row["metric"], row["nfe"], row["images"]) == wanted)


@cache
def values(method: str, nfe: int, tuned: bool = False, benchmark: str = "digits", after: int | None = None) -> Values:
    """The value of each training seed."""
    found: Values = {}
    half = HALVES[benchmark]
    overrides = {"train.images": half, "train.init": f"{{method: edm, images: {half}}}"} if tuned else {}
    with zipfile.ZipFile(CELLS) as archive:
        for name in archive.namelist():
            if not re.search(rf"(^|/){benchmark}/{re.escape(method)}/[^/]+/config\.yaml$", name):
                continue
            config = yaml.safe_load(archive.read(name))
            if config["cell"]["overrides"] != overrides:
                continue
            found[config["seed"]] = measured(archive, name, config, METRICS[benchmark], nfe, after)
    return found


def reduced(method: str, nfe: int) -> Values:
    """The FID of each training seed in the reduced version of Fashion-MNIST."""
    found: Values = {}
    with zipfile.ZipFile(REDUCED / "cells.zip") as archive:
        for name in archive.namelist():
            if match := re.search(rf"fashion_mnist/{method}/s(\d+)-\w+/records\.jsonl$", name):
                rows = map(json.loads, archive.read(name).splitlines())
                (found[int(match[1])],) = [
                    row["value"] for row in rows if (row["metric"], row["nfe"]) == ("fid2k_ref2k", nfe)
                ]
    return found


def quoted(first: Values, second: Values, comparisons: int) -> str:
    """The difference of two rows in per cent on their common seeds, with Bonferroni's interval."""
    logs = [math.log(first[seed] / second[seed]) for seed in sorted(first.keys() & second.keys())]
    mean, error = statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
    reach = error * float(stats.t.ppf(1 - 0.025 / comparisons, len(logs) - 1))
    shares = (100 * math.expm1(value) for value in (mean, mean - reach, mean + reach))
    best, low, high = (f"{share:.1f}".replace("-", "−") for share in shares)
    return f"{'' if best.startswith('−') else '+'}{best} % ({low} to {high})"


def text_of(page: Path) -> str:
    return " ".join(page.read_text(encoding="utf-8").split())


def test_quotes_are_on_the_pages_that_their_rows_link() -> None:
    checked = 0
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        links = re.findall(r"\]\((\.\./reports/results/[^)]*leaderboard\.md)\)", line)
        pages = [text_of(PAGE.parent / link) for link in links]
        for quote in QUOTE.findall(line) if links else ():
            assert any(quote in page for page in pages), (quote, links)
            checked += 1
    assert checked >= 21


@pytest.mark.parametrize("part", ["0-4", "5-9"])
def test_differences_of_two_sets_of_seeds_are_those_of_their_studies(part: str) -> None:
    study = text_of(CELLS.parent / "studies" / f"digits-seeds-{part}" / "leaderboard.md")
    table = text_of(PAGE).partition("## Do the verdicts repeat?")[2].partition("## Tuning")[0]
    column = 0 if part == "0-4" else 1
    quotes = [QUOTE.findall(row)[column] for row in table.split("| `")[1:]]
    assert len(quotes) == 5
    assert [quote for quote in quotes if quote not in study] == []


@pytest.mark.parametrize("benchmark", METRICS)
@pytest.mark.parametrize("method", ["ict", "ect", "sct", "vct"])
def test_differences_of_tuning_and_of_the_diffusion_model(method: str, benchmark: str) -> None:
    scratch = values(method, 1, benchmark=benchmark)
    tuned = values(method, 1, tuned=True, benchmark=benchmark)
    section = PAGE.read_text(encoding="utf-8").partition("## Tuning")[2].partition("## Two steps")[0].replace("*", "")
    digits, plane = (line for line in section.splitlines() if line.startswith(f"| `{method}` |"))
    assert quoted(tuned, scratch, 4) in (digits if benchmark == "digits" else plane)
    diffusion = quoted(values("edm", 35, benchmark=benchmark), scratch, 4)
    assert diffusion in plane if benchmark == "toy2d" else f"`{method}` {diffusion}" in " ".join(section.split())


@pytest.mark.parametrize("method", NINE)
def test_differences_of_two_steps(method: str) -> None:
    section = text_of(PAGE).partition("## Two steps")[2].partition("## Settings")[0]
    assert f"`{method}` {quoted(values(method, 2), values(method, 1), 9)}" in section


@pytest.mark.parametrize("method", ["ect", "sct", "vct"])
def test_numbers_of_the_reduced_fashion_mnist(method: str) -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Fashion-MNIST, reduced")[2].partition("## What was run")[0]
    study = text_of(REDUCED / "studies" / "fashion-reduced" / "leaderboard.md")
    (row,) = (line for line in section.splitlines() if line.startswith(f"| `{method}` |"))
    assert len(quotes := QUOTE.findall(row)) == (2 if method == "ect" else 3)
    assert [quote for quote in quotes if quote not in study] == []
    one, two = reduced(method, 1), reduced(method, 2)
    text = " ".join(section.split())
    assert f"`{method}` {quoted(two, one, 3)}" in text
    assert f"`{method}` {quoted(reduced('edm', 35), one, 3)}" in text
    assert all(0.87 < two[seed] / one[seed] < 0.99 for seed in (0, 1, 2))  # 1 to 12 % better


def settings_of_ect() -> dict[str, Values]:
    """The values of each setting of the study of ECT, by what it changes; the default is ""."""
    found: dict[str, Values] = {}
    with zipfile.ZipFile(CELLS) as archive:
        for name in archive.namelist():
            if re.search(r"(^|/)digits/ect/s[0-4]-[^/]+/config\.yaml$", name):
                config = yaml.safe_load(archive.read(name))
                if all(key.startswith("method.") for key in config["cell"]["overrides"]):
                    value = measured(archive, name, config, METRICS["digits"], 1)
                    found.setdefault(config["cell"]["variant"], {})[config["seed"]] = value
    return found


def test_what_the_study_of_ect_says_without_the_rule_for_erratic_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of_ect()
    assert sorted(map(len, settings.values())) == [5] * 11
    low, *_, next_worst, worst = sorted(settings["method.distance.kind=huber_elementwise_sum"].values())
    text = text_of(PAGE)
    assert f"It ended at {worst:.0f}, the other four at {low:.0f} to {next_worst:.0f}." in text
    monkeypatch.setattr(comparisons, "MOST_ERRATIC", 0.0)
    before = comparisons.family(settings, -1, log=True, baseline="")
    found = before.between("method.times.stages=1", "")
    assert f"a single stage would have {difference_text(found.shown()[1], percent=True)}" in text
    assert not before.verdicts.any()


def test_settings_of_ect_are_those_of_their_study() -> None:
    study = text_of(CELLS.parent / "studies" / "digits-ect" / "leaderboard.md")
    quotes = QUOTE.findall(text_of(PAGE).partition("## Settings of ECT")[2].partition("## How much coupling")[0])
    assert len(quotes) == 12
    stages = text_of(CELLS.parent / "studies" / "digits-ect" / "ablations" / "digits-ect-method.times.stages.md")
    # The one of the former rule is that of the test above.
    assert [quote for quote in quotes if quote not in study and quote not in stages] == ["+42.1 % (−30.3 to 190)"]


def test_numbers_of_the_plane() -> None:
    text = text_of(PAGE).partition("## In the plane")[2].partition("## Fashion-MNIST")[0]
    plane = partial(values, benchmark="toy2d")
    against_ict = [f"`{name}` {quoted(plane(name, 1), plane('ict', 1), 3)}" for name in ("ict+vc", "sct")]
    against_ict.append(f"`ict+ot` vs. `ict` {quoted(plane('ict+ot', 1), plane('ict', 1), 3)}")
    steps = {name: quoted(plane(name, 2), plane(name, 1), 9) for name in NINE}
    assert [name for name, found in steps.items() if "(−" not in found] == ["vct", "sct+vc"]
    assert all(0 <= float(found[1:].split()[0]) <= 23.5 for found in steps.values())
    own = [*against_ict, *(f"`{name}` {steps[name]}" for name in ("vct", "sct+vc"))]
    assert [quote for quote in own if quote not in text] == []
    middle = [statistics.fmean(plane("ect", nfe, after=256_000).values()) for nfe in (1, 2)]
    assert "a mean of {:.3f} at one call and {:.3f} at two".format(*middle) in text
    transport = {n: statistics.fmean(plane("ect+ot", 2, after=n).values()) for n in range(64_000, 512_001, 64_000)}
    assert min(transport, key=transport.__getitem__) == 192_000
    ends = f"lowest mean, {transport[192_000]:.3f}, after 192,000 images, and {transport[512_000]:.3f} at the end"
    assert ends in text_of(PAGE)
    study = text_of(CELLS.parent / "studies" / "toy2d-on-ect" / "leaderboard.md")
    others = [quote for quote in QUOTE.findall(text) if not any(quote in mine for mine in own)]
    assert len(others) == 19
    assert [quote for quote in others if quote not in study] == []


def test_ratios_of_variances_are_those_of_the_diagnostics() -> None:
    section = text_of(PAGE).partition("## Variance")[2].partition("## What was run")[0]
    quotes = re.findall(r"\d[\d.]* \([\d.]+ to [\d.]+\)", section)
    assert len(quotes) == 14
    page = text_of(CELLS.parent / "studies" / "digits-on-ect" / "diagnostics" / "digits.md")
    assert [quote for quote in quotes if quote not in page] == []


def test_the_spread_of_training_seeds() -> None:
    shares = []
    for method, nfe in itertools.product(("ict", "ect", "sct", "vct"), (1,)):
        seeds = list(values(method, nfe).values())
        shares.append(statistics.stdev(seeds) / statistics.fmean(seeds))
    assert 0.03 < min(shares) < max(shares) < 0.1
