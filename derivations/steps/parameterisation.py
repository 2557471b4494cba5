r"""Other variables for the same loss: networks that predict noise or data, and time that runs the other way.

Each prediction is affine in every other one (:mod:`derivations.steps.paths`).  Under :math:`v = a + f u` a loss's
gradient is multiplied by f, its weight by f², and its target becomes the u that belongs to the velocity's target.
:func:`under` makes the derivation in the new variables; that derivation's own general steps prove it, and nothing is
taken from the old one on trust.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, get_args

import sympy as sp

from derivations.algebra.vectors import maximal
from derivations.calculus import Dot, Each, MeanAbs, Norm2, Total, VectorSymbol, components, sg
from derivations.claims import Equal
from derivations.derivation import Change, Derivation, DerivationError, Step, inline, inside_unit
from derivations.directions import directions, grouped, tidy, time_left, turned
from derivations.notation import (
    Delta,
    delta,
    dt,
    noise,
    noise_old,
    noise_ref,
    noise_theta,
    t,
    t_prev,
    v_gt,
    v_old,
    v_ref,
    v_theta,
    x_0,
    x_0_old,
    x_0_ref,
    x_0_theta,
    x_t,
)
from derivations.steps.paths import PREDICTIONS, Prediction, path_of

__all__ = [
    "ERROR_SPACES",
    "OUTPUT",
    "PREDICTIONS",
    "ChangeOfVariables",
    "ErrorSpace",
    "Prediction",
    "changed",
    "measured_in",
    "predicting",
    "reversing_time",
    "under",
]

ErrorSpace = Literal["velocity", "output"]
"""Where a regression error is measured: between velocities, or between what the network puts out and the truth."""

ERROR_SPACES: tuple[ErrorSpace, ...] = get_args(ErrorSpace)
"""Both."""

_OWN: dict[Prediction, dict[VectorSymbol, VectorSymbol]] = {
    "epsilon": {v_theta: noise_theta, v_old: noise_old, v_ref: noise_ref, v_gt: noise},
    "x0": {v_theta: x_0_theta, v_old: x_0_old, v_ref: x_0_ref, v_gt: x_0},
}
"""Velocity → what belongs to it in another prediction."""

OUTPUT: dict[Prediction, VectorSymbol] = {"v": v_theta, **{what: own[v_theta] for what, own in _OWN.items()}}
"""What a network puts out, by what it predicts."""


@dataclass(frozen=True)
class ChangeOfVariables:
    """An affine change of the network's output, v = offset + factor·u, and of the numbers beside it.

    Attributes:
        name: in labels.
        words: what it is, in a sentence.
        output: the new variable of differentiation.
        factor: ∂v/∂u.
        offset: the velocity at u = 0.
        images: vector → what stands in its place: the u that belongs to a velocity.  Where it is the same name, the
            new quantity bears the old one's name, and takes its place in every formula.
        definitions: formulas that the new variables bring with them.
        renamed: further symbols whose meaning changes, with their old meaning in the new variables.
        conversion: the new variables in the old ones.
        noise_at: the time at which x_t is all noise, afterwards.
        coarse: see :class:`Derivation`.
        steps: what is proved of the change itself.
        within: where the new variables live, if that is not where the old ones did.
    """

    name: str
    words: str
    output: VectorSymbol
    factor: sp.Expr
    offset: sp.Expr
    images: Mapping[VectorSymbol, VectorSymbol]
    definitions: Mapping[sp.Symbol, sp.Expr]
    renamed: Mapping[sp.Symbol, sp.Expr]
    conversion: Mapping[sp.Symbol, sp.Expr]
    noise_at: int
    coarse: Mapping[sp.Symbol, sp.Expr] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    within: Mapping[sp.Symbol, sp.Interval] = field(default_factory=dict)

    def velocity(self, u: sp.Expr) -> sp.Expr:
        return self.offset + self.factor * u

    @property
    def substitution(self) -> dict[sp.Symbol, sp.Expr]:
        """Old meaning of every symbol that keeps its name and changes its meaning."""
        return {**{v: self.velocity(u) for v, u in self.images.items() if u == v}, **self.renamed}

    def rewrite(self, expr: sp.Expr) -> sp.Expr:
        """An expression of the old variables in the new ones."""
        return _turned_norms(sp.sympify(expr).xreplace(self.substitution))

    def define(self, symbol: sp.Symbol, formula: sp.Expr) -> sp.Expr:
        """The formula of a symbol that may have changed its meaning."""
        formula, old = self.rewrite(formula), self.substitution.get(symbol, symbol)
        slope = sp.diff(old, symbol)
        return formula if slope == 1 else sp.expand((formula - old.xreplace({symbol: sp.S.Zero})) / slope)


def under(d: Derivation, change: ChangeOfVariables) -> Derivation:
    """The derivation of the same loss in other variables."""
    f, rewrite = change.factor, change.rewrite
    outputs = set(change.images.values()) - set(change.images)  # what they were before is turned round
    gradient = _pulled(f * rewrite(d.gradient), change)
    target = _pulled((rewrite(d.target) - change.offset) / f, change, point=True)
    brief_gradient = None if d.brief_gradient is None else _pulled(f * rewrite(d.brief_gradient), change)
    brief_target = (
        None if d.brief_target is None else _pulled((rewrite(d.brief_target) - change.offset) / f, change, point=True)
    )
    weight = f**2 * rewrite(d.weight)
    return replace(
        d,
        loss=rewrite(d.loss),
        gradient=gradient,
        weight=weight,
        target=target,
        brief_gradient=brief_gradient,
        brief_target=brief_target,
        definitions={
            **change.definitions,
            **{s: change.define(s, e) for s, e in d.definitions.items() if s not in outputs},
        },
        coefficients={s: change.define(s, e) for s, e in d.coefficients.items()},
        steps=(*change.steps, *_carried(d, change, gradient, weight, target)),
        after=(),
        domain={**{s: rewrite(e) for s, e in d.domain.items()}, **inside_unit(weight)},
        output=change.output,
        noise_at=change.noise_at,
        change=Change(d, change.name, change.conversion, change.substitution, change.definitions),
        coarse={**d.coarse, **change.coarse},
        within={**{s: e.xreplace(change.substitution) for s, e in d.within.items()}, **change.within},
    )


def _carried(
    d: Derivation, change: ChangeOfVariables, gradient: sp.Expr, weight: sp.Expr, target: sp.Expr
) -> tuple[Step, ...]:
    """What becomes of the old derivation's results."""
    f, rewrite = change.factor, change.rewrite
    return (
        Step(
            "carried-gradient",
            "The chain rule: the gradient in the velocity, times ∂velocity/∂output.",
            Equal(gradient, f * rewrite(d.gradient)),
        ),
        Step("carried-weight", "The weight takes the factor twice.", Equal(weight, f**2 * rewrite(d.weight))),
        Step(
            "carried-target",
            "The velocity that belongs to the new target is the velocity's target.",
            Equal(change.velocity(target), rewrite(d.target)),
        ),
    )


