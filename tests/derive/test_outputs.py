"""Losses that are written, or wanted, in what a network puts out: noise or clean latents in the velocity's place."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import sympy as sp
import torch

import gradcheck
from derivations import notation as n
from derivations.claims import Equal
from derivations.steps.parameterisation import changed
from gradcheck.catalogue import CATALOGUE
from gradcheck.deriving.checking import _Text, check
from gradcheck.deriving.result import Derived
from gradcheck.doors.cli import main
from gradcheck.errors import InputError
from gradcheck.problems.building import Spec
from gradcheck.rounding.compare import gradient_of
from tests.derive.table import EXPRESSIONS

OUTPUTS = {"epsilon": n.noise_theta, "x0": n.x_0_theta}
WRITTEN = {
    "epsilon": ("A*norm2(noise_theta - noise)", 2 * n.advantage * (1 - n.t) ** 2, n.noise),
    "x0": ("A*norm2(x_0_theta - x_0)", 2 * n.advantage * n.t**2, n.x_0),
}


@cache
def derived(text: str, wrt: str = "v_theta", sde: str | None = None) -> Derived:
    result = gradcheck.derive(text, wrt=wrt, sde=sde, problems=8)
    assert isinstance(result, Derived)
    return result


def same(a: sp.Expr, b: sp.Expr, inline: Any) -> bool:
    return Equal(a, b).residual(inline) == 0


@pytest.mark.parametrize("what", OUTPUTS)
def test_an_error_between_predictions_is_one_between_velocities(what: str) -> None:
    text, weight, truth = WRITTEN[what]
    d = derived(text, OUTPUTS[what].name)
    assert d.holds
    assert same(d.gradient, weight * (n.v_theta - n.v_gt), d.derivation.inline)
    assert d.output is not None
    own = d.output.derivation
    assert own.output == OUTPUTS[what]
    assert same(own.gradient, 2 * n.advantage * (OUTPUTS[what] - truth), own.inline)


@pytest.mark.parametrize("what", OUTPUTS)
@pytest.mark.parametrize("label", ["awm", "diffusion_nft", "flow_grpo[kl]", "rwr[reference]", "fpo"])
def test_a_line_in_velocities_gives_the_entry_in_the_output(label: str, what: str) -> None:
    """The same as the catalogue's entry under the same change of variables, by another way."""
    text, sde = EXPRESSIONS[label]
    d = derived(text, OUTPUTS[what].name, sde)
    assert d.holds
    assert d.output is not None
    entry = changed(next(e for e in CATALOGUE if e.label == label).derivation, what)
    own = d.output.derivation
    for part in ("gradient", "target"):
        mine, theirs = own.inline(getattr(own, part)), entry.inline(getattr(entry, part))
        if part == "target" and not same(own.inline(own.weight), entry.inline(entry.weight), lambda e: e):
            continue  # a weight is a choice
        coefficients = {**entry.coefficients, **own.coefficients}
        assert same(mine.xreplace(coefficients), theirs.xreplace(coefficients), lambda e: e)


@pytest.mark.parametrize("wrong", [lambda g: 2 * g, lambda g: -g, lambda g: (1 - n.t) * g])
def test_a_wrong_change_of_variables_is_seen_by_both_routes(wrong: Any) -> None:
    d = derived("A*norm2(v_theta - v_gt)", "noise_theta")
    assert d.output is not None
    own = replace(d.output.derivation, gradient=wrong(d.output.derivation.gradient))
    assert "gradient" in {r.step.name for r in own.prove().refused}
    assert not check(d.statement, d.form, "float64", 6, output=own).holds
    assert check(d.statement, d.form, "float64", 6, output=d.output.derivation).holds


def test_a_wrong_derivation_in_the_output_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its proof and by autograd in the output itself; what was derived in the velocity stays right."""

    def wrong(*args: Any) -> Any:
        right = changed(*args)
        return replace(right, gradient=2 * right.gradient)

    monkeypatch.setattr("gradcheck.deriving.api.changed", wrong)
    d = gradcheck.derive("A*norm2(v_theta - v_gt)", wrt="noise_theta", problems=4)
    assert d.output is not None
    assert not d.output.check.holds
    assert "gradient" in {r.step.name for r in d.output.proof.refused}
    assert d.proof.holds
    assert not d.holds
    assert "NOT VERIFIED" in d.text()
    assert "NOT VERIFIED" in d.torch_source
    assert main(["derive", "A*norm2(v_theta - v_gt)", "--wrt", "noise_theta", "--problems", "1"]) == 1


@pytest.mark.parametrize("text", ["A*norm2(noise_theta - noise)", "-min(ratio*A, clip(ratio, 1-eps, 1+eps)*A)"])
def test_the_torch_source_is_in_the_output(text: str) -> None:
    d = derived(text, "noise_theta")
    assert d.output is not None
    namespace: dict[str, Any] = {}
    exec(compile(d.torch_source, "<derived>", "exec"), namespace)
    problem = _Text(d.statement, d.derivation, d.output.derivation)
    case = problem.case(Spec(3, (2, 5), 0, policy="off", time="middle"), torch.float64)
    wanted = gradient_of(problem.loss(case), case.noise_theta)
    names = namespace["loss"].__code__.co_varnames[: namespace["loss"].__code__.co_argcount]
    observed = gradient_of(namespace["loss"](**{name: case.broadcast()[name] for name in names}), case.noise_theta)
    assert torch.allclose(observed, wanted, rtol=1e-9, atol=1e-12 * float(wanted.abs().max()))
    assert float(wanted.abs().max()) > 0


def test_every_format_shows_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["derive", "A*norm2(noise_theta - noise)", "--wrt", "noise_theta", "--problems", "2"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "In ε_θ, which the network puts out\n    ∇L      2A(ε_θ − ε)" in text
    assert main([*arguments, "--latex"]) == 0
    formula = r"\nabla_{\varepsilon_\theta}\mathcal{L} = 2A\left(\varepsilon_\theta - \varepsilon\right)"
    assert formula in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["output"]
    assert data["name"] == "noise_theta"
    assert data["gradient"]["text"] == "2A(ε_θ − ε)"
    assert data["check"]["holds"] is True
    assert all(step["proved"] for step in data["proof"])


def test_predictions_belong_to_the_rectified_path() -> None:
    with pytest.raises(InputError, match="noise_theta is what belongs to a velocity of the rectified path"):
        gradcheck.derive("-ratio*A + norm2(noise_theta - noise)", sde="ddim")


def test_a_weight_is_free_of_the_output() -> None:
    with pytest.raises(InputError, match="free of what the network puts out"):
        gradcheck.derive("A*norm2(v_theta - v_gt)", weight="exp(norm2(noise_theta))")
