r"""AWM, advantage-weighted matching: the flow-matching loss with the advantage as its weight.

.. math:: \mathcal{L} = A \|v_\theta - v_{\mathrm{gt}}\|^2

Proved: the gradient 2A(v_theta − v_gt) and the target v_theta + A(v_gt − v_theta), both exact; the PPO-clipped
form that its authors ship, with log p = −ω(t)·mean‖v_theta − v_gt‖² and its robust relatives; reference terms, as they
are, over 2σ_t² as an ELBO has them, and to the EMA copy that samples.
Source: Xue et al., "Advantage Weighted Matching: Aligning RL with Pretraining in Diffusion Models", arXiv:2509.25050.
"""

from __future__ import annotations

import sympy as sp

from derivations.algorithm import Algorithm, Options, Pull, Stated
from derivations.calculus import ClipMask, Dot, Norm2, Surrogate
from derivations.claims import Approximates, Equal, GradientIs
from derivations.derivation import Step
from derivations.losses import _forward
from derivations.losses._forward import held, mixture_step, on_noised_data, per_coordinate, reference_weight
from derivations.losses._lines import REF_MEAN, clipped, with_reference
from derivations.notation import (
    advantage,
    clip_high,
    clip_low,
    kl_weight,
    log_prob_old,
    log_prob_theta,
    log_ratio,
    omega,
    ratio,
    sigma_t,
    t,
    v_gt,
    v_old,
    v_ref,
    v_theta,
)
from derivations.steps.sde import reverse_step
from derivations.variant import Variant

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


@on_noised_data
def _assemble(options: Options) -> Stated:
    build = _clipped if options["clip"] == "ppo" else _plain
    strength = reference_weight(options)
    if options["reference"] == "elbo":
        strength = kl_weight * per_coordinate(options) / (2 * sigma_t**2)
    return build(options, per_coordinate(options), strength)


ALGORITHM = Algorithm(
    name="awm",
    title="AWM",
    reference="""@article{xue2025awm,
  title={Advantage Weighted Matching: Aligning RL with Pretraining in Diffusion Models},
  author={Xue, Shuchen and others},
  journal={arXiv:2509.25050}, year={2025}}""",
    process="forward",
    policy="on",
    options={
        "reduction": _forward.OPTIONS["reduction"],
        "reference": (*_forward.OPTIONS["reference"], "elbo", "ema"),
        "clip": ("none", "ppo"),
        "omega": ("uniform", "t", "t2", "huber", "ghuber"),
    },
    variants=(
        Variant("paper", "the weighted squared error, summed over coordinates", line="A*norm2(v_theta - v_gt)"),
        Variant("mean", "averaged over coordinates", {"reduction": "mean"}, line="A*mean((v_theta - v_gt)**2)"),
        with_reference("A*norm2(v_theta - v_gt)"),
        Variant(
            "clipped",
            "the authors' PPO-clipped form, with ω = 1",
            {"clip": "ppo", "reduction": "mean"},
            line=clipped("mean(({v} - v_gt)**2)"),
        ),
        Variant(
            "clipped-t",
            "PPO-clipped with ω = t",
            {"clip": "ppo", "reduction": "mean", "omega": "t"},
            line=clipped("t*mean(({v} - v_gt)**2)"),
        ),
        Variant(
            "clipped-t2",
            "PPO-clipped with ω = t²",
            {"clip": "ppo", "reduction": "mean", "omega": "t2"},
            line=clipped("t**2*mean(({v} - v_gt)**2)"),
        ),
        Variant(
            "clipped-huber",
            "PPO-clipped with the Huber-like log-density",
            {"clip": "ppo", "reduction": "mean", "omega": "huber"},
            line=clipped("(sqrt(mean(({v} - v_gt)**2) + 1e-10) - 1e-5)*t"),
        ),
        Variant(
            "clipped-ghuber",
            "PPO-clipped with the generalised Huber log-density, p = 1/4",
            {"clip": "ppo", "reduction": "mean", "omega": "ghuber"},
            line=clipped("((mean(({v} - v_gt)**2) + 1e-10)**0.25 - 1e-10**0.25)*t/0.25"),
        ),
        Variant(
            "clipped-reference",
            "PPO-clipped with a reference term",
            {"clip": "ppo", "reduction": "mean", "reference": "on"},
            line=clipped("mean(({v} - v_gt)**2)") + REF_MEAN,
        ),
        Variant(
            "clipped-elbo",
            "PPO-clipped with a reference term over 2σ_t², the weight that an ELBO gives it",
            {"clip": "ppo", "reduction": "mean", "reference": "elbo"},
            line=clipped("mean(({v} - noise + x_0)**2)") + REF_MEAN + "*(1 - t)/(2*noise_level**2*t)",
        ),
        Variant(
            "clipped-ema",
            "PPO-clipped and held to the behaviour model, an EMA copy, in the reference's place",
            {"clip": "ppo", "reduction": "mean", "reference": "ema"},
            line=clipped("mean(({v} - v_gt)**2)") + " + kl_weight*mean((v_theta - v_old)**2)",
        ),
    ),
    assemble=_assemble,
)


