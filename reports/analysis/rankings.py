"""Which cells of a benchmark may share a ranking: those whose values can be compared.

A study ranks all cells that its file asks for. Without a study it is not known what was meant to be compared. Cells of
another budget, network or data stay apart, and so do ablations of two or more configurations that are compared. A
pre-training that would be alone is ranked with the cells that start from it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from .cells import Cell, flattened, value_text
from .tables import common_settings, labels, variant

#: Sections and keys of a configuration that make values incomparable, and the keys of them that change no value.
SECTIONS = ("benchmark", "data", "network")
KEYS = ("train.images", "train.init", "eval.quantise")
NOT = ("data.root", "data.download", "data.fingerprint")
MOST_NAMED = 3


def rankings(cells: Sequence[Cell]) -> list[tuple[str, list[Cell]]]:
    """The cells of one benchmark that can be ranked together, each set with what sets it apart from the first one.

    The first is that of the fewest changes to the benchmark, of several the one of the largest budget; its text is "".
    """
    found: dict[tuple[tuple[str, str], ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        found[tuple(sorted(_settings(cell).items()))].append(cell)
    _join_pretrainings(found)
    ordered = sorted(found, key=lambda key: (min(map(_changes, found[key])), -found[key][0].budget, key))
    named: dict[str, list[Cell]] = {}
    for key in ordered:
        title = _difference(dict(key), dict(ordered[0]))
        for base, own in zip(
            (title, f"{title}, ablations".removeprefix(", ")), _without_ablations(found[key]), strict=True
        ):
            name = base
            while name in named:
                name = f"{base} ({len(named)})"
            if own:
                named[name] = own
    return list(named.items())


def _join_pretrainings(found: dict[tuple[tuple[str, str], ...], list[Cell]]) -> None:
    """Move sets of pre-trainings alone to the one set of cells that start from them."""
    homes = defaultdict(set)
    for key, own in found.items():
        for cell in own:
            if (start := cell.run.config.cell.start) is not None:
                homes[start.id].add(key)
    for key in list(found):
        if (
            len(targets := {frozenset(homes[cell.id]) for cell in found[key]}) == 1
            and len(target := targets.pop()) == 1
        ):
            (home,) = target
            if home != key:
                found[home] = [*found.pop(key), *found[home]]


def _without_ablations(cells: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
    """The configurations with no setting of their own, if they are several, and the others, which vary them."""
    common = common_settings(cells)
    plain = [cell for cell in cells if not variant(cell, common)]
    if len({cell.group for cell in plain}) < 2:
        return list(cells), []
    return plain, [cell for cell in cells if variant(cell, common)]


def named_group(name: str, cells: Sequence[Cell]) -> str | None:
    """The group of the configuration of this name: its label, or a method that one configuration alone has."""
    names = labels(cells)
    own = {group for group, label in names.items() if label == name} or {c.group for c in cells if c.method == name}
    return own.pop() if len(own) == 1 else None


def _settings(cell: Cell) -> dict[str, str]:
    config = cell.run.config.to_dict()
    wanted = {section: config[section] for section in (*SECTIONS, "train", "eval")}
    leaves = dict(flattened(wanted))
    return {k: v for k, v in leaves.items() if k not in NOT and (k in KEYS or k.partition(".")[0] in SECTIONS)}


def _changes(cell: Cell) -> int:
    """How many of these settings are not those of the benchmark; a preset is one."""
    keys = [key for key in cell.overrides if key in KEYS or key.partition(".")[0] in (*SECTIONS, "preset")]
    return len(keys)


def _difference(own: dict[str, str], main: dict[str, str]) -> str:
    changed = [f"{key}={value_text(value)}" for key, value in own.items() if main.get(key) != value]
    changed += [f"no {key}" for key in main if key not in own]
    rest = len(changed) - MOST_NAMED
    return ", ".join(changed[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")
