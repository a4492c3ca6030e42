"""From what the user typed to cells and their ids."""

from __future__ import annotations

import itertools
import random
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.config import averages
from consistency_bench.benchmarks.config.compose import (
    Cell,
    choices,
    compose_cells,
    default_of,
    parse_methods,
    parse_seeds,
    preset_home,
)
from consistency_bench.methods.compose import Context
from consistency_bench.methods.networks.registry import build_factory
from consistency_bench.methods.parts.bank import Bank
from consistency_bench.methods.registry import build

METHODS, BENCHMARKS = choices("method"), choices("benchmark")
EVERYWHERE = [name for name in choices("preset") if not preset_home(name)]


def one(*overrides: str, method: str = "ect", seed: int = 0) -> Cell:
    (cell,) = compose_cells([method], [seed], overrides)
    return cell


def refusal(*overrides: str, method: str = "ect") -> str:
    with pytest.raises(UsageError) as caught:
        compose_cells(parse_methods(method), [0], overrides)
    return str(caught.value)


# Names and seeds


def test_methods_keep_their_order_without_repetition() -> None:
    assert parse_methods(" vct, ect ,ict+ot,ect,vct") == ["vct", "ect", "ict+ot"]


def test_case_does_not_matter_in_names() -> None:
    assert parse_methods("ECT,Ict+OT,ect+VC") == ["ect", "ict+ot", "vct"]
    assert one("benchmark=Toy2D", "preset=SMOKE") == one("benchmark=toy2d", "preset=smoke")


@pytest.mark.parametrize("name", ["ekt", "ECTT", "ect+xx", "+", "ect+", "+vc", "ot", "ect ict", "../ect", "é"])
def test_an_unknown_method_is_an_error_with_the_choices(name: str) -> None:
    with pytest.raises(UsageError, match=r"^unknown method .* Available: ect, ect\+gc, ect\+ot, edm, ict"):
        parse_methods(name)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0", [0]), ("0-2", [0, 1, 2]), ("0,3,7", [0, 3, 7]), ("2-3, 1,3", [2, 3, 1]), ("5-5", [5]), ("007", [7])],
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "0,",
        "-1",
        "1-",
        "-",
        "5-2",
        "1.5",
        "a",
        "0-2-4",
        "1 2",
        "²",
        "0x1",
        "0-99999999",
        "1" * 5000,
        str(2**63),
    ],
    ids=lambda text: text[:20],
)
def test_bad_seeds_are_an_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--seeds "):
        parse_seeds(text)


# Every yaml


#: One sample of each benchmark.
SHAPES = {
    "cifar10": (3, 32, 32),
    "digits": (1, 8, 8),
    "fashion_mnist": (1, 28, 28),
    "ffhq64": (3, 64, 64),
    "imagenet64": (3, 64, 64),
    "images": (1, 20, 20),
    "toy2d": (2,),
}


@pytest.mark.parametrize(("method", "benchmark", "preset"), list(itertools.product(METHODS, BENCHMARKS, EVERYWHERE)))
def test_every_combination_of_files_composes_and_its_parts_can_be_built(
    method: str, benchmark: str, preset: str
) -> None:
    config = one(f"benchmark={benchmark}", f"preset={preset}", method=method).config
    assert config.cell.method == config.method.name == method
    assert config.cell.benchmark == config.benchmark.name == config.data.name == benchmark
    with torch.device("meta"):
        factory = build_factory(config.network, SHAPES[benchmark], classes=0)
        factory.network()
        context = Context(encoder=factory.encoder, bank=BANK, steps=9)
        built = build(config.method.options, config.sample.options, context)
    assert built.name == method
    assert set(config.train.averages) == {averages.HEADLINE}


BANK = Bank(torch.zeros(4, 2))


def test_the_default_is_digits_without_a_preset() -> None:
    assert one().config == one("benchmark=digits", "preset=none").config
    assert one().config.cell.variant == ""


def test_the_smoke_preset_is_tiny_and_another_cell() -> None:
    for benchmark in BENCHMARKS:
        smoke, full = one("preset=smoke", f"benchmark={benchmark}"), one(f"benchmark={benchmark}")
        assert smoke.config.train.images < full.config.train.images / 10
        assert smoke.id != full.id
        assert "train.images" in smoke.config.cell.variant


