"""The U-Nets against the names, shapes, counts and outputs of independent implementations (tests/golden)."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from consistency_bench.benchmarks.config.plugins import SHIPPED as FOLDER
from consistency_bench.methods.networks.edm2 import MPConv
from consistency_bench.methods.networks.encoder import Encoder
from consistency_bench.methods.networks.layers import attention, group_norm
from consistency_bench.methods.networks.registry import build_factory
from consistency_bench.methods.networks.resampling import resample, resampling_kernel
from consistency_bench.methods.networks.unet import UNet
from consistency_bench.methods.parts.options import OptionError
from consistency_bench.methods.parts.variational import encoder_size

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "networks.json").read_text(encoding="utf-8"))["nets"]
SMALL = ["ddpmpp_small", "ncsnpp_small", "adm_small", "edm2_small"]


def options_of(config: dict[str, Any], kind: str) -> dict[str, Any]:
    """A golden file's configuration as the section `network`."""
    if kind == "song":
        kind = "ddpmpp" if config["embedding_type"] == "positional" else "ncsnpp"
    return {
        "kind": kind,
        "channels": config["model_channels"],
        "channel_mult": config["channel_mult"],
        "blocks": config["num_blocks"],
        "attn_resolutions": config["attn_resolutions"],
        "dropout": config["dropout"],
    }


def golden_network(name: str, **options: Any) -> UNet:
    config = GOLDEN[name]["config"]
    shape = (config["in_channels"], config["img_resolution"], config["img_resolution"])
    section = options_of(config, GOLDEN[name]["kind"]) | options
    factory = build_factory(section, shape, config["label_dim"])
    if config["out_channels"] == config["in_channels"]:
        network = factory.network()
    else:
        encoder = factory.encoder(f"{config['model_channels']}x{config['num_blocks']}")
        assert isinstance(encoder, Encoder)
        network = encoder.network
    assert isinstance(network, UNet)
    return network


def sines(shape: torch.Size, phase: float, rate: float) -> Tensor:
    return torch.sin(rate * torch.arange(shape.numel(), dtype=torch.float64) + phase).view(shape)


@torch.no_grad()
def fill(network: nn.Module) -> None:
    """Weights by the golden file's rule."""
    for k, (name, parameter) in enumerate(sorted(network.named_parameters())):
        values = sines(parameter.shape, 0.3 * k + 0.5, 0.7)
        if parameter.ndim > 1:
            parameter.copy_(values / math.sqrt(parameter[0].numel()))
        else:
            parameter.copy_(0.05 * values + name.endswith("weight"))
    buffers = dict(network.named_buffers())
    for name, start, end in [
        ("map_noise.freqs", -1.2 * 0.02, 1.3 * 0.02),
        ("emb_fourier.freqs", -3, 3),
        ("emb_fourier.phases", 0, 3),
    ]:
        if name in buffers:
            buffers[name].copy_(torch.linspace(start, end, len(buffers[name])))


def filled(name: str, **options: Any) -> UNet:
    network = golden_network(name, **options)
    fill(network)
    return network


def random_network(name: str, **options: Any) -> UNet:
    """A network in training mode with random weights, none of them zero."""
    torch.manual_seed(0)
    network = golden_network(name, **options).train()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter) if parameter.ndim else 0.5)
    return network


U = 0.9 * sines(torch.Size([2, 3, 16, 16]), 0, 0.37).float()
C = torch.tensor([-1.5, 0.2])
Y = torch.tensor([3, 7])


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# --- golden file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
def test_names_order_shapes_and_counts(name: str) -> None:
    golden = GOLDEN[name]
    with torch.device("meta"):
        network = golden_network(name)
    shapes = {key: list(p.shape) for key, p in network.named_parameters()}
    assert list(shapes.items()) == list((golden.get("shapes") or golden["all_shapes"]).items())
    assert parameters(network) == golden["params"]


@pytest.mark.parametrize("name", [name for name in GOLDEN if "buffers" in GOLDEN[name]])
def test_buffers(name: str) -> None:
    network = golden_network(name)
    named = {key for key, _ in network.named_parameters()}
    buffers = {key: list(value.shape) for key, value in network.state_dict().items() if key not in named}
    assert buffers == GOLDEN[name]["buffers"]


