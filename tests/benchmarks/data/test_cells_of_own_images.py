"""`benchmark=images` from the command to the leaderboard, and other images as other cells."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.common.files import read_json, read_jsonl
from consistency_bench.benchmarks.config.compose import Cell, compose_cells
from consistency_bench.benchmarks.execution.cell import run_cell
from consistency_bench.benchmarks.execution.preflight import check_cells
from consistency_bench.benchmarks.metrics.extractors import weight_files
from consistency_bench.methods.networks.plan import levels_for
from consistency_bench.methods.networks.registry import build_factory

from ..conftest import Said, put
from .test_image_folder import cache, write  # noqa: F401  (cache is a fixture)
from .test_own_images import edm, files, grey, npz, png

TINY = (
    "benchmark=images",
    "network.channels=4",
    "network.channel_mult=[1]",
    "train.images=256",
    "eval.nfe=[1]",
    "eval.metrics=[fd_pixels8_100]",
    "run.snapshots=1",
)


def cell(*settings: str) -> Cell:
    (found,) = compose_cells(["ect"], [0], settings)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(files(grey(8)), tmp_path / "grey20")


Call = Callable[..., Said]


@pytest.mark.slow
def test_each_kind_of_data_goes_from_one_command_to_a_leaderboard(tmp_path: Path, call: Call) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (8, 48, 64, 3), dtype=np.uint8)
    photos = write({f"{k}.jpg": png(pixels, "JPEG") for k, pixels in enumerate(colour)}, tmp_path / "photos")
    data = {
        "grey": [f"data.root={write(files(grey(8)), tmp_path / 'grey')}"],
        "edm": [f"data.root={write(edm(grey(8), list(range(8))), tmp_path / 'edm.zip')}", "data.conditional=true"],
        "npz": [f"data.root={npz(tmp_path / 'images.npz', images=grey(8))}"],
        "photos": [f"data.root={photos}", "data.resolution=16", "data.resize=center_crop"],
    }
    for name, settings in data.items():
        said = call("run", "--methods", "ect", "--seeds", "0", *TINY, *settings, "--out", name, "--no-mlflow")
        assert said.status == 0, said.err
        assert "fd_pixels8_100" in (tmp_path / name / "leaderboard.md").read_text()


def test_the_diffusion_model_does_not_diverge_in_its_first_steps(tmp_path: Path) -> None:
    """On smooth images, with the network and the recipe of the benchmark; RAdam, as other methods have, does."""
    centre, line = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 64, 1, 1)), np.linspace(-1, 1, 28)
    spots = np.exp(-8 * ((line[:, None] - centre[0]) ** 2 + (line - centre[1]) ** 2))
    data = npz(tmp_path / "spots.npz", images=(255 * spots).astype(np.uint8))
    small = ("train.batch=16", "train.images=128", "eval.nfe=[1]", "run.snapshots=1", "eval.metrics=[fd_pixels8_100]")
    (found,) = compose_cells(["edm"], [0], ["benchmark=images", f"data.root={data}", *small])
    run = put(found, tmp_path / "runs")
    assert run_cell(run) == "done"
    last = read_jsonl(run / "train.jsonl")[-1]
    assert (last["images"], last["skipped"]) == (128, 0)


def test_the_same_files_at_another_path_are_the_same_cell(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    shutil.make_archive(str(tmp_path / "archive"), "zip", folder)
    names = {cell(*TINY, f"data.root={tmp_path / name}").name for name in ("grey20", "copy", "archive.zip")}
    assert len(names) == 1


def test_other_files_under_the_same_names_are_another_cell_and_another_table(folder: Path, tmp_path: Path) -> None:
    other = write(files(grey(8, seed=1)), tmp_path / "other")
    one, two = (cell(*TINY, f"data.root={path}") for path in (folder, other))
    assert one.id != two.id
    assert one.config.cell.group != two.config.cell.group
    assert one.config.cell.benchmark != two.config.cell.benchmark
    assert "fingerprint" not in one.config.cell.variant


def test_a_zip_of_cifar10_is_another_cell_than_the_published_files(tmp_path: Path) -> None:
    images = [np.zeros((32, 32, 3), np.uint8)] * 2
    archive = write(files(images), tmp_path / "cifar10-32x32.zip")
    official = cell("benchmark=cifar10", "data.root=/anywhere")
    assert official.id == cell("benchmark=cifar10").id
    assert official.config.data.fingerprint is None
    assert cell("benchmark=cifar10", f"data.root={archive}").id != official.id


def test_ids_of_published_data_are_those_of_before() -> None:
    """Ids of finished cells on disk, from before there were fingerprints."""
    before = {"digits": "9a560272", "toy2d": "186982a0", "fashion_mnist": "ea1c9411", "cifar10": "49744415"}
    assert {name: cell(f"benchmark={name}").id for name in before} == before


def test_a_worker_refuses_images_that_changed_since(folder: Path, tmp_path: Path) -> None:
    run = put(cell(*TINY, f"data.root={folder}"), tmp_path / "runs")
    write(files(grey(8, seed=1)), folder)
    with pytest.raises(UsageError, match=r"^the data at .*grey20 changed since the cell was composed"):
        run_cell(run)
    status = read_json(run / "status.json")
    assert status["state"] == "failed"
    assert "changed since the cell was composed" in status["error"]


def test_missing_images_are_shown_and_never_run(tmp_path: Path) -> None:
    missing = cell(*TINY, f"data.root={tmp_path / 'none'}")
    assert missing.config.data.fingerprint is None
    with pytest.raises(UsageError, match=r"^data set 'images' is not at .*none: name a folder or zip file of images"):
        check_cells([missing])
    with pytest.raises(UsageError, match=r"^benchmark=images needs a folder, .* data\.root=PATH$"):
        check_cells([cell(*TINY)])


def test_relative_paths_are_kept_in_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert cell(*TINY, "data.root=grey20").config.data.root == str(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["benchmark=images", "data.resolution=4"], r"^data\.resolution is 4, must be from 8 to 4,096"),
        (["benchmark=images", "data.resize=center_crop"], r"^data\.resize=center_crop needs data\.resolution"),
        (["benchmark=images", "data.resolution=32", "data.resize=crop"], r"data\.resize is crop, must be null, or one"),
        (["benchmark=images", "data.fingerprint=0123"], r"^data\.fingerprint cannot be set"),
    ],
)
def test_values_out_of_range_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cell(*settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["benchmark=digits", "data.root=/x"], "data set 'digits' has no files, so data.root has no meaning"),
        (["benchmark=images", "data.root=/a,/b"], "data.root is /a,/b, which does not exist: it is one path"),
        (["benchmark=toy2d", "data.root=/x"], "data set 'toy2d' has no files"),
        (["benchmark=cifar10", "data.resolution=32"], "data.resolution is for benchmark=images alone"),
    ],
)
def test_options_that_a_data_set_does_not_have_are_refused(settings: list[str], message: str, call: Call) -> None:
    said = call("run", *settings)
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith(f"bench: {message}")


def test_images_without_labels_train_unconditionally_alone(tmp_path: Path) -> None:
    archive = write(edm(np.zeros((4, 32, 32), np.uint8), None), tmp_path / "null.zip")
    small = ["network.channels=4", "network.blocks=1", "eval.metrics=[fd_pixels8_100]"]
    settings = ["benchmark=cifar10", f"data.root={archive}", *small]
    check_cells([cell(*settings)])
    with pytest.raises(UsageError, match=r"^data\.conditional is true, but .* its images have no labels"):
        check_cells([cell(*settings, "data.conditional=true")])


def test_the_default_metrics_follow_budget_and_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = tmp_path / "inception.pt"
    weights.touch()
    monkeypatch.setenv(weight_files.variable("inception"), str(weights))
    assert cell("benchmark=images").config.eval.metrics == ("fid50k", "kid50k")
    assert cell("benchmark=images", "preset=smoke").config.eval.metrics == ("fd_pixels8_1k", "kd_pixels8_1k")
    assert cell("benchmark=images", "eval.metrics=[fid2k]").config.eval.metrics == ("fid2k",)


@pytest.mark.parametrize(
    ("resolution", "mults", "attention"),
    [
        (8, (2,), (8,)),
        (20, (2, 2, 2), (10,)),
        (28, (2, 2, 2), (14,)),
        (32, (2, 2, 2), (16,)),
        (33, (1,), ()),
        (64, (1, 2, 2, 2), (16,)),
        (100, (1, 1, 2), ()),
        (256, (1, 1, 1, 2, 2, 2), (16,)),
    ],
)
def test_levels_follow_the_size(resolution: int, mults: tuple[int, ...], attention: tuple[int, ...]) -> None:
    assert levels_for(resolution) == (mults, attention)


def test_a_size_without_factors_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match="129×129 images can only be halved to 129×129"):
        levels_for(129)


@pytest.mark.parametrize("kind", ["ddpmpp", "ncsnpp", "adm", "edm2"])
@pytest.mark.parametrize("resolution", [8, 20])
def test_networks_without_levels_take_those_of_the_size(kind: str, resolution: int) -> None:
    options = {"kind": kind, "channels": 32, "blocks": 1, "channel_mult": None, "attn_resolutions": None}
    mults, attention = levels_for(resolution)
    shape = (1, resolution, resolution)
    left, stated = (
        build_factory(chosen, shape, 0).network().state_dict()
        for chosen in (options, {**options, "channel_mult": list(mults), "attn_resolutions": list(attention)})
    )
    assert {name: value.shape for name, value in left.items()} == {name: value.shape for name, value in stated.items()}
