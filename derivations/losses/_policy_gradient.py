r"""What policy gradients on a reverse step share: its Gaussian, the log-density, the ratio and the KL term.

The log-density is :math:`\log p = -\lambda\|x_{t-\Delta t} - \mu\|^2`.  With :math:`s = 2\lambda C_2^2` every result
reads like the true Gaussian's (s = 1); the mean over coordinates has s = 1/D.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sympy as sp

from derivations.algorithm import Pull, Stated
from derivations.calculus import ClipMask, Dot, Norm2
from derivations.claims import Approximates, Equal, GradientIs, Parallel
from derivations.derivation import PathName, Step
from derivations.lemmas import gaussian_definitions
from derivations.notation import (
    C1,
    C2,
    D,
    advantage,
    clip_high,
    clip_low,
    delta,
    k,
    kl_weight,
    log_prob_old,
    log_prob_theta,
    log_ratio,
    mean_offset,
    mean_old,
    mean_ref,
    mean_theta,
    noise,
    noise_norm,
    ratio,
    sigma_t,
    v_old,
    v_ref,
    v_theta,
    window,
    x_prev,
)
from derivations.steps.sde import reverse_step
from derivations.variant import choose

__all__ = ["OPTIONS", "GaussianPolicy", "approximations", "mask", "ratio_gradient", "time_weight_steps"]

OPTIONS = {
    "sde": ("flow", "dance", "cps", "wan"),
    "log_prob_reduction": ("sum", "mean"),
    "log_prob_scale": ("gaussian", "unit"),
    "kl": ("none", "step", "sigma"),
    "time_weight": ("none", "noise", "window"),
}
"""What an implementation may declare, the default first."""

mask = ClipMask(advantage, ratio, clip_low, clip_high)


@dataclass(frozen=True)
class GaussianPolicy:
    """A reverse step and how an implementation writes its log-density and its KL term.

    Attributes:
        sde: a reverse step of :mod:`derivations.steps.sde`.
        log_prob_reduction: ``"sum"`` or ``"mean"`` over the latent's coordinates (of the KL term too).
        log_prob_scale: ``"gaussian"`` has the density's factor 1/(2 C2²), ``"unit"`` leaves it out.
        kl: ``"none"``; ``"step"``, the KL divergence of the two Gaussian steps, over 2 C2²; ``"sigma"``, over
            2 σ_t²; or ``"behaviour"``, ½ (log p_theta − log p_old)², which holds to the behaviour model and not to a
            reference (MixGRPO's public code).
        time_weight: what multiplies a sample's policy term by its time step, detached: ``"none"``; ``"noise"``, C2 over
            one number for all steps (TempFlow-GRPO, arXiv:2508.04324); or ``"window"``, 1 inside the window of steps
            that train and 0 outside, of the KL term too (MixGRPO, arXiv:2507.21802).
    """

    sde: str = "flow"
    log_prob_reduction: str = "sum"
    log_prob_scale: str = "gaussian"
    kl: str = "none"
    time_weight: str = "none"

    def __post_init__(self) -> None:
        reverse_step(self.sde)
        choose("log_prob_reduction", self.log_prob_reduction, "sum", "mean")
        choose("log_prob_scale", self.log_prob_scale, "gaussian", "unit")
        choose("kl", self.kl, "none", "step", "sigma", "behaviour")
        choose("time_weight", self.time_weight, "none", "noise", "window")

    @property
    def per_coordinate(self) -> sp.Expr:
        return 1 / D if self.log_prob_reduction == "mean" else sp.S.One

    @property
    def precision(self) -> sp.Expr:
        """λ."""
        return self.per_coordinate * (1 / (2 * C2**2) if self.log_prob_scale == "gaussian" else sp.S.One)

    @property
    def normaliser(self) -> sp.Expr:
        """The density's constant, which cancels in every ratio; implementations add it, and rounding sees it."""
        if self.log_prob_scale == "unit":
            return sp.S.Zero
        return D * self.per_coordinate * (sp.log(C2) + sp.log(2 * sp.pi) / 2)

    @property
    def scale(self) -> sp.Expr:
        """s = 2λ C2²."""
        return 2 * self.precision * C2**2

    @property
    def definitions(self) -> dict[sp.Symbol, sp.Expr]:
        lam = self.precision
        return {
            **gaussian_definitions(),
            mean_ref: mean_offset - C1 * v_ref,
            log_prob_theta: -lam * Norm2(x_prev - mean_theta) - self.normaliser,
            log_prob_old: -lam * Norm2(x_prev - mean_old) - self.normaliser,
            log_ratio: log_prob_theta - log_prob_old,
        }

    @property
    def coefficients(self) -> dict[sp.Symbol, sp.Expr]:
        return dict(reverse_step(self.sde).formulas)

    @property
    def within(self) -> Mapping[sp.Symbol, sp.Interval]:
        """Where the reverse step is one that adds noise."""
        return reverse_step(self.sde).within

    @property
    def path(self) -> PathName:
        return reverse_step(self.sde).path

    @property
    def closed_log_ratio(self) -> sp.Expr:
        return -self.scale * (k**2 / 2 * Norm2(delta) + k * Dot(delta, noise))

    @property
    def weighting(self) -> sp.Expr:
        """What multiplies the policy term."""
        return {"none": sp.S.One, "noise": C2 / noise_norm, "window": window}[self.time_weight]

    @property
    def kl_weighting(self) -> sp.Expr:
        """What multiplies the KL term: a step outside the window has none."""
        return kl_weight * (window if self.time_weight == "window" else 1)

    @property
    def kl_loss(self) -> sp.Expr:
        if self.kl == "behaviour":
            return self.kl_weighting * (log_prob_theta - log_prob_old) ** 2 / 2
        denominator = {"step": 2 * C2**2, "sigma": 2 * sigma_t**2}.get(self.kl)
        if denominator is None:
            return sp.S.Zero
        return self.kl_weighting * self.per_coordinate * Norm2(mean_theta - mean_ref) / denominator

    @property
    def kl_gradient(self) -> sp.Expr:
        if self.kl == "behaviour":
            return -self.kl_weighting * (log_prob_theta - log_prob_old) * self.scale * k * (noise + k * delta)
        factor = {"none": 0, "step": k**2, "sigma": C1**2 / sigma_t**2}[self.kl]
        return self.kl_weighting * self.per_coordinate * factor * (v_theta - v_ref)

    @property
    def quoted(self) -> sp.Expr:
        """The gradient that people quote: what is left on-policy, the KL term's with it."""
        return self.weighting * advantage * self.scale * k * noise + self.kl_gradient

    def held(self, loss: sp.Expr, gradient: sp.Expr) -> Pull:
        """The policy's term with the KL term, if any; with weight 1/2 the target is one gradient step away."""
        gradient = gradient + self.kl_gradient
        return Pull(loss=loss + self.kl_loss, gradient=gradient, weight=sp.Rational(1, 2), target=v_theta - gradient)

    def stated(
        self,
        pull: Pull,
        *,
        steps: tuple[Step, ...],
        after: tuple[Step, ...],
        definitions: Mapping[sp.Symbol, sp.Expr] | None = None,
        quoted: sp.Expr | None = None,
    ) -> Stated:
        """A loss on this step.

        Args:
            pull: the loss, the KL term with it.
            steps, after: as a derivation has them.
            definitions: besides the step's own.
            quoted: the gradient that people quote, if it is another than :attr:`quoted`.
        """
        quoted = self.quoted if quoted is None else quoted
        return Stated(
            pull,
            definitions={**self.definitions, **(definitions or {})},
            coefficients=self.coefficients,
            steps=steps,
            after=after,
            brief_gradient=quoted,
            brief_target=v_theta - quoted,
            path=self.path,
            within=self.within,
        )

    @property
    def _precision_step(self) -> tuple[Step, ...]:
        if self.log_prob_scale != "gaussian":
            return ()
        at_one_std = -self.precision * Norm2(C2 * noise)
        return (
            Step(
                "precision",
                "The density is the Gaussian's own: noise of unit size costs half a unit of log p, per coordinate.",
                Equal(at_one_std, -self.per_coordinate * Norm2(noise) / 2),
            ),
        )

    @property
    def steps(self) -> tuple[Step, ...]:
        """Lemma L2 on this policy, and the KL term where there is one."""
        pull = -self.scale * k * (noise + k * delta)
        steps = (
            Step(
                "step-residual",
                "The sampled state lies off the trained model's mean by the velocities' difference and by the noise.",
                Equal(x_prev - mean_theta, C1 * delta + C2 * noise),
            ),
            *self._precision_step,
            Step("log-ratio", "The log-ratio is a quadratic in δ.", Equal(log_ratio, self.closed_log_ratio)),
            Step(
                "log-prob-gradient",
                "The log-density pulls along δ and ε alone.",
                GradientIs(log_prob_theta, pull, label=r"\log p_\theta"),
            ),
        )
        if self.kl == "none":
            return steps
        kl = Step(
            "kl-gradient",
            "The penalty pulls along noise, too, by as much as the log-ratio is off 0; it is 0 at the behaviour model."
            if self.kl == "behaviour"
            else "The KL term pushes straight away from the reference velocity.",
            GradientIs(self.kl_loss, self.kl_gradient, label=r"\mathrm{KL}"),
        )
        return (*steps, kl)


def time_weight_steps(policy: GaussianPolicy, gradient: sp.Expr) -> tuple[Step, ...]:
    """What a weight by the time step does to the gradient."""
    if policy.time_weight == "noise":
        return (
            Step(
                "time-weight",
                "The weight takes C2 out of k = C1/C2: a step pulls in proportion to its C1 alone.",
                Equal(policy.weighting * k, C1 / noise_norm),
            ),
        )
    if policy.time_weight == "window":
        return (
            Step(
                "outside-the-window",
                "A step outside the window trains nothing: its target is v_theta itself.",
                Equal(v_theta - gradient, v_theta, {window: sp.S.Zero}),
            ),
        )
    return ()


def ratio_gradient(policy: GaussianPolicy) -> Step:
    """The gradient of the density's own ratio."""
    return Step(
        "ratio-gradient",
        "The ratio's gradient is the ratio times the log-density's.",
        GradientIs(ratio, -ratio * policy.scale * k * (noise + k * delta), label=r"r_t(\theta)"),
    )


def approximations(policy: GaussianPolicy, gradient: sp.Expr) -> tuple[Step, ...]:
    """What is left of A m r k (ε + kδ) on-policy, and how far off that is elsewhere."""
    on_policy, quoted = {v_theta: v_old}, policy.quoted
    exact, short, s = ratio * (noise + k * delta), noise, policy.scale
    along, distance = Dot(delta, noise), Norm2(delta)
    first = k * (delta - s * along * noise)
    second = k**2 * (s / 2 * (s * along**2 - distance) * noise - s * along * delta)
    return (
        Step(
            "approximate-gradient",
            "On-policy (δ = 0, so r = 1 and m = 1) what is left is the noise, weighted by the advantage.",
            Approximates(gradient, quoted, on_policy),
        ),
        Step(
            "approximate-target",
            "So the velocity is pulled against the noise where the advantage is positive.",
            Approximates(v_theta - gradient, v_theta - quoted, on_policy),
        ),
        Step(
            "expansion",
            "The next orders in δ, near v_old, where nothing is masked: the ratio adds to the length along the noise, "
            "and kδ turns the direction.",
            Approximates(
                gradient, quoted + policy.weighting * advantage * s * k * (first + second), on_policy, order=3
            ),
        ),
        Step(
            "approximation-error",
            "Where nothing is masked, the quoted form's squared relative error depends on r, k, δ and ε alone.",
            Equal(
                Norm2(advantage * policy.scale * k * (exact - short)) / Norm2(advantage * policy.scale * k * exact),
                Norm2(exact - short) / Norm2(exact),
            ),
        ),
        Step(
            "direction-only",
            "Every point of the ray is as good a target when only the direction counts: v_theta − A ε is one.",
            Parallel(-advantage * policy.scale * k * noise, -advantage * noise, policy.scale * k),
        ),
    )
