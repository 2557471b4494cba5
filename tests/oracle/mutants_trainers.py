"""What gets through a review: an index that is off by one, a term in the wrong place, batches that lie otherwise."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from gradcheck.case import Case

from .base import Mutant, mutant

FLOW = {"log_prob_reduction": "mean", "clip_range": 0.2}


def mse(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b) ** 2).flatten(1).mean(1)


def ppo(a: Tensor, ratio: Tensor) -> Tensor:
    return torch.maximum(-a * ratio, -a * ratio.clamp(0.8, 1.2))


def mean(case: Case, v: Tensor, t: Tensor, dt: Tensor) -> Tensor:
    drift = (case.noise_level**2 * t / (1 - t)) / (2 * t)
    return case.x_t * (1 - drift * dt) - v * (1 + drift * (1 - t)) * dt


def std(case: Case, t: Tensor, dt: Tensor) -> Tensor:
    return case.noise_level * torch.sqrt(t / (1 - t) * dt)


def density(x: Tensor, at: Tensor, width: Tensor) -> Tensor:
    return (-((x - at) ** 2) / (2 * width**2) - width.log()).flatten(1).mean(1)


def of_the_model(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, log-probability and ratio of the declared step."""
    at, width = case.mean_offset - case.expand(case.C1) * case.v_theta, case.expand(case.C2)
    new = density(case.x_prev, at, width)
    return at, new, torch.exp(new - density(case.x_prev, case.mean_old, width))


def of_the_next_index(case: Case) -> tuple[Tensor, Tensor]:
    i = (case.step_index + 1).clamp(max=len(case.sigmas) - 2)
    return case.expand(case.sigmas[i]), case.expand(case.sigmas[i] - case.sigmas[i + 1])


@mutant("flow_grpo", fails="gradient", because="step-time-after", **FLOW)
def index_off_by_one(case: Case) -> Tensor:
    t, dt = of_the_next_index(case)
    new, old = (density(case.x_prev, mean(case, v, t, dt), std(case, t, dt)) for v in (case.v_theta, case.v_old))
    return ppo(case.advantage, torch.exp(new - old)).mean()


@mutant("flow_grpo", fails="gradient", because="step-dt-after", **FLOW)
def length_of_the_next_step(case: Case) -> Tensor:
    t, (_, dt) = case.expand(case.t), of_the_next_index(case)
    new, old = (density(case.x_prev, mean(case, v, t, dt), std(case, t, dt)) for v in (case.v_theta, case.v_old))
    return ppo(case.advantage, torch.exp(new - old)).mean()


@mutant("flow_grpo", fails="gradient", because="std-time-after", **FLOW)
def deviation_where_the_step_ends(case: Case) -> Tensor:
    t, dt = case.expand(case.t), case.expand(case.dt)
    width = std(case, case.expand(case.t_prev), dt)
    new, old = (density(case.x_prev, mean(case, v, t, dt), width) for v in (case.v_theta, case.v_old))
    return ppo(case.advantage, torch.exp(new - old)).mean()


@mutant("flow_grpo", fails="gradient", because="ratio-as-weight", **FLOW)
def detached_ratio_as_a_weight(case: Case) -> Tensor:
    _, log_prob, ratio = of_the_model(case)
    return -(case.advantage * ratio.detach().clamp(max=1.2) * log_prob).mean()


@mutant("flow_grpo", fails="gradient", because="kl-in-advantage", kl="step", **FLOW)
def penalty_as_a_reward(case: Case) -> Tensor:
    at, _, ratio = of_the_model(case)
    distance = mse(at, case.mean_ref) / (2 * case.C2**2)
    return ppo(case.advantage - case.kl_weight * distance.detach(), ratio).mean()


@mutant("flow_grpo", fails="gradient", because="noise-level-angle", sde="cps", **FLOW)
def noise_level_without_its_sine(case: Case) -> Tensor:
    t, after = case.expand(case.t), case.expand(case.t_prev)
    width = after * case.noise_level
    kept = (after**2 - width**2).sqrt()
    means = ((1 - after) * (case.x_t - t * v) + kept * (case.x_t + (1 - t) * v) for v in (case.v_theta, case.v_old))
    new, old = (density(case.x_prev, at, width) for at in means)
    return ppo(case.advantage, torch.exp(new - old)).mean()


