"""What the page of a study begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...benchmarks.config.study import BUDGET, Study
from ..analysis.tables import Board


@dataclass(frozen=True)
class StudyText:
    """Name and question of a study, and sentences on how it answers the question."""

    name: str
    question: str
    facts: str


def study_text(study: Study, boards: Sequence[Board]) -> StudyText:
    """The beginning of its page. boards: what is shown below, one for each benchmark."""
    facts = [f"Methods: {', '.join(study.methods)}; seeds: {study.seeds}."]
    facts += [f"Headline: {board.metrics[0]} at NFE {board.nfes[0]}." for board in boards[:1]]
    if study.baseline:
        found = boards and boards[0].baseline
        facts.append(f"Baseline: {found or f'{study.baseline}, of which there is no cell yet'}.")
    if study.budget:
        varies = any(BUDGET in variant for variant in study.variants)
        facts.append(f"Budget: {study.budget:,} images{', unless the variant states another' if varies else ''}.")
    return StudyText(study.name, study.question, " ".join(facts))
