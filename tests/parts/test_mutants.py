"""Wrong parts fail by name and with their cause, and every cause that can be named is some mutant's."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import gradcheck.parts as package
from gradcheck.judging.engine import Declared
from gradcheck.parts.advantage import advantage_part
from gradcheck.parts.ema import ema_part
from gradcheck.parts.reward_map import reward_map_part
from gradcheck.parts.sde_step import sde_step_part
from gradcheck.parts.time_sampler import time_sampler_part
from parts.base import failed
from parts.mutants import JUDGES, MUTANTS, Mutant


@pytest.mark.thin(2)
@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
@pytest.mark.filterwarnings("ignore:std")
def test_wrong_parts_fail_by_name(mutant: Mutant) -> None:
    found = failed(JUDGES[mutant.part](mutant.function, **mutant.declared))
    assert {obligation: found.get(obligation) for obligation in mutant.causes} == mutant.causes


def nothing(*given: object) -> None:
    """Never called."""


PARTS: dict[str, list[Declared]] = {  # type: ignore[type-arg]
    "sde_step": [
        sde_step_part(nothing, sde=sde, **named)
        for sde in ("flow", "dance", "cps", "wan")
        for named in ({}, {"log_prob_reduction": "sum"}, {"noise_level": 0.7})
    ],
    "advantage": [advantage_part(nothing), advantage_part(nothing, std="none", clamp=2.0, eps_at="floor")],
    "ema": [ema_part(nothing)],
    "reward_map": [reward_map_part(nothing)],
    "time_sampler": [
        time_sampler_part(nothing, shift=3.0, mean=0.5, std=0.7),
        time_sampler_part(nothing, distribution="beta", a=2.0, b=1.0, low=0.1),
        time_sampler_part(nothing, distribution="table", times=(0.2, 0.5), weights=(1, 3)),
    ],
}
MODULES = {
    "sde_step": ("_sde_checks", "_sde_sampling", "_sde_subject", "_sde_guards", "sde_step"),
    "advantage": ("_advantage_checks", "_advantage_subject", "advantage"),
    "ema": ("_ema_checks", "ema"),
    "reward_map": ("reward_map",),
    "time_sampler": ("time_sampler",),
}


def named_directly(modules: tuple[str, ...]) -> set[str]:
    """The names in ``Diagnosis("name", …)`` in some modules' source."""
    folder = Path(package.__file__).parent
    calls = [
        node
        for module in modules
        for node in ast.walk(ast.parse((folder / f"{module}.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Diagnosis"
    ]
    return {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}  # type: ignore[misc]


@pytest.mark.parametrize("part", PARTS)
def test_every_named_cause_has_a_mutant(part: str) -> None:
    hypotheses = {h.name for one in PARTS[part] for h in one.hypotheses(one.subject)}
    named = hypotheses | named_directly(MODULES[part])
    shown = {cause for mutant in MUTANTS if mutant.part == part for cause in mutant.causes.values()}
    assert len(named) > 5
    assert named - shown == set()
    assert shown - named <= named_directly(("_calls",)), "a cause that nothing names"


def test_every_part_has_its_modules_here() -> None:
    folder = Path(package.__file__).parent
    shared = {
        "__init__",
        "_calls",
        "_advantage_mistakes",
        "_declaring",
        "_precision",
        "_statistics",
        "_sde_formulas",
        "_sde_mistakes",
        "_sde_parameterisation",
    }
    files = {path.stem for path in folder.glob("*.py")} - shared - {"conforming"}
    assert files == {module for modules in MODULES.values() for module in modules}
