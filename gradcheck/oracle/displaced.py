r"""What right code may do to a loss's scalars: times that lost digits, and small numbers that guard a denominator.

Both change a number of which the whole gradient is made, and every component of it alike.  A running error analysis
would count them once for each place, as if they were independent; here the gradient itself is evaluated with the
changed number, and the difference is what it may be off by.  The sampled state is what the case hands over, whatever
the code's own step would have made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import sympy as sp
import torch
from torch import Tensor

from derivations.derivation import Derivation
from derivations.notation import C2, D, sigma_t, x_prev
from derivations.writing.render import text
from derivations.writing.torchgen import ordered_formulas
from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.derived.compiled import evaluate
from gradcheck.oracle.arrangement import branch_shares, branches, guidance_scale
from gradcheck.rounding.bounds import THRESHOLD
from gradcheck.rounding.compare import branch, sample_masks

__all__ = ["Guard", "by_guards", "by_guidance", "by_times", "by_way_of_data", "guards"]

_STEP = 2.0**-30
"""A time's least displacement: small enough for the gradient to be linear in it, and so large that the evaluation's own
rounding is a billionth of what it does."""
_LOST = {"t": 2.0, "dt": 3.0}
"""Units of roundoff of 1 that a time may be off by: 1 − (1 − t) by one or two, and (1 − t_prev) − (1 − t) by one more,
which code takes that counts time the other way, or shifts its grid; a time that is kept as 1 − t is off by as much."""

_NEAR = 2.0**10
"""A time of fewer reaches than this is near data: it loses more than a thousandth of itself."""


@lru_cache(maxsize=300)
def _on_given_states(derivation: Derivation) -> Derivation:
    """The derivation of code that is given the sampled state."""
    definitions = {s: e for s, e in derivation.definitions.items() if s != x_prev}
    return replace(derivation, definitions=definitions, steps=(), after=())


def by_times(derivation: Derivation, case: Case, other: bool, u: float) -> tuple[Tensor | float, Tensor]:
    """How far times that lost digits carry the raw gradient, in units of u, on the clip's own branch or the other; and
    the samples that they carry over a clip's edge, (B, 1, …, 1) or ().

    Infinite where nothing of a time may be left.
    """
    raw, *_ = branch(derivation, other)
    changed = torch.zeros((), dtype=torch.bool, device=case.output.device)
    names = [n for n in _LOST if n in derivation.given]
    if not names:
        return 0.0, changed
    own = _on_given_states(derivation)
    times = {name: getattr(case, name).detach().to(torch.float64) for name in names}
    reaches = {name: THRESHOLD * u * _LOST[name] for name in names}
    # In float64 the step is far longer than the reach, and a mask that changes there says nothing.
    coarse = min(reaches.values()) > _STEP
    # Near data the gradient is not linear in what a coarse precision loses: a ratio rises and falls within the reach,
    # so that its ends do not bound the gradient.
    near = coarse and any(bool((time < _NEAR * reaches[name]).any()) for name, time in times.items())
    parts = (0.25, 0.5, 1.0) if near else (1.0,)
    steps = {name: max(_STEP, reach) for name, reach in reaches.items()}
    shifts = {name: [sign * part * steps[name] for part in parts for sign in (1, -1)] for name in names}
    moves = [{}, *({name: times[name] + shift} for name in names for shift in shifts[name])]
    masks = sample_masks(raw) if coarse else ()
    (here, *there), *sides = _on_each(own, case, (raw, *masks), moves)
    lost: Tensor | float = 0.0
    for name in names:
        ways, there = there[: len(shifts[name])], there[len(shifts[name]) :]
        effect = _LOST[name] / steps[name] * torch.stack([(way - here).abs() for way in ways]).amax(0)
        lost = lost + torch.where(case.expand(times[name]) > reaches[name], effect, torch.inf)
    for side, *others in sides:
        changed = changed | torch.stack([side != way for way in others]).any(0)
    return lost, changed


_TOGETHER = 2**14
"""Numbers of a latent up to which problems that differ in a time are evaluated as one batch: an operation on few
numbers takes as long as one on five times as many."""


def _on_each(
    derivation: Derivation, case: Case, exprs: Sequence[sp.Expr], moves: Sequence[Mapping[str, Tensor]]
) -> list[tuple[Tensor, ...]]:
    """Each expression on a case with some of its rows of numbers exchanged, for each of several exchanges."""
    rows = len(case.output)
    if case.output.numel() > _TOGETHER:
        alone = (evaluate(derivation, case.replace(**moved), *exprs, dtype=torch.float64) for moved in moves)
        return list(zip(*alone, strict=True))
    together: dict[str, Tensor | float] = {}
    for name in dict.fromkeys((case.output_name, *derivation.given)):
        x = getattr(case, name)
        if isinstance(x, Tensor) and x.ndim and name != "sigmas":
            each = [moved.get(name) for moved in moves]
            x = x.detach()
            if any(y is not None for y in each):
                x = torch.cat([x.to(torch.float64) if y is None else y for y in each])
            else:
                x = x.repeat(len(moves), *(1,) * (x.ndim - 1))
        together[name] = x
    found = evaluate(derivation, Case(case.label, together), *exprs, dtype=torch.float64)
    return [x.expand(len(moves) * rows, *x.shape[1:]).split(rows) for x in found]


def by_way_of_data(derivation: Derivation, case: Case, other: bool) -> Tensor | float:
    r"""How far the detour through the predicted data, (x̂_0 − x_0)/t, carries the raw gradient, in units of u.

    Trainers hold x_t, and DiffusionNFT's own code measures its errors there.  x̂_0 − x_0 = x_t − t v − x_0 is off by
    u(\|x_t\| + t\|v\| + \|x_0\|), however small it is, and the division by t brings that to the velocities.  The
    displacement has the sign of v − v_gt, so that it lengthens the error as far as it can.
    """
    if derivation.process != "forward" or derivation.path != "rectified" or not {*case.names} >= _HELD:
        return 0.0
    if not {"x_0", "noise"} <= {*derivation.given} or derivation.change is not None:
        return 0.0
    _, gradient, *_ = branch(derivation, other)  # in the derived form, which does not overflow at large margins
    x_0, noise, x_t, v, t = (
        getattr(case, n).detach().to(torch.float64) for n in ("x_0", "noise", "x_t", "v_theta", "t")
    )
    time = case.expand(t)
    size = (x_t.abs() + time * v.abs() + x_0.abs()) / time
    away = torch.where(v > noise - x_0, 1.0, -1.0)
    moved = case.replace(x_0=x_0 + _STEP * size * away)
    here, there = (evaluate(derivation, c, gradient, dtype=torch.float64)[0] for c in (case.replace(x_0=x_0), moved))
    return (there - here).abs() / _STEP


def by_guidance(conventions: Conventions, derivation: Derivation, case: Case, other: bool) -> Tensor | float:
    r"""What making the velocity of two guided branches may lose of the gradient, in units of u.

    Forward, right code writes v_uncond + w(v_cond − v_uncond), w v_cond + (1 − w) v_uncond or another such form.  Its
    products and sums, and 1 − w, are off by at most 2u(\|w\| + \|1 − w\|)(\|v_cond\| + \|v_uncond\|) + 3u\|v\|,
    however small v is.  Displaced so far along the gradient's signs, a log-probability or an error changes as far as
    it can; what a component's own displacement does besides is that times the weight of the squared error.

    Backward, each branch is sent w g or (1 − w) g with up to two roundings, and what comes back has three more: of the
    two products with each one's share, and of their sum.  That is a bound, which the threshold must not widen.
    """
    if conventions.guidance is None:
        return 0.0
    w, (of_cond, of_uncond) = guidance_scale(conventions, case), branch_shares(conventions, case)
    v, own = case.output.detach().to(torch.float64), _on_given_states(derivation)
    cond, uncond = branches(conventions, case)
    off = 2 * (abs(w) + abs(1 - w)) * (cond.abs() + uncond.abs()) + 3 * v.abs()
    raw, _, weight, _ = branch(derivation, other)
    here, weight_here = evaluate(own, case, raw, weight, dtype=torch.float64)
    away = torch.where(here < 0, -_STEP, _STEP) * off
    moves = ({case.output_name: v + shift} for shift in (away, -away))
    there = [evaluate(own, case.replace(**moved), raw, dtype=torch.float64)[0] for moved in moves]
    forward = 2 * weight_here.abs() * off + torch.stack([(x - here).abs() / _STEP for x in there]).amax(0)
    sent = abs(w * of_cond) + abs((1 - w) * of_uncond)
    return forward + (3 * sent + 2) * here.abs() / THRESHOLD


_HELD = {"x_0", "noise", "x_t", "t", "v_theta"}


@dataclass(frozen=True)
class Guard:
    """A small number that code adds somewhere.

    Attributes:
        words: to what.
        derivation: whose formulas have it there.
    """

    words: str
    derivation: Derivation

    def gradient(self, case: Case, other: bool) -> tuple[Tensor, ...]:
        """The gradient with it, and the clip's masks, in float64."""
        raw = branch(self.derivation, other)[0]
        return evaluate(self.derivation, case, raw, *sample_masks(raw), dtype=torch.float64)


