r"""A hinge on ‖v_theta‖ − ‖v_ref‖ beside an advantage-weighted regression: the trained velocity may not grow longer."""

from __future__ import annotations

import sympy as sp

from derivations.algorithm import Algorithm, Options, Pull, Stated
from derivations.calculus import ClipMask, Norm2, Surrogate
from derivations.losses._forward import on_noised_data, per_coordinate
from derivations.notation import advantage, kl_weight, v_gt, v_ref, v_theta
from derivations.variant import Variant

_HINGE = " + kl_weight*relu(sqrt(norm2(v_theta)) - sqrt(norm2(v_ref)))"


@on_noised_data
def _assemble(options: Options) -> Stated:
    each = per_coordinate(options)
    longer = (sp.S.One, sp.sqrt(Norm2(v_ref)) - sp.sqrt(Norm2(v_theta)), sp.S.One, sp.S.NegativeOne)
    gradient = 2 * advantage * each * (v_theta - v_gt) + kl_weight * ClipMask(*longer) * v_theta / sp.sqrt(
        Norm2(v_theta)
    )
    loss = advantage * each * Norm2(v_theta - v_gt) + kl_weight * Surrogate(*longer)
    pull = Pull(loss, gradient, weight=sp.Rational(1, 2), target=v_theta - gradient)
    return Stated(pull)


ALGORITHM = Algorithm(
    name="hinge",
    title="Hinge on the velocity's length",
    reference="@misc{hinge, title={A trial of the recipe}}",
    process="forward",
    policy="on",
    options={"reduction": ("sum", "mean")},
    variants=(
        Variant("paper", "the squared error summed over coordinates", line="A*norm2(v_theta - v_gt)" + _HINGE),
        Variant("mean", "averaged", {"reduction": "mean"}, line="A*mean((v_theta - v_gt)**2)" + _HINGE),
    ),
    assemble=_assemble,
)
