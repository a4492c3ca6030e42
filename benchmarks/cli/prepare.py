"""`bench prepare`: files that are downloaded or converted once: pretrained weights and metric networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ..common.errors import UsageError
from ..common.files import DamagedError

app = typer.Typer(
    name="prepare", help="Download or convert pretrained weights and metric networks.", no_args_is_help=True
)


@app.command()
def weights(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as edm-cifar10-32x32-uncond-vp.")],
    source: Annotated[Path, typer.Option("--from", help="The published file. No code in it is executed.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder. Default: the user's cache.")] = None,
    sha256: Annotated[str | None, typer.Option("--sha256", help="SHA-256 that the file must have.")] = None,
) -> int:
    """Convert published weights of EDM or EDM2 to safetensors. An unknown name lists the known ones."""
    from ..training.pretrained import prepare

    report = prepare(name, source, out, sha256)
    print(f"{report['weights']}: {report['matched']} tensors")
    print(f"sha256 of {report['source']}: {report['source_sha256']}")
    if report["ignored"]:
        print(f"not used: {', '.join(report['ignored'])}")
    return 0


@app.command()
def metrics(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="inception, dinov2. Default: inception.", show_default=False),
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="File to copy into the cache. No code in it is executed.")
    ] = None,
) -> int:
    """Find, download and check the weights of metric networks. Without names, list the others, too."""
    from ..metrics.extractors import weight_files

    wanted = list(dict.fromkeys(names or ["inception"]))
    for name in wanted:
        weight_files.find(name)  # raises for unknown names before anything is downloaded
    if source is not None and len(wanted if names else ()) != 1:
        raise UsageError("--from FILE provides the weights of one network: name it, as in `bench prepare metrics NAME`")
    for name in wanted:
        print(f"{name}: {_prepare(name, source)}")
    for name in () if names else weight_files.NETWORK_FILES:
        if name not in wanted:
            print(f"{name}: {weight_files.find(name) or f'not found; {weight_files.ways(name)}'}")
    return 0


def _prepare(name: str, source: Path | None) -> Path:
    """The checked file: of the user, found, or downloaded."""
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
