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

__all__ = ["otherwise_reduced"]


def otherwise_reduced(evidence: Sequence[Evidence]) -> Diagnosis | None:
    """What explains all problems; ``None`` if nothing here does."""
    if not all(bool(e.observed.isfinite().all()) for e in evidence):
        return None
    finders = (_by_extremes, _some_parameters, _values_clipped, _clipped_on_each_rank, _in_half_precision)
    return next((found for find in finders if (found := find(evidence)) is not None), None)


def _own(e: Evidence) -> dict[str, Tensor]:
    """What each rank may have before the reduction, (W, P): its share of the sum, that of an average, or its mean."""
    layout, law = e.law.problem.layout, e.law
    ranks = len(layout.sizes)
    own = torch.arange(ranks)[:, None] == layout.rank[None]
    kinds = {
        "share": law.weights,
        "share of an average": ranks * law.weights,
        "mean": ranks * weights(layout, "ranks"),
    }
    return {kind: (own * each) @ law.contributions for kind, each in kinds.items()}


def _near(e: Evidence, predicted: Tensor, scale: float = 1.0) -> Tensor:
    """Where a prediction, of gradients so many times as large as the required one, is what was observed, (W, P)."""
    return (e.observed - predicted).abs() <= scale * e.law.allowed(e.law.weights)


def _every(evidence: Sequence[Evidence]) -> Iterator[tuple[str, list[Tensor]]]:
    """The same kind of a rank's own gradient for every problem."""
    found = [_own(e) for e in evidence]
    for kind in found[0]:
        yield kind, [one[kind] for one in found]


def _by_extremes(evidence: Sequence[Evidence]) -> Diagnosis | None:
    """Component by component the largest or the least of the ranks' gradients."""
    ranks = len(evidence[0].observed)
    for _, own in _every(evidence) if ranks > 1 else ():
        for word, operation, reduce in (("largest", "MAX", torch.amax), ("least", "MIN", torch.amin)):
            if all(bool(_near(e, reduce(x, 0), ranks).all()) for e, x in zip(evidence, own, strict=True)):
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
    fits = [{how: _near(e, *_predicted(e, how)).all(0) for how in what} for e in evidence]
    at = 0
    for name, shape in first.law.names.items():
        part = slice(at, at + torch.Size(shape).numel())
        how = next((how for how in what if all(bool(x[how][part].all()) for x in fits)), None)
        if how is None:
            return None
        groups.setdefault(how, []).append(name)
        at = part.stop
    if len(groups) < 2:
        return None
    apart = {how: names for how, names in groups.items() if how != "reduced"}
    total = len(first.law.names)
    told = [f"{len(names)} of {total} parameters ({_listed(names)}) have {what[how]}" for how, names in apart.items()]
    rest = ["the others are right"] if "reduced" in groups else []
    return Diagnosis("parameters-apart", "; ".join([*told, *rest]))


def _predicted(e: Evidence, how: str) -> tuple[Tensor, float]:
    """A gradient, (W, P) or (P,), and how many times as large as the required one it may be."""
    ranks, wanted, own = len(e.observed), e.law.gradient, _own(e)
    return {
        "reduced": (wanted, 1.0),
        "own share": (own["share"], 1.0),
        "own share of an average": (own["share of an average"], float(ranks)),
        "summed": (ranks * wanted, float(ranks)),
        "averaged": (wanted / ranks, 1.0),
        "none": (torch.zeros_like(wanted), 1.0),
    }[how]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _values_clipped(evidence: Sequence[Evidence]) -> Diagnosis | None:
    """A plateau at the largest magnitude, and what is required elsewhere."""
    top = max(float(e.observed.abs().max()) for e in evidence if e.wrong)
    if top == 0:
        return None
    plateau = sum(int((e.observed[0].abs() >= top * (1 - 1e-6)).sum()) for e in evidence)
    if plateau < 2 or not all(bool(_near(e, e.law.gradient.clamp(-top, top)).all()) for e in evidence):
        return None
    cause = f"every component has been clipped to ±{top:.4g}: return before clip_grad_value_()"
    return Diagnosis("value-clipped", cause)


def _clipped_on_each_rank(evidence: Sequence[Evidence]) -> Diagnosis | None:
    """Each rank's own gradient shortened to one norm before the sum."""
    ranks = len(evidence[0].observed)
    for kind, own in _every(evidence) if ranks > 1 else ():
        divisor = 1 if kind == "share" else ranks
        found = [_shortened(e, x, divisor) for e, x in zip(evidence, own, strict=True)]
        if any(norms is None for norms in found):
            continue
        lengths = torch.cat([norms for norms in found if norms is not None])
        if len(lengths) > 1 and float(lengths.max()) <= (1 + 1e-3) * float(lengths.min()):
            norm = float(lengths.max())
            cause = f"each rank's own gradient has been clipped to the norm {norm:.4g} before the reduction"
            return Diagnosis("norm-clipped-per-rank", cause)
    return None


def _shortened(e: Evidence, own: Tensor, divisor: int) -> Tensor | None:
    """The norms of those that are shortened, if what was observed is a sum of the ranks' own gradients, none longer."""
    factors = torch.linalg.lstsq(own.T, divisor * e.observed[0][:, None]).solution[:, 0]
    if bool(((factors > 1 + 1e-3) | (factors <= 0)).any()):
        return None
    if not bool(_near(e, factors @ own / divisor, len(own)).all()):
        return None
    norms: Tensor = factors * torch.linalg.vector_norm(own, dim=1)
    return norms[factors < 1 - 1e-3]


def _in_half_precision(evidence: Sequence[Evidence]) -> Diagnosis | None:
    """Right to half precision, and rough."""
    for dtype in (torch.float16, torch.bfloat16):
        limits = torch.finfo(dtype)
        lost = 2 * limits.eps  # rounded on each rank, and their sum once more
        for e in evidence:
            size = _own(e)["share of an average"].abs().sum(0)
            allowed = lost * size + limits.smallest_normal * limits.eps + e.law.allowed(e.law.weights)
            if not bool(((e.observed - e.law.gradient).abs() <= allowed).all()) or (e.wrong and not _rough(e)):
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
    error = (e.observed - e.law.gradient) * e.law.gradient.sign()
    far = error.abs() > e.law.allowed(e.law.weights)
    return bool(far.any()) and 0.1 < float((error[far] > 0).to(torch.float64).mean()) < 0.9
