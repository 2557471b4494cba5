r"""The runs of the study, and their results as JSON.

``python -m gradcheck.toy.study --out notebooks/results/training.json`` makes the full results;
``--reduced`` makes the small ones that the notebook computes live.

The search is the same for every method: each learning rate on each number of samples, a few seeds.  A learning rate's
score is the reward's mean over the whole run and over the seeds, so that both slowness and collapse cost; the
smallest one within :data:`~gradcheck.toy.scores.NEAR` of the best is taken for everything else.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from gradcheck.toy import data
from gradcheck.toy.equivalence import walk
from gradcheck.toy.measures import gradient_noise, gradients, reward_gradients, samples, sliced_wasserstein
from gradcheck.toy.network import Draws
from gradcheck.toy.pretraining import pretrain
from gradcheck.toy.rewards import CHOOSING, reward
from gradcheck.toy.scores import Results, best, held, late, reached, rounded, score, spread
from gradcheck.toy.training import METHODS, Method, Settings, Trainer

__all__ = ["FULL", "REDUCED", "Plan", "Study", "main"]

_EARLY = 12
"""Every one of the first iterations is measured, and later ones now and then."""

_FAR = 5.0
"""Drift and spread see a sample farther out than this, or one that is not a number, as being this far out in each
coordinate; a single sample that a broken model throws to infinity would hide all others."""


@dataclass(frozen=True)
class Plan:
    """How much is run.

    Attributes:
        pretraining: updates of the base model.
        learning_rates, search_seeds: of the search; its runs are as long as the curves.
        batches: samples of an iteration, for each of which everything is done.
        iterations: of a run, for each of the batches.
        seeds: of the curves.
        noise_at: iterations after which the gradient's noise is measured.
        noise_copies, noise_seeds: independent gradients for that, and how often the measurement is repeated.
        walk: iterations of the comparison with the equivalent loss.
        sweeps: whether to vary clip and η as well.
        picture: samples kept for the pictures.
    """

    pretraining: int
    learning_rates: tuple[float, ...]
    search_seeds: int
    batches: tuple[int, ...]
    iterations: tuple[int, ...]
    seeds: int
    noise_at: tuple[int, ...]
    noise_copies: int
    noise_seeds: int
    walk: int
    sweeps: bool
    picture: int = 250


FULL = Plan(
    pretraining=4000,
    learning_rates=(3e-4, 1e-3, 3e-3, 1e-2),
    search_seeds=6,
    batches=(16, 64),
    iterations=(80, 60),
    seeds=12,
    noise_at=(0, 1, 2, 4, 8, 16),
    noise_copies=48,
    noise_seeds=3,
    walk=15,
    sweeps=True,
)
"""The study whose results are kept."""

REDUCED = Plan(
    pretraining=4000,
    learning_rates=(),  # those that the full study chose are given
    search_seeds=0,
    batches=(16,),
    iterations=(20,),
    seeds=4,
    noise_at=(0,),
    noise_copies=48,
    noise_seeds=1,
    walk=3,
    sweeps=False,
)
"""A small part of it, for a notebook and for tests."""

SWEEPS: tuple[tuple[str, str, tuple[float, ...]], ...] = (
    ("awm_clipped", "clip", (0.02, 0.2, 0.999)),
    ("flow_grpo", "clip", (0.02, 0.2, 0.999)),
    ("diffusion_nft", "ema", (0.0, 0.5, 0.9)),
)


class Study:
    """One base model, and the runs that start from it; deterministic on one machine and with one thread."""

    def __init__(self, plan: Plan, report: Callable[[str], None] = lambda line: None) -> None:
        self.plan, self.report = plan, report
        self.settings = Settings(group=16)
        self.base = pretrain(plan.pretraining)
        self.start = Draws([10**6]).normal(512, 2)[0]
        self.before = samples(self.base, self.start)[0]

    def run(self, chosen: Results | None = None) -> Results:
        """Everything that the plan asks for.

        Args:
            chosen: learning rates by method and number of samples, where there is no search.
        """
        search = [] if chosen else self.search()
        chosen = chosen or best(search)
        curves, noise = [], []
        for n, iterations in zip(self.plan.batches, self.plan.iterations, strict=True):
            for name in METHODS:
                method = METHODS[name].but(samples=n, learning_rate=chosen[name][str(n)])
                at = self.plan.noise_at if n == self.plan.batches[0] else ()
                curve, measured = self.curve(name, method, iterations, self.plan.seeds, at)
                curves.append(curve)
                noise += measured
        return {
            "plan": asdict(self.plan),
            "settings": asdict(self.settings),
            "choosing": CHOOSING,
            "base": {
                "reward": float(reward(self.before).mean()),
                "on_data": float(data.on_data(self.before)),
                "samples": rounded(self.before[: self.plan.picture], 2),
            },
            "search": search,
            "chosen": chosen,
            "curves": curves,
            "noise": noise,
            "sweeps": self.sweep(chosen) if self.plan.sweeps else [],
            "equivalence": [self.walk(name, chosen) for name in METHODS],
        }

    def search(self) -> list[Results]:
        """Every learning rate, method and number of samples: the reward's mean over the run, and at its end."""
        found = []
        for n, iterations in zip(self.plan.batches, self.plan.iterations, strict=True):
            for name, method in METHODS.items():
                for rate in self.plan.learning_rates:
                    run = method.but(samples=n, learning_rate=rate)
                    curve, _ = self.curve(name, run, iterations, self.plan.search_seeds)
                    found.append(
                        {
                            "method": name,
                            "samples": n,
                            "learning_rate": rate,
                            "mean": curve["score"],
                            "held": held(curve),
                            "final": curve["reward"]["median"][-1],
                            "worst": curve["reward"]["low"][-1],
                            "reached": reached(curve),
                        }
                    )
        return found

    def curve(
        self, name: str, method: Method, iterations: int, seeds: int, noise_at: Sequence[int] = ()
    ) -> tuple[Results, list[Results]]:
        """Train one method, and measure it on the way."""
        trainer = Trainer(method, self.base, range(1, seeds + 1), self.settings)
        seen: dict[str, list[Tensor]] = {n: [] for n in ("reward", "on_data", "drift", "width", "clipped")}
        at, pictures, noise = [], {}, []
        every = max(1, iterations // 20)
        for i in range(iterations + 1):
            if i in noise_at:
                noise.append(self.noise(name, trainer, i))
            if i <= _EARLY or i % every == 0 or i == iterations:
                x = samples(trainer.parameters, self.start)
                at.append(i)
                seen["reward"].append(reward(x).nan_to_num(nan=0.0).mean(1))
                seen["on_data"].append(data.on_data(x))
                x = x.nan_to_num(nan=_FAR).clamp(-_FAR, _FAR)
                seen["drift"].append(sliced_wasserstein(x, self.before))
                seen["width"].append(x.std(1).mean(-1) / data.WIDTH)
                passed = float(seen["reward"][-1][0]) >= 0.6
                wanted = (passed and "half" not in pictures) or i == iterations
                if wanted and method.samples == self.plan.batches[0]:
                    moment = "end" if i == iterations else "half"
                    shown = x[0, : self.plan.picture]
                    earned = round(float(seen["reward"][-1][0]), 3)
                    pictures[moment] = {"iteration": i, "reward": earned, "samples": rounded(shown, 2)}
            if i == iterations:
                break
            trainer.iterate()
            if (i < _EARLY or i % every == 0) and trainer.last is not None:
                seen["clipped"].append(trainer.clipped(trainer.last))
        curve: Results = {
            "method": name,
            "samples": method.samples,
            "learning_rate": method.learning_rate,
            "iteration": at,
            "pictures": pictures,
            "score": score(at, torch.stack(seen["reward"])),
            "late": rounded(late(at, torch.stack(seen["reward"])), 3),
            **{what: spread(torch.stack(values)) for what, values in seen.items()},
        }
        self.report(
            f"{name:14} n={method.samples:<4} lr={method.learning_rate:g} clip={method.clip:g} ema={method.ema:g}: "
            f"score {curve['score']:.3f}, "
            f"end {curve['reward']['median'][-1]:.3f}, held {held(curve):.2f}"
        )
        return curve, noise

    def noise(self, name: str, trainer: Trainer, iteration: int) -> Results:
        """The gradient's noise at a trainer's parameters, with other rollouts for each repetition."""
        plan, n = self.plan, 64
        found = []
        for k in range(plan.noise_seeds):
            first = 10**7 * (k + 1)
            ascent = reward_gradients(trainer.parameters, first, 16, 256, self.settings)
            own = reward_gradients(trainer.parameters, first + 10**6, 16, 256, self.settings, stochastic=True)
            ours = gradients(trainer, first + 2 * 10**6, plan.noise_copies, n)
            found.append([gradient_noise(ours, n, direction) for direction in (ascent, own)])
        x = samples([p[:1] for p in trainer.parameters], self.start)
        values = {
            "critical_batch": [a.critical_batch for a, _ in found],
            "alignment": [a.alignment for a, _ in found],
            "alignment_sde": [b.alignment for _, b in found],
        }
        return {
            "method": name,
            "iteration": iteration,
            "reward": round(float(reward(x).mean()), 3),
            **{what: spread(torch.tensor([v]).nan_to_num(nan=0.0, posinf=1e9)) for what, v in values.items()},
        }

    def sweep(self, chosen: Results) -> list[Results]:
        """Other clips and moving averages, at the learning rate that was chosen and at the next one up."""
        found = []
        n = self.plan.batches[0]
        for name, parameter, values in SWEEPS:
            rate = chosen[name][str(n)]
            for value in values:
                for factor in (1.0, 3.0):
                    method = METHODS[name].but(samples=n, learning_rate=rate * factor, **{parameter: value})
                    curve, _ = self.curve(name, method, 60, self.plan.seeds)
                    found.append(
                        {"parameter": parameter, "value": value, **{k: v for k, v in curve.items() if k != "pictures"}}
                    )
        return found

    def walk(self, name: str, chosen: Results) -> Results:
        """The law of the equivalent loss at every update of a run in float64."""
        n = self.plan.batches[0]
        method = METHODS[name].but(samples=n, learning_rate=chosen[name][str(n)])
        walked = walk(method, self.base, [1], self.plan.walk, self.settings)
        return {
            "method": name,
            "updates": len(walked.laws),
            "holds": walked.holds,
            "ratio": max(law.ratio for law in walked.laws),
            "distance": max(law.distance for law in walked.laws),
            "resolution": max(law.resolution for law in walked.laws),
            "judged": min(law.judged for law in walked.laws),
            "apart": [float(f"{x:.2g}") for x in walked.apart],
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study from the shell; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m gradcheck.toy.study", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--reduced", type=Path, metavar="JSON", help="only the live part, with this file's choices")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if chosen.reduced:
        results = Study(REDUCED, print).run(json.loads(chosen.reduced.read_text())["chosen"])
    else:
        results = Study(FULL, print).run()
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(results, separators=(",", ":")) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
