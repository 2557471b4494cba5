"""``gradcheck.derive``: every loss of the catalogue from its line of text, losses without a name, and failures."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import sympy as sp
import torch
from hypothesis import given, settings

import gradcheck
from derivations import notation as n
from derivations.calculus import Norm2, is_zero
from derivations.claims import Equal
from derivations.derivation import inline
from derivations.grammar import Statement, from_text, read
from derivations.grammar.from_text import Derived as Derivative
from derivations.grammar.from_text import derive_statement
from gradcheck.catalogue import CATALOGUE, Entry
from gradcheck.clock import DeadlineError, deadline
from gradcheck.deriving.checking import _specs, _Text, check
from gradcheck.deriving.matching import matches
from gradcheck.deriving.result import Derived
from gradcheck.doors.cli import main
from gradcheck.errors import InputError
from gradcheck.problems.building import Spec
from gradcheck.rounding.bounds import THRESHOLD
from gradcheck.rounding.compare import Comparison, gradient_of
from tests.derive.strategies import losses
from tests.derive.table import EXPRESSIONS, ON_BOTH

LABELS = [e.label for e in CATALOGUE]


@cache
def derivative(label: str) -> tuple[Statement, Derivative]:
    text, sde = EXPRESSIONS[label]
    statement = read(text)
    return statement, derive_statement(statement, sde, 1 / n.D if label in ON_BOTH else None)


@cache
def derived(text: str, sde: str | None = None) -> Derived:
    result = gradcheck.derive(text, sde=sde, problems=8)
    assert isinstance(result, Derived)
    return result


def entry(label: str) -> Entry:
    return next(e for e in CATALOGUE if e.label == label)


# ------------------------------------------------------------------------------------------------- the catalogue


def test_every_entry_has_its_line() -> None:
    assert sorted(EXPRESSIONS) == sorted(LABELS), "tests/derive/table.py has one line for each entry"


def same(own: Any, other: Any, what: str) -> bool:
    """Proved: the two derivations' formulas are equal for every D, coefficients put in where the text has none."""
    deep = not set(other.coefficients) & inline(getattr(own, what), own.definitions).free_symbols

    def opened(d: Any) -> sp.Expr:
        return inline(getattr(d, what), {**d.definitions, **(d.coefficients if deep else {})})

    return Equal(opened(own), opened(other)).residual(lambda e: e) == 0


@pytest.mark.thin(2)
@pytest.mark.parametrize("label", LABELS)
def test_an_entry_follows_from_its_line(label: str) -> None:
    statement, form = derivative(label)
    own, other = form.derivation, entry(label).derivation
    for what in ("gradient", "weight", "target"):
        assert same(own, other, what), what
    assert not same(replace(own, gradient=2 * own.gradient), other, "gradient"), "the comparison can fail"
    assert own.process == other.process or label in ON_BOTH
    checked = check(statement, form, "float64", 6)
    assert checked.holds, checked


@pytest.mark.parametrize("label", ["flow_grpo[kl-sigma]", "awm[clipped-huber]", "diffusion_nft[adaptive]"])
def test_every_step_of_a_derivation_is_proved(label: str) -> None:
    _, form = derivative(label)
    assert form.derivation.prove().holds


@pytest.mark.parametrize("label", ["grpo_guard[mean]", "awm[mean]", "diffusion_nft[adaptive]", "rwr"])
def test_the_catalogue_is_recognised(label: str) -> None:
    _, form = derivative(label)
    found = matches(form.derivation)
    wanted = {label, *(e.label for e in CATALOGUE if label == "grpo_guard[mean]" and e.label.startswith("grpo_guard["))}
    assert label in {m.label for m in found}
    assert {m.label for m in found} <= wanted
    assert all(m.factor == 1 and m.same_target for m in found)


def test_what_a_match_rests_on_is_said() -> None:
    (first, *rest) = derived("-min(ratio*A, clip(ratio, 1-eps, 1+eps)*A)").matches
    assert (first.label, first.step) == ("flow_grpo", ("C1", "C2"))
    assert [(m.label, m.step) for m in rest] == [("flow_grpo[cps]", ("C1", "C2")), ("ddpo", ("C1", "C2"))]
    (only,) = derived("A*norm2(v_theta - v_gt)").matches
    assert (only.label, only.step, only.clip) == ("awm", (), ())