@pytest.mark.parametrize(("name", "tolerance"), list(zip(SMALL, (1e-5, 1e-5, 1e-5, 5e-4), strict=True)))
def test_outputs(name: str, tolerance: float) -> None:
    golden = GOLDEN[name]["output"]
    with torch.no_grad():
        output = filled(name).eval()(U, C, Y)
    atol = tolerance * golden["std"]
    flat = output.flatten()
    torch.testing.assert_close(flat[:8], torch.tensor(golden["first8"]), rtol=tolerance, atol=atol)
    torch.testing.assert_close(flat[-8:], torch.tensor(golden["last8"]), rtol=tolerance, atol=atol)
    assert output.mean().item() == pytest.approx(golden["mean"], abs=atol)
    assert output.std().item() == pytest.approx(golden["std"], rel=tolerance)
    assert output.abs().sum().item() == pytest.approx(golden["abs_sum"], rel=tolerance)


# --- counts of published configurations ------------------------------------------------------------------------------

RGB32, RGB64 = (3, 32, 32), (3, 64, 64)
DDPMPP = {"kind": "ddpmpp", "channels": 128, "channel_mult": [2, 2, 2], "blocks": 4}
NCSNPP = DDPMPP | {"kind": "ncsnpp"}
FFHQ = DDPMPP | {"channel_mult": [1, 2, 2, 2]}
ADM, EDM2 = {"kind": "adm"}, {"kind": "edm2"}
COUNTS = {
    "ddpmpp_cifar10": (DDPMPP, RGB32, 0, 55_732_739, 416),
    "ddpmpp_cifar10 with classes": (DDPMPP, RGB32, 10, 55_734_147, 418),
    "ncsnpp_cifar10": (NCSNPP, RGB32, 0, 56_395_523, 420),
    "iCT-deep, CIFAR-10": (NCSNPP | {"blocks": 8}, RGB32, 0, 97_610_499, 708),
    "ddpmpp_ffhq64": (FFHQ, RGB64, 0, 61_804_419, 540),
    "ddpmpp_fmnist": (DDPMPP | {"channels": 64}, (1, 28, 28), 0, 13_621_377, 386),
    "adm_imagenet64": (ADM, RGB64, 1000, 295_899_267, 541),
    "iCT-deep, ImageNet-64": (ADM | {"blocks": 6}, RGB64, 1000, 495_357_699, 913),
    "edm2_s": (EDM2, RGB64, 1000, 280_209_253, 198),
    "edm2_m": (EDM2 | {"channels": 256}, RGB64, 1000, 497_803_045, 198),
    "edm2_l": (EDM2 | {"channels": 320}, RGB64, 1000, 777_492_197, 198),
    "edm2_xl": (EDM2 | {"channels": 384}, RGB64, 1000, 1_119_276_709, 198),
}


@pytest.mark.parametrize(("options", "shape", "classes", "count", "tensors"), COUNTS.values(), ids=list(COUNTS))
def test_counts(options: dict[str, Any], shape: tuple[int, ...], classes: int, count: int, tensors: int) -> None:
    with torch.device("meta"):
        network = build_factory(options, shape, classes).network()
    assert parameters(network) == count
    assert len(list(network.parameters())) == tensors


ENCODERS = {
    "FMNIST small": (DDPMPP | {"channels": 64}, (1, 28, 28), 0, "small", 1_525_826, 188),
    "FMNIST big": (DDPMPP | {"channels": 64}, (1, 28, 28), 0, "big", 2_155_778, 254),
    "CIFAR-10 small": (DDPMPP, RGB32, 0, "small", 1_562_246, 200),
    "CIFAR-10 big": (DDPMPP, RGB32, 0, "big", 2_208_966, 272),
    "FFHQ small": (FFHQ, RGB64, 0, "small", 1_772_070, 258),
    "FFHQ big": (FFHQ, RGB64, 0, "big", 2_475_654, 352),
    "ImageNet small": (EDM2, RGB64, 1000, "small", 4_431_701, 110),
    "ImageNet big": (EDM2, RGB64, 1000, "big", 6_162_269, 154),
    "small, spelled out": (DDPMPP, RGB32, 0, "32x1", 1_562_246, 200),
}


