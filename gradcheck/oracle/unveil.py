r"""Unveil: what does a loss that nobody has named really optimise?

The function is called on cases that hold every quantity of the notation that its process has.  Its gradient is
decomposed on the field's directions, the coefficients are recognised as formulas, and the target follows (lemma L1).
Then the catalogue is asked whether it knows such a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.calculus import Norm2
from derivations.derivation import Derivation
from derivations.render import latex, text
from gradcheck.case import Case
from gradcheck.catalogue import CATALOGUE
from gradcheck.compare import compare
from gradcheck.compiled import evaluate
from gradcheck.conventions import Conventions
from gradcheck.oracle.adapter import Adapter, AdapterError
from gradcheck.oracle.reference import reference
from gradcheck.oracle.universal import family, universal_case
from gradcheck.oracle.xray import B, Sample, decompose, recognise, scalars
from gradcheck.problems import Spec
from gradcheck.tensor_ops import norm2

__all__ = ["Term", "Unveiled", "unveil", "unveiled_text"]

_SHAPES = ((4, (3, 5)), (6, (2, 3, 4)), (3, (13,)), (5, (2, 2, 5)), (7, (4, 5)), (4, (2, 9)), (5, (17,)), (6, (3, 7)))
_EXACT = 1e-7
_FAINT = 1e-6
_NOISE, _X = ("ε", n.noise), ("x_t", n.x_t)
_FROM_OLD, _FROM_REF = ("v_θ − v_old", n.v_theta - n.v_old), ("v_θ − v_ref", n.v_theta - n.v_ref)
_FROM_GT, _OLD_FROM_GT = ("v_θ − v_gt", n.v_theta - n.v_gt), ("v_old − v_gt", n.v_old - n.v_gt)
_BASES: dict[str, tuple[tuple[tuple[str, sp.Expr], ...], ...]] = {
    "backward": ((_NOISE, _FROM_OLD, _FROM_REF, _X),),
    "forward": ((_FROM_GT, _FROM_REF, _NOISE, _FROM_OLD), (_OLD_FROM_GT, _FROM_OLD, _FROM_REF, _NOISE)),
}


@dataclass(frozen=True)
class Term:
    """One direction of a gradient: its coefficient's formula, ``None`` where none was recognised, and some values."""

    direction: str
    vector: sp.Expr
    formula: sp.Expr | None
    values: tuple[float, ...]


@dataclass(frozen=True)
class Unveiled:
    """What was found.

    Attributes:
        name: of the function.
        process: ``"forward"`` or ``"backward"``.
        sde: the reverse step on whose states it was looked at; empty for the forward process.
        terms: the gradient on the directions, per sample.
        residual: the largest part of a gradient that no direction explains, relative to its norm.
        gradient, weight, target: as expressions; ``None`` where a coefficient was not recognised.
        fixed: whether the target stays where it is when v_theta moves, as off-policy methods' does.
        reduction: ``"mean"`` if the loss is averaged over the batch, ``"sum"`` if not.
        clipped: fraction of samples with an advantage, far off-policy, whose policy gradient vanishes.
        matches: entries of the catalogue with this gradient, as one declares them.
        reason: why there is no formula; empty if there is one.
    """

    name: str
    process: str
    sde: str
    terms: tuple[Term, ...]
    residual: float
    gradient: sp.Expr | None
    weight: sp.Expr | None
    target: sp.Expr | None
    fixed: bool
    reduction: str
    clipped: float
    matches: tuple[str, ...]
    reason: str


def unveil(function: Callable[[Case], Any], name: str, timeout: float = 60.0) -> Unveiled:
    """Find out what a loss optimises, from its gradients alone.

    Raises:
        AdapterError: it can be called in neither process, or returns no differentiable loss.
    """
    adapter = Adapter(function, name, "mean", timeout)
    found: list[Unveiled] = []
    problems = []
    for process, sde in (("backward", "flow"), ("backward", "dance"), ("backward", "cps"), ("forward", "")):
        try:
            found.append(_unveil(adapter, process, sde))
        except AdapterError as error:
            problems.append(f"{process} process: {error}")
            continue
        if found[-1].gradient is not None or found[-1].matches:
            return found[-1]
    if not found:
        raise AdapterError(" / ".join(dict.fromkeys(problems)))
    return min(found, key=lambda f: f.residual)


