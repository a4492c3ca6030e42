"""One setting `key=value` as data, and what was meant by an unknown key."""

from __future__ import annotations

import itertools
import re
import unicodedata
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.errors import HydraException

from ...methods.parts.messages import cut, near, quoted
from ..common.errors import UsageError
from ..common.files import read_yaml
from .plugins import cached, yaml_files
from .schema import is_as_typed, keys_of

GROUPS = ("benchmark", "preset")

#: Sections that change a trained network; together with the seed they are a cell's identity.
IDENTITY = ("benchmark", "method", "data", "network", "train")
#: Keys inside them that say where things are, and change nothing.
PLACES = {"data": ("root", "download"), "train": ("resources",)}
#: Sections whose keys a user may set, and where these may have keys of their own.
SETTABLE = ("method", "data", "network", "train", "sample", "eval", "run")
NESTED = ("train.ema", "train.resources")
#: What is set by an option of the command instead.
OPTIONS = {"method": "methods", "method.name": "methods", "methods": "methods", "seed": "seeds", "seeds": "seeds"}
OPTIONS |= {name: name for name in ("out", "jobs", "launcher", "cluster")}

DEEPEST = 20  # brackets within brackets; no setting needs more than two, and hydra's parser is recursive


#: Groups of yaml files, with what stands before one of their names on the command line.
NAMED = {"benchmark": "benchmark=", "preset": "preset=", "method": "train.lr=1e-3; methods are named by --methods "}


def choices(group: str) -> list[str]:
    """The names of a group of yaml files: "benchmark", "method" or "preset" (`paper/ict_cifar10` is in a folder)."""
    return list(yaml_files(group))


def parse_setting(text: str) -> tuple[str, list[Any]]:
    """The key of a setting in hydra's syntax, and its values: several for a sweep. Raises UsageError."""
    match = re.fullmatch(r"([A-Za-z]\w*(?:\.\w+)*)=(.*)", text, re.ASCII | re.DOTALL)
    if match is None:
        example = next(
            (f"{option}{text}" for group, option in NAMED.items() if text in choices(group)),
            "train.lr=1e-3 or benchmark=toy2d",
        )
        raise UsageError(f"{quoted(text)} is not of the form key=value, such as {example}")
    key, value = match.groups()
    if key in OPTIONS:
        raise UsageError(f"'{key}=' is not set this way: use --{OPTIONS[key]}")
    if key == "data.fingerprint":
        raise UsageError("data.fingerprint cannot be set: it is taken from the files at data.root")
    if is_as_typed(key):
        return key, _as_typed(key, value)
    if max(itertools.accumulate((c in "[{(") - (c in "]})") for c in value), default=0) > DEEPEST:
        raise UsageError(f"{cut(key)} is {quoted(value)}, must have at most {DEEPEST} brackets within each other")
    try:
        parser = OverridesParser.create()
        override = parser.parse_override(text)
        if not override.is_sweep_override():
            return key, [override.value()]
        check_sweep(key)
        if override.value_type not in (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP):
            raise UsageError(f"{quoted(text)} is no list of values: write {key}=1,2,3")
        return key, [parser.parse_override(f"{key}={item}").value() for item in override.sweep_string_iterator()]
    except ValueError:
        raise UsageError(f"{cut(key)} is {quoted(value)}, must be a number of fewer than 4,300 digits") from None
    except HydraException:
        raise UsageError(
            f"{quoted(text)} cannot be read: a value with spaces or special characters needs quotes inside the quotes "
            f"of the shell, such as {cut(key)}='\"a b\"'"
        ) from None


#: An item of a list; text in quotes and mappings may hold commas.
ITEM = re.compile(r"""(?:^|,)('[^']*'(?=,|\Z)|"[^"]*"(?=,|\Z)|\{[^{}]*\}(?=,|\Z)|[^,]*)""")
QUOTED = re.compile(r"""'[^']*'|"[^"]*\"""")


def _as_typed(key: str, text: str) -> list[str | None]:
    """The value as it is: null, or text, which may be in quotes. Commas separate values where a key can be swept."""
    items = ITEM.findall(text) if _can_be_swept(key) else [text]
    values = [item[1:-1] if QUOTED.fullmatch(item) else item for item in items]
    if not all(values) or any(unicodedata.category(c) in ("Cc", "Cs") for c in text):  # Cs: of bytes that are no UTF-8
        raise UsageError(f"{key} is {quoted(text)}, must be text in UTF-8 without control characters, or null")
    return [None if item == "null" else value for item, value in zip(items, values, strict=True)]


def _can_be_swept(key: str) -> bool:
    section, _, name = key.partition(".")
    return section in (*IDENTITY, *GROUPS, "sample") and name.split(".")[0] not in PLACES.get(section, ())


def check_sweep(key: str) -> None:
    """Raise UsageError for a key whose values would share one cell."""
    if not _can_be_swept(key):
        raise UsageError(
            f"key '{key}' cannot be swept: it changes neither training nor sampling, so its values would share one cell"
        )


@cached
def known_keys() -> dict[str, list[str]]:
    """The keys of all sections and files, each with the methods whose files set it."""
    keys: dict[str, list[str]] = {f"{section}.{name}": [] for section in SETTABLE for name in keys_of(section)}
    for path in (*yaml_files("benchmark").values(), *yaml_files("method").values()):
        for key in leaves({section: value for section, value in read_yaml(path).items() if section in SETTABLE}):
            keys.setdefault(key, []).extend([path.stem] if key.startswith("method.") else [])
    return keys


def near_keys(key: str) -> list[str]:
    """Known keys that may have been meant by an unknown one, with or without their sections."""
    if key in SETTABLE:
        return []
    ends: dict[str, list[str]] = {}
    for known in known_keys():
        ends.setdefault(known.rpartition(".")[2], []).append(known)
    last = key.rpartition(".")[2].lower()
    found = [known for name in ([last] if last in ends else near(last, ends)) for known in ends[name]]
    found = [known for known in found if known.startswith(f"{key.partition('.')[0]}.")] or found
    return found if len(found) <= 3 else near(key, found) or found[:3]


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        name: leaf for key, item in value.items() for name, leaf in leaves(item, f"{prefix}.{key}".strip(".")).items()
    }
