"""How long proving and judging take, as ratios measured in one run: ``python benchmarks/startup.py``.

Proving every derivation, imports included, is measured against ``import sympy``; ``gradcheck check`` on the README's
loss, at the default number of examples, against ``import torch``.  Each is the best of several fresh processes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

PROVE_EVERYTHING = """
from derivations.identities import IDENTITIES
from derivations.lemmas import LEMMAS
from derivations.sde import REVERSE_STEPS
import importlib, pkgutil
from derivations import losses

modules = [importlib.import_module(m.name) for m in pkgutil.iter_modules(losses.__path__, "derivations.losses.")]
modules = [m for m in modules if hasattr(m, "VARIANTS")]

theorems = (*LEMMAS, *(s.theorem for s in REVERSE_STEPS), *IDENTITIES)
derivations = (m.derive(v) for m in modules for v in m.VARIANTS)
proofs = [statement.prove() for statement in (*theorems, *derivations)]
assert all(proof.holds for proof in proofs)
print(sum(len(proof.results) for proof in proofs))
"""

GUARD = """
import torch
import gradcheck

@gradcheck.conforms("grpo_guard", clip_range=0.2, log_prob_reduction="mean")
def test_guard(case):
    t, dt = case.expand(case.t), case.expand(case.dt)
    sigma = case.noise_level * torch.sqrt(t / (1 - t))
    std = sigma * torch.sqrt(dt)
    mean = case.x_t * (1 - sigma**2 * dt / (2 * t)) - case.v_theta * (1 + sigma**2 * (1 - t) / (2 * t)) * dt
    normal = torch.distributions.Normal(mean, std)
    log_prob = normal.log_prob(case.x_prev).flatten(1).mean(1)
    bias = ((mean - case.mean_old) ** 2 / (2 * std**2)).flatten(1).mean(1)
    ratio = torch.exp((log_prob - case.log_prob_old + bias) * std.flatten())
    clipped = torch.clamp(ratio, 0.8, 1.2)
    return (torch.maximum(-case.advantage * ratio, -case.advantage * clipped) / case.dt).mean()
"""


GOAL = 10
"""Times ``import sympy``, for proving what there was when the goal was set: 560 steps."""

STEPS = 560


def best(command: Sequence[str], times: int = 3) -> float:
    """Shortest wall time of a fresh process, in seconds."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - start)
    return min(found)


def figures() -> list[tuple[str, str, str]]:
    """What was measured, the ratio, and the goal."""
    python = [sys.executable, "-c"]
    sympy, proving = best([*python, "import sympy"]), best([*python, PROVE_EVERYTHING])
    proved = subprocess.run([*python, PROVE_EVERYTHING], check=True, capture_output=True, text=True)
    steps = int(proved.stdout)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "test_guard.py"
        file.write_text(GUARD)
        torch, checking = (
            best([*python, "import torch"]),
            best([sys.executable, "-m", "gradcheck.cli", "check", str(file)]),
        )
    return [
        (f"proving every derivation, {steps} steps / `import sympy`", f"{proving / sympy:.1f}", str(GOAL)),
        (
            "the same for one step, all imports counted in",
            f"{100 * proving / sympy / steps:.1f} %",
            f"{100 * GOAL / STEPS:.1f} %",
        ),
        ("`gradcheck check` of a GRPO-Guard loss, default examples / `import torch`", f"{checking / torch:.1f}", "5"),
    ]


def main() -> None:
    for what, measured, goal in figures():
        print(f"{what}: {measured} (goal: at most {goal})")


if __name__ == "__main__":
    main()
