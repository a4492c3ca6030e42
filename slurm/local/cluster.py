"""A real SLURM cluster on one machine, for trying things out and for tests: several nodes, accounting, GPUs.

munged signs messages, mariadbd and slurmdbd keep the accounts, slurmctld is the controller, and one slurmd is each
node. Everything they write is below one folder, and every socket is below it or on the loopback address. The GPUs are
simulated: jobs get CUDA_VISIBLE_DEVICES and no device.

All daemons share a PID namespace, so that they end together (`namespace.py`). Each node has a PID, a mount and a UTS
namespace of its own within it: it has a hostname, resolves the names of all nodes, and ends like a machine that loses
power, with everything that runs on it and without a message to the controller.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from ...benchmarks.common.errors import UsageError, unknown
from ...benchmarks.common.files import read_json, write_json
from .config import Options, check, files, free_ports
from .namespace import CONTROL, ENDED, LOCK, LOG, POLL_SECONDS, Namespace, processes, unshare

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

#: For a daemon to become ready, on a machine under load.
START_SECONDS = 120.0

#: Between the choice of a port and its use, another process may take it. Then the cluster starts again on other ports.
PORT_ATTEMPTS = 5

#: Where daemons are, which the PATH of an ordinary user may lack.
SBIN = "/usr/sbin:/sbin"

#: Debian's packages, each with a program of it that is needed here.
PACKAGES = {"munge": "munged", "slurmctld": "slurmctld", "slurmd": "slurmd", "slurm-client": "sbatch"}
ACCOUNTING_PACKAGES = {
    "slurmdbd": "slurmdbd",
    "mariadb-server-core": "mariadbd",
    "mariadb-client-core": "mariadb",
}

#: The options and ports of the cluster, for the commands that use or stop it.
DESCRIPTION = "cluster.json"
FILES = ("slurm.conf", "gres.conf", "cgroup.conf", "slurmdbd.conf", "mariadb.cnf", "mariadb.socket", "hosts")
FOLDERS = (LOG, ENDED, "mariadb", "munge", "spool", "state", "tmp")

#: The first process of a node, with its name and the hosts file. It stays, to reap the orphans that it inherits.
NODE = 'hostname "$1" && mount --bind "$2" /etc/hosts || exit 1; slurmd -D -N "$1" & wait $!'
NODE_NAMESPACES = ("unshare", "--mount", "--uts", "--pid", "--mount-proc", "--fork", "--kill-child")


class PortTakenError(UsageError):
    """A port that was free when it was chosen is in use."""


class LocalCluster:
    """The cluster in `folder`, whichever process started it. Raises UsageError where there is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        described = read_json(self.folder / DESCRIPTION)
        if described is None:
            raise UsageError(f"{folder} holds no cluster; `bench cluster start {folder}` starts one there")
        if os.geteuid() not in (0, (self.folder / DESCRIPTION).stat().st_uid):
            raise UsageError(f"the cluster in {folder} is another user's")
        self.options = Options(**described["options"])
        self.ports: dict[str, int] = described["ports"]
        self.conf = self.folder / "slurm.conf"
        # Not those of a job on another cluster, from within which this may be called.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
        self.environment = {**inherited, "PATH": _search_path(), "SLURM_CONF": str(self.conf)}
        self._namespace = Namespace(self.folder, self.environment)

    def is_running(self) -> bool:
        """Whether any of its processes is alive."""
        return self._namespace.is_alive

    def stop(self, keep: bool = False) -> None:
        """End every process, jobs included, and remove what the cluster wrote (keep: leave it, with the logs)."""
        self._namespace.end()
        if not keep:
            _remove(self.folder)

    def kill_node(self, name: str) -> None:
        """Power a node off: nothing that ran on it is left when this returns, and the controller is not told."""
        there = self.processes(name)
        for pid in there:
            with contextlib.suppress(ProcessLookupError):  # it ended with the first one
                os.kill(pid, signal.SIGKILL)
        while there and self._namespace.exit_status(name) is None:  # which follows the end of all of them
            time.sleep(POLL_SECONDS)

    def start_node(self, name: str) -> None:
        """Start a node that was killed, and wait until it accepts jobs."""
        if self.processes(name):
            raise UsageError(f"node {name} runs already")
        self._start_node(name)
        self._wait_for_nodes([name])

    def processes(self, name: str) -> list[int]:
        """The processes of a node, as this machine numbers them: slurmd, jobs and what these started."""
        if name not in self.options.names:
            raise unknown("node", name, self.options.names)
        return processes(self._node(name))

    def restart_controller(self) -> None:
        """End slurmctld and start it again, as a site's upgrade does."""
        self._query("scontrol", "shutdown", "slurmctld")
        while self._namespace.exit_status("slurmctld") is None:
            time.sleep(POLL_SECONDS)
        self._start_controller()
        self._wait_for_nodes(self.options.names)

    def shell(self) -> str:
        """The line that makes sbatch, sinfo and sacct in a shell use this cluster."""
        return f"export SLURM_CONF={shlex.quote(str(self.conf))}"

    def _node(self, name: str) -> tuple[str, ...]:
        """The first process of a node."""
        return ("sh", "-c", NODE, "node", name, f"{self.folder}/hosts")

    def _start(self) -> None:
        self._namespace.start()
        self._start_munged()
        if self.options.accounting:
            self._start_accounting()
        self._start_controller()
        for name in self.options.names:
            self._start_node(name)
        self._wait_for_nodes(self.options.names)

    def _start_munged(self) -> None:
        munge = self.folder / "munge"
        self._finish("mungekey", "--create", f"--keyfile={munge}/key")
        own = [f"--{part}-file={munge}/{part}" for part in ("key", "pid", "seed")]
        # --force: other users need not reach the socket.
        self._namespace.run("munged", "munged", "--foreground", "--force", f"--socket={munge}/socket", *own)
        self._wait("munged", lambda: self._answers("munge", "--no-input", f"--socket={munge}/socket"))

    def _start_accounting(self) -> None:
        settings, database = f"--defaults-file={self.folder}/mariadb.cnf", f"{self.folder}/mariadb.socket"
        user = _user()
        self._finish("mariadb-install-db", settings, "--skip-test-db", f"--auth-root-socket-user={user}")
        self._namespace.run("mariadbd", "mariadbd", settings)
        question = ("mariadb", "--no-defaults", "-u", user, "-S", database, "-e", "select 1")
        self._wait("mariadbd", lambda: self._answers(*question))
        # slurmdbd has no setting for the socket of the database; the library it uses reads this variable.
        self._namespace.run("slurmdbd", "env", f"MYSQL_UNIX_PORT={database}", "slurmdbd", "-D")
        self._wait("slurmdbd", lambda: self._answers("sacctmgr", "show", "cluster"))

    def _start_controller(self) -> None:
        self._namespace.run("slurmctld", "slurmctld", "-D")
        self._wait("slurmctld", lambda: self._answers("scontrol", "ping"))

    def _start_node(self, name: str) -> None:
        self._namespace.run(name, *NODE_NAMESPACES, *self._node(name))

    def _wait_for_nodes(self, names: list[str]) -> None:
        def is_ready(name: str) -> bool:
            # The controller may not have noticed yet that the node was away, so its state alone is not enough.
            return self._listens(name) and self._state(name) in ("idle", "mixed", "allocated", "completing")

        for name in names:
            self._wait(name, lambda name=name: is_ready(name))

    def _listens(self, name: str) -> bool:
        with socket.socket() as trial:
            return trial.connect_ex(("127.0.0.1", self.ports[name])) == 0

    def _state(self, name: str) -> str:
        options = ("--noheader", "--Node", "--partition=main", "--format=%T", f"--nodes={name}")
        return self._query("sinfo", *options).stdout.strip()

    def _finish(self, program: str, *arguments: str) -> None:
        """Run a program to its end. Raises UsageError where it fails."""
        self._namespace.run(program, program, *arguments)
        while (status := self._namespace.exit_status(program)) is None:
            time.sleep(POLL_SECONDS)
        if status:
            raise self._failure(program, "failed")

    def _wait(self, name: str, is_ready: Callable[[], bool]) -> None:
        """Wait until a daemon is ready. Raises UsageError with its own words where it ends or is not in time."""
        deadline = time.monotonic() + START_SECONDS
        while not is_ready():
            if self._namespace.exit_status(name) is not None:
                raise self._failure(name, "ended while it started")
            if time.monotonic() > deadline:
                raise self._failure(name, f"was not ready after {START_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)

    def _failure(self, name: str, what: str) -> UsageError:
        log = self._namespace.log(name)
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        telling = [line for line in lines if "fatal" in line] or lines or ["no output"]
        kind = PortTakenError if os.strerror(errno.EADDRINUSE) in text else UsageError
        return kind(f"{name} {what}: {telling[-1]} (see {log})")

    def _answers(self, *command: str) -> bool:
        return self._query(*command).returncode == 0

    def _query(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )


def start(folder: Path, options: Options) -> LocalCluster:
    """Start a cluster in a folder that is new, empty or a stopped cluster's, and wait until its nodes accept jobs.

    Any exception, KeyboardInterrupt included, ends and removes all of it again. Where a daemon fails, its logs stay.

    Raises:
        UsageError: a package is missing, the machine refuses namespaces, an option is out of range, the folder is in
            use, or a daemon does not start (with what it said).
    """
    folder = folder.absolute()
    check(folder, options)
    check_machine(options.accounting)
    for _ in range(PORT_ATTEMPTS - 1):
        with contextlib.suppress(PortTakenError):
            return _start(folder, options)
    return _start(folder, options)


def _start(folder: Path, options: Options) -> LocalCluster:
    _make_room(folder)
    cluster: LocalCluster | None = None
    try:
        with _signals_blocked():
            cluster = _lay_out(folder, options)
        cluster._start()
    except BaseException as error:
        if cluster is not None:
            with _signals_blocked():  # a second Ctrl-C waits for the clean-up
                cluster.stop(keep=isinstance(error, UsageError))
        raise
    return cluster


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """What ends this process is delivered after the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _lay_out(folder: Path, options: Options) -> LocalCluster:
    """Write the configuration of the daemons, all of it or nothing."""
    (folder / FOLDERS[0]).mkdir(parents=True)  # fails where another process has just begun the same
    try:
        for name in FOLDERS[1:]:
            (folder / name).mkdir()
        ports = free_ports([*options.names, "slurmctld", "slurmdbd"])
        write_json(folder / DESCRIPTION, {"options": asdict(options), "ports": ports})
        hosts = Path("/etc/hosts").read_text(encoding="utf-8", errors="replace")
        for name, text in files(folder, options, ports, _user(), hosts).items():
            (folder / name).touch(mode=0o600 if name == "slurmdbd.conf" else 0o644)  # slurmdbd insists
            (folder / name).write_text(text, encoding="utf-8")
        return LocalCluster(folder)
    except BaseException:
        _remove(folder)
        raise


def _remove(folder: Path) -> None:
    """Remove what a cluster wrote and nothing else, and the folder where it is empty then."""
    try:
        for name in FOLDERS:
            if (folder / name).exists():
                shutil.rmtree(folder / name)
        for name in (*FILES, CONTROL, LOCK, DESCRIPTION):  # the description last: until then, this can be repeated
            (folder / name).unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
    except OSError as error:
        raise UsageError(
            f"{error.filename} cannot be removed ({error.strerror}); `bench cluster stop {folder}` tries again"
        ) from error


def _make_room(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; name a new one")
    if (folder / DESCRIPTION).exists():
        left = LocalCluster(folder)
        if left.is_running():
            raise UsageError(f"a cluster runs in {folder} already; `bench cluster stop {folder}` ends it")
        left.stop()
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; name a new folder")


def check_machine(accounting: bool) -> None:
    """Raise UsageError, with what to do, where this machine cannot run a cluster."""
    if absent := missing_packages(accounting):
        without = "" if missing_packages(False) or not accounting else ", or leave accounting out with --no-accounting"
        raise UsageError(f"a local cluster needs programs that are not here: {install(absent)}{without}")
    _user()
    trial = subprocess.run([*unshare(), *NODE_NAMESPACES, "true"], capture_output=True, text=True, check=False)
    if trial.returncode:
        reason = (trial.stderr.strip() or f"exit status {trial.returncode}").splitlines()[-1]
        raise UsageError(
            f"a local cluster needs namespaces, which this machine refuses ({reason}): start the cluster as root, "
            "in a container that is privileged, or where users may create namespaces"
        )


def missing_packages(accounting: bool = True) -> list[str]:
    """Debian packages that a cluster needs and whose programs are not found."""
    needed = PACKAGES | (ACCOUNTING_PACKAGES if accounting else {})
    return [package for package, program in needed.items() if not shutil.which(program, path=_search_path())]


def install(packages: list[str]) -> str:
    """The command that installs packages."""
    return f"apt-get install --no-install-recommends {' '.join(packages)}"


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), SBIN])


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise UsageError(f"user {os.geteuid()} has no name on this machine, which SLURM needs") from None
