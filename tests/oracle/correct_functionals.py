"""Right losses on noised data in torch's own functions: cross-entropies, densities, distances, interpolations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Laplace, Normal
from torch.nn import functional

from gradcheck.case import Case

from .base import Correct, correct


def flat(x: Tensor) -> Tensor:
    return x.flatten(1)


def error(case: Case, v: Tensor) -> Tensor:
    return functional.mse_loss(v, case.v_gt, reduction="none").flatten(1).sum(1)


def gap(case: Case) -> Tensor:
    with torch.no_grad():
        held = error(case, case.v_ref)
    return error(case, case.v_theta) - held


def logit(case: Case) -> Tensor:
    """Of the right order of the pair."""
    return -case.beta_dpo * case.preference * (gap(case) - case.partner_gap)


def group_logit(case: Case) -> Tensor:
    return -case.beta_dpo * (case.advantage * gap(case) + case.group_gap)


# ---------------------------------------------------------------------------------------------- preferences


@correct("diffusion_dpo")
def binary_cross_entropy_with_logits(case: Case) -> Tensor:
    won = (case.preference > 0).to(case.v_theta)
    return functional.binary_cross_entropy_with_logits(case.preference * logit(case), won)


@correct("diffusion_dpo")
def cross_entropy_of_both(case: Case) -> Tensor:
    logits = -case.beta_dpo * torch.stack([gap(case), case.partner_gap], 1)
    return functional.cross_entropy(logits, (case.preference < 0).long())


@correct("diffusion_dpo")
def log_softmax_of_both(case: Case) -> Tensor:
    chosen = torch.log_softmax(-case.beta_dpo * torch.stack([gap(case), case.partner_gap], 1), 1)
    return -torch.where(case.preference > 0, chosen[:, 0], chosen[:, 1]).mean()


@correct("diffusion_dpo")
def softplus_of_the_margin(case: Case) -> Tensor:
    return functional.softplus(-logit(case)).mean()


@correct("diffusion_dpo", compare_values=True)
def logaddexp_with_its_value(case: Case) -> Tensor:
    return torch.logaddexp(-logit(case), torch.zeros_like(case.preference)).mean()


@correct("diffusion_dpo", reduction="mean")
def bernoulli_likelihood(case: Case) -> Tensor:
    each = case.v_theta[0].numel()
    z = -case.beta_dpo * case.preference * (gap(case) / each - case.partner_gap)
    return -Bernoulli(logits=z).log_prob(torch.ones_like(z)).mean()


@correct("diffusion_dpo", anchor="behaviour")
def nll_against_the_behaviour(case: Case) -> Tensor:
    own = error(case, case.v_theta) - error(case, case.v_old).detach()
    scores = torch.log_softmax(torch.stack([-case.beta_dpo * own, -case.beta_dpo * case.partner_gap], 1), 1)
    return functional.nll_loss(scores, (case.preference < 0).long())


@correct("diffusion_dpo", reference="on")
def logsumexp_and_reference(case: Case) -> Tensor:
    z = torch.stack([-logit(case), torch.zeros_like(case.preference)])
    hold = torch.linalg.vector_norm(flat(case.v_theta - case.v_ref), dim=1) ** 2
    return (torch.logsumexp(z, 0) + case.kl_weight * hold).mean()


@correct("diffusion_dpo", batch_reduction="sum")
def winners_and_losers_apart(case: Case) -> Tensor:
    won, own = case.preference > 0, gap(case)
    winner, loser = torch.where(won, own, case.partner_gap), torch.where(won, case.partner_gap, own)
    return -functional.logsigmoid(-case.beta_dpo * (winner - loser)).sum()


@correct("dgpo")
def group_binary_cross_entropy(case: Case) -> Tensor:
    z = group_logit(case)
    return functional.binary_cross_entropy_with_logits(z, torch.ones_like(z))


@correct("dgpo")
def group_softplus(case: Case) -> Tensor:
    return functional.softplus(-group_logit(case)).mean()


@correct("dgpo")
def group_cross_entropy(case: Case) -> Tensor:
    z = group_logit(case)
    return functional.cross_entropy(torch.stack([z, torch.zeros_like(z)], 1), torch.zeros_like(z, dtype=torch.long))


@correct("dgpo", batch_reduction="none")
def group_stable_by_hand(case: Case) -> Tensor:
    z = -group_logit(case)
    return z.clamp(min=0) + torch.log1p(torch.exp(-z.abs()))


@correct("dgpo", reduction="mean")
def good_less_bad(case: Case) -> Tensor:
    own = gap(case) / case.D
    signed = torch.relu(case.advantage) * own - torch.relu(-case.advantage) * own
    return -functional.logsigmoid(-case.beta_dpo * (signed + case.group_gap)).mean()


# ------------------------------------------------------------------------------------------------- matching


@correct("awm")
def square_to_a_detached_target(case: Case) -> Tensor:
    a = case.expand(case.advantage)
    target = (case.v_theta + a * (case.v_gt - case.v_theta)).detach()
    return functional.mse_loss(case.v_theta, target, reduction="sum") / len(a)


@correct("awm")
def lerp_to_the_target(case: Case) -> Tensor:
    with torch.no_grad():
        target = torch.lerp(case.v_theta, case.v_gt, case.expand(case.advantage))
    return (case.v_theta - target).square().flatten(1).sum(1).mean()


@correct("awm")
def distances_sample_by_sample(case: Case) -> Tensor:
    pairs = zip(case.advantage, case.v_theta, case.v_gt, strict=True)
    return torch.stack([a * torch.dist(v, v_gt) ** 2 for a, v, v_gt in pairs]).mean()


@correct("awm", reduction="mean")
def huber_within_its_square(case: Case) -> Tensor:
    rows = functional.huber_loss(case.v_theta, case.v_gt, reduction="none", delta=1e6).flatten(1)
    return (2 * case.advantage * rows.mean(1)).mean()


@correct("awm", reduction="mean")
def smooth_l1_within_its_square(case: Case) -> Tensor:
    rows = functional.smooth_l1_loss(case.v_theta, case.v_gt, reduction="none", beta=2.0**16).flatten(1)
    return (2.0**17 * case.advantage * rows.mean(1)).mean()


@correct("awm")
def unit_normal_density(case: Case) -> Tensor:
    log_prob = Normal(case.v_gt, 1.0).log_prob(case.v_theta).flatten(1).sum(1)
    return (-2 * case.advantage * log_prob).mean()


@correct("awm")
def gradient_of_the_distance_given(case: Case) -> Tensor:
    """A surrogate whose gradient is written down: ⟨sg(2A(v − v_gt)), v⟩."""
    pull = (2 * case.expand(case.advantage) * (case.v_theta - case.v_gt)).detach()
    return torch.einsum("bd,bd->b", flat(pull), flat(case.v_theta)).mean()


@correct("awm", reference="on", reduction="mean")
def addcmul_of_both_terms(case: Case) -> Tensor:
    pull, hold = (case.v_theta - case.v_gt).square(), (case.v_theta - case.v_ref).square()
    both = torch.addcmul(case.kl_weight * hold, case.expand(case.advantage), pull)
    return both.mean()


@correct("awm", clip="ppo", omega="huber", reduction="mean")
def pseudo_huber_by_hypot(case: Case) -> Tensor:
    def log_prob(v: Tensor) -> Tensor:
        root = torch.sqrt((v - case.v_gt).square().flatten(1).mean(1))
        return -case.t * (torch.hypot(root, torch.full_like(root, 1e-5)) - 1e-5)

    ratio = torch.exp(log_prob(case.v_theta) - log_prob(case.v_old).detach())
    clipped = torch.clamp(ratio, 1 - case.clip_low, 1 + case.clip_high)
    return torch.maximum(-case.advantage * ratio, -case.advantage * clipped).mean()


@correct("awm", clip="ppo", clip_range=1.0, reduction="mean")
def hardtanh_of_the_ratio(case: Case) -> Tensor:
    new, old = (flat(v - case.v_gt).square().mean(1) for v in (case.v_theta, case.v_old))
    ratio = torch.exp(old.detach() - new)
    return -torch.minimum(case.advantage * ratio, case.advantage * functional.hardtanh(ratio, 0.0, 2.0)).mean()


@correct("rwr")
def exponential_weights_detached(case: Case) -> Tensor:
    with torch.no_grad():
        weights = torch.exp(case.reward / case.temperature)
    return torch.dot(weights, error(case, case.v_theta)) / len(weights)


@correct("rwr", reduction="mean")
def exponential_in_base_two(case: Case) -> Tensor:
    weights = torch.exp2(case.reward / (case.temperature * torch.log(torch.tensor(2.0, dtype=torch.float64)).item()))
    return (weights * flat(case.v_theta - case.v_gt).pow(2).mean(1)).mean()


@correct("awr")
def weights_by_minimum(case: Case) -> Tensor:
    most = torch.full_like(case.advantage, case.weight_max)
    weights = torch.fmin(torch.exp(case.advantage / case.temperature), most)
    return (weights * error(case, case.v_theta)).mean()


@correct("awr", reduction="mean")
def weights_of_a_laplace_tail(case: Case) -> Tensor:
    """exp(−|A|/τ) is a Laplace density's shape, and its inverse the weight of a good sample."""
    a, tau = case.advantage, case.temperature
    shape = torch.exp(Laplace(torch.zeros_like(a), tau).log_prob(a)) * 2 * tau
    weights = torch.where(a > 0, 1 / shape, shape).clamp(max=case.weight_max)
    return (weights * functional.mse_loss(case.v_theta, case.v_gt, reduction="none").flatten(1).mean(1)).mean()


