"""How pictures are written."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.reports.plots.paper import Paper
from consistency_bench.reports.plots.style import save_figures


def crowded(_: float | None = None) -> Figure:
    found = Figure(figsize=(4, 3), layout="constrained")
    left, right = found.subplots(1, 2)
    left.semilogy([1, 20, 300], label="a long name")
    left.set_title("a title that is wider than its panel")
    found.colorbar(right.imshow(np.arange(12.0).reshape(3, 4)), ax=right)
    found.legend(loc="outside lower center")
    return found


@pytest.mark.parametrize("setting", ["figure.autolayout", "figure.constrained_layout.use"])
def test_pictures_do_not_depend_on_a_users_layout(setting: str, tmp_path: Path) -> None:
    usual = save_figures({"a": crowded}, tmp_path, "usual")["a"]
    with matplotlib.rc_context({setting: True}):
        own = save_figures({"a": crowded}, tmp_path, "own")["a"]
    assert own.read_bytes() == usual.read_bytes()


def test_vector_files_have_their_width_and_the_same_bytes(tmp_path: Path) -> None:
    widths = []

    def drawn(width: float | None) -> Figure:
        widths.append(width)
        found = crowded()
        found.set_figwidth(width or 4)
        return found

    paper = Paper(("pdf", "svg"), 3.25)
    first = save_figures({"a": drawn}, tmp_path / "1", "x", paper)["a"]
    again = save_figures({"a": drawn}, tmp_path / "2", "x", paper)["a"]
    assert widths == [None, 3.25] * 2
    for kind in ("png", "pdf", "svg"):
        content = first.with_suffix(f".{kind}").read_bytes()
        assert content == again.with_suffix(f".{kind}").read_bytes()
        assert not re.search(rb"CreationDate|<dc:date|20\d\d-\d\d-\d\d", content)
    assert b'width="234pt"' in first.with_suffix(".svg").read_bytes()
    assert b"/MediaBox [ 0 0 234 216 ]" in first.with_suffix(".pdf").read_bytes()
    save_figures({"a": drawn}, tmp_path / "1", "x", Paper(("svg",)))
    assert sorted(path.suffix for path in (tmp_path / "1").iterdir()) == [".png", ".svg"]


@pytest.mark.parametrize(
    ("figures", "width", "found"),
    [
        ("pdf,svg", "3.25in", Paper(("pdf", "svg"), 3.25)),
        (None, "8.255cm", Paper(("pdf", "svg"), 3.25)),
        ("png", None, Paper()),
        ("pdf", "361.35pt", Paper(("pdf",), 5.0)),
    ],
)
def test_formats_and_widths(figures: str | None, width: str | None, found: Paper) -> None:
    paper = Paper.of(figures, width)
    assert paper is not None
    assert (paper.kinds, paper.width) == (found.kinds, found.width and pytest.approx(found.width))
    assert Paper.read(json.loads(json.dumps(dataclasses.asdict(paper)))) == paper


@pytest.mark.parametrize(("figures", "width"), [("eps", None), (None, "3.25"), (None, "wide"), (None, "1in")])
def test_impossible_formats_and_widths_are_refused(figures: str | None, width: str | None) -> None:
    with pytest.raises(UsageError):
        Paper.of(figures, width)


def test_a_figure_without_data_is_no_file(tmp_path: Path) -> None:
    assert set(save_figures({"a": crowded, "b": lambda _: None}, tmp_path, "x")) == {"a"}
    assert [path.name for path in tmp_path.iterdir()] == ["x-a.png"]
