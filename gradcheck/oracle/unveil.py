r"""Unveil: what does a loss that nobody has named really optimise?

The function is called on cases that hold every quantity of the notation that its process has; its gradient is
decomposed on the field's directions, the coefficients are recognised, and the target follows (lemma L1).  Then the
catalogue is asked whether it knows such a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.derivation import Derivation
from derivations.render import latex, text
from gradcheck.case import Case
from gradcheck.catalogue import CATALOGUE
from gradcheck.compare import compare
from gradcheck.conventions import Conventions
from gradcheck.oracle.adapter import Adapter, AdapterError
from gradcheck.oracle.reference import reference
from gradcheck.oracle.xray import DIRECTIONS, B, Direction, decompose, directions
from gradcheck.problems import Spec, complete, draw_given

__all__ = ["Unveiled", "unveil", "universal_case"]

_SHAPES = ((4, (3, 5)), (6, (2, 3, 4)), (3, (13,)), (5, (2, 2, 5)), (7, (4, 5)), (4, (2, 9)))
_EXACT = 1e-7


@dataclass(frozen=True)
class Unveiled:
    """What was found.

    Attributes:
        process: ``"forward"`` or ``"backward"``, or ``""`` if no case could be judged.
        reduction: how the loss depends on the batch size: ``"mean"``, ``"sum"`` or ``""``.
        directions: the gradient's coefficients, per sample (the batch reduction taken out).
        residual: the largest part of a gradient that no direction explains, relative to its norm.
        gradient, target: as expressions, with weight 1/2; ``None`` where a coefficient was not recognised.
        moving: whether the target moves with v_theta; a fixed one is an off-policy attraction.
        clip: fraction of samples beyond a clip whose gradient vanishes, or ``None`` without a ratio.
        matches: declarations of the catalogue with exactly this gradient.
    """

    name: str
    process: str
    reduction: str = ""
    directions: tuple[Direction, ...] = ()
    residual: float = 0.0
    gradient: sp.Expr | None = None
    target: sp.Expr | None = None
    moving: bool = True
    clip: float | None = None
    matches: tuple[str, ...] = ()
    reason: str = ""


_FORWARD = ("diffusion_nft[adaptive-reference]", "awm[clipped-reference]", "awm[reference]", "rwr")
_BACKWARD = ("flow_grpo[kl]", "grpo_guard[kl]")


def _derivations(process: str, sde: str = "flow") -> list[Derivation]:
    labels = _FORWARD if process == "forward" else _BACKWARD
    chosen = [e.derivation for label in labels for e in CATALOGUE if e.label == label]
    if process == "backward" and sde != "flow":
        chosen = [Conventions("flow_grpo", options={"sde": sde, "kl": "step"}).derivation]
    return chosen


def universal_case(process: str, spec: Spec, sde: str = "flow") -> Case:
    """A case with every quantity that losses of a process use, consistent among themselves."""
    family = _derivations(process, sde)
    names = list(dict.fromkeys(name for d in family for name in d.given))
    given = draw_given(family[0], spec, names)
    if process == "forward":
        r = given["reward_prob"]
        assert isinstance(r, Tensor)
        given["advantage"] = 2 * r - 1
    quantities: dict[str, Tensor | float] = {}
    for d in reversed(family):
        part = complete(d, {name: given[name] for name in d.given})
        quantities |= {name: getattr(part, name) for name in part.names}
    if process == "forward":
        t, x_0, noise = (given[name] for name in ("t", "x_0", "noise"))
        assert isinstance(t, Tensor)
        column = t.reshape(-1, *(1,) * len(spec.latent))
        quantities["x_t"] = (1 - column) * x_0 + column * noise
        quantities["timestep"] = 1000 * t
    else:
        quantities["t_prev"] = quantities["t"] - quantities["dt"]
        quantities["timestep"] = 1000 * quantities["t"]
        quantities["clip_range"] = quantities["clip_high"]
    return Case(f"unveil[{process}]", quantities)


def unveil(function: Callable[[Case], Any], name: str, timeout: float = 60.0) -> Unveiled:
    """Find out what a loss optimises, from its gradients alone.

    Raises:
        AdapterError: it could be judged in neither process.
    """
    reasons = []
    for process in ("backward", "forward"):
        try:
            return _unveil(Adapter(function, name, "mean", timeout), process)
        except AdapterError as error:
            reasons.append(f"{process}: {error}")
    raise AdapterError("it could be called in neither process. " + "; ".join(reasons))


def _unveil(adapter: Adapter, process: str) -> Unveiled:
    cases = [universal_case(process, Spec(b, latent, 50 + i, policy="near", advantage="typical", time="middle"))
             for i, (b, latent) in enumerate(_SHAPES)]  # fmt: skip
    cases += [universal_case(process, Spec(b, latent, 80 + i, policy="off", advantage="typical", time="middle"))
              for i, (b, latent) in enumerate(_SHAPES)]  # fmt: skip
    gradients = [_per_sample_gradient(adapter, case) for case in cases]
    samples = [s for case, g in zip(cases, gradients, strict=True) for s in decompose(case, g)]
    if not samples:
        return Unveiled(adapter.name, process, reason="no gradient reaches v_theta")
    exact = [s for s in samples if s.residual < _EXACT]
    residual = max(s.residual for s in samples)
    found = directions(exact) if len(exact) == len(samples) else []
    gradient = _expression(found)
    reduction = ""
    if gradient is not None:
        power = sp.degree(gradient.subs(B, 1 / sp.Symbol("_b")), sp.Symbol("_b")) if gradient.has(B) else 0
        reduction = "mean" if power == 1 else "sum" if power == 0 else ""
        gradient = sp.expand(gradient * B) if reduction == "mean" else gradient
        gradient = sum((sp.factor_terms(x) for x in sp.Add.make_args(gradient)), sp.S.Zero) if gradient != 0 else gradient
        gradient = _expression(found, B if reduction == "mean" else sp.S.One)
    target = None if gradient is None else n.v_theta - gradient
    matches = tuple(_matches(cases, gradients))
    return Unveiled(
        name=adapter.name,
        process=process,
        reduction=reduction,
        directions=tuple(found),
        residual=residual,
        gradient=gradient,
        target=target,
        moving=not _is_fixed(gradient),
        clip=_clip(adapter, process),
        matches=matches,
        reason="" if gradient is not None else _why_not(found, residual),
    )


def _per_sample_gradient(adapter: Adapter, case: Case) -> Tensor:
    return adapter.observe(case).gradient


def _expression(found: list[Direction], times: sp.Expr = sp.S.One) -> sp.Expr | None:
    """The gradient as an expression, if every coefficient was recognised."""
    if not found or any(d.formula is None for d in found):
        return None
    by_name = dict(DIRECTIONS)
    return sp.Add(*(times * d.formula * by_name[d.name] for d in found))


def _is_fixed(gradient: sp.Expr | None) -> bool:
    """Whether the gradient is w(v_theta − fixed point): then v_theta's own coefficient is free of rewards and signs."""
    if gradient is None:
        return False
    own = sp.expand(gradient).coeff(n.v_theta)
    return own != 0 and own.is_positive is True


