r"""A derivation: one loss, what it does to the network's output, and the machine-checked steps between the two.

:class:`Derivation` is frozen data.  An algorithm's file states the loss, the gradient, the weight and the
target as formulas and adds the steps that explain them; four steps come by themselves for every derivation:
``gradient``, ``weight``, ``target`` (lemma L1) and ``equivalence``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import sympy as sp

from derivations import calculus
from derivations.calculus import Norm2, VectorSymbol, sg
from derivations.claims import Claim, Equal, GradientIs, Inliner, Positive, refusal
from derivations.notation import (
    alpha_bar,
    noise_old,
    noise_ref,
    noise_theta,
    quantity,
    reward_prob,
    rows,
    t,
    v_old,
    v_ref,
    v_theta,
    x_0_old,
    x_0_ref,
    x_0_theta,
)
from derivations.pieces import Piece, pieces_of
from derivations.variant import Variant

__all__ = [
    "Change",
    "Derivation",
    "DerivationError",
    "PathName",
    "Policy",
    "Process",
    "Proof",
    "Step",
    "StepResult",
    "Theorem",
    "inliner",
    "inside_unit",
    "prove",
]


class DerivationError(ValueError):
    """A derivation's data is inconsistent: an undeclared symbol, a weight that is not positive, a live coefficient."""


Process = Literal["forward", "backward"]
"""Whether a loss noises finished samples anew, or uses the states of the sampling path."""

Policy = Literal["on", "off"]
"""Whether the samples are to be the trained model's own, or may be another's."""

PathName = Literal["rectified", "vp"]
"""What x_t is made of; see :class:`Derivation`."""

PATHS: tuple[PathName, ...] = get_args(PathName)

OUTPUTS = {v_theta: "velocity", noise_theta: "predicted noise", x_0_theta: "predicted clean latent"}
"""What a network may put out, in words."""

PREDICTIONS = {
    *(v_theta, v_old, v_ref),
    *(noise_theta, noise_old, noise_ref),
    *(x_0_theta, x_0_old, x_0_ref),
}
"""What the trained, the behaviour and the reference model put out, or would have."""

_weight = sp.Symbol("w", real=True)

_GENERAL = ("gradient", "weight", "target", "equivalence")
"""Names of the steps that every derivation has."""


@dataclass(frozen=True)
class Step:
    """One machine-checked statement: its name (the check's id), a sentence that explains it, and the claim."""

    name: str
    sentence: str
    claim: Claim


@dataclass(frozen=True)
class StepResult:
    """What became of one step: ``residual`` is 0 where it is proved, else what is left of it
    (up to a denominator)."""

    step: Step
    residual: sp.Expr
    seconds: float

    @property
    def proved(self) -> bool:
        return self.residual == 0

    @property
    def reason(self) -> str:
        """Why it is refused, in words; empty where it is proved."""
        return refusal(self.step.claim, self.residual)


@dataclass(frozen=True)
class Proof:
    """The results of all steps, in order."""

    name: str
    results: tuple[StepResult, ...]

    @property
    def holds(self) -> bool:
        return all(result.proved for result in self.results)

    @property
    def refused(self) -> tuple[StepResult, ...]:
        return tuple(result for result in self.results if not result.proved)

    @property
    def seconds(self) -> float:
        return sum(result.seconds for result in self.results)


@dataclass(frozen=True)
class Theorem:
    """A statement that is no loss: a lemma, a reverse step, an identity of the notation."""

    name: str
    title: str
    steps: tuple[Step, ...]
    definitions: Mapping[sp.Symbol, sp.Expr] = field(default_factory=dict)
    reference: str = ""
    within: Mapping[sp.Symbol, sp.Interval] = field(default_factory=dict)

    @cached_property
    def inliner(self) -> Inliner:
        """What its claims are judged with."""
        return inliner(self.definitions, within=self.within)

    def prove(self) -> Proof:
        return prove(self.name, self.steps, self.inliner)


