r"""A hinge on ‖v_theta‖ − ‖v_ref‖ beside an advantage-weighted regression: the trained velocity may not grow longer."""

from __future__ import annotations

import sympy as sp

from derivations.calculus import ClipMask, Norm2, Surrogate
from derivations.derivation import Derivation
from derivations.identities import velocity_step
from derivations.losses._forward import per_coordinate
from derivations.notation import advantage, kl_weight, noise, v_gt, v_ref, v_theta, x_0
from derivations.variant import Variant, chosen

NAME = "hinge"
TITLE = "Hinge on the velocity's length"
REFERENCE = "@misc{hinge, title={A trial of the recipe}}"
OPTIONS = {"reduction": ("sum", "mean")}
VARIANTS = (
    Variant("paper", "the squared error summed over coordinates"),
    Variant("mean", "averaged", {"reduction": "mean"}),
)
_HINGE = " + kl_weight*relu(sqrt(norm2(v_theta)) - sqrt(norm2(v_ref)))"
LINES = {"paper": "A*norm2(v_theta - v_gt)" + _HINGE, "mean": "A*mean((v_theta - v_gt)**2)" + _HINGE}


def derive(variant: Variant = VARIANTS[0]) -> Derivation:
    """State and derive one variant."""
    each = per_coordinate(chosen(variant, OPTIONS))
    longer = (sp.S.One, sp.sqrt(Norm2(v_ref)) - sp.sqrt(Norm2(v_theta)), sp.S.One, sp.S.NegativeOne)
    gradient = 2 * advantage * each * (v_theta - v_gt) + kl_weight * ClipMask(*longer) * v_theta / sp.sqrt(
        Norm2(v_theta)
    )
    return Derivation(
        name=NAME,
        variant=variant,
        title=TITLE,
        process="forward",
        policy="on",
        reference=REFERENCE,
        loss=advantage * each * Norm2(v_theta - v_gt) + kl_weight * Surrogate(*longer),
        gradient=gradient,
        weight=sp.Rational(1, 2),
        target=v_theta - gradient,
        definitions={v_gt: noise - x_0},
        steps=(velocity_step(),),
    )
