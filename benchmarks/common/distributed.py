"""Several processes that work on one cell: who they are, which rows are whose, and what they tell each other.

What is said here goes over gloo, on the CPU, in Python objects; gradients go another way (`replicas`). All processes
take the same steps in the same order. Where one of them fails, it says so in place of its next message (`Ranks.fail`),
and the others raise PeerError where they would have waited for it: all of them are out of the cell then, and may begin
the next. Where that cannot be said, in the midst of training, OutOfStepError is raised.

No torch here before processes are joined: commands and workers import this first.
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

#: How long a process waits for the others: rank 0 works alone on distances, and nothing else takes that long. Over gloo
#: a process that has ended is noticed at once.
TIMEOUT = datetime.timedelta(hours=2)
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # as torchrun sets them


class PeerError(Exception):
    """Another process of the cell failed, and said so; all of them have left the cell."""


class OutOfStepError(Exception):
    """A process failed in the midst of training, so that the others wait in vain: all of them have to end."""


class LostError(OutOfStepError):
    """Another process is gone without a word: it was killed, or its machine failed."""


@dataclass(frozen=True)
class Ranks:
    """The processes that work on one cell together, as one of them sees them.

    rank: its number, from 0; size: how many there are; local_rank: its number among those of its machine.

    The methods that talk have to be called by all of them, in the same order; a single process talks to nobody. They
    raise PeerError where another process has failed, and OutOfStepError (mostly LostError) where one is gone.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size or self.local_rank < 0:
            raise UsageError(
                f"process {self.rank} of {self.size}, number {self.local_rank} of its machine, is none: numbers count "
                "from 0 and stay below the number of processes"
            )

    @property
    def is_writer(self) -> bool:
        """Whether this is the one process that writes."""
        return self.rank == 0

    @property
    def address(self) -> tuple[int, ...]:
        """What is added to the address of a random stream that each process has to itself; nothing for rank 0."""
        return (self.rank,) if self.rank else ()

    def rows(self, count: int) -> slice:
        """This process's share of a global batch of `count`: contiguous, in the order of ranks, as even as can be.

        Raises UsageError where there are fewer rows than processes.
        """
        check_batch(count, self.size)
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def exchange(self, value: T) -> list[T]:
        """Everybody's value, in the order of ranks; for small objects that can be pickled."""
        return [value] if self.size == 1 else self._exchange(value, None)

    def agree(self, flag: bool) -> bool:
        """Whether any of the processes says so."""
        return any(self.exchange(flag))

    def broadcast(self, value: T) -> T:
        """Rank 0's value, whatever the others give."""
        return value if self.size == 1 else self.exchange(value if self.is_writer else None)[0]  # type: ignore[return-value]

    def barrier(self) -> None:
        """Wait for all."""
        self.exchange(None)

    def gather(self, value: T) -> list[T] | None:
        """Everybody's value on rank 0, in the order of ranks, None elsewhere; for large objects on the CPU."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        self.barrier()  # here a failure is heard of
        values: list[Any] | None = [None] * self.size if self.is_writer else None
        with _hearing():
            dist.gather_object(value, values, dst=0)
        return values

    def fail(self, error: BaseException) -> None:
        """Tell the others that this process leaves the cell, in place of its next message; waits until they hear it."""
        if self.size > 1:
            with contextlib.suppress(PeerError):  # others may have failed at the same time
                self._exchange(None, f"{type(error).__name__}: {error}")

    def _exchange(self, value: T, failure: str | None) -> list[T]:
        import torch.distributed as dist

        heard: list[Any] = [None] * self.size
        with _hearing():
            dist.all_gather_object(heard, (failure, value))
        failures = [
            f"process {rank} of {self.size}: {text}" for rank, (text, _) in enumerate(heard) if text is not None
        ]
        if failures:
            raise PeerError("; ".join(failures))
        return [value for _, value in heard]


ALONE = Ranks()


def check_batch(batch: int, processes: int) -> None:
    """Raise UsageError unless every process gets a row of every global batch."""
    if batch < processes:
        raise UsageError(
            f"a batch of {batch} cannot be shared by {processes} processes: train.batch must be at least the number of "
            "processes"
        )


def ranks_from_environment(environment: Mapping[str, str] = os.environ) -> Ranks:
    """The processes that RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT tell of; ALONE where none is set.

    Raises UsageError where some of them are missing, or are no such numbers.
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
    """An environment for a process that works alone, whatever started this one."""
    return {name: value for name, value in environment.items() if name not in VARIABLES}


@contextlib.contextmanager
def joined(ranks: Ranks) -> Iterator[Ranks]:
    """Within, the processes can talk to each other: they meet at MASTER_ADDR and MASTER_PORT, and wait for all.

    Once in the life of a process, around all of its cells; does nothing for a single process. Raises LostError where
    the others do not come.
    """
    if ranks.size == 1:
        yield ranks
        return
    import torch.distributed as dist

    with _hearing():
        # Gloo for the messages, whatever the device: between them a process may wait for hours, which NCCL does on a
        # GPU that is kept busy by it.
        dist.init_process_group("gloo", rank=ranks.rank, world_size=ranks.size, timeout=TIMEOUT)
    try:
        yield ranks
    except OutOfStepError:  # to close what others still wait in could wait as well: the end of the process closes it
        raise
    except BaseException:
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


@contextlib.contextmanager
def stepping(ranks: Ranks) -> Iterator[None]:
    """Within, processes wait for each other in ways in which none can be told of a failure: OutOfStepError it is.

    The reason is left where rank 0 finds it when it sees that a process is gone.
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


_REASON = "why a process left in the midst of training"


@contextlib.contextmanager
def _hearing() -> Iterator[None]:
    """What goes wrong within has nothing to do with what was said, but with who is there."""
    try:
        yield
    except RuntimeError as error:  # torch's DistBackendError and the like are
        raise _gone(error) from error


def _is_loss(error: RuntimeError) -> bool:
    """Whether it tells of a connection; gloo has no type of its own for that."""
    return any(word in str(error).lower() for word in ("gloo", "nccl", "connection closed", "connection reset"))


def _gone(error: RuntimeError) -> OutOfStepError:
    with contextlib.suppress(RuntimeError, ValueError):  # the store is gone with rank 0, or never was
        if _store().check([_REASON]):
            return OutOfStepError(_store().get(_REASON).decode())
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return LostError(f"another process of this cell is gone or does not answer ({first})")


def _store() -> Any:
    """Where processes find each other's addresses, and anything else that is put there; kept by rank 0 or torchrun."""
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()