def test_a_setting_goes_before_the_preset() -> None:
    assert one("train.images=5120", "preset=smoke").config.train.images == 5120


def test_a_value_reaches_all_that_follow_it() -> None:
    method = one("method.process.sigma_max=40").config.method
    assert method.parts["process"]["sigma_max"] == method.parts["times"]["sigma_max"] == 40


def test_a_key_that_follows_another_is_no_change_of_its_own() -> None:
    assert one("method.process.sigma_max=40").config.cell.variant == "method.process.sigma_max=40"
    both = one("method.process.sigma_max=40", "method.times.sigma_max=20").config.cell
    assert both.overrides == {"method.process.sigma_max": 40, "method.times.sigma_max": 20}
    assert one("method.times.sigma_max=20").config.cell.variant == "method.times.sigma_max=20"


def test_another_kind_keeps_the_options_that_it_shares() -> None:
    distance = one("method.distance.kind=huber_elementwise_mean", method="ict").config.method.parts["distance"]
    assert distance == {"kind": "huber_elementwise_mean", "c": None}
    assert one("train.ema.kind=constant").config.train.ema == {"kind": "constant"}
    assert one("method.times.kind=karras_bins").config.method.parts["times"]["p_mean"] == -1.1


def test_noise_is_put_back_as_each_paper_s_code_does() -> None:
    """Row 50 of docs/deviations.md: VCT's code has σ on iCT as well; transport and generated pairs keep iCT's."""
    renoise = {method: one(method=method).config.sample.options.get("renoise") for method in METHODS}
    assert {method for method, form in renoise.items() if form == "sqrt_diff"} == {"ict", "ict+ot", "ict+gc"}
    assert {method for method, form in renoise.items() if form is None} == {"edm"}  # its sampler puts none back


# Ids

#: Keys of every section that changes numbers, each with two values that differ from each other and the default.
SCIENCE = {
    "train.images": ("2560", "5120"),
    "train.batch": ("16", "32"),
    "train.lr": ("3e-3", "4e-3"),
    "train.lr_cooldown": ("0.5", "0.6"),
    "train.optimizer": ("adam",),
    "train.clip": ("7", "8"),
    "train.betas": ("[0.5,0.9]", "[0.9,0.5]"),
    "train.ema.images": ("100", "200"),
    "network.width": ("16", "32"),
    "method.process.sigma_max": ("40", "50"),
    "method.weight.kind": ("snr",),
    "method.times.p_mean": ("-2", "-3"),
    "data.variant": ("spiral", "eight_modes"),
    "data.conditional": ("true",),
    "data.flip": ("true",),
    "train.lr_decay": ("1000", "2000"),
    "train.lr_rampup": ("1000", "2000"),
    "train.precision": ("bf16", "tf32"),
    "train.nonfinite": ("zero",),
    "train.init": ("weights", "others"),
    "train.ema_extra": ("[{kind: power, sigma_rel: 0.1}]", "[{kind: power, sigma_rel: 0.2}]"),
}
#: Keys that change no trained weight, each with a value that is not the default.
PLACES = {
    "data.root": "/elsewhere",
    "data.download": "false",
    "eval.metrics": "[w2_points_100]",
    "eval.nfe": "[1]",
    "eval.draws": "3",
    "eval.batch": "17",
    "train.resources": "{nodes: 1}",
    "train.resources.memory": "64G",
    "run.device": "auto",
    "run.micro_batch": "5",
    "run.snapshots": "3",
    "run.checkpoint_seconds": "1",
    "run.diagnose_every": "512",
    "sample.sigma_mid": "[0.9]",
    "sample.renoise": "sqrt_diff",
    "sample.labels": "uniform",
    "sample.guide_at": "0.25",
}

SETTINGS = [f"{key}={value}" for key, values in SCIENCE.items() for value in values]
choose_science = st.lists(st.sampled_from(SETTINGS), unique_by=lambda setting: setting.partition("=")[0], max_size=4)


@settings(max_examples=25)
@given(choose_science, choose_science)
def test_different_values_have_different_ids(first: list[str], second: list[str]) -> None:
    one_id, other_id = one("benchmark=toy2d", *first).id, one("benchmark=toy2d", *second).id
    assert (one_id == other_id) == (set(first) == set(second))


