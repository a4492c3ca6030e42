"""The values at equal training compute, and what a configuration leaves out of its paper."""

from __future__ import annotations

import math

from consistency_bench.reports.analysis.cells import read_cells, reference_values
from consistency_bench.reports.analysis.equal_compute import equal_compute
from consistency_bench.reports.analysis.recipes import departures, paper_names
from consistency_bench.reports.analysis.statistics import t_interval
from consistency_bench.reports.analysis.tables import leaderboard, seed_values


def found(out):
    cells = read_cells(out)
    values = seed_values(cells)
    return equal_compute(leaderboard(cells, values, reference_values(out, "digits")), values), values


def test_each_configuration_counts_at_its_last_snapshot_within_the_smallest_total(sweep):
    for seed in range(3):
        sweep.cell("ect", seed, compute={"flops_per_image": 1_000_000})
        sweep.cell("sct", seed, compute={"flops_per_image": 1_340_000})
    result, values = found(sweep.out)
    assert result is not None
    assert math.isclose(result.limit, 1_000_000 * 1_024_000 / 1e12)
    ect, sct = sorted(result.rows, key=lambda row: row.entry.method)
    assert ect.images == 1_024_000
    snapshots = {value.images for value in values}
    assert sct.images == max(images for images in snapshots if 1.34 * images <= 1_024_000) < 1_024_000
    assert math.isclose(sct.tflop or 0, 1.34e-6 * sct.images)
    own = [
        value.value
        for value in values
        if (value.cell.method, value.metric, value.nfe, value.images) == ("sct", result.metric, result.nfe, sct.images)
    ]
    assert len(own) == 3
    assert sct.score == t_interval(own)


def test_equal_or_unknown_compute_has_no_table(sweep):
    sweep.cell("ect", 0, compute={"flops_per_image": 1_000_000})
    sweep.cell("ict", 0, compute={"flops_per_image": 1_004_000})
    assert found(sweep.out)[0] is None
    sweep.cell("sct", 0, compute={"flops_per_image": None})
    assert found(sweep.out)[0] is None


def test_a_configuration_without_a_snapshot_within_the_limit_has_no_value(sweep):
    sweep.cell("ect", 0, compute={"flops_per_image": 1_000})
    sweep.cell("sct", 0, compute={"flops_per_image": 1_000_000})
    result, _ = found(sweep.out)
    assert result is not None
    (sct,) = (row for row in result.rows if row.entry.method == "sct")
    assert (sct.images, sct.tflop, sct.score.n) == (None, None, 0)


def test_pretraining_counts_as_compute(sweep):
    budget, per_image = 1_024_000, 1_000_000
    sweep.cell("ict", 0, compute={"flops_per_image": per_image})
    before = {"pretraining_images": budget // 2, "pretraining_flops": per_image * budget / 2}
    sweep.cell("ect", 0, compute={"flops_per_image": per_image, **before})
    result, _ = found(sweep.out)
    assert result is not None
    (ect,) = (row for row in result.rows if row.entry.method == "ect")
    assert ect.images is not None
    assert ect.images <= budget // 2
    assert math.isclose(ect.tflop or 0, (budget / 2 + ect.images) * per_image / 1e12)
    assert math.isclose(ect.entry.compute.total_tflop or 0, 1.5 * result.limit)


def test_a_pretraining_that_others_start_from_is_no_limit(sweep):
    budget, cost = 1_024_000, {"flops_per_image": 1_000_000}
    half = {"budget": budget // 2, "variant": f"train.images={budget // 2}"}
    first = sweep.cell("edm", 0, compute=cost, **half).name
    start = {"cell": f"digits/edm/{first}", "id": first.partition("-")[2], "method": "edm", "images": budget // 2}
    before = {"pretraining_images": budget // 2, "pretraining_flops": budget / 2 * 1_000_000}
    sweep.cell("ect", 0, compute={**cost, **before}, settings={"cell.start": start}, **half)
    sweep.cell("ect", 0, compute={"flops_per_image": 1_500_000})
    result, _ = found(sweep.out)
    assert result is not None
    assert math.isclose(result.limit, budget * 1_000_000 / 1e12)
    images = {(row.entry.method, row.entry.variant): row.images for row in result.rows}
    assert sorted(images.values()) == [budget // 2, budget // 2, budget * 5 // 8]


ECT = {"method.times": {"kind": "lognormal_gap", "mapping": "sigmoid"}}
SCT = {**ECT, "method.teacher": {"kind": "posterior_mean"}}


def test_names_say_what_of_the_paper_is_left_out(sweep):
    sweep.cell("ect", 0, settings=ECT)
    sweep.cell("ect", 1, settings={**ECT, "train.init": "edm-cifar10-32x32-uncond-vp"}, variant="tuned")
    sweep.cell("sct", 0, settings=SCT)
    sweep.cell("sct", 1, settings={**SCT, "sample.guidance": 1.3}, variant="guided")
    sweep.cell("ict", 0, settings={"method.times": {"kind": "karras_bins"}})
    start = {"cell": "digits/edm/s0-x", "id": "x", "method": "edm", "images": 704_000}
    sweep.cell("ect", 2, settings={**ECT, "train.init": "edm", "cell.start": start}, variant="train.init=edm")
    cells = read_cells(sweep.out)
    assert {(cell.method, cell.seed): departures(cell) for cell in cells} == {
        ("ect", 0): ("from scratch",),
        ("ect", 1): (),
        ("ect", 2): ("tuned from edm, 704,000 images",),
        ("ict", 0): (),
        ("sct", 0): ("target only", "from scratch"),
        ("sct", 1): ("from scratch",),
    }
    assert sorted(paper_names(cells)) == [
        "ect is ECT (from scratch)",
        "ect is ECT (tuned from edm, 704,000 images)",
        "sct is SCT (from scratch)",
        "sct is SCT (target only, from scratch)",
    ]