@correct("fpo")
def pairwise_distances(case: Case) -> Tensor:
    new, old = (
        functional.pairwise_distance(flat(v), flat(case.v_gt), eps=0.0) ** 2 for v in (case.v_theta, case.v_old)
    )
    ratio, a = torch.exp(old.detach() - new), case.advantage
    above = functional.relu(ratio - 1 - case.clip_high)
    below = functional.relu(1 - case.clip_low - ratio)
    return (-a * ratio + functional.relu(a) * above + functional.relu(-a) * below).mean()


@correct("fpo", reduction="mean")
def one_side_of_the_clip(case: Case) -> Tensor:
    new, old = (flat(v - case.v_gt).square().mean(1) for v in (case.v_theta, case.v_old.detach()))
    ratio = torch.exp(old - new)
    held = torch.where(case.advantage > 0, ratio.clamp(max=1 + case.clip_high), ratio.clamp(min=1 - case.clip_low))
    return -(case.advantage * held).mean()


# -------------------------------------------------------------------------------------------- DiffusionNFT


@correct("diffusion_nft")
def branches_by_lerp(case: Case) -> Tensor:
    plus, minus = (torch.lerp(case.v_old, case.v_theta, sign * case.beta) for sign in (1, -1))
    good, bad = error(case, plus), error(case, minus)
    return torch.lerp(bad, good, case.reward_prob).mean()


