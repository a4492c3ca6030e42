"""What is said of speed: figures that follow from what was measured, two sides that did the same, and a child's memory.

No test reads a clock: seconds of made-up rounds are given, and those of real ones only have to be there.
"""

import dataclasses
import functools
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from consistency_bench.benchmarks.cli import speed as command
from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.metrics import speed
from consistency_bench.benchmarks.metrics.extractors import inception
from consistency_bench.benchmarks.metrics.extractors import weight_files as network_files
from consistency_bench.benchmarks.metrics.extractors.preprocessing import PROTOCOLS
from consistency_bench.benchmarks.metrics.speed import Distance, Extraction, Memory, Round

from ...inception_reference import weights_file

CPU = torch.device("cpu")

#: 40 GFLOP an image: rates of 10, 20 and 4 images/s here, of 5, 4 and 4 images/s of clean-fid.
MADE_UP = Extraction(
    batch=20,
    images=48,
    flops=40 * 10**9,
    difference=1e-6,
    reading=1e-4,
    rounds=(
        Round(20, ours=2.0, clean_fid=4.0, matmul=500e9, conv=400e9),
        Round(20, ours=1.0, clean_fid=5.0, matmul=800e9, conv=1000e9),
        Round(8, ours=2.0, clean_fid=2.0, matmul=200e9, conv=640e9),
    ),
)
FRECHET = Distance(rows=30, size=8, ours=0.5, clean_fid=20.0, value=2.0, clean_fid_value=2.0 + 2e-6)
MEMORY = Memory(rows=100, size=8, peak=2_400_000_000, baseline=300_000_000)


# What follows from rounds


def test_rates_are_medians_and_ratios_pair_what_was_measured_together():
    assert MADE_UP.ours == 10
    assert MADE_UP.clean_fid == 4
    assert MADE_UP.ratios == (2, 5, 1)  # whose median is not the ratio of the medians
    assert MADE_UP.matmul == 800e9
    assert MADE_UP.conv == 1000e9
    assert MADE_UP.shares == pytest.approx((0.8, 1.0, 0.8))
    assert MADE_UP.strict_shares == pytest.approx((0.8, 0.8, 0.25))


def test_the_whole_is_two_sets_of_features_and_the_distance():
    found = speed.whole(MADE_UP, FRECHET)
    assert found.images == 60
    assert found.ours == pytest.approx(60 / 10 + 0.5)
    assert found.clean_fid == pytest.approx(60 / 4 + 20)
    assert found.ratio == pytest.approx(35 / 6.5)
    assert FRECHET.ratio == 40


@pytest.mark.parametrize(("images", "extrapolated"), [(59, True), (60, False)])
def test_the_whole_says_whether_it_is_extrapolated(images, extrapolated):
    features = dataclasses.replace(MADE_UP, images=images)
    total = speed.whole(features, FRECHET)
    assert total.extrapolated is extrapolated
    lines = "\n".join(command.distance_lines(FRECHET, total, features))
    assert ("extrapolated" in lines) is extrapolated
    names = [figure.what for figure in command.wanted(features, FRECHET, total, MEMORY)]
    assert any("extrapolated" in name for name in names) is extrapolated


def test_figures_below_their_bounds_are_said_to_be():
    total = speed.whole(MADE_UP, FRECHET)
    figures = command.wanted(MADE_UP, FRECHET, total, MEMORY)
    assert [(figure.found, figure.bound, figure.met) for figure in figures] == [
        ("2.00 ×", "≥ 2.2 ×", False),
        ("80.0%", "≥ 75%", True),
        ("80.0%", "≥ 75%", True),
        ("40.00 ×", "≥ 10 ×", True),
        ("5.38 ×", "≥ 3 ×", True),
        ("2.40 GB", "< 2.5 GB", True),
    ]
    slow = dataclasses.replace(MADE_UP, flops=MADE_UP.flops // 2)
    much = dataclasses.replace(MEMORY, peak=2_500_000_000)
    near = dataclasses.replace(FRECHET, ours=2.0, clean_fid=19.99)
    figures = command.wanted(slow, near, speed.whole(slow, dataclasses.replace(near, clean_fid=0.1)), much)
    assert not any(figure.met for figure in figures)
    assert all(line.endswith("NOT MET") for line in command.wanted_lines(figures))


# Features


@functools.cache
def measured() -> Extraction:
    weights_file()
    return speed.extraction(3, CPU, batch=2, sides=(64,))


def test_both_sides_give_the_same_features():
    assert measured().difference < 1e-3


def test_both_sides_saw_the_same_images(tmp_path):
    """Every image has features of its own, further from each other than the two sides' are."""
    images = speed.sample_images(3)
    files = speed.write_images(images, tmp_path)
    for image, file in zip(images, files, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), image.permute(1, 2, 0).numpy())
    theirs = speed.clean_fid_features(weights_file(), CPU, 2, tmp_path)(files[::-1])
    network = inception.load(weights_file())
    with torch.no_grad():
        ours = network(PROTOCOLS["clean"](images))
    torch.testing.assert_close(theirs.flip(0), ours, rtol=0, atol=1e-3)
    assert torch.cdist(ours, ours).add(torch.eye(3) * 9).min() > 1


