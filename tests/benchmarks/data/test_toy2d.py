"""Points in the plane follow their closed forms."""

import math

import pytest
import torch

from consistency_bench.benchmarks.data import registry, toy2d
from consistency_bench.benchmarks.data.distributions import Mixture, Spiral

MIXTURES = [name for name, exact in toy2d.VARIANTS.items() if isinstance(exact, Mixture)]


def draw(exact, n: int = 50_000, seed: int = 1):
    return exact.sample(n, torch.Generator().manual_seed(seed))


def test_two_modes_are_those_of_the_paper_and_the_default():
    exact = toy2d.VARIANTS["two_modes"]
    assert isinstance(exact, Mixture)
    assert set(exact.means) == {(0.0, 0.5), (0.0, -0.5)}
    assert torch.equal(registry.load("toy2d").images, registry.load("toy2d", variant="two_modes").images)


@pytest.mark.parametrize("name", MIXTURES)
def test_mixture_moments(name):
    exact = toy2d.VARIANTS[name]
    assert isinstance(exact, Mixture)
    points, labels = draw(exact)
    for label, mean in enumerate(exact.means):
        mode = points[labels == label]
        error = exact.std / math.sqrt(len(mode))
        assert (mode.mean(dim=0) - torch.tensor(mean)).abs().max() < 5 * error
        assert mode.std(dim=0).sub(exact.std).abs().max() < 5 * error
        assert abs(len(mode) / len(points) - 1 / exact.classes) < 0.01


@pytest.mark.parametrize("name", MIXTURES)
def test_nearest_mode_is_the_label_but_for_the_tail(name):
    exact = toy2d.VARIANTS[name]
    assert isinstance(exact, Mixture)
    points, labels = draw(exact)
    nearest = exact.nearest(points)
    outside = nearest < 0
    assert float(outside.double().mean()) == pytest.approx(math.exp(-4.5), abs=0.003)
    assert torch.equal(nearest[~outside], labels[~outside])
    assert exact.nearest(torch.tensor([[5.0, 5.0]])).tolist() == [-1]


def test_spiral_without_noise_lies_on_its_arm():
    spiral = Spiral(turns=1.5, std=0.0)
    points, labels = draw(spiral)
    radius = points.norm(dim=1)
    angle = 2 * math.pi * 1.5 * radius / 0.9
    arm = radius[:, None] * torch.stack((angle.cos(), angle.sin()), dim=1)
    assert (points - arm).abs().max() < 1e-5
    # u = (radius / 0.9)² is uniform.
    assert (radius / 0.9).square().mean().item() == pytest.approx(0.5, abs=0.01)
    assert labels.unique().tolist() == [0]


@pytest.mark.parametrize("name", list(toy2d.VARIANTS))
def test_training_set_is_fixed_and_in_range(name):
    first, second = registry.load("toy2d", variant=name), registry.load("toy2d", variant=name)
    assert first.fingerprint == second.fingerprint
    assert (first.images.dtype, first.labels.dtype) == (torch.float32, torch.int64)
    assert (len(first), first.shape) == (20_000, (2,))
    assert first.exact is toy2d.VARIANTS[name]
    assert first.labels.unique().tolist() == list(range(first.classes))
    assert first.images.abs().max() < 1.2
