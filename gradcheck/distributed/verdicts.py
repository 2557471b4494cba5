"""The obligations of a trainer's step, and what it declares; judged on rank 0 alone, from what every rank has."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial

from gradcheck.devices import Device
from gradcheck.distributed.declaration import Trainer
from gradcheck.distributed.diagnose import hypotheses_of, unexplained, with_weights
from gradcheck.distributed.evidence import Evidence, Observed
from gradcheck.distributed.required import Required
from gradcheck.judging.check import Check, Info
from gradcheck.judging.engine import Declared
from gradcheck.judging.results import Diagnosis, Outcome
from gradcheck.rounding.compare import NOTHING_SEEN

__all__ = ["IDS", "OBLIGATIONS", "declared", "no_advantages"]

_REFERENCE = "docs/distributed.md; the gradient of a mean over the global batch is linear in its samples"


def declared(observed: Observed, device: Device = "cpu") -> Declared[Observed]:
    """What is judged of a step, as the engine takes it."""
    trainer, settings = observed.trainer, observed.settings
    info = Info(
        trainer.name,
        f"{trainer.declaration.describe()}; {'1 process' if observed.size == 1 else f'{observed.size} ranks'}",
        _REFERENCE,
        settings.seed,
        settings.dtype,
        trainer.expected_failures,
        device,
        shell=True,
    )
    alike = "on these numbers of ranks and micro-batches it cannot be told from"
    return Declared(observed, OBLIGATIONS, hypotheses_of, info, alike=alike, shown=_shown)


def no_advantages(trainer: Trainer) -> str | None:
    """Why the advantages of groups spread over ranks are not judged; ``None``: they are."""
    declaration = trainer.declaration
    if declaration.advantages is None:
        return "the step is given its advantages (declare advantages={...} if it computes them)"
    return None if declaration.spread_groups else "each reward group is declared to lie on one rank"


def _one_process(o: Observed) -> str | None:
    return "there is one process" if o.size == 1 else None


def _equal_shards(o: Observed) -> str | None:
    return _one_process(o) or ("shards='equal' is declared" if o.trainer.declaration.shards == "equal" else None)


def _one_micro_batch(o: Observed) -> str | None:
    return "micro_batches=1 is declared" if o.trainer.declaration.steps(o.size) == 1 else None


def _untouched(o: Observed) -> Outcome:
    text = "" if o.untouched else "the parameters are others after the step"
    return Outcome("passed" if o.untouched else "failed", len(o.evidence), detail=text)


def _law(o: Observed, name: str) -> Outcome:
    """Every rank's gradient is the required one."""
    evidence = o.of(name)
    if o.claim is not None:
        return Outcome("passed" if all(map(o.claim.fits, evidence)) else "failed")
    ratios = tuple(float(e.ratios.max()) for e in evidence)
    resolution = min(e.law.resolution for e in evidence)
    worst = next((e for e in evidence if e.wrong), None)
    if worst is None and not resolution < 1:
        return Outcome("skipped", len(evidence), detail=NOTHING_SEEN)
    if worst is None:
        return Outcome("passed", len(evidence), max(ratios), ratios=ratios, resolution=resolution)
    rank, component = divmod(int(worst.ratios.argmax()), worst.ratios.shape[1])
    detail = _figures(worst, rank, component)
    note = _described(worst.law)
    return Outcome("failed", len(evidence), max(ratios), detail, note=note, ratios=ratios, resolution=resolution)


def _figures(e: Evidence, rank: int, component: int) -> str:
    observed, wanted = float(e.observed[rank, component]), float(e.law.weights @ e.law.contributions[:, component])
    where = f"{e.law.locate(component)} on rank {rank}"
    if e.absent[rank]:
        missing = len(e.absent[rank])
        return f"{missing} of {len(e.law.names)} parameters have no gradient on rank {rank}, {e.absent[rank][0]} first"
    return f"{where}: observed {observed:.9g}, required {wanted:.9g}; rounding explains {e.law.bound(component):.2g}"


