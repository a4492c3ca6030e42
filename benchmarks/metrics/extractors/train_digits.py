"""Train the classifier behind the `digits` metrics and write its weights.

    python -m consistency_bench.benchmarks.metrics.extractors.train_digits --out FILE

It learns from 1,437 of the 1,797 scans and recognises 99.7 % of the other 360 (98.1 % when the last 360 in
scikit-learn's order are held out instead). Random shifts by up to a pixel, small turns and faint noise keep the
features smooth: they tell digits from other images, without memorising scans. The seeds are fixed and one CPU thread
is used, so one machine writes the same file every time; another processor may round differently, so the reference is
the shipped file and not this script.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...data.digits import Digits
from .digits import DigitsClassifier

SEED = 0
EPOCHS = 30
BATCH = 64
HELD_OUT = 360


def split(count: int) -> tuple[Tensor, Tensor]:
    """Indices of the training and the held-out scans, shuffled by NumPy's frozen generator, the same everywhere."""
    order = torch.from_numpy(np.random.RandomState(SEED).permutation(count))
    return order[HELD_OUT:], order[:HELD_OUT]


def augment(x: Tensor, generator: Generator) -> Tensor:
    """Shift by up to one pixel, turn by up to 8 degrees, add Gaussian noise of 0.1: float32 [N, 1, 8, 8]."""
    n = len(x)
    angle = (2 * torch.rand(n, generator=generator) - 1) * math.radians(8)
    shift = (2 * torch.rand(n, 2, generator=generator) - 1) * (2 / x.shape[-1])  # the grid is two units wide
    cos, sin = angle.cos(), angle.sin()
    rows = (torch.stack((cos, -sin, shift[:, 0]), dim=1), torch.stack((sin, cos, shift[:, 1]), dim=1))
    grid = F.affine_grid(torch.stack(rows, dim=1), list(x.shape), align_corners=False)
    moved = F.grid_sample(x + 1, grid, align_corners=False) - 1  # pixels from outside are black
    return moved + 0.1 * torch.randn(x.shape, generator=generator)


def train(x: Tensor, labels: Tensor, epochs: int = EPOCHS) -> DigitsClassifier:
    """A classifier trained on images float32 [N, 1, 8, 8] in [-1, 1] and labels int64 [N]; same input, same weights."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        classifier = DigitsClassifier()
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=1e-3)
    steps = epochs * math.ceil(len(x) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(steps):
        batch = torch.randint(len(x), (BATCH,), generator=generator)
        _, logits = classifier(augment(x[batch], generator))
        optimizer.zero_grad()
        F.cross_entropy(logits, labels[batch]).backward()
        optimizer.step()
        schedule.step()
    return classifier.eval()


@torch.no_grad()
def accuracy(classifier: DigitsClassifier, x: Tensor, labels: Tensor) -> float:
    """The share of correctly classified images, float32 [N, 1, 8, 8] in [-1, 1]."""
    _, logits = classifier(x)
    return float((logits.argmax(dim=1) == labels).double().mean())


def main(arguments: list[str] | None = None) -> None:
    """Train, report the held-out accuracy, write the weights and print their checksum."""
    parser = argparse.ArgumentParser(description="Train the classifier behind the `digits` metrics.")
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument(
        "--epochs", type=int, default=EPOCHS, help="passes over the training scans (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    scans = Digits().load()
    x, labels = scans.to_model(scans.images), scans.labels
    training, held_out = split(len(scans))
    classifier = train(x[training], labels[training], options.epochs)
    content = safetensors.torch.save(classifier.state_dict())
    options.out.write_bytes(content)
    print(f"held-out accuracy {accuracy(classifier, x[held_out], labels[held_out]):.4f} on {len(held_out)} scans")
    print(f"{options.out}: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
