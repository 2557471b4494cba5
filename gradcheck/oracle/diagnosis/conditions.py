"""Right under other conditions: to the digits of a lower precision, or for latents of some ranks alone."""

from __future__ import annotations

from dataclasses import replace

import torch

from gradcheck.devices import DtypeName
from gradcheck.judging.results import Diagnosis
from gradcheck.oracle.diagnosis.evidence import Evidence, lengths, rows_of
from gradcheck.oracle.diagnosis.facts import right_in_rows
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.required import required_of
from gradcheck.oracle.roughness import roughness

__all__ = ["cast_in_each_place", "lower_precision", "one_layout"]


def lower_precision(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """Right to a few digits, within the error bound of a lower precision."""
    evidence = [e for e in evidence if e.slack == 1]  # an extreme problem may leave that precision nothing
    distances = []
    for e in evidence:
        seen, wanted = rows_of(e.observed), rows_of(e.required)
        size = lengths(wanted)
        both = (size > e.rounding) & (lengths(seen) > e.rounding)
        distances.append((lengths(seen - wanted) / size)[both])
    relative = torch.cat(distances)
    if len(relative) == 0 or not 1e-10 < float(relative.median()) < 0.1 or float(relative.quantile(0.75)) > 0.3:
        return None
    coarser: dict[DtypeName, float] = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.1}
    for dtype, most in coarser.items():
        lower = replace(judge.conventions, working_dtype=dtype)
        if float(relative.median()) > most or not all(
            required_of(lower, e.case).compare(e.observed).holds for e in evidence
        ):
            continue
        if not _rounds(judge, evidence, getattr(torch, dtype)):
            continue
        digits = f"right to a relative {float(relative.median()):.1g} in the median"
        if dtype == "float32":
            cause = f"{digits}, as float32 is: the implementation casts to it inside"
            return Diagnosis("convention:working_dtype", cause, "working_dtype='float32'")
        return Diagnosis(
            "half-precision", f"{digits}, as {dtype} is: part of it has that precision (or a small ε is added)"
        )
    return None


def cast_in_each_place(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """Within the rounding of several half-precision gradients, which are off to either side alike."""
    if judge.conventions.output_dtype is None or judge.conventions.output_casts == "each":
        return None
    each = replace(judge.conventions, output_casts="each")
    if not all(required_of(each, e.case).compare(e.observed).holds for e in evidence):
        return None
    sides = [torch.sign((rows_of(e.observed) - rows_of(e.required)) * rows_of(e.required)).flatten() for e in evidence]
    signs = torch.cat(sides)
    signs = signs[signs != 0]
    if len(signs) == 0 or abs(float(signs.sum())) > 3 * len(signs) ** 0.5:
        return None  # a factor is off to one side
    cause = "off by what several roundings leave: the output is cast up anew in each place that reads it"
    return Diagnosis("convention:output_casts", cause, "output_casts='each'")


def _rounds(judge: Judge, evidence: list[Evidence], dtype: torch.dtype) -> bool:
    """Whether the errors are rough, as that precision's rounding is: on the first problems that show any."""
    wrong = [e for e in evidence if bool(e.wrong.any())]
    return all(roughness(judge, e.case, dtype, seen=True).is_rounding for e in wrong[:3])


def one_layout(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """Right for latents of one rank, wrong for those of another."""
    if judge.conventions.latent_axes or judge.conventions.latents or judge.latent:
        return None
    evidence = [e for e in evidence if e.slack == 1]  # the printed problem may be wrong for what else it is
    ranks = {len(e.spec.latent) for e in evidence}
    wrong = {len(e.spec.latent) for e in evidence if bool((e.wrong | ~rows_of(e.observed).isfinite().all(1)).any())}
    right = ranks - wrong
    if not right or not wrong:
        return None
    told = [e for e in evidence if bool(e.wrong.any()) and len(e.spec.latent) > 1]
    if not all(right_in_rows(judge, e) for e in told):
        return None
    names = {1: "(B, D)", 2: "(B, S, C)", 3: "(B, C, H, W)", 4: "(B, C, T, H, W)"}
    listed = ", ".join(names[r] for r in sorted(wrong))
    kept = ", ".join(names[r] for r in sorted(right))
    return Diagnosis(
        "layout", f"right for latents {kept} and wrong for {listed}: a reshape or broadcast for one layout"
    )