@mutant("flow_grpo", fails="gradient", because="noise-not-taken-off", sde="cps", **FLOW)
def noise_that_is_kept_whole(case: Case) -> Tensor:
    t, after = case.expand(case.t), case.expand(case.t_prev)
    width = after * math.sin(case.noise_level * math.pi / 2)
    at = (1 - after) * (case.x_t - t * case.v_theta) + after * (case.x_t + (1 - t) * case.v_theta)
    ratio = torch.exp(density(case.x_prev, at, width) - density(case.x_prev, case.mean_old, width))
    return ppo(case.advantage, ratio).mean()


def ddim(case: Case, v: Tensor, *, rooted: bool = True, limit: float = math.inf) -> tuple[Tensor, Tensor]:
    a, after = case.expand(case.alpha_bar), case.expand(case.alpha_bar_prev)
    variance = (1 - after) / (1 - a) * (1 - a / after)
    width = case.noise_level * (variance.sqrt() if rooted else variance)
    data = (a.sqrt() * case.x_t - (1 - a).sqrt() * v).clamp(-limit, limit)
    noise = (case.x_t - a.sqrt() * data) / (1 - a).sqrt()
    return after.sqrt() * data + (1 - after - width**2).sqrt() * noise, width


@mutant("ddpo", fails="gradient", because="std-squared", **FLOW)
def variance_for_the_deviation(case: Case) -> Tensor:
    new, old = (density(case.x_prev, *ddim(case, v, rooted=False)) for v in (case.v_theta, case.v_old))
    return ppo(case.advantage, torch.exp(new - old)).mean()


@mutant("ddpo", fails="gradient", because="data-clipped", **FLOW)
def clipped_data_and_its_noise(case: Case) -> Tensor:
    new, old = (density(case.x_prev, *ddim(case, v, limit=1.0)) for v in (case.v_theta, case.v_old))
    return ppo(case.advantage, torch.exp(new - old)).mean()


@mutant("flow_dppo", fails="gradient", because="mask-mean", log_prob_reduction="mean")
def mean_over_what_is_left(case: Case) -> Tensor:
    _, _, ratio = of_the_model(case)
    out = (case.divergence > case.divergence_max) & (case.advantage * (ratio - 1) > 0)
    return (-case.advantage * ratio * ~out).sum() / (~out).sum().clamp(min=1)


@mutant(
    "awm", fails="gradient", because="weighting-on-one-side", clip="ppo", clip_range=0.2, reduction="mean", omega="t"
)
def weighting_of_the_new_alone(case: Case) -> Tensor:
    ratio = torch.exp(mse(case.v_old, case.v_gt) - case.t * mse(case.v_theta, case.v_gt))
    return ppo(case.advantage, ratio).mean()


@mutant("awm", fails="gradient", because="weighting-outside", clip="ppo", clip_range=0.2, reduction="mean", omega="t")
def weighting_of_the_loss(case: Case) -> Tensor:
    ratio = torch.exp(mse(case.v_old, case.v_gt) - mse(case.v_theta, case.v_gt))
    return (case.t * ppo(case.advantage, ratio)).mean()


@mutant("awm", fails="gradient", because="not-squared", reduction="mean")
def distance_for_its_square(case: Case) -> Tensor:
    return (case.advantage * (case.v_theta - case.v_gt).flatten(1).norm(dim=1)).mean()


@mutant("awm", fails="gradient", because="advantage-normalised-twice", reduction="mean")
def weights_that_sum_to_one(case: Case) -> Tensor:
    weights = case.advantage / case.advantage.abs().sum()
    return (weights * mse(case.v_theta, case.v_gt)).sum()


@mutant("rwr", fails="gradient", because="weight-normalised", reduction="mean")
def softmax_of_the_rewards(case: Case) -> Tensor:
    weights = torch.softmax(case.reward / case.temperature, 0)
    return (weights * mse(case.v_theta, case.v_gt)).sum()


