"""The theorems' calculators answer with what can be counted, and say what is wrong with a number."""

from __future__ import annotations

import math
import re

import pytest
import torch

from gradcheck.doors.cli import main
from gradcheck.errors import InputError
from gradcheck.theorems.calculators import CALCULATORS, calculate
from gradcheck.theorems.options import ALIASES, OPTIONS

GIVEN = {
    "clip": {"D": "65536", "clip": "1e-4"},
    "value-function": {"noise_level": "0.7"},
    "group-normalisation": {"group_size": "8"},
    "baseline": {"D": "1000"},
    "outer-iteration": {"rate": "0.25", "decay": "0.9"},
    "guidance": {"scale": "4"},
}


def percent(cell: str) -> float:
    return float(cell.rstrip("%")) / 100 if cell.endswith("%") else float(cell)


@pytest.mark.parametrize(("size", "clip", "kappa"), [(64, 0.01, 1.0), (1000, 1e-3, 1.5), (4, 0.2, 0.9)])
def test_the_shares_are_those_of_drawn_ratios(size: int, clip: float, kappa: float) -> None:
    page = calculate("clip", {"D": str(size), "clip": str(clip), "kappa": str(kappa)})
    row = next(line.split() for line in page.splitlines() if line.split()[:1] == [f"{kappa:.3g}"])
    n = 200_000
    along = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ratio = torch.exp((-(kappa**2) / 2 - kappa * along) / size)
    for cell, hit in ((row[2], ratio > 1 + clip), (row[3], ratio < 1 - clip)):
        share = hit.double().mean().item()
        # a cell shows a tenth of a percent; five standard errors of the count besides
        assert abs(percent(cell) - share) <= 5e-4 + 5 * math.sqrt((share + 1 / n) / n)


def test_half_are_clipped_at_the_radius() -> None:
    page = calculate("clip", GIVEN["clip"])
    assert "κ = 3.62 standard deviations" in page
    assert re.search(r"^ +3\.62 .* 50\.0%", page, re.MULTILINE)


def test_the_schedule_at_the_root_of_two_is_the_reversal() -> None:
    page = calculate("schedule", {"noise_level": str(math.sqrt(2)), "data_std": "0.5"})
    assert "the noising run backwards" in page
    assert page.count(" 1.000") == 5


def test_the_schedule_agrees_with_the_sampler_run_in_small_steps() -> None:
    """The mean of x_0 given x_t under Flow-GRPO's step is linear in x_t for Gaussian data: its slope, step by step."""
    level, std, slope, steps = 0.7, 1.0, 1.0, 20_000
    for i in range(steps):
        t = 0.5 * (1 - (i + 0.5) / steps)
        variance = (1 - t) ** 2 * std**2 + t**2
        velocity = (t - (1 - t) * std**2) / variance
        sigma2 = level**2 * t / (1 - t)
        slope *= 1 - 0.5 / steps * (velocity + sigma2 / (2 * t) * (1 + (1 - t) * velocity))
    page = calculate("schedule", {"noise_level": str(level)})
    row = next(line.split() for line in page.splitlines() if line.split()[:1] == ["0.5"])
    assert float(row[2]) == pytest.approx(slope, abs=2e-4)


@pytest.mark.parametrize("size", [2, 5, 16])
def test_the_group_factor_is_the_slope_of_what_is_drawn(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    rate, n = 0.3, 200_000
    rewards = (torch.rand(n, size, generator=generator, dtype=torch.float64) < rate).double()
    std = rewards.std(1, correction=0, keepdim=True)
    advantages = torch.where(std > 0, (rewards - rewards.mean(1, keepdim=True)) / std.clamp(min=1e-9), 0.0)
    score = rewards[:, 0] / rate - (1 - rewards[:, 0]) / (1 - rate)  # of the first member's reward in p
    drawn = advantages[:, 0] * score
    page = calculate("group", {"group_size": str(size), "success": str(rate)})
    row = next(line.split() for line in page.splitlines() if line.split()[:1] == ["0.3"])
    assert abs(float(row[1]) - drawn.mean().item()) <= 5e-4 + 5 * drawn.std().item() / math.sqrt(n)


def test_the_outer_iteration_is_the_one_that_runs() -> None:
    rate, beta, n, decay, target = 0.2, 1.5, 3, 0.8, 1.0
    v = 0.0
    for _ in range(n):
        v -= rate * 2 * beta**2 * (v - target)
    numbers = {"rate": str(rate), "beta": str(beta), "inner_steps": str(n), "decay": str(decay)}
    assert f"moves v_old by {(1 - decay) * v:.4g} of the way" in calculate("nft", numbers)
    assert "diverge" in calculate("nft", {**numbers, "rate": "0.5"})


@pytest.mark.parametrize("name", [*CALCULATORS, *ALIASES])
def test_every_calculator_answers_from_the_command_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = GIVEN[ALIASES.get(name, name)]
    argv = [x for option, text in given.items() for x in (OPTIONS[option].flag, text)]
    assert main(["explain", name, *argv]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 120
    assert "nan" not in out


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "-inf", "1e400"])
def test_what_is_no_number_is_one_clear_error(option: str, text: str) -> None:
    with pytest.raises(InputError) as caught:
        OPTIONS[option].parse(text)
    ((flag, _, wanted),) = caught.value.problems
    assert flag == OPTIONS[option].flag
    assert "number" in wanted


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("clip", {"D": "1.5", "clip": "0.1"}, ["--D", "1.5", "whole number"]),
        ("clip", {"D": "8", "clip": "1"}, ["--clip", "between 0 and 1"]),
        ("clip", {"clip": "0.1"}, ["--D", "nothing", "latent coordinates"]),
        ("clip", {"D": "8", "clip": "0.1", "scale": "2"}, ["--scale", "a number for clip", "only --D"]),
        ("group", {"group_size": "1"}, ["--group-size", "1"]),
        ("awm", {"D": "3"}, ["--D", "a number for awm", "value-function"]),
    ],
)
def test_wrong_numbers_are_named(name: str, given: dict[str, str], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        calculate(name, given)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("name", CALCULATORS)
def test_extreme_numbers_have_an_answer(name: str) -> None:
    """Just inside each end of what an option allows."""
    _, needed, possible = CALCULATORS[name]
    for end in ("low", "high"):
        given = {}
        for option in (*needed, *possible):
            o = OPTIONS[option]
            inside = {"low": o.low + 1e-6 if math.isfinite(o.low) else -1e6, "high": o.high * (1 - 1e-9)}[end]
            inside = inside if math.isfinite(inside) else 1e9
            given[option] = str({"low": math.floor(o.low) + 1, "high": math.floor(inside)}[end] if o.whole else inside)
        assert calculate(name, given).strip()
