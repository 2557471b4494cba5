r"""Whether a sample's gradient is its own: alone, in another order, or in a part of the batch."""

from __future__ import annotations

from dataclasses import replace

import torch

from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.judging.results import Outcome
from gradcheck.oracle.arrangement import in_units, unit
from gradcheck.oracle.checks.twice import same_twice
from gradcheck.oracle.judge import (
    Judge,
    Look,
    compare_over,
)
from gradcheck.oracle.problem import per_sample
from gradcheck.oracle.required import Required, averaged_over, required_of


def companies(batch: int, size: int = 1) -> tuple[list[int], list[int]]:
    """The first sample, or unit of so many, among some of the others, and among the rest of them."""
    half = (batch // size + 1) // 2
    return in_units([*range(half)], size), in_units([0, *range(half, batch // size)], size)


def check_sample_independence(judge: Judge) -> Outcome:
    """The first sample in two companies, which share nothing but the time grid."""

    def one(case: Case) -> Look:
        first, second = (rows_of(case, rows) for rows in companies(len(case.output), judge.unit))
        before, after = (judge.observe(c).gradient for c in (first, second))
        alike = share_of(judge, second, first)
        wanted = judge.made(_in_first_company, case)
        return same_twice(judge, first, before, after[: judge.unit] * alike, [*range(judge.unit)], wanted)

    odd = (judge.unit * (2 * max(s.batch, 3) - 1) for s in judge.specs())
    specs = (replace(s, batch=n) for s, n in zip(judge.specs(policy="off", time="middle"), odd, strict=True))
    meaning = (
        "both are your gradient for the same sample: observed beside other samples than required"
        " (the batch is as large in both)"
    )
    return compare_over(judge, specs, one, at_least=3 * judge.unit, meaning=meaning)


def _in_first_company(conventions: Conventions, case: Case) -> Required:
    """What is required of the first company alone."""
    rows, _ = companies(len(case.output), unit(conventions))
    return required_of(conventions, rows_of(case, rows))


def rows_of(case: Case, rows: list[int]) -> Case:
    """Some samples of a case, as a case of their own."""
    return case.replace(**{n: getattr(case, n)[rows].detach() for n in per_sample(case)})


def check_permutation(judge: Judge) -> Outcome:
    def one(case: Case) -> Look:
        order = rolled(len(case.output), judge.unit)
        before = judge.observe(case).gradient
        after = judge.observe(rows_of(case, order)).gradient
        return same_twice(judge, case, before, after, order)

    specs = (replace(s, batch=judge.unit * max(s.batch, 2)) for s in judge.specs(policy="off", time="middle"))
    meaning = (
        "both are your gradient for the same sample: observed with the last sample of the batch put first,"
        " required in the first order"
    )
    return compare_over(judge, specs, one, at_least=2 * judge.unit, meaning=meaning)


def rolled(batch: int, size: int = 1) -> list[int]:
    """The batch's order with the last sample, or unit of so many, first."""
    return in_units([batch // size - 1, *range(batch // size - 1)], size)


def check_micro_batching(judge: Judge) -> Outcome:
    def one(case: Case) -> Look:
        whole = judge.observe(case).gradient
        parts = [judge.observe(rows_of(case, rows)).gradient * share for rows, share in halves(judge, case)]
        return same_twice(judge, case, whole, torch.cat(parts), list(range(len(whole))))

    specs = (replace(s, batch=judge.unit * max(s.batch, 3)) for s in judge.specs(policy="off", time="middle"))
    share = ", times its share of the batch" if judge.conventions.batch_reduction == "mean" else ""
    meaning = (
        "both are your gradient for the same sample: observed with the batch in two halves, each judged by itself"
        f"{share}; required with the whole batch at once"
    )
    return compare_over(judge, specs, one, at_least=2 * judge.unit, meaning=meaning)


def halves(judge: Judge, case: Case) -> list[tuple[list[int], float]]:
    """The two halves of a batch, and what each one's gradient must be multiplied by."""
    batch = len(case.output)
    half = judge.unit * (batch // judge.unit // 2)
    parts = [list(range(half)), list(range(half, batch))]
    return [(rows, share_of(judge, rows_of(case, rows), case)) for rows in parts]


def share_of(judge: Judge, part: Case, whole: Case) -> float:
    """How many samples the one's mean is over for each of the other's; 1 where a batch is summed."""
    if judge.conventions.batch_reduction != "mean":
        return 1.0
    return averaged_over(judge.conventions, part) / averaged_over(judge.conventions, whole)
