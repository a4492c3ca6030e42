"""A checkout of sony/vct, the published code of VCT, driven to train the same network on the same images.

Its loss and networks are imported from the checkout; the update is that of `plain`, as its Lightning module describes
it. Lightning and POT, which it imports, are replaced where they are not installed: their functions are not timed.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..common.errors import UsageError
from ..config.schema import RunConfig
from ..data.base import Dataset
from ..training.model import build_model
from .plain import host_batches, with_update
from .steps import Step

METHODS = {"ect": "independent", "vct": "vae"}
NEEDED = ("models/ecm.py", "networks/edm_networks.py", "kernels/variance_exploding.py")


def peer_step(checkout: Path, config: RunConfig, dataset: Dataset, device: torch.device) -> Step:
    """The training step of the checkout for ECT or VCT on DDPM++, in float32.

    Raises UsageError if the folder is no such checkout, or the configuration is one that it does not have.
    """
    check_peer(checkout, config)
    coupling, options = METHODS[config.cell.method], dict(config.network)
    channels, resolution, _ = dataset.info.shape
    with importable(checkout):
        ecm, networks, kernels = (importlib.import_module(name[:-3].replace("/", ".")) for name in NEEDED)

    def network(width: int, blocks: int, out: int) -> torch.nn.Module:
        return networks.SongUNet(
            img_resolution=resolution,
            in_channels=channels,
            out_channels=out,
            model_channels=width,
            channel_mult=list(options["channel_mult"]),
            num_blocks=blocks,
            dropout=options["dropout"],
        )

    process = config.method.parts["process"]
    model = ecm.EasyConsistencyModel(
        net=network(options["channels"], options["blocks"], channels),
        total_training_steps=config.budget_images // config.train.batch,
        kernel=kernels.VarianceExplodingKernel(0.003, process.get("sigma_max", 80.0), process.get("sigma_data", 0.5)),
        coupling=coupling,
        kl_loss_scale=config.method.parts["coupling"].get("kl_weight", 0.0),
        encoder=network(32, 1, 2 * channels) if coupling == "vae" else None,
    )
    model.to(device).train()
    batches = host_batches(build_model(config, dataset, torch.device("cpu")), config.train.batch)

    def gradient() -> Tensor:
        _, x, _ = next(batches)
        total, terms = model.loss(x.to(device), 0)
        total.backward()
        for value in (total, *terms.values()):
            value.item()
        return total

    return with_update(gradient, model, config)


def check_peer(checkout: Path, config: RunConfig) -> None:
    """Raise UsageError for what `peer_step` cannot drive."""
    if missing := [name for name in NEEDED if not (checkout / name).is_file()]:
        raise UsageError(f"--peer {checkout} is no checkout of sony/vct: {missing[0]} is not there")
    if config.cell.method not in METHODS:
        raise UsageError(f"--peer has the methods {', '.join(METHODS)}, not {config.cell.method}")
    if config.network["kind"] != "ddpmpp":
        raise UsageError(f"--peer has network.kind=ddpmpp, not {config.network['kind']}")


@contextlib.contextmanager
def importable(checkout: Path) -> Iterator[None]:
    """Within, the packages of the checkout can be imported, and those that it needs for other purposes are replaced."""
    stand_ins = {
        "lightning": {},
        "lightning.pytorch": {},
        "lightning.pytorch.utilities": {},
        "lightning.pytorch.utilities.seed": {"isolate_rng": torch.random.fork_rng},
        "ot": {},
    }
    absent = [name for name in stand_ins if importlib.util.find_spec(name.partition(".")[0]) is None]
    for name in absent:
        module = types.ModuleType(name)
        vars(module).update(stand_ins[name])
        sys.modules[name] = module
    sys.path.insert(0, str(checkout))
    try:
        yield
    except ImportError as error:
        raise UsageError(f"--peer {checkout} cannot be imported: {error}") from None
    finally:
        sys.path.remove(str(checkout))
        for name in absent:
            del sys.modules[name]
