"""The Inception of FID against torch-fidelity's, published values, and files that must be refused."""

import functools
import importlib.util
import os
import zipfile

import pytest
import torch
from torch import nn

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.common.files import DamagedError
from consistency_bench.benchmarks.data import registry
from consistency_bench.benchmarks.metrics import distances, kernels
from consistency_bench.benchmarks.metrics.extractors import inception
from consistency_bench.benchmarks.metrics.extractors import network as network_extractor
from consistency_bench.benchmarks.metrics.extractors.inception import Conv, Inception
from consistency_bench.benchmarks.metrics.extractors.preprocessing import PROTOCOLS

from ....conftest import require
from ....inception_reference import reference, weights_file, without_download

#: Number of features, and the last layer before them.
TAPS = {64: "pool0", 192: "pool1", 768: "mixed_7", 2048: "mixed_10"}


@functools.cache
def network(folded: bool) -> Inception:
    loaded = inception.load(weights_file())
    return loaded.fold() if folded else loaded


@functools.cache
def images() -> torch.Tensor:
    """Noise, and enlarged scans of digits: two kinds of images far from each other in feature space."""
    noise = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    scans = registry.load("digits").images[:2].repeat_interleave(4, 2).repeat_interleave(4, 3)
    return torch.cat([noise, scans.expand(-1, 3, -1, -1)])


@functools.cache
def expected() -> dict[int, torch.Tensor]:
    return dict(zip(TAPS, reference(*map(str, TAPS))(images()), strict=True))


def tapped(network: Inception, x: torch.Tensor, tap: int) -> torch.Tensor:
    for name, layer in network.layers.named_children():
        x = layer(x)
        if name == TAPS[tap]:
            break
    return x.mean(dim=(2, 3))


# Features


@pytest.mark.parametrize("tap", TAPS)
@pytest.mark.parametrize("folded", [False, True])
def test_features_are_torch_fidelity_s(folded, tap):
    x = PROTOCOLS["legacy_tensorflow"](images())
    assert x.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        features = tapped(network(folded), x, tap)
    assert features.shape == (4, tap)
    assert expected()[tap].std() > 0.05
    torch.testing.assert_close(features, expected()[tap], rtol=0, atol=1e-4)


def test_folding_is_the_same_function():
    """Each convolution on its own, with statistics far from those of training."""
    generator = torch.Generator().manual_seed(0)
    conv = Conv(5, 7, (1, 3), stride=2)
    for name, value in conv.state_dict().items():
        value.normal_(generator=generator) if name != "var" else value.uniform_(1e-4, 9, generator=generator)
    x = torch.randn(2, 5, 9, 8, generator=generator)
    plain = torch.nn.functional.conv2d(x.double(), conv.weight.double(), None, 2, (0, 1))
    statistics = (conv.mean, conv.var, conv.beta)
    mean, var, beta = (value.double()[:, None, None] for value in statistics)
    by_hand = ((plain - mean) / (var + 1e-3).sqrt() + beta).clamp(min=0)
    torch.testing.assert_close(conv(x).double(), by_hand, rtol=1e-4, atol=1e-4)
    conv.fold()
    torch.testing.assert_close(conv(x).double(), by_hand, rtol=1e-4, atol=1e-4)
    assert sorted(conv.state_dict()) == ["bias", "weight"]


def test_the_extractor_does_not_depend_on_batches_and_says_what_it_is(monkeypatch):
    data = registry.load("digits")
    monkeypatch.setenv("CONSISTENCY_BENCH_INCEPTION", str(weights_file()))
    extractor = inception.INCEPTION.build(data.info, torch.device("cpu"), "")
    assert extractor.identity == f"inception legacy_tensorflow {inception.SHA256[:16]}"
    assert extractor.costly
    monkeypatch.setattr(network_extractor, "BATCH", {"cpu": 3})
    features = extractor.extract(images())
    assert features.values.shape == (4, 2048)
    assert features.values.device.type == "cpu"
    assert not features.values.requires_grad
    torch.testing.assert_close(features.values, expected()[2048], rtol=0, atol=1e-4)
    grey = images()[2:, :1]
    torch.testing.assert_close(extractor.extract(grey).values, features.values[2:], rtol=0, atol=1e-4)
    for wrong in (torch.rand(2, 3, 8, 8), images()[:0], images()[:, :2]):
        with pytest.raises(ValueError, match="images"):
            extractor.extract(wrong)


def test_data_that_are_no_images_and_unknown_protocols_are_refused(monkeypatch):
    monkeypatch.setenv("CONSISTENCY_BENCH_INCEPTION", str(weights_file()))
    with pytest.raises(UsageError, match="'inception' reads images of 1 or 3 channels, which data set 'toy2d'"):
        inception.INCEPTION.check(registry.describe("toy2d"), "clean")
    with pytest.raises(UsageError, match=r"unknown protocol 'cleann'\. Did you mean: clean\? Available: legacy_tens"):
        inception.INCEPTION.check(registry.describe("digits"), "cleann")


