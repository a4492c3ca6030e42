"""A real SLURM cluster on this one machine, for trying things out and for tests: several nodes, accounting, GPUs.

munged signs messages, mariadbd and slurmdbd keep the accounts, slurmctld is the controller, and one slurmd is each
node. Everything they write is below one folder, every socket is below it or on the loopback address, and the folder
holds a record of each process, so any process can stop what another one started. The GPUs are pretended: jobs get
CUDA_VISIBLE_DEVICES and no device.

A node has a PID, a mount and a UTS namespace of its own. So it has a hostname, it knows all nodes by theirs, and the
end of the namespace's first process is a power cut: nothing that ran on the node survives it, and nobody is told.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ...benchmarks.common.errors import UsageError, unknown
from ...benchmarks.common.files import read_json, write_json
from .config import Options, check, files, free_ports
from .daemons import Daemons, children, end_session, in_namespace_of, interruptions_held, run

PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.05

#: Where daemons are, which the PATH of an ordinary user may lack.
SBIN = "/usr/sbin:/sbin"

#: Debian's packages, each with a program of it that is needed here.
PACKAGES = {"munge": "munged", "slurmctld": "slurmctld", "slurmd": "slurmd", "slurm-client": "sbatch"}
ACCOUNTING_PACKAGES = {
    "slurmdbd": "slurmdbd",
    "mariadb-server-core": "mariadbd",
    "mariadb-client-core": "mariadb",
}

#: Describes the cluster to whoever stops or uses it: its options and ports.
DESCRIPTION = "cluster.json"
FILES = ("slurm.conf", "gres.conf", "cgroup.conf", "slurmdbd.conf", "mariadb.cnf", "mariadb.socket", "hosts")
FOLDERS = ("log", "mariadb", "munge", "pids", "spool", "state", "tmp")

#: The first process of a node, with its name and the hosts file. It stays, to reap the orphans that it inherits.
NODE = 'hostname "$1" && mount --bind "$2" /etc/hosts || exit 1; slurmd -D -N "$1" & wait $!'
NAMESPACES = ("--mount", "--uts", "--pid", "--mount-proc", "--fork", "--kill-child")


class LocalCluster:
    """A cluster that was started in `folder`, by whomever. Raises UsageError where none was."""

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
        self._daemons = Daemons(self.folder, self.environment)
        self._said = ""  # by the last command that asked whether something is ready

    def is_running(self) -> bool:
        """Whether any of its processes lives."""
        return any(self._daemons.pid(name) for name in (*self.options.names, *SERVICES))

    def stop(self, keep: bool = False) -> None:
        """End every process, jobs included, and remove what the cluster wrote (keep: leave it there, with the logs)."""
        for name in self.options.names:
            self.kill_node(name)
        for name in SERVICES:
            self._daemons.end(name)
        if not keep:
            _remove(self.folder)

    def kill_node(self, name: str) -> None:
        """Cut a node's power: all that runs on it is gone when this returns, and the controller was told nothing."""
        self._check(name)
        if pid := self._daemons.pid(name):
            end_session(pid)  # over when the first process of the namespace is, and that when the whole namespace is
        self._daemons.end(name, signal.SIGKILL)

    def start_node(self, name: str) -> None:
        """Start a node that was killed, and wait until it takes jobs."""
        self._check(name)
        if self._daemons.pid(name):
            raise UsageError(f"node {name} runs already")
        self._start_node(name)
        self._wait_for_nodes([name])

    def freeze_node(self, name: str) -> None:
        """Stop all processes of a node where they are, as a machine that swaps or has lost its network and clock."""
        stopped: set[int] = set()
        while new := set(self.processes(name)) - stopped:  # what was started meanwhile, too
            for pid in new:
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(pid, signal.SIGSTOP)
            stopped |= new

    def thaw_node(self, name: str) -> None:
        """Let a frozen node go on."""
        for pid in self.processes(name):
            with contextlib.suppress(ProcessLookupError):  # those that wake first may end others
                os.kill(pid, signal.SIGCONT)

    def processes(self, name: str) -> list[int]:
        """The processes of a node, as this machine numbers them: slurmd, jobs and what these started."""
        self._check(name)
        pid = self._daemons.pid(name)
        inside = children(pid) if pid else []
        return in_namespace_of(inside[0]) if inside else []

    def restart_controller(self) -> None:
        """End slurmctld and start it again, as an upgrade of a site's would."""
        self._daemons.end("slurmctld")
        self._start_controller()
        self._wait_for_nodes(self.options.names)

    def shell(self) -> str:
        """What makes this the cluster of sbatch, sinfo and sacct in a shell."""
        return f"export SLURM_CONF={shlex.quote(str(self.conf))}"

    def _check(self, node: str) -> None:
        if node not in self.options.names:
            raise unknown("node", node, self.options.names)

    def _start(self) -> None:
        self._start_munged()
        if self.options.accounting:
            self._start_accounting()
        self._start_controller()
        for name in self.options.names:
            self._start_node(name)
        self._wait_for_nodes(self.options.names)

    def _start_munged(self) -> None:
        munge = self.folder / "munge"
        self._must("mungekey", "--create", f"--keyfile={munge}/key")
        own = [f"--{part}-file={munge}/{part}" for part in ("key", "pid", "seed")]
        # --force: other users need not reach the socket.
        self._daemons.start("munged", "munged", "--foreground", "--force", f"--socket={munge}/socket", *own)
        self._wait("munged", lambda: self._succeeds("munge", "--no-input", f"--socket={munge}/socket"))

    def _start_accounting(self) -> None:
        settings, plug = f"--defaults-file={self.folder}/mariadb.cnf", f"{self.folder}/mariadb.socket"
        user = _user()
        self._must("mariadb-install-db", settings, "--skip-test-db", f"--auth-root-socket-user={user}")
        self._daemons.start("mariadbd", "mariadbd", settings)
        question = ("mariadb", "--no-defaults", "-u", user, "-S", plug, "-e", "select 1")
        self._wait("mariadbd", lambda: self._succeeds(*question))
        # slurmdbd has no setting for the socket of the database; the library it uses reads this variable.
        self._daemons.start("slurmdbd", "env", f"MYSQL_UNIX_PORT={plug}", "slurmdbd", "-D")
        self._wait("slurmdbd", lambda: self._succeeds("sacctmgr", "show", "cluster"))

    def _start_controller(self) -> None:
        self._daemons.start("slurmctld", "slurmctld", "-D")
        self._wait("slurmctld", lambda: self._succeeds("scontrol", "ping"))

    def _start_node(self, name: str) -> None:
        self._daemons.start(name, *_unshare(), "sh", "-c", NODE, "node", name, f"{self.folder}/hosts")

    def _wait_for_nodes(self, names: list[str]) -> None:
        def ready(name: str) -> bool:
            # The controller may not have noticed that the node was away: its word alone is not enough.
            return self._listens(name) and self._state(name) in ("idle", "mixed", "allocated", "completing")

        for name in names:
            self._wait(name, lambda name=name: ready(name))

    def _listens(self, name: str) -> bool:
        with socket.socket() as trial:
            return trial.connect_ex(("127.0.0.1", self.ports[name])) == 0

    def _state(self, name: str) -> str | None:
        asked = self._succeeds("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T", f"--nodes={name}")
        return self._said.strip() if asked else None

    def _wait(self, name: str, is_ready: Callable[[], bool]) -> None:
        """Wait until it is; UsageError with the daemon's own words when it ends first, or after a minute."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_ready():
            if not self._daemons.pid(name):
                raise self._failure(name, "ended while it started")
            if time.monotonic() > deadline:
                raise self._failure(name, f"was not ready after {PATIENCE_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)

    def _failure(self, name: str, what: str) -> UsageError:
        log = self._daemons.log(name)
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        lines = [line.strip() for line in (text or self._said).splitlines() if line.strip()]
        telling = [line for line in lines if "fatal" in line] or lines or ["it said nothing"]
        return UsageError(f"{name} {what}: {telling[-1]} (see {log})")

    def _must(self, *command: str) -> None:
        if not self._succeeds(*command):
            raise UsageError(f"{command[0]} failed: {self._said.strip() or 'it said nothing'}")

    def _succeeds(self, *command: str) -> bool:
        status, self._said = run(command, self.environment, self.folder)
        return status == 0


#: In the order in which they end.
SERVICES = ("slurmctld", "slurmdbd", "mariadbd", "munged")


def start(folder: Path, options: Options) -> LocalCluster:
    """Start a cluster in a folder that is new, empty or a stopped cluster's, and wait until its nodes take jobs.

    An interruption (KeyboardInterrupt or any other exception) takes all of it away again. Where a daemon fails, its
    logs stay.

    Raises:
        UsageError: a package is missing, the machine refuses namespaces, an option is out of range, the folder is in
            use, or a daemon does not start (with what it said).
    """
    folder = folder.absolute()
    check(folder, options)
    check_machine(options.accounting)
    _make_room(folder)
    cluster: LocalCluster | None = None
    try:
        with interruptions_held():
            cluster = _lay_out(folder, options)
        cluster._start()
    except BaseException as error:
        if cluster is not None:
            with interruptions_held():  # the first was understood
                cluster.stop(keep=isinstance(error, UsageError))
        raise
    return cluster


def _lay_out(folder: Path, options: Options) -> LocalCluster:
    """Write what the daemons read, all of it or nothing."""
    (folder / FOLDERS[0]).mkdir(parents=True)  # refused where another process has just begun the same
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
    """What a cluster wrote and nothing else; the folder too, where it is empty then."""
    for name in FOLDERS:
        while (folder / name).exists():
            try:
                shutil.rmtree(folder / name)
            except FileNotFoundError:
                continue  # another process removes it, too
            except OSError as error:
                raise UsageError(
                    f"{folder / name} cannot be removed ({error.strerror}); `bench cluster stop {folder}` tries again"
                ) from error
    for name in (*FILES, DESCRIPTION):  # the description last: while it is there, this can be repeated
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


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
    trial = subprocess.run([*_unshare(), "true"], capture_output=True, text=True, check=False)
    if trial.returncode:
        reason = (trial.stderr.strip() or f"exit status {trial.returncode}").splitlines()[-1]
        raise UsageError(
            f"each node needs namespaces of its own, which this machine refuses ({reason}): start the cluster as root, "
            "in a container that is privileged, or where users may make namespaces"
        )


def missing_packages(accounting: bool = True) -> list[str]:
    """Debian packages that a cluster needs and whose programs are not found."""
    needed = PACKAGES | (ACCOUNTING_PACKAGES if accounting else {})
    return [package for package, program in needed.items() if not shutil.which(program, path=_search_path())]


def install(packages: list[str]) -> str:
    """The command that brings packages."""
    return f"apt-get install --no-install-recommends {' '.join(packages)}"


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), SBIN])


def _unshare() -> tuple[str, ...]:
    # An ordinary user needs a user namespace around the others, and keeps number and name in it, which munge sees.
    user = ("--user", "--map-current-user", "--keep-caps") if os.geteuid() else ()
    return ("unshare", *user, *NAMESPACES)


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise UsageError(f"user {os.geteuid()} has no name on this machine, which SLURM needs") from None
