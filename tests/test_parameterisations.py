"""Every loss for networks that predict noise or data, and for time that runs the other way: proved, and by numbers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sympy as sp
import torch

from derivations.calculus import VectorSymbol
from derivations.claims import Equal
from derivations.derivation import Derivation, DerivationError, Step, Theorem
from derivations.notation import noise_theta, t, v_theta, x_0_theta
from derivations.steps.parameterisation import ChangeOfVariables, changed, predicting, reversing_time, under
from derivations.steps.paths import PARAMETERISATIONS
from gradcheck import distributed
from gradcheck.catalogue import CATALOGUE, Entry, entry
from gradcheck.conventions import declare
from gradcheck.derived.compiled import evaluate
from gradcheck.doors.cli import main
from gradcheck.doors.loading import load_found
from gradcheck.errors import InputError
from gradcheck.oracle.runner import judge
from gradcheck.oracle.subject import Settings, Subject
from gradcheck.problems.building import Spec, build, complete
from gradcheck.rounding.compare import compare, compare_entry, gradient_of
from gradcheck.rounding.error_scale import error_scale
from gradcheck.rounding.streaming import compare_gradient
from gradcheck.verifying.steps import NumericStep, check_step

CHANGES = (("v", 0), ("epsilon", 1), ("epsilon", 0), ("x0", 1), ("x0", 0))


def every_entry() -> Iterator[Entry]:
    for e in CATALOGUE:
        for prediction, noise_at in CHANGES:
            if noise_at == 1 or e.derivation.path == "rectified":
                yield e.under(prediction, noise_at)


def every_entry_measured_in_its_output() -> Iterator[Entry]:
    for e in CATALOGUE:
        own = (
            "adaptive" in e.variant or e.variant == "noise"
        )  # whose weights are of clean latents, or which does so anyhow
        if e.derivation.process == "forward" and not own:
            for prediction, noise_at in CHANGES[1:]:
                yield e.under(prediction, noise_at, "output")


ENTRIES = (*every_entry(), *every_entry_measured_in_its_output())
IN_OTHER_VARIABLES = pytest.mark.parametrize("changed_entry", ENTRIES, ids=lambda e: e.label)
SOME = pytest.mark.thin(3)  # which divides neither the five variables nor the four of an output

# ------------------------------------------------------------------------------------------- proved


@SOME
@IN_OTHER_VARIABLES
def test_every_loss_is_proved_in_other_variables(changed_entry: Entry) -> None:
    derivation = changed_entry.derivation
    assert derivation.label == changed_entry.label
    proof = derivation.prove()
    assert {r.step.name: r.residual for r in proof.refused} == {}
    proved = {r.step.name for r in proof.results}
    if changed_entry.error_space == "velocity":
        assert {"carried-gradient", "carried-weight", "carried-target"} <= proved
    assert {"gradient", "weight", "target", "equivalence"} <= proved
    for step in derivation.all_steps:
        assert step.sentence.endswith((".", "…"))


THEOREM = pytest.mark.parametrize("theorem", PARAMETERISATIONS, ids=lambda x: x.name)


@THEOREM
def test_what_is_said_of_paths_is_proved_and_holds_for_numbers(theorem: Theorem) -> None:
    assert {r.step.name: r.residual for r in theorem.prove().refused} == {}
    for step in theorem.steps:
        numeric = NumericStep.of(step, theorem.definitions)
        for seed in range(3):
            result = numeric.check(seed)
            assert result.holds, (step.name, result)
            assert result.judged == 1.0


@THEOREM
def test_what_is_said_of_paths_would_be_refused_if_it_were_wrong(theorem: Theorem) -> None:
    for step in theorem.steps:
        assert isinstance(step.claim, Equal)
        wrong = replace(step, claim=replace(step.claim, lhs=step.claim.lhs * (1 + sp.Rational(1, 10**6))))
        spoiled = Theorem("spoiled", "", (wrong,), theorem.definitions)
        assert not spoiled.prove().holds, step.name
        assert not check_step(wrong, theorem.definitions).holds, step.name


def wrong_changes() -> Iterator[tuple[str, Derivation, ChangeOfVariables, set[str]]]:
    """Changes of variables with a mistake, and steps that must refuse them."""
    awm, flow = entry("awm").derivation, entry("flow_grpo").derivation
    for d in (awm, flow):
        right = predicting(d, "epsilon")
        yield f"{d.name}-factor-squared", d, replace(right, factor=right.factor**2), {"gradient", "equivalence"}
        yield f"{d.name}-factor-missing", d, replace(right, factor=sp.S.One), {"gradient", "equivalence"}
        yield f"{d.name}-factor-sign", d, replace(right, factor=-right.factor), {"carried-target"}
        turned = {s: e.xreplace({t: 1 - t}) if s == v_theta else e for s, e in right.definitions.items()}
        yield f"{d.name}-t-for-1-t", d, replace(right, definitions=turned), {"output", "gradient"}
    right = predicting(awm, "x0")
    yield "offset-sign", awm, replace(right, offset=-right.offset), {"carried-target", "gradient"}
    turn = reversing_time(awm)
    kept = {**turn.images, VectorSymbol("v_theta"): VectorSymbol("v_theta")}
    yield "velocity-not-turned", awm, replace(turn, images=kept, factor=sp.S.One), {"velocity"}
    adaptive = entry("diffusion_nft", "adaptive").derivation
    turn = reversing_time(adaptive)
    renamed = {s: e for s, e in turn.renamed.items() if s != t}
    yield "time-not-turned", adaptive, replace(turn, renamed=renamed), {"state"}


@pytest.mark.parametrize(("d", "change", "refused"), [pytest.param(*w[1:], id=w[0]) for w in wrong_changes()])
def test_a_wrong_change_of_variables_is_refused(d: Derivation, change: ChangeOfVariables, refused: set[str]) -> None:
    assert under(d, predicting(d, "epsilon")).prove().holds
    assert refused & {r.step.name for r in under(d, change).prove().refused}


def test_the_target_of_awm_in_the_noise_reads_as_in_the_velocity() -> None:
    d = entry("awm").under("epsilon").derivation
    a, e = sp.Symbol("advantage", real=True), VectorSymbol("noise")
    step = Step("target", "", Equal(d.target, noise_theta + a * (e - noise_theta)))
    assert Theorem("", "", (step, Step("weight", "", Equal(d.weight, 1 / (1 - t) ** 2)))).prove().holds
    assert changed(entry("awm").derivation, "x0").output == x_0_theta


@pytest.mark.parametrize(
    ("one", "arguments", "words"),
    [
        (("awm",), ("velocity",), "prediction must be one of v, epsilon, x0, but is 'velocity'"),
        (("awm",), ("epsilon", 1, "noise"), "error_space must be one of velocity, output, but is 'noise'"),
        (("ddpo",), ("v", 0), "ddpo: only the rectified path's time, with its noise at 1, can be reversed"),
        (("flow_grpo",), ("epsilon", 1, "output"), "only a loss of the predictions and v_gt alone can be measured"),
        (("diffusion_nft", "adaptive"), ("x0", 1, "output"), "only a loss of the predictions and v_gt alone"),
    ],
)
def test_variables_that_there_are_not(one: tuple[str, ...], arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(DerivationError, match=re.escape(words)):
        changed(entry(*one).derivation, *arguments)


@pytest.mark.parametrize(("prediction", "factor"), [("epsilon", 1 - t), ("x0", t)])
def test_an_error_of_the_output_is_the_velocitys_times_the_chain_factor_squared(
    prediction: str, factor: sp.Expr
) -> None:
    """In the output's space the loss is another one: each sample's is weighted by (1 − t)², or t²."""
    awm = entry("awm")
    velocity, output = (awm.under(prediction, 1, space).derivation for space in ("velocity", "output"))
    for part, power in (("loss", 2), ("gradient", 2), ("weight", 2), ("target", 0)):
        claim = Equal(getattr(output, part), factor**power * getattr(velocity, part))
        assert Theorem("", "", (Step(part, "", claim),), velocity.definitions).prove().holds, part


# ----------------------------------------------------------------------------------------- by numbers


@SOME
@IN_OTHER_VARIABLES
def test_autograd_of_the_converted_loss_is_the_derived_gradient(changed_entry: Entry) -> None:
    for i, dtype in enumerate((torch.float64, torch.float32)):
        spec = Spec(3, (2, 3) if i else (7,), seed=i, clip=i, time=("mixed", "near-noise")[i])
        case = build(changed_entry.derivation, spec, dtype, on_grid=bool(i))
        result = compare_entry(changed_entry, case)
        assert result.holds, result


@pytest.mark.parametrize("name", ["flow_grpo", "diffusion_nft", "fpo", "ddpo"])
@pytest.mark.parametrize(("prediction", "noise_at"), CHANGES)
def test_the_problem_is_the_same_in_other_variables(name: str, prediction: str, noise_at: int) -> None:
    """The loss's value agrees, and its gradient by the chain rule; regimes and clip stay where they were."""
    here = entry(name)
    if noise_at == 0 and here.derivation.path != "rectified":
        return
    there = here.under(prediction, noise_at)
    for policy in ("on-policy", "off"):
        spec = Spec(4, (3, 2), seed=7, policy=policy, time="middle")
        case, other = (build(e.derivation, spec) for e in (here, there))
        value, other_value = here.loss(case), there.loss(other)
        assert torch.allclose(value, other_value, rtol=1e-9, atol=1e-9)
        factor = _slope(other, prediction, noise_at)
        gradient = gradient_of(here.loss(case), case.output) * factor
        assert torch.allclose(gradient_of(there.loss(other), other.output), gradient, rtol=1e-7, atol=1e-9)
        if policy == "on-policy":
            assert torch.equal(other.output.detach(), getattr(other, other.output_name.replace("theta", "old")))