def _unveil(adapter: Adapter, process: str, sde: str) -> Unveiled:
    specs = [
        Spec(b, latent, 50 + i, policy="off", advantage="typical", time="middle")
        for i, (b, latent) in enumerate(_SHAPES)
    ]
    specs += [replace(spec, seed=spec.seed + 50, advantage="zero") for spec in specs[:3]]  # a reference term alone
    cases = [universal_case(process, sde, spec) for spec in specs]
    gradients = [adapter.observe(case).gradient for case in cases]
    terms, residual = _best_terms(process, cases, gradients)
    pairs = [(t.formula, t.vector) for t in terms if t.formula is not None]
    known = bool(terms) and len(pairs) == len(terms)
    mean = known and all((formula * B).free_symbols == formula.free_symbols - {B} for formula, _ in pairs)
    if mean:
        pairs = [(formula * B, vector) for formula, vector in pairs]
        terms = tuple(replace(t, formula=formula) for t, (formula, _) in zip(terms, pairs, strict=True))
    gradient = weight = target = None
    fixed = False
    if known:
        gradient = sp.Add(*(formula * vector for formula, vector in pairs))
        weight, target, fixed = _target(pairs)
    return Unveiled(
        name=adapter.name,
        process=process,
        sde=sde,
        terms=terms,
        residual=residual,
        gradient=gradient,
        weight=weight,
        target=target,
        fixed=fixed,
        reduction="mean" if mean else "sum" if known else "",
        clipped=_clipped(adapter, process, sde, terms),
        matches=tuple(_matches(process, sde, cases, gradients)),
        reason="" if known else _why_not(terms, residual),
    )


# ------------------------------------------------------------------------------------------- the gradient


def _best_terms(process: str, cases: list[Case], gradients: list[Tensor]) -> tuple[tuple[Term, ...], float]:
    """The terms on whichever basis gives formulas, with the fewest terms."""
    tried = [_terms(process, basis, cases, gradients) for basis in _BASES[process]]
    return min(tried, key=lambda found: (sum(t.formula is None for t in found[0]), found[1] > _EXACT, len(found[0])))


def _terms(
    process: str, basis: Sequence[tuple[str, sp.Expr]], cases: list[Case], gradients: list[Tensor]
) -> tuple[tuple[Term, ...], float]:
    samples = [
        s for case, g in zip(cases, gradients, strict=True) for s in decompose(case, g, basis, _numbers(process, case))
    ]
    if not samples:
        return (), 0.0
    out = []
    for name, vector in basis:
        values = [s.coefficients.get(name, 0.0) for s in samples]
        largest = [max(abs(c) for c in s.coefficients.values()) for s in samples]
        occurring = [
            (v, s) for v, s, top in zip(values, samples, largest, strict=True) if abs(v) > _FAINT * top
        ]  # a coefficient much smaller than another one has lost its digits
        if occurring:
            formula = _formula([v for v, _ in occurring], [s for _, s in occurring])
            out.append(Term(name, vector, formula, tuple(values[:3])))
    return tuple(out), max(s.residual for s in samples)


def _numbers(process: str, case: Case) -> dict[sp.Symbol, Tensor]:
    """The scalars of the notation, every catalogue entry's ratio, and what else coefficients are made of."""
    out = {s: x for s, x in scalars(case).items() if s != n.ratio}
    extra: dict[str, Tensor] = {"1 − t": 1 - case.t}
    if process == "forward":
        extra["exp_reward"] = torch.exp(case.reward / case.temperature)
        extra["rho_sum"] = case.rho_plus + case.rho_minus
        extra["rho_difference"] = case.rho_plus - case.rho_minus
        extra["error"] = norm2(case.v_theta.detach() - case.v_gt).flatten() / case.D + 1e-10
    for derivation in _with_ratio(process, case):
        extra[f"ratio of {derivation.label}"] = evaluate(derivation, case, n.ratio, dtype=torch.float64)[0].flatten()
    return out | {_symbol(name): x.detach().to(torch.float64) for name, x in extra.items()}


