"""How many GPUs the cells of a machine may use: nvidia-smi counts them, CUDA_VISIBLE_DEVICES chooses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from consistency_bench.benchmarks.common.gpus import visible_gpus

MIG = "MIG-GPU-5c89852c/7/0"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that are found first."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


def put_nvidia_smi(programs: Path, gpus: int, status: int = 0) -> None:
    """A program that lists so many GPUs as nvidia-smi does, each with an instance of its own."""
    lines = [
        f"GPU {n}: NVIDIA A100-SXM4-40GB (UUID: GPU-{n})\n  MIG 1g.5gb  Device  0: (UUID: MIG-{n})" for n in range(gpus)
    ]
    program = programs / "nvidia-smi"
    listing = "\n".join(lines)
    program.write_text(f"#!/bin/sh\n[ \"$*\" = -L ] || exit 2\ncat <<'END'\n{listing}\nEND\nexit {status}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("setting", "listed", "seen"),
    [
        (None, 2, ("0", "1")),
        (None, 0, ()),
        ("", 2, ()),
        ("-1", 2, ()),
        ("NoDevFiles", 2, ()),
        ("1", 2, ("1",)),
        ("1, 0", 2, ("1", "0")),
        ("0,2,1", 2, ("0",)),
        ("0,-1,1", 2, ("0",)),
        ("0,0", 2, ()),
        ("0", 0, ()),
        ("GPU-0,GPU-1", 2, ("GPU-0", "GPU-1")),
        ("GPU-0", 0, ()),
        (f"{MIG},MIG-1", 1, (MIG, "MIG-1")),
        ("9" * 5000, 2, ()),
    ],
)
def test_what_cuda_shows_is_counted(
    programs: Path, setting: str | None, listed: int, seen: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_nvidia_smi(programs, listed)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert visible_gpus() == seen


@pytest.mark.parametrize("broken", [True, False])
def test_without_an_answer_of_nvidia_smi_pytorch_counts(
    programs: Path, broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if broken:
        put_nvidia_smi(programs, 3, status=9)
    else:
        monkeypatch.setenv("PATH", str(programs))
    assert visible_gpus() == tuple(str(number) for number in range(torch.cuda.device_count()))
