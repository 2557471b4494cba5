r"""Unveil: what does a loss that nobody has named really optimise?

The function is called on cases that hold every quantity of the notation that its process has.  Its gradient is
decomposed on the field's directions, the coefficients are recognised as formulas, which must hold on fresh cases too,
and the target follows (lemma L1).  Then the catalogue is asked whether it knows such a gradient.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import sympy as sp
import torch
from torch import Tensor

from derivations.calculus import ClipMask, Mask
from derivations.derivation import Derivation, Process
from derivations.grammar.kinks import is_kink
from derivations.steps.sde import StepName, step_with
from gradcheck.case import Case
from gradcheck.conventions import BatchReduction, Conventions
from gradcheck.devices import DtypeName
from gradcheck.judging.adapter import Adapter, AdapterError
from gradcheck.oracle.required import required_of
from gradcheck.problems.building import Spec
from gradcheck.reading.formulas import simple_number
from gradcheck.reading.xray import B
from gradcheck.rounding.compare import compare
from gradcheck.unveiling.assumed import Assumed
from gradcheck.unveiling.character import policy_of, target_of, trust_of
from gradcheck.unveiling.look import FLOAT64, Look, Reading, Term
from gradcheck.unveiling.stated import held_apart, state
from gradcheck.unveiling.universal import UNIVERSES, Universe, Watched, family
from gradcheck.unveiling.weights import said

__all__ = ["Term", "Unveiled", "unveil"]


@dataclass(frozen=True)
class Unveiled:
    """What was found.

    Attributes:
        name: of the function.
        process: ``"forward"`` or ``"backward"``, or ``"forward or backward"`` for a loss of what both have.
        sde: the reverse step on whose states it was looked at; empty for the forward process.
        terms: the gradient on the directions, per sample.
        residual: the largest part of a gradient that no direction explains, relative to its norm.
        gradient, weight, target: as expressions; ``None`` where a coefficient was not recognised.
        fixed: whether the target stays where it is when v_theta moves, as off-policy methods' does.
        policy: one of :data:`gradcheck.unveiling.character.POLICIES`; empty without a formula.
        trust: what holds v_theta back, in words; empty without a formula.
        clip: by which rule samples have no policy gradient, in words.
        clipped: fraction of samples with an advantage, far off-policy, whose policy gradient vanishes.
        reduction: ``"mean"`` if the loss is averaged over the batch, ``"sum"`` if it is summed, ``"none"`` if it is
            returned per sample.
        precision: ``"float64"``, or ``"float32"`` where formulas hold to that precision only.
        matches: entries of the catalogue with this gradient, as one declares them.
        reason: why there is no formula; empty if there is one.
        source: where the formulas are from, if they were not read off the numbers: the derivation whose gradient the
            code's was seen to be.
        derivation: that one.
        axes: how many axes its latents must have, besides the batch's, where it raises on others.
        ruled: whether a rule says which samples have no policy gradient.
        spanned: whether the directions hold the whole gradient.
    """

    name: str
    process: Process | Literal["forward or backward"]
    sde: StepName | Literal[""]
    terms: tuple[Term, ...]
    residual: float
    gradient: sp.Expr | None
    weight: sp.Expr | None
    target: sp.Expr | None
    fixed: bool
    policy: str
    trust: str
    clip: str
    clipped: float
    reduction: str
    precision: str
    matches: tuple[str, ...]
    reason: str
    source: str = ""
    derivation: Derivation | None = None
    axes: int | None = None
    ruled: bool = True
    spanned: bool = True


def unveil(
    function: Callable[[Case], Any], name: str, timeout: float = 60.0, assumed: Assumed | None = None
) -> Unveiled:
    """Find out what a loss optimises, from its gradients alone.

    Args:
        function: takes a case and returns the loss, one number or one a sample, differentiable in ``case.v_theta``.
        name: how the finding calls it.
        timeout: seconds that one call may take.
        assumed: what is known of it: numbers that it holds itself, its reverse step, its precision.

    Raises:
        AdapterError: it can be called in neither process, or returns no differentiable loss.
    """
    assumed = assumed or Assumed()
    if assumed.declared is not None and held_apart(assumed.declared):
        return _beside(function, name, timeout, assumed.declared)
    first: AdapterError | None = None
    for axes in (None, 3, 2, 4, 1):  # code for one rank of latents raises on others
        try:
            return replace(_read_off(function, name, timeout, assumed, axes), axes=axes)
        except AdapterError as error:
            first = first or error
    assert first is not None
    raise first


def _read_off(
    function: Callable[[Case], Any], name: str, timeout: float, assumed: Assumed, axes: int | None
) -> Unveiled:
    read: set[str] = set()
    looks: list[Look] = []
    problems: list[tuple[Universe, AdapterError]] = []
    for universe in _worlds(function, name, timeout, assumed, read, axes):
        try:
            world = replace(universe, numbers=assumed.numbers, declared=assumed.loss)
            looks.append(Look(function, name, timeout, world, assumed.unit))
        except AdapterError as error:
            problems.append((universe, error))
            continue
        found = _finding(looks[-1], looks[-1].monomials(), assumed)
        if found.matches or (found.gradient is not None and not looks[-1].doubtful):
            return _of_either(found, read)
    if not looks:
        raise AdapterError(_once(problems))
    # only then are functions tried: monomials in one process must not be forced into sums in another
    best = min(looks, key=lambda look: (not look.spanned, look.monomials().unknown, look.monomials().residual))
    return _of_either(_finding(best, best.functions() if best.spanned else best.monomials(), assumed), read)


_OF_BOTH = {
    *("v_theta", "v_old", "v_ref", "x_t", "t", "timestep", "sigmas", "step_index", "advantage", "D"),
    *("clip_low", "clip_high", "clip_range", "adv_clip_max", "kl_weight", "delta"),
}
"""Quantities that have one meaning in both processes; noise is the path's in one and the step's in the other."""


def _worlds(
    function: Callable[[Case], Any], name: str, timeout: float, assumed: Assumed, read: set[str], axes: int | None
) -> list[Universe]:
    """Where to look, the likeliest first; ``read`` is given what the loss asks for.

    A loss that asks for nothing which only a reverse step has is looked at on noised data first.  The stored
    log-probability is that of the declared reduction; where none is declared, both are tried.
    """
    admitted = [replace(u, axes=axes) for u in UNIVERSES if assumed.admits(u)]
    for universe in admitted:
        asked: set[str] = set()

        def noting(case: Case, asked: set[str] = asked) -> Any:
            return function(Watched(case, asked)).sum()

        try:
            world = replace(universe, numbers=assumed.numbers, declared=assumed.loss)
            Adapter(noting, name, "mean", timeout).observe(world.case(world.draw(_FIRST)))
        except AdapterError:
            continue
        read |= asked
        break
    if read and not read & _only("backward"):
        admitted.sort(key=lambda u: u.process != "forward")
    reductions: tuple[str, ...] = ("sum", "mean")
    if assumed.declared is not None:
        reductions = (assumed.declared.options.get("log_prob_reduction", "sum"),)
    if "log_prob_old" not in read:
        reductions = reductions[:1]
    return [
        replace(u, log_prob_reduction=x)
        for u in admitted
        for x in (reductions if u.process == "backward" else reductions[:1])
    ]


_FIRST = Spec(4, (3, 5), 50, policy="off", advantage="typical", time="middle")


def _only(process: Process) -> set[str]:
    """Names that only cases of one process hold."""
    held = {}
    for one in ("forward", "backward"):
        universe = next(u for u in UNIVERSES if u.process == one)
        held[one] = set(universe.case(universe.draw(_FIRST)).names)
    other = "forward" if process == "backward" else "backward"
    return held[process] - held[other]


def _of_either(found: Unveiled, read: set[str]) -> Unveiled:
    """A loss of quantities that both processes have, with one meaning, belongs to both."""
    if read and read <= _OF_BOTH and not found.matches:
        return replace(found, process="forward or backward", sde="")
    return found


def _finding(look: Look, reading: Reading, assumed: Assumed) -> Unveiled:
    pairs = [(t.formula, t.vector) for t in reading.terms if t.formula is not None]
    known = bool(pairs) and reading.unknown == 0 and reading.spanned
    mean = known and all(B not in (formula * B).free_symbols for formula, _ in pairs)
    terms = reading.terms
    if mean:
        terms = tuple(replace(t, formula=t.formula * B) for t in terms if t.formula is not None)
    terms = tuple(t if t.formula is None else replace(t, formula=assumed.named(said(t.formula))) for t in terms)
    pairs = [(t.formula, t.vector) for t in terms if t.formula is not None]
    gradient = weight = target = None
    fixed = False
    if known:
        gradient = sp.Add(*(formula * vector for formula, vector in pairs))
        weight, target, fixed = target_of(pairs)
    clip, ruled, clipped = look.clip(reading)
    matches = list(_matches(look, reading, assumed))
    found = Unveiled(
        name=look.adapter.name,
        process=look.universe.process,
        sde=look.universe.sde,
        terms=terms,
        residual=reading.residual,
        gradient=gradient,
        weight=weight,
        target=target,
        fixed=fixed,
        policy=policy_of(pairs) if known else "",
        trust=trust_of(pairs) if known else "",
        clip=clip,
        clipped=clipped,
        reduction="none" if look.per_sample else "mean" if mean else "sum" if known else "",
        precision="float32" if reading.unit > FLOAT64 else "float64",
        matches=tuple(match.words for match in matches),
        reason="" if known else _why_not(reading),
        ruled=ruled,
        spanned=reading.spanned,
    )
    return _derived(found, matches[0]) if matches and _says_more(matches[0].derivation, found) else found


def _says_more(d: Derivation, found: Unveiled) -> bool:
    """Whether a derivation tells what was not read off the numbers: a formula, or where the gradient vanishes."""
    masked = any(is_kink(m) or not isinstance(m, ClipMask) for m in d.gradient.atoms(Mask))
    return masked or found.gradient is None or not found.ruled


@dataclass(frozen=True)
class _Match:
    """A declaration whose gradient is the code's, up to a constant factor, and how one writes it."""

    words: str
    derivation: Derivation
    factor: sp.Expr
    reduction: BatchReduction


