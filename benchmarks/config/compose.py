"""From what the user typed to the resolved configurations of all cells.

Dashes steer the program, `key=value` steers the science: groups (`benchmark=`, `preset=`) choose yaml files, other
keys change one value, and a comma makes a sweep (`method.coupling.kl_weight=1,3,10`). Composition happens once, at
submission; workers get the resolved result. Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ...methods.parts.messages import near, quoted
from ..common.errors import UsageError, chosen, unknown
from ..common.files import read_yaml
from ..data.registry import fingerprint
from ..metrics.registry import expand, image_metrics
from .init import CELL, Pretraining, cell_name, pretraining
from .plan import apart
from .plugins import SHIPPED, active, cached, owner, used_by, yaml_files
from .schema import SAMPLE_KEYS, DataConfig, RunConfig, StartConfig, canonical, is_as_typed, keys_of
from .settings import (
    GROUPS,
    IDENTITY,
    NESTED,
    PLACES,
    SETTABLE,
    choices,
    known_keys,
    leaves,
    near_keys,
    parse_setting,
)
from .study import located

OmegaConf.register_new_resolver("image_metrics", image_metrics, replace=True)  # for own images

ALIASES = {"ect+vc": "vct"}
NOT_INCLUDED = "; that of a plug-in needs --include PATH"

#: Keys that are younger than the ids of finished cells, with the value at which they are no part of an id.
YOUNGER: dict[str, Any] = {
    "data.resolution": None,
    "data.resize": None,
    "data.fingerprint": None,
    "data.held_out": 0,
    "train.compile": False,
    "train.lr_rampup": 0,
    "train.ema.rampup": None,
    "train.ema_extra.rampup": None,
}


@dataclass(frozen=True)
class Cell:
    """One training run: a resolved configuration and the names that follow from its identity."""

    config: RunConfig

    @property
    def id(self) -> str:
        return self.config.cell.id

    @property
    def seed(self) -> int:
        return self.config.cell.seed

    @property
    def method(self) -> str:
        return self.config.cell.method

    @property
    def name(self) -> str:
        """How a person refers to it: the folder below the output folder."""
        return f"{self.config.cell.benchmark}/{self.method}/s{self.seed}-{self.id}"

    def path(self, out: Path) -> Path:
        return out / self.name


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
    name = name if name in known else name.lower()
    name = ALIASES.get(name, name)
    base, *suffixes = name.split("+")
    bases = [method for method in known if "+" not in method]
    # A composition without a file is composed all the same: whatever cannot be is refused there, with its reason.
    if name not in known and not (base in bases and suffixes and set(suffixes) <= set(COMPOSED_COUPLINGS)):
        raise unknown("method", name, known, hint=NOT_INCLUDED)
    if len(suffixes) > 1:
        raise UsageError(f"'{name}' is refused: a method couples its noise in one way, not in {len(suffixes)}")
    return name


#: What a suffix puts in the place of the independent coupling, for compositions without a yaml file of their own.
COMPOSED_COUPLINGS = {"vc": "variational", "ot": "optimal_transport", "gc": "generator_augmented"}


MOST_SEEDS = 100_000  # beyond this it is a mistake


def parse_seeds(text: str) -> list[int]:
    """`0-2,5` -> [0, 1, 2, 5]. Raises UsageError for anything but whole numbers and rising ranges."""
    seeds: list[int] = []
    for item in text.split(","):
        first, dash, last = item.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"--seeds is {quoted(text)}, must be whole numbers and ranges such as 0-2 or 0,3,7")
        if max(len(first), len(last)) > 19 or int(last or first) >= 2**63:
            raise UsageError(f"--seeds has {quoted(item.strip())}, must be below 2^63")
        low, high = int(first), int(last or first)
        if high < low:
            raise UsageError(f"--seeds has the range '{item.strip()}', which ends before it starts")
        if high - low >= MOST_SEEDS:
            raise UsageError(f"--seeds has the range '{item.strip()}', must be of at most {MOST_SEEDS:,} seeds")
        seeds += range(low, high + 1)
    return list(dict.fromkeys(seeds))


#: Finds the cell that a user names by id or path: its name below the output folder or path, and its configuration.
Find = Callable[[str], tuple[str, RunConfig]]


def compose_cells(
    methods: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    note: Callable[[str], None] = lambda _: None,
    find: Find | None = None,
    varied: Collection[str] = (),
) -> list[Cell]:
    """All cells of methods × swept values × seeds, seeds varying fastest, after the pre-trainings that they start from.

    A key that only some of the methods have changes those; the others are composed once without it. Swept values of
    `sample.…` other than the usual ones make cells of their own, after the others: they share the training of the usual
    cell.

    Args:
        methods: canonical names, from `parse_methods`.
        overrides: `key=value` in hydra's syntax; a comma outside brackets sweeps.
        note: Called with a sentence for each key that not all methods have.
        find: Finds the cell of `train.init=cell:…`.
        varied: keys that other calls give other values, which count as swept.

    Raises:
        UsageError: an unknown key or group, a key that no method has, a value of the wrong type or out of range.
    """
    parsed: dict[str, list[Any]] = {}
    for text in overrides:
        key, values = parse_setting(text)
        if key in parsed:
            raise UsageError(f"key '{key}' is given twice")
        parsed[key] = values
    lacking: dict[str, list[str]] = {}
    cells: dict[str, Cell] = {}
    before: dict[str, Cell] = {}
    from_scratch: dict[str, list[str]] = {}
    fingerprint_once = cache(fingerprint)
    swept = [key for key, values in parsed.items() if key.startswith("sample.") and (len(values) > 1 or key in varied)]
    for method, values in itertools.product(methods, itertools.product(*parsed.values())):
        settings = dict(zip(parsed, values, strict=True))
        below = _below(method, settings)
        own = {key: value for key, value in settings.items() if key not in GROUPS and _has(below, key, settings)}
        for key in settings:
            if key not in own and key not in GROUPS:
                lacking.setdefault(key, []).append(method)
        config = _typed(below, own)
        config = replace(config, data=_located(config.data, fingerprint_once), plugins=used_by(config))
        sampling = _sampling(config, _typed(below, _without(own, swept))) if swept else {}
        asked = pretraining(config.train.init, choices("method"))
        if asked and _method_name(asked.method) == method:
            from_scratch.setdefault(f"train.init={config.train.init}", []).append(method)
            config, asked = replace(config, train=replace(config.train, init=None)), None
        first, init = _pretraining(config, asked, settings, own) if asked else (None, config.train.init)
        config, found = replace(config, train=replace(config.train, init=init)), _found(config, find)
        for seed in seeds:
            if first is not None:
                one = _identified(first, seed, {})
                before[one.name], found = one, (one.name, one.config)
            cell = _identified(config, seed, sampling, found)
            cells[cell.name] = cell
    for key, without in lacking.items():
        note(_only_some(key, methods, list(dict.fromkeys(without))))
    for setting, names in from_scratch.items() if before else ():
        note(f"{setting} applies to the other methods; {names[0]} starts from random weights")
    return sorted((before | cells).values(), key=lambda cell: bool(cell.config.cell.training))


def _pretraining(
    config: RunConfig, asked: Pretraining, settings: Mapping[str, Any], own: Mapping[str, Any]
) -> tuple[RunConfig, str]:
    """The configuration of a pre-training, and `train.init` in one spelling.

    Network and data are those of the cell that starts from it, the recipe is that of the benchmark or the preset.
    own: settings of the user, of which those that change no training apply.
    """
    name = _method_name(asked.method)
    preset = str(settings.get("preset", "none"))
    groups = {"benchmark": config.benchmark.name}
    if preset_home(chosen("preset", preset, choices("preset"), hint=NOT_INCLUDED)).get("method", name) == name:
        groups["preset"] = preset
    measured = {k: v for k, v in own.items() if k.partition(".")[0] in ("eval", "run") and k != "eval.ema"}
    usual = _typed(_below(name, groups), measured)
    if asked.version not in (None, usual.method.version):
        known = usual.method.version
        raise UsageError(f"train.init asks for version {asked.version} of {name}, which has version {known} here")
    images = usual.train.images if asked.images is None else asked.images
    text = name if images == usual.train.images else f"{{method: {name}, images: {images}}}"
    try:
        train = replace(usual.train, images=images, init=None, resources=config.train.resources)
    except UsageError as error:
        raise UsageError(f"train.init={config.train.init}: {error}") from None
    first = replace(usual, data=config.data, network=config.network, train=train)
    return replace(first, plugins=used_by(first)), text


def _found(config: RunConfig, find: Find | None) -> tuple[str, RunConfig] | None:
    """The cell of `train.init=cell:…`, None where it names no cell."""
    name = cell_name(config.train.init)
    if name is None:
        return None
    if find is None:
        raise UsageError(f"train.init is {quoted(config.train.init)}, which needs an output folder to find the cell in")
    return find(name)


def _without(settings: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in keys}


def _sampling(config: RunConfig, usual: RunConfig) -> dict[str, Any]:
    """The settings of sampling in which a configuration differs from the usual one, by key."""
    own, other = (leaves(canonical({"sample": each.to_dict()["sample"]})) for each in (config, usual))
    return {key: value for key, value in own.items() if other.get(key) != value}


def _located(data: DataConfig, fingerprint: Callable[[DataConfig], str | None]) -> DataConfig:
    """With what is on disk: the path in full, for workers elsewhere, and the fingerprint of a user's images."""
    root = None if data.root is None else str(Path(os.path.expanduser(data.root)).absolute())
    return replace(data, root=root, fingerprint=fingerprint(data))


