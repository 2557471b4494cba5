"""The comparison in chunks says what the dense one says, sees what it sees, and keeps nothing of the latents' size."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import gradcheck
from benchmarks.speed import peak
from derivations.notation import D
from gradcheck.catalogue import CATALOGUE, Entry, entry
from gradcheck.conventions import declare
from gradcheck.derived.compiled import evaluate
from gradcheck.oracle.obligations import OBLIGATIONS
from gradcheck.oracle.runner import judge
from gradcheck.oracle.subject import Settings, Subject
from gradcheck.problems.building import Spec, build
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff
from gradcheck.rounding.chunks import _inner
from gradcheck.rounding.compare import branch, compare_branches, gradient_of, required_gradients, with_ties
from gradcheck.rounding.error_scale import error_scale
from gradcheck.rounding.streaming import compare_gradient, sample_ratios

LABELS = pytest.mark.parametrize("one", CATALOGUE, ids=lambda e: e.label)
PRECISIONS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SHAPES = ((3, 4), (7, 5), (2, 3, 4), (1,))


def dense(one: Entry, case: gradcheck.Case, observed: Tensor):
    """The comparison by the bound of :mod:`gradcheck.rounding.bounds`, with every tensor in memory."""
    branches = []
    for other in (False, True):
        gradient, scale, _, _, undecided = required_gradients(one.derivation, case, other)
        branches.append((gradient, scale))
        if not bool(undecided.any()):
            break
    tied = with_ties(branches) if len(branches) == 2 else branches
    return compare_branches(observed, tied, undecided, case.v_theta.dtype)


@LABELS
@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
def test_the_original_loss_passes_in_every_precision(one: Entry, dtype: torch.dtype) -> None:
    for seed, latent in enumerate(SHAPES):
        case = build(one.derivation, Spec(8, latent, seed), dtype)
        result = compare_gradient(one.derivation, case, gradient_of(one.loss(case), case.v_theta))
        assert result.holds, result


def test_what_comes_before_a_product_may_leave_float16s_range() -> None:
    """2·exp(R/τ)·(v_θ − v_gt), before it is divided by D, is too large where the gradient itself is not."""
    one = entry("rwr", "mean")
    case = build(one.derivation, Spec(64, (5, 7), 0, policy="off"), torch.float16, fixed={"temperature": 0.32})
    case = case.replace(reward=torch.linspace(2.9, 3.0, 64).half())
    with torch.no_grad():
        (early,) = evaluate(one.derivation, case, one.derivation.gradient * one.derivation.inline(D))
        divided = early / case.D
    assert not divided.isfinite().all(), "nothing to be seen here"
    assert compare_gradient(one.derivation, case, divided).holds
    assert compare_gradient(one.derivation, case, divided).judged > 0.3
    assert not compare_gradient(one.derivation, case, 1.25 * divided).holds
    with torch.no_grad():
        (scale,), _ = error_scale(one.derivation, case, one.derivation.raw_gradient)
    assert bool(scale[~divided.isfinite()].isinf().all()), "the dense bound says so too"


def test_a_softplus_does_not_overflow() -> None:
    """Generated code has the gradient, and the value, where eᶻ is out of float32's range."""
    one = entry("dgpo")
    case = build(one.derivation, Spec(32, (16,), 0, policy="off", advantage="extreme"), torch.float32)
    case = case.replace(group_gap=torch.linspace(-400, 400, 32) / case.beta_dpo)
    (loss,) = evaluate(one.derivation, case, one.derivation.loss)
    assert loss.isfinite().all()
    assert float(loss.detach().max()) > 100
    assert compare_gradient(one.derivation, case, gradient_of(loss, case.v_theta)).holds


@LABELS
def test_the_bound_is_the_dense_one_or_a_little_wider(one: Entry) -> None:
    """Judged on a gradient that is a hundredth too long, whose ratio tells the bound where the gradient is large."""
    for seed, latent in enumerate(SHAPES):
        case = build(one.derivation, Spec(4, latent, seed, policy="off", time="middle"), torch.float32)
        observed = gradient_of(one.loss(case), case.v_theta)
        observed = observed * 1.01
        streamed = compare_gradient(one.derivation, case, observed).ratio
        full = dense(one, case, observed).ratio
        assert full / 5 <= streamed <= full * 1.001


