"""Train, sample and evaluate consistency models (iCT, ECT, SCT, VCT) under equal conditions.

This folder is the import name `consistency_bench` itself; pyproject.toml maps its subpackages to the folders at the top
of the repository. Importing it is cheap: each name below is imported when it is first used.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "include", "leaderboard", "load_model", "load_results", "plots", "score"]

#: Where each public name is: module:name, or a module.
_PLACES = {
    "include": "benchmarks.config.plugins:include",
    "leaderboard": "reports.analysis.frame_leaderboard:leaderboard",
    "load_model": "benchmarks.evaluation.export:load_model",
    "load_results": "reports.analysis.frames:load_results",
    "plots": "reports.plots.frames",
    "score": "benchmarks.evaluation.image_scores:score",
}

if TYPE_CHECKING:
    # A type checker finds these in an installed package; in the repository the subpackages are other folders.
    from .benchmarks.config.plugins import include
    from .benchmarks.evaluation.export import load_model
    from .benchmarks.evaluation.image_scores import score
    from .reports.analysis.frame_leaderboard import leaderboard
    from .reports.analysis.frames import load_results
    from .reports.plots import frames as plots
else:  # to a type checker, a module with __getattr__ has every name

    def __getattr__(name: str) -> object:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        place, _, attribute = _PLACES[name].partition(":")
        module = importlib.import_module(f"{__name__}.{place}")
        globals()[name] = found = getattr(module, attribute) if attribute else module
        return found


def __dir__() -> list[str]:
    return sorted(__all__)
