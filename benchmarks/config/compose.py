"""From what the user typed to the resolved configurations of all cells.

Dashes steer the program, `key=value` steers the science: groups (`benchmark=`, `preset=`) choose yaml files, other
keys change one value, and a comma makes a sweep (`method.coupling.kl_weight=1,3,10`). Composition happens once, at
submission; workers get the resolved result. Importing this module does not import torch.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import UsageError, unknown
from . import schema
from .schema import Config, check_values

FOLDER = Path(__file__).parent
GROUPS = ("benchmark", "preset")
ALIASES = {"ect+vc": "vct"}

#: Sections that change a trained network; together with the seed they are a cell's identity.
IDENTITY = ("benchmark", "method", "data", "network", "train")
#: Keys inside them that say where files are and change nothing.
PLACES = {"data": ("root", "download")}


@dataclass(frozen=True)
class Cell:
    """One training run: a resolved configuration with its identity in `config["cell"]`."""

    config: dict[str, Any]

    @property
    def id(self) -> str:
        return self.config["cell"]["id"]

    @property
    def seed(self) -> int:
        return self.config["cell"]["seed"]

    @property
    def method(self) -> str:
        return self.config["cell"]["method"]

    @property
    def name(self) -> str:
        """How a person refers to it: the folder below the output folder."""
        return f"{self.config['cell']['benchmark']}/{self.method}/s{self.seed}-{self.id}"

    def path(self, out: Path) -> Path:
        return out / self.name


def choices(group: str) -> list[str]:
    """The names of a group of yaml files: "benchmark", "method" or "preset"."""
    return sorted(path.stem for path in (FOLDER / group).glob("*.yaml"))


def parse_methods(text: str) -> list[str]:
    """`ict,ect+ot` -> canonical names without repetition, in the order given.

    Raises UsageError for an empty list or a name that is neither a method nor a composition of known parts.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"--methods names no method. Available: {', '.join(choices('method'))}")
    return list(dict.fromkeys(_method_name(name) for name in names))


def _method_name(name: str) -> str:
    known = choices("method")
    name = ALIASES.get(name, name)
    base, *suffixes = name.split("+")
    bases = [method for method in known if "+" not in method]
    # A composition without a file is composed all the same: whatever cannot be is refused there, with its reason.
    if name not in known and not (base in bases and suffixes and set(suffixes) <= set(COMPOSED_COUPLINGS)):
        raise unknown("method", name, known)
    return name


#: What a suffix puts in the place of the independent coupling, for compositions without a yaml file of their own.
COMPOSED_COUPLINGS = {"vc": "variational", "ot": "optimal_transport"}


def parse_seeds(text: str) -> list[int]:
    """`0-2,5` -> [0, 1, 2, 5]. Raises UsageError for anything but whole numbers and rising ranges."""
    seeds: list[int] = []
    for item in text.split(","):
        first, dash, last = item.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"--seeds is '{text}', must be whole numbers and ranges such as 0-2 or 0,3,7")
        low, high = int(first), int(last if dash else first)
        if high < low:
            raise UsageError(f"--seeds has the range '{item.strip()}', which ends before it starts")
        if high - low >= 100_000 or high >= 2**63:
            raise UsageError(f"--seeds has '{item.strip()}', which is out of any sensible range")
        seeds += range(low, high + 1)
    return list(dict.fromkeys(seeds))


def compose_cells(methods: Sequence[str], seeds: Sequence[int], overrides: Sequence[str]) -> list[Cell]:
    """All cells of methods × swept values × seeds, seeds varying fastest.

    Args:
        methods: canonical names, from `parse_methods`.
        overrides: `key=value` in hydra's syntax; a comma outside brackets sweeps.

    Raises:
        UsageError: an unknown key or group, a value of the wrong type or out of range.
    """
    parsed = _parse_overrides(overrides)
    sweeps = [list(_alternatives(override)) for override in parsed]
    cells = []
    for method, values in itertools.product(methods, itertools.product(*sweeps)):
        config = _resolve(method, list(zip(parsed, values, strict=True)))
        for seed in seeds:
            cells.append(_identified({**config, "seed": seed}))
    return list({cell.name: cell for cell in cells}.values())


def _parse_overrides(overrides: Sequence[str]) -> list[Override]:
    for text in overrides:
        if "=" not in text or text.startswith(("+", "~", "-", "=")):
            raise UsageError(f"'{text}' is not of the form key=value, such as train.lr=1e-3 or benchmark=toy2d")
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{reason} (values with special characters need quotes: key='\"a b\"')") from None
    seen: set[str] = set()
    for override in parsed:
        key = override.key_or_group
        if key in seen:
            raise UsageError(f"key '{key}' is given twice")
        seen.add(key)
        if key in ("method", "method.name", "seed"):
            raise UsageError(f"'{key}=' is not set this way: use --{'seeds' if key == 'seed' else 'methods'}")
        if override.is_sweep_override() and key.split(".")[0] not in (*IDENTITY, *GROUPS):
            raise UsageError(f"key '{key}' cannot be swept: it changes no training run, so its values would share one")
    return parsed


