r"""What goes wrong around a right loss: the example trainers with one line wrong in each.

The loss functions are right, so that whoever judges them alone finds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from examples.trainers.forward import BETA, EMA, ForwardTrainer
from examples.trainers.policy import NOISE_LEVEL, PolicyTrainer, Rollout
from examples.trainers.tiny import Settings, Tiny, column

__all__ = ["BUGS", "SMALL", "Bug", "bug_table"]

SMALL = Settings(updates=2, prompts=2, group=3, timesteps=6, log=None)


@dataclass(frozen=True)
class Bug:
    """A wrong trainer.

    Attributes:
        title: what is wrong, in a line.
        make: the trainer.
        cause: the id under which it must be named, at the first judged step on which it acts.
        calls: judged steps until then.
    """

    title: str
    make: Callable[[str], PolicyTrainer | ForwardTrainer]
    cause: str
    calls: int = 1


def trained_before(tiny: Tiny) -> None:
    """Adapters as they are after some updates: zero ones hide what depends on them."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in tiny.network.named_parameters():
            if "lora_B" in name:
                p.copy_(0.1 * torch.randn(p.shape, generator=g))


def policy(
    settings: Settings = SMALL, method: str = "flow_grpo", watched: dict[str, Any] | None = None, **wrong: Any
) -> Callable[[str], PolicyTrainer]:
    """A policy trainer with some methods replaced."""

    def make(device: str = "cpu") -> PolicyTrainer:
        kind = type("Wrong", (PolicyTrainer,), wrong)
        trainer: PolicyTrainer = kind(replace(settings, device=device), method)
        trained_before(trainer.tiny)
        return trainer

    return make


def forward(settings: Settings = SMALL, method: str = "diffusion_nft", **wrong: Any) -> Callable[[str], ForwardTrainer]:
    """A trainer on noised samples with some methods replaced."""

    def make(device: str = "cpu") -> ForwardTrainer:
        kind = type("Wrong", (ForwardTrainer,), wrong)
        trainer: ForwardTrainer = kind(replace(settings, device=device), method)
        trained_before(trainer.tiny)
        return trainer

    return make


# --------------------------------------------------------------------------------------- around the rollout


def uncond_detached(self: PolicyTrainer, x_t: Tensor, t: Tensor, prompt: dict[str, Tensor]) -> Any:
    cond = self.tiny.velocity(x_t, t, prompt)
    with torch.no_grad():
        uncond = self.tiny.velocity(x_t, t, {name: torch.zeros_like(x) for name, x in prompt.items()})
    return uncond + 3.0 * (cond - uncond), {"v_cond": cond, "v_uncond": uncond}


def uncond_detached_in_the_sum(self: PolicyTrainer, x_t: Tensor, t: Tensor, prompt: dict[str, Tensor]) -> Any:
    _, branches = PolicyTrainer.velocity(self, x_t, t, prompt)
    cond, uncond = branches["v_cond"], branches["v_uncond"]
    return uncond.detach() + 3.0 * (cond - uncond.detach()), branches


def guidance_of_the_rollout_alone(self: PolicyTrainer, x_t: Tensor, t: Tensor, prompt: dict[str, Tensor]) -> Any:
    if torch.is_grad_enabled():
        return self.tiny.velocity(x_t, t, prompt), {}
    return PolicyTrainer.velocity(self, x_t, t, prompt)


def rollout_in_bfloat16(self: PolicyTrainer) -> Rollout:
    with torch.autocast(self.settings.device, dtype=torch.bfloat16):
        return PolicyTrainer.rollout(self)


def dropout_in_training(self: PolicyTrainer, rollout: Rollout, step: Tensor, on_policy: bool) -> Tensor:
    for module in self.tiny.network.modules():
        drops = getattr(module, "lora_dropout", None)
        if isinstance(drops, nn.ModuleDict):
            drops["default"] = nn.Dropout(0.1)
    self.tiny.network.train()
    return PolicyTrainer.train_step(self, rollout, step, on_policy)


def stored(**changed: Callable[[Rollout], Tensor]) -> Callable[[PolicyTrainer], Rollout]:
    """A rollout that is stored wrongly."""

    def rollout(self: PolicyTrainer) -> Rollout:
        found = PolicyTrainer.rollout(self)
        return replace(found, **{name: change(found) for name, change in changed.items()})

    return rollout


