"""`bench list` and `bench show`: what there is, and what it consists of."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..common.errors import UsageError
from ..config.compose import FOLDER, choices, compose_cells, parse_methods
from ..metrics.registry import DISTANCES, EXAMPLES, parse
from ..runs.folder import CellFiles
from .cells import find


def list_everything() -> int:
    """Print methods, benchmarks and presets with the first line of their yaml files, and the metrics."""
    for group, title in (("method", "methods"), ("benchmark", "benchmarks"), ("preset", "presets")):
        print(f"{title}:")
        names = choices(group)
        width = max(map(len, names))
        for name in names:
            print(f"  {name:<{width}}  {_summary(FOLDER / group / f'{name}.yaml')}")
    print("metrics (2k is 2,000 samples; fid50k_clean and fid50k_legacy_pytorch resize otherwise than is usual,")
    print("fid2k_ref2k compares with 2,000 real images, fd_module:function_2k takes a function of your own):")
    for distance, description in DISTANCES.items():
        print(f"  {description}:")
        names = [name for name in EXAMPLES if parse(name).distance == distance]
        print(textwrap.fill(", ".join(names), 120, initial_indent="    ", subsequent_indent="    "))
    return 0


def show(name: str, settings: Sequence[str], out: Path) -> int:
    """Print the resolved configuration of a method or benchmark, or a cell's configuration, state and records."""
    if cell := find(name, out):
        _print_yaml({**cell.config, "state": cell.status["state"]})
        _print_records(cell)
        return 0
    if name in choices("benchmark"):
        cells = compose_cells(["ect"], [0], [f"benchmark={name}", *settings])
        sections = ("benchmark", "data", "network", "train", "sample", "eval", "run")
        _print_yaml({section: cells[0].config[section] for section in sections})
        return 0
    try:
        methods = parse_methods(name)
    except UsageError as error:
        raise UsageError(
            f"{error}; nor is it a benchmark ({', '.join(choices('benchmark'))}) or a cell in {out}"
        ) from None
    for cell in compose_cells(methods, [0], list(settings)):
        _print_yaml(cell.config)
    return 0


def _summary(path: Path) -> str:
    comments = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    return next(line for line in comments if not line.startswith("@package"))


def _print_yaml(value: dict[str, Any]) -> None:
    import yaml

    yaml.safe_dump(value, sys.stdout, sort_keys=False, allow_unicode=True)


def _print_records(cell: CellFiles) -> None:
    if not cell.records:
        return
    print("records:")
    for row in cell.records:
        value = "diverged" if row["value"] is None else f"{row['value']:.6g}"
        print(f"  {row['images']:>12,} images  NFE {row['nfe']}  draw {row['draw']}  {row['metric']:<20} {value}")
