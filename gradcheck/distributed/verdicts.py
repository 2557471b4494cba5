"""From what every rank has to the obligations' results; on rank 0 alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from gradcheck.distributed.declaration import OBLIGATIONS, Trainer
from gradcheck.distributed.diagnose import diagnose
from gradcheck.distributed.evidence import Evidence
from gradcheck.distributed.reference import Required
from gradcheck.judging.results import Diagnosis, Outcome, Result
from gradcheck.oracle.target import Settings
from gradcheck.rounding.bounds import THRESHOLD
from gradcheck.rounding.compare import NOTHING_SEEN

__all__ = ["no_advantages", "results_of"]


def no_advantages(trainer: Trainer) -> str | None:
    """Why the advantages of groups spread over ranks are not judged; ``None``: they are."""
    declaration = trainer.declaration
    if declaration.advantages is None:
        return "the step is given its advantages (declare advantages={...} if it computes them)"
    return None if declaration.spread_groups else "each reward group is declared to lie on one rank"


def _not_applicable(name: str, size: int, trainer: Trainer) -> str | None:
    declaration = trainer.declaration
    if name == "ranks-agree" and size == 1:
        return "there is one process"
    if name == "unequal-shards" and (size == 1 or declaration.shards == "equal"):
        return "there is one process" if size == 1 else "shards='equal' is declared"
    if name == "unequal-micro-batches" and declaration.steps(size) == 1:
        return "micro_batches=1 is declared"
    return no_advantages(trainer) if name == "advantages" else None


def results_of(
    size: int,
    trainer: Trainer,
    settings: Settings,
    only: Sequence[str],
    device: str,
    evidence: list[Evidence],
    untouched: bool,
) -> list[Result]:
    """Every obligation's result for one number of processes, from what each rank saw."""
    outcomes: dict[str, tuple[Outcome, list[Evidence]]] = {}
    for name in OBLIGATIONS:
        if only and name not in only:
            continue
        reason = _not_applicable(name, size, trainer)
        if reason is not None:
            outcomes[name] = Outcome("skipped", detail=reason), []
        elif name == "parameters-untouched":
            text = "" if untouched else "the parameters are others after the step"
            outcomes[name] = Outcome("passed" if untouched else "failed", len(evidence), detail=text), []
        elif name == "ranks-agree":
            outcomes[name] = _agreement(evidence)
        else:
            outcomes[name] = _law([e for e in evidence if e.law.problem.obligation == name])
    wrong = [e for e in evidence if e.wrong]
    together = diagnose(trainer.declaration, evidence, wrong) if wrong else None
    results = []
    for name, (outcome, bad) in outcomes.items():
        cause = None
        if outcome.status == "failed" and name == "parameters-untouched":
            cause = Diagnosis("stepped", "the step goes on to the optimiser: return before optimizer.step()")
        elif outcome.status == "failed":
            cause = together if together is not None and together.name != "unknown" else None
            same = [e for e in evidence if e.law.problem.obligation == name or name == "ranks-agree"]
            cause = cause or diagnose(trainer.declaration, same, bad)
        results.append(
            Result(
                name,
                *OBLIGATIONS[name],
                outcome,
                device,
                settings.dtype,
                cause,
                _command(trainer, settings, size, name) if outcome.status == "failed" else "",
                shell=True,
                expected=trainer.expected_failures.get(name, ""),
            )
        )
    return results


def _law(evidence: list[Evidence]) -> tuple[Outcome, list[Evidence]]:
    """Every rank's gradient is the required one."""
    ratios = tuple(float(e.ratios.max()) for e in evidence)
    resolution = min(e.law.resolution for e in evidence)
    bad = [e for e in evidence if e.wrong]
    if not bad and not resolution < 1:
        return Outcome("skipped", len(evidence), detail=NOTHING_SEEN), []
    if not bad:
        return Outcome("passed", len(evidence), max(ratios), ratios=ratios, resolution=resolution), []
    worst = bad[0]
    rank, component = divmod(int(worst.ratios.argmax()), worst.ratios.shape[1])
    detail = _figures(worst, rank, component)
    note = _described(worst.law)
    failed = Outcome("failed", len(evidence), max(ratios), detail, note=note, ratios=ratios, resolution=resolution)
    return failed, bad


def _figures(e: Evidence, rank: int, component: int) -> str:
    observed, wanted = float(e.observed[rank, component]), float(e.law.weights @ e.law.contributions[:, component])
    where = f"{e.law.locate(component)} on rank {rank}"
    if e.absent[rank]:
        missing = len(e.absent[rank])
        return f"{missing} of {len(e.law.names)} parameters have no gradient on rank {rank}, {e.absent[rank][0]} first"
    return f"{where}: observed {observed:.9g}, required {wanted:.9g}; rounding explains {e.law.bound(component):.2g}"


def _described(law: Required) -> str:
    return law.problem.layout.describe()


def _agreement(evidence: list[Evidence]) -> tuple[Outcome, list[Evidence]]:
    """Every rank's gradient is that of the others; the one that differs from most is named."""
    ratios, bad = [], []
    for e in evidence:
        apart = e.disagreement
        ratios.append(float(apart.max()))
        if float(apart.max()) > THRESHOLD:
            bad.append(e)
    if not bad:
        return Outcome("passed", len(evidence), max(ratios), ratios=tuple(ratios)), []
    first = bad[0]
    rank, others, component = first.odd_one()
    detail = (
        f"{first.law.locate(component)}: rank {rank} has {float(first.observed[rank, component]):.9g}, "
        f"rank {others[0]} {float(first.observed[others[0], component]):.9g}; " + first.who_differs()
    )
    ratio = max(ratios)
    return Outcome("failed", len(evidence), ratio, detail, note=_described(first.law), ratios=tuple(ratios)), bad


def _command(trainer: Trainer, settings: Settings, size: int, name: str) -> str:
    python = os.path.basename(sys.executable)
    lines = (  # each short enough to be printed on one line: a break within it would be none for the shell
        f"{python} -m torch.distributed.run --standalone --nproc-per-node {size}",
        "  -m gradcheck.distributed",
        f"  {trainer.source or 'FILE.py'}",
        f"  --only {name} --seed {settings.seed} --dtype {settings.dtype}",
    )
    return " \\\n".join(lines)
