"""`bench run` and `bench sweep`: compose the cells, run or submit the unfinished ones, and report."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..common.errors import UsageError
from ..common.files import check_writable
from ..runs.damage import needs_run
from ..runs.folder import STUDIES, Run
from ..runs.starts import find_finished
from . import options
from .board import variants
from .cells import naming_plugins
from .display import exit_status, local_view, remarks, watch_local
from .live import live_import
from .report import Tracking, show_report

if TYPE_CHECKING:
    from ..config.compose import Cell
    from ..config.study import Study

app = typer.Typer()

STUDY_FILE, SETTING = re.compile(r".+\.ya?ml", re.DOTALL), re.compile(r"[A-Za-z][\w.]*=", re.ASCII)


@dataclass(frozen=True)
class Launch:
    """Where the cells run. Raises UsageError for options that do not go together, and for unknown clusters.

    launcher: local (workers on this machine), slurm, or debug (this process). jobs: workers at once, for local.
    threads: of each process, for local and debug. For slurm: name or file of the cluster, pack: cells per job, share:
    cells of a job that share a device.
    """

    launcher: options.Launcher = "local"
    jobs: int | None = None
    cluster: str | None = None
    pack: int = 1
    share: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.launcher != "slurm":
            for option, given in (("cluster", self.cluster), ("pack", self.pack != 1), ("share", self.share != 1)):
                if given:
                    raise UsageError(f"--{option} needs --launcher slurm, the default of `bench sweep`")
            return
        if self.jobs is not None:
            raise UsageError("--jobs is for this machine: the file of a cluster says how many jobs run at once")
        if self.threads is not None:
            raise UsageError("--threads is for this machine: a job has the cores of cpus_per_gpu in its cluster file")
        if self.share > self.pack:
            raise UsageError(f"--share is {self.share}, must be at most --pack ({self.pack}), the cells per job")
        from ...slurm import clusters

        if self.cluster is None:
            choices = ", ".join(clusters.choices())
            raise UsageError(f"--cluster is missing: name one ({choices}) or the file that describes yours")
        clusters.load(self.cluster)


@dataclass(frozen=True)
class Grid:
    """The cells of a command, those that are unfinished, and the folder of all runs. study: read from file, if any."""

    cells: tuple[Cell, ...]
    pending: tuple[Cell, ...]
    out: Path
    study: Study | None = None
    file: Path | None = None

    @property
    def folder(self) -> Path:
        """Where its report goes."""
        return self.out / STUDIES / self.study.name if self.study else self.out

    @property
    def counts(self) -> str:
        """`cells: 12, 4 done`"""
        return f"cells: {len(self.cells)}, {len(self.cells) - len(self.pending)} done"


@app.command()
def run(
    context: typer.Context,
    settings: options.SettingsOrStudy = None,
    methods: options.Methods = "ict,ect,sct,vct",
    seeds: options.Seeds = "0-5",
    include: options.Include = None,
    out: options.Out = Path("runs"),
    launcher: Annotated[
        options.Launcher, typer.Option("--launcher", help="Worker processes here, SLURM jobs, or this process.")
    ] = "local",
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Cells at once. Default: one per GPU, or one per core.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            min=1,
            max=999,
            help="Threads per process. Default: OMP_NUM_THREADS, or 1; with GPUs, a share of the cores.",
        ),
    ] = None,
    cluster: options.ClusterName = None,
    pack: options.Pack = 1,
    share: options.Share = 1,
    dry_run: options.DryRun = False,
    mlflow: options.Mlflow = True,
    mlflow_uri: options.MlflowUri = None,
    mlflow_live: Annotated[
        bool, typer.Option("--mlflow-live", help="Import into MLflow also while cells train. Local workers only.")
    ] = False,
) -> int:
    """Train and evaluate methods × seeds or a study, then report. Rerunning the command resumes.

    Exit status: 0 all cells are done (or submitted), 1 one failed or diverged, 130 interrupted.
    """
    launch = Launch(launcher, jobs, cluster, pack, share, threads)
    tracking = Tracking(mlflow, mlflow_uri, mlflow_live)
    if mlflow_live and (launcher != "local" or not mlflow):
        raise UsageError("--mlflow-live needs --launcher local and --mlflow: `bench wait` imports cells of a cluster")
    return _start(_chosen(context, methods, seeds, settings or [], out), launch, tracking, dry_run)


@app.command()
def sweep(
    context: typer.Context,
    settings: options.SettingsOrStudy = None,
    methods: options.Methods = "ict,ect,sct,vct",
    seeds: options.Seeds = "0-5",
    include: options.Include = None,
    out: options.Out = Path("runs"),
    cluster: options.ClusterName = None,
    launcher: Annotated[
        options.Launcher, typer.Option("--launcher", help="SLURM jobs, worker processes here, or this process.")
    ] = "slurm",
    pack: options.Pack = 1,
    share: options.Share = 1,
    dry_run: options.DryRun = False,
) -> int:
    """Submit methods × seeds or a study to a SLURM cluster. Finished cells are skipped."""
    launch = Launch(launcher, None, cluster, pack, share)
    return _start(_chosen(context, methods, seeds, settings or [], out), launch, Tracking(wanted=False), dry_run)


def _chosen(context: typer.Context, methods: str, seeds: str, settings: list[str], out: Path) -> Grid:
    """The grid of a study file, or of methods, seeds and settings. Raises UsageError for bad input."""
    files = [text for text in settings if STUDY_FILE.fullmatch(text) and not SETTING.match(text)]
    if not files:
        return _grid(methods, seeds, settings, out)
    given = [f"--{name}" for name in ("methods", "seeds") if _is_typed(context, name)]
    given += [text for text in settings if text != files[0]]
    if given:
        raise UsageError(
            f"{', '.join(given)} cannot stand beside {files[0]}, which says what is run: edit the file, or copy it and "
            "give the copy another name"
        )
    return _study_grid(Path(files[0]), out)


def _is_typed(context: typer.Context, name: str) -> bool:
    """Whether an option was given rather than left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _grid(methods: str, seeds: str, settings: list[str], out: Path) -> Grid:
    """Raises UsageError for bad input, and for a folder that cannot be written."""
    from ..config.compose import compose_cells, parse_methods, parse_seeds

    note, find = partial(print, file=sys.stderr), partial(find_finished, out=out)
    with naming_plugins([*methods.split(","), *(text.partition("=")[2] for text in settings)], out):
        cells = compose_cells(parse_methods(methods), parse_seeds(seeds), settings, note, find)
    return _checked(Grid(tuple(cells), (), out))