def _derived(found: Unveiled, match: _Match) -> Unveiled:
    """The same with the formulas of a derivation whose gradient the code's is, where none was read off the numbers."""
    d, c = match.derivation, match.factor
    target = d.target if c == 1 else d.output - c * (d.output - d.target)
    known = sp.sympify(d.inline(target))
    return replace(
        found,
        terms=(),
        gradient=c * d.gradient,
        weight=d.weight,
        target=target,
        fixed=not known.has(d.output),
        reduction=match.reduction,
        clip="",  # the gradient's own masks say where it vanishes
        reason="",
        source=match.words.partition(", batch_reduction")[0],
        derivation=d,
    )


def _beside(function: Callable[[Case], Any], name: str, timeout: float, declared: Conventions) -> Unveiled:
    """A loss that is declared for batches as its trainer holds them, beside that declaration."""
    seen = state(function, name, timeout, declared)
    d = declared.derivation
    step = step_with(d.coefficients) if d.process == "backward" else None
    found = Unveiled(
        name=name,
        process=d.process,
        sde="" if step is None else step.name,
        terms=tuple(
            Term(x.name, sp.S.Zero, x.formula, examples=tuple((v, {}) for v in x.values[:3])) for x in seen.terms
        ),
        residual=seen.residual,
        gradient=None,
        weight=None,
        target=None,
        fixed=False,
        policy="",
        trust="",
        clip="",
        clipped=0.0,
        reduction="",
        precision="float64",
        matches=(),
        reason=f"this is not the gradient of what is declared, on {seen.problems} problems; `gradcheck check` says why",
    )
    if seen.factor is None:
        return found
    words = f"as declared, {declared.algorithm}"
    whole = f"{words}, batch_reduction={declared.batch_reduction!r}"
    whole += "" if seen.factor == 1 else f", factor={float(seen.factor):.6g}"
    match = _Match(whole, d, seen.factor, declared.batch_reduction)
    return _derived(replace(found, matches=(whole,)), match)


