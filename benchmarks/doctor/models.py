"""Small models of every network and method, and the DDPM++ of CIFAR-10, on random images."""

from __future__ import annotations

import torch

from ..common.seeding import generator
from ..config.compose import compose_cells
from ..config.schema import RunConfig
from ..data.base import Dataset

METHODS = ("edm", "ict", "ect", "sct", "vct", "ict+ot", "ect+ot", "ict+vc", "sct+vc", "ect+gc", "ict+gc")
BATCH = 16

_UNET = ("network.channel_mult=[1,1]", "network.blocks=1", "network.attn_resolutions=[4]")
NETWORKS = {
    "mlp": ("network.width=16", "network.blocks=1", "network.dropout=0.1"),
    "ddpmpp": ("network.channels=8", *_UNET),
    "ncsnpp": ("network.kind=ncsnpp", "network.channels=8", *_UNET),
    "adm": ("network.kind=adm", "network.channels=64", *_UNET),
    "edm2": ("network.kind=edm2", "network.channels=64", *_UNET),
}


def dataset(size: int = 8, count: int = 60) -> Dataset:
    """Random images [count, 3, size, size] of three classes."""
    rng = generator("device tests")
    images = torch.randint(256, (count, 3, size, size), generator=rng, dtype=torch.uint8)
    return Dataset("cifar10", images, torch.randint(3, (count,), generator=rng), 3)


def small(method: str, network: str, *settings: str, device: str = "cpu", steps: int = 40) -> RunConfig:
    """A cell of that many steps on images of 8×8; settings replace those of the same key."""
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


def cifar10(channels: int, batch: int, *settings: str) -> RunConfig:
    """A cell of ECT with the DDPM++ of CIFAR-10; with 128 channels it has 55.7 M parameters."""
    sizes = (f"network.channels={channels}", f"train.batch={batch}", "run.on_oom=split", "run.snapshots=1")
    return compose_cells(["ect"], [0], ["benchmark=cifar10", *sizes, *settings])[0].config
