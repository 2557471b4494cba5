r"""The one table of quantities: every symbol, tensor, report and page takes its names from here.

Conventions: time runs from 1 (noise) to 0 (data); sampling goes from ``t`` down to ``t_prev`` = t − Δt.
A *latent* is one sample of D coordinates; a tensor of latents has shape (B, \*latent), and a per-sample
scalar has shape (B,).  Everything is dimensionless: latents are normalised, and time is a fraction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import sympy as sp

from derivations.calculus import VectorSymbol

__all__ = ["NOTATION", "OWN_KINDS", "Axes", "Quantity", "latex_names", "own_quantity", "quantity", "rows"]


Axes = Literal["latent", "sample", "problem"]
"""What a quantity has one number for: each coordinate of a latent, each sample, or the problem."""


@dataclass(frozen=True)
class Quantity:
    """One row of the notation table.

    Attributes:
        name: the name in SymPy, torch, hypothesis, reports and docs.
        latex: how it is typeset.
        axes: ``"latent"`` (shape (B, \\*latent)), ``"sample"`` (shape (B,)) or ``"problem"`` (one number).
        domain: the open or closed interval of admissible values, as SymPy writes it.
        meaning: one line of prose.
    """

    name: str
    latex: str
    axes: Axes
    domain: sp.Set
    meaning: str

    @cached_property
    def symbol(self) -> sp.Symbol:
        """The SymPy symbol, with the assumptions that the domain implies."""
        if self.axes == "latent":
            return VectorSymbol(self.name, nonnegative=True) if self.domain == _UP_TO_1 else VectorSymbol(self.name)
        if self.domain == sp.S.Naturals:
            return sp.Symbol(self.name, integer=True, positive=True)
        if self.domain.inf.is_positive or (self.domain.inf.is_zero and self.domain.left_open):
            return sp.Symbol(self.name, positive=True)
        if self.domain.inf.is_nonnegative:
            return sp.Symbol(self.name, nonnegative=True)
        return sp.Symbol(self.name, real=True)


_REAL = sp.S.Reals
_POSITIVE = sp.Interval.open(0, sp.oo)
_UNIT = sp.Interval.open(0, 1)
_UP_TO_1 = sp.Interval(0, 1)

NOTATION: tuple[Quantity, ...] = (
    # the models' velocities
    Quantity("v_theta", r"v_\theta", "latent", _REAL, "velocity predicted by the model being trained"),
    Quantity("v_old", r"v_{\mathrm{old}}", "latent", _REAL, "velocity of the behaviour model (rollout or EMA copy)"),
    Quantity("v_ref", r"v_{\mathrm{ref}}", "latent", _REAL, "velocity of the frozen reference model"),
    Quantity("v_gt", r"v_{\mathrm{gt}}", "latent", _REAL, "flow-matching regression target, noise − x_0"),
    # the models' other predictions, where that is what their networks put out
    Quantity("noise_theta", r"\varepsilon_\theta", "latent", _REAL, "noise predicted by the model being trained"),
    Quantity("noise_old", r"\varepsilon_{\mathrm{old}}", "latent", _REAL, "noise predicted by the behaviour model"),
    Quantity("noise_ref", r"\varepsilon_{\mathrm{ref}}", "latent", _REAL, "noise predicted by the reference model"),
    Quantity("x_0_theta", r"x_{0,\theta}", "latent", _REAL, "clean latent predicted by the model being trained"),
    Quantity("x_0_old", r"x_{0,\mathrm{old}}", "latent", _REAL, "clean latent predicted by the behaviour model"),
    Quantity("x_0_ref", r"x_{0,\mathrm{ref}}", "latent", _REAL, "clean latent predicted by the reference model"),
    # differences
    Quantity("delta", r"\delta", "latent", _REAL, "v_theta − v_old"),
    Quantity("Delta", r"\Delta", "latent", _REAL, "v_old − v_gt"),
    # states
    Quantity("x_0", r"x_0", "latent", _REAL, "clean latent"),
    Quantity(
        "noise", r"\varepsilon", "latent", _REAL, "Gaussian noise: of the forward process, or of the reverse step"
    ),
    Quantity("x_t", r"x_t", "latent", _REAL, "noised latent (forward), or the state on the sampling path (backward)"),
    Quantity(
        "x_prev", r"x_{t-\Delta t}", "latent", _REAL, "state that the behaviour model sampled, mean_old + C2·noise"
    ),
    # time and the Gaussian reverse step
    Quantity("t", r"t", "sample", _UNIT, "time: 1 is noise, 0 is data"),
    Quantity("dt", r"\Delta t", "sample", _UNIT, "length of the reverse step, t − t_prev > 0"),
    Quantity("t_prev", r"t'", "sample", sp.Interval.Ropen(0, 1), "time after the reverse step, t − dt"),
    Quantity(
        "alpha_bar",
        r"\bar\alpha_t",
        "sample",
        _UNIT,
        "squared coefficient of the data in x_t, on the variance-preserving path",
    ),
    Quantity("alpha_bar_prev", r"\bar\alpha_{t'}", "sample", _UNIT, "the same after the reverse step, above alpha_bar"),
    Quantity("noise_level", r"\eta", "problem", _POSITIVE, "noise level of the sampler (a in Flow-GRPO, η elsewhere)"),
    Quantity(
        "sigma_min",
        r"\sigma_{\min}",
        "problem",
        sp.Interval(0, sp.oo),
        "diffusion coefficient at t = 0 of a step whose noise level is that at t = 1",
    ),
    Quantity("sigma_t", r"\sigma_t", "sample", _POSITIVE, "diffusion coefficient of the reverse SDE"),
    Quantity("C1", r"C_1", "sample", _POSITIVE, "−∂mean/∂v of the reverse step"),
    Quantity("C2", r"C_2", "sample", _POSITIVE, "standard deviation of the reverse step"),
    Quantity(
        "k", r"k", "sample", _POSITIVE, "C1/C2: how far one unit of velocity moves the mean, in standard deviations"
    ),
    Quantity(
        "noise_norm",
        r"\bar C_2",
        "problem",
        _POSITIVE,
        "what C2 is divided by as a time weight: its mean over steps, say",
    ),
    Quantity(
        "window",
        r"I_t",
        "sample",
        sp.Interval(0, 1),
        "1 where the step is inside the window that trains, 0 outside it",
    ),
    Quantity("mask", r"M", "latent", _UP_TO_1, "1 where a coordinate counts, 0 where not; one of each sample counts"),
    Quantity("mean_offset", r"a", "latent", _REAL, "part of the reverse step's mean that is free of the velocity"),
    Quantity("mean_theta", r"\mu_\theta", "latent", _REAL, "mean of the reverse step of the trained model"),
    Quantity("mean_old", r"\mu_{\mathrm{old}}", "latent", _REAL, "mean of the reverse step of the behaviour model"),
    Quantity("mean_ref", r"\mu_{\mathrm{ref}}", "latent", _REAL, "mean of the reverse step of the reference model"),
    # reward
    Quantity("reward", r"R", "sample", _REAL, "reward of the finished sample"),
    Quantity("advantage", r"A", "sample", _REAL, "advantage: the reward, centred and scaled"),
    Quantity(
        "advantage_clip",
        r"A_{\max}",
        "problem",
        _POSITIVE,
        "the advantage is clipped at ± this before it becomes an optimality probability",
    ),
    Quantity("reward_prob", r"r", "sample", sp.Interval(0, 1), "optimality probability of the sample, (1 + A)/2"),
    # the losses' own parameters
    Quantity("temperature", r"\tau", "problem", _POSITIVE, "temperature of an exponentiated reward or advantage"),
    Quantity("weight_max", r"w_{\max}", "problem", _POSITIVE, "greatest weight that an exponentiated advantage gets"),
    Quantity(
        "log_prob_theta", r"\log p_\theta", "sample", _REAL, "log-density (up to constants) under the trained model"
    ),
    Quantity("log_prob_old", r"\log p_{\mathrm{old}}", "sample", _REAL, "log-density under the behaviour model"),
    Quantity("ratio", r"r_t(\theta)", "sample", _POSITIVE, "importance ratio"),
    Quantity("log_ratio", r"\log r_t(\theta)", "sample", _REAL, "logarithm of the importance ratio"),
    Quantity(
        "clip_low",
        r"\epsilon^-",
        "problem",
        sp.Interval.Lopen(0, 1),
        "PPO clip: the ratio is clipped below at 1 − clip_low; 1 leaves no lower edge",
    ),
    Quantity("clip_high", r"\epsilon^+", "problem", _POSITIVE, "PPO clip: the ratio is clipped above at 1 + clip_high"),
    Quantity(
        "divergence", r"d", "sample", sp.Interval(0, sp.oo), "KL divergence between the two models' reverse steps"
    ),
    Quantity("divergence_max", r"d_{\max}", "problem", _POSITIVE, "divergence beyond which a sample may not go on"),
    Quantity("beta", r"\beta", "problem", _POSITIVE, "DiffusionNFT's mixing strength"),
    Quantity("kl_weight", r"\beta_{\mathrm{KL}}", "problem", _POSITIVE, "weight of the KL or reference term"),
    Quantity("omega", r"\omega", "sample", _POSITIVE, "time weighting of a forward-process log-density"),
    Quantity("w_plus", r"w^+", "sample", _POSITIVE, "adaptive weight of DiffusionNFT's positive branch (detached)"),
    Quantity("w_minus", r"w^-", "sample", _POSITIVE, "adaptive weight of DiffusionNFT's negative branch (detached)"),
    Quantity(
        "rho_plus",
        r"\rho^+",
        "sample",
        sp.Interval(0, sp.oo),
        "r/w_plus: the positive branch's share under adaptive weighting",
    ),
    Quantity("rho_minus", r"\rho^-", "sample", sp.Interval(0, sp.oo), "(1 − r)/w_minus: the negative branch's share"),
    Quantity(
        "advantage_tilde",
        r"\tilde A",
        "sample",
        _REAL,
        "what adaptive weighting, or a map of the advantage, puts in the advantage's place",
    ),
    Quantity("preference", r"y", "sample", sp.Interval(-1, 1), "1 for the sample that won its pair, −1 for the loser"),
    Quantity(
        "error_gap",
        r"g",
        "sample",
        _REAL,
        "squared error of the trained model, less that of the reference (or behaviour) model",
    ),
    Quantity("partner_gap", r"g'", "sample", _REAL, "error_gap of the other sample of the pair, a given number"),
    Quantity(
        "group_gap", r"s", "sample", _REAL, "sum of advantage·error_gap over the group's other samples, a given number"
    ),
    Quantity(
        "beta_dpo", r"\beta_{\mathrm{DPO}}", "problem", _POSITIVE, "regularisation strength of Diffusion-DPO and DGPO"
    ),
    Quantity(
        "misorder_prob", r"q", "sample", _UNIT, "probability with which the trained model ranks a pair or group wrongly"
    ),
    Quantity("D", r"D", "problem", sp.S.Naturals, "number of latent coordinates of one sample"),
)
"""The table, in reading order."""

_BY_NAME = {q.name: q for q in NOTATION}
assert len(_BY_NAME) == len(NOTATION), "a name stands twice in the notation table"


def quantity(name: str) -> Quantity:
    """Look a row up by name, a user's own ones included.

    Raises:
        KeyError: there is no such row.
    """
    return _BY_NAME[name] if name in _BY_NAME else _OWN[name]


OWN_KINDS: Mapping[str, tuple[Axes, sp.Set]] = {
    "latent": ("latent", _REAL),
    "sample": ("sample", _REAL),
    "sample > 0": ("sample", _POSITIVE),
    "problem": ("problem", _REAL),
    "problem > 0": ("problem", _POSITIVE),
}
"""What a quantity of the user's own may be: a tensor of latents, a number per sample, or one number."""

