"""The presets of the papers against the tables of the papers, value by value."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.config.compose import choices, compose_cells
from consistency_bench.benchmarks.config.schema import RunConfig
from consistency_bench.benchmarks.training.pretrained import PUBLISHED
from consistency_bench.methods.compose import Context
from consistency_bench.methods.networks.registry import build_factory
from consistency_bench.methods.parts.bank import Bank
from consistency_bench.methods.registry import build

PAPERS = [name for name in choices("preset") if name.startswith("paper/")]
SHAPES = {"cifar10": (3, 32, 32), "fashion_mnist": (1, 28, 28), "ffhq64": (3, 64, 64), "imagenet64": (3, 64, 64)}
CLASSES = {"cifar10": 10, "fashion_mnist": 10, "imagenet64": 1000}

DDPM = {"network.kind": "ddpmpp", "network.channels": 128, "network.channel_mult": [2, 2, 2], "network.blocks": 4}
EDM2 = {"network.kind": "edm2", "network.channel_mult": [1, 2, 3, 4], "network.blocks": 3, "network.dropout_res": 16}
RADAM = {"train.optimizer": "radam", "train.betas": [0.9, 0.999], "train.lr": 1e-4, "train.lr_decay": None}
ADAM = {"train.optimizer": "adam", "train.betas": [0.9, 0.99], "train.lr_decay": 2000 * 128}
UNGUIDED = {"data.conditional": False, "train.lr_cooldown": 0, "sample.labels": "data", "sample.guidance": 1}
EMA_9999 = {"train.ema": {"kind": "constant", "factor": 0.9999}}

ICT = UNGUIDED | RADAM | {"method.times.kind": "karras_bins", "method.times.s0": 10, "method.times.s1": 1280}
ICT |= {"method.times.p_mean": -1.1, "method.times.p_std": 2.0, "method.process.boundary": "always"}
ICT |= {"method.weight.kind": "inverse_gap", "method.distance.c": None, "method.process.kind": "ve"}
ICT |= {"train.batch": 1024, "train.init": None}
ICT_CIFAR = ICT | {
    "method.distance.kind": "huber",
    "network.kind": "ncsnpp",
    "network.channels": 128,
    "network.channel_mult": [2, 2, 2],
    "network.blocks": 4,
    "network.fourier_scale": 0.02,
    "network.dropout": 0.3,
    "train.images": 400_000 * 1024,
    "train.ema": {"kind": "constant", "factor": 0.99993},
    "train.clip": None,
    "data.flip": True,
    "sample.sigma_mid": [0.821],
    "sample.renoise": "sqrt_diff",
}

ECT_CIFAR = UNGUIDED | RADAM | DDPM | EMA_9999
ECT_CIFAR |= {"method.times.p_mean": -1.1, "method.times.p_std": 2.0, "method.times.q": 2, "method.times.stages": 8}
ECT_CIFAR |= {"method.distance.kind": "huber", "method.distance.c": 1e-8, "method.weight.kind": "inverse_gap"}
ECT_CIFAR |= {"method.process.boundary": "never", "method.process.eval_shift": 0.003, "train.clip": None}
ECT_CIFAR |= {"train.batch": 128, "network.dropout": 0.2, "data.flip": False, "sample.sigma_mid": [0.821]}
ECT_CIFAR |= {"train.init": "edm-cifar10-32x32-uncond-vp", "train.precision": "fp32", "sample.renoise": "sigma"}

EDM = {"data.conditional": False, "data.flip": False, "method.times.kind": "lognormal_denoising"}
EDM |= {"method.distance.kind": "squared", "method.coupling.kind": "independent", "method.process.eval_shift": 0}
EDM |= {"train.optimizer": "adam", "train.lr_rampup": 10_000_000, "train.init": None, "sample.kind": "heun"}
EDM |= {"sample.rho": 7, "sample.churn": 0}
EDM_CIFAR = EDM | DDPM | {"train.lr": 1e-3, "train.betas": [0.9, 0.999], "train.lr_decay": None, "train.batch": 512}
EDM_CIFAR |= {"method.times.p_mean": -1.2, "method.times.p_std": 1.2, "method.weight.kind": "snr", "eval.nfe": [35]}
EDM_CIFAR |= {"network.dropout": 0.13, "train.images": 200_000_000}
EDM_CIFAR |= {"train.ema": {"kind": "halflife", "images": 500_000, "rampup": 0.05}}

ECT_IMAGENET = UNGUIDED | ADAM | EDM2 | EMA_9999 | {"data.conditional": True, "data.flip": False, "train.batch": 128}
ECT_IMAGENET |= {"method.times.p_mean": -0.8, "method.times.p_std": 1.6, "method.times.q": 4, "method.times.stages": 4}
ECT_IMAGENET |= {"method.distance.c": 0.06, "method.weight.kind": "snr", "method.process.eval_shift": 0}
ECT_IMAGENET |= {"train.images": 100_000 * 128, "train.precision": "tf32", "sample.sigma_mid": [1.526]}
ECT_IMAGENET |= {"train.ema_extra": [{"kind": "power", "sigma_rel": value} for value in (0.01, 0.05, 0.1)]}
ECT_IMAGENET |= {"network.channels": 192, "network.dropout": 0.4, "train.lr": 1e-3}
ECT_IMAGENET |= {"train.init": "edm2-img64-s-1073741-0.075", "train.clip": None}

VC = {"method.coupling.kind": "variational", "method.coupling.encoder": "small", "sample.recouple": "learned"}
VC |= {"method.coupling.encoder_variance": "learned", "train.clip": 200}
SCT = {"method.teacher.kind": "posterior_mean", "method.teacher.references": "all", "method.teacher.solver": "euler"}
VCT_CIFAR = ECT_CIFAR | VC | {"train.images": 400_000 * 128, "data.flip": True, "method.coupling.kl_weight": 10}
SUM = {"method.distance.kind": "huber_elementwise_sum"}
ICT_VC = ICT | VC | SUM | DDPM | EMA_9999 | {"network.dropout": 0.3, "method.coupling.kl_weight": 30}
ICT_VC |= {"sample.sigma_mid": [0.821], "sample.renoise": "sigma"}


def power(inverted: bool) -> dict[str, Any]:
    return {"kind": "power", "sigma_rel": 0.1, "inverted": inverted}


#: preset -> method, benchmark, values.
TABLE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ict_cifar10": ("ict", "cifar10", ICT_CIFAR),
    "ict_deep_cifar10": ("ict", "cifar10", ICT_CIFAR | {"network.blocks": 8}),
    "ict_imagenet64": (
        "ict",
        "imagenet64",
        ICT
        | {
            "data.conditional": True,
            "data.flip": True,
            "network.kind": "adm",
            "network.channels": 192,
            "network.channel_mult": [1, 2, 3, 4],
            "network.blocks": 3,
            "network.attn_resolutions": [32, 16, 8],
            "network.dropout": 0.2,
            "network.dropout_res": None,
            "train.batch": 4096,
            "train.images": 1_638_400_000,
            "train.ema": {"kind": "constant", "factor": 0.99997},
            "sample.sigma_mid": [1.526],
            "sample.renoise": "sqrt_diff",
        },
    ),
    "edm_cifar10": ("edm", "cifar10", EDM_CIFAR),
    "edm_cifar10_conditional": ("edm", "cifar10", EDM_CIFAR | {"data.conditional": True}),
    "edm2_imagenet64_s": (
        "edm",
        "imagenet64",
        EDM
        | EDM2
        | {
            "data.conditional": True,
            "method.times.p_mean": -0.8,
            "method.times.p_std": 1.6,
            "method.weight.kind": "uncertainty",
            "network.channels": 192,
            "network.dropout": 0,
            "network.dropout_res": None,
            "train.images": 1024 * 2**20,
            "train.batch": 2048,
            "train.betas": [0.9, 0.99],
            "train.lr": 1e-2,
            "train.lr_decay": 35_000 * 2048,
            "train.ema": {"kind": "power", "sigma_rel": 0.075},
            "train.nonfinite": "zero",
            "eval.nfe": [63],
        },
    ),
    "ect_cifar10_1hour": (
        "ect",
        "cifar10",
        ECT_CIFAR
        | {
            "method.times.q": 256,
            "method.times.stages": 1,
            "train.images": 8001 * 128,
            "train.ema": {"kind": "constant", "factor": 0.9993},
        },
    ),
    "ect_cifar10_100k": ("ect", "cifar10", ECT_CIFAR | {"train.images": 100_000 * 128}),
    "ect_cifar10_200k": ("ect", "cifar10", ECT_CIFAR | {"train.images": 200_000 * 128}),
    "ect_cifar10_400k": ("ect", "cifar10", ECT_CIFAR | {"train.images": 400_000 * 128}),
    "ect_imagenet64_s": ("ect", "imagenet64", ECT_IMAGENET),
    "ect_imagenet64_m": (
        "ect",
        "imagenet64",
        ECT_IMAGENET
        | {
            "network.channels": 256,
            "network.dropout": 0.5,
            "train.lr": 9e-4,
            "train.init": "edm2-img64-m-2147483-0.060",
        },
    ),
    "ect_imagenet64_l": (
        "ect",
        "imagenet64",
        ECT_IMAGENET
        | {
            "network.channels": 320,
            "network.dropout": 0.5,
            "train.lr": 8e-4,
            "train.init": "edm2-img64-l-1073741-0.040",
        },
    ),
    "ect_imagenet64_xl": (
        "ect",
        "imagenet64",
        ECT_IMAGENET
        | {
            "network.channels": 384,
            "network.dropout": 0.5,
            "train.lr": 7e-4,
            "train.init": "edm2-img64-xl-0671088-0.040",
        },
    ),
    "sct_cifar10": (
        "sct",
        "cifar10",
        ECT_CIFAR | SCT | {"train.images": 400_000 * 128, "method.process.eval_shift": 0},
    ),
    "sct_cifar10_conditional": (
        "sct",
        "cifar10",
        ECT_CIFAR
        | SCT
        | {
            "train.images": 400_000 * 128,
            "method.process.eval_shift": 0,
            "data.conditional": True,
            "train.init": "edm-cifar10-32x32-cond-vp",
        },
    ),
    "sct_imagenet64_s": ("sct", "imagenet64", ECT_IMAGENET | SCT),
    "vct_cifar10": ("vct", "cifar10", VCT_CIFAR),
    "vct_ffhq64": (
        "vct",
        "ffhq64",
        VCT_CIFAR
        | {"data.flip": False, "network.channel_mult": [1, 2, 2, 2], "train.init": "edm-ffhq-64x64-uncond-vp"},
    ),
    "vct_fashion_mnist": (
        "vct",
        "fashion_mnist",
        VCT_CIFAR | {"data.flip": False, "network.channels": 64, "network.dropout": 0.3, "train.init": None},
    ),
    "vct_imagenet64": (
        "vct",
        "imagenet64",
        ECT_IMAGENET
        | VC
        | {
            "method.process.kind": "li",
            "method.process.eval_shift": 0.003,
            "method.times.t_max": 80,
            "method.coupling.kl_weight": 90,
            "method.coupling.encoder": "big",
            "train.images": 200_000 * 128,
            "train.ema": power(inverted=True),
            "train.ema_extra": [power(inverted=False)],
            "train.precision": "fp32",
        },
    ),
    "vct_ict_cifar10": (
        "ict+vc",
        "cifar10",
        ICT_VC | {"data.flip": True, "train.batch": 512, "train.images": 400_000 * 512},
    ),
    "vct_ict_fashion_mnist": (
        "ict+vc",
        "fashion_mnist",
        ICT_VC | {"data.flip": False, "network.channels": 64, "train.batch": 128, "train.images": 400_000 * 128},
    ),
}


def composed(name: str) -> RunConfig:
    method, _, _ = TABLE[name]
    (cell,) = compose_cells([method], [0], [f"preset=paper/{name}"])
    return cell.config


def value(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def test_every_preset_of_a_paper_is_in_the_table() -> None:
    assert {f"paper/{name}" for name in TABLE} == set(PAPERS)


@pytest.mark.parametrize("name", TABLE)
def test_a_preset_has_the_values_of_its_paper(name: str) -> None:
    method, benchmark, values = TABLE[name]
    config = composed(name)
    assert (config.cell.method, config.cell.benchmark) == (method, benchmark)
    assert {key: value(config.to_dict(), key) for key in values} == values


@pytest.mark.parametrize("name", TABLE)
def test_what_a_preset_describes_can_be_built(name: str) -> None:
    config, benchmark = composed(name), TABLE[name][1]
    classes = CLASSES[benchmark] if config.data.conditional else 0
    profiles = config.train.averages
    assert len(profiles) == 1 + len(config.train.ema_extra)
    with torch.device("meta"):
        factory = build_factory(config.network, SHAPES[benchmark], classes)
        network = factory.network()
        bank = Bank(torch.zeros(classes or 1, *SHAPES[benchmark]), torch.arange(classes) if classes else None)
        context = Context(encoder=factory.encoder, bank=bank, steps=1000)
        method = build(config.method.options, config.sample.options, context)
    for nfe in config.eval.nfe:
        method.sampler.check_nfe(method.times, nfe)
    if (init := config.train.init) is not None:
        published = PUBLISHED[init]
        with torch.device("meta"):
            same = build_factory(published.network, published.shape, published.classes).network()
        shapes = [{k: v.shape for k, v in net.state_dict().items()} for net in (network, same)]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", TABLE)
def test_a_preset_s_variant_is_its_name(name: str) -> None:
    method, benchmark, _ = TABLE[name]
    typed = compose_cells([method], [0], [f"preset=paper/{name}", f"benchmark={benchmark}"])[0]
    assert typed.config.cell.variant == f"preset=paper/{name}"
    assert typed.id == compose_cells([method], [0], [f"preset=paper/{name}"])[0].id


def test_a_change_of_a_preset_is_said_beside_its_name() -> None:
    (cell,) = compose_cells(["ict"], [0], ["preset=paper/ict_cifar10", "train.images=1024000"])
    assert cell.config.cell.variant == "preset=paper/ict_cifar10, train.images=1024000"


@pytest.mark.parametrize(
    ("methods", "settings", "message"),
    [
        (
            ["ict", "ect"],
            ["preset=paper/ict_cifar10"],
            "preset 'paper/ict_cifar10' is for method ict, not ect: write --methods ict",
        ),
        (
            ["ict"],
            ["preset=paper/ict_cifar10", "benchmark=digits"],
            "preset 'paper/ict_cifar10' is for benchmark cifar10, not digits: leave benchmark= out, or write "
            "benchmark=cifar10",
        ),
        (
            ["ict"],
            ["preset=paper/ict_cifr10"],
            "unknown preset 'paper/ict_cifr10'. Did you mean: paper/ict_cifar10",
        ),
    ],
)
def test_a_preset_in_the_wrong_place_is_refused(methods: list[str], settings: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        compose_cells(methods, [0], settings)
    assert str(caught.value).startswith(message)


COMMON = [name for name in choices("preset") if name.startswith("common/")]


@pytest.mark.parametrize("preset", COMMON)
def test_rows_of_a_common_recipe_differ_in_the_method_alone(preset: str) -> None:
    """Shift, flips and clipping, which the papers' recipes differ in, are equal; the preset is the whole variant."""
    benchmark = preset.partition("/")[2]
    methods = ["ict", "ect", "sct", "vct", "ect+ot", "ict+vc"]
    found = [
        compose_cells([method], [0], [f"benchmark={benchmark}", f"preset={preset}"])[0].config for method in methods
    ]
    for config in found:
        assert config.cell.variant == f"preset={preset}"
        for section in ("benchmark", "data", "network", "train", "eval"):
            assert getattr(config, section) == getattr(found[0], section), (config.method.name, section)
        assert config.sample.options["sigma_mid"] == found[0].sample.options["sigma_mid"]
        assert config.method.parts["process"].get("eval_shift") == 0
    assert found[0].train.init is not None
