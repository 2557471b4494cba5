r"""Direct group preference optimisation by hand: Luo et al., arXiv:2510.08425, good samples against bad ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from gradcheck.case import Case
from gradcheck.losses._common import Reduction, Reference
from gradcheck.losses._forward import error_gap, held

__all__ = ["loss"]


def loss(case: Case, *, reduction: Reduction = "sum", reference: Reference = "off") -> Tensor:
    """Per-sample loss, shape (B,), differentiable in ``case.v_theta``; the value is that of the sample's group."""
    gap = error_gap(case, case.v_ref, reduction)
    weighted = case.advantage.abs() * gap
    margin = torch.where(case.advantage > 0, weighted, -weighted) + case.group_gap
    return held(-logsigmoid(-case.beta_dpo * margin), case, reduction, reference)