# ------------------------------------------------------------------------------------------- the changes


def predicting(d: Derivation, what: Prediction) -> ChangeOfVariables:
    """A network that predicts ``"epsilon"`` or ``"x0"`` in place of the velocity."""
    path, own = path_of(d), _OWN[what]
    forward = d.process == "forward"
    state = {x_t: d.definitions.get(x_t, path.state)} if forward else {}
    used = [v for v in (v_theta, v_old, v_ref) if v.name in d.given]
    images = {v: u for v, u in own.items() if v in used or (forward and v in d.definitions)}
    h = VectorSymbol("h")
    word = {"epsilon": "noise", "x0": "clean latent"}[what]
    steps = [
        Step(
            "output",
            f"The {word} that belongs to the velocity is what the network puts out.",
            Equal(path.prediction(what, v_theta), own[v_theta]),
        ),
        Step(
            "chain-factor",
            "The velocity is affine in the output: moving the output by h moves it by the chain factor times h.",
            Equal(
                path.velocity_from(what, own[v_theta] + h) - path.velocity_from(what, own[v_theta]),
                path.slope(what) * h,
            ),
        ),
    ]
    if v_gt in images:
        steps.append(
            Step(
                "regression-target",
                f"The {word} itself is what the velocity's regression target is there.",
                Equal(path.velocity_from(what, own[v_gt]), v_gt),
            )
        )
    return ChangeOfVariables(
        name=what,
        words=f"the network predicts the {word}",
        output=own[v_theta],
        factor=path.slope(what),
        offset=path.velocity_from(what, sp.S.Zero),
        images=images,
        definitions={**state, **{v: path.velocity_from(what, own[v]) for v in used}},
        renamed={},
        conversion={own[v]: path.prediction(what, v).xreplace(state) for v in used},
        noise_at=d.noise_at,
        steps=tuple(steps),
    )


