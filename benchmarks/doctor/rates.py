"""How fast a device trains the DDPM++ of CIFAR-10 and computes features, and what checks and checkpoints cost."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from ..common.errors import UsageError
from ..data.base import DataInfo
from ..metrics.extractors import weight_files
from ..metrics.extractors.inception import INCEPTION
from ..training.cost import measure_compute
from ..training.trainer import CHECK_EVERY_STEPS, SAVE_SHARE, Trainer
from .check import Finding, Machine, NotCheckedError
from .models import cifar10, dataset
from .training import in_precision, require_compiler, steps, trainer_of

WARM_UP = 2


def training_speed(machine: Machine, precision: str, *, compiled: bool = False) -> Finding:
    """Images per second of ECT's training, and the share of what this device reaches in products of matrices."""
    if compiled:
        require_compiler()
        if machine.device.type == "cpu":
            raise NotCheckedError("compiling takes longer on a CPU than a check may; see `bench speed train`")
    if machine.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with in_precision(precision):
        trainer = _trainer(machine, precision, f"train.compile={str(compiled).lower()}")
        rate = trainer.batch / _seconds_per_step(trainer, machine)
        flops = _flops_per_image(trainer, machine)
        peak = matrix_rate(machine, precision)
    details = {
        "share of peak": flops * rate / peak,
        "peak TFLOP/s": peak / 1e12,
        "TFLOP/image": flops / 1e12,
        "parameters": sum(p.numel() for p in trainer.parameters),
        "batch": trainer.batch,
        "micro-batch": trainer.memory.micro_batch,
    }
    if machine.device.type == "cuda":
        details["memory GB"] = torch.cuda.max_memory_allocated() / 1e9
    return Finding(rate, "images/s", details=details)


def finiteness_check(machine: Machine) -> Finding:
    """The time to copy the state for the steps up to a check of finiteness, as a share of these steps."""
    trainer = _trainer(machine, "bf16")
    step = _seconds_per_step(trainer, machine)
    copy = _seconds(trainer.copy.take, machine)
    return Finding(copy / (CHECK_EVERY_STEPS * step), "share", details={"copy s": copy, "step s": step})


def checkpoint(machine: Machine) -> Finding:
    """The seconds for which a checkpoint stops training. details: how far apart checkpoints are for that."""
    trainer = _trainer(machine, "bf16")
    list(steps(trainer, 1))
    stopped = _seconds(trainer.save, machine)
    size = sum(path.stat().st_size for path in (trainer.folder / "checkpoints").glob("last.pt"))
    return Finding(stopped, "s", details={"MB": size / 1e6, "least interval s": SAVE_SHARE * stopped})


def resumed_training(machine: Machine) -> Finding:
    """The duration of a step after a resume, relative to one of the training that wrote the checkpoint."""
    first = _trainer(machine, "bf16")
    fresh = _seconds_per_step(first, machine)
    first.save()
    config, folder = first.config, first.folder.name
    del first  # the memory of both is not needed at once
    resumed = trainer_of(config, machine, folder, size=32, count=config.train.batch)
    if not resumed.state.images:
        raise RuntimeError("the checkpoint was not read")
    return Finding(_seconds_per_step(resumed, machine) / fresh, "relative", details={"step s": fresh})


def features(machine: Machine) -> Finding:
    """The relative distance of Inception's features from the CPU's. details: images per second, with preprocessing."""
    try:
        weight_files.locate("inception")
    except UsageError as error:
        raise NotCheckedError(str(error)) from None
    images = dataset(32, machine.sizes.images).images
    info = DataInfo(name="doctor", count=len(images), shape=tuple(images.shape[1:]), classes=1)
    few = images[:8]
    ours = INCEPTION.build(info, machine.device, "clean")
    expected = INCEPTION.build(info, torch.device("cpu"), "clean")(few).values.double()
    apart = (ours(few).values.double().cpu() - expected).norm() / expected.norm()
    begun = time.perf_counter()
    ours(images)  # ends on the CPU
    return Finding(float(apart), "relative", 1e-4, {"images/s": len(images) / (time.perf_counter() - begun)})


def matrix_rate(machine: Machine, precision: str) -> float:
    """FLOP/s of products of square matrices, the best of several."""
    kind, size = torch.bfloat16 if precision == "bf16" else torch.float32, machine.sizes.matrix
    a, b = (torch.randn(size, size, device=machine.device).to(kind) for _ in range(2))
    times = []
    for _ in range(8):
        times.append(_seconds(lambda: a @ b, machine))
    return 2 * size**3 / min(times)


def _trainer(machine: Machine, precision: str, *settings: str) -> Trainer:
    sizes = machine.sizes
    config = cifar10(sizes.channels, sizes.batch, f"train.precision={precision}", *settings)
    return trainer_of(config, machine, tempfile.mkdtemp(dir=machine.folder), size=32, count=sizes.batch)


def _seconds_per_step(trainer: Trainer, machine: Machine) -> float:
    """Of steps without a wait between them, the first ones apart."""
    for number in range(WARM_UP):
        machine.require_time(f"{number} steps")
        list(steps(trainer, 1))
    _wait(machine)
    begun, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - begun < machine.sizes.seconds:
        machine.require_time(f"{WARM_UP + count} steps")
        list(steps(trainer, 2))
        _wait(machine)
        count += 2
    return (time.perf_counter() - begun) / count


def _flops_per_image(trainer: Trainer, machine: Machine) -> float:
    data = dataset(32, 2)
    config = replace(trainer.config, train=replace(trainer.config.train, batch=2))
    return measure_compute(trainer.model, config, data, machine.device)["flops_per_image"]


def _seconds(work: Callable[[], object], machine: Machine) -> float:
    """Of the second call: what is made once is made in the first."""
    work()
    _wait(machine)
    begun = time.perf_counter()
    work()
    _wait(machine)
    return time.perf_counter() - begun


def _wait(machine: Machine) -> None:
    if machine.device.type == "cuda":
        torch.cuda.synchronize()