@dataclass(frozen=True, eq=False)
class Change:
    """Where a derivation in other variables comes from.

    Attributes:
        origin: the derivation in the variables before.
        name: of the change, for labels.
        conversion: the new variables in the old ones: symbols whose numbers change, each with its formula.
        renamed: the old variables in the new ones, where a name has changed its meaning; to be put in at once.
        made: the old variables that the new derivation defines.
    """

    origin: Derivation
    name: str
    conversion: Mapping[sp.Symbol, sp.Expr]
    renamed: Mapping[sp.Symbol, sp.Expr]
    made: Mapping[sp.Symbol, sp.Expr]


@dataclass(frozen=True, eq=False)
class Derivation:
    """One variant of one algorithm.

    Attributes:
        name: the algorithm, as in the catalogue.
        variant: which form of it, with its options; ``"paper"`` names the one that its paper states.
        title: the algorithm's name in prose.
        process: ``"forward"`` (noised data) or ``"backward"`` (the sampling path).
        policy: ``"on"`` or ``"off"``.
        reference: BibTeX.
        loss: the per-sample loss, to be minimised, as the paper or the implementation writes it.
        gradient: its exact gradient in ``output``, in the short notation.
        weight: a positive scalar w.
        target: where the loss pulls the output: ∇loss = ∇ w‖output − sg(target)‖².
        definitions: symbols that stand for expressions; proofs inline them.
        coefficients: symbols that proofs leave opaque, with the formulas that give their numbers.
        steps: the authored steps, in reading order, before the four that come by themselves.
        after: authored steps that follow them: forms of the target, approximations, remarks.
        brief_gradient, brief_target: the closing table's forms, where an approximation is what people quote.
        domain: a parametrisation under which ``weight`` is seen to be positive.
        output: what the network puts out: the vector that the loss is differentiated in.
        noise_at: the time at which x_t is all noise: 1, or 0 after a change of variables.
        change: how this derivation was made of another one, in whose variables a problem is drawn; ``None`` for one
            that stands for itself.  See :mod:`derivations.steps.parameterisation`.
        coarse: given quantities that implementations may round more coarsely than to their own size, and to what.
        within: domains that are narrower than the notation table's: where a coefficient's formula is what it should be.
        path: what x_t is made of: ``"rectified"``, (1 − t)·x_0 + t·noise, whose velocity is noise − x_0; or ``"vp"``,
            √ᾱ·x_0 + √(1 − ᾱ)·noise, whose velocity is √ᾱ·noise − √(1 − ᾱ)·x_0.
    """

    name: str
    variant: Variant
    title: str
    process: Process
    policy: Policy
    reference: str
    loss: sp.Expr
    gradient: sp.Expr
    weight: sp.Expr
    target: sp.Expr
    definitions: Mapping[sp.Symbol, sp.Expr] = field(default_factory=dict)
    coefficients: Mapping[sp.Symbol, sp.Expr] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()
    brief_gradient: sp.Expr | None = None
    brief_target: sp.Expr | None = None
    domain: Mapping[sp.Symbol, sp.Expr] = field(default_factory=dict)
    output: VectorSymbol = v_theta
    path: PathName = "rectified"
    noise_at: int = 1
    change: Change | None = None
    coarse: Mapping[sp.Symbol, sp.Expr] = field(default_factory=dict)
    within: Mapping[sp.Symbol, sp.Interval] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path not in PATHS:
            raise DerivationError(f"{self.label}: path must be one of {', '.join(PATHS)}, but is {self.path!r}")
        declared = {q.symbol for q in rows()}
        stated = (self.loss, self.gradient, self.weight, self.target, *self.coefficients.values())
        unknown = self._behind(*stated) - declared
        if unknown:
            names = ", ".join(sorted(map(str, unknown)))
            raise DerivationError(f"{self.label}: no row of the notation table declares {names}")
        for symbol, formula in self.coefficients.items():
            if self.output not in self._behind(formula):
                continue
            frozen, _ = calculus.freeze(self.inline(formula))
            if frozen.has(self.output):
                raise DerivationError(
                    f"{self.label}: the coefficient {symbol} depends on {self.output}, so a proof may not treat it as "
                    "a constant; wrap it in sg(...) if implementations detach it, else make it a definition"
                )
        for what, kind in (("loss", "scalar"), ("weight", "scalar"), ("gradient", "vector"), ("target", "vector")):
            if calculus.kind(getattr(self, what)) != kind and getattr(self, what) != 0:
                raise DerivationError(f"{self.label}: {what} must be a {kind}")
        steps = [*(step.name for step in self.steps), *_GENERAL, *(step.name for step in self.after)]
        twice = sorted({name for name in steps if steps.count(name) > 1})
        if twice:
            raise DerivationError(f"{self.label}: step names must differ, but {', '.join(twice)} stands twice")

    def _behind(self, *exprs: sp.Expr) -> set[sp.Symbol]:
        """The symbols that are left of expressions once every definition is put in, which is not done here."""
        found = set().union(*(e.free_symbols for e in exprs))
        for _ in range(len(self.definitions) + 1):
            defined = [s for s in found if self.definitions.get(s, s) != s]
            if not defined:
                return found
            found = found.difference(defined).union(*(sp.sympify(self.definitions[s]).free_symbols for s in defined))
        raise _circle(self.definitions)

    @property
    def label(self) -> str:
        """``flow_grpo`` for the paper's form, ``flow_grpo[mean]`` for a variant; changes of variables stand with it."""
        if self.change is not None:
            before = self.change.origin.label
            return f"{before[:-1]}, {self.change.name}]" if before.endswith("]") else f"{before}[{self.change.name}]"
        return self.name if self.variant.name == "paper" else f"{self.name}[{self.variant.name}]"

    @property
    def canonical(self) -> Derivation:
        """The derivation that stands for itself, before any change of variables."""
        return self if self.change is None else self.change.origin.canonical

    @cached_property
    def all_steps(self) -> tuple[Step, ...]:
        """Every step in reading order, the four general ones included."""
        word, name = OUTPUTS[self.output], quantity(self.output.name).latex
        return (
            *self.steps,
            Step(
                "gradient",
                f"The loss's gradient in the {word}, exactly.",
                GradientIs(self.loss, self.gradient, self.output),
            ),
            Step("weight", "The equivalent loss has a positive weight.", Positive(self.weight, self.domain)),
            Step(
                "target",
                f"Lemma L1: the target lies at {self.output} − ∇loss/(2·weight).",
                Equal(self.target, self.output - self.gradient / (2 * _weight), {_weight: self.inline(self.weight)}),
            ),
            Step(
                "equivalence",
                "The squared distance to the detached target has the same gradient.",
                GradientIs(
                    self.equivalent_loss,
                    self.gradient,
                    self.output,
                    label=rf"\left[\text{{weight}}\cdot\|{name}-\mathrm{{sg}}(\text{{target}})\|^2\right]",
                ),
            ),
            *self.after,
        )

    @property
    def equivalent_loss(self) -> sp.Expr:
        """``weight · ‖output − sg(target)‖²``, which has the loss's gradient; the weight is detached too."""
        return sg(self.weight) * Norm2(self.output - sg(self.target))

    def inline(self, expr: sp.Expr) -> sp.Expr:
        """Replace every defined symbol by its definition; coefficients stay."""
        return inline(expr, self.definitions)

    @cached_property
    def raw_gradient(self) -> sp.Expr:
        """The gradient as the chain rule writes it from the stated loss, nothing simplified.

        Its operations are those of an implementation's forward and backward pass, which is what an error
        bound needs; defined symbols that do not depend on the output stay symbols.
        """
        live = {s: e for s, e in self.definitions.items() if self.inline(s).has(self.output)}
        return calculus.gradient(inline(self.loss, live), self.output)

    def inputs(self, *exprs: sp.Expr) -> frozenset[sp.Symbol]:
        """The symbols without a formula on which expressions rest in the end."""
        formulas = {**self.definitions, **self.coefficients}
        seen: set[sp.Symbol] = set()
        pending = set().union(*(e.free_symbols for e in exprs))
        while pending:
            symbol = pending.pop()
            seen.add(symbol)
            pending |= (formulas[symbol].free_symbols if symbol in formulas else set()) - seen
        return frozenset(seen - set(formulas))

    @cached_property
    def pieces(self) -> frozenset[Piece]:
        """What the loss is made of."""
        return pieces_of(self.loss, {**self.definitions, **self.coefficients})

    @cached_property
    def given(self) -> tuple[str, ...]:
        """Names of the quantities that a problem must provide, in the notation table's order."""
        needed = self.inputs(self.loss, self.gradient, self.weight, self.target)
        return tuple(q.name for q in rows() if q.symbol in needed)

    @cached_property
    def defined(self) -> tuple[str, ...]:
        """Names of the quantities that follow from the given ones, in the notation table's order.

        What a network puts out is given: its other predictions, which a change of variables defines, are not here.
        """
        formulas = {**self.definitions, **self.coefficients}
        available = {s for s in formulas if all(i.name in self.given for i in self.inputs(s))}
        return tuple(q.name for q in rows() if q.symbol in available - PREDICTIONS)

    def prove(self) -> Proof:
        """Check every step."""
        return prove(self.label, self.all_steps, self.inliner)

    @cached_property
    def inliner(self) -> Inliner:
        """What its claims are judged with: definitions are put in, coefficients known."""
        return inliner(self.definitions, self.coefficients, self.within)


