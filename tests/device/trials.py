"""What is tried on the simulated device: `trials.py NAME FOLDER` runs one trial and writes FOLDER/result.json.

A process of its own for each: the null device is preloaded, and has no orderly end.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import logging
import math
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from models import SETTINGS, covering
from simulation import Simulation
from torch.nn.attention import SDPBackend, sdpa_kernel

from consistency_bench.benchmarks.common.devices import pick_device
from consistency_bench.benchmarks.common.distributed import joined, ranks_from_environment
from consistency_bench.benchmarks.common.oom import TooLargeError
from consistency_bench.benchmarks.config.compose import compose_cells
from consistency_bench.benchmarks.config.schema import RunConfig
from consistency_bench.benchmarks.doctor import repetition, table
from consistency_bench.benchmarks.doctor.check import Machine, Sizes
from consistency_bench.benchmarks.doctor.models import BATCH, METHODS, dataset, small
from consistency_bench.benchmarks.execution.cell import run_cell
from consistency_bench.benchmarks.execution.launch import default_slots, prepare
from consistency_bench.benchmarks.metrics.extractors.digits import DigitsClassifier
from consistency_bench.benchmarks.runs.folder import Run
from consistency_bench.benchmarks.training import ddp
from consistency_bench.benchmarks.training.model import build_model
from consistency_bench.benchmarks.training.trainer import Trainer
from consistency_bench.methods.loss import draw
from consistency_bench.methods.parts.samplers import Multistep


def make_trainer(config: RunConfig, folder: Path, device: str = "cuda") -> Trainer:
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, build_model(config, dataset(), torch.device(device)), folder)
    trainer.resume()
    return trainer


def take_step(trainer: Trainer) -> torch.Tensor:
    values = trainer.forward_backward(False)
    trainer.step(values[-1])
    return values


def losses(folder: Path) -> Any:
    """Losses of two steps on the CPU and on the device, for many combinations."""
    rows = []
    for number, (method, network, setting) in enumerate(covering()):
        runs = {}
        for device in ("cpu", "cuda"):
            cell = small(method, network, *SETTINGS[setting], device=device)
            trainer = make_trainer(cell, folder / f"{number}-{device}", device)
            runs[device] = torch.stack([take_step(trainer).cpu() for _ in range(2)])[:, 0].tolist()
        rows.append({"method": method, "network": network, "setting": setting, **runs})
    return rows


WAITED = {
    **{method: (method, "ddpmpp") for method in METHODS},
    "ect on an MLP": ("ect", "mlp"),
    "conditional ect": ("ect", "ddpmpp", "data.conditional=true"),
    "conditional sct": ("sct", "ddpmpp", "data.conditional=true"),
    "sct, sampled": ("sct", "ddpmpp", "method.teacher.references=sampled:20"),
    "sct, heun": ("sct", "ddpmpp", "method.teacher.solver=heun"),
    "sct, image at r = 0": ("sct", "ddpmpp", "method.teacher.r0_target=image", "method.teacher.coarse=image"),
    "sct, gated": ("sct", "ddpmpp", "method.teacher.gate=1"),
    "ect, r_min": ("ect", "ddpmpp", "method.times.r_min=1e-6"),
    "sct, phases": ("sct", "ddpmpp", "method.times.phases=2", "sample.kind=phased", "eval.nfe=[2]", "eval.curve=[2]"),
}


def waits(folder: Path, simulation: Simulation) -> Any:
    """How often the host waits in a step of each method, and where, once the first step is behind."""
    rows = {}
    for number, (name, (method, network, *settings)) in enumerate(WAITED.items()):
        trainer = make_trainer(small(method, network, *settings, device="cuda"), folder / str(number))
        take_step(trainer)
        simulation.waits.clear()
        steps = 2
        for _ in range(steps):
            take_step(trainer)
        rows[name] = {
            "per_step": simulation.waits.total() / steps,
            "where": [f"{n} × {' at '.join(k)}" for k, n in simulation.waits.items()],
        }
    return rows


def noise(folder: Path, simulation: Simulation) -> Any:
    """The most random numbers that are drawn at once for a large batch, and whether they are those of the CPU."""
    model = build_model(small("ect", "ddpmpp"), dataset(), torch.device("cpu"))
    drawn = {}
    for device in ("cpu", "cuda"):
        x = torch.zeros(1000, 3, 8, 8, device=device)
        rng = torch.Generator(device).manual_seed(1)
        drawn[device] = draw(model.method, x, None, 0.5, rng).z.cpu()
    return {"at once": simulation.largest_draw, "equal": torch.equal(drawn["cpu"], drawn["cuda"])}


def windows(trainer: Trainer, count: int) -> int:
    """Train so many windows, each up to a check of finiteness; the most memory in bytes that was in use."""
    torch.cuda.reset_peak_memory_stats()
    for _ in range(count):
        trainer.train_window(lambda: False)
    return torch.cuda.max_memory_allocated()


def state_bytes(trainer: Trainer) -> int:
    """Bytes of weights, averages and the optimiser's moments."""
    modules = [trainer.weights, *trainer.averages.weights.values()]
    tensors = [value for module in modules for value in module.state_dict().values()]
    tensors += [value for values in trainer.optimizer.state.values() for value in values.values() if value.is_cuda]
    return sum(value.untyped_storage().nbytes() for value in tensors)


