"""Train, sample and evaluate consistency models (iCT, ECT, SCT, VCT) under equal conditions.

This folder is the import name `consistency_bench` itself; pyproject.toml maps its subpackages to the folders at the top
of the repository.
"""

__version__ = "0.1.0"
