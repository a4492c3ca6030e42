"""What `train.init` names: published weights, a prepared file, a finished cell, or a pre-training of one's own.

| text | training starts from |
|---|---|
| `edm`, `{method: edm, images: N}` | the cell of that method on the same benchmark, network, data and seed |
| `cell:ID`, `cell:PATH` | one finished cell, for all seeds |
| anything else | published weights by their name, or a prepared file |
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...methods.parts.messages import quoted
from ...methods.parts.options import OptionError, part_from_options
from ..common.errors import UsageError

if TYPE_CHECKING:
    from .schema import StartConfig

CELL = "cell:"
EXAMPLE = "{method: edm, images: 100000}"


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A pre-training to start from.

    method: which trains. images: its budget, None for that of the benchmark or preset. version: the one that the method
    must have, None for any.
    """

    method: str
    images: int | None = None
    version: int | None = None


def pretraining(init: str | None, methods: Collection[str]) -> Pretraining | None:
    """The pre-training that `train.init` asks for, None where it names something else. methods: all there are.

    Raises UsageError for a mapping that is none of a pre-training.
    """
    if init in methods:
        return Pretraining(method=str(init))
    if init is None or not init.startswith("{"):
        return None
    import yaml

    try:
        content = yaml.safe_load(init)
    except yaml.YAMLError:
        content = None
    if not isinstance(content, dict):
        raise UsageError(f"train.init is {quoted(init)}, must be a mapping such as {EXAMPLE}")
    try:
        return part_from_options(Pretraining, content, "train.init")
    except OptionError as error:
        raise UsageError(str(error)) from None


def cell_name(init: str | None) -> str | None:
    """The id or path in `cell:ID|PATH`, None for other text."""
    return init.removeprefix(CELL) if init is not None and init.startswith(CELL) else None


def tuned_from(start: StartConfig, init: str | None) -> str:
    """What a cell that starts from another one is called: `tuned from edm, 704,000 images`.

    init: its `train.init`. Where that names one cell, which is the same one for all seeds, its id is added.
    """
    name = f" {start.id}" if cell_name(init) is not None else ""
    return f"tuned from {start.method}{name}, {start.images:,} images"
