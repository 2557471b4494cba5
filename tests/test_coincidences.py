"""Where two losses are one: proved, true for numbers, and refused without a condition or with another factor."""

from __future__ import annotations

from dataclasses import replace

import pytest

from derivations.coincidences import COINCIDENCES, Coincidence
from derivations.derivation import DerivationError
from derivations.notation import ratio, v_old, v_theta
from gradcheck.catalogue import entry
from gradcheck.doors.cli import main
from gradcheck.verifying.steps import check_step

EACH = pytest.mark.parametrize("coincidence", COINCIDENCES, ids=lambda c: c.name)


@EACH
def test_it_is_proved(coincidence: Coincidence) -> None:
    assert coincidence.prove().refused == ()


@EACH
def test_it_holds_for_numbers(coincidence: Coincidence) -> None:
    for step in coincidence.steps:
        for seed in range(2):
            result = check_step(step, {}, seed)
            assert result.judged == 1.0, step.name
            assert result.holds, (step.name, result)


@EACH
def test_twice_as_much_is_refused(coincidence: Coincidence) -> None:
    wrong = replace(coincidence, factor=2 * coincidence.factor)
    assert [r.step.name for r in wrong.prove().refused] == list(coincidence.parts)
    assert not any(check_step(step, {}).holds for step in wrong.steps)


@pytest.mark.parametrize(
    ("coincidence", "condition"), [pytest.param(c, s, id=f"{c.name}-{s}") for c in COINCIDENCES for s in c.where]
)
def test_every_condition_is_needed(coincidence: Coincidence, condition: object) -> None:
    fewer = {s: e for s, e in coincidence.where.items() if s != condition}
    assert not replace(coincidence, where=fewer).prove().holds


def test_another_weighting_is_no_coincidence() -> None:
    first = next(c for c in COINCIDENCES if c.name == "fpo-mean-is-clipped-awm")
    for variant in ("mean", "clipped-t", "clipped-huber", "clipped-reference"):
        other = replace(first, right=entry("awm", variant).derivation, parts=("gradient",))
        assert not other.prove().holds, variant


def test_sides_that_speak_of_different_things_are_not_compared() -> None:
    last = next(c for c in COINCIDENCES if c.name == "guard-starts-as-flow-grpo")
    with pytest.raises(DerivationError, match="C1, C2 means one thing here"):
        replace(last, right=entry("flow_grpo", "cps").derivation)
    with pytest.raises(DerivationError, match="ratio"):
        replace(last, where={v_theta: ratio * v_old})


def test_the_command_prints_what_is_proved(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "--coincidences"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 2 + len(COINCIDENCES)
    assert "| GRPO-Guard | C2/Δt · Flow-GRPO | v_θ = v_old | gradient |" in out
