"""The example notebooks run from top to bottom, and are stored without outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from consistency_bench.benchmarks.common.files import write_text, yaml_text
from consistency_bench.benchmarks.config.compose import compose_cells
from consistency_bench.benchmarks.execution.cell import run_cell

NOTEBOOK = Path(__file__).parents[1] / "examples" / "records_to_figure.ipynb"
SMALL = ("train.images=1280", "network.width=16", "network.blocks=1", "run.snapshots=2", "eval.nfe=[1]")


def read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_stored_without_outputs() -> None:
    code = [cell for cell in read().cells if cell.cell_type == "code"]
    assert [cell.source for cell in code if cell.outputs or cell.execution_count] == []


@pytest.mark.slow
def test_it_makes_tables_figures_and_samples(tmp_path: Path) -> None:
    for cell in compose_cells(["ect", "vct"], [0, 1], [*SMALL, "eval.metrics=[fd_digits_500]"]):
        write_text(cell.path(tmp_path / "runs") / "config.yaml", yaml_text(cell.config.to_dict()))
        assert run_cell(cell.path(tmp_path / "runs")) == "done"
    done = NotebookClient(read(), timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [set(output.get("data", ())) for cell in done.cells for output in cell.get("outputs", ())]
    assert len([kinds for kinds in shown if "text/html" in kinds]) == 2
    assert len([kinds for kinds in shown if "image/png" in kinds]) == 3
    assert (tmp_path / "bars.pdf").is_file()
