"""Rank 9: preferences, on errors and on log-ratios, one sample of a pair and whole pairs and groups."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid, relu, softplus

from gradcheck.case import Case
from tests.ranks.base import Loss, Rank, Wrong
from tests.ranks.formulas import gap, log_prob, mse

__all__ = ["PREFERENCES"]

_GAP = "(mse(v_theta, v_gt) - mse(v_ref, v_gt) - partner_gap)"


def _margin(c: Case) -> Tensor:
    return c.beta_dpo * c.preference * (gap(c) - c.partner_gap)


def _ipo(c: Case, target: float = 0.5) -> Tensor:
    return (_margin(c) + target) ** 2


def _smoothed(c: Case, share: float = 0.1) -> Tensor:
    return -(1 - share) * logsigmoid(-_margin(c)) - share * logsigmoid(_margin(c))


def _kto(c: Case, baseline: bool = True) -> Tensor:
    z = -c.preference * (gap(c) + (c.baseline if baseline else 0.0)) * c.beta_dpo
    return 1 - z.sigmoid()


def _on_log_ratios(c: Case, reference: bool = True) -> Tensor:
    own = log_prob(c, c.v_theta) - (log_prob(c, c.v_ref) if reference else 0.0)
    return softplus(-c.beta_dpo * c.preference * (own - c.rival))


def _pairs(c: Case) -> Tensor:
    won, lost = gap(c)[::2], gap(c)[1::2]
    return -logsigmoid(-c.beta_dpo * (won - lost))


def _halves(c: Case) -> Tensor:
    won, lost = gap(c).chunk(2)
    return -logsigmoid(-c.beta_dpo * (won - lost))


def _group(c: Case, size: int) -> Tensor:
    return -logsigmoid(-c.beta_dpo * (c.advantage * gap(c)).reshape(-1, size).sum(1))


_D3PO = "l = (mean((x_prev-mean_ref)**2) - mean((x_prev-mean_theta)**2))/(2*C2**2); "

PREFERENCES = Rank(
    "preferences",
    {
        "ipo": Loss(
            {"loss": f"(beta_dpo*preference*{_GAP} + 1/2)**2"},
            _ipo,
            {"other-target": Wrong(lambda c: _ipo(c, -0.5))},
        ),
        "hinge": Loss(
            {"loss": f"relu(1 + beta_dpo*preference*{_GAP})"},
            lambda c: relu(1 + _margin(c)),
            {"no-margin": Wrong(lambda c: relu(_margin(c)))},
        ),
        "cpo": Loss(
            {"loss": "softplus(beta_dpo*preference*(mse(v_theta, v_gt) - partner_gap))"},
            lambda c: softplus(c.beta_dpo * c.preference * (mse(c.v_theta, c.v_gt) - c.partner_gap)),
            {"all-winners": Wrong(lambda c: softplus(c.beta_dpo * (mse(c.v_theta, c.v_gt) - c.partner_gap)))},
        ),
        "smoothed": Loss(
            {"loss": f"0.9*softplus(beta_dpo*preference*{_GAP}) + 0.1*softplus(-beta_dpo*preference*{_GAP})"},
            _smoothed,
            {"not": Wrong(lambda c: _smoothed(c, 0.0))},
        ),
        "sft": Loss(
            {"loss": f"softplus(beta_dpo*preference*{_GAP}) + kl_weight*mse(v_theta, v_gt)"},
            lambda c: softplus(_margin(c)) + c.kl_weight * mse(c.v_theta, c.v_gt),
            {"without": Wrong(lambda c: softplus(_margin(c)))},
        ),
        "kto": Loss(
            {
                "loss": "1 - sigmoid(-beta_dpo*preference*(mse(v_theta, v_gt) - mse(v_ref, v_gt) + baseline))",
                "given": {"baseline": "sample"},
            },
            _kto,
            {"without": Wrong(lambda c: _kto(c, baseline=False))},
        ),
        "on log-ratios": Loss(
            {"loss": f"{_D3PO}softplus(-beta_dpo*preference*(l - rival))", "given": {"rival": "sample"}},
            _on_log_ratios,
            {"without-reference": Wrong(lambda c: _on_log_ratios(c, reference=False))},
        ),
        "whole pairs": Loss(
            {"algorithm": "diffusion_dpo", "reduction": "mean", "pairs": "adjacent"},
            _pairs,
            {"halves": Wrong(_halves)},
        ),
        "whole groups": Loss(
            {"algorithm": "dgpo", "reduction": "mean", "groups": 4},
            lambda c: _group(c, 4),
            {"smaller": Wrong(lambda c: _group(c, 2))},
        ),
    },
)
