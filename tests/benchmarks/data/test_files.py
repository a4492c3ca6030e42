"""Image data sets: what is read, from where, and what is said when it is not there.

Nothing here uses the network: small files of the real formats stand in, with their own checksums.
"""

import gzip
import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, FashionMNIST

from consistency_bench.benchmarks.common.errors import UsageError
from consistency_bench.benchmarks.data import fashion_mnist, registry


def test_digits_are_scikit_learns_scans():
    data = registry.load("digits")
    assert (len(data), data.shape, data.images.dtype, data.classes) == (1797, (1, 8, 8), torch.uint8, 10)
    assert data.labels.dtype == torch.int64
    levels = data.images.unique()
    assert len(levels) == 17
    assert (int(levels.min()), int(levels.max())) == (0, 255)
    assert torch.equal(levels.double(), (torch.arange(17) * 255 / 16).double().round())
    assert data.labels.bincount(minlength=10).min() > 170
    # The first row of scikit-learn's first scan, a zero.
    assert data.images[0, 0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert data.labels[0] == 0


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def clothes(monkeypatch, tmp_path):
    """Six small 'training images' as idx content by name, known to the loader; no copy on the system."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 28, 28), dtype=np.uint8)
    labels = np.array([9, 0, 0, 3, 1, 2], dtype=np.uint8)
    content = dict(zip(fashion_mnist.MD5, (idx(images), idx(labels)), strict=True))
    monkeypatch.setattr(fashion_mnist, "MD5", {name: hashlib.md5(data).hexdigest() for name, data in content.items()})
    monkeypatch.setattr(fashion_mnist, "SYSTEM", tmp_path / "system")
    return images, labels, content


def place(folder: Path, content: dict[str, bytes], packed: bool) -> None:
    folder.mkdir(parents=True)
    for name, data in content.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("where", ["root", "root/FashionMNIST/raw", "system"])
def test_fashion_mnist_is_read_from_every_place(clothes, tmp_path, where, packed):
    images, labels, content = clothes
    place(tmp_path / where, content, packed)
    data = registry.load("fashion_mnist", root=tmp_path / "root")
    assert torch.equal(data.images, torch.from_numpy(images)[:, None])
    assert data.labels.tolist() == labels.tolist()
    assert (data.labels.dtype, data.classes) == (torch.int64, 10)


def test_fashion_mnist_missing_names_the_ways_to_get_it(clothes, tmp_path):
    _, _, content = clothes
    place(tmp_path / "root", {name: content[name] for name in list(content)[:1]}, packed=True)  # half is not enough
    with pytest.raises(UsageError) as error:
        registry.load("fashion_mnist", root=tmp_path / "root")
    for way in ("dataset-fashion-mnist", "data.download=true", "data.root="):
        assert way in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "damage",
    # mtime: test names must be the same in every worker of pytest-xdist
    [b"", b"\x1f\x8b garbage", gzip.compress(b"something else", mtime=0)],
    ids=["empty", "garbage", "another file"],
)
def test_a_damaged_fashion_mnist_is_refused(clothes, tmp_path, damage):
    _, _, content = clothes
    place(tmp_path / "root", content, packed=True)
    (tmp_path / "root" / f"{next(iter(content))}.gz").write_bytes(damage)
    with pytest.raises(UsageError, match=r"train-images-idx3-ubyte\.gz .*fetch fashion_mnist again"):
        registry.load("fashion_mnist", root=tmp_path / "root")


def test_fashion_mnist_download_lands_where_it_is_read(clothes, tmp_path, monkeypatch):
    _, _, content = clothes

    def download(dataset):
        place(Path(dataset.raw_folder), content, packed=False)
        for split in ("images-idx3", "labels-idx1"):  # torchvision fetches and expects the test part too
            (Path(dataset.raw_folder) / f"t10k-{split}-ubyte").write_bytes(b"")

    monkeypatch.setattr(FashionMNIST, "download", download)
    assert len(registry.load("fashion_mnist", root=tmp_path / "root", download=True)) == 6


def test_a_failed_download_is_one_sentence(clothes, tmp_path, monkeypatch):
    def fail(_self):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried http://…, got:\nno route\n")

    monkeypatch.setattr(FashionMNIST, "download", fail)
    monkeypatch.setattr(CIFAR10, "download", fail)
    for name in ("fashion_mnist", "cifar10"):
        with pytest.raises(UsageError, match=r"could not be downloaded to .*no route") as error:
            registry.load(name, root=tmp_path / "root", download=True)
        assert "\n" not in str(error.value)
        assert "data.root=" in str(error.value)


def test_without_a_root_the_users_cache_is_used(clothes, tmp_path, monkeypatch):
    _, _, content = clothes
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place(tmp_path / "cache" / "consistency-bench" / "data", content, packed=True)
    assert len(registry.load("fashion_mnist")) == 6


@pytest.fixture
def batches(monkeypatch, tmp_path):
    """CIFAR-10's python batches with two images each, under their own checksums: the images, the labels."""
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)

    def write(name: str, value: dict) -> str:
        content = pickle.dumps(value, protocol=2)
        (folder / name).write_bytes(content)
        return hashlib.md5(content).hexdigest()

    images, labels, checksums = [], [], []
    for number in range(1, 7):
        data = rng.integers(0, 256, (2, 3072), dtype=np.uint8)
        of_batch = [number % 10, 9 - number]
        name = f"data_batch_{number}" if number < 6 else "test_batch"
        checksums.append([name, write(name, {"data": data, "labels": of_batch})])
        images.append(data)
        labels.extend(of_batch)
    meta = write("batches.meta", {"label_names": [f"class {k}" for k in range(10)]})
    monkeypatch.setattr(CIFAR10, "train_list", checksums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", checksums[5:])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": meta})
    return np.concatenate(images[:5]).reshape(-1, 3, 32, 32), labels[:10]


def test_cifar10_is_the_training_part_in_planes(batches, tmp_path):
    images, labels = batches
    data = registry.load("cifar10", root=tmp_path)
    assert torch.equal(data.images, torch.from_numpy(images))
    assert data.images.is_contiguous()
    assert (data.labels.tolist(), data.labels.dtype, data.classes) == (labels, torch.int64, 10)


@pytest.mark.usefixtures("batches")
def test_a_changed_cifar10_batch_is_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path(tmp_path / "sprung").write_text, ("",))

    (tmp_path / CIFAR10.base_folder / "data_batch_3").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UsageError, match="missing or damaged"):
        registry.load("cifar10", root=tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_cifar10_missing_names_the_ways_to_get_it(tmp_path):
    with pytest.raises(UsageError) as error:
        registry.load("cifar10", root=tmp_path)
    for way in ("data.download=true", "cifar-10-python.tar.gz", "data.root="):
        assert way in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["digits", "toy2d"])
def test_shipped_sets_are_described_as_they_are(name):
    assert registry.describe(name) == registry.load(name).info


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist", "ffhq64"])
def test_missing_files_are_known_without_loading(clothes, tmp_path, name):
    with pytest.raises(UsageError) as error:
        registry.describe(name, root=tmp_path / "root")
    assert "data.root=" in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_there_are_described(batches, clothes, tmp_path):
    place(tmp_path / "clothes", clothes[2], packed=True)
    assert registry.describe("cifar10", root=tmp_path).shape == (3, 32, 32)
    assert registry.describe("fashion_mnist", root=tmp_path / "clothes").classes == 10
