r"""AWM, advantage-weighted matching: the flow-matching loss with the advantage as its weight.

.. math:: \mathcal{L} = A \|v_\theta - v_{\mathrm{gt}}\|^2

Proved: the gradient 2A(v_theta − v_gt) and the target v_theta + A(v_gt − v_theta), both exact; the PPO-clipped
form that its authors ship, with log p = −ω(t)·mean‖v_theta − v_gt‖² and its robust relatives; reference terms.
Source: Xue et al., "Advantage Weighted Matching: Aligning RL with Pretraining in Diffusion Models", 2025.
"""

from __future__ import annotations

import sympy as sp

from derivations.calculus import ClipMask, Norm2, Surrogate
from derivations.claims import Approximates, Equal, EqualUpToConstant, GradientIs
from derivations.derivation import Derivation, Step
from derivations.identities import velocity_step
from derivations.notation import (
    D,
    advantage,
    clip_high,
    clip_low,
    kl_weight,
    log_prob_old,
    log_prob_theta,
    log_ratio,
    noise,
    omega,
    ratio,
    t,
    v_gt,
    v_old,
    v_ref,
    v_theta,
    x_0,
)
from derivations.variant import Variant, choose

NAME = "awm"
TITLE = "AWM"
REFERENCE = """@article{xue2025awm,
  title={Advantage Weighted Matching: Aligning RL with Pretraining in Diffusion Models},
  author={Xue, Shuchen and others}, year={2025}}"""

OPTIONS = {
    "reduction": ("sum", "mean"),
    "clip": ("none", "ppo"),
    "omega": ("uniform", "t", "t2", "huber", "ghuber"),
    "reference": ("off", "on"),
}
"""What an implementation may declare, the default first."""

VARIANTS = (
    Variant("paper", "the weighted squared error, summed over coordinates"),
    Variant("mean", "averaged over coordinates", {"reduction": "mean"}),
    Variant("reference", "with a squared distance to the reference velocity", {"reference": "on"}),
    Variant("clipped", "the authors' PPO-clipped form, with ω = 1", {"clip": "ppo", "reduction": "mean"}),
    Variant("clipped-t", "PPO-clipped with ω = t", {"clip": "ppo", "reduction": "mean", "omega": "t"}),
    Variant("clipped-t2", "PPO-clipped with ω = t²", {"clip": "ppo", "reduction": "mean", "omega": "t2"}),
    Variant(
        "clipped-huber",
        "PPO-clipped with the Huber-like log-density",
        {"clip": "ppo", "reduction": "mean", "omega": "huber"},
    ),
    Variant(
        "clipped-ghuber",
        "PPO-clipped with the generalised Huber log-density, p = 1/4",
        {"clip": "ppo", "reduction": "mean", "omega": "ghuber"},
    ),
    Variant(
        "clipped-reference",
        "PPO-clipped with a reference term",
        {"clip": "ppo", "reduction": "mean", "reference": "on"},
    ),
)

_FLOOR = sp.Rational(1, 10**10)
_POWER = sp.Rational(1, 4)


def _discrepancy(omega_name: str, m: sp.Expr) -> sp.Expr:
    """−log p as a function of the (mean) squared error m."""
    return {
        "uniform": omega * m,
        "t": omega * m,
        "t2": omega * m,
        "huber": t * (sp.sqrt(m + _FLOOR) - sp.sqrt(_FLOOR)),
        "ghuber": t / _POWER * ((m + _FLOOR) ** _POWER - _FLOOR**_POWER),
    }[omega_name]


def derive(variant: Variant = VARIANTS[0]) -> Derivation:
    """State and derive one variant."""
    options = {"reduction": "sum", "clip": "none", "omega": "uniform", "reference": "off", **variant.options}
    choose("reduction", options["reduction"], "sum", "mean")
    choose("clip", options["clip"], "none", "ppo")
    choose("omega", options["omega"], "uniform", "t", "t2", "huber", "ghuber")
    choose("reference", options["reference"], "off", "on")
    per_coordinate = 1 / D if options["reduction"] == "mean" else sp.S.One
    to_reference = kl_weight * per_coordinate * Norm2(v_theta - v_ref) if options["reference"] == "on" else sp.S.Zero
    from_reference = 2 * kl_weight * per_coordinate * (v_theta - v_ref) if options["reference"] == "on" else sp.S.Zero
    build = _clipped if options["clip"] == "ppo" else _plain
    return build(variant, options, per_coordinate, to_reference, from_reference)


