r"""A Flow-GRPO trainer without diffusers, peft or accelerate, written from the guide alone, and what can go wrong.

A small network with dropout, both branches of the guidance in one batch, one time step for the whole batch, two inner
epochs, two micro-batches an update, a KL term to a frozen copy.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import gradcheck

__all__ = ["CLEAN", "WRONG", "run"]

PROMPTS, GROUP, STEPS, LEVEL, SCALE, CLIP, KL = 2, 4, 6, 0.8, 3.0, 5e-3, 0.04
BATCH = PROMPTS * GROUP


class Network(nn.Module):
    """(B, 4, 8, 8), times in 0 … 1000, (B, 6) → velocities."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.inside, self.time, self.text = nn.Linear(4, 24), nn.Linear(16, 24), nn.Linear(6, 24)
        self.middle, self.mix, self.out = nn.Linear(24, 24), nn.Linear(64, 64), nn.Linear(24, 4)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, t: Tensor, prompt: Tensor) -> Tensor:
        angle = t.to(x)[:, None] / 20 * torch.exp(-torch.arange(8) / 8 * 5).to(x)
        times = self.time(torch.cat([angle.sin(), angle.cos()], -1))
        h = self.inside(x.flatten(2).mT) + times[:, None] + self.text(prompt.to(x))[:, None]
        h = h + self.drop(torch.tanh(self.middle(torch.tanh(h))))
        h = h + self.mix(h.mT).mT
        out: Tensor = self.out(h).mT.reshape(x.shape)
        return out


def sde(v: Tensor, x: Tensor, t: Tensor, t_prev: Tensor) -> tuple[Tensor, Tensor]:
    t, dt = t.view(-1, 1, 1, 1), (t - t_prev).view(-1, 1, 1, 1)
    s = LEVEL * torch.sqrt(t / (1 - torch.where(t == 1, 0.97, t)))
    return x * (1 - s**2 / (2 * t) * dt) - v * (1 + s**2 * (1 - t) / (2 * t)) * dt, s * dt.sqrt()


def log_prob(mean: Tensor, std: Tensor, y: Tensor) -> Tensor:
    return (-((y - mean) ** 2) / (2 * std**2) - std.log()).mean((1, 2, 3))


def normalised(reward: Tensor, how: str) -> Tensor:
    """Advantages, (B,)."""
    r = reward.view(PROMPTS, GROUP)
    centred = r - r.mean(1, keepdim=True)
    if how in ("group-size", "group-of-rank"):
        r = reward.view(-1, 2)
        return ((r - r.mean(1, keepdim=True)) / r.std(1, keepdim=True)).flatten()
    if how == "group-axis":
        r = reward.view(GROUP, PROMPTS)
        return ((r - r.mean(0)) / r.std(0)).flatten()
    if how == "centred":
        return centred.flatten()
    if how == "leave-one-out":
        return (centred * GROUP / (GROUP - 1)).flatten()
    if how == "ranks":
        return (r.argsort(1).argsort(1) - (GROUP - 1) / 2).flatten()
    divisor = {
        "std-axis": r.std(0, keepdim=True).expand_as(r),
        "std-of-another-group": r.std(1, keepdim=True).roll(1, 0),
        "std-of-all": reward.std().expand(1, 1),
        "largest": centred.abs().amax(1, keepdim=True),
    }.get(how, r.std(1, keepdim=True) + 1e-4)
    return ((r if how == "no-mean" else centred) / divisor).flatten()


