"""Flow-GRPO, DanceGRPO and CPS, written wrongly in the ways of real trainers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional

from gradcheck.case import Case

from .base import Mutant, mutant
from .steps import MEAN, log_density, log_ratio_of, ppo, ppo_between, sde_step, step_with_log_prob

# ------------------------------------------------------------------------------------- sign and size


@mutant("flow_grpo", fails="gradient", because="sign", **MEAN)
def objective_minimised(case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    surrogate = ratio * case.advantage
    clipped = ratio.clamp(1 - case.clip_low, 1 + case.clip_high) * case.advantage
    return torch.min(surrogate, clipped).mean()


@mutant("flow_grpo", fails="gradient", because="advantage-sign", **MEAN)
def sign_lost_inside_the_max(case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    unclipped = case.advantage * ratio
    clipped = case.advantage * torch.clamp(ratio, 1 - case.clip_low, 1 + case.clip_high)
    return torch.max(unclipped, clipped).mean()


@mutant("flow_grpo", fails="gradient", because="factor-2", **MEAN)
def counted_twice(case: Case) -> Tensor:
    policy_loss = ppo(log_ratio_of(case).exp(), case.advantage, case).mean()
    total = policy_loss
    total += policy_loss.clone()
    return total


@mutant("flow_grpo", fails="gradient", because="factor", **MEAN)
def unconditional_branch_detached(case: Case) -> Tensor:
    guidance_scale = 4.5
    v_text, v_uncond = case.v_theta, case.v_theta.detach()
    v = v_uncond + guidance_scale * (v_text - v_uncond)
    log_prob, _, _ = step_with_log_prob(case, v)
    with torch.no_grad():
        old_log_prob, _, _ = step_with_log_prob(case, case.v_old)
    return ppo(torch.exp(log_prob - old_log_prob), case.advantage, case).mean()


@mutant("flow_grpo", fails="micro-batching", because="convention:batch_reduction", **MEAN)
def batch_summed(case: Case) -> Tensor:
    return ppo(log_ratio_of(case).exp(), case.advantage, case).sum()


@mutant("flow_grpo", fails="micro-batching", because="batch-normalised", **MEAN)
def normalised_by_total_advantage(case: Case) -> Tensor:
    loss = ppo(log_ratio_of(case).exp(), case.advantage, case)
    return loss.sum() / (case.advantage.abs().sum() + 1e-3)


@mutant("flow_grpo", fails="gradient", because="shape-factor", **MEAN)
def masked_mean_counts_the_padding(case: Case) -> Tensor:
    loss = ppo(log_ratio_of(case).exp(), case.advantage, case)
    padded = functional.pad(loss, (0, 16 - len(loss)))
    mask = torch.arange(16, device=loss.device) < len(loss)
    return (padded * mask).mean()


@mutant("flow_grpo", fails="gradient", because="convention:log_prob_reduction", **MEAN)
def log_prob_summed(case: Case) -> Tensor:
    def log_prob(v: Tensor) -> Tensor:
        mean, std = sde_step(case, v)
        return Normal(mean, std).log_prob(case.x_prev).flatten(1).sum(-1)

    ratio = torch.exp(log_prob(case.v_theta) - log_prob(case.v_old).detach())
    return ppo(ratio, case.advantage, case).mean()


@mutant("flow_grpo", fails="gradient", because="convention:log_prob_reduction")
def log_prob_averaged(case: Case) -> Tensor:
    ratio = torch.exp(log_ratio_of(case))
    return ppo(ratio, case.advantage, case).mean()


# ------------------------------------------------------------------------------- the ratio and the clip


@mutant("flow_grpo", fails="gradient", because="ratio-missing", **MEAN)
def reinforce(case: Case) -> Tensor:
    log_prob, _, _ = step_with_log_prob(case, case.v_theta)
    return -(case.advantage.detach() * log_prob).mean()


@mutant("flow_grpo", fails="gradient", because="ratio-missing")
def ratio_to_itself(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta)
    log_prob = log_density(case.x_prev, mean, std).flatten(1).sum(1)
    ratio = torch.exp(log_prob - log_prob.detach())  # "on-policy, so it is the same model"
    return ppo(ratio, case.advantage, case).mean()


@mutant("flow_grpo", fails="gradient", because="log-ratio-sign", **MEAN)
def ratio_upside_down(case: Case) -> Tensor:
    log_prob, _, _ = step_with_log_prob(case, case.v_theta)
    with torch.no_grad():
        old_log_prob, _, _ = step_with_log_prob(case, case.v_old)
    return ppo(torch.exp(old_log_prob - log_prob), case.advantage, case).mean()


@mutant("flow_grpo", fails="gradient", because="ratio-linear", **MEAN)
def ratio_without_exponential(case: Case) -> Tensor:
    ratio = 1 + log_ratio_of(case)
    return ppo(ratio, case.advantage, case).mean()


@mutant("flow_grpo", fails="clip", because="clip-missing", **MEAN)
def unclipped(case: Case) -> Tensor:
    return -(case.advantage * log_ratio_of(case).exp()).mean()


@mutant("flow_grpo", fails="clip", because="max-for-min", **MEAN)
def min_for_max(case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    losses = torch.stack(
        [
            -case.advantage * ratio,
            -case.advantage * ratio.clip(1 - case.clip_low, 1 + case.clip_high),
        ]
    )
    return losses.min(dim=0).values.mean()


@mutant("flow_grpo", fails="clip", because="max-for-min", **MEAN)
def clip_on_the_wrong_side(case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    bounded = torch.where(case.advantage > 0, ratio.clamp(min=1 - case.clip_low), ratio.clamp(max=1 + case.clip_high))
    return (-case.advantage * bounded).mean()


@mutant("flow_grpo", fails="clip", because="clip-on-log-ratio", **MEAN)
def clip_on_the_log_ratio(case: Case) -> Tensor:
    log_ratio = log_ratio_of(case)
    ratio, bounded = log_ratio.exp(), log_ratio.clamp(-case.clip_low, case.clip_high).exp()
    return -torch.min(ratio * case.advantage, bounded * case.advantage).mean()


@mutant("flow_grpo", fails="clip", because="clipped-term-alone", **MEAN)
def clipped_term_alone(case: Case) -> Tensor:
    ratio = torch.clamp(log_ratio_of(case).exp(), 1 - case.clip_low, 1 + case.clip_high)
    return -(ratio * case.advantage).mean()


@mutant("flow_grpo", fails="clip", because="clip-edges-exchanged", **MEAN)
def clip_edges_exchanged(case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    clipped = ratio.clamp(1 - case.clip_high, 1 + case.clip_low)
    return -torch.min(ratio * case.advantage, clipped * case.advantage).mean()


@mutant("flow_grpo", fails="on-policy", because="tie-lost", **MEAN)
def tie_goes_to_a_constant(case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    unclipped = -case.advantage * ratio
    clipped = -case.advantage * ratio.detach().clamp(1 - case.clip_low, 1 + case.clip_high)
    return torch.where(unclipped > clipped, unclipped, clipped).mean() + 0 * case.v_theta.sum()


# -------------------------------------------------------------------------------------- the advantage


@mutant("flow_grpo", fails="sample-independence", because="advantage-normalised-twice", **MEAN)
def advantage_normalised_again(case: Case) -> Tensor:
    adv = (case.advantage - case.advantage.mean()) / (case.advantage.std(unbiased=False) + 1e-8)
    return ppo(log_ratio_of(case).exp(), adv, case).mean()


@mutant("flow_grpo", fails="sample-independence", because="advantage-normalised-twice", adv_clip_max=5.0, **MEAN)
def advantage_whitened_in_the_loss(case: Case) -> Tensor:
    adv = case.advantage.clamp(-case.adv_clip_max, case.adv_clip_max)
    spread = ((adv - adv.mean()) ** 2).sum() / max(len(adv) - 1, 1)
    adv = (adv - adv.mean()) / (spread.sqrt() + 1e-4)
    return ppo(log_ratio_of(case).exp(), adv, case).mean()


@mutant("flow_grpo", fails="sample-independence", because="advantage-normalised-twice", **MEAN)
def advantage_by_variance(case: Case) -> Tensor:
    adv = (case.advantage - case.advantage.mean()) / (case.advantage.var(unbiased=False) + 1e-6)
    return ppo(log_ratio_of(case).exp(), adv, case).mean()


@mutant("flow_grpo", fails="gradient", because="advantage-absolute", **MEAN)
def advantage_absolute(case: Case) -> Tensor:
    return ppo(log_ratio_of(case).exp(), case.advantage.abs(), case).mean()


@mutant("flow_grpo", fails="gradient", because="advantage-squared", **MEAN)
def advantage_applied_twice(case: Case) -> Tensor:
    loss = ppo(log_ratio_of(case).exp(), case.advantage, case)
    return (loss * case.advantage.abs()).mean()


@mutant("flow_grpo", fails="gradient", because="convention:advantage_mode", **MEAN)
def only_good_samples(case: Case) -> Tensor:
    return ppo(log_ratio_of(case).exp(), functional.relu(case.advantage), case).mean()


@mutant("flow_grpo", fails="sample-independence", because="advantage-averaged", **MEAN)
def advantage_averaged(case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    return ppo(ratio, case.advantage.mean().expand_as(ratio), case).mean()


@mutant("flow_grpo", fails="gradient", because="advantage-unclamped", adv_clip_max=5.0, **MEAN)
def advantage_unclamped(case: Case) -> Tensor:
    return ppo(log_ratio_of(case).exp(), case.advantage, case).mean()


@mutant("flow_grpo", fails="gradient", because="convention:adv_clip_max", **MEAN)
def advantage_clamped_undeclared(case: Case) -> Tensor:
    return ppo(log_ratio_of(case).exp(), case.advantage.clamp(-3, 3), case).mean()


@mutant("flow_grpo", fails="sample-independence", because="advantage-broadcast", **MEAN)
def advantage_is_a_column(case: Case) -> Tensor:
    advantage = case.advantage.unsqueeze(1)  # as the dataloader hands it over
    ratio = log_ratio_of(case).exp()
    return ppo(ratio, advantage, case).mean()


@mutant("flow_grpo", fails="clip", because="clip-symmetric", **MEAN)
def lower_edge_on_both_sides(case: Case) -> Tensor:
    return ppo_between(case.clip_low, case.clip_low, case)


@mutant("flow_grpo", fails="clip", because="clip-symmetric", clip_range=(0.2, 0.28), **MEAN)
def upper_edge_on_both_sides(case: Case) -> Tensor:
    return ppo_between(0.28, 0.28, case)


@mutant("flow_grpo", fails="clip", because="convention:clip_range", clip_range=0.2, **MEAN)
def clip_higher_undeclared(case: Case) -> Tensor:
    return ppo_between(0.2, 0.28, case)


@mutant("flow_grpo", fails="clip", because="convention:clip_range", **MEAN)
def clip_of_its_own(case: Case) -> Tensor:
    return ppo_between(0.2, 0.28, case)


@mutant("flow_grpo", fails="clip", because="clip-lower-missing", clip_range=0.2, kl="step", **MEAN)
def upper_edge_alone(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta)
    mean_ref, _ = sde_step(case, case.v_ref)
    kl = ((mean - mean_ref) ** 2 / (2 * std**2)).flatten(1).mean(1)
    ratio = log_ratio_of(case).exp()
    loss = torch.maximum(-case.advantage * ratio, -case.advantage * ratio.clamp(max=1.2))
    return (loss + case.kl_weight * kl).mean()


MUTANTS: tuple[Mutant, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Mutant))
"""All of this file, in its order."""
