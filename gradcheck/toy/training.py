r"""The trainer: rollouts by a behaviour model, groups of rewards, and a few updates on each rollout.

An iteration samples with the *behaviour model* θ_old, scores the finished samples, makes advantages of each group's
rewards, takes :attr:`Settings.updates` steps of Adam on the loss, and ends with θ_old ← η θ_old + (1 − η) θ.  With
η = 0, θ_old is the model as it was when the iteration began: *on-policy* at the first update, and a little off it at
the others, which is where importance ratios and clips come to matter.

Every method sees as many samples.  A sample gives K rows to an update, either the K stochastic steps on its own path
(backward process), or K fresh noisings of the finished sample (forward process); a noising also costs an evaluation of
θ_old where the loss asks for v_old, which the path has recorded.  :attr:`Trainer.evaluations` counts all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from derivations.calculus import Mask
from gradcheck.case import Case
from gradcheck.catalogue import Entry, entry
from gradcheck.derived.compiled import evaluate
from gradcheck.errors import InputError
from gradcheck.toy.network import Draws, replicate, velocity
from gradcheck.toy.rewards import advantages, reward, reward_prob
from gradcheck.toy.sampling import ode, sde

__all__ = ["METHODS", "NO_CLIP", "Batch", "Experience", "Method", "Settings", "Trainer", "moving_average"]


NO_CLIP = 1e9
"""A clip range that no ratio leaves."""


@dataclass(frozen=True)
class Method:
    r"""An algorithm with its parameters.

    Attributes:
        algorithm, variant: of the catalogue.
        title: what pictures call it.
        learning_rate: Adam's.
        clip: PPO's clip range, on both sides; from 1 on there is no lower edge, and with :data:`NO_CLIP` no upper one.
        ema: η of θ_old ← η θ_old + (1 − η) θ, in [0, 1).
        beta: DiffusionNFT's mixing strength.
        clamp: DiffusionNFT clamps advantages to ± this before they become an optimality probability.
        noise_level: η of the stochastic sampler, where it is another than the settings'.
        rows: that each sample gives to an update, where they are others than the sampler's steps; of the forward
            process alone.
        samples: of one iteration.
    """

    algorithm: str
    variant: str
    title: str
    learning_rate: float = 1e-3
    clip: float = 0.2
    ema: float = 0.0
    beta: float = 1.0
    clamp: float = 1.0
    noise_level: float | None = None
    rows: int | None = None
    samples: int = 128

    @property
    def entry(self) -> Entry:
        return entry(self.algorithm, self.variant)

    def but(self, **changes: float) -> Method:
        """The same method with some parameters exchanged."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


METHODS: dict[str, Method] = {
    "flow_grpo": Method("flow_grpo", "paper", "Flow-GRPO"),
    "grpo_guard": Method("grpo_guard", "paper", "GRPO-Guard", clip=0.05),
    "awm": Method("awm", "mean", "AWM, no clip"),
    "awm_clipped": Method("awm", "clipped", "AWM, clipped"),
    "diffusion_nft": Method("diffusion_nft", "paper", "DiffusionNFT", ema=0.5),
}
"""GRPO-Guard's ratio has the exponent of Flow-GRPO's times C2, about a quarter here, and so has its clip."""


@dataclass(frozen=True)
class Settings:
    """What all methods share.

    Attributes:
        group: samples whose rewards are compared with one another.
        updates: steps of the optimiser on each rollout.
        steps: of the sampler that trains; K = steps − 2 of them are stochastic.
        noise_level: of the stochastic sampler.
        divide: whether advantages are divided by the group's standard deviation.
    """

    group: int = 32
    updates: int = 4
    steps: int = 10
    noise_level: float = 0.7
    divide: bool = True

    @property
    def rows(self) -> int:
        """K: rows that each sample gives to an update."""
        return self.steps - 2


