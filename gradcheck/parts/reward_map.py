r"""The map from advantage to optimality probability, judged alone: :math:`r = \mathrm{clip}(A, \pm c)/(2c) + 1/2`.

The function takes advantages, (N,), and returns r, (N,).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from gradcheck.devices import DtypeName
from gradcheck.errors import InputError
from gradcheck.judging.adapter import AdapterError
from gradcheck.judging.check import Check, Hypothesis, Info, Wrong
from gradcheck.judging.engine import Declared
from gradcheck.judging.results import Judgement, Outcome
from gradcheck.parts._calls import (
    CHANGES,
    calling,
    compared,
    described,
    half_precision,
    name_of,
    number_problem,
    one_of,
    repeated,
    tensor_result,
    unchanged,
    working,
)
from gradcheck.parts._declaring import declare
from gradcheck.parts._precision import rounds
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff
from gradcheck.rounding.compare import compare

__all__ = ["RewardMapConvention", "judge_reward_map", "reward_map_part"]

Mode = Literal["all", "positive_only", "negative_only", "one_only", "binary"]
_MODES: dict[Mode, Callable[[Tensor], Tensor]] = {
    "all": lambda a: a,
    "positive_only": lambda a: a.clamp(min=0),
    "negative_only": lambda a: a.clamp(max=0),
    "one_only": lambda a: (a > 0).to(a),
    "binary": torch.sign,
}
_REFERENCE = "derivations/identities.py, reward-probability; Zheng et al., DiffusionNFT, arXiv:2509.16117"


@dataclass(frozen=True)
class RewardMapConvention:
    """What the map declares about itself.

    Attributes:
        clip: c, where the advantage is clipped (default 5).
        mode: what is done to the advantage first: ``"all"`` (default, nothing), ``"positive_only"``,
            ``"negative_only"``, ``"one_only"`` (1 where it is positive, else 0) or ``"binary"`` (its sign).
        working_dtype: the precision that it works in; ``None``: float64.
    """

    clip: float = 5.0
    mode: Mode = "all"
    working_dtype: DtypeName | None = None


@dataclass(frozen=True)
class Subject:
    """A function, and the requirement that it is compared with."""

    function: Callable[[Tensor], Tensor]
    name: str
    convention: RewardMapConvention
    seed: int
    mistake: str = ""

    def call(self, advantage: Tensor, elsewhere: int = 0) -> Tensor:
        given = advantage.clone()
        with calling(self.name, self.seed, elsewhere):
            found = self.function(given)
            unchanged({"advantage": advantage}, {"advantage": given})
            return tensor_result(found, tuple(advantage.shape), "r").detach().to(torch.float64)

    def outputs(self, h: float) -> list[Tensor]:
        """r of some advantages away from the kinks, scaled by 1 + h."""
        drawn = torch.linspace(-0.9, 0.9, 16, dtype=torch.float64)
        return [self.call(self.convention.clip * drawn * (1 + h))]

    def advantages(self) -> Tensor:
        """From −4c to 4c, the kinks on either side, and 0, sorted."""
        c = self.convention.clip
        g = torch.Generator().manual_seed(self.seed)
        drawn = 8 * torch.rand(200, generator=g, dtype=torch.float64) - 4
        inside = 2 * torch.rand(50, generator=g, dtype=torch.float64) - 1
        special = torch.tensor([-1e6, -1.001, -1.0, -0.999, -1e-6, 0.0, 1e-6, 0.999, 1.0, 1.001, 1e6])
        return (c * torch.cat([drawn, inside, special])).sort().values.to(working(self.convention.working_dtype))

    def required(self, advantage: Tensor) -> Tensor:
        c = self.convention.clip
        a = _MODES[self.convention.mode](advantage.to(torch.float64))
        clipped = a.clamp(-c, c)
        forms = {
            "unclipped": a / c / 2 + 0.5,
            "reversed": 0.5 - clipped / c / 2,
            "advantage": a,
            "clipped-advantage": clipped,
            "not-halved": clipped / c,
            "half-missing": clipped / c / 2,
            "not-divided": clipped / 2 + 0.5,
            "sigmoid": torch.sigmoid(a),
            "map-not-halved": (a / c + 0.5).clamp(0, 1),
            "absolute": advantage.to(torch.float64).abs().clamp(max=c) / c / 2 + 0.5,
            "negative-cut": (a / c / 2 + 0.5).clamp(min=0),
            "lower-uncut": (a / c / 2 + 0.5).clamp(max=1),
            "positive-share": clipped.clamp(min=0) / c,
            "parentheses": (clipped / c + 0.5) / 2,
            "one-added": clipped / c + 1,
            "clipped-after": (a / c).clamp(-c, c) / 2 + 0.5,
            "tanh": torch.tanh(a / c) / 2 + 0.5,
            "sigmoid-scaled": torch.sigmoid(a / c),
            "normal-cdf": torch.special.ndtr(a),
            "min-max": (a - a.min()) / (a.max() - a.min()).clamp(min=1e-300),
            "step": (a > 0).to(a),
            "step-at-zero": (a >= 0).to(a),
        }
        return forms.get(self.mistake, clipped / c / 2 + 0.5)


def judge_reward_map(function: Callable[[Tensor], Tensor], **declared: Any) -> Judgement:
    """Judge the map; the conventions are those of :class:`RewardMapConvention`, by keyword.

    ``seed`` and ``expected_failures`` (obligation id → reason) are keywords too.

    Raises:
        InputError: an unknown convention or a value out of its domain; all mistakes are listed.
        AdapterError: the function raises.
    """
    return declare(reward_map_part, function, declared).judge()


def reward_map_part(
    function: Callable[[Tensor], Tensor],
    *,
    clip: float = 5.0,
    mode: Mode = "all",
    working_dtype: DtypeName | None = None,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
) -> Declared[Subject]:
    """A part and its declaration, checked and not yet called; arguments as :func:`judge_reward_map`'s."""
    problems = [
        *number_problem("clip", clip, 0, 1e6, open_low=True),
        *one_of("mode", mode, *_MODES),
        *one_of("working_dtype", working_dtype, None, "float64", "float32", "bfloat16"),
    ]
    if problems:
        raise InputError(*problems)
    convention = RewardMapConvention(clip, mode, working_dtype)
    subject = Subject(function, name_of(function), convention, seed)
    dtype = working_dtype or "float64"
    info = Info(subject.name, described(convention), _REFERENCE, seed, dtype, expected_failures or {})
    return Declared(subject, CHECKS, _hypotheses, info)