def _with_ratio(process: str, case: Case) -> Iterator[Derivation]:
    for e in CATALOGUE:
        d = e.derivation
        own_kind = d.process == process and n.ratio in d.definitions and not d.loss.has(n.kl_weight)
        if own_kind and all(i.name in case.names for i in d.inputs(n.ratio)):
            yield d


def _symbol(name: str) -> sp.Symbol:
    return sp.Symbol(name, positive=True) if name != "rho_difference" else sp.Symbol(name, real=True)


def _formula(values: list[float], samples: list[Sample]) -> sp.Expr | None:
    """A monomial in the plain scalars, or in these and one kind of the others."""
    every = samples[0].scalars
    ratios = [s for s in every if s.name.startswith("ratio of ")]
    special = [
        [s for s in every if s.name in group]
        for group in ({"exp_reward"}, {"rho_sum"}, {"rho_difference"}, {"error"}, {"1 − t"})
    ]
    plain = [s for s in every if s not in ratios and not any(s in group for group in special)]
    for more in (
        [],
        *([r] for r in ratios),
        *(g for g in special if g),
        *([r, *g] for r in ratios for g in special if g and g[0].name == "error"),
    ):
        chosen = [*plain, *more]
        formula = recognise(values, [{s: x.scalars[s] for s in chosen} for x in samples])
        if formula is not None and not formula.atoms(sp.Float):
            return formula.xreplace(_MEANINGS | dict.fromkeys(ratios, n.ratio))
    return None


_MEANINGS: dict[sp.Symbol, sp.Expr] = {
    _symbol("exp_reward"): sp.exp(n.reward / n.temperature),
    _symbol("rho_sum"): n.rho_plus + n.rho_minus,
    _symbol("rho_difference"): n.rho_plus - n.rho_minus,
    _symbol("error"): Norm2(n.v_theta - n.v_gt) / n.D + sp.Rational(1, 10**10),
    _symbol("1 − t"): 1 - n.t,
}


def _target(pairs: Sequence[tuple[sp.Expr, sp.Expr]]) -> tuple[sp.Expr, sp.Expr, bool]:
    """Weight and target; a fixed point where v_theta's own coefficient is positive whatever the advantage."""
    own = sp.Add(*(formula for formula, vector in pairs if vector.has(n.v_theta)))
    moves = any(formula.has(n.ratio) for formula, _ in pairs) or own.has(n.advantage)
    if own == 0 or not own.is_nonnegative or moves:
        return sp.Rational(1, 2), n.v_theta - sp.Add(*(formula * vector for formula, vector in pairs)), False
    parts = ((formula, vector - n.v_theta if vector.has(n.v_theta) else vector) for formula, vector in pairs)
    return own / 2, sp.Add(*(-(formula / own) * rest for formula, rest in parts)), True


# --------------------------------------------------------------------------------------------- the verdict


def _clipped(adapter: Adapter, process: str, sde: str, terms: Sequence[Term]) -> float:
    """How many samples with an advantage have no policy gradient far off-policy."""
    if not terms:
        return 0.0
    off = total = 0
    main = next((b for b in _BASES[process] if any(name == terms[0].direction for name, _ in b)), _BASES[process][0])
    for seed in range(3):
        case = universal_case(process, sde, Spec(8, (3, 5), seed, policy="far", advantage="typical", time="middle"))
        seen = decompose(case, adapter.observe(case).gradient, main, scalars(case))
        total += case.v_theta.shape[0]
        off += case.v_theta.shape[0] - sum(s.coefficients.get(terms[0].direction, 0.0) != 0 for s in seen)
    return off / total


