"""What the watch costs a trainer: a judged step and the steps between, in units of a plain one; and what it holds.

``python -m benchmarks.watching`` prints the tables.  Steps are Flow-GRPO's of ``examples/trainers`` on SD3, with
guidance (4.5, as its authors train it) and without.  The kinds of step alternate, and their processor times are
compared.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import gradcheck
from examples.trainers.policy import PolicyTrainer, Rollout
from examples.trainers.tiny import Settings

from . import text
from .speed import Counting

EVERY = 50
SETTINGS = Settings(prompts=4, group=4, accumulation=1, log=None)
SIZES = (4_096, 16_384, 65_536, 1_048_576, 4_194_304)


class _Unwatched:
    def __call__(self, **quantities: Any) -> None: ...

    def advantages(self, *columns: Tensor) -> None: ...


def _step(settings: Settings, kind: str) -> Callable[[], Tensor]:
    """A training step that is not watched, watched and not judged, or judged."""
    trainer = PolicyTrainer(settings)
    rollout: Rollout = trainer.rollout()
    if kind == "plain":
        trainer.watch = _Unwatched()  # type: ignore[assignment]
    else:
        trainer.watch._every = 1 if kind == "judged" else 10**9
    order = 1 + torch.arange(settings.batch) % len(trainer.steps)
    return lambda: trainer.train_step(rollout, order, False)


def cost_row(guidance: float, rounds: int) -> tuple[str, ...]:
    kinds = {kind: _step(replace(SETTINGS, guidance=guidance), kind) for kind in ("plain", "between", "judged")}
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    orders = list(itertools.permutations(kinds))  # what one kind leaves in the caches costs the next one time
    for i in range(rounds + 3):
        for kind in orders[i % len(orders)]:
            start = time.process_time()
            kinds[kind]()
            if i >= 3:
                times[kind].append(time.process_time() - start)
    # other processes only ever add to a time: the lower quartile is that of a machine which is nearly idle
    plain, between, judged = (statistics.quantiles(times[kind], n=4)[0] for kind in ("plain", "between", "judged"))
    # the steps between are plain ones, and a call that counts: what that costs is measured alone
    share = ((judged - plain) / EVERY + call_seconds()) / plain
    name = "none" if guidance == 1 else f"{guidance:g}"
    return name, f"{1e3 * plain:.1f} ms", f"{judged / plain:.2f}", f"{between / plain:.3f}", f"{share:.2%}"


def call_seconds(calls: int = 100_000) -> float:
    """A call between judged steps, with as many names as a trainer gives."""
    watch = gradcheck.watch("flow_grpo", log_prob_reduction="mean", clip_range=1e-3, every=10**9, log=None)
    watch._calls = 1
    names = dict.fromkeys(("v_theta", "v_old", "x_t", "x_prev", "t", "t_prev", "advantage", "noise_level"), 1.0)
    start = time.process_time()
    for _ in range(calls):
        watch(**names)
    return (time.process_time() - start) / calls


def held(size: int, dtype: torch.dtype) -> tuple[str, ...]:
    """Bytes that judging one step holds at once, over those of the tensors that it was given."""
    g = torch.Generator().manual_seed(0)
    batch = 2
    v, x_t, noise = (torch.randn((batch, size), generator=g) for _ in range(3))
    v_old = v.to(dtype)
    t, t_prev = torch.tensor([0.7, 0.4]), torch.tensor([0.6, 0.3])
    at, dt = t[:, None], (t - t_prev)[:, None]
    sigma = 0.7 * torch.sqrt(at / (1 - at))
    mean = x_t * (1 - sigma**2 * dt / (2 * at)) - v_old.float() * (1 + sigma**2 * (1 - at) / (2 * at)) * dt
    std = sigma * dt.sqrt()
    call = {"v_theta": v_old.clone().requires_grad_(), "v_old": v_old, "x_t": x_t, "x_prev": mean + std * noise}
    c1 = (1 + sigma**2 * (1 - at) / (2 * at)) * dt
    a = torch.tensor([1.0, -0.5])
    gradient = (a[:, None] * c1 / std * noise / size / batch).to(dtype)  # the derived one, at v_theta = v_old
    watch = gradcheck.watch("flow_grpo", log_prob_reduction="mean", clip_range=0.1, every=1, log=None)
    rest = {"t": t, "t_prev": t_prev, "advantage": a, "noise_level": 0.7, "on_policy": True}
    watch(**call, **rest)  # the program that judges is recorded once
    call["v_theta"].backward(gradient)
    call["v_theta"].grad = None
    with Counting() as counting:
        watch(**call, **rest)
        call["v_theta"].backward(gradient)
    assert watch.report.holds, watch.report
    inputs = sum(x.numel() * x.element_size() for x in call.values())
    name = str(dtype).removeprefix("torch.")
    return f"{size:,}", name, f"{inputs / 2**20:.1f} MiB", f"{counting.peak / inputs:.2f}"


def cost_table(rounds: int) -> str:
    header = ("guidance", "a plain step", "judged / plain", "between / plain", f"`every={EVERY}` costs")
    return text.table(header, [cost_row(guidance, rounds) for guidance in (1.0, 4.5)])


def memory_table() -> str:
    header = ("D", "network", "inputs of the watch", "held at most / inputs")
    return text.table(header, [held(size, dtype) for dtype in (torch.float32, torch.bfloat16) for size in SIZES])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(cost_table(options.rounds))
    print()
    print(memory_table())


if __name__ == "__main__":
    main()