def _scale(required: Tensor) -> Tensor:
    """Three operations, on numbers of r's size and of ½."""
    return 3 * (required.abs() + 0.5)


def _slack(required: Tensor, dtype: torch.dtype) -> Tensor:
    """How far right code's r may be from the required one."""
    return THRESHOLD * unit_roundoff(dtype) * _scale(required)


def _on(subject: Subject, advantage: Tensor) -> Outcome:
    required = subject.required(advantage)
    return compared([compare(subject.call(advantage), required, _scale(required), advantage.dtype)])


def check_values(subject: Subject) -> Outcome:
    return _on(subject, subject.advantages())


def check_range(subject: Subject) -> Outcome:
    a = subject.advantages()
    r, slack = subject.call(a).to(torch.float64), _slack(subject.required(a).clamp(0, 1), a.dtype)
    if not bool(((r >= -slack) & (r <= 1 + slack)).all()):
        raise Wrong(f"r reaches from {float(r.min()):.6g} to {float(r.max()):.6g}; [0, 1] is required")
    return Outcome("passed", 1)


def check_ends(subject: Subject) -> Outcome:
    c = subject.convention.clip
    return _on(
        subject,
        torch.tensor([-1e3 * c, -c, -0.9 * c, 0.9 * c, c, 1e3 * c], dtype=working(subject.convention.working_dtype)),
    )


def check_monotone(subject: Subject) -> Outcome:
    a = subject.advantages()
    slack = _slack(subject.required(a), a.dtype)
    falls = subject.call(a).to(torch.float64).diff() < -(slack[1:] + slack[:-1])
    if bool(falls.any()):
        i = int(falls.nonzero()[0])
        raise Wrong(f"r falls between the advantages {float(a[i]):.6g} and {float(a[i + 1]):.6g}")
    return Outcome("passed", 1)


def check_sign(subject: Subject) -> Outcome:
    a = subject.advantages()
    observed, required = subject.call(a), subject.required(a)
    clear = (required - 0.5).abs() > _slack(required, a.dtype)
    wrong = (torch.sign(observed - 0.5) != torch.sign(required - 0.5)) & clear
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        raise Wrong(f"an advantage of {float(a[i]):.6g} gives r = {float(observed[i]):.6g}, on the wrong side of ½")
    return _on(subject, torch.zeros(1, dtype=a.dtype))