@settings(max_examples=25)
@given(choose_science, st.lists(st.sampled_from(list(PLACES)), unique=True, max_size=4), st.randoms())
def test_neither_order_nor_places_change_the_id(science: list[str], places: list[str], shuffler: random.Random) -> None:
    if "data.conditional=true" in science:  # then the law of the labels says which row a number is in
        places = [key for key in places if key != "sample.labels"]
    if "train.resources" in places:  # which sets the others below it, too
        places = [key for key in places if not key.startswith("train.resources.")]
    settings = ["benchmark=toy2d", *science, *(f"{key}={PLACES[key]}" for key in places)]
    shuffler.shuffle(settings)
    plain, moved = one("benchmark=toy2d", *science).config.cell, one(*settings).config.cell
    assert moved == plain  # group and variant as well


@pytest.mark.parametrize(
    "spellings",
    [
        ("train.lr=1e-2", "train.lr=0.01", "train.lr=0.010", "train.lr=10e-3"),
        ("train.clip=3", "train.clip=3.0", "train.clip=3e0"),
        ("train.images=100000", "train.images=1e5", "train.images=100000.0", "train.images=100_000"),
        ("train.optimizer=adam", "train.optimizer='adam'", 'train.optimizer="adam"'),
        ("method.process.sigma_max=40", "method.process.sigma_max=40.0"),
        ("network.width=64", "network.width=64.0"),
        ("train.betas=[0.5,0.9]", "train.betas=[5e-1, 0.90]"),
    ],
    ids=lambda spellings: spellings[0],
)
def test_spelling_does_not_change_the_id(spellings: tuple[str, ...]) -> None:
    cells = [one(spelling).config.cell for spelling in spellings]
    assert all(cell == cells[0] for cell in cells)


def test_a_default_typed_out_is_the_default() -> None:
    default = one().config
    for key in ("train.lr", "train.batch", "network.width"):
        section, name = key.split(".")
        assert one(f"{key}={default.to_dict()[section][name]}").config == default


def test_an_option_younger_than_the_ids_leaves_them_alone_where_it_is_off() -> None:
    toy = "benchmark=toy2d"
    plain = one(toy, "train.ema={kind: halflife, images: 5}", "train.ema_extra=[{kind: halflife, images: 7}]")
    off = one(toy, "train.ema.kind=halflife", "train.ema.images=5", "train.ema_extra=[{kind: halflife, images: 7}]")
    off_too = one(
        toy,
        "train.ema={kind: halflife, images: 5, rampup: null}",
        "train.ema_extra=[{kind: halflife, images: 7, rampup: null}]",
    )
    assert plain.config.cell == off.config.cell == off_too.config.cell
    on = one(
        toy, "train.ema={kind: halflife, images: 5, rampup: 0.05}", "train.ema_extra=[{kind: halflife, images: 7}]"
    )
    assert on.id != plain.id
    assert "train.ema.rampup=0.05" in on.config.cell.variant
    eager, graph = one("train.compile=false"), one("train.compile=true")
    assert one().id == eager.id != graph.id
    assert graph.config.cell.variant == "train.compile=true"


def test_the_group_is_common_to_seeds_and_the_id_is_not() -> None:
    cells = compose_cells(["ect"], [0, 1, 2], [])
    assert len({cell.id for cell in cells}) == 3
    assert len({cell.config.cell.group for cell in cells}) == 1


def test_two_processes_agree_on_ids() -> None:
    code = """
import sys
from consistency_bench.benchmarks.config.compose import compose_cells
print(*(cell.id for cell in compose_cells(["sct", "vct"], [0, 5], ["train.lr=3e-3", "benchmark=toy2d"])))
assert not {"torch", "mlflow", "pandas", "matplotlib"} & set(sys.modules)
"""
    ids = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": hashing}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for hashing in ("0", "123")
    }
    cells = compose_cells(["sct", "vct"], [0, 5], ["benchmark=toy2d", "train.lr=3e-3"])
    assert ids == {" ".join(cell.id for cell in cells)}


