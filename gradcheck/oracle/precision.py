"""What is left of the gradient in the precisions that people train in, and where the rest is lost."""

from __future__ import annotations

from dataclasses import replace

import torch

from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.judging.adapter import AdapterError
from gradcheck.judging.results import Outcome
from gradcheck.oracle.judge import Judge, Look, compare_over, look_at_gradient, together
from gradcheck.oracle.required import required_gradient
from gradcheck.problems.building import Spec
from gradcheck.rounding.signal import digits, lost_by

__all__ = ["check_precision", "where_lost"]

_TRAINED_IN = (torch.float32, torch.bfloat16, torch.float16)
_LATENT = (16, 32, 32)
"""As large as an image's latent, so that sums over coordinates round as they do in training."""
_LITTLE = 2.0
"""With fewer digits than this the reader is told which operation loses them."""


def check_precision(judge: Judge) -> Outcome:
    """In float32: within its bound; and how many digits of the gradient the implementation keeps in each precision."""

    def one(case: Case) -> Look:
        return look_at_gradient(judge, case)

    outcome = compare_over(replace(judge, dtype=torch.float32), judge.specs(policy="off", time="middle"), one)
    if outcome.status == "skipped":
        return outcome
    spec = _near(judge)
    if outcome.status != "failed":
        outcome = together([outcome, compare_over(replace(judge, dtype=torch.float32), iter([spec]), one)])
    notes = (_kept(judge, spec), outcome.note)
    return replace(outcome, note="; ".join(note for note in notes if note))


def _kept(judge: Judge, spec: Spec) -> str:
    """A sentence on the digits that are kept on a large latent near the old policy, measured on the implementation."""
    found: dict[torch.dtype, float | None] = {}
    for dtype in _TRAINED_IN if judge.conventions.output_dtype is None else _TRAINED_IN[:1]:
        case = judge.case(spec, dtype)
        required = judge.made(required_gradient, case)
        try:
            observed = judge.observe(case).gradient
        except AdapterError:
            found[dtype] = None
            continue
        found[dtype] = digits(required, torch.nan_to_num(observed.to(required) - required, nan=torch.inf))
    words = ", ".join(f"{str(dtype).removeprefix('torch.')} {_words(kept)}" for dtype, kept in found.items())
    sentence = f"digits of the gradient that are kept on {spec.latent} latents: {words}"
    if min((kept for kept in found.values() if kept is not None), default=_LITTLE) >= _LITTLE:
        return sentence
    lost = where_lost(judge)
    return f"{sentence}; most are lost in {lost}" if lost else sentence


def _near(judge: Judge) -> Spec:
    """A problem near the old policy, with a large latent."""
    sizes = judge.batch or 2, judge.latent or _LATENT
    return Spec(*sizes, judge.seed, policy="near", time="middle", advantage="typical")


def where_lost(judge: Judge) -> str:
    """The operation in which rounding loses most of the declared loss's gradient, in words; empty if none does."""
    return judge.made(_where_lost, judge.case(replace(_near(judge), latent=(64,)), torch.float64))


def _where_lost(conventions: Conventions, case: Case) -> str:
    found = lost_by(conventions.derivation, case)
    return "" if found is None else str(found)


def _words(kept: float | None) -> str:
    if kept is None:
        return "refused"
    return f"{kept:.1f}" if kept >= 0.05 else "none"
