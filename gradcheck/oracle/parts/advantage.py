r"""The advantage estimator, judged alone: :math:`A_i = (R_i - \bar R_g)/(s + \epsilon)`, clamped where declared.

The function is ``function(rewards, group_ids)`` with tensors of shape (N,), and returns the advantages, (N,).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gradcheck.errors import InputError
from gradcheck.oracle.parts._advantage_checks import CHECKS
from gradcheck.oracle.parts._advantage_subject import AdvantageConvention, Subject
from gradcheck.oracle.parts._calls import described, name_of, number_problem, one_of
from gradcheck.oracle.parts._part import Hypothesis, Part, PartInfo, declare
from gradcheck.oracle.parts._precision import rounds
from gradcheck.oracle.results import Judgement

__all__ = ["AdvantageConvention", "advantage_part", "judge_advantage"]

_REFERENCE = "derivations/identities.py, group-advantage; Shao et al., DeepSeekMath, arXiv:2402.03300"


def judge_advantage(function: Callable[[Tensor, Tensor], Tensor], **declared: Any) -> Judgement:
    """Judge an advantage estimator; the conventions are those of :class:`AdvantageConvention`, by keyword.

    ``seed`` and ``expected_failures`` (obligation id → reason) are keywords too.

    Raises:
        InputError: an unknown convention or a value out of its domain; all mistakes are listed.
        AdapterError: the function raises.
    """
    return declare(advantage_part, function, declared).judge()


def advantage_part(
    function: Callable[[Tensor, Tensor], Tensor],
    *,
    std: str = "group",
    unbiased: bool = False,
    eps: float = 1e-4,
    clamp: float | None = None,
    layout: str = "any",
    smallest_group: int = 1,
    working_dtype: str | None = None,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
) -> Part[Subject]:
    """A part and its declaration, checked and not yet called; arguments as :func:`judge_advantage`'s."""
    problems = [
        *one_of("std", std, "group", "global", "none"),
        *one_of("unbiased", unbiased, False, True),
        *one_of("layout", layout, "any", "contiguous"),
        *one_of("smallest_group", smallest_group, 1, 2),
        *one_of("working_dtype", working_dtype, None, "float64", "float32"),
        *number_problem("eps", eps, 0, 1),
        *([] if clamp is None else number_problem("clamp", clamp, 0, 1e6, open_low=True)),
    ]
    if problems:
        raise InputError(*problems)
    convention = AdvantageConvention(std, unbiased, eps, clamp, layout, working_dtype, smallest_group)
    subject = Subject(function, name_of(function), convention, seed)
    info = PartInfo(
        subject.name, described(convention), _REFERENCE, seed, working_dtype or "float64", expected_failures or {}
    )
    return Part(subject, CHECKS, _hypotheses, info)


def _hypotheses(subject: Subject) -> Iterator[Hypothesis[Subject]]:
    c = subject.convention
    alternatives: dict[str, tuple[Any, ...]] = {
        "std": ("group", "global", "none"),
        "unbiased": (False, True),
        "eps": (0.0, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3),
        "clamp": (None, 1.0, 5.0, 10.0),
    }
    for name, allowed in alternatives.items():
        for value in allowed:
            if value != getattr(c, name):
                text = f"{name}={value!r}"
                other = replace(subject, convention=replace(c, **{name: value}))
                yield Hypothesis(f"convention:{name}", f"the estimator behaves as {text} says", other, text)
    if subject.dtype == torch.float64:
        single = replace(subject, convention=replace(c, working_dtype="float32"))
        text = "working_dtype='float32'"
        cause = f"the estimator behaves as {text} says"
        controls = tuple(replace(single, mistake=name) for name in _MISTAKES)
        yield Hypothesis("convention:working_dtype", cause, single, text, controls, lambda: rounds(subject.outputs))
    # two conventions at once, as public implementations combine them
    for unbiased, eps in ((True, 1e-8), (False, 1e-8), (True, 1e-4)):
        text = f"unbiased={unbiased!r}, eps={eps!r}"
        both = replace(c, unbiased=unbiased, eps=eps)
        if unbiased != c.unbiased and eps != c.eps:
            yield Hypothesis(
                "convention:eps", f"the estimator behaves as {text} says", replace(subject, convention=both), text
            )
    for name, sentence in _MISTAKES.items():
        yield Hypothesis(name, sentence, replace(subject, mistake=name))


_MISTAKES = {
    "variance": "the rewards are divided by the variance; the standard deviation belongs there",
    "mean-global": "the mean of all rewards is subtracted; each group's own belongs there",
    "wrong-axis": "mean and standard deviation are taken across the groups instead of within each",
    "eps-in-root": "ε is added to the variance, under the root; it is declared to be added to the standard deviation",
    "eps-floor": "the standard deviation is clamped to at least ε; ε is declared to be added to it",
    "mean-missing": "no mean is subtracted",
    "sign": "the sign is reversed: mean − reward",
    "std-of-centred": "the standard deviation is that of all centred rewards",
}
