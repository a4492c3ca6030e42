"""What every method must do, as functions that raise: `bench check` runs them on a plug-in, our tests on every method.

Each check takes a method's name and the data set `digits`, and uses a small network.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ...methods.loss import draw, loss
from ...methods.parts.base import LossTerms
from ...methods.parts.process import Denoise
from ...methods.parts.samplers import Multistep
from ..common.files import write_text, yaml_text
from ..common.seeding import default_generator, generator
from ..config import plan
from ..config.compose import compose_cells, preset_home
from ..config.schema import RunConfig
from ..data.base import DataInfo, Dataset
from ..data.registry import describe, load, load_dataset
from ..metrics.extractors.registry import build as build_extractor
from ..training import ema
from ..training.checkpoint import load_snapshot, save_snapshot
from ..training.ddp import Replica
from ..training.model import Model, build_model
from .cell import run_cell
from .preflight import check_configurations

BATCH = 48
STAGES = (0.0, 0.3, 0.6, 0.999)

Check = Callable[[str, Dataset], None]


class ConformanceError(Exception):
    """A method does not do what every method must; the message says what was found."""


def small_config(method: str, *settings: str, seed: int = 0) -> RunConfig:
    """The configuration of a method on `digits` with a small network. Raises UsageError as `compose_cells` does."""
    (cell,) = compose_cells([method], [seed], ["network.width=32", "network.blocks=2", *settings])
    return cell.config


def small_model(method: str, dataset: Dataset, *settings: str, seed: int = 0) -> Model:
    """The model of `small_config` on the CPU. Raises OptionError as `build_model` does."""
    return build_model(small_config(method, *settings, seed=seed), dataset, torch.device("cpu"))


def loss_is_finite_and_positive(name: str, digits: Dataset) -> None:
    """The loss is finite, its distance positive and its penalty not negative, at every stage of training."""
    for progress in STAGES:
        terms = _one_loss(small_model(name, digits), _batch(digits), progress)
        at = f"after {progress:.0%} of the budget"
        _must(bool(torch.isfinite(terms.total)), f"the loss is {terms.total} {at}")
        _must(bool(terms.consistency > 0), f"the distance is {terms.consistency} {at}, must be above 0")
        _must(bool(terms.penalty >= 0), f"the penalty is {terms.penalty} {at}, must be at least 0")


def gradient_reaches_every_parameter(name: str, digits: Dataset) -> None:
    """Every parameter of network and modules gets a finite gradient that is not zero."""
    for progress in STAGES:
        model = small_model(name, digits)
        _one_loss(model, _batch(digits), progress).total.backward()
        for parameter_name, parameter in model.weights.named_parameters():
            grad, what = parameter.grad, f"the gradient of {parameter_name}, after {progress:.0%} of the budget,"
            if grad is None:
                raise ConformanceError(f"{what} is missing")
            _must(bool(torch.isfinite(grad).all()), f"{what} is not finite")
            _must(bool(grad.abs().sum() > 0), f"{what} is zero")


def times_are_ordered(name: str, digits: Dataset) -> None:
    """Times are float32 with t > r >= 0, and stages never go back."""
    times = small_model(name, digits).method.times
    for progress in torch.linspace(0, 0.9999, 40).tolist():
        t, r = times.sample(2000, progress, generator("test", 0))
        _must(t.dtype == r.dtype == torch.float32, f"times are {t.dtype} and {r.dtype}, must be float32")
        _must(bool((t > r).all()) and bool((r >= 0).all()), f"t > r >= 0 does not hold at progress {progress:.4f}")
        last_t, last_r = times.last(progress)
        _must(last_t > last_r >= 0, f"the last interval is ({last_t}, {last_r}) at progress {progress:.4f}")
        later = times.stage(min(progress + 0.1, 0.9999))
        _must(times.stage(progress) <= later, f"the stage falls after progress {progress:.4f}")


def both_passes_see_the_same_dropout_mask(name: str, digits: Dataset) -> None:
    """Student and teacher share their dropout masks, unless the teacher states otherwise."""
    model = small_model(name, digits, "network.dropout=0.5")
    if not model.method.teacher.shared_dropout:
        return
    masks: list[Tensor] = []
    for module in model.network.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda _m, _i, out: masks.append(torch.eq(out, 0)))
    _one_loss(model, _batch(digits), 0.6)
    if model.method.times.denoises:
        _must(len(masks) == 2, f"{len(masks)} dropout masks were drawn: a target that is the image needs no pass")
        return
    student, teacher = masks[: len(masks) // 2], masks[len(masks) // 2 :]
    _must(len(masks) == 4, f"{len(masks)} dropout masks were drawn in two passes through two blocks, must be 4")
    for one, other in zip(student, teacher, strict=True):
        _must(bool(0.3 < one.float().mean() < 0.7), "half of the activations must be dropped at dropout 0.5")
        _must(torch.equal(one, other), "the teacher's dropout mask differs from the student's")
    # The blocks differ: the generator was not simply reset.
    _must(not torch.equal(student[0], student[1]), "both blocks have the same dropout mask")


def target_carries_no_gradient(name: str, digits: Dataset) -> None:
    """The student's pass is made with gradient, then the teacher's without, if there is one.

    Were the target not stopped, scaling it would change the gradient of a loss that is linear in it.
    """
    model = small_model(name, digits)
    passes: list[bool] = []
    model.network.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    _one_loss(model, _batch(digits), 0.6)
    wanted = [True] if model.method.times.denoises else [True, False]
    _must(passes == wanted, f"passes with gradient: {passes}, must be {wanted}")


def micro_batches_change_nothing(name: str, digits: Dataset) -> None:
    """Loss and gradient of a batch are the same whether it is split or not."""
    results = []
    for micro_batch in (BATCH, 20):
        model = small_model(name, digits)
        replica = Replica(model, _predictor(model))
        terms = replica.forward_backward(torch.arange(BATCH), 0.6, generator("test", 1), micro_batch)
        results.append((terms, [p.grad for p in model.weights.parameters()]))
    (whole, gradients), (split, split_gradients) = results
    reason = "differs between one batch and micro-batches: is something drawn outside of `draw` or `match`?"
    _must(torch.allclose(whole.total, split.total, rtol=1e-5, atol=0), f"the loss {reason}")
    scale = max(float(g.abs().max()) for g in gradients if g is not None)
    for one, other in zip(gradients, split_gradients, strict=True):
        close = one is not None and other is not None and torch.allclose(one, other, rtol=1e-3, atol=1e-5 * scale)
        _must(close, f"the gradient {reason}")


def same_seed_same_bits(name: str, digits: Dataset) -> None:
    """Loss and gradient repeat bit for bit with the same seed, and differ with another."""

    def trained(seed: int) -> tuple[Tensor, Tensor]:
        model = small_model(name, digits, seed=seed)
        terms = _one_loss(model, _batch(digits), 0.3, seed)
        terms.total.backward()
        return terms.total.detach(), torch.cat(
            [p.grad.flatten() for p in model.weights.parameters() if p.grad is not None]
        )

    one, again, other = trained(0), trained(0), trained(1)
    same = torch.equal(one[0], again[0]) and torch.equal(one[1], again[1])
    _must(same, "loss or gradient differ between two passes with the same seed")
    _must(not torch.equal(one[1], other[1]), "the gradient is the same with another seed")


def initial_weights_do_not_depend_on_the_method(name: str, digits: Dataset) -> None:
    """The network starts from the weights that it has with every other method."""
    ours, reference = small_model(name, digits).network, small_model("ect", digits).network
    for one, other in zip(ours.parameters(), reference.parameters(), strict=True):
        _must(torch.equal(one, other), "the initial weights of the network differ from those of ect")


def averaged_weights_round_trip(name: str, digits: Dataset) -> None:
    """Averaged weights, those of modules included, are saved and loaded; samples are drawn with the average."""
    model = small_model(name, digits)
    average = model.averaged()
    with torch.no_grad():
        for parameter in model.weights.parameters():
            parameter.add_(1.0)
    ema.update(ema.Tensors.of(average.weights), ema.Tensors.of(model.weights), 0.75)
    for mean, now in zip(average.weights.parameters(), model.weights.parameters(), strict=True):
        _must(torch.allclose(mean, now - 0.75, rtol=1.3e-6, atol=1e-5), "the average of the weights is wrong")
        _must(not mean.requires_grad, "averaged weights require a gradient")
    fresh = small_model(name, digits, seed=3).averaged()
    with tempfile.TemporaryDirectory() as folder:
        save_snapshot(Path(folder), 7, average.weights)
        load_snapshot(Path(folder), 7, fresh.weights)
    for one, other in zip(fresh.weights.parameters(), average.weights.parameters(), strict=True):
        _must(torch.equal(one, other), "weights change when they are saved and loaded")
    noise = torch.randn(2, 3, *digits.shape, generator=generator("test"))
    samples = [m.method.sampler(m.method, m.denoiser(evaluating=True), noise) for m in (fresh, average)]
    # The coupling that samples is the averaged one, not the trained one.
    _must(torch.equal(*samples), "samples depend on weights that are not saved")


def samples_have_the_shape_of_the_data(name: str, digits: Dataset) -> None:
    """Samples of one and two steps are finite float32 tensors of the data's shape."""
    for nfe in (1, 2):
        model = small_model(name, digits).averaged()
        noise = torch.randn(nfe, 5, *digits.shape, generator=generator("test"))
        samples = model.method.sampler(model.method, model.denoiser(evaluating=True), noise)
        found = f"{samples.dtype} {list(samples.shape)}"
        _must(samples.shape == (5, *digits.shape) and samples.dtype == torch.float32, f"samples are {found}")
        _must(bool(torch.isfinite(samples).all()), f"samples of {nfe} steps are not finite")