def reversing_time(d: Derivation) -> ChangeOfVariables:
    """Time that runs from 0 (noise) to 1 (data): t becomes 1 − t, and every velocity its opposite.

    The step's length dt stays positive, so that t_prev = t + dt.
    """
    if d.path != "rectified" or d.noise_at != 1:
        raise DerivationError(f"{d.label}: only the rectified path's time, with its noise at 1, can be reversed")
    images = {v: v for v in (v_theta, v_old, v_ref, v_gt)}
    ends = sp.Interval.open if t_prev in d.within else sp.Interval.Lopen  # some steps do not reach the data
    steps = []
    path = path_of(replace(d, noise_at=0)).state
    if x_t in d.definitions:
        steps.append(Step("state", "The noised latent is all noise at t = 0.", Equal(x_t, path)))
    if v_gt in d.definitions:
        h = sp.Symbol("h", real=True)
        steps.append(
            Step(
                "velocity",
                "Along the straight path from noise to data the velocity is v_gt, at every t.",
                Equal(path.xreplace({t: t + h}) - path, h * v_gt),
            )
        )
    return ChangeOfVariables(
        name="noise_at=0",
        words="time runs from noise at 0 to data at 1",
        output=v_theta,
        factor=sp.S.NegativeOne,
        offset=sp.S.Zero,
        images=images,
        definitions={},
        renamed={t: 1 - t, t_prev: 1 - t_prev, delta: -delta, Delta: -Delta},
        conversion={t: 1 - t, t_prev: 1 - t_prev, **{v: -v for v in (v_theta, v_old, v_ref)}},
        noise_at=0,
        coarse={t: sp.S.One},
        steps=tuple(steps),
        within={dt: sp.Interval.open(0, 1 - t), t_prev: ends(t, 1)},
    )


def measured_in(d: Derivation, what: Prediction) -> Derivation:
    """The same formulas with the noise, or the clean latent, in the velocity's place, and so another loss.

    Trainers of networks that predict noise measure the regression error there, ‖noise_theta − noise‖², which is
    (1 − t)² times the velocity's: every sample counts by its time.

    Raises:
        DerivationError: the loss is no function of the predictions and their regression target alone.
    """
    left = {s: e for s, e in d.definitions.items() if s != v_gt}
    stated = (d.loss, d.gradient, d.weight, d.target)
    needed = set().union(*(inline(e, {**left, **d.coefficients}).free_symbols for e in stated))
    if d.process != "forward" or v_gt not in d.definitions or needed & {x_0, noise, x_t}:
        raise DerivationError(f"{d.label}: only a loss of the predictions and v_gt alone can be measured in the output")
    own = _OWN[what]

    def rename(expr: sp.Expr) -> sp.Expr:
        return sp.sympify(expr).xreplace(own)

    truth, nothing = own[v_gt], {"epsilon": x_0, "x0": noise}[what]
    turned = {x_0: truth, noise: sp.S.Zero} if d.noise_at == 0 else {noise: truth, x_0: sp.S.Zero}
    return replace(
        d,
        loss=rename(d.loss),
        gradient=rename(d.gradient),
        weight=rename(d.weight),
        target=rename(d.target),
        brief_gradient=None if d.brief_gradient is None else rename(d.brief_gradient),
        brief_target=None if d.brief_target is None else rename(d.brief_target),
        definitions={s: rename(e) for s, e in left.items() if not {x_0, noise} & inline(e, left).free_symbols},
        coefficients={s: rename(e) for s, e in d.coefficients.items()},
        steps=(),
        after=(),
        output=own[v_theta],
        change=Change(
            d,
            f"{what} error",
            {truth: v_gt, **{own[v]: v for v in (v_theta, v_old, v_ref) if v.name in d.given}},
            {**{v: u for v, u in own.items() if v != v_gt}, **turned, nothing: turned[nothing]},
            {},
        ),
    )


