"""The samplers: the step is the Flow-SDE, and its noise leaves the marginals alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gradcheck.errors import InputError
from gradcheck.losses._common import sde_step
from gradcheck.toy.sampling import grid, ode, sde

MEAN, WIDTH, LEVEL = 1.5, 0.6, 0.7


def exact_velocity(x: Tensor, t: float) -> Tensor:
    """E[noise − x_0 | x_t = x] for data N(MEAN, WIDTH²), in each coordinate."""
    off = x - (1 - t) * MEAN
    variance = (1 - t) ** 2 * WIDTH**2 + t**2
    return (t - (1 - t) * WIDTH**2) / variance * off - MEAN


def moments(steps: int, level: float) -> tuple[Tensor, Tensor]:
    """Exact mean and variance of the state after each stochastic step.

    With an affine velocity every state is affine in the initial noise and the steps' noises, so its coefficients are
    what the sampler answers to 0 and to unit vectors; no randomness is needed.
    """
    k = steps - 2
    inputs = torch.cat([torch.zeros(1, k + 1), torch.eye(k + 1)]).to(torch.float64)
    both = inputs[..., None].expand(-1, -1, 2)
    states = sde(exact_velocity, both[:, 0], both[:, 1:], steps, level).x_prev[..., 0]
    return states[0], ((states[1:] - states[0]) ** 2).sum(0)


def marginal_error(steps: int, level: float) -> tuple[float, float]:
    """Largest error of the mean, and of the variance from t = 1/2 on, against the forward process's marginals."""
    after = torch.tensor(grid(steps)[2:-1], dtype=torch.float64)
    mean, variance = moments(steps, level)
    wanted = (1 - after) ** 2 * WIDTH**2 + after**2
    off = (variance - wanted).abs()[after <= 0.5]
    return float((mean - (1 - after) * MEAN).abs().max()), float(off.max())


@pytest.mark.parametrize("level", [0.5, 0.7, 1.0])
def test_marginals_converge_to_the_forward_process(level: float) -> None:
    """Half the step, and the variance's error falls by about 2^(η²) at least; a wrong drift would leave one behind.

    The order is η² where η < 1: near t = 1, σ_t² = η² t/(1 − t) makes an error of the first steps that no grid
    resolves, and what follows contracts it like (1 − t)^(−η²), from 1 − t = Δt on.
    """
    (mean_coarse, coarse), (mean_fine, fine) = (marginal_error(n, level) for n in (100, 200))
    assert max(mean_coarse, mean_fine) < 1e-12  # the mean of this flow is a straight line
    assert fine < 0.02
    assert 2 ** (0.85 * level**2) < coarse / fine < 2.1


def test_the_step_is_the_one_that_the_losses_use() -> None:
    """The sampler evaluates the derivation; the losses write the step by hand."""
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((7, 2), (7, 8, 2)))
    run = sde(exact_velocity, x, noise, 10, LEVEL)
    for i in range(8):
        t, dt = run.t[i].expand(7), run.dt[i].expand(7)
        mean, std = sde_step("flow", run.v_old[:, i], run.x_t[:, i], t, dt, LEVEL)
        wanted = mean + std * noise[:, i]
        # a few roundings of numbers of size 1 to 10
        torch.testing.assert_close(run.x_prev[:, i], wanted, rtol=0, atol=100 * torch.finfo(x.dtype).eps)
        torch.testing.assert_close(run.v_old[:, i], exact_velocity(run.x_t[:, i], float(run.t[i])), rtol=0, atol=0)


def test_a_path_is_one_chain() -> None:
    generator = torch.Generator().manual_seed(1)
    x, noise = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((3, 2), (3, 4, 2)))
    run = sde(exact_velocity, x, noise, 6, LEVEL)
    assert torch.equal(run.x_prev[:, :-1], run.x_t[:, 1:])
    assert run.t.tolist() == pytest.approx([5 / 6, 4 / 6, 3 / 6, 2 / 6])
    assert (run.dt > 0).all()
    assert (run.dt < run.t).all()
    last = run.x_prev[:, -1]
    torch.testing.assert_close(run.x_0, last - exact_velocity(last, 1 / 6) / 6)


def test_the_deterministic_sampler_reaches_the_data() -> None:
    """Its map of the noise is affine: a slope of WIDTH and an offset of MEAN, up to the first-order error."""
    probes = torch.tensor([[0.0, 0.0], [1.0, -1.0]], dtype=torch.float64)
    offset, image = ode(exact_velocity, probes, 400)
    assert torch.allclose(offset, torch.full((2,), MEAN, dtype=torch.float64), atol=0.02)
    assert math.isclose(float(image[0] - offset[0]), WIDTH, abs_tol=0.02)
    assert math.isclose(float(image[1] - offset[1]), -WIDTH, abs_tol=0.02)


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(InputError, match="steps: got 2"):
        grid(2)
