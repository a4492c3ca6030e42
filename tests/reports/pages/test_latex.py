"""The tables for LaTeX: well-formed, marked as the leaderboard is, and whatever a name contains stays text."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from consistency_bench.reports.analysis.ablations import ablations
from consistency_bench.reports.analysis.cells import read_cells, reference_values
from consistency_bench.reports.analysis.tables import Board, leaderboard, seed_values
from consistency_bench.reports.pages.latex import ablation_tex, escape, leaderboard_tex

HOSTILE = r"\input{/etc/passwd}%$#&_^~{}[*]<>|`\\"


def board_of(out: Path) -> Board:
    cells = read_cells(out)
    return leaderboard(cells, seed_values(cells), reference_values(out, cells[0].benchmark))


def check(text: str) -> None:
    """Braces are balanced, environments closed, rows as long as their table has columns, and nothing is a comment."""
    bare = re.sub(r"\\[\\{}%&#$_]", "", text)
    assert bare.count("{") == bare.count("}")
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert [line for line in bare.splitlines() if "%" in line] == [text.splitlines()[0]]
    assert bare.count("$") % 2 == 0
    assert re.findall(r"\\begin\{(\w+)\}", text) == re.findall(r"\\end\{(\w+)\}", text)[::-1] or "table" in text
    for columns, body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        rows = [line for line in body.splitlines() if line.endswith(r" \\")]
        assert rows
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) + 1 == len(columns), row


def test_the_table_holds_values_and_marks(sweep):
    for seed in range(3):
        sweep.cell("ict", seed, level=40.0 + 3 * seed)
        sweep.cell("ect", seed, level=30.0 + 3.1 * seed)
    text = leaderboard_tex([board_of(sweep.out)])
    check(text)
    first = text.partition(r"\end{tabular}")[0]
    assert r"method & seeds & Fréchet distance (digits features, 2k samples) $\downarrow$" in first
    assert r"ect & 3 & \textbf{33.1 $\pm$ 7.7}" in first
    assert r"ict & 3 & 43.0 $\pm$ 7.5$^{\dagger}$" in first
    assert r"real vs real &  & 4.00" in first
    assert text.count(r"\begin{table}") == 2  # NFE 1 and 2
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2


def test_unfinished_and_diverged_cells_are_rows(sweep):
    sweep.default()
    text = leaderboard_tex([board_of(sweep.out)])
    check(text)
    assert "2, 1 diverged" in text
    assert "2, 1 unfinished" in text


@pytest.mark.parametrize("name", [HOSTILE, "a_b--c", "50 % # $q$", "x\n\\end{table}"])
def test_names_stay_text(sweep, name):
    for seed in range(2):
        sweep.cell("ect", seed)
        sweep.cell("ect", seed, variant=f"x={name}")
    text = leaderboard_tex([board_of(sweep.out)])
    check(text)
    assert "\\input" not in text
    assert text.count("\\end{table}") == 2
    assert escape(name) in text


def test_an_ablation_has_a_table_of_each_metric(sweep):
    key = "method.coupling.kl_weight"
    sweep.sweep("vct", key, {3: [30.0, 33.1, 36.0], 10: [20.0, 23.0, 26.1], "a_b": [20.1, math.nan]}, 10, penalty=0.5)
    board = board_of(sweep.out)
    (ablation,) = ablations(board, seed_values(board.cells))
    text = ablation_tex(ablation, "digits-vct")
    check(text)
    assert text.count(r"\begin{table}") == len(board.metrics)
    first = text.partition(r"\end{tabular}")[0]
    assert "kl\\_weight & seeds & NFE 1 & NFE 2 & KL \\\\" in first
    assert r"\label{tab:digits-vct-1}" in first
    assert re.search(r"^3 & 3 & 33\.0 \$\\pm\$ 7\.5\$\^\{\\ast\}\$ & ", first, re.M)
    assert re.search(r"^10 \(default\) & 3 & 23\.0 \$\\pm\$ 7\.6 & ", first, re.M)
    assert re.search(r"^a\\_b & 1, 1 diverged & 20\.1 & ", first, re.M)


def test_escape_by_hand():
    assert escape("a_b & 5 % of #1 {x} $y$") == r"a\_b \& 5 \% of \#1 \{x\} \$y\$"
    assert escape("\\x ~ ^ a--b [1]*") == r"\textbackslash{}x \textasciitilde{} \textasciicircum{} a-{}-b {[}1{]}{*}"
    assert escape("1–2") == r"1\textendash{}2"
    assert escape("1.0 ± 0.2 ↓") == r"1.0 $\pm$ 0.2 $\downarrow$"
