"""`bench list` and `bench show`: what can be run, and its configuration."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..common.errors import UsageError, unknown
from . import options
from .cells import find
from .evaluate import print_records
from .json_output import print_json

app = typer.Typer()


@app.command("list")
def list_(include: options.Include = None, as_json: options.Json = False) -> int:
    """List methods, benchmarks, presets and metrics."""
    from ..config.compose import choices
    from ..config.plugins import yaml_files
    from ..metrics.registry import DISTANCES, EXAMPLES, parse
    from .plugins import print_plugins

    if as_json:
        print_json(_listing())
        return 0
    for group, title in (("method", "methods"), ("benchmark", "benchmarks"), ("preset", "presets")):
        print(f"{title}:")
        names = choices(group)
        width = max(map(len, names))
        for name in names:
            print(f"  {name:<{width}}  {_summary(yaml_files(group)[name])}")
    print(
        "metrics (2k: 2,000 samples; fid50k_clean, fid50k_legacy_pytorch: other ways to resize; fid2k_ref2k: 2,000 real"
    )
    print("images in the reference; fd_module:function_2k: features of your own function):")
    for distance, description in DISTANCES.items():
        print(f"  {description}:")
        names = [name for name in EXAMPLES if parse(name).distance == distance]
        print(textwrap.fill(", ".join(names), 120, initial_indent="    ", subsequent_indent="    "))
    print_plugins()
    return 0


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A method, a benchmark, or a cell's folder or id.")],
    settings: options.Settings = None,
    include: options.Include = None,
    out: options.Out = Path("runs"),
    as_json: options.Json = False,
) -> int:
    """Print the configuration of a method, benchmark or cell. For a cell, print its records, too."""
    from ..config.compose import choices, compose_cells, parse_methods
    from ..data.registry import check_options

    if cell := find(name, out):
        if as_json:
            facts = {"kind": "cell", "path": cell.path, "state": cell.status.state, "configs": [cell.config.to_dict()]}
            print_json({**facts, "records": cell.records})
            return 0
        _print_yaml({**cell.config.to_dict(), "state": str(cell.status.state)})
        if cell.records:
            print("records:")
            print_records(cell.records)
        return 0
    if name in choices("benchmark"):
        (composed,) = compose_cells(["ect"], [0], [f"benchmark={name}", *(settings or [])])
        check_options(composed.config.data)
        hidden = ("cell", "method", "seed")
        shown = {key: value for key, value in composed.config.to_dict().items() if key not in hidden}
        if as_json:
            print_json({"kind": "benchmark", "configs": [shown]})
        else:
            _print_yaml(shown)
        return 0
    try:
        methods = parse_methods(name)
    except UsageError:
        raise unknown(f"method, benchmark or cell in {out}", name, choices("method") + choices("benchmark")) from None
    cells = compose_cells(methods, [0], settings or [], partial(print, file=sys.stderr))
    for composed in cells:
        check_options(composed.config.data)
    if as_json:
        print_json({"kind": "method", "configs": [composed.config.to_dict() for composed in cells]})
        return 0
    for composed in cells:
        _print_yaml(composed.config.to_dict())
    return 0


def _listing() -> dict[str, object]:
    from ..config.plugins import yaml_files
    from ..metrics.registry import DISTANCES, EXAMPLES, direction, parse
    from .plugins import plugin_facts

    groups = {
        f"{group}s": [{"name": name, "summary": _summary(path)} for name, path in yaml_files(group).items()]
        for group in ("method", "benchmark", "preset")
    }
    metrics = [
        {"name": name, "description": DISTANCES[parse(name).distance], "higher_is_better": direction(name) > 0}
        for name in EXAMPLES
    ]
    return {**groups, "metrics": metrics, "plugins": plugin_facts()}


def _summary(path: Path) -> str:
    comments = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    return next(line for line in comments if not line.startswith("@package"))


def _print_yaml(value: Mapping[str, Any]) -> None:
    import yaml

    yaml.safe_dump(value, sys.stdout, sort_keys=False, allow_unicode=True)