@pytest.mark.parametrize(
    ("text", "label", "factor"),
    [
        ("A*norm2(v_theta - v_gt)/2", "awm", sp.Rational(1, 2)),
        ("-A*mse(v_theta, v_gt)", "awm", -1 / n.D),
        ("min(ratio*A, clip(ratio, 0.9, 1.2)*A)", "flow_grpo", sp.S.NegativeOne),
    ],
)
def test_multiples_are_recognised(text: str, label: str, factor: sp.Expr) -> None:
    form = derive_statement(read(text))
    assert (label, factor) in {(m.label, m.factor) for m in matches(form.derivation)}


@pytest.mark.parametrize(
    "text",
    [
        "A*norm2(v_theta - v_gt) + kl_weight*norm2(v_theta - v_old)",
        "A**2*norm2(v_theta - v_gt)",
        "norm2(v_theta - v_gt)",
        "-min(ratio*A, clip(ratio, 1-eps, 1+eps)*A)/dt",
        "max(ratio*A, clip(ratio, 1-eps, 1+eps)*A)",
    ],
)
def test_what_is_not_in_the_catalogue_is_not_found_there(text: str) -> None:
    assert matches(derive_statement(read(text)).derivation) == ()


def test_numbers_find_a_match_but_a_proof_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    agreeing = Comparison(ratio=0.0, index=(0,), observed=1.0, required=1.0, bound=1.0, judged=1.0, resolution=1.0)
    monkeypatch.setattr("gradcheck.deriving.matching._seen", lambda claim, seed: agreeing)
    assert [m.label for m in matches(derive_statement(read("A*norm2(v_theta - v_gt)")).derivation)] == ["awm"]


# ----------------------------------------------------------------------------------------------- what is derived


def test_a_quadratic_loss_with_a_positive_weight_has_a_fixed_target() -> None:
    d = derived("exp(R/tau)*norm2(v_theta - v_gt) + 0.1*norm2(v_theta - v_ref)")
    pull = sp.exp(n.reward / n.temperature)
    assert is_zero(d.weight - pull - sp.Rational(1, 10))
    assert is_zero(d.target - (pull * n.v_gt + n.v_ref / 10) / (pull + sp.Rational(1, 10)))
    assert d.exact == "value"
    assert d.form.fixed
    assert {r.step.name for r in d.proof.results} >= {"value", "hessian"}
    assert is_zero(d.constant - pull / (10 * pull + 1) * Norm2(n.v_ref - n.v_gt))


def test_a_weight_of_unknown_sign_gives_a_moving_target_and_the_signed_square() -> None:
    d = derived("A*norm2(v_theta - v_gt)")
    assert is_zero(d.target - (n.v_theta + n.advantage * (n.v_gt - n.v_theta)))
    assert (d.exact, d.form.fixed, d.form.squared) == ("gradient", False, False)
    assert d.form.own_weight == n.advantage
    assert d.form.centre == n.v_gt


def test_a_detached_factor_is_held() -> None:
    d = derived("sg(1 + mse(v_theta, v_gt))*norm2(v_theta - v_gt)")
    assert d.holds
    assert d.form.squared
    assert not d.form.fixed or is_zero(d.target - n.v_gt)
    assert d.exact == "hessian", "in value the factor moves with v_theta"


@pytest.mark.parametrize(
    ("text", "trust"),
    [
        ("A*norm2(v_theta - v_gt)", 0),
        ("A*norm2(v_theta - v_gt) + norm2(v_theta - v_old)", 2 * (n.v_theta - n.v_old)),
        ("A*norm2(v_theta - v_gt) + norm2(v_theta - v_ref)", 2 * (n.v_theta - n.v_ref)),
        (
            "r*norm2((1-beta)*v_old + beta*v_theta - v_gt) + (1-r)*norm2((1+beta)*v_old - beta*v_theta - v_gt)",
            2 * n.beta**2 * (n.v_theta - n.v_old),
        ),
    ],
)
def test_the_trust_region_is_told_from_the_optimisation_direction(text: str, trust: sp.Expr) -> None:
    d = derived(text)
    inlined = d.derivation.inline(d.trust_region)
    assert is_zero(inlined - trust)
    assert is_zero(d.derivation.inline(d.optimisation + d.trust_region - d.gradient))
    assert not inlined.has(n.advantage, n.reward_prob), "a trust region does not look at the reward"


