"""Mistakes that the field has really made, and what catches each: the obligation and the cause of a planted mutant.

The facts are public: reports, fixes and history of open repositories.  That each is caught is tested: the mutants named
here are those of ``tests/oracle``, and the pages quote their obligations and causes from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradcheck_docs.slips import difference, slip
from gradcheck_docs.text import table

__all__ = ["BUGS", "Bug", "bugs_page"]

_REPOSITORIES = {
    "flow_grpo": "yifan123/flow_grpo",
    "Flow-Factory": "X-GenGroup/Flow-Factory",
    "DanceGRPO": "XueZeyue/DanceGRPO",
    "open-instruct": "allenai/open-instruct",
}
"""Where GitHub has them; a repository that is not listed is named without a link."""


@dataclass(frozen=True)
class Bug:
    """One mistake.

    Attributes:
        title: what went wrong, in a few words.
        what: what it does, in a sentence or two.
        reports: (repository, "issue 12", "pull 3" or words for history).
        slip: the implementation and the title of the two lines that show it (:mod:`gradcheck_docs.slips`).
        mutants: names in ``tests/oracle`` that plant it.
        part: (part of a trainer, obligation, cause) where no loss is at fault.
        convention: whether it may be meant, and is then to be declared.
    """

    title: str
    what: str
    reports: Sequence[tuple[str, str]]
    slip: tuple[str, str]
    mutants: Sequence[str] = ()
    part: tuple[str, str, str] | None = None
    convention: bool = False


BUGS = (
    Bug(
        "The ratio's bias averaged over the batch",
        "GRPO-Guard's mean-bias term was reduced over axes counted on the log-probability, which has one axis already, "
        "so every sample got the batch's average.",
        [("flow_grpo", "issue 244")],
        ("grpo_guard", "The bias averaged over the batch"),
        ["grpo_guard-bias-averaged-over-the-batch"],
    ),
    Bug(
        "σ_t and √Δt averaged over the batch",
        "The scale of the ratio has to be each sample's own; when a batch mixes time steps, the averaged scale is "
        "wrong for every sample.",
        [("flow_grpo", "issue 223")],
        ("grpo_guard", "Scale averaged"),
        ["grpo_guard-scale-averaged-over-the-batch", "grpo_guard-sigma-and-root-dt-averaged-apart"],
    ),
    Bug(
        "The corrected ratio overwritten by the plain one",
        "Lines further down recomputed the plain ratio and overwrote the corrected one.",
        [("Flow-Factory", "pull 107")],
        ("grpo_guard", "Overwritten"),
        ["grpo_guard-overwritten-by-the-plain-ratio"],
    ),
    Bug(
        "The KL term under no_grad",
        "It moves the loss's value and no gradient: the log shows a regulariser that does nothing.",
        [("Flow-Factory", "issue 122"), ("open-instruct", "issue 530")],
        ("flow_grpo, KL", "KL detached"),
        ["flow_grpo-kl-under-no-grad", "diffusion_nft-reference-under-no-grad", "awm-reference-term-detached"],
    ),
    Bug(
        "The KL term over 2σ_t² instead of 2σ_t²Δt",
        "This is Δt times the divergence of the step. The authors do it on purpose; declare `kl='sigma'` if you do "
        "too.",
        [("flow_grpo", "issue 22"), ("flow_grpo", "issue 78")],
        ("flow_grpo, KL", "KL over σ²"),
        ["flow_grpo-kl-denominator-without-dt"],
        convention=True,
    ),
    Bug(
        "√Δt twice, or not at all",
        "One SDE's standard deviation used with another's step: some code returns it with √Δt, some without.",
        [("Flow-Factory", "pull 82")],
        ("flow_grpo", "√Δt left out"),
        ["flow_grpo-std-without-root-dt", "flow_grpo-root-dt-twice", "flow_grpo-std-of-another-sde"],
    ),
    Bug(
        "A normaliser hard-wired to one SDE",
        "The log-density's constant was Flow-SDE's whatever the step, so that the ratio is not 1 on-policy.",
        [("UniRL", "pull 38")],
        ("flow_grpo, dance", "Normaliser of another step"),
        ["flow_grpo-normaliser-hard-wired-to-flow"],
    ),
    Bug(
        "The log-probability summed where the mean is meant, or the reverse",
        "The gradient is D times what it should be, or 1/D of it, and a clip range tuned for one is nothing for the "
        "other.",
        [("flow_grpo", "issue 143"), ("flow_grpo", "issue 247")],
        ("flow_grpo", "Summed for averaged"),
        ["flow_grpo-log-prob-summed", "flow_grpo-log-prob-averaged"],
        convention=True,
    ),
    Bug(
        "The unconditional branch detached",
        "Under classifier-free guidance with a detached unconditional branch the gradient is the guidance scale times "
        "what it should be.",
        [("flow_grpo", "its history, August 2025")],
        ("flow_grpo, guidance", "Unconditional branch detached"),
        ["flow_grpo-unconditional-branch-detached"],
    ),
    Bug(
        "σ reshaped for images only",
        "A shape made for 4-D latents broadcasts packed 3-D ones to a wrong result, without an error.",
        [("flow_grpo", "its history")],
        ("flow_grpo, own shapes", "For images only"),
        ["flow_grpo-sigma-for-images-only"],
    ),
    Bug(
        "A masked mean that counts the padding",
        "(loss · mask).mean() where Σ loss · mask / Σ mask is meant.",
        [("UniRL", "pull 448")],
        ("flow_grpo, padded", "Padding counted"),
        ["flow_grpo-masked-mean-counts-the-padding"],
    ),
    Bug(
        "Sampled in float32, replayed in bfloat16",
        "The old log-probability belongs to a state that the replay no longer has: the ratio is not 1 on-policy.",
        [("Flow-Factory", "pull 61"), ("DanceGRPO", "issue 57"), ("flow_grpo", "issue 204")],
        ("flow_grpo, stored", "Replayed in bfloat16"),
        ["flow_grpo-replayed-on-bfloat16-samples", "flow_grpo-old-log-prob-in-half"],
    ),
    Bug(
        "A moving average restored from itself",
        "What was stored before the swap is an alias of the live parameters, so restoring keeps the average's weights.",
        [("flow_grpo", "`ema.py`, on the CPU")],
        ("moving average", "Stored without a copy"),
        part=("ema", "restore", "alias"),
    ),
    Bug(
        "The advantage's sign turned twice",
        "A minus in front of a core that is a negative log-likelihood already: good samples are pushed away.",
        [("openbrowser-ai", "pull 48")],
        ("awm", "A second minus sign"),
        ["awm-negated-although-a-likelihood-already"],
    ),
)


def _link(repository: str, where: str) -> str:
    kind, _, number = where.partition(" ")
    words = f"{repository} {'#' + number if number.isdigit() else where}".rstrip(",")
    place = _REPOSITORIES.get(repository)
    if place is None:
        return f"{repository}, {where}"
    if not number.isdigit():
        return f"[{repository}](https://github.com/{place}), {where}"
    return f"[{words}](https://github.com/{place}/{'issues' if kind == 'issue' else 'pull'}/{number})"


def bugs_page(mutants: Mapping[str, tuple[str, str]]) -> str:
    """The page.

    Args:
        mutants: name → (obligation, cause), from the tests' mutants.

    Raises:
        KeyError: a mutant that is named here does not exist.
    """
    parts = [
        "# Known mistakes",
        f"{len(BUGS)} mistakes that public code had, or has as a convention of its own. The two lines below each are "
        "our own: with the line marked − the loss is refused, with the line marked + it conforms; a test runs both. "
        "Besides, a wrong implementation of each is kept in `tests/oracle`, and a test demands that the named "
        "obligation fails and that the named cause is found. None of this is blame: autograd differentiates a wrong "
        "loss perfectly, and no ordinary test sees it.",
    ]
    for bug in BUGS:
        parts += [f"## {bug.title}", bug.what, difference(slip(*bug.slip))]
        if bug.convention:
            parts.append("Where it is meant, it is declared, and then judged as declared.")
        parts.append("Reported: " + "; ".join(_link(*report) for report in bug.reports) + ".")
        rows = [(f"`{name}`", f"`{mutants[name][0]}`", f"`{mutants[name][1]}`") for name in bug.mutants]
        if bug.part is not None:
            part, obligation, cause = bug.part
            rows.append((f"`judge_{part}`, of [the parts](../oracle-parts.md)", f"`{obligation}`", f"`{cause}`"))
        parts.append(table(("planted as", "obligation that fails", "named cause"), rows))
    return "\n\n".join(parts) + "\n"
