"""What is measured: drift, the gradient's noise, and where it points."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gradcheck.errors import InputError
from gradcheck.toy import data
from gradcheck.toy.measures import gradient_noise, gradients, reward_gradients, sliced_wasserstein
from gradcheck.toy.network import flat
from gradcheck.toy.rewards import CHOOSING, peak, reward
from gradcheck.toy.training import METHODS, Settings, Trainer

SETTINGS = Settings(group=8, steps=6)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_drift_is_the_way_that_samples_move() -> None:
    a = normal(3, 50, 2)
    shift = torch.tensor([3.0, -4.0], dtype=torch.float64)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    # a projection x cos + y sin is off by at most 2u(|x| + |y|), in either order of the points; sorting adds nothing
    rounding = 4 * 2**-53 * float(a[0].abs().sum(-1).max())
    assert float(sliced_wasserstein(a[:1, order], a[0])) <= 1.01 * rounding
    # the mean over directions of cos² is ½: √(25/2)
    assert float(sliced_wasserstein(a[:1] + shift, a[0])) == pytest.approx(5 / math.sqrt(2), rel=1e-12)


def test_data_are_on_the_data() -> None:
    x = data.draw(20_000, torch.Generator().manual_seed(0), torch.float64)
    off = 1 - float(data.on_data(x))
    assert off == pytest.approx(math.exp(-8), abs=5 * math.sqrt(math.exp(-8) / 20_000))
    assert float(data.on_data(torch.zeros(1, 2))) == 0.0


def test_choosing_is_what_the_best_mode_earns() -> None:
    x = peak(torch.float64) + data.WIDTH * normal(100_000, 2)
    rewards = reward(x)
    assert float(rewards.mean()) == pytest.approx(CHOOSING, abs=5 * float(rewards.std()) / math.sqrt(100_000))


def test_signal_and_noise_are_told_apart() -> None:
    """Gradients with a known mean and variance, too few to see the mean without correcting for their noise."""
    p, m, s = 4000, 20, 3.0
    mean = torch.zeros(p, dtype=torch.float64)
    mean[0] = 10.0
    found = gradient_noise(mean + s * normal(m, p), 32, -mean + 0.1 * normal(m, p, seed=1))
    # ‖ḡ‖² alone would be 100 + 9 · 4000/20 = 1900; its standard deviation after correction is about √2·1800/√4000
    assert found.signal == pytest.approx(100, abs=5 * (math.sqrt(2 / p) * s**2 * p / m + 2 * 10 * s / math.sqrt(m)))
    assert found.noise == pytest.approx(s**2 * p, rel=5 * math.sqrt(2 / (p * (m - 1))))
    assert found.critical_batch == 32 * found.noise / found.signal
    assert gradient_noise(-mean + 0.1 * normal(m, p), 32, mean + 0.1 * normal(m, p, seed=1)).alignment == pytest.approx(
        1, abs=0.1
    )


def test_two_gradients_are_the_least() -> None:
    with pytest.raises(InputError, match="two or more of each"):
        gradient_noise(normal(1, 3), 8, normal(5, 3))


def test_reward_gradient_is_the_slope_of_the_reward(base: list[Tensor]) -> None:
    """Along a direction, against a central difference of the same samples' reward."""
    for stochastic in (False, True):
        slope = reward_gradients(base, 3, 1, 64, SETTINGS, stochastic)[0]
        assert slope.shape == flat(base)[0].shape
        assert slope.norm() > 1e-3
    direction = [normal(*p.shape, seed=i) for i, p in enumerate(base)]
    slope = reward_gradients(base, 3, 1, 64, SETTINGS)[0]
    ends = [_mean_reward([p + h * d for p, d in zip(base, direction, strict=True)]) for h in (1e-5, -1e-5)]
    assert float(slope @ flat(direction)[0]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


def _mean_reward(parameters: list[Tensor]) -> float:
    from gradcheck.toy.network import Draws, velocity
    from gradcheck.toy.sampling import ode

    start = Draws([3], torch.float64).normal(64, 2)
    return float(reward(ode(lambda x, t: velocity(parameters, x, t), start, SETTINGS.steps)).mean())


def test_flow_grpo_climbs_the_reward_and_is_noisy(base: list[Tensor]) -> None:
    """Weighted noise is, in the mean, the gradient of the stochastic sampler's reward; AWM's gradient is not, quite,
    but it needs far fewer samples.  Both to several standard errors at these counts (0.02 for the cosines)."""
    ascent = reward_gradients(base, 10**6, 16, 256, SETTINGS, stochastic=True)
    found = {}
    for name in ("flow_grpo", "awm"):
        trainer = Trainer(METHODS[name].but(samples=64), base, (1,), Settings(group=64, steps=6))
        found[name] = gradient_noise(gradients(trainer, 5 * 10**6, 96, 64), 64, ascent)
    assert found["flow_grpo"].alignment == pytest.approx(1, abs=0.08)
    assert found["awm"].alignment < 0.92
    assert found["flow_grpo"].critical_batch > 2 * found["awm"].critical_batch
