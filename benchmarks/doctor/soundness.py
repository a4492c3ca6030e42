"""Whether a device trains every method on every network, as the CPU does, and without waits or lost masks."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from ...methods.loss import draw, loss
from ...methods.parts.base import Draw
from ...methods.parts.couplings import OptimalTransport
from ..common.seeding import default_generator, generator
from ..config.schema import RunConfig
from ..training.model import Model, build_model
from .check import Finding, Machine, NotCheckedError
from .models import BATCH, dataset, small
from .training import in_precision, precisions, require_compiler, steps, trainer_of

AGREEMENT = {"fp32": 1e-5, "tf32": 2e-3, "bf16": 2e-2}
"""How far, relative to it, a loss may be from the CPU's in float32."""


def every_combination_trains(machine: Machine) -> Finding:
    """The number of combinations of network, method and precision with a loss of two steps that is not finite."""
    failures, count = [], 0
    for config, name in _combinations(machine):
        for precision in precisions(machine.device):
            machine.require_time(f"{count} combinations")
            count += 1
            try:
                with in_precision(precision):
                    trainer = trainer_of(in_train(config, precision), machine, "combinations")
                    losses = torch.stack(list(steps(trainer, 2)))[:, 0]
                if not bool(losses.isfinite().all()):
                    failures.append(f"{name} in {precision}: losses {losses.tolist()}")
            except Exception as error:  # of any kernel: the others are tried
                failures.append(f"{name} in {precision}: {str(error).splitlines()[0]}")
    return Finding(len(failures), "combinations", 0, {"tried": count}, "; ".join(failures[:5]))


def host_never_waits(machine: Machine) -> Finding:
    """The number of methods whose host waits for the device in a step, optimal transport apart, which has to."""
    if machine.device.type != "cuda":
        raise NotCheckedError("only CUDA reports that the host waits")
    waiting = []
    for method in machine.methods:
        machine.require_time(method)
        trainer = trainer_of(small(method, "ddpmpp", device=machine.device.type), machine, "waits")
        list(steps(trainer, 2))
        torch.cuda.set_sync_debug_mode("error")
        try:
            list(steps(trainer, 2))
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            if not isinstance(trainer.model.method.coupling, OptimalTransport):
                waiting.append(method)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return Finding(len(waiting), "methods", 0, note=", ".join(waiting))


def agrees_with_the_cpu(machine: Machine, precision: str) -> Finding:
    """The greatest relative difference between losses on the device and on the CPU in float32, from one draw.

    details: the same of gradients, by their norms. Dropout is off: each kind of device draws masks of its own.
    """
    worst, gradients, where = 0.0, 0.0, ""
    for config, name in _few(machine):
        machine.require_time(name)
        config = replace(config, network={**config.network, "dropout": 0.0})
        on_cpu, slopes_cpu, drawn = _one_loss(config, torch.device("cpu"), None)
        with in_precision(precision):
            value, slopes, _ = _one_loss(in_train(config, precision), machine.device, drawn)
        difference = abs(value - on_cpu) / abs(on_cpu)
        if not difference <= worst:
            worst, where = difference, name
        gradients = max(gradients, float((slopes - slopes_cpu).norm() / slopes_cpu.norm()))
    return Finding(worst, "relative", AGREEMENT[precision], {"gradients": gradients}, f"most for {where}" * bool(worst))


def dropout_masks_are_replayed(machine: Machine) -> Finding:
    """How far the teacher is from the student at equal input, relative to what other masks make of it: 0 if equal."""
    worst, count = 0.0, 0
    for network in machine.networks:
        for precision in precisions(machine.device):
            machine.require_time(f"{count} networks")
            count += 1
            apart = []
            for shared in ("true", "false"):
                settings = ("network.dropout=0.5", f"method.teacher.shared_dropout={shared}")
                config = in_train(small("ect", network, *settings), precision)
                with in_precision(precision):
                    apart.append(_distance_at_one_level(_model(config, machine.device)))
            if not apart[1] > 0:
                raise RuntimeError(f"{network} in {precision}: dropout has no effect")
            worst = max(worst, apart[0] / apart[1])
    return Finding(worst, "share", 1e-3)


