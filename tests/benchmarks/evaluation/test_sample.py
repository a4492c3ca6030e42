"""Latents for evaluation: the same for every method, seed, batch size and number of steps."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_bench.benchmarks.config.schema import RunConfig
from consistency_bench.benchmarks.data.base import Dataset
from consistency_bench.benchmarks.data.registry import load
from consistency_bench.benchmarks.evaluation.sample import BLOCK, Sampler, latents, sample
from consistency_bench.benchmarks.training.model import Model, build_model

from ..conftest import tiny_cell

CPU = torch.device("cpu")
toy_latents = partial(latents, "toy2d", shape=(2,))


@settings(max_examples=30)
@given(st.integers(1, 3 * BLOCK), st.integers(0, 2 * BLOCK), st.integers(1, 3), st.integers(0, 2))
def test_fewer_are_the_first_of_more(count: int, more: int, nfe: int, further: int) -> None:
    """Of samples, and of steps: the first step's noise is common to every number of steps."""
    large = toy_latents(seed=0, nfe=nfe + further, count=count + more)
    assert large.shape == (nfe + further, count + more, 2)
    assert torch.equal(toy_latents(seed=0, nfe=nfe, count=count), large[:nfe, :count])


def test_draws_benchmarks_and_steps_differ() -> None:
    first = toy_latents(seed=0, nfe=2, count=10)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, toy_latents(seed=1, nfe=2, count=10))
    assert not torch.equal(first, latents("other", 0, 2, 10, (2,)))


def test_no_sample_is_repeated_and_all_are_standard_normal() -> None:
    noise = latents("digits", 0, 2, 20 * BLOCK, (1, 8, 8)).flatten(0, 1)
    assert len(torch.unique(noise[:, 0, 0, :4], dim=0)) == len(noise)
    assert float(noise.mean()) == pytest.approx(0, abs=0.005)
    assert float(noise.std()) == pytest.approx(1, abs=0.005)


def test_the_default_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(0)
    one, state = toy_latents(seed=0, nfe=1, count=5), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(toy_latents(seed=0, nfe=1, count=5), one)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


def built(config: RunConfig) -> tuple[Model, Dataset]:
    dataset = load(config.data.name)
    return build_model(config, dataset, CPU).averaged(), dataset


@pytest.mark.parametrize("method", ["ect", "vct"])
@pytest.mark.parametrize("nfe", [1, 2])
def test_the_batch_size_does_not_change_the_samples(method: str, nfe: int) -> None:
    model, _ = built(tiny_cell(method).config)
    noise = toy_latents(seed=0, nfe=nfe, count=30)
    whole = sample(model, noise, 30)
    assert whole.shape == (30, 2)
    for batch in (1, 7, 29, 1000):
        torch.testing.assert_close(sample(model, noise, batch), whole)


@pytest.mark.parametrize("benchmark", ["digits", "toy2d"])
def test_a_network_that_diverged_is_no_source_of_samples(benchmark: str) -> None:
    metric = {"digits": "fd_digits_500", "toy2d": "fd_points_500"}[benchmark]
    model, dataset = built(tiny_cell("ect", f"benchmark={benchmark}", f"eval.metrics=[{metric}]").config)
    with torch.no_grad():
        next(iter(model.network.parameters())).fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        sample(model, latents(benchmark, 0, 1, 6, dataset.shape), 4)


def test_latents_and_labels_of_the_caller_take_the_place_of_the_usual_ones() -> None:
    settings = ("benchmark=digits", "eval.metrics=[fd_digits_500]", "data.conditional=true", "eval.batch=4")
    model, dataset = built(config := tiny_cell("ect", *settings).config)
    with torch.no_grad():
        for weight in model.network.parameters():  # a new network does not use its labels
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.manual_seed(0)))
    sampler = Sampler(config, model, dataset)
    usual = sampler.sample(9, 2)
    with torch.no_grad():
        assert torch.equal(usual, sampler.draw(0, 2, range(9), 4))
    noise, labels = latents("digits", 0, 1, 9, dataset.shape)[0], sampler.classes(0, range(9))
    assert labels is not None
    assert torch.equal(sampler.sample(9, 2, latents=noise.double().numpy(), labels=labels.tolist()), usual)
    assert not torch.equal(sampler.sample(9, 2, latents=-noise), usual)
    assert not torch.equal(sampler.sample(9, 2, labels=(labels + 1) % 10), usual)
    assert not torch.equal(sampler.sample(9, 2, seed=1), usual)
    for arguments, message in (
        ({"n": 0}, "n is 0, must be at least 1"),
        ({"seed": -1}, "seed is -1"),
        ({"latents": noise[:4]}, r"latents have shape \[4, 1, 8, 8\], must have \[9, 1, 8, 8\]"),
        ({"labels": [10] * 9}, "labels must be 9 whole numbers from 0 to 9"),
        ({"labels": [0.5] * 9}, "labels must be 9 whole numbers"),
        ({"labels": [1] * 8}, "labels must be 9 whole numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            sampler.sample(**{"n": 9, "nfe": 2, **arguments})
    plain = tiny_cell("ect").config
    without = Sampler(plain, *built(plain))
    with pytest.raises(ValueError, match="is not conditional"):
        without.sample(2, 1, labels=[0, 0])
