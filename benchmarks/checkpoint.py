"""What a cell keeps of its weights: one checkpoint to resume from, and averaged snapshots to evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from .ema import HEADLINE
from .files import DamagedError, atomic_path


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write the whole state of training to `checkpoints/last.pt`, atomically."""
    with atomic_path(folder / "checkpoints" / "last.pt") as temporary:
        torch.save(state, temporary)


def load_checkpoint(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The state last saved, or None. Nothing but tensors and plain containers is ever unpickled."""
    path = folder / "checkpoints" / "last.pt"
    if not path.exists():
        return None
    return torch.load(path, map_location=device, weights_only=True)


def snapshot_path(folder: Path, images: int, ema: str = HEADLINE) -> Path:
    """Where the weights averaged by the profile of this name lie."""
    return folder / "snapshots" / f"{images:012d}{ema and f'-{ema}'}.safetensors"


def save_snapshot(folder: Path, images: int, average: nn.Module, ema: str = HEADLINE) -> None:
    """Keep the averaged weights after `images` images, atomically."""
    with atomic_path(snapshot_path(folder, images, ema)) as temporary:
        save_file({name: value.contiguous() for name, value in average.state_dict().items()}, temporary)


def kept_snapshots(folder: Path) -> list[int]:
    """After how many images the headline's snapshots in a cell's folder were taken, rising."""
    stems = (path.stem for path in (folder / "snapshots").glob("*.safetensors"))
    return sorted(int(stem) for stem in stems if stem.isdigit())


def load_snapshot(folder: Path, images: int, average: nn.Module, ema: str = HEADLINE) -> None:
    """Load the averaged weights after `images` images; names and shapes must match exactly.

    Raises DamagedError where the file is missing, damaged or of another network.
    """
    path = snapshot_path(folder, images, ema)
    try:
        average.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DamagedError(
            f"the snapshot {path} cannot be read ({reason}): remove the cell and train it again"
        ) from None
