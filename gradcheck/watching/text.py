"""What the watch says in a terminal."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from gradcheck.console import prose

if TYPE_CHECKING:
    from gradcheck.watching.lines import Report, StepLine


__all__ = ["failure_line", "summary"]


def failure_line(line: StepLine) -> str:
    """The line at the first failure."""
    causes = ", ".join(line.causes)
    return f"[gradcheck] watch: step {line.step} is wrong ({causes}): {line.because}"


def summary(report: Report) -> str:
    """A few lines: the verdict, the figures, what could not be checked."""
    counts = report.verdicts
    total = sum(counts.values())
    if report.holds:
        head = "every judged step conforms"
    elif counts["wrong"]:
        head = f"{counts['wrong']} of {report.judged} judged steps are wrong"
    else:
        head = "no step could be judged"
    rows = [f"[gradcheck] watch: {head} ({total} looked at, {counts['unjudged']} could not be judged)"]
    first = report.first_wrong
    if first is not None:
        rows.append(f"  first wrong  step {first.step}, {', '.join(first.causes)}: {first.because}")
    resolutions = report.resolutions()
    if resolutions:
        worst = max((x.ratio for x in report.lines if x.ratio is not None), default=0.0)
        rows.append(
            f"  gradient     largest test ratio {worst:.3g} (4 passes); in the median step an error of "
            f"{100 * statistics.median(resolutions):.2g}% would have been seen"
        )
    factors = list(dict.fromkeys(x.factor for x in report.lines if x.factor is not None))
    if factors and factors != ["1"]:
        rows.append(f"  constant     {', '.join(factors[:4])}")
    reasons = [x.because for x in report.lines if x.verdict == "unjudged"]
    rows += [f"  not judged   {reason}" for reason in list(dict.fromkeys(reasons))[:4]]
    rows += [f"  not checked  {name}: {why}" for name, why in report.unchecked.items()]
    return prose("\n".join(rows))
