"""How long proving and judging take, as ratios measured in one run: ``python -m benchmarks.startup``.

Proving every derivation, imports included, is measured against ``import sympy``; ``gradcheck check`` on the README's
loss, at the default number of examples, and on a file of twenty, against ``import torch``.  Each is the best of several
fresh processes; what takes long runs once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROVE_EVERYTHING = """
from derivations.identities import IDENTITIES
from derivations.lemmas import LEMMAS
from derivations.steps.sde import REVERSE_STEPS
import importlib, pkgutil
from derivations import losses

modules = [importlib.import_module(m.name) for m in pkgutil.iter_modules(losses.__path__, "derivations.losses.")]
modules = [m for m in modules if hasattr(m, "ALGORITHM")]

theorems = (*LEMMAS, *(s.theorem for s in REVERSE_STEPS), *IDENTITIES)
derivations = (m.ALGORITHM.derive(v) for m in modules for v in m.ALGORITHM.variants)
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


LOSSES = 20
"""How many losses the larger file has."""


@dataclass(frozen=True)
class Taken:
    """Seconds that a fresh process and its children took, by the clock and of processors."""

    wall: float
    processor: float

    def __truediv__(self, unit: Taken) -> tuple[str, str]:
        return f"{self.wall / unit.wall:.1f}", f"{self.processor / unit.processor:.1f}"

    def __str__(self) -> str:
        return f"{self.wall:.1f} s"


def best(command: Sequence[str], times: int = 3) -> Taken:
    """The shortest of several runs, of each time."""
    # Installed packages come with byte code, torch and SymPy too: where the environment forbids it, this package alone
    # would be compiled in each process.
    allowed = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    walls, processors = [], []
    for _ in range(times):
        before, start = os.times(), time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=allowed)
        walls.append(time.perf_counter() - start)
        after = os.times()
        processors.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return Taken(min(walls), min(processors))


def several(count: int) -> str:
    """A file of as many losses, each of a name of its own."""
    imports, loss = GUARD.split("@gradcheck")
    return imports + "".join("@gradcheck" + loss.replace("test_guard", f"test_guard_{i}") for i in range(count))


def figures(times: int = 3) -> list[tuple[str, str, str, str]]:
    """What was measured, by the clock, in processor time, and the goal."""
    python = [sys.executable, "-c"]
    sympy, proving = best([*python, "import sympy"], times), best([*python, PROVE_EVERYTHING], times)
    proved = subprocess.run([*python, PROVE_EVERYTHING], check=True, capture_output=True, text=True)
    command = [sys.executable, "-m", "gradcheck.doors.cli"]
    with tempfile.TemporaryDirectory() as folder:
        one, many = Path(folder) / "test_guard.py", Path(folder) / "test_guards.py"
        one.write_text(GUARD)
        many.write_text(several(LOSSES))
        torch, checking = best([*python, "import torch"], times), best([*command, "check", str(one)], times)
        at_once = best([*command, "check", str(many)], 1)
        verifying = best([*command, "verify"], 1)
    return [
        (f"proving every derivation, {int(proved.stdout)} steps / `import sympy`", *(proving / sympy), "5"),
        ("`gradcheck check` of a GRPO-Guard loss, default examples / `import torch`", *(checking / torch), "2.5"),
        (f"the same of a file of {LOSSES} losses, on {os.cpu_count()} cores", *(at_once / torch), "5"),
        ("`make verify`, once set up", str(verifying), f"{verifying.processor:.1f} s", "10 s"),
        ("`import torch`, which is the unit above", str(torch), f"{torch.processor:.1f} s", ""),
        ("`import sympy`", str(sympy), f"{sympy.processor:.1f} s", ""),
    ]


def main() -> None:
    for what, measured, processor, goal in figures():
        print(f"{what}: {measured}, in processor time {processor}" + (f" (goal: at most {goal})" if goal else ""))


if __name__ == "__main__":
    main()
