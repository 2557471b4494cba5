"""A derived gradient against autograd of the text itself, on random problems and within error bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from derivations.derivation import Derivation
from derivations.grammar.from_text import Derived as Derivative
from derivations.grammar.names import ALIASES
from derivations.grammar.statement import Statement, canonical, meanings, uses
from derivations.notation import rows
from derivations.pieces import Piece
from derivations.steps.parameterisation import OUTPUT
from gradcheck.case import Case
from gradcheck.derived.compiled import evaluate
from gradcheck.deriving.numeric import Evaluator, loss_of
from gradcheck.devices import DtypeName
from gradcheck.losses._parameterisation import in_velocities
from gradcheck.problems.building import Spec, complete, draw_given, in_its_variables, more_names
from gradcheck.problems.regimes import ADVANTAGE, POLICY, TIME, PolicyRegime
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff
from gradcheck.rounding.compare import (
    Comparison,
    branch,
    compare_branches,
    gradient_of,
    required_gradients,
    sample_masks,
    with_ties,
)
from gradcheck.rounding.error_scale import error_scale
from gradcheck.tensor_ops import expand

__all__ = ["Checked", "check"]

_SHAPES = ((1, (1,)), (6, (3,)), (8, (3, 5)), (5, (2, 4, 5)), (7, (2, 3, 2, 2)), (9, (7,)))
_CLIPS = (1, 0, 1, 2, 1)  # of problems.CLIP_RANGES: most with two different sides


@dataclass(frozen=True)
class Checked:
    """Random problems in one precision.

    Attributes:
        dtype: ``"float64"`` or ``"float32"``.
        problems: how many were drawn.
        ratio: the largest difference of the two gradients in units of its error bound; up to 4 passes.
        judged: the mean fraction of components on which the precision allows a judgement and the loss is a number.
        skipped: samples left out because they lie on a kink, of which the loss has several.
        failure: the first problem that did not pass, and its figures.
        error: why nothing could be evaluated; empty otherwise.
    """

    dtype: DtypeName
    problems: int
    ratio: float
    judged: float
    skipped: int = 0
    failure: tuple[Spec, Comparison] | None = None
    error: str = ""

    @property
    def holds(self) -> bool:
        """Whether every problem passed, and at least one component in a hundred could be judged."""
        return not self.error and self.ratio <= THRESHOLD and self.judged >= 0.01


def check(
    statement: Statement,
    derived: Derivative,
    dtype: DtypeName,
    problems: int,
    seed: int = 0,
    output: Derivation | None = None,
) -> Checked:
    """Compare the derived gradient and the equivalent loss's with autograd of the text.

    Args:
        statement: the text.
        derived: its derivation in the velocity.
        dtype: of the problems.
        problems: how many.
        seed: of the first one.
        output: the derivation in what the network puts out, where that is no velocity.
    """
    derivation = output or derived.derivation
    text = _Text(statement, derived.derivation, derivation)
    several = len(sample_masks(derivation.raw_gradient)) > 1
    worst, judged, skipped, failure = 0.0, [], 0, None
    try:
        for spec in _specs(problems, seed, POLICY if Piece.RATIO in derivation.pieces else POLICY[:3]):
            case = text.case(spec, getattr(torch, dtype))
            loss = text.loss(case)
            both, open_ = _compare(derivation, case, gradient_of(loss, case.output), loss.isfinite(), several)
            skipped += open_
            judged.append(both[0].judged * float(loss.isfinite().double().mean()))
            comparison = max(both, key=lambda c: c.ratio)
            worst = max(worst, comparison.ratio)
            if not comparison.holds and failure is None:
                failure = spec, comparison
    except (ArithmeticError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        return Checked(dtype, problems, math.inf, 0.0, skipped, failure, f"{type(error).__name__}: {error}")
    return Checked(dtype, problems, worst, sum(judged) / max(len(judged), 1), skipped, failure)


_UNDERFLOWS = 1e-150
"""Below it a derived formula may be 0: where it squares 1 + eᶻ, that overflows from z = 355 on."""


def _compare(
    derivation: Derivation, case: Case, observed: Tensor, finite: Tensor, several: bool
) -> tuple[tuple[Comparison, Comparison], int]:
    """Autograd's gradient against the derived one, and against the equivalent loss's; and the samples left out.

    Of several kinks any may be open on its own: samples on one of them are not judged.  Nor are those of which the
    text's value itself leaves the precision's range: there autograd has nothing to differentiate.

    As :func:`gradcheck.rounding.compare.compare_entry`, but the derived formula may lose digits of its own: nobody
    has chosen its form.
    """
    dtype = case.output.dtype
    coarser = unit_roundoff(torch.float64) / unit_roundoff(dtype)
    exact, equivalent = [], []
    lost = torch.full(finite.shape, _UNDERFLOWS / unit_roundoff(dtype), dtype=torch.float64)
    out = torch.where(finite, lost, torch.inf).reshape(-1, *(1,) * (observed.ndim - 1))
    for other in (False, True):
        gradient, bound, required, pull, undecided = required_gradients(derivation, case, other)
        (own,), _ = error_scale(derivation, case, branch(derivation, other)[1], dtype=torch.float64)
        exact.append((gradient, bound + own * coarser + out))
        equivalent.append((required, bound + pull + out))
        if several:
            exact, equivalent = ([(g, torch.where(undecided, torch.inf, b)) for g, b in x] for x in (exact, equivalent))
        if several or not bool(undecided.any()):
            break
    else:
        exact, equivalent = with_ties(exact), with_ties(equivalent)
    both = (
        compare_branches(observed, exact, undecided, dtype),
        compare_branches(observed, equivalent, undecided, dtype),
    )
    return both, int(undecided.sum()) if several else 0


def _specs(problems: int, seed: int, policies: tuple[PolicyRegime, ...]) -> Iterator[Spec]:
    """Every shape and regime in turn; most problems mix regimes among their samples."""
    for i in range(problems):
        batch, latent = _SHAPES[i % len(_SHAPES)]
        spec = Spec(batch, latent, seed + i, clip=_CLIPS[i % len(_CLIPS)])
        regime = i // len(_SHAPES) % 4
        if regime == 1:
            spec = replace(spec, policy=policies[i % len(policies)])
        elif regime == 2:
            spec = replace(spec, advantage=ADVANTAGE[i % len(ADVANTAGE)], policy="off")
        elif regime == 3:
            spec = replace(spec, time=TIME[i % len(TIME)])
        yield spec


class _Text:
    """The text as an implementation: cases for it, and its loss."""

    def __init__(self, statement: Statement, derivation: Derivation, own: Derivation | None = None) -> None:
        self.statement, self.derivation, self.own = statement, derivation, own or derivation
        names = {*_names(statement), *derivation.given}
        if Piece.RATIO in derivation.pieces:
            names |= {"clip_low", "clip_high"}  # what the ratio is placed against, also where nothing is clipped
        if "dt" in names or "t_prev" in names:
            names |= {"t", "dt"}
        self.names = [q.name for q in rows() if q.name in names]
        self.formulas = {
            symbol.name: _formula(derivation, symbol.name)
            for symbol in derivation.coefficients
            if symbol.name not in statement.own
        }
        self.formulas |= {
            symbol.name: _formula(derivation, symbol.name)
            for symbol in derivation.definitions
            if symbol.name not in statement.own and symbol.name not in meanings(statement.process)
        }

    def case(self, spec: Spec, dtype: torch.dtype) -> Case:
        names = [q.name for q in rows() if q.name in {*self.names, *more_names(self.own)}]
        drawn = in_its_variables(self.own, draw_given(self.derivation, spec, names))
        rounded = {n: x.to(dtype) if isinstance(x, Tensor) else x for n, x in drawn.items()}
        given = {name: rounded[name] for name in self.own.given}
        extra = {name: x for name, x in rounded.items() if name not in given}
        if self.own.defined:
            return complete(self.own, given, extra=extra)
        output = self.own.output.name
        v = given[output]
        assert isinstance(v, Tensor)
        return Case(self.own.label, {**given, **extra, output: v.clone().requires_grad_()})

    def loss(self, case: Case) -> Tensor:
        if self.own is not self.derivation:
            what = next(name for name, output in OUTPUT.items() if output == self.own.output)
            velocities = in_velocities(case, prediction=what, noise_at=1, path=self.own.path)
            held = {
                **{n: getattr(velocities, n) for n in velocities.names},
                **{n: getattr(case, n) for n in case.names},
            }
            case = Case(case.label, held)
        return loss_of(self.statement, self.formulas, case)


def _formula(derivation: Derivation, name: str) -> Callable[[Evaluator], Tensor]:
    """The value of a reverse step's coefficient."""
    symbol = next(s for s in (*derivation.coefficients, *derivation.definitions) if s.name == name)

    def run(evaluator: Evaluator) -> Tensor:
        (value,) = evaluate(derivation, Case(derivation.label, dict(evaluator.values)), symbol)
        return value if value.ndim == 0 or value.shape[1:].numel() > 1 else expand(value.flatten(), evaluator.v)

    return run


def _names(statement: Statement) -> set[str]:
    """The notation's names on which the text rests, whether or not they cancel."""
    own = {canonical(d.name): d.value for d in statement.program.definitions}
    known = {**meanings(statement.process), **own}
    seen: set[str] = set()
    pending = list(uses(statement.program.loss))
    clips = {"eps", "epsilon", "clip_range", "ε"}
    while pending:
        name = pending.pop()
        if name not in own and name not in statement.given:
            if name in clips:
                pending += [] if name in seen else ["clip_low", "clip_high", *(["noise"] if name == "ε" else [])]
                seen.add(name)
                continue
            name = ALIASES.get(name, name)
        if name not in seen:
            seen.add(name)
            pending += uses(known[name]) if name in known else ()
    known_rows = {q.name for q in rows()}
    return {name for name in seen if name in known_rows and name not in known} | {"v_theta"}
