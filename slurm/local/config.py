"""The configuration files of the daemons of a local cluster.

Written for SLURM 22.05 of Debian 12. Root can start such a cluster, and any user who may create user namespaces.
"""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...benchmarks.common.errors import UsageError

#: Devices that every machine has. SLURM numbers GPUs by their device files and does not restrict access to them here,
#: so any will do: a job sees CUDA_VISIBLE_DEVICES as on a GPU node. SLURM drops GPUs without a device file.
STAND_INS = ("null", "zero", "full", "random", "urandom", "tty", "ptmx")

#: A step's socket lies below the folder, and the path of a socket has 107 bytes.
LONGEST_PATH = 60

#: Below the ports that the kernel gives to outgoing connections, which would take a dead node's while it is away.
PORTS = range(20_000, 32_000)


@dataclass(frozen=True)
class Options:
    """The size of a cluster, which need not be that of the machine, and its timeouts in seconds.

    gpus: per node, simulated. node_timeout: until a silent node is DOWN and its jobs are requeued. requeue_delay: until
    a requeued job may start. kill_wait: from SIGTERM to SIGKILL. grace: from a preemption to its SIGTERM.
    accounting: with a database, without which there is no `sacct`.
    """

    nodes: int = 2
    cpus: int = 2
    memory: int = 4000
    gpus: int = 2
    node_timeout: int = 20
    requeue_delay: int = 5
    kill_wait: int = 5
    grace: int = 20
    accounting: bool = True

    @property
    def names(self) -> list[str]:
        """The nodes: n1, n2, …"""
        return [f"n{number}" for number in range(1, self.nodes + 1)]


def check(folder: Path, options: Options) -> None:
    """Raise UsageError for options or a folder that no cluster can have."""
    for key in ("nodes", "cpus", "memory", "node_timeout", "requeue_delay", "kill_wait"):
        if getattr(options, key) < 1:
            raise UsageError(f"{key} is {getattr(options, key)}, must be at least 1")
    if not 0 <= options.gpus <= len(STAND_INS):
        raise UsageError(f"gpus is {options.gpus}, must be from 0 to {len(STAND_INS)}, which is what can be simulated")
    if len(str(folder).encode()) > LONGEST_PATH:
        raise UsageError(f"folder {folder} has more than {LONGEST_PATH} bytes, too long for the sockets in it")
    if not re.fullmatch(r"[\w./+-]+", str(folder), re.ASCII):
        raise UsageError(f"folder '{folder}' has characters other than letters, digits and ._+-/, as SLURM requires")


def free_ports(names: list[str]) -> dict[str, int]:
    """A free port of the loopback address for each name."""
    free: Iterator[int] = filter(_is_free, random.sample(PORTS, len(PORTS)))
    return {name: next(free) for name in names}


def _is_free(port: int) -> bool:
    with socket.socket() as trial:
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def files(folder: Path, options: Options, ports: Mapping[str, int], user: str, hosts: str) -> dict[str, str]:
    """Names and texts of all configuration files.

    ports: of each node, of `slurmctld` and of `slurmdbd`. hosts: the text of the machine's /etc/hosts.
    """
    texts = {
        "slurm.conf": _slurm(folder, options, ports, user),
        "gres.conf": "".join(f"Name=gpu File=/dev/{device}\n" for device in STAND_INS[: options.gpus]),
        # slurmd loads a cgroup plugin though nothing uses it; the default one does not start on every machine.
        "cgroup.conf": "CgroupPlugin=cgroup/v1\n",
        # /etc/hosts of the nodes: as on a real cluster, their names resolve on all of them.
        "hosts": "".join(f"127.0.0.1 {name}\n" for name in options.names) + hosts,
    }
    if options.accounting:
        texts |= {"slurmdbd.conf": _slurmdbd(folder, ports, user), "mariadb.cnf": _mariadb(folder, user)}
    return texts


def _slurm(folder: Path, options: Options, ports: Mapping[str, int], user: str) -> str:
    return f"""\
ClusterName=local
SlurmUser={user}
SlurmdUser={user}
SlurmctldHost=localhost
SlurmctldPort={ports["slurmctld"]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/state/slurmctld.pid
SlurmdPidFile={folder}/spool/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
MailProg=/bin/true

# On the loopback address only, which all nodes share: they differ in their ports.
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny

# A munged of our own. A requeued job waits as long as a credential lives, two minutes by default.
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire={options.requeue_delay}

# Processes are tracked, and nothing is restricted.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
SlurmdParameters=config_overrides

# Jobs compete for cores and GPUs, not for memory.
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu

# A job in `urgent` preempts one in `main`, which gets its --signal at once and is requeued.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal

SlurmdTimeout={options.node_timeout}
KillWait={options.kill_wait}
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2

{_accounting(folder, ports) if options.accounting else ""}
{_nodes(options, ports)}
PartitionName=DEFAULT Nodes=ALL MaxTime=INFINITE State=UP
PartitionName=main Default=YES PriorityTier=1 GraceTime={options.grace}
PartitionName=urgent PriorityTier=2
"""


def _accounting(folder: Path, ports: Mapping[str, int]) -> str:
    return f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={ports["slurmdbd"]}
AccountingStoragePass={folder}/munge/socket
AccountingStorageTRES=gres/gpu
"""


def _nodes(options: Options, ports: Mapping[str, int]) -> str:
    gpus = f" Gres=gpu:{options.gpus}" if options.gpus else ""
    size = f"CPUs={options.cpus} RealMemory={options.memory}{gpus}"
    return "".join(f"NodeName={name} NodeAddr=127.0.0.1 Port={ports[name]} {size}\n" for name in options.names)


def _slurmdbd(folder: Path, ports: Mapping[str, int], user: str) -> str:
    return f"""\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CommunicationParameters=NoInAddrAny
DbdHost=localhost
DbdPort={ports["slurmdbd"]}
SlurmUser={user}
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/state/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={user}
StorageLoc=slurm
"""


def _mariadb(folder: Path, user: str) -> str:
    # On a socket only, where the system's user is the database's: no port, no password. Durability is not needed.
    return f"""\
[mariadbd]
user={user}
datadir={folder}/mariadb
# A server that starts removes the temporary tables of all others that it finds.
tmpdir={folder}/tmp
socket={folder}/mariadb.socket
pid-file={folder}/state/mariadbd.pid
skip-networking
innodb_log_file_size=8M
innodb_buffer_pool_size=64M
innodb_flush_log_at_trx_commit=0
"""