@dataclass(frozen=True)
class Experience:
    """One iteration's rollout: finished samples (S, N, 2), rewards and advantages (S, N), and, for the backward
    process, the rows of its stochastic steps, (S, N·K, 2) and (S, N·K)."""

    x_0: Tensor
    rewards: Tensor
    advantages: Tensor
    rows: Mapping[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """What one update sees, (S, N·K, 2) and (S, N·K): ``x_t``, ``t``, ``noise``, ``v_old``, ``advantage`` …"""

    rows: Mapping[str, Tensor]


class Trainer:
    """Trains one method from one base model under several seeds at once.

    Args:
        method: what is trained with.
        base: the base model's parameters, with a seeds' axis of length 1.
        seeds: of rollouts and noisings.
        settings: what all methods share.
        loss: per-sample loss of a case, (B,); by default the catalogue's original one.

    Attributes:
        parameters, old: of the trained and of the behaviour model.
        last: what the last update saw.
        evaluations: of the network by each seed so far, in rows: one state at one time.

    Raises:
        InputError: samples that do not divide into groups, η outside [0, 1), or a base of several networks.
    """

    def __init__(
        self,
        method: Method,
        base: Sequence[Tensor],
        seeds: Sequence[int],
        settings: Settings | None = None,
        loss: Callable[[Entry, Case], Tensor] = Entry.loss,
    ) -> None:
        settings = settings or Settings()
        problems = []
        if method.samples % settings.group:
            problems.append(("samples", repr(method.samples), f"a multiple of the group's size, {settings.group}"))
        if not 0 <= method.ema < 1:
            problems.append(("ema", repr(method.ema), "a number in [0, 1)"))
        if len(base[0]) != 1:
            problems.append(("base", f"{len(base[0])} networks", "one network, with a seeds' axis of length 1"))
        if problems:
            raise InputError(*problems)
        self.method, self.settings, self.loss = method, settings, loss
        self.draws = Draws(seeds, base[0].dtype)
        self.parameters = [p.requires_grad_() for p in replicate(base, len(seeds))]
        self.old = replicate(base, len(seeds))
        self.optimiser = torch.optim.Adam(self.parameters, lr=method.learning_rate)
        self.last: Batch | None = None
        self.evaluations = 0

    @property
    def backward(self) -> bool:
        """Whether the method learns on the sampler's own path."""
        return self.method.entry.derivation.process == "backward"

    @property
    def noise_level(self) -> float:
        """η of the stochastic sampler."""
        return self.settings.noise_level if self.method.noise_level is None else self.method.noise_level

    def _evaluate(self, parameters: Sequence[Tensor], x: Tensor, t: Tensor | float) -> Tensor:
        self.evaluations += x.shape[1]
        return velocity(parameters, x, t)

    def _old_velocity(self, x: Tensor, t: Tensor | float) -> Tensor:
        return self._evaluate(self.old, x, t)

    def iterate(self) -> Experience:
        """One rollout and its updates."""
        experience = self.collect()
        for _ in range(self.settings.updates):
            self.last = self.batch(experience)
            self.update(self.last)
        moving_average(self.old, self.parameters, self.method.ema)
        return experience

    @torch.no_grad()
    def collect(self) -> Experience:
        """Sample with the behaviour model, and score."""
        n, chosen = self.method.samples, self.settings
        start = self.draws.normal(n, 2)
        rows: dict[str, Tensor] = {}
        if self.backward:
            noise = self.draws.normal(n, chosen.rows, 2)
            rollout = sde(self._old_velocity, start, noise, chosen.steps, self.noise_level)
            x_0 = rollout.x_0
            rows = {name: getattr(rollout, name).flatten(1, 2) for name in ("x_t", "x_prev", "noise", "v_old")}
            shape = (len(x_0), n, chosen.rows)
            rows |= {name: getattr(rollout, name).expand(shape).flatten(1, 2) for name in ("t", "dt")}
        else:
            x_0 = ode(self._old_velocity, start, chosen.steps)
        rewards = reward(x_0)
        groups = rewards.unflatten(1, (-1, chosen.group))
        made = advantages(groups) if chosen.divide else groups - groups.mean(-1, keepdim=True)
        return Experience(x_0, rewards, made.flatten(1, 2), rows)

    @torch.no_grad()
    def batch(self, experience: Experience) -> Batch:
        """The rows of one update: the path's own steps, or fresh noisings."""
        k = self.settings.rows if self.backward else self.method.rows or self.settings.rows
        rows = dict(experience.rows)
        if not self.backward:
            x_0 = experience.x_0.repeat_interleave(k, dim=1)
            noise, t = self.draws.normal(x_0.shape[1], 2), self.draws.uniform(x_0.shape[1])
            x_t = (1 - t[..., None]) * x_0 + t[..., None] * noise
            rows |= {"x_0": x_0, "noise": noise, "t": t, "x_t": x_t}
            if "v_old" in self.method.entry.derivation.given:
                rows["v_old"] = self._old_velocity(x_t, t)
        rows["advantage"] = experience.advantages.repeat_interleave(k, dim=1)
        rows["reward_prob"] = reward_prob(rows["advantage"], self.method.clamp)
        return Batch(rows)

    def case(self, batch: Batch) -> Case:
        """The catalogue's case of all rows of all seeds, (S·N·K, 2); ``v_theta`` has its graph."""
        derivation = self.method.entry.derivation
        given: dict[str, Tensor | float] = {
            "v_theta": self._evaluate(self.parameters, batch.rows["x_t"], batch.rows["t"]),
            **batch.rows,
        }
        given = {name: x.flatten(0, 1) if isinstance(x, Tensor) else x for name, x in given.items()}
        given |= {"noise_level": self.noise_level, "beta": self.method.beta, "D": 2.0}
        given |= {"clip_low": min(self.method.clip, 1.0), "clip_high": self.method.clip}
        wanted = [*derivation.given, *(["x_prev"] if self.backward else [])]
        return Case(derivation.label, {name: given[name] for name in wanted})

    def losses(self, case: Case) -> Tensor:
        """Every seed's loss, the mean over its rows, (S,)."""
        return self.loss(self.method.entry, case).unflatten(0, (len(self.old[0]), -1)).mean(1)

    def update(self, batch: Batch) -> None:
        """One step of the optimiser for every seed."""
        self.optimiser.zero_grad()
        self.losses(self.case(batch)).sum().backward()
        self.optimiser.step()

    @torch.no_grad()
    def clipped(self, batch: Batch) -> Tensor:
        """The fraction of rows whose gradient the clip has set to zero, (S,); 0 for a loss without a clip."""
        derivation = self.method.entry.derivation
        masks = derivation.gradient.atoms(Mask)
        if not masks:
            return torch.zeros(len(self.old[0]))
        (mask,) = evaluate(derivation, self.case(batch), masks.pop())
        return (1 - mask).reshape(len(self.old[0]), -1).mean(1)


@torch.no_grad()
def moving_average(old: Sequence[Tensor], new: Sequence[Tensor], decay: float) -> None:
    """θ_old ← η θ_old + (1 − η) θ, in place."""
    for shadow, live in zip(old, new, strict=True):
        shadow.mul_(decay).add_(live.detach(), alpha=1 - decay)
