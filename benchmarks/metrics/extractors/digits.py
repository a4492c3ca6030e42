"""The small classifier whose features the `digits` metrics compare, and its shipped weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ...common.errors import UsageError
from ...common.precision import float32_products
from ...data.base import DataInfo
from .base import Extractor, Features, refuse_protocol

WEIGHTS = Path(__file__).parent / "weights" / "digits_classifier.safetensors"
SHA256 = "c1a0caeb3e508934cabcfa2da93c29ee5189b5a562394cc11f12151cb03db73a"

#: A convention, like the scale of Inception's features: the Fréchet distance between two halves of the real data
#: becomes a few units. Fréchet distances grow with its square.
FEATURE_SCALE = 3.0
BATCH = 500


class DigitsClassifier(nn.Module):
    """Three convolutions and a mean over the image, as the Inception of FID ends: 64 features, then ten logits.

    Without a dense layer before them the features see strokes rather than pixel positions. SiLU keeps them smooth.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_block(1, 32),
            *_block(32, 64, stride=2),
            *_block(64, 64),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: float32 [N, 1, 8, 8] in [-1, 1]. Returns the features [N, 64] and the logits [N, 10]."""
        features = self.body(x)
        return FEATURE_SCALE * features, self.head(features)


def _block(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
    )


def load_digits_classifier(path: Path = WEIGHTS) -> DigitsClassifier:
    """The classifier with its shipped weights, in evaluation mode.

    Raises RuntimeError if the file is not the shipped one: numbers from other weights are not comparable.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise RuntimeError(f"{path} is not the file this version was released with: reinstall consistency-bench")
    with torch.random.fork_rng(
        devices=[]
    ):  # initial values, overwritten at once, must not advance the caller's generator
        classifier = DigitsClassifier()
    classifier.load_state_dict(safetensors.torch.load(content))
    return classifier.eval().requires_grad_(False)


class Digits:
    """The shipped classifier: 64 features and the predicted class of uint8 images [N, 1, 8, 8]."""

    def check(self, data: DataInfo, protocol: str) -> None:
        refuse_protocol("digits", protocol)
        if not data.quantised or data.shape != (1, 8, 8):
            raise UsageError(
                f"the extractor 'digits' reads grey images of 8×8 pixels, which data set {data.name!r} does not hold"
            )

    def build(self, data: DataInfo, device: torch.device, protocol: str) -> Extractor:
        self.check(data, protocol)
        classifier = load_digits_classifier().to(device)

        @torch.no_grad()
        def extract(samples: Tensor) -> Features:
            with float32_products(tf32=False):
                outputs = [classifier(data.to_model(batch.to(device))) for batch in samples.split(BATCH)]
            features, logits = (torch.cat(parts).cpu() for parts in zip(*outputs, strict=True))
            return Features(features.double(), logits.argmax(dim=1))

        return Extractor(f"digits {SHA256[:16]}", extract)