def _study_grid(file: Path, out: Path) -> Grid:
    """Raises UsageError for a bad file, and for a study of the same name in `out` that this one cannot continue."""
    from ..config.study import compose_study, read_study
    from ..runs.studies import check_changes

    study, note = read_study(file), partial(print, file=sys.stderr)
    with naming_plugins([*study.methods, str(study.benchmark)], out):
        cells = compose_study(study, file, note, partial(find_finished, out=out))
    for change in check_changes(out, study):
        note(f"study '{study.name}' has changed since it last ran in {out}: {change}")
    return _checked(Grid(tuple(cells), (), out, study, file))


def _checked(grid: Grid) -> Grid:
    """The grid with what is pending of it. Raises UsageError for data that are not there, and for `out`."""
    from ..data.registry import check_options

    for cell in grid.cells:
        check_options(cell.config.data)
    check_writable(grid.out)
    pending = tuple(cell for cell in grid.cells if needs_run(Run(cell.path(grid.out)), cell.config))
    return replace(grid, pending=pending)


def _register(grid: Grid) -> None:
    """Enter the cells in the list of their study, or of the cells that were run without one."""
    from ..runs.studies import register, register_ad_hoc

    if grid.study is None or grid.file is None:
        register_ad_hoc(grid.out, grid.cells)
    else:
        register(grid.out, grid.study, grid.file, grid.cells)


def _start(grid: Grid, launch: Launch, tracking: Tracking, dry_run: bool) -> int:
    from .submission import show_arrays, submit

    is_slurm = launch.launcher == "slurm"
    if grid.pending:
        from ..execution.preflight import check_cells

        check_cells(grid.pending, grid.out, here=not is_slurm)
    if dry_run:
        from .costs import show_grid

        show_grid(grid, here=not is_slurm)
        if is_slurm and grid.pending:
            show_arrays(grid, launch)
        return 0
    _register(grid)
    if is_slurm and grid.pending:
        return submit(grid, launch)
    if not grid.pending:
        many = len(grid.cells) > 1
        print(f"all {len(grid.cells)} cells are done already" if many else "the cell is done already")
    elif _run(grid, launch, tracking):
        raise KeyboardInterrupt
    damaged = show_report(grid.out, tracking, grid.folder, [cell.id for cell in grid.cells])
    view = local_view([Run(cell.path(grid.out)) for cell in grid.cells], grid.out)
    for line in remarks(view, grid.out):
        print(line, file=sys.stderr)
    return exit_status(view) or damaged


def _run(grid: Grid, launch: Launch, tracking: Tracking) -> bool:
    """Run the unfinished cells on this machine. Returns whether that was interrupted."""
    from ..execution.launch import default_slots, devices, prepare, run_in_process, run_local

    out, begin = grid.out, f"{grid.counts}, {len(grid.pending)} to run"
    device = grid.cells[0].config.run.device
    if launch.launcher == "debug":
        slots = default_slots(len(grid.cells), 1, threads=launch.threads, device=device)
        print(f"{begin} in this process; output in {out}", flush=True)
        return run_in_process(prepare(grid.pending, out), slots.threads)
    processes = devices(grid.cells[0].config)  # the same for all: it is not swept
    slots = default_slots(len(grid.cells), launch.jobs, processes, launch.threads, device)
    together = f", processes per cell: {slots.processes}" if slots.processes > 1 else ""
    where = f"{slots.jobs} at once{together}, threads per {'process' if together else 'cell'}: {slots.threads}"
    print(f"{begin} ({where}); output in {out}", flush=True)
    runs = prepare(grid.pending, out)
    each = variants([cell.config.cell for cell in grid.cells])
    shown = {Run(cell.path(out)): own for cell, own in zip(grid.cells, each, strict=True)}
    if tracking.live:
        print(tracking.hint(out), flush=True)
    live = live_import([run.path for run in shown], out, tracking.uri, grid.study) if tracking.live else nullcontext()
    with watch_local(shown, out, slots.jobs) as tick, live:
        return run_local(runs, slots, tick)
