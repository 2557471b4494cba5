r"""The trial of the closing claims: every arm tuned on some seeds and judged on others, at one length and one cost.

``python -m gradcheck.toy.trial --out notebooks/results/trial.json`` runs it.

* A learning rate is chosen on :data:`TUNING` seeds, from a grid that goes on beyond the best one on both sides; what is
  said of an arm is measured on :data:`JUDGED` seeds, none of which tuned anything.
* All runs have as many iterations, and every arm evaluates the network as often: an arm that evaluates v_old for each
  noising has half as many noisings.  The evaluations are counted, not assumed.
* Shares of seeds come with Wilson's interval, median times with that of order statistics, both of 95 %.
* A *collapse* is a seed that has earned :data:`WANTED` and earns less than :data:`LOST` over the last quarter.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradcheck.toy.measures import gradients, reward_gradients, samples
from gradcheck.toy.network import Draws
from gradcheck.toy.pretraining import pretrain
from gradcheck.toy.rewards import reward
from gradcheck.toy.scores import NEAR, Results, best, late, score
from gradcheck.toy.training import METHODS, NO_CLIP, Method, Settings, Trainer

__all__ = [
    "ARMS",
    "FULL",
    "JUDGED",
    "LOST",
    "TUNING",
    "WANTED",
    "Scale",
    "Trial",
    "interval",
    "main",
    "median_interval",
]

TUNING = 10_000
"""The seeds that tune are those from here on."""

JUDGED = 1
"""The seeds that judge are those from here on."""

WANTED = 0.9
"""A reward that counts as having learnt."""

LOST = 0.5
"""A reward below which a seed that had learnt has collapsed."""

_HALF = {"rows": 4}  # noisings of a sample, where each costs an evaluation of v_old too; 8 where not
ARMS: dict[str, Method] = {
    "flow_grpo": METHODS["flow_grpo"],
    "flow_grpo_reversal": Method("flow_grpo", "paper", "Flow-GRPO, η = √2", noise_level=math.sqrt(2)),
    "grpo_guard": METHODS["grpo_guard"],
    "awm": Method("awm", "mean", "AWM"),
    "awm_ratio": Method("awm", "clipped", "AWM, ratio without a clip", clip=NO_CLIP, **_HALF),
    "awm_clipped": Method("awm", "clipped", "AWM, clipped", **_HALF),
    "diffusion_nft": Method("diffusion_nft", "paper", "DiffusionNFT, clamp 1", ema=0.5, **_HALF),
    "diffusion_nft_5": Method("diffusion_nft", "paper", "DiffusionNFT, clamp 5", ema=0.5, clamp=5.0, **_HALF),
}
"""What is compared."""

_COLLAPSE = ("awm", "awm_ratio", "awm_clipped", "flow_grpo", "diffusion_nft")


@dataclass(frozen=True)
class Scale:
    """How much is run.

    Attributes:
        pretraining: updates of the base model.
        rates: the grid of learning rates.
        batches: samples of an iteration.
        iterations: of every run.
        tuning, judged: seeds.
        collapse_rates: at which each of the arms with and without a clip runs on the judged seeds.
        slopes: repetitions of the comparison with the reward's slope.
    """

    pretraining: int
    rates: tuple[float, ...]
    batches: tuple[int, ...]
    iterations: int
    tuning: int
    judged: int
    collapse_rates: tuple[float, ...]
    slopes: int


FULL = Scale(4000, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1), (16, 64), 80, 12, 48, (1e-3, 3e-3, 1e-2), 8)
"""The trial whose results are kept."""


def interval(hits: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval for a share."""
    p, n = hits / of, of
    middle, half = (p + z**2 / (2 * n)), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return max(0.0, (middle - half) / (1 + z**2 / n)), min(1.0, (middle + half) / (1 + z**2 / n))


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and the two order statistics between which it lies with 95 % or more, whatever the distribution."""
    ordered, n = sorted(values), len(values)
    below = total = 0.0
    rank = 0
    for i in range(n // 2):
        total += math.comb(n, i) / 2**n
        if total > 0.025:
            break
        rank, below = i + 1, total
    assert below <= 0.025
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    low, high = (ordered[rank - 1], ordered[n - rank]) if rank else (-math.inf, math.inf)
    return middle, low, high


class Trial:
    """One base model, and the runs that start from it."""

    def __init__(self, scale: Scale, report: Any = lambda line: None) -> None:
        self.scale, self.report = scale, report
        self.settings = Settings(group=16)
        self.base = pretrain(scale.pretraining)
        self.start = Draws([10**6]).normal(256, 2)[0]

    def run(self) -> Results:
        """Everything, as JSON holds it."""
        scale = self.scale
        tuned = [
            {"method": name, "samples": n, "learning_rate": rate, "mean": self.seen(name, n, rate, True)["score"]}
            for n in scale.batches
            for name in ARMS
            for rate in scale.rates
        ]
        chosen = best(tuned)
        judged = [self.seen(name, n, chosen[name][str(n)]) for n in scale.batches for name in ARMS]
        n = scale.batches[0]
        collapse = [self.seen(name, n, rate) for name in _COLLAPSE for rate in scale.collapse_rates]
        return {
            "scale": vars(scale),
            "near": NEAR,
            "tuned": tuned,
            "chosen": chosen,
            "judged": judged,
            "collapse": collapse,
            "slopes": self.slopes(),
        }

    def seen(self, name: str, n: int, rate: float, tuning: bool = False) -> Results:
        """One arm at one learning rate: of each seed when it first earns :data:`WANTED`, and what it earns late."""
        first, seeds = (TUNING, self.scale.tuning) if tuning else (JUDGED, self.scale.judged)
        trainer = Trainer(
            ARMS[name].but(samples=n, learning_rate=rate), self.base, range(first, first + seeds), self.settings
        )
        at, rewards = [], []
        for i in range(self.scale.iterations + 1):
            if i <= 12 or i % 4 == 0 or i == self.scale.iterations:
                at.append(i)
                rewards.append(reward(samples(trainer.parameters, self.start)).nan_to_num(nan=0.0).mean(1))
            if i < self.scale.iterations:
                trainer.iterate()
        found = torch.stack(rewards)
        out = {
            "method": name,
            "samples": n,
            "learning_rate": rate,
            "evaluations": trainer.evaluations / (n * self.scale.iterations),
            "score": score(at, found),
            "first": _first(at, found),
            "late": [round(x, 3) for x in late(at, found).tolist()],
        }
        self.report(f"{name:20} n={n:<3} lr={rate:g} score {out['score']:.3f} evaluations {out['evaluations']:g}")
        return out

    def slopes(self) -> list[Results]:
        """Flow-GRPO's mean gradient beside the stochastic sampler's reward slope, with and without the division.

        Without it, theorem T5 says, it is (1 − 1/G) of the slope; with it, another function of the reward climbs.  The
        coefficient of the slope and the cosine, by repetition, at the base model and at models on the way.
        """
        out = []
        method = ARMS["flow_grpo"].but(samples=64, learning_rate=1e-3)
        walker = Trainer(method, self.base, [JUDGED], self.settings)
        for moment in range(3):
            x = samples(walker.parameters, self.start)
            row: Results = {"reward": round(float(reward(x).mean()), 3)}
            for divide in (True, False):
                row["divided" if divide else "undivided"] = [
                    self._slope(walker, divide, repetition) for repetition in range(self.scale.slopes)
                ]
            out.append(row)
            for _ in range(4 if moment < 2 else 0):
                walker.iterate()
        return out

    def _slope(self, walker: Trainer, divide: bool, repetition: int) -> Results:
        settings = Settings(group=self.settings.group, divide=divide)
        twin = Trainer(walker.method, [p.detach()[:1] for p in walker.parameters], [JUDGED], settings)
        seed = TUNING * 1000 * (repetition + 1)
        ours = -gradients(twin, seed, 64, 64) * settings.rows  # a loss is a mean over the rows of a path
        slope = reward_gradients(walker.parameters, seed + 10**6, 64, 256, settings, stochastic=True)
        # Of independent halves, so that no variance is taken for length
        length = float(slope[::2].mean(0) @ slope[1::2].mean(0))
        own = float(ours[::2].mean(0) @ ours[1::2].mean(0))
        along = float(ours.mean(0) @ slope.mean(0))
        cosine = along / math.sqrt(length * own) if min(length, own) > 0 else 0.0
        return {"coefficient": along / length / (1 - 1 / settings.group), "cosine": cosine}


def _first(at: Sequence[int], rewards: Tensor) -> list[float | None]:
    """Each seed's first time of earning :data:`WANTED`, between two measurements by a straight line."""
    out: list[float | None] = []
    for seen in rewards.T.tolist():
        i = next((i for i, value in enumerate(seen) if value >= WANTED), None)
        if i in (None, 0):
            out.append(None if i is None else 0.0)
            continue
        assert i is not None
        share = (WANTED - seen[i - 1]) / (seen[i] - seen[i - 1])
        out.append(round(at[i - 1] + (at[i] - at[i - 1]) * share, 2))
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trial from the shell; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m gradcheck.toy.trial", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results = Trial(FULL, lambda line: print(line, flush=True)).run()
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(results, separators=(",", ":")) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