def _only_some(key: str, methods: Sequence[str], without: Sequence[str]) -> str:
    """The sentence for a key that some of the methods lack. Raises UsageError where all lack it."""
    having = [method for method in methods if method not in without]
    if having:
        stay = "keeps its" if len(without) == 1 else "keep their"
        has = "has" if len(without) == 1 else "have"
        return f"{key} applies to {', '.join(having)}; {', '.join(without)} {has} no such key and {stay} configuration"
    part, _, name = key.rpartition(".")
    if part == "sample":
        keys = _sampler_keys()
        owners, what = [kind for kind, names in keys.items() if name in names], "samplers (sample.kind) that have it"
        known = [f"sample.{name}" for name in dict.fromkeys(itertools.chain(*keys.values()))]
    else:
        owners, what = known_keys().get(key), "methods that have it"
        known = [known for known in known_keys() if known.startswith(f"{part}.")]
    if owners:
        have = "have" if len(without) > 1 else "has"
        raise UsageError(f"{', '.join(without)} {have} no key '{key}'; {what}: {', '.join(owners)}")
    raise unknown("key", key, known, near(key, known) if part == "sample" else near_keys(key))


def _below(method: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the settings of single keys are laid over: the configuration of method, benchmark and preset."""
    named = {group: str(settings[group]) for group in GROUPS if group in settings}
    names = {group: chosen(group, name, choices(group), hint=NOT_INCLUDED) for group, name in named.items()}
    preset = names.get("preset", "none")
    home = preset_home(preset)
    benchmark = names.get("benchmark", home.get("benchmark", DEFAULT_BENCHMARK))
    for what, given in (("method", method), ("benchmark", benchmark)):
        if given != home.get(what, given):
            raise UsageError(f"preset '{preset}' is for {what} {home[what]}, not {given}: {HINTS[what]}{home[what]}")
    return _composed(method, benchmark, preset)


DEFAULT_BENCHMARK = "digits"
HINTS = {"method": "write --methods ", "benchmark": "leave benchmark= out, or write benchmark="}


@cached
def preset_home(preset: str) -> dict[str, str]:
    """The method and the benchmark that a preset is for; {} where it goes with all.

    Every preset says so in its own file: all of them are looked at for each method, which hydra is too slow for.
    """
    return dict(read_yaml(yaml_files("preset")[preset]).get("for", {}))


def _loaded(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The content of a yaml file and of those it builds on, as plain data with interpolations unresolved.

    Raises UsageError for files of plug-ins that hydra refuses.
    """
    own = owner(yaml_files("preset")[name.removeprefix("preset/")]) if name.startswith("preset/") else None
    folders = {SHIPPED: None, **{plugin.folder: None for plugin in active()}}
    home = own.folder if own else SHIPPED
    if others := [str(folder).replace("'", "\\'") for folder in folders if folder != home]:
        places = ",".join(f"'file://{folder}'" for folder in others)
        overrides = [*overrides, f"hydra.searchpath=[{places}]"]
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(home)):
            plain = OmegaConf.to_container(compose(name, overrides=list(overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(" ".join(str(error).split())) from None
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


@cached
def _composed(method: str, benchmark: str, preset: str) -> Mapping[str, Any]:
    """The configuration that these three files make, as plain data.

    Raises UsageError where they do not go together, naming file and line of a plug-in that is wrong.
    """
    base = method if method in choices("method") else method.split("+")[0]
    wanted = {"method": base, "benchmark": benchmark, "preset": preset}
    own = [path for group, name in wanted.items() if owner(path := yaml_files(group)[name])]
    if not own:
        return _joined(method, base, benchmark, preset)
    try:
        plain = _joined(method, base, benchmark, preset)
        _typed(plain, {})  # before the user's settings are laid over it, which are not to blame
    except UsageError as error:
        errors = [located(path, error) for path in own]
        raise next((one for one in errors if " line " in str(one)), errors[0]) from None
    return plain


def _joined(method: str, base: str, benchmark: str, preset: str) -> Mapping[str, Any]:
    # Interpolations stay: a user's value must reach all that follow it.
    plain = _loaded("config", [f"benchmark='{benchmark}'", f"method='{base}'"])
    if "kind" in plain.get("sample", {}):
        plain["sample"] = _of_its_kind(plain["sample"])
    if base != method:
        coupled = plain["method"]["coupling"]["kind"]
        if coupled != "independent":
            raise UsageError(f"'{method}' is refused: '{base}' already couples its noise ({coupled})")
        coupling = COMPOSED_COUPLINGS[method.split("+")[-1]]
        plain["method"] |= {"name": method, "coupling": {"kind": coupling}}
    for case in plain.pop("recipes", []):
        if all(plain["method"][part]["kind"] == kind for part, kind in case["when"].items()):
            for section in case.keys() - {"when"}:
                plain[section] = _laid_over(plain[section], case[section])
    changes = {section: values for section, values in _loaded(f"preset/{preset}").items() if section != "for"}
    return _laid_over(plain, changes)


def _of_its_kind(sample: dict[str, Any]) -> dict[str, Any]:
    """The section `sample` of a method that names its sampler, without the benchmark's options for another one."""
    return {key: value for key, value in sample.items() if key in _sampler_keys()[sample["kind"]]}


def _sampler_keys() -> dict[str, list[str]]:
    """The keys of the section `sample` by its kind."""
    from ...methods.parts.options import option_names
    from ...methods.parts.samplers import KINDS

    return {kind: ["kind", *SAMPLE_KEYS, *option_names(sampler)] for kind, sampler in KINDS.items()}


def _laid_over(below: Any, above: Any) -> Any:
    """The values of `above` over those `below`. A mapping of another kind replaces all: kinds have own options."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    if "kind" in above and above["kind"] != below.get("kind"):
        return above
    return below | {key: _laid_over(below.get(key), value) for key, value in above.items()}


def _has(below: Mapping[str, Any], key: str, settings: Mapping[str, Any]) -> bool:
    """Whether a method has a key of the section `method`, or its sampler one of `sample`; other keys are for all.

    Raises UsageError for a key that lies where no option can be. The options of other sections are checked when they
    are built.
    """
    section, *names = key.split(".")
    if section not in SETTABLE:
        sections, known = near(section, [*GROUPS, *SETTABLE]), near_keys(key)
        guesses = known or sections if names else sections or known
        raise unknown("key", key, [*GROUPS, *(f"{name}.…" for name in SETTABLE)], guesses)
    if section != "method":
        known = keys_of(section)
        if not 1 <= len(names) <= (2 if key.startswith(NESTED) else 1) or (known and names[0] not in known):
            raise unknown("key", key, [f"{section}.{name}" for name in known or below[section]], near_keys(key))
        return section != "sample" or _samples_with(names[0], below["sample"], settings.get("sample.kind"))
    parts = [name for name in below["method"] if name not in ("name", "version")]
    if len(names) != 2 or names[0] not in parts:
        raise unknown("key", key, [f"method.{part}.…" for part in parts], near_keys(key))
    part, option = names
    options, changed = below["method"][part], settings.get(f"method.{part}.kind")
    if option in options and changed in (None, options["kind"]):
        return True
    from ...methods.parts.options import option_names
    from ...methods.registry import KINDS

    kind = KINDS[part].get(str(changed or options["kind"]))
    return option == "kind" or kind is None or option in option_names(kind)


def _samples_with(name: str, sample: Mapping[str, Any], changed: Any) -> bool:
    """Whether a sampler has the key: that of the section `sample`, or the one that the user chooses instead."""
    if name in ("kind", *SAMPLE_KEYS):
        return True
    kind = str(changed or sample.get("kind", "multistep"))
    return name in _sampler_keys().get(kind, [name])  # an unknown kind is refused when it is built


def _change_kind(config: Any, section: str, kind: Any) -> None:
    """Another kind of a part keeps the options that it shares with the old one."""
    from ...methods.networks.registry import NETWORKS
    from ...methods.parts import samplers
    from ...methods.parts.options import option_names
    from ...methods.registry import KINDS
    from .averages import PROFILES

    kinds: dict[str, Mapping[str, type]] = {"network": NETWORKS, "train.ema": PROFILES, "sample": samplers.KINDS}
    kinds |= {f"method.{part}": known for part, known in KINDS.items()}
    part = kinds.get(section, {}).get(str(kind))
    if part is not None:  # an unknown kind is refused when the part is built
        options = OmegaConf.select(config, section)
        common = SAMPLE_KEYS if section == "sample" else ()
        kept = {key: value for key, value in options.items() if key in (*option_names(part), *common)}
        OmegaConf.update(config, section, {"kind": kind, **kept}, merge=False)


def _typed(below: Mapping[str, Any], values: Mapping[str, Any]) -> RunConfig:
    """The configuration `below` with `values` (by key) set, interpolations resolved and everything checked."""
    config = OmegaConf.create(dict(below))
    as_typed = {key: value for key, value in values.items() if is_as_typed(key)}
    try:
        for key, value in values.items():
            if key.endswith(".kind"):
                _change_kind(config, key.removesuffix(".kind"), value)
        for key, value in values.items():
            if key not in as_typed:
                OmegaConf.update(config, key, value, force_add=True, merge=False)
        plain: Any = OmegaConf.to_container(config, resolve=True)
    except RecursionError:
        raise UsageError(f"{', '.join(values)}: values that refer to each other in a circle") from None
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "configuration"
        reason = (getattr(error, "msg", None) or str(error)).splitlines()[0]
        raise UsageError(f"{key}: {reason}") from None
    for key, value in as_typed.items():
        section, _, name = key.partition(".")
        plain[section][name] = value
    identity = {"id": "", "group": "", "seed": 0}
    identity |= {name: plain[name]["name"] for name in ("benchmark", "method")}
    typed = RunConfig.from_dict({"run": {}, "sample": {}, **plain, "seed": 0, "cell": identity})
    return replace(typed, eval=replace(typed.eval, metrics=tuple(expand(typed.eval.metrics))))


def _overrides(config: RunConfig) -> dict[str, Any]:
    """What differs from the defaults of method and benchmark, by key: equal for cells of equal group.

    Relative to the nearest preset of this method and benchmark, typed or not: a paper's recipe is one name. A key that
    follows another one, as σ_max of the levels follows that of the process, is left out where it has its value.
    """
    method, benchmark = config.method.name, config.benchmark.name
    home = {"method": method, "benchmark": benchmark}
    own = leaves(_scientific(config))
    own.pop("data.fingerprint", None)  # which the name of the benchmark says
    changed: dict[str, list[str]] = {}
    presets = [name for name, path in yaml_files("preset").items() if _counts(path, config)]
    recipes = [name for name in presets if preset_home(name) and preset_home(name).items() <= home.items()]
    for preset in ("none", *recipes):
        usual = _default_leaves(method, benchmark, preset)
        differs = {key for key in own if key not in usual or own[key] != usual[key]}
        follows = _followed(method, benchmark, preset)
        changed[preset] = [k for k in sorted(differs) if not (follows.get(k) in differs and own[k] == own[follows[k]])]
    nearest = min(changed, key=lambda preset: len(changed[preset]))
    named = {} if nearest == "none" else {"preset": nearest}
    return named | {key: own[key] for key in changed[nearest]} | apart(config)


def _counts(preset: Path, config: RunConfig) -> bool:
    """Whether a variant may name this preset: one of a plug-in only of cells that depend on that plug-in anyway."""
    plugin = owner(preset)
    return plugin is None or plugin.sha256 in [used.sha256 for used in config.plugins if used.trains]


@cached
def _default_leaves(method: str, benchmark: str, preset: str) -> dict[str, Any]:
    return leaves(_scientific(_typed(_composed(method, benchmark, preset), {})))


@cached
def _followed(method: str, benchmark: str, preset: str) -> dict[str, str]:
    """The key whose value another key takes unless it is set, from the interpolations of the yaml files."""
    texts = {key: str(value) for key, value in leaves(_composed(method, benchmark, preset)).items()}
    return {key: text[2:-1] for key, text in texts.items() if text.startswith("${") and text.endswith("}")}


def default_of(config: RunConfig, preset: str, key: str) -> Any:
    """The value of a key by the files of method, benchmark and preset, None where they do not say.

    They do not where one is unknown, as a plug-in may be, or now has another version.
    """
    names = {"method": config.method.name.split("+")[0], "benchmark": config.benchmark.name, "preset": preset}
    if any(name not in yaml_files(group) for group, name in names.items()):
        return None
    usual = _typed(_composed(config.method.name, config.benchmark.name, preset), {})
    versions = [(each.method.version, each.benchmark.version) for each in (config, usual)]
    return leaves(usual.to_dict()).get(key) if versions[0] == versions[1] else None


def _scientific(config: RunConfig) -> dict[str, Any]:
    """What of a configuration changes numbers, the seed apart, each value in one spelling."""
    plain = config.to_dict()
    sections = {name: {k: v for k, v in plain[name].items() if k not in PLACES.get(name, ())} for name in IDENTITY}
    return _without_younger(canonical(sections))


def _without_younger(value: Any, where: str = "") -> Any:
    """Plain data without the keys of YOUNGER at their value there; `where` is the dotted key of `value`."""
    if isinstance(value, list):
        return [_without_younger(item, where) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: (f"{where}.{key}".strip("."), item) for key, item in value.items()}
    return {k: _without_younger(v, at) for k, (at, v) in kept.items() if at not in YOUNGER or v != YOUNGER[at]}


def _identified(
    config: RunConfig, seed: int, sampling: Mapping[str, Any], first: tuple[str, RunConfig] | None = None
) -> Cell:
    """The cell of a configuration: its id is a hash of what changes training, its group the same without the seed.

    The group, which is a row of a table, also contains the settings of sampling that keep a number out of other rows.
    sampling: swept settings of sampling, which are part of the id. first: place and configuration of the cell that it
    starts from: its id is part of the id, and its group, where it has the same seed, of the group.
    """
    sources = sorted(plugin.sha256 for plugin in config.plugins if plugin.trains)
    scientific = _scientific(config) | ({"plugins": sources} if sources else {})
    grouped, start = scientific, None
    if first is not None:
        name, before = first
        start = StartConfig(cell=name, id=before.cell.id, method=before.cell.method, images=before.budget_images)
        is_fixed = cell_name(config.train.init) is not None
        if is_fixed:
            config = replace(config, train=replace(config.train, init=f"{CELL}{start.id}"))
        scientific = _starting(scientific, start.id)
        grouped = _starting(grouped, start.id if is_fixed else before.cell.group)
    overrides = _overrides(config) | dict(sampling)
    training = _digest({**scientific, "seed": seed})
    swept = {"sampling": sampling} if sampling else {}
    data = config.data.fingerprint
    cell = replace(
        config.cell,
        # Results on different images never share a table.
        benchmark=config.benchmark.name if data is None else f"{config.benchmark.name}-{data[:8]}",
        id=_digest({**scientific, "seed": seed, **swept}) if swept else training,
        group=_digest({**grouped, **apart(config), **swept}),
        seed=seed,
        variant=", ".join(f"{key}={_text(value)}" for key, value in overrides.items()),
        overrides=overrides,
        training=training if swept else "",
        start=start,
    )
    return Cell(replace(config, seed=seed, cell=cell))


def _starting(scientific: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The same with what a cell starts from named by a digest, in the place of a text."""
    return {**scientific, "train": {**scientific["train"], "init": f"{CELL}{what}"}}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