def _matches(process: str, sde: str, cases: list[Case], gradients: list[Tensor]) -> Iterator[str]:
    """Declarations of the catalogue whose gradient is this one, up to a constant factor."""
    for entry in family(process, sde):
        summed = Conventions(entry.symbolic.NAME, options=dict(entry.derivation.variant.options), batch_reduction="sum")
        factor = _constant_factor(summed, cases[0], gradients[0])
        if not _parallel(summed, cases[0], gradients[0]):
            continue  # not even the direction is right
        for reduction, size in (("mean", cases[0].v_theta.shape[0]), ("sum", 1)):
            scaled = replace(summed, batch_reduction=reduction, factor=factor * size)
            if all(_agrees(scaled, c, g) for c, g in zip(cases, gradients, strict=True)):
                times = "" if abs(factor * size - 1) < 1e-9 else f", factor={factor * size:.6g}"
                yield f"{entry.label}, batch_reduction={reduction!r}{times}"


def _constant_factor(conventions: Conventions, case: Case, gradient: Tensor) -> float:
    wanted = reference(conventions, case).gradient
    size = float((wanted * wanted).sum())
    return float((gradient * wanted).sum()) / size if size > 0 else 0.0


def _parallel(conventions: Conventions, case: Case, gradient: Tensor) -> bool:
    wanted = reference(conventions, case).gradient
    cosine = torch.nn.functional.cosine_similarity(gradient.flatten(), wanted.flatten(), dim=0)
    return float(cosine.abs()) > 1 - 1e-6


def _agrees(conventions: Conventions, case: Case, gradient: Tensor) -> bool:
    wanted = reference(conventions, case)
    return compare(gradient, wanted.gradient, 1e3 * wanted.scale + 1e-300, torch.float64).holds


def _why_not(terms: Sequence[Term], residual: float) -> str:
    if not terms:
        return "no gradient reaches v_theta"
    if residual > 1e-6:
        return (
            f"none: up to {residual:.0%} of a sample's gradient lies outside the field's directions, so this is no "
            "loss of the family (or it depends on other samples)"
        )
    unknown = ", ".join(t.direction for t in terms if t.formula is None)
    return f"the gradient lies on the field's directions, but no formula was found for its coefficient on {unknown}"


def unveiled_text(found: Unveiled) -> str:
    """The finding in plain text, with LaTeX beside it."""
    where = found.process + (f", on {found.sde} steps" if found.sde else "")
    lines = [found.name, f"  process    {where}"]
    if found.reason:
        lines.append(f"  formula    {found.reason}")
    if found.gradient is not None and found.weight is not None and found.target is not None:
        per = ", averaged over the batch" if found.reduction == "mean" else ", summed over the batch"
        lines += [f"  gradient   {text(found.gradient)}   (per sample{per})", f"             {latex(found.gradient)}"]
        lines += [
            f"  target     {text(found.target)}   with weight {text(found.weight)}",
            f"             {latex(found.target)}",
        ]
        kind = (
            "a fixed point, so the loss holds v_θ there (off-policy, with a trust region)"
            if found.fixed
            else "moves with v_θ (on-policy)"
        )
        lines.append(f"  policy     the target {kind}")
    elif found.terms:
        for t in found.terms:
            formula = (
                text(t.formula) if t.formula is not None else "for example " + ", ".join(f"{v:.4g}" for v in t.values)
            )
            lines.append(f"             {t.direction:12} {formula}")
    if found.terms and found.residual < 1e-6:
        clip = (
            "none seen"
            if found.clipped == 0
            else f"{found.clipped:.0%} of the samples far off-policy have no policy gradient"
        )
        lines.append(f"  clip       {clip}")
    lines.append("  catalogue  " + ("; ".join(found.matches) if found.matches else "none: no entry has this gradient"))
    return "\n".join(lines)