def _alternatives(override: Override) -> Iterable[Any]:
    if override.is_sweep_override():
        if not override.is_choice_sweep():
            raise UsageError(f"'{override.input_line}' is no list of values: write {override.key_or_group}=1,2,3")
        return [_plain(value) for value in override.sweep_iterator()]
    return [_plain(override.value())]


def _plain(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    return value


def _resolve(method: str, settings: list[tuple[Override, Any]]) -> dict[str, Any]:
    groups = {o.key_or_group: value for o, value in settings if o.key_or_group in GROUPS}
    values = {o.key_or_group: value for o, value in settings if o.key_or_group not in GROUPS}
    for group, name in groups.items():
        if name not in choices(group):
            raise unknown(group, str(name), choices(group))
    config = _composed(method, groups.get("benchmark", "digits"), groups.get("preset", "none"))
    for key in values:
        _check_key(config, key)
    for key, value in values.items():
        if key.endswith(".kind") and key.startswith("method."):
            _change_kind(config, key.split(".")[1], value)
    for key, value in values.items():
        OmegaConf.update(config, key, value, force_add=True, merge=False)
    plain = _typed(config)
    check_values(plain)
    labels = [f"{key}={_text(value)}" for key, value in values.items() if key.split(".")[0] in IDENTITY]
    preset = [f"preset={groups['preset']}"] if groups.get("preset", "none") != "none" else []
    return {"cell": {"variant": ", ".join([*preset, *labels])}, **plain}


def _composed(method: str, benchmark: str, preset: str) -> Any:
    """A fresh copy of the configuration that these three files make."""
    return OmegaConf.create(_composed_once(method, benchmark, preset))


@lru_cache(maxsize=256)
def _composed_once(method: str, benchmark: str, preset: str) -> dict[str, Any]:
    base = method if method in choices("method") else method.split("+")[0]
    with initialize_config_dir(version_base="1.3", config_dir=str(FOLDER)):
        config = compose("config", overrides=[f"benchmark='{benchmark}'", f"method='{base}'", f"preset='{preset}'"])
    plain = OmegaConf.to_container(config)  # interpolations stay: a user's value must reach all that follow it
    assert isinstance(plain, dict)
    if base != method:
        coupled = plain["method"]["coupling"]["kind"]
        if coupled != "independent":
            raise UsageError(f"'{method}' is refused: '{base}' already couples its noise ({coupled})")
        coupling = COMPOSED_COUPLINGS[method.split("+")[-1]]
        plain["method"] |= {"name": method, "coupling": {"kind": coupling}}
    return plain  # type: ignore[return-value]


def _check_key(config: Any, key: str) -> None:
    """Refuse a key that no section has. Options of parts are checked by the parts, which know their kinds."""
    section, *names = key.split(".")
    sections = [item.name for item in fields(Config) if item.name not in GROUPS]
    if section not in sections:
        raise unknown("key", key, [*GROUPS, *(f"{name}.…" for name in sections)])
    if section == "method":
        parts = [name for name in config.method if name not in ("name", "version")]
        if len(names) != 2 or names[0] not in parts:
            raise unknown("key", key, [f"method.{part}.…" for part in parts])
        return
    typed = fields(schema.SECTIONS[section]) if section in schema.SECTIONS else ()
    known = [item.name for item in typed] or list(config[section])
    free = section in ("network", "sample") or names[:1] == ["ema"]
    if not names or (not free and (len(names) > 1 or names[0] not in known)):
        near = difflib.get_close_matches(".".join(names), known)
        guess = f" Did you mean: {section}.{near[0]}?" if near else ""
        raise UsageError(f"unknown key '{key}'.{guess} Available: {', '.join(f'{section}.{name}' for name in known)}")


def _change_kind(config: Any, section: str, kind: Any) -> None:
    """Another kind of a part keeps the options that it shares with the old one."""
    from ...methods.parts.options import option_names
    from ...methods.registry import KINDS

    part = KINDS[section].get(str(kind))
    if part is not None:  # an unknown kind is refused when the part is built
        kept = {key: value for key, value in config.method[section].items() if key in option_names(part)}
        config.method[section] = {"kind": kind, **kept}


def _typed(config: Any) -> dict[str, Any]:
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), config)
        plain = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "configuration"
        reason = (getattr(error, "msg", None) or str(error)).splitlines()[0]
        raise UsageError(f"{key}: {reason}") from None
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


def _identified(config: dict[str, Any]) -> Cell:
    """The cell of a configuration: its id is a hash of what changes numbers, its group the same without the seed."""
    scientific = {
        section: {k: v for k, v in config[section].items() if k not in PLACES.get(section, ())} for section in IDENTITY
    }
    identity = {
        "id": _digest({**scientific, "seed": config["seed"]}),
        "group": _digest(scientific),
        "benchmark": config["benchmark"]["name"],
        "method": config["method"]["name"],
        "seed": config["seed"],
        **config["cell"],
    }
    return Cell({**config, "cell": identity})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(_canonical(value), sort_keys=True).encode()).hexdigest()[:8]


def _canonical(value: Any) -> Any:
    """2 and 2.0 are one value: a person who types either means the same run."""
    if isinstance(value, dict):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _text(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value
