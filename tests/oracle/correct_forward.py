"""Right implementations of the losses on noised data."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from gradcheck.case import Case

from .base import Correct, correct
from .steps import ppo


def mse(a: Tensor, b: Tensor) -> Tensor:
    return functional.mse_loss(a, b, reduction="none").flatten(1).mean(1)


@correct("awm")
def weighted_squares(case: Case) -> Tensor:
    return (case.advantage * (case.v_theta - (case.noise - case.x_0)).square().flatten(1).sum(1)).mean()


@correct("awm", reduction="mean")
def weighted_mse(case: Case) -> Tensor:
    return torch.dot(case.advantage, mse(case.v_theta, case.noise - case.x_0)) / len(case.advantage)


@correct("awm", reduction="mean")
def expanded_square(case: Case) -> Tensor:
    v = case.v_theta.flatten(1)
    inner = torch.bmm(v[:, None], v[:, :, None]) - 2 * torch.bmm(v[:, None], case.v_gt.flatten(1)[:, :, None])
    return (case.advantage * inner.flatten() / v.shape[1]).mean()


@correct("awm", reduction="mean")
def detached_target_form(case: Case) -> Tensor:
    target = (case.v_theta + case.expand(case.advantage) * (case.v_gt - case.v_theta)).detach()
    return mse(case.v_theta, target).mean()


@correct("awm", reduction="mean", reference="on")
def weighted_mse_with_reference(case: Case) -> Tensor:
    pull, hold = mse(case.v_theta, case.v_gt), mse(case.v_theta, case.v_ref)
    return torch.stack([case.advantage * pull, case.kl_weight * hold]).sum(0).mean()


@correct("awm", preset="awm-official", clip_range=(0.7, 1.0))
def official_awm(case: Case) -> Tensor:
    target = (case.noise - case.x_0).double()
    log_p = -((case.v_theta.double() - target) ** 2).mean(dim=tuple(range(1, target.ndim)))
    old_log_p = -((case.v_old.double() - target) ** 2).mean(dim=tuple(range(1, target.ndim)))
    ratio = torch.exp(log_p - old_log_p.detach())
    return torch.mean(ppo(ratio, case.advantage, case))


def awm_clipped(case: Case, weigh: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    new, old = weigh(mse(case.v_theta, case.v_gt), case.t), weigh(mse(case.v_old, case.v_gt), case.t)
    return ppo(torch.exp(old.detach() - new), case.advantage, case).mean()


@correct("awm", clip="ppo", reduction="mean", omega="t")
def clipped_awm_t(case: Case) -> Tensor:
    return awm_clipped(case, lambda error, t: t * error)


@correct("awm", clip="ppo", reduction="mean", omega="t2")
def clipped_awm_t2(case: Case) -> Tensor:
    return awm_clipped(case, lambda error, t: error * t * t)


@correct("awm", clip="ppo", reduction="mean", omega="huber")
def clipped_awm_huber(case: Case) -> Tensor:
    return awm_clipped(case, lambda error, t: (torch.sqrt(error + 1e-10) - 1e-5) * t)


@correct("awm", clip="ppo", reduction="mean", omega="ghuber")
def clipped_awm_ghuber(case: Case) -> Tensor:
    return awm_clipped(case, lambda error, t: 4 * t * ((error + 1e-10).pow(0.25) - 1e-10**0.25))


@correct("diffusion_nft")
def as_in_the_paper(case: Case) -> Tensor:
    v_plus = (1 - case.beta) * case.v_old + case.beta * case.v_theta
    v_minus = (1 + case.beta) * case.v_old - case.beta * case.v_theta
    good, bad = ((v - case.v_gt).pow(2).flatten(1).sum(1) for v in (v_plus, v_minus))
    return (case.reward_prob * good + (1 - case.reward_prob) * bad).mean()


@correct("diffusion_nft", reduction="mean")
def by_lerp(case: Case) -> Tensor:
    v_plus = torch.lerp(case.v_old, case.v_theta, case.beta)
    v_minus = torch.lerp(case.v_old, case.v_theta, -case.beta)
    r = case.reward_prob
    return (r * mse(v_plus, case.v_gt) + (1 - r) * mse(v_minus, case.v_gt)).mean()


@correct("diffusion_nft")
def as_one_regression(case: Case) -> Tensor:
    a = case.expand(2 * case.reward_prob - 1)
    target = case.v_old + a / case.beta * (case.v_gt - case.v_old)
    return case.beta**2 * (case.v_theta - target.detach()).square().flatten(1).sum(1).mean()


def nft_adaptive(case: Case) -> Tensor:
    t = case.t.view(-1, *[1] * (case.x_0.ndim - 1))
    xt = (1 - t) * case.x_0 + t * case.noise
    old = case.v_old.detach()
    total = []
    for share, prediction in (
        (case.reward_prob, case.beta * case.v_theta + (1 - case.beta) * old),
        (1 - case.reward_prob, (1.0 + case.beta) * old - case.beta * case.v_theta),
    ):
        x0_prediction = xt - t * prediction
        with torch.no_grad():
            weight = torch.abs(x0_prediction.double() - case.x_0.double())
            weight = weight.mean(dim=tuple(range(1, weight.ndim)), keepdim=True).clip(min=0.00001)
        error = ((x0_prediction - case.x_0) ** 2 / weight).mean(dim=tuple(range(1, case.x_0.ndim)))
        total.append(share * error / case.beta)
    return total[0] + total[1]


@correct("diffusion_nft", preset="diffusion_nft-official")
def official_nft(case: Case) -> Tensor:
    adv_clip_max = 5.0
    policy_loss = (nft_adaptive(case) * adv_clip_max).mean()
    kl = ((case.v_theta - case.v_ref) ** 2).mean(dim=tuple(range(1, case.v_ref.ndim)))
    return policy_loss + torch.mean(case.kl_weight * kl)


@correct("diffusion_nft", reduction="mean", weighting="adaptive")
def adaptive(case: Case) -> Tensor:
    return nft_adaptive(case).mean()


@correct("diffusion_nft", reduction="mean", weighting="adaptive")
def adaptive_with_weights_given(case: Case) -> Tensor:
    step = case.beta * (case.v_theta - case.v_old)
    gap = case.v_old - case.v_gt
    good, bad = (gap + step).square().flatten(1).mean(1), (gap - step).square().flatten(1).mean(1)
    r = case.reward_prob
    return (case.t**2 / case.beta * (r * good / case.w_plus + (1 - r) * bad / case.w_minus)).mean()


@correct("diffusion_nft", reduction="mean", reference="on")
def nft_with_reference(case: Case) -> Tensor:
    step = case.beta * (case.v_theta - case.v_old)
    r = case.reward_prob
    loss = r * mse(case.v_old + step, case.v_gt) + (1 - r) * mse(case.v_old - step, case.v_gt)
    return torch.mean(loss) + case.kl_weight * functional.mse_loss(case.v_theta, case.v_ref)


@correct("rwr")
def weighted_regression(case: Case) -> Tensor:
    weights = torch.exp(case.reward / case.temperature)
    return (weights * (case.v_theta - case.v_gt).square().flatten(1).sum(1)).mean()


@correct("rwr", reduction="mean")
def regression_to_scaled_residuals(case: Case) -> Tensor:
    root = case.expand(torch.exp(case.reward / (2 * case.temperature)))
    return functional.mse_loss(root * case.v_theta, root * (case.noise - case.x_0))


@correct("rwr", reduction="mean", reference="on", temperature=0.5)
def regression_held_at_the_reference(case: Case) -> Tensor:
    weights = (case.reward / 0.5).exp().unsqueeze(1)
    per_coordinate = weights * (case.v_theta - case.v_gt).flatten(1) ** 2
    return per_coordinate.mean() + case.kl_weight * functional.mse_loss(case.v_theta, case.v_ref)


@correct("awr", reduction="mean", temperature=1.0, weight_max=20.0)
def weights_clipped_at_twenty(case: Case) -> Tensor:
    """As AWR's authors have it, with their temperature and greatest weight."""
    weights = torch.minimum(torch.exp(case.advantage / 1.0), torch.tensor(20.0, dtype=case.advantage.dtype))
    return torch.mean(weights * torch.mean((case.noise - case.x_0 - case.v_theta).flatten(1) ** 2, dim=1))