def preference(case: Case, winners: Tensor, losers: Tensor) -> Tensor:
    return -functional.logsigmoid(-case.beta_dpo * (winners - losers)).mean()


@mutant("diffusion_dpo", fails="gradient", because="reference-missing", reduction="mean", pairs="halves")
def pairs_without_a_reference(case: Case) -> Tensor:
    return preference(case, *mse(case.v_theta, case.v_gt).chunk(2))


@mutant("diffusion_dpo", fails="gradient", because="reference-sign", reduction="mean", pairs="halves")
def reference_gap_the_wrong_way(case: Case) -> Tensor:
    return preference(case, *(mse(case.v_theta, case.v_gt) + mse(case.v_ref, case.v_gt)).chunk(2))


@mutant("diffusion_dpo", fails="gradient", because="target-of-winner", reduction="mean", pairs="halves")
def one_target_for_a_pair(case: Case) -> Tensor:
    target = case.v_gt.chunk(2)[0].repeat(2, *(1,) * (case.v_gt.ndim - 1))
    return preference(case, *(mse(case.v_theta, target) - mse(case.v_ref, target)).chunk(2))


@mutant("diffusion_dpo", fails="gradient", because="convention:pairs", reduction="mean", pairs="halves")
def neighbours_for_halves(case: Case) -> Tensor:
    gap = mse(case.v_theta, case.v_gt) - mse(case.v_ref, case.v_gt)
    return preference(case, gap[::2], gap[1::2])


def group_loss(case: Case, terms: Tensor) -> Tensor:
    return functional.softplus(case.beta_dpo * terms).mean()


def weighed_gaps(case: Case) -> Tensor:
    weighed: Tensor = case.advantage * (mse(case.v_theta, case.v_gt) - mse(case.v_ref, case.v_gt))
    return weighed


@mutant("dgpo", fails="gradient", because="group-averaged", reduction="mean", groups=4)
def mean_of_a_group(case: Case) -> Tensor:
    return group_loss(case, weighed_gaps(case).reshape(-1, 4).mean(1))


@mutant("dgpo", fails="gradient", because="group-layout", reduction="mean", groups=4)
def groups_across_the_batch(case: Case) -> Tensor:
    return group_loss(case, weighed_gaps(case).reshape(4, -1).sum(0))


def log_probs_of_rows(case: Case, *, moved: int = 0) -> tuple[Tensor, Tensor]:
    """The new and the old log-probabilities of rows of steps, (B, T); with the deviation of another step, if moved."""
    per_step = case.t.shape + (1,) * (case.x_t.ndim - 2)
    t, dt = case.t.reshape(per_step), case.dt.reshape(per_step)
    width = std(case, t, dt).roll(moved, 1)
    means = (mean(case, v, t, dt) for v in (case.v_theta, case.v_old))
    new, old = ((-((case.x_prev - at) ** 2) / (2 * width**2)).flatten(2).mean(2) for at in means)
    return new, old


@mutant("flow_grpo", fails="gradient", because="ratio-of-a-row", steps=True, **FLOW)
def one_ratio_for_a_trajectory(case: Case) -> Tensor:
    new, old = log_probs_of_rows(case)
    return ppo(case.advantage, torch.exp((new - old).sum(1))).mean()


@mutant("flow_grpo", fails="gradient", because="steps-summed", steps=True, **FLOW)
def sum_over_the_steps(case: Case) -> Tensor:
    new, old = log_probs_of_rows(case)
    return ppo(case.advantage[:, None], torch.exp(new - old)).sum(1).mean()


@mutant("flow_grpo", fails="gradient", because="step-of-the-row", steps=True, **FLOW)
def deviation_of_the_step_before(case: Case) -> Tensor:
    new, old = log_probs_of_rows(case, moved=1)
    return ppo(case.advantage[:, None], torch.exp(new - old)).mean()


@mutant("flow_grpo", fails="gradient", because="step-left-out", steps=True, **FLOW)
def all_steps_but_the_last(case: Case) -> Tensor:
    new, old = log_probs_of_rows(case)
    return ppo(case.advantage[:, None], torch.exp(new - old))[:, :-1].mean()


