"""The training loop: its data order, its accumulation, its averages, and what an interruption may not change."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from consistency_bench.benchmarks.common.distributed import Ranks
from consistency_bench.benchmarks.common.files import append_jsonl, read_jsonl
from consistency_bench.benchmarks.common.oom import Memory, TooLargeError
from consistency_bench.benchmarks.common.seeding import generator
from consistency_bench.benchmarks.config.schema import RunConfig, TrainConfig
from consistency_bench.benchmarks.data.registry import load
from consistency_bench.benchmarks.runs.folder import TRAIN_LOG
from consistency_bench.benchmarks.training import trainer
from consistency_bench.benchmarks.training.checkpoint import load_checkpoint
from consistency_bench.benchmarks.training.data_order import data_order
from consistency_bench.benchmarks.training.ddp import Replica
from consistency_bench.benchmarks.training.model import build_model
from consistency_bench.benchmarks.training.optimizer import learning_rate, zero_nonfinite
from consistency_bench.benchmarks.training.trainer import Progress, Trainer
from consistency_bench.methods.parts.base import LossTerms

from ..conftest import tiny_cell
from .runs import CPU, after, left_behind, run, spoilt_trainer, trainer_of

STEPS = 10  # of a tiny cell


def config_of(method: str, *overrides: str, seed: int = 0) -> RunConfig:
    return tiny_cell(method, *overrides, seed=seed).config


# The order of the data


@given(st.integers(1, 50), st.integers(0, 5), st.integers(0, 500), st.lists(st.integers(1, 70), min_size=1, max_size=8))
def test_any_split_of_the_stream_equals_the_whole(size: int, seed: int, start: int, counts: list[int]) -> None:
    starts = itertools.accumulate(counts, initial=start)
    parts = [data_order(size, seed, begin, count) for begin, count in zip(starts, counts, strict=False)]
    assert [len(part) for part in parts] == counts
    assert torch.equal(torch.cat(parts), data_order(size, seed, start, sum(counts)))


@given(st.integers(1, 60), st.integers(0, 3), st.integers(0, 20))
def test_every_epoch_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    order = data_order(size, seed, epoch * size, size)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(size))


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    orders = [data_order(500, seed, epoch * 500, 500) for seed in (0, 1) for epoch in (0, 1)]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(orders, 2))


# Accumulation


@pytest.fixture
def in_double() -> Iterator[None]:
    """Double precision, where what differs is an error of the arithmetic and not its rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("method", ["ect", "vct", "sct", "sct+vc", "ict+ot", "ict+gc"])
@pytest.mark.parametrize("micro_batch", [1, 24, 64, 65])
def test_micro_batches_give_the_gradient_of_one_pass(method: str, micro_batch: int) -> None:
    config = config_of(method)
    points = load("toy2d")
    dataset = dataclasses.replace(points, images=points.images.double())

    def gradient(size: int) -> tuple[LossTerms, torch.Tensor]:
        model = build_model(config, dataset, CPU)
        replica = Replica(model, model.averaged().denoiser(evaluating=True))
        terms = replica.forward_backward(torch.arange(64), 0.5, generator("test", 1), size)
        return terms, torch.cat([p.grad.flatten() for p in model.weights.parameters() if p.grad is not None])

    terms, whole = gradient(64)
    split_terms, split = gradient(micro_batch)
    assert whole.abs().max() > 0
    torch.testing.assert_close(split, whole, rtol=1e-5, atol=1e-6 * float(whole.abs().max()))
    for name in ("total", "consistency", "penalty"):
        torch.testing.assert_close(getattr(split_terms, name), getattr(terms, name), rtol=1e-5, atol=0)


# Interruptions


@pytest.mark.parametrize("method", ["ect", "vct"])
def test_interruptions_at_any_step_change_no_bit(method: str, tmp_path: Path) -> None:
    config = config_of(method, "network.dropout=0.1", "run.checkpoint_seconds=1000")
    assert run(config, tmp_path / "whole").state == "done"
    expected = left_behind(tmp_path / "whole")
    assert len(expected[0]) == 2
    for stop in (1, 4, 5, 6, STEPS - 1):  # the fifth step makes a snapshot
        folder = tmp_path / f"stopped after {stop}"
        first = run(config, folder, after(stop))
        assert (first.state, first.images) == ("interrupted", 256 * stop)
        second = run(config, folder)
        assert (second.state, second.images) == ("done", 2560)
        assert second.train_seconds > first.train_seconds
        assert left_behind(folder) == expected