def test_rounds_hold_all_images_and_what_was_timed():
    assert [turn.images for turn in measured().rounds] == [2, 1, 2]  # a third round takes the first images again
    assert measured().images == 3
    assert measured().batch == 2
    for turn in measured().rounds:
        assert min(turn.ours, turn.clean_fid, turn.matmul, turn.conv) > 0
    assert 0 < measured().reading < min(turn.clean_fid / turn.images for turn in measured().rounds)


def test_operations_are_those_of_the_convolutions():
    """Against the sum over convolutions of 2 · weights · pixels of their output, met in a pass on the CPU."""
    total = 0

    def count(module, _, output):
        nonlocal total
        total += 2 * module.weight.numel() * output.shape[2] * output.shape[3]

    network = inception.Inception().eval()
    for module in network.modules():
        if isinstance(module, inception.Conv):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, 299, 299))
    assert speed.network_flops() == total
    assert total == pytest.approx(2 * 5.71e9, rel=1e-2)  # the 5.7 G multiply-adds that are published of Inception v3


def test_missing_weights_are_said_in_one_sentence(monkeypatch):
    def missing(name):
        raise UsageError(f"the weights of {name} are not on this machine")

    monkeypatch.setattr(network_files, "locate", missing)
    with pytest.raises(UsageError, match="the weights of inception are not on this machine"):
        command.metrics(2, "cpu")


@pytest.mark.parametrize(
    ("images", "device", "message"),
    [(0, "cpu", "--images is 0, must be at least 1"), (2, "tpu", "'tpu', must be one of: auto, cpu, cuda, mps")],
)
def test_bad_input_is_refused(images, device, message):
    with pytest.raises(UsageError, match=message):
        command.metrics(images, device)


# Distance


def test_both_distances_are_of_the_same_features():
    found = speed.distance(rows=24, size=12, repeats=1)
    assert found.value > 0.1
    assert found.value == pytest.approx(found.clean_fid_value, rel=1e-4)
    assert min(found.ours, found.clean_fid) > 0
    assert (found.rows, found.size) == (24, 12)


def test_clean_fid_gets_back_its_own_scipy():
    from cleanfid import fid

    before = fid.linalg
    with speed.scipy_as_clean_fid_knows_it() as module:
        root, _ = module.linalg.sqrtm(np.diag([4.0, 9.0]), disp=False)
    np.testing.assert_allclose(root, np.diag([2.0, 3.0]))
    assert fid.linalg is before


# Memory


def test_memory_is_that_of_the_child_alone():
    held = torch.ones(100_000_000)  # 400 MB here must not show there
    little = speed.peak_memory("pass")
    much = speed.peak_memory("import sys; held = bytearray(int(sys.argv[1])); held[:] = b'x' * len(held)", "50000000")
    assert len(held) > 0
    assert 2e6 < little < 100e6
    assert 50e6 < much - little < 200e6


@pytest.mark.skipif(sys.platform == "win32", reason="nothing tells the memory of a process that has ended")
def test_streamed_moments_need_more_than_torch_alone():
    found = speed.streamed_moments(rows=1500, size=1500)
    assert found.baseline > 50e6
    # At least the scatter and the covariance, 18 MB each; what is loaded at the first product is more than they are.
    assert found.baseline + 30e6 < found.peak < found.baseline + 500e6


def test_the_command_prints_every_figure(monkeypatch, capsys):
    monkeypatch.setattr(network_files, "locate", lambda name: None)
    monkeypatch.setattr(speed, "extraction", lambda images, device: MADE_UP)
    monkeypatch.setattr(speed, "distance", lambda: FRECHET)
    monkeypatch.setattr(speed, "streamed_moments", lambda: MEMORY)
    assert command.metrics(48, "cpu") == 0
    out = capsys.readouterr().out
    for text in ("threads", f"torch {torch.__version__}", "10.00 images/s, clean-fid 4.00 images/s", "1.00 to 5.00"):
        assert text in out
    for text in ("800.0 GFLOP/s of torch.matmul", "40.000 GFLOP an image", "0.500 s, clean-fid 20.0 s", "2.40 GB at"):
        assert text in out
    assert out.count("wanted ≥") + out.count("wanted <") == 6
    assert out.count("NOT MET") == 1
