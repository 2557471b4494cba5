r"""The advantage estimator, judged alone: :math:`A_i = (R_i - \bar R_g)/(s + \epsilon)`, or as it declares.

The function is ``function(rewards, group_ids)`` with tensors of shape (N,), and returns the advantages, (N,).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor

from gradcheck.devices import DtypeName
from gradcheck.errors import InputError
from gradcheck.judging.adapter import AdapterError
from gradcheck.judging.check import Hypothesis, Info, Wrong
from gradcheck.judging.engine import Declared
from gradcheck.judging.results import Judgement
from gradcheck.parts._advantage_checks import CHECKS
from gradcheck.parts._advantage_mistakes import MISTAKES
from gradcheck.parts._advantage_subject import AdvantageConvention, Centre, EpsAt, Layout, Spread, Subject, Then
from gradcheck.parts._calls import described, name_of, number_problem, one_of, whole_problem
from gradcheck.parts._declaring import declare
from gradcheck.parts._precision import rounds

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
    mean: Centre = "group",
    std: Spread = "group",
    unbiased: bool = False,
    eps: float = 1e-4,
    eps_at: EpsAt = "std",
    trim: float = 0.0,
    columns: int = 1,
    then: Then = "nothing",
    clamp: float | None = None,
    layout: Layout = "any",
    smallest_group: int = 1,
    working_dtype: DtypeName | None = None,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
) -> Declared[Subject]:
    """A part and its declaration, checked and not yet called; arguments as :func:`judge_advantage`'s."""
    problems = [
        *one_of("mean", mean, *get_args(Centre)),
        *one_of("std", std, *get_args(Spread)),
        *one_of("unbiased", unbiased, False, True),
        *one_of("eps_at", eps_at, *get_args(EpsAt)),
        *one_of("then", then, *get_args(Then)),
        *one_of("layout", layout, *get_args(Layout)),
        *one_of("smallest_group", smallest_group, 1, 2),
        *one_of("working_dtype", working_dtype, None, "float64", "float32"),
        *number_problem("eps", eps, 0, 1),
        *number_problem("trim", trim, 0, 0.45),
        *whole_problem("columns", columns, 1, 10_000),
        *([] if clamp is None else number_problem("clamp", clamp, 0, 1e6, open_low=True)),
    ]
    if problems:
        raise InputError(*problems)
    convention = AdvantageConvention(
        mean=mean,
        std=std,
        unbiased=unbiased,
        eps=eps,
        eps_at=eps_at,
        trim=trim,
        columns=columns,
        then=then,
        clamp=clamp,
        layout=layout,
        working_dtype=working_dtype,
        smallest_group=smallest_group,
    )
    subject = Subject(function, name_of(function), convention, seed)
    info = Info(
        subject.name, described(convention), _REFERENCE, seed, working_dtype or "float64", expected_failures or {}
    )
    return Declared(subject, CHECKS, _hypotheses, info)


def _hypotheses(subject: Subject) -> Iterator[Hypothesis[Subject]]:
    c = subject.convention
    alternatives: dict[str, tuple[Any, ...]] = {
        "mean": ("group", "global", "others") if c.mean != "group" else ("others",),
        "std": ("group", "global", "none"),
        "unbiased": (False, True),
        "eps": (0.0, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3),
        "then": ("nothing", "batch"),
        "trim": (0.0, 0.1, 0.2, 0.25),
        "clamp": (None, 1.0, 5.0, 10.0),
    }
    for name, number in _numbers_seen(subject):
        alternatives[name] = tuple(dict.fromkeys((*alternatives[name], number)))
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
        controls = tuple(replace(single, mistake=name) for name in MISTAKES)
        yield Hypothesis("convention:working_dtype", cause, single, text, controls, lambda: rounds(subject.outputs))
    for name, sentence, field, value in _OTHER_PLACES:
        if getattr(c, field) != value:
            other = replace(subject, convention=replace(c, **{field: value}))
            yield Hypothesis(name, sentence, other, f"{field}={value!r}")
    for changes in _TOGETHER:
        if sum(getattr(c, name) != value for name, value in changes.items()) > 1:
            text = ", ".join(f"{name}={value!r}" for name, value in changes.items())
            both = replace(subject, convention=replace(c, **changes))
            first = next(iter(changes))
            yield Hypothesis(f"convention:{first}", f"the estimator behaves as {text} says", both, text)
    for name, sentence in MISTAKES.items():
        yield Hypothesis(name, sentence, replace(subject, mistake=name))


def _numbers_seen(subject: Subject) -> Iterator[tuple[str, float]]:
    try:
        seen = subject.numbers_seen()
    except (Wrong, AdapterError):
        return
    yield from ((name, number) for name, number in seen.items() if number > 0)


_OTHER_PLACES: tuple[tuple[str, str, str, Any], ...] = (
    ("mean-global", "the mean of all rewards is subtracted; each group's own is declared", "mean", "global"),
    ("eps-in-root", "ε is added to the variance, under the root, which is not what is declared", "eps_at", "root"),
    ("eps-floor", "the standard deviation is clamped to at least ε, which is not what is declared", "eps_at", "floor"),
    ("eps-added", "ε is added to the standard deviation, which is not what is declared", "eps_at", "std"),
)
"""Conventions that are mistakes as often: name, sentence, keyword and value."""

_TOGETHER: tuple[dict[str, Any], ...] = (
    *({"eps": eps, "unbiased": unbiased} for eps, unbiased in ((1e-8, True), (1e-8, False), (1e-4, True))),
    *({"eps": eps, "eps_at": at} for at in ("floor", "root") for eps in (1e-8, 1e-6, 1e-5)),
    {"mean": "others", "std": "none"},
    {"mean": "group", "std": "group"},
    {"mean": "global", "std": "global"},
    {"mean": "global", "std": "none"},
    {"then": "batch", "eps": 1e-4},
    {"then": "batch", "eps": 1e-6, "eps_at": "floor"},
)
"""Several conventions at once, as public implementations combine them."""
