"""What every method must do, run over every registered method and composition."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.common.seeding import default_generator, generator
from consistency_bench.benchmarks.config import plan
from consistency_bench.benchmarks.config.compose import ALIASES, parse_methods
from consistency_bench.benchmarks.data.base import Dataset
from consistency_bench.benchmarks.execution.cell import run_cell
from consistency_bench.benchmarks.training import ema
from consistency_bench.benchmarks.training.checkpoint import load_snapshot, save_snapshot
from consistency_bench.benchmarks.training.ddp import Replica
from consistency_bench.benchmarks.training.model import Model
from consistency_bench.methods.loss import draw, loss
from consistency_bench.methods.parts.base import LossTerms
from consistency_bench.methods.parts.options import OptionError
from consistency_bench.methods.parts.process import Denoise
from consistency_bench.methods.parts.samplers import Multistep
from consistency_bench.methods.registry import COMPOSITIONS

from .conftest import METHODS, config_of, small_model

BATCH = 48
STAGES = (0.0, 0.3, 0.6, 0.999)


def batch_of(dataset: Dataset) -> Tensor:
    return dataset.to_model(dataset.images[:BATCH])


def predictor(model: Model) -> Denoise:
    """The averaged model as a cell makes it, for couplings that predict with it."""
    average = model.averaged()
    for module in average.network.modules():
        module._forward_hooks.clear()  # a test's hooks watch the trained network, not its copy
    return average.denoiser(evaluating=True)


def one_loss(model: Model, x: Tensor, progress: float, seed: int = 0) -> LossTerms:
    drawn = draw(model.method, x, None, progress, generator("test", seed))
    with default_generator("test dropout", seed):
        return loss(model.method, model.denoiser(), x, None, progress, drawn, predictor(model))


def test_the_registry_holds_what_the_project_promises() -> None:
    assert {"ict", "ect", "sct", "vct", "ict+vc", "ict+ot", "ect+ot", "sct+vc", "ict+gc", "ect+gc"} <= set(METHODS)


@pytest.mark.parametrize("progress", STAGES)
def test_loss_is_finite_and_positive(method_name: str, digits: Dataset, progress: float) -> None:
    terms = one_loss(small_model(method_name, digits), batch_of(digits), progress)
    assert torch.isfinite(terms.total)
    assert terms.consistency > 0
    assert terms.penalty >= 0


@pytest.mark.parametrize("progress", STAGES)
def test_gradient_reaches_every_parameter(method_name: str, digits: Dataset, progress: float) -> None:
    model = small_model(method_name, digits)
    one_loss(model, batch_of(digits), progress).total.backward()
    for name, parameter in model.weights.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_times_are_ordered(method_name: str, digits: Dataset) -> None:
    times = small_model(method_name, digits).method.times
    for progress in torch.linspace(0, 0.9999, 40).tolist():
        t, r = times.sample(2000, progress, generator("test", 0))
        assert t.dtype == r.dtype == torch.float32
        assert (t > r).all()
        assert (r >= 0).all()
        last_t, last_r = times.last(progress)
        assert last_t > last_r >= 0
        assert times.stage(progress) <= times.stage(min(progress + 0.1, 0.9999))


def test_both_passes_see_the_same_dropout_mask(method_name: str, digits: Dataset) -> None:
    model = small_model(method_name, digits, "network.dropout=0.5")
    masks: list[Tensor] = []
    for module in model.network.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda _m, _i, out: masks.append(out == 0))
    one_loss(model, batch_of(digits), 0.6)
    if model.method.times.denoises:
        assert len(masks) == 2  # the target needs no pass
        return
    student, teacher = masks[: len(masks) // 2], masks[len(masks) // 2 :]
    assert len(student) == len(teacher) == 2
    for one, other in zip(student, teacher, strict=True):
        assert 0.3 < one.float().mean() < 0.7
        assert torch.equal(one, other)
    assert not torch.equal(student[0], student[1])  # the blocks differ: the generator was not simply reset


def test_target_carries_no_gradient(method_name: str, digits: Dataset) -> None:
    """Were the target not stopped, scaling it would change the gradient of a loss that is linear in it."""
    model = small_model(method_name, digits)
    x = batch_of(digits)
    grad_enabled: list[bool] = []
    model.network.register_forward_hook(lambda *_: grad_enabled.append(torch.is_grad_enabled()))
    one_loss(model, x, 0.6)
    assert grad_enabled == ([True] if model.method.times.denoises else [True, False])


def test_micro_batches_change_neither_loss_nor_gradient(method_name: str, digits: Dataset) -> None:
    results = []
    for micro_batch in (BATCH, 20):
        model = small_model(method_name, digits)
        replica = Replica(model, predictor(model))
        terms = replica.forward_backward(torch.arange(BATCH), 0.6, generator("test", 1), micro_batch)
        results.append((terms, [p.grad for p in model.weights.parameters()]))
    (whole, gradients), (split, split_gradients) = results
    torch.testing.assert_close(whole.total, split.total, rtol=1e-5, atol=0)
    scale = max(float(g.abs().max()) for g in gradients if g is not None)
    for one, other in zip(gradients, split_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * scale)


def test_same_seed_same_bits(method_name: str, digits: Dataset) -> None:
    def trained(seed: int) -> tuple[Tensor, Tensor]:
        model = small_model(method_name, digits, seed=seed)
        terms = one_loss(model, batch_of(digits), 0.3, seed)
        terms.total.backward()
        return terms.total.detach(), torch.cat(
            [p.grad.flatten() for p in model.weights.parameters() if p.grad is not None]
        )

    one, again, other = trained(0), trained(0), trained(1)
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert not torch.equal(one[1], other[1])


def test_initial_weights_do_not_depend_on_the_method(method_name: str, digits: Dataset) -> None:
    ours, reference = small_model(method_name, digits).network, small_model("ect", digits).network
    for one, other in zip(ours.parameters(), reference.parameters(), strict=True):
        assert torch.equal(one, other)


def test_averaged_weights_round_trip_with_modules(method_name: str, digits: Dataset, tmp_path: Path) -> None:
    model = small_model(method_name, digits)
    average = model.averaged()
    with torch.no_grad():
        for parameter in model.weights.parameters():
            parameter.add_(1.0)
    ema.update(average.weights, model.weights, 0.75)
    for mean, now in zip(average.weights.parameters(), model.weights.parameters(), strict=True):
        torch.testing.assert_close(mean, now - 0.75)
        assert not mean.requires_grad
    save_snapshot(tmp_path, 7, average.weights)
    fresh = small_model(method_name, digits, seed=3).averaged()
    load_snapshot(tmp_path, 7, fresh.weights)
    for one, other in zip(fresh.weights.parameters(), average.weights.parameters(), strict=True):
        assert torch.equal(one, other)
    noise = torch.randn(2, 3, 1, 8, 8, generator=generator("test"))
    samples = [m.method.sampler(m.method, m.denoiser(evaluating=True), noise) for m in (fresh, average)]
    assert torch.equal(samples[0], samples[1])  # the coupling that samples is the averaged one, not the trained one


@pytest.mark.parametrize("nfe", [1, 2])
def test_samples_have_the_shape_of_the_data(method_name: str, digits: Dataset, nfe: int) -> None:
    model = small_model(method_name, digits).averaged()
    noise = torch.randn(nfe, 5, 1, 8, 8, generator=generator("test"))
    samples = model.method.sampler(model.method, model.denoiser(evaluating=True), noise)
    assert samples.shape == (5, 1, 8, 8)
    assert samples.dtype == torch.float32
    assert torch.isfinite(samples).all()


def test_several_steps_without_a_level_are_refused(method_name: str, digits: Dataset) -> None:
    model = small_model(method_name, digits).averaged()
    if not isinstance(model.method.sampler, Multistep):
        return  # no levels to give
    model = small_model(method_name, digits, "sample.sigma_mid=[]").averaged()
    with pytest.raises(ValueError, match="sigma_mid"):
        model.method.sampler(model.method, model.denoiser(), torch.zeros(3, 2, 1, 8, 8))


def test_one_smoke_cell(method_name: str, tmp_path: Path) -> None:
    config = config_of(method_name, "preset=smoke", "train.images=2560", "benchmark=toy2d")
    folder = tmp_path / "toy2d" / method_name / f"s0-{config.cell.id}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.to_dict()))
    assert run_cell(folder) == "done"
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert len(rows) == len(list(plan.evaluations(config))) * len(config.eval.metrics)
    assert all(isinstance(row["value"], int | float) for row in rows)
    assert {row["method"] for row in rows} == {method_name}


BASES = [name for name in METHODS if "+" not in name]


@pytest.mark.parametrize(("base", "suffix"), list(itertools.product(BASES, COMPOSITIONS)))
def test_every_composition_is_listed_or_refused_with_a_reason(base: str, suffix: str, digits: Dataset) -> None:
    (name,) = parse_methods(f"{base}+{suffix}")
    if name in METHODS:
        assert small_model(name, digits).method.name == name
        assert name == ALIASES.get(f"{base}+{suffix}", f"{base}+{suffix}")
    else:
        with pytest.raises((OptionError, UsageError), match=r"\+.*(density|already couples|no consistency function)"):
            small_model(name, digits)
