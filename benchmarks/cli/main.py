"""The `bench` command. Each subcommand is a module of this package, imported when it is called."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..common.errors import UsageError
from ..common.system import skip_final_gc
from ..common.text import plain
from .status import INTERRUPTED

app = typer.Typer(
    name="bench",
    help="Train, sample and score consistency models (iCT, ECT, SCT, VCT) on equal terms, and report what came out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

prepare = typer.Typer(help="Bring once what training can start from and what metrics need.", no_args_is_help=True)
app.add_typer(prepare, name="prepare")

speed = typer.Typer(help="How fast things are on this machine.", no_args_is_help=True)
app.add_typer(speed, name="speed")

cluster = typer.Typer(help="A real SLURM on this one machine, for trying things out.", no_args_is_help=True)
app.add_typer(cluster, name="cluster")

Out = Annotated[Path, typer.Option("--out", help="Folder of all runs.")]
Methods = Annotated[str, typer.Option("--methods", help="Comma-separated names; + composes: ict,ect,sct,vct,ict+ot.")]
Seeds = Annotated[str, typer.Option("--seeds", help="Seeds and ranges: 0-2 or 0,3,7.")]
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="benchmark=toy2d, preset=smoke, train.lr=1e-3; commas sweep."),
]
Cells = Annotated[list[str] | None, typer.Argument(metavar="[CELL…]", help="Folders or ids, or their beginnings.")]


Jobs = Annotated[int | None, typer.Option(min=1, help="Cells at once. Default: one a GPU, or a core.")]
Launcher = Annotated[str, typer.Option("--launcher", help="local, slurm, or debug: in this process.")]
ClusterName = Annotated[str | None, typer.Option("--cluster", help="Name or file of a cluster, for slurm.")]
Pack = Annotated[int, typer.Option("--pack", min=1, help="Cells of one job, for slurm.")]
Share = Annotated[int, typer.Option("--share", min=1, help="Of these, how many at once on a device.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show cells, job scripts and costs; run nothing.")]
MlflowUri = Annotated[str | None, typer.Option(help="MLflow server. Default: a file in OUT.")]
Mlflow = Annotated[bool, typer.Option(help="Import the results into MLflow.")]


@app.command()
def run(
    settings: Settings = None,
    methods: Methods = "ict,ect,sct,vct",
    seeds: Seeds = "0-2",
    out: Out = Path("runs"),
    launcher: Launcher = "local",
    jobs: Jobs = None,
    cluster: ClusterName = None,
    pack: Pack = 1,
    share: Share = 1,
    dry_run: DryRun = False,
    mlflow_uri: MlflowUri = None,
    mlflow: Mlflow = True,
) -> None:
    """Train and score methods × seeds, then write the leaderboard. The same command again goes on where it stopped."""
    from .run import Launch
    from .run import run as command

    launch = Launch(launcher, jobs, cluster, pack, share)
    raise typer.Exit(
        command(methods, seeds, settings or [], out, launch, dry_run=dry_run, mlflow=mlflow, mlflow_uri=mlflow_uri)
    )


@app.command()
def sweep(
    settings: Settings = None,
    methods: Methods = "ict,ect,sct,vct",
    seeds: Seeds = "0-2",
    out: Out = Path("runs"),
    cluster: ClusterName = None,
    launcher: Launcher = "slurm",
    pack: Pack = 1,
    share: Share = 1,
    dry_run: DryRun = False,
) -> None:
    """Submit methods × seeds to a SLURM cluster and leave; finished cells are passed over. See status, wait, retry."""
    from .run import Launch
    from .run import run as command

    launch = Launch(launcher, None, cluster, pack, share)
    raise typer.Exit(
        command(methods, seeds, settings or [], out, launch, dry_run=dry_run, mlflow=False, mlflow_uri=None)
    )


@app.command("eval")
def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders of cells, or folders above them.")],
    metrics: Annotated[
        str | None, typer.Option("--metrics", help="Such as fid50k,kid50k,pr10k. Default: those of the run.")
    ] = None,
    nfe: Annotated[str | None, typer.Option("--nfe", help="Step counts: 1,2,4,8. Default: those of the run.")] = None,
    draws: Annotated[int | None, typer.Option("--draws", min=1, help="Sets of latents. Default: as the run.")] = None,
    snapshots: Annotated[str, typer.Option("--snapshots", help="last or all.")] = "last",
    bootstrap: Annotated[
        int | None,
        typer.Option("--bootstrap", min=0, help="Resamples for a sampling error of new rows. Default: as the run."),
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Images sampled at once.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Score finished trainings by further metrics, step counts or draws. Rows that are there are kept."""
    from .eval import evaluate as command

    raise typer.Exit(
        command(
            runs,
            metrics=metrics,
            nfe=nfe,
            draws=draws,
            snapshots=snapshots,
            bootstrap=bootstrap,
            batch=batch,
            device=device,
        )
    )