def _held(pull: Pull, options: Options, each: sp.Expr, strength: sp.Expr) -> Pull:
    """With the term that holds the model: to its reference, or to the model that samples."""
    if options["reference"] != "ema":
        return held(pull, strength)
    found = held(pull, kl_weight * each)
    return Pull(*(expr.xreplace({v_ref: v_old}) for expr in (found.loss, found.gradient, found.weight, found.target)))


def _diffusion(options: Options) -> dict[sp.Symbol, sp.Expr]:
    """σ_t, where a term is divided by it: the Flow-SDE's."""
    return {sigma_t: reverse_step("flow").formulas[sigma_t]} if options["reference"] == "elbo" else {}


def _held_steps(options: Options, each: sp.Expr, strength: sp.Expr) -> tuple[Step, ...]:
    term = {"elbo": (v_ref, strength), "ema": (v_old, kl_weight * each)}.get(options["reference"])
    if term is None:
        return ()
    v, weight = term
    words = {
        "elbo": "The reference term pulls harder near data, where σ_t is small.",
        "ema": "The term to the EMA copy pulls back to the model that samples, as DiffusionNFT's trust region does.",
    }
    distance = weight * Norm2(v_theta - v)
    return (
        Step(
            "held",
            words[options["reference"]],
            GradientIs(distance, 2 * weight * (v_theta - v), label=r"\mathcal{L}_{\mathrm{held}}"),
        ),
    )


def _plain(options: Options, each: sp.Expr, strength: sp.Expr) -> Stated:
    loss = advantage * each * Norm2(v_theta - v_gt)
    matching = 2 * advantage * each * (v_theta - v_gt)
    target = v_theta + advantage * (v_gt - v_theta)
    pull = Pull(loss, matching, each, target)
    pull = _held(pull, options, each, strength)
    return Stated(
        pull,
        coefficients=_diffusion(options),
        steps=(
            Step(
                "matching-gradient",
                "The flow-matching gradient, times the advantage.",
                GradientIs(loss, matching, label=r"\mathcal{L}_{\mathrm{AWM}}"),
            ),
            *_held_steps(options, each, strength),
        ),
        after=(
            Step(
                "good-sample",
                "A = 1: the target is v_gt, plain flow matching.",
                Equal(target, v_gt, {advantage: sp.S.One}),
            ),
            Step(
                "bad-sample",
                "A = −1: the target lies as far on the other side, at 2 v_theta − v_gt.",
                Equal(target, 2 * v_theta - v_gt, {advantage: sp.S.NegativeOne}),
            ),
            *mixture_step(advantage * each, v_gt, strength),
        ),
    )


def _clipped(options: Options, each: sp.Expr, strength: sp.Expr) -> Stated:
    m = sp.Symbol("m", nonnegative=True)
    slope = sp.diff(_discrepancy(options["omega"], m), m)

    def error(v: sp.Expr) -> sp.Expr:
        return each * Norm2(v - v_gt)

    def log_prob(v: sp.Expr) -> sp.Expr:
        return -_discrepancy(options["omega"], m).xreplace({m: error(v)})

    effective, at_old = (slope.xreplace({m: error(v)}) for v in (v_theta, v_old))
    mask = ClipMask(advantage, ratio, clip_low, clip_high)
    surrogate = Surrogate(advantage, ratio, clip_low, clip_high)
    own = advantage * mask * ratio * 2 * effective * each * (v_theta - v_gt)
    quoted = advantage * 2 * effective * each * (v_theta - v_gt)
    pull, brief = (
        _held(Pull(surrogate, g, each, v_theta - g / (2 * each)), options, each, strength) for g in (own, quoted)
    )
    weightings = {"uniform": sp.S.One, "t": t, "t2": t**2}
    return Stated(
        pull,
        definitions={
            log_prob_theta: log_prob(v_theta),
            log_prob_old: log_prob(v_old),
            log_ratio: log_prob_theta - log_prob_old,
            ratio: sp.exp(log_ratio),
        },
        coefficients={
            **({omega: weightings[options["omega"]]} if options["omega"] in weightings else {}),
            **_diffusion(options),
        },
        steps=(
            Step(
                "log-prob-gradient",
                "The log-density pulls towards v_gt, with the weight of the time.",
                GradientIs(log_prob_theta, -2 * effective * each * (v_theta - v_gt), label=r"\log p_\theta"),
            ),
            Step(
                "surrogate-gradient",
                "PPO's clip puts a mask m and the ratio on it (lemma L4).",
                GradientIs(surrogate, own, label=r"\left(-J\right)"),
            ),
            *_held_steps(options, each, strength),
        ),
        after=(
            Step(
                "on-policy",
                "On-policy (r = 1, m = 1) this is AWM's own gradient, times the weight of the time.",
                Approximates(pull.gradient, brief.gradient, {v_theta: v_old}),
            ),
            Step(
                "expansion",
                "To the next order in v_theta − v_old, near v_old, where nothing is masked: the ratio grows "
                "towards v_gt.",
                Approximates(
                    pull.gradient,
                    brief.gradient - 2 * at_old * each * Dot(v_old - v_gt, v_theta - v_old) * quoted,
                    {v_theta: v_old},
                    order=2,
                ),
            ),
        ),
        brief_gradient=brief.gradient,
        brief_target=brief.target,
    )
