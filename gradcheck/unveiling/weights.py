r"""What the weights of a gradient are made of: a case's numbers that formulas may hold, and what they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.calculus import Norm2
from derivations.derivation import Derivation, Process
from derivations.pieces import Piece
from derivations.steps.sde import StepName
from gradcheck.case import Case
from gradcheck.derived.compiled import evaluate
from gradcheck.reading.xray import B, scalars
from gradcheck.tensor_ops import norm2
from gradcheck.unveiling.universal import Universe, family

__all__ = ["MEANINGS", "SHOWN", "SIZES", "groups", "is_ratio", "numbers", "said"]


def _positive(name: str) -> sp.Symbol:
    return sp.Symbol(name, positive=True)


def _real(name: str) -> sp.Symbol:
    return sp.Symbol(name, real=True)


def _mean(v: sp.Expr) -> sp.Expr:
    return Norm2(v) / n.D


_LEFT, _PATH = _positive("1 − t"), _positive("t² + (1 − t)²")
_LOGIT = _real("logit")
_EXP_REWARD, _FLOORED = _positive("exp_reward"), _positive("floored_error")
_RHO_SUM, _RHO_DIFFERENCE = _positive("rho_sum"), _real("rho_difference")
_ERROR, _ERROR_OLD, _ERROR_REF = _positive("error"), _positive("error_old"), _positive("error_ref")
_GAP_OLD, _GAP_REF = _real("gap_old"), _real("gap_ref")
_TO_OLD, _TO_REF = _positive("to_old"), _positive("to_ref")
_RATIO, _LOG_RATIO = "ratio of ", "log ratio of "

MEANINGS: dict[sp.Symbol, sp.Expr] = {
    _LEFT: 1 - n.t,
    _PATH: n.t**2 + (1 - n.t) ** 2,
    _LOGIT: sp.log(n.t / (1 - n.t)),
    _EXP_REWARD: sp.exp(n.reward / n.temperature),
    _FLOORED: _mean(n.v_theta - n.v_gt) + sp.Rational(1, 10**10),
    _RHO_SUM: n.rho_plus + n.rho_minus,
    _RHO_DIFFERENCE: n.rho_plus - n.rho_minus,
    _ERROR: _mean(n.v_theta - n.v_gt),
    _ERROR_OLD: _mean(n.v_old - n.v_gt),
    _ERROR_REF: _mean(n.v_ref - n.v_gt),
    _GAP_OLD: _mean(n.v_theta - n.v_gt) - _mean(n.v_old - n.v_gt),
    _GAP_REF: _mean(n.v_theta - n.v_gt) - _mean(n.v_ref - n.v_gt),
    _TO_OLD: _mean(n.v_theta - n.v_old),
    _TO_REF: _mean(n.v_theta - n.v_ref),
}
"""Symbol → what it stands for, of numbers that are no quantity of the notation table."""


def numbers(universe: Universe, case: Case) -> dict[sp.Symbol, Tensor]:
    """The scalars of the notation, the ratios of the catalogue, and what else weights are made of, (B,) each."""
    out = {s: x for s, x in scalars(case).items() if s != n.ratio}
    t = case.t
    out |= {_LEFT: 1 - t, _PATH: t**2 + (1 - t) ** 2, _LOGIT: torch.logit(t)}
    v, old, ref = (x.detach() for x in (case.v_theta, case.v_old, case.v_ref))

    def mean(x: Tensor) -> Tensor:
        return norm2(x).flatten() / case.D

    out |= {_TO_OLD: mean(v - old), _TO_REF: mean(v - ref)}
    if universe.process == "forward":
        error, error_old, error_ref = (mean(x - case.v_gt) for x in (v, old, ref))
        out |= {
            n.reward: case.reward,
            _EXP_REWARD: torch.exp(case.reward / case.temperature),
            _RHO_SUM: case.rho_plus + case.rho_minus,
            _RHO_DIFFERENCE: case.rho_plus - case.rho_minus,
            n.rho_plus: case.rho_plus,
            n.rho_minus: case.rho_minus,
            _FLOORED: error + 1e-10,
            _ERROR: error,
            _ERROR_OLD: error_old,
            _ERROR_REF: error_ref,
            _GAP_OLD: error - error_old,
            _GAP_REF: error - error_ref,
        }
    for d in _with_ratio(universe.process, universe.sde):
        ratio, log_ratio = evaluate(d, case, n.ratio, n.log_ratio, dtype=torch.float64)
        out |= {_positive(_RATIO + d.label): ratio.flatten(), _real(_LOG_RATIO + d.label): log_ratio.flatten()}
    return {s: x.detach().to(torch.float64) for s, x in out.items()}


@lru_cache
def _with_ratio(process: Process, sde: StepName | Literal[""]) -> list[Derivation]:
    """Derivations with an importance ratio, one for each way in which it is defined."""
    found: dict[str, Derivation] = {}
    for d in (e.derivation for e in family(process, sde)):
        if Piece.RATIO in d.pieces:
            parts = (n.ratio, n.log_ratio, n.log_prob_theta)
            key = "; ".join([*(str(d.definitions.get(p)) for p in parts), str(d.coefficients.get(n.omega))])
            found.setdefault(key, d)
    return list(found.values())


def is_ratio(symbol: sp.Symbol) -> bool:
    """Whether it is a catalogue entry's importance ratio."""
    return str(symbol.name).startswith(_RATIO)


def groups(every: list[sp.Symbol]) -> Iterator[list[sp.Symbol]]:
    """What a monomial may be made of: the plain scalars, then these with a few of the others."""
    ratios = [s for s in every if is_ratio(s)]
    others = [_EXP_REWARD, _RHO_SUM, _RHO_DIFFERENCE, _FLOORED, _ERROR, _PATH, _TO_OLD, _TO_REF, n.reward]
    special = {*MEANINGS, *ratios, n.reward, n.rho_plus, n.rho_minus}
    plain = [s for s in every if s not in special and not s.name.startswith(_LOG_RATIO)]
    yield plain
    yield from ([*plain, r] for r in ratios)
    yield from ([*plain, _LEFT, s] for s in others if s in every)
    yield from ([*plain, r, s] for r in ratios for s in (_FLOORED,) if s in every)


def said(formula: sp.Expr) -> sp.Expr:
    """A formula in the notation's own symbols."""
    ratios = {
        s: n.ratio if is_ratio(s) else n.log_ratio
        for s in formula.free_symbols
        if s.name.startswith((_RATIO, _LOG_RATIO))
    }
    return formula.xreplace(ratios).xreplace(MEANINGS)


SHOWN = (_ERROR, _ERROR_OLD, _ERROR_REF)
"""What an example of a weight that depends on velocities is told with."""

SIZES = (n.D, B)
"""What only a weight's overall factor holds."""
