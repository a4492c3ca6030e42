"""The plan of a U-Net: its modules in order, with resolutions, widths and attention (Ho et al. 2020, DDPM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Step:
    """One module of the encoding or decoding half: a convolution or a block.

    resolution: of its output. width_in: channels that come in, a concatenated skip included.
    attention: whether self-attention is asked for; a narrow block may have no head for it.
    """

    kind: Literal["conv", "down", "up", "in", "block"]
    number: int | None
    resolution: int
    width_in: int
    width_out: int
    attention: bool = False

    @property
    def name(self) -> str:
        """Key of the module: `32x32_conv`, `16x16_down`, `8x8_in0`, `16x16_block3`."""
        return f"{self.resolution}x{self.resolution}_{self.kind}{'' if self.number is None else self.number}"


def levels_for(resolution: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """channel_mult and attn_resolutions for images of this size, where a configuration has null for them.

    Levels are halved while they are even and above 8. Their width is doubled from 32 down; the largest of at most 16
    attends. For 32 and 64 this is DDPM++ as EDM configures it: (2, 2, 2) and (1, 2, 2, 2), with attention at 16.

    Raises:
        ValueError: the last level is above 64, too large for the attention at the bottom.
    """
    sizes = [resolution]
    while sizes[-1] > 8 and sizes[-1] % 2 == 0:
        sizes.append(sizes[-1] // 2)
    if sizes[-1] > 64:
        raise ValueError(
            f"{resolution}×{resolution} images can only be halved to {sizes[-1]}×{sizes[-1]}, which is too large for a "
            "last level: choose a size with more factors of 2, with data.resolution for your own images"
        )
    attends = [size for size in sizes if size <= 16][:1]
    return tuple(2 if size <= 32 else 1 for size in sizes), tuple(attends)


def encoder_steps(
    resolution: int, width_in: int, first: int, widths: Sequence[int], blocks: int, attention: Sequence[int]
) -> list[Step]:
    """The encoding half: a convolution to `first` channels, then `blocks` blocks a level. Each output is a skip.

    attention: the resolutions at which every block attends.

    Raises:
        ValueError: the resolution cannot be halved once a level.
    """
    if resolution % 2 ** (len(widths) - 1):
        raise ValueError(
            f"channel_mult has {len(widths)} levels, but {resolution}×{resolution} images cannot be halved "
            f"{len(widths) - 1} times"
        )
    steps = [Step("conv", None, resolution, width_in, first)]
    for level, width in enumerate(widths):
        size, before = resolution >> level, steps[-1].width_out
        if level:
            steps.append(Step("down", None, size, before, before))
        for number in range(blocks):
            steps.append(Step("block", number, size, steps[-1].width_out, width, size in attention))
    return steps


def decoder_steps(
    encoder: Sequence[Step], widths: Sequence[int], blocks: int, attention: Sequence[int], *, last_only: bool
) -> list[Step]:
    """The decoding half: two blocks without skips at the bottom, then `blocks` + 1 a level, each with a skip.

    last_only: attention only in the last block of a level; the first block at the bottom always attends.
    """
    skips, size, width = [step.width_out for step in encoder], encoder[-1].resolution, widths[-1]
    steps = [Step("in", 0, size, width, width, attention=True), Step("in", 1, size, width, width)]
    for level, width in reversed(list(enumerate(widths))):
        size, before = encoder[0].resolution >> level, steps[-1].width_out
        if level < len(widths) - 1:
            steps.append(Step("up", None, size, before, before))
        for number in range(blocks + 1):
            attends = size in attention and (number == blocks or not last_only)
            steps.append(Step("block", number, size, steps[-1].width_out + skips.pop(), width, attends))
    return steps


def heads_per_64_channels(step: Step) -> int | None:
    """ADM's and EDM2's number of heads, C // 64; None where the step does not attend.

    Raises:
        ValueError: the channels cannot be divided among the heads.
    """
    if not step.attention:
        return None
    heads = step.width_out // 64
    if heads and step.width_out % heads:
        raise ValueError(f"{step.name} has {step.width_out} channels, which cannot be divided among {heads} heads")
    return heads
