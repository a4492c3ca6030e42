"""The cluster on one machine, against the real SLURM: it is used, its nodes die, and nothing of it is left behind."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.slurm.local import cluster as local_cluster
from consistency_bench.slurm.local import config as local_config
from consistency_bench.slurm.local.cluster import LocalCluster, start
from consistency_bench.slurm.local.config import Options

from ..conftest import needs_slurm
from ..nodes import alive, command, freeze, thaw, traces

pytestmark = pytest.mark.slow

#: Where the tests run in the background of a script, SIGINT is ignored.
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from consistency_bench.benchmarks.cli.main import main; main()"
)
BENCH = [sys.executable, "-c", PROGRAM, "cluster"]

#: A job that does not go when it is told to, with a process that has left its session.
STUBBORN = "#!/bin/sh\ntrap '' TERM\nsetsid sleep 1234 &\nsleep 1234\nsleep 1234\n"


@pytest.fixture
def small(place: Path) -> Iterator[LocalCluster]:
    """A cluster of a test's own, without accounting: a second to start and to stop."""
    needs_slurm(accounting=False)
    cluster = start(place / "c", Options(accounting=False))
    yield cluster
    if cluster.folder.exists():
        cluster.stop()


def call(cluster: LocalCluster, *command: str, script: str | None = None) -> str:
    """What a command says on this cluster."""
    done = subprocess.run(
        command, env=cluster.environment, input=script, capture_output=True, text=True, check=False, cwd="/tmp"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait_for(reached: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def submit_stubborn(cluster: LocalCluster, node: str) -> list[int]:
    """Its processes, slurmd's included, once all of them run."""
    call(cluster, "sbatch", f"--nodelist={node}", "--output=/dev/null", script=STUBBORN)
    wait_for(lambda: sum(command(pid).startswith("sleep") for pid in cluster.processes(node)) == 2)
    return cluster.processes(node)


# Use


def test_jobs_run_on_all_nodes_with_devices_and_accounts(slurm: LocalCluster) -> None:
    script = "#!/bin/sh\nsrun sh -c 'echo $(hostname) $CUDA_VISIBLE_DEVICES; getent hosts n1 n2 >&2'\n"
    output = slurm.folder.parent / "job.txt"
    options = ["--wait", "--parsable", "--nodes=2", "--gpus-per-node=2", f"--output={output}", "--error=/dev/null"]
    job = subprocess.run(["sbatch", *options], input=script, capture_output=True, text=True, check=True).stdout.strip()
    assert sorted(output.read_text().splitlines()) == ["n1 0,1", "n2 0,1"]
    fields = ["sacct", "-X", "-n", "-P", "-j", job, "-o", "State,NodeList,AllocTRES"]
    wait_for(lambda: subprocess.run(fields, capture_output=True, text=True, check=True).stdout.startswith("COMPLETED"))
    assert "gres/gpu=4" in subprocess.run(fields, capture_output=True, text=True, check=True).stdout


def test_a_job_that_is_preempted_is_told_at_once(slurm: LocalCluster) -> None:
    told = slurm.folder.parent / "told"
    # The batch shell hears of nothing, as in every SLURM: signals go to steps.
    script = f"#!/bin/sh\nsrun sh -c 'trap \"touch {told}; exit 0\" USR2; sleep 60 & wait'\nsleep 60\n"
    options = ["--parsable", "--exclusive", "--nodelist=n1", "--output=/dev/null"]
    job = call(slurm, "sbatch", *options, "--signal=USR2@30", "--requeue", script=script)
    wait_for(lambda: any("sleep 60" in command(pid) for pid in slurm.processes("n1")))
    urgent = call(slurm, "sbatch", *options, "--partition=urgent", script="#!/bin/sh\ntrue\n")
    try:
        wait_for(told.exists)
    finally:
        call(slurm, "scancel", job, urgent)


def test_the_command_starts_uses_and_stops(place: Path) -> None:
    needs_slurm(accounting=False)
    folder = place / "c"

    def bench(*arguments: str) -> str:
        done = subprocess.run([*BENCH, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = bench("start", str(folder), "--no-accounting", "--nodes", "1", "--gpus", "0")
    assert "nodes n1 are ready" in said
    assert f"bench cluster stop {folder}" in said
    shell = f"{bench('env', str(folder))}\nsinfo --noheader --format=%N,%P,%T"
    nodes = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout
    assert nodes.split() == ["n1,main*,idle", "n1,urgent,idle"]
    submit_stubborn(LocalCluster(folder), "n1")
    bench("kill-node", str(folder), "n1")
    assert LocalCluster(folder).processes("n1") == []
    bench("start-node", str(folder), "n1")
    there = submit_stubborn(LocalCluster(folder), "n1")
    bench("stop", str(folder))
    assert alive(there) == []
    assert traces(folder) == []
    assert list(place.iterdir()) == []


# What happens to nodes


def test_a_killed_node_takes_everything_on_it_along_and_comes_back(small: LocalCluster) -> None:
    there = submit_stubborn(small, "n1")
    other = small.processes("n2")
    small.kill_node("n1")
    assert alive(there) == []
    assert small.processes("n1") == []
    assert small.processes("n2") == other
    small.kill_node("n1")  # dead already
    small.start_node("n1")
    assert "*" not in call(small, "sinfo", "--noheader", "--format=%T")  # which marks a node that does not answer
    with pytest.raises(UsageError, match="node n1 runs already"):
        small.start_node("n1")
    with pytest.raises(UsageError, match=r"unknown node 'n3'\. Available: n1, n2"):
        small.kill_node("n3")


def test_a_frozen_node_stands_still_until_it_is_thawed(small: LocalCluster) -> None:
    there = submit_stubborn(small, "n2")

    def stopped(pid: int) -> bool:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    freeze(small, "n2")
    wait_for(lambda: all(map(stopped, there)))
    assert not any(map(stopped, small.processes("n1")))
    thaw(small, "n2")
    wait_for(lambda: not any(map(stopped, there)))
    freeze(small, "n2")
    small.stop()  # a frozen node is no obstacle
    assert traces(small.folder) == []


def test_the_queue_outlives_the_controller(small: LocalCluster) -> None:
    job = call(small, "sbatch", "--hold", "--parsable", "--output=/dev/null", script="#!/bin/sh\ntrue\n")
    small.restart_controller()
    assert call(small, "squeue", "--noheader", "--format=%i %r").split() == [job, "JobHeldUser"]


# What can go wrong


def test_a_daemon_that_does_not_start_is_quoted_and_the_rest_ended(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_slurm(accounting=False)
    fake = place / "bin" / "slurmctld"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'slurmctld: fatal: no such luck' >&2\necho bye >&2\nexit 1\n")
    fake.chmod(0o755)
    folder = place / "c"
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
        with pytest.raises(UsageError, match=r"slurmctld ended while it started: .*fatal: no such luck \(see .*out\)"):
            start(folder, Options(accounting=False))
    assert traces(folder) == []
    assert (folder / "log" / "slurmctld.out").exists()
    again = start(folder, Options(accounting=False, nodes=1))
    with pytest.raises(UsageError, match=f"a cluster runs in {folder} already"):
        start(folder, Options(accounting=False))
    again.stop(keep=True)
    assert (folder / "log" / "slurmctld.log").exists()


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "control"),
        (signal.SIGINT, "log/mariadb-install-db.out"),
        (signal.SIGINT, "log/slurmdbd.out"),
        (signal.SIGTERM, "log/slurmctld.out"),  # nodes may be ready 0.1 s after they start: a test below delays them
    ],
)
def test_an_interrupted_start_leaves_nothing(number: int, moment: str, place: Path) -> None:
    needs_slurm()
    folder = place / "c"
    process = subprocess.Popen([*BENCH, "start", str(folder)], stderr=subprocess.PIPE, start_new_session=True)
    try:
        wait_for((folder / moment).exists)
        process.send_signal(number)
        time.sleep(0.05)
        process.send_signal(number)  # waits until all is removed
        process.communicate()
        assert process.returncode in (130, -number)
        assert traces(folder) == []
        assert list(place.iterdir()) == []
    finally:
        process.kill()
        if (folder / "cluster.json").exists():
            LocalCluster(folder).stop()


# A script such as mariadb-install-db has a server that would go on writing into a folder that has been removed.
WRITES_ON = "#!/bin/sh\n(for i in $(seq 1000); do mkdir -p mariadb/$i; sleep 0.01; done) &\nwait\n"
IS_NEVER_READY = "#!/bin/sh\nmkdir -p mariadb/1\ntrap '' TERM\nsetsid sleep 1234 &\nsleep 1234\nsleep 1234\n"


@pytest.mark.parametrize(("program", "script"), [("mariadb-install-db", WRITES_ON), ("slurmd", IS_NEVER_READY)])
def test_an_interrupted_start_ends_what_a_program_had_started(program: str, script: str, place: Path) -> None:
    needs_slurm()
    fake = place / "bin" / program
    fake.parent.mkdir()
    fake.write_text(script)
    fake.chmod(0o755)
    folder = place / "c"
    environment = {**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"}
    process = subprocess.Popen([*BENCH, "start", str(folder)], env=environment, stderr=subprocess.PIPE)
    wait_for((folder / "mariadb" / "1").exists)
    process.terminate()
    process.communicate()
    assert process.returncode == 130
    assert traces(folder) == []
    assert list(place.iterdir()) == [fake.parent]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("no such luck")])
def test_what_goes_wrong_before_the_first_daemon_leaves_nothing(
    error: BaseException, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(names: list[str]) -> None:
        assert (place / "c").exists()
        raise error

    monkeypatch.setattr(local_cluster, "check_machine", lambda accounting: None)
    monkeypatch.setattr(local_cluster, "free_ports", wrong)
    with pytest.raises(type(error)):
        start(place / "c", Options())
    assert list(place.iterdir()) == []


def test_what_cannot_be_removed_is_named(small: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(local_cluster.shutil, "rmtree", refused)
        with pytest.raises(UsageError, match=r"cannot be removed \(Permission denied\); `bench cluster stop"):
            small.stop()
    assert traces(small.folder) == []
    small.stop()  # can be repeated
    assert not small.folder.exists()


def test_missing_packages_are_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_cluster, "SBIN", "")
    monkeypatch.setenv("PATH", str(place))
    packages = "munge slurmctld slurmd slurm-client slurmdbd mariadb-server-core mariadb-client-core"
    with pytest.raises(UsageError, match=f"apt-get install --no-install-recommends {packages}$"):
        start(place / "c", Options())
    for program in ("munged", "slurmctld", "slurmd", "sbatch"):
        (place / program).touch(mode=0o755)
    with pytest.raises(UsageError, match="mariadb-client-core, or leave accounting out with --no-accounting"):
        start(place / "c", Options())
    assert not (place / "c").exists()


def test_a_machine_without_namespaces_is_told_apart(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_slurm()
    monkeypatch.setattr(local_cluster, "unshare", lambda: ("sh", "-c", "echo unshare: not permitted >&2; exit 1"))
    with pytest.raises(UsageError, match=r"which this machine refuses \(unshare: not permitted\): start the cluster"):
        start(place / "c", Options())


@pytest.mark.parametrize(
    ("folder", "options", "message"),
    [
        ("/tmp/c", Options(nodes=0), "nodes is 0, must be at least 1"),
        ("/tmp/c", Options(gpus=8), "gpus is 8, must be from 0 to 7"),
        (f"/tmp/{60 * 'c'}", Options(), "has more than 60 bytes"),
        ("/tmp/my cluster", Options(), "has characters other than letters"),
        ("/tmp/%n", Options(), "has characters other than letters"),
    ],
)
def test_what_cannot_be_is_refused(folder: str, options: Options, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        local_config.check(Path(folder), options)


def test_folders_of_others_are_left_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "mine.txt").touch()
    with pytest.raises(UsageError, match="holds no cluster"):
        LocalCluster(place)
    monkeypatch.setattr(local_cluster, "check_machine", lambda accounting: None)
    with pytest.raises(UsageError, match="is not empty"):
        start(place, Options())
    with pytest.raises(UsageError, match="is not a folder"):
        start(place / "mine.txt", Options())
    assert [path.name for path in place.iterdir()] == ["mine.txt"]


def test_clusters_start_beside_each_other(place: Path) -> None:
    """Each with a database of its own, which keeps its hands off the temporary tables of the others."""
    needs_slurm()
    folders = [place / name for name in ("a", "b", "c")]
    starts = [subprocess.Popen([*BENCH, "start", str(folder)], stderr=subprocess.PIPE) for folder in folders]
    try:
        said = [process.communicate()[1] for process in starts]
        assert [process.returncode for process in starts] == [0, 0, 0], said
    finally:
        for folder in folders:
            subprocess.run([*BENCH, "stop", str(folder)], check=False, capture_output=True)
    assert not any((folder / "slurm.conf").exists() for folder in folders)


@pytest.mark.parametrize("daemon", ["n1", "slurmctld"])
def test_a_port_that_is_taken_meanwhile_is_replaced(daemon: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a process that binds it between its choice and its use: the cluster starts on other ports."""
    needs_slurm(accounting=False)
    choose = local_config.free_ports
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        taken = other.getsockname()[1]
        first = iter([{daemon: taken}])
        monkeypatch.setattr(local_cluster, "free_ports", lambda names: choose(names) | next(first, {}))
        cluster = start(place / "c", Options(nodes=1, accounting=False))
    try:
        assert cluster.ports[daemon] != taken
        assert call(cluster, "srun", "-n1", "hostname") == "n1"
    finally:
        cluster.stop()
