"""Advantage-weighted matching, written wrongly, plain and PPO-clipped."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gradcheck.case import Case

from .base import Mutant, mutant


def per_sample_mse(v: Tensor, target: Tensor) -> Tensor:
    return functional.mse_loss(v, target.expand_as(v), reduction="none").flatten(1).mean(1)


def ppo(ratio: Tensor, case: Case) -> Tensor:
    return -torch.min(case.advantage * ratio, case.advantage * ratio.clamp(1 - case.clip_low, 1 + case.clip_high))


MEAN = {"reduction": "mean"}
CLIPPED = {"reduction": "mean", "clip": "ppo"}


# ------------------------------------------------------------------------------------- the plain form


@mutant("awm", fails="gradient", because="sign", **MEAN)
def negated_although_a_likelihood_already(case: Case) -> Tensor:
    nll = per_sample_mse(case.v_theta, case.noise - case.x_0)
    return -(case.advantage * nll).mean()


@mutant("awm", fails="gradient", because="factor-half", **MEAN)
def half_of_the_square(case: Case) -> Tensor:
    return (case.advantage * 0.5 * per_sample_mse(case.v_theta, case.v_gt)).mean()


@mutant("awm", fails="gradient", because="velocity-sign", **MEAN)
def noise_and_data_exchanged(case: Case) -> Tensor:
    target = case.x_0 - case.noise
    return torch.mean(case.advantage * per_sample_mse(case.v_theta, target))


@mutant("awm", fails="gradient", because="velocity-sum", **MEAN)
def sum_for_difference(case: Case) -> Tensor:
    return torch.mean(case.advantage * per_sample_mse(case.v_theta, case.x_0 + case.noise))


@mutant("awm", fails="gradient", because="noise-for-velocity", **MEAN)
def predicts_the_noise(case: Case) -> Tensor:
    return (case.advantage * per_sample_mse(case.v_theta, case.noise)).mean()


@mutant("awm", fails="gradient", because="data-for-velocity", **MEAN)
def predicts_the_data(case: Case) -> Tensor:
    return (case.advantage * per_sample_mse(case.v_theta, case.x_0)).mean()


@mutant("awm", fails="gradient", because="advantage-missing", **MEAN)
def plain_flow_matching(case: Case) -> Tensor:
    return functional.mse_loss(case.v_theta, case.noise - case.x_0)


@mutant("awm", fails="gradient", because="advantage-absolute", **MEAN)
def advantage_without_sign(case: Case) -> Tensor:
    return (case.advantage.abs() * per_sample_mse(case.v_theta, case.v_gt)).mean()


@mutant("awm", fails="gradient", because="advantage-squared", **MEAN)
def advantage_on_both_factors(case: Case) -> Tensor:
    residual = case.expand(case.advantage) * (case.v_theta - case.v_gt)
    return residual.square().flatten(1).mean(1).mean()


@mutant("awm", fails="zero-advantage", because="probability-for-advantage", **MEAN)
def probability_for_advantage(case: Case) -> Tensor:
    r = (1 + case.advantage) / 2
    return (r * per_sample_mse(case.v_theta, case.v_gt)).mean()


@mutant("awm", fails="gradient", because="convention:advantage_mode", **MEAN)
def best_of_n(case: Case) -> Tensor:
    keep = case.advantage > 0
    return (case.advantage * keep * per_sample_mse(case.v_theta, case.v_gt)).mean()


@mutant("awm", fails="sample-independence", because="advantage-averaged", **MEAN)
def column_against_row(case: Case) -> Tensor:
    return (case.advantage[:, None] * per_sample_mse(case.v_theta, case.v_gt)[None, :]).mean()


@mutant("awm", fails="sample-independence", because="advantage-averaged", **MEAN)
def mse_reduced_before_weighting(case: Case) -> Tensor:
    mse = functional.mse_loss(case.v_theta, case.v_gt)
    return (case.advantage * mse).mean()


@mutant("awm", fails="sample-independence", because="advantage-normalised-twice", **MEAN)
def advantage_standardised_again(case: Case) -> Tensor:
    std, mean = torch.std_mean(case.advantage, correction=0)
    weight = (case.advantage - mean) / (std + 1e-8)
    return (weight * per_sample_mse(case.v_theta, case.v_gt)).mean()


@mutant("awm", fails="micro-batching", because="convention:batch_reduction", **MEAN)
def batch_added_up(case: Case) -> Tensor:
    return torch.einsum("b,b->", case.advantage, per_sample_mse(case.v_theta, case.v_gt))


@mutant("awm", fails="gradient", because="convention:reduction", **MEAN)
def latent_added_up(case: Case) -> Tensor:
    error = (case.v_theta - case.v_gt).flatten(1)
    return (case.advantage * (error * error).sum(-1)).mean()


@mutant("awm", fails="gradient", because="not-squared")
def euclidean_distance(case: Case) -> Tensor:
    distance = (case.v_theta - case.v_gt).flatten(1).norm(dim=1)
    return (case.advantage * distance).mean()


@mutant("awm", fails="gradient", because="not-squared", **MEAN)
def absolute_error(case: Case) -> Tensor:
    return (case.advantage * functional.l1_loss(case.v_theta, case.v_gt, reduction="none").flatten(1).mean(1)).mean()


@mutant("awm", fails="gradient", because="kl-without-gradient", reference="on", **MEAN)
def reference_term_detached(case: Case) -> Tensor:
    policy_loss = (case.advantage * per_sample_mse(case.v_theta, case.v_gt)).mean()
    kl = per_sample_mse(case.v_theta, case.v_ref).detach().mean()
    return policy_loss + case.kl_weight * kl


@mutant("awm", fails="kl", because="kl-doubled", reference="on", **MEAN)
def reference_term_halved(case: Case) -> Tensor:
    policy_loss = (case.advantage * per_sample_mse(case.v_theta, case.v_gt)).mean()
    return policy_loss + 0.5 * case.kl_weight * functional.mse_loss(case.v_theta, case.v_ref)


@mutant("awm", fails="gradient", because="policy-detached", reference="on", **MEAN)
def prediction_detached(case: Case) -> Tensor:
    policy_loss = (case.advantage * per_sample_mse(case.v_theta.detach(), case.v_gt)).mean()
    return policy_loss + case.kl_weight * functional.mse_loss(case.v_theta, case.v_ref)


# ------------------------------------------------------------------------------------ the clipped form


@mutant("awm", fails="gradient", because="log-ratio-sign", **CLIPPED)
def error_grows_the_likelihood(case: Case) -> Tensor:
    error = per_sample_mse(case.v_theta, case.v_gt)
    with torch.no_grad():
        old_error = per_sample_mse(case.v_old, case.v_gt)
    return ppo(torch.exp(error - old_error), case).mean()


@mutant("awm", fails="gradient", because="ratio-missing", **CLIPPED)
def old_prediction_is_the_live_one(case: Case) -> Tensor:
    error = per_sample_mse(case.v_theta, case.v_gt)
    ratio = torch.exp(error.detach() - error)
    return ppo(ratio, case).mean()


@mutant("awm", fails="clip", because="clip-missing", **CLIPPED)
def ratio_unclipped(case: Case) -> Tensor:
    error = per_sample_mse(case.v_theta, case.v_gt)
    ratio = torch.exp(per_sample_mse(case.v_old, case.v_gt) - error)
    return -(case.advantage * ratio).mean()


@mutant("awm", fails="clip", because="max-for-min", **CLIPPED)
def optimistic_clip(case: Case) -> Tensor:
    ratio = (per_sample_mse(case.v_old, case.v_gt) - per_sample_mse(case.v_theta, case.v_gt)).exp()
    clipped = ratio.clamp(1 - case.clip_low, 1 + case.clip_high)
    return -torch.maximum(case.advantage * ratio, case.advantage * clipped).mean()


@mutant("awm", fails="gradient", because="weighting-missing", omega="t", **CLIPPED)
def time_weight_forgotten(case: Case) -> Tensor:
    ratio = (per_sample_mse(case.v_old, case.v_gt) - per_sample_mse(case.v_theta, case.v_gt)).exp()
    return ppo(ratio, case).mean()


@mutant("awm", fails="gradient", because="weighting-reversed", omega="t", **CLIPPED)
def time_weight_reversed(case: Case) -> Tensor:
    difference = per_sample_mse(case.v_old, case.v_gt) - per_sample_mse(case.v_theta, case.v_gt)
    return ppo(torch.exp((1 - case.t) * difference), case).mean()


@mutant("awm", fails="micro-batching", because="weighting-averaged", omega="t2", **CLIPPED)
def time_weight_averaged(case: Case) -> Tensor:
    difference = per_sample_mse(case.v_old, case.v_gt) - per_sample_mse(case.v_theta, case.v_gt)
    return ppo(torch.exp((case.t**2).mean() * difference), case).mean()


@mutant("awm", fails="gradient", because="convention:omega", omega="t", **CLIPPED)
def time_weight_squared(case: Case) -> Tensor:
    difference = per_sample_mse(case.v_old, case.v_gt) - per_sample_mse(case.v_theta, case.v_gt)
    return ppo(torch.exp(case.t.square() * difference), case).mean()


@mutant("awm", fails="gradient", because="convention:omega", omega="huber", **CLIPPED)
def huber_without_root(case: Case) -> Tensor:
    difference = per_sample_mse(case.v_old, case.v_gt) - per_sample_mse(case.v_theta, case.v_gt)
    return ppo(torch.exp(case.t * difference), case).mean()


@mutant("awm", fails="kl", because="convention:reference", reference="on", **CLIPPED)
def reference_is_the_ema_model(case: Case) -> Tensor:
    ratio = (per_sample_mse(case.v_old, case.v_gt) - per_sample_mse(case.v_theta, case.v_gt)).exp()
    kl = per_sample_mse(case.v_theta, case.v_old)
    return (ppo(ratio, case) + case.kl_weight * kl).mean()


@mutant("awm", fails="gradient", because="half-missing", **CLIPPED)
def log_prob_twice_as_steep(case: Case) -> Tensor:
    difference = per_sample_mse(case.v_old, case.v_gt) - per_sample_mse(case.v_theta, case.v_gt)
    return ppo(torch.exp(2 * difference), case).mean()


@mutant("awm", fails="stop-gradient", because="missing-detach", inputs_detached=False, **CLIPPED)
def old_error_with_graph(case: Case) -> Tensor:
    ratio = (per_sample_mse(case.v_old, case.v_gt) - per_sample_mse(case.v_theta, case.v_gt)).exp()
    return ppo(ratio, case).mean()


@mutant("awm", fails="precision", because="half-precision", **MEAN)
def error_in_half(case: Case) -> Tensor:
    error = (case.v_theta - case.v_gt).to(torch.float16)
    return (case.advantage * error.pow(2).flatten(1).mean(1).to(case.advantage.dtype)).mean()


@mutant("awm", fails="edge-times", because="edge-times", omega="t", **CLIPPED)
def time_weight_has_a_floor(case: Case) -> Tensor:
    difference = per_sample_mse(case.v_old, case.v_gt) - per_sample_mse(case.v_theta, case.v_gt)
    return ppo(torch.exp(case.t.clamp(min=0.03) * difference), case).mean()


@mutant("awm", fails="on-policy", because="on-policy", **CLIPPED)
def distance_of_equal_points(case: Case) -> Tensor:
    difference = per_sample_mse(case.v_old, case.v_gt) - per_sample_mse(case.v_theta, case.v_gt)
    step = (case.v_theta - case.v_old).flatten(1).norm(dim=1)
    ratio = torch.exp(step * (difference / step))  # for logging: improvement for each unit of change
    return ppo(ratio, case).mean()


MUTANTS: tuple[Mutant, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Mutant))
"""All of this file, in its order."""
