"""Whether a training repeats to the last bit: again, in a new process, after a stop, after non-finite steps."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.precision import repeatable
from .check import Finding, Machine, Sizes
from .models import BATCH, small
from .training import in_precision, trainer_of

STEPS = 12
NOT_FINITE = (5, 6, 9)
"""Steps whose loss is replaced by NaN, by their number from 0."""

Digests = dict[str, str]


def weights_repeat(machine: Machine, precision: str) -> Finding:
    """The number of runs whose weights, averages or optimiser state differ from those of the same training."""
    runs = {"first": digests(machine, precision)}
    for name, options in {"again": {}, "stopped and resumed": {"stop": 7}}.items():
        machine.require_time(f"{len(runs)} runs")
        runs[name] = digests(machine, precision, **options)
    machine.require_time(f"{len(runs)} runs")
    runs["new process"] = _in_a_new_process(machine, precision)
    faulty = {every: digests(machine, precision, every=every, faulty=True) for every in (1, 4)}
    differing = [name for name, found in runs.items() if found != runs["first"]]
    if faulty[1] != faulty[4]:
        differing.append("NaN injected")
    if faulty[1] == runs["first"]:
        raise RuntimeError("NaN in place of losses had no effect")
    return Finding(len(differing), "runs", 0, runs["first"], ", ".join(differing))


def digests(machine: Machine, precision: str, *, every: int = 4, stop: int = 0, faulty: bool = False) -> Digests:
    """SHA-256 of weights, averages and optimiser state after a training of ECT with a small DDPM++.

    every: steps between two checks of finiteness. stop: the question after which the training is stopped and resumed.
    faulty: whether some losses are NaN.
    """
    settings = (
        "network.dropout=0.3",
        f"train.precision={precision}",
        f"run.check_every={every}",
        "train.max_skipped=9",
    )
    config = small("ect", "ddpmpp", *settings, device=machine.device.type, steps=STEPS)
    questions = itertools.count(1)
    with tempfile.TemporaryDirectory(dir=machine.folder) as folder, in_precision(precision):
        inner = replace(machine, folder=Path(folder))
        if stop:
            trainer_of(config, inner, "run").train(lambda: next(questions) >= stop)
        trainer = trainer_of(config, inner, "run")
        if faulty:
            plain = trainer.forward_backward

            def broken(vote: bool) -> Tensor:
                values = plain(vote)
                if trainer.state.images // BATCH in NOT_FINITE:
                    values[0] = values[-1] = math.nan  # the loss and the norm of the gradient
                return values

            trainer.forward_backward = broken  # type: ignore[method-assign]
        outcome = trainer.train()
        if outcome.state != "done":
            raise RuntimeError(f"training ended as {outcome.state} after {outcome.images} images")
        state = trainer.state_dict()
    return {name: _digest(state[name]) for name in ("weights", "averages", "optimizer")}


def _digest(value: Any) -> str:
    """SHA-256 of nested containers of tensors and plain values."""
    digest = hashlib.sha256()
    for path, leaf in _leaves(value, ()):
        digest.update(json.dumps(path).encode())
        if isinstance(leaf, Tensor):
            digest.update(leaf.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(leaf).encode())
    return digest.hexdigest()


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _leaves(inner, (*path, str(number)))
    else:
        yield path, value


def _in_a_new_process(machine: Machine, precision: str) -> Digests:
    arguments = (str(machine.device), precision, str(machine.folder))
    done = subprocess.run([*machine.again, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"a new process ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(device: str, precision: str, folder: str) -> None:
    """Print the digests of the training as JSON."""
    sizes = Sizes(*[0] * 6)
    machine = Machine(torch.device(device), sizes, Path(folder), ())
    torch.set_num_threads(1)
    with repeatable(machine.device):
        print(json.dumps(digests(machine, precision)))
