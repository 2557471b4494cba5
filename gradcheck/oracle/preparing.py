r"""A process that makes problems, and what is required on them, for several losses that declare the same.

It imports nobody's code: it runs the obligations' own checks on an implementation that returns what is required, so
that the problems are those that right code is tried on.  What it has made goes to the processes that judge the losses.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

import torch

from gradcheck.case import Case
from gradcheck.conventions import Conventions, declare
from gradcheck.devices import DTYPES, Device
from gradcheck.judging.adapter import Adapter, Observation
from gradcheck.judging.check import outcome_of
from gradcheck.judging.isolation.child import Send
from gradcheck.oracle.drawn import packed
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.obligations import OBLIGATIONS
from gradcheck.oracle.precision import where_lost
from gradcheck.oracle.required import required_gradient
from gradcheck.oracle.subject import Settings

__all__ = ["PrepareJob"]


@dataclass(frozen=True)
class PrepareJob:
    """What is to be made.

    Attributes:
        declaration: as :meth:`~gradcheck.conventions.declaration.Conventions.describe` writes it.
        settings: how thoroughly the losses are looked at.
        only: obligations; all if there are none.
    """

    declaration: str
    settings: Settings
    only: tuple[str, ...] = ()

    def run(self, send: Send) -> None:
        """Make it; what is there is sent after each obligation."""
        torch.set_num_threads(1)
        conventions = _declared(self.declaration)
        judge = Judge(
            adapter=_Required(_uncalled, "what is required", conventions.batch_reduction, conventions=conventions),
            conventions=conventions,
            dtype=DTYPES[self.settings.dtype],
            max_examples=self.settings.max_examples,
            latent=self.settings.latent,
            batch=self.settings.batch,
            seed=self.settings.seed,
        )
        sent: dict[str, int] = {}
        for one in OBLIGATIONS:
            if one.id == "value" or (self.only and one.id not in self.only):
                continue
            outcome_of(one, judge)
            if one.id == "precision":
                where_lost(judge)  # which is asked only of code that loses digits
            send("prepared", packed(sent))


def _declared(words: str) -> Conventions:
    """The declaration that somebody else's process has described: literals, which call nothing."""
    call = ast.parse(f"declare({words})", mode="eval").body
    assert isinstance(call, ast.Call)
    given = [ast.literal_eval(x) for x in call.args]
    return declare(*given, **{str(x.arg): ast.literal_eval(x.value) for x in call.keywords})


def _uncalled(case: Case) -> None:
    """Nothing calls it: the gradient comes without."""


@dataclass(frozen=True)
class _Required(Adapter):
    """An implementation whose gradient is the required one."""

    conventions: Conventions | None = None

    def observe(self, case: Case, watch_leaks: bool = False, device: Device | None = None) -> Observation:
        assert self.conventions is not None
        gradient = required_gradient(self.conventions, case)
        return Observation(gradient.sum(), gradient, leaked=(), changed=(), left=())
