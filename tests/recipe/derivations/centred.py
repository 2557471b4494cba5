r"""Rewards distilled into the errors: the gap to the reference model, centred in its group, is to be −A/β."""

from __future__ import annotations

import sympy as sp

from derivations.algorithm import Algorithm, Options, Pull, Stated
from derivations.calculus import Norm2
from derivations.claims import GradientIs
from derivations.derivation import Step
from derivations.losses._forward import on_noised_data, per_coordinate
from derivations.notation import advantage, beta_dpo, error_gap, group_gap, v_gt, v_ref, v_theta
from derivations.variant import Variant


@on_noised_data
def _assemble(options: Options) -> Stated:
    each = per_coordinate(options)
    residual = advantage + beta_dpo * (error_gap - group_gap)
    gradient = 4 * beta_dpo * residual * each * (v_theta - v_gt)
    return Stated(
        Pull(loss=residual**2, gradient=gradient, weight=sp.S.One, target=v_theta - gradient / 2),
        definitions={
            error_gap: each * (Norm2(v_theta - v_gt) - Norm2(v_ref - v_gt)),
        },
        steps=(
            Step(
                "gap-gradient",
                "The gap has the flow-matching gradient.",
                GradientIs(error_gap, 2 * each * (v_theta - v_gt), label="g"),
            ),
        ),
    )


ALGORITHM = Algorithm(
    name="centred",
    title="Centred reward distillation",
    reference="@misc{centred, title={A trial of the recipe}}",
    process="forward",
    policy="off",
    options={"reduction": ("sum", "mean")},
    variants=(
        Variant(
            "paper",
            "squared errors summed over coordinates",
            line="(A + beta_dpo*(norm2(v_theta - v_gt) - norm2(v_ref - v_gt) - group_gap))**2",
        ),
        Variant(
            "mean",
            "averaged",
            {"reduction": "mean"},
            line="(A + beta_dpo*(mean((v_theta - v_gt)**2) - mean((v_ref - v_gt)**2) - group_gap))**2",
        ),
    ),
    assemble=_assemble,
)
