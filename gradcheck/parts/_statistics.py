r"""Tests of random numbers whose false-alarm probability is bounded for every sample size, not asymptotically.

With :math:`x = \ln(\text{sides}/\alpha)`, for n independent standard normal numbers:

- their mean is within the normal quantile :math:`z_{1-\alpha/2}/\sqrt n` of 0;
- :math:`\chi^2_k` lies in :math:`k - 2\sqrt{kx}` … :math:`k + 2\sqrt{kx} + 2x` (Laurent and Massart 2000, Lemma 1),
  which is 7 % wider than the quantiles themselves at :math:`\alpha = 10^{-9}` and k in the thousands;
- the inner product of two such samples is half the difference of two :math:`\chi^2_n`, so within
  :math:`2\sqrt{nx} + 2x`;
- an empirical distribution function is within :math:`\sqrt{x/(2n)}` of the true one
  (Dvoretzky–Kiefer–Wolfowitz with Massart's constant).
"""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor

__all__ = [
    "FALSE_ALARM",
    "beta_cdf",
    "chi_square_interval",
    "ks_bound",
    "ks_distance",
    "mean_bound",
    "normal_cdf",
    "poisson_limit",
    "product_bound",
]

FALSE_ALARM = 1e-9
"""α: the probability with which a right implementation would be flagged, for a seed drawn at random."""


def mean_bound(n: int, alpha: float) -> float:
    """The largest |mean| of n standard normal numbers."""
    return -NormalDist().inv_cdf(alpha / 2) / math.sqrt(n)


def chi_square_interval(k: int, alpha: float) -> tuple[float, float]:
    """An interval that holds a chi-square variable of k degrees of freedom."""
    x = math.log(2 / alpha)
    return k - 2 * math.sqrt(k * x), k + 2 * math.sqrt(k * x) + 2 * x


def product_bound(n: int, alpha: float) -> float:
    """The largest |Σ aᵢbᵢ| of two independent standard normal samples of size n."""
    x = math.log(4 / alpha)
    return 2 * math.sqrt(n * x) + 2 * x


def ks_bound(n: int, alpha: float) -> float:
    """The largest Kolmogorov–Smirnov distance of n numbers."""
    return math.sqrt(math.log(2 / alpha) / (2 * n))


def ks_distance(probabilities: Tensor) -> float:
    """Kolmogorov–Smirnov distance, from the distribution function's values at the sample, (n,)."""
    p = probabilities.to(torch.float64).sort().values
    n = p.numel()
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return float(torch.maximum((p - steps[:-1]).abs().max(), (steps[1:] - p).abs().max()))


def normal_cdf(z: Tensor) -> Tensor:
    """The standard normal distribution function."""
    p: Tensor = torch.special.ndtr(z.to(torch.float64))
    return p


def poisson_limit(rate: float, alpha: float) -> int:
    """The smallest k with P(X ≥ k) ≤ α for a sum of rare events, by Chernoff's (rate·e/k)ᵏ."""
    k = max(1, math.ceil(rate))
    while (rate * math.e / k) ** k * math.exp(-rate) > alpha:
        k += 1
    return k


def beta_cdf(x: Tensor, a: float, b: float) -> Tensor:
    """The distribution function of Beta(a, b) at x in [0, 1], for exponents of at least ½, to 1e-4.

    With x = sin²(πs/2) the density is proportional to sin^(2a−1)(πs/2) cos^(2b−1)(πs/2), which is bounded: a midpoint
    rule with 16,384 cells integrates it, and values between are interpolated.
    """
    cells = 1 << 14
    angle = (torch.arange(cells, dtype=torch.float64) + 0.5) * (math.pi / 2 / cells)
    log_density = (2 * a - 1) * angle.sin().log() + (2 * b - 1) * angle.cos().log()
    total = torch.cat([torch.zeros(1, dtype=torch.float64), (log_density - log_density.max()).exp().cumsum(0)])
    place = torch.asin(x.to(torch.float64).clamp(0, 1).sqrt()) / (math.pi / 2) * cells
    i = place.floor().clamp(0, cells - 1).to(torch.int64)
    return torch.lerp(total[i], total[i + 1], place - i) / total[-1]
