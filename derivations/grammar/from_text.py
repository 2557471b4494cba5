r"""A derivation of a loss that somebody wrote down: its gradient, weight, target and the steps that prove them.

Two forms are derived.  A loss that is quadratic in the velocity, with a positive weight, is one squared distance to a
target that does not move with v_theta (lemma L3): equal in value up to a constant.  Every other loss has a squared
distance to a detached point with the same gradient (lemma L1); its weight is a choice, made by :func:`_l1_weight`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import sympy as sp

from derivations import calculus
from derivations.algebra.vectors import drop_vector_sg, maximal
from derivations.calculus import ClipMask, Dot, Each, Mask, MeanAbs, Norm2, Total, VectorSymbol, components, sg
from derivations.claims import Approximates, EqualUpToConstant, GradientIs, Inliner, Positive, SameHessian
from derivations.derivation import PREDICTIONS, Derivation, DerivationError, Step, inline, inliner, inside_unit
from derivations.directions import Term, combined, directions, grouped, prettier, tidy, tidy_vectors, times, turned
from derivations.grammar.kinks import is_kink
from derivations.grammar.statement import Statement
from derivations.notation import (
    C1,
    C2,
    D,
    advantage,
    k,
    log_ratio,
    mean_offset,
    noise,
    ratio,
    reward_prob,
    t,
    v_gt,
    v_old,
    v_ref,
    v_theta,
    x_0,
    x_t,
)
from derivations.steps.sde import reverse_step
from derivations.variant import Variant

__all__ = ["Derived", "derive_statement"]


_LONG = 150
"""Operations above which a constant is not worth showing."""


@dataclass(frozen=True)
class Derived:
    """A statement's derivation, and how its gradient falls apart.

    Attributes:
        derivation: the loss, gradient, weight, target and steps.
        terms: the gradient on directions.
        quadratic: whether the loss is quadratic in the velocity, detached factors held.
        centre, own_weight, constant: of a quadratic loss, L = own_weight·‖v_theta − centre‖² + constant; the weight
            may have either sign.  ``None`` if it is not quadratic.
        squared: whether the weight is positive, so that the target is the centre.
        fixed: whether the target is free of v_theta, detached factors included.
        detached: whether weight or target hold detached factors that depend on v_theta.
    """

    derivation: Derivation
    terms: tuple[Term, ...]
    quadratic: bool
    centre: sp.Expr | None
    own_weight: sp.Expr | None
    constant: sp.Expr | None
    squared: bool
    fixed: bool
    detached: bool


def derive_statement(statement: Statement, sde: str | None = None, weight: sp.Expr | None = None) -> Derived:
    """Derive gradient, weight, target and steps.

    Args:
        statement: what was read.
        sde: the reverse step whose formulas stand for C1, C2 …; they stay symbols otherwise.
        weight: the weight of a target by lemma L1, if not the usual one.

    Raises:
        CalculusError: the loss cannot be differentiated.
        DerivationError: the loss names a prediction that the reverse step's path does not have.
        ValueError: there is no such reverse step.
    """
    definitions, coefficients = dict(statement.definitions), _step_formulas(statement, sde)
    if x_t in set().union(*(e.free_symbols for e in (statement.loss, *definitions.values()))) and coefficients:
        # the mean is written out in the state, so the affine form of the step must be known; its noise need not be
        affine = {C1, mean_offset}
        definitions = {**{s: e for s, e in coefficients.items() if s in affine}, **definitions}
        coefficients = {s: e for s, e in coefficients.items() if s not in affine}
    detached = {s: e for s, e in definitions.items() if _is_detached(e, definitions)}
    coefficients |= detached
    definitions = {s: e for s, e in definitions.items() if s not in detached}
    found = _Form(statement, definitions, coefficients, weight).derived()
    path = "rectified" if sde is None else reverse_step(sde).path
    predictions = sorted(s.name for s in (PREDICTIONS - {v_theta, v_old, v_ref}) & set(statement.definitions))
    if path != "rectified" and predictions:
        raise DerivationError(
            f"{predictions[0]} is what belongs to a velocity of the rectified path, which {sde} is not on"
        )
    within = {} if sde is None else reverse_step(sde).within
    return replace(found, derivation=replace(found.derivation, path=path, within=within))


def _step_formulas(statement: Statement, sde: str | None) -> dict[sp.Symbol, sp.Expr]:
    if sde is None or statement.process != "backward":
        return {}
    formulas = reverse_step(sde).formulas
    return {s: e for s, e in formulas.items() if s.name not in statement.own}


def _is_detached(expr: sp.Expr, definitions: Mapping[sp.Symbol, sp.Expr]) -> bool:
    """A number behind ``sg``: proofs hold it constant, as implementations do."""
    if calculus.kind(expr) != "scalar" or not expr.has(sg):
        return False
    whole = inline(expr, definitions)
    return bool(whole.has(v_theta)) and not calculus.freeze(whole)[0].has(v_theta)


def _moving_targets(expr: sp.Expr) -> bool:
    """Whether a detached vector depends on the trained velocity."""
    return any(calculus.kind(node) == "vector" and node.has(v_theta) for node in maximal(expr, (sg,)))


def _collected(target: sp.Expr) -> sp.Expr:
    """Like terms together, where only numbers stand before vectors: 2a − b for a − (b − a)."""
    parts = {u: tidy(c) for u, c in components(target).items()}
    if not all(c.is_Rational for c in parts.values()):
        return target
    return sp.Add(*(c * u for u, c in parts.items()))


class _Form:
    def __init__(
        self,
        statement: Statement,
        definitions: dict[sp.Symbol, sp.Expr],
        coefficients: dict[sp.Symbol, sp.Expr],
        weight: sp.Expr | None,
    ) -> None:
        self.statement, self.definitions, self.coefficients = statement, definitions, coefficients
        self.wanted_weight = weight
        self.backward = statement.process == "backward"
        self.loss = statement.loss
        self.taken = {s for e in (self.loss, *definitions.values()) for s in e.free_symbols} | set(definitions)

    # ---------------------------------------------------------------------------------------------- the gradient

    def derived(self) -> Derived:
        terms = self._terms()
        gradient = grouped(terms)
        own = next((c for u, c in components(sp.Add(*(x.vector for x in terms))).items() if u == v_theta), sp.S.Zero)
        own_weight = tidy(own / 2)
        # ‖v − sg(target)‖² is no quadratic form in v if its target moves with v: the gradient is right, the value not
        pulled = _moving_targets(self._inline(self.loss))
        pulled = pulled or self.loss.has(Total, Each)  # what is no square in every coordinate alike
        quadratic = own_weight != 0 and not pulled and not any(self._moves(x.coefficient) for x in terms)
        domain = inside_unit(self._inline(own_weight))
        if not quadratic:
            return self._assembled(terms, gradient, None)
        centre = self._centre(terms, own_weight)
        if self.wanted_weight is None and Positive(own_weight, domain).residual(self._known) == 0:
            return self._assembled(terms, gradient, (own_weight, centre), domain)
        return self._assembled(terms, gradient, (own_weight, centre), None)

    def _inline(self, expr: sp.Expr) -> sp.Expr:
        return inline(expr, self.definitions)

    @property
    def _known(self) -> Inliner:
        return inliner(self.definitions, self.coefficients)

    def _terms(self) -> tuple[Term, ...]:
        raw = self._chain(self.loss, {})
        vectors = {s: e for s, e in self.definitions.items() if isinstance(s, VectorSymbol)}
        own_gt = v_gt.name in self.statement.own
        if not self.backward and not own_gt:
            vectors.pop(v_gt, None)
            vectors |= {x_0: noise - v_gt} | ({} if x_t.name in self.statement.own else {x_t: noise - (1 - t) * v_gt})
        flat = drop_vector_sg(inline(raw, vectors))
        found = {u: tidy(tidy_vectors(c)) for u, c in components(flat).items()} if flat != 0 else {}
        found = {u: c for u, c in found.items() if not calculus.is_zero(c)}
        if not self.backward and not own_gt:
            found = _shortest_basis(found)
        blocked = {advantage} & self.taken | ({k} if k.name in self.statement.own else set())
        neat, new = prettier(found.values(), blocked)
        self.definitions |= {s: e for s, e in ((k, C1 / C2), (advantage, 2 * reward_prob - 1)) if s in new}
        if not self.backward and not own_gt:
            self.definitions[v_gt] = noise - x_0
            self.definitions.setdefault(x_t, (1 - t) * x_0 + t * noise)
        return directions(dict(zip(found, neat, strict=True)))

    def _chain(self, expr: sp.Expr, known: dict[sp.Symbol, sp.Expr]) -> sp.Expr:
        """The gradient with the live scalars (the ratio …) left as symbols: the calculus's, and the chain rule."""
        expr, thaw = calculus.freeze(expr)
        live = [s for s in sorted(expr.free_symbols, key=str) if s in self.definitions and self._moves(s)]
        inside = {
            s
            for s in live
            if isinstance(s, VectorSymbol) or any(node.has(s) for node in expr.atoms(Norm2, Dot, MeanAbs, Total))
        }
        while inside:  # vectors, and scalars within a norm, are put in
            expr = expr.xreplace({s: self.definitions[s] for s in inside})
            live = [s for s in sorted(expr.free_symbols, key=str) if s in self.definitions and self._moves(s)]
            inside = {
                s
                for s in live
                if isinstance(s, VectorSymbol) or any(node.has(s) for node in expr.atoms(Norm2, Dot, MeanAbs, Total))
            }
        out = calculus.gradient(expr, v_theta)
        for symbol in live:
            if symbol not in known:
                fold = {self.definitions[symbol]: symbol}
                known[symbol] = self._chain(self.definitions[symbol], known).xreplace(fold)
            slope = sp.diff(expr, symbol)
            if slope.has(sp.Derivative, sp.Subs):
                raise calculus.CalculusError(f"{expr} holds a function whose derivative is not known")
            out += slope * known[symbol]
        return out.xreplace(thaw)

    def _moves(self, expr: sp.Expr) -> bool:
        """Whether it depends on v_theta, other than through detached factors."""
        return bool(calculus.freeze(self._inline(expr))[0].has(v_theta))

    # ------------------------------------------------------------------------------------------------- the target

    def _centre(self, terms: tuple[Term, ...], weight: sp.Expr) -> sp.Expr:
        """The point where a quadratic loss's gradient vanishes: a mean of the points that hold v_theta."""
        held = [x for x in terms if x.anchor is not None]
        loose = [x for x in terms if x.anchor is None]
        if not held or any(x.direction.has(v_theta) for x in loose):
            parts = components(sp.Add(*(x.vector for x in terms)))
            return sp.Add(*(tidy(-c / (2 * weight)) * u for u, c in parts.items() if u != v_theta))
        first = next((x for x in held if x.anchor == v_old), held[0])
        moved = [turned(replace(x, coefficient=tidy(x.coefficient / first.coefficient))) for x in loose]
        points = [(x.coefficient, sp.Add(x.anchor, combined(moved) if x is first else 0)) for x in held]
        if len(points) == 1:
            return points[0][1]
        halved = [(tidy(c / 2), point) for c, point in points]
        return sp.Mul(sp.Add(*(times(c, point) for c, point in halved)), 1 / sp.Add(*(c for c, _ in halved)))

    def _l1_weight(self, terms: tuple[Term, ...]) -> sp.Expr:
        """1/2 on a reverse step, where the target is then one gradient step away; else 1, or 1/D for a mean."""
        if self.wanted_weight is not None:
            return self.wanted_weight
        if self.backward:
            return sp.Rational(1, 2)
        mean = all(x.coefficient.as_powers_dict().get(D, 0) == -1 for x in terms)
        return 1 / D if mean else sp.S.One

    def _assembled(
        self,
        terms: tuple[Term, ...],
        gradient: sp.Expr,
        square: tuple[sp.Expr, sp.Expr] | None,
        domain: dict[sp.Symbol, sp.Expr] | None = None,
    ) -> Derived:
        if square is not None and domain is not None:
            weight, target = square
        else:
            weight = self._l1_weight(terms)
            target = v_theta + grouped(
                [turned(replace(x, coefficient=tidy(x.coefficient / (2 * weight)))) for x in terms]
            )
        target = _collected(target)
        constant, after = None, []
        if square is not None:
            constant, step = self._value_step(*square, domain is not None)
            after = [s for s in (step, self._hessian_step(*square)) if s is not None]
        needed = self._needed(gradient, weight, target, *([constant] if constant is not None else []))
        quoted = self._quoted(terms)
        derivation = Derivation(
            name="derived",
            variant=Variant("paper", "a loss that was written down"),
            title="Derived",
            process=self.statement.process,
            policy="off" if square is not None and v_old in needed else "on",
            reference="",
            loss=self.loss,
            gradient=gradient,
            weight=weight,
            target=target,
            definitions={s: e for s, e in self.definitions.items() if s in needed},
            coefficients={s: e for s, e in self.coefficients.items() if s in needed},
            steps=self._split_step(terms),
            after=(*after, *self._on_policy(gradient, quoted)),
            brief_gradient=quoted,
            domain=inside_unit(self._inline(weight)) if domain is None else domain,
        )
        own, centre = square or (None, None)
        squared = square is not None and domain is not None
        return Derived(
            derivation=derivation,
            terms=terms,
            quadratic=square is not None,
            centre=centre,
            own_weight=own,
            constant=constant,
            squared=squared,
            fixed=squared and not self._depends(target),
            detached=self._depends(weight) or self._depends(target),
        )

    def _depends(self, expr: sp.Expr) -> bool:
        """Whether it depends on v_theta, through detached factors too."""
        return bool(inline(expr, {**self.definitions, **self.coefficients}).has(v_theta))

    def _needed(self, *exprs: sp.Expr) -> set[sp.Symbol]:
        formulas = {**self.definitions, **self.coefficients}
        seen: set[sp.Symbol] = set()
        pending = set().union(self.loss.free_symbols, *(e.free_symbols for e in exprs))
        while pending:
            symbol = pending.pop()
            seen.add(symbol)
            pending |= formulas.get(symbol, sp.S.Zero).free_symbols - seen
        return seen

    # -------------------------------------------------------------------------------------------------- the steps

    def _split_step(self, terms: tuple[Term, ...]) -> tuple[Step, ...]:
        trust = [x for x in terms if x.trust]
        if not trust or len(trust) == len(terms):
            return ()
        whole = grouped(x for x in terms if not x.trust) + grouped(trust)
        return (
            Step("split", "The gradient: an optimisation direction and a trust region.", GradientIs(self.loss, whole)),
        )

    def _value_step(self, weight: sp.Expr, centre: sp.Expr, positive: bool) -> tuple[sp.Expr | None, Step | None]:
        """That the loss is one squared distance, and the constant; ``None`` where detached factors move in value."""
        square = weight * Norm2(v_theta - centre)
        for constant in self._constants(weight, centre):
            claim = EqualUpToConstant(self.loss, square, constant)
            if claim.residual(self._known) == 0:
                break
        else:
            return None, None
        sentence = (
            "The loss is a squared distance to the target, up to a constant: equal in value too."
            if positive
            else "Lemma L3: the loss is a squared distance up to a constant, whose weight may be negative or 0; where "
            "it is negative, the velocity is pushed away from that point."
        )
        return constant, Step("value", sentence, claim)

    def _hessian_step(self, weight: sp.Expr, centre: sp.Expr) -> Step:
        square = weight * Norm2(v_theta - sg(centre) if self._depends(centre) else v_theta - centre)
        symbols = set().union(*(self._inline(side).free_symbols for side in (self.loss, square)))
        held = tuple(sorted((s for s in symbols & set(self.coefficients) if self._depends(s)), key=str))
        return Step(
            "hessian",
            "The loss and that squared distance have the same Hessian (detached factors held).",
            SameHessian(self.loss, square, held=held),
        )

    def _constants(self, weight: sp.Expr, centre: sp.Expr) -> Iterator[sp.Expr]:
        """Candidates for L − weight·‖v_theta − centre‖², the shortest first; a proof chooses."""
        yield sp.S.Zero
        frozen, thaw = calculus.freeze(self._inline(self.loss))
        between = self._distances(frozen, weight)
        if between is not None:
            yield between.xreplace(thaw)
        at_centre = frozen.xreplace({v_theta: self._inline(centre)}).xreplace(thaw)
        if sp.count_ops(at_centre) < _LONG:
            yield at_centre if at_centre.has(sg) else calculus.expand(at_centre)

    def _distances(self, loss: sp.Expr, weight: sp.Expr) -> sp.Expr | None:
        r"""Squared distances between the fixed vectors, −½ Σ (q_uw − b_u b_w/(2W)) ‖u − w‖².

        That is the constant of W‖v‖² + Σ b_u ⟨v, u⟩ + Σ q_uw ⟨u, w⟩ (u before w) if its rows add up to 0, which is
        not checked here.
        """
        folded = loss if self.backward or v_gt not in self.definitions else loss.xreplace({x_0: noise - v_gt})
        form = calculus.expand(folded)
        inner = sorted((x for x in form.atoms(Dot) if all(a.is_Symbol for a in x.args)), key=sp.default_sort_key)
        slots = {node: sp.Dummy(f"d{i}", real=True) for i, node in enumerate(inner)}
        flat = form.xreplace(slots)
        if flat.has(Dot):
            return None
        slopes = {node: sp.diff(flat, slot) for node, slot in slots.items()}
        cross = {next(iter(set(x.args) - {v_theta})): c for x, c in slopes.items() if v_theta in x.args}
        fixed = sorted({u for node in inner for u in node.args} - {v_theta}, key=sp.default_sort_key)
        out = sp.S.Zero
        for i, u in enumerate(fixed):
            for w in fixed[:i]:
                q = slopes.get(Dot(u, w), sp.S.Zero)
                q -= cross.get(u, sp.S.Zero) * cross.get(w, sp.S.Zero) / (2 * weight)
                out += self._shortest(-q / 2) * Norm2(u - w)
        return out

    def _shortest(self, expr: sp.Expr) -> sp.Expr:
        """A coefficient factored or multiplied out, in r or in A, whichever is shortest."""
        expr = expr.xreplace({advantage: self.definitions.get(advantage, advantage)})
        forms = [expr]
        if advantage in self.definitions and self.definitions[advantage] == 2 * reward_prob - 1:
            forms.append(expr.xreplace({reward_prob: (1 + advantage) / 2}))
        forms = [g for f in forms for g in (tidy(f), sp.expand(sp.numer(tidy(f))) / sp.denom(tidy(f)))]
        return min(forms, key=lambda f: (len(f.free_symbols) + int(sp.count_ops(f)), str(f)))

    def _quoted(self, terms: tuple[Term, ...]) -> sp.Expr | None:
        """What is left of the gradient on-policy: ratio and masks 1, no distance to v_old."""
        if ratio not in self.definitions or v_old not in self._needed(*(x.vector for x in terms)):
            return None
        short = [
            replace(x, coefficient=tidy(_on_policy(x.coefficient))) for x in terms if x.direction != v_theta - v_old
        ]
        if not short or any(x.coefficient.has(ratio, log_ratio, Mask) for x in short):
            return None  # a kink of another kind lies anywhere, also at the on-policy point itself
        return grouped(short)

    def _on_policy(self, gradient: sp.Expr, quoted: sp.Expr | None) -> tuple[Step, ...]:
        if quoted is None or calculus.is_zero(self._inline(gradient - quoted)):
            return ()
        claim = Approximates(gradient, quoted, {v_theta: v_old})
        if claim.residual(self._known) != 0:
            return ()
        return (
            Step(
                "on-policy",
                "At v_theta = v_old this is what is left of the gradient; the rest is of the order of the distance.",
                claim,
            ),
        )


def _shortest_basis(found: Mapping[VectorSymbol, sp.Expr]) -> dict[VectorSymbol, sp.Expr]:
    """Two of v_gt, noise and x_0 = noise − v_gt: those with the fewest terms, so that nothing cancels in numbers."""
    a, b = found.get(v_gt, sp.S.Zero), found.get(noise, sp.S.Zero)
    both = tidy(a + b)
    ways = ({v_gt: a, noise: b}, {x_0: -a, noise: both}, {v_gt: both, x_0: b})
    kept = [{u: c for u, c in way.items() if not calculus.is_zero(c)} for way in ways]
    shortest: dict[VectorSymbol, sp.Expr] = min(kept, key=len)
    return {**{u: c for u, c in found.items() if u not in (v_gt, noise)}, **shortest}


def _on_policy(expr: sp.Expr) -> sp.Expr:
    if any(map(is_kink, expr.atoms(ClipMask))):
        return expr
    return expr.xreplace(dict.fromkeys(expr.atoms(Mask), sp.S.One)).xreplace({ratio: sp.S.One, log_ratio: sp.S.Zero})
