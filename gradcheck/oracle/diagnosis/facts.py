r"""What is known of a wrong gradient that no cause explains: on whose quantities it depends, and where it is wrong."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from derivations.notation import quantity
from derivations.writing.render import text
from gradcheck.case import Case
from gradcheck.oracle.diagnosis.evidence import Evidence, lengths, rows_of
from gradcheck.oracle.diagnosis.own_quantities import along_directions, own_that_matter
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.problem import effective_case
from gradcheck.problems.building import complete
from gradcheck.reading.xray import decompose

__all__ = ["facts", "others_that_matter", "right_in_rows"]

_TIMES = ("t", "dt", "alpha_bar", "alpha_bar_prev")
_ALONG = ("t_prev", "timestep", "step_index")


def facts(judge: Judge, evidence: list[Evidence]) -> list[str]:
    """True sentences about the wrong gradient, the most telling first; each was tried, none is a guess."""
    found = []
    others = others_that_matter(judge, evidence)
    if others:
        found.append(f"a sample's gradient depends on the other samples' {_listed(others)}")
    where = _which_samples(evidence)
    coordinates = "" if others else _which_coordinates(evidence)
    if where and not coordinates:
        found.append(where)
    if not others:
        if coordinates:
            found.append(coordinates)
        elif _right_direction(evidence):
            found.append("each sample's gradient has the right direction and a wrong length")
        else:
            along = along_directions(evidence)
            found += [along] if along else []
        own = () if coordinates else own_that_matter(judge, evidence)
        if own:
            found.append(f"by how much it is off depends on the sample's own {_listed(own)}")
    return found


def others_that_matter(judge: Judge, evidence: list[Evidence]) -> tuple[str, ...]:
    """On which quantities of the *other* samples a sample's gradient depends: all others are given one sample's."""
    e = max(evidence, key=lambda x: (bool(x.wrong.any()), len(x.case.output)))
    case, batch = e.case, len(e.case.output)
    if batch < 3:
        return ()
    kept = int(lengths(rows_of(e.observed).nan_to_num(0.0, 0.0, 0.0)).argmax())
    rest = [i for i in range(batch) if i != kept]
    # … or its own: of the largest advantage the rank stays, whichever of the smaller ones all others have
    orders = [[kept if i == kept else which for i in range(batch)] for which in (*rest[:2], kept)]
    found = []
    derivation = judge.conventions.derivation
    names = [x for x in derivation.given if _per_sample(case, x)]
    groups = [x for x in names if x not in _TIMES]
    own = rows_of(e.observed)[kept : kept + 1]
    for group in ([tuple(x for x in names if x in _TIMES)] if any(x in _TIMES for x in names) else []) + [
        (x,) for x in groups
    ]:
        seen = [
            rows_of(judge.observe(_exchanged(judge, case, group, order)).gradient)[kept : kept + 1] for order in orders
        ]
        bound = max(e.equal, 1e-9) * float(lengths(own)[0]) + 4 * float(e.rounding[kept])
        if any(not bool(x.isfinite().all()) or float(lengths(x - own)[0]) > bound for x in seen):
            found.append(" and ".join(text(quantity(x).symbol) for x in group))
    return tuple(found)


def _per_sample(case: Case, name: str) -> bool:
    value = getattr(case, name)
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == len(case.output)


def _exchanged(judge: Judge, case: Case, group: tuple[str, ...], order: list[int]) -> Case:
    """The case with some quantities exchanged among samples; what follows from them is computed anew."""
    derivation = judge.conventions.derivation
    moved = {*group, *(_ALONG if any(x in _TIMES for x in group) else ())}
    given: dict[str, Tensor | float] = {}
    extra: dict[str, Tensor | float] = {}
    for name in case.names:
        value = getattr(case, name)
        value = value.detach() if isinstance(value, Tensor) else value
        value = value[order] if name in moved else value
        if name in derivation.given:
            given[name] = value
        elif name not in derivation.defined:
            extra[name] = value
    return complete(derivation, given, case.output.device, extra)


def _which_samples(evidence: list[Evidence]) -> str:
    """Whether the samples that are wrong are those of one kind."""
    rows: list[tuple[bool, Mapping[str, bool]]] = []
    for e in evidence:
        kinds = _kinds(e)
        for i in range(len(e.case.output)):
            if bool(e.undecided[i]) or not bool(rows_of(e.observed)[i].isfinite().all()):
                continue
            rows.append((bool(e.wrong[i]), {name: bool(x[i]) for name, x in kinds.items()}))
    wrong = [kinds for is_wrong, kinds in rows if is_wrong]
    right = [kinds for is_wrong, kinds in rows if not is_wrong]
    if len(wrong) < 3 or len(right) < 3:
        return ""
    names = [name for name in wrong[0] if all(name in k for k in (*wrong, *right))]
    for name in names:
        if all(k[name] for k in wrong) and not any(k[name] for k in right):
            return f"it is wrong exactly for samples {name}"
    for name in names:
        if all(k[name] for k in wrong) and sum(not k[name] for k in right) >= 3:
            return f"it is wrong only for samples {name}"
    return ""


def _kinds(e: Evidence) -> dict[str, Tensor]:
    """Kinds of samples, by how one says it."""
    case, out = e.case, {}
    batch = len(case.output)

    def of(name: str) -> Tensor | None:
        return getattr(case, name).detach().cpu() if name in case.names else None

    a, r = of("advantage"), of("ratio")
    silent = lengths(rows_of(e.required)) <= e.rounding
    if a is not None and a.shape == (batch,):
        out["with A < 0"], out["with A > 0"] = a < 0, a > 0
        out["without an advantage, A = 0"] = a == 0
    if r is not None and r.shape == (batch,):
        out["with a ratio above 1"], out["with a ratio below 1"] = r > 1, r < 1
        if a is not None:
            out["with A > 0 and a ratio above 1"] = (a > 0) & (r > 1)
            out["with A > 0 and a ratio below 1"] = (a > 0) & (r < 1)
            out["with A < 0 and a ratio above 1"] = (a < 0) & (r > 1)
            out["with A < 0 and a ratio below 1"] = (a < 0) & (r < 1)
    out["whose required gradient is 0 (the clip or the mask is active, or A = 0)"] = silent
    if bool((e.wrong & ~silent).any()) and not _right_direction([e]):
        out["whose required gradient is not 0"] = ~silent
    return out


def _which_coordinates(evidence: list[Evidence]) -> str:
    """Whether every coordinate is the required one times a number of its own, and which coordinates are off."""
    wrong = [e for e in evidence if bool(e.wrong.any())]
    shares = [_coordinate_factors(e) for e in wrong if int(e.wrong.sum()) > 1]
    if shares and all(s is not None for s in shares):
        found = [s for s in shares if s is not None]
        where = _indices(found, 1.0)
        if all(bool((s.abs() < 1e-12).any()) for s in found):
            return f"the coordinates {_indices(found, None)} have no gradient; the others are scaled alike"
        values = torch.cat([s[(s - 1).abs() > 1e-9] for s in found])
        if len(values) and float(values.max() - values.min()) <= 1e-6 * float(values.abs().max()):
            much = "no gradient" if abs(float(values[0])) < 1e-12 else f"{float(values[0]):.7g} times the required one"
            return f"the coordinates {where} have {much}, in every sample; the others are right"
        return f"each coordinate {where} is the required one times a number of its own, the same in every sample"
    if wrong and _rowwise(wrong) and _off_the_directions(wrong):
        return (
            "each coordinate is the required one times a number of its own, which differs from sample to sample: "
            "something is decided or weighed coordinate by coordinate"
        )
    return ""


_FEWEST = 10
"""Coordinates on which the field's directions are no basis of everything."""


