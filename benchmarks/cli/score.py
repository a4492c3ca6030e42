"""`bench score`: images of any code base against a reference, by the metrics of this suite."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .json_output import print_json

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
    include: options.Include = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", help="Such as fid50k,kid50k. Default: FID of all samples.")
    ] = None,
    as_json: options.Json = False,
    device: options.Device = "auto",
) -> int:
    """Score images of any code base. A metric takes the first of them, in the order of their names.

    Grey samples are compared with a colour reference, and a colour file of grey pixels with a grey one.
    """
    from ..common.devices import check_device
    from ..evaluation.image_scores import read_images, read_reference, score_images

    check_device(device)
    logging.basicConfig(format="%(message)s", level=logging.INFO)  # features of large networks take minutes
    samples, real = read_images(images), read_reference(reference, settings or [])
    rows = score_images(samples, real, metrics, device, name=str(images))
    if as_json:
        facts = {"images": str(images), "samples": len(samples), "reference": reference, "real": len(real)}
        print_json({**facts, "metrics": {name: found._asdict() for name, found in rows.items()}})
        return 0
    print(f"{images} ({len(samples)} images) against {reference} ({len(real)} images)")
    for name, found in rows.items():
        print(f"  {name:<24} {found.value:.6g}" + ("" if found.error is None else f" ± {found.error:.2g}"))
    return 0
