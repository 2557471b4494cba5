"""Lines of right implementations that people get wrong: what the pages show as differences.

``tests/docs/test_slips.py`` runs both sides of every difference: with the right line the named obligation holds, with
the wrong one it fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradcheck_docs.implementations import IMPLEMENTATIONS

__all__ = ["SLIPS", "Slip", "common", "difference", "implementation", "slip", "wrong_source"]


@dataclass(frozen=True)
class Slip:
    """One line of an implementation, right and wrong.

    Attributes:
        of: the implementation's name.
        title: the mistake, in a few words.
        says: what it does to the gradient or to training.
        right, wrong: the line, without its indentation.
        obligation: that fails.
        common: whether the algorithm's own page shows it.
    """

    of: str
    title: str
    says: str
    right: str
    wrong: str
    obligation: str
    common: bool = True


def _of(name: str, *rows: tuple[str, str, str, str, str], common: bool = True) -> Iterator[Slip]:
    for title, says, right, wrong, obligation in rows:
        yield Slip(name, title, says, right, wrong, obligation, common)


_COLUMN_SAYS = (
    "The data loader hands over a column, (B, 1). Times a row, (B,), it becomes (B, B): every sample is trained with "
    "every other one's advantage. There is no error message."
)

SLIPS: tuple[Slip, ...] = (
    *_of(
        "flow_grpo",
        (
            "The objective minimised",
            "The paper states what is to be maximised. An optimiser minimises, so the minus sign has to come from you; "
            "without it good samples become less likely.",
            "loss = torch.maximum(-advantage * ratio, -advantage * clipped)",
            "loss = torch.minimum(advantage * ratio, advantage * clipped)",
            "gradient",
        ),
        (
            "min in place of max",
            "The smaller of the two *losses* is the optimistic one: samples that have gone too far go on, and those "
            "that have to come back are stopped.",
            "loss = torch.maximum(-advantage * ratio, -advantage * clipped)",
            "loss = torch.minimum(-advantage * ratio, -advantage * clipped)",
            "clip",
        ),
        (
            "The clipped term alone",
            "Beyond the clip *every* sample loses its gradient, even one that has to come back.",
            "loss = torch.maximum(-advantage * ratio, -advantage * clipped)",
            "loss = -advantage * clipped",
            "clip",
        ),
        (
            "The model divided by itself",
            "The ratio is always 1 and the clip never works. That is right for the first update after sampling only.",
            "log_ratio = log_prob(case.v_theta) - log_prob(case.v_old)",
            "log_ratio = log_prob(case.v_theta) - log_prob(case.v_theta).detach()",
            "gradient",
        ),
        (
            "An advantage of the wrong shape",
            _COLUMN_SAYS,
            "advantage = case.advantage",
            "advantage = case.advantage[:, None]",
            "sample-independence",
        ),
    ),
    *_of(
        "flow_grpo",
        (
            "√Δt left out",
            "",
            "std = sigma * torch.sqrt(dt)",
            "std = sigma",
            "gradient",
        ),
        (
            "Summed for averaged",
            "",
            "return torch.distributions.Normal(step(v), std).log_prob(case.x_prev).flatten(1).mean(1)",
            "return torch.distributions.Normal(step(v), std).log_prob(case.x_prev).flatten(1).sum(1)",
            "gradient",
        ),
        common=False,
    ),
    *_of(
        "flow_grpo, KL",
        (
            "KL detached",
            "",
            "kl = (step(case.v_theta) - step(case.v_ref)) ** 2",
            "kl = (step(case.v_theta).detach() - step(case.v_ref)) ** 2",
            "gradient",
        ),
        (
            "KL over σ²",
            "",
            "kl = (kl / (2 * std**2)).flatten(1).mean(1)",
            "kl = (kl / (2 * sigma**2)).flatten(1).mean(1)",
            "kl",
        ),
        common=False,
    ),
    *_of(
        "flow_grpo, dance",
        (
            "Normaliser of another step",
            "",
            "log_prob = log_prob - torch.log(std)",
            "log_prob = log_prob - torch.log(case.noise_level * torch.sqrt(t / (1 - t) * dt))",
            "on-policy",
        ),
        common=False,
    ),
    *_of(
        "flow_grpo, guidance",
        (
            "Unconditional branch detached",
            "",
            "v_cond, v_uncond = case.v_cond, case.v_uncond",
            "v_cond, v_uncond = case.v_cond, case.v_uncond.detach()",
            "gradient",
        ),
        common=False,
    ),
    *_of(
        "flow_grpo, padded",
        (
            "Padding counted",
            "",
            "return (padded * mask).sum() / mask.sum()",
            "return (padded * mask).mean()",
            "gradient",
        ),
        common=False,
    ),
    *_of(
        "flow_grpo, stored",
        (
            "Replayed in bfloat16",
            "",
            "x_prev = case.x_prev  # as the rollout stored it",
            "x_prev = case.x_prev.bfloat16().to(case.x_prev.dtype)  # as the rollout stored it",
            "on-policy",
        ),
        common=False,
    ),
    *_of(
        "flow_grpo, own shapes",
        (
            "For images only",
            "",
            "ones = (1,) * (case.x_t.ndim - 1)",
            "ones = (1, 1, 1)",
            "shapes",
        ),
        common=False,
    ),
    *_of(
        "grpo_guard",
        (
            "The bias averaged over the batch",
            "Each sample's own bias has to be added to its log-ratio. The batch's average removes nobody's own, and "
            "couples the samples.",
            "bias = bias.flatten(1).mean(1)",
            "bias = bias.mean()",
            "sample-independence",
        ),
        (
            "The bias left out",
            "What remains is a rescaled Flow-GRPO: its gradient is bent away from the noise again.",
            "ratio = torch.exp((log_ratio + bias) * std.flatten())",
            "ratio = torch.exp(log_ratio * std.flatten())",
            "gradient",
        ),
        (
            "The bias detached",
            "The ratio's value is right and its gradient is the plain ratio's: the term in v_theta − v_old stays.",
            "bias = bias.flatten(1).mean(1)",
            "bias = bias.flatten(1).mean(1).detach()",
            "gradient",
        ),
        (
            "Not divided by Δt",
            "Long steps weigh more than short ones, which the paper removes.",
            "return (loss / case.dt).mean()",
            "return loss.mean()",
            "gradient",
        ),
    ),
    *_of(
        "grpo_guard",
        (
            "Scale averaged",
            "",
            "ratio = torch.exp((log_ratio + bias) * std.flatten())",
            "ratio = torch.exp((log_ratio + bias) * std.mean())",
            "sample-independence",
        ),
        (
            "Overwritten",
            "",
            "ratio = torch.exp((log_ratio + bias) * std.flatten())",
            "ratio = torch.exp(log_ratio)",
            "gradient",
        ),
        common=False,
    ),
    *_of(
        "flow_dppo",
        (
            "Stopped on the way back too",
            "Only a step that leads further away may be stopped. Otherwise a sample that is too far stays there.",
            "kept = (~(away & far)).to(ratio.dtype)",
            "kept = (~far).to(ratio.dtype)",
            "clip",
        ),
        (
            "Stopped on the way back only",
            "1 − ratio for ratio − 1 turns the comparison round: samples drift away without a bound.",
            "away = case.advantage * (ratio - 1) > 0",
            "away = case.advantage * (1 - ratio) > 0",
            "clip",
        ),
        (
            "The half left out of the divergence",
            "The divergence of two Gaussians is ‖difference of means‖²/(2 std²). Without the 2 the bound is half of "
            "what the settings say.",
            "divergence = (step(case.v_theta) - step(case.v_old)) ** 2 / (2 * std**2)",
            "divergence = (step(case.v_theta) - step(case.v_old)) ** 2 / std**2",
            "clip",
        ),
        (
            "One divergence for the batch",
            "Each sample is to be stopped by its own divergence. The mean stops all of them or none.",
            "divergence = divergence.flatten(1).mean(1)",
            "divergence = divergence.mean()",
            "gradient",
        ),
    ),
    *_of(
        "ddpo",
        (
            "The direction of the ODE",
            "The stochastic step takes part of the predicted noise off and draws new noise for it. With the "
            "deterministic step's coefficient the mean is not the sampler's.",
            "mean = torch.sqrt(a_prev) * x_0 + torch.sqrt(1 - a_prev - std**2) * noise",
            "mean = torch.sqrt(a_prev) * x_0 + torch.sqrt(1 - a_prev) * noise",
            "gradient",
        ),
        (
            "η left out of the density",
            "The sampler draws with η · √variance; a density without η is another sampler's.",
            "std = case.noise_level * torch.sqrt(variance)",
            "std = torch.sqrt(variance)",
            "gradient",
        ),
        (
            "The log-ratio turned round",
            "The ratio falls where the model makes the sample more likely, and training does the opposite.",
            "log_ratio = log_prob(case.v_theta) - log_prob(case.v_old)",
            "log_ratio = log_prob(case.v_old) - log_prob(case.v_theta)",
            "gradient",
        ),
        (
            "No clip",
            "The clipped term is computed and not used. Nothing then stops a sample that has gone too far.",
            "loss = torch.maximum(-advantage * ratio, -advantage * clipped)",
            "loss = -advantage * ratio",
            "clip",
        ),
    ),
    *_of(
        "reinforce",
        (
            "The probability in the logarithm's place",
            "The policy gradient is that of log p. The gradient of p itself is p times as large, and in thousands of "
            "dimensions p is 0 or infinite.",
            "loss = -case.advantage * log_prob(case.v_theta)",
            "loss = -case.advantage * torch.exp(log_prob(case.v_theta))",
            "gradient",
        ),
        (
            "The minus sign",
            "An optimiser minimises. Without the minus it makes good samples less likely.",
            "loss = -case.advantage * log_prob(case.v_theta)",
            "loss = case.advantage * log_prob(case.v_theta)",
            "gradient",
        ),
        (
            "Σ A times Σ log p",
            "Both are averaged before they meet, so that every sample has the mean advantage, which is about 0.",
            "loss = -case.advantage * log_prob(case.v_theta)",
            "loss = -case.advantage.mean() * log_prob(case.v_theta)",
            "gradient",
        ),
    ),
    *_of(
        "awm",
        (
            "A second minus sign",
            "A likelihood is maximised, an error minimised. The error here is a negative log-likelihood already: "
            "another minus pushes good samples away.",
            "return (case.advantage * error).mean()",
            "return -(case.advantage * error).mean()",
            "gradient",
        ),
        (
            "Data minus noise",
            "With the noise at t = 1 the velocity is noise − data. The other sign is right for code whose time runs "
            "the other way (declare `noise_at=0` then).",
            "v_gt = case.noise - case.x_0",
            "v_gt = case.x_0 - case.noise",
            "gradient",
        ),
        (
            "An advantage of the wrong shape",
            _COLUMN_SAYS,
            "return (case.advantage * error).mean()",
            "return (case.advantage[:, None] * error).mean()",
            "sample-independence",
        ),
        (
            "The error averaged before it is weighted",
            "A mean over the whole batch leaves one number. The advantages then multiply the average error, and no "
            "sample is told apart from another.",
            "error = ((case.v_theta - v_gt) ** 2).flatten(1).mean(1)",
            "error = ((case.v_theta - v_gt) ** 2).mean()",
            "sample-independence",
        ),
    ),
    *_of(
        "awm, PPO-clipped",
        (
            "In the clipped form: the error for the log-probability",
            "log p is *minus* the error. With the other order the ratio falls where the fit improves.",
            "ratio = torch.exp(mse(case.v_old, v_gt) - mse(case.v_theta, v_gt))",
            "ratio = torch.exp(mse(case.v_theta, v_gt) - mse(case.v_old, v_gt))",
            "gradient",
        ),
    ),
    *_of(
        "diffusion_nft",
        (
            "The branches exchanged",
            "The branch of v⁺ is weighted by r, the probability that the sample is good. Exchanged, the model learns "
            "from failures.",
            "return (r * mse(v_plus, v_gt) + (1 - r) * mse(v_minus, v_gt)).mean()",
            "return (r * mse(v_minus, v_gt) + (1 - r) * mse(v_plus, v_gt)).mean()",
            "gradient",
        ),
        (
            "The advantage for r",
            "r lies between 0 and 1, the advantage between −1 and 1: A = 2r − 1.",
            "r = case.reward_prob",
            "r = case.advantage",
            "gradient",
        ),
        (
            "β and 1 − β exchanged",
            "β is the share of the trained model. At β = 1 this branch then has no gradient.",
            "v_plus = (1 - case.beta) * case.v_old + case.beta * case.v_theta",
            "v_plus = case.beta * case.v_old + (1 - case.beta) * case.v_theta",
            "gradient",
        ),
        (
            "Both branches mixed alike",
            "v⁻ goes as far *against* the trained model as v⁺ goes with it. With a plus the contrast is gone.",
            "v_minus = (1 + case.beta) * case.v_old - case.beta * case.v_theta",
            "v_minus = (1 - case.beta) * case.v_old + case.beta * case.v_theta",
            "gradient",
        ),
    ),
    *_of(
        "rwr",
        (
            "Times the temperature",
            "A low temperature is to sharpen the weights; multiplied, it flattens them.",
            "weight = torch.exp(case.reward / case.temperature)",
            "weight = torch.exp(case.reward * case.temperature)",
            "gradient",
        ),
        (
            "A softmax over the batch",
            "It divides by the batch's sum, so that a sample's weight depends on the others and on the batch's size.",
            "weight = torch.exp(case.reward / case.temperature)",
            "weight = torch.softmax(case.reward / case.temperature, 0)",
            "micro-batching",
        ),
        (
            "The exponential left out",
            "Rewards below 0 then push away, which this loss never does.",
            "weight = torch.exp(case.reward / case.temperature)",
            "weight = case.reward / case.temperature",
            "gradient",
        ),
    ),
    *_of(
        "awr",
        (
            "The exponent clipped",
            "The greatest weight becomes exp(w_max) instead of w_max.",
            "weight = torch.exp(case.advantage / case.temperature).clamp(max=case.weight_max)",
            "weight = torch.exp((case.advantage / case.temperature).clamp(max=case.weight_max))",
            "gradient",
        ),
        (
            "No greatest weight",
            "One very good sample then outweighs a whole batch.",
            "weight = torch.exp(case.advantage / case.temperature).clamp(max=case.weight_max)",
            "weight = torch.exp(case.advantage / case.temperature)",
            "gradient",
        ),
        (
            "A temperature of 1",
            "The temperature is in the settings and not in the code: nothing happens when it is changed.",
            "weight = torch.exp(case.advantage / case.temperature).clamp(max=case.weight_max)",
            "weight = torch.exp(case.advantage).clamp(max=case.weight_max)",
            "gradient",
        ),
    ),
    *_of(
        "fpo",
        (
            "New error minus old error",
            "log p is *minus* the error, so the old error comes first.",
            "log_ratio = mse(case.v_old, v_gt) - mse(case.v_theta, v_gt)",
            "log_ratio = mse(case.v_theta, v_gt) - mse(case.v_old, v_gt)",
            "gradient",
        ),
        (
            "One ratio for the batch",
            "Each sample has a ratio of its own. The batch's mean error gives all of them the same one.",
            "ratio = torch.exp(log_ratio)",
            "ratio = torch.exp(log_ratio.mean())",
            "gradient",
        ),
        (
            "min in place of max",
            "The smaller of the two *losses* lets samples beyond the clip go on training.",
            "loss = torch.maximum(-advantage * ratio, -advantage * clipped)",
            "loss = torch.minimum(-advantage * ratio, -advantage * clipped)",
            "clip",
        ),
    ),
    *_of(
        "diffusion_dpo",
        (
            "Winner and loser exchanged",
            "The gap is an *error*, so the winner's has to be the smaller one.",
            "loss = -torch.nn.functional.logsigmoid(-case.beta_dpo * margin)",
            "loss = -torch.nn.functional.logsigmoid(case.beta_dpo * margin)",
            "gradient",
        ),
        (
            "No reference",
            "The reference's error shifts the margin, and so decides which pairs still count as undecided.",
            "gap = mse(case.v_theta, v_gt) - mse(case.v_ref, v_gt)",
            "gap = mse(case.v_theta, v_gt)",
            "gradient",
        ),
        (
            "The margin averaged before the sigmoid",
            "Every pair has a sigmoid of its own. With the mean inside, one pair's margin weighs all others.",
            "margin = case.preference * (gap - case.partner_gap)",
            "margin = (case.preference * (gap - case.partner_gap)).mean()",
            "gradient",
        ),
    ),
    *_of(
        "dgpo",
        (
            "Good and bad exchanged",
            "The gap is an *error*, so that of the good samples has to be the smaller one.",
            "margin = case.advantage * gap + case.group_gap",
            "margin = -case.advantage * gap + case.group_gap",
            "gradient",
        ),
        (
            "Good and bad not told apart",
            "|A| is the weight in the paper's formula, where the sum over the bad samples is subtracted. In one sum "
            "the advantage keeps its sign.",
            "margin = case.advantage * gap + case.group_gap",
            "margin = case.advantage.abs() * gap + case.group_gap",
            "gradient",
        ),
        (
            "A sigmoid for each sample",
            "The group has one sigmoid, of the sum over all of its samples.",
            "margin = case.advantage * gap + case.group_gap",
            "margin = case.advantage * gap",
            "gradient",
        ),
    ),
    *_of(
        "moving average",
        (
            "Stored without a copy",
            "",
            "self.saved = [p.clone() for p in self.live]",
            "self.saved = list(self.live)",
            "restore",
        ),
        common=False,
    ),
)
"""All of them; those that are common are on their algorithm's page, the others belong to known mistakes."""


