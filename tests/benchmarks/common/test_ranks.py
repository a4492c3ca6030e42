"""Ranks of processes: their shares of a batch, and the environment that describes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consistency_bench.benchmarks.common.distributed import (
    ALONE,
    VARIABLES,
    Ranks,
    check_batch,
    joined,
    ranks_from_environment,
)
from consistency_bench.benchmarks.common.errors import UsageError


@given(st.integers(1, 40), st.integers(0, 400))
def test_shares_are_whole_in_order_and_even(size: int, more: int) -> None:
    count = size + more
    shares = [Ranks(rank, size).rows(count) for rank in range(size)]
    assert [row for share in shares for row in range(count)[share]] == list(range(count))
    lengths = {len(range(count)[share]) for share in shares}
    assert min(lengths) >= 1
    assert max(lengths) - min(lengths) <= 1


@given(st.integers(2, 40), st.data())
def test_every_process_must_get_a_row(size: int, data: st.DataObject) -> None:
    count, rank = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    with pytest.raises(UsageError, match=f"a batch of {count} cannot be shared by {size} processes"):
        Ranks(rank, size).rows(count)
    check_batch(size, size)


def test_a_single_process_sends_no_message() -> None:
    value = object()
    assert ALONE.is_writer
    assert ALONE.rows(7) == slice(0, 7)
    assert ALONE.exchange(value) == [value]
    assert ALONE.broadcast(value) is value
    assert ALONE.gather(value) == [value]
    assert (ALONE.agree(True), ALONE.agree(False)) == (True, False)
    ALONE.barrier()
    ALONE.fail(ValueError("there is no peer"))
    with joined(ALONE) as ranks:
        assert ranks is ALONE


def test_streams_of_one_s_own_leave_those_of_rank_0_as_they_are() -> None:
    assert [Ranks(rank, 3).address for rank in range(3)] == [(), (1,), (2,)]


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}


def test_the_environment_says_who_is_there() -> None:
    assert ranks_from_environment({}) == ALONE
    assert ranks_from_environment({"RANK": "", "PATH": "/bin"}) == ALONE
    assert ranks_from_environment(TORCHRUN) == Ranks(3, 8, 1)
    assert ranks_from_environment({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}) == ALONE


@pytest.mark.parametrize("name", VARIABLES)
def test_half_an_environment_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"set, but not {name}: several processes need all of RANK, WORLD_SIZE"):
        ranks_from_environment({key: value for key, value in TORCHRUN.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RANK", "8", "process 8 of 8"),
        ("RANK", "-1", "process -1 of 8"),
        ("WORLD_SIZE", "many", "WORLD_SIZE is 'many', must be a whole number"),
        ("MASTER_PORT", "ssh", "MASTER_PORT is 'ssh'"),
    ],
)
def test_numbers_that_cannot_be_are_refused(name: str, value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ranks_from_environment({**TORCHRUN, name: value})
