"""Prints what the oracle makes of every mutant and of every right implementation: ``python -m tests.oracle.table``."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from . import (
    composed_forward,
    composed_reverse,
    correct_backward,
    correct_compiled,
    correct_flow_grpo,
    correct_forward,
    correct_functionals,
    correct_official,
    correct_predictions,
    correct_trainers,
    mutants_awm,
    mutants_awr,
    mutants_behaviour,
    mutants_ddpo,
    mutants_diffusion_nft,
    mutants_flow_dppo,
    mutants_flow_grpo,
    mutants_fpo_and_dpo,
    mutants_grpo_guard,
    mutants_predictions,
    mutants_reinforce,
    mutants_reverse_step,
    mutants_time_weights,
    mutants_trainers,
)
from .base import Correct, Mutant, caught, judged
from .composed import Composed, first_failure

MUTANTS: tuple[Mutant, ...] = (
    *mutants_flow_grpo.MUTANTS,
    *mutants_reverse_step.MUTANTS,
    *mutants_behaviour.MUTANTS,
    *mutants_grpo_guard.MUTANTS,
    *mutants_ddpo.MUTANTS,
    *mutants_reinforce.MUTANTS,
    *mutants_time_weights.MUTANTS,
    *mutants_flow_dppo.MUTANTS,
    *mutants_awm.MUTANTS,
    *mutants_awr.MUTANTS,
    *mutants_diffusion_nft.MUTANTS,
    *mutants_fpo_and_dpo.MUTANTS,
    *mutants_predictions.MUTANTS,
    *mutants_trainers.MUTANTS,
)

CORRECT: tuple[Correct, ...] = (
    *correct_flow_grpo.CORRECT,
    *correct_backward.CORRECT,
    *correct_forward.CORRECT,
    *correct_official.CORRECT,
    *correct_functionals.CORRECT,
    *correct_trainers.CORRECT,
    *correct_predictions.CORRECT,
    *correct_compiled.CORRECT,
)


NEW: tuple[Composed, ...] = (*composed_reverse.NEW, *composed_forward.NEW)
PAIRS: tuple[Composed, ...] = (*composed_reverse.PAIRS, *composed_forward.PAIRS)


@dataclass(frozen=True)
class MutantRow:
    """What became of one mutant."""

    mutant: Mutant
    failed: bool
    found: str
    seconds: float

    @property
    def right(self) -> bool:
        return self.failed and self.found == self.mutant.cause

    def __str__(self) -> str:
        m = self.mutant
        verdict = "caught" if self.failed else "MISSED"
        cause = self.found if self.found == m.cause else f"{self.found or '-'}  WRONG CAUSE"
        return f"{m.name:58} {m.obligation:20} {verdict:7} {m.cause:30} {cause:30} {self.seconds:5.1f} s"


def mutant_row(m: Mutant, max_examples: int) -> MutantRow:
    start = time.perf_counter()
    result = caught(m, max_examples)
    found = result.diagnosis.name if result.diagnosis is not None else ""
    return MutantRow(m, result.status == "failed", found, time.perf_counter() - start)


@dataclass(frozen=True)
class ComposedRow:
    """What became of one that is put together.

    ``right`` or ``wrong`` where a cause is named; else ``told`` if what is known speaks of the mistake, or ``unnamed``.
    One that conforms is ``missed``.
    """

    one: Composed
    verdict: str
    told: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.verdict:8} {self.one.name:50} {self.seconds:5.1f} s   {self.told}"


_FACTS = ("unknown", "sample-factor")
"""What is said where no cause is named."""


def composed_row(one: Composed, max_examples: int) -> ComposedRow:
    start = time.perf_counter()
    result = first_failure(one, max_examples)
    seconds = time.perf_counter() - start
    if result is None:
        return ComposedRow(one, "missed", "", seconds)
    d = result.diagnosis
    if d is None:
        return ComposedRow(one, "unnamed", result.outcome.detail, seconds)
    told = f"{result.id} [{d.name}] {d.cause}" + (f" | declare {d.declare}" if d.declare else "")
    speaks = one.right(told.split("] ", 1)[1])
    if d.name in _FACTS:
        return ComposedRow(one, "told" if speaks else "unnamed", told, seconds)
    return ComposedRow(one, "right" if speaks else "wrong", told, seconds)


def composed_table(ones: Sequence[Composed], max_examples: int) -> int:
    """Print each, and the counts for each algorithm; return how many aren't named rightly."""
    counts: dict[str, Counter[str]] = {}
    for one in ones:
        row = composed_row(one, max_examples)
        counts.setdefault(one.algorithm, Counter())[row.verdict] += 1
        print(row, flush=True)
    total = sum(counts.values(), Counter[str]())
    print(f"\n{'':16} {'caught':>8} {'right':>8} {'wrong':>8} {'told':>8} {'unnamed':>8}")
    for name, count in [*counts.items(), ("all", total)]:
        caught_ones = count.total() - count["missed"]
        each = " ".join(f"{count[verdict]:8}" for verdict in ("right", "wrong", "told", "unnamed"))
        print(f"{name:16} {caught_ones:4}/{count.total():<3} {each}")
    return total.total() - total["right"]