@correct("diffusion_nft", reduction="mean")
def square_to_the_optimal_velocity(case: Case) -> Tensor:
    """β²‖v − v*‖²."""
    pull = case.expand((2 * case.reward_prob - 1) / case.beta)
    target = case.v_old + pull * (case.v_gt - case.v_old)
    return case.beta**2 * functional.mse_loss(case.v_theta, target.detach())


@correct("diffusion_nft")
def both_branches_stacked(case: Case) -> Tensor:
    signs = torch.tensor([1.0, -1.0], dtype=case.v_theta.dtype, device=case.v_theta.device).reshape(
        2, *(1,) * case.v_theta.ndim
    )
    both = case.v_old + signs * case.beta * (case.v_theta - case.v_old)
    errors = (both - case.v_gt).square().flatten(2).sum(2)
    weights = torch.stack([case.reward_prob, 1 - case.reward_prob])
    return torch.einsum("kb,kb->b", weights, errors).mean()


@correct("diffusion_nft", inputs_detached=False)
def detaches_models_and_not_data(case: Case) -> Tensor:
    old = case.v_old.detach()
    plus, minus = old + case.beta * (case.v_theta - old), old - case.beta * (case.v_theta - old)
    return (case.reward_prob * error(case, plus) + (1 - case.reward_prob) * error(case, minus)).mean()


@correct("diffusion_nft", weighting="adaptive", reduction="mean", reference="on", policy_factor=3.0)
def factor_of_the_policy_alone(case: Case) -> Tensor:
    t = case.expand(case.t)
    x_t, total = torch.lerp(case.x_0, case.noise, t), 0.0
    for sign, share in ((1, case.reward_prob), (-1, 1 - case.reward_prob)):
        v = case.v_old.detach() + sign * case.beta * (case.v_theta - case.v_old.detach())
        off = x_t - t * v - case.x_0
        weight = off.detach().abs().flatten(1).mean(1).clamp(min=1e-5)
        total = total + share * off.square().flatten(1).mean(1) / weight
    hold = functional.mse_loss(case.v_theta, case.v_ref)
    return (3 * total / case.beta).mean() + case.kl_weight * hold


CORRECT: tuple[Correct, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Correct))
"""All of this file, in its order."""
