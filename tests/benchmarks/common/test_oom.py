"""Which number of images per pass is taken where memory runs out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consistency_bench.benchmarks.common.oom import Memory, TooLargeError


def fit(memory: Memory, most: int) -> list[int]:
    """The sizes that are tried where passes of up to `most` images fit."""
    tried: list[int] = []

    def run(size: int) -> int:
        tried.append(size)
        if size > most:
            raise MemoryError
        return size

    assert memory.fit(run) == memory.micro_batch == tried[-1]
    return tried


def test_a_size_is_taken_only_if_a_quarter_more_fits() -> None:
    assert fit(Memory("split", 800), 800) == [800]
    assert fit(Memory("split", 800), 500) == [800, 500, 400]
    assert fit(Memory("split", 800), 499) == [800, 500, 250, 200]


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_what_is_taken_has_room_and_is_no_smaller_than_it_has_to_be(size: int, most: int) -> None:
    *_, taken = fit(Memory("split", size), most)
    assert taken + taken // 4 <= most or taken == size <= most
    assert taken > most // 3 or taken == size


def test_the_size_is_named_or_there_is_none() -> None:
    with pytest.raises(TooLargeError, match="a pass of 800 images does not fit into memory, passes of 200 do"):
        fit(Memory("stop", 800), 499)
    with pytest.raises(TooLargeError, match="a pass of a single image does not fit"):
        fit(Memory("split", 800), 0)