def _slope(case: object, prediction: str, noise_at: int) -> torch.Tensor:
    """∂velocity/∂output with the noise at t = 1, written out once more."""
    if "alpha_bar" in case.names:  # type: ignore[attr-defined]
        alpha, sigma = case.alpha_bar.sqrt(), (1 - case.alpha_bar).sqrt()  # type: ignore[attr-defined]
    else:
        time = case.t if "t" in case.names else torch.ones(4, dtype=torch.float64)  # type: ignore[attr-defined]
        alpha, sigma = (1 - time, time) if noise_at == 1 else (time, 1 - time)
    turn = torch.full_like(alpha, 1.0 if noise_at == 1 else -1.0)
    return {"v": turn, "epsilon": 1 / alpha, "x0": -1 / sigma}[prediction][:, None, None]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_turned_grid_goes_up_and_gives_the_step_to_the_last_bit(dtype: torch.dtype) -> None:
    derivation = entry("flow_grpo").under("x0", 0).derivation
    for seed in range(20):
        case = build(derivation, Spec(5, (3,), seed, time="mixed"), dtype, on_grid=True)
        assert case.sigmas[0] == 0
        assert case.sigmas[-1] == 1
        assert bool((case.sigmas.diff() > 0).all())
        assert torch.equal(case.sigmas[case.step_index], case.t)
        assert torch.equal(case.sigmas[case.step_index + 1] - case.t, case.dt)


