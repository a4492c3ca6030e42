"""What a cell keeps of its weights: two checkpoints to resume from, and averaged snapshots to evaluate.

Both carry a SHA-256, so that a file cut short or with a bit flipped is never taken for what was written. A checkpoint
has it as the comment of its zip archive, a snapshot among its metadata: other programs read both as ever.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..common.files import DamagedError, atomic_path, keep_copy
from ..common.seal import SealingWriter, check_seal
from ..config.averages import HEADLINE
from ..runs.folder import Run

LAST, PREVIOUS = "last.pt", "previous.pt"
SECTIONS = ("weights", "averages", "optimizer", "state")
_DIGEST = "sha256"
log = logging.getLogger(__name__)


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write the whole state of training to `checkpoints/last.pt`, atomically; what was there is kept as `previous.pt`.

    Raises OSError where it cannot be written; both files are then what they were, or one of them is the other's copy.
    """
    last = folder / "checkpoints" / LAST
    with atomic_path(last) as temporary:
        with temporary.open("wb", buffering=0) as file:
            sink = _Sink(SealingWriter(file))
            try:
                torch.save(state, sink)  # type: ignore[arg-type]  (all it needs is `write`)
            except RuntimeError:
                if sink.error is None:
                    raise
                raise sink.error from None
            sink.file.seal()
        if last.exists():
            keep_copy(last, last.with_name(PREVIOUS))


def load_checkpoint(folder: Path, device: torch.device, name: str = LAST) -> dict[str, Any] | None:
    """The state that a checkpoint holds; None where there is none. Only tensors and plain containers are unpickled.

    Raises DamagedError where the file is not what was written, OSError or a lack of memory where that is not its fault.
    """
    path = folder / "checkpoints" / name
    if not path.exists():
        return None
    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        check_seal(path)
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, torch.OutOfMemoryError):
        raise
    except MemoryError as error:
        bytearray(path.stat().st_size)  # raises, too, unless the file asks for more than it can hold
        raise DamagedError(f"the checkpoint {path} cannot be read ({_reason(error)})") from None
    except Exception as error:  # a damaged or foreign file may fail in any way
        raise DamagedError(f"the checkpoint {path} cannot be read ({_reason(error)})") from None
    if not isinstance(state, dict) or not all(isinstance(state.get(section), dict) for section in SECTIONS):
        raise DamagedError(f"the checkpoint {path} cannot be read (it lacks one of: {', '.join(SECTIONS)})")
    return state


def readable_checkpoints(folder: Path, device: torch.device, damaged: list[str]) -> Iterator[dict[str, Any]]:
    """The states of the generations that can be read, the newest first, each loaded when it is asked for.

    The names of those that cannot be are added to `damaged`, and said in the log.
    """
    for name in (LAST, PREVIOUS):
        try:
            state = load_checkpoint(folder, device, name)
        except DamagedError as error:
            log.warning("%s", error)
            damaged.append(name)
            continue
        if state is not None:
            yield state


class _Sink:
    """A file for torch.save, which makes its own of every error: `error` is the one that the file raised."""

    def __init__(self, file: SealingWriter) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        content = memoryview(data).cast("B")
        try:
            self.file.write(content)
        except OSError as error:
            self.error = error
            raise
        return len(content)

    def flush(self) -> None:
        pass


def snapshot_path(folder: Path, images: int, ema: str = HEADLINE) -> Path:
    """Where the weights averaged by the profile of this name lie."""
    return Run(folder).weights(images, ema)


def save_snapshot(folder: Path, images: int, average: nn.Module, ema: str = HEADLINE) -> None:
    """Keep the averaged weights after `images` images, atomically."""
    tensors = {name: value.contiguous() for name, value in average.state_dict().items()}
    with atomic_path(snapshot_path(folder, images, ema)) as temporary:
        try:
            save_file(tensors, temporary, metadata={_DIGEST: _digest(tensors)})
        except SafetensorError as error:  # which is no OSError, whatever its cause
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, _reason(error)) from None


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
        average.load_state_dict(read_snapshot(path))
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise DamagedError(
            f"the snapshot {path} cannot be read ({_reason(error)}): remove the cell and train it again"
        ) from None


def damaged_snapshots(paths: list[Path]) -> list[Path]:
    """Those of the files that are there and are not what was written; each is said in the log."""
    damaged = []
    for path in paths:
        try:
            if path.exists():
                read_snapshot(path)
        except (OSError, SafetensorError, ValueError) as error:
            log.warning("the snapshot %s is damaged (%s): it is going to be made again", path, _reason(error))
            damaged.append(path)
    return damaged


def read_snapshot(path: Path) -> dict[str, Tensor]:
    """Raises OSError, SafetensorError, or ValueError for a checksum that is missing or wrong."""
    with safe_open(path, "pt") as file:
        written = (file.metadata() or {}).get(_DIGEST)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    if _digest(tensors) != written:
        raise ValueError("its checksum is missing or not that of its content")
    return tensors


def _digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bits, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _reason(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