@pytest.mark.parametrize(
    ("options", "shape", "classes", "size", "count", "tensors"), ENCODERS.values(), ids=list(ENCODERS)
)
def test_counts_of_encoders(
    options: dict[str, Any], shape: tuple[int, ...], classes: int, size: str, count: int, tensors: int
) -> None:
    with torch.device("meta"):
        encoder = build_factory(options, shape, classes).encoder(size)
    assert parameters(encoder) == count
    assert len(list(encoder.parameters())) == tensors


@pytest.mark.parametrize(
    ("benchmark", "shape", "count"),
    [("cifar10", RGB32, 55_732_739), ("fashion_mnist", (1, 28, 28), 13_621_377)],
)
def test_networks_of_the_benchmarks(benchmark: str, shape: tuple[int, ...], count: int) -> None:
    config = yaml.safe_load((FOLDER / "benchmark" / f"{benchmark}.yaml").read_text(encoding="utf-8"))
    with torch.device("meta"):
        assert parameters(build_factory(config["network"], shape, 0).network()) == count


# --- parts -----------------------------------------------------------------------------------------------------------


def test_queries_keys_and_values_are_interleaved_within_a_head() -> None:
    generator = torch.Generator().manual_seed(0)
    qkv, heads = torch.randn(2, 3 * 12, 4, 5, generator=generator), 3
    outputs = []
    for head in qkv.flatten(2).split(12, dim=1):
        q, k, v = head[:, 0::3], head[:, 1::3], head[:, 2::3]
        weights = (torch.einsum("bdq,bdk->bqk", q, k) / math.sqrt(4)).softmax(dim=2)
        outputs.append(torch.einsum("bqk,bdk->bdq", weights, v))
    expected = torch.cat(outputs, dim=1).view(2, 12, 4, 5)
    torch.testing.assert_close(attention(qkv, heads), expected, rtol=1e-5, atol=1e-6)


