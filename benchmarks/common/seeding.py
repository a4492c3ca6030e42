"""Random streams by name: every random number of a run has an address, and no state is carried between steps.

A stream is seeded by a stable hash of what it is for and where it stands (seed, images seen, …). A resumed run
therefore draws what an uninterrupted one would, and streams that do not name the method (initial weights, data
order, evaluation noise) are common to all methods, which makes paired comparisons valid.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(stream: str, *address: int | str) -> int:
    """A seed in [0, 2⁶³) for this stream at this address; the same on every machine and in every process."""
    text = "/".join([stream, *map(str, address)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(stream: str, *address: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator of this stream on `device`."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(stream, *address))


@contextlib.contextmanager
def default_generator(stream: str, *address: int | str, device: torch.device | str = "cpu") -> Iterator[None]:
    """Within, the default generators (initialisation, dropout) follow this stream; afterwards they are restored."""
    import torch

    device, seed = torch.device(device), derive(stream, *address)
    if device.type == "cpu":  # without fork_rng and torch.manual_seed, whose Python would be 1 % of a small step
        before = torch.default_generator.get_state()
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            torch.default_generator.set_state(before)
    else:
        with torch.random.fork_rng(devices=[device], device_type=device.type):
            torch.manual_seed(seed)
            yield
