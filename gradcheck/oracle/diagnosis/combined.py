r"""Two mistakes at once, a mistake and a factor, or a term too many: tried where no single mistake explains a gradient.

A pair is composed only where the gradients of the two say that it may fit, so that few of the many pairs are tried:
two mistakes that scale a sample multiply what they do, those in two terms add up, and where one of them turns the
gradient, that one alone has the observed direction.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from itertools import combinations, islice, product

import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.calculus import Norm2
from derivations.pieces import Piece
from gradcheck.judging.results import Diagnosis
from gradcheck.oracle.diagnosis.evidence import Evidence, explains, lengths, observe, rows_of
from gradcheck.oracle.diagnosis.named import holds_everywhere, leads
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.mistakes import ALIKE, Mistake, Prediction, mistakes
from gradcheck.oracle.mistakes.functions import Bounded, Right
from gradcheck.oracle.mistakes.places import (
    BIAS,
    BIAS_STD,
    DIVERGENCE_STD,
    KL,
    LOSS,
    OVER,
    SCALE,
    STD,
    SURROGATE,
    Stated,
)
from gradcheck.oracle.required import overall_factor

__all__ = ["extra_term", "scaled_mistake", "two_mistakes"]

_ALIKE = 1e-6
"""Relative distance below which two gradients may be one; what passes is tried exactly."""
_TRIED, _TURNING = 80, 6
"""Pairs that are composed at most, and mistakes that turn the gradient at most, each with all others."""
_EVERY = 1500
"""Pairs that are composed at most where nothing says which may fit."""
_ALONE = ("huber", "coordinates-masked", "fourth-power")
"""Mistakes of many sizes, which are sought alone."""
_AT_LEAST = 2
"""Samples that have to agree before a pair is composed."""


def two_mistakes(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """A pair of named mistakes that predicts every sample together."""
    pool, e = _pool(evidence), _telling(evidence)
    seen: set[tuple[int, int]] = set()
    for first, second in _pairs(judge, e, pool):
        key = (id(first), id(second))
        both = None if key in seen else _together(first, second)
        seen.add(key)
        if both is not None and leads(e, both) and explains(evidence, lambda e, both=both: e.predicted(both)):  # type: ignore[misc]
            if not holds_everywhere(judge, lambda e, both=both: e.predicted(both)):  # type: ignore[misc]
                continue
            a, b = sorted((first, second), key=pool.index)
            return Diagnosis(f"{a.name}+{b.name}", f"two mistakes together: {a.sentence}; and {b.sentence}")
    return None


def _telling(evidence: list[Evidence]) -> Evidence:
    """The problem with the most samples that have a gradient, on a branch that rounding decides."""
    return max(evidence, key=lambda e: int(((lengths(rows_of(e.observed)) > 10 * e.rounding) & ~e.undecided).sum()))


def scaled_mistake(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """A named mistake, and a constant that multiplies the whole gradient."""
    e = _telling(evidence)
    rows = rows_of(e.observed)
    for mistake in _pool(evidence):
        found = rows_of(e.predicted(mistake).gradient)
        c = _factors(rows, found, e)
        slack = 1e-5 + 4 * float(e.loose.max())
        if len(c) < _AT_LEAST or float(c.max() - c.min()) > slack * abs(float(c[0])) or abs(float(c[0]) - 1) < slack:
            continue
        factor = float(f"{float(c.median()):.4g}") if e.equal > 1e-7 else float(c.median())

        def predict(e: Evidence, mistake: Mistake = mistake, factor: float = factor) -> Prediction:
            return e.predicted(mistake).times(factor)

        if factor != 0 and explains(evidence, predict) and holds_everywhere(judge, predict):
            sentence = f"two mistakes together: {mistake.sentence}; and every gradient is {factor:.6g} times that"
            return Diagnosis(f"{mistake.name}+factor", sentence)
    return None


def extra_term(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """The required gradient and that of one more term, times one number."""
    own = evidence[0].trial.stated
    for words, term in _terms(own.table, evidence[0].case.names):
        if not _known(term, own.table, evidence[0].case.names):
            continue  # a loss may define its ratio itself, and hold no log-probability
        found: list[Tensor] = []
        for e in evidence:
            more = e.trial.predict({LOSS: term}).times(overall_factor(e.conventions, e.case)).gradient
            left, size = rows_of(e.observed - e.required), rows_of(more)
            found.append(_factors(left, size, e))
        numbers = torch.cat(found)
        if len(numbers) < 5 or float(numbers.max() - numbers.min()) > 1e-5 * float(numbers.abs().median()):
            continue
        c = float(numbers.median())

        def predict(e: Evidence, term: sp.Expr = term, c: float = c) -> Prediction:
            return e.trial.predict({LOSS: Right(LOSS) + c * term}).times(overall_factor(e.conventions, e.case))

        if abs(c) > 1e-12 and explains(evidence, predict) and holds_everywhere(judge, predict):
            return Diagnosis("term-added", f"a term is added to the loss: {c:.6g} times {words}; the rest is right")
    return None


def _known(term: sp.Expr, table: Mapping[sp.Expr, sp.Expr], names: Collection[str]) -> bool:
    """Whether everything that a term rests on is defined, or in the case."""
    return all(_known(table[x], table, names) if x in table else x.name in {*names, "D"} for x in term.free_symbols)


def _terms(table: object, names: list[str] | tuple[str, ...]) -> Iterator[tuple[str, sp.Expr]]:
    symbols = dict(table)  # type: ignore[call-overload]
    if n.log_ratio in symbols:
        yield "(log r)², towards the behaviour policy", n.log_ratio**2
        yield (
            "r − 1 − log r, an estimate of the KL divergence to the behaviour policy",
            sp.exp(n.log_ratio) - 1 - n.log_ratio,
        )
        yield (
            "1/r − 1 + log r, an estimate of the KL divergence to the behaviour policy",
            sp.exp(-n.log_ratio) - 1 + n.log_ratio,
        )
        yield "log r", n.log_ratio
    if n.mean_theta in symbols:
        yield "‖μ_θ − μ_old‖²/(2 C2²)", Norm2(n.mean_theta - n.mean_old) / (2 * n.C2**2)
        yield "the mean of (μ_θ − μ_old)²/(2 C2²)", Norm2(n.mean_theta - n.mean_old) / (2 * n.C2**2 * n.D)
    for name, other, words in (
        ("v_old", n.v_old, "v_θ − v_old"),
        ("v_ref", n.v_ref, "v_θ − v_ref"),
        ("v_gt", n.v_gt, "v_θ − v_gt"),
    ):
        if name in names:
            yield f"‖{words}‖²", Norm2(n.v_theta - other)
            yield f"the mean of ({words})²", Norm2(n.v_theta - other) / n.D
    yield "‖v_θ‖²", Norm2(n.v_theta)
    yield "the mean of v_θ²", Norm2(n.v_theta) / n.D


def _pool(evidence: list[Evidence]) -> list[Mistake]:
    derivation, own = evidence[0].conventions.derivation, evidence[0].trial.stated
    listed = [m for m in mistakes(derivation) if m.stated is own and not m.generic and m.name not in _ALONE]
    names = {m.name for m in listed}
    again = frozenset().union(*(ALIKE[name] for name in names & ALIKE.keys())) if BIAS not in own.table else frozenset()
    found = [m for m in listed if m.name not in again]
    if Piece.ADVANTAGE in derivation.pieces:
        found += _clamped_advantages(own)
    return found


@lru_cache(maxsize=100)
def _clamped_advantages(own: Stated) -> tuple[Mistake, ...]:
    """Clamps of usual sizes: alone, any size of a clamp is found, and is a declaration."""
    a = n.advantage
    return tuple(
        Mistake(
            "advantage-clamped", f"the advantage is clamped to ±{c}", own, {a: Bounded(Right(a), -c, c)}, listed=True
        )
        for c in (1, 2, 3, 5, 10)
    )


def _together(a: Mistake, b: Mistake) -> Mistake | None:
    """Both at once; ``None`` where they change one place in two ways."""
    if a.name == b.name or any(b.edits[s] != e for s, e in a.edits.items() if s in b.edits):
        return None
    return Mistake(f"{a.name}+{b.name}", "", a.stated, {**a.edits, **b.edits})


def _pairs(judge: Judge, e: Evidence, pool: list[Mistake]) -> Iterator[tuple[Mistake, Mistake]]:
    """Those that may fit together, the likeliest first; of a bounded number."""
    if not pool:
        return
    yield from _likely(e, pool)
    if n.ratio in e.trial.stated.table:
        # where the policies are one the ratio is 1, so that what two mistakes do to a length is multiplied exactly
        on_policy = observe(judge, 1, ("on-policy",), "typical")
        if bool(on_policy.observed.isfinite().all()):
            yield from _likely(on_policy, pool, _EVERY // 5)  # what does nothing there ties
    if len(pool) ** 2 <= 4 * _EVERY:
        yield from combinations(pool, 2)
        return
    inner = [m for m in pool if m.edits.keys() <= {BIAS, n.divergence}]
    places = [m for m in pool if m.edits.keys() <= {SCALE, BIAS_STD, OVER, STD, DIVERGENCE_STD} and m not in inner]
    yield from islice(product(inner, places), _EVERY)
    yield from _with_a_turning_one(e, pool)


def _likely(e: Evidence, pool: list[Mistake], most: int = _TRIED) -> Iterator[tuple[Mistake, Mistake]]:
    """Pairs of which one scales a sample and the other does what is left, or each of which changes another term.

    They are compared where nothing is clipped, since a pair is clipped elsewhere than either of its mistakes is.
    """
    observed, required = rows_of(e.observed), rows_of(e.required)
    open_ = _unclipped(e)
    free = rows_of(_seen(e, open_))
    each = torch.stack([rows_of(_seen(e, {**open_, **m.edits})) for m in pool]).nan_to_num(0.0, 0.0, 0.0)
    scores = torch.zeros(len(pool), len(pool))
    loud = (lengths(observed) > 10 * e.rounding) & ~e.undecided
    shares = (each * free).sum(2) / (free**2).sum(1).clamp(min=1e-300)  # what a mistake makes of a sample's length
    parallel = _close(each, shares[..., None] * free, e).all(1) & (shares.abs() > 1e-9).any(1)
    for i in parallel.nonzero().flatten().tolist():
        usable = loud & (shares[i].abs() > 1e-9)
        if int(usable.sum()) < _AT_LEAST:
            continue
        scale = shares[i].where(usable, torch.ones((), dtype=shares.dtype))
        hit = _close(each, (observed / scale[:, None]).expand_as(each), e) & usable & (each.abs().amax(2) > 0)
        scores[i] = hit.sum(1) / loud.sum()
    if KL in e.trial.stated.table:
        plain = torch.stack([rows_of(e.predicted(m).gradient) for m in pool]).nan_to_num(0.0, 0.0, 0.0)
        for i in range(len(pool)):
            hit = _close(plain, (observed - plain[i] + required).expand_as(plain), e).all(1)
            scores[i] = torch.maximum(scores[i], hit.to(scores))
    flat = torch.maximum(scores, scores.T).triu(1)
    for place in flat.flatten().argsort(descending=True, stable=True)[:most].tolist():
        i, j = divmod(place, len(pool))
        if float(flat[i, j]) * int(loud.sum()) < _AT_LEAST:
            break
        yield pool[i], pool[j]


def _unclipped(e: Evidence) -> dict[sp.Symbol, sp.Expr]:
    """The surrogate without its clip, or the loss without its bound on a divergence, if it has one."""
    table = e.trial.stated.table
    if n.divergence in table:
        return {n.divergence: sp.S.Zero}
    if SURROGATE not in table:
        return {}
    a, r, _, _ = table[SURROGATE].args
    return {SURROGATE: -r * a}


def _seen(e: Evidence, edits: Mapping[sp.Symbol, sp.Expr]) -> Tensor:
    return e.trial.predict(edits).times(overall_factor(e.conventions, e.case)).gradient


def _with_a_turning_one(e: Evidence, pool: list[Mistake]) -> Iterator[tuple[Mistake, Mistake]]:
    """Where the observed direction is not the required one: each mistake that has it, with every other one."""
    observed, free = rows_of(e.observed), rows_of(_seen(e, _unclipped(e)))
    if len(_factors(observed, free, e)):
        return
    open_ = _unclipped(e)
    turned = [m for m in pool if len(_factors(observed, rows_of(_seen(e, {**open_, **m.edits})), e)) >= _AT_LEAST]
    for mistake in turned[:_TURNING]:
        given = _given(mistake)
        yield from ((mistake, other) for other in pool if _given(other) == given or not _given(other))


def _given(mistake: Mistake) -> frozenset[sp.Symbol]:
    """What a mistake's code takes as it was given."""
    return frozenset(s for s, x in mistake.edits.items() if isinstance(x, Right))