@app.command()
def diagnose(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders of cells, or folders above them.")],
    bins: Annotated[int, typer.Option("--bins", help="Of the noise level, evenly spaced in its logarithm.")] = 8,
    samples: Annotated[int, typer.Option("--samples", help="Noisy points a bin, a multiple of --repeats.")] = 512,
    repeats: Annotated[int, typer.Option("--repeats", help="Batches that gradients are taken of, at least 3.")] = 16,
    weights: Annotated[
        str, typer.Option("--weights", help="own, or a cell's folder or safetensors file whose network all share.")
    ] = "own",
    ratio: Annotated[float | None, typer.Option("--ratio", help="r / t for all. Default: each method's rule.")] = None,
    snapshots: Annotated[str, typer.Option("--snapshots", help="last or all.")] = "last",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Measure the variance of target and gradient by noise level, at equal images, noise and times for all methods."""
    from .diagnose import diagnose as command

    raise typer.Exit(
        command(
            runs,
            bins=bins,
            samples=samples,
            repeats=repeats,
            weights=weights,
            ratio=ratio,
            snapshots=snapshots,
            device=device,
        )
    )


@app.command()
def report(
    out: Out = Path("runs"),
    mlflow_uri: Annotated[str | None, typer.Option(help="MLflow server. Default: a file in OUT.")] = None,
    mlflow: Annotated[bool, typer.Option(help="Import the results into MLflow.")] = True,
    readme: Annotated[
        Path | None, typer.Option(help="A document to put the tables into, between its leaderboard markers.")
    ] = None,
) -> None:
    """Rebuild page, leaderboard, plots and MLflow import from the files of all runs."""
    from .report import report as command

    raise typer.Exit(command(out, mlflow=mlflow, mlflow_uri=mlflow_uri, readme=readme))


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A method or configuration, a cell's id, or a folder.")],
    second: Annotated[str, typer.Argument(metavar="B", help="What A is compared with.")],
    out: Out = Path("runs"),
    metric: Annotated[str | None, typer.Option("--metric", help="Comma-separated. Default: all in common.")] = None,
    nfe: Annotated[str | None, typer.Option("--nfe", help="Step counts: 1,2. Default: all in common.")] = None,
) -> None:
    """Compare two methods, runs or sweeps on their common seeds, and say which is better, if that is certain."""
    from .compare import compare as command

    raise typer.Exit(command(first, second, out, metric=metric, nfe=nfe))


@app.command()
def register(
    cell: Annotated[str, typer.Argument(metavar="CELL", help="A finished cell's folder or id.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the model in the registry.")],
    out: Out = Path("runs"),
    mlflow_uri: MlflowUri = None,
) -> None:
    """Register a cell's final weights in MLflow, to be loaded and sampled from by their name."""
    from .register import register as command

    raise typer.Exit(command(cell, name, out, mlflow_uri=mlflow_uri))


@app.command("list")
def list_() -> None:
    """List methods, benchmarks, presets and metrics."""
    from .show import list_everything

    raise typer.Exit(list_everything())


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A method, a benchmark, or a cell's id or folder.")],
    settings: Settings = None,
    out: Out = Path("runs"),
) -> None:
    """Show the resolved configuration of a method or benchmark, or one cell with its records."""
    from .show import show as command

    raise typer.Exit(command(name, settings or [], out))


