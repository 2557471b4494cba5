"""One seed is one problem: on every device, on every torch, to the last bits that their functions share.

What torch's CPU generator deals (:func:`torch.rand` and :func:`torch.randint` in float64) is the same to the bit in
every build.  :func:`torch.randn` and powers of ten go through a logarithm, a cosine or an exponential, and builds may
differ in their last bit or two.  The trained model's output is found by solving for a log-ratio, whose own rounding
then counts.  ``python -m tests.test_reproducible`` writes ``golden_cases.json`` anew; that is for a deliberate change
of the draws, after which seeds in old reports name other problems.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gradcheck.case import Case
from gradcheck.catalogue import entry
from gradcheck.problems import building
from gradcheck.problems.building import Spec, build

GOLDEN = Path(__file__).with_name("golden_cases.json")

SPECS = {
    "flow_grpo": (("flow_grpo", "paper"), Spec(3, (2, 3), 1)),
    "flow_grpo on a grid": (("flow_grpo", "kl"), Spec(2, (3,), 2, policy="off", time="middle")),
    "grpo_guard inside the clip": (("grpo_guard", "mean"), Spec(2, (3,), 3, policy="inside", time="middle", clip=1)),
    "awm far outside": (("awm", "clipped"), Spec(3, (7,), 4, policy="far", advantage="extreme")),
    "diffusion_nft": (("diffusion_nft", "paper"), Spec(5, (2, 5), 5)),
    "diffusion_dpo": (("diffusion_dpo", "paper"), Spec(4, (3, 2, 2), 2**32 - 1, time="middle")),
}
EXACT = ("noise_level", "preference", "reward_prob", "clip_low", "clip_high", "D")
"""Made of uniform numbers by additions and products alone, which IEEE 754 rounds in one way."""

LAST_BITS = 2.0**-49
SOLVED = 1e-11
"""Relative to the tensor's largest number.  One bit more or less in every draw moves the solved outputs below, and what
is computed from them, by at most 3e-14."""


def made(name: str, device: str = "cpu") -> Case:
    label, spec = SPECS[name]
    return build(entry(*label).derivation, spec, device=device, on_grid="grid" in name)


def stream() -> dict[str, list[float]]:
    """What the generator deals after a seed, below and above the size from which torch fills in blocks."""
    out: dict[str, list[float]] = {}
    for n in (5, 33):
        for draw in ("rand", "randn"):
            g = torch.Generator().manual_seed(20_000 + n)
            out[f"{draw} {n}"] = getattr(torch, draw)(n, generator=g, dtype=torch.float64).tolist()
    out["randint"] = torch.randint(1000, (20,), generator=torch.Generator().manual_seed(7)).tolist()
    return out


def sampled(value: Tensor | float) -> list[float]:
    """The first, a middle and the last number, and the largest magnitude."""
    flat = torch.as_tensor(value, dtype=torch.float64).detach().flatten()
    return [float(x) for x in (flat[0], flat[len(flat) // 2], flat[-1], flat.abs().max())]


def figures(case: Case) -> dict[str, list[float]]:
    return {name: sampled(getattr(case, name)) for name in case.names}


def golden() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(GOLDEN.read_text())
    return loaded


def test_the_generator_deals_what_it_always_dealt() -> None:
    now, then = stream(), golden()["stream"]
    for name, numbers in then.items():
        if "randn" in name:
            assert now[name] == pytest.approx(numbers, rel=LAST_BITS, abs=0)
        else:
            assert now[name] == numbers, name


@pytest.mark.parametrize("name", SPECS)
def test_a_seed_gives_the_problem_that_it_always_gave(name: str, device: str) -> None:
    case, then = made(name, device), golden()["cases"][name]
    given = entry(*SPECS[name][0]).derivation.given
    now = figures(case)
    assert set(now) >= set(then)
    for quantity, numbers in then.items():
        if quantity in EXACT:
            assert now[quantity] == numbers, quantity
        elif quantity in given and quantity != case.output_name:
            assert now[quantity] == pytest.approx(numbers, rel=LAST_BITS, abs=0), quantity
        else:
            assert now[quantity] == pytest.approx(numbers, rel=0, abs=SOLVED * numbers[-1]), quantity


class Draws(TorchDispatchMode):
    """Where random numbers are made: the devices of what every random operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.devices: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.devices.append(out.device.type)
        return out


@pytest.mark.parametrize("name", SPECS)
def test_nothing_is_drawn_on_the_device(name: str) -> None:
    """Shown on the device that computes nothing; and nothing is drawn from the process's own generator."""
    before = torch.get_rng_state()
    building._drawn_once.cache_clear()  # what was drawn is kept for a while
    with Draws() as draws:
        case = made(name, "meta")
    assert set(draws.devices) == {"cpu"}
    assert case.output.device.type == "meta"
    assert torch.equal(torch.get_rng_state(), before)


def test_a_problem_that_was_changed_is_drawn_as_before() -> None:
    """Whoever has a problem owns its numbers, though the same ones are handed out again."""
    derivation, spec = entry("flow_grpo").derivation, Spec(3, (2, 4), seed=1)
    first = build(derivation, spec)
    kept = {
        name: getattr(first, name).detach().clone() for name in first.names if torch.is_tensor(getattr(first, name))
    }
    for name in kept:
        getattr(first, name).detach().zero_()
    again = build(derivation, spec)
    for name, numbers in kept.items():
        assert torch.equal(getattr(again, name).detach(), numbers), name


def test_a_draw_on_the_device_would_be_seen() -> None:
    with Draws() as draws:
        torch.empty(3, device="meta").normal_()
        torch.rand(3)
    assert draws.devices == ["meta", "cpu"]


def main() -> None:
    found = {"stream": stream(), "cases": {name: figures(made(name)) for name in SPECS}}
    GOLDEN.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
