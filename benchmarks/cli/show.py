"""`bench list` and `bench show`: what can be run, and its configuration."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..common.errors import UsageError, unknown
from ..runs.folder import Run
from ..runs.starts import find_finished
from . import options
from .cells import find
from .evaluate import print_records
from .json_output import print_json

if TYPE_CHECKING:
    from ..config.keys import Key
    from ..config.schema import RunConfig

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
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A method, a benchmark, a cell's folder or id, or a key such as train.lr."),
    ] = "",
    settings: options.Settings = None,
    include: options.Include = None,
    out: options.Out = Path("runs"),
    every: Annotated[bool, typer.Option("--all", help="Explain all keys, as a Markdown page.")] = False,
    as_json: options.Json = False,
) -> int:
    """Explain the keys of a method or benchmark, or print a cell.

    Each key is shown with its value, meaning, valid values and default. A key may also be named alone, or a part or a
    section: method.coupling, train. Of a cell, its configuration and records are printed.
    """
    if every == bool(name):
        raise typer.BadParameter("name a method, a benchmark, a cell or a key, or give --all for all keys")
    if every:
        return _explain("", as_json)
    if cell := find(name, out):
        return _show_cell(cell, as_json)
    from ..config.compose import choices, compose_cells, parse_methods
    from ..config.settings import SETTABLE
    from ..data.registry import check_options

    if name in choices("benchmark"):
        cells = compose_cells(["ect"], [0], [f"benchmark={name}", *(settings or [])])
        kind, hidden = "benchmark", ("cell", "method", "seed")
    elif name.partition(".")[0] in SETTABLE and not settings:
        return _explain(name, as_json)
    else:
        try:
            methods = parse_methods(name)
        except UsageError:
            known = choices("method") + choices("benchmark")
            raise unknown(f"method, benchmark or cell in {out}", name, known) from None
        note, locate = partial(print, file=sys.stderr), partial(find_finished, out=out)
        cells = compose_cells(methods, [0], settings or [], note, locate)
        kind, hidden = "method", ()
    for composed in cells:
        check_options(composed.config.data)
    _show_configs([composed.config for composed in cells], kind, hidden, as_json)
    return 0


def _show_cell(cell: Run, as_json: bool) -> int:
    """Print the configuration and the records of a cell."""
    if as_json:
        facts = {"kind": "cell", "path": cell.path, "state": cell.status.state, "configs": [cell.config.to_dict()]}
        print_json({**facts, "records": cell.records})
        return 0
    _print_yaml({**cell.config.to_dict(), "state": str(cell.status.state)})
    if cell.records:
        print("records:")
        print_records(cell.records)
    return 0


def _show_configs(configs: Sequence[RunConfig], kind: str, hidden: Sequence[str], as_json: bool) -> None:
    """Print configurations without the `hidden` sections, and what their keys mean."""
    from ..config.keys import all_groups, keys_in
    from .explain import commented_yaml

    groups = all_groups()
    shown = [{key: value for key, value in config.to_dict().items() if key not in hidden} for config in configs]
    keys = [keys_in(values, groups) for values in shown]
    if as_json:
        described = {path: key for own in keys for path, key in own.items()}
        print_json({"kind": kind, "configs": shown, "keys": [_described(key) for key in described.values()]})
        return
    for values, own in zip(shown, keys, strict=True):
        print(commented_yaml(values, own), end="")


def _explain(name: str, as_json: bool) -> int:
    """Explain a key, the keys of a part or section, or all keys ("")."""
    from ..config.keys import all_groups, named
    from ..config.settings import known_keys, near_keys
    from .explain import page_of, text_of

    groups = all_groups()
    chosen = named(name, groups) if name else groups
    if not chosen:
        within = [key for key in known_keys() if key.startswith(f"{name.partition('.')[0]}.")]
        raise unknown("key", name, within, near_keys(name))
    if as_json:
        print_json({"kind": "key", "keys": [_described(key) for group in chosen for key in group.keys]})
    else:
        print(text_of(chosen) if name else page_of(chosen), end="\n" if name else "")
    return 0


def _described(key: Key) -> dict[str, object]:
    described = {"key": key.path, "of_kind": key.kind or None, "meaning": key.meaning, "values": key.values}
    return {**described, "default": key.default or None}


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
