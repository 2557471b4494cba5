"""Laws of the plots: what a curve shows is what the derivation, the hand-written loss or the exact law says."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from derivations.notation import log_ratio
from derivations.steps.sde import SDES, ReverseStep
from gradcheck.catalogue import entry
from gradcheck.derived.compiled import evaluate
from gradcheck.losses._common import sde_step
from gradcheck.plots import approximation, clipping, directions, method, precision, reverse_steps, signal
from gradcheck.problems.building import complete
from gradcheck.reports import style
from gradcheck.rounding.bounds import THRESHOLD
from gradcheck.rounding.compare import gradient_of

FIGURES: dict[str, Callable[[], Figure]] = {
    "L1": method.equal_gradients_picture,
    "L3": method.mixture_picture,
    "L4": method.clip_picture,
    "coefficients": reverse_steps.coefficients_picture,
    "approximation": approximation.approximation_picture,
    "clipping": clipping.clipping_picture,
    **{name: lambda name=name: directions.draw(name) for name in directions.METHODS},
}


@pytest.fixture(scope="module", params=[*FIGURES, "marginals", "signal", "precision"])
def figure(request: pytest.FixtureRequest, fast: None) -> Figure:
    slow = {
        "marginals": reverse_steps.marginals_picture,
        "signal": signal.signal_picture,
        "precision": precision.precision_picture,
    }
    return {**FIGURES, **slow}[request.param]()


@pytest.fixture(scope="module")
def fast() -> object:
    """The slow pictures with less behind them; their figures' data have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reverse_steps, "_GRIDS", (6, 12))
        patch.setattr(signal, "_TIMES", (0.5,))
        patch.setattr(precision, "DIMENSIONS", (16, 64))
        patch.setattr(precision, "LATENT", 64)
        yield


def test_every_axis_says_what_it_is(figure: Figure) -> None:
    for axes in figure.axes:
        spec = axes.get_subplotspec()
        assert spec is not None
        shared = len(axes.get_shared_x_axes().get_siblings(axes)) > 1
        assert axes.get_xlabel() or (shared and not spec.is_last_row())
        first = figure.axes[spec.rowspan.start * spec.get_gridspec().ncols]
        assert axes.get_ylabel() or first.get_ylabel()


def test_every_picture_is_named_in_words_and_legible(figure: Figure) -> None:
    assert len(figure.get_label()) > 60
    scale = style.PAGE_WIDTH / figure.get_figwidth() / 72  # pixels a point, on the page
    texts = [t for axes in figure.axes for t in (*axes.get_xticklabels(), *axes.get_yticklabels(), *axes.texts)]
    texts += [label for axes in figure.axes for label in (axes.xaxis.label, axes.yaxis.label)]
    assert min(t.get_fontsize() * scale for t in texts if t.get_text()) >= 11.5


def test_a_picture_is_small_and_the_same_twice(figure: Figure) -> None:
    first = style.png(figure)
    assert first == style.png(figure)
    assert len(first) < 150_000


def test_what_colour_says_a_dash_or_a_mark_says_too() -> None:
    pairs = list(zip(style.CYCLE, map(str, style.DASHES), strict=True))
    assert len({colour for colour, _ in pairs}) == len(pairs)
    assert len({dash for _, dash in pairs[:-1]}) == len(pairs) - 1


# ---------------------------------------------------------------------------------------------- the lemmas


def test_both_losses_of_l1_have_one_arrow_and_it_ends_at_the_target() -> None:
    left, right = method.equal_gradients_picture().axes
    ends = []
    for axes in (left, right):
        (arrow,) = (p for p in axes.patches if isinstance(p, FancyArrowPatch))
        ends.append(np.array(arrow._posA_posB))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(*ends)
    target = next(np.ravel(line.get_data()) for line in right.lines if line.get_markerfacecolor() == "#FFFFFF")
    np.testing.assert_allclose(ends[1][1], target, rtol=1e-12)


@pytest.mark.parametrize(("w_1", "w_2"), [(0.7, 0.3), (1.4, -0.4), (-0.4, 1.4)])
def test_a_mixture_is_one_parabola_and_a_constant(w_1: float, w_2: float) -> None:
    shown = method.merged(w_1, w_2, 1.0, -1.0)
    torch.testing.assert_close(shown.parts[0], w_1 * (shown.v - 1) ** 2)
    torch.testing.assert_close(shown.parts[1], w_2 * (shown.v + 1) ** 2)
    torch.testing.assert_close(shown.mixture, shown.merged + shown.constant, rtol=1e-12, atol=1e-12)
    centre = w_1 - w_2
    assert abs(float(shown.v[shown.merged.argmin()]) - centre) <= 0.0125 + 1e-9


# ----------------------------------------------------------------------------------------- the reverse steps


