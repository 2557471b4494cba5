r"""FPO, flow policy optimisation: PPO with the flow-matching loss where a log-density would stand.

.. math:: r = \exp\big(\|v_{\mathrm{old}} - v_{\mathrm{gt}}\|^2 - \|v_\theta - v_{\mathrm{gt}}\|^2\big), \qquad
          \mathcal{L} = -\min\big(r A,\ \mathrm{clip}(r)\, A\big)

Both squared errors are of the same draw of noise and time; log p names minus an error here.
Proved: the gradient 2 A m r (v_theta − v_gt), exact; its on-policy form, which is AWM's; the ratio's closed form and
its upper bound; what changes where several draws share one exponent.  With ω = 1 it is AWM's PPO-clipped form
(:mod:`derivations.coincidences`).
Source: McAllister et al., "Flow Matching Policy Gradients", arXiv:2507.21053.  The public code takes means over action
dimensions and has the error in the noise that follows from the predicted velocity (the variant ``noise``); it also
clamps the log-ratio to ±3, which the preset ``fpo-official`` has too.
"""

from __future__ import annotations

import sympy as sp

from derivations.algorithm import Algorithm, Options, Pull, Stated
from derivations.calculus import ClipMask, Dot, Norm2, Surrogate
from derivations.claims import Approximates, Equal, GradientIs
from derivations.derivation import Step
from derivations.losses import _forward
from derivations.losses._forward import held, on_noised_data, per_coordinate, reference_weight
from derivations.losses._lines import PPO, REF_MEAN
from derivations.notation import (
    Delta,
    advantage,
    clip_high,
    clip_low,
    delta,
    log_prob_old,
    log_prob_theta,
    log_ratio,
    noise,
    ratio,
    t,
    v_gt,
    v_old,
    v_theta,
    x_0,
    x_t,
)
from derivations.variant import Variant


@on_noised_data
def _assemble(options: Options) -> Stated:
    each, strength = per_coordinate(options), reference_weight(options)
    in_noise, weight = options["error"] == "noise", each
    error, error_old = each * Norm2(v_theta - v_gt), each * Norm2(v_old - v_gt)
    if in_noise:  # which is the velocity's, times 1 − t
        error, error_old = (each * Norm2(x_t + (1 - t) * v - noise) for v in (v_theta, v_old))
        each *= (1 - t) ** 2
    surrogate = Surrogate(advantage, ratio, clip_low, clip_high)
    mask = ClipMask(advantage, ratio, clip_low, clip_high)
    quoted = 2 * advantage * each * (v_theta - v_gt)
    gradient = 2 * advantage * mask * ratio * each * (v_theta - v_gt)
    target = v_theta + advantage * mask * ratio * each / weight * (v_gt - v_theta)
    pull = held(Pull(surrogate, gradient, weight, target), strength)
    brief = held(Pull(surrogate, quoted, weight, v_theta + advantage * each / weight * (v_gt - v_theta)), strength)
    return Stated(
        pull,
        definitions={
            **({x_t: t * noise + (1 - t) * x_0} if in_noise else {}),
            delta: v_theta - v_old,
            Delta: v_old - v_gt,
            log_prob_theta: -error,
            log_prob_old: -error_old,
            log_ratio: log_prob_theta - log_prob_old,
            ratio: sp.exp(log_ratio),
        },
        steps=(
            *(_noise_step() if in_noise else ()),
            Step(
                "log-ratio",
                "The ratio's closed form is that of a Gaussian step with k²/2 = 1 and kε = 2Δ: the errors differ by "
                "a square and by a term along the behaviour model's own error.",
                Equal(log_ratio, -each * (Norm2(delta) + 2 * Dot(delta, Delta))),
            ),
            Step(
                "highest-ratio",
                "It is the behaviour model's squared error less the model's own, and so highest where that is 0: at "
                "v_theta = v_gt.",
                Equal(log_ratio, each * Norm2(Delta) - each * Norm2(v_theta - v_gt)),
            ),
            Step(
                "log-ratio-gradient",
                "The logarithm of the ratio pulls towards v_gt, as flow matching does.",
                GradientIs(log_ratio, 2 * each * (v_gt - v_theta), label=r"\log r"),
            ),
            Step(
                "surrogate-gradient",
                "PPO's clip puts a mask m and the ratio on it (lemma L4).",
                GradientIs(surrogate, gradient, label=r"\left(-J\right)"),
            ),
        ),
        after=(
            Step(
                "on-policy",
                "On-policy (r = 1, m = 1) this is AWM's gradient: the flow-matching gradient, times the advantage.",
                Approximates(gradient, quoted, {v_theta: v_old}),
            ),
            Step(
                "expansion",
                "To the next order in δ, near v_old, where nothing is masked: the ratio grows towards v_gt.",
                Approximates(gradient, (1 - 2 * each * Dot(Delta, delta)) * quoted, {v_theta: v_old}, order=2),
            ),
            _several_draws(each),
        ),
        brief_gradient=brief.gradient,
        brief_target=brief.target,
    )


ALGORITHM = Algorithm(
    name="fpo",
    title="FPO",
    reference="""@article{mcallister2025fpo,
  title={Flow Matching Policy Gradients},
  author={McAllister, David and others},
  journal={arXiv:2507.21053}, year={2025}}""",
    process="forward",
    policy="on",
    options={**_forward.OPTIONS, "error": ("velocity", "noise")},
    variants=(
        Variant(
            "paper",
            "one draw of noise and time, its squared errors summed over coordinates",
            line=f"ratio = exp(norm2(v_old - v_gt) - norm2(v_theta - v_gt)); {PPO}",
        ),
        Variant(
            "mean",
            "squared errors averaged over coordinates",
            {"reduction": "mean"},
            line=f"ratio = exp(mse(v_old, v_gt) - mse(v_theta, v_gt)); {PPO}",
        ),
        Variant(
            "reference",
            "averaged, with a squared distance to the reference velocity",
            {"reduction": "mean", "reference": "on"},
            line=f"ratio = exp(mse(v_old, v_gt) - mse(v_theta, v_gt)); {PPO}{REF_MEAN}",
        ),
        Variant(
            "noise",
            "averaged, with the error of the noise that follows from the velocity, as the public code has it",
            {"reduction": "mean", "error": "noise"},
            line=f"ratio = exp(mse(x_t + (1 - t)*v_old, noise) - mse(x_t + (1 - t)*v_theta, noise)); {PPO}",
        ),
    ),
    assemble=_assemble,
)


def _noise_step() -> tuple[Step, ...]:
    return (
        Step(
            "error-in-the-noise",
            "The noise that follows from a velocity is off by 1 − t of what the velocity is: near noise hardly at all.",
            Equal(x_t + (1 - t) * v_theta - noise, (1 - t) * (v_theta - v_gt)),
        ),
    )


def _several_draws(each: sp.Expr) -> Step:
    """N draws of noise and time for one sample, whose mean error stands in the one exponent."""
    draws = sp.Symbol("N", integer=True, positive=True)
    others = sp.Symbol("s", real=True)
    shared = sp.exp(others + log_ratio / draws)
    clip = (advantage, shared, clip_low, clip_high)
    pull = 2 * advantage * ClipMask(*clip) * shared * each / draws * (v_theta - v_gt)
    return Step(
        "several-draws",
        "Where the mean over N draws stands in one exponent (s: the other draws' part), every draw's velocity is "
        "pulled to its own v_gt with a share 1/N, by the ratio and the clip that all of them have in common.",
        GradientIs(Surrogate(*clip), pull, label=r"\left(-J_N\right)"),
    )
