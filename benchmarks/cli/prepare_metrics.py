"""`bench prepare metrics`: the weights of feature networks, found, fetched where they are not, and checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..common.errors import UsageError
from ..common.files import DamagedError


def metrics(names: Sequence[str], source: Path | None) -> int:
    """Make sure that the weights of the named networks are here, and print where. Exit status 0.

    Without names: inception's, and a line on each of the others. `source` is a file the user brings for one network,
    which is copied into the cache. Only what is missing is downloaded.
    Raises UsageError where a file is missing and cannot be fetched, or is not the one that is meant.
    """
    from ..metrics.extractors import weight_files as network_files

    wanted = list(dict.fromkeys(names)) or ["inception"]
    for name in wanted:
        network_files.find(name)  # an unknown name, or a variable that leads nowhere, before anything is fetched
    if source is not None and len(names) != 1:
        raise UsageError("--from FILE brings the weights of one network: name it, as in `bench prepare metrics NAME`")
    for name in wanted:
        print(f"{name}: {_prepare(name, source)}")
    for name in () if names else network_files.NETWORK_FILES:
        if name not in wanted:
            print(f"{name}: {network_files.find(name) or f'not here; {network_files.ways(name)}'}")
    return 0


def _prepare(name: str, source: Path | None) -> Path:
    from ..metrics.extractors import weight_files as network_files

    check = _check(name)
    if source is not None:
        return network_files.keep(name, source, check)
    path = network_files.find(name)
    if path is None:
        return network_files.download(name, check)
    try:
        check(path)
    except DamagedError as error:
        raise DamagedError(f"{error}; remove that file, then {network_files.ways(name)}") from None
    return path


def _check(name: str) -> Callable[[Path], object]:
    from ..metrics.extractors import inception
    from ..metrics.extractors import weight_files as network_files

    return inception.load if name == "inception" else lambda path: network_files.check_sha256(name, path)
