r"""Flow-GRPO and GRPO-Guard: roll out with an SDE sampler, then raise the likelihood of what was rewarded.

    python -m examples.trainers.policy --method flow_grpo --network sd3 --mixed-precision bf16
    torchrun --nproc-per-node 2 -m examples.trainers.policy --method grpo_guard

Each sample's reverse steps are stored with the velocity that they were sampled with; an update looks at one of them for
every sample, at another time for each.  The steps at t = 1 and to t = 0 are sampled and not trained, as Flow-GRPO-Fast
does.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import gradcheck
from examples.trainers.tiny import Settings, Tiny, column, toy_reward

NOISE_LEVEL, CLIP = 0.7, {"flow_grpo": 1e-3, "grpo_guard": 1e-2}


@dataclass
class Rollout:
    r"""What a rollout leaves behind; states and velocities are (T, B, \*latent), the rest (B,)."""

    x_t: Tensor
    x_prev: Tensor
    v_old: Tensor
    prompt: dict[str, Tensor]
    which: Tensor
    reward: Tensor
    advantage: Tensor


class PolicyTrainer:
    """One run of Flow-GRPO or GRPO-Guard."""

    def __init__(self, settings: Settings, method: str = "flow_grpo") -> None:
        self.settings, self.method = settings, method
        self.tiny = Tiny(settings)
        self.accelerator = self.tiny.accelerator
        self.sigmas = self.tiny.sigmas
        self.steps = range(1, settings.timesteps - 1)  # those that train
        self.watch = self.make_watch()

    def make_watch(self) -> gradcheck.Watch:
        return gradcheck.watch(
            self.method,
            log_prob_reduction="mean",
            clip_range=CLIP[self.method],
            every=self.settings.every,
            log=self.settings.log,
            model=self.tiny.network,
            parameters=self.tiny.trained,
            sigmas=self.sigmas,
            accumulation=self.settings.accumulation,
            world_size=self.accelerator.num_processes,
        )

    # ------------------------------------------------------------------------------------------- the sampler

    def sde_step(self, v: Tensor, x_t: Tensor, t: Tensor, t_prev: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of Flow-SDE's step from t to t_prev, in float32."""
        v, x_t = v.float(), x_t.float()
        t, dt = column(t, x_t), column(t - t_prev, x_t)
        sigma = NOISE_LEVEL * torch.sqrt(t / (1 - torch.where(t == 1, self.sigmas[1], t)))
        mean = x_t * (1 - sigma**2 * dt / (2 * t)) - v * (1 + sigma**2 * (1 - t) / (2 * t)) * dt
        return mean, sigma * torch.sqrt(dt)

    def velocity(self, x_t: Tensor, t: Tensor, prompt: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The velocity, guided if that is asked for, and its branches."""
        w = self.settings.guidance
        if w == 1.0:
            return self.tiny.velocity(x_t, t, prompt), {}
        empty = {name: torch.zeros_like(x) for name, x in prompt.items()}
        cond, uncond = self.tiny.velocity(x_t, t, prompt), self.tiny.velocity(x_t, t, empty)
        return uncond + w * (cond - uncond), {"v_cond": cond, "v_uncond": uncond}

    @torch.no_grad()
    def rollout(self) -> Rollout:
        x = self.tiny.latents()
        prompt, which = self.tiny.new_prompts()
        states, velocities = [x], []
        for i in range(self.settings.timesteps):
            t, t_prev = (s.expand(len(x)) for s in (self.sigmas[i], self.sigmas[i + 1]))
            v, _ = self.velocity(x, t, prompt)
            mean, std = self.sde_step(v, x, t, t_prev)
            x = mean if i + 1 == self.settings.timesteps else mean + std * self.tiny.normal(*x.shape)
            states.append(x)
            velocities.append(v)
        reward = toy_reward(x)
        advantage = self.tiny.gathered_advantages(reward, which)
        self.watch.advantages(advantage, reward, which)  # each group is whole on its process
        return Rollout(
            torch.stack(states[:-1]), torch.stack(states[1:]), torch.stack(velocities), prompt, which, reward, advantage
        )

    # ------------------------------------------------------------------------------------------ the training

    def log_prob(self, mean: Tensor, std: Tensor, x_prev: Tensor) -> Tensor:
        dense = -((x_prev - mean) ** 2) / (2 * std**2) - torch.log(std) - 0.5 * math.log(2 * math.pi)
        return dense.flatten(1).mean(1)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """PPO's surrogate of the ratio, or of the ratio without its bias; averaged over the batch."""
        step = batch["x_t"], batch["t"], batch["t_prev"]
        mean, std = self.sde_step(batch["v_theta"], *step)
        with torch.no_grad():
            mean_old, _ = self.sde_step(batch["v_old"], *step)
            log_prob_old = self.log_prob(mean_old, std, batch["x_prev"])
        log_ratio = self.log_prob(mean, std, batch["x_prev"]) - log_prob_old
        if self.method == "grpo_guard":
            bias = ((mean - mean_old) ** 2 / (2 * std**2)).flatten(1).mean(1)
            log_ratio = (log_ratio + bias) * std.flatten()
        ratio, a, clip = torch.exp(log_ratio), batch["advantage"], CLIP[self.method]
        loss = torch.maximum(-a * ratio, -a * ratio.clamp(1 - clip, 1 + clip))
        if self.method == "grpo_guard":
            loss = loss / (batch["t"] - batch["t_prev"])
        return loss.mean()

    def minibatch(self, rollout: Rollout, step: Tensor) -> dict[str, Any]:
        """One reverse step of each sample, (B,) places on the grid."""
        row = torch.arange(len(step), device=step.device)
        batch = {name: getattr(rollout, name)[step, row] for name in ("x_t", "x_prev", "v_old")}
        t, t_prev = self.sigmas[step], self.sigmas[step + 1]
        return batch | {"t": t, "t_prev": t_prev, "step_index": step, "advantage": rollout.advantage}

    def train_step(self, rollout: Rollout, step: Tensor, on_policy: bool) -> Tensor:
        """One micro-batch; the optimiser moves when all of an update's are in."""
        with self.accelerator.accumulate(self.tiny.model):
            batch = self.minibatch(rollout, step)
            v_theta, branches = self.velocity(batch["x_t"], batch["t"], rollout.prompt)
            batch["v_theta"] = v_theta
            loss = self.loss(batch)
            self.watch(
                **batch,
                **branches,
                **({"guidance": self.settings.guidance} if branches else {}),
                noise_level=NOISE_LEVEL,
                timestep=1000 * batch["t"],
                reward=rollout.reward,
                group=rollout.which,
                on_policy=on_policy,
            )
            self.accelerator.backward(loss)
            self.tiny.optimizer.step()
            self.tiny.optimizer.zero_grad()
        return loss.detach()

    def train(self) -> None:
        update = 0
        while update < self.settings.updates:
            rollout = self.rollout()
            self.tiny.log(update, rollout.reward)
            # every sample goes through its own steps in its own order
            order = torch.stack(
                [
                    torch.randperm(len(self.steps), generator=self.tiny.generator) + self.steps.start
                    for _ in range(self.settings.batch)
                ],
                1,
            ).to(self.accelerator.device)
            for i in range(0, len(self.steps), self.settings.accumulation):
                for step in order[i : i + self.settings.accumulation]:
                    self.train_step(rollout, step, on_policy=i == 0)
                update += 1
                if update >= self.settings.updates:
                    return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=list(CLIP), default="flow_grpo")
    add_arguments(parser)
    arguments = vars(parser.parse_args())
    trainer = PolicyTrainer(method=arguments.pop("method"), settings=Settings(**arguments))
    trainer.train()
    trainer.accelerator.print(trainer.watch.report)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The settings as options."""
    parser.add_argument("--network", choices=["sd3", "flux"], default="sd3")
    parser.add_argument("--mixed-precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--watch-log", dest="log", default="gradcheck-watch.jsonl")


if __name__ == "__main__":
    main()