def resumed(folder: Path, simulation: Simulation) -> Any:
    """Memory and waits of a step after eight steps, in the same process and after a checkpoint was read."""
    cell = small("ect", "ddpmpp", "train.optimizer=radam", "network.channels=32", "run.check_every=1", device="cuda")
    rows = {}
    for name in ("fresh", "resumed"):
        gc.collect()
        before = torch.cuda.memory_allocated()
        trainer = make_trainer(cell, folder / "run")
        while trainer.state.images < 8 * BATCH:
            take_step(trainer)
        simulation.waits.clear()
        take_step(trainer)
        rows[name] = {"waits": simulation.waits.total(), "bytes": torch.cuda.memory_allocated() - before}
        if name == "fresh":
            trainer.state.images -= BATCH  # the step that was measured is taken again
            trainer.save()
        del trainer
    return rows


def copies(folder: Path) -> Any:
    """The memory that the copy of the state takes, in sizes of the state: what it adds to the most that is in use."""
    peaks, size = {}, 0
    for every in (1, 2):
        cell = small("ect", "ddpmpp", "network.channels=32", f"run.check_every={every}", device="cuda", steps=4000)
        gc.collect()
        before = torch.cuda.memory_allocated()
        trainer = make_trainer(cell, folder / str(every))
        windows(trainer, 4)
        peaks[every] = windows(trainer, 4) - before
        size = state_bytes(trainer)
        del trainer
    return {"copies": (peaks[2] - peaks[1]) / size}


def memory(folder: Path) -> Any:
    """A pass that does not fit: what run.on_oom=stop says, whether that then fits, and the loss with =split."""
    answers: dict[str, Any] = {}
    total = torch.cuda.get_device_properties(0).total_memory
    for name, *settings in (
        ("whole",),
        ("stop",),
        ("split", "run.on_oom=split"),
        ("named", "run.micro_batch=32"),
    ):
        cell = small("ect", "ddpmpp", "network.channels=32", "train.batch=128", *settings, device="cuda")
        trainer = make_trainer(cell, folder / name)
        gc.collect()
        torch.cuda.empty_cache()
        if name == "whole":
            allowed = total
            start = torch.cuda.memory_reserved()
        torch.cuda.set_per_process_memory_fraction(allowed / total)
        try:
            answers[name] = {"loss": take_step(trainer)[0].item(), "micro_batch": trainer.memory.micro_batch}
        except TooLargeError as error:
            answers[name] = {"error": str(error)}
        if name == "whole":
            allowed = start + (torch.cuda.max_memory_allocated() - start) // 3
        torch.cuda.set_per_process_memory_fraction(1.0)
        del trainer
        gc.collect()
    return answers


