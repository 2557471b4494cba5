"""Mistakes that estimators of advantages are written with: what each says, and what it computes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["ACROSS_GROUPS", "MISTAKES", "OTHER_RESULTS", "OTHER_STATISTICS"]

MISTAKES = {
    "variance": "the rewards are divided by the variance; the standard deviation belongs there",
    "wrong-axis": "mean and standard deviation are taken across the groups instead of within each",
    "mean-missing": "no mean is subtracted",
    "sign": "the sign is reversed: mean − reward",
    "std-of-centred": "the standard deviation is that of all centred rewards",
    "std-of-first-group": "the standard deviation is the first group's, for every group",
    "std-of-previous-group": "each group is divided by the standard deviation of the group before it",
    "std-of-next-group": "each group is divided by the standard deviation of the group after it",
    "std-of-means": "the standard deviation is that of the groups' means",
    "mean-of-stds": "the mean of the groups' standard deviations divides; each group's own is declared",
    "strided": "every n-th reward is taken for a group's, n being the number of groups; the groups lie one by one",
    "median": "the group's median is subtracted; it must be its mean",
    "min-max": "the smallest reward is subtracted and the rewards' range divides: not mean and standard deviation",
    "max": "the group's largest reward is subtracted; it must be its mean",
    "squares": "the root of the mean square divides; the standard deviation is that of the centred rewards",
    "standard-error": "the standard error s/√n divides; the standard deviation s belongs there",
    "mean-deviation": "the mean absolute deviation divides; the standard deviation belongs there",
    "largest-deviation": "the largest absolute deviation divides; the standard deviation belongs there",
    "ranks": "the rewards' ranks in their group stand where the rewards belong",
    "multiplied": "the centred rewards are multiplied by the standard deviation; it must divide them",
    "eps-outside": "ε is added to the quotient; it belongs to the standard deviation",
    "mean-alone-divided": "the mean alone is divided by the standard deviation: parentheses are missing",
    "over-size": "the advantages are divided by their group's size once more",
    "positive-alone": "negative advantages are cut to 0",
    "absolute": "the advantages' sign is lost",
}
"""Names and sentences."""

OTHER_STATISTICS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "median": lambda r: (r.median(), r.std(correction=0)),
    "min-max": lambda r: (r.min(), r.max() - r.min()),
    "max": lambda r: (r.max(), r.std(correction=0)),
    "squares": lambda r: (r.mean(), (r**2).mean().sqrt()),
    "standard-error": lambda r: (r.mean(), r.std(correction=0) / len(r) ** 0.5),
    "mean-deviation": lambda r: (r.mean(), (r - r.mean()).abs().mean()),
    "largest-deviation": lambda r: (r.mean(), (r - r.mean()).abs().max()),
}
"""What a group's mean and standard deviation may be mistaken for."""

ACROSS_GROUPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "std-of-previous-group": lambda means, stds: stds.roll(1),
    "std-of-next-group": lambda means, stds: stds.roll(-1),
    "std-of-means": lambda means, stds: means.std(correction=0).expand_as(stds),
    "mean-of-stds": lambda means, stds: stds.mean().expand_as(stds),
}
"""Each group's divisor, from all groups' means and standard deviations, in the order of their ids."""

OTHER_RESULTS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]] = {
    "sign": lambda r, mean, std, size, eps: (mean - r) / (std + eps),
    "multiplied": lambda r, mean, std, size, eps: (r - mean) * (std + eps),
    "eps-outside": lambda r, mean, std, size, eps: torch.where(std > 0, (r - mean) / std, torch.nan) + eps,
    "mean-alone-divided": lambda r, mean, std, size, eps: r - mean / (std + eps),
    "over-size": lambda r, mean, std, size, eps: (r - mean) / (std + eps) / size,
    "positive-alone": lambda r, mean, std, size, eps: ((r - mean) / (std + eps)).clamp(min=0),
    "absolute": lambda r, mean, std, size, eps: ((r - mean) / (std + eps)).abs(),
}
"""What becomes of each reward, its mean, the standard deviation, the group's size and ε."""
