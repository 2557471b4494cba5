"""DiffusionNFT and reward-weighted regression, written wrongly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gradcheck.case import Case

from .base import Mutant, mutant


def mse(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b) ** 2).mean(dim=tuple(range(1, a.ndim)))


def contrast(case: Case, v_plus: Tensor, v_minus: Tensor) -> Tensor:
    """The loss in velocity space, right."""
    r = case.reward_prob
    return r * mse(v_plus, case.v_gt) + (1 - r) * mse(v_minus, case.v_gt)


def mixtures(case: Case) -> tuple[Tensor, Tensor]:
    v_old = case.v_old.detach()
    step = case.beta * (case.v_theta - v_old)
    return v_old + step, v_old - step


def x_0_errors(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Squared errors of both branches in x_0-space, and their adaptive weights."""
    t = case.t.view(-1, *[1] * (case.x_0.ndim - 1))
    x_t = (1 - t) * case.x_0 + t * case.noise
    predictions = [x_t - t * v for v in mixtures(case)]
    with torch.no_grad():
        weights = [(x - case.x_0).abs().flatten(1).mean(1).clip(min=1e-5) for x in predictions]
    errors = [mse(x, case.x_0) for x in predictions]
    return errors[0], errors[1], weights[0], weights[1]


MEAN = {"reduction": "mean"}
ADAPTIVE = {"reduction": "mean", "weighting": "adaptive"}


@mutant("diffusion_nft", fails="gradient", because="branches-swapped", **MEAN)
def branches_swapped(case: Case) -> Tensor:
    v_plus, v_minus = mixtures(case)
    return contrast(case, v_minus, v_plus).mean()


@mutant("diffusion_nft", fails="gradient", because="advantage-for-probability", **MEAN)
def advantage_for_probability(case: Case) -> Tensor:
    v_plus, v_minus = mixtures(case)
    a = 2 * case.reward_prob - 1
    return (a * mse(v_plus, case.v_gt) + (1 - a) * mse(v_minus, case.v_gt)).mean()


@mutant("diffusion_nft", fails="gradient", because="positive-branch-alone", **MEAN)
def negative_branch_forgotten(case: Case) -> Tensor:
    v_plus, _ = mixtures(case)
    return (case.reward_prob * mse(v_plus, case.v_gt)).mean()


@mutant("diffusion_nft", fails="gradient", because="negative-branch-alone", **MEAN)
def positive_branch_detached(case: Case) -> Tensor:
    v_plus, v_minus = mixtures(case)
    return contrast(case, v_plus.detach(), v_minus).mean()


@mutant("diffusion_nft", fails="gradient", because="branches-unweighted", **MEAN)
def branches_weigh_the_same(case: Case) -> Tensor:
    v_plus, v_minus = mixtures(case)
    return 0.5 * (mse(v_plus, case.v_gt) + mse(v_minus, case.v_gt)).mean()


@mutant("diffusion_nft", fails="gradient", because="beta-exchanged", **MEAN)
def beta_is_the_old_share(case: Case) -> Tensor:
    v_plus = torch.lerp(case.v_theta, case.v_old, case.beta)
    v_minus = 2 * case.v_old - v_plus
    return contrast(case, v_plus, v_minus).mean()


@mutant("diffusion_nft", fails="gradient", because="beta-on-one-branch", **MEAN)
def beta_exchanged_in_the_negative_branch(case: Case) -> Tensor:
    b = case.beta
    v_plus = (1 - b) * case.v_old + b * case.v_theta
    v_minus = (2 - b) * case.v_old - (1 - b) * case.v_theta
    return contrast(case, v_plus, v_minus).mean()


@mutant("diffusion_nft", fails="gradient", because="negative-branch-mixed-alike", **MEAN)
def negative_branch_with_plus(case: Case) -> Tensor:
    b = case.beta
    v_plus = (1 - b) * case.v_old + b * case.v_theta
    v_minus = (1 + b) * case.v_old + b * case.v_theta
    return contrast(case, v_plus, v_minus).mean()


