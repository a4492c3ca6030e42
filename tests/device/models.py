"""Small models of every network and method, for trials on the device."""

from __future__ import annotations

import torch

from consistency_bench.benchmarks.common.seeding import generator
from consistency_bench.benchmarks.config.compose import compose_cells
from consistency_bench.benchmarks.config.schema import RunConfig
from consistency_bench.benchmarks.data.base import Dataset

METHODS = ("ict", "ect", "sct", "vct", "ict+ot", "ect+ot", "ict+vc", "sct+vc", "ect+gc", "ict+gc")
_UNET = ("network.channel_mult=[1,1]", "network.blocks=1", "network.attn_resolutions=[4]")
NETWORKS = {
    "mlp": ("network.width=16", "network.blocks=1", "network.dropout=0.1"),
    "ddpmpp": ("network.channels=8", *_UNET),
    "ncsnpp": ("network.kind=ncsnpp", "network.channels=8", *_UNET),
    "adm": ("network.kind=adm", "network.channels=64", *_UNET),
    "edm2": ("network.kind=edm2", "network.channels=64", *_UNET),
}
SETTINGS = {"fp32": (), "bf16": ("train.precision=bf16",), "conditional": ("data.conditional=true",)}
BATCH = 16


def dataset(size: int = 8) -> Dataset:
    """60 random images of three classes."""
    rng = generator("device tests")
    images = torch.randint(256, (60, 3, size, size), generator=rng, dtype=torch.uint8)
    return Dataset("cifar10", images, torch.randint(3, (60,), generator=rng), 3)


def config(method: str, network: str, *settings: str, device: str = "cpu", steps: int = 40) -> RunConfig:
    """A cell of that many steps; settings replace those of the same key."""
    benchmark = "benchmark=digits" if network == "mlp" else "benchmark=cifar10"
    usual = (
        benchmark,
        *NETWORKS[network],
        f"train.batch={BATCH}",
        f"train.images={BATCH * steps}",
        "eval.metrics=[fd_pixels8_1k]",
        "run.snapshots=2",
        f"run.device={device}",
    )
    named = {text.partition("=")[0]: text for text in (*usual, *settings)}
    return compose_cells([method], [0], list(named.values()))[0].config


def covering() -> list[tuple[str, str, str]]:
    """(method, network, setting): two of each method, and all pairs of a network and a setting."""
    names, networks, settings = METHODS, list(NETWORKS), list(SETTINGS)
    return [
        (method, networks[(number + 2 * turn) % len(networks)], settings[(number + turn) % len(settings)])
        for turn in range(2)
        for number, method in enumerate(names)
    ]