# Published values


@functools.cache
def torchmetrics_images(metric: str, options: tuple[tuple[str, int], ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The images of torchmetrics' documentation: drawn after its metric, whose initial weights use up random numbers.

    Leaves the default generator where the documentation's computation of the metric begins.
    """
    found = importlib.util.find_spec("torchmetrics") is not None
    require(found, "torchmetrics", "pip install torchmetrics==1.9.0")
    from torchmetrics import image

    torch.manual_seed(42)
    with without_download():
        getattr(image, metric)(**dict(options))
    first = torch.randint(0, 200, (100, 3, 299, 299), dtype=torch.uint8)
    return first, torch.randint(100, 255, (100, 3, 299, 299), dtype=torch.uint8)


def features_at(images: torch.Tensor, tap: int) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([tapped(network(True), PROTOCOLS["clean"](batch), tap) for batch in images.split(20)])


@pytest.mark.slow
def test_fid_of_torchmetrics_documentation():
    with torch.random.fork_rng(devices=[]):
        first, second = torchmetrics_images("FrechetInceptionDistance", (("feature", 64),))
    value = distances.frechet_from_features(features_at(first, 64), features_at(second, 64))
    assert value == pytest.approx(12.6388, abs=1e-4)


@pytest.mark.slow
def test_kid_of_torchmetrics_documentation():
    with torch.random.fork_rng(devices=[]):
        first, second = torchmetrics_images.__wrapped__("KernelInceptionDistance", (("subset_size", 50),))
        a, b = features_at(first, 2048), features_at(second, 2048)
        values = kernels.kid_subsets(a, b, subsets=100, size=50, generator=torch.default_generator)
    assert float(values.mean()) == pytest.approx(0.0312, abs=6e-5)
    assert float(values.std(correction=0)) == pytest.approx(0.0025, abs=6e-5)


# Files


def scripted(tensors: dict[str, torch.Tensor]) -> torch.jit.ScriptModule:
    """Modules nested as the names say, which do nothing."""

    class Holder(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    root = Holder()
    for name, value in tensors.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, Holder())
            module = module.get_submodule(part)
        module.register_buffer(last, value)
    return torch.jit.script(root)


def test_the_same_tensors_in_another_wrapping_are_the_same_network(tmp_path):
    """NVIDIA's archive has no module around the network and a classifier behind it."""
    head = {"output.weight": torch.zeros(1008, 2048), "output.bias": torch.zeros(1008)}
    path = tmp_path / "inception-2015-12-05.pt"
    scripted(head | network(False).state_dict()).save(str(path))
    assert path.read_bytes() != weights_file().read_bytes()
    loaded = inception.load(path).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in network(False).state_dict().items())


def damaged(tmp_path, change):
    content = bytearray(weights_file().read_bytes())
    path = tmp_path / "damaged.pt"
    path.write_bytes(change(content))
    return path


def flip(content: bytearray, at: int) -> bytearray:
    content[at] ^= 1
    return content


def entry(name: str) -> int:
    """Where in the weights file the content of an entry begins, a bit behind its header."""
    with zipfile.ZipFile(weights_file()) as archive:
        (info,) = (info for info in archive.infolist() if info.filename.endswith(f"/{name}"))
        return info.header_offset + 400


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1000],
        lambda content: content[:0],
        lambda content: b"<html>not found</html>",
        lambda content: flip(content, entry("data/372")),
        lambda content: flip(content, entry("data.pkl") + 5000),
    ],
    ids=["half", "end cut off", "empty", "a page", "a bit of a tensor", "a bit of the index"],
)
def test_a_damaged_file_is_refused(tmp_path, change):
    with pytest.raises(DamagedError, match=r"damaged\.pt") as caught:
        inception.load(damaged(tmp_path, change))
    assert "\n" not in str(caught.value)


def test_a_changed_tensor_in_a_sound_archive_is_refused(tmp_path):
    state = dict(network(False).state_dict())
    state["layers.conv_3.beta"] = state["layers.conv_3.beta"] + 1e-6
    path = tmp_path / "other.pt"
    scripted(state).save(str(path))
    with pytest.raises(DamagedError, match=r"other\.pt is damaged or holds other weights: its tensors hash to"):
        inception.load(path)


def test_an_archive_of_another_network_is_refused(tmp_path):
    path = tmp_path / "other.pt"
    scripted({"layers.conv.weight": torch.zeros(32, 3, 5, 5)}).save(str(path))
    with pytest.raises(DamagedError, match=r"does not hold the Inception network of FID: layers\.conv\.weight"):
        inception.load(path)
    with pytest.raises(DamagedError, match="there is no file"):
        inception.load(tmp_path / "nowhere.pt")


def test_nothing_in_an_archive_is_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/executed",)

    import pickle

    path = tmp_path / "evil.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil(), protocol=2))
    with pytest.raises(DamagedError, match=r"refused, because it asks for posix\.system"):
        inception.load(path)
    assert not (tmp_path / "executed").exists()
