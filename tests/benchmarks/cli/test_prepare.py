"""`bench prepare weights`, and loading what it made."""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.common.files import read_json
from consistency_bench.benchmarks.training import pretrained as weights
from consistency_bench.benchmarks.training.pretrained import PUBLISHED, Published, load_prepared
from consistency_bench.methods.networks.registry import build_factory

from ...published_files import write_edm, write_edm2
from ..conftest import Said

SMALL = {"channels": 16, "channel_mult": [1, 2], "blocks": 1}
LOGVAR = ("logvar_fourier.freqs", "logvar_fourier.phases", "logvar_linear.weight")
EDM = Published(source="https://example.org/edm-small.pkl", network={"kind": "ddpmpp", **SMALL}, shape=(3, 16, 16))
EDM2 = Published(
    source="https://example.org/edm2-small.pkl",
    network={"kind": "edm2", **SMALL},
    shape=(3, 16, 16),
    classes=10,
    prefix="unet.",
    ignorable=LOGVAR,
    images=1_073_741_000,
)


@pytest.fixture
def call(call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Said]:
    """`bench prepare weights` with the given arguments in this process, with two small networks in the table."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "PUBLISHED", {"edm-small": EDM, "edm2-small": EDM2})
    return functools.partial(call, "prepare", "weights")


def network(published: Published) -> nn.Module:
    return build_factory(published.network, published.shape, published.classes).network()


def test_edm_s_file(call: Callable[..., Said], tmp_path: Path) -> None:
    original = network(EDM)
    write_edm(Path("file.pkl"), original)
    said = call("edm-small", "--from", "file.pkl")
    target = tmp_path / "cache" / "consistency-bench" / "weights" / "edm-small.safetensors"
    digest = hashlib.sha256(Path("file.pkl").read_bytes()).hexdigest()
    count = len(original.state_dict())
    assert (said.status, said.err) == (0, "")
    assert said.out.splitlines() == [
        f"{target}: {count} tensors",
        f"sha256 of file.pkl: {digest}",
        "not used: model.map_augment.weight",
    ]
    assert sorted(path.name for path in target.parent.iterdir()) == ["edm-small.json", "edm-small.safetensors"]
    report = read_json(target.with_suffix(".json"))
    assert report == {
        "weights": str(target),
        "name": "edm-small",
        "source": "file.pkl",
        "source_sha256": digest,
        "matched": count,
        "ignored": ["model.map_augment.weight"],
        "pretraining_images": None,
    }
    loaded = network(EDM)
    assert load_prepared("edm-small", loaded) == report
    for name, value in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_edm2_s_file_becomes_float32(call: Callable[..., Said]) -> None:
    original = network(EDM2)
    write_edm2(Path("file.pkl"), original)
    assert call("edm2-small", "--from", "file.pkl", "--out", "prepared").status == 0
    stored = load_file("prepared/edm2-small.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float32}
    loaded = network(EDM2)
    report = load_prepared("prepared/edm2-small.safetensors", loaded)
    assert report["pretraining_images"] == 1_073_741_000
    assert report["ignored"] == list(LOGVAR)
    for name, value in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.float()), name


def test_a_file_of_another_network_is_refused(call: Callable[..., Said]) -> None:
    write_edm(Path("file.pkl"), build_factory({"kind": "ddpmpp", **SMALL, "blocks": 2}, (3, 16, 16), 0).network())
    said = call("edm-small", "--from", "file.pkl")
    refused(
        said,
        "file.pkl does not fit edm-small: ",
        " tensors of the network missing: dec.",
        "; ",
        " that the network does not have: model.",
    )
    said = call("edm2-small", "--from", "file.pkl")
    refused(said, "file.pkl does not fit edm2-small: ", " tensors of the network missing: out_gain, ")


def refused(said: Said, *parts: str) -> None:
    """One sentence that begins with the first of `parts` and holds the others; nothing is written."""
    assert (said.status, said.out) == (2, "")
    (line,) = said.err.splitlines()
    assert line.startswith(f"bench: {parts[0]}")
    for part in parts[1:]:
        assert part in line
    assert not Path("cache").exists()


def test_a_malicious_file_is_refused_by_name(call: Callable[..., Said]) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, ("touch mark",)

    Path("file.pkl").write_bytes(pickle.dumps({"ema": Malicious()}))
    said = call("edm-small", "--from", "file.pkl")
    refused(said, "file.pkl: refused, because it asks for posix.system, which weights do not need")
    assert not Path("mark").exists()


def test_files_that_cannot_be_read(call: Callable[..., Said]) -> None:
    refused(call("edm-small", "--from", "none"), "--from none: there is no such file; edm-small is published as https")
    refused(call("edm-small", "--from", "."), "--from .: there is no such file")
    Path("file.pkl").write_text("text")
    refused(call("edm-small", "--from", "file.pkl"), "file.pkl is not a readable pickle of EDM or EDM2 (")


def test_an_unknown_name_is_one_sentence(call: Callable[..., Said]) -> None:
    said = call("edm-smal", "--from", "none")
    refused(said, "unknown weights 'edm-smal'. Did you mean: edm-small, edm2-small? Available: edm-small, edm2-small")


def test_the_hash_of_the_file(call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    write_edm(Path("file.pkl"), network(EDM))
    digest = hashlib.sha256(Path("file.pkl").read_bytes()).hexdigest()
    said = call("edm-small", "--from", "file.pkl", "--sha256", "0" * 64)
    refused(said, f"file.pkl has the SHA-256 {digest}, not {'0' * 64}: it is not the file that is meant")
    known = Published(source=EDM.source, network=EDM.network, shape=EDM.shape, sha256="1" * 64)
    monkeypatch.setitem(weights.PUBLISHED, "edm-small", known)
    refused(call("edm-small", "--from", "file.pkl", "--sha256", digest), "file.pkl has the SHA-256", "1" * 64)
    monkeypatch.setitem(weights.PUBLISHED, "edm-small", EDM)
    assert call("edm-small", "--from", "file.pkl", "--sha256", digest.upper()).status == 0


def test_a_failed_preparation_leaves_the_former_one(call: Callable[..., Said]) -> None:
    write_edm(Path("file.pkl"), network(EDM))
    assert call("edm-small", "--from", "file.pkl", "--out", "prepared").status == 0
    before = {path: path.read_bytes() for path in Path("prepared").iterdir()}
    Path("file.pkl").write_bytes(Path("file.pkl").read_bytes()[:-100])
    assert call("edm-small", "--from", "file.pkl", "--out", "prepared").status == 2
    assert {path: path.read_bytes() for path in Path("prepared").iterdir()} == before


def test_loading_what_is_not_there(call: Callable[..., Said]) -> None:
    with pytest.raises(UsageError, match=r"run `bench prepare weights edm-small --from FILE`$"):
        load_prepared("edm-small", network(EDM))
    with pytest.raises(UsageError, match=r"^unknown train.init 'edm-smal'\. Did you mean: edm-small"):
        load_prepared("edm-smal", network(EDM))
    with pytest.raises(UsageError, match=r"^there are no weights x\.safetensors: name a safetensors file, or one of "):
        load_prepared("x.safetensors", network(EDM))


def test_loading_what_does_not_fit(call: Callable[..., Said]) -> None:
    Path("x.safetensors").write_text("text")
    with pytest.raises(UsageError, match=r"^x\.safetensors is not a safetensors file"):
        load_prepared("x.safetensors", network(EDM))
    save_file({"weight": torch.ones(2)}, "y.safetensors")
    with pytest.raises(UsageError, match=r"^y\.safetensors does not fit the network: \d+ tensors of the network mis"):
        load_prepared("y.safetensors", network(EDM))


def test_loading_a_file_that_was_made_elsewhere(call: Callable[..., Said]) -> None:
    original = network(EDM)
    save_file(original.state_dict(), "x.safetensors")
    loaded = network(EDM)
    assert load_prepared("x.safetensors", loaded) == {"weights": "x.safetensors", "matched": len(loaded.state_dict())}
    assert torch.equal(loaded.get_parameter("map_layer0.weight"), original.get_parameter("map_layer0.weight"))


COUNTS = {
    "edm-cifar10-32x32-uncond-vp": 55_732_739,
    "edm-cifar10-32x32-cond-vp": 55_734_147,
    "edm-ffhq-64x64-uncond-vp": 61_804_419,
    "edm2-img64-s-1073741-0.075": 280_209_253,
    "edm2-img64-m-2147483-0.060": 497_803_045,
    "edm2-img64-l-1073741-0.040": 777_492_197,
    "edm2-img64-xl-0671088-0.040": 1_119_276_709,
}


def test_the_networks_of_all_published_files() -> None:
    with torch.device("meta"):
        counts = {name: sum(p.numel() for p in network(entry).parameters()) for name, entry in PUBLISHED.items()}
    assert counts == COUNTS
    for name, entry in PUBLISHED.items():
        assert entry.source.endswith(f"/{name}.pkl")
    assert PUBLISHED["edm2-img64-xl-0671088-0.040"].images == 671_088_000
