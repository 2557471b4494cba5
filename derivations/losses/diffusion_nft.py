r"""DiffusionNFT: contrast an implicit positive and negative policy, both mixtures with the old model.

.. math:: \mathcal{L} = r\|v^+ - v_{\mathrm{gt}}\|^2 + (1-r)\|v^- - v_{\mathrm{gt}}\|^2, \qquad
          v^\pm = (1\mp\beta) v_{\mathrm{old}} \pm \beta v_\theta

Proved: the gradient's split into an optimisation direction and a trust region; equality in value, up to a
constant, with β²‖v_theta − v*‖², v* = v_old + (A/β)(v_gt − v_old), A = 2r − 1, hence in every derivative.  The authors'
maps from an advantage to r only replace A.  So does their adaptive weighting, in the gradient: its weights are
detached, but depend on v_theta, so that v* moves with it, and the values differ by no constant.
Source: DiffusionNFT, arXiv:2509.16117, Eq. 5 and Theorem 3.2.
"""

from __future__ import annotations

import sympy as sp

from derivations.algorithm import Algorithm, Options, Pull, Stated
from derivations.calculus import MeanAbs, Norm2, sg
from derivations.claims import Equal, EqualUpToConstant, GradientIs, SameHessian
from derivations.derivation import Step
from derivations.losses import _forward
from derivations.losses._advantage_modes import MODES, mode_steps, probability
from derivations.losses._forward import held, mixture_step, on_noised_data, per_coordinate, reference_weight
from derivations.losses._lines import ADAPTIVE, REF_MEAN, mapped, mixture, with_reference
from derivations.notation import (
    Delta,
    advantage,
    advantage_tilde,
    beta,
    delta,
    noise,
    reward_prob,
    rho_minus,
    rho_plus,
    t,
    v_gt,
    v_old,
    v_theta,
    w_minus,
    w_plus,
    x_0,
    x_t,
)
from derivations.variant import Variant

_FLOOR = sp.Rational(1, 10**5)
v_plus = (1 - beta) * v_old + beta * v_theta
v_minus = (1 + beta) * v_old - beta * v_theta


@on_noised_data
def _assemble(options: Options) -> Stated:
    each = per_coordinate(options)
    adaptive, mode = options["weighting"] == "adaptive", options["advantage_mode"]
    if adaptive:
        good, bad = rho_plus, rho_minus
        scale = each / beta
        matching = scale * (good * Norm2(_x_0_hat(v_plus) - x_0) + bad * Norm2(_x_0_hat(v_minus) - x_0))
        strength = scale * t**2
    else:
        good, bad = reward_prob, 1 - reward_prob
        strength = each
        matching = strength * (good * Norm2(v_plus - v_gt) + bad * Norm2(v_minus - v_gt))
    total = sp.simplify(good + bad)
    pull = advantage_tilde if adaptive or mode != "none" else advantage
    v_star = v_old + pull / beta * (v_gt - v_old)
    own_weight = strength * total * beta**2
    own_gradient = 2 * own_weight * (v_theta - v_star)
    constant = strength * total * (1 - pull**2) * Norm2(Delta)
    whole = held(Pull(matching, own_gradient, own_weight, v_star), reference_weight(options))
    return Stated(
        whole,
        definitions={
            x_t: (1 - t) * x_0 + t * noise,
            delta: v_theta - v_old,
            Delta: v_old - v_gt,
            **({advantage: 2 * reward_prob - 1} if mode == "none" else {advantage_tilde: 2 * reward_prob - 1}),
            **(_adaptive_shares() if adaptive else {}),
        },
        coefficients={
            **({} if mode == "none" else {reward_prob: probability(mode)}),
            **(_adaptive_weights() if adaptive else {}),
        },
        steps=_steps(matching, own_gradient, strength, good, bad),
        after=(
            *(
                _held_weights(matching, own_weight, v_star)
                if adaptive
                else _in_value(matching, own_weight, v_star, constant)
            ),
            *_remarks(own_gradient, own_weight, v_star),
            *mode_steps(mode),
            *mixture_step(own_weight, v_star, reference_weight(options), moves=adaptive),
        ),
        domain={reward_prob: 1 / (1 + sp.Symbol("rho", positive=True))},
    )


ALGORITHM = Algorithm(
    name="diffusion_nft",
    title="DiffusionNFT",
    reference="""@article{zheng2025diffusionnft,
  title={DiffusionNFT: Online Diffusion Reinforcement with Forward Process},
  author={Zheng, Kaiwen and others},
  journal={arXiv:2509.16117}, year={2025}}""",
    process="forward",
    policy="off",
    options={
        **_forward.OPTIONS,
        "weighting": ("none", "adaptive"),
        "advantage_mode": MODES,
    },
    variants=(
        Variant("paper", "the two squared errors, summed over coordinates", line=mixture("norm2({v} - v_gt)")),
        Variant("mean", "averaged over coordinates", {"reduction": "mean"}, line=mixture("mean(({v} - v_gt)**2)")),
        with_reference(mixture("norm2({v} - v_gt)")),
        Variant(
            "adaptive",
            "the authors' adaptive weighting, in x_0-space and divided by β",
            {"reduction": "mean", "weighting": "adaptive"},
            line=ADAPTIVE,
        ),
        Variant(
            "adaptive-reference",
            "adaptive weighting with a reference term",
            {"reduction": "mean", "weighting": "adaptive", "reference": "on"},
            line=ADAPTIVE + REF_MEAN,
        ),
        Variant(
            "advantages",
            "r from the clipped advantage, as the authors map it",
            {"advantage_mode": "all"},
            line=mapped("A") + mixture("norm2({v} - v_gt)"),
        ),
        Variant(
            "positive-only",
            "bad samples held at v_old",
            {"advantage_mode": "positive_only"},
            line=mapped("max(A, 0)") + mixture("norm2({v} - v_gt)"),
        ),
        Variant(
            "binary",
            "r from the advantage's sign",
            {"reduction": "mean", "advantage_mode": "binary"},
            line=mapped("sign(A)") + mixture("mean(({v} - v_gt)**2)"),
        ),
    ),
    assemble=_assemble,
)


