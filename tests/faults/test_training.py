"""Losses that are not finite, and passes that do not fit into memory."""

from __future__ import annotations

import logging
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from consistency_bench.benchmarks.common.files import read_json, read_jsonl
from consistency_bench.benchmarks.config.compose import compose_cells
from consistency_bench.benchmarks.config.schema import RunConfig
from consistency_bench.benchmarks.runs.folder import RECORDS, STATUS, TRAIN_LOG
from consistency_bench.benchmarks.training.data_order import data_order
from consistency_bench.benchmarks.training.trainer import Outcome

from ..benchmarks.conftest import environment, put, tiny_cell
from ..benchmarks.training.runs import after, left_behind, model_of, trainer_of
from ..benchmarks.training.test_distributed import launched
from .conftest import finish

STEPS = 20
BUDGET = "train.images=5120"  # so many steps of 256 images
Trained = tuple[Outcome, dict[str, bytes], list[dict[str, Any]]]


def trained(
    config: RunConfig,
    folder: Path,
    poisoned: tuple[int, ...] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train with images of the training set that are NaN; snapshots bit for bit, and the log without its speeds."""
    model = model_of(config)
    for index in poisoned:
        model.bank.images[index] = torch.nan
    trainer = trainer_of(config, folder, model=model)
    trainer.log_every_images = 5 * 256  # a check of finiteness comes before every row of the log
    outcome = trainer.train(should_stop)
    return outcome, *left_behind(folder)


def config_of(method: str, *settings: str) -> RunConfig:
    return tiny_cell(method, BUDGET, *settings).config


# Not finite


@pytest.mark.parametrize("method", ["ect", "vct"])
@pytest.mark.parametrize("settings", [(), ("train.clip=1", "train.nonfinite=zero")], ids=["skip", "zero"])
@pytest.mark.parametrize("poisoned", [(), (5, 700)], ids=["sound", "poisoned"])
def test_checks_every_n_steps_give_the_bits_of_checks_at_every_step(
    method: str, settings: tuple[str, ...], poisoned: tuple[int, ...], tmp_path: Path
) -> None:
    run = [
        trained(config_of(method, *settings, f"run.check_every={every}"), tmp_path / str(every), poisoned)
        for every in (1, 3, 16)
    ]
    assert [outcome.state for outcome, _, _ in run] == ["done"] * 3
    assert run[1][1:] == run[0][1:]
    assert run[2][1:] == run[0][1:]
    assert (run[0][2][-1]["skipped"] > 0) == bool(poisoned)
    assert len(run[0][1]) == 2


@pytest.mark.parametrize("stop", [1, 2, 7, STEPS - 1])
def test_a_stop_between_two_checks_changes_no_bit(stop: int, tmp_path: Path) -> None:
    config = config_of("ect", "run.check_every=8", "network.dropout=0.1")
    expected = trained(config, tmp_path / "whole", (5,))
    first = trained(config, tmp_path / "stopped", (5,), after(stop))
    assert first[0].state == "interrupted"
    assert trained(config, tmp_path / "stopped", (5,))[1:] == expected[1:]


def test_a_skipped_step_is_logged_with_its_noise_levels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    config = config_of("ect", "run.check_every=16")
    images = len(model_of(config).bank)
    found = data_order(images, 0, 0, images).tolist().index(5) // 256 + 1
    _, _, rows = trained(config, tmp_path, (5,))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == rows[-1]["skipped"] > 0
    start = f"step {found}, after {256 * (found - 1)} images, skipped: loss nan, gradient norm nan, noise levels from "
    assert said[0].startswith(start)


@pytest.mark.parametrize("every", [1, 4, 16])
def test_more_in_a_row_than_allowed_is_a_divergence_at_the_same_step(every: int, tmp_path: Path) -> None:
    config = config_of("ect", f"run.check_every={every}", "train.max_skipped=3")
    outcome, snapshots, _ = trained(config, tmp_path, tuple(range(len(model_of(config).bank))))
    assert (outcome.state, outcome.images, snapshots) == ("diverged", 4 * 256, {})


class HostReads(TorchDispatchMode):
    """Counts operations for which the host waits for the device: reading a number from a tensor.

    The optimiser's step counts and the schedule of the noise levels are on the CPU, whatever the device.
    """

    ON_THE_CPU = ("torch/optim/", "methods/parts/times.py")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            files = [frame.filename for frame in traceback.extract_stack()]
            self.count += not any(place in file for place in self.ON_THE_CPU for file in files)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["ect", "ict", "vct", "sct"])
def test_between_two_checks_the_host_never_waits_for_the_device(method: str, tmp_path: Path) -> None:
    """Eight more steps without a row of the log read no more numbers from tensors."""
    counts = []
    for name, images in (("short", 8), ("long", 16)):
        settings = ("train.batch=16", f"train.images={16 * images}", "run.snapshots=1", "run.check_every=1000")
        config = tiny_cell(method, *settings).config
        trainer = trainer_of(config, tmp_path / name)
        trainer.log_every_images = trainer.budget_images
        with HostReads() as reads:
            trainer.train()
        counts.append(reads.count)
    assert counts[1] == counts[0]
    with HostReads() as reads:
        torch.ones(()).item()
    assert reads.count == 1


@pytest.mark.slow
def test_several_processes_repeat_the_steps_since_the_last_check(tmp_path: Path) -> None:
    """A loss that is NaN once, in one process: repeated, the step is finite and leaves no trace of the first try."""
    settings = ("train.batch=8", "train.images=3360", "run.check_every=16", "run.snapshots=1")  # 3 steps per row
    jobs = {
        name: {"folder": put(tiny_cell("ect", *settings), tmp_path / name), **extra}
        for name, extra in {"sound": {}, "spoilt": {"spoil": [1, [5]]}}.items()
    }
    done = launched(2, jobs, tmp_path)
    digests = {answer["digest"] for answers in done.answers.values() for answer in answers}
    assert [answer["state"] for answers in done.answers.values() for answer in answers] == ["done"] * 4
    assert len(digests) == 1
    assert read_jsonl(done.folders["spoilt"] / TRAIN_LOG)[-1]["skipped"] == 0


# Memory

#: A pass of the whole batch needs some 700 MB, one of 1024 images less than 100.
WIDE = ("benchmark=toy2d", "network.width=512", "network.blocks=2", "train.batch=8192", "train.images=16384")
WIDE += ("run.snapshots=1", "eval.metrics=[fd_points_500]", "eval.nfe=[1]")
LIMITED = """
import json, logging, resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from consistency_bench.benchmarks.evaluation import scoring
from consistency_bench.benchmarks.execution import cell
from consistency_bench.benchmarks.training import trainer
from consistency_bench.benchmarks.common.errors import UsageError

logging.basicConfig(format="%(message)s")
module, name = {"train": (trainer, "make_optimizer"), "sample": (scoring, "load_snapshot")}[sys.argv[3]]
begin = getattr(module, name)

def limited(*given):
    used = 1024 * int(next(l for l in open("/proc/self/status") if l.startswith("VmSize")).split()[1])
    resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), resource.RLIM_INFINITY))
    return begin(*given)

