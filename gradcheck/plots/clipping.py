r"""What keeps a velocity near the old one: PPO's clip, and DiffusionNFT's trust region."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from derivations.notation import ratio
from gradcheck.catalogue import entry
from gradcheck.derived.compiled import evaluate
from gradcheck.problems.building import complete
from gradcheck.reports.style import STYLE, curve, labels, legend, styled, subplots
from gradcheck.rounding.compare import gradient_of

__all__ = ["CLIP", "Pulls", "along_line", "clipping_picture", "over_ratio"]

CLIP = 0.2
"""The clip range that is drawn."""

_OPEN = {"clip_low": 1 - 1e-12, "clip_high": 1e12}
_D = 16


@dataclass(frozen=True)
class Pulls:
    """A gradient along a path of velocities, by autograd of the loss by hand.

    Attributes:
        x: the ratio, or the place on the line from v_old (0) to v_gt (1), (N,).
        pull: the gradient's length, or its part along the line towards v_gt (minus the slope), (N,).
    """

    x: Tensor
    pull: Tensor


def over_ratio(advantage: float, *, clipped: bool, name: str = "flow_grpo") -> Pulls:
    """Gradient length over the importance ratio, relative to that at ratio 1, as v_theta moves along the noise."""
    e = entry(name)
    n = 601
    noise = torch.randn(1, _D, generator=torch.Generator().manual_seed(0), dtype=torch.float64).expand(n, _D)
    s = torch.linspace(0.12, -0.12, n, dtype=torch.float64)[:, None]
    one = torch.ones(n, dtype=torch.float64)
    given: dict[str, Tensor | float] = {
        "v_old": torch.zeros(n, _D, dtype=torch.float64), "v_theta": s * noise, "noise": noise,
        "x_t": torch.zeros(n, _D, dtype=torch.float64), "t": 0.6 * one, "dt": 0.1 * one, "advantage": advantage * one,
        "noise_level": 0.7, "D": float(_D), "clip_low": CLIP, "clip_high": CLIP, **({} if clipped else _OPEN),
    }  # fmt: skip
    case = complete(e.derivation, {q: given[q] for q in e.derivation.given})
    (r,) = evaluate(e.derivation, case, ratio)
    size = gradient_of(e.loss(case), case.v_theta).norm(dim=1)
    return Pulls(r.detach().flatten(), size / size[n // 2])


def along_line(name: str, variant: str, advantage: float, *, beta: float = 1.0) -> Pulls:
    """The pull towards v_gt on the line from v_old through v_gt, one coordinate, distances in units of their gap."""
    e = entry(name, variant)
    n = 601
    s = torch.linspace(-2, 2, n, dtype=torch.float64)
    one, zero = torch.ones(n, 1, dtype=torch.float64), torch.zeros(n, 1, dtype=torch.float64)
    a = torch.full((n,), advantage, dtype=torch.float64)
    given: dict[str, Tensor | float] = {
        "v_old": zero, "v_theta": s[:, None], "noise": one, "x_0": zero, "advantage": a, "reward_prob": (1 + a) / 2,
        "beta": beta, "clip_low": CLIP, "clip_high": CLIP, "D": 1.0,
    }  # fmt: skip
    case = complete(e.derivation, {q: given[q] for q in e.derivation.given})
    return Pulls(s, -gradient_of(e.loss(case), case.v_theta).flatten())


@styled()
def clipping_picture() -> Figure:
    """Above: Flow-GRPO's gradient over the ratio. Below: forward-process losses along the line to v_gt."""
    figure, axes = subplots(2, 2, height=5.6)
    for column, advantage in enumerate((1.0, -1.0)):
        a = f"$A = {advantage:g}$"
        above, below = axes[column], axes[2 + column]
        for i, clipped in enumerate((True, False)):
            shown = over_ratio(advantage, clipped=clipped)
            style = {"linewidth": 2.8} if clipped else {"linewidth": 1.6}
            curve(above, shown.x, shown.pull, f"Flow-GRPO, {'clipped' if clipped else 'no clip'}", i, **style)
        above.axvspan(1 - CLIP, 1 + CLIP, color=STYLE["grid"], alpha=0.6, linewidth=0)
        above.set(xlim=(0.5, 1.6), ylim=(-0.08, 1.8))
        labels(above, "importance ratio", "", f"Flow-GRPO, {a}")
        lines = (
            ("AWM", along_line("awm", "paper", advantage), 2),
            ("AWM, clipped", along_line("awm", "clipped", advantage), 3),
            (r"DiffusionNFT, $\beta = 1$", along_line("diffusion_nft", "paper", advantage), 4),
            (r"DiffusionNFT, $\beta = 0.5$", along_line("diffusion_nft", "paper", advantage, beta=0.5), 5),
        )
        for name, shown, place in lines:
            curve(below, shown.x, shown.pull, name, place)
        below.axhline(0, color=STYLE["faint"], linewidth=0.9, zorder=1)
        below.set(ylim=(-6.5, 6.5))
        below.set_xticks([-2, -1, 0, 1, 2], ["−2", "−1", r"$v_{\mathrm{old}}$", r"$v_{\mathrm{gt}}$", "2"])
        labels(below, r"$v_\theta$ on the line through both", "", f"forward process, {a}")
    axes[0].set_ylabel("gradient length\n(1 at ratio 1)")
    axes[2].set_ylabel(r"pull towards $v_{\mathrm{gt}}$" + "\n(minus the slope)")
    handles = [h for panel in (axes[0], axes[2]) for h in panel.get_legend_handles_labels()[0]]
    legend(figure, handles, columns=3)
    figure.set_label(
        "Above, Flow-GRPO's gradient length over the ratio: it drops to 0 above 1.2 for advantage 1 and below "
        "0.8 for advantage −1. Below, the pull along the line from v_old to v_gt: straight lines for AWM and "
        "DiffusionNFT, which slope the same way for advantage 1 and opposite ways for advantage −1."
    )
    return figure