def test_interruptions_change_no_bit_of_mirror_images_classes_and_extra_averages(tmp_path: Path) -> None:
    config = config_of(
        "ict+gc",
        "benchmark=digits",
        "eval.metrics=[fd_digits_500]",
        "data.flip=true",
        "data.conditional=true",
        "train.ema_extra=[{kind: power, sigma_rel: 0.1}]",
        "train.lr_decay=500",
    )
    run(config, tmp_path / "whole")
    expected = left_behind(tmp_path / "whole")
    assert len(expected[0]) == 4
    for stop in (1, 6):
        folder = tmp_path / f"stopped after {stop}"
        assert run(config, folder, after(stop)).state == "interrupted"
        run(config, folder)
        assert left_behind(folder) == expected


@pytest.mark.parametrize("seconds", [0, 1000], ids=["after the last checkpoint", "before the first one"])
def test_being_killed_changes_no_bit(seconds: int, tmp_path: Path) -> None:
    """Killed is stopped without a chance to save, with rows in the log that no checkpoint knows of."""
    config = config_of("vct", f"run.checkpoint_seconds={seconds}")
    run(config, tmp_path / "whole")

    def kill(when: int) -> Callable[[], bool]:
        stop = after(when)

        def die() -> bool:
            if stop():
                raise SystemExit
            return False

        return die

    folder = tmp_path / "killed"
    for when in (3, 4):
        with pytest.raises(SystemExit):
            run(config, folder, kill(when))
    append_jsonl(folder / TRAIN_LOG, {"images": 10**9})
    with (folder / TRAIN_LOG).open("a") as log:
        log.write('{"images": 12')  # torn
    assert (load_checkpoint(folder, CPU) is None) == (seconds == 1000)
    assert run(config, folder).state == "done"
    assert left_behind(folder) == left_behind(tmp_path / "whole")


