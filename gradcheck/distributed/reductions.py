r"""What may be done to gradients on their way over the ranks that is no weighting of the samples.

A maximum in the place of the sum, a reduction of some parameters alone, a rounding to half precision, a clip of each
component or of each rank's own gradient.  Each is told only where it explains every problem, right ones too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from gradcheck.distributed.evidence import Evidence
from gradcheck.distributed.required import weights
from gradcheck.judging.results import Diagnosis
from gradcheck.rounding.bounds import THRESHOLD

__all__ = ["otherwise_reduced"]


def otherwise_reduced(evidence: Sequence[Evidence]) -> Diagnosis | None:
    """What explains all problems; ``None`` if nothing here does."""
    if not all(bool(e.observed.isfinite().all()) for e in evidence):
        return None
    finders = (_by_extremes, _some_parameters, _values_clipped, _clipped_on_each_rank, _in_half_precision)
    return next((found for find in finders if (found := find(evidence)) is not None), None)


def _locals(e: Evidence) -> Iterator[tuple[str, Tensor]]:
    """What each rank may have had before the reduction, (W, P): its share of the sum, or as DDP wants it."""
    layout, law = e.law.problem.layout, e.law
    ranks = len(layout.sizes)
    own = torch.arange(ranks)[:, None] == layout.rank[None]
    for name, each in (
        ("share", law.weights),
        ("share of an average", ranks * law.weights),
        ("mean", ranks * weights(layout, "ranks")),
    ):
        yield name, (own * each) @ law.contributions


def _allowed(e: Evidence, scale: float = 1.0) -> Tensor:
    """How far rounding may put a component off, (P,), of gradients so many times as large."""
    return THRESHOLD * e.law.u * scale * (e.law.weights.abs() @ e.law.errors)


def _near(e: Evidence, predicted: Tensor, scale: float = 1.0) -> bool:
    return bool(((e.observed - predicted).abs() <= _allowed(e, scale)).all())


def _every(evidence: Sequence[Evidence]) -> Iterator[tuple[str, list[Tensor]]]:
    """The same kind of local gradient for every problem."""
    for kinds in zip(*(list(_locals(e)) for e in evidence), strict=True):
        yield kinds[0][0], [own for _, own in kinds]


def _by_extremes(evidence: Sequence[Evidence]) -> Diagnosis | None:
    """Component by component the largest or the least of the ranks' gradients."""
    ranks = len(evidence[0].observed)
    for _, locals_ in _every(evidence) if ranks > 1 else ():
        for word, operation, reduce in (("largest", "MAX", torch.amax), ("least", "MIN", torch.amin)):
            if all(_near(e, reduce(own, 0), ranks) for e, own in zip(evidence, locals_, strict=True)):
                cause = (
                    f"component by component the {word} of the ranks' gradients is taken (ReduceOp.{operation}); they "
                    "must be added up"
                )
                return Diagnosis("reduced-by-extremes", cause)
    return None


def _some_parameters(evidence: Sequence[Evidence]) -> Diagnosis | None:
    """Some parameters have another gradient than the others: each rank's own, none, or a multiple."""
    groups: dict[str, list[str]] = {}
    first = evidence[0]
    ranks = len(first.observed)
    what: Mapping[str, str] = {
        "reduced": "the required gradient",
        "own share of an average": "each rank's own gradient: no reduction reaches them",
        "own share": "each rank's own share: no reduction reaches them",
        "summed": f"{ranks} times the required one: summed over the ranks, not averaged",
        "averaged": f"the required one over {ranks}: averaged over the ranks once too often",
        "none": "no gradient",
    }
    at = 0
    for name, shape in first.law.names.items():
        size = torch.Size(shape).numel()
        fits = [how for how in what if all(_fits(e, how, slice(at, at + size)) for e in evidence)]
        if not fits:
            return None
        groups.setdefault(fits[0], []).append(name)
        at += size
    if len(groups) < 2:
        return None
    apart = {how: names for how, names in groups.items() if how != "reduced"}
    told = "; ".join(f"{len(names)} ({_listed(names)}) have {what[how]}" for how, names in apart.items())
    rest = ", and the others are right" if "reduced" in groups else ""
    return Diagnosis("parameters-apart", f"of {len(first.law.names)} parameters {told}{rest}")