@dataclass(frozen=True)
class CorrectRow:
    """What became of one right implementation."""

    implementation: Correct
    cases: int
    worst: float
    alarms: tuple[str, ...]

    def __str__(self) -> str:
        alarms = "; ".join(self.alarms) or "none"
        return f"{self.implementation.name:58} {self.cases:7} cases   worst ratio {self.worst:6.3f}   alarms: {alarms}"


def correct_row(c: Correct, max_examples: int, seed: int = 0) -> CorrectRow:
    judgement = judged(c, max_examples, seed=seed)
    return CorrectRow(
        c,
        sum(r.outcome.examples for r in judgement.results),
        max((r.outcome.ratio for r in judgement.results if r.status == "passed"), default=0.0),
        tuple(f"{r.id}: {r.outcome.detail}" for r in judgement.results if not r.good),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-examples", type=int, default=10, help="problems for each obligation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="how many, from --seed on, for right implementations")
    parser.add_argument("--only", choices=["mutants", "correct"])
    parser.add_argument("--match", default="", help="part of a name")
    parser.add_argument("--new", action="store_true", help="only the mutants put together of a style and a mistake")
    parser.add_argument("--pairs", action="store_true", help="only those with two mistakes")
    parser.add_argument("--every", type=int, default=1, help="only every so many of these")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    if options.new or options.pairs:
        ones = (*NEW, *PAIRS) if options.new and options.pairs else NEW if options.new else PAIRS
        matching = [one for one in ones if options.match in one.name][:: options.every]
        return 1 if composed_table(matching, min(options.max_examples, 10)) else 0
    off = 0
    if options.only != "correct":
        rows = []
        for m in MUTANTS:
            if options.match in m.name:
                rows.append(mutant_row(m, min(options.max_examples, 10)))
                print(rows[-1], flush=True)
        missed, right = sum(not r.failed for r in rows), sum(r.right for r in rows)
        print(f"{len(rows)} mutants: {len(rows) - missed} caught, {right} with the right cause\n")
        off += len(rows) - right
    if options.only != "mutants":
        found = []
        for c in CORRECT:
            if options.match in c.name:
                for seed in range(options.seed, options.seed + options.seeds):
                    found.append(correct_row(c, options.max_examples, seed))
                    print(found[-1], flush=True)
        alarms, cases = sum(len(r.alarms) for r in found), sum(r.cases for r in found)
        count = len({r.implementation.name for r in found})
        print(f"{count} right implementations, {options.seeds} seeds: {cases} cases, {alarms} alarms")
        off += alarms
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
