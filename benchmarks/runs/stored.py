"""The configuration of a cell as its file has it, which may be a stranger's: checked before anything is made of it."""

from __future__ import annotations

import re
from typing import Any

from ..common.errors import UsageError
from ..common.files import DamagedError
from ..config.schema import check_values, completed
from .folder import CONFIG, CellFiles

#: A metric on features of a function: its module would be imported.
OWN_CODE = re.compile(r"_?[\w.]+:\w+", re.ASCII)


def stored(cell: CellFiles, *, scored: bool = True) -> dict[str, Any]:
    """The configuration with the defaults of keys that it lacks, being older, and with values that can be.

    scored: whether the metrics that it names will be worked out. Then none may name a function: results travel, and
    nobody's code is imported because a file among them says so.

    Raises DamagedError where it is no configuration of this version, UsageError for such a metric.
    """
    path = cell.path / CONFIG
    try:
        config = completed(cell.config)
        check_values(config)
    except UsageError as error:
        raise DamagedError(f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedError(f"{path} is no configuration of this version ({type(error).__name__}: {error})") from None
    for name in config["eval"]["metrics"] if scored else ():
        if OWN_CODE.search(name):
            raise UsageError(
                f"{path} names the metric {name!r}, which runs a function of a module: code that a file of results "
                f"names is not run, so name it yourself (--metrics of `bench eval`, eval.metrics of `bench run`)"
            )
    return config
