"""What every key of a configuration means: read from the classes that hold it, so that nothing is said twice.

Meanings are the entries `name: meaning` of a class's docstring, or the docstring below a field. Valid values are those
that the class itself names when it refuses a value; defaults are those of its fields. Importing this imports torch.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import math
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...methods.networks import registry
from ...methods.networks.registry import NETWORKS
from ...methods.parts import samplers
from ...methods.parts.options import WANTED, option_names
from ...methods.registry import KINDS
from ..common.errors import UsageError
from . import averages
from .averages import PROFILES
from .compose import compose_cells

#: Values that a field is tried with, by its type, until it names those that it takes.
PROBES: dict[type, tuple[Any, ...]] = {
    float: (math.nan, -1e9, 1e30),
    int: (-(10**9), 10**12),
    str: ("?",),
    tuple: ((), (-1,), (math.nan,)),
}
FALLBACK: dict[type, Any] = {float: 1.0, int: 1, str: "", tuple: ()}


@dataclass(frozen=True)
class Key:
    """A key: its section with dots and its name. kind: the kind of the part that has it, "" for all.

    values: in words, such as "at least 1". default: as text; "" where a configuration has to state it.
    """

    section: str
    name: str
    kind: str
    meaning: str
    values: str
    default: str

    @property
    def path(self) -> str:
        """`method.coupling.kl_weight`"""
        return f"{self.section}.{self.name}"


@dataclass(frozen=True)
class Group:
    """The keys of a section, or of one kind of a part. summary: what it is, in a sentence or two."""

    section: str
    kind: str
    summary: str
    keys: tuple[Key, ...]


def all_groups() -> list[Group]:
    """All keys that a user may set, in the order of a configuration."""
    (cell,) = compose_cells(["ect"], [0], [])
    config = cell.config
    parts: list[Group] = []
    for part, kinds in KINDS.items():
        parts += _kinds(f"method.{part}", kinds, _module_of(kinds))
    return [
        *parts,
        _section("data", config.data, hidden=("fingerprint",)),
        *_kinds("network", NETWORKS, registry.__doc__),
        _section("train", config.train, hidden=("resources",)),
        *_kinds("train.ema", PROFILES, averages.__doc__),
        _section("train.resources", config.train.resources),
        _section("sample", config.sample, hidden=("options",)),
        *_kinds("sample", samplers.KINDS, samplers.__doc__),
        _section("eval", config.eval),
        _section("run", config.run),
    ]


def keys_in(values: Mapping[str, Any], groups: Sequence[Group]) -> dict[str, Key]:
    """The keys of the sections and kinds that a configuration, as plain data, has, by their paths."""
    found = {}
    for group in groups:
        section: Any = values
        for name in group.section.split("."):
            section = section.get(name, {}) if isinstance(section, Mapping) else {}
        usual = "multistep" if group.section == "sample" else None
        if not group.kind or section.get("kind", usual) in group.kind.split(", "):
            found |= {key.path: key for key in group.keys}
    return found


def named(name: str, groups: Sequence[Group]) -> list[Group]:
    """The groups with the keys that a name stands for: a key, a part or a section; none for another name."""
    chosen = []
    for group in groups:
        is_within = f"{group.section}.".startswith(f"{name}.")
        keys = tuple(key for key in group.keys if is_within or key.path == name)
        if keys or (is_within and group.kind):
            chosen.append(dataclasses.replace(group, keys=keys))
    return chosen


def _section(section: str, instance: Any, hidden: Sequence[str] = ()) -> Group:
    keys = tuple(key for key in _keys(section, "", type(instance), instance) if key.name not in hidden)
    return Group(section, "", _summary(type(instance)), keys)


def _module_of(kinds: Mapping[str, type]) -> str | None:
    """What the module of the first kind says of them all."""
    return sys.modules[next(iter(kinds.values())).__module__].__doc__


def _kinds(section: str, kinds: Mapping[str, type], about: str | None) -> Iterator[Group]:
    """A group for each class, headed by the key `kind`, whose values are the names of all. about: on all of them."""
    choice = Key(section, "kind", "", _sentence((about or "").split("\n\n")[0]), f"one of: {', '.join(kinds)}", "")
    for part in dict.fromkeys(kinds.values()):
        names = ", ".join(name for name, own in kinds.items() if own is part)
        own = tuple(key for key in _keys(section, names, part, _example(part)) if key.name != "kind")
        yield Group(section, names, _summary(part), (choice, *own))


def _example(part: type) -> Any:
    """An instance with defaults; of what has none, something of the right type. None of a class that refuses that."""
    hints = typing.get_type_hints(part)
    missing = [f for f in dataclasses.fields(part) if f.default is f.default_factory is dataclasses.MISSING]
    try:
        return part(**{field.name: FALLBACK.get(_kind(hints[field.name])) for field in missing})
    except Exception:  # of a plug-in
        return None


def _keys(section: str, kind: str, part: type, instance: Any) -> Iterator[Key]:
    meanings, hints, options = meanings_of(part), typing.get_type_hints(part), option_names(part)
    for field in dataclasses.fields(part):
        if field.name in options:
            meaning = _sentence(meanings.get(field.name, ""))
            values = _values(instance, field.name, hints[field.name])
            yield Key(section, field.name, kind, meaning, values, _default(field))


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return value_text(field.default)
    return "" if field.default_factory is dataclasses.MISSING else value_text(field.default_factory())


def value_text(value: Any) -> str:
    """A value as it is written on the command line."""
    return value if isinstance(value, str) and value else json.dumps(value, default=vars)


def meanings_of(part: type) -> dict[str, str]:
    """Field -> meaning, from the docstrings of a class and of those it builds on, the nearest last."""
    found: dict[str, str] = {}
    names = [field.name for field in dataclasses.fields(part)]
    for base in reversed(part.__mro__[:-1]):
        if "__doc__" in vars(base) and dataclasses.is_dataclass(base):
            found |= _entries(inspect.cleandoc(base.__doc__ or ""), names)
            found |= _below_fields(base)
    return found


def _entries(text: str, names: Sequence[str]) -> dict[str, str]:
    """The entries `name: meaning` or `name, name: meaning`, at the start of a line or of a sentence in it."""
    one = f"(?:{'|'.join(map(re.escape, names))})"
    starts = list(re.finditer(rf"(?:^|(?<=[.;] ))({one}(?:, {one})*): ", text, re.MULTILINE))
    found = {}
    for start, after in zip(starts, [*starts, None][1:], strict=True):
        meaning = text[start.end() : after.start() if after else None]
        meaning = re.split(r"\n\n|\n(?=\S)", meaning)[0] if _is_indented(text, start) else meaning.split("\n\n")[0]
        found |= dict.fromkeys(start[1].split(", "), " ".join(meaning.split()).rstrip(";"))
    return found


def _is_indented(text: str, start: re.Match[str]) -> bool:
    """Whether the lines after the one of an entry are indented, as far as they belong to it."""
    following = text[start.end() :].split("\n")[1:2]
    return bool(following) and following[0].startswith("    ")


def _below_fields(part: type) -> dict[str, str]:
    """The docstrings that stand below fields in the source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(part)))
    except (OSError, TypeError, SyntaxError):  # of a class without a file
        return {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    found = {}
    for field, below in itertools.pairwise(body):
        text = below.value if isinstance(below, ast.Expr) else None
        if isinstance(text, ast.Constant) and isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            found[field.target.id] = " ".join(str(text.value).split())
    return found


def _summary(part: type) -> str:
    """What a class is: its docstring up to the first entry or empty line."""
    text = inspect.cleandoc(part.__doc__ or "")
    names = "|".join(re.escape(field.name) for field in dataclasses.fields(part)) or "(?!)"
    return _sentence(re.split(rf"\n\n|(?:^|(?<=[.;]) )(?:{names})(?:, (?:{names}))*: ", text, flags=re.M)[0])


def _values(instance: Any, name: str, hint: Any) -> str:
    """The values that a field takes: what its class says of one that it refuses, or else its type."""
    kind, is_optional = _kind(hint), isinstance(hint, types.UnionType)
    words = WANTED.get(kind, "a mapping such as {kind: …}")
    if kind is bool:
        return words
    said = [] if instance is None else list(_refusals(instance, name, PROBES.get(kind, ())))
    own = [text for text in said if re.match(rf"(?:\w+\.)*{name}\b", text)] or said
    if own:
        words = own[0].partition("must be ")[2]
    return words if not is_optional or re.search(r"\bnull\b", words) else f"{words}, or null"


def _refusals(instance: Any, name: str, probes: Sequence[Any]) -> Iterator[str]:
    """What the class says of values that it refuses, as far as that names the field and what it must be."""
    for probe in probes:
        try:
            dataclasses.replace(instance, **{name: probe})
        except (ValueError, UsageError) as error:
            if re.search(rf"\b{name}\b.*must be ", str(error), re.DOTALL):
                yield str(error)
        except Exception:  # of a value of another type, or of a plug-in
            continue


def _kind(hint: Any) -> type:
    """The plain type of a field."""
    if isinstance(hint, types.UnionType):
        hint = next(member for member in hint.__args__ if member is not types.NoneType)
    return typing.get_origin(hint) or hint


def _sentence(text: str) -> str:
    """On one line, with a capital letter and a full stop."""
    text = " ".join(text.split())
    text = text[:1].upper() + text[1:] if re.match(r"[a-z]{2,}\b(?![._(=])", text) else text
    return text if not text or text[-1] in ".:!?" else f"{text}."
