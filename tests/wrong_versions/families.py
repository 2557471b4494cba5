"""Mistakes of whole families of losses: policy gradients, weighted regressions, and losses on preferences."""

from __future__ import annotations

import sympy as sp

from derivations.notation import advantage, k, noise, ratio, v_old, v_ref, v_theta
from wrong_versions.base import COMMON, FORWARD, FORWARD_TORCH, POLICY, PREFERENCE, Edit, WrongTarget, WrongVersion

__all__ = ["KL_WITHOUT_GRADIENT", "POLICY_TARGETS", "QUOTED_SIGN", "policy_gradient", "ranking", "regression"]

POLICY_TARGETS = (
    WrongTarget("sign", "The target lies on the other side of v_theta.", lambda d: {"target": 2 * v_theta - d.target}),
    WrongTarget("double-step", "The target is as far again.", lambda d: {"target": 2 * d.target - v_theta}),
    WrongTarget("weight-one", "Weight 1 with weight 1/2's target.", lambda d: {"weight": sp.S.One}),
    WrongTarget(
        "quoted",
        "The approximate target in place of the exact one.",
        lambda d: {"target": v_theta - advantage * k * noise},
    ),
    WrongTarget(
        "quoted-ratio",
        "The approximate target with the ratio and without the mask and kδ.",
        lambda d: {"target": v_theta - advantage * ratio * k * noise},
    ),
    WrongTarget(
        "from-old",
        "The step starts at v_old instead of v_theta.",
        lambda d: {"target": d.target - v_theta + v_old},
    ),
    WrongTarget(
        "without-kl",
        "The target forgets the reference.",
        lambda d: {"target": d.target.xreplace({v_ref: v_theta})},
        "kl",
    ),
)
"""Of a loss whose target is v_theta − A m r k (ε + kδ), less the pull of its KL term."""


QUOTED_SIGN = WrongVersion(
    "quoted-sign",
    "The approximation that people quote, with the objective's sign.",
    Edit(POLICY, "return self.weighting * advantage * self.scale", "return -self.weighting * advantage * self.scale"),
    "approximate-gradient",
)
KL_WITHOUT_GRADIENT = WrongVersion(
    "kl-without-gradient",
    "The KL term is computed under no_grad: it moves the value and trains nothing.",
    Edit(POLICY, "gradient = gradient + self.kl_gradient", "gradient = +gradient"),
    "gradient",
    numeric=Edit(COMMON, "latent_reduce((mean - mean_ref)", "latent_reduce((mean.detach() - mean_ref)"),
    variant="kl",
)


def policy_gradient(kl: bool = True) -> tuple[WrongVersion, ...]:
    """What any policy gradient on a reverse step can get wrong, and its KL term, if a variant has one."""
    stated = (
        WrongVersion(
            "target-sign",
            "The target lies where the loss pushes from.",
            Edit(POLICY, "target=v_theta - gradient", "target=v_theta + gradient"),
            "target",
        ),
        WrongVersion(
            "weight-one",
            "The squared distance has weight 1 with the target of weight 1/2: twice the gradient.",
            Edit(POLICY, "weight=sp.Rational(1, 2)", "weight=sp.S.One"),
            "equivalence",
        ),
    )
    if not kl:
        return stated
    return (
        *stated,
        WrongVersion(
            "kl-to-old-model",
            "v_old for v_ref: the KL term holds the model to the behaviour model.",
            Edit(POLICY, "Norm2(mean_theta - mean_ref) / denominator", "Norm2(mean_theta - mean_old) / denominator"),
            "kl-gradient",
            numeric=Edit(COMMON, "step(case.v_ref)", "step(case.v_old)"),
            variant="kl",
        ),
    )


