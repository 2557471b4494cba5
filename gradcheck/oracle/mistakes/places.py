r"""A loss as a table of places: what stands where, so that a mistake can change one of them and leave the others.

A derivation writes C2 wherever a standard deviation stands; trainers compute it anew at each place, and get one of
them wrong.  So each place has a symbol of its own here: the deviation in the log-probability, in the ratio's scale, in
its bias, in a divergence, in the KL term; the times in the step's mean and in its deviation; the score's coefficient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from weakref import WeakKeyDictionary

import sympy as sp

from derivations import notation as n
from derivations.calculus import Norm2, VectorSymbol
from derivations.derivation import Change, Derivation, inline
from derivations.pieces import Piece, surrogates_in
from derivations.steps.sde import step_with
from gradcheck.oracle.mistakes.functions import Right

__all__ = ["Place", "Stated", "carried", "reached_by", "stated", "symbols_of"]


class Place(sp.Symbol):
    """A place in a loss: a scalar per sample, where the right loss has what the table says."""

    def __new__(cls, name: str) -> Place:
        place: Place = super().__new__(cls, f"place:{name}", positive=True)
        return place


STD = Place("std of the log-probability")
NORMALISER_STD = Place("std of the normaliser")
SCALE = Place("scale of the log-ratio")
BIAS_STD = Place("std of the bias")
DIVERGENCE_STD = Place("std of the divergence")
KL_STD = Place("std of the KL term")
OVER = Place("step length under the policy term")
SCORE = Place("coefficient of the score")
DRIFT_SIGMA = Place("sigma of the drift")
MEAN_T, SIGMA_T = Place("time of the mean"), Place("time of sigma")
MEAN_DT, STD_DT = Place("step length of the mean"), Place("step length of the std")
STEP_T, STEP_DT = Place("time of the step"), Place("step length of the step")
ETA = Place("noise level of sigma")
BIAS = sp.Symbol("place:bias", real=True)
LOSS, POLICY = sp.Symbol("place:loss", real=True), sp.Symbol("place:policy term", real=True)
SURROGATE = sp.Symbol("place:surrogate", real=True)
KL = sp.Symbol("place:KL term", real=True)
MEAN_BEHIND = VectorSymbol("place:behaviour mean of a distance")
STATE = VectorSymbol("place:state of the log-probability")
EXPONENTIAL, WEIGHT = Place("exponentiated reward or advantage"), Place("weight")
SHARE_PLUS, SHARE_MINUS = Place("share of the positive branch"), Place("share of the negative branch")
WHERE = {
    STD: "the log-probability",
    SCALE: "what multiplies the log-ratio",
    BIAS_STD: "the ratio's bias",
    DIVERGENCE_STD: "the divergence",
    KL_STD: "the KL term",
}
"""The places of the step's standard deviation, as a cause words them."""


