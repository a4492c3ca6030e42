"""A study: one file with a question, and the grid of cells that answers it.

Names of methods, benchmarks and keys are checked when the cells are composed, as those of a command are. A stored
study can therefore be read without the plug-ins that it was run with.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...methods.parts.messages import quoted
from ...methods.parts.options import OptionError, part_from_options
from ..common.errors import UsageError
from ..common.files import DamagedError, read_yaml
from ..common.text import plain
from .schema import RunConfig, is_as_typed

if TYPE_CHECKING:
    from .compose import Cell, Find

DEFAULT_METHODS, DEFAULT_SEEDS = ("ict", "ect", "sct", "vct"), "0-5"
BUDGET = "train.images"
NAME, LONGEST_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII), 60
#: Text that hydra's syntax takes as it is; other text is put in quotes.
BARE = re.compile(r"[\w./:+-]+", re.ASCII)
#: What may not differ between two runs of a study: values of other budgets or benchmarks cannot be compared.
FIXED = ("benchmark", "preset", "budget")


def check_name(name: str) -> None:
    """Raise UsageError for what cannot be the name of a study."""
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        wanted = f"up to {LONGEST_NAME} letters, digits, dots, dashes and underscores: it names a folder"
        raise UsageError(f"name is {quoted(name)}, must be {wanted}")


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The question fixed in advance: a metric at an NFE. null: the first metric, the lowest NFE."""

    metric: str | None = None
    nfe: int | None = None


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a study file says. Raises UsageError, whose sentence begins with the key, for values that cannot be.

    seeds: numbers and ranges, as for `--seeds`. overrides: key -> value. ablations: key -> values; every combination
    is run, and a key that only some methods have changes those. variants: rows of settings, each run with every
    combination of the ablations; {} is the configuration without changes. baseline: a method that the others are
    compared with. budget: training images of each cell, `train.images`, unless its variant sets them.
    """

    name: str
    question: str
    methods: tuple[str, ...] = DEFAULT_METHODS
    seeds: str = DEFAULT_SEEDS
    benchmark: str | None = None
    preset: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    ablations: Mapping[str, Any] = field(default_factory=dict)
    variants: tuple[Mapping[str, Any], ...] = ()
    baseline: str | None = None
    headline: Headline = field(default_factory=Headline)
    budget: int | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        if not self.question.strip():
            raise UsageError("question is empty, must be the sentence that the study answers")
        if not self.methods:
            raise UsageError("methods is empty, must be a list of methods such as [ect, vct]")
        self._check_keys()
        if self.baseline is not None and self.baseline not in self.methods:
            raise UsageError(f"baseline is {quoted(self.baseline)}, must be one of methods: {', '.join(self.methods)}")

    def _check_keys(self) -> None:
        own = {item.name for item in dataclasses.fields(self)}
        for section, settings in (("overrides", self.overrides), ("ablations", self.ablations)):
            for key in settings:
                if str(key) in own:
                    raise UsageError(f"{section} has {quoted(key)}, which is a key of the study: write it at the top")
                if key == BUDGET and self.budget is not None:
                    raise UsageError(f"{section} has {BUDGET}, which budget sets already: leave one of them out")
        for key, values in self.ablations.items():
            if key in self.overrides:
                raise UsageError(f"ablations has {quoted(key)}, which overrides sets already: leave one of them out")
            if not isinstance(values, list | tuple) or not values:
                raise UsageError(f"ablations: {key} is {quoted(values)}, must be a list of values such as [1, 3, 10]")
        for place, variant in enumerate(self.variants):
            for key in variant:
                if str(key) in own:
                    top = "which is a key of the study: write it at the top"
                    raise UsageError(f"variants[{place}] has {quoted(key)}, {top}")
                for section, settings in (("overrides", self.overrides), ("ablations", self.ablations)):
                    if key in settings:
                        once = f"which {section} sets already: leave one of them out"
                        raise UsageError(f"variants[{place}] has {quoted(key)}, {once}")

    @property
    def settings(self) -> list[str]:
        """Everything but methods, seeds and variants as `key=value`, in the syntax of the command line."""
        groups = {"benchmark": self.benchmark, "preset": self.preset, BUDGET: self.budget}
        given = {key: [value] for key, value in groups.items() if value is not None}
        given |= {key: [value] for key, value in self.overrides.items()} | dict(self.ablations)
        return [f"{key}={','.join(_written(key, value) for value in values)}" for key, values in given.items()]

    def settings_of(self, variant: Mapping[str, Any]) -> list[str]:
        """`settings` with those of a variant, which take the place of the budget."""
        own = [f"{key}={_written(key, value)}" for key, value in variant.items()]
        return [text for text in self.settings if text.partition("=")[0] not in variant] + own

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which `study_of` reads."""
        return dataclasses.asdict(self)

    def is_baseline(self, config: RunConfig) -> bool:
        """Whether a cell is one of the baseline: of its method, without a change that ablations or variants make."""
        varied = set(self.ablations).union(*self.variants)
        if self.budget is not None:
            varied.discard(BUDGET)
            if config.train.images != self.budget:
                return False
        changed = [key for key in config.cell.overrides if any(f"{key}.".startswith(f"{name}.") for name in varied)]
        return config.cell.method == self.baseline and not changed

    def changes(self, before: Study) -> list[str]:
        """What differs from an earlier definition, a phrase for each key. Raises UsageError where that is refused."""
        old, new = before.to_dict(), self.to_dict()
        changed = [key for key in new if old[key] != new[key]]
        for key in FIXED:
            if key in changed:
                raise UsageError(
                    f"{key} of study '{self.name}' is {_shown(new[key])}, was {_shown(old[key])} when it ran here: its "
                    "values cannot be compared with those; give the changed study another name, or use another --out"
                )
        return [f"{key} is {_shown(new[key])}, was {_shown(old[key])}" for key in changed]