@lru_cache(maxsize=200)
def guards(derivation: Derivation, eps: float) -> tuple[Guard, ...]:
    """The places where code may add ``eps``: to a standard deviation or a variance as a whole, and to each denominator
    and root of the stated loss."""
    own = _on_given_states(derivation)
    number = sp.Float(eps)
    found = []
    for symbol in (C2, sigma_t):
        if symbol in own.coefficients:
            formula = own.coefficients[symbol]
            for words, value in (("", formula + number), ("²", sp.sqrt(formula**2 + number))):
                changed = {**own.coefficients, symbol: value}
                found.append(Guard(f"{text(symbol)}{words}", replace(own, coefficients=changed)))
    formulas = dict(ordered_formulas(own, own.loss))
    powers = [p for p in sp.Tuple(own.loss, *formulas.values()).atoms(sp.Pow) if _guarded(p)]
    for base in sorted({p.base for p in powers}, key=str):
        exponents = sorted({p.exp for p in powers if p.base == base}, key=str)
        for some in ([e] for e in exponents) if len(exponents) > 1 else ():
            found.append(Guard(text(base), _rewritten(own, base, some, lambda p: (p.base + number) ** p.exp)))
        found.append(Guard(text(base), _rewritten(own, base, exponents, lambda p: (p.base + number) ** p.exp)))
        if -2 in exponents:
            squared = _rewritten(own, base, [sp.Integer(-2)], lambda p: 1 / (p.base**2 + number))
            found.append(Guard(f"{text(base)}²", squared))
    return tuple(found)