def _fits(e: Evidence, how: str, part: slice) -> bool:
    ranks = len(e.observed)
    wanted = (e.law.weights @ e.law.contributions)[None]
    named = dict(_locals(e))
    predicted, scale = {
        "reduced": (wanted, 1.0),
        "own share": (named["share"], 1.0),
        "own share of an average": (named["share of an average"], float(ranks)),
        "summed": (ranks * wanted, float(ranks)),
        "averaged": (wanted / ranks, 1.0),
        "none": (torch.zeros_like(wanted), 1.0),
    }[how]
    return bool(((e.observed - predicted).abs() <= _allowed(e, scale))[:, part].all())


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _values_clipped(evidence: Sequence[Evidence]) -> Diagnosis | None:
    """A plateau at the largest magnitude, and what is required elsewhere."""
    top = max(float(e.observed.abs().max()) for e in evidence if e.wrong)
    if top == 0:
        return None
    plateau = sum(int((e.observed[0].abs() >= top * (1 - 1e-6)).sum()) for e in evidence)
    if plateau < 2 or not all(_near(e, (e.law.weights @ e.law.contributions).clamp(-top, top)) for e in evidence):
        return None
    cause = f"every component has been clipped to ±{top:.4g}: return before clip_grad_value_()"
    return Diagnosis("value-clipped", cause)


def _clipped_on_each_rank(evidence: Sequence[Evidence]) -> Diagnosis | None:
    """Each rank's own gradient shortened to one norm before the sum."""
    ranks = len(evidence[0].observed)
    for kind, locals_ in _every(evidence) if ranks > 1 else ():
        lengths, shortened = [], 0
        for e, own in zip(evidence, locals_, strict=True):
            total = e.observed[0] * (1 if kind == "share" else ranks)
            factors = torch.linalg.lstsq(own.T, total[:, None]).solution[:, 0]
            if bool((factors > 1 + 1e-3).any()) or bool((factors <= 0).any()):
                break
            if not _near(e, factors @ own / (1 if kind == "share" else ranks), ranks):
                break
            norms = factors * torch.linalg.vector_norm(own, dim=1)
            lengths += norms[factors < 1 - 1e-3].tolist()
            shortened += int((factors < 1 - 1e-3).sum())
        else:
            if shortened > 1 and max(lengths) <= (1 + 1e-3) * min(lengths):
                cause = f"each rank's own gradient has been clipped to the norm {max(lengths):.4g} before the reduction"
                return Diagnosis("norm-clipped-per-rank", cause)
    return None


def _in_half_precision(evidence: Sequence[Evidence]) -> Diagnosis | None:
    """Right to half precision, and rough."""
    for dtype in (torch.float16, torch.bfloat16):
        limits = torch.finfo(dtype)
        for e in evidence:
            size = sum(own.abs().sum(0) for _, own in list(_locals(e))[1:2])
            off = (e.observed - (e.law.weights @ e.law.contributions)).abs()
            if not bool((off <= 2 * limits.eps * size + limits.smallest_normal * limits.eps + _allowed(e)).all()):
                break
            if e.wrong and not _rough(e):
                break
        else:
            name = str(dtype).removeprefix("torch.")
            cause = (
                f"the gradient is right to the precision of {name}, and rough as its numbers are: it is computed, "
                f"reduced or stored in {name}"
            )
            return Diagnosis("half-precision", cause)
    return None


def _rough(e: Evidence) -> bool:
    """Whether errors have both signs beside their components, as roundings do."""
    wanted = e.law.weights @ e.law.contributions
    error = (e.observed - wanted) * wanted.sign()
    far = error.abs() > _allowed(e)
    return bool(far.any()) and 0.1 < float((error[far] > 0).to(torch.float64).mean()) < 0.9