@LABELS
def test_every_sample_has_its_own_ratio(one: Entry) -> None:
    """The worst of them is the comparison's, and a sample's does not depend on its company."""
    case = build(one.derivation, Spec(6, (7, 5), 3), torch.float32)
    observed = gradient_of(one.loss(case), case.v_theta) * (1 + 1e-4)
    ratios, judged = sample_ratios(one.derivation, case, observed, chunk=50)
    worst = compare_gradient(one.derivation, case, observed)
    assert ratios.shape == judged.shape == (6,)
    assert float(judged.mean()) == pytest.approx(worst.judged)
    assert float(ratios.max()) == pytest.approx(worst.ratio, rel=1e-9)
    assert int(ratios.argmax()) == worst.index[0]
    observed[worst.index[0]] = math.nan
    others = torch.arange(6) != worst.index[0]
    again, _ = sample_ratios(one.derivation, case, observed)
    assert torch.allclose(again[others], ratios[others], rtol=1e-9)


@LABELS
def test_the_chunks_do_not_matter(one: Entry) -> None:
    case = build(one.derivation, Spec(5, (7, 5), 3), torch.float32)
    observed = gradient_of(one.loss(case), case.v_theta) * (1 + 1e-3)
    results = [compare_gradient(one.derivation, case, observed, chunk=c) for c in (1, 13, 35, 70, 10**6)]
    for result in results[1:]:
        assert result.index == results[0].index
        assert result.ratio == pytest.approx(results[0].ratio, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("place", [0, 4_999, 5_000, 12_344])
def test_one_wrong_component_is_found(dtype: torch.dtype, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Off by twice what passes, by the bound of latents in chunks."""
    monkeypatch.setattr("gradcheck.rounding.error_scale.LARGE", 0)
    one = entry("flow_grpo", "mean")
    case = build(one.derivation, Spec(2, (12_345,), 1, policy="off", time="middle"), dtype)
    observed = gradient_of(one.loss(case), case.v_theta)
    raw, *_ = branch(one.derivation, False)
    (scale,), _ = error_scale(one.derivation, case, raw)
    observed[1, place] += 2 * THRESHOLD * unit_roundoff(dtype) * scale[1, place]
    result = compare_gradient(one.derivation, case, observed, chunk=5_000)
    assert not result.holds
    assert result.index == (1, place)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    one = entry("awm")
    case = build(one.derivation, Spec(2, (30,), 1), torch.float32)
    observed = gradient_of(one.loss(case), case.v_theta)
    observed[1, 17] = bad
    result = compare_gradient(one.derivation, case, observed, chunk=8)
    assert result.ratio == math.inf
    assert result.index == (1, 17)


@pytest.mark.parametrize("part", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_at_the_clips_edge_autograd_may_take_part_of_a_branch(part: float) -> None:
    """Where rounding ties the terms of a minimum, autograd halves; nested minima halve twice."""
    one = entry("awm", "clipped")
    for seed in range(100):
        case = build(one.derivation, Spec(16, (3, 4), seed, "inside", time="middle", clip=2), torch.float32)
        open_branch, clipped, *_ = (required_gradients(one.derivation, case, other)[0] for other in (False, True))
        undecided = required_gradients(one.derivation, case, False)[4].reshape(-1)
        at = undecided & (open_branch - clipped).flatten(1).any(1)
        if bool(at.any()):
            break
    observed = torch.where(at[:, None, None], part * open_branch + (1 - part) * clipped, open_branch).float()
    assert compare_gradient(one.derivation, case, observed).holds
    decided = int((~undecided & (open_branch != 0).flatten(1).any(1)).nonzero()[0])
    observed[decided] *= 0.75
    result = compare_gradient(one.derivation, case, observed)
    assert not result.holds
    assert result.index[0] == decided


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "sign": torch.neg,
    "twice": lambda g: 2 * g,
    "half": lambda g: g / 2,
    "nothing": torch.zeros_like,
}


@pytest.mark.parametrize("mistake", WRONG)
@pytest.mark.parametrize("name", ["awm", "diffusion_nft", "rwr"])
def test_bfloat16_sees_a_factor(name: str, mistake: str) -> None:
    """Its bound is wide, and no factor passes it."""
    one = entry(name, "mean")
    case = build(one.derivation, Spec(4, (16, 8), 0, policy="off", time="middle"), torch.bfloat16)
    observed = WRONG[mistake](gradient_of(one.loss(case), case.v_theta))
    assert not compare_gradient(one.derivation, case, observed).holds


@pytest.mark.parametrize("pairs", [((0, 0), (1, 1), (2, 2)), ((0, 2), (1, 1)), ((2, 0),)], ids=str)
def test_sums_of_pairs_are_their_inner_products(pairs: tuple[tuple[int, int], ...]) -> None:
    """Of a vector with itself, and of two."""
    g = torch.Generator().manual_seed(0)
    value, error = (torch.randn(2, 3, 50, generator=g, dtype=torch.float64) for _ in range(2))
    error.abs_()
    products, magnitudes, errors = _inner(pairs, value.clone(), error.clone(), 0.25)
    for k, (i, j) in enumerate(pairs):
        a, b, e_a, e_b = value[:, i], value[:, j], error[:, i], error[:, j]
        size = (a.abs() * b.abs()).sum(1)
        rounding = 100 * 2**-53 * size  # of 50 products and sums, in whatever order
        assert bool(((products[:, k] - (a * b).sum(1)).abs() <= rounding).all())
        assert bool(((magnitudes[:, k] - size).abs() <= rounding).all())
        wanted = (e_a * b.abs() + a.abs() * e_b + 2 * 0.25 * e_a * e_b).sum(1)
        assert bool(((errors[:, k] / wanted - 1).abs() <= 200 * 2**-53).all())


def test_memory_does_not_grow_with_the_latents() -> None:
    """What it allocates beyond its inputs stays below one of them."""
    one = entry("flow_grpo", "mean")
    case = build(one.derivation, Spec(1, (2**21,), 0, policy="off", time="middle"), torch.float32)
    observed = gradient_of(one.loss(case), case.v_theta)
    compare_gradient(one.derivation, case, observed)
    held = peak(lambda: compare_gradient(one.derivation, case, observed))
    assert held < observed.numel() * observed.element_size()


def test_ones_own_gradient_is_judged_by_name() -> None:
    g = torch.Generator().manual_seed(0)
    v, x_0, noise = (torch.randn(3, 4, 5, generator=g) for _ in range(3))
    case = gradcheck.make_case("awm", v_theta=v, x_0=x_0, noise=noise, advantage=torch.tensor([1.0, -2.0, 0.5]))
    gradient = gradient_of(gradcheck.original_loss("awm", case), case.v_theta)
    assert gradcheck.compare_gradient("awm", case, gradient).holds
    assert gradcheck.compare_gradient("awm", case, gradient / 3, factor=1 / 3).holds
    assert not gradcheck.compare_gradient("awm", case, gradient / 3).holds
    with pytest.raises(gradcheck.InputError, match=r"gradient.*\(3, 20\).*\(3, 4, 5\)"):
        gradcheck.compare_gradient("awm", case, gradient.flatten(1))


@LABELS
def test_the_error_scale_of_large_latents_covers_the_dense_one(one: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    derivation = one.derivation
    case = build(derivation, Spec(3, (7, 11), 1), torch.float32)
    exprs = (derivation.raw_gradient, derivation.weight, derivation.target)
    full, undecided = error_scale(derivation, case, *exprs)
    monkeypatch.setattr("gradcheck.rounding.error_scale.LARGE", 100)
    lean, same = error_scale(derivation, case, *exprs)
    assert torch.equal(undecided.expand(same.shape), same)
    for x, y in zip(full, lean, strict=True):
        wide = (y / x).expand(case.v_theta.shape)
        assert bool(((wide > 0.9999) | ~x.isfinite()).all())
        assert not float(wide.nanmedian()) > 6


def test_the_error_scale_of_large_latents_holds_little_besides_itself() -> None:
    one = entry("flow_grpo", "mean")
    case = build(one.derivation, Spec(1, (2**20,), 0, policy="off", time="middle"), torch.float32)
    raw = one.derivation.raw_gradient
    own = 8 * case.v_theta.numel()
    assert own <= peak(lambda: error_scale(one.derivation, case, raw)) < 2 * own


def test_an_implementation_is_judged_on_latents_of_its_own_size() -> None:
    """All that is not about shapes, and with the same verdicts."""
    settings = Settings(max_examples=2, latent=(3, 8, 9))
    shapes: set[tuple[int, ...]] = set()

    def right(case: gradcheck.Case) -> Tensor:
        shapes.add(tuple(case.v_theta.shape[1:]))
        return (case.advantage * ((case.v_theta - case.v_gt) ** 2).flatten(1).mean(1)).mean()

    def leaking(case: gradcheck.Case) -> Tensor:
        return (case.advantage * ((case.v_theta - case.v_gt) ** 2).mean()).mean()

    of_size = [o.id for o in OBLIGATIONS if o.id not in ("shapes", "precision")]
    assert judge(Subject(right, "right", declare("awm", reduction="mean")), settings, of_size).holds
    assert shapes == {(3, 8, 9)}
    assert not judge(Subject(leaking, "leaking", declare("awm", reduction="mean")), settings, of_size).holds


def test_sizes_that_are_none_are_refused() -> None:
    with pytest.raises(gradcheck.InputError, match="latent"):
        Settings(latent=(4, 0))
