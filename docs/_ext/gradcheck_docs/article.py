"""The article, whole: each of its statements, and what proves, qualifies, corrects or measures it."""

from __future__ import annotations

from dataclasses import dataclass

from gradcheck_docs.text import anchor, provable, table

__all__ = ["STATEMENTS", "VERDICTS", "Statement", "article_page", "qualified"]

VERDICTS = {
    "proved": "it holds as it stands",
    "qualified": "it holds within limits, which the linked steps state",
    "corrected": "a sign, a factor or a symbol differs in what is proved",
    "measured": "a matter of experience: the training study tries it on a small model",
}
"""What can be said of a statement."""


@dataclass(frozen=True)
class Statement:
    """One formula, claim or remark of the article.

    Attributes:
        part: of the article.
        says: it, in English.
        verdict: one of :data:`VERDICTS`.
        steps: the machine-checked steps that show it, each ``label step``.
        limit: how far it reaches, of what is qualified.
    """

    part: str
    says: str
    verdict: str
    steps: tuple[str, ...] = ()
    limit: str = ""


def _part(part: str, *rows: tuple[str, ...]) -> tuple[Statement, ...]:
    """Rows of what the article says, the verdict, the steps and the limit."""
    return tuple(
        Statement(part, says, verdict, tuple(filter(None, of.split("; "))), *limit)
        for says, verdict, of, *limit in rows
    )


STATEMENTS: tuple[Statement, ...] = (
    *_part(
        "The method",
        ("A loss acts on a network through its gradient alone.", "proved", "L1 sg-mse"),
        (
            "Differentiate, integrate back, and the same gradient has another loss.",
            "proved",
            "L1 sg-mse; L1 half-weight",
        ),
    ),
    *_part(
        "Flow-GRPO",
        ("The sampler's SDE, with a fresh noise ε each step.", "proved", "sde-flow drift; sde-flow marginals"),
        (
            "The group advantage: centred, over the standard deviation.",
            "proved",
            "group-advantage zero-mean; group-advantage unit-variance",
        ),
        ("The loss is min(rA, clip(r)A): that is the objective.", "corrected", "flow_grpo objective-sign"),
        ("Averages over the group and over time, 1/G and 1/T.", "proved", "article averages"),
        ("The ratio of the two models' densities.", "proved", "L2 log-ratio"),
        (
            "The log-density with 2σ² and the old model's mean.",
            "corrected",
            "flow_grpo article-mean; flow_grpo article-variance",
        ),
        ("Its normaliser −log σ − log √(2π).", "corrected", "article normaliser-of-D-coordinates"),
        ("The step's mean.", "proved", "sde-flow mean"),
        ("The normaliser cancels in the ratio.", "proved", "article normaliser"),
        ("The short log-density, −‖…‖²/(2σ²Δt).", "proved", "L2 log-ratio-lambda; sde-flow variance"),
        (
            "The sampled state lies off the mean by C1 δ + C2 ε.",
            "proved",
            "L2 step-residual; log-density written-out; log-density abbreviated",
        ),
        ("C1 and C2 are constants of the step.", "proved", "sde-flow mean-slope; sde-flow variance"),
        ("The ratio's gradient is the detached ratio times that of log p.", "proved", "flow_grpo ratio-gradient"),
        (
            "The ratio's gradient is about that of log p.",
            "qualified",
            "approximation-order first; approximation-order length",
            "To first order in δ: the ratio in front changes the length by κ = k‖δ‖, and for one sample not the "
            "direction.",
        ),
        (
            "The stop-gradient does not change the direction.",
            "qualified",
            "article sg-of-one-sample; article sg-of-a-batch",
            "Of one sample. In a batch's sum the spread of the ratios turns it.",
        ),
        ("Just after sampling the two models are the same.", "proved", "approximation-order zeroth"),
        (
            "min and clip only stabilise, and may be left out of the analysis.",
            "qualified",
            "article clip-left-out; L4 slope-positive-above; clip radius",
            "Near r = 1. Beyond its edge, on the side that the advantage asks for, the gradient is 0; for D = "
            "65,536 and a clip of 1e-4, with the mean over coordinates, that begins near κ = 3.6.",
        ),
        ("The gradient of A log p, with C1 δ + C2 ε.", "proved", "L2 log-prob-gradient"),
        (
            "Flow-GRPO's gradient is about A k ε, up to the sign of the objective.",
            "qualified",
            "flow_grpo approximate-gradient",
            "At v_θ = v_old. The loss that is minimised is −J, which has this sign.",
        ),
        (
            "Of the two approximations, dropping δ is the strained one, since it turns the direction.",
            "qualified",
            "approximation-order length-size; approximation-order turn",
            "It turns it by κ/√D only. Setting r to 1 changes the length by κ, which is more.",
        ),
        ("GRPO-Guard takes δ out of the gradient.", "proved", "grpo_guard gradient"),
        ("There the second ≈ becomes =.", "proved", "grpo_guard gradient; grpo_guard approximate-target"),
        (
            "GRPO-Guard's own analysis of its gradient agrees.",
            "qualified",
            "grpo_guard against-flow-grpo; ratio-moments guard-mean; ratio-moments guard-median",
            "No δ is left in it, for every D. On average it is the plain ratio that is unbiased, though: Guard "
            "trades mean 1 for median 1.",
        ),
        ("The policy gradient is noise, weighed by the advantage.", "proved", "article weighted-noise"),
        (
            "To move along noise is odd, and may be why it is less efficient.",
            "qualified",
            "value-function flow-grpo-value; baseline signal-to-noise",
            "On average it is no detour: E[A ε] is C2 times the slope of the expected advantage in the next state. "
            "The noise costs samples, though: one sample's ratio of signal to noise falls as 1/D.",
        ),
        (
            "Its target is v_θ + k A ε: with the loss's sign, v_θ − k A ε.",
            "corrected",
            "flow_grpo objective-sign; flow_grpo approximate-target",
        ),
        (
            "The squared distance to it has the same gradient: twice that.",
            "corrected",
            "flow_grpo article-factor; flow_grpo article-factor-mended",
        ),
        (
            "For the direction alone, the target is v_θ + A ε.",
            "qualified",
            "flow_grpo direction-only",
            "For one sample and one step. In a batch the sizes k A are what weighs the samples.",
        ),
        ("A target is not reached; any point of the ray is one.", "proved", "article ray; article one-step"),
    ),
    *_part(
        "AWM",
        ("x_t and v_gt of the noising.", "proved", "awm velocity; forward-process data"),
        ("The loss is flow matching, weighed by the advantage.", "proved", "awm matching-gradient"),
        ("Its gradient 2A(v_θ − v_gt).", "proved", "awm gradient"),
        ("Its target v_θ + A(v_gt − v_θ).", "proved", "awm target"),
        ("At A = 1 the target is v_gt.", "proved", "awm good-sample"),
        ("At A = −1 it is 2v_θ − v_gt.", "proved", "awm bad-sample"),
        ("Without PPO's clip, training shakes and collapses.", "measured", ""),
    ),
    *_part(
        "DiffusionNFT",
        ("The old model is a moving average.", "proved", "ema gap; ema n-updates"),
        (
            "Training with the moving average is steadier, and slower.",
            "qualified",
            "outer-iteration outer-step; outer-iteration contraction",
            "Slower by 1 − η exactly. Steadier as long as aβ² is below 1: beyond, the inner steps diverge whatever "
            "η is.",
        ),
        (
            "The loss, with v⁺ and v⁻; β is usually 1.",
            "proved",
            "diffusion_nft positive-branch; article beta-one-plus; article beta-one-minus",
        ),
        ("A = 2r − 1.", "proved", "reward-probability inverse"),
        ("The loss in Δ and δ.", "proved", "diffusion_nft delta-form"),
        (
            "The gradient: an optimisation direction and a trust region, as in TRPO.",
            "proved",
            "diffusion_nft trust-region-split; clip trust-region; clip fisher",
        ),
        ("The equivalent loss has the factor 2β²: β².", "corrected", "diffusion_nft article-factor"),
        (
            "The target is v_old + (A/β)(v_gt − v_old): AWM's, from the old model.",
            "proved",
            "diffusion_nft factored-gradient; article beta-one-target",
        ),
    ),
    *_part(
        "Afterword",
        (
            "The closing table; in practice AWM is fast and needs the clip, DiffusionNFT slower and steady.",
            "measured",
            "",
        ),
    ),
)
"""All of them, in the article's order."""


