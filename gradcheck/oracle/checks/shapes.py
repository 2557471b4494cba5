r"""Whether its gradient is right on latents and batches of every shape, and on memory that is not contiguous."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.judging.adapter import AdapterError
from gradcheck.judging.results import Outcome
from gradcheck.oracle.judge import (
    Judge,
    Look,
    compare_over,
    look_at_gradient,
)
from gradcheck.oracle.pace import Pace
from gradcheck.problems.building import Spec

_BATCHES = ((9, (3,)), (22, (2, 2)), (70, (3,)), (150, (2,)))
"""Batches that are no multiples of the chunks in which code goes through them: of 6, 8, 16, 32, 64, 128 samples."""

_LATENTS = ((2, (283,)), (2, (3, 31, 29)), (1, (20011,)), (1, (151, 139)), (1, (4, 97, 101)), (1, (5, 3, 43, 37)))
"""Latents of hundreds to tens of thousands of numbers, in every rank, of no powers of two."""


def check_shapes(judge: Judge) -> Outcome:
    shapes = (
        (1, (5,)),
        (4, (1,)),
        (1, (1,)),
        (2, (3,)),
        (3, (3, 4)),
        (2, (2, 4, 4)),
        (4, (4, 4)),
        (2, (2, 2, 3, 3)),
        (5, (1, 6)),
        (3, (4, 1, 2, 3)),
    )
    large = (*_BATCHES, *_LATENTS) if judge.latent is None else ()

    def specs() -> Iterator[Spec]:
        for i, (batch, latent) in enumerate(shapes):
            yield Spec(batch, latent, seed=judge.seed + i, time="middle")
        for i, (batch, latent) in enumerate(large):
            # every sample has a gradient, so that none can be left out unseen
            yield Spec(batch, latent, judge.seed + 100 + i, policy="off", advantage="typical", time="middle")

    refused: list[AdapterError] = []
    slow: list[float] = []

    def in_time() -> Iterator[Spec]:
        """Without those on which a call would take more time than there is, by how long smaller ones took."""
        pace = Pace(judge)
        for spec in specs():
            expected = pace.expected(spec)
            if expected <= judge.adapter.timeout / 2:
                yield spec
            else:
                slow.append(expected)

    def one(case: Case) -> Look:
        try:
            return look_at_gradient(judge, case, _strided(case))
        except AdapterError as error:
            contiguous = look_at_gradient(judge, case)
            refused.append(error)
            return contiguous

    outcome = compare_over(judge, in_time(), one)
    notes = [outcome.note]
    if refused:
        notes.append(f"not judged on latents that are not contiguous, which it refuses: {refused[0]}")
    if slow:
        left = f"{len(slow)} of {len(large)} large shapes"
        notes.append(f"not judged on {left}, on which a call would take about {max(slow):.2g} s")
    return replace(outcome, note="; ".join(x for x in notes if x))


def _strided(case: Case) -> Case:
    """The same numbers in memory that is not contiguous: a slice of a transposed latent."""

    def spread(x: Tensor) -> Tensor:
        transposed = x.detach().transpose(0, -1)
        return torch.stack([transposed, transposed], -1)[..., 0].transpose(0, -1)

    latents = {n: spread(getattr(case, n)) for n in case.names if _is_latent(case, n)}
    return case.replace(**latents)


def _is_latent(case: Case, name: str) -> bool:
    value = getattr(case, name)
    return isinstance(value, Tensor) and value.shape == case.output.shape and value.ndim > 1