def _close(a: Tensor, b: Tensor, e: Evidence) -> Tensor:
    """Which rows of two stacks of gradients may be the same, (…, B)."""
    distance = (a - b).square().sum(-1).sqrt()
    size = torch.maximum(a.square().sum(-1), b.square().sum(-1)).sqrt()
    return distance <= (max(_ALIKE, 4 * e.equal) + e.loose) * size + e.rounding


def _factors(observed: Tensor, predicted: Tensor, e: Evidence) -> Tensor:
    """Observed over predicted where both are there, if all those rows are parallel; else nothing."""
    loud = (lengths(observed) > 10 * e.rounding) & (lengths(predicted) > 10 * e.rounding) & ~e.undecided
    loud = loud & observed.isfinite().all(1) & predicted.isfinite().all(1)
    if not bool(loud.any()):
        return torch.zeros(0, dtype=torch.float64)
    seen, made = observed[loud], predicted[loud]
    size = lengths(made)
    c = ((seen / size[:, None]) * (made / size[:, None])).sum(1)
    left = lengths(seen - c[:, None] * made)
    rest = (max(_ALIKE, 4 * e.equal) + e.loose[loud]) * c.abs() * size + 4 * e.rounding[loud]
    return c if bool((left <= rest).all()) else torch.zeros(0, dtype=torch.float64)
