r"""What the forward process's losses share: how an error is reduced, and a term that holds the model to its reference.

With the reference term, :math:`c\,\|v_\theta - v_{\mathrm{ref}}\|^2` is added to a loss.  A loss with a fixed target
becomes a mixture of two squared distances (lemma L3), which pulls to the mean of target and v_ref by their weights; one
whose target moves with v_theta keeps its weight, and its target moves towards v_ref.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps

import sympy as sp

from derivations.algorithm import Options, Pull, Stated
from derivations.calculus import Norm2
from derivations.claims import EqualUpToConstant, GradientIs
from derivations.derivation import Step
from derivations.identities import velocity_step
from derivations.notation import D, kl_weight, noise, v_gt, v_ref, v_theta, x_0

__all__ = [
    "OPTIONS",
    "held",
    "matching",
    "mixture_step",
    "on_noised_data",
    "per_coordinate",
    "reference_weight",
]

OPTIONS = {"reduction": ("sum", "mean"), "reference": ("off", "on")}
"""What an implementation may declare of any of them, the default first."""


def on_noised_data(assemble: Callable[[Options], Stated]) -> Callable[[Options], Stated]:
    """Decorates what states a loss: v_gt is the velocity of the noising path, which is proved first."""

    @wraps(assemble)
    def whole(options: Options) -> Stated:
        stated = assemble(options)
        definitions = {v_gt: noise - x_0, **stated.definitions}
        return replace(stated, definitions=definitions, steps=(velocity_step(), *stated.steps))

    return whole


def held(pull: Pull, strength: sp.Expr) -> Pull:
    """With ``strength``·‖v_theta − v_ref‖² added; with 0, as it is."""
    if strength == 0:
        return pull
    loss = pull.loss + strength * Norm2(v_theta - v_ref)
    back = 2 * strength * (v_theta - v_ref)
    if pull.target.has(v_theta):
        return Pull(loss, pull.gradient + back, pull.weight, pull.target - back / (2 * pull.weight))
    total = pull.weight + strength
    centre = (pull.weight * pull.target + strength * v_ref) / total
    return Pull(loss, pull.gradient + back, total, centre)


def matching(weight: sp.Expr) -> Pull:
    """Flow matching with a positive weight, weight·‖v_theta − v_gt‖²."""
    return Pull(weight * Norm2(v_theta - v_gt), 2 * weight * (v_theta - v_gt), weight, v_gt)


def per_coordinate(options: Options) -> sp.Expr:
    """What multiplies a sum over coordinates: 1, or 1/D where they are averaged."""
    return 1 / D if options["reduction"] == "mean" else sp.S.One


def reference_weight(options: Options) -> sp.Expr:
    """c, reduced as the loss's own error is; 0 without a reference term."""
    return kl_weight * per_coordinate(options) if options["reference"] == "on" else sp.S.Zero


def mixture_step(weight: sp.Expr, centre: sp.Expr, strength: sp.Expr, moves: bool = False) -> tuple[Step, ...]:
    """That weight·‖v_theta − centre‖² and the reference term are one squared distance, in value too.

    If ``moves``, weight and centre depend on v_theta through detached factors: then in gradient alone.
    """
    if strength == 0:
        return ()
    total = weight + strength
    both = weight * Norm2(v_theta - centre) + strength * Norm2(v_theta - v_ref)
    between = (weight * centre + strength * v_ref) / total
    if moves:
        return (
            Step(
                "mixture",
                "Lemma L3: with the reference term it has the gradient of one squared distance, to the weighted centre "
                "of both.",
                GradientIs(
                    both,
                    2 * total * (v_theta - between),
                    label=r"\left[w\|v_\theta-v^*\|^2+c\|v_\theta-v_{ref}\|^2\right]",
                ),
            ),
        )
    return (
        Step(
            "mixture",
            "Lemma L3: with the reference term it is one squared distance to the weighted centre of both, as long as "
            "their weights do not add up to 0.",
            EqualUpToConstant(
                both, total * Norm2(v_theta - between), weight * strength / total * Norm2(centre - v_ref)
            ),
        ),
    )
