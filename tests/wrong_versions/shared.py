"""Mistakes that several losses of the forward process share, made once in what their files share."""

from __future__ import annotations

from derivations.notation import D, v_gt, v_ref, v_theta
from wrong_versions.base import (
    COMMON,
    FORWARD,
    FORWARD_TORCH,
    LEMMAS,
    Edit,
    WrongTarget,
    WrongVersion,
)

__all__ = [
    "FLOW_MATCHING",
    "SIGN",
    "WEIGHT_HALF",
    "WEIGHT_WITHOUT_D",
    "clipped",
    "reference",
    "reference_targets",
    "velocity",
]

SIGN = WrongTarget("sign", "The target lies on the other side.", lambda d: {"target": 2 * v_theta - d.target})
FLOW_MATCHING = WrongTarget("flow-matching", "v_gt itself, whatever the signal.", lambda d: {"target": v_gt})
WEIGHT_HALF = WrongTarget(
    "weight-half", "Half of the weight with the whole one's target.", lambda d: {"weight": d.weight / 2}
)
WEIGHT_WITHOUT_D = WrongTarget("weight-without-D", "The weight lacks 1/D.", lambda d: {"weight": D * d.weight}, "mean")


def velocity(numeric: str) -> tuple[WrongVersion, ...]:
    """The regression target, the prediction and the reduction over coordinates.

    Args:
        numeric: the torch file in which v_gt is compared with the prediction.
    """
    reduction = 'flat.mean(1) if reduction == "mean" else flat.sum(1)'
    return (
        WrongVersion(
            "noise-and-data-exchanged",
            "v_gt is x_0 − noise: time's direction is reversed.",
            Edit(FORWARD, "v_gt: noise - x_0", "v_gt: x_0 - noise"),
            "velocity",
            numeric=Edit(numeric, "case.noise - case.x_0", "case.x_0 - case.noise"),
        ),
        WrongVersion(
            "noise-as-target",
            "The network's velocity is compared with the noise: a noise-prediction loss.",
            Edit(FORWARD, "v_gt: noise - x_0", "v_gt: noise"),
            "velocity",
            numeric=Edit(numeric, "case.noise - case.x_0", "case.noise"),
        ),
        WrongVersion(
            "mean-summed",
            "Coordinates are added up where they were to be averaged: 1/D is missing.",
            Edit(FORWARD, "return 1 / D if", "return sp.S.One if"),
            "comparison",
            numeric=Edit(COMMON, reduction, "flat.sum(1)"),
            variant="mean",
        ),
        WrongVersion(
            "sum-averaged",
            "Coordinates are averaged where they were to be added up: an extra 1/D.",
            numeric=Edit(COMMON, reduction, "flat.mean(1)"),
        ),
    )