def changed(
    d: Derivation, prediction: Prediction = "v", noise_at: int = 1, error_space: ErrorSpace = "velocity"
) -> Derivation:
    """A derivation for a network that predicts something else, or whose time runs the other way, or both.

    With ``error_space`` ``"output"`` the loss is not the same one: see :func:`measured_in`.

    Raises:
        DerivationError: there is no such prediction, the time of this path cannot be reversed, or this loss cannot be
            measured in the output.
    """
    if prediction not in PREDICTIONS:
        raise DerivationError(f"prediction must be one of {', '.join(PREDICTIONS)}, but is {prediction!r}")
    if error_space not in ERROR_SPACES:
        raise DerivationError(f"error_space must be one of {', '.join(ERROR_SPACES)}, but is {error_space!r}")
    return _changed(d, prediction, noise_at, error_space)


@lru_cache(maxsize=300)
def _changed(d: Derivation, prediction: Prediction, noise_at: int, error_space: ErrorSpace) -> Derivation:
    if noise_at != d.noise_at:
        d = under(d, reversing_time(d))
    if prediction == "v":
        return d
    return measured_in(d, prediction) if error_space == "output" else under(d, predicting(d, prediction))


# --------------------------------------------------------------------------------------- readable results


def _pulled(expr: sp.Expr, change: ChangeOfVariables, *, point: bool = False) -> sp.Expr:
    """A vector in the new variables: velocities replaced by what they stand for, equal vectors collected.

    A ``point`` is written as the way to it from the output, where it depends on that.
    """
    collected: dict[VectorSymbol, sp.Expr] = {}
    functions: dict[sp.Expr, sp.Expr] = {}
    for v, c in components(expr).items():
        if isinstance(v, Each):  # it is no velocity, but holds them in their own names
            held = functions.setdefault(v, VectorSymbol.dummy("each"))
            collected[held] = collected.get(held, sp.S.Zero) + c
            continue
        u = change.images.get(v, v)
        parts = {v: c} if u == v else {u: change.factor * c, **{s: c * a for s, a in components(change.offset).items()}}
        for s, part in parts.items():
            collected[s] = collected.get(s, sp.S.Zero) + part
    # in the velocities' names, which know how to be grouped; what stands inside a coefficient keeps its own
    names = {u: v for v, u in change.images.items() if u != v}
    inside: dict[sp.Expr, sp.Symbol] = {}
    known = {}
    for s, c in collected.items():
        nodes = maximal(c, (Dot, Norm2, MeanAbs, Total, sg))
        c = c.xreplace({node: inside.setdefault(node, sp.Dummy(f"n{len(inside)}", real=True)) for node in nodes})
        known[names.get(s, s)] = tidy(c)
    own = known.get(v_theta, sp.S.Zero) if point else sp.S.Zero
    if own == 0:
        readable = grouped(directions(known))
    else:  # where it lies from the output
        terms = directions({**known, v_theta: own - 1})
        readable = v_theta + grouped(turned(replace(term, coefficient=-term.coefficient)) for term in terms)
    named = time_left(readable).xreplace({t - 1: sp.Mul(-1, 1 - t, evaluate=False), **{v: u for u, v in names.items()}})
    return named.xreplace({symbol: node for node, symbol in (*inside.items(), *functions.items())})


def _turned_norms(expr: sp.Expr) -> sp.Expr:
    """‖−x‖² is ‖x‖², and is written so."""

    def turn(x: sp.Expr) -> sp.Expr:
        opposite = sp.expand(-x)
        return Norm2(opposite if str(opposite).count("-") < str(x).count("-") else x)

    return expr.replace(Norm2, turn)
