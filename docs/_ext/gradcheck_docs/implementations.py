"""Right implementations, as the pages show them: each conforms, which ``tests/docs/test_slips.py`` tries."""

from __future__ import annotations

__all__ = ["IMPLEMENTATIONS"]

_HEAD = "import torch\n\nimport gradcheck\n\n\n"

_STEP = """\
    t, dt = case.expand(case.t), case.expand(case.dt)
    sigma = case.noise_level * torch.sqrt(t / (1 - t))
    std = sigma * torch.sqrt(dt)

    def step(v):
        return case.x_t * (1 - sigma**2 * dt / (2 * t)) - v * (1 + sigma**2 * (1 - t) / (2 * t)) * dt

    def log_prob(v):
        return torch.distributions.Normal(step(v), std).log_prob(case.x_prev).flatten(1).mean(1)

"""
_RATIO = """\
    log_ratio = log_prob(case.v_theta) - log_prob(case.v_old)
    ratio = torch.exp(log_ratio)
"""
_CLIP = """\
    advantage = case.advantage
    clipped = ratio.clamp(1 - case.clip_low, 1 + case.clip_high)
    loss = torch.maximum(-advantage * ratio, -advantage * clipped)
"""
_SQUARES = """\
def mse(v, target):
    return ((v - target) ** 2).flatten(1).mean(1)


"""

