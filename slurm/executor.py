"""Job arrays through submitit, whose elements do not depend on the process that submits them.

submitit names each pickle after its job once sbatch has returned the job's number; a submitter that is killed in
between leaves jobs without a pickle. Here the pickles are written before sbatch is called, and each element copies its
own. Imported by `submit` when it is needed: submitit is slow to import.
"""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import submitit
from submitit.helpers import DelayedSubmission, clean_env

from ..benchmarks.common.errors import UsageError
from .clusters import Cluster
from .job import CellsJob
from .resources import Resources
from .sbatch import Outcome, submit

#: Starts a command that ignores the signals of SLURM until it has handlers: they would end it while Python starts.
DEAF = """sh -c 'trap "" TERM USR2; exec "$@"' sh"""
UNLIMITED = 10**9  # timeouts that submitit allows: starts without progress are counted by the worker


class ArrayExecutor(submitit.SlurmExecutor):
    """Submits one array, named `name`, with its files in `folder`. after: jobs that have to end before it starts."""

    def __init__(
        self,
        folder: Path,
        name: str,
        resources: Resources,
        cluster: Cluster,
        elements: int,
        after: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, max_num_timeout=UNLIMITED, python=f"{DEAF} {shlex.quote(sys.executable)}")
        self.update_parameters(**parameters(folder, name, resources, cluster, after))
        for key, value in {**self.parameters, **self.parameters.get("additional_parameters", {})}.items():
            if isinstance(value, str) and not value.isprintable():  # it would end its line of the job's script
                raise UsageError(f"{key} is {value!r}, must be one line of printable characters")
        self.parameters["map_count"] = elements  # what submitit's own map_array sets

    @classmethod
    def affinity(cls) -> int:
        return 1  # on machines without srun, too, so that --dry-run works there

    def text(self) -> str:
        """The job script that sbatch gets."""
        return self._make_submission_file_text(self._submitit_command_str, "")

    def submit_all(self, jobs: Sequence[CellsJob]) -> Outcome:
        """Submit the array, and return what became of it."""
        folder = Path(self.folder)
        folder.mkdir(parents=True)
        for index, job in enumerate(jobs):
            DelayedSubmission(job).dump(folder / f"element-{index}.pkl")
        script = folder / "submission.sh"
        script.write_text(self.text(), encoding="utf-8")
        with _clean_environment():
            return submit(script, self.parameters["job_name"])


@contextlib.contextmanager
def _clean_environment() -> Iterator[None]:
    """Within, the variables of a surrounding job are unset, except for SLURM_CONF."""
    conf = os.environ.get("SLURM_CONF")
    with clean_env():
        if conf is not None:
            os.environ["SLURM_CONF"] = conf  # clean_env restores the whole environment
        yield


def parameters(
    folder: Path, name: str, resources: Resources, cluster: Cluster, after: Sequence[str] = ()
) -> dict[str, object]:
    """The parameters of submitit's SLURM executor."""
    wanted: dict[str, object] = {
        "job_name": name,
        "time": resources.time_limit,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.per_node,
        "cpus_per_task": resources.cpus,
        "signal_delay_s": cluster.requeue.notice_seconds,
        "array_parallelism": cluster.array_parallelism,
        "stderr_to_stdout": True,
        "setup": _setup(folder, resources, cluster),
        # A task that fails ends the others, which would wait for it. The step gets the cores of its job, which SLURM
        # does not pass on by itself since 22.05.
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={resources.cpus}", *cluster.srun_args],
    }
    for key in ("partition", "account", "qos", "constraint", "comment"):
        if (value := getattr(cluster, key)) is not None:
            wanted[key] = value
    more: dict[str, object] = {"requeue" if cluster.requeue.enabled else "no-requeue": True}
    if cluster.reservation is not None:
        more["reservation"] = cluster.reservation
    if resources.memory is not None and cluster.memory_per_cpu is not None:
        more["mem-per-cpu"] = f"{math.ceil(resources.memory / resources.cpus)}M"
    elif resources.memory is not None:
        more["mem"] = f"{resources.memory * resources.per_node}M"
    site = {**cluster.sbatch, **_gpus(resources, cluster)}
    return {**wanted, "additional_parameters": {**more, **site, **_dependency(after, cluster)}}


def _dependency(after: Sequence[str], cluster: Cluster) -> dict[str, str]:
    """The option that lets jobs end first; {} without any.

    However they end: a requeued job has not, and a cell whose pre-training failed says so itself. With `afterok` SLURM
    would leave it in the queue for ever, or cancel it without a word.
    """
    if not after:
        return {}
    own, site = f"afterany:{':'.join(after)}", cluster.sbatch.get("dependency")
    return {"dependency": f"{site},{own}" if site else own}


def _gpus(resources: Resources, cluster: Cluster) -> dict[str, str]:
    """The option that requests GPUs; {} where none does."""
    option = cluster.gpu_request
    if not cluster.gpus_per_node or option == "none":
        return {}
    number = 1 if option == "gpus-per-task" else resources.per_node
    value = f"{cluster.gpu_type}:{number}" if cluster.gpu_type else str(number)
    if option != "gres":
        return {option: value}
    others = [str(cluster.sbatch["gres"])] if "gres" in cluster.sbatch else []
    return {option: ",".join([f"gpu:{value}", *others])}


def _setup(folder: Path, resources: Resources, cluster: Cluster) -> list[str]:
    """Lines of shell before srun: the site's, the environment, and the element's own pickle under submitit's name."""
    threads = {"OMP_NUM_THREADS": str(resources.cpus), "MKL_NUM_THREADS": str(resources.cpus)}
    exports = [f"export {name}={shlex.quote(text)}" for name, text in {**threads, **cluster.environment}.items()]
    where = shlex.quote(str(folder))
    element, job = "$SLURM_ARRAY_TASK_ID", "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
    take = f"cp -n {where}/element-{element}.pkl {where}/{job}_submitted.pkl"
    return [*cluster.setup, *exports, take]