def read_study(path: Path) -> Study:
    """The study in a file. Raises UsageError, naming the file and the line, for anything that is none."""
    try:
        content = read_yaml(path)
        _check_repetition(path)
        return study_of(content)
    except DamagedError:
        raise
    except UsageError as error:
        raise located(path, error) from None


def study_of(content: Any) -> Study:
    """The study of plain data, as from YAML. Raises UsageError."""
    if not isinstance(content, Mapping):
        raise UsageError("it is no study: write name: …, question: … and further keys (docs/studies.md)")
    values = {key: _plain(value) for key, value in content.items() if value is not None}
    if "seeds" in values:
        seeds = values["seeds"]
        values["seeds"] = ",".join(map(str, seeds)) if isinstance(seeds, list) else str(seeds)
    if isinstance(methods := values.get("methods"), str):
        values["methods"] = [name.strip() for name in methods.split(",") if name.strip()]
    try:
        study: Study = part_from_options(Study, values, "")
    except OptionError as error:
        raise UsageError(str(error)) from None
    return study


def compose_study(study: Study, path: Path, note: Callable[[str], None], find: Find | None = None) -> list[Cell]:
    """The cells of a study, as `compose_cells` makes them, pre-trainings first.

    Raises UsageError, which names the file and the line.
    """
    try:
        cells = _composed(study, cache(note), find)  # variants may give the same notes
        _check_headline(study.headline, cells)
        _check_baseline(study, cells)
    except UsageError as error:
        raise located(path, error) from None
    return cells


def _composed(study: Study, note: Callable[[str], None], find: Find | None) -> list[Cell]:
    from .compose import compose_cells, parse_methods, parse_seeds
    from .settings import check_sweep

    methods, seeds = parse_methods(",".join(study.methods)), parse_seeds(study.seeds)
    if not study.variants:
        return compose_cells(methods, seeds, study.settings, note, find)
    cells: dict[str, Cell] = {}
    varied = set().union(*study.variants)
    for place, variant in enumerate(study.variants):
        try:
            for cell in compose_cells(methods, seeds, study.settings_of(variant), note, find, varied):
                cells.setdefault(cell.name, cell)
            for key in variant:
                check_sweep(key)
        except UsageError as error:
            raise UsageError(f"variants[{place}]: {error}" if variant else str(error)) from None
    starts = {cell.config.cell.start.cell for cell in cells.values() if cell.config.cell.start is not None}
    return sorted(cells.values(), key=lambda cell: (cell.name not in starts, bool(cell.config.cell.training)))


