"""Random streams have fixed addresses: in any process, on any machine, whatever was drawn before."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from consistency_bench.benchmarks.common.seeding import default_generator, derive, generator

#: Changing one of these changes every number that the suite has ever produced.
KNOWN = {
    ("init network", 0): 6_551_930_033_632_309_334,
    ("training noise", 3, 256): 8_993_904_704_270_943_947,
    ("latents", "digits", 0, 1, 2): 6_106_778_908_566_781_382,
}


@pytest.mark.parametrize(("address", "seed"), KNOWN.items(), ids=[address[0] for address in KNOWN])
def test_seeds_are_fixed_for_all_time(address: tuple[str | int, ...], seed: int) -> None:
    assert derive(*address) == seed  # type: ignore[arg-type]


def test_seeds_do_not_depend_on_the_process() -> None:
    code = "from consistency_bench.benchmarks.common.seeding import derive; import sys; print(derive('x', 'é', 7));"
    code += "assert 'torch' not in sys.modules"
    seeds = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": hashing}, capture_output=True, text=True, check=True
        ).stdout
        for hashing in ("0", "1")
    }
    assert seeds == {f"{derive('x', 'é', 7)}\n"}


def test_no_two_addresses_share_a_seed() -> None:
    streams = ("init network", "init modules", "training noise", "dropout", "data order", "latents")
    addresses = [(stream, seed, images) for stream in streams for seed in range(20) for images in range(0, 10240, 256)]
    assert len({derive(*address) for address in addresses}) == len(addresses)


def test_a_generator_neither_reads_nor_moves_the_default_one() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = torch.rand(4, generator=generator("x", 0))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(torch.rand(4, generator=generator("x", 0)), first)


def test_streams_are_uncorrelated() -> None:
    one, other = (torch.randn(100_000, generator=generator("latents", "digits", draw)) for draw in (0, 1))
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.02


def test_the_default_generator_follows_the_stream_and_is_restored() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    seen = []
    for before in (1, 2):
        torch.manual_seed(before)
        with default_generator("x", 0):
            seen.append(torch.rand(3))
            with default_generator("y", 0):
                torch.rand(7)
            seen.append(torch.rand(3))
    torch.manual_seed(1)
    with default_generator("x", 0):
        torch.rand(50)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])  # the inner stream left the outer one where it was


def test_the_default_generator_is_restored_after_an_error() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()

    def fail() -> None:
        with default_generator("x", 0):
            torch.rand(3)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert torch.equal(torch.get_rng_state(), state)