def rolled_out_with(level: float) -> Callable[[PolicyTrainer], Rollout]:
    def rollout(self: PolicyTrainer) -> Rollout:
        own = self.sde_step

        def louder(v: Tensor, x_t: Tensor, t: Tensor, t_prev: Tensor) -> tuple[Tensor, Tensor]:
            scaled = level / NOISE_LEVEL
            mean, std = own(v, x_t, t, t_prev)
            at, dt = column(t, x_t), column(t - t_prev, x_t)
            drift = std**2 / 2 / at * (x_t + (1 - at) * v)  # σ²Δt/2t: what the mean owes to the noise
            return mean - (scaled**2 - 1) * drift + 0 * dt, scaled * std

        self.sde_step = louder  # type: ignore[method-assign]
        try:
            return PolicyTrainer.rollout(self)
        finally:
            self.sde_step = own  # type: ignore[method-assign]

    return rollout


def rolled_out_with_dance(self: PolicyTrainer) -> Rollout:
    own = self.sde_step

    def dance(v: Tensor, x_t: Tensor, t: Tensor, t_prev: Tensor) -> tuple[Tensor, Tensor]:
        at, dt = column(t, x_t), column(t - t_prev, x_t)
        mean = x_t * (1 - NOISE_LEVEL**2 * dt / (2 * at)) - v * (1 + NOISE_LEVEL**2 * (1 - at) / (2 * at)) * dt
        return mean, NOISE_LEVEL * torch.sqrt(dt)

    self.sde_step = dance  # type: ignore[method-assign]
    try:
        return PolicyTrainer.rollout(self)
    finally:
        self.sde_step = own  # type: ignore[method-assign]


def rollout_without_adapter(self: PolicyTrainer) -> Rollout:
    with self.tiny.network.disable_adapter():
        return PolicyTrainer.rollout(self)


# --------------------------------------------------------------------------------------- around the update


def minibatch(change: Callable[[PolicyTrainer, dict[str, Any], Rollout, Tensor], dict[str, Any]]) -> Any:
    """A mini-batch that is put together wrongly."""

    def made(self: PolicyTrainer, rollout: Rollout, step: Tensor) -> dict[str, Any]:
        batch = PolicyTrainer.minibatch(self, rollout, step)
        return batch | change(self, batch, rollout, step)

    return made


def in_training(change: Callable[..., Any]) -> Any:
    """A forward pass that is wrong where a graph is made."""

    def velocity(self: PolicyTrainer, x_t: Tensor, t: Tensor, prompt: dict[str, Tensor]) -> Any:
        if torch.is_grad_enabled():
            return change(self, x_t, t, prompt)
        return PolicyTrainer.velocity(self, x_t, t, prompt)

    return velocity


def adapter_off(self: PolicyTrainer, x_t: Tensor, t: Tensor, prompt: dict[str, Tensor]) -> Any:
    x_t = x_t.clone().requires_grad_()  # as checkpointing asks for: backward runs, and trains nothing
    with self.tiny.network.disable_adapter():
        return self.tiny.velocity(x_t, t, prompt), {}


def next_on_grid(self: PolicyTrainer, t: Tensor) -> Tensor:
    return self.sigmas[(self.sigmas[None] - t[:, None]).abs().argmin(1) + 1]


def hooked(hook: Callable[[Tensor], Tensor]) -> Any:
    def change(self: PolicyTrainer, x_t: Tensor, t: Tensor, prompt: dict[str, Tensor]) -> Any:
        v, branches = PolicyTrainer.velocity(self, x_t, t, prompt)
        v.register_hook(hook)
        return v, branches

    return in_training(change)


def frozen(self: PolicyTrainer) -> Any:
    for name, p in self.tiny.trained:
        if "to_q" in name:
            p.requires_grad_(False)
    return PolicyTrainer.make_watch(self)


def losing(change: Callable[[PolicyTrainer, Tensor], Tensor]) -> Any:
    def loss(self: PolicyTrainer, batch: dict[str, Any]) -> Tensor:
        return change(self, PolicyTrainer.loss(self, batch))

    return loss