def _plain(
    variant: Variant, options: dict[str, str], per_coordinate: sp.Expr, to_ref: sp.Expr, from_ref: sp.Expr
) -> Derivation:
    matching = advantage * per_coordinate * Norm2(v_theta - v_gt)
    gradient = 2 * advantage * per_coordinate * (v_theta - v_gt) + from_ref
    target = v_theta + advantage * (v_gt - v_theta) - from_ref / (2 * per_coordinate)
    after = [
        Step(
            "good-sample",
            "A = 1: the target is v_gt, plain flow matching.",
            Equal(v_theta + advantage * (v_gt - v_theta), v_gt, {advantage: sp.S.One}),
        ),
        Step(
            "bad-sample",
            "A = −1: the target lies as far on the other side, at 2 v_theta − v_gt.",
            Equal(v_theta + advantage * (v_gt - v_theta), 2 * v_theta - v_gt, {advantage: sp.S.NegativeOne}),
        ),
    ]
    if to_ref != 0:
        total = advantage + kl_weight
        centre = (advantage * v_gt + kl_weight * v_ref) / total
        constant = advantage * kl_weight / total * Norm2(v_gt - v_ref) * per_coordinate
        after.append(
            Step(
                "mixture",
                "Lemma L3: one squared distance to the weighted centre of v_gt and v_ref, as long as A + β_KL ≠ 0.",
                EqualUpToConstant(matching + to_ref, per_coordinate * total * Norm2(v_theta - centre), constant),
            )
        )
    return Derivation(
        name=NAME,
        variant=variant,
        title=TITLE,
        process="forward",
        policy="on",
        reference=REFERENCE,
        loss=matching + to_ref,
        gradient=gradient,
        weight=per_coordinate,
        target=target,
        definitions={v_gt: noise - x_0},
        steps=(
            velocity_step(),
            Step(
                "matching-gradient",
                "The flow-matching gradient, times the advantage.",
                GradientIs(
                    matching, 2 * advantage * per_coordinate * (v_theta - v_gt), label=r"\mathcal{L}_{\mathrm{AWM}}"
                ),
            ),
        ),
        after=tuple(after),
    )


def _clipped(
    variant: Variant, options: dict[str, str], per_coordinate: sp.Expr, to_ref: sp.Expr, from_ref: sp.Expr
) -> Derivation:
    m = sp.Symbol("m", nonnegative=True)
    slope = sp.diff(_discrepancy(options["omega"], m), m)

    def error(v: sp.Expr) -> sp.Expr:
        return per_coordinate * Norm2(v - v_gt)

    def log_prob(v: sp.Expr) -> sp.Expr:
        return -_discrepancy(options["omega"], m).xreplace({m: error(v)})

    effective = slope.xreplace({m: error(v_theta)})
    mask = ClipMask(advantage, ratio, clip_low, clip_high)
    surrogate = Surrogate(advantage, ratio, clip_low, clip_high)
    pull = advantage * mask * ratio * 2 * effective * per_coordinate * (v_theta - v_gt)
    quoted = advantage * 2 * effective * per_coordinate * (v_theta - v_gt)
    gradient = pull + from_ref
    weightings = {"uniform": sp.S.One, "t": t, "t2": t**2}
    return Derivation(
        name=NAME,
        variant=variant,
        title=TITLE,
        process="forward",
        policy="on",
        reference=REFERENCE,
        loss=surrogate + to_ref,
        gradient=gradient,
        weight=per_coordinate,
        target=v_theta - gradient / (2 * per_coordinate),
        definitions={
            v_gt: noise - x_0,
            log_prob_theta: log_prob(v_theta),
            log_prob_old: log_prob(v_old),
            log_ratio: log_prob_theta - log_prob_old,
            ratio: sp.exp(log_ratio),
        },
        coefficients={omega: weightings[options["omega"]]} if options["omega"] in weightings else {},
        steps=(
            velocity_step(),
            Step(
                "log-prob-gradient",
                "The log-density pulls towards v_gt, with the weight of the time.",
                GradientIs(log_prob_theta, -2 * effective * per_coordinate * (v_theta - v_gt), label=r"\log p_\theta"),
            ),
            Step(
                "surrogate-gradient",
                "PPO's clip puts a mask m and the ratio on it (lemma L4).",
                GradientIs(surrogate, pull, label=r"\left(-J\right)"),
            ),
        ),
        after=(
            Step(
                "on-policy",
                "On-policy (r = 1, m = 1) this is AWM's own gradient, times the weight of the time.",
                Approximates(gradient, quoted + from_ref, {v_theta: v_old}, gradient - quoted - from_ref),
            ),
        ),
        brief_gradient=quoted + from_ref,
        brief_target=v_theta - (quoted + from_ref) / (2 * per_coordinate),
    )
