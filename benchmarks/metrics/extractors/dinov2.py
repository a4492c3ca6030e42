"""DINOv2 ViT-L/14: features that agree better with people than Inception's (Stein et al. 2023).

Oquab et al. 2023. Own module; the weights are those that torch.hub downloads (1.2 GB, Apache-2.0), and torch.hub's
folder is searched too. The Fréchet distance between these features is called FD-DINOv2 elsewhere, and is not FID.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import preprocessing, weight_files
from .network import FeatureNetwork

NAME = "dinov2"

#: 224×224 pixels by Pillow's bicubic resize, and the mean and deviation of ImageNet.
PREPARATION = preprocessing.Preparation(
    224, preprocessing.bicubic, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), clamp=True
)


class Attention(nn.Module):
    """Self-attention over all tokens, [N, T, D] to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width))


class Mlp(nn.Module):
    """Two layers with GELU in between, where they are four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Scale(nn.Module):
    """One learned factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Attention, then two layers applied to each token; both are added to their input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.ls1 = Scale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)
        self.ls2 = Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Patches to tokens: [N, 3, H, W] to [N, H·W/patch², D]."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class DinoV2(nn.Module):
    """float32 [N, 3, H, W], prepared, to features [N, width]: the class token after the last layer.

    H and W are multiples of the patch.

    Parameters carry the published names. grid: patches along a side that positions were learned for (518/14).
    """

    def __init__(self, width: int = 1024, depth: int = 24, heads: int = 16, patch: int = 14, grid: int = 37) -> None:
        super().__init__()
        self.grid = grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # of the pre-training; in the file, not used
        self.patch_embed = PatchEmbed(width, patch)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        patch = self.patch_embed.proj.kernel_size[0]
        rows, columns = (side // patch for side in x.shape[-2:])
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)], dim=1)
        x = tokens + self._positions(rows, columns)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Positions interpolated to another grid of patches, with the published offset of 0.1."""
        if (rows, columns) == (self.grid, self.grid):
            return self.pos_embed
        learned = self.pos_embed[:, 1:].view(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        factors = ((rows + 0.1) / self.grid, (columns + 0.1) / self.grid)
        moved = F.interpolate(learned, scale_factor=factors, mode="bicubic", antialias=False)
        return torch.cat([self.pos_embed[:, :1], moved.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def load(path: Path) -> DinoV2:
    """The network with the published weights. Raises DamagedError for any other file."""
    weight_files.check_sha256(NAME, path)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        network = DinoV2()
    network.load_state_dict(weights, assign=True)
    return network.eval()


DINOV2 = FeatureNetwork(
    name=NAME, digest=weight_files.NETWORK_FILES[NAME].sha256 or "", load=load, protocols={"": PREPARATION}
)
"""1,024 features of uint8 images [N, C, H, W], C of 1 or 3, of any size. Needs a GPU in practice."""