def _why_not(found: list[Direction], residual: float) -> str:
    if residual > 1e-6:
        return (
            f"none: up to {residual:.0%} of a sample's gradient lies outside the field's directions, "
            "so it is no loss of this family (or it depends on other samples)"
        )
    unknown = ", ".join(d.name for d in found if d.formula is None)
    return f"the gradient lies on the field's directions, but its coefficient on {unknown} is no monomial in the problem's scalars"


def _clip(adapter: Adapter, process: str) -> float | None:
    """How many samples far beyond a clip have no gradient; None if all have one, in a process without a clip."""
    off = total = 0
    for seed in range(4):
        case = universal_case(process, Spec(8, (3, 4), seed, policy="off" if process == "forward" else "far", advantage="typical", time="middle"))
        if "ratio" not in case.names:
            return None
        gradient = adapter.observe(case).gradient.flatten(1)
        beyond = (case.ratio > 1.3) & (case.advantage > 0) | (case.ratio < 0.7) & (case.advantage < 0)
        off += int((beyond & (gradient == 0).all(1)).sum())
        total += int(beyond.sum())
    return off / total if total else None


def _matches(cases: list[Case], gradients: list[Tensor]) -> list[str]:
    """Declarations of the catalogue whose gradient is this one, up to rounding."""
    out = []
    for entry in CATALOGUE:
        options = dict(entry.derivation.variant.options)
        for reduction in ("mean", "sum"):
            conventions = Conventions(entry.symbolic.NAME, options=options, batch_reduction=reduction)
            if any(name not in cases[0].names and name != "D" for name in conventions.derivation.given):
                break
            if all(_agrees(conventions, case, g) for case, g in zip(cases, gradients, strict=True)):
                out.append(f"{entry.label}, batch_reduction={reduction!r}")
    return out


def _agrees(conventions: Conventions, case: Case, gradient: Tensor) -> bool:
    wanted = reference(conventions, case)
    return compare(gradient, wanted.gradient, 1e3 * wanted.scale + 1e-300, torch.float64).holds


def unveiled_text(found: Unveiled) -> str:
    """The finding in plain text, with LaTeX beside it."""
    lines = [found.name]
    if found.reason:
        lines.append(f"  {found.reason}")
    if found.process:
        lines.append(f"  process    {found.process}")
    if found.gradient is not None and found.target is not None:
        per = {"mean": " (per sample; the batch is averaged)", "sum": " (per sample; the batch is summed)"}.get(found.reduction, "")
        lines += [f"  gradient   {text(found.gradient)}{per}", f"             {latex(found.gradient)}"]
        lines += [f"  target     {text(found.target)}   (weight 1/2)", f"             {latex(found.target)}"]
        lines.append("  policy     " + ("the target moves with v_θ: on-policy in kind" if found.moving else "the target is a fixed point: a trust region holds v_θ there"))
    elif found.directions:
        lines += [f"  {d.name:12} {d.text}" for d in found.directions]
    if found.clip is not None:
        lines.append("  clip       " + ("none seen" if found.clip == 0 else f"{found.clip:.0%} of the samples far beyond a PPO clip have no gradient"))
    lines.append("  catalogue  " + ("; ".join(found.matches) if found.matches else "none: no entry has this gradient"))
    return "\n".join(lines)