@pytest.mark.parametrize(("prediction", "noise_at"), CHANGES)
def test_large_latents_are_compared_in_chunks(prediction: str, noise_at: int) -> None:
    one = entry("flow_grpo", "kl").under(prediction, noise_at)
    case = build(one.derivation, Spec(3, (50, 40), seed=1, time="mixed"))
    gradient = gradient_of(one.loss(case), case.output)
    assert compare_gradient(one.derivation, case, gradient, chunk=512).holds
    assert not compare_gradient(one.derivation, case, gradient * (1 + 1e-7), chunk=512).holds


def test_the_case_names_what_the_network_puts_out() -> None:
    case = build(entry("diffusion_nft").under("epsilon").derivation, Spec(2, (3,), 0))
    assert {"noise_theta", "noise_old", "x_t", "v_gt"} <= set(case.names)
    assert not {"v_theta", "v_old"} & set(case.names)
    assert case.output is case.noise_theta
    assert case.output.requires_grad
    with pytest.raises(AttributeError, match=r"has no quantity 'v_theta'; it has .*noise_theta"):
        _ = case.v_theta


@pytest.mark.parametrize("chunk", [None, 2])
def test_a_time_that_was_turned_may_have_lost_its_last_digits(chunk: int | None) -> None:
    """1 − (1 − t) is right code, and off by a unit of 1 near t = 0; a step's standard deviation shows it."""
    derivation = entry("flow_grpo").under("v", 0).derivation
    drawn = build(derivation, Spec(4, (3,), 3, policy="on-policy", time="near-noise"))
    case = complete(derivation, {**{n: getattr(drawn, n) for n in derivation.given}, "t": drawn.t / 3})
    turned = case.replace(t=1 - (1 - case.t))
    assert not torch.equal(turned.t, case.t)
    (gradient,) = evaluate(derivation, turned, derivation.gradient, dtype=torch.float64)
    assert compare_gradient(derivation, case, gradient, chunk=chunk).holds
    (scale,), _ = error_scale(derivation, case, derivation.raw_gradient)
    (required,) = evaluate(derivation, case, derivation.gradient, dtype=torch.float64)
    assert compare(gradient, required, scale, torch.float64).holds


# ------------------------------------------------------------------------------------------- declared

NOISE = """
import gradcheck

@gradcheck.conforms("flow_grpo", prediction="epsilon", noise_at=0, log_prob_reduction="mean")
def test_step(case):
    t, dt = case.expand(case.t), case.expand(case.dt)
    sigma = case.noise_level * ((1 - t) / t) ** 0.5

    def log_prob(noise):
        v = (case.x_t - noise) / t
        score = (t * v - case.x_t) / (1 - t)
        mean = case.x_t + (v + sigma**2 / 2 * score) * dt
        return -((case.x_prev - mean) ** 2 / (2 * sigma**2 * dt)).flatten(1).mean(1)

    ratio = (log_prob(case.noise_theta) - log_prob(case.noise_old)).exp()
    clipped = ratio.clamp(1 - case.clip_low, 1 + case.clip_high)
    return (-case.advantage * ratio).maximum(-case.advantage * clipped).mean()
"""