def _off_the_directions(evidence: list[Evidence]) -> bool:
    """Whether no sum of the field's directions, with any weights, is the gradient of any wrong sample.

    A mistake in a sample's own numbers keeps to the directions, however close to the required gradient it is.
    """
    told = 0
    for e in evidence:
        if e.case.output[0].numel() < _FEWEST:
            continue
        for sample in decompose(effective_case(e.conventions, e.case), e.observed):
            if bool(e.wrong[sample.row]):
                told += 1
                if sample.residual < max(1e-6, 1e3 * e.equal):
                    return False
    return told > 0


def _coordinate_factors(e: Evidence) -> Tensor | None:
    """Observed over required, per coordinate, where all wrong samples agree on it; of the latent's shape."""
    rows = e.wrong.nonzero().flatten()
    seen, wanted = rows_of(e.observed)[rows], rows_of(e.required)[rows]
    noise = e.rounding[rows][:, None]
    if bool((wanted.abs() <= noise).all(0).any()) or len(rows) < 2:
        return None
    known = wanted.abs() > noise
    factors = torch.where(known, seen / torch.where(known, wanted, 1.0), torch.nan)
    mean = factors.nanmean(0)
    slack = 1e-9 + 1e-7 * mean.abs() + (noise / wanted.abs().clamp(min=1e-300)).nan_to_num(0.0, 0.0, 0.0)
    if bool(((factors - mean).abs() > slack).any()) or float(mean.max() - mean.min()) <= 4 * e.equal * float(
        mean.abs().max()
    ):
        return None
    return mean.reshape(e.case.output.shape[1:])