def test_the_variant_says_what_differs_from_the_defaults() -> None:
    def variant(*overrides: str) -> str:
        return one(*overrides).config.cell.variant

    assert variant("method.times.p_mean=-2", "train.lr=5e-3") == "method.times.p_mean=-2, train.lr=0.005"
    assert variant("method.weight.kind=snr") == "method.weight.kind=snr"
    assert variant("train.betas=[0.5,0.9]") == "train.betas=[0.5, 0.9]"
    assert variant("data.root=/x", "run.snapshots=3", "eval.nfe=[1]") == ""


def test_overrides_are_data() -> None:
    cell = one("preset=paper/ict_cifar10", "train.images=1e6", "method.teacher.shared_dropout=false", method="ict")
    assert cell.config.cell.overrides == {
        "preset": "paper/ict_cifar10",
        "method.teacher.shared_dropout": False,
        "train.images": 1_000_000,
    }
    assert one("sample.guidance=2").config.cell.overrides == {"sample.guidance": 2, "sample.guide_at": 0.5}
    assert one().config.cell.overrides == {}


@pytest.mark.parametrize(
    "setting", ["sample.guidance=1.3", "eval.ema=power-0.05", "eval.quantise=truncate"], ids=lambda text: text
)
def test_a_number_of_another_kind_is_another_row_of_the_same_training(setting: str) -> None:
    usual, other = one().config.cell, one(setting).config.cell
    assert other.id == usual.id
    assert other.group != usual.group
    assert setting in other.variant


# Sweeps


def test_values_with_a_colon_are_accepted_as_typed() -> None:
    cells = compose_cells(
        ["vct"],
        [0],
        ["method.coupling.kl_weight=1,3,10,30,90", "method.coupling.encoder_variance=learned,fixed:0.09,fixed:1"],
    )
    couplings = [cell.config.method.parts["coupling"] for cell in cells]
    found = [(coupling["kl_weight"], coupling["encoder_variance"]) for coupling in couplings]
    assert found == list(itertools.product((1, 3, 10, 30, 90), ("learned", "fixed:0.09", "fixed:1")))
    assert len({cell.config.cell.variant for cell in cells}) == 15
    usual = next(cell for cell in cells if cell.config.cell.variant == "")
    assert usual.id == one(method="vct").id
    assert one("method.teacher.references=sampled:64", method="sct").config.method.parts["teacher"]["references"] == (
        "sampled:64"
    )


def test_sweeps_multiply_and_seeds_vary_fastest() -> None:
    cells = compose_cells(["vct", "sct+vc"], [0, 1], ["method.coupling.kl_weight=1,3", "train.lr=1e-3,2e-3,3e-3"])
    assert len({cell.id for cell in cells}) == len(cells) == 2 * 2 * 3 * 2
    found = [(c.method, c.config.method.parts["coupling"]["kl_weight"], c.config.train.lr, c.seed) for c in cells]
    assert found == list(itertools.product(("vct", "sct+vc"), (1, 3), (1e-3, 2e-3, 3e-3), (0, 1)))


def test_benchmarks_and_lists_can_be_swept() -> None:
    assert [c.config.cell.benchmark for c in compose_cells(["ect"], [0], ["benchmark=toy2d,digits"])] == [
        "toy2d",
        "digits",
    ]
    cells = compose_cells(["ect"], [0], ["train.betas=[0.9,0.99],[0.5,0.9]"])
    assert [cell.config.train.betas for cell in cells] == [(0.9, 0.99), (0.5, 0.9)]


def test_swept_settings_of_sampling_are_cells_of_one_training() -> None:
    plain = one()
    (usual, other), single = compose_cells(["ect"], [0], ["sample.sigma_mid=[1],[0.1]"]), one("sample.sigma_mid=[1]")
    assert usual.config == plain.config  # first, whatever the order of the values: the others use its training
    assert single.id == plain.id
    assert other.id != plain.id
    assert other.config.cell.group != plain.config.cell.group
    assert other.config.cell.training == plain.id
    assert other.config.cell.variant == "sample.sigma_mid=[1]"
    cells = compose_cells(["ect"], [0], ["sample.guidance=1,1.3,2", "sample.guide_at=0.25"])
    assert len({cell.id for cell in cells}) == 3
    assert [cell.config.cell.training for cell in cells] == ["", plain.id, plain.id]
    assert cells[1].config.cell.overrides == {"sample.guidance": 1.3, "sample.guide_at": 0.25}


