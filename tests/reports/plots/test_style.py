"""How pictures are written."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from consistency_bench.reports.plots.style import save_figures


def crowded() -> Figure:
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


def test_a_figure_without_data_is_no_file(tmp_path: Path) -> None:
    assert set(save_figures({"a": crowded, "b": lambda: None}, tmp_path, "x")) == {"a"}
    assert [path.name for path in tmp_path.iterdir()] == ["x-a.png"]
