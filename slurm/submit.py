"""Submitting cells to a cluster: one job array per set of resources, and a record of what was submitted."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import getpass
import secrets
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..benchmarks.common.errors import UsageError
from ..benchmarks.common.files import atomic_path
from ..benchmarks.common.lock import is_held
from ..benchmarks.config.plugins import included
from ..benchmarks.config.schema import RunConfig
from ..benchmarks.execution.launch import enqueue
from ..benchmarks.runs.folder import Run
from ..benchmarks.runs.starts import awaited
from .clusters import Cluster
from .resources import Resources, resources
from .sbatch import Refused, Submitted, Unknown, claimed
from .sweeps import Array, Sweep, read, save, submitting, tasks


@dataclass(frozen=True)
class Plan:
    """Arrays to submit: the resources of each, and the folders of the cells of its elements.

    awaited: the cells that have to be trained first, by the folders of those that start from them.
    """

    cluster: Cluster
    arrays: tuple[tuple[Resources, tuple[tuple[Path, ...], ...]], ...]
    share: int
    awaited: Mapping[Path, Path]

    def after(self, number: int) -> tuple[Path, ...]:
        """The cells that have to be trained before those of an array."""
        _, elements = self.arrays[number]
        folders = (folder for element in elements for folder in element)
        return tuple(dict.fromkeys(self.awaited[folder] for folder in folders if folder in self.awaited))


def make_plan(cells: Sequence[tuple[Path, RunConfig]], cluster: Cluster, *, pack: int, share: int, most: int) -> Plan:
    """Group cells, (folder, configuration) each, by their resources, with `pack` cells per element.

    Cells that have to wait for others are in arrays of their own, after those.

    most: elements per array, see `largest_array`; more elements make further arrays.

    Raises UsageError where a cell requests resources that the cluster does not have.
    """
    groups: dict[tuple[bool, Resources], list[Path]] = {}
    waiting = {folder: first.path for folder, config in cells if (first := awaited(folder, config))}
    for folder, config in cells:
        groups.setdefault((folder in waiting, resources(config, cluster)), []).append(folder)
    arrays = []
    ordered = sorted(groups.items(), key=lambda item: (item[0][0], dataclasses.astuple(item[0][1])[:3]))
    for (_, wanted), folders in ordered:
        if share > 1 and wanted.devices > 1:
            raise UsageError(f"--share {share} is for cells on one device, and some ask for {wanted.devices}")
        elements = [tuple(folders[start : start + pack]) for start in range(0, len(folders), pack)]
        arrays += [(wanted, tuple(elements[start : start + most])) for start in range(0, len(elements), most)]
    return Plan(cluster, tuple(arrays), share, waiting)


def job_name(cluster: Cluster, sweep: str, number: int) -> str:
    """The name in SLURM of an array, by which its jobs are found."""
    return f"{cluster.job_name_prefix or ''}bench-{sweep}-{number}"


def script(plan: Plan, number: int, out: Path) -> str:
    """The job script of an array of the plan, with a placeholder for the name of the sweep."""
    from .executor import ArrayExecutor

    wanted, elements = plan.arrays[number]
    folder = out.absolute() / "sweeps" / "SWEEP" / f"array-{number}"
    return ArrayExecutor(folder, job_name(plan.cluster, "SWEEP", number), wanted, plan.cluster, len(elements)).text()


@dataclass(frozen=True)
class Submission:
    """What was submitted. unconfirmed: why it is not known whether the last array of the sweep was, else None."""

    sweep: Sweep
    unconfirmed: str | None


def submit_cells(
    cells: Sequence[tuple[Path, RunConfig]], out: Path, cluster: Cluster, *, pack: int, share: int, command: str
) -> Submission:
    """Queue and submit cells whose folders hold their configurations, without waiting for their jobs.

    Cells that are not submitted keep their states. Where it is unknown whether an array was, its cells stay queued, its
    record and its files stay, and no further array is submitted.

    Args:
        cells: folder and configuration of each; folders below `out`.
        pack: cells per job. share: how many of these run at once, on the same device.
        command: the command line, for the record.

    Raises:
        UsageError: there is no SLURM here, or it refuses; a cell requests resources that the cluster does not have.
    """
    check_slurm()
    check_name(out)
    plan = make_plan(cells, cluster, pack=pack, share=share, most=largest_array())
    sweep = dataclasses.replace(_planned(plan, out, command), pack=pack, share=share)
    with _enqueued(cells, out), contextlib.ExitStack() as until_submitted:
        save(out, sweep)  # before anything is submitted: its jobs can be found by name even if this process is killed
        until_submitted.enter_context(submitting(out, sweep))
        for number in range(len(sweep.arrays)):
            try:
                outcome = _submit(plan, number, out, sweep)
            except UsageError as error:
                raise _forgotten(error, out, sweep, number) from None
            if isinstance(outcome, Unknown):
                sweep = dataclasses.replace(sweep, arrays=sweep.arrays[: number + 1])
                save(out, sweep)
                return Submission(sweep, outcome.reason)
            arrays = list(sweep.arrays)
            arrays[number] = dataclasses.replace(arrays[number], job=outcome.job)
            sweep = dataclasses.replace(sweep, arrays=tuple(arrays))
            save(out, sweep)
    return Submission(sweep, None)


@contextlib.contextmanager
def _enqueued(cells: Sequence[tuple[Path, RunConfig]], out: Path) -> Iterator[None]:
    """Set the state `queued`. Afterwards, restore the state of every cell that was not submitted and is not held.

    Of a cell that had nothing but a configuration, the folder is removed.
    """
    before, states = _holders(out), {}
    for run, config in ((Run(folder), config) for folder, config in cells):
        if not is_held(run.lock_file):
            former = _content(run.status_file)
            enqueue(run, config)
            states[run] = former, _content(run.status_file)
    try:
        yield
    finally:
        submitted = _holders(out) - before
        for run, (former, queued) in states.items():
            if _name(run.path, out) not in submitted and not is_held(run.lock_file):
                _restore(run, former, queued)


def _holders(out: Path) -> Counter[str]:
    """How many tasks hold each cell, by its name."""
    return Counter({name: len(found) for name, found in tasks(read(out, [])).items()})


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _restore(run: Run, former: bytes | None, queued: bytes | None) -> None:
    """Put back the former status, unless another process has written one since."""
    if _content(run.status_file) != queued:
        return
    if former is not None:
        with atomic_path(run.status_file) as path:
            path.write_bytes(former)
        return
    run.status_file.unlink(missing_ok=True)
    if [path.name for path in run.path.iterdir()] == [run.config_file.name]:
        run.config_file.unlink()
        run.path.rmdir()


def _planned(plan: Plan, out: Path, command: str) -> Sweep:
    """The record of a plan, with a name of its own and without job numbers."""
    created = datetime.datetime.now(datetime.UTC)
    name = f"{created:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    arrays = [
        Array(
            name=job_name(plan.cluster, name, number),
            job=None,
            folder=f"array-{number}",
            resources=dataclasses.asdict(wanted),
            elements=tuple(tuple(_name(folder, out) for folder in element) for element in elements),
        )
        for number, (wanted, elements) in enumerate(plan.arrays)
    ]
    return Sweep(
        sweep=name,
        created=created.isoformat(timespec="seconds"),
        user=getpass.getuser(),
        command=command,
        cluster=dataclasses.asdict(plan.cluster),
        arrays=tuple(arrays),
    )


def _submit(plan: Plan, number: int, out: Path, sweep: Sweep) -> Submitted | Unknown:
    """Raises UsageError where it certainly was not submitted."""
    from .executor import ArrayExecutor
    from .job import CellsJob

    wanted, elements = plan.arrays[number]
    array, policy = sweep.arrays[number], plan.cluster.requeue
    after = _jobs_of(plan.after(number), out, sweep)
    jobs = [
        CellsJob(
            cells=tuple(str(folder.absolute()) for folder in element),
            share=plan.share,
            requeue=policy.enabled,
            without_progress=policy.without_progress,
            command=sweep.command,
            include=included(),
        )
        for element in elements
    ]
    folder = out.absolute() / "sweeps" / sweep.sweep / array.folder
    outcome = ArrayExecutor(folder, array.name, wanted, plan.cluster, len(jobs), after).submit_all(jobs)
    if isinstance(outcome, Refused):
        raise UsageError(f"sbatch refused the array: {outcome.reason}")
    return outcome


def _jobs_of(cells: Sequence[Path], out: Path, sweep: Sweep) -> list[str]:
    """The jobs, such as 123_4, that train cells: those of this sweep, or of the last one that has them."""
    held_by = tasks([*(earlier for earlier in read(out, []) if earlier.sweep != sweep.sweep), sweep])
    found = []
    for folder in cells:
        name = _name(folder, out) if folder.absolute().is_relative_to(out.absolute()) else ""
        for task in held_by.get(name, [])[-1:]:
            if job := task.array.job or claimed(task.sweep.folder(out, task.array)):
                found.append(f"{job}_{task.index}")
    return found


def _forgotten(error: UsageError, out: Path, sweep: Sweep, number: int) -> UsageError:
    """The error for an array that was not submitted, after it and all later ones have been removed from the record."""
    if not number:
        shutil.rmtree(out / "sweeps" / sweep.sweep)
        return error
    save(out, dataclasses.replace(sweep, arrays=sweep.arrays[:number]))
    before = ", ".join(str(array.job) for array in sweep.arrays[:number])
    return UsageError(f"{error}; submitted before it: job {before}")


def _name(folder: Path, out: Path) -> str:
    return folder.absolute().relative_to(out.absolute()).as_posix()


def check_slurm() -> None:
    """Raise UsageError where jobs cannot be submitted from this machine."""
    absent = [program for program in ("sbatch", "srun", "squeue", "scontrol") if shutil.which(program) is None]
    if absent:
        raise UsageError(
            f"there is no SLURM on this machine ({', '.join(absent)} not found): call this on a login node, "
            "or run the cells here with --launcher local"
        )


def check_name(out: Path) -> None:
    """Raise UsageError for a folder with characters that SLURM substitutes in names of logs."""
    if odd := sorted(set("%\\\n") & set(str(out.absolute()))):
        raise UsageError(
            f"output folder {str(out)!r}: SLURM substitutes {odd[0]!r} in names of logs; choose another --out"
        )


def largest_array() -> int:
    """The most elements of an array at this site. Raises UsageError where its controller does not answer."""
    done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize":
            return max(1, int(value) - 1)  # the first index that is too large; some sites report 0
    said = (done.stderr.strip() or "no answer").splitlines()[-1]
    raise UsageError(f"SLURM's controller does not answer ({said}); nothing was submitted")
