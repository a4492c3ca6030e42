"""The shipped classifier, and the script it comes from."""

import hashlib

import pytest
import safetensors.torch
import torch

from consistency_bench.benchmarks.data import registry
from consistency_bench.benchmarks.metrics.extractors import registry as extractors
from consistency_bench.benchmarks.metrics.extractors import train_digits
from consistency_bench.benchmarks.metrics.extractors.base import Features
from consistency_bench.benchmarks.metrics.extractors.digits import WEIGHTS, load_digits_classifier
from consistency_bench.benchmarks.metrics.extractors.train_digits import accuracy, split


@pytest.fixture
def one_thread():
    """The script computes on one thread; the other tests get theirs back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_shipped_weights_are_small_and_recognise_unseen_scans():
    data = registry.load("digits")
    training, held_out = split(len(data))
    assert sorted([*training.tolist(), *held_out.tolist()]) == list(range(1797))
    x = data.to_model(data.images)
    assert accuracy(load_digits_classifier(), x[held_out], data.labels[held_out]) >= 0.98
    assert WEIGHTS.stat().st_size <= 300_000


def test_other_weights_are_refused(tmp_path):
    content = bytearray(WEIGHTS.read_bytes())
    content[-1] ^= 1
    changed = tmp_path / "changed.safetensors"
    changed.write_bytes(content)
    with pytest.raises(RuntimeError, match=r"changed\.safetensors is not the file"):
        load_digits_classifier(changed)


def test_loading_draws_no_random_numbers():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    load_digits_classifier()
    assert torch.equal(torch.rand(1), expected)


def test_features_do_not_depend_on_the_batch():
    data = registry.load("digits")
    extract = extractors.build("digits", data.info, torch.device("cpu"))
    whole = extract(data.images[:100])
    parts = Features.concatenate([extract(images) for images in data.images[:100].split(7)])
    assert whole.values.shape == (100, 64)
    assert whole.values.dtype == torch.float64
    assert whole.predictions is not None
    assert parts.predictions is not None
    assert torch.equal(whole.predictions, parts.predictions)
    torch.testing.assert_close(whole.values, parts.values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(whole.values[50:60], extract(data.images[50:60]).values, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("one_thread")
def test_the_script_writes_the_same_file_twice(tmp_path, capsys):
    digests = []
    for name in ("a", "b"):
        out = tmp_path / f"{name}.safetensors"
        train_digits.main(["--out", str(out), "--epochs", "1"])
        digests.append(hashlib.sha256(out.read_bytes()).hexdigest())
        assert digests[-1] in capsys.readouterr().out
    assert digests[0] == digests[1]
    shipped, trained = (safetensors.torch.load_file(path) for path in (WEIGHTS, out))
    assert {k: v.shape for k, v in shipped.items()} == {k: v.shape for k, v in trained.items()}
