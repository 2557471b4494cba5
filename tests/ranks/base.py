"""What a rank is made of, and how its code is judged in every precision that people train in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.conventions import declare
from gradcheck.judging.results import Diagnosis, Judgement
from gradcheck.oracle.runner import Settings, Subject, judge

__all__ = ["PRECISIONS", "Loss", "Part", "Rank", "Wrong", "judged", "told"]

PRECISIONS = ("float64", "float32", "bfloat16")
"""Everything in float64; inputs cast to float32 inside; networks that put out bfloat16, and a loss in float32."""


@dataclass(frozen=True)
class Wrong:
    """Wrong code.

    Attributes:
        code: as the right code is called.
        named: what it is said to be, a part of the cause's name, its sentence or the declaration that fits it; empty
            where it is another loss altogether and need only be refused.
    """

    code: Callable[..., Any]
    named: str = ""


@dataclass(frozen=True)
class Loss:
    """A convention of a loss.

    Attributes:
        declared: how it is declared.
        right: code that does it, from a case to one number or one a sample.
        wrong: by a name, code that gets it wrong; every right loss with its sign lost and doubled is tried besides.
        precisions: in which of :data:`PRECISIONS` it can be declared.
    """

    declared: Mapping[str, Any]
    right: Callable[[Case], Tensor]
    wrong: Mapping[str, Wrong] = field(default_factory=dict)
    precisions: tuple[str, ...] = PRECISIONS

    @property
    def every_wrong(self) -> dict[str, Wrong]:
        """Those that every loss has, and its own."""
        return {
            "sign": Wrong(lambda c: -self.right(c), "sign"),
            "doubled": Wrong(lambda c: 2 * self.right(c), "twice"),
            **self.wrong,
        }

    def judgement(
        self, code: Callable[[Case], Tensor], precision: str, seed: int, examples: int, only: tuple[str, ...] = ()
    ) -> Judgement:
        declared = dict(self.declared)
        if precision == "bfloat16":
            declared["output_dtype"] = "bfloat16"
        elif precision == "float32":
            declared["working_dtype"] = "float32"

        def loss(case: Case) -> Tensor:
            return code(case if precision == "float64" else _in_float32(case)).mean()

        target = Subject(loss, "loss", declare(**declared))
        return judge(target, Settings(max_examples=examples, seed=seed), only)


@dataclass(frozen=True)
class Part:
    """A convention of a part of a trainer.

    Attributes:
        judge: :func:`gradcheck.parts.judge_advantage` or one of its kin.
        declared: how it is declared.
        right: code that does it.
        wrong: by a name, code that gets it wrong.
        precisions: those in which it can be declared to compute.
    """

    judge: Callable[..., Judgement]
    declared: Mapping[str, Any]
    right: Callable[..., Any]
    wrong: Mapping[str, Wrong] = field(default_factory=dict)
    precisions: tuple[str, ...] = ("float64", "float32")

    @property
    def every_wrong(self) -> dict[str, Wrong]:
        return dict(self.wrong)

    def judgement(
        self, code: Callable[..., Any], precision: str, seed: int, examples: int, only: tuple[str, ...] = ()
    ) -> Judgement:
        declared = dict(self.declared)
        if precision == "float32":
            declared["working_dtype"] = "float32"
        return self.judge(code, seed=seed, **declared)


@dataclass(frozen=True)
class Rank:
    """A row of the table.

    Attributes:
        title: what public code does.
        subjects: its conventions by name.
    """

    title: str
    subjects: Mapping[str, Loss | Part]


def _in_float32(case: Case) -> Case:
    values = {name: getattr(case, name) for name in case.names}
    floats = {n: x for n, x in values.items() if isinstance(x, Tensor) and x.is_floating_point()}
    return Case(case.label, {**values, **{n: x.to(torch.float32) for n, x in floats.items()}})


def judged(judgement: Judgement) -> list[str]:
    """What failed, in words; nothing where all holds."""
    return [f"{r.id}: {r.outcome.detail}" for r in judgement.results if not r.good]


def told(judgement: Judgement) -> list[str]:
    """Every cause that is told: its name, its sentence and what to declare."""
    found = [r.diagnosis for r in judgement.results if r.status == "failed"]
    return list(dict.fromkeys(f"{d.name}: {d.cause} [{d.declare}]" for d in found if isinstance(d, Diagnosis)))
