"""`bench prepare metrics`: find the weights of feature networks, download what is missing, and check them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..common.errors import UsageError
from ..common.files import DamagedError


def metrics(names: Sequence[str], source: Path | None) -> int:
    """Make the weights of the named networks available, and print where they are. Exit status 0.

    Without names: Inception's, and a line about each of the others. `source` is a file of the user's for one network,
    which is copied into the cache. Only what is missing is downloaded.
    Raises UsageError if a file is missing and cannot be downloaded, or is not the right one.
    """
    from ..metrics.extractors import weight_files

    selected = list(dict.fromkeys(names)) or ["inception"]
    for name in selected:
        weight_files.find(name)  # unknown names and variables of missing files, before anything is downloaded
    if source is not None and len(names) != 1:
        raise UsageError("--from FILE provides the weights of one network: name it, as in `bench prepare metrics NAME`")
    for name in selected:
        print(f"{name}: {_prepare(name, source)}")
    for name in () if names else weight_files.NETWORK_FILES:
        if name not in selected:
            print(f"{name}: {weight_files.find(name) or f'not found; {weight_files.ways(name)}'}")
    return 0


def _prepare(name: str, source: Path | None) -> Path:
    from ..metrics.extractors import weight_files

    check = _check(name)
    if source is not None:
        return weight_files.store(name, source, check)
    path = weight_files.find(name)
    if path is None:
        return weight_files.download(name, check)
    try:
        check(path)
    except DamagedError as error:
        raise DamagedError(f"{error}; remove that file, then {weight_files.ways(name)}") from None
    return path


def _check(name: str) -> Callable[[Path], object]:
    from ..metrics.extractors import inception, weight_files

    return inception.load if name == "inception" else lambda path: weight_files.check_sha256(name, path)