def test_the_weight_can_be_chosen() -> None:
    d = gradcheck.derive("A*norm2(v_theta - v_gt)", weight="1/2", problems=2)
    assert d.weight == sp.Rational(1, 2)
    assert is_zero(d.target - (n.v_theta + 2 * n.advantage * (n.v_gt - n.v_theta)))
    assert d.holds
    with pytest.raises(InputError, match="positive whatever"):
        gradcheck.derive("A*norm2(v_theta - v_gt)", weight="A")


def test_a_reverse_step_gives_its_formulas() -> None:
    """The mean written out in x_t, as trainers do, is the affine one once the step's formulas are known."""
    text = (
        "mean_theta = x_t - (v_theta + sigma_t**2/(2*t)*(x_t + (1 - t)*v_theta))*dt; "
        "mean_old = x_t - (v_old + sigma_t**2/(2*t)*(x_t + (1 - t)*v_old))*dt; "
        "-min(ratio*A, clip(ratio, 1 - eps, 1 + eps)*A)"
    )
    d = gradcheck.derive(text, sde="flow", problems=6)
    assert d.holds
    assert "flow_grpo" in {m.label for m in d.matches}


# ---------------------------------------------------------------------------------------- random losses, two routes


@given(losses)
@settings(max_examples=12)
def test_random_losses_are_derived_rightly(text: str) -> None:
    statement = read(text)
    form = derive_statement(statement)
    d = form.derivation
    proof = d.prove()
    assert proof.holds, (text, [r.step.name for r in proof.refused])
    checked = check(statement, form, "float64", 12)
    assert checked.ratio <= THRESHOLD, (text, checked)
    assert not checked.error, text
    assert is_zero(d.inline(sum((x.vector for x in form.terms), sp.S.Zero) - d.gradient))


@pytest.mark.parametrize(
    "text",
    [
        "max(0, ratio - 1.5)*A + abs(ratio - 1)",
        "clip(norm2(v_theta - v_gt), 1, 5)",
        "relu(A)*norm2(v_theta - v_gt) + min(A, 0)*mse(v_theta, v_old)",
        "-min(ratio*A, clip(ratio, 0.8, 1.2)*A) + max(norm2(v_theta - v_ref), 0.1)",
        "-max(min(ratio*A, clip(ratio, 1-eps, 1+eps)*A), 3*A)",
        "tanh(A)*softplus(mse(v_theta, v_gt))",
        "norm2(ratio*v_gt)",
        "-min(ratio*log_prob, clip(ratio, 1-eps, 1+eps)*log_prob)",
        "sg(ratio)*A*log_prob",
        "sigmoid(-30*A*norm2(v_theta - v_gt))",
        "sigmoid(30*A*norm2(v_theta - v_gt))",
        "tanh(20*A*norm2(v_theta - v_gt))",
        "softplus(-A*(norm2(v_old - v_gt) - norm2(v_theta - v_gt)))",
        "logsigmoid(A*dot(v_theta, v_gt))",
        "log(1 + exp(A*dot(v_theta, v_gt)))",
    ],
)
def test_kinks_and_curves(text: str) -> None:
    statement = read(text)
    form = derive_statement(statement)
    assert form.derivation.prove().holds
    for dtype in ("float64", "float32"):  # where samples on a kink, of which there may be several, are left out
        checked = check(statement, form, dtype, 12)
        assert checked.holds, checked
        assert checked.judged > 0.1


# ------------------------------------------------------------------------------------------------ failures are seen


