"""The NVIDIA GPUs that the processes of this machine see."""

from __future__ import annotations

import os
import re
import subprocess
from itertools import takewhile

TIMEOUT_SECONDS = 60.0  # a server that keeps no driver loaded starts eight GPUs first


def visible_gpus() -> tuple[str, ...]:
    """Their names as in CUDA_VISIBLE_DEVICES: numbers, GPU-… or MIG-….

    nvidia-smi counts them, in containers and WSL2, too; where it is missing, PyTorch does.
    """
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = None if setting is None else _named(setting)
    if named == ():
        return ()
    count = _listed()
    if count is None:
        import torch

        count = torch.cuda.device_count()  # of the named ones, if any are
        return named[:count] if named else tuple(map(str, range(count)))
    if named is None:
        return tuple(map(str, range(count)))
    return tuple(takewhile(lambda name: not name.isdigit() or int(name) < count, named)) if count else ()


def _named(setting: str) -> tuple[str, ...]:
    """What CUDA makes of a list: the names up to the first that is none, such as -1; nothing if one is repeated."""
    names = [name.strip() for name in setting.split(",")]
    valid = tuple(takewhile(lambda name: re.fullmatch(r"[0-9]{1,4}|(GPU|MIG)-.+", name), names))
    return valid if len(set(valid)) == len(valid) else ()


def _listed() -> int | None:
    """The number of GPUs that nvidia-smi lists; None without an answer."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return len(re.findall(rb"^GPU \d+:", done.stdout, re.MULTILINE)) if done.returncode == 0 else None