def checked(tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    file = tmp_path / "mine.py"
    file.write_text(source)
    status = main(["check", str(file), "--max-examples", "3", "--json", str(tmp_path / "report.json")])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return status, out


def test_a_declared_prediction_is_judged_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = checked(tmp_path, NOISE, capsys)
    assert status == 0, out
    declared = json.loads((tmp_path / "report.json").read_text())["targets"][0]["declaration"]
    assert "prediction='epsilon', noise_at=0" in declared


@pytest.mark.parametrize("latent", [None, (30, 10)], ids=["literal", "drawn"])
def test_the_script_of_a_failure_fails(latent: tuple[int, ...] | None, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(NOISE.replace("v = (case.x_t - noise) / t", "v = case.x_t - noise"))
    subject = load_found(str(file), None)[0].subject
    assert isinstance(subject, Subject)
    (result,) = judge(subject, Settings(max_examples=2, latent=latent), ("gradient",)).results
    assert result.statement == "d loss / d noise_theta is the derived gradient"
    assert result.diagnosis is not None
    assert result.diagnosis.cause == "the velocity made of the predicted noise is not divided by t"
    done = subprocess.run([sys.executable, "-c", result.script], capture_output=True, text=True, check=False)
    assert "AssertionError: the gradient obligation fails" in done.stderr


@pytest.mark.parametrize(
    ("declared", "wrong", "meant"),
    [
        ('prediction="epsilon"', "case.noise_theta", "prediction='v'"),
        ('prediction="epsilon"', "(case.x_t - case.noise_theta) / case.expand(case.t)", "prediction='x0'"),
        ('prediction="epsilon"', "(case.noise_theta - case.x_t) / case.expand(case.t)", "noise_at=0"),
        ('prediction="epsilon"', "case.noise_theta - case.x_0", "error_space='output'"),
        ("noise_at=0", "case.v_theta", "noise_at=1"),
    ],
)
def test_a_wrong_declaration_is_told_as_such(
    declared: str, wrong: str, meant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"""
import gradcheck

@gradcheck.conforms("awm", {declared})
def test_awm(case):
    error = ({wrong} - (case.noise - case.x_0)) ** 2
    return (case.advantage * error.flatten(1).sum(1)).mean()
"""
    status, out = checked(tmp_path, source, capsys)
    assert status == 1
    assert f"if that is meant, declare {meant}" in " ".join(out.split())


@pytest.mark.parametrize(
    ("algorithm", "declared", "name"),
    [
        ("awm", {"prediction": "eps"}, "prediction"),
        ("awm", {"noise_at": 2}, "noise_at"),
        ("awm", {"noise_at": True}, "noise_at"),
        ("ddpo", {"noise_at": 0}, "noise_at"),
        ("awm", {"error_space": "noise"}, "error_space"),
        ("awm", {"error_space": "output"}, "error_space"),
        ("flow_grpo", {"error_space": "output", "prediction": "x0"}, "error_space"),
    ],
)
def test_bad_declarations_are_told(algorithm: str, declared: dict[str, object], name: str) -> None:
    with pytest.raises(InputError, match=rf"\[gradcheck\] {name}: got .+; wanted .+"):
        declare(algorithm, **declared)


def test_unveil_says_that_it_looks_at_velocities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(NOISE)
    assert main(["unveil", f"{tmp_path / 'mine.py'}::test_step"]) == 2
    assert "prediction='epsilon', noise_at=0; wanted a loss of velocities" in capsys.readouterr().err


@pytest.mark.parametrize("declared", [{"prediction": "x0"}, {"noise_at": 0}], ids=str)
def test_trainers_on_many_processes_predict_velocities(declared: dict[str, object]) -> None:
    with pytest.raises(InputError, match=rf"{next(iter(declared))}: got .+; wanted .+ the networks here"):
        distributed.conforms("awm", **declared)(lambda model, shard: None)


def test_explain_and_list_know_of_other_variables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "awm", "--prediction", "epsilon", "--noise-at", "0"]) == 0
    assert "target = ε_θ + A(ε − ε_θ)" in capsys.readouterr().out
    assert main(["explain", "predictions-vp", "--latex"]) == 0
    assert r"\bar\alpha_t" in capsys.readouterr().out
    for wrong in (["awm", "--prediction", "noise"], ["ddpo", "--noise-at", "0"]):
        assert main(["explain", *wrong]) == 2
    capsys.readouterr()
    assert main(["list", "--options"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"prediction +v, epsilon, x0\n", out)
    assert re.search(r"flow_grpo\n(  .*\n)*  sde +flow, dance", out)