@pytest.mark.parametrize("mistake", [lambda g: 2 * g, lambda g: -g, lambda g: g + n.v_old])
def test_a_wrong_derivation_is_reported_by_both_routes(mistake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = from_text.derive_statement

    def wrong(*args: Any) -> Derivative:
        form = right(*args)
        d = form.derivation
        gradient = mistake(d.gradient)
        return replace(form, derivation=replace(d, gradient=gradient, target=n.v_theta - gradient / (2 * d.weight)))

    monkeypatch.setattr("gradcheck.deriving.api.derive_statement", wrong)
    d = gradcheck.derive("A*norm2(v_theta - v_gt) + norm2(v_theta - v_old)", problems=4)
    assert not d.holds
    assert [r.step.name for r in d.proof.refused] == ["gradient"]
    assert not any(c.holds for c in d.checks)
    assert "NOT PROVED: gradient" in d.text()
    assert "AUTOGRAD DISAGREES" in d.text()
    assert "NOT VERIFIED" in d.text()
    assert "NOT VERIFIED" in d.markdown()
    assert "NOT VERIFIED" in d.torch_source
    assert d.to_json()["holds"] is False
    assert main(["derive", "A*norm2(v_theta - v_gt)", "--problems", "1"]) == 1


def test_a_misread_text_is_seen_by_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the symbolic side took the clip for another one, the proofs would hold of the wrong loss."""
    statement = read("-min(ratio*A, clip(ratio, 1-eps, 1+eps)*A)")
    misread = replace(statement, loss=statement.loss.xreplace({n.clip_low: n.clip_high, n.clip_high: n.clip_low}))
    form = derive_statement(misread)
    assert form.derivation.prove().holds
    assert not check(statement, form, "float64", 24).holds


def test_what_cannot_be_judged_is_not_called_verified() -> None:
    d = gradcheck.derive("log(-1 - norm2(v_theta))*A", problems=2)
    assert not d.holds
    assert "NOT VERIFIED" in d.text()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"expression": 3}, "expression: got a int"),
        ({"wrt": "v_old"}, "wrt: got 'v_old'"),
        ({"sde": "euler"}, "flow, dance, cps"),
        ({"problems": 0}, "problems: got 0"),
        ({"let": ["a"]}, "let: got"),
        ({"time_limit": -1}, "time_limit: got -1"),
        ({"weight": "v_theta"}, "takes a number"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        gradcheck.derive(**{"expression": "norm2(v_theta)", **arguments})


# ------------------------------------------------------------------------------------------------------ time limits


def test_a_derivation_is_stopped_in_time() -> None:
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"longer than 0\.02 s"):
        gradcheck.derive(EXPRESSIONS["diffusion_nft[adaptive-reference]"][0], time_limit=0.02)
    assert time.perf_counter() - start < 10


def test_the_deadline_stops_code_that_swallows_exceptions_in_any_thread() -> None:
    seen: list[object] = []

    def work() -> None:
        try:
            with deadline(0.05):
                end = time.perf_counter() + 5
                while time.perf_counter() < end:
                    try:
                        sum(range(10_000))
                    except Exception:  # as libraries do
                        seen.append("swallowed")
        except DeadlineError:
            seen.append("stopped")
        for _ in range(1000):  # nothing comes afterwards
            time.sleep(0.0001)
        seen.append("undisturbed")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert seen == ["stopped", "undisturbed"]
    work()
    assert seen == ["stopped", "undisturbed"] * 2


def test_the_deadline_does_not_disturb_the_collector() -> None:
    """An exception in a collector's callback or in a destructor would be printed, and lost."""

    def busy() -> None:
        for _ in range(3000):
            pass

    class Slow:
        def __del__(self) -> None:
            busy()

    def callback(phase: str, info: dict[str, int]) -> None:
        busy()

    def work() -> None:
        while True:
            Slow()
            gc.collect(0)
            for _ in range(3):
                busy()

    gc.callbacks.append(callback)
    try:
        for _ in range(8):  # an exception that is lost is an error in this test run
            with pytest.raises(DeadlineError), deadline(0.01):
                work()
    finally:
        gc.callbacks.remove(callback)


def test_a_deadline_that_is_kept_changes_nothing() -> None:
    with deadline(0.2):
        pass
    time.sleep(0.3)
    with pytest.raises(KeyError), deadline(1):
        raise KeyError


def test_a_profiler_may_look_on_after_a_deadline() -> None:
    """Python 3.11 never comes back from the first function called under one if the thread's flag was left up."""
    code = """
        import sys, threading, time
        from gradcheck.clock import DeadlineError, deadline
        def function(): return 1
        def work(late):
            try:
                with deadline(0.01 if late else 60):
                    while late:
                        pass
            except DeadlineError:
                pass
        for look in (sys.setprofile, sys.settrace):
            for late in (False, True):
                work(late)
                look(lambda *seen: None)
                function()
                look(None)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)


@pytest.mark.parametrize(
    "mode",
    [torch.no_grad, torch.inference_mode, lambda: torch.device("meta"), lambda: torch.autocast("cpu", torch.bfloat16)],
)
def test_the_callers_modes_of_torch_are_not_those_of_a_check(mode: Callable[[], Any]) -> None:
    """A notebook's cell under no_grad, or a trainer's default device, makes no formula wrong."""
    with mode():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_device()
        assert gradcheck.derive("A*norm2(v_theta - v_gt)", problems=2).holds
        report = gradcheck.verify("awm[paper]", device="cpu", max_examples=1, with_networks=False)
        assert report.results[0].holds
        assert before == (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_device())


# ---------------------------------------------------------------------------------------------------------- outputs


@pytest.mark.parametrize("label", ["flow_grpo[mean]", "awm[clipped-huber]", "diffusion_nft[adaptive]", "rwr"])
def test_the_torch_source_has_the_losss_gradient(label: str) -> None:
    statement, form = derivative(label)
    d = Derived(statement, form, form.derivation.prove(), (), ())
    namespace: dict[str, Any] = {}
    exec(compile(d.torch_source, "<derived>", "exec"), namespace)
    text = _Text(statement, form.derivation)
    case = text.case(Spec(3, (2, 5), 0, policy="off", time="middle"), torch.float64)
    wanted = gradient_of(text.loss(case), case.v_theta)
    names = namespace["loss"].__code__.co_varnames[: namespace["loss"].__code__.co_argcount]
    value = namespace["loss"](**{name: case.broadcast()[name] for name in names})
    assert value.shape == (3,)
    observed = gradient_of(value, case.v_theta)
    assert torch.allclose(observed, wanted, rtol=1e-9, atol=1e-12 * float(wanted.abs().max()))
    assert float(wanted.abs().max()) > 0


def test_json_holds_everything() -> None:
    data = json.loads(json.dumps(derived("A*norm2(v_theta - v_gt)").to_json()))
    assert data["schema"] == {"name": "gradcheck-derive", "version": 1}
    assert data["holds"] is True
    assert data["gradient"]["text"] == "2A(v_θ − v_gt)"
    assert data["given"] == ["v_theta", "x_0", "noise", "advantage"]
    assert data["catalogue"][0]["label"] == "awm"
    assert all(step["proved"] for step in data["proof"])
    compile(data["torch"], "<json>", "exec")


def test_several_masks_have_names_of_their_own() -> None:
    text = derived("max(0, ratio - 1.5) + abs(ratio - 1)").text()
    assert "m_1 = 0 where" in text
    assert "m_2 = 0 where" in text
    assert "m_1" in derived("max(0, ratio - 1.5) + abs(ratio - 1)").latex()


def test_notebooks_get_markdown_and_latex() -> None:
    d = derived("A*norm2(v_theta - v_gt)")
    assert d._repr_latex_().startswith("$$\n\\begin{aligned}")
    assert d._repr_markdown_().count("$$") % 2 == 0
    assert "Steps, each machine-checked" in d._repr_markdown_()
    assert repr(d) == d.text()


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ppo = "-min(ratio*A,clip(ratio,1-eps,1+eps)*A)"  # without a space, it looks like an option
    assert main(["derive", ppo, "--problems", "2"]) == 0
    assert "∇L = A m r k (ε + k(v_θ − v_old))" in capsys.readouterr().out
    assert main(["derive", "w*norm2(v_theta)", "--let", "w = 3", "--json", "--problems", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["gradient"]["text"] == "6v_θ"
    assert main(["derive", "A*norm2(v_thet - v_gt)"]) == 2
    assert capsys.readouterr().err == (
        "gradcheck derive: unknown name 'v_thet' — did you mean v_theta?\n  A*norm2(v_thet - v_gt)\n          ^^^^^^\n"
    )
    assert main(["derive", "norm2(v_theta)", "--let", "w"]) == 2
    assert "NAME=EXPR" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", __import__("io").StringIO("c = 2\nc*norm2(v_theta - v_gt)\n"))
    assert main(["derive", "-", "--torch", "--problems", "2"]) == 0
    assert "def target(v_theta, x_0, noise):" in capsys.readouterr().out


def test_specs_reach_every_regime() -> None:
    from gradcheck.problems.regimes import ADVANTAGE, POLICY, TIME

    specs = list(_specs(24, 0, POLICY))
    assert {s.policy for s in specs} >= {*POLICY, "mixed"}
    assert {s.advantage for s in specs} >= {*ADVANTAGE, "mixed"}
    assert {s.time for s in specs} >= {*TIME, "mixed"}
    assert len({s.latent for s in specs}) >= 5


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("norm2(v_theta - sg(2*v_theta - v_old))", 2 * n.v_theta - n.v_old),
        ("mse(2*v_theta - v_old, v_ref)", (n.v_old + n.v_ref) / 2),
        ("norm2(v_theta - sg(v_theta + 3*(v_old - v_theta)))", 3 * n.v_old - 2 * n.v_theta),
    ],
)
def test_like_terms_of_a_target_stand_together(source: str, target: sp.Expr) -> None:
    assert gradcheck.derive(source, problems=2).target == sp.expand(target)