IMPLEMENTATIONS: dict[str, str] = {
    "flow_grpo": (
        _HEAD
        + '@gradcheck.conforms("flow_grpo", log_prob_reduction="mean")\ndef test_flow_grpo(case):\n'
        + _STEP
        + _RATIO
        + _CLIP
        + "    return loss.mean()\n"
    ),
    "flow_grpo, KL": (
        _HEAD
        + '@gradcheck.conforms("flow_grpo", log_prob_reduction="mean", kl="step")\ndef test_flow_grpo(case):\n'
        + _STEP
        + _RATIO
        + _CLIP
        + """\
    kl = (step(case.v_theta) - step(case.v_ref)) ** 2
    kl = (kl / (2 * std**2)).flatten(1).mean(1)
    return (loss + case.kl_weight * kl).mean()
"""
    ),
    "flow_grpo, dance": (
        _HEAD
        + """\
@gradcheck.conforms("flow_grpo", log_prob_reduction="mean", sde="dance")
def test_dance_grpo(case):
    t, dt = case.expand(case.t), case.expand(case.dt)
    sigma = case.noise_level * torch.ones_like(t)
    std = sigma * torch.sqrt(dt)
    mean = case.x_t * (1 - sigma**2 * dt / (2 * t)) - case.v_theta * (1 + sigma**2 * (1 - t) / (2 * t)) * dt
    log_prob = -((case.x_prev - mean) ** 2) / (2 * std**2) - 0.5 * math.log(2 * math.pi)
    log_prob = log_prob - torch.log(std)
    ratio = torch.exp(log_prob.flatten(1).mean(1) - case.log_prob_old)
"""
        + _CLIP
        + "    return loss.mean()\n"
    ).replace("import torch\n", "import math\n\nimport torch\n", 1),
    "flow_grpo, guidance": (
        _HEAD
        + '@gradcheck.conforms("flow_grpo", log_prob_reduction="mean", guidance=4.5)\ndef test_flow_grpo(case):\n'
        + _STEP
        + """\
    v_cond, v_uncond = case.v_cond, case.v_uncond
    v_theta = v_uncond + 4.5 * (v_cond - v_uncond)
    ratio = torch.exp(log_prob(v_theta) - log_prob(case.v_old))
"""
        + _CLIP
        + "    return loss.mean()\n"
    ),
    "flow_grpo, padded": (
        _HEAD
        + '@gradcheck.conforms("flow_grpo", log_prob_reduction="mean")\ndef test_flow_grpo(case):\n'
        + _STEP
        + _RATIO
        + _CLIP
        + """\
    padded = torch.nn.functional.pad(loss, (0, -len(loss) % 16))
    mask = (torch.arange(len(padded)) < len(loss)).to(loss.dtype)
    return (padded * mask).sum() / mask.sum()
"""
    ),
    "flow_grpo, stored": (
        _HEAD
        + '@gradcheck.conforms("flow_grpo", log_prob_reduction="mean")\ndef test_flow_grpo(case):\n'
        + _STEP.replace("case.x_prev", "x_prev").replace(
            "    def step", "    x_prev = case.x_prev  # as the rollout stored it\n\n    def step"
        )
        + """\
    log_ratio = log_prob(case.v_theta) - case.log_prob_old
    ratio = torch.exp(log_ratio)
"""
        + _CLIP
        + "    return loss.mean()\n"
    ),
    "flow_grpo, own shapes": (
        _HEAD
        + '@gradcheck.conforms("flow_grpo", log_prob_reduction="mean")\ndef test_flow_grpo(case):\n'
        + _STEP.replace(
            "    t, dt = case.expand(case.t), case.expand(case.dt)\n",
            "    ones = (1,) * (case.x_t.ndim - 1)\n    t, dt = case.t.view(-1, *ones), case.dt.view(-1, *ones)\n",
        )
        + _RATIO
        + _CLIP
        + "    return loss.mean()\n"
    ),
    "grpo_guard": (
        _HEAD
        + '@gradcheck.conforms("grpo_guard", log_prob_reduction="mean")\ndef test_grpo_guard(case):\n'
        + _STEP
        + """\
    log_ratio = log_prob(case.v_theta) - log_prob(case.v_old)
    bias = (step(case.v_theta) - step(case.v_old)) ** 2 / (2 * std**2)
    bias = bias.flatten(1).mean(1)
    ratio = torch.exp((log_ratio + bias) * std.flatten())
"""
        + _CLIP
        + "    return (loss / case.dt).mean()\n"
    ),
    "flow_dppo": (
        _HEAD
        + '@gradcheck.conforms("flow_dppo", log_prob_reduction="mean")\ndef test_flow_dppo(case):\n'
        + _STEP
        + _RATIO
        + """\
    divergence = (step(case.v_theta) - step(case.v_old)) ** 2 / (2 * std**2)
    divergence = divergence.flatten(1).mean(1)
    away = case.advantage * (ratio - 1) > 0
    far = divergence > case.divergence_max
    kept = (~(away & far)).to(ratio.dtype)
    return -(case.advantage * ratio * kept).mean()
"""
    ),
    "ddpo": (
        _HEAD
        + """\
@gradcheck.conforms("ddpo", log_prob_reduction="mean")
def test_ddpo(case):
    a, a_prev = case.expand(case.alpha_bar), case.expand(case.alpha_bar_prev)
    variance = (1 - a_prev) / (1 - a) * (1 - a / a_prev)
    std = case.noise_level * torch.sqrt(variance)

    def log_prob(v):
        x_0 = torch.sqrt(a) * case.x_t - torch.sqrt(1 - a) * v
        noise = torch.sqrt(1 - a) * case.x_t + torch.sqrt(a) * v
        mean = torch.sqrt(a_prev) * x_0 + torch.sqrt(1 - a_prev - std**2) * noise
        return torch.distributions.Normal(mean, std).log_prob(case.x_prev).flatten(1).mean(1)

"""
        + _RATIO
        + _CLIP
        + "    return loss.mean()\n"
    ),
    "reinforce": (
        _HEAD
        + '@gradcheck.conforms("reinforce", log_prob_reduction="mean")\ndef test_reinforce(case):\n'
        + _STEP
        + "    loss = -case.advantage * log_prob(case.v_theta)\n    return loss.mean()\n"
    ),
    "awm": (
        _HEAD
        + """\
@gradcheck.conforms("awm", reduction="mean")
def test_awm(case):
    v_gt = case.noise - case.x_0
    error = ((case.v_theta - v_gt) ** 2).flatten(1).mean(1)
    return (case.advantage * error).mean()
"""
    ),
    "awm, PPO-clipped": (
        _HEAD
        + _SQUARES
        + """\
@gradcheck.conforms("awm", reduction="mean", clip="ppo")
def test_awm(case):
    v_gt = case.noise - case.x_0
    ratio = torch.exp(mse(case.v_old, v_gt) - mse(case.v_theta, v_gt))
"""
        + _CLIP
        + "    return loss.mean()\n"
    ),
    "diffusion_nft": (
        _HEAD
        + _SQUARES
        + """\
@gradcheck.conforms("diffusion_nft", reduction="mean")
def test_diffusion_nft(case):
    v_gt = case.noise - case.x_0
    v_plus = (1 - case.beta) * case.v_old + case.beta * case.v_theta
    v_minus = (1 + case.beta) * case.v_old - case.beta * case.v_theta
    r = case.reward_prob
    return (r * mse(v_plus, v_gt) + (1 - r) * mse(v_minus, v_gt)).mean()
"""
    ),
    "rwr": (
        _HEAD
        + _SQUARES
        + """\
@gradcheck.conforms("rwr", reduction="mean")
def test_rwr(case):
    weight = torch.exp(case.reward / case.temperature)
    return (weight * mse(case.v_theta, case.noise - case.x_0)).mean()
"""
    ),
    "awr": (
        _HEAD
        + _SQUARES
        + """\
@gradcheck.conforms("awr", reduction="mean")
def test_awr(case):
    weight = torch.exp(case.advantage / case.temperature).clamp(max=case.weight_max)
    return (weight * mse(case.v_theta, case.noise - case.x_0)).mean()
"""
    ),
    "fpo": (
        _HEAD
        + _SQUARES
        + """\
@gradcheck.conforms("fpo", reduction="mean")
def test_fpo(case):
    v_gt = case.noise - case.x_0
    log_ratio = mse(case.v_old, v_gt) - mse(case.v_theta, v_gt)
    ratio = torch.exp(log_ratio)
"""
        + _CLIP
        + "    return loss.mean()\n"
    ),
    "diffusion_dpo": (
        _HEAD
        + _SQUARES
        + """\
@gradcheck.conforms("diffusion_dpo", reduction="mean")
def test_diffusion_dpo(case):
    v_gt = case.noise - case.x_0
    gap = mse(case.v_theta, v_gt) - mse(case.v_ref, v_gt)
    margin = case.preference * (gap - case.partner_gap)
    loss = -torch.nn.functional.logsigmoid(-case.beta_dpo * margin)
    return loss.mean()
"""
    ),
    "dgpo": (
        _HEAD
        + _SQUARES
        + """\
@gradcheck.conforms("dgpo", reduction="mean")
def test_dgpo(case):
    v_gt = case.noise - case.x_0
    gap = mse(case.v_theta, v_gt) - mse(case.v_ref, v_gt)
    margin = case.advantage * gap + case.group_gap
    loss = -torch.nn.functional.logsigmoid(-case.beta_dpo * margin)
    return loss.mean()
"""
    ),
    "moving average": """\
class MovingAverage:
    def __init__(self, live, decay=0.9):
        self.live, self.decay = list(live), decay
        self.shadow = [p.clone() for p in self.live]

    def update(self):
        for s, p in zip(self.shadow, self.live):
            s.mul_(self.decay).add_(p, alpha=1 - self.decay)

    def swap_in(self):
        self.saved = [p.clone() for p in self.live]
        for s, p in zip(self.shadow, self.live):
            p.copy_(s)

    def swap_out(self):
        for s, p in zip(self.saved, self.live):
            p.copy_(s)
""",
}
"""Name → source of a right implementation; what is no algorithm's name is a form of one that a mistake needs."""
