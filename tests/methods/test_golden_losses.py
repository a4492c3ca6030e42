"""Losses and gradients of the published codes on a closed-form network (tests/golden/losses.json says how)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from consistency_bench.methods.loss import loss
from consistency_bench.methods.parts.base import Draw, Method
from consistency_bench.methods.parts.couplings import Independent
from consistency_bench.methods.parts.distances import Huber, HuberElementwiseSum
from consistency_bench.methods.parts.process import ForwardProcess
from consistency_bench.methods.parts.times import KarrasBins, LognormalGap
from consistency_bench.methods.parts.variational import Variational
from consistency_bench.methods.parts.weights import InverseGap, Snr

from .helpers import ClosedForm, ClosedFormEncoder, images, method_with, noise

CASES = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text())["cases"]


def method_of(case: dict) -> Method:
    ict = case["method"] == "ict"
    return method_with(
        process=ForwardProcess(kind=case["process"], boundary="always" if ict else "never"),
        times=KarrasBins() if ict else LognormalGap(q=case["q"], stages=8 if case["q"] == 2 else 4),
        coupling=Variational(kl_weight=case["kl_weight"]) if case["coupling"] == "vae" else Independent(),
        distance=HuberElementwiseSum() if ict else Huber(c=case["c"]),
        weight=Snr() if case.get("weighting") == "karras" else InverseGap(),
        modules=nn.ModuleDict({"encoder": ClosedFormEncoder()} if case["coupling"] == "vae" else {}),
    )


def progress_of(case: dict, method: Method) -> float:
    if case["method"] == "ict":
        return case["step"] / case["total_steps"]
    return case["stage"] / method.times.stages


def times_of(case: dict, method: Method, progress: float) -> tuple[Tensor, Tensor]:
    """t and r as the method itself derives them from the case's indices or times."""
    if "indices" in case:
        grid, index = method.times.grid(progress), torch.tensor(case["indices"])
        return grid[index + 1].float(), grid[index].float()
    t = torch.tensor(case["t"])
    return t, method.times.t_to_r(t, progress)


@pytest.mark.parametrize(
    "case", CASES, ids=lambda c: f"{c['method']}-{c['process']}-{c['coupling']}-{c.get('N', c.get('stage'))}"
)
def test_golden_loss_and_gradients(case: dict) -> None:
    method = method_of(case)
    network = ClosedForm()
    progress = progress_of(case, method)
    t, r = times_of(case, method, progress)
    torch.testing.assert_close(t, torch.tensor(case["t"]), rtol=1e-4, atol=0)
    torch.testing.assert_close(r, torch.tensor(case["r"]), rtol=1e-4, atol=0)

    # The published numbers hold for the published times, not for ours, which are exact to float64.
    draw = Draw(t=torch.tensor(case["t"]), r=torch.tensor(case["r"]), z=noise())
    terms = loss(method, method.process.denoiser(network), images(), None, progress, draw)
    terms.total.backward()

    tolerance = 2e-2 if case.get("N") == 1281 else 1e-4
    expected = {
        "loss": terms.total,
        "consistency": terms.consistency,
        "grad_a": network.a.grad,
        "grad_b": network.b.grad,
    }
    if case["coupling"] == "vae":
        encoder = method.modules["encoder"]
        expected |= {"kl": terms.penalty, "grad_m": encoder.m.grad, "grad_s": encoder.s.grad}
    for name, value in expected.items():
        assert value is not None
        assert value.item() == pytest.approx(case[name], rel=tolerance), name


WHOLE_IMAGE = [
    # The iCT cases of the file with the distance of the paper: loss, mean distance, gradients (float64, derived).
    (("independent", 11), {"loss": 2.046440, "consistency": 0.440511, "grad_a": 0.342049, "grad_b": 0.561356}),
    (("independent", 1281), {"loss": 1.202449, "consistency": 0.002323, "grad_a": -9.93352, "grad_b": -5.68513}),
    (
        ("vae", 11),
        {
            "loss": 21.541269,
            "consistency": 0.462471,
            "grad_a": 0.801536,
            "grad_b": 1.609206,
            "grad_m": 8.036269,
            "grad_s": 1.149547,
        },
    ),
]


@pytest.mark.parametrize(("which", "expected"), WHOLE_IMAGE, ids=str)
def test_ict_with_the_distance_of_its_paper(which: tuple[str, int], expected: dict[str, float]) -> None:
    (case,) = (c for c in CASES if c["method"] == "ict" and (c["coupling"], c["N"]) == which)
    method = replace(method_of(case), distance=Huber())
    method.modules.double()
    network, progress = ClosedForm().double(), progress_of(case, method)
    grid, index = method.times.grid(progress), torch.tensor(case["indices"])  # type: ignore[attr-defined]
    draw = Draw(t=grid[index + 1], r=grid[index], z=noise(torch.float64))
    terms = loss(method, method.process.denoiser(network), images(torch.float64), None, progress, draw)
    terms.total.backward()
    values = {"loss": terms.total, "consistency": terms.consistency}
    values |= {"grad_a": network.a.grad, "grad_b": network.b.grad}
    if case["coupling"] == "vae":
        encoder = method.modules["encoder"]
        values |= {"grad_m": encoder.m.grad, "grad_s": encoder.s.grad}
    for name, wanted in expected.items():
        assert values[name].item() == pytest.approx(wanted, rel=1e-3 if name == "consistency" else 5e-6), name


def test_every_case_of_the_file_is_covered() -> None:
    assert len(CASES) == 8
    assert {(c["method"], c["process"], c["coupling"]) for c in CASES} == {
        ("ecm", "ve", "independent"),
        ("ecm", "ve", "vae"),
        ("ecm", "li", "independent"),
        ("ict", "ve", "independent"),
        ("ict", "ve", "vae"),
    }