def _once(problems: Sequence[tuple[Universe, AdapterError]]) -> str:
    """What went wrong in every process, each thing once, though numbers and the case's names differ."""
    told: dict[str, str] = {}
    for universe, error in problems:
        words = str(error).replace(f"unveil[{universe.process}]", "the case")
        kind = re.sub(r"[0-9.]+(e[-+]?[0-9]+)?", "#", words.partition("; it has")[0])
        head, has, names = words.partition("; it has")
        if kind not in told:
            told[kind] = head + (f"; in the {universe.process} process it has{names}" if has else "")
        elif has and f"in the {universe.process} process" not in told[kind]:
            told[kind] += f"; in the {universe.process} process it has{names}"
    hint = "; a declaration brings what else a loss rests on: --loss and --given, --algorithm, or gradcheck.conforms"
    return " / ".join(told.values()) + (hint if "has no quantity" in "".join(told) else "")


# --------------------------------------------------------------------------------------------- the verdict


def _matches(look: Look, reading: Reading, assumed: Assumed) -> Iterator[_Match]:
    """Declarations of the catalogue, and the function's own, whose gradient is this one, up to a constant factor."""
    universe, cases, gradients = look.universe, look.cases, look.gradients
    lower: DtypeName | None = "float32" if reading.unit > FLOAT64 else None
    known = [
        (e.label, Conventions(e.algorithm.name, options=dict(e.derivation.variant.options)))
        for e in family(universe.process, universe.sde)
    ]
    if assumed.declared is not None and assumed.declared.derivation.process == universe.process:
        own = replace(assumed.declared, batch_reduction="sum", factor=1.0)
        others = [(label, other) for label, other in known if replace(other, batch_reduction="sum") != own]
        known = [(f"as declared, {own.algorithm}", own), *others]  # and not once more by its label
    for label, conventions in known:
        if any(name not in cases[0].names for name in conventions.derivation.given):
            continue
        summed = replace(conventions, batch_reduction="sum", working_dtype=lower)
        if not _parallel(summed, cases[0], gradients[0], reading.unit):
            continue  # not even the direction is right
        factor = _constant_factor(summed, cases[0], gradients[0])
        over: tuple[tuple[BatchReduction, int], ...] = (("mean", cases[0].v_theta.shape[0]), ("sum", 1))
        for reduction, size in over:
            exact = simple_number(*(abs(factor) * size * (1 + s * 64 * reading.unit) for s in (-1, 1, 0)))
            times = float(exact) * (1 if factor > 0 else -1)
            scaled = replace(summed, batch_reduction=reduction, factor=times or 1.0)
            if all(_agrees(scaled, c, g) for c, g in zip(cases, gradients, strict=True)):
                how = "none" if look.per_sample else reduction
                words = f"{label}, batch_reduction={how!r}" + ("" if times == 1 else f", factor={times:.6g}")
                sign = 1 if factor > 0 else -1
                yield _Match(words, conventions.derivation, sign * sp.sympify(exact), how)