def test_a_setting_of_sampling_is_for_the_methods_whose_sampler_has_it() -> None:
    """`edm` samples with Heun's steps, the others with `multistep`."""
    notes: list[str] = []
    methods, usual = ["edm", "ect"], {method: one(method=method).config for method in ("edm", "ect")}
    edm, ect = compose_cells(methods, [0], ["sample.sigma_mid=[1]"], notes.append)
    assert (edm.config, ect.config.sample.options["sigma_mid"]) == (usual["edm"], [1])
    assert notes == ["sample.sigma_mid applies to ect; edm has no such key and keeps its configuration"]
    swept = compose_cells(methods, [0], ["sample.rho=5,7"])
    assert [(cell.method, cell.config.cell.variant) for cell in swept] == [
        ("edm", ""),
        ("ect", ""),
        ("edm", "sample.rho=5"),
    ]
    assert compose_cells(["ect"], [0], ["sample.kind=heun", "sample.rho=5"])[0].config.sample.options["rho"] == 5
    for method, key, message in (
        ("edm", "sigma_mid", "edm has no key 'sample.sigma_mid'; samplers (sample.kind) that have it: multistep"),
        ("ect", "chrun", "unknown key 'sample.chrun'. Did you mean: sample.churn"),
    ):
        with pytest.raises(UsageError, match=re.escape(message)):
            compose_cells([method], [0], [f"sample.{key}=1"])


def test_the_default_of_a_key_is_known_for_the_same_version_alone() -> None:
    usual, config = one(method="vct").config, one("train.lr=9", "sample.sigma_mid=[3]", method="vct").config
    assert default_of(config, "none", "train.lr") == usual.train.lr
    assert default_of(config, "none", "sample.sigma_mid") == list(usual.sample.options["sigma_mid"])
    other = replace(config, method=replace(config.method, version=99))
    assert default_of(other, "none", "train.lr") is None
    for unknown in (replace(config, benchmark=replace(config.benchmark, name="x")), config):
        assert default_of(unknown, "none" if unknown is not config else "../x", "train.lr") is None


# Places of files, and keys that some methods have


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("data.root=/datä/ü", "/datä/ü"),
        ("data.root=/my data/日本語　x", "/my data/日本語　x"),
        ("data.root='/my data'", "/my data"),
        ('data.root="/my data"', "/my data"),
        ("data.root=/a,b[c]{d}(e)=f&$g#%", "/a,b[c]{d}(e)=f&$g#%"),
        ("data.root=/${oc.env:HOME}/${", "/${oc.env:HOME}/${"),
        ("data.root=/'", "/'"),
        ("data.root=null", None),
        ("train.init='null'", "null"),
        ("train.init=a=b", "a=b"),
        ("train.init='a,b'", "a,b"),
    ],
)
def test_a_place_is_taken_as_typed(setting: str, value: str | None) -> None:
    config = one(setting).config
    assert (config.data.root if setting.startswith("data") else config.train.init) == value


def test_places_in_the_identity_can_be_swept() -> None:
    assert [cell.config.train.init for cell in compose_cells(["ect"], [0], ["train.init=a=b,'ü','c,d',null"])] == [
        "a=b",
        "ü",
        "c,d",
        None,
    ]


def test_a_key_of_some_methods_changes_those_alone_and_it_is_said() -> None:
    notes: list[str] = []
    settings = ["method.coupling.kl_weight=1,3", "train.lr=1e-3,2e-3"]
    cells = compose_cells(["ect", "vct"], [0, 1], settings, notes.append)
    assert notes == ["method.coupling.kl_weight applies to vct; ect has no such key and keeps its configuration"]
    alone = [cell for method in ("ect", "vct") for cell in compose_cells([method], [0, 1], settings[method == "ect" :])]
    assert [cell.name for cell in cells] == [cell.name for cell in alone]


def test_a_key_of_no_method_names_those_that_have_it() -> None:
    with pytest.raises(UsageError) as caught:
        compose_cells(["ect", "ict"], [0], ["method.coupling.kl_weight=1"])
    assert str(caught.value) == (
        "ect, ict have no key 'method.coupling.kl_weight'; methods that have it: ict+vc, sct+vc, vct"
    )