def article_page() -> str:
    """The statements, by part, with links to the steps."""
    counts = {verdict: sum(s.verdict == verdict for s in STATEMENTS) for verdict in VERDICTS}
    summary = "\n".join(f"* **{verdict}** ({counts[verdict]}): {meaning}." for verdict, meaning in VERDICTS.items())
    parts = [
        "# The article, statement by statement",
        "The article [“揭开loss看梯度”](https://zhuanlan.zhihu.com/p/1995493539912623296) (王峰, 2026) started this "
        f"project. These are its {len(STATEMENTS)} formulas, claims and remarks, each with what was made of it. Its "
        "method and its closing table stand as they are; what differs is a matter of a sign, a factor or a limit, "
        "and [is derived both ways](differences.md).",
        summary,
    ]
    number = 0
    for part in dict.fromkeys(s.part for s in STATEMENTS):
        rows = []
        for statement in (s for s in STATEMENTS if s.part == part):
            number += 1
            says = f"{statement.says} *{statement.limit}*" if statement.limit else statement.says
            rows.append((str(number), says, statement.verdict, _links(statement)))
        parts += [f"## {part}", table(("", "the article says", "", "shown by"), rows)]
    return "\n\n".join(parts) + "\n"


def qualified() -> list[tuple[str, str]]:
    """The remarks that hold within limits, each with these and with its links."""
    return [(f"*{s.says}* {s.limit}", _links(s)) for s in STATEMENTS if s.verdict == "qualified"]


def _links(statement: Statement) -> str:
    if not statement.steps:
        return "[training study](notebooks/training.ipynb)"
    links = []
    for of in statement.steps:
        label, name = of.split(" ")
        if all(step.name != name for step in provable(label).steps):
            raise LookupError(f"{label} has no step {name!r}")
        links.append(f"[`{label}: {name}`](#{anchor(label, name)})")
    return ", ".join(links)
