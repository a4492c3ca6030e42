"""Classes and mirror images: from the training set to every place that must know of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.common.files import read_jsonl
from consistency_bench.benchmarks.common.seeding import generator
from consistency_bench.benchmarks.config.compose import choices
from consistency_bench.benchmarks.data.base import Dataset
from consistency_bench.benchmarks.data.registry import load_dataset
from consistency_bench.benchmarks.evaluation.sample import BLOCK, latents, sample, sample_labels
from consistency_bench.benchmarks.execution.cell import run_cell
from consistency_bench.benchmarks.execution.preflight import check_cells
from consistency_bench.benchmarks.metrics.extractors import registry as extractors
from consistency_bench.benchmarks.runs.folder import RECORDS
from consistency_bench.benchmarks.training.checkpoint import load_snapshot
from consistency_bench.benchmarks.training.cost import measure_compute
from consistency_bench.benchmarks.training.data_order import batch_index, data_order
from consistency_bench.benchmarks.training.ddp import Replica
from consistency_bench.benchmarks.training.model import Model, build_model
from consistency_bench.methods.loss import draw
from consistency_bench.methods.parts import bank as parts_bank

from ..conftest import put, tiny_cell

CPU = torch.device("cpu")
DIGITS = ("benchmark=digits", "eval.metrics=[fd_digits_500]")


def built(method: str, *settings: str) -> tuple[Model, Dataset]:
    config = tiny_cell(method, *DIGITS, *settings).config
    dataset = load_dataset(config.data)
    return build_model(config, dataset, CPU), dataset


@pytest.mark.parametrize("method", choices("method"))
def test_every_method_trains_on_classes_and_mirror_images(method: str, tmp_path: Path) -> None:
    cell = tiny_cell(method, *DIGITS, "data.conditional=true", "data.flip=true", "train.images=768")
    folder = put(cell, tmp_path)
    assert run_cell(folder) == "done"
    rows = read_jsonl(folder / RECORDS)
    evaluated = cell.config.eval
    assert evaluated.curve is not None
    assert len(rows) == len(evaluated.curve) + len(evaluated.nfe)
    assert all(math.isfinite(row["value"]) for row in rows)


def test_data_of_one_class_is_refused_in_one_sentence() -> None:
    cell = tiny_cell("ect", "data.variant=spiral", "data.conditional=true")
    with pytest.raises(UsageError, match=r"^data\.conditional is true, but data set 'toy2d' has one class$"):
        check_cells([cell])


def test_points_have_no_mirror_images() -> None:
    with pytest.raises(UsageError, match=r"^data\.flip is true, but data set 'toy2d' does not hold images$"):
        check_cells([tiny_cell("ect", "data.flip=true")])


# Where labels must arrive


def heard(module: torch.nn.Module) -> list[Any]:
    """The labels of every call of a network or encoder, as it goes on."""
    calls: list[Any] = []
    module.register_forward_hook(lambda _module, arguments, _output: calls.append(arguments[-1]))
    return calls


@pytest.mark.parametrize("conditional", ["true", "false"])
def test_labels_reach_both_passes_and_the_encoder(conditional: str) -> None:
    model, dataset = built("vct", f"data.conditional={conditional}")
    network, encoder = heard(model.network), heard(model.method.modules["encoder"])
    index = torch.tensor([5, 0, 900])
    Replica(model).forward_backward(index, 0.5, generator("test", 0), 2)
    expected = [dataset.labels[index[:2]]] * 2 + [dataset.labels[index[2:]]] * 2
    if conditional == "true":
        assert all(torch.equal(said, wanted) for said, wanted in zip(network, expected, strict=True))
        assert all(torch.equal(said, wanted) for said, wanted in zip(encoder, expected[::2], strict=True))
    else:
        assert network == [None] * 4
        assert encoder == [None] * 2


def test_references_are_of_the_row_s_own_class() -> None:
    model, dataset = built("sct", "data.conditional=true")
    index = torch.tensor([0, 1, 2])
    x, labels = model.batch(index)
    references = draw(model.method, x, labels, 0.5, generator("test", 0), index).references
    assert references is not None
    for rows, members in references.groups(labels, torch.arange(3)):
        assert members is not None
        label = dataset.labels[index[rows[0]]]
        assert torch.equal(members, (dataset.labels == label).nonzero()[:, 0])
        assert (dataset.labels[index[rows]] == label).all()


def test_the_cost_is_measured_with_labels() -> None:
    model, dataset = built("sct", "data.conditional=true")
    calls = heard(model.network)
    costs = measure_compute(model, tiny_cell("sct", *DIGITS, "data.conditional=true").config, dataset, CPU)
    assert costs["passes_per_step"] == 2
    assert all(torch.equal(call, dataset.labels[: len(call)]) for call in calls)


def test_sampling_asks_for_the_classes_that_it_is_given() -> None:
    model, dataset = built("vct", "data.conditional=true")
    network, encoder = heard(model.network), heard(model.method.modules["encoder"])
    labels = sample_labels("digits", 0, 5, dataset, "data")
    sample(model, latents("digits", 0, 2, 5, dataset.shape), 3, labels=labels)
    expected = [labels[:3]] * 2 + [labels[3:]] * 2
    assert all(torch.equal(said, wanted) for said, wanted in zip(network, expected, strict=True))
    assert all(torch.equal(said, wanted) for said, wanted in zip(encoder, expected[::2], strict=True))


# The classes that samples are asked for


def skewed() -> Dataset:
    """Nine of ten images are of class 0, the others of class 3; classes 1 and 2 have none."""
    labels = torch.tensor([0] * 90 + [3] * 10)
    return Dataset("skewed", torch.zeros(100, 1, 8, 8, dtype=torch.uint8), labels, classes=4)


@pytest.mark.parametrize(("distribution", "shares"), [("data", [0.9, 0, 0, 0.1]), ("uniform", [0.25] * 4)])
def test_classes_are_drawn_from_the_distribution_of_the_configuration(distribution: str, shares: list[float]) -> None:
    labels = sample_labels("digits", 0, 20_000, skewed(), distribution)
    assert labels.dtype == torch.int64
    assert (labels.bincount(minlength=4) / 20_000).tolist() == pytest.approx(shares, abs=0.015)


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_the_classes_of_fewer_are_the_first_of_more(count: int) -> None:
    many = sample_labels("digits", 0, 4 * BLOCK, skewed(), "uniform")
    assert torch.equal(sample_labels("digits", 0, count, skewed(), "uniform"), many[:count])
    assert not torch.equal(sample_labels("digits", 1, 4 * BLOCK, skewed(), "uniform"), many)
    assert not torch.equal(many[:BLOCK], many[BLOCK : 2 * BLOCK])


@pytest.mark.slow
def test_a_trained_model_draws_the_class_that_it_is_asked_for(tmp_path: Path) -> None:
    settings = ("network.width=128", "network.blocks=3", "network.dropout=0", "method.times.stages=1")
    settings += ("run.snapshots=1", "eval.nfe=[1]", "train.images=76800", "train.ema.images=3000")
    cell = tiny_cell("ect", *DIGITS, "data.conditional=true", *settings)
    folder = put(cell, tmp_path)
    assert run_cell(folder) == "done"
    dataset = load_dataset(cell.config.data)
    model = build_model(cell.config, dataset, CPU).averaged()
    load_snapshot(folder, 76_800, model.weights)
    labels = sample_labels("digits", 0, 500, dataset, "uniform")

    def hits(asked: Tensor) -> float:
        samples = sample(model, latents("digits", 0, 1, 500, dataset.shape), 500, labels=asked)
        said = extractors.build("digits", dataset.info, CPU)(dataset.from_model(samples)).predictions
        assert said is not None
        return (said == asked).float().mean().item()

    found = [hits(labels), hits((labels + 1) % 10)]
    assert min(found) > 0.5, found  # 0.1 by chance


# Mirror images


def test_mirror_images_follow_the_images_with_the_same_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_bank, "WHOLE_ELEMENTS", 0)  # as of a large set
    model, dataset = built("sct", "data.conditional=true", "data.flip=true")
    bank, size = model.bank, len(dataset)
    assert bank.labels is not None
    assert len(bank) == 2 * size
    assert len(bank.images) == size  # mirror images take no memory
    both = torch.cat([dataset.images, dataset.images.flip(-1)])
    assert torch.equal(bank.stored(slice(None)), both)
    assert torch.equal(bank.stored(slice(size - 2, size + 2)), both[size - 2 : size + 2])
    index = torch.tensor([2 * size - 1, 0, size])
    for some in (None, index):
        parts = zip(bank.chunks(some), parts_bank.Bank(both, to_model=dataset.to_model).chunks(some), strict=True)
        assert all(torch.equal(a, b) for mirrored, copied in parts for a, b in zip(mirrored, copied, strict=True))
    assert torch.equal(bank.labels[:size], bank.labels[size:])
    x, labels = model.batch(torch.tensor([3, size + 3]))
    assert labels is not None
    assert torch.equal(x[0], x[1].flip(-1))
    assert labels[0] == labels[1] == dataset.labels[3]


def test_half_of_the_images_come_mirrored_and_the_order_stays() -> None:
    plain = torch.cat([batch_index(100, 0, start, 50, flip=False) for start in range(0, 5000, 50)])
    flipped = torch.cat([batch_index(100, 0, start, 50, flip=True) for start in range(0, 5000, 50)])
    assert torch.equal(plain, data_order(100, 0, 0, 5000))
    assert torch.equal(flipped % 100, plain)
    assert (flipped // 100).float().mean().item() == pytest.approx(0.5, abs=0.03)
    first, second = flipped[:50] // 100, flipped[50:100] // 100
    assert not torch.equal(first, second)
    assert not torch.equal(first, batch_index(100, 1, 0, 50, flip=True) // 100)