def implementation(name: str) -> str:
    """The source of a right implementation."""
    return IMPLEMENTATIONS[name]


def wrong_source(slip: Slip) -> str:
    """The implementation with the wrong line in the right one's place.

    Raises:
        LookupError: the right line is not there exactly once.
    """
    lines = implementation(slip.of).split("\n")
    found = [i for i, line in enumerate(lines) if line.strip() == slip.right]
    if len(found) != 1:
        raise LookupError(f"{slip.of}, {slip.title}: the right line is there {len(found)} times")
    (at,) = found
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    return "\n".join([*lines[:at], indent + slip.wrong, *lines[at + 1 :]])


def common(algorithm: str) -> list[Slip]:
    """The mistakes that an algorithm's page shows."""
    return [s for s in SLIPS if s.common and s.of.partition(",")[0] == algorithm]


def slip(of: str, title: str) -> Slip:
    """The mistake of that title.

    Raises:
        LookupError: there is none.
    """
    for one in SLIPS:
        if (one.of, one.title) == (of, title):
            return one
    raise LookupError(f"no mistake {title!r} of {of!r}")


def difference(slip: Slip) -> str:
    """The wrong line and the right one, as a block of Markdown."""
    return f"```diff\n- {slip.wrong}\n+ {slip.right}\n```"