@mutant("awm", fails="gradient", because="guidance", reduction="mean", guidance=4.5)
def guidance_on_top_of_the_conditional(case: Case) -> Tensor:
    v = case.v_cond + 4.5 * (case.v_cond - case.v_uncond)
    return (case.advantage * mse(v, case.v_gt)).mean()


@mutant("awm", fails="gradient", because="guidance-detached", reduction="mean", guidance=4.5)
def unconditional_branch_detached(case: Case) -> Tensor:
    v = case.v_uncond.detach() + 4.5 * (case.v_cond - case.v_uncond.detach())
    return (case.advantage * mse(v, case.v_gt)).mean()


@mutant("awm", fails="gradient", because="guidance-detached", reduction="mean", guidance=4.5)
def difference_of_the_branches_detached(case: Case) -> Tensor:
    v = case.v_uncond + 4.5 * (case.v_cond - case.v_uncond).detach()
    return (case.advantage * mse(v, case.v_gt)).mean()


@mutant("awm", fails="gradient", because="mask-ignored", reduction="mean", mask="samples")
def masked_samples_that_train(case: Case) -> Tensor:
    return (case.advantage * mse(case.v_theta, case.v_gt)).mean()


@mutant("awm", fails="gradient", because="mask-inverted", reduction="mean", mask="coordinates")
def coordinates_that_are_left_out(case: Case) -> Tensor:
    out = 1 - case.mask
    errors = (out * (case.v_theta - case.v_gt) ** 2).flatten(1).sum(1)
    return (case.advantage * errors / out.flatten(1).sum(1)).mean()


@mutant("awm", fails="gradient", because="mask-counted-over-batch", reduction="mean", mask="coordinates")
def mean_over_all_that_is_left(case: Case) -> Tensor:
    errors = (case.mask * (case.v_theta - case.v_gt) ** 2).flatten(1).sum(1)
    return (case.advantage * errors).sum() / case.mask.sum()


@mutant("awm", fails="gradient", because="last-sample-dropped", reduction="mean")
def whole_pairs_alone(case: Case) -> Tensor:
    losses = case.advantage * mse(case.v_theta, case.v_gt)
    return losses[: max(1, len(losses) // 2 * 2)].mean()


@mutant("awm", fails="gradient", because="zero-advantages-not-counted", reduction="mean")
def mean_over_those_with_an_advantage(case: Case) -> Tensor:
    told = (case.advantage != 0).sum().clamp(min=1)
    return (case.advantage * mse(case.v_theta, case.v_gt)).sum() / told


@mutant("awm", fails="gradient", because="error-centred", reduction="mean")
def variance_of_the_error(case: Case) -> Tensor:
    return (case.advantage * (case.v_theta - case.v_gt).flatten(1).var(1, correction=0)).mean()


@mutant("awm", fails="gradient", because="advantage-of-neighbour", reduction="mean")
def sorted_advantages(case: Case) -> Tensor:
    return (case.advantage.sort(descending=True).values * mse(case.v_theta, case.v_gt)).mean()


@mutant("flow_grpo", fails="gradient", because="dual-clip-reversed", clip="dual", **FLOW)
def dual_clip_with_a_max(case: Case) -> Tensor:
    a, (*_, ratio) = case.advantage, of_the_model(case)
    loss = ppo(a, ratio)
    return torch.where(a < 0, torch.maximum(loss, -3 * a), loss).mean()


@mutant("flow_grpo", fails="gradient", because="kl-direction", kl="k3", **FLOW)
def estimate_of_the_other_divergence(case: Case) -> Tensor:
    _, new, ratio = of_the_model(case)
    log_s = new - density(case.x_prev, case.mean_ref, case.expand(case.C2))
    return (ppo(case.advantage, ratio) + case.kl_weight * (log_s.exp() - 1 - log_s)).mean()


@mutant("rwr", fails="gradient", because="weight-normalised", reduction="mean")
def best_reward_subtracted(case: Case) -> Tensor:
    weights = torch.exp((case.reward - case.reward.max()) / case.temperature)
    return (weights * mse(case.v_theta, case.v_gt)).mean()


MUTANTS: tuple[Mutant, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Mutant))
"""All of this file, in its order."""
