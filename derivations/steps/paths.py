r"""Noising paths, and what a network may predict on them: the velocity, the noise, the clean latent, EDM's mixture.

On a path :math:`x = \alpha x_0 + s\varepsilon` with velocity :math:`v = \alpha' x_0 + s'\varepsilon` and Wronskian
:math:`W = \alpha s' - s\alpha'` every prediction is affine in every other one:

.. math:: \hat\varepsilon = (\alpha v - \alpha' x)/W, \qquad \hat x_0 = (s' x - s v)/W.

==============================  =====  ========  =====================================================
path                            α      s         source
==============================  =====  ========  =====================================================
rectified, noise at t = 1       1 − t  t         Lipman et al., arXiv:2210.02747; Liu et al., 2209.03003
rectified, noise at t = 0       t      1 − t     the same, with time the other way
variance-preserving, cos² = ᾱ   √ᾱ     √(1 − ᾱ)  Salimans & Ho, arXiv:2202.00512, appendix D
==============================  =====  ========  =====================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import sympy as sp

from derivations.calculus import Dot, Norm2, VectorSymbol
from derivations.claims import Equal
from derivations.derivation import Derivation, Step, Theorem
from derivations.notation import D, alpha_bar, dt, noise, noise_theta, t, t_prev, v_gt, v_theta, x_0, x_0_theta, x_t

__all__ = ["PARAMETERISATIONS", "PREDICTIONS", "Path", "Prediction", "path_of"]

Prediction = Literal["v", "epsilon", "x0"]
"""What a network may predict: the velocity, the noise, or the clean latent."""

PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)
"""All of them."""


@dataclass(frozen=True)
class Path:
    """x_t = alpha·x_0 + sigma·noise, and how fast each coefficient changes along it."""

    alpha: sp.Expr
    sigma: sp.Expr
    alpha_rate: sp.Expr
    sigma_rate: sp.Expr

    @property
    def state(self) -> sp.Expr:
        return self.alpha * x_0 + self.sigma * noise

    @property
    def velocity(self) -> sp.Expr:
        return self.alpha_rate * x_0 + self.sigma_rate * noise

    @property
    def wronskian(self) -> sp.Expr:
        return sp.simplify(self.alpha * self.sigma_rate - self.sigma * self.alpha_rate)

    def prediction(self, what: str, v: sp.Expr) -> sp.Expr:
        """The noise (``"epsilon"``) or the clean latent (``"x0"``) that belongs to a velocity at x_t."""
        if what == "epsilon":
            return (self.alpha * v - self.alpha_rate * x_t) / self.wronskian
        return (self.sigma_rate * x_t - self.sigma * v) / self.wronskian

    def velocity_from(self, what: str, u: sp.Expr) -> sp.Expr:
        """The velocity that belongs to a prediction at x_t, written as implementations compute it."""
        w = self.wronskian
        if what == "epsilon":
            return (w * u + self.alpha_rate * x_t) / self.alpha
        return (self.sigma_rate * x_t - w * u) / self.sigma

    def slope(self, what: str) -> sp.Expr:
        """∂velocity/∂prediction."""
        return self.wronskian / self.alpha if what == "epsilon" else -self.wronskian / self.sigma


_PATHS: dict[tuple[str, int], Path] = {
    ("rectified", 1): Path(1 - t, t, sp.S.NegativeOne, sp.S.One),
    ("rectified", 0): Path(t, 1 - t, sp.S.One, sp.S.NegativeOne),
    ("vp", 1): Path(sp.sqrt(alpha_bar), sp.sqrt(1 - alpha_bar), -sp.sqrt(1 - alpha_bar), sp.sqrt(alpha_bar)),
}


def path_of(d: Derivation) -> Path:
    """The path that a derivation lives on, in its own time."""
    return _PATHS[d.path, d.noise_at]


# ------------------------------------------------------------------------------------------- what is proved


def _predictions(name: str, title: str, path: Path, reference: str = "", more: tuple[Step, ...] = ()) -> Theorem:
    v, h, f = v_theta, VectorSymbol("h"), path.slope
    noise_hat, data_hat = path.prediction("epsilon", v), path.prediction("x0", v)
    from_noise, from_data = (lambda u, w=what: path.velocity_from(w, u) for what in ("epsilon", "x0"))
    of_noise, of_data = {noise_theta: noise_hat}, {x_0_theta: data_hat}
    symbols = sp.symbols("α s α' s'", real=True)
    own = dict(zip(symbols, (path.alpha, path.sigma, path.alpha_rate, path.sigma_rate), strict=True))
    alpha, sigma, alpha_rate, sigma_rate = symbols
    steps = (
        *more,
        Step(
            "wronskian",
            "The path turns at unit rate: α s' − s α' = 1, so that no prediction needs another factor.",
            Equal(alpha * sigma_rate - sigma * alpha_rate, sp.S.One, own),
        ),
        Step("noise", "The path's own velocity predicts the noise …", Equal(path.prediction("epsilon", v_gt), noise)),
        Step("data", "… and the clean latent.", Equal(path.prediction("x0", v_gt), x_0)),
        Step(
            "state",
            "Whatever the velocity, both predictions together make up the state: an error of one is an error of the "
            "other.",
            Equal(path.alpha * data_hat + path.sigma * noise_hat, x_t),
        ),
        Step("noise-to-velocity", "From the noise back to the velocity.", Equal(from_noise(noise_theta), v, of_noise)),
        Step(
            "data-to-velocity", "From the clean latent back to the velocity.", Equal(from_data(x_0_theta), v, of_data)
        ),
        Step(
            "noise-factor",
            "Moving the predicted noise by h moves the velocity by h over the data's coefficient …",
            Equal(from_noise(noise_theta + h) - v, f("epsilon") * h, of_noise),
        ),
        Step(
            "data-factor",
            "… and moving the predicted clean latent, by −h over the noise's.",
            Equal(from_data(x_0_theta + h) - v, f("x0") * h, of_data),
        ),
        Step(
            "noise-error",
            "So a squared error of the velocity is that of the noise over α² …",
            Equal(Norm2(v - v_gt), Norm2(noise_hat - noise) / path.alpha**2),
        ),
        Step(
            "data-error",
            "… and that of the clean latent over s².",
            Equal(Norm2(v - v_gt), Norm2(data_hat - x_0) / path.sigma**2),
        ),
    )
    return Theorem(name, title, steps, {x_t: path.state, v_gt: path.velocity}, reference)


def _rotation() -> Step:
    angle = sp.Symbol("φ", positive=True)
    state = sp.cos(angle) * x_0 + sp.sin(angle) * noise
    return Step(
        "rotation",
        "With √ᾱ = cos φ the path turns from the data to the noise, and v is how fast: dx/dφ.",
        Equal(sp.diff(state, angle), _PATHS["vp", 1].velocity, {angle: sp.acos(sp.sqrt(alpha_bar))}),
    )


def _time_reversal() -> Theorem:
    here, there = _PATHS["rectified", 1], _PATHS["rectified", 0]
    time, v, h = sp.Symbol("s", positive=True), VectorSymbol("w"), sp.Symbol("h", real=True)
    turned = {time: 1 - t, v: -v_theta}

    def in_its_time(expr: sp.Expr) -> sp.Expr:
        return sp.sympify(expr).xreplace({t: time})

    return Theorem(
        "time-reversal",
        "Noise at t = 1, or at t = 0",
        (
            Step(
                "path",
                "At s = 1 − t the one path is where the other is at t.",
                Equal(in_its_time(there.state), here.state, turned),
            ),
            Step(
                "velocity",
                "It is walked the other way: every velocity is the opposite.",
                Equal(
                    in_its_time(there.state).xreplace({time: time + h}) - in_its_time(there.state), -h * here.velocity
                ),
            ),
            Step(
                "same-noise",
                "Both predict the same noise …",
                Equal(in_its_time(there.prediction("epsilon", v)), here.prediction("epsilon", v_theta), turned),
            ),
            Step(
                "same-data",
                "… and the same clean latent.",
                Equal(in_its_time(there.prediction("x0", v)), here.prediction("x0", v_theta), turned),
            ),
            Step(
                "step",
                "A reverse step of the same length dt > 0 goes up in this time.",
                Equal(1 - t_prev, (1 - t) - dt, {t_prev: t + dt}, (1 - t - dt,)),
            ),
        ),
    )


def _edm() -> Theorem:
    sigma, spread = sp.symbols("sigma sigma_data", positive=True)
    x, output, h = x_0 + sigma * noise, VectorSymbol("F"), VectorSymbol("h")
    total = sp.sqrt(sigma**2 + spread**2)
    skip, out, into = spread**2 / total**2, sigma * spread / total, 1 / total
    best = (x_0 - skip * x) / out
    alike = {spread: sp.S.One}
    alpha, s = 1 / sp.sqrt(1 + sigma**2), sigma / sp.sqrt(1 + sigma**2)

    def velocity(f: sp.Expr) -> sp.Expr:
        return (x_t - (skip * x + out * f)) / t

    return Theorem(
        "edm",
        "EDM's preconditioned network",
        (
            Step(
                "target",
                "What the network is to put out, for the denoiser c_skip x + c_out F to give x_0.",
                Equal(best, (sigma / spread * x_0 - spread * noise) / total),
            ),
            Step(
                "unit-target",
                "Its mean square is 1 up to brackets that vanish where those of x_0 and ε are σ_data² and 1, and the "
                "two are orthogonal.",
                Equal(
                    Norm2(best) - D,
                    (
                        sigma**2 / spread**2 * (Norm2(x_0) - spread**2 * D)
                        + spread**2 * (Norm2(noise) - D)
                        - 2 * sigma * Dot(noise, x_0)
                    )
                    / total**2,
                ),
            ),
            Step(
                "unit-input",
                "So is that of its input, c_in x.",
                Equal(
                    Norm2(into * x) - D,
                    (Norm2(x_0) - spread**2 * D + sigma**2 * (Norm2(noise) - D) + 2 * sigma * Dot(noise, x_0))
                    / total**2,
                ),
            ),
            Step(
                "unit-weight",
                "The weight (σ² + σ_data²)/(σ σ_data)² on the clean latent's squared error is 1 on the output's.",
                Equal(total**2 / (sigma * spread) ** 2 * Norm2(skip * x + out * output - x_0), Norm2(output - best)),
            ),
            Step(
                "chain-factor",
                "On the rectified path the velocity is affine in the output, with the chain factor −c_out/t.",
                Equal(velocity(output + h) - velocity(output), -out / t * h),
            ),
            Step(
                "vp-state",
                "With σ_data = 1 the input is the variance-preserving path's state, at tan φ = σ …",
                Equal(into * x, alpha * x_0 + s * noise, alike),
            ),
            Step(
                "minus-v",
                "… and the target is minus its velocity: F predicts −v.",
                Equal(best, -(alpha * noise - s * x_0), alike),
            ),
        ),
        {},
        _EDM,
    )


_EDM = """@inproceedings{karras2022edm,
  title={Elucidating the Design Space of Diffusion-Based Generative Models},
  author={Karras, Tero and Aittala, Miika and Aila, Timo and Laine, Samuli},
  booktitle={NeurIPS}, year={2022}, note={arXiv:2206.00364}}"""
_SALIMANS = """@inproceedings{salimans2022progressive,
  title={Progressive Distillation for Fast Sampling of Diffusion Models},
  author={Salimans, Tim and Ho, Jonathan},
  booktitle={ICLR}, year={2022}, note={arXiv:2202.00512}}"""

PARAMETERISATIONS: tuple[Theorem, ...] = (
    _predictions("predictions-rectified", "Velocity, noise and data on the rectified path", _PATHS["rectified", 1]),
    _predictions(
        "predictions-vp",
        "Velocity, noise and data on the variance-preserving path",
        _PATHS["vp", 1],
        _SALIMANS,
        (_rotation(),),
    ),
    _time_reversal(),
    _edm(),
)
"""What is proved of paths and predictions, whatever the loss."""
