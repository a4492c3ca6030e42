"""`bench score`: images of any code base against a reference, by the metrics of this suite."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..common.errors import UsageError, unknown
from . import options

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.base import Dataset

BATCH = 500

app = typer.Typer()


@app.command()
def score(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder, .zip file or .npz file of samples.")],
    reference: Annotated[
        str,
        typer.Option(
            "--reference", help="A benchmark, or a folder or file of images (./NAME if a benchmark has its name)."
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings of the benchmark: data.root=PATH.", show_default=False),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", help="Such as fid50k,kid50k. Default: FID of all samples.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    device: options.Device = "auto",
) -> int:
    """Score images of any code base. A metric takes the first of them, in the order of their names.

    Grey samples are compared with a colour reference, and a colour file of grey pixels with a grey one.
    """
    from ..common.devices import check_device, pick_device
    from ..data.registry import load
    from ..metrics.evaluate import Evaluator
    from ..metrics.registry import expand, parse

    check_device(device)
    samples = load("images", images).images
    names = expand((metrics or f"fid{_count(len(samples))}").replace(" ", "").split(","))
    for name in names:
        if parse(name).samples > len(samples):
            raise UsageError(f"metric {name!r} needs {parse(name).samples} samples, and {images} has {len(samples)}")
    real = _reference(reference, settings or [])
    samples = _matching(samples, real, images)
    logging.basicConfig(format="%(message)s", level=logging.INFO)  # features of large networks take minutes
    found = Evaluator(real, names, pick_device(device)).score(samples.split(BATCH))
    rows = {name: {"value": score.value, "error": score.error} for name, score in found.items()}
    if as_json:
        facts = {"images": str(images), "samples": len(samples), "reference": reference, "real": len(real)}
        print(json.dumps({**facts, "metrics": rows}, indent=1))
        return 0
    print(f"{images} ({len(samples)} images) against {reference} ({len(real)} images)")
    for name, row in rows.items():
        print(f"  {name:<24} {row['value']:.6g}" + ("" if row["error"] is None else f" ± {row['error']:.2g}"))
    return 0


def _reference(name: str, settings: list[str]) -> Dataset:
    """The real images: those at a path, or the training set of a benchmark."""
    from ..config.compose import choices, compose_cells
    from ..data.registry import check_options, load, load_dataset

    if name in choices("benchmark"):
        if others := [setting for setting in settings if not setting.startswith("data.")]:
            raise UsageError(f"{others[0]}: only settings of the data apply, such as data.root=PATH")
        cells = compose_cells(["ect"], [0], [f"benchmark={name}", *settings])
        check_options(cells[0].config.data)
        if len(cells) > 1:
            raise UsageError(f"the settings describe {len(cells)} data sets, must describe one")
        return load_dataset(cells[0].config.data)
    if not Path(name).exists():
        raise UsageError(f"{unknown('reference', name, choices('benchmark'))}; or a folder or file of images")
    if settings:
        raise UsageError(f"{settings[0]} is a setting of a benchmark, and the reference {name} is a path")
    return load("images", Path(name))


def _matching(samples: Tensor, real: Dataset, path: Path) -> Tensor:
    """The samples with the number of channels of the reference. Raises UsageError for another size."""
    if not real.quantised:
        raise UsageError(f"the reference {real.name!r} holds points, not images")
    wanted, found = real.shape, tuple(samples.shape[1:])
    if wanted[1:] != found[1:]:
        sizes = f"{found[1]}×{found[2]}", f"{wanted[1]}×{wanted[2]}"
        raise UsageError(f"{path} has images of {sizes[0]}, and the reference of {sizes[1]}: scale one of them first")
    if found[0] < wanted[0]:
        return samples.expand(-1, wanted[0], -1, -1)
    if found[0] > wanted[0]:
        if not bool((samples == samples[:, :1]).all()):
            raise UsageError(f"{path} has colour images, and the reference is grey")
        return samples[:, :1]
    return samples


def _count(number: int) -> str:
    """As metrics write it: 50k for 50,000."""
    return f"{number // 1000}k" if number % 1000 == 0 else str(number)