_OWN: dict[str, Quantity] = {}


def own_quantity(name: str, kind: str) -> Quantity:
    """The row of a quantity that a user's loss brings along; it is data, and no gradient is taken in it.

    Raises:
        ValueError: the table has such a name, the kind is none of :data:`OWN_KINDS`, or the same name was declared
            as something else before (a symbol has one meaning in a process).
    """
    if name in _BY_NAME:
        raise ValueError(f"a name that the notation does not have yet: {name} is {_BY_NAME[name].meaning}")
    if kind not in OWN_KINDS:
        raise ValueError(f"one of {', '.join(map(repr, OWN_KINDS))}")
    axes, domain = OWN_KINDS[kind]
    latex = name if len(name) == 1 else rf"\mathrm{{{name.replace('_', ' ')}}}"
    row = _OWN.setdefault(name, Quantity(name, latex, axes, domain, "a quantity of your own"))
    if (row.axes, row.domain) != (axes, domain):
        was = next(k for k, v in OWN_KINDS.items() if v == (row.axes, row.domain))
        raise ValueError(f"{was!r}, as which {name} was declared before; else another name")
    return row


def rows() -> tuple[Quantity, ...]:
    """The table, and what users' losses have brought along, in the order of their coming."""
    return (*NOTATION, *_OWN.values())