def _constant_factor(conventions: Conventions, case: Case, gradient: Tensor) -> float:
    wanted = required_of(conventions, case).gradient
    size = float((wanted * wanted).sum())
    return float((gradient * wanted).sum()) / size if size > 0 else 0.0


def _parallel(conventions: Conventions, case: Case, gradient: Tensor, unit: float) -> bool:
    wanted = required_of(conventions, case).gradient
    cosine = torch.nn.functional.cosine_similarity(gradient.flatten(), wanted.flatten(), dim=0)
    return float(cosine.abs()) > 1 - max(1e-6, 1e3 * unit)


def _agrees(conventions: Conventions, case: Case, gradient: Tensor) -> bool:
    wanted = required_of(conventions, case)
    slack = 1e3 if conventions.working_dtype is None else 4.0
    return compare(gradient, wanted.gradient, slack * wanted.scale + 1e-300, wanted.dtype).holds


def _why_not(reading: Reading) -> str:
    if not reading.terms:
        return "no gradient reaches v_theta"
    if not reading.spanned:
        return (
            f"none: up to {reading.residual:.2g} of a sample's gradient, relative to its length, lies outside the "
            "field's directions, so this is not a loss of this family (or it depends on other samples)"
        )
    unknown = ", ".join(t.direction for t in reading.terms if t.formula is None)
    return f"the gradient lies on the field's directions, but no formula was found for its coefficient on {unknown}"