def inside_unit(expr: sp.Expr) -> dict[sp.Symbol, sp.Expr]:
    """Where a weight's sign is judged: parametrisations of (0, 1) for the times and probabilities in it."""
    symbols = {t: "u", alpha_bar: "z", reward_prob: "rho"}
    return {s: 1 / (1 + sp.Symbol(name, positive=True)) for s, name in symbols.items() if expr.has(s)}


def inline(expr: sp.Expr, definitions: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
    """Replace defined symbols by their definitions, again and again until none is left."""
    expr, table = sp.sympify(expr), dict(definitions)
    for _ in range(len(table) + 1):
        replaced = expr.xreplace(table)
        if replaced == expr:
            return expr
        expr = replaced
    raise _circle(table)


def _circle(definitions: Mapping[sp.Symbol, sp.Expr]) -> DerivationError:
    return DerivationError(f"the definitions of {', '.join(map(str, definitions))} go round in a circle")


def inliner(
    definitions: Mapping[sp.Symbol, sp.Expr],
    coefficients: Mapping[sp.Symbol, sp.Expr] | None = None,
    within: Mapping[sp.Symbol, sp.Interval] | None = None,
) -> Inliner:
    """What claims are judged with.

    Args:
        definitions: symbols that stand for expressions, which are put in.
        coefficients: symbols that are left opaque, with their formulas: what depends on these is not taken for a
            constant, and each formula must lie in its symbol's domain.
        within: domains that are narrower than the notation table's.
    """
    closed = {symbol: inline(formula, definitions) for symbol, formula in definitions.items()}
    return Inliner(closed, coefficients, within)


def prove(name: str, steps: tuple[Step, ...], definitions: Mapping[sp.Symbol, sp.Expr] | Inliner) -> Proof:
    """Check steps in order; every step is checked, also after one was refused."""
    known = definitions if isinstance(definitions, Inliner) else inliner(definitions)
    results = []
    for step in steps:
        start = time.perf_counter()
        left = step.claim.residual(known)
        results.append(StepResult(step, left, time.perf_counter() - start))
    return Proof(name, tuple(results))