def latex_names() -> dict[sp.Symbol, str]:
    """Symbol → LaTeX, as SymPy's printer takes it."""
    return {q.symbol: q.latex for q in rows()}


# One Python name for each symbol, so that derivations read like their papers.
v_theta, v_old, v_ref, v_gt = (quantity(n).symbol for n in ("v_theta", "v_old", "v_ref", "v_gt"))
noise_theta, noise_old, noise_ref = (quantity(n).symbol for n in ("noise_theta", "noise_old", "noise_ref"))
x_0_theta, x_0_old, x_0_ref = (quantity(n).symbol for n in ("x_0_theta", "x_0_old", "x_0_ref"))
delta, Delta, k = (quantity(n).symbol for n in ("delta", "Delta", "k"))
x_0, noise, x_t, x_prev = (quantity(n).symbol for n in ("x_0", "noise", "x_t", "x_prev"))
t, dt, t_prev = (quantity(n).symbol for n in ("t", "dt", "t_prev"))
alpha_bar, alpha_bar_prev = (quantity(n).symbol for n in ("alpha_bar", "alpha_bar_prev"))
noise_level, sigma_t, C1, C2 = (quantity(n).symbol for n in ("noise_level", "sigma_t", "C1", "C2"))
sigma_min = quantity("sigma_min").symbol
noise_norm, window, mask = (quantity(n).symbol for n in ("noise_norm", "window", "mask"))
mean_offset, mean_theta = (quantity(n).symbol for n in ("mean_offset", "mean_theta"))
mean_old, mean_ref = (quantity(n).symbol for n in ("mean_old", "mean_ref"))
advantage_clip = quantity("advantage_clip").symbol
temperature, weight_max = (quantity(n).symbol for n in ("temperature", "weight_max"))
reward, advantage, reward_prob = (quantity(n).symbol for n in ("reward", "advantage", "reward_prob"))
log_prob_theta, log_prob_old = (quantity(n).symbol for n in ("log_prob_theta", "log_prob_old"))
ratio, log_ratio = (quantity(n).symbol for n in ("ratio", "log_ratio"))
clip_low, clip_high = (quantity(n).symbol for n in ("clip_low", "clip_high"))
divergence, divergence_max = (quantity(n).symbol for n in ("divergence", "divergence_max"))
beta, kl_weight, omega = (quantity(n).symbol for n in ("beta", "kl_weight", "omega"))
w_plus, w_minus, D = (quantity(n).symbol for n in ("w_plus", "w_minus", "D"))
rho_plus, rho_minus, advantage_tilde = (quantity(n).symbol for n in ("rho_plus", "rho_minus", "advantage_tilde"))
preference, error_gap, partner_gap = (quantity(n).symbol for n in ("preference", "error_gap", "partner_gap"))
beta_dpo, misorder_prob, group_gap = (quantity(n).symbol for n in ("beta_dpo", "misorder_prob", "group_gap"))
