"""Train, sample and evaluate consistency models (iCT, ECT, SCT, VCT) under equal conditions.

This folder is the import name `consistency_bench` itself; pyproject.toml maps its subpackages to the folders at the top
of the repository. Importing it is cheap: each name below is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # A type checker finds these in an installed package; in the repository the subpackages are other folders.
    from .reports.analysis.frames import load_results  # pyright: ignore[reportMissingImports]

__version__ = "0.1.0"
__all__ = ["__version__", "load_results"]

#: Each public name and the module that defines it.
_MODULES = {
    "load_results": "reports.analysis.frames",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
