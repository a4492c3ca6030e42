"""`bench register`: the final weights of a cell as a version of a model in MLflow's registry."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from ..common.errors import UsageError
from . import options
from .cells import resolve
from .report import Tracking, naming_mlflow

app = typer.Typer()


@app.command()
def register(
    cell: options.Cell,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the model in the registry.")],
    out: options.Out = Path("runs"),
    mlflow_uri: options.MlflowUri = None,
) -> int:
    """Register the final weights of a cell as a model in MLflow."""
    Tracking(uri=mlflow_uri)
    if not re.fullmatch(r"[\w.-][\w. -]*", name):
        raise UsageError(f"the model's name is {name!r}, must be made of letters, digits, spaces and . _ -")
    (files,) = resolve([cell], out)
    from ...reports.analysis.cells import read_cells
    from ...reports.tracking.importer import export
    from ...reports.tracking.models import register as add
    from ...reports.tracking.sweeps import StudyCells
    from ..evaluation import export as served
    from ..runs.studies import studies_of

    (read,) = read_cells(files.path)
    with tempfile.TemporaryDirectory() as temporary, naming_mlflow(mlflow_uri, "nothing was registered"):
        folder = Path(temporary) / "cell"
        served.pack(files, folder)
        study = next(iter(studies_of(files, out)), None)
        cells, studies = ([read], []) if study is None else ([], [StudyCells(study, [read])])
        exported = export(out, cells, mlflow_uri, studies=studies, part=True)
        run = exported.runs[read.id]
        made = add(exported.uri, run, read.id, folder, name, loader=served.__name__, columns=served.COLUMNS)
    print(f"{'registered' if made.new else 'registered already'}: {made.uri}, from {files.path}")
    return 0