@mutant("diffusion_nft", fails="gradient", because="beta-squared", **MEAN)
def beta_applied_twice(case: Case) -> Tensor:
    delta = case.beta * (case.v_theta - case.v_old)
    return contrast(case, case.v_old + case.beta * delta, case.v_old - case.beta * delta).mean()


@mutant("diffusion_nft", fails="gradient", because="beta-one", **MEAN)
def without_mixing(case: Case) -> Tensor:
    return contrast(case, case.v_theta, 2 * case.v_old - case.v_theta).mean()


@mutant("diffusion_nft", fails="gradient", because="mixture-live", **MEAN)
def old_model_is_the_trained_one(case: Case) -> Tensor:
    v_old = case.v_theta  # the EMA swap aliased the parameters
    v_plus = (1 - case.beta) * v_old + case.beta * case.v_theta
    v_minus = (1 + case.beta) * v_old - case.beta * case.v_theta
    return contrast(case, v_plus, v_minus).mean()


@mutant("diffusion_nft", fails="micro-batching", because="probability-averaged", **MEAN)
def probability_is_a_column(case: Case) -> Tensor:
    r = case.reward_prob.reshape(-1, 1)
    v_plus, v_minus = mixtures(case)
    return (r * mse(v_plus, case.v_gt) + (1 - r) * mse(v_minus, case.v_gt)).mean()


@mutant("diffusion_nft", fails="gradient", because="velocity-sign", **MEAN)
def target_reversed(case: Case) -> Tensor:
    v_plus, v_minus = mixtures(case)
    target = case.x_0 - case.noise
    return (case.reward_prob * mse(v_plus, target) + (1 - case.reward_prob) * mse(v_minus, target)).mean()


@mutant("diffusion_nft", fails="gradient", because="noise-for-velocity", **MEAN)
def target_is_the_noise(case: Case) -> Tensor:
    v_plus, v_minus = mixtures(case)
    r = case.reward_prob
    return (r * mse(v_plus, case.noise) + (1 - r) * mse(v_minus, case.noise)).mean()


@mutant("diffusion_nft", fails="gradient", because="probability-rounded", **MEAN)
def probability_binarised(case: Case) -> Tensor:
    v_plus, v_minus = mixtures(case)
    loss = torch.where(case.reward_prob > 0.5, mse(v_plus, case.v_gt), mse(v_minus, case.v_gt))
    return loss.mean()


@mutant("diffusion_nft", fails="gradient", because="factor-2", **MEAN)
def article_factor(case: Case) -> Tensor:
    v_plus, v_minus = mixtures(case)
    return 2 * contrast(case, v_plus, v_minus).mean()


@mutant("diffusion_nft", fails="gradient", because="over-beta", **MEAN)
def divided_by_beta(case: Case) -> Tensor:
    v_plus, v_minus = mixtures(case)
    return (contrast(case, v_plus, v_minus) / case.beta).mean()


@mutant("diffusion_nft", fails="gradient", because="sign", **MEAN)
def contrast_negated(case: Case) -> Tensor:
    v_plus, v_minus = mixtures(case)
    return -contrast(case, v_plus, v_minus).mean()


@mutant("diffusion_nft", fails="kl", because="kl-without-gradient", reference="on", **MEAN)
def reference_under_no_grad(case: Case) -> Tensor:
    loss = contrast(case, *mixtures(case)).mean()
    with torch.no_grad():
        kl = functional.mse_loss(case.v_theta, case.v_ref)
    return loss + case.kl_weight * kl


@mutant("diffusion_nft", fails="kl", because="kl-to-old", reference="on", **MEAN)
def reference_is_the_old_model(case: Case) -> Tensor:
    loss = contrast(case, *mixtures(case))
    return (loss + case.kl_weight * mse(case.v_theta, case.v_old)).mean()


@mutant("diffusion_nft", fails="gradient", because="weights-live", **ADAPTIVE)
def adaptive_weights_live(case: Case) -> Tensor:
    t = case.expand(case.t)
    x_t = (1 - t) * case.x_0 + t * case.noise
    total: Tensor | float = 0.0
    for share, v in zip((case.reward_prob, 1 - case.reward_prob), mixtures(case), strict=True):
        error = x_t - t * v - case.x_0
        total = total + share * error.square().flatten(1).mean(1) / error.abs().flatten(1).mean(1).clip(min=1e-5)
    assert isinstance(total, Tensor)
    return (total / case.beta).mean()


