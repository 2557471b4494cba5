r"""Where each loss pulls the velocity, drawn for one sample with two latent coordinates.

``python -m gradcheck.plots.directions OUT.png`` writes the picture of four losses; :func:`single` draws any one.  Every
arrow ends at the target that the derivation states, computed by :func:`gradcheck.derived.equivalent.target`; only
the scene, below, is chosen.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.patheffects import withStroke
from PIL import Image
from torch import Tensor

from derivations.derivation import Derivation
from derivations.notation import quantity
from derivations.writing.render import closing_row, latex
from gradcheck.catalogue import entry
from gradcheck.derived.equivalent import target
from gradcheck.problems.building import complete
from gradcheck.reports.style import STYLE

__all__ = ["IN_WORDS", "METHODS", "SCENE", "Panel", "draw", "main", "panel", "point", "pull", "save", "single"]

METHODS = ("flow_grpo", "grpo_guard", "awm", "diffusion_nft")
"""The algorithms that one picture shows together."""

# The one sample.  v_gt = noise − x_0 follows from it; the clip is wide, so that it cuts nothing off.
SCENE: dict[str, Tensor | float] = {
    "v_theta": torch.tensor([[0.42, -0.30]], dtype=torch.float64),
    "v_old": torch.tensor([[0.0, 0.0]], dtype=torch.float64),
    "x_0": torch.tensor([[-0.66, -0.96]], dtype=torch.float64),
    "noise": torch.tensor([[0.32, -0.64]], dtype=torch.float64),
    "x_t": torch.tensor([[0.0, 0.0]], dtype=torch.float64),
    "t": torch.tensor([0.6], dtype=torch.float64),
    "dt": torch.tensor([0.14], dtype=torch.float64),
    "noise_level": 0.7,
    "clip_low": 0.999,
    "clip_high": 1e3,
    "beta": 0.75,
    "D": 2.0,
    # what the other losses have besides
    "v_ref": torch.tensor([[0.0, 0.0]], dtype=torch.float64),
    "alpha_bar": torch.tensor([0.55], dtype=torch.float64),
    "alpha_bar_prev": torch.tensor([0.75], dtype=torch.float64),
    "divergence_max": 1e3,
    "temperature": 1.0,
    "weight_max": 20.0,
    "partner_gap": torch.tensor([0.0], dtype=torch.float64),
    "group_gap": torch.tensor([0.0], dtype=torch.float64),
    "beta_dpo": 1.5,
}
"""The one sample that all panels share."""

OTHERS = ((-0.44, -0.66), (-0.60, 0.09), (0.0, -0.5), (-0.44, 0.60), (0.22, 0.56), (0.72, 0.10))  # velocities
FRAME = (-1.85, 1.75, -1.3, 1.3)  # left, right, bottom, top
IN_WORDS = {
    "flow_grpo": "along the noise at {v_old}, bent elsewhere",
    "grpo_guard": "along the noise, everywhere",
    "awm": "to {v_gt}, or straight away from it",
    "diffusion_nft": "to a fixed point: one for success, one for failure",
    "flow_dppo": "along the noise at {v_old}, bent elsewhere",
    "ddpo": "along the noise at {v_old}, bent elsewhere",
    "reinforce": "towards one fixed point, or straight away from it",
    "rwr": "to {v_gt}, whatever the reward",
    "awr": "to {v_gt}, whatever the advantage",
    "fpo": "towards {v_gt}, or straight away from it",
    "diffusion_dpo": "towards {v_gt}, or straight away from it",
    "dgpo": "towards {v_gt}, or straight away from it",
}
"""What each loss pulls to, a panel's words; ``tests/test_picture.py`` has the test of each."""

_SIGNALS = ("advantage", "reward", "preference")  # 1 for a good sample and −1 for a bad one


@dataclass(frozen=True)
class Panel:
    """What one panel shows.

    Attributes:
        derivation: of the loss.
        starts: velocities, (N, 2); the last one is the scene's own v_theta.
        good, bad: their targets for an advantage of 1 and of −1, (N, 2).
        used: which of ``"v_old"``, ``"v_gt"`` and ``"noise"`` the target rests on.
    """

    derivation: Derivation
    starts: Tensor
    good: Tensor
    bad: Tensor
    used: frozenset[str]

    @property
    def together(self) -> bool:
        """Whether good and bad samples pull to the same points, and so are drawn once."""
        return torch.allclose(self.good, self.bad)


def pull(derivation: Derivation, v_theta: Tensor, advantage: float) -> Tensor:
    """Targets, (N, 2), of the velocities (N, 2), every other quantity being the scene's."""
    values = {**SCENE, **dict.fromkeys(_SIGNALS, torch.tensor([advantage], dtype=torch.float64))}
    values["reward_prob"] = (1 + values["advantage"]) / 2
    given = {n: v.expand(len(v_theta), *v.shape[1:]) if isinstance(v, Tensor) else v for n, v in values.items()}
    given["v_theta"] = v_theta
    case = complete(derivation, {name: given[name] for name in derivation.given})
    return target(derivation, case)[1]


