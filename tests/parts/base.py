"""What the tests of the parts share."""

from __future__ import annotations

from gradcheck.judging.results import Judgement
from gradcheck.reports.text import judgement_text

__all__ = ["declared", "failed"]


def failed(judgement: Judgement) -> dict[str, str]:
    """Failed obligation → named cause; the judgement's text is made too."""
    text = judgement_text(judgement)
    found = {r.id: r.diagnosis.name for r in judgement.results if not r.good and r.diagnosis is not None}
    assert all(f": {name} does not hold" in text for name in found)
    return found


def declared(judgement: Judgement) -> set[str]:
    return {r.diagnosis.declare for r in judgement.results if r.diagnosis is not None}
