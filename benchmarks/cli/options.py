"""Arguments and options that several subcommands share."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer


def folder(value: str | Path) -> Path:
    """An empty text is refused: it would be the working directory."""
    if not str(value):
        raise typer.BadParameter("it is empty, must be a folder such as runs")
    return Path(value)


def _include(folders: list[str] | None) -> list[str] | None:
    """Include the plug-ins that are named here, in the environment and by entry points, and no others."""
    from ..config.plugins import activate, named_in_environment

    activate([*(folders or []), *named_in_environment()], installed=True, note=partial(print, file=sys.stderr))
    return folders


Include = Annotated[
    list[str] | None,
    typer.Option(
        "--include",
        metavar="PATH",
        callback=_include,
        show_default=False,
        help="Folder of a plug-in, whose code is imported (docs/plugins.md). May be repeated.",
    ),
]

Out = Annotated[Path, typer.Option("--out", parser=folder, metavar="PATH", help="Folder that holds all runs.")]
Methods = Annotated[str, typer.Option("--methods", help="Comma-separated names; + composes, as in ict+ot.")]
Seeds = Annotated[str, typer.Option("--seeds", help="Seeds and ranges, such as 0-2 or 0,3,7.")]
Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Settings such as benchmark=toy2d train.lr=1e-3. Commas sweep.", show_default=False
    ),
]
SettingsOrStudy = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE | STUDY.yaml",
        help="Settings such as benchmark=toy2d train.lr=1e-3 (commas sweep), or one study file.",
        show_default=False,
    ),
]
Cell = Annotated[str, typer.Argument(metavar="CELL", help="Folder or id of a cell, or the beginning of an id.")]
NamedCells = Annotated[
    list[str] | None,
    typer.Argument(metavar="CELL", help="Folders or ids of cells, or beginnings of ids.", show_default=False),
]
Cells = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CELL", help="Folders or ids of cells, or beginnings of ids. Default: all.", show_default=False
    ),
]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of cells, or folders that contain some.")]

StudyName = Annotated[str | None, typer.Option("--study", metavar="NAME", help="Only this study.")]

Launcher = Literal["local", "slurm", "debug"]
ClusterName = Annotated[str | None, typer.Option("--cluster", help="Name or file of a cluster. SLURM only.")]
Pack = Annotated[int, typer.Option("--pack", min=1, help="Cells per job. SLURM only.")]
Share = Annotated[int, typer.Option("--share", min=1, help="Cells of a job that share a device. SLURM only.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show cells, job scripts and costs, and run nothing.")]

Mlflow = Annotated[bool, typer.Option("--mlflow/--no-mlflow", help="Import the results into MLflow.")]
MlflowUri = Annotated[str | None, typer.Option("--mlflow-uri", help="MLflow store. Default: an SQLite file in OUT.")]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"], typer.Option("--device", help="Where networks are evaluated.")
]
Snapshots = Annotated[Literal["last", "all"], typer.Option("--snapshots", help="Snapshots of each cell to evaluate.")]