@pytest.mark.parametrize("step", SDES, ids=lambda s: s.name)
def test_coefficients_are_the_hand_written_step_s(step: ReverseStep) -> None:
    t = torch.tensor([0.3, 0.6, 0.95], dtype=torch.float64)
    dt = torch.full_like(t, 0.07)
    c = reverse_steps.coefficients(step, t, dt)
    x, v = torch.tensor([[1.0], [-2.0], [0.5]]).double(), torch.tensor([[0.3], [1.0], [-1.0]]).double()
    settings = reverse_steps.SETTINGS
    mean, std = sde_step(step.name, v, x, t, dt, settings["noise_level"], settings["sigma_min"])
    torch.testing.assert_close(c.keep[:, None] * x - c.C1[:, None] * v, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(c.C2[:, None], std, rtol=1e-12, atol=0)


@pytest.mark.parametrize("time", [0.15, 0.5, 0.9])
def test_the_mixture_s_velocity_moves_its_density(time: float) -> None:
    """The continuity equation, ∂p/∂t + ∂(v p)/∂x = 0, by central differences."""
    mixture, h = reverse_steps.MIXTURE, 1e-4
    x = torch.linspace(-3, 3, 61, dtype=torch.float64)

    def at(t: float, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        now = torch.tensor(t, dtype=torch.float64)
        return mixture.density(x, now), mixture.velocity(x, now)

    in_time = (at(time + h, x)[0] - at(time - h, x)[0]) / (2 * h)
    (p_right, v_right), (p_left, v_left) = at(time, x + h), at(time, x - h)
    flux = (v_right * p_right - v_left * p_left) / (2 * h)
    torch.testing.assert_close(in_time, -flux, rtol=0, atol=2e-5)
    assert flux.abs().max() > 0.05
    now = torch.tensor(time, dtype=torch.float64)
    slope = (mixture.cdf(x + h, now) - mixture.cdf(x - h, now)) / (2 * h)
    torch.testing.assert_close(slope, mixture.density(x, now), rtol=0, atol=1e-6)


def test_exact_samples_are_within_chance_and_others_are_not() -> None:
    end = torch.tensor(reverse_steps._END, dtype=torch.float64)
    exact = reverse_steps.MIXTURE.draw(reverse_steps.PARTICLES, end, torch.Generator().manual_seed(1))
    assert reverse_steps.cdf_distance(exact) < reverse_steps.tolerance()
    assert reverse_steps.cdf_distance(exact + 0.1) > reverse_steps.tolerance()


@pytest.mark.parametrize("step", [None, *SDES], ids=lambda s: "ode" if s is None else s.name)
def test_samplers_keep_the_densities_that_are_proved_to_be_kept(step: ReverseStep | None) -> None:
    distance = reverse_steps.cdf_distance(reverse_steps.sample(step, 192))
    kept = step is None or reverse_steps.keeps_marginals(step)
    assert (distance < reverse_steps.tolerance()) == kept


def test_noise_without_its_correction_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = next(s for s in SDES if s.name == "flow")
    right = reverse_steps.coefficients

    def without_push(step: object, t: torch.Tensor, dt: torch.Tensor) -> reverse_steps.Coefficients:
        return reverse_steps.Coefficients(torch.ones_like(t), dt, right(flow, t, dt).C2)

    monkeypatch.setattr(reverse_steps, "coefficients", without_push)
    assert reverse_steps.cdf_distance(reverse_steps.sample(flow, 192)) > 2 * reverse_steps.tolerance()


# ------------------------------------------------------------------------------- approximation, clip, signal


@pytest.mark.parametrize("variant", ["paper", "mean"])
def test_the_approximation_s_error_is_that_of_the_hand_written_gradients(variant: str) -> None:
    """Quoted: autograd on-policy. Exact: autograd where v_theta is, without a clip."""
    e, d, n = entry("flow_grpo", variant), 12, 5
    generator = torch.Generator().manual_seed(3)
    noise, away = (torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(2))
    direction = away / away.norm(dim=1, keepdim=True)
    distance = torch.logspace(-2, 0.3, n, dtype=torch.float64)
    shown = approximation.errors(variant, distance, noise, direction)
    t, dt = torch.full((n,), 0.6, dtype=torch.float64), torch.full((n,), 0.1, dtype=torch.float64)
    zero = torch.zeros(n, d, dtype=torch.float64)
    at_zero, std = sde_step("flow", zero, zero, t, dt, 0.7)
    at_one, _ = sde_step("flow", zero + 1, zero, t, dt, 0.7)
    slope = (at_zero - at_one)[:, :1] / std
    given = {
        "v_old": zero, "x_t": zero, "noise": noise, "t": t, "dt": dt, "advantage": torch.ones_like(t),
        "noise_level": 0.7, "clip_low": 1 - 1e-9, "clip_high": 1e9, "D": float(d),
    }  # fmt: skip
    gradients = []
    for v in (zero, distance[:, None] / slope * direction):
        case = complete(e.derivation, {q: ({**given, "v_theta": v})[q] for q in e.derivation.given})
        gradients.append(gradient_of(e.loss(case), case.v_theta))
    quoted, exact = gradients
    error = (quoted - exact).norm(dim=1) / exact.norm(dim=1)
    torch.testing.assert_close(shown.error, error, rtol=1e-9, atol=1e-12)


def test_clip_cuts_one_side_and_nothing_else() -> None:
    for advantage in (1.0, -1.0):
        clipped, free = (clipping.over_ratio(advantage, clipped=c) for c in (True, False))
        cut = clipped.x > 1 + clipping.CLIP if advantage > 0 else clipped.x < 1 - clipping.CLIP
        assert 0 < int(cut.sum()) < len(cut)
        assert (clipped.pull[cut] == 0).all()
        torch.testing.assert_close(clipped.pull[~cut], free.pull[~cut], rtol=1e-12, atol=0)
        assert (free.pull > 0).all()


@pytest.mark.parametrize("beta", [0.5, 1.0])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_a_trust_region_turns_round_at_its_target(beta: float, advantage: float) -> None:
    shown = clipping.along_line("diffusion_nft", "paper", advantage, beta=beta)
    torch.testing.assert_close(shown.pull, 2 * beta**2 * (advantage / beta - shown.x), rtol=1e-12, atol=1e-12)


def test_awm_pushes_a_bad_sample_without_end() -> None:
    good, bad = (clipping.along_line("awm", "paper", a) for a in (1.0, -1.0))
    torch.testing.assert_close(good.pull, -bad.pull)
    assert float(good.x[good.pull.abs().argmin()]) == pytest.approx(1.0, abs=0.01)
    assert (bad.pull.diff() > 0).all()
    clipped = clipping.along_line("awm", "clipped", -1.0)
    assert (clipped.pull[clipped.x < -0.2] == 0).all()


@pytest.mark.parametrize("name", ["flow_grpo", "grpo_guard", "awm", "diffusion_nft", "rwr"])
@pytest.mark.parametrize("t", [0.3, 0.7])
def test_signal_to_noise_is_what_samples_show(name: str, t: float) -> None:
    found, error = signal.measured(name, t)
    backward = name in ("flow_grpo", "grpo_guard")
    law = signal.backward_reward(t, 10) if backward else signal.forward_reward(t)
    exact = signal.signal_to_noise(law, exponential=name == "rwr")
    assert error < 0.1 * exact
    assert abs(found - exact) < 4 * error


def test_a_backward_path_ends_in_the_data() -> None:
    """Mean and variance of what follows from x_t add up to the data's, on a fine grid."""
    for t in (0.3, 0.7):
        law = signal.backward_reward(t, 1000)
        assert law.a**2 + law.b**2 + law.q**2 == pytest.approx(1, abs=0.01)
    law = signal.forward_reward(0.4)
    assert law.a**2 + law.b**2 == pytest.approx(1, abs=1e-12)


# ------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("d", [16, 1024, 16_384])
def test_measured_errors_keep_to_their_bounds(reduction: str, dtype: torch.dtype, d: int) -> None:
    lost = precision.gradient_loss(reduction, d, dtype)
    assert 0 < lost.measured <= THRESHOLD * lost.bound
    for stage in precision.stage_losses(reduction, dtype, d).values():
        assert stage.measured <= THRESHOLD * stage.bound


def test_a_sum_s_bound_grows_and_a_mean_s_does_not() -> None:
    sums, means = ([precision.gradient_loss(r, d, torch.float32).bound for d in (256, 65_536)] for r in ("sum", "mean"))
    assert sums[1] > 100 * sums[0]
    assert means[1] < 2 * means[0]


def test_bfloat16_loses_the_ratio_and_a_rounded_state_loses_the_gradient() -> None:
    for reduction in ("sum", "mean"):
        case = precision.problem(reduction, precision.LATENT, torch.bfloat16)
        derivation = entry("flow_grpo", precision._VARIANTS[reduction]).derivation
        (log_r,) = evaluate(derivation, case, log_ratio, dtype=torch.bfloat16)
        (exact,) = evaluate(derivation, case, log_ratio, dtype=torch.float64)
        # whether the two sums round to one number or to neighbours is the kernel's to say; nothing is left either way
        assert ((log_r.to(torch.float64) - exact).abs() >= exact.abs()).all()
    in_float32 = precision.gradient_loss("mean", 1024, torch.float32).measured
    assert precision.rounded_state_loss("mean", 1024) > 1e3 * in_float32


@pytest.mark.parametrize("value", [-7200.0, -0.11, 1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_last_digit_is_the_way_to_the_next_number(value: float, dtype: torch.dtype) -> None:
    x = torch.tensor(abs(value), dtype=dtype)
    step = torch.nextafter(x, torch.tensor(math.inf, dtype=dtype)) - x
    assert precision.last_digit(value, dtype) == float(step)
