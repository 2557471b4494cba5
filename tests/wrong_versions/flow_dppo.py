"""Flow-DPPO, got wrong: its mask and its divergence.  What it shares with Flow-GRPO stands in that table."""

from __future__ import annotations

from wrong_versions.base import COMMON, Edit, WrongVersion
from wrong_versions.families import POLICY_TARGETS, policy_gradient

_SYMBOLIC = "derivations/losses/flow_dppo.py"
_NUMERIC = "gradcheck/losses/flow_dppo.py"
_PULL = "pull = advantage * _mask * ratio * policy.scale * k * (noise + k * delta)"
_LOSS = "policy_loss = -case.advantage * ratio * trains"
_MASK = "_mask = Unless(advantage * (ratio - 1), divergence - divergence_max)"
_AWAY = "((case.advantage > 0) & (ratio > 1)) | ((case.advantage < 0) & (ratio < 1))"

WRONG_VERSIONS = (
    *policy_gradient(),
    WrongVersion(
        "objective-minimised",
        "The objective is minimised.",
        Edit(_SYMBOLIC, "_policy_loss = -advantage", "_policy_loss = advantage"),
        "policy-gradient",
        numeric=Edit(_NUMERIC, _LOSS, _LOSS.replace("-case", "case")),
    ),
    WrongVersion(
        "mask-missing",
        "Nothing is masked.",
        Edit(_SYMBOLIC, _PULL, _PULL.replace(" * _mask", "")),
        "policy-gradient",
        numeric=Edit(_NUMERIC, _LOSS, _LOSS.replace(" * trains", "")),
    ),
    WrongVersion(
        "mask-turned-round",
        "What is beyond the bound trains, and nothing else does.",
        Edit(_SYMBOLIC, _PULL, _PULL.replace("_mask", "(1 - _mask)")),
        "gradient",
        numeric=Edit(_NUMERIC, "trains = ~(away", "trains = (away"),
    ),
    WrongVersion(
        "mask-on-both-ways",
        "A sample beyond the bound is stopped on its way back too.",
        Edit(_SYMBOLIC, _MASK, "_mask = Unless(divergence - divergence_max)"),
        "comparison",
        numeric=Edit(_NUMERIC, "trains = ~(away & ", "trains = ~("),
    ),
    WrongVersion(
        "mask-of-the-way-back",
        "Beyond the bound the samples on their way back are stopped, and those on their way out go on.",
        Edit(_SYMBOLIC, _MASK, _MASK.replace("(ratio - 1)", "(1 - ratio)")),
        "comparison",
        numeric=Edit(
            _NUMERIC,
            _AWAY,
            _AWAY.replace("advantage > 0", "advantage < 0", 1).replace(
                "advantage < 0) & (ratio < 1", "advantage > 0) & (ratio < 1"
            ),
        ),
    ),
    WrongVersion(
        "mask-for-good-samples-alone",
        "Samples with a negative advantage are never stopped.",
        numeric=Edit(_NUMERIC, _AWAY, "(case.advantage > 0) & (ratio > 1)"),
    ),
    WrongVersion(
        "mask-below-the-bound",
        "The comparison with the bound is turned round.",
        Edit(_SYMBOLIC, _MASK, _MASK.replace("divergence - divergence_max", "divergence_max - divergence")),
        "approximate-gradient",
        numeric=Edit(_NUMERIC, "> case.divergence_max", "< case.divergence_max"),
    ),
    WrongVersion(
        "divergence-without-half",
        "The divergence lacks its 1/2.",
        Edit(_SYMBOLIC, "Norm2(mean_theta - mean_old) / (2 * C2**2)", "Norm2(mean_theta - mean_old) / C2**2"),
        "divergence",
        numeric=Edit(_NUMERIC, "(divergence >", "(2 * divergence >"),
    ),
    WrongVersion(
        "divergence-without-variance",
        "The means' distance is not measured in standard deviations.",
        Edit(_SYMBOLIC, "Norm2(mean_theta - mean_old) / (2 * C2**2)", "Norm2(mean_theta - mean_old) / 2"),
        "divergence",
        numeric=Edit(_NUMERIC, "/ (2 * std**2), log", "/ 2, log"),
    ),
    WrongVersion(
        "divergence-averaged",
        "The divergence is averaged over the batch.",
        numeric=Edit(_NUMERIC, "(divergence >", "(divergence.mean() >"),
    ),
    WrongVersion(
        "divergence-summed",
        "The divergence is summed over coordinates where the log-density is averaged.",
        Edit(_SYMBOLIC, "divergence: policy.per_coordinate * Norm2", "divergence: Norm2"),
        "divergence",
        numeric=Edit(_NUMERIC, "2 * std**2), log_prob_reduction)", "2 * std**2), 'sum')"),
        variant="mean",
    ),
    WrongVersion(
        "ratio-for-divergence",
        "The ratio's distance from 1 is compared with the bound.",
        Edit(_SYMBOLIC, _MASK, _MASK.replace("divergence - ", "sp.Pow(ratio - 1, 2) - ")),
        "comparison",
        numeric=Edit(_NUMERIC, "(divergence >", "((ratio - 1) ** 2 >"),
    ),
    WrongVersion(
        "ratio-missing",
        "The ratio is left out of the gradient.",
        Edit(_SYMBOLIC, _PULL, _PULL.replace(" * ratio", "")),
        "policy-gradient",
        numeric=Edit(_NUMERIC, _LOSS, _LOSS.replace("* ratio", "* torch.log(ratio)")),
    ),
    WrongVersion(
        "drift-term-dropped",
        "The gradient lacks kδ.",
        Edit(_SYMBOLIC, "k * (noise + k * delta)", "k * noise"),
        "gradient",
    ),
    WrongVersion(
        "mean-summed",
        "Coordinates are added up where they were to be averaged.",
        Edit(_SYMBOLIC, _PULL, _PULL.replace(" * policy.scale", "")),
        "policy-gradient",
        numeric=Edit(COMMON, 'flat.mean(1) if reduction == "mean" else flat.sum(1)', "flat.sum(1)"),
        variant="mean",
    ),
    WrongVersion(
        "noise-sign",
        "The ratio's part along the noise has the wrong sign.",
        Edit(_SYMBOLIC, "-divergence - policy.scale * k", "-divergence + policy.scale * k"),
        "against-the-ratio",
    ),
)

WRONG_TARGETS = POLICY_TARGETS