def test_the_keys_of_another_kind_are_taken() -> None:
    settings = ["method.times.kind=karras_bins", "method.times.s0=3"]
    assert one(*settings).config.method.parts["times"]["s0"] == 3
    assert refusal("method.times.s0=3") == "ect has no key 'method.times.s0'; methods that have it: ict"


# What is refused


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.bacth=3", "unknown key 'train.bacth'. Did you mean: train.batch? Available: train.images, train.batch"),
        ("foo.bar=1", "unknown key 'foo.bar'. Available: benchmark, preset, method.…, data.…"),
        ("foo=1", "unknown key 'foo'. Available: benchmark, preset"),
        ("train=1", "unknown key 'train'. Available: train.images"),
        ("train.ema.kind.x=1", "unknown key 'train.ema.kind.x'"),
        ("benchmark=foo", "unknown benchmark 'foo'. Available: cifar10, digits"),
        (
            "preset=smok",
            "unknown preset 'smok'. Did you mean: smoke? Available: common/cifar10, common/",
        ),
        ("method=ict", "'method=' is not set this way: use --methods"),
        ("seed=1", "'seed=' is not set this way: use --seeds"),
        ("train.batch=0", "train.batch is 0, must be at least 1"),
        ("train.batch=abc", "train.batch is 'abc', must be a whole number"),
        ("train.batch=null", "train.batch is null, must be a whole number"),
        ("train.images=10", "train.images is 10, must be at least one batch"),
        ("train.lr=nan", "train.lr is nan, must be a number"),
        ("train.lr=0", "train.lr is 0.0, must be a number above 0"),
        ("train.clip=-1", "train.clip is -1.0, must be above 0, or null for no clipping"),
        ("train.betas=[1,2]", "train.betas is [1.0, 2.0], must be two numbers from 0 to below 1"),
        ("train.betas=[a,b]", "train.betas[0] is 'a', must be a number"),
        ("train.lr_decay=0", "train.lr_decay is 0.0, must be above 0, in images, or null"),
        ("train.precision=fp16", "train.precision is fp16, must be one of: fp32, tf32, bf16"),
        ("train.nonfinite=raise", "train.nonfinite is raise, must be one of: skip, zero"),
        ("eval.quantise=floor", "eval.quantise is floor, must be one of: round, truncate"),
        ("sample.labels=all", "sample.labels is all, must be one of: data, uniform"),
        ("sample.guidance=0.5", "sample.guidance is 0.5, must be a number of at least 1, which turns guidance off"),
        ("sample.guide_at=0.3", "sample.guide_at is 0.3, must be one of: 0.25, 0.5, 0.75"),
        ("train.optimizer=sgd", "train.optimizer is sgd, must be one of: radam, adam"),
        ("eval.nfe=3", "eval.nfe is 3, must be a list in square brackets"),
        ("eval.nfe=[0]", "eval.nfe is [0], must be a list of step counts, each at least 1"),
        ("eval.nfe=[1,1]", "eval.nfe is [1, 1], must be a list without repetition"),
        ("eval.nfe=1,2", "key 'eval.nfe' cannot be swept: it changes neither training nor sampling"),
        ("eval.metrics=[]", "eval.metrics is [], must be a list of at least one metric"),
        ("run.device=tpu", "run.device is tpu, must be one of: auto, cpu, cuda, mps"),
        ("run.on_oom=retry", "run.on_oom is retry, must be one of: stop, split"),
        ("run.check_every=0", "run.check_every is 0, must be at least 1"),
        ("run.micro_batch=0", "run.micro_batch is 0, must be at least 1, or null for the whole batch"),
        ("data.download=maybe", "data.download is 'maybe', must be true or false"),
        ("train.resources.cpus=1,2", "key 'train.resources.cpus' cannot be swept"),
        ("data.root=", "data.root is '', must be text in UTF-8 without control characters, or null"),
        ("data.root=/a\x1b[2J", "data.root is '/a\\x1b[2J', must be text in UTF-8"),
        ("data.root=/\udcff", "data.root is '/\\udcff', must be text in UTF-8"),
        (
            "kl_weight=3",
            "unknown key 'kl_weight'. Did you mean: method.coupling.kl_weight? Available: benchmark, preset",
        ),
        ("coupling.kl_wieght=3", "unknown key 'coupling.kl_wieght'. Did you mean: method.coupling.kl_weight?"),
        (
            "method.copling.kl_weight=3",
            "unknown key 'method.copling.kl_weight'. Did you mean: method.coupling.kl_weight?",
        ),
        ("method.distance.d=3", "unknown key 'method.distance.d'. Available: method.distance.kind, method.distance.c"),
        ("traim.lr=3", "unknown key 'traim.lr'. Did you mean: train.lr?"),
        ("Benchmark=toy2d", "unknown key 'Benchmark'. Did you mean: benchmark? Available: benchmark, preset"),
        ("presets=smoke", "unknown key 'presets'. Did you mean: preset?"),
        ("data.resolution=5000", "data.resolution is 5000, must be from 8 to 4,096, in pixels, or null"),
        ("eval.curve=[100001]", "eval.curve is [100001], must be null, or a list of step counts, each at least 1"),
        ("train.LR=3", "unknown key 'train.LR'. Did you mean: train.lr?"),
        ("run.device=CPU", "run.device is CPU, must be one of: auto, cpu, cuda, mps. Did you mean: cpu?"),
        ("train.optimizer=adan", "train.optimizer is adan, must be one of: radam, adam. Did you mean: adam, radam?"),
        ("seeds=0-3", "'seeds=' is not set this way: use --seeds"),
        ("launcher=slurm", "'launcher=' is not set this way: use --launcher"),
        (f"train.images={'1' * 5000}", "train.images is '1111"),
        (f"train.batch=1,{'1' * 5000}", "train.batch is '1,111"),
        (f"eval.nfe={'[' * 900}1{']' * 900}", "eval.nfe is '[[[["),
        (f"eval.nfe={'[' * 100}1{']' * 100}", "eval.nfe is '[[[["),
        (f"train.lr={'${' * 900}", "train.lr is '${${"),
        ("run.snapshots=1000000000000", "run.snapshots is 1000000000000, must be at least 1 and at most 100,000"),
        ("eval.draws=1000000000000", "eval.draws is 1000000000000, must be at least 1 and at most 100,000"),
        ("eval.nfe=[1000000000000]", "eval.nfe is [1000000000000], must be a list of step counts"),
        ("train.lr=range(1,3)", "'train.lr=range(1,3)' is no list of values: write train.lr=1,2,3"),
        ("train.lr=${nope}", "train.lr: Interpolation key 'nope' not found"),
        ("train.lr=[", "'train.lr=[' cannot be read: a value with spaces or special characters needs quotes"),
        ("train.lr", "'train.lr' is not of the form key=value, such as train.lr=1e-3"),
        ("+train.foo=1", "'+train.foo=1' is not of the form key=value"),
        ("ünïcode=3", "'ünïcode=3' is not of the form key=value"),
        ("a\nb=3", r"'a\nb=3' is not of the form key=value"),
    ],
)
def test_a_bad_setting_is_refused_in_one_sentence(override: str, message: str) -> None:
    said = refusal(override)
    assert said.startswith(message)
    assert "\n" not in said


def test_a_key_given_twice_is_refused() -> None:
    assert refusal("train.lr=1e-3", "train.lr=1e-2") == "key 'train.lr' is given twice"


# The values of methods on a benchmark


def test_on_imagenet_methods_have_the_recipe_of_their_codes_there() -> None:
    paper = one("preset=paper/ect_imagenet64_s").config
    parts = one("benchmark=imagenet64").config.method.parts
    assert {name: parts[name] for name in ("times", "distance", "weight")} == {
        name: paper.method.parts[name] for name in ("times", "distance", "weight")
    }
    vct, published = (
        one(f, method="vct").config.method.parts for f in ("benchmark=imagenet64", "preset=paper/vct_imagenet64")
    )
    assert vct["coupling"] == published["coupling"]
    ict, usual = (one(f"benchmark={name}", method="ict").config.method for name in ("imagenet64", "cifar10"))
    assert ict == usual