@mutant("diffusion_nft", fails="gradient", because="weights-missing", **ADAPTIVE)
def adaptive_weights_forgotten(case: Case) -> Tensor:
    good, bad, _, _ = x_0_errors(case)
    return ((case.reward_prob * good + (1 - case.reward_prob) * bad) / case.beta).mean()


@mutant("diffusion_nft", fails="gradient", because="weights-swapped", **ADAPTIVE)
def adaptive_weights_swapped(case: Case) -> Tensor:
    good, bad, w_good, w_bad = x_0_errors(case)
    return ((case.reward_prob * good / w_bad + (1 - case.reward_prob) * bad / w_good) / case.beta).mean()


@mutant("diffusion_nft", fails="gradient", because="weights-shared", **ADAPTIVE)
def one_weight_for_both(case: Case) -> Tensor:
    good, bad, w, _ = x_0_errors(case)
    return ((case.reward_prob * good + (1 - case.reward_prob) * bad) / w / case.beta).mean()


@mutant("diffusion_nft", fails="sample-independence", because="weights-averaged", **ADAPTIVE)
def weights_averaged_over_the_batch(case: Case) -> Tensor:
    good, bad, w_good, w_bad = x_0_errors(case)
    r = case.reward_prob
    return ((r * good / w_good.mean() + (1 - r) * bad / w_bad.mean()) / case.beta).mean()


@mutant("diffusion_nft", fails="gradient", because="beta-missing", **ADAPTIVE)
def not_divided_by_beta(case: Case) -> Tensor:
    good, bad, w_good, w_bad = x_0_errors(case)
    return (case.reward_prob * good / w_good + (1 - case.reward_prob) * bad / w_bad).mean()


@mutant("diffusion_nft", fails="gradient", because="factor", **ADAPTIVE)
def advantage_range_forgotten(case: Case) -> Tensor:
    good, bad, w_good, w_bad = x_0_errors(case)
    return 5 * ((case.reward_prob * good / w_good + (1 - case.reward_prob) * bad / w_bad) / case.beta).mean()


@mutant("diffusion_nft", fails="edge-times", because="edge-times", **ADAPTIVE)
def weight_floor_too_high(case: Case) -> Tensor:
    good, bad, w_good, w_bad = x_0_errors(case)
    w_good, w_bad = w_good.clamp(min=1e-2), w_bad.clamp(min=1e-2)
    return ((case.reward_prob * good / w_good + (1 - case.reward_prob) * bad / w_bad) / case.beta).mean()


@mutant("diffusion_nft", fails="stop-gradient", because="missing-detach", inputs_detached=False, **MEAN)
def old_velocity_live(case: Case) -> Tensor:
    v_plus = case.v_old + case.beta * (case.v_theta - case.v_old)
    v_minus = case.v_old - case.beta * (case.v_theta - case.v_old)
    return contrast(case, v_plus, v_minus).mean()


@mutant("diffusion_nft", fails="inputs-untouched", because="in-place", **MEAN)
def mixtures_in_place(case: Case) -> Tensor:
    v_plus = (1 - case.beta) * case.v_old + case.beta * case.v_theta
    v_minus = case.v_old.mul_(1 + case.beta) - case.beta * case.v_theta
    return contrast(case, v_plus, v_minus).mean()


@mutant("rwr", fails="gradient", because="factor-half")
def regression_halved(case: Case) -> Tensor:
    error = (case.v_theta - (case.noise - case.x_0)).flatten(1)
    return (torch.exp(case.reward / case.temperature) * error.pow(2).sum(1) / 2).mean()


@mutant("rwr", fails="micro-batching", because="weight-normalised")
def rewards_through_a_softmax(case: Case) -> Tensor:
    error = (case.v_theta - (case.noise - case.x_0)).flatten(1).pow(2).sum(1)
    return (torch.softmax(case.reward / case.temperature, 0) * error).sum()


