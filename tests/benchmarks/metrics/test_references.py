"""Features of the real data on disk: worked out once, resumed after an interruption, mended where damaged."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from consistency_bench.benchmarks.data.base import Dataset
from consistency_bench.benchmarks.metrics import references
from consistency_bench.benchmarks.metrics.extractors.base import Extractor, Features
from consistency_bench.benchmarks.metrics.references import Reference, noise, real_samples

WIDTH = 6


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "PIECE", 10)
    monkeypatch.setattr(references, "KEPT", 40)


@dataclass
class Network:
    """Counts the images it is shown, and may be switched off after some of them."""

    seen: int = 0
    limit: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, images: Tensor) -> Features:
        with self.lock:
            self.seen += len(images)
        if self.limit is not None and self.seen > self.limit:
            raise KeyboardInterrupt
        return Features(images.flatten(1)[:, :WIDTH].double(), None)


def data(count: int = 35, seed: int = 0) -> Dataset:
    images = torch.randint(0, 256, (count, 1, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Dataset("made_up", images, torch.zeros(count, dtype=torch.int64), 1)


def reference(network: Network, cache: Path, dataset: Dataset | None = None, identity: str = "a") -> Reference:
    return Reference(real_samples(dataset or data()), Extractor(identity, network, costly=True), cache)


def expected(dataset: Dataset, count: int) -> Tensor:
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    return dataset.images[order[:count]].flatten(1)[:, :WIDTH].double()


def test_features_are_those_of_the_samples_in_the_fixed_order_and_only_as_many_as_asked_for(tmp_path: Path) -> None:
    network = Network()
    real = reference(network, tmp_path)
    assert torch.equal(real.first(13).values.double(), expected(data(), 13))
    assert network.seen == 20  # two pieces
    assert torch.equal(real.first(35).values.double(), expected(data(), 35))
    assert network.seen == 35


def test_nothing_is_worked_out_twice(tmp_path: Path) -> None:
    first = reference(Network(), tmp_path)
    moments, root = first.moments(), first.root()
    again = Network()
    second = reference(again, tmp_path)
    assert torch.equal(second.first(35).values, first.first(35).values)
    assert torch.equal(second.moments().cov, moments.cov)
    assert torch.equal(second.root(), root)
    assert again.seen == 0


def test_an_interruption_costs_one_piece(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        reference(Network(limit=25), tmp_path).first(35)
    network = Network()
    assert torch.equal(reference(network, tmp_path).first(35).values.double(), expected(data(), 35))
    assert network.seen == 15
    assert not list(tmp_path.glob("**/.*"))  # nothing half-written
    assert not list(tmp_path.glob("**/*.lock"))


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"not an array"])
def test_damaged_files_are_made_anew(tmp_path: Path, damage: bytes) -> None:
    real = reference(Network(), tmp_path)
    cov = real.moments().cov
    assert real.folder is not None
    (real.folder / "features-00001.npy").write_bytes(damage)
    (real.folder / "moments-35.safetensors").write_bytes(damage)
    network = Network()
    mended = reference(network, tmp_path)
    assert torch.equal(mended.moments().cov, cov)
    assert network.seen == 10


def test_a_cut_off_array_is_made_anew(tmp_path: Path) -> None:
    real = reference(Network(), tmp_path)
    values = real.first(35).values
    assert real.folder is not None
    path = real.folder / "features-00002.npy"
    path.write_bytes(path.read_bytes()[:-8])
    np.save(real.folder / "features-00003.npy", np.zeros((2, WIDTH), dtype=np.float32))  # of another data set's end
    np.save(real.folder / "features-00001.npy", np.full((10, WIDTH), np.nan, dtype=np.float32))
    assert torch.equal(reference(Network(), tmp_path).first(35).values, values)


@pytest.mark.parametrize("other", ["images", "extractor"])
def test_other_images_and_other_networks_have_a_folder_of_their_own(tmp_path: Path, other: str) -> None:
    one = reference(Network(), tmp_path)
    two = reference(
        Network(), tmp_path, data(seed=int(other == "images")), identity="b" if other == "extractor" else "a"
    )
    assert one.folder != two.folder
    assert reference(Network(), tmp_path).folder == one.folder


def test_beyond_what_is_kept_moments_are_of_all_and_features_of_the_first(tmp_path: Path) -> None:
    dataset = data(65)
    real = reference(Network(), tmp_path, dataset)
    values = expected(dataset, 65)
    torch.testing.assert_close(real.moments().cov, torch.cov(values.T))
    assert len(real.first(65)) == 40
    network = Network()
    torch.testing.assert_close(reference(network, tmp_path, dataset).moments().mean, values.mean(dim=0))
    assert network.seen == 0


def test_of_several_that_want_the_same_one_works(tmp_path: Path) -> None:
    network, found = Network(), []
    threads = [
        threading.Thread(target=lambda: found.append(reference(network, tmp_path).first(35).values)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert network.seen == 35
    assert all(torch.equal(values, found[0]) for values in found)
    assert len(found) == 4


def test_two_processes_share_the_pieces_without_waiting(tmp_path: Path) -> None:
    started, go_on = threading.Event(), threading.Event()

    class Slow(Network):
        def __call__(self, images: Tensor) -> Features:
            started.set()
            assert go_on.wait(30)
            return super().__call__(images)

    slow, quick = Slow(), Network()
    other = threading.Thread(target=lambda: reference(slow, tmp_path).extract(35))
    other.start()
    try:
        assert started.wait(30)
        reference(quick, tmp_path).extract(35)  # piece 0 is taken
        assert quick.seen == 25
    finally:
        go_on.set()
        other.join()
    assert slow.seen == 10
    assert torch.equal(reference(Network(limit=0), tmp_path).first(35).values.double(), expected(data(), 35))


def test_a_cheap_extractor_leaves_nothing_behind(tmp_path: Path) -> None:
    cheap = Reference(real_samples(data()), Extractor("a", Network()), tmp_path)
    assert torch.equal(cheap.first(35).values, expected(data(), 35))
    cheap.moments()
    assert not list(tmp_path.iterdir())


def test_noise_is_the_same_however_it_is_cut_and_kept_like_the_real_data(tmp_path: Path) -> None:
    source = noise(data())
    whole = source.samples(0, 35)
    assert whole.dtype == torch.uint8
    assert torch.equal(torch.cat([source.samples(0, 3), source.samples(3, 27), source.samples(27, 35)]), whole)
    assert len(torch.unique(whole.flatten(1), dim=0)) == 35
    network = Network()
    one = Reference(source, Extractor("a", network, costly=True), tmp_path).first(25)
    two = Reference(noise(data(seed=1)), Extractor("a", network, costly=True), tmp_path).first(25)
    assert network.seen == 30  # noise knows the shape of the data alone
    assert torch.equal(one.values, two.values)
