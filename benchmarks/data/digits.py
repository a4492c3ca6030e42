"""`digits`: scikit-learn's 1,797 real scans of handwritten digits, 8×8 grey, shipped inside its wheel.

They are the test part of the UCI data set "Optical Recognition of Handwritten Digits".
"""

from __future__ import annotations

import torch

from .base import DataInfo, Dataset


class Digits:
    """All scans, uint8 [1797, 1, 8, 8]; ten classes.

    A scan counts ink from 0 to 16; that range is stretched to 0 … 255 as round(v · 255/16).
    """

    def describe(self) -> DataInfo:
        return DataInfo(name="digits", count=1797, shape=(1, 8, 8), classes=10)

    def load(self) -> Dataset:
        from sklearn.datasets import load_digits

        pixels, classes = load_digits(return_X_y=True)
        ink = torch.from_numpy(pixels).reshape(-1, 1, 8, 8)
        images = (ink * (255 / 16)).round().to(torch.uint8)
        return Dataset("digits", images, torch.from_numpy(classes).long(), classes=10)
