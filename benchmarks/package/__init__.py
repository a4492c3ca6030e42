"""Train, sample and evaluate consistency models (iCT, ECT, SCT, VCT) under equal conditions.

This folder is the import name `consistency_bench` itself; pyproject.toml maps its subpackages to the folders at the top
of the repository. Importing it is cheap: each name below is imported when it is first used.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # A type checker finds these in an installed package; in the repository the subpackages are other folders.
    from .benchmarks.evaluation.export import load_model
    from .benchmarks.evaluation.image_scores import score
    from .reports.analysis.frame_leaderboard import leaderboard
    from .reports.analysis.frames import load_results

__version__ = "0.1.0"
__all__ = ["__version__", "leaderboard", "load_model", "load_results", "score"]

#: Each public name and the module that defines it.
_MODULES = {
    "leaderboard": "reports.analysis.frame_leaderboard",
    "load_model": "benchmarks.evaluation.export",
    "load_results": "reports.analysis.frames",
    "score": "benchmarks.evaluation.image_scores",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