def several_steps_need_levels(name: str, digits: Dataset) -> None:
    """Several steps without a level between them are refused, by samplers that take such levels."""
    if not isinstance(small_model(name, digits).averaged().method.sampler, Multistep):
        return
    model = small_model(name, digits, "sample.sigma_mid=[]").averaged()
    try:
        model.method.sampler(model.method, model.denoiser(), torch.zeros(3, 2, *digits.shape))
    except ValueError as error:
        _must("sigma_mid" in str(error), f"the refusal of three steps does not name sigma_mid: {error}")
    else:
        raise ConformanceError("three steps without sample.sigma_mid are not refused")


def a_smoke_cell_is_trained_and_scored(name: str, digits: Dataset) -> None:
    """A tiny cell goes from its configuration to all rows of its records."""
    config = small_config(name, "preset=smoke", "train.images=2560", "eval.metrics=[fd_digits_500]", "eval.nfe=[1,2]")
    with tempfile.TemporaryDirectory() as out:
        folder = Path(out) / "digits" / name / f"s0-{config.cell.id}"
        write_text(folder / "config.yaml", yaml_text(config.to_dict()))
        state = run_cell(folder)
        _must(state == "done", f"the cell is {state}, must be done")
        rows = [json.loads(line) for line in (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    wanted = len(list(plan.evaluations(config))) * len(config.eval.metrics)
    _must(len(rows) == wanted, f"the cell has {len(rows)} rows, must have {wanted}")
    _must(all(isinstance(row["value"], int | float) for row in rows), "a row has no value")
    _must({row["method"] for row in rows} == {name}, "rows carry the name of another method")


#: All checks, in the order of their cost.
CHECKS: tuple[Check, ...] = (
    times_are_ordered,
    loss_is_finite_and_positive,
    gradient_reaches_every_parameter,
    both_passes_see_the_same_dropout_mask,
    target_carries_no_gradient,
    micro_batches_change_nothing,
    same_seed_same_bits,
    initial_weights_do_not_depend_on_the_method,
    averaged_weights_round_trip,
    samples_have_the_shape_of_the_data,
    several_steps_need_levels,
    a_smoke_cell_is_trained_and_scored,
)


def benchmark_is_complete(name: str) -> None:
    """Settings, data and metrics of a benchmark go together, and its network trains one batch."""
    (cell,) = compose_cells(["ect"], [0], [f"benchmark={name}"])
    check_configurations([cell.config])
    dataset = load_dataset(cell.config.data)
    model = build_model(cell.config, dataset, torch.device("cpu"))
    x, labels = model.batch(torch.arange(4))
    drawn = draw(model.method, x, labels, 0.5, generator("test"))
    terms = loss(model.method, model.denoiser(), x, labels, 0.5, drawn, model.averaged().denoiser(evaluating=True))
    _must(bool(torch.isfinite(terms.total)), f"the loss of ect is {terms.total}")


def data_agree_with_their_description(name: str, dataset: Dataset | None = None) -> None:
    """The samples of a data set are as it describes them, and the same at every call."""
    described, loaded = describe(name), dataset or load(name)
    _must(loaded.info == described, f"it describes {described} and loads {loaded.info}")
    labels = loaded.labels
    found = f"labels are {labels.dtype} {list(labels.shape)}"
    _must(labels.dtype == torch.int64 and labels.shape == (len(loaded),), f"{found}, must be int64 [{len(loaded)}]")
    inside = bool((labels >= 0).all()) and bool((labels < loaded.classes).all())
    _must(inside, f"labels are from {labels.min()} to {labels.max()}, must be from 0 to {loaded.classes - 1}")
    _must(load(name).fingerprint == loaded.fingerprint, "the samples differ between two calls")


def preset_fits(name: str) -> None:
    """A preset goes with the method and the benchmark that it is for."""
    home = preset_home(name)
    compose_cells([home.get("method", "ect")], [0], [f"preset={name}"])


def features_depend_on_images_alone(name: str) -> None:
    """Features are finite, one row per image, and do not depend on the other images of a batch."""
    data = DataInfo(name="noise", count=9, shape=(3, 16, 16), classes=1)
    images = torch.randint(0, 256, (9, 3, 16, 16), generator=generator("test")).to(torch.uint8)
    extract = build_extractor(name, data, torch.device("cpu"))
    values, first = extract(images).values, extract(images[:2]).values
    _must(bool(torch.isfinite(values).all()), "features are not finite")
    _must(torch.allclose(values[:2], first, rtol=1e-4, atol=1e-5), "features change with the rest of the batch")


#: Checks of what is no method, by its group in a plug-in.
OTHERS: dict[str, Callable[[str], None]] = {
    "benchmark": benchmark_is_complete,
    "data": data_agree_with_their_description,
    "preset": preset_fits,
    "metrics": features_depend_on_images_alone,
}


def _batch(dataset: Dataset) -> Tensor:
    return dataset.to_model(dataset.images[:BATCH])


def _predictor(model: Model) -> Denoise:
    """The averaged model as a cell makes it, for couplings that predict with it."""
    average = model.averaged()
    for module in average.network.modules():
        module._forward_hooks.clear()  # hooks watch the trained network, not its copy
    return average.denoiser(evaluating=True)


def _one_loss(model: Model, x: Tensor, progress: float, seed: int = 0) -> LossTerms:
    drawn = draw(model.method, x, None, progress, generator("test", seed))
    with default_generator("test dropout", seed):
        return loss(model.method, model.denoiser(), x, None, progress, drawn, _predictor(model))


def _must(holds: bool, reason: str) -> None:
    if not holds:
        raise ConformanceError(reason)