def _described(law: Required) -> str:
    return law.problem.layout.describe()


def _agreement(o: Observed) -> Outcome:
    """Every rank's gradient is that of the others; the one that differs from most is named."""
    if o.claim is not None and not all(map(o.claim.alike, o.evidence)):  # then each rank has what is claimed of it
        return Outcome("passed" if all(map(o.claim.fits, o.evidence)) else "failed")
    ratios = tuple(float(e.disagreement.max()) for e in o.evidence)
    first = next((e for e in o.evidence if e.disagree), None)
    if first is None:
        return Outcome("passed", len(o.evidence), max(ratios), ratios=ratios)
    rank, others, component = first.odd_one()
    detail = (
        f"{first.law.locate(component)}: rank {rank} has {float(first.observed[rank, component]):.9g}, "
        f"rank {others[0]} {float(first.observed[others[0], component]):.9g}; " + first.who_differs()
    )
    return Outcome("failed", len(o.evidence), max(ratios), detail, note=_described(first.law), ratios=ratios)


def _shown(o: Observed, name: str, cause: Diagnosis) -> Diagnosis:
    """The cause with the samples' weights on the problem that showed the failure."""
    bad = [e for e in o.evidence if e.disagree] if name == "ranks-agree" else [e for e in o.of(name) if e.wrong]
    return with_weights(cause, bad[0]) if bad else cause


def _command(o: Observed, name: str) -> str:
    python = os.path.basename(sys.executable)
    lines = (  # each short enough to be printed on one line: a break within it would be none for the shell
        f"{python} -m torch.distributed.run --standalone --nproc-per-node {o.size}",
        "  -m gradcheck.distributed",
        f"  {o.trainer.source or 'FILE.py'}",
        f"  --only {name} --seed {o.settings.seed} --dtype {o.settings.dtype}",
    )
    return " \\\n".join(lines)


def _obligation(
    name: str,
    statement: str,
    catches: str,
    check: Callable[[Observed], Outcome] | None = None,
    applies: Callable[[Observed], str | None] = lambda o: None,
) -> Check[Observed]:
    """An obligation; that of the law on its own problems where no check is given."""
    return Check(
        name,
        statement,
        catches,
        check or partial(_law, name=name),
        applies,
        direct=partial(unexplained, name=name),
        script=partial(_command, name=name),
    )


OBLIGATIONS: tuple[Check[Observed], ...] = (
    Check(
        "parameters-untouched",
        "the step fills gradients and leaves the parameters as they were",
        "an optimiser's step, a clamp or a decay inside the judged function",
        _untouched,
        direct=lambda o: Diagnosis("stepped", "the step goes on to the optimiser: return before optimizer.step()"),
        depends=lambda o: (),
        script=partial(_command, name="parameters-untouched"),
    ),
    _obligation(
        "ranks-agree",
        "every rank ends with the same gradient",
        "no_sync() left on, a rank left out of the reduction, a reduction on one rank alone",
        _agreement,
        _one_process,
    ),
    _obligation(
        "equal-shards",
        "shards and micro-batches of one size: the gradient is that of one process on the global batch",
        "division by ranks or accumulation steps forgotten or done twice, sums for means, lost micro-batches",
    ),
    _obligation(
        "unequal-shards",
        "shards of several sizes: the gradient is that of one process on the global batch",
        "means over ranks of each rank's mean",
        applies=_equal_shards,
    ),
    _obligation(
        "unequal-micro-batches",
        "micro-batches of several sizes: the gradient is that of one process on the global batch",
        "means over micro-batches of each one's mean",
        applies=_one_micro_batch,
    ),
    _obligation(
        "advantages",
        "reward groups whose members lie on several ranks get the declared advantages",
        "means and standard deviations over a rank's own rewards",
        applies=lambda o: no_advantages(o.trainer),
    ),
)
"""Every obligation of a trainer's step, in reading order."""

IDS = tuple(check.id for check in OBLIGATIONS)
"""Their names."""
