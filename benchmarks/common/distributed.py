"""Several processes that work on one cell: their ranks, their shares of a batch, and the messages between them.

Messages are Python objects over gloo, on the CPU; gradients are averaged elsewhere (`training/ddp.py`). All processes
call the same methods in the same order. A process that fails sends its error in place of its next message
(`Ranks.fail`), and the others raise PeerError: all have left the cell, and can start the next one. Within a step of
training no message is possible: OutOfStepError is raised, and all processes have to end.

torch is not imported before processes are joined: commands and workers import this module first.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from .errors import UsageError

T = TypeVar("T")

#: The longest that a process waits for the others, while rank 0 computes distances alone. Over gloo, a process that has
#: ended is noticed at once.
TIMEOUT = datetime.timedelta(hours=2)
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # as torchrun sets them


class PeerError(Exception):
    """Another process of the cell failed, and sent its error; all of them have left the cell."""


class OutOfStepError(Exception):
    """A process failed within a step of training, where the others wait for it: all of them have to end."""


class LostError(OutOfStepError):
    """Another process ended without an error: it was killed, or its machine failed."""


@dataclass(frozen=True)
class Ranks:
    """One of the processes that work on a cell together.

    rank: its number, from 0; size: the number of processes; local_rank: its number among those of its machine.

    The methods that communicate have to be called by all processes, in the same order; a single process returns at
    once. They raise PeerError where another process has failed, and OutOfStepError (mostly LostError) where one ended.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size or self.local_rank < 0:
            raise UsageError(
                f"process {self.rank} of {self.size}, number {self.local_rank} of its machine, is not valid: numbers "
                "count from 0 and stay below the number of processes"
            )

    @property
    def is_writer(self) -> bool:
        """Whether this is the only process that writes files."""
        return self.rank == 0

    @property
    def address(self) -> tuple[int, ...]:
        """The suffix of the address of a random stream of this process alone; empty for rank 0."""
        return (self.rank,) if self.rank else ()

    def rows(self, count: int) -> slice:
        """This process's rows of a global batch of `count`: contiguous, in the order of ranks, as even as possible.

        Raises UsageError where there are fewer rows than processes.
        """
        check_batch(count, self.size)
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def exchange(self, value: T) -> list[T]:
        """The values of all processes, in the order of ranks; for small objects that can be pickled."""
        return [value] if self.size == 1 else self._exchange(value, None)

    def agree(self, flag: bool) -> bool:
        """Whether the flag is true in any of the processes."""
        return any(self.exchange(flag))

    def broadcast(self, value: T) -> T:
        """Rank 0's value; those of the others are ignored."""
        return value if self.size == 1 else self.exchange(value if self.is_writer else None)[0]  # type: ignore[return-value]

    def barrier(self) -> None:
        """Wait for all processes."""
        self.exchange(None)

    def gather(self, value: T) -> list[T] | None:
        """The values of all processes on rank 0, in order, None elsewhere; for large objects on the CPU."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        self.barrier()  # raises PeerError after a failure
        values: list[Any] | None = [None] * self.size if self.is_writer else None
        with _detecting_loss():
            dist.gather_object(value, values, dst=0)
        return values

    def fail(self, error: BaseException) -> None:
        """Send an error in place of the next message, and wait until all processes have received it."""
        if self.size > 1:
            with contextlib.suppress(PeerError):  # others may fail at the same time
                self._exchange(None, f"{type(error).__name__}: {error}")

    def _exchange(self, value: T, failure: str | None) -> list[T]:
        import torch.distributed as dist

        received: list[Any] = [None] * self.size
        with _detecting_loss():
            dist.all_gather_object(received, (failure, value))
        failures = [
            f"process {rank} of {self.size}: {text}" for rank, (text, _) in enumerate(received) if text is not None
        ]
        if failures:
            raise PeerError("; ".join(failures))
        return [value for _, value in received]


ALONE = Ranks()


def check_batch(batch: int, processes: int) -> None:
    """Raise UsageError unless every process gets at least one row of every global batch."""
    if batch < processes:
        raise UsageError(
            f"a batch of {batch} cannot be shared by {processes} processes: train.batch must be at least the number of "
            "processes"
        )


def ranks_from_environment(environment: Mapping[str, str] = os.environ) -> Ranks:
    """The rank that RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT describe; ALONE where none is set.

    Raises UsageError where only some of them are set, or where they are not valid numbers.
    """
    given = {name: environment[name] for name in VARIABLES if environment.get(name)}
    if not given:
        return ALONE
    if missing := [name for name in VARIABLES if name not in given]:
        raise UsageError(
            f"{', '.join(given)} set, but not {', '.join(missing)}: several processes need all of "
            f"{', '.join(VARIABLES)}, as torchrun sets them, and a single one none"
        )
    numbers = {}
    for name in VARIABLES:
        if name != "MASTER_ADDR":
            try:
                numbers[name] = int(given[name])
            except ValueError:
                raise UsageError(f"{name} is {given[name]!r}, must be a whole number") from None
    return Ranks(numbers["RANK"], numbers["WORLD_SIZE"], numbers["LOCAL_RANK"])


def without_ranks(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the variables of torchrun, for a process that works alone."""
    return {name: value for name, value in environment.items() if name not in VARIABLES}


@contextlib.contextmanager
def joined(ranks: Ranks) -> Iterator[Ranks]:
    """Within, the processes can communicate: they connect through MASTER_ADDR and MASTER_PORT.

    Once in the life of a process, around all of its cells; does nothing for a single process. Raises LostError where
    the others do not connect.
    """
    if ranks.size == 1:
        yield ranks
        return
    import torch.distributed as dist

    with _detecting_loss():
        # Gloo on any device: a process may wait for hours between messages, and NCCL would keep the GPU busy.
        dist.init_process_group("gloo", rank=ranks.rank, world_size=ranks.size, timeout=TIMEOUT)
    yield ranks
    dist.destroy_process_group()  # not after an exception: others may still wait, and the process ends anyway


@contextlib.contextmanager
def stepping(ranks: Ranks) -> Iterator[None]:
    """Within, processes wait for each other without messages: every error becomes an OutOfStepError.

    The reason is put into the store, where rank 0 finds it once the connection is lost.
    """
    try:
        yield
    except Exception as error:
        if ranks.size == 1:
            raise
        if isinstance(error, RuntimeError) and _is_loss(error):
            raise _gone(error) from error
        text = f"{type(error).__name__}: {error}"
        _store().set(_REASON, f"process {ranks.rank} of {ranks.size}: {text}")
        raise OutOfStepError(text) from error


_REASON = "why a process left during training"


@contextlib.contextmanager
def _detecting_loss() -> Iterator[None]:
    """Within, every RuntimeError, such as torch's DistBackendError, means that a process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise _gone(error) from error


def _is_loss(error: RuntimeError) -> bool:
    """Whether it is the error of a connection, for which gloo has no type of its own."""
    return any(word in str(error).lower() for word in ("gloo", "nccl", "connection closed", "connection reset"))


def _gone(error: RuntimeError) -> OutOfStepError:
    with contextlib.suppress(RuntimeError, ValueError):  # the store ended with rank 0, or never existed
        if _store().check([_REASON]):
            return OutOfStepError(_store().get(_REASON).decode())
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return LostError(f"another process of this cell is gone or does not answer ({first})")


def _store() -> Any:
    """The key-value store through which the processes connect; rank 0 or torchrun serves it."""
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()
