"""A configuration in a file may be someone else's: what is refused before anything is computed from it."""

from __future__ import annotations

import re

from ..common.errors import UsageError
from ..config.plugins import require
from ..config.schema import RunConfig
from .folder import Run

#: A metric on features of a function: its module would be imported.
OWN_CODE = re.compile(r"_?[\w.]+:\w+", re.ASCII)


def trusted(run: Run) -> RunConfig:
    """The configuration of a cell whose metrics are going to be computed, if none of them names a function.

    Results are shared, and no code is imported because a file among them names it.

    Raises UsageError for such a metric, and as `require` for a plug-in that is not included.
    """
    require(run.config)
    for name in run.config.eval.metrics:
        if OWN_CODE.search(name):
            raise UsageError(
                f"{run.config_file} names the metric {name!r}, which runs a function of a module: code that a file "
                f"of results names is not run, so name it yourself (--metrics of `bench eval`, eval.metrics of `bench "
                f"run`)"
            )
    return run.config
