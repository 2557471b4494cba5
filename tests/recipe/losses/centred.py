"""Centred reward distillation by hand."""

from __future__ import annotations

from torch import Tensor

from gradcheck.case import Case
from gradcheck.losses._forward import error_gap


def loss(case: Case, *, reduction: str = "sum") -> Tensor:
    """Per-sample loss, shape (B,)."""
    return (case.advantage + case.beta_dpo * (error_gap(case, case.v_ref, reduction) - case.group_gap)) ** 2