def _indices(found: list[Tensor], usual: float | None) -> str:
    """Where the coordinates are whose factor is not the usual one (that of most, if it isn't given).

    An index of an axis, if it is the same in every rank.
    """
    found = [f / (usual or float(f.median() or 1.0)) for f in found]
    for axis, word in ((-1, "last"), (0, "first")):
        for index, place in ((0, "first"), (-1, "last")):
            if all(_only_there(f, axis, index) for f in found):
                return f"at the {place} index of the {word} axis"
    if all(_only_there(f.flatten(), 0, 0) for f in found):
        return "that come first"
    share = max(float(((f - 1).abs() > 1e-9).to(torch.float64).mean()) for f in found)
    return f"(up to {share:.0%} of them)" if share < 1 else "of a sample"


def _only_there(factors: Tensor, axis: int, index: int) -> bool:
    off = (factors - 1).abs() > 1e-9
    there = torch.zeros_like(off)
    there.select(axis, index).fill_(True)
    return bool((off == there).all())


def _rowwise(evidence: list[Evidence]) -> bool:
    """Whether every coordinate of the wrong samples has the required one's sign, or none."""
    for e in evidence:
        seen, wanted = rows_of(e.observed), rows_of(e.required)
        for i in e.wrong.nonzero().flatten().tolist():
            if float((seen[i] * wanted[i]).min()) < -float(e.rounding[i]) * float(wanted[i].abs().amax()):
                return False
    return True


def _right_direction(evidence: list[Evidence]) -> bool:
    for e in evidence:
        seen, wanted = rows_of(e.observed), rows_of(e.required)
        for i in e.wrong.nonzero().flatten().tolist():
            size = float(lengths(wanted[i : i + 1]))
            if size <= float(e.rounding[i]):
                return False
            c = float(seen[i] @ (wanted[i] / size)) / size  # the square of a tiny size would be 0
            if float((seen[i] - c * wanted[i]).norm()) > e.equal * abs(c) * size + float(e.rounding[i]):
                return False
    return True


def right_in_rows(judge: Judge, e: Evidence, axes: int = 1) -> bool:
    """Whether the same numbers as rows (B, D) give the required gradient, so that the layout is what is wrong.

    With two ``axes``, as latents (B, D, 1).
    """
    case = e.case
    shape = case.output.shape
    rows = {
        name: getattr(case, name).detach().reshape(shape[0], -1, *(1,) * (axes - 1))
        for name in case.names
        if isinstance(getattr(case, name), Tensor) and getattr(case, name).shape == shape
    }
    rows[case.output_name] = rows[case.output_name].clone().requires_grad_()
    seen = judge.observe(case.replace(**rows)).gradient.reshape(shape)
    return bool(e.explained_by(seen).all())


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
