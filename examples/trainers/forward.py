r"""AWM and DiffusionNFT: sample with the ODE, then regress on noised samples, weighed by what was rewarded.

    python -m examples.trainers.forward --method awm --network flux
    python -m examples.trainers.forward --method diffusion_nft --mixed-precision bf16

DiffusionNFT's behaviour model is a second adapter, an exponential moving average of the first.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import gradcheck
from examples.trainers.policy import add_arguments
from examples.trainers.tiny import Settings, Tiny, column, toy_reward

BETA, EMA = 0.5, 0.9


@dataclass
class Samples:
    r"""Finished samples, (B, \*latent), and what they are worth, (B,)."""

    x_0: Tensor
    prompt: dict[str, Tensor]
    which: Tensor
    reward: Tensor
    advantage: Tensor


class ForwardTrainer:
    """One run of AWM or DiffusionNFT."""

    def __init__(self, settings: Settings, method: str = "diffusion_nft") -> None:
        self.settings, self.method = settings, method
        self.adapters = ("default", "old") if method == "diffusion_nft" else ("default",)
        self.tiny = Tiny(settings, self.adapters)
        self.accelerator, self.sigmas = self.tiny.accelerator, self.tiny.sigmas
        self.watch = self.make_watch()

    def make_watch(self) -> gradcheck.Watch:
        average = self.method == "diffusion_nft"
        return gradcheck.watch(
            self.method,
            every=self.settings.every,
            log=self.settings.log,
            model=self.tiny.network,
            parameters=self.tiny.trained,
            old_adapters=self.adapters if average else None,
            ema_decay=EMA if average else None,
            accumulation=self.settings.accumulation,
            world_size=self.accelerator.num_processes,
            **({"beta": BETA} if average else {}),
        )

    def behaviour(self, x_t: Tensor, t: Tensor, prompt: dict[str, Tensor]) -> Tensor:
        """The velocity of the model that samples: the averaged adapter, or the trained one itself."""
        network = self.tiny.network
        with torch.no_grad():
            network.set_adapter(self.adapters[-1])
            v = self.tiny.velocity(x_t, t, prompt)
            network.set_adapter("default")
        return v

    @torch.no_grad()
    def sample(self) -> Samples:
        x = self.tiny.latents()
        prompt, which = self.tiny.new_prompts()
        for i in range(self.settings.timesteps):
            v = self.behaviour(x, self.sigmas[i].expand(len(x)), prompt)
            x = x + (self.sigmas[i + 1] - self.sigmas[i]) * v.float()
        reward = toy_reward(x)
        advantage = self.tiny.gathered_advantages(reward, which)
        self.watch.advantages(advantage, reward, which)  # each group is whole on its process
        return Samples(x, prompt, which, reward, advantage)

    def noised(self, samples: Samples) -> dict[str, Any]:
        """A time and a noise for each sample."""
        x_0 = samples.x_0
        t = 0.02 + 0.96 * torch.rand(len(x_0), generator=self.tiny.generator).to(x_0.device)
        noise = self.tiny.normal(*x_0.shape)
        at = column(t, x_0)
        return {"x_0": x_0, "noise": noise, "t": t, "x_t": (1 - at) * x_0 + at * noise}

    def loss(self, batch: dict[str, Any]) -> Tensor:
        v_gt, v = batch["noise"] - batch["x_0"], batch["v_theta"].float()
        if self.method == "awm":
            return (batch["advantage"] * ((v - v_gt) ** 2).flatten(1).sum(1)).mean()
        old, r = batch["v_old"].float(), batch["reward_prob"]
        plus, minus = (1 - BETA) * old + BETA * v, (1 + BETA) * old - BETA * v
        good, bad = (((x - v_gt) ** 2).flatten(1).sum(1) for x in (plus, minus))
        return (r * good + (1 - r) * bad).mean()

    def train_step(self, samples: Samples) -> Tensor:
        """One micro-batch."""
        with self.accelerator.accumulate(self.tiny.model):
            batch = self.noised(samples)
            if self.method == "awm":
                batch["advantage"] = samples.advantage
            else:
                batch["v_old"] = self.behaviour(batch["x_t"], batch["t"], samples.prompt)
                batch["reward_prob"] = 0.5 + 0.5 * (samples.advantage / 2).clamp(-1, 1)
            batch["v_theta"] = self.tiny.velocity(batch["x_t"], batch["t"], samples.prompt)
            loss = self.loss(batch)
            given = {"beta": BETA} if self.method == "diffusion_nft" else {}
            self.watch(**batch, **given, timestep=1000 * batch["t"], reward=samples.reward, group=samples.which)
            self.accelerator.backward(loss)
            self.tiny.optimizer.step()
            self.tiny.optimizer.zero_grad()
        return loss.detach()

    @torch.no_grad()
    def update_average(self) -> None:
        """old ← EMA·old + (1 − EMA)·live."""
        weights = dict(self.tiny.network.named_parameters())
        for name, p in weights.items():
            if ".old." in name:
                p.lerp_(weights[name.replace(".old.", ".default.")], 1 - EMA)

    def train(self) -> None:
        for update in range(self.settings.updates):
            if update % 4 == 0:
                samples = self.sample()
                self.tiny.log(update, samples.reward)
            for _ in range(self.settings.accumulation):
                self.train_step(samples)
            if self.method == "diffusion_nft":
                self.update_average()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=["awm", "diffusion_nft"], default="diffusion_nft")
    add_arguments(parser)
    arguments = vars(parser.parse_args())
    trainer = ForwardTrainer(method=arguments.pop("method"), settings=Settings(**arguments))
    trainer.train()
    trainer.accelerator.print(trainer.watch.report)


if __name__ == "__main__":
    main()