@correct("awr", reference="on")
def weights_clipped_in_the_exponent(case: Case) -> Tensor:
    exponent = (case.advantage / case.temperature).clamp(max=math.log(case.weight_max))
    pull = (exponent.exp().sqrt().view(-1, 1) * (case.v_theta - case.v_gt).flatten(1)).square().sum(1)
    return (pull + case.kl_weight * (case.v_theta - case.v_ref).flatten(1).square().sum(1)).mean()


@correct("fpo", reduction="mean", reference="on", clip_range=0.05)
def flow_policy_with_reference(case: Case) -> Tensor:
    ratio = torch.exp(mse(case.v_old, case.v_gt).detach() - mse(case.v_theta, case.v_gt))
    policy = torch.maximum(-case.advantage * ratio, -case.advantage * ratio.clamp(0.95, 1.05))
    return policy.mean() + case.kl_weight * functional.mse_loss(case.v_theta, case.v_ref)


@correct("fpo", clip_range=0.05)
def flow_policy(case: Case) -> Tensor:
    """With the two errors' difference as a product, which loses no digits near the old model."""
    step = case.v_theta - case.v_old.detach()
    log_ratio = -(step * (case.v_theta + case.v_old.detach() - 2 * case.v_gt)).flatten(1).sum(1)
    ratio = log_ratio.exp()
    return -torch.min(ratio * case.advantage, ratio.clamp(0.95, 1.05) * case.advantage).mean()


