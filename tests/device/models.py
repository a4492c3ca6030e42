"""Which combinations of method, network and setting are tried."""

from __future__ import annotations

from consistency_bench.benchmarks.doctor.models import METHODS, NETWORKS

SETTINGS = {"fp32": (), "bf16": ("train.precision=bf16",), "conditional": ("data.conditional=true",)}


def covering() -> list[tuple[str, str, str]]:
    """(method, network, setting): two of each method, and all pairs of a network and a setting."""
    names, networks, settings = METHODS, list(NETWORKS), list(SETTINGS)
    return [
        (method, networks[(number + 2 * turn) % len(networks)], settings[(number + turn) % len(settings)])
        for turn in range(2)
        for number, method in enumerate(names)
    ]