def reference(*, variant: str = "reference", fixed: bool = False, merged: bool = False) -> tuple[WrongVersion, ...]:
    """The reference term.

    Args:
        variant: one that has it, in every file.
        fixed: whether the target is free of v_theta, so that v_ref is mixed into it.
        merged: whether the step ``mixture`` tells of both as one squared distance.
    """
    squared = "latent_reduce((case.v_theta - case.v_ref) ** 2"
    back = "back = 2 * strength * (v_theta - v_ref)"
    found = [
        WrongVersion(
            "reference-missing",
            "The reference term is left out.",
            Edit(FORWARD, back, "back = sp.S.Zero"),
            "gradient",
            numeric=Edit(FORWARD_TORCH, 'if reference == "off":', "if reference:"),
            variant=variant,
        ),
        WrongVersion(
            "reference-without-gradient",
            "The reference term moves the value and trains nothing.",
            numeric=Edit(FORWARD_TORCH, squared, squared.replace("case.v_theta", "case.v_theta.detach()")),
            variant=variant,
        ),
        WrongVersion(
            "reference-is-data",
            "v_gt for v_ref: the model is held to its regression target.",
            Edit(
                FORWARD, "pull.loss + strength * Norm2(v_theta - v_ref)", "pull.loss + strength * Norm2(v_theta - v_gt)"
            ),
            "gradient",
            numeric=Edit(FORWARD_TORCH, squared, squared.replace("case.v_ref", "(case.noise - case.x_0)")),
            variant=variant,
        ),
        WrongVersion(
            "reference-factor",
            "The reference term's gradient lacks the square's 2.",
            Edit(FORWARD, back, back.replace("2 * ", "")),
            "gradient",
            numeric=Edit(FORWARD_TORCH, "policy_loss + case.kl_weight *", "policy_loss + 0.5 * case.kl_weight *"),
            variant=variant,
        ),
    ]
    if fixed:
        centre = "(pull.weight * pull.target + strength * v_ref)"
        found += [
            WrongVersion(
                "mixture-weight",
                "The mixture's weight forgets the reference term.",
                Edit(FORWARD, "total = pull.weight + strength", "total = pull.weight"),
                "equivalence",
                variant=variant,
            ),
            WrongVersion(
                "mixture-centre",
                "The target and v_ref are mixed with each other's weight.",
                Edit(FORWARD, centre, "(strength * pull.target + pull.weight * v_ref)"),
                "target",
                variant=variant,
            ),
        ]
    else:
        found.append(
            WrongVersion(
                "pushed-from-reference",
                "The target is moved away from v_ref.",
                Edit(FORWARD, "pull.target - back / (2", "pull.target + back / (2"),
                "target",
                variant=variant,
            )
        )
    if merged:
        found.append(
            WrongVersion(
                "mixture-constant",
                "Lemma L3's constant is not divided by the total weight.",
                Edit(FORWARD, "weight * strength / total *", "weight * strength *"),
                "mixture",
                variant=variant,
            )
        )
    return tuple(found)


def reference_targets(variant: str = "reference") -> tuple[WrongTarget, ...]:
    """What becomes of the target and the weight where the reference term is forgotten or misread."""
    return (
        WrongTarget(
            "reference-for-data", "v_ref for v_gt.", lambda d: {"target": d.target.xreplace({v_gt: v_ref})}, variant
        ),
        WrongTarget(
            "data-for-reference", "v_gt for v_ref.", lambda d: {"target": d.target.xreplace({v_ref: v_gt})}, variant
        ),
    )


def clipped(algorithm: str, variant: str = "paper") -> tuple[WrongVersion, ...]:
    """PPO's clip on a ratio of the algorithm's own."""
    symbolic, numeric = f"derivations/losses/{algorithm}.py", f"gradcheck/losses/{algorithm}.py"
    mask = "mask = ClipMask(advantage, ratio, clip_low, clip_high)"
    return (
        WrongVersion(
            "clip-ignored",
            "The gradient lacks the clip's mask.",
            Edit(symbolic, "advantage * mask * ratio * ", "advantage * ratio * ", times=1 if algorithm == "awm" else 2),
            "surrogate-gradient",
            numeric=Edit(COMMON, "return torch.maximum(unclipped, clipped)", "return unclipped"),
            variant=variant,
        ),
        WrongVersion(
            "clip-on-the-wrong-side",
            "The clip is active on the other side of the range.",
            Edit(symbolic, mask, mask.replace("(advantage", "(-advantage")),
            "gradient",
            numeric=Edit(COMMON, "torch.maximum(unclipped, clipped)", "torch.minimum(unclipped, clipped)"),
            variant=variant,
        ),
        WrongVersion(
            "min-for-max",
            "The surrogate takes the greater of r A and clip(r) A.",
            Edit(LEMMAS, "surrogate = -sp.Min(", "surrogate = -sp.Max("),
            "value-negative-below",
            "L4",
            variant=variant,
        ),
        WrongVersion(
            "clip-ranges-exchanged",
            "The lower and the upper clip range are exchanged.",
            Edit(symbolic, mask, mask.replace("clip_low, clip_high", "clip_high, clip_low")),
            "surrogate-gradient",
            numeric=Edit(numeric, "case.clip_low, case.clip_high)", "case.clip_high, case.clip_low)"),
            variant=variant,
        ),
    )