def _guarded(power: sp.Pow) -> bool:
    base, exponent = power.args
    return bool(exponent.is_number and base.free_symbols - {D} and (exponent < 0 or not exponent.is_Integer))


def _rewritten(
    derivation: Derivation, base: sp.Expr, exponents: Sequence[sp.Expr], change: Callable[[sp.Pow], sp.Expr]
) -> Derivation:
    def rewrite(expr: sp.Expr) -> sp.Expr:
        return expr.xreplace({p: change(p) for p in expr.atoms(sp.Pow) if p.base == base and p.exp in exponents})

    def all_of(formulas: Mapping[sp.Symbol, sp.Expr]) -> dict[sp.Symbol, sp.Expr]:
        return {s: rewrite(e) for s, e in formulas.items()}

    return replace(
        derivation,
        loss=rewrite(derivation.loss),
        definitions=all_of(derivation.definitions),
        coefficients=all_of(derivation.coefficients),
    )


def by_guards(derivation: Derivation, case: Case, eps: float, other: bool) -> tuple[Tensor | float, Tensor]:
    """How far small numbers in all of these places together carry the raw gradient, and the samples whose branch of a
    clip they may change, (B, 1, …, 1) or ()."""
    here, *masks = Guard("", _on_given_states(derivation)).gradient(case, other)
    moved: Tensor | float = 0.0
    changed = torch.zeros((), dtype=torch.bool, device=here.device)
    for guard in guards(derivation, eps):
        there, *theirs = guard.gradient(case, other)
        moved = moved + (there - here).abs()
        for own, its in zip(masks, theirs, strict=True):
            changed = changed | (own != its)
    return moved, changed
