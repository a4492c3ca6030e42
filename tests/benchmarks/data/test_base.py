"""The way between samples in memory and the model's scale."""

import pytest
import torch

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.config.compose import compose_cells
from consistency_bench.benchmarks.data.base import Dataset
from consistency_bench.benchmarks.data.registry import DataOptions, describe_dataset, load_dataset
from consistency_bench.benchmarks.training.model import build_model

GREYS = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)


def images(tensor: torch.Tensor = GREYS) -> Dataset:
    return Dataset("greys", tensor, torch.zeros(len(tensor), dtype=torch.int64), classes=1)


def points() -> Dataset:
    return Dataset("points", torch.randn(5, 2), torch.zeros(5, dtype=torch.int64), classes=1)


def test_every_grey_level_survives_the_round_trip():
    data = images()
    x = data.to_model(GREYS)
    assert x.dtype == torch.float32
    assert x.min() == -1
    assert x.max() == 1
    assert torch.equal(data.from_model(x), GREYS)


def test_quantisation_clamps_and_rounds_half_up():
    x = torch.tensor([-7.0, -1.0, -1 + 0.49 / 127.5, -1 + 0.51 / 127.5, 0.0, 1.0, 7.0])
    # 0 lies exactly between 127 and 128: half goes up.
    assert images().from_model(x).tolist() == [0, 0, 0, 1, 128, 255, 255]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_never_becomes_an_image(bad):
    with pytest.raises(ValueError, match="not finite"):
        images().from_model(torch.tensor([0.0, bad]))


def test_points_pass_unchanged_in_both_directions():
    data = points()
    assert torch.equal(data.to_model(data.images), data.images)
    assert torch.equal(data.from_model(100 * data.images), 100 * data.images)


def test_fingerprint_is_stable_and_sees_every_change():
    pixel = GREYS.clone()
    pixel[3, 0, 7, 7] = 0
    different = [images(), images(pixel), images(GREYS.reshape(4, 1, 4, 16)), images(GREYS[:3]), points()]
    different.append(Dataset("greys", GREYS, torch.tensor([0, 0, 0, 1]), classes=2))
    assert len({data.fingerprint for data in different}) == len(different)
    assert images().fingerprint == images(GREYS.clone()).fingerprint
    # A strided view is the same data.
    assert images(GREYS.flip(0)).fingerprint == images(GREYS.flip(0).mT.contiguous().mT).fingerprint


def test_a_fifth_is_held_out_by_a_fixed_choice_and_never_in_the_training_set():
    whole, options = load_dataset(DataOptions(name="digits")), DataOptions(name="digits", held_out=0.2)
    data, again = load_dataset(options), load_dataset(options)
    assert data.held_out is not None
    assert again.held_out is not None
    assert (len(data), len(data.held_out)) == (1438, 359)
    assert torch.equal(data.held_out, again.held_out)
    assert describe_dataset(options) == data.info
    both = torch.cat([data.images, data.held_out]).flatten(1)
    rows = sorted(map(tuple, both.tolist()))
    assert rows == sorted(map(tuple, whole.images.flatten(1).tolist()))
    assert whole.held_out is None
    (cell,) = compose_cells(["sct"], [0], ["data.held_out=0.2", "data.flip=true"])
    bank = build_model(cell.config, data, torch.device("cpu")).bank
    assert torch.equal(bank.stored(slice(None)), torch.cat([data.images, data.images.flip(-1)]))


def test_held_out_samples_make_another_cell_and_none_the_same():
    toy = "benchmark=toy2d"
    plain, none, some = (
        compose_cells(["ect"], [0], [toy, *more])[0] for more in ([], ["data.held_out=0"], ["data.held_out=0.2"])
    )
    assert plain.config.cell == none.config.cell
    assert some.id != plain.id
    assert some.config.cell.variant == "data.held_out=0.2"
    with pytest.raises(
        UsageError, match=r"^data\.held_out is 0\.7, must be a share of the samples, from 0 to at most 0\.5"
    ):
        compose_cells(["ect"], [0], ["data.held_out=0.7"])
