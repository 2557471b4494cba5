"""Mistakes that can be made with any loss, and what the oracle says of each: for every entry, known to it or not.

Run as a program, with names of entries, it prints a line of JSON for each mistake.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from derivations.pieces import Piece
from gradcheck.case import Case
from gradcheck.catalogue import Entry, entries
from gradcheck.conventions import declare
from gradcheck.oracle.runner import judge
from gradcheck.oracle.subject import Settings, Subject

PerSample = Callable[[Case], Tensor]


def with_advantage(change: Callable[[Tensor], Tensor]) -> Callable[[PerSample, Case], Tensor]:
    return lambda loss, case: loss(case.replace(advantage=change(case.advantage))).mean()


def with_weight(factor: float) -> Callable[[PerSample, Case], Tensor]:
    return lambda loss, case: loss(case.replace(kl_weight=factor * case.kl_weight)).mean()


ALWAYS: dict[str, tuple[Callable[[PerSample, Case], Tensor], str]] = {
    "negated": (lambda loss, case: -loss(case).mean(), "sign"),
    "doubled": (lambda loss, case: 2 * loss(case).mean(), "2|twice|doubled"),
    "summed": (lambda loss, case: loss(case).sum(), "batch_reduction"),
    "broadcast": (lambda loss, case: (loss(case)[:, None] * torch.ones_like(loss(case))).sum(0).mean(), "sum"),
    "detached": (lambda loss, case: loss(case).mean().detach() + 0 * case.output.sum(), "no gradient"),
}
OF_AN_ADVANTAGE = {
    "missing": (with_advantage(torch.ones_like), "advantage is missing|every sample counts alike"),
    "averaged": (with_advantage(lambda a: a.mean().expand_as(a)), "averaged"),
    "of another": (with_advantage(lambda a: a.roll(1, 0)), "another sample's"),
    "absolute": (with_advantage(torch.abs), "sign is lost"),
    "squared": (with_advantage(lambda a: a**2), "twice|squared"),
}
OF_A_REFERENCE = {
    "dropped": (with_weight(0.0), "no gradient|missing"),
    "term doubled": (with_weight(2.0), "twice"),
    "term's sign": (with_weight(-1.0), "wrong sign"),
}
"""Name → the wrong loss, and what one of its causes may say."""


def mistakes(entry: Entry) -> Iterator[tuple[str, Callable[[PerSample, Case], Tensor], str]]:
    pieces = entry.derivation.pieces
    kinds = [ALWAYS]
    if Piece.ADVANTAGE in pieces and not pieces & {Piece.OPTIMALITY, Piece.TEMPERATURE, Piece.LIKELIHOOD}:
        kinds.append(OF_AN_ADVANTAGE)
    if Piece.REFERENCE in pieces:
        kinds.append(OF_A_REFERENCE)
    for kind in kinds:
        for name, (wrong, said) in kind.items():
            yield name, wrong, said


def told(entry: Entry, wrong: Callable[[PerSample, Case], Tensor]) -> tuple[str, str]:
    """Status of the obligation "gradient", and the cause that is named."""
    conventions = declare(entry.algorithm.name, **entry.derivation.variant.options)
    subject = Subject(lambda case: wrong(entry.loss, case), "mine", conventions)
    (result,) = judge(subject, Settings(max_examples=2), ("gradient",)).results
    found = result.diagnosis
    return result.outcome.status, "" if found is None else f"{found.name}: {found.cause} {found.declare}"


if __name__ == "__main__":
    for one in entries(*sys.argv[1:]):
        for name, wrong, said in mistakes(one):
            print(json.dumps({"entry": one.label, "mistake": name, "wanted": said, "told": told(one, wrong)}))