def regression(algorithm: str) -> tuple[WrongVersion, ...]:
    """Flow matching with a weight, as :func:`derivations.losses._forward.matching` states it."""
    numeric = f"gradcheck/losses/{algorithm}.py"
    pull = "Pull(weight * Norm2(v_theta - v_gt), 2 * weight * (v_theta - v_gt), weight, v_gt)"
    return (
        WrongVersion(
            "sign",
            "The loss is maximised.",
            Edit(FORWARD, pull, pull.replace("Pull(weight", "Pull(-weight")),
            "gradient",
            numeric=Edit(numeric, " * error, case", " * -error, case"),
        ),
        WrongVersion(
            "factor-two",
            "The gradient lacks the square's 2.",
            Edit(FORWARD, pull, pull.replace("2 * weight", "weight")),
            "gradient",
            numeric=Edit(numeric, " * error, case", " * 0.5 * error, case"),
        ),
        WrongVersion(
            "gradient-direction",
            "v_gt − v_theta where v_theta − v_gt is the gradient.",
            Edit(FORWARD, pull, pull.replace("* (v_theta - v_gt)", "* (v_gt - v_theta)")),
            "never-away",
        ),
        WrongVersion(
            "not-squared",
            "The norm is not squared.",
            Edit(FORWARD, pull, pull.replace("Norm2(v_theta - v_gt)", "sp.sqrt(Norm2(v_theta - v_gt))")),
            "gradient",
            numeric=Edit(numeric, " * error, case", " * error.sqrt(), case"),
        ),
        WrongVersion(
            "weight-missing",
            "Every sample counts alike.",
            Edit(FORWARD, pull, pull.replace("Pull(weight * ", "Pull(")),
            "gradient",
            numeric=Edit(numeric, " * error, case", " * 0 + error, case"),
        ),
        WrongVersion(
            "mean-over-batch-too-early",
            "The error is averaged over the batch before the weight multiplies it.",
            numeric=Edit(numeric, " * error, case", " * error.mean(), case"),
        ),
        WrongVersion(
            "prediction-detached",
            "The network's velocity is detached, so that nothing trains.",
            numeric=Edit(numeric, "case.v_theta - (", "case.v_theta.detach() - ("),
        ),
        WrongVersion(
            "target-reversed",
            "The target lies on the other side of v_theta.",
            Edit(FORWARD, pull, pull.replace("weight, v_gt)", "weight, 2 * v_theta - v_gt)")),
            "target",
        ),
        WrongVersion(
            "weight-doubled",
            "The squared distance has twice the weight.",
            Edit(FORWARD, pull, pull.replace(" weight, v_gt)", " 2 * weight, v_gt)")),
            "equivalence",
        ),
    )


