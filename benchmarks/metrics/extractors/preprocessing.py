"""From stored images to the input of a network: resizing and scaling, which published FIDs do in three ways.

What an implementation of FID does between the file and the network moves the value by more than many methods differ
(Parmar et al. 2022, "On Aliased Resizing and Surprising Subtleties in GAN Evaluation"), so it has a name here:

* `clean`: bicubic with antialiasing in floating point, as Pillow does it and clean-fid by default.
* `legacy_tensorflow`: bilinear without antialiasing, from corner to corner, as the network's own graph does it. The
  numbers of papers in the line of EDM, ECT and iCT come from this one.
* `legacy_pytorch`: bilinear without antialiasing, from centre to centre, and x/127.5 − 1 where the graph has
  (x − 128)/128, as pytorch-fid does it.

All of these, antialiased or not, are linear along each side of an image. A resize is therefore two matrix products
with weights that are computed once: whole batches at a time, on any device, with equal results.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Weights = Callable[[int, int], np.ndarray]  # (pixels in, pixels out) -> float64 [out, in], rows of sum 1


def bicubic(pixels: int, out: int) -> np.ndarray:
    """Weights of Pillow's bicubic resize, which widens the kernel when it makes an image smaller.

    The kernel is as wide as the larger of an input's and an output's pixel, cut at the border and normalised. Only
    pixels whose centre is within its radius count, to the nearest pixel, as in Pillow: this decides what is cut off if
    an edge falls between two.
    """
    scale = pixels / out
    width = max(scale, 1.0)
    centres = (np.arange(out)[:, None] + 0.5) * scale
    first = np.trunc(centres - CUBIC_RADIUS * width + 0.5).clip(min=0)
    last = np.trunc(centres + CUBIC_RADIUS * width + 0.5).clip(max=pixels)
    places = np.arange(pixels)[None]
    values = _cubic(np.abs(places + 0.5 - centres) / width)
    values[(places < first) | (places >= last)] = 0
    return values / values.sum(axis=1, keepdims=True)


def bilinear_corners(pixels: int, out: int) -> np.ndarray:
    """Weights of TensorFlow 1's bilinear resize: sample j is taken at j · pixels/out, without a half-pixel shift."""
    return _between(np.arange(out, dtype=np.float32) * np.float32(pixels / out), pixels)


def bilinear_centres(pixels: int, out: int) -> np.ndarray:
    """Weights of PyTorch's bilinear resize without antialiasing: sample j is at (j + ½) · pixels/out − ½."""
    return _between(((np.arange(out) + 0.5) * float(np.float32(pixels / out)) - 0.5).astype(np.float32), pixels)


@dataclass(frozen=True)
class Preparation:
    """How uint8 images become the input of a network.

    size:    pixels of each side of the result.
    weights: the resize along one side.
    mean, std: of the result, (x − mean)/std with x in [0, 255]: one number, or one a channel.
    clamp:   whether values that the resize pushes beyond [0, 255] are clamped first.
    """

    size: int
    weights: Weights
    mean: tuple[float, ...]
    std: tuple[float, ...]
    clamp: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [N, C, H, W], C of 1 or 3, to float32 [N, 3, size, size] on the same device; grey is repeated.

        Raises ValueError for anything else: floats have lost the quantisation that files have, or were never in
        [0, 255].
        """
        check_images(images)
        x = self._resize(images)
        if self.clamp:
            x = x.clamp_(0, 255)
        x = x.expand(-1, 3, -1, -1)
        mean, std = (x.new_tensor(value).view(1, -1, 1, 1) for value in (self.mean, self.std))
        return ((x - mean) / std).contiguous(memory_format=torch.channels_last)

    def _resize(self, images: Tensor) -> Tensor:
        x = images.float()
        height, width = x.shape[-2:]
        if width != self.size:
            x = x @ _matrix(self.weights, width, self.size).to(x).T
        if height != self.size:
            x = _matrix(self.weights, height, self.size).to(x) @ x
        return x


#: The protocols of FID by name; the first one is that of most published values, and the default.
PROTOCOLS: dict[str, Preparation] = {
    "legacy_tensorflow": Preparation(299, bilinear_corners, mean=(128.0,), std=(128.0,)),
    "clean": Preparation(299, bicubic, mean=(128.0,), std=(128.0,), clamp=True),
    "legacy_pytorch": Preparation(299, bilinear_centres, mean=(127.5,), std=(127.5,)),
}


def check_images(images: Tensor) -> None:
    """Raise ValueError unless `images` is uint8 [N, C, H, W] with C of 1 or 3 and at least one pixel."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise ValueError(
            f"images must be uint8 [N, C, H, W] with 1 or 3 channels, got {images.dtype} {list(images.shape)}"
        )


@functools.lru_cache(maxsize=32)
def _matrix(weights: Weights, pixels: int, out: int) -> Tensor:
    return torch.from_numpy(weights(pixels, out))


CUBIC_RADIUS = 2.0


def _cubic(t: np.ndarray) -> np.ndarray:
    """The cubic convolution kernel with a = −½ (Keys 1981) at distances t ≥ 0."""
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return np.where(t < 1, near, np.where(t < 2, far, 0.0))


def _between(places: np.ndarray, pixels: int) -> np.ndarray:
    """Linear interpolation at the given places between pixels 0, 1, …; beyond the border its pixel is repeated.

    Places are float32, as the graph and PyTorch have them: between 0 and 255 their rounding shows in the third digit.
    """
    places = places.clip(0, pixels - 1).astype(np.float64)
    return (1 - np.abs(places[:, None] - np.arange(pixels)[None])).clip(0)