@app.command()
def status(
    cells: Cells = None,
    out: Out = Path("runs"),
    watch: Annotated[bool, typer.Option("--watch", help="Until nothing is at work any more.")] = False,
) -> None:
    """Show how far every cell is, and what its job waits for or ended with."""
    from .status import status as command

    raise typer.Exit(command(out, cells or [], watch=watch))


@app.command()
def wait(
    cells: Cells = None,
    out: Out = Path("runs"),
    timeout: Annotated[float | None, typer.Option("--timeout", min=0, help="Minutes. Default: for ever.")] = None,
    mlflow_uri: Annotated[str | None, typer.Option(help="MLflow server. Default: a file in OUT.")] = None,
    mlflow: Annotated[bool, typer.Option(help="Import the results into MLflow.")] = True,
) -> None:
    """Wait until nobody works on the cells any more, and keep the leaderboard up to date."""
    from .wait import wait as command

    raise typer.Exit(command(out, cells or [], timeout=timeout, mlflow=mlflow, mlflow_uri=mlflow_uri))


@app.command()
def cancel(
    cells: Cells = None,
    out: Out = Path("runs"),
    every: Annotated[bool, typer.Option("--all", help="All jobs of this folder that wait or run.")] = False,
) -> None:
    """Cancel the jobs of cells. What the cells have computed is kept."""
    from .cancel import cancel as command

    raise typer.Exit(command(out, cells or [], every=every))


@app.command()
def retry(
    cells: Cells = None,
    out: Out = Path("runs"),
    failed: Annotated[bool, typer.Option("--failed", help="Those that failed, were cancelled, or left.")] = False,
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="A cluster's name or file. Default: where they were last.")
    ] = None,
    launcher: Annotated[
        str | None, typer.Option("--launcher", help="local or slurm. Default: as they ran before.")
    ] = None,
) -> None:
    """Run cells again that failed or were left, with the configuration they have. They go on where they stopped."""
    from .retry import retry as command

    raise typer.Exit(command(out, cells or [], failed=failed, cluster=cluster, launcher=launcher))


@app.command()
def logs(
    cell: Annotated[str, typer.Argument(metavar="CELL", help="A cell's folder or id.")],
    out: Out = Path("runs"),
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on while the cell is at work.")] = False,
    job: Annotated[bool, typer.Option("--job", help="What its job wrote, before or beside the cell.")] = False,
) -> None:
    """Print what a cell said, or its job where the cell could not."""
    from .logs import logs as command

    raise typer.Exit(command(cell, out, follow=follow, job=job))


@app.command()
def doctor() -> None:
    """Check this machine: versions, devices, shipped files, data sets, optional parts."""
    from .doctor import doctor as command

    raise typer.Exit(command())


@prepare.command()
def weights(
    name: Annotated[str, typer.Argument(help="Such as edm-cifar10-32x32-uncond-vp; a wrong name lists all.")],
    source: Annotated[Path, typer.Option("--from", help="The published file. Nothing in it is executed.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder. Default: in the user's cache.")] = None,
    sha256: Annotated[str | None, typer.Option("--sha256", help="What the file's SHA-256 must be.")] = None,
) -> None:
    """Convert published weights of EDM or EDM2 to safetensors."""
    from .prepare import weights as command

    raise typer.Exit(command(name, source, out, sha256))


@prepare.command()
def metrics(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME…]", help="inception (default), dinov2.")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="A file you have. Nothing in it is executed.")] = None,
) -> None:
    """Find the weights of feature networks, or fetch them, and check them."""
    from .prepare_metrics import metrics as command

    raise typer.Exit(command(names or [], source))