def ranking(algorithm: str, margin: str) -> tuple[WrongVersion, ...]:
    """Losses −log σ(−z) of a margin, as :mod:`derivations.losses._preference` states them.

    Args:
        algorithm: of the catalogue.
        margin: z as the algorithm's torch file writes it, up to its factor β.
    """
    numeric = f"gradcheck/losses/{algorithm}.py"
    loss = f"-logsigmoid(-case.beta_dpo * {margin})"
    likelihood, gradient = (
        "return sp.log(1 + sp.exp(margin))",
        "gradient = 2 * self.advantage * each * (v_theta - v_gt)",
    )
    gap, target = (
        "Norm2(v_theta - v_gt) - Norm2(self.anchor - v_gt)",
        "target = v_theta + self.advantage * (v_gt - v_theta)",
    )
    return (
        WrongVersion(
            "sign",
            "The loss is maximised: the model learns to rank wrongly.",
            Edit(PREFERENCE, "Pull(self.loss, gradient", "Pull(-self.loss, gradient"),
            "gradient",
            numeric=Edit(numeric, loss, loss[1:]),
        ),
        WrongVersion(
            "sign-inside",
            "The minus inside the sigmoid is missing.",
            Edit(PREFERENCE, likelihood, likelihood.replace("(margin)", "(-margin)")),
            "likelihood",
            numeric=Edit(numeric, loss, loss.replace("(-case", "(case")),
        ),
        WrongVersion(
            "factor-two",
            "The gradient lacks the square's 2.",
            Edit(PREFERENCE, gradient, gradient.replace("2 * ", "")),
            "gradient",
            numeric=Edit(numeric, loss, loss.replace("beta_dpo", "beta_dpo / 2")),
        ),
        WrongVersion(
            "gradient-direction",
            "v_gt − v_theta where v_theta − v_gt is the gradient.",
            Edit(PREFERENCE, gradient, gradient.replace("(v_theta - v_gt)", "(v_gt - v_theta)")),
            "gradient",
        ),
        WrongVersion(
            "confidence-for-doubt",
            "The weight is the probability of the right order, so that what is learnt pulls hardest.",
            Edit(PREFERENCE, "return 1 / (1 + sp.exp(-margin))", "return 1 / (1 + sp.exp(margin))"),
            "likelihood",
        ),
        WrongVersion(
            "doubt-missing",
            "The gradient lacks the probability: what is learnt pulls for ever.",
            Edit(PREFERENCE, "return self.share * misorder_prob", "return self.share"),
            "gradient",
            numeric=Edit(numeric, loss, f"case.beta_dpo * {margin}"),
        ),
        WrongVersion(
            "log-missing",
            "The probability itself is the loss, without its logarithm.",
            Edit(PREFERENCE, likelihood, "return 1 / (1 + sp.exp(-margin))"),
            "likelihood",
            numeric=Edit(numeric, loss, f"torch.sigmoid(case.beta_dpo * {margin})"),
        ),
        WrongVersion(
            "squared-margin",
            "The margin is regressed to 1/2, which is IPO's loss.",
            numeric=Edit(numeric, loss, f"(-case.beta_dpo * {margin} - 0.5) ** 2"),
        ),
        WrongVersion(
            "hinge",
            "What is ranked right is dropped.",
            numeric=Edit(numeric, loss, f"torch.relu(case.beta_dpo * {margin})"),
        ),
        WrongVersion(
            "beta-missing", "β is left out.", numeric=Edit(numeric, loss, loss.replace("case.beta_dpo * ", ""))
        ),
        WrongVersion(
            "beta-outside",
            "β multiplies the logarithm instead of the margin.",
            numeric=Edit(numeric, loss, f"-case.beta_dpo * logsigmoid(-{margin})"),
        ),
        WrongVersion(
            "margin-averaged-over-batch",
            "The sigmoid sees the batch's mean margin.",
            numeric=Edit(numeric, loss, loss.replace(margin, f"{margin}.mean().expand(len(gap))")),
        ),
        WrongVersion(
            "reference-missing-from-gap",
            "The gap is the model's error alone.",
            Edit(PREFERENCE, f"({gap})", "Norm2(v_theta - v_gt)"),
            "at-the-reference",
            numeric=Edit(FORWARD_TORCH, " - error_other\n", "\n"),
        ),
        WrongVersion(
            "gap-exchanged",
            "The trained model's error is subtracted from the reference's.",
            Edit(PREFERENCE, gap, "Norm2(self.anchor - v_gt) - Norm2(v_theta - v_gt)"),
            "gap-gradient",
            numeric=Edit(
                FORWARD_TORCH,
                "return latent_reduce((case.v_theta - velocity) ** 2, reduction) - error_other",
                "return error_other - latent_reduce((case.v_theta - velocity) ** 2, reduction)",
            ),
        ),
        WrongVersion(
            "reference-is-trained",
            "The reference is the trained model itself, so that every gap is 0.",
            Edit(PREFERENCE, gap, "Norm2(v_theta - v_gt) - Norm2(v_theta - v_gt)"),
            "gap-gradient",
            numeric=Edit(
                FORWARD_TORCH, "with torch.no_grad():\n", "other = case.v_theta\n    with torch.enable_grad():\n"
            ),
        ),
        WrongVersion(
            "gap-gradient",
            "The reference's error is said to have a gradient.",
            Edit(PREFERENCE, "(v_theta - v_gt), label", "(v_theta - v_ref), label"),
            "gap-gradient",
        ),
        WrongVersion(
            "certain-at-the-start",
            "The untrained model is said to rank wrongly for certain.",
            Edit(PREFERENCE, "self.share / 2, {v_theta", "self.share, {v_theta"),
            "at-the-reference",
        ),
        WrongVersion(
            "prediction-detached",
            "The network's velocity is detached, so that nothing trains.",
            numeric=Edit(FORWARD_TORCH, "(case.v_theta - velocity)", "(case.v_theta.detach() - velocity)"),
        ),
        WrongVersion(
            "target-reversed",
            "The target lies on the other side of v_theta.",
            Edit(PREFERENCE, target, target.replace("(v_gt - v_theta)", "(v_theta - v_gt)")),
            "target",
        ),
        WrongVersion(
            "target-from-reference",
            "The target is measured from v_ref.",
            Edit(PREFERENCE, target, target.replace("v_theta", "v_ref")),
            "equivalence",
        ),
        WrongVersion(
            "weight-half",
            "Weight 1/2 with weight 1's target.",
            Edit(PREFERENCE, "gradient, each, target)", "gradient, each / 2, target)"),
            "equivalence",
        ),
    )