CELL = (
    "benchmark=digits",
    "network.width=16",
    "network.blocks=1",
    "train.batch=32",
    "train.images=640",
    "eval.metrics=[fd_digits_500]",
    "eval.nfe=[1,2]",
    "eval.curve=[1]",
    "run.snapshots=2",
    "run.check_every=4",
)


def trained(out: Path, method: str, *settings: str, stop: int = 0) -> dict[str, Any]:
    """Train and score a cell, stopped at that question if it is not 0; its records, last weights and flags in use."""
    (cell,) = compose_cells([method], [0], [*CELL, *settings])
    (run,) = prepare([cell], out)
    calls = itertools.count(1)
    states = []
    if stop:
        states.append(run_cell(run.path, should_stop=lambda: next(calls) >= stop))
    states.append(run_cell(run.path))
    return {"states": states, **left(run)}


def left(run: Run) -> dict[str, Any]:
    """The records of a cell, and a digest of each snapshot."""
    rows = [{key: row[key] for key in ("images", "nfe", "draw", "metric", "value")} for row in run.records]
    files = sorted((run.path / "snapshots").glob("*.safetensors"))
    return {"rows": rows, "digests": [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]}


def cells(folder: Path) -> Any:
    """Whole cells on the CPU, on the device, and on the device with an interruption."""
    answers = {}
    for method, *settings in (("sct", "train.precision=tf32"), ("vct", "data.conditional=true"), ("ict+ot",)):
        answers[method] = {
            "cpu": trained(folder / "cpu", method, *settings, "run.device=cpu"),
            "cuda": trained(folder / "cuda", method, *settings, "run.device=cuda"),
            "stopped": trained(folder / "stopped", method, *settings, "run.device=cuda", stop=7),
        }
    return answers


def moved(folder: Path) -> Any:
    """What the records of a cell call its devices if it stops on the device and resumes there, or on the CPU."""
    found = {}
    for device in ("cuda", "cpu"):
        (cell,) = compose_cells(["ect"], [0], [*CELL, "run.device=cuda"])
        (run,) = prepare([cell], folder / device)
        calls = itertools.count(1)
        states = [run_cell(run.path, should_stop=lambda calls=calls: next(calls) >= 7)]
        (cell,) = compose_cells(["ect"], [0], [*CELL, f"run.device={device}"])
        (run,) = prepare([cell], folder / device)
        with mock.patch.object(logging.Logger, "warning") as warning:
            states.append(run_cell(run.path))
        said = [call.args[0] % call.args[1:] for call in warning.call_args_list]
        devices = [row.get("devices") for row in Run(run.path).records]
        found[device] = {"states": states, "devices": devices, "said": said}
    return found


def chosen(folder: Path) -> Any:
    """Where cells run by their configuration, and how many GPUs their workers share."""
    found = {}
    for settings in ("benchmark=digits", "benchmark=toy2d", "benchmark=fashion_mnist", "run.device=cuda"):
        (cell,) = compose_cells(["ect"], [0], [settings])
        name = cell.config.run.device
        found[settings] = [pick_device(name).type, len(default_slots(12, 4, device=name).gpus)]
    return found


def tried(folder: Path) -> Any:
    """A cell whose batches of samples do not fit into memory above 64: how it ends, and how many images it has seen."""
    draw = Multistep.__call__

    def limited(self: Multistep, method: Any, denoise: Any, noise: torch.Tensor, labels: Any) -> torch.Tensor:
        if noise.shape[1] > 64:
            raise torch.OutOfMemoryError
        return draw(self, method, denoise, noise, labels)

    found = {}
    for on_oom in ("stop", "split"):
        (cell,) = compose_cells(["ect"], [0], [*CELL, "run.device=cuda", f"run.on_oom={on_oom}"])
        (run,) = prepare([cell], folder / on_oom)
        with mock.patch.object(Multistep, "__call__", limited):
            try:
                found[on_oom] = run_cell(run.path)
            except TooLargeError as error:
                found[on_oom] = str(error)
        found[f"{on_oom}, steps"] = len(Run(run.path).train_log)
    return found