@mutant("rwr", fails="gradient", because="temperature-inverted")
def temperature_inverted(case: Case) -> Tensor:
    error = (case.v_theta - (case.noise - case.x_0)).flatten(1).pow(2).sum(1)
    return (torch.exp(case.reward * case.temperature) * error).mean()


def from_advantages(case: Case, r: Tensor) -> Tensor:
    v_plus, v_minus = mixtures(case)
    return (r * mse(v_plus, case.v_gt) + (1 - r) * mse(v_minus, case.v_gt)).mean()


ADVANTAGES = {"reduction": "mean", "advantage_mode": "all"}
POSITIVE = {"reduction": "mean", "advantage_mode": "positive_only"}


@mutant("diffusion_nft", fails="gradient", because="map-unclipped", **ADVANTAGES)
def advantages_beyond_the_clip(case: Case) -> Tensor:
    return from_advantages(case, case.advantage / case.advantage_clip / 2 + 0.5)


@mutant("diffusion_nft", fails="gradient", because="map-of-the-unit", **ADVANTAGES)
def clipped_at_one(case: Case) -> Tensor:
    return from_advantages(case, case.advantage.clamp(-1, 1) / 2 + 0.5)


@mutant("diffusion_nft", fails="gradient", because="convention:advantage_mode", **POSITIVE)
def bad_samples_push(case: Case) -> Tensor:
    a = case.advantage.clamp(-case.advantage_clip, case.advantage_clip)
    return from_advantages(case, a / case.advantage_clip / 2 + 0.5)


@mutant("diffusion_nft", fails="gradient", because="shares-squared", **MEAN)
def shares_inside_the_squares(case: Case) -> Tensor:
    v_plus, v_minus = mixtures(case)
    r, nothing = case.expand(case.reward_prob), torch.zeros_like(case.v_gt)
    return (mse(r * (v_plus - case.v_gt), nothing) + mse((1 - r) * (v_minus - case.v_gt), nothing)).mean()


@mutant("diffusion_nft", fails="gradient", because="branches-blended", **MEAN)
def one_error_of_a_blend(case: Case) -> Tensor:
    v_plus, v_minus = mixtures(case)
    return mse(torch.lerp(v_minus, v_plus, case.expand(case.reward_prob)), case.v_gt).mean()


def weighed(case: Case, weights: tuple[Tensor, Tensor]) -> Tensor:
    good, bad, _, _ = x_0_errors(case)
    return ((case.reward_prob * good / weights[0] + (1 - case.reward_prob) * bad / weights[1]) / case.beta).mean()


@mutant("diffusion_nft", fails="gradient", because="weights-of-another-error", **ADAPTIVE)
def weights_of_the_behaviour_model(case: Case) -> Tensor:
    t = case.expand(case.t)
    x_t = (1 - t) * case.x_0 + t * case.noise
    size = (x_t - t * case.v_old - case.x_0).abs().flatten(1).mean(1).clip(min=1e-5).detach()
    return weighed(case, (size, size))


@mutant("diffusion_nft", fails="gradient", because="weights-per-coordinate", **ADAPTIVE)
def weights_of_each_coordinate(case: Case) -> Tensor:
    t = case.expand(case.t)
    x_t = (1 - t) * case.x_0 + t * case.noise
    errors = [x_t - t * v - case.x_0 for v in mixtures(case)]
    good, bad = ((e**2 / e.detach().abs().clip(min=1e-5)).flatten(1).mean(1) for e in errors)
    return ((case.reward_prob * good + (1 - case.reward_prob) * bad) / case.beta).mean()


@mutant("diffusion_nft", fails="gradient", because="t-complement", **ADAPTIVE)
def time_turned_in_the_predicted_data(case: Case) -> Tensor:
    t = case.expand(case.t)
    x_t = (1 - t) * case.x_0 + t * case.noise
    errors = [x_t - (1 - t) * v - case.x_0 for v in mixtures(case)]
    good, bad = ((e**2).flatten(1).mean(1) / e.detach().abs().flatten(1).mean(1).clip(min=1e-5) for e in errors)
    return ((case.reward_prob * good + (1 - case.reward_prob) * bad) / case.beta).mean()


MUTANTS: tuple[Mutant, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Mutant))
"""All of this file, in its order."""