def run(how: str = "", **options: Any) -> gradcheck.Watch:
    """One rollout and its updates, with one line changed."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(1)
    train_mode = how == "dropout"
    net = Network(0.2 if train_mode else 0.0).train(train_mode)
    reference = net if how == "reference-is-net" else copy.deepcopy(net).requires_grad_(False)
    trained = list(copy.deepcopy(net).parameters() if how == "optimiser-of-a-copy" else net.parameters())
    optimiser = torch.optim.AdamW(trained, 2e-3)
    sigmas = torch.linspace(1.0 if how == "from-noise" else 0.95, 0, STEPS + 1)
    sigmas = 3 * sigmas / (1 + 2 * sigmas)
    watch = gradcheck.watch(
        "flow_grpo",
        log_prob_reduction="mean",
        clip_range=CLIP,
        kl="step",
        kl_weight=KL,
        every=1,
        log=None,
        model=net,
        parameters=trained,
        sigmas=sigmas,
        **options,
    )
    prompts, nothing = torch.randn(PROMPTS, 6, generator=g), torch.zeros(BATCH, 6)
    which = torch.arange(PROMPTS).repeat_interleave(GROUP)
    prompt = prompts[which]

    def guided(m: nn.Module, x: Tensor, t: Tensor, c: Tensor, training: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        wrong = how if training else ""
        other = c if wrong == "unconditional-has-the-prompt" else nothing
        arguments = torch.cat([x, x]), torch.cat([t, t]) * 1000, torch.cat([c, other])
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
            if training and how == "checkpointed":
                both = torch.utils.checkpoint.checkpoint(m, *arguments, use_reentrant=False)
            else:
                both = m(*arguments)
        cond, uncond = (both.bfloat16() if how == "bfloat16" else both.float()).chunk(2)
        if wrong == "halves-swapped":
            cond, uncond = uncond, cond
        v = uncond + SCALE * (cond - uncond)
        if wrong == "guided-twice":
            v = uncond + SCALE * (v - uncond)
        if wrong == "guided-from-the-conditional":
            v = cond + SCALE * (cond - uncond)
        return v, cond, uncond

    rows: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    with torch.no_grad():
        x = torch.randn(BATCH, 4, 8, 8, generator=g)
        for i in range(STEPS):
            t, t_prev = sigmas[i].expand(BATCH), sigmas[i + 1].expand(BATCH)
            v = guided(net, x, t, prompt)[0]
            mean, std = sde(v.float(), x, t, t_prev)
            noise = torch.randn(x.shape, generator=g)
            if how == "std-without-root-dt":
                std = std * (t - t_prev).view(-1, 1, 1, 1).sqrt()
            if how == "uniform-noise":
                noise = torch.rand(x.shape, generator=g)
            y = mean + std * noise * (i + 1 < STEPS)
            if how == "states-clamped":
                y = y.clamp(-1.5, 1.5)
            rows.append((x, y.bfloat16().float() if how == "x_prev-in-bfloat16" else y, v, noise))
            if how == "states-in-one-tensor":
                x.copy_(y)
            x = x if how == "states-in-one-tensor" else y
        reward = torch.tanh(4 * x.flatten(1).mean(1)) + 0.1 * torch.randn(BATCH, generator=g)
        if how == "equal-rewards":
            reward[:GROUP] = 0.3
        advantage = normalised(reward, how)
    watch.advantages(advantage, reward, which)
    if how == "times-permuted":
        rows = [rows[i] for i in (1, 2, 3, 0, 4, 5)]

    samples = torch.randperm(BATCH, generator=g) if how == "short-last-micro-batch" else torch.arange(BATCH)
    micro = [samples[:3], samples[3:6], samples[6:]] if how == "short-last-micro-batch" else [samples]
    updates = 0
    for _ in range(2):
        for i in range(STEPS - 2):
            for some in micro:
                x_t, y, v_old, noise = (row[some] for row in rows[i])
                t, t_prev, c = sigmas[i].expand(len(some)), sigmas[i + 1].expand(len(some)), prompt[some]
                if how == "last-step-over-two" and i == STEPS - 3:
                    t_prev = sigmas[i + 2].expand(len(some))
                if how == "prompts-dropped":
                    c = c * (torch.rand(BATCH, 1, generator=g) > 0.5)
                if how == "prompts-tiled":
                    c = prompts.repeat(GROUP, 1)
                x_in = 1.05 * x_t if how == "latents-scaled" else x_t
                t_in = t.bfloat16().float() if how == "time-in-bfloat16" else t
                if how == "short-last-micro-batch":
                    nothing = torch.zeros(len(some), 6)
                v, cond, uncond = guided(net, x_in, t_in, c, training=True)
                with torch.no_grad():
                    v_ref = guided(reference, x_t, t, prompt[some])[0]
                    if how == "v_old-in-float16":
                        v_old = v_old.half().float()
                    if how == "v_old-computed-anew":
                        v_old = guided(net, x_t, t, c)[0]
                    mean_old, std = sde(v_old.float(), x_t, t, t_prev)
                    if how == "x_t-for-x_prev":
                        y = x_t.clone()
                    if how == "noise-drawn-anew":
                        y = mean_old + std * torch.randn(y.shape, generator=g)
                    mean_ref, _ = sde(v_ref.float(), x_t, t, t_prev)
                mean, _ = sde(v.float(), x_t, t, t_prev)
                log_ratio = log_prob(mean, std, y) - log_prob(mean_old, std, y)
                ratio, a = torch.exp(-log_ratio if how == "ratio-inverted" else log_ratio), advantage[some]
                if how == "advantages-without-sign":
                    a = a.abs()
                loss = torch.maximum(-a * ratio, -a * ratio.clamp(1 - CLIP, 1 + CLIP))
                held = KL * ((mean - mean_ref) ** 2 / (2 * std**2)).mean((1, 2, 3))
                if how == "kl-twice":
                    held = 2 * held
                apart = how in ("parts-apart", "reference-first", "kl-never-run", "zeroed-between")
                loss = loss if apart else loss + held
                total = loss.sum() / BATCH if how == "short-last-micro-batch" else loss.mean() / 2
                if how == "divided-by-the-steps":
                    total = total / STEPS
                watch(
                    v_theta=v,
                    v_old=v_old,
                    v_ref=v_ref,
                    x_t=x_t,
                    x_prev=y,
                    t=t,
                    t_prev=t_prev,
                    advantage=advantage[some],
                    noise_level=LEVEL,
                    v_cond=cond,
                    v_uncond=uncond,
                    guidance=SCALE,
                    reward=reward[some],
                    group=which[some],
                    timestep=1000 * t_in,
                    step_index=torch.full((len(some),), i),
                    accumulation=BATCH / len(some) if how == "short-last-micro-batch" else 2,
                    on_policy=updates == 0,
                    **({"noise": noise} if how == "noise-drawn-anew" else {}),
                )
                if how == "backward-twice":
                    total.backward(retain_graph=True)
                if how == "reference-first":
                    (held.mean() / 2).backward(retain_graph=True)
                total.backward(retain_graph=apart)
                if how == "zeroed-between":
                    optimiser.zero_grad()
                if how in ("parts-apart", "zeroed-between"):
                    (held.mean() / 2).backward()
            if how == "short-last-micro-batch" or i % 2:
                optimiser.step()
                optimiser.zero_grad()
                updates += 1
    return watch


WRONG = {
    "guided-twice": ("the guidance is applied twice in training", "guidance-scale"),
    "guided-from-the-conditional": ("training guides from the conditional velocity, w + 1 times", "guidance-scale"),
    "halves-swapped": ("the halves of the guided batch are exchanged in training", "ratio-on-policy"),
    "unconditional-has-the-prompt": ("the unconditional half has the prompt in training", "ratio-on-policy"),
    "dropout": ("dropout is on in rollout and training", "old-mode"),
    "times-permuted": ("the stored steps are in another order than the times", "step-index"),
    "last-step-over-two": ("the last trained step goes over two places of the grid", "step-index"),
    "group-size": ("the rewards are grouped by twos, and a group has four", "advantage-group"),
    "group-axis": ("the rewards are reshaped along the other axis", "advantage-group"),
    "std-axis": ("the standard deviation is taken over the groups, not within each", "advantage-divisor"),
    "std-of-another-group": ("each group is divided by the next one's standard deviation", "advantage-divisor"),
    "no-mean": ("the group's mean is not subtracted", "advantage-mean"),
    "x_prev-in-bfloat16": ("x_prev alone is stored in bfloat16", "state-rounded"),
    "v_old-in-float16": ("v_old is stored in float16", "old-precision"),
    "prompts-dropped": ("half of the prompts are dropped in training", "ratio-on-policy"),
    "prompts-tiled": ("the prompts are tiled where they must be repeated", "ratio-on-policy"),
    "latents-scaled": ("the latents are scaled once more before the network", "ratio-on-policy"),
    "time-in-bfloat16": ("the network's time is rounded to bfloat16 in training", "ratio-on-policy"),
    "reference-is-net": ("the reference is the trained network", "reference-is-live"),
    "v_old-computed-anew": ("v_old is computed anew after each update", "old-is-live"),
    "noise-drawn-anew": ("x_prev is drawn anew in training", "stored-noise"),
    "ratio-inverted": ("the ratio is the old density over the new one", "sign"),
    "advantages-without-sign": ("the loss has the advantages' magnitudes", "advantage-absolute"),
    "divided-by-the-steps": ("the loss is divided by the steps once more", "factor"),
    "backward-twice": ("backward runs twice", "backward-twice"),
    "kl-twice": ("the KL term is added twice", "kl-half"),
    "zeroed-between": ("the gradient is zeroed between the policy's and the KL term's pass", "kl-without-gradient"),
    "kl-never-run": ("the KL term's own backward pass is forgotten", "kl-without-gradient"),
    "optimiser-of-a-copy": ("the optimiser has the parameters of a copy", "parameters-of-a-copy"),
    "std-without-root-dt": ("the rollout's noise is multiplied by √Δt twice", "state"),
    "uniform-noise": ("the rollout draws uniform noise", "state"),
    "states-clamped": ("the sampled states are clamped", "state-clamped"),
    "states-in-one-tensor": ("the states that a step starts from are one tensor, changed in place", "state"),
    "x_t-for-x_prev": ("x_prev is x_t itself", "states-same"),
}
"""What is wrong, and the cause under which it must be named."""

CLEAN = {
    "": "as it is",
    "from-noise": "the first step is that from t = 1",
    "std-of-all": "all groups have one standard deviation",
    "centred": "the advantages are centred alone",
    "leave-one-out": "a sample's baseline is the mean of the others",
    "ranks": "the advantages are the rewards' ranks",
    "largest": "the advantages are divided by the largest one",
    "equal-rewards": "all rewards of a group are equal",
    "bfloat16": "the network puts out bfloat16",
    "autocast": "the network runs under autocast, and its output is made float32",
    "parts-apart": "the policy's term and the KL term run backward one after the other",
    "reference-first": "the KL term runs backward first",
    "checkpointed": "activation checkpointing in training",
    "short-last-micro-batch": "shuffled micro-batches of 3, 3 and 2 samples, each weighed by its size",
}