@dataclass(frozen=True, eq=False)
class Stated:
    """A loss with what its symbols stand for.

    Attributes:
        loss: in the symbols of the table.
        table: the formula behind each symbol that has one; a symbol without one is read from the case.
        deviations: the places where a standard deviation stands.
    """

    loss: sp.Expr
    table: Mapping[sp.Symbol, sp.Expr]
    deviations: tuple[Place, ...] = ()
    _reach: dict[frozenset[sp.Symbol], frozenset[sp.Symbol]] = field(default_factory=dict)

    def reach(self, changed: frozenset[sp.Symbol]) -> frozenset[sp.Symbol]:
        """The changed symbols, and those whose formulas they enter."""
        known = self._reach.get(changed)
        if known is None:
            known = self._reach[changed] = frozenset(reached_by(self.table, changed))
        return known

    def inlined(self, edits: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
        """The loss with some places changed, in the symbols of a case alone."""
        right: dict[sp.Expr, sp.Expr] = {}
        for formula in edits.values():
            for node in sp.sympify(formula).atoms(Right):
                right[node] = sp.Dummy()
        hidden = {s: sp.sympify(e).xreplace(right) for s, e in edits.items()}
        loss = inline(self.loss, {**self.table, **hidden})
        return loss.xreplace({dummy: self.value(node.args[0]) for node, dummy in right.items()})

    def value(self, symbol: sp.Symbol) -> sp.Expr:
        """What a symbol is in the right loss, in the symbols of a case."""
        return inline(symbol, self.table)


@lru_cache(maxsize=20_000)
def symbols_of(expr: sp.Expr) -> frozenset[sp.Symbol]:
    """The symbols of an expression, remembered."""
    return frozenset(expr.free_symbols)


def reached_by(table: Mapping[sp.Symbol, sp.Expr], changed: frozenset[sp.Symbol]) -> set[sp.Symbol]:
    """The changed symbols, and those whose formulas they enter."""
    reached = set(changed)
    while True:
        more = {s for s, e in table.items() if s not in reached and not reached.isdisjoint(symbols_of(e))}
        if not more:
            return reached
        reached |= more


_KNOWN: WeakKeyDictionary[Derivation, Stated] = WeakKeyDictionary()


def stated(d: Derivation) -> Stated:
    """The places of a derivation's loss: one object while the derivation lives, by which its mistakes are known."""
    if d not in _KNOWN:
        _KNOWN[d] = _stated(d)
    return _KNOWN[d]


def _stated(d: Derivation) -> Stated:
    if d.change is not None:
        return _carried_over(stated(d.change.origin), d.change)
    table: dict[sp.Symbol, sp.Expr] = {**d.coefficients, **d.definitions}
    table.pop(n.x_prev, None)  # the sampled state is an input: a wrong step does not change it
    policy = d.loss.xreplace({n.kl_weight: sp.S.Zero})
    kl = sp.expand(d.loss - policy) if Piece.REFERENCE in d.pieces else sp.S.Zero
    deviations: list[Place] = []
    if {n.mean_theta, n.mean_old} <= table.keys():
        _log_probabilities(table, deviations)
        kl = _kl(table, deviations, kl)
        policy = _policy(table, deviations, policy)
        _step(d, table)
    policy = _shares(table, _weight(table, policy))
    surrogates = surrogates_in(policy)
    if len(surrogates) == 1:
        (surrogate,) = surrogates
        table[SURROGATE] = surrogate
        policy = policy.xreplace({surrogate: SURROGATE})
    table[LOSS], table[POLICY] = POLICY, policy
    if kl != 0:
        table[KL], table[LOSS] = kl, POLICY + KL
    return Stated(LOSS, table, tuple(deviations))


def _log_probabilities(table: dict[sp.Symbol, sp.Expr], deviations: list[Place]) -> None:
    if {n.log_prob_theta, n.log_prob_old} <= table.keys():
        table[STD], table[NORMALISER_STD], table[STATE] = n.C2, STD, n.x_prev
        deviations.append(STD)
    for log_prob in (n.log_prob_theta, n.log_prob_old) if STD in table else ():
        formula = table[log_prob]
        normaliser = formula.replace(Norm2, lambda x: sp.S.Zero)
        table[log_prob] = (formula - normaliser).xreplace({n.C2: STD, n.x_prev: STATE}) + normaliser.xreplace(
            {n.C2: NORMALISER_STD}
        )
    plain = n.log_prob_theta - n.log_prob_old
    if table.get(n.log_ratio, plain) != plain and plain.free_symbols <= table.keys():
        bias = sp.expand(table[n.log_ratio] / n.C2 - plain).xreplace({n.mean_old: MEAN_BEHIND})
        table[MEAN_BEHIND] = n.mean_old
        table[SCALE], table[BIAS_STD], table[BIAS] = n.C2, n.C2, bias.xreplace({n.C2: BIAS_STD})
        table[n.log_ratio] = SCALE * (plain + BIAS)
        deviations += [SCALE, BIAS_STD]
    if n.divergence in table:
        table[DIVERGENCE_STD], table[MEAN_BEHIND] = n.C2, n.mean_old
        table[n.divergence] = table[n.divergence].xreplace({n.C2: DIVERGENCE_STD, n.mean_old: MEAN_BEHIND})
        deviations.append(DIVERGENCE_STD)


def _kl(table: dict[sp.Symbol, sp.Expr], deviations: list[Place], kl: sp.Expr) -> sp.Expr:
    for own in (n.C2, n.sigma_t):
        if kl.has(own):
            table[KL_STD] = own
            deviations.append(KL_STD)
            return kl.xreplace({own: KL_STD})
    return kl


def _policy(table: dict[sp.Symbol, sp.Expr], deviations: list[Place], policy: sp.Expr) -> sp.Expr:
    if SCALE in table and policy.has(n.dt):
        table[OVER] = n.dt
        return policy.xreplace({n.dt: OVER})
    return policy


def _weight(table: dict[sp.Symbol, sp.Expr], policy: sp.Expr) -> sp.Expr:
    """What a loss is weighted by: a signal over a temperature, exponentiated, and at most w_max."""
    signal = n.reward if policy.has(n.reward) else n.advantage
    exponential = sp.exp(signal / n.temperature)
    if not policy.has(exponential):
        return policy
    table[EXPONENTIAL], policy = exponential, policy.xreplace({exponential: EXPONENTIAL})
    for clipped in policy.atoms(sp.Min):
        if clipped == sp.Min(EXPONENTIAL, n.weight_max):
            table[WEIGHT], policy = clipped, policy.xreplace({clipped: WEIGHT})
    return policy


def _shares(table: dict[sp.Symbol, sp.Expr], policy: sp.Expr) -> sp.Expr:
    """The two branches' shares, r and 1 − r, of a loss that is linear in r."""
    r = n.reward_prob
    if r not in policy.free_symbols:
        return policy
    plus, minus = policy.xreplace({r: sp.S.One}), policy.xreplace({r: sp.S.Zero})
    if sp.expand(policy - r * plus - (1 - r) * minus) != 0:
        return policy
    table[SHARE_PLUS], table[SHARE_MINUS] = r, 1 - r
    return SHARE_PLUS * plus + SHARE_MINUS * minus


def _step(d: Derivation, table: dict[sp.Symbol, sp.Expr]) -> None:
    """The times and the score in a step of the form μ = x − (v + s (x + (1 − t) v)) Δt with std σ √Δt."""
    step = step_with(d.coefficients)
    if step is None or step.name not in ("flow", "dance", "wan"):
        return
    sigma = d.coefficients[n.sigma_t]
    table |= {
        STEP_T: n.t,
        STEP_DT: n.dt,
        MEAN_T: STEP_T,
        SIGMA_T: STEP_T,
        MEAN_DT: STEP_DT,
        STD_DT: STEP_DT,
        ETA: n.noise_level,
        DRIFT_SIGMA: n.sigma_t,
        n.sigma_t: sigma.xreplace({n.t: SIGMA_T, n.noise_level: ETA}),
        SCORE: DRIFT_SIGMA**2 / (2 * MEAN_T),
        n.C1: MEAN_DT * (1 + (1 - MEAN_T) * SCORE),
        n.mean_offset: n.x_t * (1 - SCORE * MEAN_DT),
        n.C2: n.sigma_t * sp.sqrt(STD_DT),
    }


def carried(expr: sp.Expr, change: Change) -> sp.Expr:
    """An expression in the variables before a change, in those after it; what has a formula keeps its symbol."""
    return sp.sympify(expr).xreplace({s: e for s, e in change.renamed.items() if s not in _defined(change)})


def _defined(change: Change) -> Mapping[sp.Symbol, sp.Expr]:
    return stated(change.origin).table


def _carried_over(before: Stated, change: Change) -> Stated:
    """The same places in other variables."""
    table = {s: carried(e, change) for s, e in before.table.items()}
    made = {s: e for s, e in change.made.items() if s not in table}
    return Stated(carried(before.loss, change), {**table, **made}, before.deviations)