@speed.command("metrics")
def speed_metrics(
    images: Annotated[int, typer.Option("--images", help="Images that both evaluators see.")] = 128,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Measure our evaluator beside clean-fid's: features, distance, the whole, memory."""
    from .speed import metrics as command

    raise typer.Exit(command(images, device))


@speed.command("sweep")
def speed_sweep(
    cluster: Annotated[str, typer.Option("--cluster", help="Name or file of a cluster.")] = "local",
    cells: Annotated[int, typer.Option("--cells", help="How many; they are held and then cancelled.")] = 1000,
) -> None:
    """Measure how long it takes to submit many cells to the SLURM of this shell."""
    from .speed_sweep import sweep as command

    raise typer.Exit(command(cells, cluster))


ClusterFolder = Annotated[Path, typer.Argument(metavar="DIR", help="The cluster's own folder.")]
Node = Annotated[str, typer.Argument(metavar="NODE", help="n1, n2, …")]


@cluster.command("start")
def cluster_start(
    folder: ClusterFolder,
    nodes: Annotated[int, typer.Option(min=1, help="How many: n1, n2, …")] = 2,
    cpus: Annotated[int, typer.Option(min=1, help="Cores of a node; they need not exist.")] = 2,
    memory: Annotated[int, typer.Option(min=1, help="MB of a node; it need not exist.")] = 4000,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of a node, pretended.")] = 2,
    node_timeout: Annotated[int, typer.Option(min=1, help="Seconds until a silent node is down.")] = 20,
    requeue_delay: Annotated[int, typer.Option(min=1, help="Seconds until a requeued job may start.")] = 5,
    kill_wait: Annotated[int, typer.Option(min=1, help="Seconds from SIGTERM to SIGKILL.")] = 5,
    grace: Annotated[int, typer.Option(min=0, help="Seconds that a preempted job has.")] = 20,
    accounting: Annotated[bool, typer.Option(help="With a database, for sacct.")] = True,
) -> None:
    """Start a cluster in a new folder, with the partitions main and urgent, which preempts main."""
    from ...slurm.local.config import Options
    from .cluster import start as command

    options = Options(nodes, cpus, memory, gpus, node_timeout, requeue_delay, kill_wait, grace, accounting)
    raise typer.Exit(command(folder, options))


@cluster.command("stop")
def cluster_stop(
    folder: ClusterFolder,
    keep: Annotated[bool, typer.Option("--keep", help="Leave its files, with the logs.")] = False,
) -> None:
    """End a cluster with all its jobs, and remove its files."""
    from .cluster import stop as command

    raise typer.Exit(command(folder, keep))


@cluster.command("env")
def cluster_env(folder: ClusterFolder) -> None:
    """Print what makes it the cluster of a shell: eval "$(bench cluster env DIR)"."""
    from .cluster import env as command

    raise typer.Exit(command(folder))


@cluster.command("kill-node")
def cluster_kill_node(folder: ClusterFolder, node: Node) -> None:
    """Cut a node's power: all that runs on it is gone, and nobody is told."""
    from .cluster import kill_node as command

    raise typer.Exit(command(folder, node))


@cluster.command("start-node")
def cluster_start_node(folder: ClusterFolder, node: Node) -> None:
    """Start a killed node again."""
    from .cluster import start_node as command

    raise typer.Exit(command(folder, node))


def main() -> None:
    """Entry point: one clear sentence for what the user can mend, exit 2; 130 after Ctrl-C."""
    skip_final_gc()
    try:
        app(prog_name="bench")
    except UsageError as error:
        sys.exit(_complain(str(error)))
    except OSError as error:  # no permission, no space left, …
        if error.filename is None:
            raise
        sys.exit(_complain(f"{error.filename}: {error.strerror}"))
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("interrupted; the same command goes on from here", file=sys.stderr)
        raise


def _complain(message: str) -> int:
    print(f"bench: {plain(message)}", file=sys.stderr)
    return 2
