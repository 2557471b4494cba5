r"""Every proved step once more, with numbers: random values for its symbols, autograd for its gradients.

The proofs trust SymPy and the vector calculus; this route trusts torch.  A claim's two sides are evaluated in
float64 on random tensors and compared within the error bounds of their own expressions, at several places: far from the
behaviour model, at it, and near it.  What is detached but depends on the output is evaluated at the output: a
"constant" must be the same at two of them, and an approximation's error must shrink as its order says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import sympy as sp
import torch
from sympy.core.function import AppliedUndef
from torch import Tensor

from derivations import calculus
from derivations.calculus import Dot, Norm2, VectorSymbol
from derivations.claims import Approximates, Claim, EqualUpToConstant, GradientIs, Parallel, Positive, SameHessian
from derivations.derivation import Step, inline
from derivations.notation import (
    noise_old,
    noise_theta,
    v_old,
    v_theta,
    x_0_old,
    x_0_theta,
)
from gradcheck.rounding.bounds import Analysis
from gradcheck.rounding.compare import Comparison, compare

__all__ = ["PLACES", "NumericStep", "check_step"]

PLACES = ("anywhere", "off-policy", "near", "on-policy")
"""Where the trained model is: anywhere, at a distance like its own size from the behaviour model, near it, or at it."""

_LATENT = (4, 3)
_BATCH = 5
_DISTANCE = {"off-policy": 0.7, "near": 1e-3, "on-policy": 0.0}
_BEHAVIOUR = {v_theta: v_old, noise_theta: noise_old, x_0_theta: x_0_old}
_RANGES = {
    # inside the domains that the derivations share: a reverse step from t down to t_prev with C2 < t_prev
    "t": (0.6, 0.9),
    "t_prev": (0.3, 0.5),
    "dt": (0.1, 0.3),
    "alpha_bar": (0.2, 0.5),
    "alpha_bar_prev": (0.6, 0.8),
    "C1": (0.01, 0.05),
    "C2": (0.05, 0.25),
    "window": (0.0, 1.0),
    "reward_prob": (0.1, 0.9),
    "misorder_prob": (0.1, 0.9),
    "beta_dpo": (0.02, 0.1),  # exponents of moderate size: beyond, a float64 says nothing of the exponential
    "clip_low": (0.1, 0.3),
    "clip_high": (0.1, 0.3),
    "l": (0.1, 0.3),
    "s": (0.05, 0.5),
}
_LEEWAY = 1.4
"""An error of order n shrinks by 2ⁿ when the step is halved, up to the next order's share; one of order n − 1 by half
of that."""
_DRAWS = 50


def check_step(
    step: Step,
    definitions: Mapping[sp.Symbol, sp.Expr],
    seed: int = 0,
    place: str = "anywhere",
    coefficients: Mapping[sp.Symbol, sp.Expr] | None = None,
    within: Mapping[sp.Symbol, sp.Interval] | None = None,
) -> Comparison:
    """Evaluate a step's claim on random numbers.

    Args:
        step: the statement.
        definitions: what its symbols stand for.
        seed: of the numbers.
        place: one of :data:`PLACES`.
        coefficients: formulas of what proofs leave opaque; those that depend on the output are evaluated.
        within: domains that are narrower than the symbols' own.

    Returns:
        The comparison of its two sides (of gradients, for claims about a gradient); positivity and the order of an
        approximation are compared as their truth values.
    """
    return NumericStep.of(step, definitions, coefficients, within).check(seed, place)


@dataclass(frozen=True)
class NumericStep:
    """A step's claim in symbols that numbers are drawn for: made once for all the numbers that it is tried on.

    Attributes:
        claim: the statement.
        sides: its two sides, and for a constant the constant.
        where: what stands for inner products and norms in it.
        given: what is positive.
        limit: where an approximation is exact.
        within: domains that are narrower than the symbols' own.
    """

    claim: Claim
    sides: tuple[sp.Expr, ...]
    where: Mapping[sp.Expr, sp.Expr]
    given: tuple[sp.Expr, ...]
    limit: Mapping[sp.Symbol, sp.Expr]
    within: Mapping[sp.Symbol, sp.Interval]

    @classmethod
    def of(
        cls,
        step: Step,
        definitions: Mapping[sp.Symbol, sp.Expr],
        coefficients: Mapping[sp.Symbol, sp.Expr] | None = None,
        within: Mapping[sp.Symbol, sp.Interval] | None = None,
    ) -> NumericStep:
        """The step, of which :func:`check_step` says what the arguments are."""
        claim = step.claim
        formulas = {**definitions, **_moving(definitions, coefficients or {})}
        where = {key: inline(e, formulas) for key, e in getattr(claim, "where", {}).items()}
        plain = {} if isinstance(claim, Positive) else {s: e for s, e in where.items() if s.is_Symbol}
        return cls(
            claim,
            tuple(_concrete(_concrete(inline(side, formulas)).xreplace(plain)) for side in _sides(claim)),
            where,
            tuple(inline(e, formulas).xreplace(plain) for e in getattr(claim, "given", ())),
            {s: inline(e, formulas) for s, e in getattr(claim, "limit", {}).items()},
            {**(within or {}), **getattr(claim, "within", {})},
        )

    def check(self, seed: int = 0, place: str = "anywhere") -> Comparison:
        """The claim on random numbers, as :func:`check_step` says."""
        products = [key for key in self.where if isinstance(key, (Norm2, Dot))]
        held = [*self.sides, *self.given, *products, *self.where.values(), *self.limit, *self.limit.values()]
        values = _fitting(held, list(self.given), _Draw(seed, place, self.within))
        for key in products:
            value = self.where[key]
            if value.is_Symbol:
                values[value.name] = Analysis(values, torch.float64)(key)[0]
        return self._judged(values)

    def _judged(self, values: dict[str, Tensor]) -> Comparison:
        claim, sides = self.claim, self.sides
        analysis = Analysis(values, torch.float64)
        if isinstance(claim, Positive):
            return _truth(bool((analysis(sides[0])[0] > 0).all()))
        if isinstance(claim, GradientIs):
            observed = _autograd(sides[0], claim.wrt, values)
            return _compared(analysis, observed, self._scale(analysis), sides[1])
        if isinstance(claim, SameHessian):
            wrt = _output(claim.wrt, sides)
            left, right = (_autograd(side, wrt, values, twice=True) for side in sides)
            h, products = self._hessian_products
            analysis = Analysis({**values, h.name: _fixed_vector(left)}, torch.float64)
            scale = sum(analysis(product)[1] for product in products)
            return compare(left, right, torch.as_tensor(scale), torch.float64)
        if isinstance(claim, Approximates):
            return _truth(_shrinks(sides[0], sides[1], self.limit, values, claim.order))
        if isinstance(claim, EqualUpToConstant):
            return _constant(sides, _output(claim.wrt, sides), values)
        value, scale = analysis(sides[0])
        return _compared(analysis, value, scale, sides[1])

    @cached_property
    def _gradient(self) -> sp.Expr:
        """The gradient of a loss by the chain rule."""
        assert isinstance(self.claim, GradientIs)
        return calculus.gradient(self.sides[0], self.claim.wrt)

    def _scale(self, analysis: Analysis) -> Tensor:
        """Error scale of a loss's gradient: that of the chain rule's expression."""
        return analysis(self._gradient)[1] if self._gradient != 0 else torch.zeros((), dtype=torch.float64)

    @cached_property
    def _hessian_products(self) -> tuple[VectorSymbol, list[sp.Expr]]:
        """A vector, and what the Hessian of each side makes of it."""
        assert isinstance(self.claim, SameHessian)
        h = calculus.fresh_vector(*self.sides)
        wrt = _output(self.claim.wrt, self.sides)
        return h, [calculus.hessian_product(side, wrt, h) for side in self.sides]


def _truth(holds: bool) -> Comparison:
    one = torch.ones(1, dtype=torch.float64)
    return compare(one * holds, one, one, torch.float64)


def _sides(claim: Claim) -> tuple[sp.Expr, ...]:
    """The two expressions that a claim says are equal, and for a constant the constant."""
    if isinstance(claim, GradientIs):
        return claim.loss, claim.gradient
    if isinstance(claim, Parallel):
        return claim.lhs, claim.factor * claim.rhs
    if isinstance(claim, EqualUpToConstant):
        return claim.lhs, claim.rhs, claim.constant
    if isinstance(claim, Positive):
        return (claim.expr,)
    return claim.lhs, claim.rhs


def _moving(
    definitions: Mapping[sp.Symbol, sp.Expr], coefficients: Mapping[sp.Symbol, sp.Expr]
) -> dict[sp.Symbol, sp.Expr]:
    """The coefficients whose numbers depend on an output."""
    both = {**definitions, **coefficients}
    return {s: e for s, e in coefficients.items() if any(inline(e, both).has(v) for v in _BEHAVIOUR)}


def _output(wrt: VectorSymbol | None, sides: Sequence[sp.Expr]) -> VectorSymbol:
    return wrt or next((v for v in _BEHAVIOUR if any(side.has(v) for side in sides)), v_theta)


def _concrete(expr: sp.Expr) -> sp.Expr:
    """Give unknown functions a form, p(x) = exp(−x²/2) and v(x) = sin x, and carry out derivatives."""
    forms = {"p": lambda x: sp.exp(-(x**2) / 2), "v": sp.sin}
    return expr.replace(lambda e: isinstance(e, AppliedUndef), lambda e: forms[e.func.__name__](*e.args)).doit()


# ------------------------------------------------------------------------------------------------ numbers


@dataclass(frozen=True)
class _Draw:
    seed: int
    place: str
    within: Mapping[sp.Symbol, sp.Interval]


def _fitting(exprs: list[sp.Expr], given: list[sp.Expr], draw: _Draw) -> dict[str, Tensor]:
    """Values for which everything that is given to be positive is so."""
    for attempt in range(_DRAWS):
        values = _values(exprs, _Draw(draw.seed + 1000 * attempt, draw.place, draw.within))
        if all(bool((Analysis(values, torch.float64)(e)[0] > 0).all()) for e in given):
            return values
    raise ArithmeticError(f"no values are found for which {', '.join(map(str, given))} are positive")


def _values(exprs: list[sp.Expr], draw: _Draw) -> dict[str, Tensor]:
    """A random value for each symbol: vectors as latents, scalars per sample, by their assumptions."""
    generator = torch.Generator().manual_seed(draw.seed)
    names = sorted(set().union(*(sp.sympify(e).free_symbols for e in exprs)) | {v_theta}, key=str)
    column = (_BATCH, *(1,) * len(_LATENT))
    out = {}
    for symbol in names:
        if isinstance(symbol, VectorSymbol):
            value = torch.randn((_BATCH, *_LATENT), generator=generator, dtype=torch.float64)
            out[symbol.name] = torch.ones_like(value) if symbol.name == "ones" else value
            continue
        low, high = _range(symbol, draw.within)
        value = low + (high - low) * torch.rand(column, generator=generator, dtype=torch.float64)
        if symbol.name in ("D", "G"):  # the latent's own size, which ‖ones‖² is
            value = torch.full(column, float(torch.Size(_LATENT).numel()), dtype=torch.float64)
        elif symbol.is_integer:
            value = value.round().clamp(min=1.0)
        out[symbol.name] = value
    if draw.place in _DISTANCE:
        for trained, behaviour in _BEHAVIOUR.items():
            if trained.name in out and behaviour.name in out:
                out[trained.name] = out[behaviour.name] + _DISTANCE[draw.place] * out[trained.name]
    return out


def _range(symbol: sp.Symbol, within: Mapping[sp.Symbol, sp.Interval]) -> tuple[float, float]:
    domain = within.get(symbol)
    if domain is not None and domain.start.is_number and domain.end.is_number:
        width = float(domain.end - domain.start)
        return float(domain.start) + 0.05 * width, float(domain.end) - 0.05 * width
    return _RANGES.get(symbol.name, (0.2, 2.0) if symbol.is_nonnegative else (-2.0, 2.0))


# ---------------------------------------------------------------------------------------------- judgements


def _constant(sides: Sequence[sp.Expr], wrt: VectorSymbol, values: dict[str, Tensor]) -> Comparison:
    """The difference of the sides here and at two other outputs, each against the constant here."""
    lhs, rhs, constant = sides
    here = Analysis(values, torch.float64)
    required, own = here(constant)
    v = values[wrt.name]
    worst: Comparison | None = None
    for elsewhere in (v, 1.7 * v + 0.3, v.flip(0) - 0.5):
        run = Analysis({**values, wrt.name: elsewhere}, torch.float64)
        (left, e_left), (right, e_right) = run(lhs), run(rhs)
        scale = e_left + e_right + own + run.floor
        found = compare(left - right, required.expand_as(left - right), scale.expand_as(left - right), torch.float64)
        worst = found if worst is None or found.ratio > worst.ratio else worst
    assert worst is not None
    return worst


def _shrinks(
    lhs: sp.Expr, rhs: sp.Expr, limit: Mapping[sp.Symbol, sp.Expr], values: dict[str, Tensor], order: int
) -> bool:
    """Whether halving the distance to the limit divides the error by 2ⁿ, or leaves nothing but rounding.

    It is asked at two distances: one at which the error is far above rounding, and one at which it is so small that
    sides which differ by a millionth in the limit itself are seen to.
    """
    ends = {symbol: Analysis(values, torch.float64)(sp.sympify(e))[0] for symbol, e in limit.items()}

    def error(size: float) -> tuple[float, float]:
        moved = {s.name: end + size * _way(values[s.name]) for s, end in ends.items()}
        run = Analysis({**values, **moved}, torch.float64)
        (left, e_left), (right, e_right) = run(lhs), run(rhs)
        noise = run.cu * torch.as_tensor(e_left + e_right).expand_as(left - right)
        return float((left - right).norm()), float(noise.norm())

    for size in (2.0**-6, 2.0 ** (-26 / order)):
        (far, _), (near, noise) = error(size), error(size / 2)
        if not near <= _LEEWAY * far / 2**order + noise:
            return False
    return True


def _way(like: Tensor) -> Tensor:
    """A direction of about unit length, with no symmetry."""
    way = torch.linspace(-1, 1, like.numel(), dtype=like.dtype).reshape(like.shape).cos() + 0.3 * like
    dims = tuple(range(1, like.ndim))
    return way / way.square().sum(dims, keepdim=True).sqrt()


def _autograd(expr: sp.Expr, v: VectorSymbol, values: dict[str, Tensor], twice: bool = False) -> Tensor:
    """Gradient of a scalar expression in v; with ``twice``, its Hessian applied to a fixed vector."""
    at = values.get(v.name, values[v_theta.name]).clone().requires_grad_()
    value, _ = Analysis({**values, v.name: at}, torch.float64)(expr)
    if not value.requires_grad:
        return torch.zeros_like(at)
    (gradient,) = torch.autograd.grad(value.sum(), at, create_graph=twice)
    if not twice:
        return gradient
    if not gradient.requires_grad:
        return torch.zeros_like(at)
    (product,) = torch.autograd.grad((gradient * _fixed_vector(at)).sum(), at)
    return product


def _fixed_vector(like: Tensor) -> Tensor:
    return torch.linspace(-1, 1, like.numel(), dtype=like.dtype).reshape(like.shape)


def _compared(analysis: Analysis, left: Tensor, scale: Tensor, right: sp.Expr) -> Comparison:
    required, other = analysis(sp.sympify(right))
    shape = torch.broadcast_shapes(left.shape, required.shape)
    total = (scale + other + analysis.floor).expand(shape)
    return compare(left.expand(shape), required.expand(shape), total, torch.float64)