def _check_headline(headline: Headline, cells: Sequence[Cell]) -> None:
    for key, value, found in (
        ("metric", headline.metric, [set(cell.config.eval.metrics) for cell in cells]),
        ("nfe", headline.nfe, [set(cell.config.eval.nfe) for cell in cells]),
    ):
        known = sorted(set.intersection(*found), key=str)
        if value is not None and value not in known:
            more = f"; overrides adds others: eval.{'metrics' if key == 'metric' else 'nfe'}: [{value}, …]"
            raise UsageError(f"headline.{key} is {quoted(value)}, must be one of: {', '.join(map(str, known))}{more}")


def _check_baseline(study: Study, cells: Sequence[Cell]) -> None:
    groups = {cell.config.cell.group for cell in cells if study.is_baseline(cell.config)}
    if study.baseline is not None and len(groups) != 1:
        own = len({cell.config.cell.group for cell in cells if cell.method == study.baseline})
        raise UsageError(
            f"baseline is {quoted(study.baseline)}, which has {own} configurations in this study and none with the "
            "default of every key that varies: add the defaults to ablations, {} to variants, or leave baseline out"
        )


def located(path: Path, error: UsageError) -> UsageError:
    """The same error with the file before it, and the line of the first word in it that is a key or value there."""
    message = re.sub(r"--(methods|seeds)\b", r"\1", str(error))
    lines = dict(reversed(list(_lines(path))))
    words = [word for match in re.finditer(r"([\w.+/:-]*\w)(\[\d+\])?", message) for word in match.group(0, 1)]
    line = next((f" line {lines[word]}:" for word in words if word in lines), "")
    return UsageError(f"{path}:{line} {message}")


def _check_repetition(path: Path) -> None:
    """Raise UsageError for a key that is given twice, of which YAML would take the last."""
    import yaml

    nodes = [yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise UsageError(f"{key} is given twice")
            nodes += [value for _, value in node.value]


def _lines(path: Path) -> Iterator[tuple[str, int]]:
    """Every key and every value of one line in a YAML file, with its line, from the top; then keys as `train.lr`.

    Last, items of lists as `variants[1]`.
    """
    import yaml

    text = path.read_text(encoding="utf-8")
    for token in yaml.scan(text):
        if isinstance(token, yaml.ScalarToken):
            yield token.value, token.start_mark.line + 1
    nodes = [("", yaml.compose(text, Loader=yaml.SafeLoader))]
    while nodes:
        prefix, node = nodes.pop()
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            name = f"{prefix}{key.value}"
            nodes.append((f"{name}.", value))
            yield name, key.start_mark.line + 1
        for place, value in enumerate(node.value if isinstance(node, yaml.SequenceNode) else ()):
            yield f"{prefix.removesuffix('.')}[{place}]", value.start_mark.line + 1


def _written(key: str, value: object) -> str:
    """A value in hydra's syntax. Text is what it would be on the command line: `1e-3` is a number."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping) and is_as_typed(key):
        return "{" + ", ".join(f"{name}: {item}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(_written('', item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_written('', item)}" for name, item in value.items()) + "}"
    text = str(value)
    if is_as_typed(key):
        return f"'{text}'" if "," in text else text
    return text if BARE.fullmatch(text) else "'" + text.replace("'", "\\'") + "'"


def _plain(value: Any) -> Any:
    """As JSON has it: dates, infinities and keys that are no text become text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    is_plain = value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    return value if is_plain else str(value)


def _shown(value: object) -> str:
    """A value of a study in a sentence: `[ect, vct]`, `{train.lr: 0.001}`, `not given`."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return "not given" if value is None else plain(str(value))