def test_resampling_with_two_taps_is_mean_and_nearest_neighbour() -> None:
    x = torch.randn(2, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    kernel = resampling_kernel([1, 1])
    torch.testing.assert_close(resample(x, kernel, "down"), F.avg_pool2d(x, 2))
    torch.testing.assert_close(resample(x, kernel, "up"), F.interpolate(x, scale_factor=2))


def test_resampling_with_four_taps_keeps_constants_and_halves_and_doubles() -> None:
    kernel = resampling_kernel([1, 3, 3, 1])
    assert kernel.sum().item() == pytest.approx(1)
    ones = torch.ones(1, 2, 8, 8)
    for direction, size in (("down", 4), ("up", 16)):
        inside = resample(ones, kernel, direction)
        assert inside.shape == (1, 2, size, size)
        torch.testing.assert_close(inside[..., 1:-1, 1:-1], torch.ones(1, 2, size - 2, size - 2))


@pytest.mark.parametrize(("channels", "groups"), [(16, 4), (64, 16), (128, 32), (384, 32), (144, 24), (4, 1)])
def test_groups_of_the_normalisation(channels: int, groups: int) -> None:
    assert group_norm(channels, 1e-6).num_groups == groups


# --- behaviour -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("train", [True, False])
def test_compiles_without_a_graph_break(name: str, train: bool) -> None:
    network = random_network(name, dropout=0.1)
    network(U, C, Y)  # EDM2's weights are normalised from here on, and stay as they are
    network.train(train)
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    outputs = []
    for run in (network, compiled):
        torch.manual_seed(0)
        outputs.append(run(U, C, Y))
        with torch.no_grad():
            outputs.append(run(U, C, Y))
    for one, other in zip(outputs[:2], outputs[2:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    outputs[2].square().mean().backward()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("conditional", [True, False])
def test_functional_calls_give_the_gradients_of_the_module(name: str, conditional: bool) -> None:
    network, labels = random_network(name), Y if conditional else None
    network(U, C, labels).square().mean().backward()
    network.zero_grad()
    weights = {key: p.detach() for key, p in network.named_parameters()}

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(network, weights, (U, C, labels)).square().mean()

    gradients = torch.func.grad(loss)(weights)
    network(U, C, labels).square().mean().backward()
    scale = max(float(g.abs().max()) for g in gradients.values())
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        torch.testing.assert_close(gradients[key], parameter.grad, rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.parametrize("name", SMALL)
def test_gradient_reaches_every_parameter(name: str) -> None:
    network = random_network(name, dropout=0.1)
    network(U, C, Y).square().mean().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", SMALL)
def test_inputs_are_left_alone(name: str) -> None:
    network = random_network(name)
    u, c = U.clone(), C.clone()
    network(u, c, Y).sum().backward()
    assert torch.equal(u, U)
    assert torch.equal(c, C)


@pytest.mark.parametrize("name", SMALL)
def test_memory_format_changes_nothing(name: str) -> None:
    network = random_network(name).eval()
    with torch.no_grad():
        expected = network(U, C, Y)
        actual = network.to(memory_format=torch.channels_last)(U.to(memory_format=torch.channels_last), C, Y)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-4 * expected.std().item())


@pytest.mark.parametrize("name", SMALL)
def test_runs_in_mixed_precision(name: str) -> None:
    network = random_network(name)
    expected = network(U, C, Y)
    with torch.autocast("cpu", torch.bfloat16):
        actual = network(U, C, Y).float()
    actual.square().mean().backward()
    assert (actual - expected).norm() < 0.15 * expected.norm()


@pytest.mark.parametrize("name", ["adm_small", "edm2_small", "ddpmpp_small_classes"])
def test_labels_condition_and_no_labels_are_a_row_of_zeros(name: str) -> None:
    network = random_network(name).eval()
    with torch.no_grad():
        one, other = network(U, C, Y), network(U, C, Y.flip(0))
        none = network(U, C, None)
        assert (one - other).abs().max() > 1e-3
        assert (one - none).abs().max() > 1e-3
        dropped = random_network(name, label_dropout=0.999999)(U, C, Y)
        torch.testing.assert_close(dropped, random_network(name)(U, C, None), rtol=1e-5, atol=1e-5)


def test_an_unconditional_network_ignores_labels() -> None:
    network = random_network("ddpmpp_small").eval()
    assert torch.equal(network(U, C, Y), network(U, C, None))


@pytest.mark.parametrize("kind", ["adm", "edm2"])
def test_dropout_down_to_a_resolution(kind: str) -> None:
    name = f"{kind}_small"
    everywhere = golden_network(name, dropout=0.3, dropout_res=None)
    low = golden_network(name, dropout=0.3, dropout_res=8)
    for network, expected in ((everywhere, {"16": 0.3, "8": 0.3}), (low, {"16": 0.0, "8": 0.3})):
        blocks = [*network.enc.items(), *network.dec.items()]
        rates = {(key.split("x")[0], block.dropout.p) for key, block in blocks if hasattr(block, "dropout")}
        assert rates == set(expected.items())


def test_floating_point_operations_of_convolutions_and_attention_are_seen() -> None:
    network = random_network("ddpmpp_small")
    with FlopCounterMode(display=False) as counter:
        network(U, C).sum().backward()
    counts = {str(operation): count for operation, count in counter.get_flop_counts()["Global"].items()}
    # At 8×8 three blocks attend (enc, in0, the last of dec): 64 pixels, one head of 32 channels.
    product = 2 * 2 * 64 * 64 * 32
    attention = {name.split(".")[-1]: count for name, count in counts.items() if "attention" in name}
    assert sorted(attention.values()) == [3 * 2 * product, 3 * 5 * product]
    assert any(name.endswith("convolution") for name in counts)
    assert any(name.endswith("convolution_backward") for name in counts)


def test_images_of_28_pixels() -> None:
    options = {"kind": "ddpmpp", "channels": 16, "blocks": 1}
    network = build_factory(options, (1, 28, 28), 0).network()
    assert isinstance(network, UNet)
    assert network(torch.zeros(2, 1, 28, 28), torch.zeros(2)).shape == (2, 1, 28, 28)
    assert list(network.attention_heads()) == ["dec.7x7_in0"]


# --- initial weights -------------------------------------------------------------------------------------------------


def test_initial_weights_of_song() -> None:
    torch.manual_seed(0)
    weights = dict(golden_network("ddpmpp_small_classes").named_parameters())
    for key, gain in [("conv0", 1), ("conv1", 1e-5), ("qkv", math.sqrt(0.2)), ("proj", 1e-5), ("affine", 1)]:
        weight = weights[f"dec.8x8_block2.{key}.weight"]
        fans = weight[0].numel() + weight[:, 0].numel()
        bound = gain * math.sqrt(6 / fans)
        assert 0.97 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert not weights[f"dec.8x8_block2.{key}.bias"].any()
    assert weights["dec.16x16_aux_conv.weight"].abs().max() < 1e-5


def test_initial_weights_of_adm() -> None:
    torch.manual_seed(0)
    weights = dict(golden_network("adm_small").named_parameters())
    for key in ("conv0", "qkv", "affine"):
        weight, bias = weights[f"dec.8x8_block0.{key}.weight"], weights[f"dec.8x8_block0.{key}.bias"]
        bound = weight[0].numel() ** -0.5
        for values in (weight, bias):
            assert 0.9 * bound < values.abs().max() <= bound
    for key in ("dec.8x8_block0.conv1", "dec.8x8_block0.proj", "out_conv"):
        assert not weights[f"{key}.weight"].any()
        assert not weights[f"{key}.bias"].any()
    assert weights["map_label.weight"].std().item() == pytest.approx(1, rel=0.05)


def test_initial_weights_of_edm2() -> None:
    torch.manual_seed(0)
    weights = dict(golden_network("edm2_small").named_parameters())
    assert weights["out_gain"] == weights["enc.8x8_block0.emb_gain"] == 0
    for key in ("emb_label.weight", "enc.8x8_block0.conv_res0.weight", "dec.8x8_in0.attn_qkv.weight"):
        assert weights[key].std().item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(("scale", "expected"), [(None, 0.02), (16, 16)])
def test_frequencies_of_ncsnpp(scale: float | None, expected: float) -> None:
    torch.manual_seed(0)
    options = (
        NCSNPP
        | {"channels": 256, "channel_mult": [1], "blocks": 1}
        | ({} if scale is None else {"fourier_scale": scale})
    )
    network = build_factory(options, (1, 8, 8), 0).network()
    assert network.get_buffer("map_noise.freqs").std().item() == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(("kind", "largest"), [("ddpmpp", 1e-3), ("ncsnpp", 1e-3), ("adm", 0), ("edm2", 0)])
def test_encoders_begin_at_the_prior_s_mean(kind: str, largest: float) -> None:
    torch.manual_seed(0)
    encoder = build_factory({"kind": kind, "channel_mult": [1, 2]}, (3, 16, 16), 10).encoder("small")
    with torch.no_grad():
        mean, std = encoder(U, Y)
    assert mean.shape == std.shape == U.shape
    assert mean.abs().max() <= largest
    torch.testing.assert_close(std, torch.full_like(std, math.log(2)), rtol=0, atol=1e-3)


# --- EDM2's weights --------------------------------------------------------------------------------------------------


def stored(network: nn.Module) -> dict[str, Tensor]:
    return {key: m.weight.detach().clone() for key, m in network.named_modules() if isinstance(m, MPConv)}


def row_rms(weight: Tensor) -> Tensor:
    return weight.flatten(1).square().mean(dim=1).sqrt()


def test_a_training_pass_normalises_every_row_of_every_weight() -> None:
    torch.manual_seed(0)
    network = golden_network("edm2_small").train()
    before = stored(network)
    network(U, C, Y)
    for key, weight in stored(network).items():
        torch.testing.assert_close(row_rms(weight), torch.ones(len(weight)), rtol=0, atol=3e-4)
        expected = before[key] / (1e-4 + row_rms(before[key])).view(-1, *[1] * (weight.ndim - 1))
        torch.testing.assert_close(weight, expected)


def test_the_teacher_and_evaluation_leave_weights_alone() -> None:
    network = random_network("edm2_small")
    before = stored(network)
    with torch.no_grad():
        network(U, C, Y)
    network.eval()(U, C, Y)
    for key, weight in stored(network).items():
        assert torch.equal(weight, before[key])


def test_several_passes_may_come_before_one_backward_pass() -> None:
    network = random_network("edm2_small")
    network(U, C, Y)
    gradients = []
    for passes in ([slice(0, 2)], [slice(0, 1), slice(1, 2)]):
        network.zero_grad()
        outputs = torch.cat([network(U[rows], C[rows], Y[rows]) for rows in passes])
        outputs.square().mean().backward()
        gradients.append([p.grad for p in network.parameters()])
    scale = max(float(g.abs().max()) for g in gradients[0] if g is not None)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * scale)


def test_the_size_of_stored_weights_does_not_matter() -> None:
    network = random_network("edm2_small").eval()
    with torch.no_grad():
        expected = network(U, C, Y)
        for module in network.modules():
            if isinstance(module, MPConv):
                module.weight.mul_(100)
        actual = network(U, C, Y)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-2 * expected.std().item())


# --- options ---------------------------------------------------------------------------------------------------------

REFUSED = {
    "channels": ({"kind": "ddpmpp", "channels": 30}, "network.channels is 30, must be a positive multiple of 4"),
    "no levels": ({"kind": "adm", "channel_mult": []}, r"network.channel_mult is \[\], must be whole numbers"),
    "mult": ({"kind": "adm", "channel_mult": [1, 0]}, r"network.channel_mult is \[1, 0\], must be whole numbers"),
    "blocks": ({"kind": "edm2", "blocks": 0}, "network.blocks is 0, must be from 1 to 1,000"),
    "attention": ({"kind": "adm", "attn_resolutions": [0]}, r"network.attn_resolutions is \[0\], must be resolutions"),
    "dropout": ({"kind": "ncsnpp", "dropout": 1}, "network.dropout is 1, must be from 0 to below 1"),
    "label_dropout": ({"kind": "adm", "label_dropout": -1}, "network.label_dropout is -1, must be from 0 to below 1"),
    "dropout_res": ({"kind": "edm2", "dropout_res": 0}, "network.dropout_res is 0, must be at least 1"),
    "fourier_scale": ({"kind": "ncsnpp", "fourier_scale": 0}, "network.fourier_scale is 0, must be above 0"),
    "width": ({"kind": "mlp", "width": 50}, "network.width is 50, must be a positive multiple of 4"),
    "not its option": ({"kind": "ddpmpp", "fourier_scale": 1}, "unknown key 'network.fourier_scale'. Available: cha"),
    "type": ({"kind": "edm2", "channel_mult": 2}, "network.channel_mult is 2, must be a list in square brackets"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refused_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=f"^{message}"):
        build_factory(options, (3, 16, 16), 0)


def test_images_that_do_not_fit_the_network() -> None:
    options = {"kind": "ddpmpp", "channels": 16, "blocks": 1, "channel_mult": [1, 2, 2, 2]}
    with pytest.raises(OptionError, match="channel_mult has 4 levels, but 28×28 images cannot be halved 3 times"):
        build_factory(options, (1, 28, 28), 0).network()
    for shape in ((2,), (3, 16, 8)):
        with pytest.raises(OptionError, match="for square images, not for samples of shape"):
            build_factory(options, shape, 0).network()


def test_channels_that_heads_cannot_share() -> None:
    options = {"kind": "adm", "channels": 200, "channel_mult": [1], "blocks": 1, "attn_resolutions": [16]}
    with pytest.raises(OptionError, match="16x16_block0 has 200 channels, which cannot be divided among 3 heads"):
        build_factory(options, (3, 16, 16), 0).network()


def test_lost_attention_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    factory = build_factory({"kind": "adm", "blocks": 1, "channel_mult": [1, 2]}, (3, 16, 16), 0)
    with caplog.at_level(logging.WARNING):
        encoder = factory.encoder("small")
    assert isinstance(encoder, Encoder)
    assert isinstance(encoder.network, UNet)
    heads = encoder.network.attention_heads()
    lost = [name for name, count in heads.items() if count == 0]
    assert lost == ["enc.16x16_block0", "dec.16x16_block0", "dec.16x16_block1"]
    assert {count for name, count in heads.items() if "8x8" in name} == {1}
    assert str(lost) in caplog.text
    assert not any(isinstance(m, nn.Conv2d) and "16x16" in n and "qkv" in n for n, m in encoder.named_modules())


def test_heads_of_the_published_networks() -> None:
    with torch.device("meta"):
        assert set(golden_network("ddpmpp_cifar10").attention_heads().values()) == {1}
        assert set(golden_network("adm_imagenet64").attention_heads().values()) == {6, 9, 12}
        encoder = build_factory(EDM2, RGB64, 1000).encoder("small")
    assert isinstance(encoder, Encoder)
    assert isinstance(encoder.network, UNet)
    heads = encoder.network.attention_heads().items()
    assert {(name.split(".")[1].split("x")[0], count) for name, count in heads} == {("16", 1), ("8", 2)}


# --- sizes of encoders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "size"), [("small", "small"), ("big", "big"), ("48x2", (48, 2)), ("4x10", (4, 10))])
def test_sizes_of_encoders(text: str, size: object) -> None:
    assert encoder_size(text) == size


@pytest.mark.parametrize("text", ["", "Small", "x", "48", "48x", "x2", "0x1", "48x0", "50x2", "48x2x1", "-8x1", "４x1"])
def test_sizes_that_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"^encoder is '{text}', must be one of: small, big, or <width>x<blocks>"):
        encoder_size(text)


@pytest.mark.parametrize("kind", ["ddpmpp", "ncsnpp", "adm", "edm2"])
def test_encoders_of_any_width_run(kind: str) -> None:
    """Width 48 is in no publication; 48 + 96 channels do not divide into 32 groups."""
    encoder = build_factory({"kind": kind, "channel_mult": [2, 2]}, (3, 16, 16), 0).encoder("48x2")
    mean, std = encoder(U)
    assert mean.shape == std.shape == U.shape
    assert encoder.get_parameter("network.enc.16x16_block1." + WEIGHT[kind]).shape[:2] == (96, 96)


WEIGHT = {"ddpmpp": "conv0.weight", "ncsnpp": "conv0.weight", "adm": "conv0.weight", "edm2": "conv_res0.weight"}


@pytest.mark.parametrize(("size", "width", "blocks"), [("small", 64, 1), ("big", 64, 2), ("48x3", 48, 3)])
def test_sizes_of_the_perceptron_s_encoder(size: str, width: int, blocks: int) -> None:
    encoder = build_factory({"kind": "mlp", "width": 128}, (1, 8, 8), 0).encoder(size)
    assert encoder.get_parameter("network.input.weight").shape == (width, 64)
    assert f"network.blocks.{blocks - 1}.expand.weight" in encoder.state_dict()
    assert f"network.blocks.{blocks}.expand.weight" not in encoder.state_dict()


@pytest.mark.parametrize(("width", "expected"), [(4, 4), (12, 8), (20, 12), (36, 20), (100, 52), (32, 16), (128, 64)])
@pytest.mark.parametrize("size", ["small", "big"])
def test_an_encoder_of_the_mlp_runs_beside_every_width(width: int, expected: int, size: str) -> None:
    """Half the network's width, up to the next multiple of 4 that the noise embedding needs."""
    encoder = build_factory({"kind": "mlp", "width": width}, (1, 8, 8), 0).encoder(size)
    mean, std = encoder(torch.zeros(3, 1, 8, 8))
    assert mean.shape == std.shape == (3, 1, 8, 8)
    assert encoder.get_parameter("network.input.weight").shape[0] == expected