CHECKS: tuple[Check[Subject], ...] = (
    Check(
        "values",
        "r is the declared map of the advantage",
        "another clip, a missing ½, a sigmoid",
        check_values,
        direct=lambda s: half_precision(s.call(s.advantages())),
        whole=True,
    ),
    Check("range", "r lies in [0, 1]", "a clip that is missing or one-sided, the advantage for r", check_range),
    Check("ends", "r is 0 up to −c and 1 from c on, and not before", "a clip at another place", check_ends),
    Check("monotone", "a better advantage never has a smaller r", "a reversed map, a wrapped one", check_monotone),
    Check(
        "sign",
        "r is ½ at A = 0, above it for A > 0 and below for A < 0",
        "r and 1 − r exchanged, a missing ½",
        check_sign,
    ),
    Check(
        "determinism",
        "two calls give the same bits",
        "a random number, a state that a call leaves behind",
        lambda s: repeated(lambda i, k: s.call(s.advantages(), k), "values of r"),
        direct=lambda s: CHANGES,
    ),
)
"""In reading order."""


def _seen_clip(subject: Subject) -> Iterator[float]:
    """The clip of a map that is linear up to it, from what one small advantage gets."""
    small = torch.full((1,), 1e-3 * subject.convention.clip, dtype=working(subject.convention.working_dtype))
    try:
        above = float(subject.call(small)) - 0.5
    except (Wrong, AdapterError):
        return
    if above > 0 and 2 * (seen := float(f"{float(small) / above / 2:.6g}")) != subject.convention.clip:
        yield seen  # half of c is a mistake of its own


def _hypotheses(subject: Subject) -> Iterator[Hypothesis[Subject]]:
    c = subject.convention
    alternatives: dict[str, tuple[Any, ...]] = {
        "clip": tuple(dict.fromkeys((1.0, 2.0, 3.0, 5.0, 10.0, *_seen_clip(subject)))),
        "mode": tuple(_MODES),
    }
    for name, allowed in alternatives.items():
        for value in allowed:
            if value != getattr(c, name):
                text = f"{name}={value!r}"
                other = replace(subject, convention=replace(c, **{name: value}))
                yield Hypothesis(f"convention:{name}", f"the map behaves as {text} says", other, text)
    if working(c.working_dtype) == torch.float64:
        single = replace(subject, convention=replace(c, working_dtype="float32"))
        text = "working_dtype='float32'"
        controls = tuple(replace(single, mistake=name) for name in _MISTAKES)
        cause = f"the map behaves as {text} says"
        yield Hypothesis("convention:working_dtype", cause, single, text, controls, lambda: rounds(subject.outputs))
    for name, sentence in _MISTAKES.items():
        yield Hypothesis(name, sentence, replace(subject, mistake=name))


_MISTAKES = {
    "unclipped": "the advantage is not clipped",
    "reversed": "r and 1 − r are exchanged",
    "advantage": "the advantage itself is returned",
    "clipped-advantage": "the clipped advantage is returned, not mapped",
    "not-halved": "the clipped advantage is divided by c alone: a map to [−1, 1]",
    "map-not-halved": "the clipped advantage over c is not halved: r is clipped at ±c/2 already",
    "absolute": "the advantage's sign is lost",
    "half-missing": "½ is not added: a map to [−½, ½]",
    "not-divided": "the clipped advantage is not divided by c",
    "sigmoid": "r is the advantage's sigmoid",
    "negative-cut": "r is cut at 0 only",
    "lower-uncut": "r is cut at 1 only",
    "positive-share": "a negative advantage gives 0, and 0 does: ½ belongs to an advantage of 0",
    "parentheses": "½ is added before the division by 2: parentheses are wrong",
    "one-added": "the clipped advantage over c is not halved, and 1 is added: a map to [0, 2]",
    "clipped-after": "the advantage is divided by c before it is clipped at ±c: it is clipped at ±c²",
    "tanh": "r is (1 + tanh(A/c))/2: it must be linear up to ±c",
    "sigmoid-scaled": "r is the sigmoid of A/c: it must be linear up to ±c",
    "normal-cdf": "r is the normal distribution function of the advantage",
    "min-max": "the advantages are scaled to [0, 1] by the batch's smallest and largest",
    "step": "r is 1 where the advantage is positive and 0 elsewhere, or is rounded to them",
    "step-at-zero": "r is 1 where the advantage is not negative, else 0",
}
