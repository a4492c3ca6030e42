"""What a cell does beyond the plain run: guidance, generated pairs, other starts, other precisions."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.common.files import read_json, read_jsonl
from consistency_bench.benchmarks.common.precision import float32_products
from consistency_bench.benchmarks.config.compose import Cell, compose_cells
from consistency_bench.benchmarks.data.registry import load_dataset
from consistency_bench.benchmarks.evaluation.sample import Guide, latents, sample
from consistency_bench.benchmarks.execution.cell import run_cell
from consistency_bench.benchmarks.execution.preflight import check_cells
from consistency_bench.benchmarks.runs.folder import RECORDS, RUN, Run, is_finished
from consistency_bench.benchmarks.training.checkpoint import load_snapshot
from consistency_bench.benchmarks.training.cost import measure_compute
from consistency_bench.benchmarks.training.model import build_model
from consistency_bench.methods.parts.base import Draw, Method, Pair
from consistency_bench.methods.parts.couplings import GeneratorAugmented
from consistency_bench.methods.parts.process import Denoise

from ..conftest import TINY, put, tiny_cell
from ..training.runs import model_of, trainer_of

CPU = torch.device("cpu")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return read_jsonl(folder / RECORDS)


# Guidance by an earlier snapshot of the same run


def test_guided_rows_replace_unguided_ones_without_training_and_say_so(tmp_path: Path) -> None:
    usual, guided = tiny_cell("ect", "run.snapshots=4"), tiny_cell("ect", "run.snapshots=4", "sample.guidance=1.5")
    folder = put(usual, tmp_path)
    run_cell(folder)
    unguided, when = rows_of(folder), {path: path.stat().st_mtime_ns for path in (folder / "snapshots").iterdir()}
    assert put(guided, tmp_path) == folder
    assert not is_finished(Run(folder), guided.config)
    assert run_cell(folder) == "done"
    rows = rows_of(folder)
    assert {path: path.stat().st_mtime_ns for path in (folder / "snapshots").iterdir()} == when
    assert sorted({row["images"] for row in rows}) == [2048, 2560]  # later than the guide, at 1280
    assert {row["variant"] for row in rows} == {guided.config.cell.variant}
    assert "sample.guidance=1.5" in guided.config.cell.variant
    assert {row["group"] for row in rows}.isdisjoint(row["group"] for row in unguided)
    plain = {(row["images"], row["nfe"]): row["value"] for row in unguided}
    assert all(row["value"] != plain[row["images"], row["nfe"]] for row in rows)


def test_a_guide_that_no_snapshot_falls_on_is_kept(tmp_path: Path) -> None:
    folder = put(tiny_cell("vct", "run.snapshots=1", "sample.guidance=1.2", "sample.guide_at=0.25"), tmp_path)
    assert run_cell(folder) == "done"
    assert [path.stem for path in sorted((folder / "snapshots").iterdir())] == ["000000000768", "000000002560"]
    assert {row["images"] for row in rows_of(folder)} == {2560}


def test_guided_samples_lead_away_from_the_guide(tmp_path: Path) -> None:
    cell = tiny_cell("ect", "run.snapshots=2", "train.lr=3e-2", "train.ema={kind: constant, factor: 0.1}")
    folder = put(cell, tmp_path)
    run_cell(folder)
    dataset = load_dataset(cell.config.data)
    model = build_model(cell.config, dataset, CPU)
    strong, weak = model.averaged(), model.averaged()
    load_snapshot(folder, 2560, strong.weights)
    load_snapshot(folder, 1280, weak.weights)
    noise = latents("toy2d", 0, 1, 20, dataset.shape)

    def drawn(guide: Guide | None) -> Tensor:
        return sample(strong, noise, 20, guide=guide)

    plain, behind = drawn(None), sample(weak, noise, 20)
    assert not torch.allclose(plain, behind, atol=1e-4)
    torch.testing.assert_close(drawn(Guide(weak, 1.5)), plain + 0.5 * (plain - behind))
    assert torch.equal(drawn(Guide(weak, 1.0)), plain)


# Pairs that the averaged network generates


@pytest.mark.parametrize(("predictor", "passes"), [("ema", 3), ("online", 3)])
def test_the_pass_that_generates_is_charged(predictor: str, passes: int) -> None:
    cell = tiny_cell("ect+gc", f"method.coupling.predictor={predictor}")
    dataset = load_dataset(cell.config.data)
    costs = measure_compute(build_model(cell.config, dataset, CPU), cell.config, dataset, CPU)
    plain = tiny_cell("ect")
    usual = measure_compute(build_model(plain.config, dataset, CPU), plain.config, dataset, CPU)
    assert (costs["passes_per_step"], usual["passes_per_step"]) == (passes, 2)
    assert costs["flops_per_image"] == pytest.approx(usual["flops_per_image"] * 5 / 4, rel=0.05)  # 3 forward of 2
    assert costs["parameters"] == usual["parameters"]


class WatchedCoupling(GeneratorAugmented):
    """Keeps what the network that generates images says of a fixed input."""

    predictions: ClassVar[list[Tensor]] = []

    def __call__(self, method: Method, x: Tensor, labels: Tensor | None, draw: Draw, predict: Denoise) -> Pair:
        self.predictions.append(predict(torch.ones(4, 2), torch.ones(4), None))
        return super().__call__(method, x, labels, draw, predict)


def test_training_predicts_with_the_average_and_not_with_the_network(tmp_path: Path) -> None:
    cell = tiny_cell("ect+gc", "run.snapshots=10", "train.ema={kind: constant, factor: 0.5}")
    model = model_of(cell.config)
    coupling = WatchedCoupling(**vars(model.method.coupling))
    model = replace(model, method=replace(model.method, coupling=coupling))
    trainer_of(cell.config, tmp_path, model=model).train()
    average = model.averaged()
    for number, images in enumerate(range(256, 2560, 256), start=1):
        load_snapshot(tmp_path, images, average.weights)
        expected = average.denoiser(evaluating=True)(torch.ones(4, 2), torch.ones(4), None)
        assert torch.equal(coupling.predictions[number], expected)


# Where training starts, and in which precision it runs


def test_training_starts_from_weights_that_are_given(tmp_path: Path) -> None:
    plain = tiny_cell("vct", "train.lr=1e-30")
    network = build_model(plain.config, load_dataset(plain.config.data), CPU).network
    weights = {name: value + 0.25 for name, value in network.state_dict().items()}
    path = tmp_path / "weights.safetensors"
    save_file(weights, path)
    cell = tiny_cell("vct", "train.lr=1e-30", f"train.init='{path}'")
    check_cells([cell])
    assert cell.id != plain.id
    folder = put(cell, tmp_path)
    assert run_cell(folder) == "done"
    model = build_model(plain.config, load_dataset(plain.config.data), CPU).averaged()
    load_snapshot(folder, 2560, model.weights)
    for name, value in model.network.state_dict().items():
        torch.testing.assert_close(value, weights[name])
    run = read_json(folder / RUN)
    assert run["init"]["weights"] == str(path)
    assert run["compute"]["pretraining_images"] is None  # not known of a file of one's own
    run_cell(put(plain, tmp_path))
    assert read_json(plain.path(tmp_path) / RUN)["compute"]["pretraining_images"] == 0


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("edm-cifar10-32x32-uncond-vp", "bench prepare weights edm-cifar10-32x32-uncond-vp --from FILE"),
        ("edm-cifar10", "unknown train.init 'edm-cifar10'. Did you mean: "),
    ],
)
def test_weights_that_are_not_there_are_found_missing_before_anything_is_written(
    init: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        check_cells([tiny_cell("ect", f"train.init={init}")])
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_bfloat16_runs_the_network_alone_and_is_left_in_evaluation() -> None:
    cell = tiny_cell("ect", "train.precision=bf16")
    model = build_model(cell.config, load_dataset(cell.config.data), CPU)
    seen: list[torch.dtype] = []
    linear = next(module for module in model.network.modules() if isinstance(module, torch.nn.Linear))
    linear.register_forward_hook(lambda _module, _arguments, output: seen.append(output.dtype))
    x, t = torch.randn(8, 2), torch.full((8,), 2.0)
    trained, evaluated = model.denoiser()(x, t, None), model.denoiser(evaluating=True)(x, t, None)
    assert seen == [torch.bfloat16, torch.float32]
    assert trained.dtype == evaluated.dtype == torch.float32
    torch.testing.assert_close(trained, evaluated, rtol=0, atol=2e-2)


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_a_cell_trains_in_every_precision(precision: str, tmp_path: Path) -> None:
    folder = put(tiny_cell("vct", f"train.precision={precision}"), tmp_path)
    assert run_cell(folder) == "done"
    assert all(math.isfinite(row["value"]) for row in rows_of(folder))


@pytest.mark.parametrize("tf32", [True, False])
def test_the_precision_of_products_is_put_back(tf32: bool) -> None:
    def flags() -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = flags()
    with float32_products(tf32=tf32):
        assert flags() == (tf32, tf32)
    assert flags() == before


def test_truncated_samples_are_darker() -> None:
    dataset = load_dataset(tiny_cell("ect", "benchmark=digits", "eval.metrics=[fd_digits_500]").config.data)
    grey = torch.linspace(-1, 1, 10_001).view(-1, 1, 1, 1)
    rounded, truncated = (dataset.from_model(grey, truncate=cut).double().mean().item() for cut in (False, True))
    assert rounded == pytest.approx(127.5, abs=0.01)
    assert truncated == pytest.approx(127.0, abs=0.01)


def swept(values: str) -> list[Cell]:
    return compose_cells(["vct"], [0], [*TINY, f"sample.sigma_mid={values}", "eval.nfe=[1,2]"])


def test_swept_settings_of_sampling_share_one_training(tmp_path: Path) -> None:
    cells = swept("[0.4],[2]")
    usual, other = (put(cell, tmp_path) for cell in cells)
    assert [run_cell(usual), run_cell(other)] == ["done", "done"]
    assert not (other / "checkpoints").exists()
    for path in (usual / "snapshots").iterdir():
        assert path.read_bytes() == (other / "snapshots" / path.name).read_bytes()
    first, second = ({(row["images"], row["nfe"]): row["value"] for row in rows_of(each)} for each in (usual, other))
    assert {place for place in first if first[place] != second[place]} == {(1280, 2), (2560, 2)}
    seconds = [Run(each).history["compute"]["train_seconds"] for each in (usual, other)]
    assert seconds[0] == seconds[1] > 0
    alone = put(cells[1], tmp_path / "alone")  # without the usual cell it trains, to the same numbers
    run_cell(alone)
    assert [row["value"] for row in rows_of(alone)] == list(second.values())


def test_a_training_with_a_damaged_snapshot_is_not_taken_over(tmp_path: Path) -> None:
    usual, other = (put(cell, tmp_path) for cell in swept("[0.4],[2]"))
    run_cell(usual)
    damaged = next((usual / "snapshots").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-8])
    assert run_cell(other) == "done"
    assert (other / "checkpoints").exists()