@pytest.mark.parametrize(("duration", "expected"), [(0.01, 14), (0.1, 8), (1.0, 2)])
def test_checkpoints_that_take_longer_are_rarer(
    duration: float, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of a second each, with a checkpoint every 2 s, or 50 times the duration of the last one apart."""
    now, saves = [0.0], []

    def save(*_: object) -> None:
        saves.append(now[0])
        now[0] += duration

    class Timed(Trainer):
        def end_step(self) -> None:
            super().end_step()
            now[0] += 1.0

    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(trainer, "save_checkpoint", save)
    config = config_of("ect", "train.images=10240", "run.checkpoint_seconds=2")
    trainer_of(config, tmp_path, Timed).train()
    assert len(saves) == expected


# The copy of the state


def test_without_memory_for_a_copy_of_the_state_finiteness_is_checked_at_every_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def take() -> None:
        raise torch.OutOfMemoryError("a full device")

    config = config_of("ect", "run.check_every=4", "network.dropout=0.1")
    for name in ("whole", "full"):
        made = trainer_of(config, tmp_path / name)
        made.log_every_images = made.budget_images  # else each step is checked, before its row is written
        if name == "full":
            made.copy.take = take
        made.train()
    assert left_behind(tmp_path / "full") == left_behind(tmp_path / "whole")
    assert "finiteness is checked at every step" in caplog.text
    with pytest.raises(TooLargeError, match=r"set run\.check_every=1"):  # several processes have to do the same
        Memory("split", 16, Ranks(0, 2)).fits(take)


# The learning rate


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 1e-3), (1999, 1e-3), (2000, 1e-3), (8000, 5e-4), (100_000, 1.4142e-4)]
)
def test_the_learning_rate_falls_as_an_inverse_square_root(step: int, expected: float) -> None:
    """The values of ECT's ImageNet runs: 2000 steps of 128 images at full rate."""
    recipe = TrainConfig(images=10**9, batch=128, lr=1e-3, lr_decay=2000 * 128)
    assert learning_rate(recipe, step * 128, 100_000 * 128) == pytest.approx(expected, rel=1e-4)


def test_the_rampup_starts_at_zero_and_goes_on_top_of_the_decay() -> None:
    recipe = TrainConfig(images=100, batch=1, lr=1.0, lr_rampup=40, lr_decay=25)
    rates = [learning_rate(recipe, images, 100) for images in (0, 10, 30, 40, 100)]
    assert rates == pytest.approx([0, 0.25, 0.75 / math.sqrt(30 / 25), 1 / math.sqrt(40 / 25), 0.5])


def test_the_cooldown_goes_on_top_of_the_decay() -> None:
    recipe = TrainConfig(images=100, batch=1, lr=1.0, lr_cooldown=0.5, lr_decay=25)
    rates = [learning_rate(recipe, images, 100) for images in (0, 25, 50, 75, 100)]
    assert rates == pytest.approx([1, 1, 1 / math.sqrt(2), 0.5 / math.sqrt(3), 0])


# The log and the snapshots


def test_the_log_has_a_row_for_every_two_hundredth_of_the_budget(tmp_path: Path) -> None:
    config = config_of("vct", "train.batch=8", "train.images=4000")  # 500 steps
    reports: list[Progress] = []
    trainer_of(config, tmp_path, report=reports.append).train()
    rows = read_jsonl(tmp_path / TRAIN_LOG)
    assert [row["images"] for row in rows] == [24 * n for n in range(1, 167)] + [4000]
    assert [row["images"] for row in rows] == [report.images for report in reports]
    assert {report.total for report in reports} == {4000}
    assert all(row["step"] == row["images"] // 8 and row["skipped"] == 0 for row in rows)
    for name in ("loss", "consistency", "penalty", "grad_norm", "images_per_s"):
        assert all(math.isfinite(row[name]) for row in rows)
    assert [row["stage"] for row in rows] == sorted(row["stage"] for row in rows)


def test_the_budget_is_rounded_up_to_whole_batches(tmp_path: Path) -> None:
    config = config_of("ect", "train.images=1000", "train.batch=300", "run.snapshots=3")
    assert run(config, tmp_path).images == 1200
    names = [path.name for path in sorted((tmp_path / "snapshots").iterdir())]
    assert names == [f"{images:012d}.safetensors" for images in (600, 900, 1200)]


# Steps that are not finite


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("clip", ["null", "1"])
def test_steps_that_are_not_finite_are_skipped_and_counted(what: str, clip: str, tmp_path: Path) -> None:
    trainer = spoilt_trainer(config_of("ect", f"train.clip={clip}"), tmp_path, {2, 3, 6}, what)
    assert trainer.train().state == "done"
    assert trainer.changed() == [step not in {2, 3, 6} for step in range(STEPS - 1)]
    rows = read_jsonl(tmp_path / TRAIN_LOG)
    assert [row["skipped"] for row in rows] == [0, 0, 1, 2, 2, 2, 3, 3, 3, 3]
    assert [row["loss"] is None for row in rows] == [step in {2, 3, 6} for step in range(STEPS)]


def test_nonfinite_zero_takes_the_step(tmp_path: Path) -> None:
    config = config_of("ect", "train.nonfinite=zero", "train.clip=1")
    trainer = spoilt_trainer(config, tmp_path, {2, 3, 6}, "gradient")
    assert trainer.train().state == "done"
    assert all(torch.isfinite(value).all() for weights in trainer.seen for value in weights.values())
    assert all(trainer.changed())
    rows = read_jsonl(tmp_path / TRAIN_LOG)
    assert [row["skipped"] for row in rows] == [0, 0, 1, 2, 2, 2, 3, 3, 3, 3]


def test_only_entries_that_are_not_finite_become_zero() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.grad = torch.tensor([[math.nan, 3.0]])
    assert zero_nonfinite(list(layer.parameters())).item() == 3.0
    assert torch.equal(layer.weight.grad, torch.tensor([[0.0, 3.0]]))


@pytest.mark.parametrize("nonfinite", ["zero", "skip"])
@pytest.mark.parametrize("clip", ["null", "200"])
def test_a_step_whose_norm_overflows_is_skipped(nonfinite: str, clip: str, tmp_path: Path) -> None:
    """Every gradient is finite, but not their norm in float32: a factor from it would be 0 or NaN."""
    settings = (f"train.nonfinite={nonfinite}", f"train.clip={clip}")
    trainer = spoilt_trainer(config_of("ect", *settings), tmp_path, {2, 3, 6}, "norm")
    assert trainer.train().state == "done"
    assert all(torch.isfinite(value).all() for weights in trainer.seen for value in weights.values())
    assert trainer.changed() == [step not in {2, 3, 6} for step in range(STEPS - 1)]
    assert read_jsonl(tmp_path / TRAIN_LOG)[-1]["skipped"] == 3