def panel(name: str) -> Panel:
    """Compute one panel for an algorithm of the catalogue that :data:`IN_WORDS` has."""
    derivation = entry(name).derivation
    starts = torch.tensor([*OTHERS, point("v_theta").tolist()], dtype=torch.float64)
    return Panel(derivation, starts, pull(derivation, starts, 1.0), pull(derivation, starts, -1.0), _used(derivation))


def point(name: str) -> Tensor:
    """One of the scene's latents, (2,)."""
    if name == "v_gt":
        return point("noise") - point("x_0")
    value = SCENE[name]
    assert isinstance(value, Tensor)
    return value[0]


def _used(derivation: Derivation) -> frozenset[str]:
    """What the target is made of, as far as it is drawn: v_gt itself, not the noise and data behind it."""
    formulas = {s: e for s, e in derivation.definitions.items() if s.name != "v_gt"}
    drawn = {"v_old", "v_gt", "noise"}
    seen = set(derivation.target.free_symbols)
    for _ in formulas:
        seen |= {inner for s in seen & set(formulas) for inner in formulas[s].free_symbols}
    return frozenset(drawn & {s.name for s in seen})


def draw(*names: str) -> Figure:
    """The picture: a panel for each algorithm; without names all four, backward-process losses above forward ones."""
    chosen = names or METHODS
    alone = len(chosen) == 1
    with mpl.rc_context(STYLE["rc"]):
        figure = Figure(figsize=(7, 6.2) if alone else (10, 4.65 * -(-len(chosen) // 2)), dpi=140)
        FigureCanvasAgg(figure)
        grid = figure.subplots(-(-len(chosen) // 2), 1 if alone else 2, sharex=True, sharey=True, squeeze=False)
        figure.subplots_adjust(
            left=0.1 if alone else 0.065, right=0.985, bottom=0.17 if alone else 0.1, top=0.86 if alone else 0.915,
            wspace=0.05, hspace=0.27,
        )  # fmt: skip
        for axes, name in zip(grid.flat, chosen, strict=False):
            _draw_panel(axes, panel(name), IN_WORDS[name])
        for axes in grid[-1]:
            axes.set_xlabel("first coordinate of the velocity")
        for axes in grid[:, 0]:
            axes.set_ylabel("second coordinate")
        shown = (f"{entry(n).derivation.title} pulls {IN_WORDS[n].format(v_old='v_old', v_gt='v_gt')}" for n in chosen)
        figure.set_label("Targets in a two-dimensional velocity space: " + "; ".join(shown) + ".")
        figure.legend(
            handles=_legend(), loc="lower center", ncols=2 if alone else 4, frameon=False, handlelength=2,
        )  # fmt: skip
        return figure


def single(name: str) -> Figure:
    """One panel, small, so that its text is read on a phone: for the page of one algorithm."""
    with mpl.rc_context(STYLE["rc"]):
        figure = Figure(figsize=(4.5, 4.9), dpi=200)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.02, 0.2, 0.96, 0.65))  # as wide and as high as the frame's sides are
        shown = panel(name)
        _draw_panel(axes, shown, IN_WORDS[name])
        axes.set(xticks=(), yticks=())
        lines = _legend(_signal(shown.derivation), shown.together)
        figure.legend(handles=lines, loc="lower left", frameon=False, handlelength=2)
        title = shown.derivation.title
        figure.set_label(f"{title} pulls {IN_WORDS[name].format(v_old='v_old', v_gt='v_gt')}: arrows from v_theta.")
        return figure


def _draw_panel(axes: Axes, shown: Panel, in_words: str) -> None:
    left, right, bottom, top = FRAME
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    axes.tick_params(length=0)
    d = shown.derivation
    *_, formula = closing_row(d, latex=True, exact=True)
    formula = formula[formula.index("=") :]  # without the name v*
    words = in_words.format(**{name: f"${latex(quantity(name).symbol)}$" for name in ("v_old", "v_gt")})
    above = {"xycoords": "axes fraction", "textcoords": "offset points", "color": STYLE["ink"]}
    axes.set_title(d.title, loc="left", pad=42, fontsize=14, fontweight="bold", color=STYLE["ink"])
    axes.set_title(f"{d.process} process", loc="right", pad=42, fontsize=10.5, color=STYLE["faint"])
    axes.annotate(words, (0, 1), (0, 26), fontsize=11, **above)
    axes.annotate(rf"$\mathrm{{target}} {formula}", (0, 1), (0, 8.5), fontsize=12, **above)
    _draw_others(axes, shown)
    v = shown.starts[-1]
    if "noise" in shown.used:
        _draw_noise(axes, v)
    drawn = (("good", shown.good, r"\pm " if shown.together else ""), ("bad", shown.bad, "-"))
    for role, ends, sign in drawn[: 1 if shown.together else 2]:
        _draw_arrow(axes, v, ends[-1], STYLE[role], rf"${_signal(d)} = {sign}1$")
    for name in ("v_old", "v_gt") if d.path == "rectified" else ("v_old",):
        _draw_dot(axes, name, used=name in shown.used)
    _draw_dot(axes, "v_theta", used=True)


def _draw_others(axes: Axes, shown: Panel) -> None:
    """Other velocities, and their targets."""
    fields = ((shown.good, "good field"), (shown.bad, "bad field"))
    for ends, colour in fields[: 1 if shown.together else 2]:
        for start, end in zip(shown.starts[:-1], ends[:-1], strict=True):
            axes.add_patch(
                FancyArrowPatch(
                    _xy(start), _xy(end), arrowstyle="-|>,head_length=5,head_width=2.6", linewidth=1.3,
                    color=STYLE[colour], shrinkA=0, shrinkB=0, zorder=2, mutation_scale=1.3,
                )
            )  # fmt: skip
    axes.plot(*shown.starts[:-1].T.numpy(), "o", markersize=4, color=STYLE["faint"], zorder=3, markeredgecolor="white")


def _draw_noise(axes: Axes, v: Tensor) -> None:
    noise = point("noise")
    ends = torch.stack([v - 4 * noise, v + 4 * noise])
    axes.plot(*ends.T.numpy(), color=STYLE["faint"], linewidth=1.2, linestyle=(0, (4, 3)), zorder=2)
    _label(axes, rf"$-{latex(quantity('noise').symbol)}$", v - 1.8 * noise, (9, -2), STYLE["faint"])


def _signal(d: Derivation) -> str:
    """The symbol of what tells good samples from bad ones."""
    return latex(quantity(next((n for n in _SIGNALS if n in d.given), "advantage")).symbol)


def _draw_arrow(axes: Axes, start: Tensor, end: Tensor, colour: str, label: str) -> None:
    axes.add_patch(
        FancyArrowPatch(
            _xy(start), _xy(end), arrowstyle="-|>,head_length=5,head_width=3", linewidth=2.6, color=colour,
            shrinkA=0, shrinkB=0, zorder=4, mutation_scale=1.6, path_effects=[_HALO],
        )
    )  # fmt: skip
    x, y = (end - start).tolist()
    inside = FRAME[2] + 0.15 < float(end[1])
    shift, ha = (8 if x > 0 else -8, 7 if y > 0 or not inside else -15), "left" if x > 0 else "right"
    _label(axes, label, end, shift, colour, ha, size=12.5)


def _draw_dot(axes: Axes, name: str, *, used: bool) -> None:
    colour = STYLE["ink"] if used else STYLE["faint"]
    axes.plot(
        *_xy(point(name)), "o", markersize=7.5 if used else 5.5, color=colour,
        markerfacecolor=colour if used else "white", markeredgecolor="white" if used else colour, zorder=5,
    )  # fmt: skip
    shift, ha = {"v_theta": ((11, -6), "left"), "v_old": ((-8, -13), "right"), "v_gt": ((-7, 9), "right")}[name]
    _label(axes, f"${latex(quantity(name).symbol)}$", point(name), shift, colour, ha)


def _xy(at: Tensor) -> tuple[float, float]:
    x, y = at.tolist()
    return x, y


def _label(
    axes: Axes, text: str, at: Tensor, shift: tuple[int, int], colour: str, ha: str = "left", size: float = 15
) -> None:
    axes.annotate(
        text, _xy(at), shift, textcoords="offset points", color=colour, fontsize=size, ha=ha, zorder=6,
        path_effects=[_HALO],
    )  # fmt: skip


_HALO = withStroke(linewidth=4, foreground="white")


def _legend(signal: str = "A", together: bool = False) -> list[Line2D]:
    v, good = latex(quantity("v_theta").symbol), r"\pm 1" if together else "1"
    rows = [
        ("good", 2.6, f"from ${v}$ to its target, ${signal} = {good}$"),
        ("bad", 2.6, f"the same, ${signal} = -1$"),
        ("good field", 1.6, f"from other velocities, ${signal} = {good}$"),
        ("bad field", 1.6, f"the same, ${signal} = -1$"),
    ]
    return [Line2D([], [], color=STYLE[c], linewidth=w, label=label) for c, w, label in rows[:: 2 if together else 1]]


def save(path: str | Path) -> None:
    """Write the picture as PNG with a small palette, the same bytes every time."""
    drawn = BytesIO()
    with mpl.rc_context(STYLE["rc"]):
        draw().savefig(drawn, format="png")
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, format="PNG", optimize=True)


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m gradcheck.plots.directions OUT.png``."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m gradcheck.plots.directions OUT.png", file=sys.stderr)
        return 2
    save(arguments[0])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
