"""`bench speed metrics`: both evaluators do the same work, and every row of the table is measured."""

import numpy as np
import pytest
import torch
from PIL import Image

from consistency_bench.benchmarks.cli import speed as command
from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.metrics import distances, speed
from consistency_bench.benchmarks.metrics.extractors import inception
from consistency_bench.benchmarks.metrics.extractors.preprocessing import PROTOCOLS

from ...inception_reference import weights_file

CPU = torch.device("cpu")


@pytest.mark.slow
def test_both_evaluators_see_the_same_images(tmp_path):
    """Every image has features of its own, further apart than those of the two evaluators."""
    images = speed.sample_images(3)
    files = speed.write_images(images, tmp_path)
    for image, file in zip(images, files, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), image.permute(1, 2, 0).numpy())
    theirs = speed.clean_fid_features(weights_file(), CPU, tmp_path)(files[::-1])
    with torch.no_grad():
        ours = inception.load(weights_file())(PROTOCOLS["clean"](images))
    torch.testing.assert_close(theirs.flip(0), ours, rtol=0, atol=1e-3)
    assert torch.cdist(ours, ours).add(torch.eye(3) * 9).min() > 1


def test_clean_fid_s_distance_is_ours():
    a, b = (torch.rand(24, 12, generator=torch.Generator().manual_seed(seed)) for seed in range(2))
    assert speed.clean_fid_distance(a, b) == pytest.approx(distances.frechet_from_features(a, b), rel=1e-4)


def test_memory_is_that_of_the_new_process():
    held = torch.ones(100_000_000)  # 400 MB here must not be counted there
    little, much = (speed.peak_memory(f"held = b'x' * {size}") for size in (1, 50_000_000))
    assert len(held) > 0
    assert 2e6 < little < 100e6
    assert 40e6 < much - little < 200e6


@pytest.mark.slow
def test_distances_and_moments_of_both_are_measured():
    found = [speed.compare_distances(24, 12), speed.compare_memory(2000, 50)]
    assert [one.unit for one in found] == ["s", "GB"]
    assert all(min(one.ours, one.clean_fid) > 0 for one in found)
    assert command.line(found[0]).split()[:5] == ["distance", "of", "24", "features,", "s"]


def test_missing_weights_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("CONSISTENCY_BENCH_INCEPTION", str(tmp_path / "nowhere.pt"))
    with pytest.raises(UsageError, match=r"nowhere\.pt: there is no such file"):
        command.metrics(2, "cpu")
