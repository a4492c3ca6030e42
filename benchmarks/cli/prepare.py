"""`bench prepare`: what has to be converted once before it can be used."""

from __future__ import annotations

from pathlib import Path


def weights(name: str, source: Path, out: Path | None, sha256: str | None) -> int:
    """Convert published weights and say what became of them. Exit status 0."""
    from ..training.pretrained import prepare

    report = prepare(name, source, out, sha256)
    print(f"{report['weights']}: {report['matched']} tensors")
    print(f"sha256 of {report['source']}: {report['source_sha256']}")
    if report["ignored"]:
        print(f"not used: {', '.join(report['ignored'])}")
    return 0
