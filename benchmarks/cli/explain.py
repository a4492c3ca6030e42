"""Keys with their meaning, values and defaults: as comments in YAML, as text, and as the page docs/configuration.md."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..config.keys import Group, Key

WIDTH = 100  # of a line of comments or text

HEAD = """\
# Configuration

All keys of a configuration: what they mean, the values they take, and their defaults in the code. Methods and
benchmarks set values of their own, which `bench show NAME` prints with the same explanations. `bench show KEY` explains
a key, a part or a section, such as `train.lr`, `method.coupling` or `eval`.

Keys are set on the command line (`bench run train.lr=1e-3`) or in a [study](studies.md). Where a part has a `kind`,
another kind has other options. A default of – means that the benchmark or the method states the value.

This page is generated from the docstrings and checks of the code: `bench show --all > docs/configuration.md`.
"""


def commented_yaml(values: Mapping[str, Any], keys: Mapping[str, Key]) -> str:
    """A configuration as YAML with a comment above every key that is known."""
    return "\n".join(_lines(values, keys, "")) + "\n"


def text_of(groups: Sequence[Group]) -> str:
    """Keys as text for a terminal."""
    return "\n\n".join("\n".join(_block(group)) for group in _once(groups))


def page_of(groups: Sequence[Group]) -> str:
    """The Markdown page of all keys."""
    parts, section = [HEAD], ""
    for group in _once(groups):
        title = group.section.split(".")[0]
        if title != section:
            parts.append(f"## {title}\n")
            section = title
        parts.append("\n".join(_table(group)))
    return "\n".join(parts)


def _once(groups: Sequence[Group]) -> Iterator[Group]:
    """The groups with each key once: `kind` heads the first kind of a part alone."""
    seen: set[str] = set()
    for group in groups:
        keys = tuple(key for key in group.keys if key.kind or key.path not in seen)
        seen |= {key.path for key in keys}
        yield replace(group, keys=keys)


def _lines(values: Mapping[str, Any], keys: Mapping[str, Key], prefix: str) -> Iterator[str]:
    import yaml

    for name, value in values.items():
        path, indent = f"{prefix}{name}", "  " * prefix.count(".")
        if key := keys.get(path):
            mark = f"{indent}# "
            yield from textwrap.wrap(_comment(key, value), WIDTH, initial_indent=mark, subsequent_indent=mark)
        if isinstance(value, Mapping) and value:
            yield f"{indent}{name}:"
            yield from _lines(value, keys, f"{path}.")
        else:
            text = yaml.safe_dump({name: value}, sort_keys=False, allow_unicode=True, width=WIDTH)
            yield textwrap.indent(text, indent).rstrip("\n")


def _comment(key: Key, value: object) -> str:
    """Meaning, values, and the default where the value is another."""
    from ..config.keys import value_text

    is_default = key.default in ("", value_text(value)) or _number(key.default) == _number(value_text(value))
    default = "" if is_default else f" Default: {key.default}."
    return f"{key.meaning} Must be {key.values}.{default}".strip()


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _block(group: Group) -> Iterator[str]:
    if group.kind:
        yield from textwrap.wrap(f"{group.section}.kind={group.kind}: {group.summary}", WIDTH)
    for key in group.keys:
        yield key.path
        default = f" Default: {key.default}." if key.default else ""
        text = f"{key.meaning} Must be {key.values}.{default}"
        yield from textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="    ")


def _table(group: Group) -> Iterator[str]:
    if group.kind:
        yield f"### `{group.section}.kind={group.kind.replace(', ', '`, `')}`\n"
    elif "." in group.section:
        yield f"### `{group.section}`\n"
    yield f"{group.summary}\n"
    if not group.keys:
        return
    yield "| key | meaning | values | default |"
    yield "|:--|:--|:--|:--|"
    for key in group.keys:
        default = f"`{key.default}`" if key.default else "–"
        yield f"| `{key.path}` | {_escaped(key.meaning)} | {_escaped(key.values)} | {default} |"
    yield ""


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