def _x_0_hat(v: sp.Expr) -> sp.Expr:
    return x_t - t * v


def _adaptive_shares() -> dict[sp.Symbol, sp.Expr]:
    """Adaptive weighting replaces r and 1 − r by these, and so A by Ã."""
    return {
        rho_plus: reward_prob / w_plus,
        rho_minus: (1 - reward_prob) / w_minus,
        advantage_tilde: (rho_plus - rho_minus) / (rho_plus + rho_minus),
    }


def _adaptive_weights() -> dict[sp.Symbol, sp.Expr]:
    return {
        w_plus: sg(sp.Max(MeanAbs(_x_0_hat(v_plus) - x_0), _FLOOR)),
        w_minus: sg(sp.Max(MeanAbs(_x_0_hat(v_minus) - x_0), _FLOOR)),
    }


def _steps(matching: sp.Expr, gradient: sp.Expr, strength: sp.Expr, good: sp.Expr, bad: sp.Expr) -> tuple[Step, ...]:
    label = r"\mathcal{L}_{\mathrm{NFT}}"
    return (
        Step(
            "positive-branch", "The positive branch misses v_gt by Δ + βδ …", Equal(v_plus - v_gt, Delta + beta * delta)
        ),
        Step("negative-branch", "… and the negative branch by Δ − βδ.", Equal(v_minus - v_gt, Delta - beta * delta)),
        Step(
            "delta-form",
            "The loss in Δ and δ.",
            Equal(matching, strength * (good * Norm2(Delta + beta * delta) + bad * Norm2(Delta - beta * delta))),
        ),
        Step(
            "trust-region-split",
            "Its gradient: an optimisation direction along Δ, weighted like an advantage, and a trust region along δ.",
            GradientIs(
                matching,
                2 * strength * beta * (good - bad) * Delta + 2 * strength * beta**2 * (good + bad) * delta,
                label=label,
            ),
        ),
        Step(
            "factored-gradient",
            "Both together point away from one target v*.",
            GradientIs(matching, gradient, label=label),
        ),
    )


def _in_value(matching: sp.Expr, weight: sp.Expr, v_star: sp.Expr, constant: sp.Expr) -> tuple[Step, ...]:
    one = weight * Norm2(v_theta - v_star)
    return (
        Step(
            "value",
            "The loss equals the squared distance to v* up to a constant …",
            EqualUpToConstant(matching, one, constant),
        ),
        Step("hessian", "… so it has the same Hessian.", SameHessian(matching, one)),
    )


def _held_weights(matching: sp.Expr, weight: sp.Expr, v_star: sp.Expr) -> tuple[Step, ...]:
    """The weights depend on v_theta, detached or not: the target moves with it, and no value is a constant."""
    plus, minus = (formula.args[0] for formula in _adaptive_weights().values())
    one = weight * Norm2(v_theta - v_star)
    return (
        Step(
            "hessian",
            "With the weights w⁺ and w⁻ held, the loss has the Hessian of the squared distance to v*.",
            SameHessian(matching, one, held=(w_plus, w_minus)),
        ),
        Step(
            "starts-as-plain",
            "At v_theta = v_old both weights are the same, so that Ã is A there.",
            Equal(_tilde(plus, minus), 2 * reward_prob - 1, {v_theta: v_old}),
        ),
    )


def _tilde(plus: sp.Expr, minus: sp.Expr) -> sp.Expr:
    """Ã for given weights."""
    good, bad = reward_prob / plus, (1 - reward_prob) / minus
    return (good - bad) / (good + bad)


def _remarks(gradient: sp.Expr, weight: sp.Expr, v_star: sp.Expr) -> tuple[Step, ...]:
    one = weight * Norm2(v_theta - v_star)
    centre = (v_gt - v_old) / beta
    return (
        Step(
            "mixture-centres",
            "Lemma L3: the two branches are squared distances to v_old ± (v_gt − v_old)/β.",
            Equal(Norm2(v_plus - v_gt), beta**2 * Norm2(v_theta - (v_old + centre))),
        ),
        Step(
            "mixture-centres-negative",
            "The negative branch likewise.",
            Equal(Norm2(v_minus - v_gt), beta**2 * Norm2(v_theta - (v_old - centre))),
        ),
        Step(
            "certain-success",
            "r = 1 pulls to v_old + (v_gt − v_old)/β, whatever the weighting …",
            Equal(v_star, v_old + centre, {reward_prob: sp.S.One}),
        ),
        Step(
            "certain-failure",
            "… and r = 0 to the opposite side of v_old.",
            Equal(v_star, v_old - centre, {reward_prob: sp.S.Zero}),
        ),
        Step(
            "undecided",
            "Where both branches weigh the same the target is v_old: a trust region and nothing else.",
            GradientIs((Norm2(v_plus - v_gt) + Norm2(v_minus - v_gt)) / 2, 2 * beta**2 * (v_theta - v_old)),
        ),
        Step(
            "article-factor",
            "The article's equivalent loss has the factor 2β²; its gradient is twice the loss's.",
            GradientIs(2 * one, 2 * gradient, label=r"\left[2\beta^2\|v_\theta-v^*\|^2\right]"),
        ),
    )
