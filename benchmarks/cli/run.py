"""`bench run` and `bench sweep`: compose the cells, run or submit what is not finished, report."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.errors import UsageError, unknown
from ..common.files import check_writable
from ..common.redact import typed
from ..config.compose import Cell, compose_cells, parse_methods, parse_seeds
from ..runs.folder import CONFIG, CellFiles, is_finished
from .costs import cost_lines, measured_costs
from .report import check_mlflow_uri
from .status import INTERRUPTED, complaint, current

if TYPE_CHECKING:
    from ...slurm.clusters import Cluster

LAUNCHERS = ("local", "slurm", "debug")


@dataclass(frozen=True)
class Launch:
    """Where the cells run.

    launcher: local (workers on this machine), slurm, or debug (this process).
    jobs: workers at once, for local. cluster: name or file, pack: cells a job, share: cells at once on a device, for
    slurm.
    """

    launcher: str = "local"
    jobs: int | None = None
    cluster: str | None = None
    pack: int = 1
    share: int = 1


def run(
    methods: str,
    seeds: str,
    settings: Sequence[str],
    out: Path,
    launch: Launch,
    *,
    dry_run: bool,
    mlflow: bool,
    mlflow_uri: str | None,
) -> int:
    """Exit status: 0 all done (or submitted), 1 a cell failed or diverged, 130 interrupted.

    Raises UsageError for bad input.
    """
    _check_launch(launch)
    cells = compose_cells(parse_methods(methods), parse_seeds(seeds), settings)
    check_writable(out)
    check_mlflow_uri(mlflow_uri)
    pending = [cell for cell in cells if not is_finished(cell.path(out), cell.config)]
    if pending:
        _check(pending, here=launch.launcher != "slurm")
    if dry_run:
        _show_grid(cells, pending, out)
        if launch.launcher == "slurm" and pending:
            _show_arrays(pending, out, launch)
        return 0
    if not pending:
        print(f"all {len(cells)} cells are done already" if len(cells) > 1 else "the cell is done already")
        _report(out, mlflow, mlflow_uri)
        return _exit_status(cells, out)
    if launch.launcher == "slurm":
        return _submit(cells, pending, out, launch)
    if _run(cells, pending, out, launch):
        return INTERRUPTED
    _report(out, mlflow, mlflow_uri)
    return _exit_status(cells, out)


def _check_launch(launch: Launch) -> None:
    """Raise UsageError for options that do not go together, and names that are not there."""
    if launch.launcher not in LAUNCHERS:
        raise unknown("launcher", launch.launcher, LAUNCHERS)
    if launch.launcher != "slurm":
        for option, given in (("cluster", launch.cluster), ("pack", launch.pack != 1), ("share", launch.share != 1)):
            if given:
                raise UsageError(f"--{option} is for --launcher slurm, which `bench sweep` has by itself")
        return
    if launch.jobs is not None:
        raise UsageError("--jobs is for this machine: on a cluster its file says how many jobs run at once")
    from ...slurm import clusters

    if launch.cluster is None:
        raise UsageError(
            f"--cluster is missing: name one ({', '.join(clusters.choices())}) or the file that describes yours"
        )
    clusters.load(launch.cluster)
    if launch.share > launch.pack:
        raise UsageError(f"--share is {launch.share}, must be at most --pack ({launch.pack}), the cells of a job")


def _run(cells: Sequence[Cell], pending: Sequence[Cell], out: Path, launch: Launch) -> bool:
    """Run cells on this machine; whether that was interrupted."""
    from ..execution.launch import default_slots, devices, prepare, run_in_process, run_local
    from .progress import watch

    done = len(cells) - len(pending)
    if launch.launcher == "debug":
        slots = default_slots(len(cells), 1)
        print(f"cells: {len(cells)}, {done} done, {len(pending)} to run in this process; output in {out}", flush=True)
        return run_in_process(prepare(pending, out), slots.threads)
    slots = default_slots(len(cells), launch.jobs, devices(cells[0].config))  # the same for all: it is not swept
    together = f", processes of each: {slots.processes}" if slots.processes > 1 else ""
    where = f"{slots.jobs} at once{together}, threads of each: {slots.threads}"
    print(f"cells: {len(cells)}, {done} done, {len(pending)} to run ({where}); output in {out}", flush=True)
    folders = prepare(pending, out)
    with watch(folders, out) as tick:
        return run_local(folders, slots, tick)


def _submit(cells: Sequence[Cell], pending: Sequence[Cell], out: Path, launch: Launch) -> int:
    from ...slurm.clusters import load
    from ...slurm.submit import check_slurm, submit_cells
    from ..execution.launch import prepare, restore_if_refused

    check_slurm()
    cluster = load(launch.cluster or "")
    at_work = _at_work(pending, out)
    new = [cell for cell in pending if cell.name not in at_work]
    others = f", {len(at_work)} in jobs already" if at_work else ""
    place = "" if out == Path("runs") else f" --out {shlex.quote(str(out))}"
    print(f"cells: {len(cells)}, {len(cells) - len(pending)} done{others}, {len(new)} to submit; output in {out}")
    if new:
        command = typed()
        with restore_if_refused([cell.path(out) for cell in new]):
            work = list(zip(prepare(new, out), [cell.config for cell in new], strict=True))
            sweep = submit_cells(work, out, cluster, pack=launch.pack, share=launch.share, command=command)
        for array in sweep.arrays:
            jobs = _jobs(array.elements, cluster)
            print(f"job {array.job}: {jobs}; {_asked(array.resources, cluster.gpus_per_node)}")
    print(f"bench status --watch{place}    # how far they are; bench wait{place} waits and reports")
    return 0


def _at_work(pending: Sequence[Cell], out: Path) -> set[str]:
    """The cells that jobs or other processes have in hand. Raises UsageError where SLURM does not say."""
    from ...slurm.status import poll

    known = [CellFiles(cell.path(out)) for cell in pending if (cell.path(out) / CONFIG).exists()]
    view = poll(known, out)
    if view.unreachable:
        raise UsageError(f"{view.unreachable}: whether cells are in jobs already is not known; nothing was submitted")
    return {cell.name for cell in view.cells if cell.is_active}


def _jobs(elements: Sequence[Sequence[object]], cluster: Cluster) -> str:
    at_once, most = min(len(elements), cluster.array_parallelism), max(map(len, elements))
    what = f"{len(elements)} jobs of up to {most} cells each" if most > 1 else _count(len(elements), "cell")
    return f"{what}, {at_once} at once"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _asked(resources: Mapping[str, Any], gpus: int) -> str:
    devices, nodes = resources["devices"], resources["nodes"]
    what = _count(devices, "GPU") if gpus else f"{devices} process{'es' * (devices > 1)}"
    spread = f" on {nodes} nodes" if nodes > 1 else ""
    cores = _count(resources["cpus"], "core")
    memory = "" if resources["memory"] is None else f" and {resources['memory'] / 1024:.3g} GB of memory"
    return f"{what}{spread} with {cores}{memory} each, at most {_duration(resources['time_limit'])} a job"


def _duration(minutes: int) -> str:
    days, rest = divmod(minutes, 24 * 60)
    hours, minutes = divmod(rest, 60)
    parts = [f"{count} {unit}" for count, unit in ((days, "d"), (hours, "h"), (minutes, "min")) if count]
    return " ".join(parts)


def _show_arrays(pending: Sequence[Cell], out: Path, launch: Launch) -> None:
    """What sbatch would be given, and what it is going to cost."""
    from ...slurm.clusters import load
    from ...slurm.submit import make_plan, script

    cluster = load(launch.cluster or "")
    work = [(cell.path(out), cell.config) for cell in pending]
    arrays = make_plan(work, cluster, pack=launch.pack, share=launch.share, most=1000)
    for number, (_, elements) in enumerate(arrays.arrays):
        print(f"\n--- array {number}: {_jobs(elements, cluster)}")
        print(script(arrays, number, out).strip())
    print()
    for line in cost_lines(pending, out, cluster.tflops):
        print(line)


def _check(pending: Sequence[Cell], *, here: bool) -> None:
    from ..execution.preflight import check_cells

    check_cells(pending, here=here)


def _show_grid(cells: Sequence[Cell], pending: Sequence[Cell], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"cells: {len(cells)}, {len(pending)} to run", title_justify="left", box=None)
    for column in ("cell", "variant", "state", "images", "estimate"):
        table.add_column(column, justify="right" if column in ("images", "estimate") else "left", overflow="fold")
    costs = measured_costs(out)
    waiting = {cell.name for cell in pending}
    total = 0.0
    for cell in cells:
        files = CellFiles(cell.path(out))
        state = current(files)["state"] if cell.path(out).exists() else "new"
        config = cell.config
        cost = costs.get((config["cell"]["benchmark"], cell.method))
        estimate = None if cost is None or cell.name not in waiting else cost * config["train"]["images"]
        total += estimate or 0.0
        variant = config["cell"]["variant"] or "-"
        text = "-" if estimate is None else f"{estimate:.0f} s"
        table.add_row(cell.name, variant, state, f"{config['train']['images']:,}", text)
    Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 200).print(table)
    if total:
        print(f"estimated training time: {total:.0f} s of one worker, from the finished cells of the same methods")


def _report(out: Path, mlflow: bool, mlflow_uri: str | None) -> None:
    from .report import show_report

    show_report(out, mlflow=mlflow, mlflow_uri=mlflow_uri)


def _exit_status(cells: Sequence[Cell], out: Path) -> int:
    states = Counter()
    for cell in cells:
        files = CellFiles(cell.path(out))
        states[files.status["state"]] += 1
        if files.status["state"] in ("failed", "diverged"):
            print(complaint(cell.name, files.status, out), file=sys.stderr)
    return 0 if states["done"] == len(cells) else 1