def loss_under_autocast(self: PolicyTrainer, batch: dict[str, Any]) -> Tensor:
    with torch.autocast(self.settings.device, dtype=torch.bfloat16):
        rows = batch["v_theta"].flatten(1)
        eye = torch.eye(rows.shape[1], device=rows.device)
        v = (rows @ eye).reshape(batch["v_theta"].shape)  # a projection, which autocast takes to bfloat16
        return PolicyTrainer.loss(self, batch | {"v_theta": v})


def live_old(self: PolicyTrainer, batch: dict[str, Any]) -> Tensor:
    step = batch["x_t"], batch["t"], batch["t_prev"]
    mean, std = self.sde_step(batch["v_theta"], *step)
    mean_old, _ = self.sde_step(batch["v_old"], *step)
    ratio = torch.exp(self.log_prob(mean, std, batch["x_prev"]) - self.log_prob(mean_old, std, batch["x_prev"]))
    a = batch["advantage"]
    return torch.maximum(-a * ratio, -a * ratio.clamp(1 - 1e-3, 1 + 1e-3)).mean()


def recomputed(self: PolicyTrainer, batch: dict[str, Any], rollout: Rollout, step: Tensor) -> dict[str, Any]:
    return {"v_old": self.tiny.velocity(batch["x_t"], batch["t"], rollout.prompt)}


def live_advantage(self: PolicyTrainer, batch: dict[str, Any], rollout: Rollout, step: Tensor) -> dict[str, Any]:
    return {"advantage": batch["advantage"].clone().requires_grad_()}


def watched(**more: Any) -> Any:
    """The watch is told what the trainer was meant to do."""

    def make_watch(self: PolicyTrainer) -> Any:
        watch = PolicyTrainer.make_watch(self)
        watch._context.constants = {**watch._context.constants, **more}
        return watch

    return make_watch