setattr(module, name, limited)
if sys.argv[3] == "train":
    load = scoring.load_snapshot

    def unlimited(*given):  # what training has freed is still part of the address space, which is what is limited
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return load(*given)

    scoring.load_snapshot = unlimited
try:
    print(cell.run_cell(Path(sys.argv[1])))
except UsageError as error:
    print(f"{type(error).__name__}: {error}")
"""


def wide(out: Path, *settings: str) -> Path:
    given = {setting.partition("=")[0] for setting in settings}
    usual = [setting for setting in WIDE if setting.partition("=")[0] not in given]
    (cell,) = compose_cells(["ect"], [0], [*usual, *settings])
    return put(cell, out)


def with_memory(folder: Path, size: int, when: str = "train") -> subprocess.CompletedProcess[str]:
    """Run a cell in a process that may take so many bytes more from when it begins to train, or to sample.

    What is limited is the address space. One arena, and tensors mapped one by one, keep it close to what is in use:
    with glibc's defaults it differs by 100 MB from run to run.
    """
    command = [sys.executable, "-c", LIMITED, str(folder), str(size), when]
    env = environment() | {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=300)


@pytest.mark.slow
def test_a_pass_that_does_not_fit_is_named_with_the_one_that_does(tmp_path: Path) -> None:
    folder = wide(tmp_path)
    said = with_memory(folder, 300 << 20)
    assert said.returncode == 0, said.stderr
    assert "TooLargeError: a pass of 8192 images does not fit into memory, passes of " in said.stdout
    fits = int(said.stdout.split("passes of ")[1].split()[0])
    assert fits in (1024, 2048, 4096)
    assert read_json(folder / STATUS)["state"] == "failed"
    assert f"set run.micro_batch={fits}, or run.on_oom=split" in read_json(folder / STATUS)["error"]
    again = with_memory(wide(tmp_path, f"run.micro_batch={fits}"), 300 << 20)  # the advice holds
    assert "done" in again.stdout.splitlines(), again.stderr


@pytest.mark.slow
def test_split_continues_with_passes_that_fit(tmp_path: Path) -> None:
    said = with_memory(folder := wide(tmp_path / "split", "run.on_oom=split"), 300 << 20)
    assert "done" in said.stdout.splitlines(), said.stderr
    assert "a pass of 8192 images does not fit into memory: continuing with passes of " in said.stderr
    finish(whole := wide(tmp_path / "whole"), tmp_path / "list")
    losses = [[row["loss"] for row in read_jsonl(path / TRAIN_LOG)] for path in (folder, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.slow
def test_sampling_that_does_not_fit_names_the_batch_that_does_and_nothing_is_trained_again(tmp_path: Path) -> None:
    settings = ("eval.metrics=[fd_points_50k]", "eval.batch=50000", "run.micro_batch=512", "train.images=8192")
    said = with_memory(folder := wide(tmp_path / "runs", *settings), 100 << 20, "sample")
    assert "TooLargeError: a pass of 50000 images does not fit into memory, passes of " in said.stdout, said.stderr
    fits = int(said.stdout.split("passes of ")[1].split()[0])
    assert f"set eval.batch={fits}, or run.on_oom=split" in read_json(folder / STATUS)["error"]
    assert read_jsonl(folder / RECORDS) == []
    trained = (folder / TRAIN_LOG).read_bytes()
    assert wide(tmp_path / "runs", *settings, "run.on_oom=split") == folder
    again = with_memory(folder, 100 << 20, "sample")
    assert "done" in again.stdout.splitlines(), again.stderr
    assert "a pass of 50000 images does not fit into memory: continuing with passes of " in again.stderr
    assert (folder / TRAIN_LOG).read_bytes() == trained
    finish(whole := wide(tmp_path / "whole", *settings), tmp_path / "list")
    values = [[row["value"] for row in read_jsonl(path / RECORDS)] for path in (folder, whole)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
