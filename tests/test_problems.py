"""Random problems are what their regimes say: a test that never sees a clip bite proves nothing about clips."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from derivations.pieces import Piece
from gradcheck.case import Case
from gradcheck.catalogue import CATALOGUE, Entry, entry
from gradcheck.problems.building import Spec, build
from gradcheck.problems.regimes import ADVANTAGE, CLIP_RANGES, DIVERGENCES, POLICY, TIME
from gradcheck.problems.strategies import shapes, specs

ENTRIES = pytest.mark.parametrize("entry", CATALOGUE, ids=lambda e: e.label)
CLIPPED = pytest.mark.parametrize(
    "entry", [e for e in CATALOGUE if "clip_low" in e.derivation.given], ids=lambda e: e.label
)
BOUNDED = pytest.mark.parametrize(
    "entry", [e for e in CATALOGUE if "divergence_max" in e.derivation.given], ids=lambda e: e.label
)
BIG = {"batch": 64, "latent": (3, 5)}


@ENTRIES
def test_on_policy_means_the_same_velocity(entry: Entry) -> None:
    if "v_old" not in entry.derivation.given:
        pytest.skip("this loss has no behaviour model")
    for dtype in (torch.float64, torch.float32):
        case = build(entry.derivation, Spec(5, (3,), 0, policy="on-policy"), dtype)
        assert torch.equal(case.v_theta, case.v_old)
        if Piece.RATIO in entry.derivation.pieces:
            assert torch.equal(case.ratio, torch.ones(5, dtype=dtype))


@CLIPPED
@pytest.mark.parametrize("clip", range(len(CLIP_RANGES)))
def test_clip_regimes_lie_where_they_say(entry: Entry, clip: int) -> None:
    low, high = CLIP_RANGES[clip]

    def ratios(policy: str) -> torch.Tensor:
        case = build(entry.derivation, Spec(**BIG, seed=3, policy=policy, clip=clip, noise="typical", time="middle"))
        return case.ratio

    inside, outside, far = (ratios(p) for p in ("inside", "outside", "far"))
    assert ((inside > 1 - low) & (inside < 1 + high)).double().mean() > 0.95
    # The ratio of a short step has a peak, so not every sample reaches beyond the clip; most do, on both sides.
    assert (outside < 1 - low).sum() >= 10
    assert (outside > 1 + high).sum() >= 5
    assert ((outside - 1).abs() < 2 * max(low, high)).all()
    assert (far < 0.1).sum() >= 10
    assert far.max() > 1 + high


@BOUNDED
@pytest.mark.parametrize("clip", range(len(DIVERGENCES)))
def test_divergence_regimes_lie_where_they_say(entry: Entry, clip: int) -> None:
    edge = DIVERGENCES[clip]

    def case(policy: str) -> Case:
        return build(entry.derivation, Spec(**BIG, seed=3, policy=policy, clip=clip, noise="typical", time="middle"))

    inside, outside, far = (case(p) for p in ("inside", "outside", "far"))
    assert ((inside.divergence > 0.5 * edge) & (inside.divergence < edge)).all()
    assert ((outside.divergence > edge) & (outside.divergence < 1.5 * edge)).all()
    assert (far.divergence > 0.9).all()
    for chosen in (inside, outside):  # on both sides of 1, and both close to the edge and off it
        assert (chosen.ratio > 1).sum() >= 10
        assert (chosen.ratio < 1).sum() >= 10
        gap = (chosen.divergence / edge - 1).abs()
        assert gap.min() < 1e-3
        assert gap.max() > 1e-1


def test_ratios_stay_within_a_trainers_reach_however_many_coordinates() -> None:
    """A step along the noise has a log-ratio of √D: a float32 exponential would overflow."""
    for one in (e for e in CATALOGUE if e.algorithm.name == "flow_dppo"):
        for policy in ("outside", "far"):
            case = build(one.derivation, Spec(16, (2**14,), 0, policy=policy))
            assert float(case.log_ratio.abs().max()) < 10
            assert float(case.log_ratio.max()) > 0 > float(case.log_ratio.min())


@CLIPPED
def test_ratios_come_as_close_to_the_clip_as_wanted(entry: Entry) -> None:
    case = build(entry.derivation, Spec(**BIG, seed=4, policy="inside", clip=0, noise="typical", time="middle"))
    gap = torch.minimum((case.ratio - 0.8).abs(), (case.ratio - 1.2).abs())
    assert gap.min() < 1e-3
    assert gap.max() > 1e-2


@ENTRIES
def test_a_mixed_batch_mixes(entry: Entry) -> None:
    case = build(entry.derivation, Spec(**BIG, seed=5))
    if "t" in entry.derivation.given:
        assert case.t.min() < 0.01
        assert case.t.max() > 0.99
        assert len(case.t.unique()) == 64
        assert ((case.t > 0) & (case.t < 1)).all()
    if "alpha_bar" in entry.derivation.given:
        assert case.alpha_bar.min() < 0.01
        assert case.alpha_bar.max() > 0.99
        assert ((case.alpha_bar > 0) & (case.alpha_bar < case.alpha_bar_prev) & (case.alpha_bar_prev < 1)).all()
    if "window" in entry.derivation.given:
        assert set(case.window.tolist()) == {0.0, 1.0}
    if "dt" in entry.derivation.given:
        assert ((case.dt > 0) & (case.dt < case.t)).all()
    if "advantage" in entry.derivation.given:
        assert (case.advantage == 0).any()
        assert (case.advantage > 0).any()
        assert (case.advantage < 0).any()
    if "reward_prob" in entry.derivation.given:
        assert {0.0, 0.5, 1.0} <= set(case.reward_prob.tolist())


@ENTRIES
@given(data=st.data())
def test_everything_is_finite_and_in_its_domain(entry: Entry, data: st.DataObject) -> None:
    case = build(entry.derivation, data.draw(specs(entry.derivation)))
    for name in case.names:
        value = getattr(case, name)
        assert torch.as_tensor(value).isfinite().all(), name
    for name in ("C1", "C2", "sigma_t", "w_plus", "w_minus"):
        if name in case.names:
            assert (getattr(case, name) > 0).all(), name


@ENTRIES
def test_one_spec_is_one_problem(entry: Entry, device: str) -> None:
    """In every precision and on every device, up to rounding."""
    spec = Spec(5, (2, 3), seed=11, time="middle", policy="off")
    reference = build(entry.derivation, spec)
    again = build(entry.derivation, spec, device=device)
    single = build(entry.derivation, spec, torch.float32, device)
    for name in entry.derivation.given:
        value = getattr(reference, name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(getattr(again, name).cpu(), value)
            assert torch.equal(getattr(single, name).cpu(), value.float())
        else:
            assert getattr(single, name) == value


@given(shapes())
def test_shapes_have_distinct_axes(shape: tuple[int, tuple[int, ...]]) -> None:
    batch, latent = shape
    assert 1 <= len(latent) <= 4
    if set(latent) != {1}:
        assert len({batch, *latent}) == 1 + len(latent)


def test_every_regime_is_drawn() -> None:
    seen: set[str] = set()

    @settings(max_examples=1000)
    @given(specs(entry("flow_grpo").derivation))
    def collect(spec: Spec) -> None:
        seen.update((spec.policy, spec.advantage, spec.time, spec.noise))
        if spec.batch == 1:
            seen.add("one sample")
        if set(spec.latent) == {1}:
            seen.add("one coordinate")

    collect()
    assert {*POLICY, *ADVANTAGE, *TIME, "tiny", "mixed", "one sample", "one coordinate"} <= seen


def test_the_grid_of_code_that_casts_is_made_of_its_own_numbers() -> None:
    """Else float32(t) − float32(t_prev) is another step than the case's, or none at all, right as the code may be."""
    derivation = entry("flow_grpo").derivation
    for seed in range(50):
        spec = Spec(5, (3,), seed, time="near-noise")
        case = build(derivation, spec, torch.float64, on_grid=True, grid_dtype=torch.float32)
        t, t_prev = case.t, case.sigmas[case.step_index + 1]
        assert case.sigmas.dtype == torch.float64
        assert torch.equal(t.float().double(), t)
        assert torch.equal(t_prev.float().double(), t_prev)
        assert torch.equal(case.dt, t - t_prev)
        assert bool((t.float() - t_prev.float() > 0).all())