def advantages(order: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Any:
    """A rollout whose advantages come back wrong."""

    def rollout(self: PolicyTrainer) -> Rollout:
        own = self.tiny.gathered_advantages
        self.tiny.gathered_advantages = lambda r, ids: order(own(r, ids), r, ids)  # type: ignore[method-assign]
        return PolicyTrainer.rollout(self)

    return rollout


# -------------------------------------------------------------------------------- trainers on noised samples


def noised(change: Callable[[ForwardTrainer, dict[str, Any]], dict[str, Any]]) -> Any:
    def made(self: ForwardTrainer, samples: Any) -> dict[str, Any]:
        batch = ForwardTrainer.noised(self, samples)
        return batch | change(self, batch)

    return made


def exchanged_average(self: ForwardTrainer) -> None:
    _average(self, lambda old, live: old.lerp_(live, EMA))


def copied(self: ForwardTrainer) -> None:
    _average(self, lambda old, live: old.copy_(live))


def added(self: ForwardTrainer) -> None:
    _average(self, lambda old, live: old.mul_(EMA).add_(live))


@torch.no_grad()
def _average(self: ForwardTrainer, change: Callable[[Tensor, Tensor], Any]) -> None:
    weights = dict(self.tiny.network.named_parameters())
    for name, p in weights.items():
        if ".old." in name:
            change(p, weights[name.replace(".old.", ".default.")])


def aliased(self: ForwardTrainer) -> Any:
    weights = dict(self.tiny.network.named_parameters())
    for name, p in weights.items():
        if ".old." in name:
            p.data = weights[name.replace(".old.", ".default.")].data
    return ForwardTrainer.make_watch(self)


def behaviour_is_live(self: ForwardTrainer, x_t: Tensor, t: Tensor, prompt: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return self.tiny.velocity(x_t, t, prompt)


def behaviour_stays(self: ForwardTrainer, x_t: Tensor, t: Tensor, prompt: dict[str, Tensor]) -> Tensor:
    self.tiny.network.set_adapter("old")  # and never back
    with torch.no_grad():
        return self.tiny.velocity(x_t, t, prompt)


GUIDED = replace(SMALL, guidance=3.0)
SHUFFLED = torch.tensor([2, 0, 1, 5, 3, 4])

BUGS: dict[str, Bug] = {
    "uncond-no-grad": Bug(
        "the unconditional branch runs under no_grad", policy(GUIDED, velocity=uncond_detached), "guidance-detached"
    ),
    "uncond-detached": Bug(
        "the unconditional branch is detached in the guided sum",
        policy(GUIDED, velocity=uncond_detached_in_the_sum),
        "guidance-detached",
    ),
    "guidance-in-rollout-alone": Bug(
        "guidance in the rollout, none in training",
        policy(GUIDED, velocity=guidance_of_the_rollout_alone),
        "ratio-on-policy",
    ),
    "rollout-in-bfloat16": Bug(
        "the rollout ran under bfloat16 autocast, training in float32",
        policy(rollout=rollout_in_bfloat16),
        "old-precision",
    ),
    "dropout": Bug("dropout in training, none in the rollout", policy(train_step=dropout_in_training), "old-mode"),
    "rollout-without-adapter": Bug(
        "the rollout ran with its adapter off", policy(rollout=rollout_without_adapter), "ratio-on-policy"
    ),
    "state-in-bfloat16": Bug(
        "the sampled states are stored in bfloat16",
        policy(rollout=stored(x_prev=lambda r: r.x_prev.bfloat16().float())),
        "state-rounded",
    ),
    "states-shuffled": Bug(
        "x_prev comes back from the buffer in another order",
        policy(minibatch=minibatch(lambda self, b, r, step: {"x_prev": b["x_prev"][SHUFFLED]})),
        "states-order",
    ),
    "velocities-shuffled": Bug(
        "v_old comes back from the buffer in another order",
        policy(rollout=stored(v_old=lambda r: r.v_old[:, SHUFFLED])),
        "ratio-on-policy",
    ),
    "state-of-next-step": Bug(
        "x_prev is one step further than x_t's own",
        policy(rollout=stored(x_prev=lambda r: r.x_prev.roll(-1, 0))),
        "state",
    ),
    "louder-rollout": Bug(
        "the rollout ran with noise_level 1.0, training has 0.7", policy(rollout=rolled_out_with(1.0)), "noise-level"
    ),
    "other-sampler": Bug(
        "the rollout ran DanceGRPO's step, training has Flow-GRPO's",
        policy(rollout=rolled_out_with_dance),
        "convention:sde",
    ),
    "time-off-by-one": Bug(
        "t and t_prev of the loss are those of the next step",
        policy(
            minibatch=minibatch(
                lambda self, b, r, step: {
                    "t": self.sigmas[step + 1],
                    "t_prev": self.sigmas[(step + 2)],
                    "step_index": None,
                }
            ),
            steps=range(1, 4),
        ),
        "step-index",
    ),
    "end-off-by-one": Bug(
        "t_prev is two places down the grid",
        policy(minibatch=minibatch(lambda self, b, r, step: {"t_prev": self.sigmas[step + 2]})),
        "step-index",
    ),
    "prompt-shuffled": Bug(
        "the prompts of the update are in another order",
        policy(
            velocity=in_training(
                lambda self, x, t, p: PolicyTrainer.velocity(self, x, t, {k: v.flip(0) for k, v in p.items()})
            )
        ),
        "ratio-on-policy",
    ),
    "wrong-timestep": Bug(
        "the network receives t_prev in training",
        policy(velocity=in_training(lambda self, x, t, p: PolicyTrainer.velocity(self, x, next_on_grid(self, t), p))),
        "ratio-on-policy",
    ),
    "input-in-bfloat16": Bug(
        "x_t is cast to bfloat16 before the network, in training alone",
        policy(velocity=in_training(lambda self, x, t, p: PolicyTrainer.velocity(self, x.bfloat16().float(), t, p))),
        "ratio-on-policy",
    ),
    "adapter-off": Bug("the adapter is off in training", policy(velocity=in_training(adapter_off)), "adapter-off"),
    "adapter-frozen": Bug("some adapters do not require grad", policy(make_watch=frozen), "parameters-frozen"),
    "gradient-clipped": Bug(
        "a hook clips the gradient of the velocity",
        policy(velocity=hooked(lambda g: g.clamp(-1e-4, 1e-4))),
        "gradient-clipped",
    ),
    "gradient-masked": Bug(
        "a mask stops the gradient of half of the batch",
        policy(velocity=hooked(lambda g: g * (torch.arange(len(g), device=g.device) < 3).reshape(-1, 1, 1, 1))),
        "samples-masked",
    ),
    "gradient-zeroed": Bug("a hook zeroes the gradient", policy(velocity=hooked(torch.zeros_like)), "no-gradient"),
    "loss-in-bfloat16": Bug(
        "the loss is computed under bfloat16 autocast", policy(loss=loss_under_autocast), "half-precision"
    ),
    "accumulated-twice": Bug(
        "the loss is divided by the micro-batches, and accelerate divides again",
        policy(loss=losing(lambda self, x: x / self.settings.accumulation)),
        "accumulation",
    ),
    "accumulated-never": Bug(
        "the loss is multiplied by the micro-batches",
        policy(loss=losing(lambda self, x: x * self.settings.accumulation)),
        "accumulation",
    ),
    "ranks-twice": Bug(
        "the loss is divided by the ranks, which DDP averages over",
        policy(loss=losing(lambda self, x: x / 4), make_watch=watched(world_size=4)),
        "world-size",
    ),
    "scale-missing": Bug(
        "the loss scale is not applied before backward", policy(make_watch=watched(loss_scale=1024.0)), "loss-scale"
    ),
    "old-live": Bug(
        "v_old is computed anew with a graph",
        policy(minibatch=minibatch(recomputed), loss=live_old),
        "live-v_old",
    ),
    "advantage-live": Bug(
        "the advantage keeps the reward's graph", policy(minibatch=minibatch(live_advantage)), "live-advantage"
    ),
    "advantages-reversed": Bug(
        "the gathered advantages come back in another order",
        policy(rollout=advantages(lambda a, r, ids: a.flip(0))),
        "advantage-order",
    ),
    "advantages-of-all": Bug(
        "the advantages are normalised over all samples, not over each group",
        policy(rollout=advantages(lambda a, r, ids: (r - r.mean()) / r.std())),
        "advantage-group",
    ),
    "advantages-negated": Bug(
        "a cost is taken for a reward", policy(rollout=advantages(lambda a, r, ids: -a)), "advantage-sign"
    ),
    "advantages-by-variance": Bug(
        "the advantages are divided by the variance",
        policy(
            rollout=advantages(
                lambda a, r, ids: torch.cat(
                    [(r[ids == i] - r[ids == i].mean()) / r[ids == i].var(correction=0) for i in ids.unique()]
                )
            )
        ),
        "advantage-variance",
    ),
    "average-aliased": Bug("the averaged adapter is the live one", forward(make_watch=aliased), "old-aliased"),
    "average-exchanged": Bug(
        "decay and 1 − decay are exchanged in the average",
        forward(update_average=exchanged_average),
        "ema-exchanged",
        3,
    ),
    "average-copied": Bug("the old adapter is a copy", forward(update_average=copied), "old-copied", 3),
    "average-added": Bug(
        "the live weights are added, not averaged in", forward(update_average=added), "not-an-average", 3
    ),
    "behaviour-is-live": Bug(
        "v_old is computed with the trained adapter", forward(behaviour=behaviour_is_live), "old-is-live", 3
    ),
    "adapter-stays-old": Bug(
        "the old adapter stays switched on in training", forward(behaviour=behaviour_stays), "parameters-frozen"
    ),
    "other-noise": Bug(
        "x_t is made with other noise than the target's",
        forward(noised=noised(lambda self, b: {"noise": b["noise"].flip(0)})),
        "noised-latent",
    ),
    "time-turned": Bug(
        "x_t is t·x_0 + (1 − t)·noise",
        forward(
            noised=noised(
                lambda self, b: {
                    "x_t": column(b["t"], b["x_0"]) * b["x_0"] + (1 - column(b["t"], b["x_0"])) * b["noise"]
                }
            )
        ),
        "time-turned",
    ),
    "data-shuffled": Bug(
        "the samples are in another order than their rewards",
        forward(method="awm", sample=lambda self: _shuffled(ForwardTrainer.sample(self))),
        "advantage-order",
    ),
}
"""Each by an id."""


def _shuffled(samples: Any) -> Any:
    return replace(samples, advantage=samples.advantage.flip(0))


def bug_table() -> str:
    """The table of the docs, in Markdown."""
    rows = [f"| {bug.title} | `{bug.cause}` |" for bug in BUGS.values()]
    return "\n".join(["| what is wrong | named |", "| --- | --- |", *rows])


assert BETA