def compiled_losses_agree(machine: Machine) -> Finding:
    """The greatest relative difference of losses of two steps, compiled and eager, with the same dropout masks."""
    require_compiler()
    losses = []
    for setting in ("false", "true"):
        config = small("ect", "ddpmpp", "network.dropout=0.5", f"train.compile={setting}", device=machine.device.type)
        trainer = trainer_of(config, machine, f"compile {setting}")
        _move(trainer.weights)
        losses.append(torch.stack(list(steps(trainer, 2)))[:, 0])
    eager, graph = losses
    return Finding(((graph - eager) / eager).abs().max().item(), "relative", 1e-4)


def passes_are_split(machine: Machine) -> Finding:
    """The relative difference of the loss of a pass that is split for lack of memory. details: memory in GB."""
    if machine.device.type != "cuda":
        raise NotCheckedError("only CUDA can limit the memory of a process")
    total = torch.cuda.get_device_properties(machine.device).total_memory
    settings = ("network.channels=32", f"train.batch={machine.sizes.pass_images}", "run.on_oom=split")
    losses, sizes, peak, allowed = [], [], 0, total
    for _ in range(2):
        trainer = trainer_of(small("ect", "ddpmpp", *settings), machine, "memory", size=32)
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_reserved()
        torch.cuda.set_per_process_memory_fraction(allowed / total)
        try:
            losses.append(float(next(steps(trainer, 1))[0]))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        sizes.append(trainer.memory.micro_batch)
        peak = max(peak, torch.cuda.max_memory_allocated())
        allowed = start + (peak - start) // 2
        del trainer
    if sizes[1] >= sizes[0]:
        raise RuntimeError(f"a pass of {sizes[0]} images was not split although half of its memory was allowed")
    details = {"images": sizes[0], "split to": sizes[1], "pass": peak / 1e9, "total": total / 1e9}
    return Finding(abs(losses[1] - losses[0]) / abs(losses[0]), "relative", 1e-4, details)


def in_train(config: RunConfig, precision: str) -> RunConfig:
    """The configuration with another `train.precision`."""
    return replace(config, train=replace(config.train, precision=precision))


def _combinations(machine: Machine) -> Iterator[tuple[RunConfig, str]]:
    for network in machine.networks:
        for method in machine.methods:
            yield small(method, network, device=machine.device.type), f"{method} on {network}"


def _few(machine: Machine) -> Iterator[tuple[RunConfig, str]]:
    """Every method, and every network."""
    pairs = {(method, "ddpmpp") for method in machine.methods}
    pairs |= {(machine.methods[0], network) for network in machine.networks}
    for method, network in sorted(pairs):
        yield small(method, network), f"{method} on {network}"


def _model(config: RunConfig, device: torch.device) -> Model:
    """A model in training whose weights are moved away from the start."""
    model = build_model(config, dataset(), device)
    _move(model.weights.train())
    return model


def _move(weights: nn.Module) -> None:
    """Move weights away from the start, where most networks return 0."""
    with torch.no_grad():
        for number, weight in enumerate(weights.parameters()):
            noise = torch.randn(weight.shape, generator=generator("moved", number))
            weight.add_(noise.to(weight.device), alpha=0.05)


def _one_loss(config: RunConfig, device: torch.device, drawn: Draw | None) -> tuple[float, Tensor, Draw]:
    """A loss at half of the budget, its gradients as one vector on the CPU, and the draw: that of the CPU if given."""
    model = _model(config, device)
    index = torch.arange(BATCH, device=device)
    x, labels = model.batch(index)
    own = draw(model.method, x, labels, 0.5, generator("agreement", device=device), index)
    if drawn is not None:
        coupled = None if drawn.coupled is None else drawn.coupled.to(device)
        own = replace(own, t=drawn.t.to(device), r=drawn.r.to(device), z=drawn.z.to(device), coupled=coupled)
    average = model.averaged().denoiser(evaluating=True)
    terms = loss(model.method, model.denoiser(), x, labels, 0.5, own, average)
    terms.total.backward()
    slopes = [p.grad.flatten().cpu() for p in model.weights.parameters() if p.grad is not None]
    return terms.total.item(), torch.cat(slopes), own


def _distance_at_one_level(model: Model) -> float:
    """The mean distance of student and teacher where both get the same input at the same level."""
    device = model.bank.images.device
    x, labels = model.batch(torch.arange(BATCH, device=device))
    drawn = draw(model.method, x, labels, 0.5, generator("dropout", device=device))
    with default_generator("dropout", device=device):
        terms = loss(model.method, model.denoiser(), x, labels, 0.5, replace(drawn, r=drawn.t))
    return terms.consistency.item()
