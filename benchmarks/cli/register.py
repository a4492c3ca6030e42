"""`bench register`: a cell's final weights as a version of a model in MLflow's registry."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from ..common.errors import UsageError
from .cells import resolve
from .report import check_mlflow_uri, naming_mlflow


def register(cell: str, name: str, out: Path, *, mlflow_uri: str | None) -> int:
    """Exit status 0. Raises UsageError for a cell that is not there or not done, a bad name, a store that refuses."""
    check_mlflow_uri(mlflow_uri)
    if not re.fullmatch(r"[\w.-][\w. -]*", name):
        raise UsageError(f"the model's name is {name!r}, must be made of letters, digits, spaces and . _ -")
    (files,) = resolve([cell], out)
    from ...reports.analysis.cells import read_folder
    from ...reports.tracking.importer import export
    from ...reports.tracking.models import register as add
    from ..evaluation import export as served

    (read,) = read_folder(files.path)
    with tempfile.TemporaryDirectory() as temporary, naming_mlflow(mlflow_uri, "nothing was registered"):
        folder = Path(temporary) / "cell"
        served.pack(files, folder)
        exported = export(out, [read], mlflow_uri)
        run = exported.runs[read.id]
        made = add(exported.uri, run, read.id, folder, name, loader=served.__name__, columns=served.COLUMNS)
    print(f"{'registered' if made.new else 'registered already'}: {made.uri}, from {files.path}")
    return 0
