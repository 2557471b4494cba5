"""FPO, Diffusion-DPO and DGPO, written wrongly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gradcheck.case import Case

from .base import Mutant, mutant


def mse(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b) ** 2).flatten(1).mean(1)


def clipped(case: Case, ratio: Tensor) -> Tensor:
    return -torch.min(ratio * case.advantage, ratio.clamp(0.95, 1.05) * case.advantage)


@mutant("fpo", fails="gradient", because="log-ratio-sign", reduction="mean", clip_range=0.05)
def new_error_less_old(case: Case) -> Tensor:
    return clipped(case, torch.exp(mse(case.v_theta, case.v_gt) - mse(case.v_old, case.v_gt).detach())).mean()


@mutant("fpo", fails="gradient", because="half-twice", reduction="mean", clip_range=0.05)
def halved_errors(case: Case) -> Tensor:
    errors = (0.5 * mse(v, case.v_gt) for v in (case.v_old.detach(), case.v_theta))
    return clipped(case, torch.exp(next(errors) - next(errors))).mean()


@mutant("fpo", fails="gradient", because="log-ratio-averaged", reduction="mean", clip_range=0.05)
def one_ratio_for_all(case: Case) -> Tensor:
    gap = functional.mse_loss(case.v_old, case.v_gt).detach() - functional.mse_loss(case.v_theta, case.v_gt)
    return clipped(case, torch.exp(gap)).mean()


def preference(case: Case, own: Tensor, beta: float) -> Tensor:
    return -functional.logsigmoid(-beta * case.preference * (own - case.partner_gap))


def gap(case: Case) -> Tensor:
    return mse(case.v_theta, case.v_gt) - mse(case.v_ref, case.v_gt)


@mutant("diffusion_dpo", fails="gradient", because="preference-exchanged", reduction="mean")
def losers_win(case: Case) -> Tensor:
    return preference(case.replace(preference=-case.preference), gap(case), case.beta_dpo).mean()


@mutant("diffusion_dpo", fails="gradient", because="beta-halved", reduction="mean")
def half_of_beta(case: Case) -> Tensor:
    return preference(case, gap(case), 0.5 * case.beta_dpo).mean()


@mutant("diffusion_dpo", fails="gradient", because="reference-missing", reduction="mean")
def without_a_reference(case: Case) -> Tensor:
    return preference(case, mse(case.v_theta, case.v_gt), case.beta_dpo).mean()


@mutant("diffusion_dpo", fails="gradient", because="loser-dropped", reduction="mean")
def winners_alone(case: Case) -> Tensor:
    return (preference(case, gap(case), case.beta_dpo) * (case.preference > 0)).mean()


@mutant("diffusion_dpo", fails="gradient", because="margin-averaged", reduction="mean")
def one_margin_for_all(case: Case) -> Tensor:
    margin = case.preference * (gap(case) - case.partner_gap)
    return -functional.logsigmoid(-case.beta_dpo * margin.mean())


@mutant("diffusion_dpo", fails="gradient", because="sigmoid-missing", reduction="mean")
def margin_as_loss(case: Case) -> Tensor:
    return (case.beta_dpo * case.preference * (gap(case) - case.partner_gap)).mean()


@mutant("fpo", fails="kl", because="kl-without-gradient", reduction="mean", reference="on", clip_range=0.05)
def reference_without_gradient(case: Case) -> Tensor:
    ratio = torch.exp(mse(case.v_old, case.v_gt).detach() - mse(case.v_theta, case.v_gt))
    return (clipped(case, ratio) + case.kl_weight * mse(case.v_theta.detach(), case.v_ref)).mean()


@mutant("diffusion_dpo", fails="gradient", because="kl-to-old", reduction="mean", anchor="behaviour", reference="on")
def held_at_the_behaviour_model(case: Case) -> Tensor:
    own = mse(case.v_theta, case.v_gt) - mse(case.v_old, case.v_gt)
    return (preference(case, own, case.beta_dpo) + case.kl_weight * mse(case.v_theta, case.v_old)).mean()


@mutant("diffusion_dpo", fails="gradient", because="reference-missing", reduction="mean", anchor="behaviour")
def online_without_an_anchor(case: Case) -> Tensor:
    return preference(case, mse(case.v_theta, case.v_gt), case.beta_dpo).mean()


def group(case: Case, own: Tensor) -> Tensor:
    return -functional.logsigmoid(-case.beta_dpo * (own + case.group_gap))


@mutant("dgpo", fails="gradient", because="preference-exchanged", reduction="mean")
def bad_samples_win(case: Case) -> Tensor:
    return group(case, -case.advantage * gap(case)).mean()


@mutant("dgpo", fails="gradient", because="advantage-sign-alone", reduction="mean")
def halves_without_weights(case: Case) -> Tensor:
    return group(case, case.advantage.sign() * gap(case)).mean()


@mutant("dgpo", fails="gradient", because="advantage-absolute", reduction="mean")
def bad_samples_taken_for_good(case: Case) -> Tensor:
    return group(case, case.advantage.abs() * gap(case)).mean()


@mutant("dgpo", fails="gradient", because="group-missing", reduction="mean")
def a_sigmoid_of_its_own(case: Case) -> Tensor:
    return -functional.logsigmoid(-case.beta_dpo * case.advantage * gap(case)).mean()


@mutant("dgpo", fails="gradient", because="group-sign", reduction="mean")
def the_others_subtracted(case: Case) -> Tensor:
    return group(case.replace(group_gap=-case.group_gap), case.advantage * gap(case)).mean()


@mutant("dgpo", fails="gradient", because="beta-outside", reduction="mean")
def beta_before_the_logarithm(case: Case) -> Tensor:
    margin = case.advantage * gap(case) + case.group_gap
    return -(case.beta_dpo * functional.logsigmoid(-margin)).mean()


@mutant("dgpo", fails="gradient", because="reference-missing", reduction="mean")
def group_without_a_reference(case: Case) -> Tensor:
    return group(case, case.advantage * mse(case.v_theta, case.v_gt)).mean()


@mutant("fpo", fails="gradient", because="ratio-of-errors", reduction="mean", clip_range=0.05)
def quotient_of_the_errors(case: Case) -> Tensor:
    return clipped(case, mse(case.v_old, case.v_gt).detach() / mse(case.v_theta, case.v_gt)).mean()


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    first, second = x.chunk(2)
    return first, second


@mutant("diffusion_dpo", fails="gradient", because="pairs-crossed", reduction="mean", pairs="halves")
def every_winner_with_every_loser(case: Case) -> Tensor:
    won, lost = halves(gap(case))
    return -functional.logsigmoid(-case.beta_dpo * (won[:, None] - lost[None])).mean()


@mutant("diffusion_dpo", fails="gradient", because="beta-on-one-error", reduction="mean", pairs="halves")
def beta_on_the_model_alone(case: Case) -> Tensor:
    won, lost = halves(case.beta_dpo * mse(case.v_theta, case.v_gt) - mse(case.v_ref, case.v_gt))
    return -functional.logsigmoid(lost - won).mean()


@mutant(
    "fpo", fails="gradient", because="old-and-reference-exchanged", reduction="mean", reference="on", clip_range=0.05
)
def anchors_exchanged(case: Case) -> Tensor:
    ratio = torch.exp(mse(case.v_ref, case.v_gt) - mse(case.v_theta, case.v_gt))
    return (clipped(case, ratio) + case.kl_weight * mse(case.v_theta, case.v_old)).mean()


MUTANTS: tuple[Mutant, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Mutant))
"""All of this file, in its order."""