def modes(folder: Path) -> Any:
    """What torch is set to while a cell with train.precision=tf32 trains, and while features are computed."""
    seen: dict[str, Any] = {}

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            cudnn = torch.backends.cudnn
            seen[name] = {
                "deterministic": torch.are_deterministic_algorithms_enabled(),
                "only warns": torch.is_deterministic_algorithms_warn_only_enabled(),
                "fills": torch.utils.deterministic.fill_uninitialized_memory,
                "benchmark": cudnn.benchmark,
                "tf32": [torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32],
                "workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
            }
            return function(*given, **named)

        return call

    torch.backends.cudnn.benchmark = True
    with (
        mock.patch.object(Trainer, "step", noting("training", Trainer.step)),
        mock.patch.object(Multistep, "__call__", noting("sampling", Multistep.__call__)),
        mock.patch.object(DigitsClassifier, "forward", noting("features", DigitsClassifier.forward)),
    ):
        trained(folder, "ect", "train.precision=tf32", "run.device=cuda")
        noting("afterwards", lambda: None)()
    return seen


def processes(folder: Path) -> Any:
    """A cell by the processes that the environment names, on one device; rank 0 also trains it alone on the CPU."""
    ranks = ranks_from_environment()
    settings = ("network.dropout=0", "run.device=cuda")
    (cell,) = compose_cells(["vct"], [0], [*CELL, *settings])
    if ranks.is_writer:
        prepare([cell], folder.parent / "shared")
    options: dict[str, bool] = {}

    class Noted(ddp.DistributedDataParallel):
        def __init__(self, *given: Any, **named: Any) -> None:
            options.update({key: value for key, value in named.items() if isinstance(value, bool)})
            super().__init__(*given, **named)

    with joined(ranks), mock.patch.object(ddp, "DistributedDataParallel", Noted):
        ranks.barrier()
        run = Run(cell.path(folder.parent / "shared"))
        state = run_cell(run.path, ranks=ranks)
    if not ranks.is_writer:
        return {"states": [state]}
    alone = trained(folder / "alone", "vct", "network.dropout=0", "run.device=cpu")
    return {"shared": {"states": [state], **left(run)}, "alone": alone, "options": options}


def doctor(folder: Path) -> Any:
    """What `bench doctor --device cuda` finds, with small sizes, few methods and no limits of time."""
    sizes = Sizes(channels=8, batch=2, matrix=64, seconds=0, images=2, pass_images=16)
    again = (sys.executable, __file__, "again", str(folder / "again"))
    machine = Machine(torch.device("cuda"), sizes, folder, again, ("ddpmpp",), ("ect", "ict+ot"))
    slow = ("tf32", "bf16", "finiteness", "CPU's")
    checks = [replace(check, limit=math.inf) for check in table.CHECKS if not check.name.endswith(slow)]
    with mock.patch.object(table, "CHECKS", checks):
        records = table.examine(machine)
    return table.document(machine.device, records, "a simulated device: its rates mean nothing")


def again(folder: Path) -> Any:
    """The training of a check of `bench doctor` in a process of its own."""
    return repetition.main(*sys.argv[3:])


ALL = (losses, waits, noise, resumed, copies, memory, cells, moved, chosen, tried, modes, processes, doctor, again)
TRIALS = {trial.__name__: trial for trial in ALL}


def main(name: str, folder: Path) -> None:
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    torch.backends.cudnn.enabled = False  # its operators have no counterpart on the CPU
    trial = TRIALS[name]
    with Simulation() as simulation, sdpa_kernel(SDPBackend.MATH):
        result = trial(folder, simulation) if "simulation" in trial.__annotations__ else trial(folder)
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    status = 1
    try:
        main(sys.argv[1], Path(sys.argv[2]))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # destructors of the CUDA libraries would look for a real device