@correct("diffusion_dpo", reduction="mean", beta_dpo=0.5)
def preference_as_written_by_its_authors(case: Case) -> Tensor:
    """Their β of 1 is halved inside the sigmoid."""
    model_error = (case.v_theta - case.v_gt).pow(2).flatten(1).mean(1)
    reference_error = (case.v_ref - case.v_gt).pow(2).flatten(1).mean(1)
    own = model_error - reference_error
    difference = torch.where(case.preference > 0, own - case.partner_gap, case.partner_gap - own)
    return -functional.logsigmoid(-0.5 * 1.0 * difference).mean()


@correct("diffusion_dpo", reduction="mean", anchor="behaviour")
def online_preference(case: Case) -> Tensor:
    with torch.no_grad():
        old = mse(case.v_old, case.v_gt)
    margin = case.preference * (mse(case.v_theta, case.v_gt) - old - case.partner_gap)
    return functional.softplus(case.beta_dpo * margin).mean()


@correct("dgpo", reduction="mean")
def group_preference(case: Case) -> Tensor:
    """The group's halves with the weights of their advantages, as trainers keep them."""
    gap = mse(case.v_theta, case.v_gt) - mse(case.v_ref, case.v_gt).detach()
    good, bad = case.advantage.clamp(min=0), (-case.advantage).clamp(min=0)
    return -functional.logsigmoid(-case.beta_dpo * (good * gap - bad * gap + case.group_gap)).mean()


@correct("dgpo", reference="on")
def group_preference_with_reference(case: Case) -> Tensor:
    errors = [(v - case.v_gt).square().flatten(1).sum(1) for v in (case.v_theta, case.v_ref)]
    margin = case.advantage * (errors[0] - errors[1]) + case.group_gap
    hold = (case.v_theta - case.v_ref).square().flatten(1).sum(1)
    return (torch.log1p(torch.exp(-(case.beta_dpo * margin).abs())) + (case.beta_dpo * margin).clamp(min=0)).mean() + (
        case.kl_weight * hold
    ).mean()


def nft_from_advantages(case: Case, advantages: Tensor) -> Tensor:
    """The official trainer's order: clip, divide, halve, shift, clip again."""
    normalised = advantages / case.advantage_clip / 2.0 + 0.5
    r = torch.clamp(normalised, 0, 1)
    plus, minus = (case.v_old + s * case.beta * (case.v_theta - case.v_old) for s in (1, -1))
    return (r * mse(plus, case.v_gt) + (1.0 - r) * mse(minus, case.v_gt)).mean()


@correct("diffusion_nft", reduction="mean", advantage_mode="all")
def nft_of_all(case: Case) -> Tensor:
    return nft_from_advantages(case, torch.clamp(case.advantage, -case.advantage_clip, case.advantage_clip))


@correct("diffusion_nft", reduction="mean", advantage_mode="positive_only")
def nft_of_good_ones(case: Case) -> Tensor:
    return nft_from_advantages(case, torch.clamp(case.advantage, 0, case.advantage_clip))


@correct("diffusion_nft", reduction="mean", advantage_mode="negative_only")
def nft_of_bad_ones(case: Case) -> Tensor:
    return nft_from_advantages(case, torch.clamp(case.advantage, -case.advantage_clip, 0))


@correct("diffusion_nft", reduction="mean", advantage_mode="one_only", advantage_clip=5.0)
def nft_of_ones(case: Case) -> Tensor:
    r = 0.5 + 0.1 * (case.advantage > 0).to(case.advantage.dtype)
    plus, minus = (case.v_old + s * case.beta * (case.v_theta - case.v_old) for s in (1, -1))
    return (r * mse(plus, case.v_gt) + (1.0 - r) * mse(minus, case.v_gt)).mean()


@correct("diffusion_nft", reduction="mean", advantage_mode="binary")
def nft_of_signs(case: Case) -> Tensor:
    return nft_from_advantages(case, torch.sign(case.advantage))


CORRECT: tuple[Correct, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Correct))
"""All of this file, in its order."""
